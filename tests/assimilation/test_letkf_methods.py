"""The LETKF behind `assimilate`: observations of all kinds, against the filter itself."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import cycle_world as world
import jax
import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.baselines import letkf
from xdiffda.assimilation.baselines.letkf import Inflation
from xdiffda.assimilation.innovations import observe
from xdiffda.covariance.localisation import Localisation, Places
from xdiffda.cycling.cycle import cycle
from xdiffda.cycling.observation_stream import emulated_stream
from xdiffda.cycling.store import open_cycle
from xdiffda.errors import InputError
from xdiffda.observations import to_tidy
from xdiffda.observations.nonlinear import Operator
from xdiffda.state.convert import from_state, to_state

GRID = world.LAYOUT.grid
FAR = Localisation(length_km=3000.0, length_log_p=1.0)
T500 = world.LAYOUT.channel_index("temperature", 500)
NODES = np.array([20, 45, 70, 101])
CUBE = Operator(lambda s: (s["temperature@500"] / 250.0) ** 3, inputs=("temperature@500",))


@pytest.fixture(scope="module")
def members() -> xr.Dataset:
    return make_members()


def make_members(n: int = 10) -> xr.Dataset:
    _, background = world.make_states()
    draws = world.make_prior().covariance.sample(jax.random.split(jax.random.key(9), n))
    draws = np.moveaxis(np.asarray(draws), 1, 0)
    x = to_state(background, world.LAYOUT)[0] + world.SCALE * (draws - draws.mean(0))
    convention = world.default_convention(world.LAYOUT)
    found = from_state(x.astype(np.float32), world.LAYOUT, convention, dims=("member",))
    return found.assign_coords(time=world.START)


def table(variable: str, value: np.ndarray, error: float) -> xr.Dataset:
    columns = {
        "variable": [variable] * 4,
        "value": value,
        "error_std": [error] * 4,
        "lat": GRID.node_lat[NODES],
        "lon": GRID.node_lon[NODES],
        "level": [500.0] * 4,
        "time": [world.START] * 4,
    }
    return xr.Dataset({name: ("obs", column) for name, column in columns.items()})


def analyse(members: xr.Dataset, obs: xr.Dataset, prior=None, **settings) -> np.ndarray:
    found = assimilate(
        members,
        obs,
        model=prior or world.make_prior(),
        background_error=1.0,
        progress=False,
        **({"method": xdiffda.LETKF(localisation=FAR)} | settings),
    )
    return to_state(found, world.LAYOUT)[0]


def filtered(members: xr.Dataset, seen: np.ndarray, obs: xr.Dataset, error: float) -> np.ndarray:
    """The filter on arrays, told what each member shows."""
    x = to_state(members, world.LAYOUT)[0]
    given = SimpleNamespace(value=obs["value"].values, error_std=np.full(4, error))
    places = Places(*(obs[n].values for n in ("lat", "lon")), np.log(obs["level"].values))
    return letkf(x, given, world.LAYOUT, places=places, seen=seen, localisation=FAR).ensemble


@pytest.mark.long
def test_nonlinear_observations_are_seen_by_every_member(members) -> None:
    x = to_state(members, world.LAYOUT)[0]
    cube = (x[:, NODES, T500] / 250.0) ** 3
    obs = table("cube", cube.mean(0) + np.array([0.02, -0.02, 0.03, 0.0]), 0.01)
    found = analyse(members, obs, operators={"cube": CUBE})
    np.testing.assert_allclose(found, filtered(members, cube, obs, 0.01), atol=0.02)
    assert np.abs(found - x).max() > 0.5

    def whole(state, seen):
        field = state["temperature@500"].reshape(-1)
        return (field[NODES] / 250.0) ** 3

    # a function of the whole state, which has no sparse tangent, says the same
    again = analyse(members, obs, operators={"cube": whole})
    np.testing.assert_allclose(again, found, atol=0.02)


def test_a_likelihood_in_another_unit_sees_the_same(members) -> None:
    """Linear, local and whole-state rows: H of z / f, with z / f in place of z."""
    state = to_state(members, world.LAYOUT)[0].mean(0)
    local, plain = table("cube", np.ones(4), 0.01), table("temperature", state[NODES, T500], 0.4)
    whole = table("first", np.zeros(4), 0.5)
    operators = {"cube": CUBE, "first": lambda state: state["2m_temperature"].reshape(-1)[:4] / 280}
    tidy = xr.concat([local, plain, whole], "obs")
    likelihood, _, record = observe(
        to_tidy(tidy, operators=operators),
        world.make_prior(),
        state,
        None,
        window="6h",
        background_error=1.0,
        operators=operators,
    )
    assert record["used"] == (record["rows"] >= 0).sum() == 12
    z = np.random.default_rng(1).normal(size=(GRID.n_node, 2, 3)).astype(np.float32)
    seen = likelihood.predict(z)
    assert (np.abs(np.asarray(seen))[record["rows"] >= 0] > 1e-4).all()
    np.testing.assert_allclose(likelihood.rescaled(0.5).predict(2 * z), seen, rtol=2e-3, atol=1e-4)


def test_errors_of_representativeness_count(members) -> None:
    prior = world.make_prior()
    prior.unresolved = np.full(prior.scale.shape, 0.5, np.float32)
    x = to_state(members, world.LAYOUT)[0]
    seen = x[:, NODES, T500]
    obs = table("temperature", seen.mean(0) + np.array([1.0, -1.0, 0.5, 0.0]), 0.4)
    error = np.hypot(0.4, 0.5 * world.SCALE[T500])
    expected = filtered(members, seen, obs, error)
    np.testing.assert_allclose(analyse(members, obs, prior), expected, atol=5e-3)
    assert np.abs(expected - filtered(members, seen, obs, 0.4)).max() > 0.1


def test_gross_errors_are_left_out(members) -> None:
    value = to_state(members, world.LAYOUT)[0].mean(0)[NODES, T500] + [0.5, -0.5, 0.3, 0.0]
    obs = table("temperature", value, 0.4)
    wrong = obs.copy(deep=True)
    wrong["value"][1] += 60.0
    rest = obs.isel(obs=[0, 2, 3])
    np.testing.assert_allclose(analyse(members, wrong), analyse(members, rest), atol=1e-3)


def test_what_a_local_filter_cannot_do_is_refused(members) -> None:
    obs = table("temperature", np.full(4, 255.0), 0.4)
    with pytest.raises(InputError, match="(?s)error_correlation=.*robust=.*all observations toge"):
        analyse(members, obs, error_correlation=0.5, quality=xdiffda.Quality(robust="huber"))
    factor = np.ones((3, 3))
    with pytest.raises(InputError, match="without adaptive"):
        xdiffda.LETKF(inflation_factor=factor)
    adaptive = xdiffda.LETKF(inflation=Inflation(adaptive=True), inflation_factor=factor)
    with pytest.raises(InputError, match="of shape \\(3, 3\\)"):
        analyse(members, obs, method=adaptive)


def test_the_adaptive_factor_goes_from_cycle_to_cycle(tmp_path) -> None:
    truth, _ = world.make_states()
    small = make_members()
    mean = small.mean("member")
    small = mean + 0.3 * (small - mean)  # too sure of themselves
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    settings = {
        "method": xdiffda.LETKF(
            localisation=FAR, inflation=Inflation(adaptive=True, prior_std=0.3)
        ),
        "background_error": 1.0,
    }

    def run(name: str, n_cycles: int) -> xr.Dataset:
        return cycle(
            small.assign_coords(time=world.START),
            stream,
            out=tmp_path / name,
            n_members=10,
            n_cycles=n_cycles,
            carry="ensemble",
            model=world.make_prior(),
            seed=1,
            progress=False,
            forecaster=world.forecaster,
            settings=settings,
        ).load()

    found = run("one.zarr", 3)
    factor = found["inflation_factor"]
    assert factor.dims == ("time", "node", "channel")
    means = factor.mean(("node", "channel")).values
    assert 1.1 < means[0] < means[1] < means[2]
    # the second is what `assimilate` makes of the first, and starting anew is not
    second = open_cycle(tmp_path / "one.zarr", "analysis").isel(time=0, drop=True).load()
    start = world.forecaster(second.assign_coords(time=world.START))
    by_hand = assimilate(
        start,
        stream(start.time.values),
        model=world.make_prior(),
        seed=1,
        progress=False,
        **settings
        | {"method": dataclasses.replace(settings["method"], inflation_factor=factor[0].values)},
    )
    np.testing.assert_allclose(by_hand["inflation_factor"], factor[1], atol=1e-5)
    # resumed, it is the same
    run("two.zarr", 1)
    again = run("two.zarr", 3)
    xr.testing.assert_identical(again, found)
    with pytest.raises(InputError, match="inflation_factor as a setting of the method"):
        cycle(
            small.assign_coords(time=world.START),
            stream,
            out=tmp_path / "no.zarr",
            n_cycles=1,
            settings={"inflation_factor": 1},
            model=world.make_prior(),
        )
