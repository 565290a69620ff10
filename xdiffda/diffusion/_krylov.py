"""Krylov solvers that meet their matrix at one place of the program.

The matrices of a Kalman update hold transforms, gathers and networks: compiling them takes
longer than the solve.  Libraries apply the matrix before, in and after the loop; here one loop
does all, and hands out what was computed on the way to the last product (V H^T y, which is
the increment), so that a solve takes two products less, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

System = Callable[[Array], tuple[Array, Any]]
"""x -> A x, and what else is wanted of the solution."""

GUESS, STEP, CHECK, DONE = range(4)


class Solved(NamedTuple):
    """Solution of A x = b.

    Attributes
    ----------
    x : array (n,)
    residual : array
        ``|b - A x| / |b|``, computed from x itself.
    seen : pytree
        The second output of the system for x.
    """

    x: Float[Array, " n"]
    residual: Float[Array, ""]
    seen: Any


def conjugate_gradients(
    system: System, b: Float[Array, " n"], *, tolerance: float, max_iterations: int,
    guess: Float[Array, " n"] | None = None,
) -> Solved:  # fmt: skip
    """Solve a symmetric positive definite system (Hestenes and Stiefel 1952).

    Stops at a residual of ``tolerance`` relative to ``b``, or after ``max_iterations``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> a = jnp.array([[4.0, 1.0], [1.0, 3.0]])
    >>> found = conjugate_gradients(
    ...     lambda x: (a @ x, 2 * x), jnp.array([1.0, 2.0]), tolerance=1e-6, max_iterations=9)
    >>> [round(float(v), 4) for v in (*found.x, *found.seen)]
    [0.0909, 0.6364, 0.1818, 1.2727]
    """
    dot = lambda u, v: jnp.vdot(u, v, precision="highest")  # noqa: E731
    square = dot(b, b)
    goal = tolerance**2 * square
    seen = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(system, b)[1])
    x, stage = (jnp.zeros_like(b), STEP) if guess is None else (guess, GUESS)
    stage = jnp.where((square > 0) & (max_iterations > 0), stage, CHECK)

    def again(carry: tuple) -> tuple:
        stage, k, x, r, p, _ = carry
        stepping = stage == STEP
        image, seen = system(jnp.where(stepping, p, x))
        before = dot(r, r)
        length = jnp.where(stepping, before / dot(p, image), 0.0)
        x, r = x + length * p, jnp.where(stepping, r - length * image, b - image)
        after, k = dot(r, r), k + stepping
        p = r + jnp.where(stepping, after / before, 0.0) * p
        more = (after > goal) & (k < max_iterations) & (stage != CHECK)
        following = jnp.where(more, STEP, jnp.where(stepping, CHECK, DONE))
        return following, k, x, r, p, seen

    start = (stage, jnp.zeros((), jnp.int32), x, b, b, seen)
    _, _, x, r, _, seen = jax.lax.while_loop(lambda carry: carry[0] != DONE, again, start)
    return Solved(x, jnp.sqrt(dot(r, r)) / jnp.maximum(jnp.sqrt(square), 1e-30), seen)


def minimal_residual(
    system: System, b: Float[Array, " n"], *, iterations: int
) -> Solved:  # fmt: skip
    """Minimise the residual over a Krylov space: GMRES (Saad and Schultz 1986), no restarts.

    For systems that are neither symmetric nor positive: the residual never grows.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> a = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> found = minimal_residual(lambda x: (a @ x, x), jnp.array([1.0, 2.0]), iterations=2)
    >>> [round(float(v), 4) for v in found.x]
    [-2.0, 1.0]
    """
    m = min(iterations, b.size)
    size = jnp.maximum(jnp.linalg.norm(b), 1e-30)
    seen = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(system, b)[1])
    space = jnp.zeros((m + 1, b.size), b.dtype).at[0].set(b / size)
    hessenberg = jnp.zeros((m + 1, m), b.dtype)  # A, from the first m vectors to all of them
    right = jnp.zeros(m + 1, b.dtype).at[0].set(size)

    def again(k: Array, carry: tuple) -> tuple:
        space, hessenberg, _ = carry
        best = jnp.linalg.lstsq(hessenberg, right, rcond=1e-6)[0] @ space[:-1]
        x = jnp.where(k == m, best, space[k])
        image, seen = system(x)
        own, column = image, jnp.zeros(m + 1, b.dtype)
        for _ in range(2):  # once more, for what rounding left
            part = space @ own
            own, column = own - part @ space, column + part
        length = jnp.linalg.norm(own)
        # beyond the last the indices are out of range, and nothing is written
        space = space.at[k + 1].set(own / jnp.maximum(length, 1e-30), mode="drop")
        hessenberg = hessenberg.at[:, k].set(column.at[k + 1].set(length), mode="drop")
        return space, hessenberg, (x, image, seen)

    start = space, hessenberg, (jnp.zeros_like(b), jnp.zeros_like(b), seen)
    *_, (x, image, seen) = jax.lax.fori_loop(0, m + 1, again, start)
    return Solved(x, jnp.linalg.norm(b - image) / size, seen)
