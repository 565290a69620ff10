"""Tables as users have them: read right, or refused with a repair that works when it is typed."""

from __future__ import annotations

import cftime
import numpy as np
import pandas
import pytest
import xarray

from xdiffda.errors import InputError
from xdiffda.observations import select_window, to_tidy

NOON = np.datetime64("2020-01-15T12", "ns")


def _frame(**columns) -> pandas.DataFrame:
    row = {
        "variable": ["t", "2t"],
        "lat": [50.0, 51.0],
        "lon": [-10.0, 10.0],
        "level": [500.0, np.nan],
        "time": NOON,
        "value": [250.0, 280.0],
    }
    return pandas.DataFrame(row | columns)


def _columns(n: int = 3) -> xarray.Dataset:
    return xarray.Dataset(
        {
            "t": (("station", "level"), 250.0 + np.arange(2.0 * n).reshape(n, 2), {"units": "K"}),
            "2t": ("station", 280.0 + np.arange(n), {"units": "K"}),
        },
        {
            "lat": ("station", np.linspace(10, 50, n)),
            "lon": ("station", np.linspace(-170, 170, n)),
            "level": [500, 850],
            "time": ("station", NOON + np.arange(n) * np.timedelta64(1, "h")),
        },
    )


def _repaired(obs, place: int = 0):
    """What the repair of an error makes of the observations: it is run as it is written."""
    with pytest.raises(InputError) as caught:
        to_tidy(obs)
    call = caught.value.problems[place].repair
    names = {"obs": obs.copy(), "pandas": pandas, "numpy": np, "xarray": xarray}
    if call.startswith(("obs[", "obs.loc[")) and " = " in call:
        exec(call, names)
        return names["obs"]
    return eval(call, names)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([1579089600, 1579093200], 'unit="s"'),
        ([2020011512, 2020011513], 'format="%Y%m%d%H"'),
        (np.array([1579089600, 1579093200], object), 'unit="s"'),
        (["2020011512", "2020011513"], 'format="%Y%m%d%H"'),
        (np.array([cftime.DatetimeNoLeap(2020, 1, 15, 12)] * 2, object), "calendar noleap"),
    ],
)
def test_times_that_mean_nothing_alone_are_refused_and_the_repair_reads_them(times, said):
    frame = _frame(time=times)
    with pytest.raises(InputError) as caught:
        to_tidy(frame)
    assert said in str(caught.value)
    assert to_tidy(_repaired(frame)).time.values[0] == NOON


def test_times_of_cftime_and_numbers_since_a_date_are_read():
    real = np.array([cftime.DatetimeProlepticGregorian(2020, 1, 15, 12)] * 2, object)
    assert (to_tidy(_frame(time=real)).time.values == NOON).all()
    obs = _columns()
    since = ("station", [0, 1, 2], {"units": "hours since 2020-01-15T12"})
    xarray.testing.assert_identical(
        to_tidy(obs.assign_coords(time=since)).drop_attrs(), to_tidy(obs).drop_attrs()
    )


def test_years_that_nanoseconds_cannot_count_are_refused():
    obs = _columns().assign_coords(time=("station", np.array(["1500-01-01"] * 3, "datetime64[s]")))
    with pytest.raises(InputError, match="the year 1500, outside 1678 to 2261"):
        to_tidy(obs)


def test_times_under_an_unknown_name_are_not_taken_for_the_analysis_time():
    late = NOON + np.timedelta64(30, "D")
    for obs in (
        _frame(time=late).rename(columns={"time": "stamp"}),
        _columns().rename(time="stamp"),
    ):
        with pytest.raises(InputError, match="times in `stamp` and no `time`"):
            to_tidy(obs)
        assert not np.isnat(to_tidy(_repaired(obs)).time.values).any()
    bare = _frame().drop(columns="time").set_index(pandas.DatetimeIndex([late, late]))
    assert (to_tidy(bare).time.values == late).all()


def test_an_index_that_is_also_a_column_and_columns_that_repeat():
    frame = _frame(station=["a", "b"])
    kept = frame.set_index("station", drop=False)
    assert to_tidy(kept).station.values.tolist() == ["a", "b"]
    twice = pandas.concat([frame, frame[["value"]] + 1], axis=1)
    with pytest.raises(InputError, match="columns value more than once"):
        to_tidy(twice)
    assert to_tidy(_repaired(twice)).value.values.tolist() == [250.0, 280.0]


def test_a_wide_table_is_told_from_a_tidy_one_and_its_repair_is_the_columns_form():
    wide = pandas.DataFrame({"lat": [1.0, 2.0], "lon": 3.0, "time": NOON, "t2m": [280.0, 281.0]})
    with pytest.raises(InputError, match="a wide table with columns t2m"):
        to_tidy(wide)
    made = wide.to_xarray()
    assert to_tidy(made).value.values.tolist() == [280.0, 281.0]


def test_a_report_of_airports_is_read_by_following_the_repairs():
    """A wide table with clocks of its own names, as METAR come: no repair loses the time."""
    frame = pandas.DataFrame(
        {
            "Unix_time": [1579089600, 1579093200],
            "Latitude": [1.0, 2.0],
            "Longitude": 3.0,
            "2t": [7.0, 8.0],
            "Vis": 1.0,
        }
    )
    obs = _repaired(frame)
    for _ in range(5):
        try:
            tidy = to_tidy(obs)
            break
        except InputError:
            obs = _repaired(obs)
    assert tidy.time.values.tolist() == [int(NOON.view(int)), int(NOON.view(int)) + 3600 * 10**9]
    np.testing.assert_allclose(tidy.value, [280.15, 281.15])


def test_the_unit_of_one_variable_is_said_of_that_variable_alone():
    """In kelvin and in metres a second beside each other: only what is wrong is mended."""
    frame = _frame(variable=["t", "u"], level=[500.0, 500.0], value=[-23.15, 30.0])
    fixed = to_tidy(_repaired(frame))
    np.testing.assert_allclose(fixed.value, [250.0, 30.0], rtol=1e-12)
    made = xarray.Dataset.from_dataframe(frame).rename(index="obs").drop_vars("obs")
    np.testing.assert_allclose(to_tidy(_repaired(made)).value, [250.0, 30.0], rtol=1e-12)
    columns = _columns().assign(t=_columns()["t"] - 273.15)
    assert to_tidy(_repaired(columns)).value.values.max() < 300


def test_the_unit_in_the_attributes_of_tidy_values_counts():
    tidy = to_tidy(_frame())
    celsius = tidy.assign(value=("obs", tidy.value.values - 273.15, {"units": "degC"}))
    np.testing.assert_allclose(to_tidy(celsius).value, tidy.value, rtol=1e-15)


@pytest.mark.parametrize(
    "wrong",
    [
        {"error_std": [-1.0, 2.0]},
        {"error_std": [np.nan, 2.0]},
        {"value": ["M", "280"]},
        {"variable": [None, "2t"]},
        {"lat": [95.0, 51.0]},
        {"level": [-5.0, np.nan]},
        {"level": [np.nan, np.nan]},
        {"value": [np.inf, 280.0]},
    ],
)
def test_a_repair_mends_its_problem_and_keeps_the_other_observation(wrong):
    frame = _frame(**wrong)
    fixed = to_tidy(_repaired(frame)).to_dataframe()
    other = fixed[fixed.variable == "2m_temperature"]
    assert other.value.tolist() == [280.0]
    if "error_std" in wrong:
        assert other.error_std.tolist() == [2.0]  # what was right is not overwritten


def test_names_of_bytes_are_text():
    tidy = to_tidy(_frame())
    made = tidy.assign_coords(variable=("obs", tidy.variable.values.astype("S")))
    xarray.testing.assert_identical(to_tidy(made), tidy)


def test_a_track_along_time_is_stations():
    obs = _columns()
    track = obs.swap_dims(station="time")
    xarray.testing.assert_identical(to_tidy(track), to_tidy(obs))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda o: o.drop_vars("2t").assign_coords(time=o.time.expand_dims(level=[500, 850])),
            "`time` on level, ",
        ),
        (
            lambda o: o.drop_vars("2t").assign_coords(lat=o.lat.expand_dims(level=[500, 850])),
            "`lat` on level, ",
        ),
        (lambda o: o.assign(t_error_std=("k", [1.0, 2.0])), "`t_error_std` on k; needed"),
        (lambda o: o.assign(t_error_std=("level", [-1.0, 2.0])), "with error_std such as -1"),
        (lambda o: o.assign_coords(level=[0, 850]), "`level` such as 0"),
        (lambda o: o.assign(bounds=(("station", "nv"), np.zeros((3, 2)))), "6 values of 'bounds'"),
        (lambda o: o.assign({"2t": o["2t"] + 500}), "2m_temperature such as 780"),
    ],
)
def test_columns_are_refused_with_a_repair_in_the_users_own_names(change, said):
    obs = change(_columns())
    with pytest.raises(InputError) as caught:
        to_tidy(obs)
    assert said in str(caught.value)
    if "780" not in said:  # that one leaves a level variable and no surface values
        assert to_tidy(_repaired(obs)).sizes["obs"] >= 6
    else:
        assert set(to_tidy(_repaired(obs)).variable.values) == {"temperature"}


@pytest.mark.parametrize("name", ["2t", "lat", "t_error_std"])
def test_text_among_numbers_is_a_problem_not_a_traceback(name):
    obs = _columns()
    obs["t_error_std"] = "level", [1.0, 1.0]
    obs[name] = obs[name].dims, ["x"] + ["1"] * (obs[name].size - 1)
    with pytest.raises(InputError, match=f"`{name}` that is not all numbers"):
        to_tidy(obs)


def test_a_window_is_read_or_refused():
    tidy = to_tidy(_frame())
    for time in (NOON, xarray.DataArray(NOON), pandas.Timestamp(NOON, tz="UTC")):
        assert select_window(tidy, time, np.timedelta64(6, "h"))[0].sizes["obs"] == 2
    for window in (6, "wide", None, float("inf")):
        with pytest.raises(InputError, match="a time and a positive width"):
            select_window(tidy, NOON, window)
    with pytest.raises(InputError, match=r"observations\.to_tidy\(obs\)"):
        select_window(_columns(), NOON)


def test_infinite_times_are_told_how_to_be_missing():
    with pytest.raises(InputError, match=r"infinite numbers.*numpy\.where"):
        to_tidy(_frame(time=np.inf))
