"""Noise on the sphere, noise levels, and the sampler on problems with known answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.networks.gencast import SamplerConfig, TrainingNoise, dpm_solver_2s, gencast_basis
from xdiffda.networks.gencast.noise import on_gencast_basis, unit_noise

LAT, LON = tuple(np.linspace(-90.0, 90.0, 19).tolist()), tuple((10.0 * np.arange(36)).tolist())


def test_field_is_the_official_one(case):
    stored = case.npz("noise")
    basis = gencast_basis(LAT, LON)
    field = basis.synthesis(jnp.asarray(stored["spherical_coefficients"]))
    np.testing.assert_allclose(field.reshape(19, 36), stored["spherical_field"], rtol=0, atol=5e-6)


def test_noise_has_unit_variance_and_one_draw_for_each_key():
    basis, keys = gencast_basis(LAT, LON), jax.random.split(jax.random.key(0), 400)
    noise = np.asarray(unit_noise(basis, keys, 2))
    assert noise.shape == (684, 400, 2)
    # 2 x 400 draws: the variance at a point has a standard error of 5 %
    np.testing.assert_allclose(noise.var(axis=(1, 2)), 1, atol=0.25)
    power = np.asarray(basis.analysis(noise[:, :50])) ** 2
    per_degree = power.sum(axis=1).mean(axis=(1, 2)) / np.asarray(basis.multiplicity)
    np.testing.assert_allclose(per_degree, 1, atol=0.5)
    np.testing.assert_allclose(unit_noise(basis, keys[3:4], 2)[:, 0], noise[:, 3], atol=1e-6)


@pytest.mark.parametrize("truncation", [17, 6])
def test_covariance_is_the_same_on_the_other_basis(truncation):
    basis, rng = sphere_basis(LAT, LON, truncation), np.random.default_rng(0)
    root = rng.normal(size=(truncation + 1, 3, 3))
    covariance = SpectralCovariance.from_blocks(basis, root @ root.swapaxes(1, 2))
    other = on_gencast_basis(covariance, LAT, LON)
    x = jnp.asarray(rng.normal(size=(684, 2, 3)), jnp.float32)
    ours, theirs = np.asarray(other(x)), np.asarray(covariance(x))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
    assert other.basis.mask.shape == (18, 35)


def test_a_finer_covariance_is_refused():
    lat, lon = tuple(np.linspace(-85.0, 85.0, 18).tolist()), LON
    fine = SpectralCovariance.from_blocks(sphere_basis(lat, lon, 17), np.ones((18, 1, 1)))
    with pytest.raises(ValueError, match="to 17, GenCast's noise to 8"):
        on_gencast_basis(fine, lat, lon[::2])


def test_schedule_agrees(case):
    stored = case.facts["schedule"]
    published = SamplerConfig()
    assert published == SamplerConfig(
        **{k: float(v) if v == "inf" else v for k, v in stored["official_sampler_config"].items()}
    )
    np.testing.assert_allclose(published.ladder(), stored["noise_levels_f64"], rtol=1e-7)
    np.testing.assert_allclose(published.churn_rates(), stored["churn_rates"], rtol=1e-7)
    four = SamplerConfig(num_noise_levels=4)
    np.testing.assert_allclose(four.ladder(), stored["noise_levels_4"], rtol=1e-7)
    np.testing.assert_allclose(four.churn_rates(), stored["churn_rates_4"], rtol=1e-7)
    training = stored["training_noise"]
    levels = TrainingNoise(**training["config"]).levels(np.asarray(training["u"], float))
    np.testing.assert_allclose(levels, training["sigma"], rtol=1e-12)


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match="num_noise_levels >= 2"):
        SamplerConfig(num_noise_levels=1)
    with pytest.raises(ValueError, match="min_noise_level=90"):
        SamplerConfig(min_noise_level=90.0)


@pytest.mark.parametrize("churn", [0.0, 2.5])
def test_sampler_draws_from_a_gaussian(churn):
    """For N(mean, std^2) the best denoiser is known, and so is the law of the draws."""
    mean, std, n = 1.5, 0.3, 40_000
    config = SamplerConfig(stochastic_churn_rate=churn, noise_level_inflation_factor=1.0)
    ladder, keys = config.ladder(), jax.random.split(jax.random.key(1), 21)

    def denoise(z, sigma):
        return (std**2 * z + sigma**2 * mean) / (std**2 + sigma**2)

    z = dpm_solver_2s(
        denoise,
        ladder[0] * jax.random.normal(keys[20], (n,)),
        ladder,
        noise=lambda i: jax.random.normal(keys[i], (n,)),
        churn_rates=config.churn_rates(),
        inflation=config.noise_level_inflation_factor,
    )
    assert float(z.mean()) == pytest.approx(mean, abs=0.01)
    assert float(z.std()) == pytest.approx(std, rel=0.03)


def test_sampler_is_of_second_order():
    """Against the exact solution of the probability-flow equation for a Gaussian."""
    std, z0 = 0.5, jnp.asarray(3.0)

    def error(n: int) -> float:
        ladder = np.geomspace(4.0, 0.5, n + 1)
        ladder = np.append(ladder, 0.0)

        def denoise(z, s):
            return z * std**2 / (std**2 + s**2)

        with jax.enable_x64(True):
            z = dpm_solver_2s(
                denoise,
                jnp.asarray(z0, jnp.float64),
                jnp.asarray(ladder),
                noise=lambda i: jnp.zeros(()),
                churn_rates=np.zeros(n + 1),
            )
        exact = denoise(3.0 * np.hypot(std, 0.5) / np.hypot(std, 4.0), 0.5)
        return abs(float(z) - exact)

    assert np.log2(error(8) / error(16)) == pytest.approx(2, abs=0.25)
    assert np.log2(error(16) / error(32)) == pytest.approx(2, abs=0.15)
