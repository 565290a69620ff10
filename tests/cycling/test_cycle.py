"""cycle: what is carried, what is exact, what resumes; on a tiny world that turns."""

from __future__ import annotations

import json

import cycle_world as world
import numpy as np
import pytest
import xarray as xr
from same_bytes import same_bytes

import xdiffda
from xdiffda.cycling.config import Assimilation
from xdiffda.cycling.cycle import cycle
from xdiffda.cycling.observation_stream import emulated_stream
from xdiffda.cycling.record import read_observations
from xdiffda.cycling.store import open_cycle
from xdiffda.errors import InputError
from xdiffda.observations import to_tidy
from xdiffda.state.convert import to_state

GUIDED = {"method": xdiffda.Guided(n_steps=3, covariance="climatological"), "background_error": 1.0}


def _array(ds: xr.Dataset) -> np.ndarray:
    return to_state(ds, world.LAYOUT)[0]


def _at(ds: xr.Dataset, n: int) -> np.ndarray:
    return _array(ds.isel(time=n))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """Six cycles of 3D-Var at once, with truth."""
    out = tmp_path_factory.mktemp("whole") / "run.zarr"
    return out, world.run(out, 6).load()


def test_the_first_background_is_given_and_the_next_are_forecasts_of_the_analysis(whole) -> None:
    background = open_cycle(whole[0], "background").load()
    analysis = open_cycle(whole[0], "analysis").load()
    np.testing.assert_array_equal(_at(background, 0), _array(world.make_states()[1]))
    for n in range(5):
        turned = world.forecaster(analysis.isel(time=n, member=0))
        np.testing.assert_array_equal(_at(background, n + 1), _array(turned))


def test_errors_settle_below_the_first_and_the_free_run_keeps_its_own(whole) -> None:
    error = whole[1]["normalized_error"]
    analysis, background, free = (error.sel(state=s).values for s in error.state.values)
    assert background[0] == free[0] and analysis[0] < 0.5 * background[0]
    # the perfect forecaster of this world turns errors with the state and changes no score
    np.testing.assert_allclose(free, free[0], rtol=1e-5)
    np.testing.assert_allclose(background[1:], analysis[:-1], rtol=1e-5)
    assert analysis[-1] < 0.95 * analysis[0]


def test_scores_are_those_of_verify(whole) -> None:
    truth, _ = world.make_states()
    analysis = open_cycle(whole[0], "analysis").load().isel(time=2)
    expected = analysis.diffda.verify(truth)
    found = open_cycle(whole[0], "scores").load().isel(time=2).sel(state="analysis")
    for name in ("temperature", "2m_temperature"):
        for score in ("rmse", "bias", "crps"):
            np.testing.assert_allclose(
                found[name].sel(score=score), expected[name].sel(score=score), rtol=1e-5
            )
    assert np.isnan(found["temperature"].sel(score="spread")).all()  # of one member


def test_each_analysis_is_that_of_assimilate(whole) -> None:
    truth, _ = world.make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    background = open_cycle(whole[0], "background").load().isel(time=3)
    alone = xdiffda.assimilate(
        background,
        stream(background.time.values),
        model=world.make_prior(),
        seed=1,
        progress=False,
        **world.QUICK,
    )
    np.testing.assert_array_equal(_at(open_cycle(whole[0], "analysis"), 3), _array(alone))


def test_observations_are_read_as_given_and_give_the_analysis_again(whole) -> None:
    truth, _ = world.make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    found = read_observations(whole[0])
    given = xr.concat([to_tidy(stream(time)) for time in truth.time.values[:6]], "obs")
    xr.testing.assert_equal(
        found.drop_vars(["status", "analysis_time"]), given.drop_vars("station")
    )
    np.testing.assert_array_equal(found.analysis_time, given.time)
    background = open_cycle(whole[0], "background").load().isel(time=3)
    again = xdiffda.assimilate(
        background,
        read_observations(whole[0], truth.time.values[3]),
        model=world.make_prior(),
        seed=1,
        progress=False,
        **world.QUICK,
    )
    np.testing.assert_array_equal(_at(open_cycle(whole[0], "analysis"), 3), _array(again))
    with pytest.raises(InputError, match="no cycle at 2020-01-20"):
        read_observations(whole[0], "2020-01-20")


def test_observations_say_what_became_of_them(tmp_path) -> None:
    truth, background = world.make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    wanted = np.full(60, "used", "U16")
    wanted[[6, 7, 11, 30]] = "gross_error", "outside_levels", "unknown_variable", "outside_window"

    def spoilt(time: np.datetime64) -> xr.Dataset:
        table = to_tidy(stream(time)).drop_vars("station").to_dataframe()
        table["kind"] = ["ship", "a buoy"] * 30
        table.loc[5, "kind"] = None
        table.loc[6, "value"] += 30
        table.loc[7, ["variable", "level", "value"]] = "temperature", 100.0, 210.0
        table.loc[11, ["variable", "level", "value"]] = "geopotential", 500.0, 54000.0
        table.loc[30, "time"] += np.timedelta64(4, "h")
        return to_tidy(table)

    run = cycle(
        background,
        spoilt,
        out=tmp_path / "run.zarr",
        n_cycles=1,
        model=world.make_prior(),
        forecaster=world.forecaster,
        settings=world.QUICK | {"withhold": 0.2},
        progress=False,
    ).load()
    found, given = read_observations(tmp_path / "run.zarr"), spoilt(world.START)
    where = [int(np.flatnonzero(given.value.values == value)[0]) for value in found.value.values]
    assert sorted(where) == list(range(60))
    xr.testing.assert_equal(
        found.drop_vars(["status", "analysis_time", "kind"]),
        given.isel(obs=where).drop_vars("kind"),
    )
    held = found.status.values == "withheld"
    assert 0 < held.sum() < 30 and (found.status.values == wanted[where])[~held].all()
    kinds = ["" if i == 5 else given.kind.values[i].replace(" ", "_") for i in where]
    assert found.kind.values.tolist() == kinds
    assert int(run.n_obs_used[0]) == (found.status == "used").sum()
    counted = [int((found.status == reason).sum()) for reason in run.reason.values]
    assert run.n_obs_rejected[0].values.tolist() == counted and sum(counted) == 4


def test_more_cycles_are_added_as_if_never_stopped(whole, tmp_path) -> None:
    for n_cycles in (1, 4, 6, 2):
        found = world.run(tmp_path / "run.zarr", n_cycles)
    assert same_bytes(tmp_path / "run.zarr", whole[0])
    assert found.sizes["time"] == 6


def test_a_table_of_all_times_equals_the_stream_and_each_is_used_once(whole, tmp_path) -> None:
    truth, background = world.make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    tables = [to_tidy(stream(time)) for time in truth.time.values[:3]]
    for table, hours in zip(tables, (0, 3, -2), strict=True):  # anywhere within the windows
        table["time"] = table.time + np.timedelta64(hours, "h")
    found = cycle(
        background,
        xr.concat(tables, "obs").assign_attrs(description="in words"),
        out=tmp_path / "run.zarr",
        n_cycles=3,
        model=world.make_prior(),
        forecaster=world.forecaster,
        seed=1,
        settings=world.QUICK,
        progress=False,
    ).load()
    np.testing.assert_array_equal(found.n_obs_used, [60, 60, 60])
    assert "score_temperature" not in found and "free_run_temperature" not in found
    for name in ("temperature", "2m_temperature"):
        np.testing.assert_allclose(found[name], whole[1][name][:3], rtol=1e-6)


@pytest.mark.parametrize("carry", ["mean", "ensemble"])
def test_members_are_carried_as_told(carry, tmp_path) -> None:
    """With a forecaster that is not linear, forecast of the mean is not mean of forecasts."""

    def bent(ds: xr.Dataset) -> xr.Dataset:
        return (ds + 0.1 * (ds - 275) ** 2).assign_coords(time=ds.time + world.STEP)

    found = world.run(
        tmp_path / "run.zarr", 2, settings=GUIDED, n_members=2, carry=carry, forecaster=bent
    )
    before = open_cycle(tmp_path / "run.zarr", "analysis").isel(time=0).load()
    assert before.sizes["member"] == 2 and float(before.temperature.std("member").min()) > 0
    forecasts = bent(before).mean("member") if carry == "ensemble" else bent(before.mean("member"))
    background = open_cycle(tmp_path / "run.zarr", "background").isel(time=1)
    np.testing.assert_allclose(_array(background), _array(forecasts), rtol=1e-6)
    spread = found["score_temperature"].sel(state="background", score="spread").isel(time=1)
    if carry == "ensemble":
        assert (spread > 0).all()
    else:
        assert np.isnan(spread).all()


def test_a_letkf_cycles_its_own_members(tmp_path) -> None:
    """Members whose mean is the background and whose spread is that of its error."""
    import jax

    truth, background = world.make_states()
    draws = world.make_prior().covariance.sample(jax.random.split(jax.random.key(9), 12))
    draws = np.moveaxis(np.asarray(draws), 1, 0)
    x = _array(background) + world.SCALE * (draws - draws.mean(0))
    convention = world.default_convention(world.LAYOUT)
    members = world.from_state(x.astype(np.float32), world.LAYOUT, convention, dims=("member",))
    stream = emulated_stream(truth, n_columns=40, error_std=world.ERRORS, seed=3)
    found = cycle(
        members.assign_coords(time=world.START),
        stream,
        out=tmp_path / "run.zarr",
        n_cycles=3,
        truth=truth,
        carry="ensemble",
        n_members=12,
        model=world.make_prior(),
        forecaster=world.forecaster,
        settings={"method": "letkf"},
        progress=False,
    ).load()
    error = found["normalized_error"].sel(state="analysis").values
    assert error[0] < 0.8 * found["normalized_error"].sel(state="free_run")[0]
    assert error[2] < error[0]
    turned = world.forecaster(open_cycle(tmp_path / "run.zarr", "analysis").isel(time=1)).load()
    spread = turned.std("member", ddof=1).temperature
    assert found.sizes["member"] == 12 and float(spread.min()) > 0
    score = found["score_temperature"].sel(state="background", score="spread").isel(time=2)
    weight = np.cos(np.deg2rad(spread.lat))
    expected = np.sqrt((spread**2).weighted(weight).mean(("lat", "lon")))
    np.testing.assert_allclose(score, expected, rtol=0.05)


def test_an_ensemble_resumes_exactly(tmp_path) -> None:
    choices = {"settings": GUIDED, "n_members": 2, "carry": "ensemble", "truth": None}
    world.run(tmp_path / "one.zarr", 3, **choices)
    for n_cycles in (2, 3):
        world.run(tmp_path / "two.zarr", n_cycles, **choices)
    assert same_bytes(tmp_path / "one.zarr", tmp_path / "two.zarr")


def test_without_observations_the_background_stands(tmp_path) -> None:
    truth, background = world.make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    hours = np.timedelta64(5, "h")
    gaps = {truth.time.values[1]: None, truth.time.values[2]: stream(truth.time.values[2])}
    late = gaps[truth.time.values[2]]
    gaps[truth.time.values[2]] = late.assign_coords(time=late.time + hours)
    with pytest.warns(UserWarning, match="no observation within 6h") as record:
        found = cycle(
            background,
            lambda time: gaps.get(time, stream(time)),
            out=tmp_path / "run.zarr",
            n_cycles=3,
            n_members=2,
            carry="ensemble",
            model=world.make_prior(),
            forecaster=world.forecaster,
            settings=GUIDED,
            progress=False,
        ).load()
    assert len(record) == 2 and "60 were given for other times" in str(record[1].message)
    assert found.n_obs_used.values.tolist() == [60, 0, 0]
    assert found.n_obs_rejected.sel(reason="outside_window").values.tolist() == [0, 0, 60]
    assert np.isnan(found.background_error.values).tolist() == [False, True, True]
    kept = read_observations(tmp_path / "run.zarr")
    assert kept.status.values.tolist() == ["used"] * 60 + ["outside_window"] * 60
    assert (kept.analysis_time[60:] == truth.time[2]).all()
    assert (kept.time[60:] == truth.time[2] + hours).all()
    assert read_observations(tmp_path / "run.zarr", truth.time.values[1]).sizes["obs"] == 0
    analysis = open_cycle(tmp_path / "run.zarr", "analysis").load()
    turned = world.forecaster(analysis.isel(time=0))
    np.testing.assert_array_equal(_at(analysis, 1), _array(turned))  # each member its own


def test_the_users_convention_is_that_of_the_store(whole, tmp_path) -> None:
    truth, background = world.make_states()
    theirs = background.rename(
        {
            "lat": "latitude",
            "lon": "longitude",
            "level": "plev",
            "temperature": "t",
            "2m_temperature": "t2m",
        }
    )
    theirs = theirs.assign_coords(plev=("plev", [50000, 85000], {"units": "Pa"}))
    theirs = theirs.isel(latitude=slice(None, None, -1), plev=[1, 0])
    theirs["t2m"] = (theirs["t2m"] - 273.15).assign_attrs(units="degC")
    step = np.timedelta64(48, "h")  # a forecast in the words of GRIB
    theirs = theirs.assign_coords(step=step, time=world.START - step)

    def forecaster(ds: xr.Dataset) -> xr.Dataset:
        assert ds["t2m"].attrs["units"] == "degC" and "step" not in ds.coords
        return ds.roll(longitude=1).assign_coords(time=ds.time + world.STEP)

    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    found = cycle(
        theirs,
        stream,
        out=tmp_path / "run.zarr",
        n_cycles=2,
        n_members=1,
        seed=1,
        truth=truth,
        model=world.make_prior(),
        forecaster=forecaster,
        settings=world.QUICK,
        progress=False,
    )
    assert found["t2m"].attrs["units"] == "degC" and found.latitude[0] > found.latitude[-1]
    assert found["score_temperature"].dims == ("time", "state", "score", "score_level")
    analysis = open_cycle(tmp_path / "run.zarr", "analysis").load()
    np.testing.assert_allclose(
        _at(analysis, 1), _at(open_cycle(whole[0], "analysis"), 1), atol=2e-3
    )
    scores = open_cycle(tmp_path / "run.zarr", "scores")
    assert scores.level.values.tolist() == [500, 850]


def test_settings_are_those_of_assimilate() -> None:
    import dataclasses
    import inspect

    from xdiffda.cycling.config import OWN

    theirs = {
        n: p.default
        for n, p in inspect.signature(xdiffda.assimilate).parameters.items()
        if n not in OWN
    }
    mine = {f.name: f.default for f in dataclasses.fields(Assimilation)}
    mine["window"] = "6h"  # here None, the length of the cycle
    mine["method"] = mine["method"].name  # here the object
    assert mine == {name: theirs.get(name, "no such setting") for name in mine}


def test_provenance_says_what_was_run(whole) -> None:
    config = json.loads(whole[1].attrs["xdiffda_cycle"])
    assert config["seed"] == 1 and config["carry"] == "mean" and config["cycle_length"] == "6h"
    assert config["settings.method"] == "3dvar" and config["settings.window"] == "6h"
    assert config["observations"]["n_columns"] == 20 and config["forecaster"] == "forecaster"


def test_the_progress_bar_says_time_and_error(tmp_path, capsys) -> None:
    world.run(tmp_path / "run.zarr", 1)
    truth, background = world.make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    cycle(
        background,
        stream,
        out=tmp_path / "run.zarr",
        n_cycles=2,
        n_members=1,
        seed=1,
        truth=truth,
        model=world.make_prior(),
        forecaster=world.forecaster,
        settings=world.QUICK,
        progress=True,
    )
    said = capsys.readouterr().err
    assert "2020-01-15T18Z error analysis 0." in said and "free run 1." in said and "2/2" in said
