"""What users give `emulate_obs`, `dilate_mask` and `interpolate`: right, or refused at once."""

from __future__ import annotations

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations import dilate_mask, emulate_obs, interpolate
from xdiffda.state.variables import G0


@pytest.fixture(scope="module")
def truth() -> xr.Dataset:
    levels = xr.DataArray([500, 850], dims="level", coords={"level": [500, 850]})
    grid = {"lat": [67.5, 22.5, -22.5, -67.5], "lon": np.arange(0.0, 360.0, 45.0)}
    flat = xr.DataArray(np.full((4, 8), 1.0), grid, ("lat", "lon"))
    ds = xr.Dataset(
        {
            "geopotential": flat * xr.where(levels == 500, 5.4e4, 1.4e4),
            "2m_temperature": 280.0 * flat,
        }
    )
    return ds.assign_coords(time=np.datetime64("2020-01-15T12", "ns"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"fraction": "0.1"},
        {"fraction": np.nan},
        {"n_columns": 2.7},
        {"n_columns": "4"},
        {"n_columns": np.nan},
        {"n_columns": np.inf},
        {"n_columns": [4]},
        {"variables": []},
        {"variables": 3},
        {"levels": []},
        {"levels": slice(None)},
        {"error_std": [1.0]},
        {"error_std": np.ones(3)},
        {"error_std": {"geopotential": "x"}},
        {"error_std": xr.DataArray([1.0, 2.0], {"level": [500, 850]}, ("level",))},
        {"sites": [(1, 2)]},
        {"sites": "all"},
        {"sites": {"lat": ["a"], "lon": [2]}},
        {"sites": {"lat": [1, 2], "lon": [1, 2], "station": ["a"]}},
        {"sites": xr.Dataset(coords={"lat": [1.0, 2.0], "lon": [1.0, 2.0]})},
    ],
)
def test_what_cannot_be_is_refused(truth, wrong):
    given = wrong if {"fraction", "n_columns", "sites"} & {*wrong} else wrong | {"n_columns": 3}
    with pytest.raises(InputError, match="repair"):
        emulate_obs(truth, **given)


def test_sites_of_a_data_frame_with_their_names_in_the_index(truth):
    sites = pd.DataFrame(
        {"lat": [1.0, 2.0], "lon": [-3.0, 4.0]}, pd.Index(["a", "b"], name="station")
    )
    obs = emulate_obs(truth, sites=sites)
    assert obs.station.values.tolist() == ["a", "b"]
    assert obs.lon.values.tolist() == [357.0, 4.0]


def test_errors_in_other_units_and_of_a_series_are_those_of_numbers(truth):
    plain = emulate_obs(truth, n_columns=3, error_std={"geopotential": 10 * G0})
    heights = xr.Dataset({"geopotential": ((), 10.0, {"units": "gpm"})})
    for same in (heights, pd.Series({"geopotential": 10 * G0})):
        xr.testing.assert_allclose(
            emulate_obs(truth, n_columns=3, error_std=same), plain, rtol=1e-12
        )
    with pytest.raises(InputError, match="error_std of geopotential in 'hPa'"):
        wrong = xr.Dataset({"geopotential": ((), 1.0, {"units": "hPa"})})
        emulate_obs(truth, n_columns=3, error_std=wrong)


def test_times_of_other_calendars_are_not_lost_silently(truth):
    real = truth.assign_coords(time=cftime.DatetimeProlepticGregorian(2020, 1, 15, 12))
    assert (emulate_obs(real, n_columns=3).time.values == truth.time.values).all()
    other = truth.assign_coords(time=cftime.DatetimeNoLeap(2020, 1, 15, 12))
    with pytest.raises(InputError, match="calendar noleap"):
        emulate_obs(other, n_columns=3)


def test_settings_of_masks_and_interpolation(truth):
    obs = emulate_obs(truth, n_columns=3)
    for sigma in ("a", None, np.nan):
        with pytest.raises(InputError, match="sigma="):
            dilate_mask(obs, like=truth, sigma=sigma)
    for wrong in ({"range_km": "a"}, {"radius_km": None}, {"n_neighbours": 2.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            interpolate(obs, like=truth, **wrong)
