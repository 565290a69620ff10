"""Observations as tables: two forms, one meaning, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import xdiffda
from xdiffda.errors import InputError
from xdiffda.observations import (
    default_error_std,
    drop_duplicates,
    select_window,
    to_columns,
    to_tidy,
)


def _columns(n_station: int = 4, seed: int = 0, missing: float = 0.3) -> xr.Dataset:
    """Columns in which every station, level and variable has at least one value."""
    rng = np.random.default_rng(seed)
    t = 280.0 + rng.standard_normal((n_station, 3))
    gap = rng.random(t.shape) < missing
    gap[:, rng.integers(0, 3)] = False
    gap[0] = False
    error = rng.uniform(0.5, 2.0, t.shape)
    hours = rng.integers(0, 3, n_station) * np.timedelta64(1, "h")
    time = np.datetime64("2020-01-01T00", "ns") + hours
    return xr.Dataset(
        {
            "temperature": (("station", "level"), np.where(gap, np.nan, t)),
            "temperature_error_std": (("station", "level"), np.where(gap, np.nan, error)),
            "2m_temperature": ("station", 285.0 + rng.standard_normal(n_station)),
            "2m_temperature_error_std": ("station", np.full(n_station, 0.7)),
        },
        {
            "station": [f"s{i}" for i in range(n_station)],
            "level": [300, 500, 850],
            "lat": ("station", rng.uniform(-90, 90, n_station)),
            "lon": ("station", rng.uniform(0, 360, n_station)),
            "time": ("station", time),
        },
        {"source": "test"},
    )


def _frame(**changes) -> pd.DataFrame:
    base = {
        "variable": ["temperature", "2m_temperature"],
        "lat": [10.0, 20.0],
        "lon": [30.0, 40.0],
        "level": [500.0, np.nan],
        "time": pd.Timestamp("2020-01-01"),
        "value": [255.0, 290.0],
        "error_std": [1.0, 2.0],
    }
    return pd.DataFrame({**base, **changes})


def _rows(tidy: xr.Dataset) -> list[tuple]:
    frame = tidy.to_dataframe().reset_index(drop=True)[sorted(tidy.variables)]
    return sorted(map(tuple, frame.fillna(-1.0).astype(str).to_numpy()))


@given(n=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_columns_to_tidy_and_back_is_the_identity(n, seed):
    columns = _columns(n, seed)
    back = to_columns(to_tidy(columns))
    xr.testing.assert_equal(back[list(columns.variables)], columns)
    assert back.attrs == columns.attrs


@given(n=st.integers(1, 40), seed=st.integers(0, 10_000), n_site=st.integers(1, 6))
def test_tidy_to_columns_and_back_loses_nothing(lab, n, seed, n_site):
    """Also with several values of one variable at one place and level."""
    tidy = lab.tidy(n, seed)
    rng = np.random.default_rng(seed)
    site = rng.integers(0, n_site, n)
    level = np.where(np.isnan(tidy.level), np.nan, rng.choice([300.0, 500.0], n))
    tidy = tidy.assign_coords(
        lat=("obs", tidy.lat.values[site % n]),
        lon=("obs", tidy.lon.values[site % n]),
        level=("obs", level),
        kind=("obs", rng.choice(["TEMP", "SYNOP"], n)),
    )
    assert _rows(to_tidy(to_columns(tidy))) == _rows(tidy)


def test_tidy_is_a_fixed_point(lab):
    tidy = to_tidy(lab.tidy(50))
    xr.testing.assert_identical(to_tidy(tidy), tidy)


def test_tidy_keeps_order_under_permutation(lab):
    tidy = lab.tidy(50)
    order = np.random.default_rng(1).permutation(50)
    xr.testing.assert_identical(to_tidy(tidy.isel(obs=order)), to_tidy(tidy).isel(obs=order))


def test_any_convention_of_columns_is_understood():
    user = xr.Dataset(
        {
            "t": (("plev", "site"), [[-23.0, np.nan], [5.0, 6.0]], {"units": "degC"}),
            "t_error_std": ("plev", [0.5, 0.8]),
            "msl": ("site", [1013.0, np.nan], {"units": "hPa"}),
            "msl_error_std": ((), 0.5),
            "z": (("plev", "site"), [[5600.0, 5500.0], [1500.0, np.nan]], {"units": "gpm"}),
        },
        {
            "latitude": ("site", [52.2, -10.0]),
            "longitude": ("site", [-14.0, 179.0]),
            "plev": ("plev", [50000.0, 85000.0], {"units": "Pa"}),
            "time": np.datetime64("2020-01-01T06", "ns"),
        },
    )
    tidy = to_tidy(user)
    table = tidy.to_dataframe().set_index(["variable", "level", "lon"])
    assert tidy.sizes["obs"] == 3 + 1 + 3
    assert table.loc[("temperature", 500.0, 346.0), "value"].item() == pytest.approx(250.15)
    assert table.loc[("temperature", 850.0, 179.0), "error_std"].item() == 0.8
    pressure = tidy.isel(obs=tidy.variable == "mean_sea_level_pressure")
    assert (pressure.value.item(), pressure.error_std.item()) == (101300.0, 50.0)
    assert np.isnan(pressure.level.item())
    height = table.loc[("geopotential", 500.0, 346.0)]
    assert height["value"].item() == pytest.approx(5600 * 9.80665)
    assert height["error_std"].item() == pytest.approx(8.4 * 9.80665)  # default by level
    assert np.all(tidy.time == np.datetime64("2020-01-01T06"))


def test_any_convention_of_frames_is_understood():
    frame = pd.DataFrame(
        {
            "Variable": ["t", "2t", "msl"],
            "latitude": 1.0,
            "longitude": [-1.0, 0.0, 361.0],
            "pressure": [85000.0, np.nan, np.nan],
            "value": [10.0, 12.0, 1000.0],
            "units": ["degC", "degC", "hPa"],
            "error_std": [1.0, 1.0, 1.0],
            "time": pd.to_datetime(["2020-01-01T02:00+02:00"] * 3),
        }
    )
    tidy = to_tidy(frame)
    assert tidy.variable.values.tolist() == [
        "temperature",
        "2m_temperature",
        "mean_sea_level_pressure",
    ]
    np.testing.assert_allclose(tidy.value, [283.15, 285.15, 1e5])
    np.testing.assert_allclose(tidy.error_std, [1.0, 1.0, 100.0])
    np.testing.assert_allclose(tidy.lon, [359.0, 0.0, 1.0])
    np.testing.assert_allclose(tidy.level, [850.0, np.nan, np.nan])
    assert np.all(tidy.time == np.datetime64("2020-01-01T00"))


def test_one_level_one_station_and_levels_by_station():
    single = xr.Dataset({"u": 5.0}, {"lat": 1.0, "lon": 2.0, "level": 250})
    assert to_tidy(single.expand_dims("station")).level.item() == 250.0
    aircraft = xr.Dataset(
        {"t": ("report", [250.0, 220.0]), "2t": ("report", [np.nan, 280.0])},
        {
            "lat": ("report", [1.0, 2.0]),
            "lon": ("report", [3.0, 4.0]),
            "level": ("report", [500.0, 237.0]),
        },
    )
    tidy = to_tidy(aircraft)
    np.testing.assert_array_equal(
        tidy.level.values[tidy.variable.values == "temperature"], [500.0, 237.0]
    )
    assert np.isnan(tidy.level.values[tidy.variable.values == "2m_temperature"]).all()


def test_time_dimension_gives_each_value_its_time():
    obs = xr.Dataset(
        {"2t": (("time", "station"), [[280.0, np.nan], [281.0, 282.0]])},
        {
            "time": pd.date_range("2020-01-01", periods=2, freq="6h"),
            "lat": ("station", [0.0, 1.0]),
            "lon": ("station", [0.0, 1.0]),
        },
    )
    tidy = to_tidy(obs)
    np.testing.assert_array_equal(tidy.value, [280.0, 281.0, 282.0])
    np.testing.assert_array_equal(tidy.time, obs.time.values[[0, 1, 1]])


def test_default_errors_are_filled_in_only_where_none_is_stated():
    frame = _frame().drop(columns="error_std")
    np.testing.assert_array_equal(to_tidy(frame).error_std, [1.0, 1.0])
    # ECMWF (IFS CY25r1): radiosonde heights at 500 and 100 hPa; in between by log-pressure
    between = np.sqrt(500.0 * 400.0)
    errors = default_error_std("geopotential", np.array([500.0, 100.0, between])) / 9.80665
    np.testing.assert_allclose(errors, [8.4, 18.1, 9.1])
    assert default_error_std("specific_humidity", 850.0) == 1e-3  # SPEEDY-LETKF: 1 g/kg


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"variable": ["chlorophyll", "2t"]},
            "1 values of 'chlorophyll'.*repair: `obs\\[obs..variable",
        ),
        ({"value": [np.nan, np.nan]}, "no observation at all"),
        ({"lat": [91.0, 0.0]}, r"lat` such as 91; needed degrees north"),
        ({"lon": [np.nan, 0.0]}, "lon` missing"),
        ({"error_std": [0.0, 1.0]}, "temperature with error_std such as 0; needed positive"),
        ({"error_std": [-1.0, np.nan]}, "2 observations.*error_std such as -1, nan"),
        (
            {"value": [20.0, 25.0], "variable": "2t", "level": np.nan},
            'values in \\[160, 350\\] K.*repair: `obs\\["units"\\] = "degC"`',
        ),
        ({"value": [np.inf, 290.0]}, "1 of 1 values of temperature such as inf"),
        ({"level": [np.nan, np.nan]}, "temperature without a pressure level"),
        ({"level": [500.0, 1000.0]}, "surface variable 2m_temperature with a pressure level"),
        ({"level": [-500.0, np.nan]}, "level` such as -500; needed positive pressure"),
        ({"lat": ["north", "south"]}, "lat` that is not all numbers"),
        ({"time": "yesterday at noon"}, "time` that is not a time"),
        ({"units": "bananas"}, "in 'bananas'; needed temperature in units that convert to K"),
    ],
)
def test_bad_frames_are_refused_with_the_repair(changes, match):
    with pytest.raises(InputError, match=match):
        to_tidy(_frame(**changes))


def test_all_problems_come_at_once():
    frame = _frame(lat=[95.0, 0.0], error_std=[-1.0, 1.0], value=[9999.0, 290.0])
    with pytest.raises(InputError, match="observations: 3 problems") as caught:
        to_tidy(frame)
    assert [p.found.split()[0] for p in caught.value.problems] == ["1", "1", "1"]
    assert all(problem.repair for problem in caught.value.problems)


def test_repairs_of_frames_are_calls_that_work():
    bad = _frame(lat=[95.0, 0.0])
    with pytest.raises(InputError) as caught:
        to_tidy(bad)
    repaired = eval(caught.value.problems[0].repair, {"obs": bad})
    assert to_tidy(repaired).sizes["obs"] == 1


@pytest.mark.parametrize(
    ("obs", "match"),
    [
        (xr.Dataset({"2t": ("station", [280.0])}), "no latitude and longitude"),
        (
            xr.Dataset({"2t": (("lat", "lon"), [[280.0]])}, {"lat": [0.0], "lon": [0.0]}),
            "a field on lat x lon.*emulate_obs",
        ),
        (
            xr.Dataset(
                {"plankton": ("station", [1.0])},
                {"lat": ("station", [0.0]), "lon": ("station", [0.0])},
            ),
            "'plankton'.*drop_vars",
        ),
        (
            xr.Dataset(
                {"2t": (("station", "beam"), [[280.0]])},
                {"lat": ("station", [0.0]), "lon": ("station", [0.0])},
            ),
            "2t` on station, beam.*isel\\(beam=0\\)",
        ),
        (
            xr.Dataset(
                {"t": ("station", [280.0])}, {"lat": ("station", [0.0]), "lon": ("station", [0.0])}
            ),
            "temperature without a pressure level.*drop_vars",
        ),
        (xr.Dataset({"value": ("obs", [1.0]), "variable": ("obs", ["t"])}), "no column `lat`"),
        (xr.DataArray([1.0], dims="station"), "a DataArray.*to_dataset"),
        ([1, 2], "a list"),
    ],
)
def test_bad_datasets_are_refused_with_the_repair(obs, match):
    with pytest.raises(InputError, match=match):
        to_tidy(obs)


def test_values_beyond_the_range_by_their_error_are_allowed():
    """A small humidity seen with an error of 1 g/kg may be negative."""
    frame = _frame(variable="q", level=300.0, value=[-0.012, 0.001], error_std=1e-3)
    assert to_tidy(frame).sizes["obs"] == 2
    with pytest.raises(InputError, match=r"specific_humidity such as -0.02"):
        to_tidy(_frame(variable="q", level=300.0, value=[-0.02, 0.001], error_std=1e-3))


def test_infinite_errors_are_allowed():
    assert np.isinf(to_tidy(_frame(error_std=[np.inf, 1.0])).error_std[0])


def test_duplicates_are_refused_and_dropped_on_request():
    frame = _frame()
    twice = pd.concat([frame, frame.iloc[:1]], ignore_index=True)
    with pytest.raises(InputError, match=r"1 duplicates, such as temperature = 255 .*drop_dupl"):
        to_tidy(twice)
    xr.testing.assert_identical(drop_duplicates(twice), to_tidy(frame))
    other_value = twice.assign(value=[255.0, 290.0, 256.0])  # two instruments, not one report
    assert to_tidy(other_value).sizes["obs"] == 3


def test_window_is_open_at_its_beginning_and_closed_at_its_end():
    stamps = pd.date_range("2020-01-01T00", periods=5, freq="3h")
    tidy = to_tidy(
        pd.DataFrame(
            {"variable": "2t", "lat": 0.0, "lon": range(5), "value": 280.0, "time": stamps}
        )
    )
    inside, rejected = select_window(tidy, "2020-01-01T06", "6h")
    np.testing.assert_array_equal(inside.lon, [2, 3])
    assert {reason.split(" (")[0]: list(where) for reason, where in rejected.items()} == {
        "before the window": [0, 1],
        "after the window": [4],
    }
    centres = ("2020-01-01T03", "2020-01-01T09")
    windows = [select_window(tidy, t, "6h")[0].lon.values for t in centres]
    assert sorted(np.concatenate(windows)) == [1, 2, 3, 4]  # successive windows share nothing
    assert select_window(tidy, "2020-01-01T06", "0h")[0].lon.values.tolist() == [2]


def test_observations_without_time_are_always_inside():
    tidy = to_tidy(_frame(time=pd.NaT))
    assert select_window(tidy, "1999-01-01")[0].sizes["obs"] == 2


def test_window_without_observations_is_an_error():
    tidy = to_tidy(_frame())
    match = r"2 of 2 observations after the window.*span 2020-01-01T00:00.*repair: `background.sel"
    with pytest.raises(InputError, match=match):
        select_window(tidy, "2019-12-31T00", "6h")
    with pytest.raises(InputError, match="positive width"):
        select_window(tidy, "2019-12-31T00", "-6h")


# --------------------------------------------------------- contradictory units and layers


def _gpm(value: float, level: float, **extra) -> pd.DataFrame:
    return _frame(variable="geopotential", value=[value, 1.02 * value], level=level, **extra)


def test_heights_taken_for_geopotential_are_noticed():
    with pytest.raises(InputError, match=r"0\.1\d* times the standard.*\"units\"\] = \"gpm\"") as e:
        to_tidy(_gpm(5600.0, 500.0))
    assert to_tidy(_gpm(5600.0, 500.0, units="gpm")).value[0] == pytest.approx(5600 * 9.80665)
    with pytest.raises(InputError, match='= "m2 s-2"'):
        to_tidy(_gpm(54900.0, 500.0, units="gpm"))
    assert "repair" in str(e.value)


def test_an_error_in_the_unit_of_something_else_is_refused():
    columns = _columns()
    columns["temperature_error_std"].attrs["units"] = "hPa"
    with pytest.raises(InputError, match="`temperature_error_std` in 'hPa', the error of "):
        to_tidy(columns)
    columns["temperature_error_std"].attrs["units"] = "degC"  # one degree is one kelvin
    assert to_tidy(columns).error_std.max() <= 2.0


def test_levels_in_pa_that_say_hpa_are_noticed():
    columns = _columns().assign_coords(level=("level", [30000, 50000, 85000], {"units": "hPa"}))
    with pytest.raises(InputError, match=r'such as 30000.* hPa.*attrs\["units"\] = "Pa"'):
        to_tidy(columns)


def test_values_that_contradict_their_unit_are_noticed():
    frame = _frame(variable="relative_humidity", level=500.0, value=[55.0, 60.0], units="1")
    with pytest.raises(
        InputError, match=r"median 57.5 1; needed values in \[-30, 200\] %; these fit %"
    ):
        to_tidy(frame)


def test_a_layer_has_a_top_and_a_bottom():
    layer = {"variable": "thickness", "value": [5400.0, 5500.0], "units": "gpm", "level": 500.0}
    tidy = to_tidy(_frame(**layer, level_bottom=100000.0))  # Pa, as its size says
    assert tidy.level_bottom.values.tolist() == [1000.0, 1000.0]
    assert tidy.value[0] == pytest.approx(5400 * 9.80665)
    for bottom in ({}, {"level_bottom": 300.0}):
        with pytest.raises(InputError, match="thickness with `level` such as 500.*of its bottom"):
            to_tidy(_frame(**layer, **bottom))


def test_heights_of_stations_survive_both_forms():
    tidy = to_tidy(_frame(station_height=[12.0, np.nan]))
    columns = to_columns(tidy)
    assert columns.station_height.values[0] == 12.0
    np.testing.assert_array_equal(to_tidy(columns).station_height, tidy.station_height)


def test_a_wind_of_which_one_component_cannot_be_goes_with_both() -> None:
    """260 kt from 350 degrees: v is 132 m/s and possible, u of 411 m/s beside it is not."""
    n = 12
    report = {"lat": np.repeat(np.arange(n) * 5.0, 2), "lon": 10.0, "level": 250.0}
    frame = pd.DataFrame(
        report | {"variable": ["u", "v"] * n, "value": np.tile([20.0, -10.0], n), "time": None}
    )
    frame.loc[4, "value"], frame.loc[7, "value"] = 411.0, -400.0  # u of report 2, v of report 3
    tidy = to_tidy(frame.assign(value=np.tile([20.0, -10.0], n)))
    columns = to_columns(tidy)
    columns["u_component_of_wind"][2] = 411.0
    columns["v_component_of_wind"][3] = -400.0
    for obs in (frame, columns):
        with pytest.raises(InputError, match="drop_out_of_range") as caught:
            to_tidy(obs)
        kept = eval(caught.value.problems[0].repair, {"obs": obs, "xdiffda": xdiffda})
        xr.testing.assert_equal(
            kept.sortby(["lat", "variable"]),
            tidy.isel(obs=~np.isin(tidy.lat, [10.0, 15.0])).sortby(["lat", "variable"]),
        )
        counted = json.loads(kept.attrs["xdiffda_observations_dropped"])
        assert counted["u_component_of_wind: out of range"] == 2
        assert counted["v_component_of_wind: out of range"] == 2


def test_rows_without_a_value_are_counted() -> None:
    frame = pd.DataFrame(
        {"variable": ["2t", "2t", "sp"], "lat": 1.0, "lon": [1, 2, 3], "value": [280, np.nan, 1e5]}
    )
    tidy = to_tidy(frame)
    assert tidy.sizes["obs"] == 2
    assert json.loads(tidy.attrs["xdiffda_observations_dropped"]) == {"2t: missing": 1}
    assert "1 2t: missing" in repr(tidy.diffda)
    assert to_tidy(tidy).attrs == tidy.attrs  # and once
    assert "xdiffda_observations_dropped" not in to_tidy(frame.dropna(subset="value")).attrs


def test_noise_of_few_is_no_other_unit() -> None:
    """Specific humidity aloft is far below its error: its median is that of the noise."""
    truth = xdiffda.open_sample("truth").isel(time=4)
    for seed in range(6):
        to_tidy(truth.diffda.emulate_obs(n_columns=40, seed=seed))
