"""ODB-2, the feedback of ECMWF and of the Met Office, decoded by pyodc (extra ``odb``).

One row is one value. What it is says ``varno``, at which level ``vertco_reference_1``; the
background is the observation minus ``fg_depar``. Source: ECMWF, tables varno, vertco_type,
obstype and codetype of the ODB governance.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, StorageError
from xdiffda.observations.readers.files import bytes_of, damaged, plain_file
from xdiffda.observations.readers.indirect import refuse_indirect
from xdiffda.observations.readers.reports import Reports, as_numbers

if TYPE_CHECKING:
    import pandas as pd

# varno -> variable; winds of a speed and a direction are put together
_VARNO = {
    1: "geopotential",
    2: "temperature",
    3: "u_component_of_wind",
    4: "v_component_of_wind",
    7: "specific_humidity",
    29: "relative_humidity",
    59: "dewpoint_temperature",
    39: "2m_temperature",
    40: "2m_dewpoint_temperature",
    41: "10m_u_component_of_wind",
    42: "10m_v_component_of_wind",
    11: "sea_surface_temperature",
    108: "mean_sea_level_pressure",
    110: "surface_pressure",
}
_DIRECTION, _SPEED = 111, 112
_INDIRECT = {119: "brightnessTemperature", 162: "bendingAngle", 128: "zenithTotalDelay"}
_PRESSURE = 1  # vertco_type
_BAD = 0b1110  # datum_status: passive, rejected, blacklisted
_NEEDED = ("varno", "obsvalue", "lat", "lon", "date", "time")
_OPTIONAL = (
    "statid",
    "stalt",
    "obstype",
    "reportype",
    "vertco_type",
    "vertco_reference_1",
    "final_obs_error",
    "obs_error",
    "fg_depar",
    "datum_status",
    "level_lat",
    "level_lon",
    "entryno",
)
_KINDS = {1: "synop", 2: "aircraft", 3: "amv", 4: "buoy", 5: "radiosonde", 6: "pilot"}
_KINDS |= {9: "scatterometer"}


def read_odb(path: Path) -> xr.Dataset:
    """Read an ODB-2 file."""
    try:
        import pyodc
    except ImportError as error:
        raise StorageError(
            f"{path}: ODB-2, which pyodc decodes, and pyodc is not installed; needed an extra of "
            f"its own; repair: pip install 'xdiffda[odb]'"
        ) from error
    _need_whole_frames(path, bytes_of(path))
    with plain_file(path) as file:
        try:
            frames = [_named(frame) for frame in pyodc.read_odb(str(file))]
        except Exception as error:  # of pyodc, struct, numpy and pandas: bytes that do not fit
            raise damaged(path, error) from error
    import pandas as pd

    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return reports_of(path, frame).to_dataset()


def _need_whole_frames(path: Path, data: bytes) -> None:
    """Raise a StorageError if a frame is cut, or its header is not that of its checksum.

    The decoder believes every header: a wrong size or number of rows would keep it for ever.
    """
    at = number = 0
    while at < len(data):
        number += 1
        place = f"frame {number} at byte {at}"
        order = "little" if data[at + 5 : at + 9] == b"\1\0\0\0" else "big"

        def integer(start: int, width: int, order: Any = order) -> int:
            return int.from_bytes(data[start : start + width], order, signed=True)

        # mark, byte order, two of the version; then a checksum and the header that it is of
        checksum, start = data[at + 21 : at + 53], at + 57
        length = integer(at + 53, 4)
        header = data[start : start + length] if length > 0 else b""
        size = integer(start, 8)
        if (
            data[at : at + 5] != b"\xff\xffODA"
            or integer(at + 17, 4) != len(checksum)
            or (hashlib.md5(header, usedforsecurity=False).hexdigest().encode() != checksum)
        ):
            raise damaged(path, f"{place} has a header that is not that of its checksum")
        if size <= 0 or start + length + size > len(data):
            raise damaged(path, f"{place} has {len(data) - start - length} of {size} bytes")
        at = start + length + size


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that are of use, without the tables that they come from."""
    names: dict[str, str] = {}
    for word in map(str, frame.columns):
        names.setdefault(word.partition("@")[0], word)
    wanted = [name for name in (*_NEEDED, *_OPTIONAL) if name in names]
    return frame.reindex(columns=[names[name] for name in wanted]).set_axis(wanted, axis=1)


def reports_of(path: Path, frame: pd.DataFrame) -> Reports:
    """Reports of the rows of an ODB, whose columns are named without their tables."""
    if absent := [name for name in _NEEDED if name not in frame]:
        problem = Problem(
            f"ODB-2 with columns {', '.join(frame.columns) or 'of other names'}",
            f"columns {', '.join(absent)}, as a report database has them",
            "",
        )
        raise InputError([problem], what=str(path))
    n = len(frame)

    def column(name: str) -> np.ndarray:
        return as_numbers(frame[name]) if name in frame else np.full(n, np.nan)

    varno = column("varno")
    refuse_indirect(path, [_INDIRECT[v] for v in _INDIRECT if n and (varno == v).all()])
    lat, lon = column("level_lat"), column("level_lon")
    place = {
        "lat": np.where(np.isfinite(lat), lat, column("lat")),
        "lon": np.where(np.isfinite(lon), lon, column("lon")),
        "time": _times(column("date"), column("time")),
        "station_height": column("stalt"),
        "kind": _kinds(column("obstype"), varno),
    }
    on_pressure = (column("vertco_type") == _PRESSURE) | ~np.isfinite(column("vertco_type"))
    place["level"] = np.where(on_pressure, column("vertco_reference_1") / 100.0, np.nan)
    if "statid" in frame:
        place["station"] = np.char.strip(frame["statid"].fillna("").astype(str).to_numpy(str))
    reports = Reports(place, marks="odb")
    beside = {
        "error": np.where(
            column("final_obs_error") > 0, column("final_obs_error"), column("obs_error")
        ),
        "background": column("obsvalue") - column("fg_depar"),
        "quality": _marks(column("datum_status")),
    }
    value = column("obsvalue")
    for number in np.unique(varno[np.isfinite(varno)]).astype(int):
        mine = varno == number
        part = np.where(mine, value, np.nan)
        if number in _VARNO:
            name, units = _VARNO[number], ""
            if name == "relative_humidity":  # of 1 at ECMWF, of 100 at the Met Office
                units = "%" if np.nanmax(part, initial=0.0) > 2.0 else "1"
                reports.assume(f"relative humidity in units of {units}", np.isfinite(part).sum())
            reports.add(f"varno {number}", name, part, units=units, count_missing=False, **beside)
            reports.dropped[f"{name}: missing"] += int((mine & np.isnan(value)).sum())
        elif number not in (_DIRECTION, _SPEED):
            reports.unused[f"varno {number}"] += int((mine & np.isfinite(value)).sum())
    _winds(reports, varno, value, beside)
    return reports


def _winds(
    reports: Reports, varno: np.ndarray, value: np.ndarray, beside: dict[str, np.ndarray]
) -> None:
    """Speed and direction of one level, two rows, as components at the row of the speed.

    Where the file has the components as well these are not used.
    """
    import pandas as pd

    names = [name for name in ("lat", "lon", "time", "level", "station") if name in reports.place]
    report = pd.factorize(pd.MultiIndex.from_arrays([reports.place[name] for name in names]))[0]
    # of several winds of one report the first direction belongs to the first speed
    order = pd.Series(report).groupby([report, varno]).cumcount().to_numpy()
    given = np.isin(report, report[np.isin(varno, (3, 4, 41, 42)) & np.isfinite(value)])
    polar = np.isin(varno, (_SPEED, _DIRECTION)) & np.isfinite(value)
    reports.unused["speed or direction of winds with components"] += int((polar & given).sum())
    turned = {(report[i], order[i]): i for i in np.flatnonzero(polar & (varno == _DIRECTION))}
    speed, direction, marks = (np.full(value.size, np.nan) for _ in range(3))
    for i in np.flatnonzero(polar & ~given & (varno == _SPEED)):
        partner = turned.pop((report[i], order[i]), None)
        rows = [i] if partner is None else [i, partner]
        speed[i], marks[i] = value[i], np.max(beside["quality"][rows])
        direction[i] = np.nan if partner is None else value[partner]
    reports.dropped["wind direction without a speed"] += sum(not given[i] for i in turned.values())
    reports.add_wind(speed, direction, error=beside["error"], quality=marks, count_missing=False)


def _marks(status: np.ndarray) -> np.ndarray:
    known = np.isfinite(status)
    bits = np.where(known, status, 0).astype(np.int64) & _BAD
    return np.where(known, bits.astype(np.float64), np.nan)


def _times(date: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Times from YYYYMMDD and HHMMSS."""
    import pandas as pd

    known = np.isfinite(date) & np.isfinite(time)
    text = [
        f"{int(d):08d}T{int(t):06d}" if ok else ""
        for d, t, ok in zip(date, time, known, strict=True)
    ]
    found = pd.to_datetime(pd.Series(text, dtype=str), format="%Y%m%dT%H%M%S", errors="coerce")
    return found.to_numpy("datetime64[ns]")


def _kinds(obstype: np.ndarray, varno: np.ndarray) -> np.ndarray:
    if not np.isfinite(obstype).any():
        return np.full(varno.size, "")
    words = [_KINDS.get(int(code), "") if np.isfinite(code) else "" for code in obstype]
    return np.array(words, str)
