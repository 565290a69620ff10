"""Soundings of IGRA, version 2: text in fixed columns, plain or compressed.

All levels of a sounding have the time of its release, so that they remain one sounding. The
humidity is the dew point where the file has one, else the relative humidity, never both.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.files import damaged, text_of
from xdiffda.observations.readers.reports import Reports

IGRA = re.compile(r"#[A-Z]{2}[A-Z0-9]{9} \d{4} \d\d \d\d \d\d (\d{4}|\s{4}) ")
# First and last column of each number of a level, as in the description of the format (from 1).
_FIELDS = {
    "pressure": (10, 15),
    "height": (17, 21),
    "temperature": (23, 27),
    "humidity": (29, 33),
    "depression": (35, 39),
    "direction": (41, 45),
    "speed": (47, 51),
}
_FLAGS = {"height": 22, "temperature": 28}
_MISSING = (-9999.0, -8888.0)  # not observed; taken out by the archive's quality assurance
_WIDTH = 51


def read_igra(path: Path) -> xr.Dataset:
    """Read a file of soundings of one station or several."""
    lines = np.array(text_of(path).splitlines(), str)
    lines = lines[lines != ""]
    heads = np.flatnonzero(np.char.startswith(lines, "#"))
    if not heads.size or heads[0] != 0 or not IGRA.match(str(lines[0])):
        raise InputError(
            [
                Problem(
                    f"text that begins with {str(lines[0])[:40] if lines.size else ''!r}",
                    "soundings of IGRA, version 2 (#STATION YEAR MONTH DAY HOUR ...)",
                    f"xdiffda.read_obs({str(path)!r})",
                )
            ],
            what=str(path),
        )
    n_level = np.diff(np.append(heads, lines.size)) - 1
    station, lat, lon, time = _soundings(path, lines[heads], n_level)
    levels = np.delete(lines, heads)
    short = np.char.str_len(levels) < _WIDTH
    if short.any():
        raise damaged(path, f"{short.sum()} lines of levels are shorter than {_WIDTH} characters")
    by = {"station": station, "lat": lat, "lon": lon, "time": time}
    place = {name: np.repeat(column, n_level) for name, column in by.items()}
    place["kind"] = np.full(levels.size, "radiosonde")
    return _levels(path, levels, place).to_dataset()


def _soundings(path: Path, heads: np.ndarray, n_level: np.ndarray) -> tuple[np.ndarray, ...]:
    """Station, place and time of each sounding; a StorageError where levels are absent."""
    try:
        stated = np.array([int(head[32:36]) for head in heads])
        lat, lon = (
            np.array([int(head[a:b]) for head in heads]) / 1e4 for a, b in ((55, 62), (62, 71))
        )
    except ValueError as error:
        raise damaged(path, error) from error
    wrong = np.flatnonzero(stated != n_level)
    if wrong.size:
        at = int(wrong[0])
        raise damaged(
            path,
            f"sounding {at + 1} of {heads.size} states {stated[at]} levels and has {n_level[at]}",
        )
    time = np.array([_release(str(head)) for head in heads], "datetime64[ns]")
    return np.array([str(head[1:12]) for head in heads]), lat, lon, time


def _release(head: str) -> np.datetime64:
    """Time of release, on the day that brings it next to the nominal hour; else that hour."""
    hour, clock = head[24:26], head[27:31]
    try:
        day = np.datetime64(f"{head[13:17]}-{head[18:20]}-{head[21:23]}", "m")
    except ValueError:
        return np.datetime64("NaT")
    nominal = int(hour) if hour.isdigit() and int(hour) < 24 else None
    if clock.isdigit() and int(clock[:2]) < 24:
        minute = int(clock[2:]) if int(clock[2:]) < 60 else 0  # 99 where only the hour is known
        after = 60 * int(clock[:2]) + minute
        if nominal is not None:
            after = 60 * nominal + (after - 60 * nominal + 720) % 1440 - 720
        return day + np.timedelta64(after, "m")
    return np.datetime64("NaT") if nominal is None else day + np.timedelta64(60 * nominal, "m")


def _cut(lines: np.ndarray, first: int, last: int) -> np.ndarray:
    """Characters ``first`` to ``last``, counted from 1, of all lines."""
    width = lines.dtype.itemsize // 4
    letters = np.ascontiguousarray(lines).view("U1").reshape(lines.size, width)
    return np.ascontiguousarray(letters[:, first - 1 : last]).view(f"U{last - first + 1}").ravel()


def _levels(path: Path, lines: np.ndarray, place: dict[str, np.ndarray]) -> Reports:
    try:
        cells = {name: _cut(lines, *at).astype(np.float64) for name, at in _FIELDS.items()}
    except ValueError as error:
        raise damaged(path, error) from error
    cells = {name: np.where(np.isin(cell, _MISSING), np.nan, cell) for name, cell in cells.items()}
    flags = {name: np.char.strip(_cut(lines, at, at)) for name, at in _FLAGS.items()}
    place["level"] = cells["pressure"] / 100.0
    reports = Reports(place)
    temperature = cells["temperature"] / 10.0
    dewpoint = temperature - cells["depression"] / 10.0
    humidity = cells["humidity"] / 10.0
    twice = np.isfinite(dewpoint) & np.isfinite(humidity)
    reports.unused["relative humidity beside a dew point"] += int(twice.sum())
    reports.add(
        "temperature", "temperature", temperature, units="degC", quality=flags["temperature"]
    )
    reports.add("dew point", "dewpoint_temperature", dewpoint, units="degC")
    reports.add(
        "relative humidity",
        "relative_humidity",
        np.where(twice, np.nan, humidity),
        units="%",
        count_missing=False,
    )
    reports.add_wind(cells["speed"] / 10.0, cells["direction"])
    reports.add("height", "geopotential", cells["height"], units="gpm", quality=flags["height"])
    return reports
