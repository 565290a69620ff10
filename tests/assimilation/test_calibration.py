"""Simulation-based calibration: exact samplers pass, wrong ones are found out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from gaussian_world import SampledPrior, draw_states, make_prior

import xdiffda
from xdiffda.assimilation.calibration import (
    default_functions,
    n_bins,
    rank_of_first,
    simulation_based_calibration,
)
from xdiffda.assimilation.innovations import observe as observe_z
from xdiffda.covariance.draws import make_draws
from xdiffda.diffusion.posterior import Guidance, sample_posterior
from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs, to_tidy
from xdiffda.state.convert import from_state, to_state

pytestmark = pytest.mark.long  # hundreds of analyses

ERRORS = {"2m_temperature": 0.5, "geopotential": 80.0, "temperature": 0.4}
N_DRAWS, N_MEMBERS = 60, 11


@pytest.fixture(scope="module")
def world():
    prior = make_prior()
    return prior, draw_states(prior)[1]


@pytest.fixture(scope="module")
def analyses(world):
    """Run the sampler at its defaults once; others are made of its members."""
    prior, background = world
    x_b, layout, convention = to_state(background, prior.layout)
    guidance = Guidance()
    kept: dict[int, xr.Dataset] = {}

    def analyse(background: xr.Dataset, obs: xr.Dataset, number: int) -> xr.Dataset:
        if number not in kept:
            likelihood, _, _ = observe_z(
                to_tidy(obs),
                prior,
                x_b,
                None,
                window="6h",
                background_error=1.0,
            )
            key = jax.random.fold_in(jax.random.key(17), number)
            z = sample_posterior(
                prior.condition(x_b, None, 1.0),
                likelihood,
                make_draws(key, jnp.arange(N_MEMBERS)),
                guidance=guidance,
            )
            members = x_b + prior.scale * np.moveaxis(np.asarray(z), 1, 0)
            kept[number] = from_state(members, layout, convention, dims=("member",))
        return kept[number]

    return analyse


OBS: dict[int, xr.Dataset] = {}


def observe(truth: xr.Dataset, number: int) -> xr.Dataset:
    """All calibrations here have the same truths, and so the same observations."""
    if number not in OBS:
        OBS[number] = emulate_obs(truth, n_columns=20, error_std=ERRORS, seed=number)
    return OBS[number]


def calibrate(world, analyse) -> xr.Dataset:
    prior, background = world
    return simulation_based_calibration(
        prior,
        background,
        n_draws=N_DRAWS,
        n_members=N_MEMBERS,
        observe=observe,
        analyse=analyse,
        seed=3,
        progress=False,
    )


def test_the_exact_sampler_is_calibrated(world, analyses) -> None:
    found = calibrate(world, analyses)
    assert found.attrs["uniform"] == 1, found.attrs
    assert 0.9 < found.attrs["misfit_ratio"] < 1.1
    assert found["rank"].shape == (found.sizes["function"], N_DRAWS)
    assert (found["count"].sum("rank_bin") == N_DRAWS).all()
    assert set(np.unique(found["rank"])) == set(range(1, N_MEMBERS + 2))
    # standard normal each; functions of one draw are correlated
    for shape in ("slope", "curvature"):
        assert abs(found[shape]).max() < 4
        assert abs(found[shape].mean()) < 1


def test_a_spread_too_small_is_found(world, analyses) -> None:
    def shrunk(background: xr.Dataset, obs: xr.Dataset, number: int) -> xr.Dataset:
        members = analyses(background, obs, number).astype(np.float64)
        mean = members.mean("member")
        return mean + 0.7 * (members - mean)

    found = calibrate(world, shrunk)
    assert found.attrs["uniform"] == 0
    assert found.attrs["smallest_p"] < 1e-3
    assert float(found["curvature"].median()) > 2  # U


def test_a_bias_is_found(world, analyses) -> None:
    def shifted(background: xr.Dataset, obs: xr.Dataset, number: int) -> xr.Dataset:
        members = analyses(background, obs, number)
        return members.assign({"2m_temperature": members["2m_temperature"] + 0.5})

    found = calibrate(world, shifted)
    assert found.attrs["uniform"] == 0
    mean = found.sel(function="2m_temperature, mean")
    assert float(mean["slope"]) < -5  # members too high
    other = found.sel(function="temperature@500, mean")
    assert float(other["chi_square_p"]) > 0.01


def test_a_sampler_that_ignores_the_data_is_found(world) -> None:
    """Draws from the prior are calibrated for every function of the state alone."""
    prior, background = world
    x_b, layout, convention = to_state(background, prior.layout)

    draws = prior.covariance.sample(jax.random.split(jax.random.key(99), N_DRAWS * N_MEMBERS))
    draws = np.moveaxis(np.asarray(draws), 1, 0).reshape(N_DRAWS, N_MEMBERS, *x_b.shape)

    def blind(background: xr.Dataset, obs: xr.Dataset, number: int) -> xr.Dataset:
        members = x_b + prior.scale * draws[number]
        return from_state(members, layout, convention, dims=("member",))

    found = calibrate(world, blind)
    assert found.attrs["uniform"] == 0
    seen = found["chi_square_p"].sel(function="observation term of the cost function")
    assert float(seen) < 1e-6
    assert float(found["chi_square_p"].drop_sel(function=seen["function"].item()).min()) > 1e-3


def test_too_few_evaluations_are_found(world) -> None:
    """Three evaluations leave members too close to the observations: only J_o sees it soon."""
    found = simulation_based_calibration(
        make_prior(SampledPrior),
        world[1],
        n_draws=20,
        n_members=3,
        n_columns=20,
        error_std=ERRORS,
        settings={"method": xdiffda.Guided(n_steps=3)},
        seed=3,
        progress=False,
    )
    assert found.attrs["uniform"] == 0
    misfit = found["rank"].sel(function="observation term of the cost function")
    assert (misfit == 4).mean() > 0.7  # the truth fits worse than all members
    assert found.attrs["misfit_ratio"] < 0.8


def test_default_functions(world) -> None:
    """Of a constant field: grid value and mean are the constant, coefficients vanish."""
    prior, _ = world
    functions = default_functions(prior, n_channel=1)
    z = np.full((2, prior.layout.grid.n_node, 3), 1.5)
    values = [f(z) for f in functions.values()]
    np.testing.assert_allclose(values[:2], 1.5)
    np.testing.assert_allclose(values[2:], 0, atol=1e-5)


def test_ties_are_decided_by_chance() -> None:
    rng = np.random.default_rng(0)
    values = np.array([1.0, 0.0, 1.0, 1.0, 2.0])
    ranks = np.bincount([rank_of_first(values, rng) for _ in range(3000)], minlength=6)
    assert set(np.flatnonzero(ranks)) == {2, 3, 4}
    np.testing.assert_allclose(ranks[2:5] / 3000, 1 / 3, atol=0.04)
    assert n_bins(1000, 9) == 9


def test_errors(world) -> None:
    prior, background = world
    two = xr.concat([background, background], "member")
    with pytest.raises(InputError, match=r"(?s)2 problems.*n_draws=1.*2 along member"):
        simulation_based_calibration(prior, two, n_draws=1)
    with pytest.raises(InputError, match="1 members of an analysis"):
        simulation_based_calibration(
            prior,
            background,
            n_members=3,
            analyse=lambda b, o, i: b,
            error_std=ERRORS,
            progress=False,
        )
