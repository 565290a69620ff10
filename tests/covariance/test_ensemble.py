"""Covariances of background ensembles: algebra, and what they are worth on a known world."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.assimilation.baselines.three_d_var import square_root, three_d_var
from xdiffda.assimilation.methods.around_members import move_members
from xdiffda.covariance.draws import Draws, make_draws
from xdiffda.covariance.ensemble import (
    FlowDependent,
    HybridCovariance,
    centre,
    spread_scale,
    variance_ratio,
)
from xdiffda.covariance.harmonics import Basis, sphere_basis
from xdiffda.covariance.localisation import (
    EnsembleCovariance,
    Localisation,
    gaspari_cohn,
    localisation_spectrum,
    vertical_root,
)
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.perturbed import gaussian_posterior
from xdiffda.diffusion.posterior import Guidance, sample_posterior
from xdiffda.errors import InputError
from xdiffda.state.grid import Grid, Layout

GRID = Grid(tuple(np.linspace(-78.75, 78.75, 8).tolist()), tuple((np.arange(16) * 22.5).tolist()))
LAYOUT = Layout(GRID, ("2m_temperature", "temperature"), (300,))
N_NODE, N_CHANNEL = GRID.n_node, LAYOUT.n_channel
SIZE = N_NODE * N_CHANNEL
NEAR = Localisation(length_km=2500.0, length_log_p=0.5)
N = 12


@pytest.fixture(scope="module")
def basis() -> Basis:
    return sphere_basis(GRID.lat, GRID.lon)


def _climate(basis: Basis, scale: float, last: int = 99) -> SpectralCovariance:
    """Unit variance, correlated channels, a spectrum that falls from degree ``scale`` on."""
    degree, count = np.arange(basis.mask.shape[0]), np.asarray(basis.multiplicity)
    spectrum = np.where(degree <= last, 1 / (1 + (degree / scale) ** 3), 0.0)
    spectrum /= (spectrum * count).sum() / count.sum()
    return SpectralCovariance.from_blocks(
        basis, spectrum[:, None, None] * np.array([[1.0, 0.6], [0.6, 1.0]])
    )


@pytest.fixture(scope="module")
def static(basis: Basis) -> SpectralCovariance:
    return _climate(basis, 2.0)


def _near_the_storm() -> np.ndarray:
    """Cosine of the distance from the centre of the weather of the day."""
    lat, lon = np.deg2rad(GRID.node_lat), np.deg2rad(GRID.node_lon)
    return np.sin(lat) * np.sin(0.7) + np.cos(lat) * np.cos(0.7) * np.cos(lon - 2.0)


@pytest.fixture(scope="module")
def day() -> np.ndarray:
    """Standard deviation of the day over that of the climate: a storm in a quiet world."""
    factor = 0.4 + 2.0 * np.exp((_near_the_storm() - 1) / 0.15)
    return np.repeat(factor[:, None], N_CHANNEL, axis=1)


@pytest.fixture(scope="module")
def perturbations(static: SpectralCovariance, day: np.ndarray) -> np.ndarray:
    return _draw(static, day, jax.random.key(1), N)


def _draw(static: SpectralCovariance, day: np.ndarray, key: jax.Array, n: int) -> np.ndarray:
    """Perturbations of an ensemble whose covariance is D B D, with D the day's factors."""
    z = np.asarray(static.sample(jax.random.split(key, n))) * day[:, None]
    return centre(np.moveaxis(z, 1, 0), np.ones((N_NODE, N_CHANNEL)))[1]


@pytest.fixture(scope="module")
def ensemble(perturbations: np.ndarray, basis: Basis) -> EnsembleCovariance:
    return EnsembleCovariance.localised(perturbations, basis, LAYOUT, localisation=NEAR)


@eqx.filter_jit
def _apply(covariance: eqx.Module, x: jax.Array) -> jax.Array:
    return covariance(x)


def _matrix(covariance: eqx.Module) -> np.ndarray:
    """Dense form over (node, channel)."""
    unit = np.eye(SIZE, dtype=np.float32).reshape(SIZE, N_NODE, N_CHANNEL)
    columns = np.asarray(_apply(covariance, jnp.moveaxis(jnp.asarray(unit), 0, 1)), np.float64)
    return columns.transpose(0, 2, 1).reshape(SIZE, SIZE)


def _dense_localised(perturbations: np.ndarray, basis: Basis) -> np.ndarray:
    """Sample covariance times the localisation, element by element."""
    x = perturbations.astype(float).transpose(0, 2, 1).reshape(SIZE, -1)
    spectrum = localisation_spectrum(basis, NEAR.length_km)
    one = SpectralCovariance.from_blocks(basis, spectrum[:, None, None])
    unit = jnp.eye(N_NODE)[:, :, None]
    horizontal = np.asarray(one(unit), float)[:, :, 0]
    root = vertical_root(LAYOUT, NEAR.length_log_p)
    taper = np.einsum("nm,ce->ncme", horizontal, root @ root.T).reshape(SIZE, SIZE)
    return (x @ x.T) * taper


def test_application_is_the_schur_product_with_the_localisation(
    ensemble: EnsembleCovariance, perturbations: np.ndarray, basis: Basis
) -> None:
    expected = _dense_localised(perturbations, basis)
    found = _matrix(ensemble)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(
        np.diag(found).reshape(N_NODE, -1), ensemble.variance, rtol=1e-3, atol=1e-5
    )
    values = np.linalg.eigvalsh(found / 2 + found.T / 2)
    assert values.min() > -1e-4 * values.max()


def test_localisation_on_the_sphere_is_gaspari_and_cohns(basis: Basis) -> None:
    """Where the grid resolves it: correlations by distance, 1 at zero distance."""
    fine = sphere_basis(tuple(np.linspace(-87.5, 87.5, 36)), tuple(np.arange(72) * 5.0))
    spectrum = localisation_spectrum(fine, 1500.0)
    assert (spectrum >= 0).all()
    count = np.asarray(fine.multiplicity)
    chord = np.linspace(0, 2, 50)
    series = np.polynomial.legendre.legval(1 - chord**2 / 2, spectrum * count / count.sum())
    np.testing.assert_allclose(series, gaspari_cohn(6371.0 * chord, 1500.0), atol=5e-3)
    assert series[0] == pytest.approx(1.0, abs=1e-9)
    everywhere = localisation_spectrum(basis, np.inf)
    assert everywhere[0] == np.asarray(basis.multiplicity).sum() and not everywhere[1:].any()


def test_without_localisation_it_is_the_sample_covariance(
    perturbations: np.ndarray, basis: Basis
) -> None:
    wide = Localisation(length_km=np.inf, length_log_p=np.inf)
    v = EnsembleCovariance.localised(perturbations, basis, LAYOUT, localisation=wide)
    x = perturbations.astype(float).transpose(0, 2, 1).reshape(SIZE, -1)
    expected = x @ x.T
    np.testing.assert_allclose(_matrix(v), expected, atol=1e-4 * expected.max())


def test_centre_gives_unbiased_covariance_in_units_of_z() -> None:
    rng = np.random.default_rng(2)
    members = rng.normal(size=(7, 5, 2)) * 3 + 280
    scale = rng.uniform(1, 2, (5, 2))
    mean, x = centre(members, scale, r=0.5)
    np.testing.assert_allclose(mean, members.mean(0), rtol=1e-6)
    np.testing.assert_allclose(
        (x**2).sum(1), members.var(0, ddof=1) / (0.5 * scale) ** 2, rtol=1e-5
    )
    with pytest.raises(InputError, match="2 or more members"):
        centre(members[:1], scale)


def test_spread_gives_back_a_known_scale(static: SpectralCovariance) -> None:
    """An ensemble drawn from 0.7^2 B."""
    x = _draw(static, np.full((N_NODE, N_CHANNEL), 0.7), jax.random.key(3), 200)
    assert spread_scale(x, static.variance, GRID.area_weights()) == pytest.approx(0.7, abs=0.03)


@pytest.fixture(scope="module")
def hybrid(static: SpectralCovariance, ensemble: EnsembleCovariance) -> HybridCovariance:
    return HybridCovariance(static, ensemble, jnp.array(0.4))


@pytest.mark.long
def test_alpha_of_one_is_b_and_of_zero_the_ensemble(
    static: SpectralCovariance, ensemble: EnsembleCovariance, hybrid: HybridCovariance
) -> None:
    x = np.random.default_rng(4).normal(size=(N_NODE, 3, N_CHANNEL)).astype("f4")
    b, v = _apply(static, x), _apply(ensemble, x)
    for alpha in (0.0, 0.4, 1.0):
        found = _apply(HybridCovariance(static, ensemble, jnp.array(alpha)), x)
        np.testing.assert_allclose(found, alpha * b + (1 - alpha) * v, atol=1e-4)
    obs = _observations(np.arange(0, SIZE, 25), 0.5)
    one = three_d_var(HybridCovariance(static, ensemble, jnp.array(1.0)), obs)
    np.testing.assert_allclose(one.z, three_d_var(static, obs).z, atol=2e-3)
    variance = np.diag(_matrix(hybrid)).reshape(N_NODE, -1)
    np.testing.assert_allclose(hybrid.variance, variance, rtol=1e-3)


def test_symmetric_and_positive(hybrid: HybridCovariance) -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, N_NODE, 1, N_CHANNEL)).astype("f4")
    of_x, of_y = _apply(hybrid, x), _apply(hybrid, y)
    assert float(jnp.vdot(x, of_y)) == pytest.approx(float(jnp.vdot(of_x, y)), rel=1e-4)
    assert float(jnp.vdot(x, of_x)) > 0


def test_root_times_its_transpose_is_the_covariance(hybrid: HybridCovariance) -> None:
    x = jnp.asarray(np.random.default_rng(7).normal(size=(N_NODE, N_CHANNEL)), jnp.float32)

    @eqx.filter_jit
    def there_and_back(hybrid: HybridCovariance) -> jax.Array:
        root = square_root(hybrid)
        _, transpose = jax.vjp(root, root.control())
        return root(*transpose(x))

    np.testing.assert_allclose(there_and_back(hybrid), _apply(hybrid, x), atol=2e-3)


def test_draws_have_the_covariance(hybrid: HybridCovariance) -> None:
    n = 500
    keys = jax.random.split(jax.random.key(8), n)
    draws = eqx.filter_jit(lambda h, k: h.sample(k))(hybrid, keys)
    flat = np.asarray(draws, float).transpose(1, 0, 2).reshape(n, -1)
    expected = _matrix(hybrid)
    deviation = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) + expected**2)
    assert (np.abs(flat.T @ flat / n - expected) / deviation).max() < 6 / np.sqrt(n)
    few = jax.jit(lambda k: hybrid.sample(k))(keys[5:7])
    np.testing.assert_allclose(few[:, 1], draws[:, 6], atol=1e-4)


def test_members_keep_their_own_perturbations(ensemble: EnsembleCovariance) -> None:
    """All together they have the raw sample covariance, and mean zero."""
    own = np.asarray(ensemble.members(jnp.arange(2 * N)), float)
    np.testing.assert_allclose(own[:, N:], own[:, :N])
    np.testing.assert_allclose(own.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(own[:, :N].var(1, ddof=1), ensemble.variance, rtol=1e-4, atol=1e-5)


def test_posterior_draws_take_the_hybrid_as_it_is(
    hybrid: HybridCovariance,
) -> None:
    """`gaussian_posterior` with a hybrid: the mean of many members is the Kalman analysis."""
    obs, n = _observations(np.arange(0, SIZE, 11), 0.4), 200
    keys = jax.random.split(jax.random.key(10), n // 2)[jnp.arange(n) // 2]
    draws = Draws(keys, jnp.where(jnp.arange(n) % 2 == 1, -1.0, 1.0))
    mean = jnp.zeros((N_NODE, 1, N_CHANNEL))
    solver = Solver(tolerance=1e-4, max_iterations=200)
    run = eqx.filter_jit(lambda h: gaussian_posterior(mean, h, obs, draws, solver=solver))
    found = np.asarray(run(hybrid), float)
    p, h = _matrix(hybrid), _operator(obs)
    gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + np.eye(len(h)))
    expected = (gain @ np.asarray(obs.value)).reshape(N_NODE, N_CHANNEL)
    np.testing.assert_allclose(found.mean(1), expected, atol=2e-3)  # antithetic: exact
    spread = found[:, ::2].var(1)
    exact = np.diag(p - gain @ h @ p).reshape(N_NODE, -1)
    np.testing.assert_allclose(spread, exact, rtol=6 * np.sqrt(2 / (n // 2)), atol=1e-3)


@pytest.mark.long
def test_members_around_members_have_the_exact_mean_and_covariance(
    static: SpectralCovariance, perturbations: np.ndarray, basis: Basis
) -> None:
    """Not the sum of both covariances, nor less: the Kalman posterior of the hybrid."""
    wide = Localisation(length_km=np.inf, length_log_p=np.inf)
    day = EnsembleCovariance.localised(perturbations, basis, LAYOUT, localisation=wide)
    hybrid, root = HybridCovariance(static, day, jnp.array(0.4)), 0.4**0.5
    obs, n = _observations(np.arange(0, SIZE, 11), 0.4), 20 * N
    numbers = jnp.arange(n)
    draws = make_draws(jax.random.key(31), numbers, antithetic=True)
    moved = move_members(hybrid, obs, draws, numbers, Solver(1e-4, 200))
    assert float(moved.residual.max()) < 1e-3

    def wiener(z, sigma):
        return static.wiener(z, sigma)

    prior = Conditioned(jax.tree_util.Partial(wiener), static, shift=moved.z / root)
    z = sample_posterior(prior, obs.rescaled(root), draws, guidance=Guidance(n_steps=8))
    found = root * np.asarray(z, float)

    p, h = _matrix(hybrid), _operator(obs)
    gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + np.eye(len(h)))
    expected = (gain @ np.asarray(obs.value)).reshape(N_NODE, N_CHANNEL)
    error = np.sqrt(np.mean((found.mean(1) - expected) ** 2))
    assert error < 0.03 * np.sqrt(np.mean(expected**2))
    exact = np.diag(p - gain @ h @ p).reshape(N_NODE, -1)
    # one degree of freedom of each N background members is fixed by their mean
    assert found.var(1).mean() / exact.mean() == pytest.approx(1.0, abs=0.06)
    # members keep what they are where nothing is observed
    far = np.setdiff1d(np.arange(N_NODE), np.asarray(obs.index)[:, 0] // N_CHANNEL)
    own = np.asarray(day.members(numbers), float)[far]
    deviation = found[far] - found.mean(1, keepdims=True)[far]
    assert np.corrcoef(own.ravel(), deviation.ravel())[0, 1] > 0.25


def _observations(elements: np.ndarray, error: float) -> Likelihood:
    value = np.random.default_rng(11).normal(size=len(elements)) / error
    weight = np.full((len(elements), 1), 1 / error)
    return Likelihood(
        jnp.asarray(value, "f4"), jnp.asarray(elements[:, None]), jnp.asarray(weight, "f4")
    )


def _operator(obs: Likelihood) -> np.ndarray:
    h = np.zeros((len(obs.index), SIZE))
    h[np.arange(len(h)), np.asarray(obs.index)[:, 0]] = np.asarray(obs.weight)[:, 0]
    return h


def _expected_error(p: np.ndarray, truth: np.ndarray, h: np.ndarray) -> float:
    """Mean square error of the analysis with P where the true covariance is another; exact."""
    gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + np.eye(len(h)))
    left = np.eye(SIZE) - gain @ h
    return float(np.trace(left @ truth @ left.T + gain @ gain.T) / SIZE)


def _of_the_day(static: SpectralCovariance, factor: np.ndarray) -> np.ndarray:
    """The true flow-dependent covariance, D B D."""
    d = factor.reshape(-1)
    return d[:, None] * _matrix(static) * d


def test_the_hybrid_beats_climatology_where_errors_depend_on_the_flow(
    static: SpectralCovariance, basis: Basis, day: np.ndarray
) -> None:
    """Exact expected errors, 60 observations, 20 members; correlations reach 4,000 km."""
    truth = _of_the_day(static, day)
    h = _operator(_observations(np.random.default_rng(12).choice(SIZE, 60, replace=False), 0.5))
    # the climate has the right variance on the global average: nothing but the day is missing
    b = _matrix(static) * np.trace(truth) / SIZE
    best, climate = _expected_error(truth, truth, h), _expected_error(b, truth, h)
    far, gains = Localisation(length_km=4000.0, length_log_p=np.inf), []
    for seed in range(3):
        x = _draw(static, day, jax.random.key(20 + seed), 20)
        v = EnsembleCovariance.localised(x, basis, LAYOUT, localisation=far)
        error = _expected_error(0.5 * b + 0.5 * _matrix(v), truth, h)
        assert best < error < climate
        gains.append((climate - error) / (climate - best))
    assert np.mean(gains) > 0.3  # of what knowing the day exactly would give


def test_flow_dependent_variance_is_found(basis: Basis) -> None:
    """From 20 members: smoothed it is nearer to the true ratio than raw, and than 1."""
    climate, area = _climate(basis, 4.0), GRID.area_weights()
    day = np.repeat(0.4 + 2 * np.exp((_near_the_storm()[:, None] - 1) / 0.4), N_CHANNEL, axis=1)

    def error(s):
        return np.sqrt(np.mean((s - day**2) ** 2))

    smooth, raw = [], []
    for seed in range(3):
        x = _draw(climate, day, jax.random.key(30 + seed), 20)
        raw.append(error((x**2).sum(1) / np.asarray(climate.variance)))
        s = variance_ratio(x, climate.variance, basis, alpha=0.0, smoothing_km=1500.0)
        smooth.append(error(s))
    assert np.mean(smooth) < 0.9 * np.mean(raw)
    assert np.mean(smooth) < 0.5 * error(np.ones_like(day))
    half = variance_ratio(x, climate.variance, basis, alpha=0.5, area=area)
    np.testing.assert_allclose(np.average(half, axis=0, weights=area), 1.0, atol=1e-2)
    assert half.min() >= 0.5
    one = variance_ratio(x, climate.variance, basis, alpha=1.0)
    np.testing.assert_array_equal(one, np.ones_like(one))
    with pytest.raises(InputError, match="0 to 1"):
        variance_ratio(x, climate.variance, basis, alpha=2.0)


@pytest.mark.long
def test_rescaled_v_is_nearer_to_the_true_one(basis: Basis) -> None:
    """True V: (P^-1 + N^-1)^-1, N = sigma^2 Y Y^T; the day within the span of the basis."""
    climate = _climate(basis, 2.0, last=4)
    day = np.repeat(0.3 + 0.175 * (1 + _near_the_storm()[:, None]) ** 3, N_CHANNEL, axis=1)
    truth = _of_the_day(climate, day)
    white = SpectralCovariance.from_blocks(basis, np.tile(np.eye(N_CHANNEL), (8, 1, 1)))
    unit = _matrix(white)
    flow = FlowDependent(climate.posterior, jnp.asarray(day**2, jnp.float32), climate.variance)
    for sigma, gain in ((0.1, 1.0), (0.5, 0.6), (2.0, 0.3), (20.0, 0.03)):
        total = truth + sigma**2 * unit
        exact = truth - truth @ np.linalg.pinv(total, rcond=1e-6, hermitian=True) @ truth
        size = np.linalg.norm(exact)
        found = np.linalg.norm(_matrix(flow(sigma)) - exact) / size
        without = np.linalg.norm(_matrix(climate.posterior(sigma)) - exact) / size
        assert found < gain * without


@pytest.mark.long
def test_rescaled_v_keeps_its_limits(static: SpectralCovariance, day: np.ndarray) -> None:
    """Symmetric and positive; V where S is 1, and at small sigma; S^1/2 B S^1/2 at large."""
    ratio = jnp.asarray(day**2, jnp.float32)
    flow = FlowDependent(static.posterior, ratio, static.variance)
    x, y = np.random.default_rng(13).normal(size=(2, N_NODE, 1, N_CHANNEL)).astype("f4")
    v = jax.jit(lambda s: flow(s))(1.0)
    assert float(jnp.vdot(x, v(y))) == pytest.approx(float(jnp.vdot(v(x), y)), rel=1e-4)
    assert float(jnp.vdot(x, v(x))) > 0
    same = FlowDependent(static.posterior, jnp.ones_like(ratio), static.variance)(0.7)(x)
    np.testing.assert_allclose(same, static.posterior(0.7)(x), atol=1e-4)
    small = flow(0.01)(x)
    np.testing.assert_allclose(small, static.posterior(0.01)(x), rtol=0.02, atol=1e-6)
    root = day[:, None].astype("f4")
    np.testing.assert_allclose(flow(1e3)(x), root * static(root * x), rtol=1e-2, atol=1e-2)
    keys = jax.random.split(jax.random.key(14), 3000)
    draws = np.asarray(flow(1.0).decompose().sample(keys), float)
    variance = np.diag(_matrix(v)).reshape(N_NODE, -1)
    np.testing.assert_allclose(draws.var(1), variance, rtol=6 * np.sqrt(2 / 3000))
