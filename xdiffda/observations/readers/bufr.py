"""BUFR of SYNOP and TEMP reports, decoded by the package ``pdbufr``.

The tables of BUFR are WMO's and large: they are left to eccodes, which pdbufr calls.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, StorageError
from xdiffda.observations.readers.recognise import damaged
from xdiffda.observations.readers.reports import Reports, as_numbers

if TYPE_CHECKING:
    import pandas as pd


_INSTALL = 'pip install "xdiffda[obs]"'
_PLACES = {"stnid", "lat", "lon", "elevation", "time"}
_SYNOP = {
    "t2m": "2m_temperature",
    "td2m": "2m_dewpoint_temperature",
    "mslp": "mean_sea_level_pressure",
    "pressure": "surface_pressure",
}
_TEMP = {"t": "temperature", "td": "dewpoint_temperature", "z": "geopotential"}
# WMO table A: surface data from land and from sea; vertical soundings.
_SURFACE, _SOUNDINGS = (0, 1), (2,)
_END = b"7777"


def read_bufr(path: Path, *, heights: str | None = None, drift: bool = True) -> xr.Dataset:
    """Read SYNOP and TEMP reports; messages of other categories are counted, not read."""
    categories = _categories(path)
    found = [*{c in _SOUNDINGS for c in categories if c in (*_SURFACE, *_SOUNDINGS)}]
    if len(found) != 1:
        raise InputError(
            [
                Problem(
                    f"BUFR messages of the data categories {sorted({*categories})}",
                    "SYNOP (0 land, 1 sea) or TEMP (2) in a file of their own",
                    f"pdbufr.read_bufr({str(path)!r}, columns=[...])",
                )
            ],
            what=str(path),
        )
    reader = "temp" if found[0] else "synop"
    pdbufr = _pdbufr(path)
    try:
        table = pdbufr.read_bufr(str(path), reader=reader)
    except Exception as error:  # eccodes and pdbufr have errors of their own
        raise damaged(path, error) from error
    if table.empty:
        raise InputError(
            [
                Problem(
                    "no report that pdbufr can read",
                    f"{reader.upper()} reports",
                    f"pdbufr.read_bufr({str(path)!r}, columns='all', flat=True)",
                )
            ],
            what=str(path),
        )
    other = sum(c not in (_SOUNDINGS if found[0] else _SURFACE) for c in categories)
    return _reports(table, reader, other).to_dataset()


def _pdbufr(path: Path) -> Any:
    try:
        pdbufr = importlib.import_module("pdbufr")
    except ImportError as error:
        raise StorageError(
            f"{path}: BUFR, which pdbufr decodes; it is not installed ({error}); needed pdbufr "
            f"and eccodes; repair: `{_INSTALL}`, then `xdiffda.read_obs({str(path)!r})`"
        ) from error
    if "reader" not in inspect.signature(pdbufr.read_bufr).parameters:
        raise StorageError(
            f"{path}: found pdbufr without readers of reports (reader='synop'); needed 0.15 or "
            "later; repair: `pip install --upgrade pdbufr`"
        )
    return pdbufr


def _categories(path: Path) -> list[int]:
    """Data category of each message (section 1); a StorageError if the last one is cut off."""
    data = path.read_bytes()
    categories = []
    for match in re.finditer(b"BUFR", data):
        at = match.start()
        edition = data[at + 7] if at + 8 <= len(data) else 0
        if edition not in (2, 3, 4):
            continue  # four letters inside of the data of another message
        size = int.from_bytes(data[at + 4 : at + 7], "big")
        if data[at + size - 4 : at + size] == _END:
            categories.append(data[at + 8 + (10 if edition == 4 else 8)])
        elif at + size > len(data):
            raise damaged(path, f"the last message has {len(data) - at} of {size} bytes")
    return categories


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    return as_numbers(table[name]) if name in table else np.full(len(table), np.nan)


def _reports(table: pd.DataFrame, reader: str, n_other: int) -> Reports:
    import pandas as pd

    place = {
        "lat": _column(table, "lat"),
        "lon": _column(table, "lon"),
        "time": pd.to_datetime(table["time"], errors="coerce").to_numpy("datetime64[ns]"),
        "station": table["stnid"].fillna("").astype(str).to_numpy(str),
        "kind": np.full(len(table), reader),
        "station_height": _column(table, "elevation"),
    }
    if reader == "temp":
        place["level"] = _column(table, "pressure") / 100.0
    reports = Reports(place)
    names = _TEMP if reader == "temp" else _SYNOP
    winds = ("wind_speed", "wind_dir") if reader == "temp" else ("wind10m_speed", "wind10m_dir")
    for word, name in names.items():
        if word in table:
            reports.add(word, name, _column(table, word))
    if winds[0] in table:
        reports.add_wind(
            *(_column(table, word) for word in winds),
            zero_is_variable=True,
            surface=np.full(len(table), reader == "synop"),
        )
    used = {*_PLACES, *names, *winds, *(["pressure"] if reader == "temp" else [])}
    for word in map(str, table.columns):
        if word not in used:
            reports.unused[word] += int(table[word].notna().sum())
    reports.unused["messages of other data categories"] += n_other
    return reports
