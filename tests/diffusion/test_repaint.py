"""RePaint: counts and schedule of the paper, limits with known answers on a Gaussian prior."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.covariance.draws import make_draws
from xdiffda.covariance.harmonics import circle_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.repaint import RePaint, sample_repaint
from xdiffda.priors.prior import Wiener

pytestmark = pytest.mark.usefixtures("optimised")  # thousands of members
N = 25


@pytest.fixture(scope="module")
def prior() -> Conditioned:
    basis = circle_basis(N, N // 2)
    degree = np.arange(basis.mask.shape[0])
    spectrum = 1 / (1 + (degree / 2.0) ** 2)
    covariance = SpectralCovariance.from_blocks(basis, spectrum[:, None, None] * np.eye(1))
    return Conditioned(Wiener(covariance), covariance)


def _matrix(prior: Conditioned) -> np.ndarray:
    """B as a dense matrix."""
    return np.asarray(prior.climatology(jnp.eye(N)[:, :, None]))[:, :, 0]


def test_the_papers_settings_take_2910_evaluations_and_2610_steps_back(prior):
    calls = []

    def denoise(z, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.zeros_like(z)

    zero = jnp.zeros((N, 1))
    ticks = []
    sample_repaint(
        prior._replace(denoise=denoise),
        zero,
        zero,
        make_draws(jax.random.key(0), jnp.arange(1)),
        tick=ticks.append,
    )
    jax.effects_barrier()
    assert len(calls) == sum(ticks) == RePaint().evaluations == 2910
    assert (np.diff(RePaint().walk()) > 0).sum() == 2610


def test_every_stretch_is_visited_as_often_as_the_resamplings_say():
    settings = RePaint(n_levels=20, jump_length=5, resamplings=3)
    walk = settings.walk()
    assert walk[0] == 20 and walk[-1] == 0
    assert set(np.abs(np.diff(walk))) == {1}
    # jumps leave from levels 1, 6 and 11: what they cross is walked down three times
    downs = [int(((walk[:-1] == level + 1) & (walk[1:] == level)).sum()) for level in range(20)]
    assert downs == [1] + 15 * [3] + 4 * [1]


def test_the_schedule_is_the_linear_beta_one():
    sigma = RePaint().sigmas()
    kept = np.prod(1 - np.linspace(1e-4, 0.02, 1000))
    assert sigma[0] == 0 and sigma[1] == pytest.approx(np.sqrt(1e-4 / (1 - 1e-4)))
    assert sigma[-1] == pytest.approx(np.sqrt((1 - kept) / kept))
    assert (np.diff(sigma) > 0).all()


@pytest.mark.long
def test_without_a_mask_the_members_follow_the_prior(prior):
    zero = jnp.zeros((N, 1))
    draws = make_draws(jax.random.key(1), jnp.arange(1500))
    settings = RePaint(n_levels=1000, jump_length=5, resamplings=1)
    z = np.asarray(sample_repaint(prior, zero, zero, draws, settings=settings))[:, :, 0]
    sampled, exact = z @ z.T / z.shape[1], _matrix(prior)
    # sampling error of a covariance from 1,500 draws is 0.026 to 0.037 of the variance
    assert np.abs(sampled - exact).max() < 0.13 * exact[0, 0]
    assert np.trace(sampled) == pytest.approx(np.trace(exact), rel=0.05)
    assert np.abs(z.mean(1)).max() < 0.12 * np.sqrt(exact[0, 0])


def test_a_full_mask_gives_the_observed_state(prior):
    observed = prior.climatology.sample(jax.random.split(jax.random.key(3), 1))[:, 0]
    draws = make_draws(jax.random.key(1), jnp.arange(2))
    z = sample_repaint(
        prior,
        observed,
        jnp.ones((N, 1)),
        draws,
        settings=RePaint(n_levels=10, jump_length=5, resamplings=2),
    )
    np.testing.assert_allclose(z, jnp.broadcast_to(observed[:, None], z.shape), atol=2e-5)


@pytest.mark.long
def test_the_mean_comes_close_to_kriging_of_the_observed_points(prior):
    seen, exact = np.arange(N) % 3 == 0, _matrix(prior)
    gain = exact[:, seen] @ np.linalg.inv(exact[np.ix_(seen, seen)])
    mask = jnp.asarray(seen[:, None], jnp.float32)
    settings = RePaint(n_levels=60, jump_length=5, resamplings=10)
    squares = []
    for truth in np.asarray(prior.climatology.sample(jax.random.split(jax.random.key(5), 4)).T)[0]:
        draws = make_draws(jax.random.key(1), jnp.arange(64))
        z = sample_repaint(prior, jnp.asarray(truth)[:, None], mask, draws, settings=settings)
        errors = [np.asarray(z)[:, :, 0].mean(1) - truth, gain @ truth[seen] - truth, truth]
        squares.append([np.mean(e[~seen] ** 2) for e in errors])
    own, kriging, nothing = np.sqrt(np.mean(squares, axis=0))
    assert own < 1.1 * kriging < nothing


def _watched(prior, mask, observed, estimate, settings, n_member=1) -> tuple[list, np.ndarray]:
    """What a denoiser that always answers ``estimate`` is given, as (z, sigma), and the result."""
    seen = []

    def denoise(z, sigma):
        jax.debug.callback(
            lambda *given: seen.append(tuple(map(np.asarray, given))), z, sigma, ordered=True
        )
        return jnp.full_like(z, estimate)

    z = sample_repaint(
        prior._replace(denoise=denoise),
        jnp.full((N, 1), observed),
        mask,
        make_draws(jax.random.key(4), jnp.arange(n_member)),
        settings=settings,
    )
    jax.effects_barrier()
    return seen, np.asarray(z)


@pytest.mark.parametrize("known", [0.0, 1.0])
def test_every_visit_of_a_level_draws_fresh_noise(prior, known):
    """In the observed and in the free part: three steps from level 3 to 2 share no noise."""
    settings = RePaint(n_levels=4, jump_length=2, resamplings=3)
    assert settings.walk().tolist() == [4, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 0]
    seen, _ = _watched(prior, jnp.full((N, 1), known), 0.0, 0.0, settings, n_member=200)
    sigma = settings.sigmas()
    at = [int(np.argmin(np.abs(sigma - own))) for _, own in seen]
    assert at == [4, 3, 2, 3, 2, 3, 2, 1]
    share = (sigma[2] / sigma[3]) ** 2
    noises = [
        after / sigma[2] if known else (after - share * z) / (sigma[2] * np.sqrt(1 - share))
        for (z, _), (after, _), level in zip(seen, seen[1:], at, strict=False)
        if level == 3
    ]
    alike = np.corrcoef([noise.ravel() for noise in noises])
    # of 5,000 numbers: a sampling error of 0.014
    np.testing.assert_allclose(alike, np.eye(3), atol=0.07)
    assert [noise.std() for noise in noises] == pytest.approx([1.0] * 3, abs=0.05)


def test_nothing_is_clipped(prior):
    """Observed and estimated hundreds of standard deviations away, as they went in."""
    mask = jnp.asarray((np.arange(N) % 2)[:, None], jnp.float32)
    settings = RePaint(n_levels=6, jump_length=2, resamplings=2)
    seen, z = _watched(prior, mask, 500.0, -700.0, settings)
    expected = np.where(np.asarray(mask) == 1, 500.0, -700.0)
    np.testing.assert_allclose(z[:, 0], expected, rtol=1e-4)
    last, sigma = seen[-1]  # nor on the way
    np.testing.assert_allclose(last[1::2, 0], 500.0, atol=6 * float(sigma))


def test_members_do_not_depend_on_who_stands_beside_them(prior):
    zero, settings = jnp.zeros((N, 1)), RePaint(n_levels=12, jump_length=3, resamplings=2)
    both = sample_repaint(
        prior, zero, zero, make_draws(jax.random.key(1), jnp.arange(3)), settings=settings
    )
    alone = sample_repaint(
        prior, zero, zero, make_draws(jax.random.key(1), jnp.arange(2, 3)), settings=settings
    )
    np.testing.assert_allclose(both[:, 2:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"n_levels": 0}, {"n_levels": 1001}, {"resamplings": 0}, {"mask_sigma": 0.0}]
)
def test_impossible_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RePaint(**wrong)
