"""`assimilate` as users call it: closed forms where there are, refusals before any work."""

from __future__ import annotations

import datetime
import json
import warnings

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from gaussian_world import LAT, LAYOUT, LON, draw_states, make_prior

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.settings import window_problem
from xdiffda.errors import InputError

PRIOR = make_prior()
TIME = np.datetime64("2020-01-15T12", "ns")


@pytest.fixture(scope="module")
def background() -> xr.Dataset:
    return draw_states(PRIOR)[1]


def _one(**changes) -> pd.DataFrame:
    row = {
        "variable": "t",
        "lat": LAT[7],
        "lon": LON[3],
        "level": 500,
        "time": TIME,
        "value": 257.0,
        "error_std": 1.0,
    }
    return pd.DataFrame([row | changes])


def _analyse(background: xr.Dataset, obs, **given) -> xr.Dataset:
    usual = {
        "method": xdiffda.ThreeDVar(small_scales=False),
        "background_error": 1.0,
        "progress": False,
    }
    return assimilate(background, obs, model=PRIOR, **(usual | given))


def test_one_observation_on_the_grid_has_the_increment_of_the_textbook(background):
    """s^2 / (s^2 + e^2) times the innovation, whatever the unit and the turn of longitude."""
    variance = 1.5**2 * float(
        np.asarray(PRIOR.covariance.variance).reshape(-1)[LAYOUT.channel_index("temperature", 500)]
    )
    expected = 2.0 * variance / (variance + 1.0)
    for changes in (
        {},
        {"lon": LON[3] - 360.0},
        {"value": 257.0 - 273.15, "units": "degC"},
        {"level": 50000},
        {"time": "2020-01-15T14:00+02:00"},
    ):
        analysis = _analyse(background, _one(**changes))
        increment = (analysis - background)["temperature"].squeeze()
        assert float(increment[7, 3]) == pytest.approx(expected, rel=1e-4)
        assert float(increment.max()) == float(increment[7, 3])


def test_an_infinite_error_changes_nothing_and_warns_of_nothing(background):
    both = pd.concat([_one(), _one(lat=LAT[2], value=240.0, error_std=np.inf)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        got = _analyse(background, both)
    xr.testing.assert_allclose(got, _analyse(background, _one()), rtol=1e-6)


@pytest.mark.parametrize(
    "stamp",
    [
        "2020-02-15T12",
        datetime.datetime(2020, 2, 15, 12),
        cftime.DatetimeProlepticGregorian(2020, 2, 15, 12),
    ],
)
def test_the_window_holds_whatever_the_times_of_the_background_are_made_of(background, stamp):
    with pytest.raises(InputError, match="before the window"):
        _analyse(background.assign_coords(time=stamp), _one())


def test_undecoded_times_count_and_unreadable_ones_are_refused(background):
    bare = background.drop_vars("time").expand_dims("time")
    since = bare.assign_coords(time=("time", [12], {"units": "hours since 2020-02-15"}))
    with pytest.raises(InputError, match="before the window"):
        _analyse(since, _one())
    noleap = bare.assign_coords(time=[cftime.DatetimeNoLeap(2020, 1, 15, 12)])
    with pytest.raises(InputError, match="calendar noleap") as caught:
        _analyse(noleap, _one())
    mended = eval(caught.value.problems[0].repair, {"ds": noleap, "pandas": pd, "xarray": xr})
    assert json.loads(_analyse(mended, _one()).attrs["xdiffda_observations_used"]) == [1]


def test_several_lead_times_are_not_cut_to_the_first(background):
    start = background.assign_coords(time=TIME - np.timedelta64(6, "h"))
    steps = [start.assign_coords(step=np.timedelta64(h, "h")) for h in (6, 7)]
    both = xr.concat(steps, "step")
    with pytest.raises(InputError, match=r"2 lead times along `step`.*isel\(step=0\)"):
        _analyse(both, _one())
    first = _analyse(both.isel(step=0), _one())
    assert json.loads(first.attrs["xdiffda_observations_used"]) == [1]


def test_backgrounds_that_are_no_fields_are_told_so(background):
    places = background.stack(place=("lat", "lon"))
    with pytest.raises(InputError, match="along one dimension, `place`"):
        _analyse(places, _one())
    with pytest.raises(InputError, match="`temperature` of Python objects"):
        _analyse(background.astype(object), _one())


def test_numbers_of_numpy_are_numbers_to_the_end(background):
    """The settings are written as JSON when all the work is done: too late for a surprise."""
    plain = xdiffda.Guided(max_batch=2, small_scales=False)
    analysis = _analyse(
        background,
        _one(),
        seed=np.int64(3),
        n_members=np.int32(2),
        method=xdiffda.Guided(
            max_batch=np.uint8(2), antithetic=np.bool_(True), small_scales=np.bool_(False)
        ),
        background_error=np.float32(1.0),
        quality=xdiffda.Quality(gross_check=np.float32(5.0)),
        withhold=np.float64(0.0),
        window=np.timedelta64(6, "h"),
    )
    written = json.loads(analysis.attrs["xdiffda_settings"])
    assert (written["seed"], written["quality"]["gross_check"], written["max_batch"]) == (3, 5.0, 2)
    same = _analyse(background, _one(), seed=3, n_members=2, method=plain)
    xr.testing.assert_identical(analysis.drop_attrs(), same.drop_attrs())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 3.0),
        ("seed", None),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", "a"),
        ("window", 6),
        ("window", "wide"),
        ("window", None),
        ("window", np.inf),
        ("window", "-6h"),
        ("withhold", "a"),
        ("withhold", None),
        ("quality", "strict"),
        ("method", 3),
        ("background_error", "big"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name_before_anything_is_read(name, value):
    with pytest.raises(InputError, match=name) as caught:
        xdiffda.assimilate(None, None, model=PRIOR, **{name: value})  # type: ignore[arg-type]
    assert caught.value.what == "settings of assimilate"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("Guided", "n_steps", "8"),
        ("Guided", "n_steps", None),
        ("Guided", "n_steps", 2.5),
        ("Guided", "solver", {"tolerance": 0.1}),
        ("Guided", "hybrid", 0.5),
        ("Guided", "antithetic", "no"),
        ("Guided", "small_scales", "no"),
        ("Guided", "max_batch", 0),
        ("RePaint", "n_levels", 0),
        ("ThreeDVar", "solver", 3),
        ("OptimalInterpolation", "small_scales", None),
        ("LETKF", "localisation", "500 km"),
        ("Quality", "gross_check", "a"),
        ("Quality", "gross_check", None),
        ("Quality", "gross_check", np.nan),
        ("Quality", "gross_check", 0),
    ],
)
def test_settings_of_an_object_are_checked_when_it_is_made(kind, name, value):
    with pytest.raises(InputError, match=name):
        getattr(xdiffda, kind)(**{name: value})


def test_all_settings_that_are_wrong_are_said_at_once():
    with pytest.raises(InputError, match="4 problems"):
        xdiffda.assimilate(
            None,  # type: ignore[arg-type]
            None,
            model=PRIOR,
            seed=None,  # type: ignore[arg-type]
            window=6,  # type: ignore[arg-type]
            withhold=2,
            method="magic",
        )


def test_widths_of_a_window():
    for good in (
        "6h",
        "0h",
        np.timedelta64(6, "h"),
        datetime.timedelta(hours=6),
        pd.Timedelta("6h"),
    ):
        assert window_problem(good) is None
    problem = window_problem(12)
    assert problem is not None
    assert problem.repair == 'assimilate(obs, window="12h")'


def test_one_word_for_a_wrong_correlation_of_errors(background):
    with pytest.raises(InputError, match="error correlation: 1 problem"):
        _analyse(background, _one(), error_correlation="strong")


def test_pressure_without_a_height_is_told_to_state_it(background):
    obs = _one(variable="sp", level=np.nan, value=98000.0)
    with pytest.raises(InputError) as caught:
        _analyse(background, obs)
    assert "station_height" in caught.value.problems[0].repair
