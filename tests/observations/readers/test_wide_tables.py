"""Tables with one row for each report or level, and one column for each variable."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.observations import to_tidy
from xdiffda.observations.readers.read import form_of, read_obs


def of(obs: xr.Dataset, name: str, field: str = "value") -> list:
    return obs[field].values[obs["variable"].values == name].tolist()


SOUNDING = """station;lat;lon;time;level [Pa];t (degC);td (degC);z;ff;dd;remark
10410;51.4;-7.0;2020-01-01T12:00;85000;-3.0;-5.5;14000;10;270;
10410;51.4;-7.0;2020-01-01T12:00;50000;-20.5;;54000;20;;icing
10410;51.4;-7.0;2020-01-01T12:00;;12.0;;;;;
"""


def test_a_row_for_each_level(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress("".join(SOUNDING.splitlines(keepends=True)[:-1]).encode()))
    assert form_of(path) == "csv"
    obs = read_obs(path)
    assert of(obs, "temperature", "level") == [850.0, 500.0]
    np.testing.assert_allclose(of(obs, "temperature"), [270.15, 252.65])
    np.testing.assert_allclose(of(obs, "dewpoint_temperature"), [267.65])
    np.testing.assert_allclose(of(obs, "geopotential"), [14000.0, 54000.0])
    # wind of a speed and a direction is a vector; without a direction it is a speed
    np.testing.assert_allclose(of(obs, "u_component_of_wind"), [10.0])
    np.testing.assert_allclose(of(obs, "v_component_of_wind"), [0.0], atol=1e-14)
    assert of(obs, "wind_speed") == [20.0] and of(obs, "wind_speed", "level") == [500.0]
    assert set(obs["station"].values.tolist()) == {"10410"} and obs["lon"].values[0] == 353.0
    assert json.loads(obs.attrs["xdiffda_observations_unused"]) == {"remark": 1}
    xr.testing.assert_identical(to_tidy(obs).drop_vars("error_std"), obs)
    path.write_text(SOUNDING)  # one temperature without a level
    assert len(of(read_obs(path), "temperature")) == 2
    dropped = json.loads(read_obs(path).attrs["xdiffda_observations_dropped"])
    assert dropped["t: no pressure"] == 1


REPORTS = """id,y,x,when,T,Tw,P0,ff10,dd10,2t_error_std
a,10,350,2020-01-01T00:00:00+01:00,11.5,9,1013.2,5,180,0.5
b,20,5,2020-01-01T00:10:00+01:00,,10,990.0,3,,0.5
"""
COLUMNS = {"id": "station", "y": "lat", "x": "lon", "when": "time", "T": "2t", "P0": "msl"}


def test_a_row_for_each_report_and_names_that_mean(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(REPORTS)
    with pytest.raises(InputError, match="say what yours mean.*columns="):
        read_obs(path)
    obs = read_obs(path, columns=COLUMNS, units={"T": "degC", "P0": "hPa"})
    assert of(obs, "2m_temperature") == [284.65] and of(obs, "2m_temperature", "station") == ["a"]
    np.testing.assert_allclose(of(obs, "mean_sea_level_pressure"), [101320.0, 99000.0])
    np.testing.assert_allclose(of(obs, "10m_v_component_of_wind"), [5.0])
    assert of(obs, "10m_wind_speed") == [3.0]
    assert obs["time"].values[0] == np.datetime64("2019-12-31T23:00")
    assert json.loads(obs.attrs["xdiffda_observations_unused"]) == {"Tw": 2, "2t_error_std": 2}
    # what is given may also be a part of a tidy table's names
    path.write_text("name,lat,lon,value,time\nt2m,1,2,280,2020-01-01\n")
    obs = read_obs(path, columns={"name": "variable"})
    assert of(obs, "2m_temperature") == [280.0]


def test_errors_and_backgrounds_stand_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "lat,lon,time,2t,2t_error_std,2t_background\n1,2,2020-01-01,280,0.5,281\n"
        "1,3,2020-01-01,282,0.7,\n"
    )
    obs = read_obs(path)
    assert of(obs, "2m_temperature", "error_std") == [0.5, 0.7]
    np.testing.assert_array_equal(of(obs, "2m_temperature", "background"), [281.0, np.nan])


def test_wide_tables_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("lat,lon,time,2t\n1,2,2020-01-01,warm\n")
    with pytest.raises(InputError, match="`2t` that is not all numbers.*pandas.to_numeric"):
        read_obs(path)
    path.write_text("lat,lon,time,2t\n1,2,2020-01-01,11.5\n1,3,2020-01-01,12\n")
    with pytest.raises(InputError, match="these fit degC") as caught:
        read_obs(path)
    repaired = eval(caught.value.problems[0].repair, {"xdiffda": xdiffda})
    assert of(repaired, "2m_temperature") == [284.65, 285.15]
    path.write_text("lat,lon,time,t,cheese\n1,2,2020-01-01,280,1\n")
    with pytest.raises(InputError, match="`t`, which lives on levels, and no level") as caught:
        read_obs(path)
    repaired = eval(caught.value.problems[0].repair, {"xdiffda": xdiffda})
    assert of(repaired, "2m_temperature") == [280.0]
    with pytest.raises(InputError, match="needed nix, of which you say"):
        read_obs(path, columns={"nix": "2t"})
