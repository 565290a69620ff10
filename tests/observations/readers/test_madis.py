"""MADIS: files written here after the headers of its data sets, and the one of ../shared/cases."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations.quality import screen
from xdiffda.observations.readers.read import form_of, read_obs

Find = Callable[[str], Path]
FILL = np.float32(3.4028235e38)
T0 = 1.6e9  # 2020-09-13T12:26:40


def write(path: Path, dims: dict[str, int], columns: dict[str, tuple]) -> Path:
    """Variables as name: (dimensions, values, units); text becomes characters."""
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        for name, size in dims.items():
            file.createDimension(name, size)
        for name, (on, values, units) in columns.items():
            values = np.asarray(values)
            kind = "S1" if values.dtype.kind == "S" else values.dtype
            fill = FILL if values.dtype == np.float32 else None
            variable = file.createVariable(name, kind, on, fill_value=fill)
            if units:
                variable.units = units
            variable[:] = np.where(np.isnan(values), FILL, values) if fill else values
    return path


def row_of(*values: float) -> np.ndarray:
    return f4(*values).reshape(1, -1)


def f4(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def letters(text: str) -> np.ndarray:
    return np.array([*text], "S1")


def of(obs: xr.Dataset, name: str, field: str = "value") -> list:
    return obs[field].values[obs["variable"].values == name].tolist()


def counts(obs: xr.Dataset, kind: str) -> dict[str, int]:
    return json.loads(obs.attrs[f"xdiffda_observations_{kind}"])


R = ("recNum",)
SINCE = "seconds since (1970-1-1 00:00:00.0)"


def test_metars_of_the_case(shared: Find, tmp_path: Path) -> None:
    obs = read_obs(shared("cases/madis_metar_20.nc"))
    with netCDF4.Dataset(shared("cases/madis_metar_20.nc")) as file:
        raw = {
            name: np.ma.filled(v[:].astype(float), np.nan)
            for name, v in file.variables.items()
            if v.dtype.kind == "f"
        }
    assert len(of(obs, "2m_temperature")) == 19  # one of 20 is 372 K
    assert counts(obs, "dropped")["2m_temperature: outside [160, 350] K"] == 1
    np.testing.assert_allclose(of(obs, "2m_dewpoint_temperature"), raw["dewpoint"], rtol=1e-6)
    # the height at which the standard atmosphere has this pressure is the station's, if its
    # altimeter setting is that of the standard atmosphere; else scaled by it (ICAO Doc 7488)
    ratio = (1 - 0.0065 * raw["elevation"] / 288.15) ** 5.25588
    np.testing.assert_allclose(of(obs, "surface_pressure"), raw["altimeter"] * ratio, rtol=1e-5)
    speed = np.hypot(of(obs, "10m_u_component_of_wind"), of(obs, "10m_v_component_of_wind"))
    known = np.isfinite(raw["windDir"] + raw["windSpeed"])
    np.testing.assert_allclose(speed, raw["windSpeed"][known], rtol=1e-6)
    flagged = screen(obs)
    bad = flagged["flag"].values == "bad_mark"
    assert set(flagged["station"].values[bad].tolist()) == {"XA03", "XA04"}
    assert bad.sum() == 11 and (flagged["flag"].values[~bad] == "used").all()
    xr.testing.assert_identical(
        read_obs(shared("cases/madis_metar_20.nc.gz")).drop_attrs(), obs.drop_attrs()
    )


def surface(path: Path, **more: tuple) -> Path:
    return write(
        path,
        {"recNum": 3, "len": 5, "one": 1},
        {
            "stationName": (("recNum", "len"), letters("SHIPA46042BATZ1").reshape(3, 5), ""),
            "latitude": (R, f4(10, 20, 30), "degree_north"),
            "longitude": (R, f4(-10, 20, 30), "degree_east"),
            "elevation": (R, f4(0, 0, np.nan), "meter"),
            "timeObs": (R, np.array([T0, T0 + 60, T0]), SINCE),
            "temperature": (R, f4(280, 281, 282), "kelvin"),
            "temperatureDD": (R, letters("VXZ"), ""),
            "windDir": (R, f4(90, 360, np.nan), "degree"),
            "windSpeed": (R, f4(10, 5, 4), "meter/sec"),
            "windDirQCR": (R, np.array([0, 2, 0], np.int32), ""),
            "windSpeedQCR": (R, np.array([0, 0, 64], np.int32), ""),
            **more,
        },
    )


def test_ships_and_buoys(tmp_path: Path) -> None:
    path = surface(
        tmp_path / "a",
        seaSurfaceTemp=(R, f4(285, 286, np.nan), "kelvin"),
        seaLevelPress=(R, f4(101000, np.nan, 99000), "pascal"),
        wavePeriod=(R, f4(7, 8, 9), "second"),
    )
    assert form_of(path) == "madis"
    obs = read_obs(path)
    assert of(obs, "2m_temperature") == [280.0, 281.0, 282.0]
    assert of(obs, "2m_temperature", "quality") == ["V", "X", "Z"]
    assert of(obs, "2m_temperature", "kind") == ["ship", "buoy", "ship"]
    assert of(obs, "sea_surface_temperature") == [285.0, 286.0]
    assert of(obs, "mean_sea_level_pressure") == [101000.0, 99000.0]
    np.testing.assert_allclose(of(obs, "10m_u_component_of_wind"), [-10, 0], atol=1e-14)
    np.testing.assert_allclose(of(obs, "10m_v_component_of_wind"), [0, -5], atol=1e-14)
    # the direction failed its validity check, the speed without direction a check of stage 3
    assert of(obs, "10m_u_component_of_wind", "quality") == ["", "X"]
    assert of(obs, "10m_wind_speed") == [4.0]
    assert of(obs, "10m_wind_speed", "quality") == ["Q"]
    assert obs["time"].values[0] == np.datetime64("2020-09-13T12:26:40")
    assert counts(obs, "unused") == {"wavePeriod": 3}
    bad = screen(obs)["flag"].values == "bad_mark"
    assert obs["station"].values[bad].tolist() == ["46042"] * 3 + ["BATZ1"]


def test_mesonets_have_station_pressures(tmp_path: Path) -> None:
    path = surface(
        tmp_path / "a",
        dataProvider=(("recNum", "len"), letters("abcdefghijklmno").reshape(3, 5), ""),
        stationPressure=(R, f4(np.nan, 98000, np.nan), "pascal"),
        altimeter=(R, f4(101325, 101325, 101325), "pascal"),
    )
    path.write_bytes(gzip.compress(path.read_bytes()))
    obs = read_obs(path)
    assert set(obs["kind"].values.tolist()) == {"mesonet"}
    # at sea level the setting is the pressure; a measured one comes first, a height is needed
    np.testing.assert_allclose(sorted(of(obs, "surface_pressure")), [98000.0, 101325.0])
    assert counts(obs, "unused") == {"altimeter of stations without a height": 1}
    assert counts(obs, "assumed") == {"surface pressures from altimeter settings": 1}


def test_aircraft_at_their_flight_levels(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a",
        {"recNum": 2, "len": 6},
        {
            "en_tailNumber": (("recNum", "len"), letters("N00001N00002").reshape(2, 6), ""),
            "latitude": (R, f4(40, 41), "degree_north"),
            "longitude": (R, f4(-100, -101), "degree_east"),
            "altitude": (R, f4(5500, 11000), "meter"),
            "timeObs": (R, np.array([T0, T0]), "seconds since 1970-1-1 00:00:00.0"),
            "temperature": (R, f4(252.4, 216.65), "kelvin"),
            "temperatureQCR": (R, np.array([0, 8], np.int32), ""),
            "windDir": (R, f4(270, 180), "degree"),
            "windSpeed": (R, f4(50, 20), "meter/sec"),
            "dewpoint": (R, f4(240, np.nan), "kelvin"),
            "downlinkedRH": (R, f4(33, 44), "percent"),
            "medTurbulence": (R, f4(0.1, 0.2), ""),
        },
    )
    obs = read_obs(path)
    assert np.unique(np.array(obs["level"]).round(1)).tolist() == [226.3, 505.1]  # ICAO's table
    assert set(obs["kind"].values.tolist()) == {"aircraft"}
    np.testing.assert_allclose(of(obs, "u_component_of_wind"), [50, 0], atol=1e-12)
    np.testing.assert_allclose(of(obs, "v_component_of_wind"), [0, 20], atol=1e-12)
    assert of(obs, "temperature", "quality") == ["", "Q"]
    # one measure of humidity for each report
    assert of(obs, "dewpoint_temperature") == [240.0] and of(obs, "relative_humidity") == [44.0]
    assert counts(obs, "assumed") == {
        "pressures from flight levels through the ICAO standard atmosphere": 2
    }
    assert counts(obs, "unused") == {"medTurbulence": 2}


def test_winds_of_clouds(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a",
        {"recNum": 2},
        {
            "obLat": (R, f4(40, 41), "degree_north"),
            "obLon": (R, f4(-100, -101), "degree_east"),
            "validTime": (R, np.array([T0, T0]), "seconds since 1970-1-1 00:00:00.0"),
            "pressure": (R, f4(25000, 85000), "pascal"),
            "windDir": (R, f4(270, 180), "degree"),
            "windSpd": (R, f4(50, 20), "meter/sec"),
            "windSpdDD": (R, letters("VQ"), ""),
            "windDirDD": (R, letters("VV"), ""),
        },
    )
    obs = read_obs(path)
    assert of(obs, "u_component_of_wind", "level") == [250.0, 850.0]
    assert of(obs, "u_component_of_wind", "quality") == ["V", "Q"]
    assert set(obs["kind"].values.tolist()) == {"amv"}


def test_profilers(tmp_path: Path) -> None:
    on = ("recNum", "level")
    path = write(
        tmp_path / "a",
        {"recNum": 1, "level": 2, "len": 5},
        {
            "staName": (("recNum", "len"), letters("PLTC2").reshape(1, 5), ""),
            "staLat": (R, f4(40), "degree_north"),
            "staLon": (R, f4(-100), "degree_east"),
            "staElev": (R, f4(1000), "meter"),
            "timeObs": (R, np.array([T0]), "seconds since 1970-1-1 00:00:00.0"),
            "levels": (on, f4(4500, 10000).reshape(1, 2), "meter"),
            "uComponent": (on, f4(12, 30).reshape(1, 2), "meter/sec"),
            "vComponent": (on, f4(-3, np.nan).reshape(1, 2), "meter/sec"),
            "uComponentDD": (on, letters("VX").reshape(1, 2), ""),
            "vComponentDD": (on, letters("VV").reshape(1, 2), ""),
            "pressure": (R, f4(900), "hectopascal"),
        },
    )
    obs = read_obs(path)
    # 1000 m of the station and 4500 m above it: 5500 m, which the standard has at 505.1 hPa
    assert np.round(of(obs, "u_component_of_wind", "level"), 1).tolist() == [505.1, 226.3]
    assert of(obs, "u_component_of_wind") == [12.0, 30.0] and of(obs, "v_component_of_wind") == [-3]
    assert of(obs, "u_component_of_wind", "quality") == ["V", "X"]
    assert counts(obs, "unused") == {"pressure at the station": 1}


def test_soundings(tmp_path: Path) -> None:
    man, sig, sigw = ("recNum", "man"), ("recNum", "sig"), ("recNum", "sigw")
    path = write(
        tmp_path / "a",
        {"recNum": 1, "man": 3, "sig": 1, "sigw": 2},
        {
            "wmoStaNum": (R, np.array([10410], np.int32), ""),
            "staLat": (R, f4(51), "degree_north"),
            "staLon": (R, f4(7), "degree_east"),
            "staElev": (R, f4(153), "meter"),
            "synTime": (R, np.array([T0 + 3600]), "seconds since 1970-1-1 00:00:00.0"),
            "relTime": (R, np.array([T0]), "seconds since 1970-1-1 00:00:00.0"),
            "prMan": (man, row_of(1000, 850, 500), "hectopascal"),
            "htMan": (man, row_of(100, 1500, 5700), "meter"),
            "tpMan": (man, row_of(290, 280, 255), "kelvin"),
            "tpManDD": (man, letters("VXV").reshape(1, 3), ""),
            "tdMan": (man, row_of(2, 5, np.nan), "kelvin"),
            "wsMan": (man, row_of(5, 10, 20), "meter/sec"),
            "wdMan": (man, row_of(90, 180, 270), "degree"),
            "prSigT": (sig, row_of(700), "hectopascal"),
            "tpSigT": (sig, row_of(270), "kelvin"),
            "tdSigT": (sig, row_of(10), "kelvin"),
            "htSigW": (sigw, row_of(3600, np.nan), "meter"),
            "wsSigW": (sigw, row_of(15, np.nan), "meter/sec"),
            "wdSigW": (sigw, row_of(270, np.nan), "degree"),
            "prTrop": (sig, row_of(200), "hectopascal"),
        },
    )
    obs = read_obs(path)
    assert (obs["time"].values == np.datetime64("2020-09-13T12:26:40")).all()  # of the release
    assert set(obs["station"].values.tolist()) == {"10410"}
    assert of(obs, "temperature") == [290.0, 280.0, 255.0, 270.0]
    assert of(obs, "dewpoint_temperature") == [288.0, 275.0, 260.0]  # from its depression
    assert of(obs, "temperature", "quality") == ["V", "X", "V", ""]
    np.testing.assert_allclose(of(obs, "geopotential"), 9.80665 * np.array([100, 1500, 5700]))
    # half way between 850 and 500 hPa in height: their geometric mean
    np.testing.assert_allclose(of(obs, "u_component_of_wind", "level")[-1], np.sqrt(850 * 500))
    np.testing.assert_allclose(of(obs, "u_component_of_wind"), [-5, 0, 20, 15], atol=1e-6)
    assert counts(obs, "unused")["prTrop: levels of the tropopause and of maximum wind"] == 1


def test_what_is_no_madis(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"recNum": 1}, {"x": (R, f4(1), "")})
    with pytest.raises(InputError, match="needed .*records .recNum. with latitude"):
        read_obs(path, format="madis")
    path = surface(tmp_path / "b", latitude=(R, f4(np.nan, np.nan, np.nan), "degree_north"))
    with pytest.raises(InputError, match="no usable observation.*no place on the globe"):
        read_obs(path)
