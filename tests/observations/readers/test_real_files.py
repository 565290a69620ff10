"""Real files against an independent reading of them, and from file to analysis."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import gaussian_world as world
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations import drop_duplicates, to_tidy
from xdiffda.observations.readers.read import read_obs
from xdiffda.verify import equivalents

Find = Callable[[str], Path]
IGRA, METAR = "data/igra/AUM00011035-data.txt.gz", "data/metar/2020100106_metars.csv"
SONDES = "data/ioda/gdas.t12z.adpupa_bufr_nc002103.tm00.nc"


def number_of(obs: xr.Dataset) -> dict[str, int]:
    names, number = np.unique(obs["variable"].values, return_counts=True)
    return dict(zip(names.tolist(), number.tolist(), strict=True))


def test_ioda_of_soundings(shared: Find) -> None:
    obs = read_obs(shared(SONDES))
    with netCDF4.Dataset(shared(SONDES)) as file:
        values, places = file["ObsValue"], file["MetaData"]
        pressure = np.ma.filled(values["pressure"][:].astype(float), np.nan)
        t = np.ma.filled(values["airTemperature"][:].astype(float), np.nan)
        speed, turn = (
            np.ma.filled(values[f"wind{name}"][:].astype(float), np.nan)
            for name in ("Speed", "Direction")
        )
        lat, seconds = places["latitude"][:], places["dateTime"][:]
    assert t.size == 39885
    good, blown = np.isfinite(t * pressure), np.isfinite(speed * turn * pressure)
    assert number_of(obs)["temperature"] == good.sum() > 5000
    assert number_of(obs)["u_component_of_wind"] == blown.sum() > 5000
    mine = obs.isel(obs=np.flatnonzero(obs["variable"].values == "temperature"))
    np.testing.assert_array_equal(mine["value"], t[good])
    np.testing.assert_array_equal(mine["level"], pressure[good] / 100)
    np.testing.assert_array_equal(mine["lat"], lat[good])
    np.testing.assert_array_equal(
        mine["time"].values.astype("datetime64[s]").astype(int), seconds[good]
    )
    wind = [obs["value"].values[obs["variable"].values == f"{c}_component_of_wind"] for c in "uv"]
    np.testing.assert_allclose(np.hypot(*wind), speed[blown])
    clear = speed[blown] > 0.5
    back = np.rad2deg(np.arctan2(-wind[0], -wind[1]))[clear]
    assert np.abs((back - turn[blown][clear] + 180) % 360 - 180).max() < 1e-6
    unused = json.loads(obs.attrs["xdiffda_observations_unused"])
    assert unused == {"ObsValue/waterTemperature": 39885}
    assert 0 < drop_duplicates(obs).sizes["obs"] < obs.sizes["obs"]


def test_virtual_temperature_is_no_temperature(shared: Find) -> None:
    with pytest.raises(InputError, match="ObsValue/virtual_temperature.*: 39"):
        read_obs(shared("data/ioda/sfc_tv_obs_2018041500.nc4"))


def test_igra(shared: Find) -> None:
    obs = read_obs(shared(IGRA))
    lines = gzip.decompress(shared(IGRA).read_bytes()).decode().splitlines()
    levels = [line for line in lines if line[0] != "#"]
    warm = [int(line[22:27]) for line in levels if line[22:27] not in ("-9999", "-8888")]
    assert len(lines) - len(levels) == 321
    mine = obs["variable"].values == "temperature"
    np.testing.assert_allclose(obs["value"][mine], np.array(warm) / 10 + 273.15)
    assert len(np.unique(obs["time"])) == 321
    assert set(np.unique(obs["quality"])) == {"", "A", "B"}
    xr.testing.assert_identical(to_tidy(obs).drop_vars("error_std"), obs)


def test_metar(shared: Find) -> None:
    obs = read_obs(shared(METAR))
    table = pd.read_csv(shared(METAR), na_values=[], keep_default_na=False)
    assert len(table) == 8361
    found, cells = number_of(obs), table != ""
    assert found["2m_temperature"] == cells["Temp"].sum()
    assert found["surface_pressure"] == cells["Altimeter"].sum()
    assert found["10m_u_component_of_wind"] + found["10m_wind_speed"] == cells["Wspd"].sum()
    windy = table[(table["Wdir"] == "0") & ~table["Wspd"].isin(["", "0"])]
    assert found["10m_wind_speed"] == len(windy) == 357
    assert windy["Raw"].str.contains(" VRB").sum() == 356  # and one that says 000, not 360
    xr.testing.assert_identical(to_tidy(obs).drop_vars("error_std"), obs)


def test_bufr(shared: Find) -> None:
    obs = read_obs(shared("data/bufr/obs_3day.bufr"))
    assert number_of(obs)["2m_temperature"] == 45  # as ../shared/data/README.md says
    assert abs(obs["value"].values[0] - 282.4) < 1e-9 and obs["station"].values[0] == "03894"
    xr.testing.assert_identical(to_tidy(obs).drop_vars("error_std"), obs)


def test_a_sounding_is_assimilated(shared: Find) -> None:
    """The analysis of the small world comes to where the sounding is."""
    prior = world.make_prior()
    _, background = world.draw_states(prior)
    background = background.assign_coords(time=np.datetime64("2015-01-23T12", "ns"))
    background["temperature"] -= 6.0  # near 500 hPa over Vienna in winter
    obs = read_obs(shared(IGRA), time="2015-01-23T12", window="6h")
    assert 1 < np.sum(np.isclose(obs["level"], 500)) < obs.sizes["obs"]
    analysis = background.diffda.assimilate(obs, model=prior, method="oi", progress=False)
    # temperature and geopotential at 500 hPa; the world has no wind, no humidity, no other level
    assert json.loads(analysis.attrs["xdiffda_observations_used"]) == [2]
    at_500 = obs.isel(
        obs=np.flatnonzero(
            (obs["level"].values == 500) & np.isin(obs["variable"], ["temperature", "geopotential"])
        )
    )
    mean = analysis.mean("member") if "member" in analysis.dims else analysis
    away = [
        np.abs(equivalents(state, at_500)["equivalent"].values - at_500["value"].values)
        for state in (background, mean)
    ]
    assert (away[1] < 0.5 * away[0]).all() and (away[0] > 1).all()
