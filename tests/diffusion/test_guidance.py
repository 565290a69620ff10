"""Guidance by observations that are correlated, grossly wrong, or not linear: closed forms."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from xdiffda.covariance.draws import make_draws
from xdiffda.covariance.harmonics import circle_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.guidance import guide
from xdiffda.diffusion.kalman import Solver, channel_variance, kalman_increment, update
from xdiffda.diffusion.likelihood import Likelihood, LocalRows, StateRows, Whitening
from xdiffda.diffusion.perturbed import gaussian_posterior
from xdiffda.diffusion.posterior import Guidance, sample_posterior
from xdiffda.diffusion.programs import diagonal_covariance
from xdiffda.observations.nonlinear import LocalCall, StateCall
from xdiffda.observations.robust import Robust
from xdiffda.priors.prior import Wiener
from xdiffda.state.grid import Grid, Layout

TIGHT = Solver(tolerance=1e-6, max_iterations=200)
N_NODE = 16


def _line() -> SpectralCovariance:
    """Two correlated channels, think of u and v, on 16 points of a circle."""
    basis = circle_basis(N_NODE, 5)
    degree = np.arange(basis.mask.shape[0])
    spectrum = 1 / (1 + (degree / 3.0) ** 2)
    spectrum /= (spectrum * np.asarray(basis.multiplicity)).sum() / basis.multiplicity.sum()
    return SpectralCovariance.from_blocks(
        basis, spectrum[:, None, None] * np.array([[1.0, 0.4], [0.4, 1.2]])
    )


def _dense(covariance, n_channel: int = 2) -> np.ndarray:
    n = covariance.basis.n_node * n_channel
    eye = jnp.eye(n).reshape(-1, n_channel, n).transpose(0, 2, 1)
    return np.asarray(covariance(eye), np.float64).transpose(0, 2, 1).reshape(n, n)


def _speed(s):
    return jnp.sqrt(s["u"] ** 2 + s["v"] ** 2 + 1e-6)


def _direction(s):
    return jnp.rad2deg(jnp.arctan2(-s["u"], -s["v"])) % 360.0


def _local(function, nodes, base, error: float, start: int = 0) -> tuple[LocalRows, np.ndarray]:
    """Rows that see both channels at some nodes; z is added to ``base``."""
    call = LocalCall("wind", function, (("u", 0), ("v", 0)), (), ())
    n = len(nodes)
    index = np.stack([2 * np.asarray(nodes), 2 * np.asarray(nodes) + 1], -1)
    rows = LocalRows(
        call,
        start,
        jnp.broadcast_to(jnp.asarray(base, jnp.float32), (n, 2)),
        jnp.ones((n, 2, 1)),
        jnp.zeros((n, 0)),
        jnp.full(n, error),
    )
    return rows, index


def _nonlinear(rows: LocalRows, index, value, **more) -> Likelihood:
    weight = rows.weights(jnp.zeros(2 * N_NODE), jnp.asarray(index))
    return Likelihood(
        jnp.asarray(value, jnp.float32), jnp.asarray(index), weight, local=(rows,), **more
    )


def _state_rows(start: int, n_obs: int) -> StateRows:
    """The square of the mean over nodes of channel u, and the product of two values."""
    grid = Grid.from_coords([-45.0, 45.0], 45.0 * np.arange(8))
    layout = Layout(grid, ("2m_temperature", "skin_temperature"))

    def h(state, obs):
        u = state["2m_temperature"]
        return jnp.stack([jnp.mean(u) ** 2, u[0, 3] * state["skin_temperature"][1, 2]]) + obs["lat"]

    rng = np.random.default_rng(1)
    return StateRows(
        StateCall("h", h, layout),
        start,
        n_obs,
        jnp.asarray(rng.normal(size=(N_NODE, 2)), jnp.float32) + 2.0,
        jnp.full((N_NODE, 2), 0.7),
        {"lat": jnp.zeros(n_obs)},
        jnp.full(n_obs, 1 / 0.3),
    )


def _mixture() -> Likelihood:
    """Three linear rows, two wind speeds, two functions of the state; the first two correlated."""
    rng = np.random.default_rng(0)
    local, own = _local(_speed, [3, 9], [4.0, -3.0], 0.5, start=3)
    index = np.concatenate([rng.integers(0, 32, (3, 2)), own, np.zeros((2, 2), int)])
    weight = np.concatenate([rng.normal(size=(3, 2)), np.zeros((4, 2))])
    factor = np.linalg.cholesky([[1.0, 0.7], [0.7, 1.0]])[None]
    whitening = Whitening(
        jnp.array([[0, 1]]),
        jnp.asarray(factor, jnp.float32),
        jnp.asarray(np.linalg.inv(factor), jnp.float32),
    )
    given = Likelihood(
        jnp.asarray(rng.normal(size=7), jnp.float32),
        jnp.asarray(index),
        jnp.asarray(weight, jnp.float32),
        local=(local,),
        general=(_state_rows(5, 2),),
        whitening=whitening,
    )
    return given.tangent(jnp.zeros((N_NODE, 2)))


# ------------------------------------------------------------------ operators and adjoints


@pytest.mark.long
@pytest.mark.parametrize("scaled", [False, True])
def test_adjoint_of_a_mixture_at_any_point(scaled):
    rng = np.random.default_rng(2)
    point = jnp.asarray(rng.normal(size=(N_NODE, 2)), jnp.float32)
    scale = jnp.asarray(rng.uniform(0.1, 1, 7), jnp.float32) if scaled else None
    h = _mixture().tangent(point, scale)
    x = jnp.asarray(rng.normal(size=(N_NODE, 3, 2)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    left, right = jnp.vdot(h.apply(x), y), jnp.vdot(x, h.adjoint(y, x.shape))
    assert float(left) == pytest.approx(float(right), rel=1e-5)


def test_tangent_of_a_mixture_agrees_with_finite_differences():
    rng = np.random.default_rng(3)
    point, dx = (jnp.asarray(rng.normal(size=(N_NODE, 2)), jnp.float32) for _ in range(2))
    given = _mixture()
    step = 0.02
    ends = [given.innovation((point + s * step * dx)[:, None])[:, 0] for s in (-1, 1)]
    numeric = (ends[0] - ends[1]) / (2 * step)
    tangent = given.tangent(point).apply(dx[:, None])[:, 0]
    np.testing.assert_allclose(tangent, numeric, atol=2e-3 * float(jnp.abs(tangent).max()))
    # at the background the departure is the innovation itself
    start = given.innovation(jnp.zeros((N_NODE, 1, 2)))[:, 0]
    np.testing.assert_allclose(start, given.value, atol=1e-5)


@pytest.mark.long
def test_correlated_errors_give_the_kalman_analysis_with_that_r():
    covariance = _line()
    rng = np.random.default_rng(4)
    index, n = rng.choice(32, (6, 1), replace=False), 6
    correlation = np.eye(n)
    block = np.exp(-np.abs(np.subtract.outer(np.arange(4), np.arange(4))) / 2.0)
    correlation[:4, :4] = block
    factor = np.linalg.cholesky(block)[None]
    whitening = Whitening(
        jnp.array([[0, 1, 2, 3]]),
        jnp.asarray(factor, jnp.float32),
        jnp.asarray(np.linalg.inv(factor), jnp.float32),
    )
    departure, error = rng.normal(size=n), 0.3
    value = whitening.whiten(jnp.asarray(departure / error, jnp.float32)[:, None])[:, 0]
    likelihood = Likelihood(
        value, jnp.asarray(index), jnp.full((n, 1), 1 / error), whitening=whitening
    )
    B, H = _dense(covariance), np.eye(32)[index[:, 0]]
    R = error**2 * correlation
    K = B @ H.T @ np.linalg.inv(H @ B @ H.T + R)
    zero = jnp.zeros((N_NODE, 1, 2))
    found, residual = kalman_increment(
        likelihood, covariance, likelihood.innovation(zero), zero.shape, TIGHT
    )
    np.testing.assert_allclose(found.reshape(-1), K @ departure, atol=1e-4)
    assert float(residual[0]) < 1e-5
    # perturbed observations have the errors' correlations, so the spread is the posterior's
    draws = make_draws(jax.random.key(0), jnp.arange(3000))
    z = gaussian_posterior(zero, covariance, likelihood, draws, solver=TIGHT)
    spread = np.var(np.asarray(z).transpose(1, 0, 2).reshape(3000, -1), axis=0)
    np.testing.assert_allclose(spread, np.diag(B - K @ H @ B), rtol=0.15)


# ----------------------------------------------------------------------------- nonlinear H


@pytest.mark.parametrize(
    ("function", "value", "error"), [(_speed, [7.0, 3.5], 0.3), (_direction, [330.0, 300.0], 8.0)]
)
def test_iterated_updates_minimise_the_cost_function(function, value, error):
    covariance = _line()
    base = np.array([3.0, -4.0])
    rows, index = _local(function, [3, 9], base, error)
    at_base = float(function({"u": base[0], "v": base[1]}))
    likelihood = _nonlinear(rows, index, (np.array(value) - at_base) / error, updates=12)
    zero = jnp.zeros((N_NODE, 1, 2))
    found, scale, *_ = update(likelihood, covariance, zero, solver=TIGHT)
    assert scale is None
    B = _dense(covariance)
    root = np.linalg.svd(B)[0] * np.sqrt(np.linalg.svd(B)[1])

    def cost(w):
        z = (root @ w).reshape(N_NODE, 2)[[3, 9]] + base
        seen = function({"u": z[:, 0], "v": z[:, 1]})
        return 0.5 * w @ w + 0.5 * np.sum(((np.array(value) - np.asarray(seen)) / error) ** 2)

    with jax.enable_x64(True):
        best = minimize(cost, np.zeros(root.shape[1]), method="BFGS", options={"gtol": 1e-4})
    np.testing.assert_allclose(np.asarray(found).reshape(-1), root @ best.x, atol=0.02)


def test_a_direction_is_reached_the_short_way_round():
    rows, index = _local(_direction, [3], [0.3, -5.0], 5.0)  # from 356.6 degrees
    at_base = float(_direction({"u": 0.3, "v": -5.0}))
    likelihood = _nonlinear(
        rows, index, [(10.0 - at_base + 360.0) / 5.0], period=jnp.array([360 / 5.0])
    )
    shortest = likelihood.innovation(jnp.zeros((N_NODE, 1, 2)))
    assert float(shortest[0, 0]) == pytest.approx((10.0 - at_base + 360.0) / 5.0, rel=1e-4)
    far = dataclasses.replace(likelihood, value=likelihood.value - 72.0)
    np.testing.assert_allclose(far.innovation(jnp.zeros((N_NODE, 1, 2))), shortest, atol=1e-4)
    found, *_ = update(likelihood, _line(), jnp.zeros((N_NODE, 1, 2)), solver=TIGHT)
    assert -2.0 < float(found[3, 0, 0]) < -0.3  # u turns negative, by about 1 m/s
    assert abs(float(found[3, 0, 1])) < 0.5


@pytest.mark.long
def test_members_follow_the_posterior_of_a_wind_speed():
    """Against the exact posterior, integrated on a grid of (u, v) at the observed point."""
    covariance = _line()
    base, observed, error = np.array([2.5, -2.0]), 5.0, 0.4
    rows, index = _local(_speed, [3], base, error)
    likelihood = _nonlinear(rows, index, [(observed - np.hypot(*base)) / error])
    guidance = Guidance(start="warm", n_steps=8, solver=TIGHT)
    draws = make_draws(jax.random.key(1), jnp.arange(600))
    prior = Conditioned(Wiener(covariance), covariance)
    z = np.asarray(sample_posterior(prior, likelihood, draws, guidance=guidance))[3]
    B = _dense(covariance)[6:8, 6:8]
    axis = np.linspace(-5, 5, 201)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    density = multivariate_normal([0, 0], B).pdf(np.stack([u, v], -1))
    density *= np.exp(-0.5 * ((observed - np.hypot(u + base[0], v + base[1])) / error) ** 2)
    density /= density.sum()
    speed = np.hypot(z[:, 0] + base[0], z[:, 1] + base[1])
    exact = (density * np.hypot(u + base[0], v + base[1])).sum()
    assert speed.mean() == pytest.approx(exact, abs=0.05)
    for c, axis_c in enumerate((u, v)):
        mean = (density * axis_c).sum()
        std = np.sqrt((density * (axis_c - mean) ** 2).sum())
        assert z[:, c].mean() == pytest.approx(mean, abs=0.15)
        assert z[:, c].std() == pytest.approx(std, rel=0.15)


@pytest.mark.long
def test_the_jacobian_v_takes_the_same_observations():
    covariance = _line()
    local, index = _local(_speed, [3, 9], [4.0, -3.0], 0.5)
    likelihood = _nonlinear(local, index, [1.0, -0.5], robust=Robust("huber", threshold=20.0))
    denoise = Wiener(covariance)

    def noise(x):
        return covariance.basis.synthesis(covariance.basis.adjoint(x))

    z = 2.0 * covariance.sample(jax.random.split(jax.random.key(0), 2))
    a = guide(denoise, likelihood, None, noise_covariance=noise, solver=TIGHT)(z, jnp.array(1.0))
    b = guide(denoise, likelihood, covariance.posterior, solver=TIGHT)(z, jnp.array(1.0))
    np.testing.assert_allclose(a, b, atol=2e-2)


def test_minimal_residuals_bear_a_v_that_is_no_covariance():
    # as the Jacobian of a trained network: not symmetric, and negative in some directions
    rng = np.random.default_rng(0)
    size, n_obs = 2 * N_NODE, 24
    matrix = np.eye(size) + 0.6 * rng.normal(size=(size, size))
    V = jnp.asarray(matrix, jnp.float32)
    index = rng.permutation(size)[:n_obs, None]
    value, weight = 3 * rng.normal(size=n_obs), np.full((n_obs, 1), 3.0)
    likelihood = Likelihood(
        jnp.asarray(value, jnp.float32), jnp.asarray(index), jnp.asarray(weight, jnp.float32)
    )

    def apply(x):
        return (V @ x[:, 0].reshape(-1)).reshape(N_NODE, 1, 2)

    zero = jnp.zeros((N_NODE, 1, 2))
    by_iterations = {
        n: update(likelihood, apply, zero, solver=Solver(1e-6, 400, minimal_residual=n))
        for n in (4, 12, n_obs)
    }
    residual = [float(found.residual[0]) for found in by_iterations.values()]
    assert sorted(residual, reverse=True) == residual and residual[0] <= 1
    assert residual[-1] < 1e-3
    H = np.zeros((n_obs, size))
    H[np.arange(n_obs), index[:, 0]] = 3.0
    exact = matrix @ H.T @ np.linalg.solve(np.eye(n_obs) + H @ matrix @ H.T, value)
    found = np.asarray(by_iterations[n_obs].increment).reshape(-1)
    np.testing.assert_allclose(found, exact, atol=1e-2 * np.abs(exact).max())
    diverged = update(likelihood, apply, zero, solver=Solver(1e-6, 400))
    assert not float(diverged.residual[0]) < 1


def test_variance_of_v_is_known_where_v_tells_it():
    covariance = _line()
    expected = np.diag(_dense(covariance)).reshape(N_NODE, 2).mean(0)
    posterior = covariance.posterior(0.7)
    np.testing.assert_allclose(channel_variance(covariance, 2), expected, rtol=1e-4)
    np.testing.assert_allclose(
        channel_variance(posterior, 2),
        np.diag(_dense(posterior)).reshape(N_NODE, 2).mean(0),
        rtol=1e-4,
    )
    np.testing.assert_allclose(channel_variance(diagonal_covariance(jnp.array(1.0)), 2), 0.5)
    np.testing.assert_allclose(channel_variance(lambda x: x, 2), 1.0)
    rows = Likelihood(jnp.zeros(1), jnp.array([[6, 7]]), jnp.array([[2.0, -1.0]]))
    bound = rows.predicted_variance(jnp.asarray(expected, jnp.float32))
    assert float(bound[0]) == pytest.approx((2 * expected[0] ** 0.5 + expected[1] ** 0.5) ** 2)
