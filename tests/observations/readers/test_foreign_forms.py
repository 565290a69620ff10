"""IODA, IGRA, METAR and BUFR made by hand: every number is known."""

from __future__ import annotations

import json
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError, StorageError
from xdiffda.observations import default_error_std, to_tidy
from xdiffda.observations.readers.read import read_obs


def counts(obs: xr.Dataset, kind: str) -> dict[str, int]:
    return json.loads(obs.attrs[f"xdiffda_observations_{kind}"])


def of(obs: xr.Dataset, name: str, field: str = "value") -> list:
    return obs[field].values[obs["variable"].values == name].tolist()


def assert_tidy(obs: xr.Dataset) -> None:
    """Everything is as `assimilate` would make it; errors are its defaults where there are none."""
    found = to_tidy(obs)
    xr.testing.assert_identical(found if "error_std" in obs else found.drop_vars("error_std"), obs)


# ------------------------------------------------------------------ IODA

N = 5
SECONDS = np.ma.array(np.full(N, 3600, np.int64), mask=[0, 0, 0, 0, 1])
PLACE = {
    "latitude": (np.array([10.0, 20, 30, 95, 50]), "degrees_north"),
    "longitude": (np.array([-10.0, 20, 30, 40, 50]), "degrees_east"),
    "pressure": (np.array([50000.0, 100000, np.nan, 50000, 50000]), "Pa"),
    "stationElevation": (np.array([1.0, 2, 3, 4, 5]), "m"),
    "dateTime": (SECONDS, "seconds since 2020-01-01T00:00:00Z"),
}
KELVIN = (np.array([250.0, 280, 290, 250, 250]), "K")


def write_ioda(path: Path, groups: dict[str, dict[str, tuple]], flat: bool = False) -> Path:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("Location", N)
        file.date_time = 2020010100
        for group, columns in groups.items():
            for name, (values, units) in columns.items():
                home, word = (file, f"{name}@{group}") if flat else (file, f"{group}/{name}")
                variable = home.createVariable(
                    word, np.asarray(values).dtype, "Location", fill_value=-999
                )
                if units:
                    variable.units = units
                variable[:] = values
    return path


def test_ioda_of_the_present_convention(tmp_path: Path) -> None:
    obs = read_obs(
        write_ioda(
            tmp_path / "a",
            {
                "MetaData": PLACE,
                "ObsValue": {
                    "airTemperature": KELVIN,
                    "virtualTemperature": KELVIN,
                    "specificHumidity": (np.full(N, 2.0), "g kg-1"),
                    "windSpeed": (np.array([10.0, 20, 5, 5, 5]), "m s-1"),
                    "windDirection": (np.array([90.0, 0, 180, 5, 5]), "degree"),
                    "airTemperatureAt2M": KELVIN,
                    "stationPressure": (np.full(N, 1000.0), "hPa"),
                    "pressure": PLACE["pressure"],
                },
                "ObsError": {"airTemperature": (np.array([0.5, np.nan, 1, 1, 1]), "K")},
                "PreQC": {"airTemperature": (np.array([2, 9, 2, 2, 2]), "")},
            },
        )
    )
    assert of(obs, "temperature") == [250.0, 280.0] and of(obs, "temperature", "level") == [
        500,
        1000,
    ]
    assert of(obs, "temperature", "lon") == [350.0, 20.0]
    assert of(obs, "temperature", "quality") == [2.0, 9.0]
    assert of(obs, "temperature", "error_std") == [0.5, default_error_std("temperature", 1000.0)]
    assert of(obs, "2m_temperature") == [250.0, 280.0, 290.0]  # needs no pressure
    assert of(obs, "surface_pressure", "station_height") == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(of(obs, "specific_humidity"), [2e-3, 2e-3])
    np.testing.assert_allclose(of(obs, "u_component_of_wind"), [-10, 0], atol=1e-14)
    np.testing.assert_allclose(of(obs, "v_component_of_wind"), [0, -20], atol=1e-14)
    assert (obs["time"] == np.datetime64("2020-01-01T01")).all()
    # the pressure is that of MetaData, so the other one is for nothing
    assert counts(obs, "unused") == {"ObsValue/virtualTemperature": N, "ObsValue/pressure": N - 1}
    assert "temperature" not in np.unique(obs["variable"].values[np.isnan(obs["level"])])
    dropped = counts(obs, "dropped")
    assert dropped["no place on the globe"] == dropped["no time"] == 6  # one report, its 6 values
    assert dropped["temperature: no pressure"] == dropped["u_component_of_wind: no pressure"] == 1
    assert obs.attrs["xdiffda_observations_default_errors"] == obs.sizes["obs"] - 1
    assert_tidy(obs)


def test_ioda_of_the_first_convention(tmp_path: Path) -> None:
    """Flat names with @, hours from the date of the file, types of report of the surface."""
    place = {name: PLACE[name] for name in ("latitude", "longitude")}
    place |= {"air_pressure": PLACE["pressure"], "time": (np.full(N, -1.5), "")}
    place["latitude"] = np.linspace(0, 40, N), "degrees_north"
    obs = read_obs(
        write_ioda(
            tmp_path / "a",
            {
                "MetaData": place,
                "ObsValue": {"air_temperature": KELVIN, "eastward_wind": (np.full(N, 3.0), "m/s")},
                "ObsType": {
                    "air_temperature": (np.array([120, 181, 187, 120, 130]), ""),
                    "eastward_wind": (np.array([220, 281, 287, 220, 230]), ""),
                },
            },
            flat=True,
        )
    )
    assert of(obs, "temperature") == [250.0, 250.0, 250.0]
    assert of(obs, "2m_temperature") == [280.0, 290.0]
    assert of(obs, "10m_u_component_of_wind") == [3.0, 3.0]
    assert (obs["time"] == np.datetime64("2019-12-31T22:30")).all()
    assert "error_std" not in obs and "quality" not in obs


def test_ioda_without_what_is_needed(tmp_path: Path) -> None:
    path = write_ioda(
        tmp_path / "a",
        {
            "MetaData": PLACE,
            "ObsValue": {"virtualTemperature": KELVIN, "relativeHumidity": (np.full(N, 0.5), "")},
        },
    )
    with pytest.raises(InputError, match="no usable observation.*virtualTemperature.*: 5"):
        read_obs(path)
    with pytest.raises(InputError, match="groups MetaData; needed ObsValue of an IODA file"):
        read_obs(write_ioda(tmp_path / "b", {"MetaData": PLACE}))
    bare = {name: PLACE[name] for name in ("latitude", "pressure")}
    path = write_ioda(tmp_path / "c", {"MetaData": bare, "ObsValue": {"airTemperature": KELVIN}})
    with pytest.raises(InputError, match=r"(?s)2 problems.*MetaData/longitude.*MetaData/dateTime"):
        read_obs(path)


# ------------------------------------------------------------------ IGRA

HEAD = "#AUM00011035 2015 01 23 00 2331    {n} ncdc-gts           482333   163500\n"
NONE, OUT = -9999, -8888


def level(p: int, z: int, t: int, rh: int, dpd: int, wind: tuple[int, int], flags: str) -> str:
    """A level in the columns of the format: Pa, m, 0.1 degC, 0.1 %, 0.1 K, degrees, 0.1 m/s."""
    first, second = flags
    return (
        f"20 {NONE:5d} {p:6d} {z:5d}{first}{t:5d}{second}{rh:5d} {dpd:5d} "
        f"{wind[0]:5d} {wind[1]:5d} \n"
    )


LEVELS = (
    level(99200, NONE, 38, 500, 22, (300, 50), " A")
    + level(50000, 5470, -265, NONE, OUT, (140, 60), "BB")
    + level(40000, NONE, -381, 225, NONE, (NONE, 60), "  ")
    + level(NONE, 9000, NONE, NONE, NONE, (90, 100), "A ")
)


def test_igra(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(HEAD.format(n=4) + LEVELS)
    obs = read_obs(tmp_path / "a")
    np.testing.assert_allclose(of(obs, "temperature"), [276.95, 246.65, 235.05])
    assert of(obs, "temperature", "level") == [992.0, 500.0, 400.0]
    assert of(obs, "temperature", "quality") == ["A", "B", ""]
    np.testing.assert_allclose(of(obs, "dewpoint_temperature"), [274.75])
    assert of(obs, "relative_humidity") == [22.5]  # at 992 hPa the dew point says the same
    np.testing.assert_allclose(of(obs, "geopotential"), [5470 * 9.80665])
    np.testing.assert_allclose(
        of(obs, "u_component_of_wind"), [5 * 0.75**0.5, -6 * np.sin(np.deg2rad(140))]
    )
    assert of(obs, "wind_speed") == [6.0]
    assert (obs["time"] == np.datetime64("2015-01-22T23:31")).all()  # on the eve of the hour
    assert np.unique(obs["station"]).tolist() == ["AUM00011035"]
    assert counts(obs, "unused") == {"relative humidity beside a dew point": 1}
    assert counts(obs, "dropped") == {
        "temperature: missing": 1,
        "dewpoint_temperature: missing": 3,
        "geopotential: missing": 2,
        "geopotential: no pressure": 1,
        "u_component_of_wind: no pressure": 1,
        "v_component_of_wind: no pressure": 1,
    }
    assert_tidy(obs)


def test_igra_that_ends_early(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(HEAD.format(n=5) + LEVELS)
    with pytest.raises(StorageError, match="sounding 1 of 1 states 5 levels and has 4"):
        read_obs(tmp_path / "a")
    (tmp_path / "a").write_text(HEAD.format(n=4) + LEVELS[:-10])
    with pytest.raises(StorageError, match="1 lines of levels are shorter"):
        read_obs(tmp_path / "a")


@pytest.mark.parametrize(
    ("hour", "release", "found"),
    [
        ("12", "1134", "2015-01-23T11:34"),
        ("00", "0010", "2015-01-23T00:10"),
        ("18", "9999", "2015-01-23T18:00"),
        ("99", "1799", "2015-01-23T17:00"),
        ("23", "0030", "2015-01-24T00:30"),
    ],
)
def test_times_of_soundings(tmp_path: Path, hour: str, release: str, found: str) -> None:
    head = HEAD.format(n=4).replace(" 00 2331", f" {hour} {release}")
    (tmp_path / "a").write_text(head + LEVELS)
    assert (read_obs(tmp_path / "a")["time"] == np.datetime64(found)).all()


# ------------------------------------------------------------------ METAR

METARS = """Unix_time,ICAO,Latitude,Longitude,Elev,Temp,Dewp,Wdir,Wspd,Vis,QcFlag,Altimeter
1601530260,CYGW,55.270,-77.770,0,4.0,3.0,270,10,5.0,2,29.92
1601530260,NAAA,50.300,-88.900,1000,,2.0,0,5,,6,29.92
1601530260,CYYY,50.300,-88.900,,3.0,2.0,,,,6,29.92
"""


def test_metar(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(METARS)
    obs = read_obs(tmp_path / "a")
    np.testing.assert_allclose(of(obs, "2m_temperature"), [277.15, 276.15])
    np.testing.assert_allclose(of(obs, "10m_u_component_of_wind"), [10 * 1852 / 3600])
    np.testing.assert_allclose(of(obs, "10m_wind_speed"), [5 * 1852 / 3600])  # VRB
    # ICAO: 1013.21 hPa at sea level, and a share of 0.887 of it at 1,000 m
    np.testing.assert_allclose(of(obs, "surface_pressure"), [101321, 101321 * 0.88699], rtol=2e-5)
    assert of(obs, "surface_pressure", "station") == ["CYGW", "NAAA"]
    assert of(obs, "2m_temperature", "quality") == [2.0, 6.0]
    assert counts(obs, "unused") == {"Vis": 1, "Altimeter of stations without a height": 1}
    missing = ("2m_temperature: missing", "surface_pressure: missing", "wind: missing")
    assert counts(obs, "dropped") == dict.fromkeys(missing, 1)
    assert_tidy(obs)
