"""The central test: members have the mean and covariance of the Kalman analysis.

Prior: a Gaussian with a spectral covariance of two correlated channels, or of winds and a
temperature in balance with them.  Truth: the
Kalman filter with dense matrices, in float64.  Statistics are compared within their
sampling error.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wind_world import balanced_covariance

from xdiffda.covariance.draws import make_draws
from xdiffda.covariance.harmonics import circle_basis, sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.posterior import Guidance, sample_posterior
from xdiffda.priors.prior import Wiener

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("optimised")]  # hundreds of members
N_MEMBER = 800
SOLVER = Solver(tolerance=1e-5, max_iterations=100)


def _domain(name: str):
    if name == "winds":
        return balanced_covariance()
    if name == "line":
        basis = circle_basis(96, 30)
    else:
        lat = tuple(np.linspace(-82.5, 82.5, 12))
        basis = sphere_basis(lat, tuple(np.arange(24) * 15.0))
    degree = np.arange(basis.mask.shape[0])
    spectrum = 1 / (1 + (degree / 4.0) ** 3)
    spectrum /= (spectrum * np.asarray(basis.multiplicity)).sum() / basis.multiplicity.sum()
    blocks = spectrum[:, None, None] * np.array([[1.0, 0.6], [0.6, 1.5]])
    return SpectralCovariance.from_blocks(basis, blocks)


def _prior(covariance: SpectralCovariance) -> Conditioned:
    return Conditioned(Wiener(covariance), covariance)


def _draws(n: int):
    return make_draws(jax.random.key(0), jnp.arange(n))


def _dense(covariance: SpectralCovariance) -> np.ndarray:
    n, c = covariance.basis.n_node, covariance.values.shape[1]
    eye = jnp.eye(c * n).reshape(n, c, c * n).transpose(0, 2, 1)
    return np.asarray(covariance(eye), np.float64).transpose(0, 2, 1).reshape(c * n, c * n)


def _problem(name: str, error_std: float, n_obs: int = 12):
    covariance = _domain(name)
    rng = np.random.default_rng(3)
    size = covariance.basis.n_node * covariance.values.shape[1]
    # each observation is a weighted mean of two elements: off the grid, both channels
    index = rng.choice(size, (n_obs, 2), replace=False)
    weight = np.tile([0.7, 0.3], (n_obs, 1)) / error_std
    B = _dense(covariance)
    values, vectors = np.linalg.eigh(B)
    truth = vectors @ (np.sqrt(np.maximum(values, 0)) * rng.normal(size=size))
    H = np.zeros((n_obs, size))
    np.add.at(H, (np.arange(n_obs)[:, None], index), weight)
    value = H @ truth + rng.normal(size=n_obs)
    K = B @ H.T @ np.linalg.inv(H @ B @ H.T + np.eye(n_obs))
    likelihood = Likelihood(
        jnp.asarray(value, jnp.float32), jnp.asarray(index), jnp.asarray(weight, jnp.float32)
    )
    return covariance, likelihood, K @ value, B - K @ H @ B


# every domain with either start, every start and every domain with either error
@pytest.mark.parametrize(
    ("domain", "start", "n_steps", "error_std"),
    [
        ("line", "cold", 32, 0.5),
        ("line", "warm", 8, 0.1),
        ("sphere", "cold", 32, 0.1),
        ("sphere", "warm", 8, 0.5),
        ("winds", "cold", 32, 0.5),
        ("winds", "warm", 8, 0.1),
    ],
)
def test_members_follow_the_kalman_posterior(domain, error_std, start, n_steps):
    covariance, likelihood, mean, posterior = _problem(domain, error_std)
    guidance = Guidance(start=start, n_steps=n_steps, solver=SOLVER)
    z = sample_posterior(_prior(covariance), likelihood, _draws(N_MEMBER), guidance=guidance)
    members = np.asarray(z, np.float64).transpose(1, 0, 2).reshape(N_MEMBER, -1)
    std = np.sqrt(np.diag(posterior))

    # mean: every deviation in units of its own sampling error
    deviation = (members.mean(0) - mean) / np.maximum(std / np.sqrt(N_MEMBER), 1e-3)
    assert np.sqrt(np.mean(deviation**2)) < 1.5
    # spread: total standard deviation within 3 %
    ratio = np.sqrt(members.var(0, ddof=1).mean() / np.diag(posterior).mean())
    assert abs(ratio - 1) < 0.03
    # covariance: along the leading posterior directions, within 4 sampling errors
    values, vectors = np.linalg.eigh(posterior)
    along = (members - mean) @ vectors[:, -12:]
    bound = 0.03 + 4 * np.sqrt(2 / N_MEMBER)
    np.testing.assert_allclose(along.var(0) / values[-12:], 1, atol=bound)
    correlation = np.corrcoef(along.T) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(N_MEMBER)


@pytest.mark.parametrize("sampler", ["heun", "stochastic"])
def test_the_other_samplers_follow_the_kalman_posterior_too(sampler):
    covariance, likelihood, mean, posterior = _problem("line", 0.5)
    guidance = Guidance(start="cold", n_steps=32, sampler=sampler, solver=SOLVER)
    z = sample_posterior(_prior(covariance), likelihood, _draws(N_MEMBER), guidance=guidance)
    members = np.asarray(z, np.float64).transpose(1, 0, 2).reshape(N_MEMBER, -1)
    std = np.maximum(np.sqrt(np.diag(posterior)) / np.sqrt(N_MEMBER), 1e-3)
    assert np.sqrt(np.mean(((members.mean(0) - mean) / std) ** 2)) < 1.5
    ratio = np.sqrt(members.var(0, ddof=1).mean() / np.diag(posterior).mean())
    assert abs(ratio - 1) < 0.03


def test_without_observations_members_follow_the_prior():
    covariance = _domain("line")
    empty = Likelihood(jnp.zeros(1), jnp.zeros((1, 1), int), jnp.zeros((1, 1)))
    guidance = Guidance(start="cold", n_steps=32)
    z = sample_posterior(_prior(covariance), empty, _draws(N_MEMBER), guidance=guidance)
    ratio = np.asarray(z).var(1).mean(0) / np.asarray(covariance.variance)
    np.testing.assert_allclose(ratio, 1, atol=0.06)


def test_the_jacobian_gives_the_same_v_for_a_gaussian_prior():
    # for a Gaussian prior sigma^2 J^T N equals (B^-1 + sigma^-2)^-1 in the span of the basis
    covariance, likelihood, _, _ = _problem("line", 0.3)
    guidance = Guidance(start="cold", n_steps=12, solver=SOLVER)
    by_jacobian, by_spectrum = (
        sample_posterior(
            _prior(covariance), likelihood, _draws(3), covariance=name, guidance=guidance
        )
        for name in ("jacobian", "climatological")
    )
    np.testing.assert_allclose(by_jacobian, by_spectrum, atol=3e-3)


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_antithetic_members_have_the_exact_mean(start):
    # perturbations of opposite sign cancel where the problem is linear
    covariance, likelihood, mean, _ = _problem("sphere", 0.3)
    guidance = Guidance(start=start, n_steps=32 if start == "cold" else 8, solver=SOLVER)
    draws = make_draws(jax.random.key(4), jnp.arange(2), antithetic=True)
    z = sample_posterior(_prior(covariance), likelihood, draws, guidance=guidance)
    members = np.asarray(z).transpose(1, 0, 2).reshape(2, -1)
    assert np.abs(members[0] - members[1]).max() > 0.5
    np.testing.assert_allclose(members.mean(0), mean, atol=0.03)


def test_members_do_not_depend_on_those_beside_them():
    covariance, likelihood, _, _ = _problem("line", 0.3)
    few, many = (sample_posterior(_prior(covariance), likelihood, _draws(n)) for n in (2, 5))
    np.testing.assert_allclose(few, many[:, :2], atol=1e-5)


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_observations_in_another_order_give_the_same_analysis(start: str) -> None:
    covariance, likelihood, _, _ = _problem("sphere", 0.3)
    order = np.random.default_rng(0).permutation(likelihood.value.size)
    shuffled = jax.tree.map(lambda a: a[order], likelihood)
    # the errors that perturb observations are drawn in their order, and cancel in a pair
    draws = make_draws(jax.random.key(4), jnp.arange(2), antithetic=True)
    guidance = Guidance(start=start, n_steps=6, solver=SOLVER)
    a, b = (
        sample_posterior(_prior(covariance), one, draws, guidance=guidance).mean(1)
        for one in (likelihood, shuffled)
    )
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_observations_of_infinite_error_leave_the_unguided_draw():
    covariance, likelihood, _, _ = _problem("line", 0.3)
    blind = Likelihood(0 * likelihood.value, likelihood.index, 0 * likelihood.weight)
    vague = Likelihood(1e-6 * likelihood.value, likelihood.index, 1e-6 * likelihood.weight)
    a, b = (sample_posterior(_prior(covariance), one, _draws(2)) for one in (blind, vague))
    np.testing.assert_allclose(a, b, atol=1e-4)
