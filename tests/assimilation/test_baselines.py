"""Optimal interpolation and 3D-Var against dense linear algebra."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from gaussian_world import make_prior

from xdiffda.assimilation.baselines.optimal_interpolation import DistanceCovariance, oi
from xdiffda.assimilation.baselines.three_d_var import square_root, three_d_var
from xdiffda.covariance.harmonics import Basis, circle_basis, sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.kalman import Solver, kalman_increment
from xdiffda.diffusion.likelihood import Likelihood, Whitening
from xdiffda.errors import InputError
from xdiffda.observations.robust import Robust
from xdiffda.state.grid import Grid

GRID = Grid(tuple(np.linspace(-78.75, 78.75, 8).tolist()), tuple((np.arange(16) * 22.5).tolist()))
N_CHANNEL = 3
SIZE = GRID.n_node * N_CHANNEL
TIGHT = Solver(tolerance=1e-6, max_iterations=400)


@pytest.fixture(scope="module")
def basis() -> Basis:
    return sphere_basis(GRID.lat, GRID.lon, 5)


@pytest.fixture(scope="module")
def covariance(basis: Basis) -> SpectralCovariance:
    root = np.random.default_rng(0).normal(size=(6, N_CHANNEL, N_CHANNEL))
    blocks = root @ root.transpose(0, 2, 1) + 0.2 * np.eye(N_CHANNEL)
    return SpectralCovariance.from_blocks(basis, blocks / (1 + np.arange(6))[:, None, None])


@pytest.fixture(scope="module")
def dense(covariance: SpectralCovariance) -> np.ndarray:
    """B as a matrix over (node, channel), column by column."""
    unit = np.eye(SIZE, dtype=np.float32).reshape(SIZE, GRID.n_node, N_CHANNEL)
    columns = jax.jit(lambda x: covariance(x))(jnp.moveaxis(jnp.asarray(unit), 0, 1))
    return np.asarray(columns, np.float64).transpose(0, 2, 1).reshape(SIZE, SIZE)


def _likelihood(n: int, terms: int, seed: int = 1, n_member: int | None = None) -> Likelihood:
    """Each observation sees neighbouring points of one row, with weights of either sign."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, 8, n), rng.integers(0, 16, n)
    node = row[:, None] * 16 + (column[:, None] + np.arange(terms)) % 16
    index = node * N_CHANNEL + rng.integers(0, N_CHANNEL, (n, terms))
    weight = rng.normal(1.5, 1.0, (n, terms))
    value = rng.normal(size=n if n_member is None else (n, n_member))
    return Likelihood(jnp.asarray(value, "f4"), jnp.asarray(index), jnp.asarray(weight, "f4"))


def _operator(likelihood: Likelihood) -> np.ndarray:
    h = np.zeros((len(likelihood.index), SIZE))
    rows = np.arange(len(h))[:, None]
    np.add.at(h, (rows, np.asarray(likelihood.index)), np.asarray(likelihood.weight, float))
    return h


def _kalman(dense: np.ndarray, likelihood: Likelihood) -> np.ndarray:
    h = _operator(likelihood)
    value = np.asarray(likelihood.value, float).reshape(len(h), -1)
    dual = np.linalg.solve(h @ dense @ h.T + np.eye(len(h)), value)
    out = (dense @ h.T @ dual).reshape(GRID.n_node, N_CHANNEL, -1)
    return np.moveaxis(out, 2, 1)


def test_covariance_by_distance_is_that_of_the_basis(
    covariance: SpectralCovariance, dense: np.ndarray
) -> None:
    kernel = DistanceCovariance.from_spectral(covariance)
    rng = np.random.default_rng(2)
    one, other = rng.integers(0, GRID.n_node, (2, 400))
    a, b = rng.integers(0, N_CHANNEL, (2, 400))
    lat, lon = np.deg2rad(GRID.node_lat), np.deg2rad(GRID.node_lon)
    cosine = np.sin(lat[one]) * np.sin(lat[other])
    cosine += np.cos(lat[one]) * np.cos(lat[other]) * np.cos(lon[one] - lon[other])
    chord = np.sqrt(np.maximum(2 - 2 * cosine, 0.0))
    found = kernel(jnp.asarray(chord, jnp.float32), jnp.asarray(a), jnp.asarray(b))
    expected = dense[one * N_CHANNEL + a, other * N_CHANNEL + b]
    np.testing.assert_allclose(found, expected, atol=2e-5 * dense.max())


@pytest.mark.parametrize(("terms", "n_member"), [(1, None), (4, 2)])
def test_oi_with_all_observations_is_the_kalman_increment(
    covariance: SpectralCovariance, dense: np.ndarray, terms: int, n_member: int | None
) -> None:
    likelihood = _likelihood(25, terms, n_member=n_member)
    found = oi(covariance, likelihood, GRID, radius_km=np.inf, max_obs=None)
    expected = _kalman(dense, likelihood)
    assert found.shape == expected.shape and np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=2e-3)
    value = likelihood.value.reshape(25, -1)
    shape = (GRID.n_node, value.shape[1], N_CHANNEL)
    solve = jax.jit(lambda v: kalman_increment(likelihood, covariance, v, shape, TIGHT)[0])
    np.testing.assert_allclose(found, solve(value), atol=2e-3)


def test_oi_of_selected_observations_is_the_kalman_update_by_these(
    covariance: SpectralCovariance, dense: np.ndarray
) -> None:
    """At each of some points, by its own nearest four within 4,000 km."""
    likelihood = _likelihood(30, 1, seed=3)
    found = oi(covariance, likelihood, GRID, radius_km=4000.0, max_obs=4)
    lat, lon = np.deg2rad(GRID.node_lat), np.deg2rad(GRID.node_lon)
    where = np.asarray(likelihood.index)[:, 0] // N_CHANNEL
    h, value = _operator(likelihood), np.asarray(likelihood.value, float)
    alone = 0
    for node in range(0, GRID.n_node, 7):
        cosine = np.sin(lat[where]) * np.sin(lat[node])
        cosine += np.cos(lat[where]) * np.cos(lat[node]) * np.cos(lon[where] - lon[node])
        distance = 6371.0 * np.arccos(np.clip(cosine, -1, 1)).round(6)
        near = np.argsort(distance, kind="stable")[:4]
        near = near[distance[near] <= 4000.0]
        alone += near.size == 0
        part = h[near]
        dual = np.linalg.solve(part @ dense @ part.T + np.eye(near.size), value[near])
        own = dense[node * N_CHANNEL : (node + 1) * N_CHANNEL]
        np.testing.assert_allclose(found[node, 0], own @ part.T @ dual, atol=1e-3)
    assert alone < 5


def test_oi_beyond_the_radius_is_the_background(covariance: SpectralCovariance) -> None:
    one = _likelihood(1, 1, seed=4)
    found = oi(covariance, one, GRID, radius_km=3000.0)
    node = int(one.index[0, 0]) // N_CHANNEL
    lat, lon = np.deg2rad(GRID.node_lat), np.deg2rad(GRID.node_lon)
    cosine = np.sin(lat) * np.sin(lat[node])
    cosine += np.cos(lat) * np.cos(lat[node]) * np.cos(lon - lon[node])
    within = 6371.0 * np.arccos(np.clip(cosine, -1, 1)) <= 3000.0
    moved = np.abs(found).max((1, 2)) > 0
    np.testing.assert_array_equal(moved, within)


def test_oi_does_not_count_observations_that_see_nothing(covariance: SpectralCovariance) -> None:
    """A batch is padded with rows of weight zero: they take no place among the nearest."""
    given = _likelihood(20, 1, seed=5)
    more = Likelihood(
        jnp.pad(given.value, (0, 12)),
        jnp.pad(given.index, ((0, 12), (0, 0))),
        jnp.pad(given.weight, ((0, 12), (0, 0))),
    )

    def run(obs):
        return oi(covariance, obs, GRID, radius_km=6000.0, max_obs=6)

    np.testing.assert_allclose(run(more), run(given), atol=1e-6)


def test_oi_in_small_chunks_and_any_order_is_the_same(covariance: SpectralCovariance) -> None:
    given = _likelihood(40, 2, seed=6)
    order = np.random.default_rng(7).permutation(40)
    other = Likelihood(given.value[order], given.index[order], given.weight[order])
    whole = oi(covariance, given, GRID, radius_km=5000.0, max_obs=None)
    for likelihood, memory in ((given, 0.05), (other, 256.0)):
        part = oi(covariance, likelihood, GRID, radius_km=5000.0, max_obs=None, memory_mb=memory)
        np.testing.assert_allclose(part, whole, atol=1e-3)


def test_oi_with_precise_and_repeated_observations_stays_finite_and_right(
    covariance: SpectralCovariance, dense: np.ndarray
) -> None:
    """The same number seen ten times with errors of a thousandth: the increment is the value."""
    index = np.full((10, 1), 60 * N_CHANNEL + 1)
    z = 0.7
    obs = Likelihood(jnp.full(10, 1000 * z), jnp.asarray(index), jnp.full((10, 1), 1000.0))
    found = oi(covariance, obs, GRID, radius_km=3000.0)
    expected = z * dense[60 * N_CHANNEL : 61 * N_CHANNEL, 60 * N_CHANNEL + 1]
    np.testing.assert_allclose(found[60, 0], expected / dense[181, 181], atol=2e-3)


def test_oi_says_what_is_wrong(covariance: SpectralCovariance) -> None:
    likelihood = _likelihood(2, 1)
    small = Grid(tuple(np.linspace(-60, 60, 4).tolist()), tuple((np.arange(6) * 60.0).tolist()))
    with pytest.raises(InputError, match=r"(?s)radius_km.*max_obs.*grid of 24"):
        oi(covariance, likelihood, small, radius_km=-1.0, max_obs=0)
    line = SpectralCovariance.from_blocks(circle_basis(128, 5), np.ones((6, 1, 1)))
    with pytest.raises(InputError, match="spherical harmonics"):
        oi(line, likelihood, GRID)


def test_correlated_errors_enter_both(covariance: SpectralCovariance, dense: np.ndarray) -> None:
    """R with two blocks of different sizes, off the order of the table."""
    given = _likelihood(12, 1, seed=15)
    blocks, r = [[1, 5, 6], [9, 2]], np.eye(12)
    factor, where = np.tile(np.eye(3), (2, 1, 1)), np.full((2, 3), 12)
    for number, rows in enumerate(blocks):
        own = 0.8 ** np.abs(np.subtract.outer(np.arange(len(rows)), np.arange(len(rows))))
        r[np.ix_(rows, rows)] = own
        factor[number, : len(rows), : len(rows)] = np.linalg.cholesky(own)
        where[number, : len(rows)] = rows
    whitening = Whitening(
        jnp.asarray(where), jnp.asarray(factor, "f4"), jnp.asarray(np.linalg.inv(factor), "f4")
    )
    white = whitening.whiten(given.value[:, None])[:, 0]
    obs = Likelihood(white, given.index, given.weight, whitening=whitening)
    h = _operator(given)
    dual = np.linalg.solve(h @ dense @ h.T + r, np.asarray(given.value, float))
    expected = dense @ h.T @ dual
    assert np.abs(expected - _kalman(dense, given).reshape(-1)).max() > 0.05  # they matter
    found = oi(covariance, obs, GRID, radius_km=np.inf)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=2e-3)
    found = np.asarray(three_d_var(covariance, obs, solver=TIGHT).z)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=2e-3)


def test_robust_weights_are_refused(covariance: SpectralCovariance) -> None:
    robust = dataclasses.replace(_likelihood(2, 1), robust=Robust("huber"))
    with pytest.raises(InputError, match="robust weights"):
        oi(covariance, robust, GRID)
    with pytest.raises(InputError, match="robust weights"):
        three_d_var(covariance, robust)


def test_square_root_is_one(covariance: SpectralCovariance, dense: np.ndarray) -> None:
    root = square_root(covariance)
    (transpose,) = jax.vjp(root, root.control())[1:]
    x = np.random.default_rng(8).normal(size=(GRID.n_node, N_CHANNEL)).astype("f4")
    found = np.asarray(root(*transpose(jnp.asarray(x)))).reshape(-1)
    np.testing.assert_allclose(found, dense @ x.reshape(-1), atol=1e-4 * np.abs(dense).sum(0).max())


@pytest.mark.parametrize("n_member", [None, 3])
def test_three_d_var_is_the_kalman_increment(
    covariance: SpectralCovariance, dense: np.ndarray, n_member: int | None
) -> None:
    likelihood = _likelihood(60, 4, seed=9, n_member=n_member)
    minimum = three_d_var(covariance, likelihood, solver=TIGHT)
    expected = _kalman(dense, likelihood)
    np.testing.assert_allclose(minimum.z, expected, atol=1e-3 * np.abs(expected).max())
    # J at the minimum: half of d^T (H B H^T + I)^-1 d
    h = _operator(likelihood)
    value = np.asarray(likelihood.value, float).reshape(60, -1)
    least = 0.5 * (value * np.linalg.solve(h @ dense @ h.T + np.eye(60), value)).sum(0)
    np.testing.assert_allclose(minimum.cost[:, 0], 0.5 * (value**2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(minimum.cost[:, -1], least, rtol=1e-3)
    assert float(minimum.gradient.max()) < 1e-4


def test_one_observation_gives_the_column_of_b(
    covariance: SpectralCovariance, dense: np.ndarray
) -> None:
    """``z = B h d / (h^T B h + r)``, in physical words."""
    element, error, innovation = 70 * N_CHANNEL + 2, 0.8, 1.7
    obs = Likelihood(
        jnp.array([innovation / error]), jnp.array([[element]]), jnp.array([[1 / error]])
    )
    expected = dense[:, element] * innovation / (dense[element, element] + error**2)
    for z in (
        three_d_var(covariance, obs, solver=TIGHT).z,
        oi(covariance, obs, GRID, radius_km=np.inf),
    ):
        np.testing.assert_allclose(np.asarray(z).reshape(-1), expected, atol=1e-4)


def test_nonlinear_observations_reach_the_minimum_that_scipy_finds(basis: Basis) -> None:
    """Wind speed of two components, and a saturating sensor; J over all control variables."""
    covariance = SpectralCovariance.from_blocks(
        basis, (1 / (1 + np.arange(6.0)))[:, None, None] * np.eye(2)
    )
    nodes = jnp.asarray(np.random.default_rng(10).choice(GRID.n_node, 25, replace=False))
    value = jnp.asarray(np.random.default_rng(11).normal(6.0, 1.0, 25), jnp.float32)
    other = jnp.asarray(np.random.default_rng(12).normal(0.3, 0.2, 25), jnp.float32)

    def residual(z: jax.Array) -> jax.Array:
        u, v = 4.0 + 2.0 * z[nodes, 0], 3.0 + 2.0 * z[nodes, 1]
        return jnp.concatenate([(value - jnp.hypot(u, v)) / 0.5, (other - jnp.tanh(u - 4)) / 0.2])

    minimum = three_d_var(covariance, residual, n_outer=8, solver=TIGHT)
    cost = np.asarray(minimum.cost[0])
    assert (np.diff(cost) <= 1e-4 * cost[0]).all()
    root = square_root(covariance)
    start = root.control()

    @jax.jit
    def objective(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        def j(flat: jax.Array) -> jax.Array:
            chi = flat.reshape(start.shape)
            return 0.5 * (jnp.sum(chi**2) + jnp.sum(residual(root(chi)) ** 2))

        return jax.value_and_grad(j)(flat)

    def as64(flat: np.ndarray) -> tuple[float, np.ndarray]:
        j, gradient = objective(jnp.asarray(flat, jnp.float32))
        return float(j), np.asarray(gradient, np.float64)

    best = scipy.optimize.minimize(as64, np.zeros(start.size), jac=True, method="L-BFGS-B")
    assert cost[-1] < 0.6 * cost[0]
    assert cost[-1] <= best.fun * (1 + 1e-3)
    assert float(minimum.gradient[0]) < 1e-3
    expected = root(jnp.asarray(best.x, jnp.float32).reshape(start.shape))
    np.testing.assert_allclose(minimum.z[:, 0], expected, atol=0.02)


def test_linear_observations_as_a_function_are_the_same(covariance: SpectralCovariance) -> None:
    likelihood = _likelihood(40, 2, seed=13)

    def residual(z):
        return likelihood.value - likelihood.apply(z[:, None])[:, 0]

    one = three_d_var(covariance, likelihood, solver=TIGHT)
    other = three_d_var(covariance, residual, n_outer=2, solver=TIGHT)
    np.testing.assert_allclose(one.z, other.z, atol=2e-3)
    with pytest.raises(InputError, match="n_outer"):
        three_d_var(covariance, residual, n_outer=0)


def test_oi_and_three_d_var_agree_in_the_small_world() -> None:
    """Forty columns on a grid of 12 x 24; OI takes those within 5,000 km only."""
    prior = make_prior()
    rng = np.random.default_rng(14)
    nodes = rng.choice(prior.layout.grid.n_node, 40, replace=False)
    index = (nodes[:, None] * 3 + np.arange(3)).reshape(-1, 1)
    truth = np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(0), 1)))[:, 0]
    value = truth.reshape(-1)[index[:, 0]] / 0.3 + rng.normal(size=120)
    obs = Likelihood(jnp.asarray(value, "f4"), jnp.asarray(index), jnp.full((120, 1), 1 / 0.3))
    var = np.asarray(three_d_var(prior.covariance, obs, solver=TIGHT).z)[:, 0]
    local = oi(prior.covariance, obs, prior.layout.grid, radius_km=5000.0)[:, 0]

    def error(z):
        return np.sqrt(np.mean((z - truth) ** 2)) / truth.std()

    assert error(var) < 0.75
    # B's best estimate is the minimum of 3D-Var; leaving out the far ones costs little
    assert error(local) == pytest.approx(error(var), rel=0.05)
