"""What lies beyond the basis, given the observations: dense algebra, and honest members."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_world import LAT, LAYOUT, LON, MEAN, SCALE

from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.methods import METHODS, Guided
from xdiffda.covariance.draws import make_draws
from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.unresolved_scales import UnresolvedScales, explain, observed
from xdiffda.observations import emulate_obs
from xdiffda.priors.prior import GaussianPrior
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, to_state

N_NODE, N_CHANNEL = LAYOUT.grid.n_node, LAYOUT.n_channel
EXACT = Solver(tolerance=1e-6)
TIME = np.datetime64("2020-01-15T12", "ns")


@pytest.fixture(scope="module")
def unresolved() -> UnresolvedScales:
    basis = sphere_basis(LAT, LON, 5)  # of 11 that the grid resolves
    std = np.random.default_rng(0).uniform(0.3, 0.6, (N_NODE, N_CHANNEL)).astype(np.float32)
    return UnresolvedScales.of(basis, jnp.asarray(std))


def _dense(unresolved: UnresolvedScales) -> np.ndarray:
    """U of one channel after the other, (channel, node, node)."""
    eye = jnp.eye(N_NODE)[:, :, None] * jnp.ones(N_CHANNEL)
    return np.moveaxis(np.asarray(unresolved(eye), np.float64), 2, 0)


def _likelihood(share: float = 0.8) -> tuple[Likelihood, np.ndarray]:
    """Channel 0 at a few nodes, in units of an error of which ``share`` is the instrument's."""
    nodes = np.array([3, 17, 40, 41, 90])
    error = 0.5
    return Likelihood(
        jnp.asarray([0.9, -1.2, 0.3, 2.0, -0.4], jnp.float32),
        jnp.asarray(nodes[:, None] * N_CHANNEL),
        jnp.full((5, 1), 1 / error),
        instrument=jnp.full(5, share),
    ), nodes


def test_the_covariance_is_that_of_the_draws(unresolved: UnresolvedScales) -> None:
    drawn = np.asarray(unresolved.draw(jax.random.split(jax.random.key(1), 4000)), np.float64)
    U = _dense(unresolved)
    np.testing.assert_allclose(U, U.swapaxes(1, 2), atol=1e-5)
    assert np.linalg.eigvalsh(U[0]).min() > -1e-5
    for c in range(2):
        sample = drawn[:, :, c] @ drawn[:, :, c].T / drawn.shape[1]
        assert np.abs(sample - U[c]).max() < 6 * U[c].max() / np.sqrt(4000)


def test_the_mean_given_the_resolved_part_is_the_kalman_analysis(
    unresolved: UnresolvedScales,
) -> None:
    likelihood, nodes = _likelihood()
    z = 0.2 * jax.random.normal(jax.random.key(2), (N_NODE, 1, N_CHANNEL))
    found = explain(unresolved, likelihood, z, jnp.zeros_like(z), solver=EXACT).z - z
    U, error = _dense(unresolved)[0], 0.5 * 0.8
    d = np.asarray(likelihood.value) * 0.5 - np.asarray(z)[nodes, 0, 0]
    gain = U[:, nodes] @ np.linalg.inv(U[np.ix_(nodes, nodes)] + error**2 * np.eye(5))
    np.testing.assert_allclose(found[:, 0, 0], gain @ d, atol=2e-4)
    assert np.abs(found[:, 0, 1:]).max() < 1e-6  # channels are independent


def test_draws_given_the_resolved_part_have_the_posterior_covariance(unresolved: UnresolvedScales):
    likelihood, nodes = _likelihood()
    draws = make_draws(jax.random.key(3), jnp.arange(3000))
    z = jnp.zeros((N_NODE, 3000, N_CHANNEL))
    drawn = unresolved.draw(jax.random.split(jax.random.key(4), 3000))
    w = np.asarray(explain(unresolved, likelihood, z, drawn, draws).z, np.float64)[:, :, 0]
    U, error = _dense(unresolved)[0], 0.5 * 0.8
    inverse = np.linalg.inv(U[np.ix_(nodes, nodes)] + error**2 * np.eye(5))
    posterior = U - U[:, nodes] @ inverse @ U[nodes]
    around = w - w.mean(1, keepdims=True)
    sample = around @ around.T / 2999
    assert np.abs(sample - posterior).max() < 6 * U.max() / np.sqrt(3000)
    assert np.trace(sample[np.ix_(nodes, nodes)]) == pytest.approx(
        np.trace(posterior[np.ix_(nodes, nodes)]), rel=0.06
    )
    mean = U[:, nodes] @ inverse @ (np.asarray(likelihood.value) * 0.5)
    assert np.abs(w.mean(1) - mean).max() < 5 * np.sqrt(U.max() / 3000)


def test_errors_that_are_not_told_apart_leave_the_draws(unresolved: UnresolvedScales) -> None:
    likelihood, _ = _likelihood()
    assert observed(likelihood)
    assert not observed(dataclasses.replace(likelihood, instrument=None))


def test_members_are_as_far_from_each_other_as_from_the_truth_at_the_sites() -> None:
    """Half of the columns observed, a third of the error variance beyond the basis."""
    prior, base = _coarse_prior(), _full(MEAN)

    def label(x):
        return from_state(x.astype(np.float32), LAYOUT, default_convention(LAYOUT)).assign_coords(
            time=TIME
        )

    spread, error, blind = [], [], []
    for seed in range(10):
        keys = jax.random.split(jax.random.key(seed), 1)
        z = np.asarray(prior.covariance.sample(keys) + prior.small_scales(keys))[:, 0]
        truth = label(base + prior.scale * z)
        obs = emulate_obs(
            truth, n_columns=N_NODE // 2, error_std=prior.typical_error(0.4), seed=seed
        )
        ask = {
            "model": prior,
            "n_members": 8,
            "background_error": 1.0,
            "seed": seed,
            "progress": False,
        }
        drawn = Guided(antithetic=False)
        analysis = assimilate(label(base), obs, method=drawn, **ask)
        members = (to_state(analysis, LAYOUT)[0].reshape(8, N_NODE, -1) - base) / prior.scale
        resolved = assimilate(
            label(base), obs, method=dataclasses.replace(drawn, small_scales=False), **ask
        )
        coarse = (to_state(resolved, LAYOUT)[0].reshape(8, N_NODE, -1) - base) / prior.scale
        at = _sites(obs)
        spread.append(members[:, at].var(0, ddof=1).mean() * 9 / 8)
        error.append(np.mean((members[:, at].mean(0) - z[at]) ** 2))
        blind.append(np.mean((coarse[:, at].mean(0) - z[at]) ** 2))
    assert np.sqrt(np.mean(spread) / np.mean(error)) == pytest.approx(1.0, abs=0.07)
    assert np.mean(error) < 0.75 * np.mean(blind)  # observations tell of w, too


@pytest.mark.parametrize("method", ["3dvar", "oi"])
def test_best_estimates_take_what_observations_tell(method: str) -> None:
    prior, base = _coarse_prior(), _full(MEAN)
    keys = jax.random.split(jax.random.key(5), 1)
    z = np.asarray(prior.covariance.sample(keys) + prior.small_scales(keys))[:, 0]

    def label(x):
        return from_state(x.astype(np.float32), LAYOUT, default_convention(LAYOUT)).assign_coords(
            time=TIME
        )

    obs = emulate_obs(
        label(base + prior.scale * z), n_columns=140, error_std=prior.typical_error(0.2), seed=0
    )
    errors = []
    for small in (True, False):
        analysis = assimilate(
            label(base),
            obs,
            model=prior,
            method=METHODS[method](small_scales=small),
            background_error=1.0,
            progress=False,
        )
        found = (to_state(analysis, LAYOUT)[0].reshape(N_NODE, -1) - base) / prior.scale
        errors.append(np.mean((found - z) ** 2))
    assert errors[0] < 0.85 * errors[1]


def _full(by_channel: dict[str, float]) -> np.ndarray:
    return np.tile([by_channel[c] for c in LAYOUT.channel_names], (N_NODE, 1))


def _coarse_prior() -> GaussianPrior:
    basis = sphere_basis(LAT, LON, 5)
    blocks = np.tile(np.eye(N_CHANNEL), (basis.mask.shape[0], 1, 1))
    variance = float(jnp.mean(SpectralCovariance.from_blocks(basis, blocks).variance))
    return GaussianPrior(
        LAYOUT,
        _full(SCALE),
        SpectralCovariance.from_blocks(basis, blocks / variance),
        unresolved=np.full((N_NODE, N_CHANNEL), 0.7, np.float32),
    )


def _sites(obs) -> np.ndarray:
    """Nodes of the observed columns, which are grid points."""
    assert np.isin(np.round(obs["lat"].values, 3), np.round(LAT, 3)).all()
    pairs = {
        (round(float(a), 3), round(float(o) % 360, 3))
        for a, o in zip(obs["lat"].values.ravel(), obs["lon"].values.ravel(), strict=True)
    }
    nodes = [(round(a, 3), round(o, 3)) for a in LAT for o in LON]
    return np.array([i for i, place in enumerate(nodes) if place in pairs])
