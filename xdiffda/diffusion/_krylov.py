"""Krylov solvers that meet their matrix at one place of the program.

The matrices of a Kalman update hold transforms, gathers and networks: compiling them takes
longer than a solve.  Libraries apply the matrix before, in and after their loop, and ask for its
transpose; here one loop does it all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    system: System, b: Float[Array, " n"], *, tolerance: float, max_iterations: int,
    guess: Float[Array, " n"] | None = None, axis: str | None = None,
) -> Solved:  # fmt: skip
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
    dot = lambda u, v: jnp.vdot(u, v, precision="highest")  # noqa: E731
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
