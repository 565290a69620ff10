"""The Kalman update in observation space, by conjugate gradients.

``V H^T (I + H V H^T)^-1 (y - H D)`` for whitened observations; iterated where H is not linear or
observations may be grossly wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.covariance.harmonics import restricted
from xdiffda.diffusion.likelihood import Likelihood, State

__all__ = [
    "MINIMUM",
    "Solver",
    "Update",
    "channel_variance",
    "kalman_increment",
    "update",
]


class Solver(NamedTuple):
    """Conjugate gradients: stop at a relative residual or at a number of iterations.

    Attributes
    ----------
    tolerance : float
        Of the residual, relative to the right-hand side. The matrix has no eigenvalue below 1, so
        observations are met to within that share of the departures: 1e-2 moves members by a
        thousandth of the background error (measured with 1,000 columns), a three hundredth of
        their own spread.
    max_iterations : int
    minimal_residual : int
        If above 0, as many iterations of GMRES instead, at most. V from the Jacobian of a trained
        network is neither symmetric nor positive: conjugate gradients diverge on it, while
        the residual of these never grows (``jacobian``, as in the code of Rozet et al. 2024).
    """

    tolerance: float = 1e-2
    max_iterations: int = 400
    minimal_residual: int = 0


MINIMUM = Solver(tolerance=1e-3)
"""Where a single solve is the whole analysis, and its result a minimum that others compare with."""


# Krylov solvers that meet their matrix at one place of the program.
#
# The matrices of a Kalman update hold transforms, gathers and networks: compiling them takes
# longer than a solve.  Libraries apply the matrix before, in and after their loop, and ask for its
# transpose; here one loop does it all.

System = Callable[[Array], Array]
"""x -> A x."""

GUESS, STEP, CHECK, DONE = range(4)


class Solved(NamedTuple):
    """Solution of A x = b.

    Attributes
    ----------
    x : array (n,)
    residual : array
        ``|b - A x| / |b|``, computed from x itself: in single precision that of the recursion
        drifts away from it.
    n_steps : int array
    """

    x: Float[Array, " n"]
    residual: Float[Array, ""]
    n_steps: Array


def conjugate_gradients(
    system: System,
    b: Float[Array, " n"],
    *,
    tolerance: float,
    max_iterations: int,
    guess: Float[Array, " n"] | None = None,
    axis: str | None = None,
) -> Solved:
    """Solve a symmetric positive definite system (Hestenes and Stiefel 1952).

    Stops at a residual of ``tolerance`` relative to ``b``, or after ``max_iterations``. Under
    `jax.vmap` name its ``axis``: who is done then waits for the others, unchanged, where JAX
    would otherwise copy all that the loop carries at every step.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> a = jnp.array([[4.0, 1.0], [1.0, 3.0]])
    >>> found = conjugate_gradients(
    ...     lambda x: a @ x, jnp.array([1.0, 2.0]), tolerance=1e-6, max_iterations=9)
    >>> [round(float(v), 4) for v in found.x], int(found.n_steps)
    ([0.0909, 0.6364], 2)
    """

    def dot(u, v):
        return jnp.vdot(u, v, precision="highest")

    square = dot(b, b)
    goal = tolerance**2 * square
    x, stage = (jnp.zeros_like(b), STEP) if guess is None else (guess, GUESS)
    stage = jnp.where((square > 0) & (max_iterations > 0), stage, CHECK)

    def again(carry: tuple) -> tuple:
        stage, k, x, r, p = carry
        stepping = stage == STEP
        image = system(jnp.where(stepping, p, x))
        before = dot(r, r)
        length = jnp.where(stepping, before / dot(p, image), 0.0)
        x, r = x + length * p, jnp.where(stepping, r - length * image, b - image)
        after, k = dot(r, r), k + stepping
        p = r + jnp.where(stepping, after / before, 0.0) * p
        more = (after > goal) & (k < max_iterations) & (stage != CHECK) & (stage != DONE)
        return jnp.where(more, STEP, jnp.where(stepping, CHECK, DONE)), k, x, r, p

    def unfinished(carry: tuple) -> Array:
        own = carry[0] != DONE
        return own if axis is None else jax.lax.pmax(own, axis)

    start = (stage, jnp.zeros((), jnp.int32), x, b, b)
    _, k, x, r, _ = jax.lax.while_loop(unfinished, again, start)
    return Solved(x, jnp.sqrt(dot(r, r)) / jnp.maximum(jnp.sqrt(square), 1e-30), k)


def minimal_residual(system: System, b: Float[Array, " n"], *, iterations: int) -> Solved:
    """Minimise the residual over a Krylov space: GMRES (Saad and Schultz 1986), no restarts.

    For systems that are neither symmetric nor positive: the residual never grows.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> a = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> found = minimal_residual(lambda x: a @ x, jnp.array([1.0, 2.0]), iterations=2)
    >>> [round(float(v), 4) for v in found.x]
    [-2.0, 1.0]
    """
    m = min(iterations, b.size)
    size = jnp.maximum(jnp.linalg.norm(b), 1e-30)
    space = jnp.zeros((m + 1, b.size), b.dtype).at[0].set(b / size)
    hessenberg = jnp.zeros((m + 1, m), b.dtype)  # A, from the first m vectors to all of them
    right = jnp.zeros(m + 1, b.dtype).at[0].set(size)

    def again(k: Array, carry: tuple) -> tuple:
        space, hessenberg, _ = carry
        best = jnp.linalg.lstsq(hessenberg, right, rcond=1e-6)[0] @ space[:-1]
        x = jnp.where(k == m, best, space[k])
        image = system(x)
        own, column = image, jnp.zeros(m + 1, b.dtype)
        for _ in range(2):  # once more, for what rounding left
            part = space @ own
            own, column = own - part @ space, column + part
        length = jnp.linalg.norm(own)
        # beyond the last the indices are out of range, and nothing is written
        space = space.at[k + 1].set(own / jnp.maximum(length, 1e-30), mode="drop")
        hessenberg = hessenberg.at[:, k].set(column.at[k + 1].set(length), mode="drop")
        return space, hessenberg, (x, image)

    start = space, hessenberg, (jnp.zeros_like(b), jnp.zeros_like(b))
    *_, (x, image) = jax.lax.fori_loop(0, m + 1, again, start)
    return Solved(x, jnp.linalg.norm(b - image) / size, jnp.asarray(m))


Covariance = Callable[[State], State]
AXIS = "member of the solve"


class Update(NamedTuple):
    """A Kalman update.

    Attributes
    ----------
    increment : array (node, member, channel)
    scale : array (obs, member) or None
        Square roots of the weights of the observations, of a robust likelihood.
    residual : array (member,)
        Of the last solve, relative to its right-hand side.
    pulled : array (node, member, channel)
        ``H^T (R + H V H^T)^-1 (y - H D)``: V applied to it is the increment, and a part of V
        its part of the increment.
    dual : array (obs, member)
        ``(R + H V H^T)^-1 (y - H D)``, whitened: the residuals of the analysis over R, which
        hardly differ from one noise level to the next.
    """

    increment: State
    scale: Float[Array, "obs member"] | None
    residual: Float[Array, " member"]
    pulled: State
    dual: Float[Array, "obs member"]


def kalman_increment(
    likelihood: Likelihood,
    covariance: Covariance,
    innovation: Array,
    shape: tuple,
    solver: Solver,
    *,
    point: State | None = None,
    scale: Array | None = None,
    first_guess: Array | None = None,
) -> tuple[State, Float[Array, " member"]]:
    """Return ``V H^T (I + H V H^T)^-1 innovation`` and the relative residual of the solve.

    Parameters
    ----------
    likelihood : Likelihood
    covariance : callable
        Applies V to a state (node, member, channel).
    innovation : array (obs, member)
        Whitened.
    shape : tuple
        (node, member, channel).
    solver : Solver
    point : array (node, member, channel), optional
        Where H is linearised, for each member; default the background.
    scale : array (obs, member), optional
        Square roots of the observations' weights.
    first_guess : array (obs, member), optional
        Of the solution in observation space.
    """
    increment, residual, *_ = _solve(
        likelihood, covariance, innovation, shape, solver, point, scale, first_guess
    )
    return increment, residual


def _solve(
    likelihood: Likelihood,
    covariance: Covariance,
    innovation: Array,
    shape: tuple,
    solver: Solver,
    point: State | None,
    scale: Array | None,
    first_guess: Array | None,
) -> tuple[State, Float[Array, " member"], State, Float[Array, "obs member"]]:
    node, member, channel = shape
    near = restricted(covariance, likelihood.points)
    among, n = (covariance, node) if near is None else (near.among, near.n)

    def tangent(point: Array | None, scale: Array | None, *, whole: bool = False) -> Likelihood:
        h = likelihood.tangent(point, scale)
        return h if near is None or whole else h.at_points(channel)

    def solve(
        b: Float[Array, " obs"], point: Array | None, scale: Array | None, guess: Array | None
    ) -> Solved:
        h = tangent(point, scale)

        def system(y: Float[Array, " obs"]) -> Float[Array, " obs"]:
            y = y[:, None]
            return (h.correlated(y) + h.apply(among(h.adjoint(y, (n, 1, channel)))))[:, 0]

        if solver.minimal_residual:
            return minimal_residual(system, b, iterations=solver.minimal_residual)
        return conjugate_gradients(
            system,
            b,
            tolerance=solver.tolerance,
            max_iterations=solver.max_iterations,
            guess=guess,
            axis=AXIS,
        )

    axes = tuple(None if given is None else 1 for given in (point, scale, first_guess))
    # one solve per member, so that a member never depends on the others beside it
    dual, residual, _ = jax.vmap(
        solve, in_axes=(1, *axes), out_axes=Solved(1, 0, 0), axis_name=AXIS
    )(innovation, point, scale, first_guess)

    def pull(n: int, *, whole: bool) -> State:
        if point is None and scale is None:
            return tangent(None, None, whole=whole).adjoint(dual, (n, member, channel))

        def own(y: Array, point: Array | None, scale: Array | None) -> Array:
            return tangent(point, scale, whole=whole).adjoint(y[:, None], (n, 1, channel))[:, 0]

        return jax.vmap(own, in_axes=(1, *axes[:2]), out_axes=1)(dual, point, scale)

    back = pull(node, whole=True)  # compiled, it costs nothing where nobody asks for it
    increment = covariance(back) if near is None else near.spread(pull(n, whole=False))
    return increment, residual, back, dual


def update(
    likelihood: Likelihood,
    covariance: Covariance,
    estimate: State,
    *,
    solver: Solver,
    variance: Array | None = None,
    noise: Array | None = None,
    scale: Array | None = None,
    member: Array | None = None,
    first_guess: Array | None = None,
) -> Update:
    """Kalman update of an estimate by observations of any kind; for linear ones a single solve.

    Where H is not linear, it is linearised at the estimate and again at each update of it
    (Gauss-Newton: iterated Kalman filter, Bell and Cathey 1993).  With a robust likelihood the
    weights of the observations are found between the same updates, see
    `xdiffda.observations.robust`.

    Parameters
    ----------
    likelihood : Likelihood
    covariance : callable
        Applies V, the covariance of the error of ``estimate``.
    estimate : array (node, member, channel)
    solver : Solver
    variance : array (channel,), optional
        Grid-point variance of V; taken from the covariance where that knows it, else 1.
    noise : array (obs, member), optional
        Whitened perturbations of the observations.
    scale : array (obs, member), optional
        Square roots of known weights; then none are estimated.
    member : int array, optional
        Which of the members' own observed values, where ``estimate`` holds a single one.
    first_guess : array (obs, member), optional
        Of the solution in observation space, the ``dual`` of an update nearby.

    Returns
    -------
    Update
    """
    robust = likelihood.robust if scale is None else None
    shape = estimate.shape
    if likelihood.is_linear and robust is None:
        innovation = likelihood.innovation(estimate, member)
        innovation = innovation if scale is None else likelihood.reweigh(innovation, scale)
        innovation = innovation if noise is None else innovation + noise
        increment, residual, pulled, dual = _solve(
            likelihood, covariance, innovation, shape, solver, None, scale, first_guess
        )
        return Update(increment, scale, residual, pulled, dual)

    expected = jnp.zeros(())
    if robust is not None:
        known = channel_variance(covariance, shape[2]) if variance is None else variance
        expected = likelihood.predicted_variance(known)

    def again(k: Array, carry: tuple) -> tuple:
        (increment, *_), dual, first, weights = carry
        point = estimate + increment
        residual = likelihood.innovation(point, member)
        if robust is not None:
            own = likelihood.marginal(residual)
            first = jnp.where(k == 0, robust.weight(own / jnp.sqrt(1 + expected)[:, None]), first)
            later = jnp.where(k == 1, robust.huber(own), robust.weight(own))
            weights = jnp.sqrt(jnp.where(k == 0, first, jnp.minimum(first, later)))
        used = weights if robust is not None or scale is not None else None
        at = None if likelihood.is_linear else point
        # the increment sought is that from the estimate, not from the last point
        moved = _member_apply(likelihood, increment, at)
        innovation = residual + moved
        innovation = innovation if used is None else likelihood.reweigh(innovation, used)
        innovation = innovation if noise is None else innovation + noise
        *solved, dual = _solve(likelihood, covariance, innovation, shape, solver, at, used, dual)
        return tuple(solved), dual, first, weights

    blank = jnp.zeros((likelihood.n_obs, shape[1]), estimate.dtype)
    weights = blank + 1 if scale is None else scale
    rounds = 1 if likelihood.is_linear else likelihood.updates
    rounds = rounds if robust is None else max(robust.iterations, rounds)
    nothing = jnp.zeros_like(estimate)
    guess = blank if first_guess is None else first_guess
    start = ((nothing, jnp.zeros(shape[1], estimate.dtype), nothing), guess, blank + 1, weights)
    (increment, residual, pulled), dual, _, weights = jax.lax.fori_loop(0, rounds, again, start)
    used = None if robust is None and scale is None else weights
    return Update(increment, used, residual, pulled, dual)


def _member_apply(likelihood: Likelihood, state: State, point: State | None) -> Array:
    """H of each member's state, linearised at its own point."""
    if point is None:
        return likelihood.apply(state)
    return jax.vmap(
        lambda x, p: likelihood.tangent(p).apply(x[:, None])[:, 0], in_axes=1, out_axes=1
    )(state, point)


def channel_variance(covariance: Covariance, n_channel: int) -> Float[Array, " channel"]:
    """Grid-point variance of each channel under V; 1 where V does not say."""
    variance = getattr(covariance, "variance", None)
    return jnp.broadcast_to(jnp.asarray(1.0 if variance is None else variance), (n_channel,))
