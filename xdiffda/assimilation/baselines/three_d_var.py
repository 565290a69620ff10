"""3D-Var in its incremental, preconditioned primal form.

With the control variable chi, ``z = B^(1/2) chi``, the cost function

    J(chi) = 1/2 |chi|^2 + 1/2 |R^-1/2 (y - H(x_b + s z))|^2

has a Hessian whose eigenvalues are not below 1 (Lorenc 1988; Courtier, Thepaut &
Hollingsworth 1994, doi 10.1002/qj.49712051912).  Linear observations need one inner
minimisation by conjugate gradients, others a few Gauss-Newton outer loops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from xdiffda.covariance.spectral import SpectralCovariance, SpectralRoot
from xdiffda.diffusion.kalman import MINIMUM, Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.errors import Problem, raise_if
from xdiffda.jax_settings import with_own_jax

# of the Gauss-Newton step; 0 among them: the cost never rises
_STEPS = (1.0, 0.5, 0.25, 0.0625, 0.0)


class Minimum(NamedTuple):
    """Result of a minimisation.

    Attributes
    ----------
    z : array (node, member, channel)
        The analysis increment in units of z.
    cost : array (member, outer + 1)
        J at the beginning and after every outer loop; of linear observations: before, after.
    gradient : array (member,)
        Norm of the gradient at the end, relative to that at the beginning.
    """

    z: Float[Array, "node member channel"]
    cost: Float[Array, "member outer"]
    gradient: Float[Array, " member"]


def square_root(covariance: Any) -> Any:
    """The square root of a covariance: callable (control -> state), with ``control()``.

    A `SpectralCovariance`, or any covariance with a method ``root`` that returns one.
    """
    if isinstance(covariance, SpectralCovariance):
        return SpectralRoot(covariance)
    return covariance.root()


@with_own_jax
def three_d_var(
    covariance: Any,
    observations: Likelihood | Callable[[Float[Array, "node channel"]], Float[Array, " obs"]],
    *,
    n_outer: int = 3,
    solver: Solver = MINIMUM,
) -> Minimum:
    """Minimise 3D-Var's cost function in the space of the control variable.

    Parameters
    ----------
    covariance : SpectralCovariance or HybridCovariance
        B of z; see `square_root`.
    observations : Likelihood or callable
        Whitened observations (values (obs,), or (obs, member) for an ensemble of analyses), or
        a differentiable function z (node, channel) -> whitened residual
        ``(y - H(x_b + s z)) / error_std`` (obs,).
    n_outer : int
        Outer loops where H is not linear; linear observations need one.
    solver : Solver
        Conjugate gradients of each inner loop.

    Returns
    -------
    Minimum

    Raises
    ------
    InputError
        If ``n_outer`` is less than 1, or the likelihood has robust weights (they are not
        those of a cost function: `xdiffda.diffusion.posterior.three_d_var`).

    Notes
    -----
    Source: Courtier, Thepaut & Hollingsworth (1994), doi 10.1002/qj.49712051912, for the
    incremental form.  The Gauss-Newton step is shortened where the cost would rise.

    Examples
    --------
    One observation of a variable of variance 1 with an error of variance 1: half way.

    >>> from xdiffda.covariance.harmonics import circle_basis
    >>> basis = circle_basis(8, 2)
    >>> b = SpectralCovariance.from_blocks(basis, jnp.ones((3, 1, 1)))
    >>> obs = Likelihood(jnp.array([2.0]), jnp.array([[3]]), jnp.ones((1, 1)))
    >>> round(float(three_d_var(b, obs).z[3, 0, 0]), 4)
    1.0
    """
    problems = []
    if n_outer < 1:
        problems.append(Problem(f"n_outer={n_outer}", "1 or more", "n_outer=3"))
    if isinstance(observations, Likelihood) and observations.robust is not None:
        problems.append(Problem("robust weights", "Gaussian errors", "robust=None"))
    raise_if(problems, what="three_d_var")
    root = square_root(covariance)
    if not isinstance(observations, Likelihood):
        z, cost, gradient = _minimise(root, observations, n_outer, solver)
        return Minimum(z[:, None], cost[None], gradient[None])
    value = observations.value if observations.value.ndim == 2 else observations.value[:, None]
    n_outer = 1 if observations.is_linear and observations.period is None else n_outer
    return _members(root, observations, value, n_outer, solver)


@eqx.filter_jit
def _members(
    root: Any, likelihood: Likelihood, value: Array, n_outer: int, solver: Solver
) -> Minimum:
    def one(value: Array) -> tuple[Array, Array, Array]:
        own = dataclasses.replace(likelihood, value=value)

        def residual(z):
            return own.innovation(z[:, None])[:, 0]

        return _outer_loops(root, residual, n_outer, solver)

    return Minimum(*jax.vmap(one, in_axes=1, out_axes=(1, 0, 0))(value))


@eqx.filter_jit
def _minimise(
    root: Any, residual: Callable[[Array], Array], n_outer: int, solver: Solver
) -> tuple[Array, Array, Array]:
    return _outer_loops(root, residual, n_outer, solver)


def _outer_loops(
    root: Any, residual: Callable[[Array], Array], n_outer: int, solver: Solver
) -> tuple[Array, Array, Array]:
    """Gauss-Newton from the background; returns z, J and the relative gradient."""

    def of_control(chi):
        return residual(root(chi))

    def cost(chi: Any) -> Array:
        return 0.5 * (_dot(chi, chi) + jnp.sum(of_control(chi) ** 2))

    def step(chi: Any, _: None) -> tuple[Any, Array]:
        departure, tangent = jax.linearize(of_control, chi)
        (pull,) = jax.linear_transpose(tangent, chi)(departure)
        right = jax.tree.map(lambda c, p: -c - p, chi, pull)

        def hessian(delta: Any) -> Any:
            (back,) = jax.linear_transpose(tangent, chi)(tangent(delta))
            return jax.tree.map(jnp.add, delta, back)

        delta, _ = cg(hessian, right, tol=solver.tolerance, maxiter=solver.max_iterations)
        trials = [_along(chi, delta, s) for s in _STEPS]
        costs = jnp.stack([cost(trial) for trial in trials])
        best = jnp.argmin(costs)
        chosen = jax.tree.map(lambda *parts: jnp.stack(parts)[best], *trials)
        return chosen, costs[best]

    start = root.control()
    end, costs = jax.lax.scan(step, start, None, length=n_outer)

    def size(chi):
        return jnp.sqrt(_dot(*2 * (jax.grad(cost)(chi),)))

    relative = size(end) / jnp.maximum(size(start), 1e-30)
    return root(end), jnp.concatenate([cost(start)[None], costs]), relative


def _along(chi: Any, delta: Any, step: float) -> Any:
    return jax.tree.map(lambda c, d: c + step * d, chi, delta)


def _dot(a: Any, b: Any) -> Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jax.tree.reduce(jnp.add, products)
