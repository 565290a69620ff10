"""IODA, versions 2 and 3: marks, errors, kinds, winds and temperatures of the surface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations.readers.marks import good_marks
from xdiffda.observations.readers.read import read_obs

Find = Callable[[str], Path]


def of(obs: xr.Dataset, name: str, field: str = "value") -> list[float]:
    return obs[field].values[obs["variable"].values == name].tolist()


def test_effective_marks_and_errors_win(shared: Find) -> None:
    obs = read_obs(shared("cases/ioda_v3_aircraft.nc4"))
    assert of(obs, "temperature", "quality") == [0.0, 0.0, 19.0, 1.0]
    assert (obs["error_std"] == 2.0).all()  # EffectiveError0, not the 1 of ObsError
    assert good_marks(obs).reshape(4, 3).tolist() == [[True] * 3] * 2 + [[False] * 3] * 2
    winds = read_obs(shared("cases/ioda_v3_satwind.nc4"))
    assert good_marks(winds).sum() == 4  # two winds, of two components


def test_reports_of_the_surface_without_pressure(shared: Find) -> None:
    obs = read_obs(shared("cases/ioda_v3_scat.nc4"))
    assert of(obs, "10m_u_component_of_wind") == [5.0] * 4 == of(obs, "10m_v_component_of_wind")
    obs = read_obs(shared("cases/ioda_v3_sfcT.nc4"))
    assert of(obs, "2m_temperature") == [280.0] * 4
    assert of(obs, "surface_pressure", "station_height") == [100.0] * 4
    assert '"ObsValue/virtualTemperature": 4' in obs.attrs["xdiffda_observations_unused"]


def test_heights_aloft_are_no_pressures_unless_somebody_says_so(shared: Find) -> None:
    path = shared("cases/ioda_v3_aircraft_h.nc4")
    with pytest.raises(
        InputError, match="at heights of 9000 to 9000 m without.*heights='standard'"
    ):
        read_obs(path)
    obs = read_obs(path, heights="standard")
    np.testing.assert_allclose(obs["level"], 307.42, atol=0.01)  # ICAO Doc 7488: 307.42 hPa
    assert "ICAO standard atmosphere" in obs.attrs["xdiffda_observations_assumed"]


def write(path: Path, groups: dict[str, dict[str, list]], n: int = 2) -> Path:
    place = {"latitude": [10.0] * n, "longitude": [5.0] * n, "pressure": [5e4] * n}
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("Location", n)
        file.createDimension("Channel", 2)
        for group, columns in {"MetaData": place, **groups}.items():
            for name, values in columns.items():
                array = np.asarray(values, np.float64)
                dims = ("Location", "Channel")[: array.ndim]
                file.createVariable(f"{group}/{name}", "f8", dims)[:] = array
        time = file.createVariable("MetaData/dateTime", "i8", "Location")
        time.units, time[:] = "seconds since 2020-01-01T00:00:00Z", 0
    return path


def test_kinds_backgrounds_and_virtual_temperatures(tmp_path: Path) -> None:
    obs = read_obs(
        write(
            tmp_path / "a",
            {
                "ObsValue": {
                    "virtualTemperature": [300.0, 301.0],
                    "specificHumidity": [0.01, np.nan],
                    "windEastward": [3.0, 4.0],
                },
                "ObsType": {"virtualTemperature": [120, 131], "windEastward": [220, 231]},
                "ObsError": {"windEastward": [1.5, 1.5]},
                "EffectiveError2": {"windEastward": [3.0, -1.0]},
                "EffectiveError1": {"windEastward": [9.0, 9.0]},
                "hofx0": {"windEastward": [2.5, 5.0]},
                "PreQC": {"windEastward": [2.0, 8.0]},
            },
        )
    )
    assert of(obs, "temperature") == [pytest.approx(300.0 / 1.0060772)]
    assert of(obs, "u_component_of_wind", "kind") == ["radiosonde", "aircraft"]
    assert of(obs, "u_component_of_wind", "background") == [2.5, 5.0]
    assert of(obs, "u_component_of_wind", "error_std") == [3.0, 1.5]
    assert good_marks(obs)[obs["variable"].values == "u_component_of_wind"].tolist() == [
        True,
        False,
    ]
    assert '"ObsValue/virtualTemperature": 1' in obs.attrs["xdiffda_observations_unused"]


@pytest.mark.parametrize(
    ("word", "needed"),
    [
        ("brightnessTemperature", "radiances.*RTTOV, CRTM"),
        ("bendingAngle", "GNSS-RO.*ROPP"),
    ],
)
def test_indirect_observations_are_refused(tmp_path: Path, word: str, needed: str) -> None:
    path = write(tmp_path / "a", {"ObsValue": {word: [[200.0, 210.0], [200.0, 210.0]]}})
    with pytest.raises(InputError, match=needed):
        read_obs(path)


def test_indirect_observations_are_refused_in_every_form(tmp_path: Path) -> None:
    """GNSS-RO as netCDF of profiles, radiances as tables: what they need is said."""
    profile = xr.Dataset({"Bend_ang": ("MSL_alt", [0.01, 0.02])}, {"lat": 1.0, "lon": 2.0})
    profile.to_netcdf(tmp_path / "atmPrf.nc")
    with pytest.raises(InputError, match="radio occultations .GNSS-RO.*ROPP"):
        read_obs(tmp_path / "atmPrf.nc")
    for text in (
        "variable,lat,lon,value\nbrightness_temperature,1,2,250\n",
        "lat,lon,time,brightness_temperature_1\n1,2,2020-01-01,250\n",
    ):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(InputError, match="radiances .brightness_temp.*RTTOV, CRTM"):
            read_obs(tmp_path / "a.csv")
