"""One rule for the valid time of a state: every layout in use, and every reader of it."""

from __future__ import annotations

import warnings

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from places import SHARED

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
    ours = {"method": xdiffda.ThreeDVar(small_scales=False), "progress": False}
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
    space = {"ds": ds, "numpy": np, "pandas": pd, "xarray": xr, "cftime": cftime}
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
    with pytest.warns(UserWarning, match="the background has no valid time"):
        background.diffda.assimilate(obs, method="3dvar", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        undated = obs.drop_vars("time")
        background.diffda.assimilate(undated, method="3dvar", progress=False)


@pytest.mark.long
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


# ------------------------------------------------------------------ what only repairs can tell


@pytest.mark.parametrize(
    ("value", "units", "right"),
    [
        (3, "months since 2000-01-01", "2000-04-01"),
        ([3, 14], "months since 2000-01-15 12:00", ["2000-04-15T12", "2001-03-15T12"]),
        (2, "years since 2000-01-01", "2002-01-01"),
        (0.5, "years since 2001-01-01", "2001-07-02T14:54:36"),  # 182.62125 days
        (36, "hous since 2000-01-01", "2000-01-02T12"),
        (310461, "days since 0001-01-01", "2050-12-31"),  # of 850: 849 * 365 + 212 + 364 days
        (164370, "days since 1850-01-01", "1900-01-12"),  # the year 2300
    ],
)
def test_units_of_no_fixed_length_and_years_far_away_have_a_repair(value, units, right) -> None:
    ds = _state().assign_coords(time=(("time",) * np.ndim(value), value, {"units": units}))
    fixed = _repaired(ds, "not a time")
    assert np.all(read_clock(fixed).checked("ds") == np.array(right, "M8[ns]"))


@pytest.mark.parametrize("year", [850, 2300])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_years_that_nanoseconds_cannot_count_come_again(year: int, shape: tuple) -> None:
    dims = ("time", "lead")[: len(shape)]
    then = np.full(shape, f"{year:04d}-02-28T18", "M8[s]")
    ds = _state().assign_coords(valid_time=(dims, then))
    fixed = _repaired(ds, f"the year {year}")
    shown = read_clock(fixed).checked("ds")
    assert shown.dims == dims and str(shown.values.flat[0])[4:13] == "-02-28T18"
    assert (int(str(shown.values.flat[0])[:4]) - year) % 400 == 0


def test_lead_times_as_text_have_a_repair() -> None:
    for value, units in (("24", None), ("24.0", None), (24, "hous"), (24, "Hour")):
        attrs = {} if units is None else {"units": units}
        text = np.array(value, object) if isinstance(value, str) else value
        ds = _state(time=(START, {})).assign_coords(step=((), text, attrs))
        fixed = ds if units == "Hour" else _repaired(ds, "not a lead time")
        assert read_clock(fixed).checked("ds") == VALID
    months = _state(time=(START, {}), step=(1, {"units": "months"}))
    with pytest.raises(InputError, match="with_valid_time"):  # and never taken for hours
        read_clock(months).checked("ds")


def test_a_valid_time_can_be_told() -> None:
    ds = _state(time=(3, {"units": "moons since the flood"}))
    with pytest.raises(InputError) as raised:
        read_clock(ds).checked("ds")
    repair = raised.value.problems[0].repair
    fixed = eval(repair, {"ds": ds, "xdiffda": xdiffda, "valid_time": "2020-01-01T02+02:00"})
    assert read_clock(fixed).checked("ds") == VALID
    assert read_clock(xdiffda.with_valid_time(_state(), VALID)).checked("ds") == VALID
    named = _state(when=(VALID, {}), time=(START, {}))
    assert read_clock(xdiffda.with_valid_time(named, "when")).checked("ds") == VALID
    two = _state().expand_dims(time=[START, VALID])
    told = xdiffda.with_valid_time(two, two.time.values + DAY)
    np.testing.assert_array_equal(read_clock(told).checked("ds"), two.time.values + DAY)
    for wrong in ("tomorrow", "NaT", [VALID] * 3, [[VALID]]):
        with pytest.raises(InputError):
            xdiffda.with_valid_time(two, wrong)


# ------------------------------------------------------------------ real files through cfgrib

GRIDS = SHARED / "data" / "grids"


@pytest.mark.skipif(not GRIDS.exists(), reason="needs the real fields of ../shared/data")
@pytest.mark.parametrize(
    ("file", "initial", "hours"),
    [
        ("t2m_grib_older.grib", "2017-04-24T12", 24),
        ("ghtuv.grib", "2017-05-20T00", 30),
        ("pl_regular_ll.grib", "2024-06-03T12", 6),
        ("era5-levels-members.grib", "2017-01-01T12", 0),
    ],
)
def test_fields_of_cfgrib_are_labelled_when_they_are_valid(file, initial, hours) -> None:
    ds = xdiffda.open_dataset(GRIDS / file).isel(number=0, missing_dims="ignore")
    ds = ds.isel(time=1) if "time" in ds.dims else ds
    ds = (ds.isel(step=1) if "step" in ds.dims else ds).load()
    # what the file itself says, read by eccodes and put together here
    assert ds.time.values == np.datetime64(initial) and ds.step.values == np.timedelta64(hours, "h")
    valid = np.datetime64(initial) + np.timedelta64(hours, "h")
    said = f"{valid}".replace("T", " ") + ":00 UTC"
    layouts = {
        "scalars": ds,
        "vectors": ds.expand_dims(["time", "step"]),
        "without valid_time": ds.drop_vars("valid_time"),
        "valid_time along both": ds.drop_vars("valid_time")
        .expand_dims(["time", "step"])
        .assign_coords(valid_time=(("time", "step"), [[valid.astype("M8[ns]")]])),
    }
    other = ds.assign_coords(time=ds.time + ds.step - DAY, step=DAY, valid_time=ds.valid_time)
    for name, layout in layouts.items():
        assert np.all(read_clock(layout).checked(name) == valid), name
        assert said in repr(layout.squeeze().diffda), name
        obs = xdiffda.observations.emulate_obs(layout.squeeze(), n_columns=3)
        assert (obs["time"].values == valid).all(), name
        # another forecast for the same time is the truth of this one: they are the same fields
        score = xdiffda.verify.verify(layout.squeeze(), other)
        first = next(iter(score.data_vars.values())).sel(score="rmse")
        np.testing.assert_allclose(first, 0.0, atol=1e-6, err_msg=name)
        with pytest.raises(InputError):  # no truth of another time stands in for it
            xdiffda.verify.verify(
                layout.squeeze(), ds.drop_vars(["step", "valid_time"]).assign_coords(time=valid - 7)
            )


@pytest.mark.long
@pytest.mark.skipif(not GRIDS.exists(), reason="needs the real fields of ../shared/data")
def test_an_analysis_of_a_forecast_of_cfgrib_is_valid_when_the_forecast_is() -> None:
    ds = xdiffda.open_dataset(GRIDS / "pl_regular_ll.grib").isel(time=1)
    fc = ds.isel(step=1).drop_vars("r").load()
    pairs = xr.concat([ds.isel(step=0), ds.isel(step=1)], "sample").drop_vars("r").load()
    pairs = pairs.drop_vars(["time", "step", "valid_time"])
    prior = xdiffda.GaussianPrior.from_samples(
        xr.concat([pairs.isel(sample=0) - pairs.isel(sample=1)] * 2, "sample")
        * xr.DataArray([1.0, -1.0], dims="sample"),
    )
    obs = fc.diffda.emulate_obs(n_columns=30)
    ours = {"model": prior, "method": "3dvar", "progress": False}
    analysis = fc.diffda.assimilate(obs, **ours)
    assert (read_clock(analysis).checked("analysis") == np.datetime64("2024-06-03T18")).all()
    assert "2024-06-03 18:00 UTC" in repr(analysis.diffda)
    figure = analysis.diffda.map("t", level=500)
    assert "2024-06-03 18:00" in figure.get_suptitle().replace("T", " ")


def test_forecasts_are_labelled_from_the_valid_time_of_their_start() -> None:
    truth = xdiffda.open_sample("truth").isel(time=0).load()
    start = truth.time.values
    begun = truth.assign_coords(time=start - DAY, step=DAY)
    plain, later = truth.diffda.forecast("6h"), begun.diffda.forecast("6h")
    for forecast in (plain, later):
        assert np.all(read_clock(forecast).checked("forecast") == start + np.timedelta64(6, "h"))
    np.testing.assert_array_equal(plain["temperature"], later["temperature"])
