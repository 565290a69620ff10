"""Forcings against the official ones and against astronomy."""

from __future__ import annotations

import numpy as np
import pytest

from xdiffda.errors import InputError
from xdiffda.networks.graphcast.forcings import (
    day_progress,
    solar_radiation,
    time_forcings,
    total_solar_irradiance,
    year_progress,
)


@pytest.fixture(scope="module")
def stored(golden):
    with np.load(golden / "forcings.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def synoptic(stored):
    hours = stored["datetime"].astype("datetime64[h]").astype(int)
    # The official days are float32 numbers, good to a minute at other hours only.
    return hours % 3 == 0


def test_progress_agrees(stored):
    time, lon = stored["datetime"], stored["lon"]
    np.testing.assert_array_equal(year_progress(time), stored["year_progress"])
    np.testing.assert_allclose(day_progress(time, lon), stored["day_progress"], atol=2e-7)


def test_solar_radiation_agrees_with_float64(stored):
    ours = solar_radiation(stored["datetime"], stored["lat"], stored["lon"])
    expected = stored["toa_incident_solar_radiation_x64"]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-9 * expected.max())


def test_all_forcings_agree_with_float32(stored, synoptic):
    ours = time_forcings(stored["datetime"], stored["lat"], stored["lon"])
    for name in ours:
        expected, found = stored[name][synoptic], ours[name].values[synoptic]
        assert found.dtype == np.float32
        atol = 3e-5 * expected.max() if name.startswith("toa") else 1e-6
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=name)


def test_six_hours_agree(stored, synoptic):
    expected = stored["toa_6h_integral_360bins"][synoptic]
    time = stored["datetime"][synoptic]
    ours = solar_radiation(time, stored["lat"], stored["lon"], period="6h")
    np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-5 * expected.max())


def test_irradiance_agrees(stored):
    ours = total_solar_irradiance(stored["datetime"])
    np.testing.assert_allclose(ours, stored["tsi_era5"], rtol=1e-12)


def test_sun_in_the_global_mean_and_at_night():
    time = np.array(["2021-06-21T12"], "datetime64[ns]")
    lat, lon = np.arange(-89.0, 90, 2), np.arange(0.0, 360, 4)
    flux = solar_radiation(time, lat, lon, irradiance=1361.0)[0] / 3600
    mean = np.average(flux.mean(axis=-1), weights=np.cos(np.deg2rad(lat)))
    # A quarter of the irradiance, less the eccentricity of the orbit near aphelion.
    assert np.isclose(mean, 1361 / 4 / 1.0163**2, rtol=2e-3)
    assert (flux[lat < -67] == 0).all()
    assert (flux[lat > 67] > 0).all()
    # Over the hour before noon the sun stands highest at 7.5 E, over 23.44 N.
    i, j = np.unravel_index(flux.argmax(), flux.shape)
    assert abs(lon[j] - 7.5) < 4
    assert abs(lat[i] - 23.44) < 2


def test_relative_times_are_refused():
    with pytest.raises(InputError, match=r"needed UTC times.*repair: `ds.assign_coords"):
        year_progress(np.array([0, 6], "timedelta64[h]"))
