"""ISD, GHCN hourly, METAR bulletins and ODB-2: lines written here, and files of ../shared."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xdiffda.errors import InputError, StorageError
from xdiffda.observations.quality import screen
from xdiffda.observations.readers import metar, odb
from xdiffda.observations.readers.read import form_of, read_obs

Find = Callable[[str], Path]


def of(obs: xr.Dataset, name: str, field: str = "value") -> list:
    return obs[field].values[obs["variable"].values == name].tolist()


def counts(obs: xr.Dataset, kind: str) -> dict[str, int]:
    return json.loads(obs.attrs[f"xdiffda_observations_{kind}"])


# ------------------------------------------------------------------ ISD


def isd(**given: str) -> str:
    """A record, field by field, as part 2 and 3 of the format's description order them."""
    field = {
        "usaf": "104270",
        "wban": "99999",
        "date": "20200131",
        "time": "2350",
        "source": "4",
        "lat": "+51183",
        "lon": "-008483",
        "type": "FM-15",
        "height": "+0257",
        "call": "99999",
        "process": "V020",
        "wind": "270" + "1" + "N" + "0100" + "1",
        "sky": "99999" + "9" + "9" + "N",
        "visibility": "999999" + "9" + "N" + "9",
        "temperature": "-0056" + "1",
        "dew": "-0101" + "1",
        "pressure": "10132" + "5",
        "more": "",
    } | given
    more = field.pop("more")
    return f"{len(more):04d}" + "".join(field.values()) + more


def test_isd_in_fixed_columns(tmp_path: Path) -> None:
    lines = [
        isd(more="ADDMA1" + "10132" + "1" + "09838" + "1" + "REMMET010something"),
        isd(wind="999" + "9" + "V" + "0020" + "1", temperature="+0250" + "3", dew="+9999" + "9"),
        isd(type="SOD  ", temperature="+0100" + "1"),
        isd(type="FM-13", pressure="99999" + "9", more="ADDMA1" + "10000" + "1" + "99999" + "9"),
    ]
    path = tmp_path / "a"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert form_of(path) == "isd"
    obs = read_obs(path)
    assert (obs["time"].values == np.datetime64("2020-01-31T23:50")).all()
    assert obs["lat"].values[0] == 51.183 and obs["lon"].values[0] == 351.517
    assert obs["station"].values[0] == "104270-99999"
    assert of(obs, "2m_temperature", "kind") == ["metar", "metar", "ship"]
    np.testing.assert_allclose(of(obs, "2m_temperature"), [267.55, 298.15, 267.55])
    assert of(obs, "2m_temperature", "quality") == ["1", "3", "1"]
    np.testing.assert_allclose(of(obs, "2m_dewpoint_temperature"), [263.05, 263.05])
    np.testing.assert_allclose(of(obs, "10m_u_component_of_wind"), [10, 10])
    assert of(obs, "10m_wind_speed") == [2.0] and of(obs, "10m_wind_speed", "quality") == ["1"]
    np.testing.assert_allclose(of(obs, "mean_sea_level_pressure"), [101320.0, 101320.0])
    # measured at the station; else from the setting at 257 m (ICAO: 0.96985 of that at the sea)
    np.testing.assert_allclose(of(obs, "surface_pressure"), [98380.0, 0.96985 * 1e5], rtol=1e-4)
    assert counts(obs, "unused") == {"summaries of a day or a month": 1}
    bad = screen(obs)["flag"].values == "bad_mark"
    assert obs["value"].values[bad].tolist() == [298.15]


def test_isd_of_1928(shared: Find, tmp_path: Path) -> None:
    obs = read_obs(shared("cases/isd_104270-99999-1928.gz"))
    text = gzip.decompress(shared("cases/isd_104270-99999-1928.gz").read_bytes()).decode()
    lines = text.splitlines()
    first = obs.isel(obs=0)
    assert (first["variable"], first["value"], first["quality"]) == ("10m_wind_speed", 4.6, "1")
    warm = [int(line[87:92]) / 10 + 273.15 for line in lines if line[87:92] != "+9999"]
    np.testing.assert_allclose(of(obs, "2m_temperature"), warm)
    windy = sum(line[65:69] != "9999" for line in lines)
    winds = [*of(obs, "10m_u_component_of_wind"), *of(obs, "10m_wind_speed")]
    assert len(winds) == windy and not of(obs, "mean_sea_level_pressure")
    (tmp_path / "cut").write_text(text[: len(text) - len(lines[-1]) + 80])
    with pytest.raises(StorageError, match="line 376 of 376 is no record of ISD"):
        read_obs(tmp_path / "cut")


def test_isd_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(
        '"STATION","DATE","SOURCE","LATITUDE","LONGITUDE","ELEVATION","NAME","REPORT_TYPE",'
        '"CALL_SIGN","QUALITY_CONTROL","WND","CIG","TMP","DEW","SLP","MA1"\n'
        '"72530094846","2020-01-01T00:51:00","7","41.995","-87.9336","201.8","CHICAGO, IL","FM-15",'
        '"KORD ","V030","230,5,N,0041,5","22000,5,9,N","+0011,5","-0050,2","10132,5",'
        '"10139,5,09890,5"\n'
        '"72530094846","2020-01-01T06:00:00","4","41.995","-87.9336","201.8","CHICAGO, IL","FM-12",'
        '"KORD ","V030","999,9,C,0000,5","99999,9,9,N","+9999,9","+9999,9","99999,9",""\n'
    )
    assert form_of(path) == "isd"
    obs = read_obs(path)
    assert of(obs, "2m_temperature") == [274.25] and of(obs, "2m_temperature", "quality") == ["5"]
    assert of(obs, "2m_dewpoint_temperature", "quality") == ["2"]
    assert of(obs, "surface_pressure") == [98900.0]
    speed = np.hypot(of(obs, "10m_u_component_of_wind"), of(obs, "10m_v_component_of_wind"))
    np.testing.assert_allclose(speed, [4.1, 0.0])  # calm has no direction, and is no missing wind
    assert set(obs["station"].values.tolist()) == {"725300-94846"}
    assert counts(obs, "unused") == {"CIG": 2}
    bad = screen(obs)["flag"].values == "bad_mark"
    assert obs["variable"].values[bad].tolist() == ["2m_dewpoint_temperature"]


# ------------------------------------------------------------------ GHCN hourly

VARIABLES = ("temperature", "station_level_pressure", "wind_direction", "wind_speed", "altimeter")
ABOUT = ("", "_Measurement_Code", "_Quality_Code", "_Report_Type", "_Source_Code")


def ghcnh(path: Path, head: dict[str, str], rows: list[dict[str, tuple]]) -> Path:
    """Five columns for each variable: value, and its measurement, quality, report and source."""
    words = [*head, *(f"{name}{about}" for name in VARIABLES for about in ABOUT)]
    lines = ["|".join(words)]
    for row in rows:
        cells = [cell for name in VARIABLES for cell in row.get(name, ("",) * 5)]
        lines.append("|".join([*head.values(), *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ghcnh(tmp_path: Path) -> None:
    head = {"STATION": "USW00094846", "DATE": "2020-01-01T00:51:00", "LATITUDE": "41.9"}
    head |= {"LONGITUDE": "-87.9", "ELEVATION": "201.8"}
    rows = [
        {
            "temperature": ("1.1", "", "1", "FM15", "335"),
            "station_level_pressure": ("989.0", "", "", "FM15", "412"),
            "wind_direction": ("090", "", "1", "FM15", "335"),
            "wind_speed": ("5.0", "", "1", "FM15", "335"),
        },
        {
            "temperature": ("40.0", "", "C", "FM12", "220"),  # failed a climatological check
            "wind_direction": ("999", "V", "", "FM12", "220"),
            "wind_speed": ("2.0", "", "", "FM12", "220"),
            "altimeter": ("1000.0", "", "", "FM12", "220"),
        },
        {"temperature": ("1.2", "", "C", "FM12", "313")},  # of ISD: edited by hand, and good
        {"temperature": ("1.3", "", "3", "FM12", "313")},  # of ISD: erroneous
    ]
    path = ghcnh(tmp_path / "a", head, rows)
    assert form_of(path) == "ghcnh"
    obs = read_obs(path)
    np.testing.assert_allclose(of(obs, "2m_temperature"), [274.25, 313.15, 274.35, 274.45])
    assert of(obs, "2m_temperature", "quality") == ["isd 1", "C", "isd C", "isd 3"]
    assert of(obs, "2m_temperature", "kind")[:2] == ["metar", "synop"]
    assert of(obs, "10m_wind_speed") == [2.0]
    np.testing.assert_allclose(of(obs, "10m_u_component_of_wind"), [-5.0])
    np.testing.assert_allclose(of(obs, "surface_pressure"), [98900.0, 97627.0], rtol=1e-4)
    assert (obs["time"].values == np.datetime64("2020-01-01T00:51")).all()
    bad = screen(obs)["flag"].values == "bad_mark"
    np.testing.assert_allclose(obs["value"].values[bad], [313.15, 274.45])
    # the whole record of a station has its times in five columns
    head = {"Station_ID": "USW00094846", "Year": "1999", "Month": "2", "Day": "3", "Hour": "4"}
    head |= {"Minute": "5", "Latitude": "41.9", "Longitude": "-87.9"}
    obs = read_obs(ghcnh(tmp_path / "b", head, rows[:1]))
    assert obs["time"].values[0] == np.datetime64("1999-02-03T04:05")
    # without an elevation a pressure at the station has no height
    assert counts(obs, "dropped") == {"surface_pressure: no height of the station": 1}
    head = {"STATION": "USW00094846", "DATE": "2020-01-01T00:51:00"}
    with pytest.raises(InputError, match="a table without latitude, longitude"):
        read_obs(ghcnh(tmp_path / "c", head, rows))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(StorageError, match="row 4 of 4 has 2. of 30 columns"):
        read_obs(path)


# ------------------------------------------------------------------ METAR bulletins

BULLETIN = """
527
SAUS70 KWBC 312350
METAR
KMYJ 312355Z AUTO 07005KT 10SM CLR 01/M05 A3040 RMK AO2 SLP301 T00061050=
EDDF 312350Z VRB02MPS CAVOK M01/M02 Q0998 TEMPO 25030KT=
TAF EDDF 312300Z 0100/0206 24010KT 9999 SCT030=
XXXX 010005Z 00000KT 9999 10/05 Q1013=
SPECI KMYJ 010010Z NIL=
"""
STATIONS = pd.DataFrame(
    {"icao": ["KMYJ", "EDDF"], "lat": [39.2, 50.0], "lon": [-91.8, 8.6], "elev": [251.0, 111.0]}
)


def test_bulletins(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(BULLETIN)
    assert form_of(path) == "metar"
    obs = read_obs(path, stations=STATIONS, time="2020-01-01T00")
    assert of(obs, "2m_temperature") == [273.75, 272.15]  # tenths of the remarks, else degrees
    np.testing.assert_allclose(of(obs, "2m_dewpoint_temperature"), [268.15, 271.15])
    np.testing.assert_allclose(of(obs, "mean_sea_level_pressure"), [103010.0])
    np.testing.assert_allclose(of(obs, "10m_wind_speed"), [2.0], rtol=1e-5)
    speed = np.hypot(of(obs, "10m_u_component_of_wind"), of(obs, "10m_v_component_of_wind"))
    np.testing.assert_allclose(speed, [5 * 0.514444], rtol=1e-5)
    # inches of mercury and hectopascals, brought to the height of the station
    at = [(1 - 0.0065 * h / 288.15) ** 5.25588 for h in (251.0, 111.0)]
    np.testing.assert_allclose(
        of(obs, "surface_pressure"), [30.40 * 3386.389 * at[0], 99800 * at[1]], rtol=1e-5
    )
    times = dict(zip(obs["station"].values.tolist(), obs["time"].values, strict=True))
    assert times["KMYJ"] == np.datetime64("2019-12-31T23:55")
    assert counts(obs, "unused")["forecasts, and reports that are nil"] == 2
    assert counts(obs, "dropped")["station that is not in the table"] == 4
    # the hourly files of NOAA say the date: then no time is needed
    path.write_text("2021/03/01 00:05\nEDDF 282350Z 24010KT 9999 10/05 Q1013\n\n")
    STATIONS.to_csv(tmp_path / "stations.csv", index=False)
    obs = read_obs(path, stations=tmp_path / "stations.csv")
    assert (obs["time"].values == np.datetime64("2021-02-28T23:50")).all()


def test_bulletins_need_places_and_a_month(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(BULLETIN)
    with pytest.raises(InputError, match="where their stations are(.|\n)*not the month"):
        read_obs(path)
    with pytest.raises(InputError, match="stations with columns a; needed a table with station"):
        read_obs(path, stations=pd.DataFrame({"a": [1]}), time="2020-01-01")
    with pytest.raises(InputError, match="time='soon'; needed a time"):
        read_obs(path, stations=STATIONS, time="soon")


def test_groups_are_those_of_another_decoder(shared: Find) -> None:
    """8,361 reports of the world: the raw text beside what another program made of it."""
    table = pd.read_csv(shared("data/metar/2020100106_metars.csv"), skipinitialspace=True)[::4]
    found = pd.DataFrame([metar._groups_of(str(raw).split("Z ", 1)[-1]) for raw in table["Raw"]])
    for name, within in (("Temp", 0.55), ("Dewp", 0.55), ("Wspd", 0.51)):
        both = found[name].notna().to_numpy() & table[name].notna().to_numpy()
        away = np.abs(found[name].to_numpy() - table[name].to_numpy())[both]
        assert away.max() <= within and both.sum() >= table[name].notna().sum() - 3
    inches = found["Altimeter"].to_numpy() / metar.INCH_OF_MERCURY
    assert np.nanmax(np.abs(inches - table["Altimeter"])) < 0.011
    # there 0 stands for a variable direction, here none does
    theirs, ours = table["Wdir"].to_numpy(), found["Wdir"].to_numpy()
    assert np.isnan(ours[(theirs == 0) & (table["Wspd"] > 0)]).all()
    assert np.nanmax(np.abs(ours - theirs)[theirs > 0]) == 0 and np.isfinite(ours).sum() > 1900


# ------------------------------------------------------------------ ODB-2


def frame(**more: object) -> pd.DataFrame:
    n = 6
    return pd.DataFrame(
        {
            "varno": [2, 111, 112, 29, 39, 123],
            "obsvalue": [250.0, 270.0, 10.0, 0.5, 280.0, 1.0],
            "lat": 50.0,
            "lon": -5.0,
            "date": 20200101,
            "time": 3000,
            "statid": "03808   ",
            "obstype": 5,
            "vertco_type": 1,
            "vertco_reference_1": 50000.0,
            "final_obs_error": [1.0, np.nan, 2.0, np.nan, 1.5, 1.0],
            "obs_error": 9.0,
            "fg_depar": [0.5, np.nan, np.nan, 0.1, -1.0, 0.0],
            "datum_status": [1, 5, 1, 1, 8, 1],
        }
        | more,
        index=range(n),
    )


def test_rows_of_an_odb() -> None:
    obs = odb.reports_of(Path("a.odb"), frame()).to_dataset()
    assert of(obs, "temperature") == [250.0] and of(obs, "temperature", "level") == [500.0]
    assert of(obs, "temperature", "background") == [249.5]
    assert of(obs, "temperature", "error_std") == [1.0]
    assert of(obs, "relative_humidity") == [50.0]
    np.testing.assert_allclose(of(obs, "u_component_of_wind"), [10.0])
    assert of(obs, "u_component_of_wind", "quality") == [4.0]  # the direction was rejected
    assert of(obs, "2m_temperature", "quality") == [8.0]
    assert np.isnan(of(obs, "2m_temperature", "level")).all()
    assert (obs["time"].values == np.datetime64("2020-01-01T00:30")).all()
    assert set(obs["kind"].values.tolist()) == {"radiosonde"}
    assert set(obs["station"].values.tolist()) == {"03808"}
    assert counts(obs, "unused") == {"varno 123": 1}
    bad = screen(obs)["flag"].values == "bad_mark"
    assert set(obs["variable"].values[bad].tolist()) == {
        "u_component_of_wind",
        "v_component_of_wind",
        "2m_temperature",
    }
    with pytest.raises(InputError, match="needed columns varno"):
        odb.reports_of(Path("a.odb"), frame().drop(columns="varno"))
    with pytest.raises(InputError, match="radiances.*radiative transfer"):
        odb.reports_of(Path("a.odb"), frame(varno=119))


def test_odb_of_a_sounding(shared: Find, tmp_path: Path) -> None:
    path = shared("data/odb/odb_sonde_16019.odb")
    assert form_of(path) == "odb"
    if importlib.util.find_spec("pyodc") is None:
        with pytest.raises(StorageError, match="pip install 'xdiffda.odb.'"):
            read_obs(path)
        return
    import pyodc

    obs = read_obs(path)
    rows = pyodc.read_odb(str(path), single=True)
    warm = rows[(rows["varno@body"] == 2) & rows["obsvalue@body"].notna()]
    assert len(warm) == 81
    np.testing.assert_array_equal(of(obs, "temperature"), warm["obsvalue@body"])
    # the background of the file, which stands in a column of its own at the Met Office
    np.testing.assert_allclose(of(obs, "temperature", "background"), warm["bgvalue@body"], 1e-6)
    # winds are there twice, as components and as speed and direction: each counts once
    assert len(of(obs, "u_component_of_wind")) == 93
    assert counts(obs, "unused") == {"speed or direction of winds with components": 186}
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StorageError, match="frame 1 at byte 0 has .* of .* bytes"):
        read_obs(tmp_path / "cut")
    flipped = bytearray(path.read_bytes())
    flipped[90] ^= 1
    (tmp_path / "flipped.odb").write_bytes(gzip.compress(bytes(flipped)))
    with pytest.raises(StorageError, match="frame 1 .*not that of its checksum"):
        read_obs(tmp_path / "flipped.odb")
    departure = np.array(of(obs, "temperature")) - of(obs, "temperature", "background")
    assert abs(departure.mean()) < 0.5 and departure.std() < 1.5
