"""Variables are recognised by name, alias and standard name, and their units are converted."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.state.recognise import recognise
from xdiffda.state.units import conversion, units_that_fit
from xdiffda.state.variables import VARIABLES, canonical_name, default_error_std, match_name


@pytest.mark.parametrize(
    ("name", "on_levels", "expected"),
    [
        ("temperature", True, "temperature"),
        ("t", True, "temperature"),
        ("T", True, "temperature"),
        ("ta", True, "temperature"),
        ("gh", True, "geopotential"),
        ("z", True, "geopotential"),
        ("z", False, "geopotential_at_surface"),
        ("u", True, "u_component_of_wind"),
        ("10u", False, "10m_u_component_of_wind"),
        ("v10", False, "10m_v_component_of_wind"),
        ("2t", False, "2m_temperature"),
        ("tas", False, "2m_temperature"),
        ("prmsl", False, "mean_sea_level_pressure"),
        ("msl", False, "mean_sea_level_pressure"),
        ("sp", False, "surface_pressure"),
        ("tp", False, "total_precipitation"),
        ("q", True, "specific_humidity"),
        ("w", True, "vertical_velocity"),
        ("lsm", False, "land_sea_mask"),
    ],
)
def test_short_names(name, on_levels, expected):
    match = match_name(name, on_levels=on_levels)
    assert match is not None and match.name == expected


def test_the_standard_name_decides_where_the_name_says_nothing():
    assert match_name("x1", "air_temperature", on_levels=True).name == "temperature"
    assert match_name("x1", "air_temperature", on_levels=False).name == "2m_temperature"
    assert match_name("x1", "geopotential_height", on_levels=True).name == "geopotential"
    assert match_name("x1", "x_wind", on_levels=False).name == "10m_u_component_of_wind"


def test_a_standard_name_that_contradicts_a_short_name_is_no_reason_to_take_either():
    assert match_name("r", "specific_humidity", on_levels=True) is None
    assert match_name("w", "upward_air_velocity", on_levels=True) is None


def test_an_unknown_standard_name_does_not_hide_a_short_name():
    # cfgrib writes standard_name "unknown" for 2t, msl, ...
    assert match_name("t2m", "unknown", on_levels=False).name == "2m_temperature"


def test_nothing_else_is_recognised():
    assert match_name("chlorophyll", "mass_concentration_of_chlorophyll", on_levels=False) is None
    assert canonical_name("nothing") is None


def test_aliases_point_to_one_variable_each():
    for on_levels in (True, False):
        aliases = [a for v in VARIABLES.values() if v.on_levels == on_levels for a in v.aliases]
        assert len(aliases) == len(set(aliases))


def test_default_errors_are_those_of_speedy_letkf():
    errors = default_error_std(
        ["temperature", "u_component_of_wind", "specific_humidity", "surface_pressure"]
    )
    assert list(errors.values()) == [1.0, 1.0, 1e-3, 100.0]


def test_recognise_sorts_a_dataset_without_reading_it(no_compute):
    shape = {"level": 2, "lat": 3, "lon": 4}
    data = xr.DataArray(np.zeros((2, 3, 4)), dims=tuple(shape)).chunk()
    ds = xr.Dataset({"t": data, "msl": data.isel(level=0), "note": ("lat", np.zeros(3))})
    ds = ds.assign_coords(level=[500, 850])
    assert recognise(ds) == {"t": "temperature", "msl": "mean_sea_level_pressure"}


@pytest.mark.parametrize(
    ("units", "name", "value", "expected"),
    [
        ("degC", "temperature", 20.0, 293.15),
        ("degF", "2m_temperature", 32.0, 273.15),
        ("hPa", "mean_sea_level_pressure", 1013.25, 101325.0),
        ("kPa", "surface_pressure", 100.0, 100000.0),
        ("g/kg", "specific_humidity", 5.0, 0.005),
        ("g kg**-1", "specific_humidity", 5.0, 0.005),
        ("gpm", "geopotential", 5500.0, 5500.0 * 9.80665),
        ("dam", "geopotential", 550.0, 5500.0 * 9.80665),
        ("km", "geopotential", 5.5, 5500.0 * 9.80665),
        ("m**2 s**-2", "geopotential", 54000.0, 54000.0),
        ("knots", "u_component_of_wind", 10.0, 5.144444444),
        ("km h-1", "v_component_of_wind", 36.0, 10.0),
        ("hPa s-1", "vertical_velocity", 0.01, 1.0),
        ("1", "relative_humidity", 0.5, 50.0),
        ("mm", "total_precipitation", 2.0, 0.002),
        ("kg m-2", "total_precipitation_6hr", 2.0, 0.002),
    ],
)
def test_units(units, name, value, expected):
    factor, offset = conversion(units, name)
    assert factor * value + offset == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("units", "name"),
    [
        ("m s-1", "vertical_velocity"),
        ("Pa", "temperature"),
        ("kg m-2 s-1", "total_precipitation"),
        ("nonsense!", "temperature"),
        ("(", "temperature"),
    ],
)
def test_impossible_units(units, name):
    assert conversion(units, name) is None


def test_units_are_guessed_from_values():
    assert units_that_fit(220.0, 310.0, "temperature") == "K"
    assert units_that_fit(-60.0, 40.0, "temperature") == "degC"
    assert units_that_fit(950.0, 1040.0, "mean_sea_level_pressure") == "hPa"
    assert units_that_fit(0.0, 20.0, "specific_humidity") == "g kg-1"
    assert units_that_fit(1e6, 1e7, "temperature") is None
