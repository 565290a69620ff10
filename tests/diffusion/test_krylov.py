"""The solvers of the Kalman update against numpy, and where libraries would be at a loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.diffusion.kalman import conjugate_gradients, minimal_residual


def _system(a):
    a = jnp.asarray(a, jnp.float32)
    return lambda x: a @ x


def _positive(rng, n, spread):
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return (q * np.geomspace(1, spread, n)) @ q.T


@pytest.mark.parametrize("guessed", [False, True])
def test_conjugate_gradients_solve(guessed):
    rng = np.random.default_rng(0)
    a, b = _positive(rng, 30, 1e3), rng.normal(size=30)
    exact = np.linalg.solve(a, b)
    guess = jnp.asarray(exact + rng.normal(size=30), jnp.float32) if guessed else None
    found = conjugate_gradients(
        _system(a), jnp.asarray(b, jnp.float32), tolerance=1e-5, max_iterations=300, guess=guess
    )
    np.testing.assert_allclose(found.x, exact, atol=1e-3 * np.abs(exact).max())
    own = np.linalg.norm(b - a @ np.asarray(found.x, np.float64)) / np.linalg.norm(b)
    assert float(found.residual) == pytest.approx(own, rel=0.2, abs=3e-6)


def test_products_are_counted():
    """n steps take n + 1 products; a guess one more, and a perfect one no step."""
    rng = np.random.default_rng(1)
    a, b = _positive(rng, 20, 10.0), rng.normal(size=20)
    calls = []

    def system(x):
        jax.debug.callback(lambda _: calls.append(1), x)
        return jnp.asarray(a, jnp.float32) @ x

    def count(**settings):
        calls.clear()
        found = conjugate_gradients(system, jnp.asarray(b, jnp.float32), **settings)
        jax.effects_barrier()
        return found, len(calls)

    found, n = count(tolerance=0.0, max_iterations=5)
    assert n == 6
    # five steps of the textbook
    x, r, p = np.zeros(20), b.copy(), b.copy()
    for _ in range(5):
        step = r @ r / (p @ a @ p)
        x, after = x + step * p, r - step * (a @ p)
        p, r = after + after @ after / (r @ r) * p, after
    np.testing.assert_allclose(found.x, x, rtol=1e-3, atol=1e-5)
    exact = jnp.asarray(np.linalg.solve(a, b), jnp.float32)
    assert count(tolerance=1e-3, max_iterations=5, guess=exact)[1] == 1
    assert count(tolerance=1e-3, max_iterations=0)[1] == 1


def test_nothing_to_solve():
    found = conjugate_gradients(_system(np.eye(4)), jnp.zeros(4), tolerance=1e-3, max_iterations=10)
    assert not found.x.any() and float(found.residual) == 0
    found = minimal_residual(_system(np.eye(4)), jnp.zeros(4), iterations=3)
    assert not found.x.any() and float(found.residual) == 0


def test_members_stop_on_their_own():
    """Each of a batch is what it is alone, whatever the others need."""
    rng = np.random.default_rng(2)
    a = np.stack([_positive(rng, 12, s) for s in (1.5, 1e3)])
    b = jnp.asarray(rng.normal(size=(2, 12)), jnp.float32)

    def solve(a, b, axis=None):
        return conjugate_gradients(_system(a), b, tolerance=1e-4, max_iterations=100, axis=axis)

    both = jax.vmap(lambda a, b: solve(a, b, "member"), axis_name="member")(
        jnp.asarray(a, jnp.float32), b
    )
    for i in range(2):
        alone = solve(a[i], b[i])
        np.testing.assert_allclose(both.x[i], alone.x, rtol=1e-4, atol=1e-5)
        assert float(both.residual[i]) < 2e-4 and int(both.n_steps[i]) == int(alone.n_steps)


@pytest.mark.parametrize("iterations", [1, 3, 8, 20])
def test_minimal_residual_is_minimal(iterations):
    """Against the dense minimum over the Krylov space, for a matrix of no symmetry."""
    rng = np.random.default_rng(3)
    a, b = np.eye(20) + rng.normal(size=(20, 20)) / 6, rng.normal(size=20)
    found = minimal_residual(_system(a), jnp.asarray(b, jnp.float32), iterations=iterations)
    krylov = np.stack([np.linalg.matrix_power(a, k) @ b for k in range(iterations)], 1)
    krylov = np.linalg.qr(krylov)[0]
    best = krylov @ np.linalg.lstsq(a @ krylov, b, rcond=None)[0]
    smallest = np.linalg.norm(b - a @ best) / np.linalg.norm(b)
    assert float(found.residual) == pytest.approx(smallest, rel=1e-3, abs=1e-5)


def test_minimal_residual_of_a_space_that_ends():
    """Two distinct eigenvalues: two vectors span all there is, more do no harm."""
    a = np.diag([1.0, 1.0, 2.0, 2.0, 2.0])
    b = np.arange(1.0, 6.0)
    found = minimal_residual(_system(a), jnp.asarray(b, jnp.float32), iterations=5)
    np.testing.assert_allclose(found.x, b / np.diag(a), rtol=1e-4)
