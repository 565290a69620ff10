"""One rule for the valid time of a state: every layout in use, and every reader of it."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.plot.panels import at_valid_time
from xdiffda.state.clock import read_clock
from xdiffda.state.convert import read_metadata

START, VALID = np.datetime64("2019-12-31", "ns"), np.datetime64("2020-01-01", "ns")
DAY = np.timedelta64(24, "h").astype("timedelta64[ns]")
TIME, REFERENCE = {"standard_name": "time"}, {"standard_name": "forecast_reference_time"}
PERIOD = {"standard_name": "forecast_period"}

# name -> (value, attributes): all are valid at 2020-01-01 00 UTC
LAYOUTS = {
    "WeatherBench 2": {"time": (START, {}), "prediction_timedelta": (DAY, {})},
    "earth2studio": {"time": (START, {}), "lead_time": (DAY, {})},
    "cfgrib": {"time": (START, REFERENCE), "step": (DAY, PERIOD), "valid_time": (VALID, TIME)},
    "cfgrib without valid_time": {"time": (START, REFERENCE), "step": (DAY, PERIOD)},
    "CF": {
        "time": (VALID, TIME),
        "forecast_reference_time": (START, REFERENCE),
        "forecast_period": (DAY, PERIOD),
    },
    "CF without attributes": {
        "time": (VALID, {}),
        "forecast_reference_time": (START, {}),
        "forecast_period": (DAY, {}),
    },
    "initial and lead time": {"init_time": (START, {}), "lead_time": (DAY, {})},
    "ERA5 download": {"valid_time": (VALID, TIME), "expver": ("0001", {})},
    "GFS": {"time": (VALID, TIME), "reftime": (START, REFERENCE)},
    "GFS, hours in the name": {"time": (START, {}), "fhour": (np.int64(24), {})},
}


def _state(**clock) -> xr.Dataset:
    field = np.full((4, 8), 280.0) + np.arange(8)
    grid = {"lat": [67.5, 22.5, -22.5, -67.5], "lon": np.arange(0.0, 360.0, 45.0)}
    ds = xr.Dataset({"t2m": (("lat", "lon"), field, {"units": "K"})}, grid)
    return ds.assign_coords({k: ((), v, a) for k, (v, a) in clock.items()})


def _undecoded(ds: xr.Dataset) -> xr.Dataset:
    """Times and lead times as the integers that are in the file."""
    for name, coord in ds.coords.items():
        hour = np.timedelta64(1, "h")
        if coord.dtype.kind == "M":
            hours = (coord.values - np.datetime64("1900-01-01", "ns")) // hour
            new = (coord.dims, hours, {**coord.attrs, "units": "hours since 1900-01-01"})
        elif coord.dtype.kind == "m":
            new = (
                coord.dims,
                coord.values.astype(np.int64),
                {**coord.attrs, "units": "nanoseconds"},
            )
        else:
            continue
        ds = ds.assign_coords({name: new})
    return ds


@pytest.mark.parametrize("decoded", [True, False])
@pytest.mark.parametrize("along", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_valid_when_its_fields_are(name: str, along: bool, decoded: bool) -> None:
    ds = _state(**LAYOUTS[name])
    if along:
        ds = ds.expand_dims(list(LAYOUTS[name]))
    ds = ds if decoded else _undecoded(ds)
    assert np.all(read_clock(ds).checked("ds") == VALID)
    one = ds.squeeze() if name in ("GFS", "ERA5 download") else ds
    assert np.all(read_metadata(one.squeeze()).valid_times == VALID)
    later = np.datetime64("2020-01-01T00", "ns")
    both = xr.concat([_state(time=(t, TIME)) for t in (START, later)], "time")
    both["t2m"].values[1] += 5.0
    score = xdiffda.verify.verify(ds.squeeze(), both)["2m_temperature"].sel(score="bias")
    np.testing.assert_allclose(score, -5.0)  # of 2020-01-01, not of the day before
    assert "2020-01-01 00:00 UTC" in repr(ds.squeeze().diffda)
    obs = xdiffda.observations.emulate_obs(ds.squeeze(), n_columns=3)
    assert (obs["time"].values == VALID).all()


@pytest.mark.parametrize("lead", ["prediction_timedelta", "step", "lead_time"])
@pytest.mark.parametrize("along", [False, True])
def test_an_analysis_keeps_the_lead_time_of_its_background(lead: str, along: bool) -> None:
    truth = xdiffda.open_sample("truth").isel(time=0)
    plain = xdiffda.open_sample("background").isel(time=0)
    obs = truth.diffda.emulate_obs(n_columns=40)
    background = plain.assign_coords({"time": plain.time.values - DAY, lead: DAY})
    if along:
        background = background.expand_dims(["time", lead])
    ours = {"method": "3dvar", "small_scales": False, "progress": False}
    analysis = background.diffda.assimilate(obs, **ours)
    assert (read_clock(analysis).checked("analysis") == truth.time.values).all()
    assert lead in analysis.coords
    expected = plain.diffda.assimilate(obs, **ours)
    np.testing.assert_array_equal(
        analysis.temperature.values.squeeze(), expected.temperature.values.squeeze()
    )
    assert analysis.diffda.verify(xdiffda.open_sample("truth")).sizes["score"]
    figure = analysis.diffda.map("t", level=500)
    assert f"{truth.time.values:}"[:10] in figure.get_suptitle()


def _repaired(ds: xr.Dataset, message: str) -> xr.Dataset:
    with pytest.raises(InputError, match=message) as raised:
        read_metadata(ds).valid_times  # noqa: B018
    space = {"ds": ds, "numpy": np, "pandas": pd, "xarray": xr}
    return eval(raised.value.problems[0].repair, space)


@pytest.mark.parametrize("value", [24, 24.0])
def test_a_lead_time_without_unit_is_refused_and_repaired(value: float) -> None:
    fixed = _repaired(_state(time=(START, {}), step=(value, {})), "without a unit")
    assert read_clock(fixed).checked("ds") == VALID
    nanoseconds = _state(time=(START, {}), step=(DAY.astype(int), {}))
    assert read_clock(_repaired(nanoseconds, "without a unit")).checked("ds") == VALID
    assert read_clock(_state(time=(START, {}), step=(0, {}))).checked("ds") == START


@pytest.mark.parametrize("name", ["datetime", "reftime", "valid_date", "base_time"])
def test_a_clock_under_another_name_is_refused_with_the_rename(name: str) -> None:
    fixed = _repaired(_state(**{name: (VALID, {})}), f"a clock in `{name}`")
    assert read_clock(fixed).checked("ds") == VALID
    if name in ("reftime", "base_time"):
        fixed = _repaired(_state(**{name: (START, {}), "step": (DAY, {})}), f"`{name}`")
        assert read_clock(fixed).checked("ds") == VALID


def test_contradictions_and_missing_times_are_refused() -> None:
    at = {"time": (START, {}), "step": (DAY, {}), "valid_time": (VALID + DAY, {})}
    assert read_clock(_repaired(_state(**at), "contradict")).checked("ds") == VALID
    at = {"time": (VALID + DAY, {}), "init_time": (START, {}), "lead_time": (DAY, {})}
    assert read_clock(_repaired(_state(**at), "contradict")).checked("ds") == VALID
    nothing = np.datetime64("NaT", "ns")
    assert read_clock(_repaired(_state(time=(nothing, {})), "NaT")).checked("ds") is None
    for lead in (np.timedelta64("NaT", "ns"), np.nan):
        step = (lead, {"units": "hours"} if lead is np.nan else {})
        _repaired(_state(time=(START, {}), step=step), "NaT")
    fixed = _repaired(_state(init_time=(VALID, {})), "without a lead time")
    assert read_clock(fixed).checked("ds") == VALID


def test_time_zones_become_utc() -> None:
    there = pd.Timestamp("2020-01-01T02:00", tz="Europe/Helsinki")
    for stamp in (there, "2020-01-01T02:00+02:00"):
        ds = _state().assign_coords(time=((), np.array(stamp, object)))
        convention = read_metadata(ds)
        assert convention.valid_times == VALID and convention.template["time"].values == VALID
    ds = _state().expand_dims(time=1).assign_coords(time=pd.DatetimeIndex([there]))
    assert read_metadata(ds).valid_times == VALID


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
@pytest.mark.parametrize("along", [False, True])
@pytest.mark.parametrize("decoded", [False, True])
def test_calendars_of_climate_models(calendar: str, along: bool, decoded: bool) -> None:
    attrs = {"units": "days since 2020-01-01", "calendar": calendar}
    ds = _state(time=(0, attrs))
    ds = ds.expand_dims("time") if along else ds
    ds["time"].attrs = attrs
    if decoded:
        ds = xr.decode_cf(ds, decode_times=xr.coders.CFDatetimeCoder(use_cftime=True))
    if calendar != "standard":
        ds = _repaired(ds, f"calendar {calendar}")
    assert np.all(read_metadata(ds).valid_times == VALID)


def test_a_background_without_a_clock_warns_beside_dated_observations() -> None:
    truth = xdiffda.open_sample("truth").isel(time=0)
    background = xdiffda.open_sample("background").isel(time=0, drop=True)
    obs = truth.diffda.emulate_obs(n_columns=40)
    with pytest.warns(UserWarning, match="the background tells no time"):
        background.diffda.assimilate(obs, method="3dvar", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        undated = obs.drop_vars("time")
        background.diffda.assimilate(undated, method="3dvar", progress=False)


def test_what_a_forecast_says_of_its_time_is_unambiguous() -> None:
    truth = xdiffda.open_sample("truth")
    one = truth.isel(time=0).diffda.forecast("12h")
    np.testing.assert_array_equal(read_clock(one).checked("one"), truth.time.values[1:3])
    last = one.isel(time=-1).drop_vars("init_time")
    assert read_clock(last).checked("last") == truth.time.values[2]
    several = truth.isel(time=[0, 4]).diffda.forecast("12h")
    np.testing.assert_array_equal(
        read_clock(several).checked("several"),
        [truth.time.values[1:3], truth.time.values[5:7]],
    )


def test_maps_of_forecasts_are_along_valid_times() -> None:
    field = _state(time=(START, {})).expand_dims(lead_time=[0 * DAY, DAY])
    from xdiffda.state.canonical import canonical

    shown = at_valid_time(canonical(field)["2m_temperature"])
    np.testing.assert_array_equal(shown["time"], [START, VALID])
