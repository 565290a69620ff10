"""Forecasts with the bundled forecaster: skill, clock, conventions, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.forecast import forecast


@pytest.fixture(scope="module")
def truth() -> xr.Dataset:
    return xdiffda.open_sample("truth").load()


@pytest.fixture(scope="module")
def forecasted(truth: xr.Dataset) -> xr.Dataset:
    return forecast(truth.isel(time=2), "12h")


def _rmse(one: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    weight = np.cos(np.deg2rad(other.lat))
    return np.sqrt(((one - other) ** 2).weighted(weight).mean(("lat", "lon")))


def test_valid_times_and_lead_times(forecasted: xr.Dataset, truth: xr.Dataset) -> None:
    np.testing.assert_array_equal(forecasted.time, truth.time[3:5])
    hours = forecasted.lead_time.values / np.timedelta64(1, "h")
    assert hours.tolist() == [6.0, 12.0]
    assert set(forecasted.data_vars) == set(truth.data_vars)


def test_six_hours_beat_persistence(forecasted: xr.Dataset, truth: xr.Dataset) -> None:
    after, start = truth.isel(time=3), truth.isel(time=2, drop=True)
    model = _rmse(forecasted.isel(time=0, drop=True), after.drop_vars("time"))
    persistence = _rmse(start, after.drop_vars("time"))
    ratio = model / persistence
    for name in ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind"):
        assert float(ratio[name].mean()) < 0.8, name


def test_a_longer_forecast_goes_through_the_shorter(
    forecasted: xr.Dataset, truth: xr.Dataset
) -> None:
    again = forecast(forecasted.isel(time=0).drop_vars("lead_time"), "6h")
    for name in again.data_vars:
        a, b = again[name].isel(time=0), forecasted[name].isel(time=1)
        np.testing.assert_allclose(a, b, atol=1e-4 * float(b.std()) + 1e-5 * float(abs(b).max()))


def test_members_and_the_users_convention_come_back(truth: xr.Dataset) -> None:
    one = truth.isel(time=2)
    members = xr.concat([one, truth.isel(time=6).assign_coords(time=one.time)], dim="member")
    user = members.rename(lat="latitude", lon="longitude").isel(latitude=slice(None, None, -1))
    found = forecast(user, "6h")
    assert found.sizes["member"] == 2
    np.testing.assert_array_equal(found.latitude, user.latitude)
    single = forecast(one, "6h")
    a = found.temperature.isel(member=0, time=0).sortby("latitude").transpose("level", ...)
    b = single.temperature.isel(time=0)
    np.testing.assert_allclose(a, b.transpose("level", "lat", "lon"), atol=2e-3)


def test_all_problems_at_once(truth: xr.Dataset) -> None:
    timeless = truth.isel(time=0, drop=True)
    with pytest.raises(InputError, match="(?s)lead_time='7h'.*multiple of 6 h.*valid time"):
        forecast(timeless, "7h")
    with pytest.raises(InputError, match="positive multiple of 6 h"):
        forecast(truth.isel(time=0), "0h")
    with pytest.raises(InputError, match="temperature"):
        forecast(truth.isel(time=0).drop_vars("temperature"), "6h")
