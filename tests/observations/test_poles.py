"""Observations at the poles: rounding beyond them, and scalars that know no longitude there."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.observations import to_tidy

LAT, LON = np.linspace(-87.5, 87.5, 36), np.arange(0, 360, 5.0)  # no row at a pole


def state() -> xr.Dataset:
    rng = np.random.default_rng(0)
    dims, coords = ("lat", "lon"), {"lat": LAT, "lon": LON}
    fields = {
        "2m_temperature": 270 + rng.normal(size=(36, 72)),
        # 10 m/s along the meridian of 0 degrees, over the pole, is a constant vector there
        "10m_u_component_of_wind": 10 * np.sin(np.deg2rad(LON)) * np.ones((36, 1)),
        "10m_v_component_of_wind": 10 * np.cos(np.deg2rad(LON)) * np.ones((36, 1)),
    }
    return xr.Dataset({k: (dims, v) for k, v in fields.items()}, coords)


@pytest.mark.parametrize("pole", [90.0, -90.0, -90.00000000000001])
def test_a_scalar_at_a_pole_is_the_same_from_every_longitude(pole) -> None:
    sites = {"lat": np.full(7, pole), "lon": [0.0, 17.0, 90.0, 123.4, 180.0, 271.0, -33.0]}
    seen = state().diffda.emulate_obs(sites=sites, noise=False)
    temperature = seen["2m_temperature"].values
    assert np.ptp(temperature) == 0
    by_h = xdiffda.verify.equivalents(state(), seen)
    np.testing.assert_allclose(by_h["equivalent"], by_h["value"], rtol=1e-6, atol=1e-5)
    if pole > 0:  # components turn with the meridian, to the accuracy of its interpolation
        angle = np.deg2rad(sites["lon"])
        np.testing.assert_allclose(seen["10m_u_component_of_wind"], 10 * np.sin(angle), atol=0.02)
        np.testing.assert_allclose(seen["10m_v_component_of_wind"], 10 * np.cos(angle), atol=0.02)


def test_rounding_beyond_a_pole_is_the_pole_and_more_is_refused() -> None:
    obs = xr.Dataset(
        {"variable": ("obs", ["2m_temperature"] * 2), "value": ("obs", [250.0, 251.0])},
        {"lat": ("obs", [-90.00000000000001, 90.0000005]), "lon": ("obs", [0.0, 0.0])},
    )
    assert to_tidy(obs)["lat"].values.tolist() == [-90.0, 90.0]
    with pytest.raises(xdiffda.InputError, match="degrees north"):
        to_tidy(obs.assign_coords(lat=("obs", [-90.001, 90.0])))


def test_reports_of_a_file_keep_a_sounding_at_the_pole() -> None:
    from xdiffda.readers._reports import Reports

    place = {
        "lat": np.array([-90.00000000000001, -90.5]), "lon": np.zeros(2),
        "time": np.full(2, np.datetime64("2020-01-01", "ns")), "level": np.full(2, 500.0),
    }  # fmt: skip
    reports = Reports(place)
    reports.add("t", "temperature", np.array([220.0, 221.0]), units="K")
    tidy = reports.to_dataset()
    assert tidy["lat"].values.tolist() == [-90.0]
    assert reports.dropped["no place on the globe"] == 1
