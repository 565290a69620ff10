"""Hourly reports of NOAA's archives: ISD in fixed columns, ISD as CSV, and GHCN hourly.

ISD holds tenths of degrees, m/s and hPa, with a mark beside each value; 9s are missing. The CSV
("global-hourly") has the same groups as one text each, parted by commas. GHCN hourly has one
column for each variable, parted by bars; marks that come from ISD are digits, or letters where the
source is one of ISD's (313 to 348), and begin with ``isd`` here. Sources: NCEI, "Federal Climate
Complex Data Documentation for Integrated Surface Data"; "GHCN hourly documentation", tables 3, 5.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.fields import Field, Meaning, add_fields, kinds_of_codes
from xdiffda.observations.readers.files import damaged, text_of
from xdiffda.observations.readers.reports import Reports, as_numbers

# Control section: length, USAF, WBAN, date, time, source, latitude, longitude, type, height.
ISD = re.compile(
    r"(?P<more>\d{4})(?P<usaf>\w{6})(?P<wban>\d{5})(?P<date>\d{8})(?P<time>\d{4})."
    r"(?P<lat>[+-]\d{5})(?P<lon>[+-]\d{6})(?P<type>.{5})(?P<height>[+-]\d{4})(?P<call>.{5}).{4}"
    r"(?P<wdir>\d{3})(?P<wdir_q>\w)(?P<wtype>\w)(?P<wspd>\d{4})(?P<wspd_q>\w)"
    r".{17}(?P<t>[+-]\d{4})(?P<t_q>\w)(?P<td>[+-]\d{4})(?P<td_q>\w)(?P<slp>\d{5})(?P<slp_q>\w)"
)
_HEAD = re.compile(r"\d{4}\w{6}\d{5}(?:1[89]|20)\d{6}\d{4}.[+-]\d{5}[+-]\d{6}")
_PRESSURES = re.compile(r"MA1(?P<setting>\d{5})(?P<setting_q>\w)(?P<p>\d{5})(?P<p_q>\w)")
_CONTROL = 105  # characters before the additional data
ISD_CSV = {"STATION", "DATE", "LATITUDE", "LONGITUDE", "REPORT_TYPE"}
GHCNH = {"temperature", "temperature_Quality_Code"}
_SUMMARIES = ("SOD", "SOM")  # of a day, of a month
_MEANING = Meaning(
    {
        "temperature": "2m_temperature",
        "dew_point_temperature": "2m_dewpoint_temperature",
        "sea_level_pressure": "mean_sea_level_pressure",
        "station_level_pressure": "surface_pressure",
    },
    winds=(("wind_speed", "wind_direction"),),
    altimeter="altimeter",
)
_UNITS = {
    "temperature": "degC",
    "dew_point_temperature": "degC",
    "sea_level_pressure": "hPa",
    "station_level_pressure": "hPa",
    "altimeter": "hPa",
    "wind_speed": "m s-1",
}
# Groups of ISD: name, in the fixed columns, in the CSV (group, position), scale, missing, mark
_GROUPS = (
    ("wind_direction", "wdir", ("WND", 0), 1.0, 999, ("WND", 1)),
    ("wind_speed", "wspd", ("WND", 3), 10.0, 9999, ("WND", 4)),
    ("temperature", "t", ("TMP", 0), 10.0, 9999, ("TMP", 1)),
    ("dew_point_temperature", "td", ("DEW", 0), 10.0, 9999, ("DEW", 1)),
    ("sea_level_pressure", "slp", ("SLP", 0), 10.0, 99999, ("SLP", 1)),
    ("altimeter", "setting", ("MA1", 0), 10.0, 99999, ("MA1", 1)),
    ("station_level_pressure", "p", ("MA1", 2), 10.0, 99999, ("MA1", 3)),
)


def is_isd(line: str) -> bool:
    """Whether a first line is a record of ISD in fixed columns."""
    return _HEAD.match(line) is not None


def read_isd(path: Path) -> xr.Dataset:
    """Read ISD, in fixed columns or as CSV."""
    text = text_of(path)
    if is_isd(text[:100]):
        return _fixed(path, text).to_dataset()
    return _table(path, text).to_dataset()


def _fixed(path: Path, text: str) -> Reports:
    rows = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        match = ISD.match(line)
        if match is None or len(line.rstrip()) < _CONTROL:
            if line.strip():
                raise damaged(path, f"line {number} of {len(lines)} is no record of ISD")
            continue
        found = match.groupdict()
        added = line[_CONTROL:]
        extra = _PRESSURES.search(added.partition("REM")[0]) if "MA1" in added else None
        rows.append(found | (extra.groupdict() if extra else {}))
    column = {
        name: np.array([row.get(name, "") for row in rows], str)
        for name in (*ISD.groupindex, *_PRESSURES.groupindex)
    }
    time = [
        f"{d[:4]}-{d[4:6]}-{d[6:]}T{t[:2]}:{t[2:]}"
        for d, t in zip(column["date"], column["time"], strict=True)
    ]
    place = {
        "lat": _scaled(column["lat"], 1000.0, 99999),
        "lon": _scaled(column["lon"], 1000.0, 999999),
        "time": _times(time),
        "station": np.array(
            [f"{u}-{w}" for u, w in zip(column["usaf"], column["wban"], strict=True)], str
        ),
        "station_height": _scaled(column["height"], 1.0, 9999),
    }
    fields = {
        name: Field(
            _scaled(column[word], scale, missing), _UNITS.get(name, ""), column[f"{word}_q"]
        )
        for name, word, _, scale, missing, _ in _GROUPS
    }
    return _reports(place, column["type"], fields)


def _table(path: Path, text: str) -> Reports:
    rows = _rows(path, text, ",", ISD_CSV)
    place = {
        "lat": as_numbers(rows["LATITUDE"]),
        "lon": as_numbers(rows["LONGITUDE"]),
        "time": _times(rows["DATE"]),
        "station": np.array([f"{s[:6]}-{s[6:]}" if len(s) == 11 else s for s in rows["STATION"]]),
        "station_height": _scaled(rows.get("ELEVATION", np.zeros(0)), 1.0, 9999),
    }
    if place["station_height"].size != place["lat"].size:
        place.pop("station_height")
    groups = {
        name: [cell.split(",") for cell in rows[name]]
        for name in {g[2][0] for g in _GROUPS} & rows.keys()
    }
    fields = {}
    for name, _, (group, at), scale, missing, (_, mark) in _GROUPS:
        if group in groups:
            cells = groups[group]
            value = np.array([c[at] if at < len(c) else "" for c in cells], str)
            marks = np.array([c[mark] if mark < len(c) else "" for c in cells], str)
            fields[name] = Field(_scaled(value, scale, missing), _UNITS.get(name, ""), marks)
    reports = _reports(place, rows["REPORT_TYPE"], fields)
    used = {*ISD_CSV, *groups, "ELEVATION", "NAME", "SOURCE", "CALL_SIGN", "QUALITY_CONTROL"}
    for word in rows.keys() - used:
        reports.unused[word] += int((rows[word] != "").sum())
    return reports


def _reports(place: dict[str, np.ndarray], types: np.ndarray, fields: dict[str, Field]) -> Reports:
    place["kind"] = kinds_of_codes(types)
    reports = Reports(place, marks="isd")
    summary = np.isin(np.char.strip(types), _SUMMARIES)
    reports.unused["summaries of a day or a month"] += int(summary.sum())
    for name, field in fields.items():
        fields[name] = Field(np.where(summary, np.nan, field.value), field.units, field.quality)
    n = place["lat"].size
    add_fields(reports, fields, _MEANING, surface=np.ones(n, bool), count_missing=False)
    return reports


def _scaled(cells: np.ndarray, scale: float, missing: int) -> np.ndarray:
    """Numbers of cells in units of 1 / scale; NaN where they are 9s or none."""
    value = as_numbers(cells)
    return np.where(np.abs(value) == missing, np.nan, value) / scale


def _times(cells: np.ndarray | list[str]) -> np.ndarray:
    import pandas as pd

    found = pd.to_datetime(cells, errors="coerce", format="ISO8601", utc=True)
    return found.tz_localize(None).to_numpy("datetime64[ns]")


def _rows(path: Path, text: str, separator: str, needed: set[str]) -> dict[str, np.ndarray]:
    """Columns of a table as text; a StorageError where a row ends early."""
    try:
        table = list(csv.reader(io.StringIO(text), delimiter=separator))
    except csv.Error as error:
        raise damaged(path, error) from error
    words = [word.strip() for word in table[0]] if table else []
    if absent := sorted(needed - {*words}):
        problem = Problem(
            f"a table with columns {', '.join(words[:8]) or 'none'}",
            f"columns {', '.join(absent)}",
            f"xdiffda.read_obs({str(path)!r})",
        )
        raise InputError([problem], what=str(path))
    rows = [row for row in table[1:] if row]
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(words)), None)
    if wrong is not None:
        raise damaged(
            path, f"row {wrong + 1} of {len(rows)} has {len(rows[wrong])} of {len(words)} columns"
        )
    columns = zip(*rows, strict=True) if rows else [()] * len(words)
    return {
        word: np.char.strip(np.array(column, str))
        for word, column in zip(words, columns, strict=True)
    }


# ------------------------------------------------------------------------------ GHCN hourly


def read_ghcnh(path: Path) -> xr.Dataset:
    """Read GHCN hourly, of a year or of the whole record of a station."""
    rows = _rows(path, text_of(path), "|", GHCNH)
    lower = {word.lower(): word for word in rows}
    absent = [word for word in ("latitude", "longitude") if word not in lower]
    parts = [lower.get(word) for word in ("year", "month", "day", "hour", "minute")]
    if "date" not in lower and not all(parts):
        absent.append("date")
    if absent:
        problem = Problem(
            f"a table without {', '.join(absent)}",
            "GHCN hourly with LATITUDE, LONGITUDE and DATE, or Year to Minute",
            f"xdiffda.read_obs({str(path)!r})",
        )
        raise InputError([problem], what=str(path))
    if "date" in lower:
        time = _times(rows[lower["date"]])
    else:
        cells = zip(*(rows[word] for word in parts if word), strict=True)
        time = _times([f"{y:0>4}-{m:0>2}-{d:0>2}T{h:0>2}:{i:0>2}" for y, m, d, h, i in cells])
    station = next(rows[lower[w]] for w in ("station", "station_id", "date", "year") if w in lower)
    place = {
        "lat": as_numbers(rows[lower["latitude"]]),
        "lon": as_numbers(rows[lower["longitude"]]),
        "time": time,
        "station": station if {"station", "station_id"} & {*lower} else np.full(time.size, ""),
        "kind": kinds_of_codes(rows.get("temperature_Report_Type", np.full(time.size, ""))),
    }
    if "elevation" in lower:
        place["station_height"] = _scaled(rows[lower["elevation"]], 1.0, 9999)
    reports = Reports(place, marks="ghcnh")
    fields = {
        word.removesuffix("_Quality_Code"): _of_variable(rows, word.removesuffix("_Quality_Code"))
        for word in rows
        if word.endswith("_Quality_Code") and word.removesuffix("_Quality_Code") in rows
    }
    n = place["lat"].size
    add_fields(reports, fields, _MEANING, surface=np.ones(n, bool), count_missing=False)
    return reports.to_dataset()


def _of_variable(rows: dict[str, np.ndarray], name: str) -> Field:
    value = as_numbers(rows[name])
    if name == "wind_direction":
        value = np.where(value > 360, np.nan, value)  # 999: calm or variable
    marks = rows[f"{name}_Quality_Code"]
    source = as_numbers(rows.get(f"{name}_Source_Code", np.full(value.size, "")))
    legacy = np.char.isdigit(marks) | ((marks != "") & (source >= 313) & (source <= 348))
    return Field(value, _UNITS.get(name, ""), np.where(legacy, np.char.add("isd ", marks), marks))
