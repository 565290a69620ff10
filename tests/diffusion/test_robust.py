"""Robust likelihoods: published weights, and analyses that gross errors do not harm."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_world import LAYOUT, make_prior

from xdiffda.covariance.draws import make_draws
from xdiffda.covariance.harmonics import circle_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.kalman import Solver, update
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.posterior import Guidance, sample_posterior
from xdiffda.observations.robust import Robust, as_robust
from xdiffda.priors.prior import Wiener

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


def test_weights_are_those_of_the_papers():
    t = jnp.array([0.0, 1.0, 3.0, 8.0])
    np.testing.assert_allclose(Robust("huber", threshold=1.5).weight(t), [1, 1, 0.5, 1.5 / 8])
    varqc = Robust(gross_probability=0.05, gross_range=5.0)
    gauss = 0.95 * np.exp(-0.5 * np.asarray(t) ** 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(varqc.weight(t), gauss / (gauss + 0.05 / 10.0), rtol=1e-5)
    assert as_robust(None) is as_robust("none") is None
    assert as_robust(varqc) is varqc


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"kind": "median"}, "not one of none, huber, varqc"),
        ({"gross_probability": 1.0}, "between"),
        ({"threshold": 0.0}, "threshold=0.0 is not positive"),
        ({"gross_range": -1.0}, "gross_range"),
        ({"iterations": 1}, "too few"),
    ],
)
def test_settings_of_robust_weights_are_checked(given, match):
    with pytest.raises(ValueError, match=match):
        Robust(**given)


@pytest.fixture(scope="module")
def world():
    """120 sites of the Gaussian world, all channels, 5 % of the values off by 8 to 20 errors."""
    prior = make_prior()
    rng = np.random.default_rng(7)
    truth = np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(3), 1)))[:, 0]
    n_channel, error = LAYOUT.n_channel, 0.3
    sites = rng.choice(LAYOUT.grid.n_node, 120, replace=False)
    index = (sites[:, None] * n_channel + np.arange(n_channel)).reshape(-1, 1)
    clean = truth.reshape(-1)[index[:, 0]] / error + rng.normal(size=index.size)
    wrong = rng.random(index.size) < 0.05
    gross = rng.choice([-1, 1], index.size) * rng.uniform(8, 20, index.size)

    def make(value):
        return Likelihood(
            jnp.asarray(value, jnp.float32),
            jnp.asarray(index),
            jnp.full((index.size, 1), 1 / error),
        )

    return prior.covariance, truth, make(clean), make(clean + wrong * gross), wrong


def _analysis(covariance, likelihood, robust=None) -> np.ndarray:
    zero = jnp.zeros((LAYOUT.grid.n_node, 1, LAYOUT.n_channel))
    likelihood = dataclasses.replace(likelihood, robust=as_robust(robust))
    return np.asarray(update(likelihood, covariance, zero, solver=Solver())[0])[:, 0]


def _sampled(covariance, likelihood, robust, start="warm") -> np.ndarray:
    likelihood = dataclasses.replace(likelihood, robust=as_robust(robust))
    guidance = Guidance(start=start, n_steps=8 if start == "warm" else 16)
    draws = make_draws(jax.random.key(0), jnp.arange(4), antithetic=True)
    prior = Conditioned(Wiener(covariance), covariance)
    return np.asarray(sample_posterior(prior, likelihood, draws, guidance=guidance))


def _rmse(a, b) -> float:
    return float(np.sqrt(np.mean(LAYOUT.grid.area_weights()[:, None] * (a - b) ** 2)))


@pytest.mark.parametrize(("robust", "harm"), [("varqc", 0.03), ("huber", 0.3)])
def test_gross_errors_do_little_harm(world, robust, harm):
    """VarQC ends where the gross errors are left out; Huber bounds the pull of each."""
    covariance, truth, clean, contaminated, wrong = world
    kept = ~wrong
    without = dataclasses.replace(
        clean, weight=clean.weight * kept[:, None], value=clean.value * kept
    )
    best = _rmse(_analysis(covariance, without), truth)
    harmed = _rmse(_analysis(covariance, contaminated), truth)
    robustly = _rmse(_analysis(covariance, contaminated, robust), truth)
    assert harmed > 1.5 * best  # or there would be nothing to show
    assert robustly - best < harm * (harmed - best)


@pytest.mark.parametrize("robust", ["varqc", "huber"])
def test_without_gross_errors_nothing_is_lost(world, robust):
    covariance, truth, clean, _, _ = world
    plain, robustly = (_rmse(_analysis(covariance, clean, r), truth) for r in (None, robust))
    assert robustly < 1.02 * plain


@pytest.fixture(scope="module", params=["warm", "cold"])
def unweighted(request, world):
    """A start, and members with plain Gaussian errors: of good values, and of the bad ones too."""
    covariance, _, clean, contaminated, _ = world
    start = request.param
    return start, *(_sampled(covariance, obs, None, start) for obs in (clean, contaminated))


@pytest.mark.long
@pytest.mark.parametrize(("robust", "harm", "wider"), [("varqc", 0.05, 0.1), ("huber", 0.35, 0.2)])
def test_gross_errors_do_little_harm_at_every_noise_level(world, unweighted, robust, harm, wider):
    """VarQC leaves the members as they were without gross errors; Huber bounds what these do."""
    covariance, truth, _, contaminated, _ = world
    start, best, harmed = unweighted
    kept = _sampled(covariance, contaminated, robust, start)
    error = [_rmse(z.mean(1), truth) for z in (best, harmed, kept)]
    assert error[1] > 1.4 * error[0]
    assert error[2] - error[0] < harm * (error[1] - error[0])
    assert -0.1 < kept.std(1).mean() / best.std(1).mean() - 1 < wider


def test_good_observations_keep_their_weight_where_the_estimate_is_still_far(world):
    """Ten background errors away and V as large: relative to R alone all of them were gross."""
    covariance, truth, clean, _, _ = world
    far = SpectralCovariance(covariance.basis, covariance.vectors, 100 * covariance.values)
    likelihood = dataclasses.replace(clean, robust=Robust())
    estimate = jnp.asarray(-9.0 * truth)[:, None]
    residual = likelihood.innovation(estimate)
    assert float(jnp.mean(Robust().weight(residual))) < 0.2
    _, scale, *_ = update(likelihood, far, estimate, solver=Solver())
    assert scale is not None and float(jnp.mean(scale**2)) > 0.97


def test_an_outlier_that_stands_alone_is_judged_by_the_spread_of_the_estimate():
    covariance = _line()
    one = Likelihood(jnp.array([60.0]), jnp.array([[6]]), jnp.full((1, 1), 10.0), robust=Robust())
    increment, scale, *_ = update(one, covariance, jnp.zeros((N_NODE, 1, 2)), solver=TIGHT)
    assert scale is not None and float(scale[0, 0]) < 0.1 and float(jnp.abs(increment).max()) < 0.5
    plausible = dataclasses.replace(one, value=jnp.array([15.0]))
    increment, scale, *_ = update(plausible, covariance, jnp.zeros((N_NODE, 1, 2)), solver=TIGHT)
    assert scale is not None and float(scale[0, 0]) > 0.95 and float(increment[3, 0, 0]) > 1.3


def test_extremely_small_errors_and_contradictions_stay_finite():
    covariance = _line()
    value = jnp.array([1e4, -1e4, 3e3])  # two reports of one point, 1e-4 apart from exact
    hard = Likelihood(value, jnp.array([[6], [6], [20]]), jnp.full((3, 1), 1e4))
    for robust in (None, "huber", "varqc"):
        given = dataclasses.replace(hard, robust=as_robust(robust))
        increment, *_ = update(given, covariance, jnp.zeros((N_NODE, 1, 2)), solver=Solver())
        assert np.isfinite(increment).all()
