"""Which form a file has, by what is in it; the suffix is not asked."""

from __future__ import annotations

from pathlib import Path

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.files import TIDY, head_of, unknown
from xdiffda.observations.readers.igra import IGRA
from xdiffda.observations.readers.indirect import refuse_indirect
from xdiffda.observations.readers.ioda import is_ioda
from xdiffda.observations.readers.isd import GHCNH, ISD_CSV, is_isd
from xdiffda.observations.readers.madis import is_madis
from xdiffda.observations.readers.metar import BULLETIN, DECODED
from xdiffda.observations.readers.netcdf import opened_netcdf
from xdiffda.observations.readers.own import columns_of, is_tidy, is_wide

_ZARR = ("zarr.json", ".zgroup", ".zmetadata")
_TABLES = (b"PREPBUFR", b"ADPSFC")  # in the mnemonic tables that begin every prepBUFR file
_NOT_OBSERVATIONS = {
    b"GRIB": ("GRIB, which holds fields", "xdiffda.open_dataset({path!r})"),
    b"PAR1": ("parquet", "pandas.read_parquet({path!r})"),
    b"\x80": ("binary data that may be a pickle, which is never loaded", "obs.to_csv('obs.csv')"),
}


def recognise(path: Path) -> str:
    """Form of the file, one of `FORMATS`.

    Raises
    ------
    StorageError
        If it is damaged.
    InputError
        If it is none of the known forms.
    """
    if path.is_dir():
        if any((path / name).exists() for name in _ZARR):
            return "zarr"
        raise unknown(path, "a folder that is no Zarr store", f"os.listdir({str(path)!r})")
    head = head_of(path)
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02", b"CDF\x05")):
        with opened_netcdf(path) as file:
            return "ioda" if is_ioda(file) else "madis" if is_madis(file) else "netcdf"
    if head.startswith(b"\xff\xffODA"):
        return "odb"
    if _is_bufr(head):
        return "prepbufr" if all(word in head for word in _TABLES) else "bufr"
    for magic, (found, repair) in _NOT_OBSERVATIONS.items():
        if head.startswith(magic):
            raise unknown(path, found, repair.format(path=str(path)))
    return _kind_of_text(path, head)


def _is_bufr(head: bytes) -> bool:
    """A message of edition 2 to 4, perhaps behind the heading of a bulletin or a record mark."""
    at = head.find(b"BUFR", 0, 512)
    return at >= 0 and at + 7 < len(head) and head[at + 7] in (2, 3, 4)


def _is_text(head: bytes) -> bool:
    """Whether bytes are text in some encoding: tabs, form feeds and bulletin marks are."""
    controls = set(range(32)) - {*b"\t\n\v\f\r\x01\x03\x1a\x1b"}
    return not controls & set(head)


def _kind_of_text(path: Path, head: bytes) -> str:
    text = head.decode("utf-8-sig", "replace").lstrip()
    line = text.split("\n", 1)[0].rstrip("\r")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        repair = f"iconv -f UTF-16 -t UTF-8 {path} > obs.csv"
        raise unknown(path, "text in UTF-16, where UTF-8 is read", repair)
    if not _is_text(head):
        raise unknown(path, "binary data of no known form", f"file {path}")
    words = columns_of(line)
    forms = {
        "igra": IGRA.match(line) is not None,
        "isd": is_isd(line) or {*words} >= ISD_CSV,
        "ghcnh": {*words} >= GHCNH,
        "metar": {*words} >= DECODED,
        "csv": is_tidy(words) or is_wide(words),
    }
    found = next((form for form, is_it in forms.items() if is_it), None)
    if found is not None:
        return found
    if BULLETIN.search(text.replace("\r", "")):
        return "metar"
    refuse_indirect(path, words)
    if len(words) > 2:
        shown = ", ".join(words[:8])
        known = {"lat": "lat", "lon": "lon", "time": "time", "T": "2m_temperature"}
        raise InputError(
            [
                Problem(
                    f"a table with columns {shown}" + ", ..." * (len(words) > 8),
                    f"one row for each value, with columns {TIDY}; or one row for each report, "
                    f"with lat, lon, time and a column for each variable: say what yours mean",
                    f"xdiffda.read_obs({str(path)!r}, columns={known!r}, units={{'T': 'degC'}})",
                )
            ],
            what=str(path),
        )
    raise unknown(path, f"text that begins with {line[:40]!r}", f"pandas.read_table({str(path)!r})")
