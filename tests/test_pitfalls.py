"""Observations that are too good, contradict each other, or are too much for the solver."""

from __future__ import annotations

import warnings

import cycle_world as world
import numpy as np
import pytest
import xarray as xr

from xdiffda.analysis import assimilate
from xdiffda.diffusion.guidance import Solver
from xdiffda.observations import emulate_obs
from xdiffda.state import to_state

PRIOR = world.make_prior()


@pytest.fixture(scope="module")
def states() -> tuple[xr.Dataset, xr.Dataset]:
    truth, background = world.make_states(1)
    return truth.isel(time=0), background


def analyse(background: xr.Dataset, obs: xr.Dataset, **settings) -> xr.Dataset:
    settings = {"method": "3dvar", "background_error": 1.0, "n_members": 2} | settings
    return assimilate(background, obs, model=PRIOR, progress=False, **settings)


@pytest.mark.parametrize("method", ["3dvar", "guided"])
def test_a_missed_tolerance_is_reported_and_warned_of(states, method) -> None:
    truth, background = states
    obs = emulate_obs(truth, n_columns=30, error_std=world.ERRORS, seed=1)
    with pytest.warns(UserWarning, match=r"residual of .*not 1e-02, after 2 iterations.*repair"):
        few = analyse(background, obs, method=method, solver=Solver(max_iterations=2))
    assert few.attrs["xdiffda_solver_residual"][0] > 5e-2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = analyse(background, obs, method=method)
    assert enough.attrs["xdiffda_solver_residual"][0] < {"3dvar": 2e-3, "guided": 2e-2}[method]


def test_errors_next_to_nothing_give_the_observed_values_or_a_warning(states) -> None:
    """Errors of a thousandth: fewer observations than the basis has degrees of freedom are met."""
    truth, background = states
    tiny = {name: 1e-3 * error for name, error in world.ERRORS.items()}
    obs = emulate_obs(truth, n_columns=4, error_std=tiny, seed=1)
    analysis = analyse(background, obs, gross_check=np.inf, solver=Solver(1e-5, 500))
    seen = analysis["temperature"].isel(member=0).sel(lat=obs.lat, lon=obs.lon)
    np.testing.assert_allclose(seen, obs["temperature"].transpose(*seen.dims), atol=0.02)
    assert np.isfinite(to_state(analysis, world.LAYOUT)[0]).all()
    with pytest.warns(UserWarning, match="errors are tiny beside the background's"):
        analyse(background, obs, gross_check=np.inf, solver=Solver(1e-3, 3))


def test_observations_that_contradict_each_other_count_as_their_mean(states) -> None:
    """Two thermometers at one place, 2 K apart, are one of their mean and an error of 1/sqrt(2)."""
    truth, background = states
    obs = emulate_obs(truth, n_columns=10, error_std=world.ERRORS, seed=1, noise=False)
    names = list(world.ERRORS)
    up, down = (obs.assign({n: obs[n] + shift for n in names}) for shift in (1.0, -1.0))
    both = xr.concat([up, down.assign_coords(station=down.station + 1000)], "station")
    one = obs.assign({f"{n}_error_std": obs[f"{n}_error_std"] / 2**0.5 for n in names})
    tight = {"solver": Solver(1e-6, 200)}
    found, expected = (analyse(background, of, **tight) for of in (both, one))
    x, y = (to_state(ds, world.LAYOUT)[0] for ds in (found, expected))
    np.testing.assert_allclose(x, y, atol=2e-3)
    guided = analyse(background, both, method="guided")
    assert guided.attrs["xdiffda_solver_residual"][0] < 1.5e-2
