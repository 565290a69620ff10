"""Damping of grid-scale noise: recovery of a known law, and what an analysis makes of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_world import LAT, LAYOUT, LON, MEAN, SCALE

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.calibration import J_O, simulation_based_calibration
from xdiffda.covariance.harmonics import ScalarBasis, sphere_basis
from xdiffda.covariance.small_scales import SmallScaleFilter, fit_filter, unresolved_part
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.unresolved_scales import UnresolvedScales
from xdiffda.observations import emulate_obs
from xdiffda.priors.prior import GaussianPrior
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state

N_LON, N_CHANNEL = len(LON), LAYOUT.n_channel
AREA = LAYOUT.grid.area_weights()
TIME = np.datetime64("2020-01-15T12", "ns")


@pytest.fixture(scope="module")
def basis() -> ScalarBasis:
    return sphere_basis(LAT, LON, 5)  # of 11 that the grid resolves


def _noise(basis: ScalarBasis, n: int, seed: int, size: float = 1.0) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), n)
    std = jnp.full((LAYOUT.grid.n_node, N_CHANNEL), size)
    return np.moveaxis(np.asarray(UnresolvedScales.of(basis, std).draw(keys)), 1, 0)


def _world(basis: ScalarBasis, noise: float, n: int = 400) -> tuple[np.ndarray, ...]:
    """Truth of climatological mean m beyond the basis and departures of variance 0.25."""
    m = 0.7 * _noise(basis, 1, 99)[0]
    truth = m + _noise(basis, n, 1, 0.5)
    return m, truth, truth + _noise(basis, n, 2, noise)


@pytest.mark.parametrize("noise", [0.25, 0.5, 2.0])
def test_damping_is_the_wiener_filter_of_white_noise(basis: ScalarBasis, noise: float) -> None:
    m, truth, background = _world(basis, noise)
    found = fit_filter(basis, truth, background, truth, AREA, n_lon=N_LON, n_class=1)
    np.testing.assert_allclose(found.mean, m, atol=0.12)  # 0.5 / sqrt(400) = 0.025 each
    assert found.variance == pytest.approx(0.25, rel=0.1)
    assert found.damping.mean() == pytest.approx(0.25 / (0.25 + noise**2), abs=0.03)
    error = background + found.change(basis, background, AREA) - truth
    assert np.mean(error**2) == pytest.approx(1 / (1 / 0.25 + 1 / noise**2), rel=0.1)


def test_rough_backgrounds_are_damped_more_than_smooth_ones(basis: ScalarBasis) -> None:
    _, truth, calm = _world(basis, 0.1)
    _, _, wild = _world(basis, 2.0)
    both, twice = np.concatenate([calm, wild]), np.concatenate([truth, truth])
    found = fit_filter(basis, truth, both, twice, AREA, n_lon=N_LON, n_class=2)
    assert found.roughness == pytest.approx([1.04, 17.0], rel=0.15)
    assert found.damping.mean((1, 2)) == pytest.approx([0.25 / 0.26, 0.25 / 4.25], abs=0.03)


def test_nothing_within_the_basis_changes(basis: ScalarBasis) -> None:
    _, truth, background = _world(basis, 1.0, 20)
    found = fit_filter(basis, truth, background, truth, AREA, n_lon=N_LON, n_class=1)
    smooth = np.random.default_rng(0).normal(size=background.shape).astype(np.float32)
    change = found.change(basis, background + smooth - unresolved_part(basis, smooth), AREA)
    assert np.abs(change).max() > 0.3
    np.testing.assert_allclose(unresolved_part(basis, change), change, atol=2e-5)
    np.testing.assert_allclose(change, found.change(basis, background, AREA), atol=2e-4)


def test_filter_rolls_with_the_background(basis: ScalarBasis) -> None:
    m, truth, background = _world(basis, 1.0, 40)
    found = fit_filter(basis, truth, background, truth, AREA, n_lon=N_LON, n_class=2)
    found = found._replace(mean=np.zeros_like(m))

    def roll(x):
        return np.roll(x.reshape(len(x), len(LAT), N_LON, -1), 5, axis=2).reshape(x.shape)

    rolled = found.change(basis, roll(background), AREA)
    np.testing.assert_allclose(rolled, roll(found.change(basis, background, AREA)), atol=2e-5)


@pytest.fixture(scope="module")
def prior(basis: ScalarBasis) -> GaussianPrior:
    degree = np.arange(basis.mask.shape[0])
    blocks = (1 / (1 + degree))[:, None, None] * np.eye(N_CHANNEL)
    scale = np.tile([SCALE[c] for c in LAYOUT.channel_names], (LAYOUT.grid.n_node, 1))
    made = GaussianPrior(
        LAYOUT,
        scale,
        SpectralCovariance.from_blocks(basis, blocks),
        unresolved=np.full(scale.shape, 0.2, np.float32),
        name="coarse",
    )
    damping = np.full((1, *scale.shape), 0.25, np.float32)
    mean = _noise(basis, 1, 5, 0.3)[0]
    made.small_scale_filter = SmallScaleFilter(mean, 0.25, np.ones(1), damping)
    return made


def _states(prior: GaussianPrior, basis: ScalarBasis) -> tuple:
    base = np.tile([MEAN[c] for c in LAYOUT.channel_names], (LAYOUT.grid.n_node, 1))
    error = np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(3), 1)))[:, 0]

    def label(x):
        return from_state(x.astype(np.float32), LAYOUT, default_convention(LAYOUT)).assign_coords(
            time=TIME
        )

    truth = base + prior.scale * (error + prior.small_scale_filter.mean)
    return label(truth), base + prior.scale * _noise(basis, 1, 6)[0], label


@pytest.mark.parametrize("method", ["3dvar", "oi", "guided"])
def test_analysis_equals_that_of_the_filtered_background(
    prior: GaussianPrior, basis: ScalarBasis, method: str
) -> None:
    truth, background, label = _states(prior, basis)
    obs = emulate_obs(truth, n_columns=30, error_std=prior.typical_error(0.2), seed=1)
    ask = {"method": method, "n_members": 2, "background_error": 1.0, "progress": False}
    plain = GaussianPrior(LAYOUT, prior.scale, prior.covariance, unresolved=prior.unresolved)
    filtered = prior.filtered(background[None].astype(np.float32))[0]
    own = assimilate(label(background), obs, model=prior, **ask)
    other = assimilate(label(filtered), obs, model=plain, **ask)
    for name in truth:
        size = SCALE[next(c for c in SCALE if c.split("@")[0] == name)]
        np.testing.assert_allclose(own[name], other[name], atol=3e-3 * size)
    raw = assimilate(label(background), obs, model=plain, **ask)

    def error(a):
        return float(((a.mean("member") - truth)["temperature"] ** 2).mean())

    assert error(own) < 0.7 * error(raw)  # noise of 1 is damped to a quarter of its amplitude


def test_the_network_reads_the_background_as_it_came(
    prior: GaussianPrior, basis: ScalarBasis, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, background, label = _states(prior, basis)
    obs = emulate_obs(truth, n_columns=5, error_std=prior.typical_error(0.2), seed=1)
    seen, condition = [], prior.condition
    monkeypatch.setattr(prior, "condition", lambda x, *rest: seen.append(x) or condition(x, *rest))
    assimilate(
        label(background),
        obs,
        model=prior,
        n_members=2,
        method=xdiffda.Guided(n_steps=3),
        progress=False,
    )
    np.testing.assert_allclose(seen[0], background, rtol=1e-6)


def test_without_a_filter_states_stay_as_they_are(prior: GaussianPrior) -> None:
    plain = GaussianPrior(LAYOUT, prior.scale, prior.covariance)
    x = np.random.default_rng(0).normal(size=(2, *prior.scale.shape)).astype(np.float32)
    np.testing.assert_array_equal(plain.filtered(x), x)
    np.testing.assert_array_equal(plain.noise_correction(x), 0)


@pytest.mark.long
def test_calibration_draws_truths_around_the_filtered_background(
    prior: GaussianPrior, basis: ScalarBasis
) -> None:
    _, background, label = _states(prior, basis)
    found = simulation_based_calibration(
        prior,
        label(background),
        n_draws=24,
        n_members=3,
        n_columns=30,
        settings={"method": xdiffda.Guided(n_steps=8), "background_error": 1.0},
        progress=False,
    )
    misfit = found["rank"].sel(function=J_O).values
    # around the background as it came every member would fit worse than the truth
    assert np.mean(misfit == 1) < 0.6  # the lowest of four ranks: 0.25 expected
