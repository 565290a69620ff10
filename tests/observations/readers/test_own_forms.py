"""`read_obs` on the package's own forms: what was written comes back, to the last bit."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError, StorageError
from xdiffda.observations import drop_duplicates, to_columns, to_tidy
from xdiffda.observations.readers.read import read_obs
from xdiffda.storage.files import write_dataset


@pytest.fixture
def tidy() -> xr.Dataset:
    """Two stations; numbers that no decimal of a few digits holds; one without a time."""
    frame = pd.DataFrame(
        {
            "variable": ["temperature", "geopotential", "2m_temperature", "surface_pressure"],
            "lat": [1 / 3, 1 / 3, -52.1, -52.1],
            "lon": [359.9 + 1e-13, 0.1, 2 / 7, 2 / 7],
            "level": [500.0, 925.5, np.nan, np.nan],
            "value": [250 + 1 / 3, 7000.1, 280.0, 98765.4321],
            "error_std": [0.1 + 0.2, 84.0, 1.0, 100.0],
            "station": ["01001", "01001", "NA", "NA"],
            "kind": ["sonde", "sonde", "ship", "ship"],
            "quality": [2.0, 9.0, np.nan, 0.0],
            "station_height": [9.0, 9.0, 0.5, 0.5],
            "time": pd.to_datetime(
                ["2020-01-01T00:00:00.25", "2020-01-01", "2020-01-01T03:10", None], format="ISO8601"
            ),
        }
    )
    return to_tidy(frame)


def write(obs: xr.Dataset, path: Path) -> Path:
    if path.suffix == ".csv":
        obs.to_dataframe().to_csv(path)
        return path
    return write_dataset(obs, path)


@pytest.mark.filterwarnings("ignore:The data type .FixedLengthUTF32")  # of zarr, in the writing
@pytest.mark.parametrize("name", ["obs.nc", "obs.zarr", "obs.csv"])
def test_tidy_comes_back_as_it_was(tidy: xr.Dataset, tmp_path: Path, name: str) -> None:
    xr.testing.assert_identical(read_obs(write(tidy, tmp_path / name)), tidy)


@pytest.mark.parametrize("name", ["obs.nc", "obs.zarr"])
def test_columns_come_back_tidy(tidy: xr.Dataset, tmp_path: Path, name: str) -> None:
    columns = to_columns(tidy)
    found = read_obs(write_dataset(columns, tmp_path / name))
    xr.testing.assert_identical(found, to_tidy(columns))


@pytest.mark.parametrize("name", ["obs.nc", "obs.csv"])
def test_the_form_is_seen_in_the_content(tidy: xr.Dataset, tmp_path: Path, name: str) -> None:
    path = write(tidy, tmp_path / name).rename(tmp_path / "obs.dat")
    xr.testing.assert_identical(read_obs(path), tidy)


def test_compressed_tables_are_read(tidy: xr.Dataset, tmp_path: Path) -> None:
    data = write(tidy, tmp_path / "obs.csv").read_bytes()
    (tmp_path / "a").write_bytes(gzip.compress(data))
    with zipfile.ZipFile(tmp_path / "b", "w") as archive:
        archive.writestr("obs.csv", data)
    for name in "ab":
        xr.testing.assert_identical(read_obs(tmp_path / name), tidy)
    (tmp_path / "cut").write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(StorageError, match="truncated or damaged"):
        read_obs(tmp_path / "cut", format="csv")


def test_errors_and_duplicates_are_those_of_the_file(tidy: xr.Dataset, tmp_path: Path) -> None:
    twice = xr.concat([tidy, tidy.isel(obs=[1])], "obs").drop_vars("error_std")
    found = read_obs(write(twice, tmp_path / "obs.csv"))
    assert "error_std" not in found and found.sizes["obs"] == 5
    assert drop_duplicates(found).sizes["obs"] == 4
    with pytest.raises(InputError, match=r"1 duplicates.*drop_duplicates"):
        to_tidy(found)


TABLE = """Variable;latitude;longitude;plev;datetime;value;units;cloud_base
t;10;-170;50000;2020-01-01T12:00+02:00;-20;degC;
chlorophyll;10;-170;;2020-01-01T10;3;1;300
ff;10;-170;;2020-01-01T10;10;kt;
2t;10;-170;;2020-01-01T10;;degC;
"""


def test_words_and_units_of_users(tmp_path: Path) -> None:
    (tmp_path / "obs.txt").write_text(TABLE, encoding="utf-8-sig")
    obs = read_obs(tmp_path / "obs.txt")
    assert obs["variable"].values.tolist() == ["temperature", "10m_wind_speed"]
    np.testing.assert_allclose(obs["value"], [253.15, 10 * 1852 / 3600])
    assert (obs["lon"] == 190).all() and obs["level"][0] == 500 and np.isnan(obs["level"][1])
    assert (obs["time"] == np.datetime64("2020-01-01T10")).all()
    dropped = json.loads(obs.attrs["xdiffda_observations_dropped"])
    unused = json.loads(obs.attrs["xdiffda_observations_unused"])
    assert dropped == {"2t: missing": 1} and unused == {"chlorophyll": 1, "cloud_base": 1}
    xr.testing.assert_identical(read_obs(write(obs, tmp_path / "a.nc")), obs)


def test_only_what_is_asked_for(tidy: xr.Dataset, tmp_path: Path) -> None:
    path = write(tidy, tmp_path / "obs.nc")
    assert read_obs(path, variables="2t")["variable"].values.tolist() == ["2m_temperature"]
    assert read_obs(path, variables=["t", "sp"]).sizes["obs"] == 2
    late = read_obs(path, time="2020-01-01T03", window="1h")
    assert late["variable"].values.tolist() == ["2m_temperature", "surface_pressure"]  # one NaT
    assert read_obs(path, time="2020-01-01T01").sizes["obs"] == 4
    with pytest.raises(InputError, match="temperature.*needed some of u_component_of_wind"):
        read_obs(path, variables="u_component_of_wind")
    with pytest.raises(InputError, match="'cheese'; needed names that xdiffda knows"):
        read_obs(path, variables=["t", "cheese"])
    with pytest.raises(InputError, match="without a time; needed.*time='2020-01-01T"):
        read_obs(path, window="3h")
    with pytest.raises(InputError, match=r"not later than 2020-12-31.*time='2020-01-01T00:00'"):
        read_obs(path, variables="t", time="2021-01-01")
    with pytest.raises(InputError, match="time 'soon' and window.*read_obs"):
        read_obs(path, time="soon")


def test_a_table_that_is_wrong_is_refused_with_its_repair(tmp_path: Path) -> None:
    path = tmp_path / "obs.csv"
    path.write_text("variable,lat,lon,level,value\nt,0,0,500,-20\nt,0,0,,-25\n")
    with pytest.raises(InputError, match=r"(?s)obs = pandas.read_csv.*2 problems.*degC") as caught:
        read_obs(path)
    assert "without a pressure level" in str(caught.value)
    path.write_text("variable,lat,lon,level,DateString,value\nt,0,0,500,2020-01-01,250\n")
    with pytest.raises(InputError, match="times in `DateString` and no `time`"):
        read_obs(path)
    path.write_text("variable,lat,lon,value\ncheese,0,0,1\n")
    with pytest.raises(InputError, match="1 cheese"):
        read_obs(path)


def _locked() -> bytes:
    """An archive whose only member is marked as encrypted: it is whole, and needs a password."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr("obs.csv", "variable,lat,lon,value")
    data = bytearray(into.getvalue())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(mark) + at] |= 1
    return bytes(data)


LOCKED = _locked()
REFUSED = {
    "empty": (b"", StorageError, "empty file"),
    "GRIB": (b"GRIB\0\0\1\2", InputError, "holds fields.*xdiffda.open_dataset"),
    "pickle": (b"\x80\x05\x95", InputError, "pickle, which is never loaded"),
    "binary": (bytes(range(200)), InputError, "binary data of no known form"),
    "tabs": (b"a\tb\tc\n1\t2\t3\n", InputError, "a table with columns a, b, c"),
    "bulletin": (b"\x01\r\r\n123\r\r\nSAUS70 KWBC", InputError, "text that begins with"),
    "UTF-16": ("variable,lat\n".encode("utf-16"), InputError, "UTF-16.*iconv"),
    "Latin-1": ("Königsberg 3 °C\n".encode("latin-1"), InputError, "text that begins with"),
    "ragged": (b"variable,lat,lon,value\n2t,1,2,280\n2t,1,2,3,4,5\n", InputError, "cannot be read"),
    "locked": (LOCKED, InputError, "an archive that cannot be opened.*unzip"),
    "text": (b"hello world\n", InputError, "text that begins with 'hello world'"),
    "table": (b"a,b,c\n1,2,3\n", InputError, "columns a, b, c; needed one row for each value"),
    "cut": (b"\x89HDF\r\n\x1a\n\0\0", StorageError, "truncated or damaged"),
    "odb": (b"\xff\xffODA\1\0\0", StorageError, "cannot be read|pip install 'xdiffda.odb.'"),
    "prepbufr": (b"BUFR\0\0\xff\3 ADPSFC PREPBUFR", StorageError, "message 1 at byte 0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    data, error, match = REFUSED[kind]
    (tmp_path / "obs.nc").write_bytes(data)
    with pytest.raises(error, match=match):
        read_obs(tmp_path / "obs.nc")


def test_paths_and_formats_that_are_not(tidy: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        read_obs(tmp_path / "none.csv")
    with pytest.raises(InputError, match="a folder that is no Zarr store"):
        read_obs(tmp_path)
    path = write(tidy, tmp_path / "obs.nc")
    with pytest.raises(InputError, match="format='grib'; needed one of netcdf, zarr"):
        read_obs(path, format="grib")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="needed MetaData and ObsValue.*format='netcdf'"):
        read_obs(path, format="ioda")
    for other in ("igra", "metar", "bufr"):
        with pytest.raises((InputError, StorageError), match="obs.nc"):
            read_obs(path, format=other)
    field = xdiffda.open_sample("background").isel(time=0)
    with pytest.raises(InputError, match="field on lat x lon"):
        read_obs(write_dataset(field, tmp_path / "field.nc"))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(StorageError, match="truncated or damaged"):
        read_obs(path)


def test_no_store_makes_python_load_a_pickle(tmp_path: Path) -> None:
    store = tmp_path / "obs.zarr"
    (store / "value").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / "value" / ".zarray").write_text(
        json.dumps(
            {
                "zarr_format": 2,
                "shape": [1],
                "chunks": [1],
                "dtype": "|O",
                "compressor": None,
                "fill_value": None,
                "order": "C",
                "filters": [{"id": "pickle", "protocol": 5}],
            }
        ).replace("pickle", r"p\u0069ckle")
    )
    with pytest.raises(StorageError, match="asks for a pickle"):
        read_obs(store)


HEAD = "variable,lat,lon,level,time,value,error_std\n"
ROW = "temperature,50,10,500,2015-01-20T00:00,250.1,1\n"


@pytest.mark.parametrize(
    "last",
    [
        "temperature,51,10,500,2015-01-2",  # a date cut short: the second of January
        "temperature,51,10,500,2015-01-20T00:00,25",  # a value cut short: 251.4
        "temperature,51,10,500,2015-01-20T00:00,251.4,1",  # whole, for all that one can know
        "temperature,51",
    ],
)
def test_a_last_row_without_a_line_end_is_left_out_and_counted(tmp_path: Path, last: str) -> None:
    (tmp_path / "cut.csv").write_text(HEAD + ROW + last)
    with pytest.warns(UserWarning, match="last row does not end with a line end"):
        found = xdiffda.read_obs(tmp_path / "cut.csv")
    assert found["value"].values.tolist() == [250.1]
    dropped = json.loads(found.attrs["xdiffda_observations_dropped"])
    assert dropped == {"last row without a line end": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (HEAD + "temperature,51\n" + ROW, "1 rows with more or fewer cells than columns.* line 2"),
        (HEAD + ROW.replace("250.1", "250,1"), "1 rows with more or fewer cells.* line 2"),
        (HEAD + ROW.replace("2015-01-20T00:00", "2015-01-2"), "such as 2015-01-2; needed dates"),
        (HEAD + ROW.replace("2015-01-20T00:00", "03/04/2015"), "not known which is the month"),
        (HEAD + ROW.replace("250.1", "2_5_0"), "`value` such as 2_5_0.*without underscores"),
        (HEAD.replace("lat,lon", "lat,lon,lon") + ROW.replace("10,", "10,11,"), "columns lon, lon"),
        (
            HEAD.replace("lat,lon", "lat,lon,longitude") + ROW.replace("10,", "10,11,"),
            "the columns lon, longitude; needed one column that is lon",
        ),
        (
            "lat,lon,time,t2m,2m_temperature\n50,10,2015-01-20,280,290\n",
            "the columns t2m, 2m_temperature; needed one column that is 2m_temperature",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "two.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        xdiffda.read_obs(tmp_path / "two.csv")


def test_dates_that_mean_one_thing_are_read(tmp_path: Path) -> None:
    for text in ("2015-01-20", "2015/01/20 00:00", "2015-01-20T02:00+02:00", "20150120"):
        (tmp_path / "one.csv").write_text(HEAD + ROW.replace("2015-01-20T00:00", text))
        time = xdiffda.read_obs(tmp_path / "one.csv")["time"].values
        assert time.astype("datetime64[h]").tolist() == [np.datetime64("2015-01-20T00", "h").item()]


def test_observations_in_a_store_that_lost_its_times_are_refused(
    tidy: xr.Dataset, tmp_path: Path
) -> None:
    path = write_dataset(tidy, tmp_path / "obs.zarr")
    assert read_obs(path).sizes == tidy.sizes
    for name in ("time", "lat", "value"):
        copy = tmp_path / f"without-{name}.zarr"
        shutil.copytree(path, copy)
        (copy / name / "c" / "0").unlink()
        with pytest.raises(StorageError, match=f"chunks are lost of {name}"):
            read_obs(copy)
