"""Noise levels against published and golden values.

Golden numbers: project's shared golden data, gencast_a/noise_schedule.json, made by the
official GenCast code (package weathernext 0.3.1.dev, commit 9c034db) with its published
sampler configuration: 80 to 0.03, rho 7, 20 levels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.diffusion.noise import LogNormalNoise, karras_ladder, noise_features
from xdiffda.networks.preconditioning import Karras

LADDER = [
    79.99999999999993,
    62.08126888223674,
    47.71898357978017,
    36.30432146619798,
    27.31486677541532,
    20.30506622270773,
    14.897415043686236,
    10.774344359609358,
    7.67078077735867,
    5.367349132413527,
    3.6841892831615692,
    2.475357864880574,
    1.6237859117279687,
    1.036763255073883,
    0.6419206065139669,
    0.3836802338978949,
    0.22014613870964866,
    0.12040464313563708,
    0.06220629515669338,
    0.030000000000000016,
    0.0,
]
LADDER_4 = [79.99999999999993, 13.394429226849015, 1.2078879995239102, 0.030000000000000016, 0.0]
SIGMA = np.array([0.02, 0.1, 1.0, 5.0, 80.0])
C_IN = [
    0.999800059980007,
    0.9950371902099892,
    0.7071067811865476,
    0.19611613513818402,
    0.012499023551926019,
]
C_OUT = [
    0.01999600119960014,
    0.09950371902099892,
    0.7071067811865476,
    0.9805806756909201,
    0.9999218841540815,
]
C_SKIP = [0.9996001599360256, 0.9900990099009901, 0.5, 0.038461538461538464, 0.0001562255897516013]
WEIGHT = [2500.9999999999995, 101.0, 1.9999999999999998, 1.04, 1.00015625]


@pytest.mark.parametrize("golden", [LADDER, LADDER_4])
def test_ladder_is_that_of_gencast(golden: list[float]) -> None:
    found = karras_ladder(len(golden) - 1, sigma_max=80.0, sigma_min=0.03)
    np.testing.assert_allclose(found, golden, rtol=3e-5)


def test_ladder_falls_and_ends_at_its_ends() -> None:
    levels = np.asarray(karras_ladder(7, sigma_max=5.0, sigma_min=0.2))
    assert levels.shape == (8,)
    assert (np.diff(levels) < 0).all()
    assert levels[0] == 5.0 and levels[-1] == 0.0
    assert levels[-2] == pytest.approx(0.2, rel=1e-5)
    assert karras_ladder(1, sigma_max=2.0, sigma_min=0.03).tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    "wrong",
    [(0, 1.0, 0.1), (3, 0.1, 1.0), (3, 1.0, 0.0), (3, 1.0, -1.0)],
)
def test_impossible_ladders_are_refused(wrong: tuple[int, float, float]) -> None:
    n, high, low = wrong
    with pytest.raises(ValueError, match=f"n_steps={n}, sigma_min={low}, sigma_max={high}"):
        karras_ladder(n, sigma_max=high, sigma_min=low)


def test_preconditioning_is_that_of_gencast() -> None:
    karras = Karras()
    sigma = jnp.asarray(SIGMA, jnp.float32)
    for found, golden in (
        (karras.c_in(sigma), C_IN),
        (karras.c_out(sigma), C_OUT),
        (karras.c_skip(sigma), C_SKIP),
        (karras.loss_weight(sigma), WEIGHT),
    ):
        np.testing.assert_allclose(found, golden, rtol=2e-5)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 3.0])
def test_preconditioning_gives_unit_variances(sigma_data: float) -> None:
    """Karras et al., appendix B.6: input of unit variance, target of unit variance."""
    karras, sigma = Karras(sigma_data), jnp.asarray([0.1, 1.0, 10.0])
    noisy = sigma_data**2 + sigma**2
    np.testing.assert_allclose(karras.c_in(sigma) ** 2 * noisy, 1.0, rtol=1e-5)
    target = (1 - karras.c_skip(sigma)) ** 2 * sigma_data**2 + karras.c_skip(sigma) ** 2 * sigma**2
    np.testing.assert_allclose(target / karras.c_out(sigma) ** 2, 1.0, rtol=1e-4)
    np.testing.assert_allclose(karras.loss_weight(sigma) * karras.c_out(sigma) ** 2, 1.0, rtol=1e-5)


def test_features_are_cosines_then_sines_of_multiples() -> None:
    sigma = jnp.asarray([0.02, 1.0, 80.0])
    found = noise_features(sigma, 16)
    phase = np.log([0.02, 1.0, 80.0])[:, None] * 2 * np.pi * np.arange(1, 17) / 16
    np.testing.assert_allclose(found, np.hstack([np.cos(phase), np.sin(phase)]), atol=2e-5)
    np.testing.assert_allclose(found[1], np.r_[np.ones(16), np.zeros(16)], atol=1e-6)


def test_features_have_the_base_period_sixteen() -> None:
    sigma = jnp.asarray([0.3])
    np.testing.assert_allclose(
        noise_features(sigma * np.exp(16.0)), noise_features(sigma), atol=2e-4
    )


def test_training_law_has_its_moments() -> None:
    n = 200_000
    law = LogNormalNoise(uniform_share=0.0, sigma_min=1e-6, sigma_max=1e6)
    logs = np.log(np.asarray(law(jax.random.key(0), (n,)), np.float64))
    assert logs.mean() == pytest.approx(-0.2, abs=5 * 1.3 / np.sqrt(n))
    assert logs.std() == pytest.approx(1.3, rel=0.01)
    flat = LogNormalNoise(uniform_share=1.0, sigma_min=0.02, sigma_max=80.0)
    logs = np.log(np.asarray(flat(jax.random.key(1), (n,)), np.float64))
    low, high = np.log(0.02), np.log(80.0)
    assert logs.mean() == pytest.approx((low + high) / 2, abs=0.03)
    assert logs.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.01)


def test_training_law_mixes_and_stays_inside() -> None:
    law = LogNormalNoise()
    draws = np.asarray(law(jax.random.key(2), (100_000,)))
    assert draws.min() >= 0.02 * (1 - 1e-5) and draws.max() <= 80.0 * (1 + 1e-5)
    # above 20 (2.5 sigma of the normal) nearly all draws are the uniform third's
    expected = (np.log(80 / 20) / np.log(80 / 0.02)) / 3
    assert np.mean(draws > 20) == pytest.approx(expected, abs=0.01)
