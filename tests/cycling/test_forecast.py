"""Forecasts with the bundled forecaster: skill, clock, conventions, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.cycling.forecast import forecast
from xdiffda.cycling.rollout import Rollout, load_forecaster, load_rollout
from xdiffda.errors import InputError
from xdiffda.networks.graphcast import time_forcings
from xdiffda.priors import registry
from xdiffda.state.convert import to_state


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
    again = forecast(forecasted.isel(time=0), "6h")
    assert again.lead_time.values == np.timedelta64(6, "h")  # of this forecast, not of that
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


@pytest.mark.parametrize(
    ("sample", "lead", "share"), [("background", 8, 0.15), ("background_6h", 1, 0.4)]
)
def test_the_sample_backgrounds_are_forecasts_of_the_truth(
    truth: xr.Dataset, sample: str, lead: int, share: float
) -> None:
    """Up to what rounding the sample's files to 10 to 13 bits changes of the error."""
    background = xdiffda.open_sample(sample).load()
    start = [0, truth.sizes["time"] - 1 - lead]
    found = forecast(truth.isel(time=start), f"{6 * lead}h").isel(lead_time=-1)
    for n, first in enumerate(start):
        at = {"time": first + lead}
        one = found.isel(init_time=n)
        assert one.valid_time == background.time[first + lead]
        off = _rmse(one, background.isel(at)).drop_vars("time")
        error = _rmse(background.isel(at), truth.isel(at))
        for name in off.data_vars:
            assert float((off[name] / error[name]).max()) < share, name


def test_several_initial_times_are_as_each_alone(truth: xr.Dataset) -> None:
    together = forecast(truth.isel(time=[2, 7]), "12h", max_batch=1)
    assert together.temperature.dims == ("init_time", "lead_time", "level", "lat", "lon")
    np.testing.assert_array_equal(
        together.valid_time, [truth.time.values[3:5], truth.time.values[8:10]]
    )
    alone = forecast(truth.isel(time=7), "12h")
    assert alone.init_time == truth.time[7] == together.init_time[1]
    for name in alone.data_vars:
        np.testing.assert_allclose(together[name][1], alone[name], rtol=1e-5, atol=1e-9)
    scores = together.diffda.verify(truth)
    single = alone.isel(time=-1).diffda.verify(truth)
    assert scores.temperature.dims[0] == "score" and "lead_time" in scores.temperature.dims
    one = together.isel(init_time=[1]).diffda.verify(truth).isel(lead_time=-1)
    a, b = (ds.temperature.sel(score="rmse").squeeze() for ds in (one, single))
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_roll_out_on_arrays_is_that_of_the_forecaster(truth: xr.Dataset) -> None:
    rollout, forecaster = load_rollout(), load_forecaster()
    one = truth.isel(time=[2])
    x, layout, _ = to_state(one, rollout.layout)
    statistics = registry.load_statistics(registry.model_folder("speedy"))
    static = statistics["static"] * statistics["static_stddev"] + statistics["static_mean"]
    inputs = one.expand_dims("batch")
    for i, name in enumerate(("geopotential_at_surface", "land_sea_mask")):
        inputs[name] = ("lat", "lon"), static[:, i].reshape(layout.grid.shape)
    times = one.time.values + np.array([6, 12]) * np.timedelta64(1, "h")
    forcings = time_forcings(times, one.lat.values, one.lon.values)
    expected = forecaster.rollout(inputs, forcings, steps=2)
    found = rollout.run(x, one.time.values, 2)[:, 0]
    for n in range(2):
        state = to_state(expected.isel(batch=0, time=n), layout)[0]
        np.testing.assert_allclose(
            found[n] / statistics["stddev"], state / statistics["stddev"], atol=2e-3
        )


def test_repeated_forecasts_neither_load_nor_compile_again(
    truth: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = truth.isel(time=[2, 7])
    forecast(two, "6h")
    monkeypatch.setattr(registry, "load_statistics", _never)
    monkeypatch.setattr(Rollout, "__call__", _never)  # called while a step is traced
    for lead in ("6h", "6h", "12h"):
        forecast(two, lead)


def _never(*arguments: object, **options: object) -> None:
    raise AssertionError("worked again for what was there")


def test_the_words_of_a_forecast_are_understood(truth: xr.Dataset) -> None:
    """An analysis in the words of GRIB: initial time, step, valid_time beside them."""
    one = truth.isel(time=2)
    step = np.timedelta64(12, "h")
    grib = one.assign_coords(time=one.time - step, step=step, valid_time=one.time.values)
    found = forecast(grib, "6h")
    assert found.time.values == one.time.values + np.timedelta64(6, "h")
    assert "step" not in found.coords and "valid_time" not in found.coords
    with pytest.raises(InputError, match="2 lead times.*isel\\(step=0\\)"):
        later = grib.assign_coords(step=2 * step, valid_time=one.time.values + step)
        forecast(xr.concat([grib, later], "step"), "6h")


def test_all_problems_at_once(truth: xr.Dataset) -> None:
    timeless = truth.isel(time=0, drop=True)
    with pytest.raises(InputError, match="(?s)lead_time='7h'.*multiple of 6 h.*valid time"):
        forecast(timeless, "7h")
    with pytest.raises(InputError, match="soon.*\n.*max_batch=0"):
        forecast(truth.isel(time=0), "soon", max_batch=0)
    with pytest.raises(InputError, match="positive multiple of 6 h"):
        forecast(truth.isel(time=0), "0h")
    with pytest.raises(InputError, match="temperature"):
        forecast(truth.isel(time=0).drop_vars("temperature"), "6h")


def test_too_little_memory_for_a_single_state(truth: xr.Dataset) -> None:
    """Of networks that can be computed in another way: test_forecast_memory.py."""
    with (
        xdiffda.set_options(memory_limit="10 kB"),
        pytest.raises(InputError, match="a forecast with 'speedy'.*set_options.memory_limit="),
    ):
        forecast(truth.isel(time=0), "6h")
