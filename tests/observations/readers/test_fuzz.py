"""Damaged files of every form: cut, with flipped bytes, repeated, emptied.

What comes is observations inside their ranges, or an error of the package that names the file:
never a traceback from a decoder, a hang, or values out of nowhere.
"""

from __future__ import annotations

import gzip
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest

import xdiffda
from xdiffda import XdiffdaError, read_obs, write_dataset, write_ioda
from xdiffda.observations.names import KNOWN
from xdiffda.observations.readers.files import FORMATS

N = 8
TIDY = pd.DataFrame(
    {
        "variable": ["2t", "t", "u", "msl"] * 2,
        "lat": np.linspace(10.0, 50.0, N),
        "lon": np.linspace(0.0, 70.0, N),
        "level": [np.nan, 500.0, 850.0, np.nan] * 2,
        "time": pd.Timestamp("2020-01-01T12"),
        "value": [280.0, 250.0, 10.0, 101325.0] * 2,
        "error_std": 1.0,
        "station": [f"{i:05d}" for i in range(N)],
    }
)
STATIONS = pd.DataFrame({"station": ["EDDF", "KMYJ"], "lat": [50.0, 39.0], "lon": [9.0, -92.0]})


def madis(path: Path) -> None:
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("recNum", N)
        for name, value, units in (
            ("latitude", 50.0, "degree_north"),
            ("longitude", 8.0, "degree_east"),
            ("elevation", 100.0, "meter"),
            ("timeObs", 1.6e9, "seconds since 1970-1-1 00:00:00.0"),
            ("temperature", 280.0, "kelvin"),
            ("windSpeed", 5.0, "meter/sec"),
            ("windDir", 90.0, "degree"),
            ("temperatureQCR", 0, ""),
        ):
            kind = "i4" if name.endswith("QCR") else "f8"
            variable = file.createVariable(name, kind, "recNum")
            variable.units = units
            variable[:] = value


def igra() -> str:
    head = "#AUM00011035 2015 01 23 12 1115    2 ncdc-gts          482486   163564"
    levels = (
        "10 -9999  85000  1457B  -25B -9999    50   270    99",
        "10 -9999  50000  5457B -265B -9999    90   280   199",
    )
    return "\n".join([head, *levels]) + "\n"


def isd() -> str:
    return (
        "0000104270999992020013123504+51183+008483FM-12+025799999V0202701N01001"
        "9999999N9999999N9-00561-01011101325\n"
    )


GHCNH = (
    "STATION|DATE|LATITUDE|LONGITUDE|ELEVATION|temperature|temperature_Quality_Code\n"
    "USW00094846|2020-01-01T00:51:00|41.9|-87.9|201.8|1.1|1\n"
)
METAR = (
    "\nKMYJ 312355Z AUTO 07005KT 10SM CLR 01/M05 A3040 RMK AO2 SLP301 T00061050=\n"
    "EDDF 312350Z VRB02MPS CAVOK M01/M02 Q0998 TEMPO 25030KT=\n"
)
WIDE = "station,lat,lon,time,level,t,ff,dd\na,50,8,2020-01-01T00,500,250,10,270\n"
TEXTS = {
    "csv": TIDY.to_csv(index=False),
    "wide": WIDE * 1,
    "igra": igra(),
    "isd": isd() * 3,
    "ghcnh": GHCNH,
    "metar": METAR,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of every form."""
    folder = tmp_path_factory.mktemp("whole")
    out = {name: text.encode() for name, text in TEXTS.items()}
    write_ioda(TIDY, folder / "ioda.nc")
    write_dataset(xdiffda.observations.to_tidy(TIDY), folder / "netcdf.nc")
    madis(folder / "madis.nc")
    for name in ("ioda", "netcdf", "madis"):
        out[name] = (folder / f"{name}.nc").read_bytes()
    out["gzip"] = gzip.compress(out["csv"])
    return out


def damages(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Cut, flipped, repeated and emptied, at places that are drawn."""
    n = len(data)
    for part in (0.02, 0.4, 0.9):
        yield data[: max(1, int(part * n))]
    for flips in (1, 1, 1, 4, 30):
        bad = bytearray(data)
        for at in rng.integers(0, n, flips):
            bad[at] ^= 1 << int(rng.integers(8))
        yield bytes(bad)
    for size in (1, 40, 400):
        at = int(rng.integers(0, n))
        yield data[:at] + data[at : at + size] * 3 + data[at + size :]
        yield data[:at] + bytes(min(size, n - at)) + data[at + size :]
        yield data[:at] + data[at + size :]
    yield data * 2


def check(path: Path) -> bool:
    """Whether something was read; an AssertionError for what is neither right nor refused."""
    try:
        time = "2020-01-01T00" if path.name.endswith("metar") else None
        obs = read_obs(path, stations=STATIONS, time=time)
    except XdiffdaError as error:
        assert path.name in str(error), str(error)
        assert len(str(error)) < 3000
        return False
    value, names = obs["value"].values, obs["variable"].values
    assert np.isfinite(value).all() and obs.sizes["obs"]
    assert (np.abs(obs["lat"].values) <= 90).all()
    assert ((obs["lon"].values >= 0) & (obs["lon"].values <= 360)).all()
    for name in np.unique(names):
        low, high = KNOWN[str(name)].valid_range
        # tables of one's own may be outside by six of their errors
        margin = 6 * obs["error_std"].values[names == name] if "error_std" in obs else 0.0
        assert (value[names == name] >= low - margin).all()
        assert (value[names == name] <= high + margin).all()
    return True


def test_every_form_has_a_file(files: dict[str, bytes], tmp_path: Path) -> None:
    """What is whole is read; forms that need an extra are damaged in tests of their own."""
    assert {*FORMATS} - {*files} == {"zarr", "bufr", "prepbufr", "odb"}
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        time = "2020-01-01T00" if name == "metar" else None
        assert read_obs(path, stations=STATIONS, time=time).sizes["obs"], name


@pytest.mark.parametrize(
    "form", ["csv", "wide", "igra", "isd", "ghcnh", "metar", "gzip", "ioda", "netcdf", "madis"]
)
def test_damage_is_refused_or_harmless(files: dict[str, bytes], tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(FORMATS.index(form) if form in FORMATS else 99)
    start = time.process_time()
    path = tmp_path / f"damaged-{form}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bad in damages(files[form], rng):
            path.write_bytes(bad)
            check(path)
    assert time.process_time() - start < 10
