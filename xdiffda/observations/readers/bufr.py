"""BUFR of the WMO: surface reports, soundings, wind profiles, aircraft, satellite winds.

What a message holds is found by its elements (table B), not by its template: a pressure or a
height beside a temperature or a wind is a level, whoever wrote the file.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.air import pressure_of_altimeter, standard_pressure
from xdiffda.observations.readers.bufr_messages import (
    TABLES,
    Message,
    Messages,
    decode,
    decoder,
    messages_of,
    shortened,
)
from xdiffda.observations.readers.files import bytes_of, plain_file
from xdiffda.observations.readers.indirect import refuse_indirect
from xdiffda.observations.readers.reports import Reports, as_numbers
from xdiffda.state.variables import G0

if TYPE_CHECKING:
    import pandas as pd

# WMO table A.
_LAND, _SEA, _SOUNDING, _AIRCRAFT, _AMV, _RADAR = 0, 1, 2, 4, 5, 6
_SCATTEROMETER, _OCEAN = 12, 31
_SURFACE = (_LAND, _SEA, _OCEAN)
_READ = (*_SURFACE, _SOUNDING, _AIRCRAFT, _AMV, _RADAR, _SCATTEROMETER)
# Elements by what they are, the best first.
_TEMPERATURE = ("B012101", "B012001")
_DEWPOINT = ("B012103", "B012003")
_T2M = ("B012004", "B012104", *_TEMPERATURE)
_TD2M = ("B012006", "B012106", *_DEWPOINT)
_DIRECTION, _SPEED = ("B011001",), ("B011002",)
_DIRECTION10, _SPEED10 = ("B011011", "B011001"), ("B011012", "B011002")
_PRESSURE = ("B007004", "B010004")
_HEIGHTS = ("B010009", "B007009", "B010008", "B007007", "B007002", "B007010")
_ALTITUDES = ("B007010", "B007002", "B010070", "B007007")  # of aircraft: above 1013.25 hPa
_ABOVE_STATION = ("B007006",)
_GROUND = ("B007031", "B007030", "B007001")  # the barometer first: a pressure is at its height
_LAT, _LON = ("B005001", "B005002"), ("B006001", "B006002")
_LEVEL_OF = {*_PRESSURE[:1], *_HEIGHTS, *_ABOVE_STATION}
_OBSERVED_ON_LEVELS = {*_TEMPERATURE, *_SPEED, "B011003"}
_NAMES = re.compile(r"(B\d{6})(_\d+)?")
# Elements of what is observed (classes 10 to 15, 20 and 22) that are named where not used.
_OBSERVED = re.compile(r"B(1[0-5]|20|22)\d{4}")
_ASKED = 4  # messages, of one template, about its local elements
_HEIGHT_OF_SENSOR = "B007032"
_MISSING_STATION = re.compile(r"[\0\s?]*")
# Elements of what needs an operator of its own, by the word that `indirect` knows.
_INDIRECT = {
    "B012063": "brightnessTemperature",
    "B014043": "radiance",
    "B014046": "radiance",
    "B012149": "brightnessTemperature",
    "B015037": "bendingAngle",
    "B015036": "refractivity",
}


@dataclass
class _Columns:
    """Elements of one table of rows: arrays by name, in the order of the template."""

    n: int
    numbers: dict[str, list[np.ndarray]]
    texts: dict[str, np.ndarray]
    lists: list[tuple[np.ndarray, _Columns]]  # row of each entry, and its elements

    def first(self, names: Iterable[str]) -> np.ndarray:
        """First occurrence of each element, the first name where it is known; else the next."""
        out = np.full(self.n, np.nan)
        for name in names:
            if name in self.numbers:
                out = np.where(np.isfinite(out), out, self.numbers[name][0])
        return out

    def anywhere_known(self, names: Iterable[str]) -> bool:
        return self.known(names) or any(entries.anywhere_known(names) for _, entries in self.lists)

    def known(self, names: Iterable[str]) -> bool:
        return any(name in self.numbers for name in names)

    def anywhere(self, names: Iterable[str]) -> np.ndarray:
        """As `first`, else the first entry of a list: optional parts of a report are lists."""
        out = self.first(names)
        for rows, entries in self.lists:
            value = entries.anywhere(names)
            good = np.flatnonzero(np.isfinite(value) & np.isnan(out[rows]))
            at, first = np.unique(rows[good], return_index=True)
            out[at] = value[good[first]]
        return out


def read_bufr(path: Path, *, heights: str | None = None, drift: bool = True) -> xr.Dataset:
    """Read all messages that hold reports of variables that the package knows.

    ``heights`` is for other forms: heights of soundings become pressures in any case.
    """
    messages = messages_of(path, bytes_of(path))
    parts: list[Reports] = []
    other: dict[int, int] = {}
    indirect: set[str] = set()
    for category, group in _groups(messages.found):
        if category not in _READ:
            other[category] = other.get(category, 0) + len(group)
            indirect |= _indirect_of(path, group[0])
            continue
        if category in _SURFACE and (found := _by_pdbufr_if_local(path, group)) is not None:
            parts.append(found)
            continue
        for batch, _ in decode(path, messages, group, repair=_with_tables_of_eccodes):
            columns = _columns(batch)
            found = _reports(category, columns, drift)
            if not any(part.columns for part in found):
                indirect |= {_INDIRECT[n] for n in _INDIRECT if columns.known([n])}
            parts += found
    loss = messages.loss(path)
    if loss:
        warnings.warn(loss, stacklevel=3)
    if not any(part.columns for part in parts):
        refuse_indirect(path, sorted(indirect))
        categories = sorted({m.category for m in messages.found})
        raise InputError(
            [
                Problem(
                    f"BUFR messages of the data categories {categories} without a value that can "
                    f"be used" + (f" ({loss})" if loss else ""),
                    "surface reports (0, 1), soundings and wind profiles (2, 6), aircraft (4), "
                    "satellite winds (5) or scatterometer winds (12)",
                    f"earth2bufr.read_bufr({str(path)!r}, as_pandas=True)",
                )
            ],
            what=str(path),
        )
    reports = Reports.joined(parts)
    reports.unused["messages of other data categories"] += sum(other.values())
    reports.dropped["messages that cannot be decoded"] += len(messages.lost)
    return reports.to_dataset()


def _groups(found: list[Message]) -> list[tuple[int, list[Message]]]:
    """Messages by template, in the order in which these first come."""
    groups: dict[Any, list[Message]] = {}
    for message in found:
        if message.subsets and message.category != TABLES:
            # the marks of satellite winds are worth their time: without them nobody uses these
            short = message if message.category == _AMV else shortened(message)
            groups.setdefault(short.template, []).append(short)
    return [(key[0], group) for key, group in groups.items()]


def _indirect_of(path: Path, message: Message) -> set[str]:
    """Which elements that need an operator of their own a message of another category has."""
    for batch, _ in decode(path, Messages(), [shortened(message)]):
        names = _names_in(batch.schema)
        return {_INDIRECT[name] for name in _INDIRECT if name in names}
    return set()


def _names_in(fields: Any) -> set[str]:
    import pyarrow as pa

    names = set()
    for field in fields:
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            names |= _names_in(field.type.value_type)
        elif match := _NAMES.fullmatch(field.name):
            names.add(match[1])
    return names


# ------------------------------------------------------------------------------ tables


def _with_tables_of_eccodes(group: list[Message]) -> tuple[bytes, str] | None:
    """Descriptors of messages without those of local table D, and what local table B says.

    ``earth2bufr`` has the tables of the WMO, eccodes those of centres as well. It tells what it
    knows of an element only where there is one, so several messages are asked.
    """
    try:
        import eccodes
    except ImportError:
        return None
    table: dict[str, dict[str, Any]] = {}
    expanded: list[int] = []
    for message in group[:_ASKED]:
        handle = None
        try:
            handle = eccodes.codes_new_from_message(message.data)
            eccodes.codes_set(handle, "unpack", 1)
            if not expanded:
                codes = eccodes.codes_get_array(handle, "expandedDescriptors")
                assert codes is not None
                expanded = [int(code) for code in codes]
            local = {c for c in expanded if c < 100000 and (c % 1000 >= 192 or c >= 48000)}
            _local_elements(eccodes, handle, local, table)
            if len(table) == len(local):
                break
        except Exception as error:  # eccodes has many; the decoder's own stands if all fail
            logging.getLogger(__name__).debug("%s: %s", message.place, error)
        finally:
            if handle is not None:
                eccodes.codes_release(handle)
    codes = [((c // 100000) << 6 | c // 1000 % 100, c % 1000) for c in expanded]
    if not codes or max(map(max, codes)) > 255:
        return None
    local_tables = json.dumps({"table_b": table, "table_d": {}})
    return bytes(byte for pair in codes for byte in pair), local_tables


def _local_elements(
    eccodes: Any, handle: Any, wanted: set[int], table: dict[str, dict[str, Any]]
) -> None:
    """Put into the table what eccodes knows of the wanted elements that are in a message."""
    iterator = eccodes.codes_bufr_keys_iterator_new(handle)
    try:
        while len(table) < len(wanted) and eccodes.codes_bufr_keys_iterator_next(iterator):
            key = eccodes.codes_bufr_keys_iterator_get_name(iterator)
            if not key.startswith("#") or "->" in key:
                continue
            code = int(eccodes.codes_get(handle, f"{key}->code"))
            name = f"{code // 100000}-{code // 1000 % 100:02d}-{code % 1000:03d}"
            if code in wanted and name not in table:
                table[name] = {
                    "mnemonic": f"B{code:06d}",
                    "name": key,
                    "units": str(eccodes.codes_get(handle, f"{key}->units")),
                    "scale": int(eccodes.codes_get(handle, f"{key}->scale")),
                    "reference_value": int(eccodes.codes_get(handle, f"{key}->reference")),
                    "bit_width": int(eccodes.codes_get(handle, f"{key}->width")),
                }
    finally:
        eccodes.codes_bufr_keys_iterator_delete(iterator)


@functools.cache
def _names_of_elements(path: Path) -> dict[str, str]:
    table, _ = decoder(path).load_tables()
    return {f"B{code}": entry["name"] for code, entry in json.loads(table).items()}


_SYNOP = {
    "t2m": "2m_temperature",
    "td2m": "2m_dewpoint_temperature",
    "mslp": "mean_sea_level_pressure",
    "pressure": "surface_pressure",
}


def _by_pdbufr_if_local(path: Path, group: list[Message]) -> Reports | None:
    """Surface reports whose template has elements of a centre's own, decoded by pdbufr.

    None where the template has none, or pdbufr is not there or finds nothing. It is slow (a
    thousand reports take seconds), and has the tables of centres through eccodes.
    """
    plain, described = Messages(), Messages()
    next(decode(path, plain, group[:1]), None)
    if not plain.lost or "nknown" not in plain.lost[0][1]:
        return None
    next(decode(path, described, group[:1], repair=_with_tables_of_eccodes), None)
    if not described.lost:
        return None
    try:
        import pdbufr

        with plain_file(path, b"".join(message.data for message in group)) as plain:
            table = pdbufr.read_bufr(str(plain), reader="synop")
    except Exception as error:  # eccodes and pdbufr have errors of their own; then all is lost
        logging.getLogger(__name__).debug("%s: %s", path, error)
        return None
    if table.empty:
        return None
    return _reports_of_table(table)


def _reports_of_table(table: pd.DataFrame) -> Reports:
    import pandas as pd

    def column(name: str) -> np.ndarray:
        return as_numbers(table[name]) if name in table else np.full(len(table), np.nan)

    reports = Reports(
        {
            "lat": column("lat"),
            "lon": column("lon"),
            "time": pd.to_datetime(table["time"], errors="coerce").to_numpy("datetime64[ns]"),
            "station": table["stnid"].fillna("").astype(str).to_numpy(str),
            "kind": np.full(len(table), "synop"),
            "station_height": column("elevation"),
        }
    )
    for word, name in _SYNOP.items():
        reports.add(word, name, column(word))
    winds = ("wind10m_speed", "wind10m_dir")
    if winds[0] in table:
        reports.add_wind(
            column(winds[0]),
            column(winds[1]),
            zero_is_variable=True,
            surface=np.ones(len(table), bool),
        )
    used = {*_SYNOP, *winds, "stnid", "lat", "lon", "elevation", "time"}
    for word in map(str, table.columns):
        if word not in used:
            reports.unused[word] += int(table[word].notna().sum())
    return reports


# ------------------------------------------------------------------------------ columns


def _columns(batch: Any) -> _Columns:
    return _gathered(zip(batch.schema.names, batch.columns, strict=True), batch.num_rows)


def _gathered(fields: Iterable[tuple[str, Any]], n: int) -> _Columns:
    import pyarrow as pa
    import pyarrow.compute as pc

    out = _Columns(n, {}, {}, [])
    for name, column in fields:
        match = _NAMES.fullmatch(name)
        if pa.types.is_list(column.type):
            entries = column.flatten()
            if pa.types.is_struct(entries.type):
                parents = pc.list_parent_indices(column)  # pyright: ignore[reportAttributeAccessIssue]
                rows = parents.to_numpy(zero_copy_only=False)
                inner = [
                    (entries.type.field(i).name, entries.field(i))
                    for i in range(entries.type.num_fields)
                ]
                out.lists.append((rows.astype(np.int64), _gathered(inner, len(entries))))
        elif match and pa.types.is_floating(column.type):
            values = column.to_numpy(zero_copy_only=False).astype(np.float64)
            out.numbers.setdefault(match[1], []).append(values)
        elif match and pa.types.is_string(column.type) and match[1] not in out.texts:
            texts = [
                "" if text is None or _MISSING_STATION.fullmatch(text) else text.strip("\0 ")
                for text in column.to_pylist()
            ]
            out.texts[match[1]] = np.array(texts, str)
    return out


def _time(columns: _Columns) -> np.ndarray:
    """Time of each row from its first year, month, ...; NaT where there is no such time."""
    year, month, day, hour = (columns.first([f"B00400{i}"]) for i in (1, 2, 3, 4))
    minute, second = (np.nan_to_num(columns.first([f"B00400{i}"])) for i in (5, 6))
    good = (year >= 1900) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1)
    good &= (day <= 31) & (hour >= 0) & (hour <= 24) & (minute < 60) & (second < 61)
    months = (np.where(good, year, 1970) - 1970) * 12 + np.where(good, month, 1) - 1
    start = months.astype(np.int64).astype("datetime64[M]").astype("datetime64[s]")
    rest = ((np.where(good, day, 1) - 1) * 24 + np.where(good, hour, 0)) * 3600
    rest = rest + np.where(good, minute * 60 + second, 0)
    stamp = start + np.round(rest).astype("timedelta64[s]")
    good &= stamp.astype("datetime64[M]") == start.astype("datetime64[M]")  # no 31 February
    return np.where(good, stamp, np.datetime64("NaT")).astype("datetime64[ns]")


def _station(columns: _Columns) -> np.ndarray:
    """Name of the station: WMO number, ICAO letters, call sign, buoy, aircraft, satellite."""
    out = np.full(columns.n, "", "U32")
    block, number = columns.first(["B001001"]), columns.first(["B001002"])
    known = np.isfinite(block) & np.isfinite(number)
    out[known] = [
        f"{int(b):02d}{int(n):03d}" for b, n in zip(block[known], number[known], strict=True)
    ]
    for name in ("B001063", "B001011", "B001008", "B001006", "B001015"):
        if name in columns.texts:
            out = np.where(out == "", columns.texts[name], out)
    for name in ("B001005", "B001087", "B001003", "B001007"):
        code = columns.first([name])
        known = np.isfinite(code) & (out == "")
        out[known] = [f"{c:g}" for c in code[known]]
    return out


# ------------------------------------------------------------------------------ reports


def _reports(category: int, columns: _Columns, drift: bool) -> list[Reports]:
    """Reports of one template; several where it has several lists of levels."""
    if category == _SCATTEROMETER:
        return [_scatterometer(columns)]
    levels = [
        (rows, entries)
        for rows, entries in columns.lists
        if _LEVEL_OF & entries.numbers.keys() and _OBSERVED_ON_LEVELS & entries.numbers.keys()
    ]
    if levels and category not in _SURFACE:
        found = [_profile(category, columns, rows, entries, drift) for rows, entries in levels]
    elif category in _SURFACE:
        found = [_surface(category, columns)]
    else:
        found = [_single_level(category, columns)]
    _count_unused(found[0], columns)
    return found


def _base(columns: _Columns, kind: str) -> dict[str, np.ndarray]:
    return {
        "lat": columns.first(_LAT),
        "lon": columns.first(_LON),
        "time": _time(columns),
        "station": _station(columns),
        "kind": np.full(columns.n, kind),
        "station_height": columns.first(_GROUND),
    }


def _surface(category: int, columns: _Columns) -> Reports:
    place = _base(columns, "synop" if category == _LAND else "ship")
    if category != _LAND:
        buoy = np.isfinite(columns.first(["B001005", "B001087"])) | (category == _OCEAN)
        place["kind"] = np.where(buoy, "buoy", place["kind"])
    elif "B001063" in columns.texts:
        place["kind"] = np.where(columns.texts["B001063"] != "", "metar", place["kind"])
    reports = Reports(place)
    sensors = [
        (rows, entries)
        for rows, entries in columns.lists
        if entries.known(_TEMPERATURE) and entries.known([_HEIGHT_OF_SENSOR])
    ]
    for names, called in ((_T2M, "2m_temperature"), (_TD2M, "2m_dewpoint_temperature")):
        value = columns.first(names)
        for rows, entries in sensors:
            value = np.where(
                np.isfinite(value), value, _at_two_metres(columns.n, rows, entries, names)
            )
        reports.add(names[0], called, value)
    reports.add("B010051", "mean_sea_level_pressure", columns.anywhere(["B010051"]))
    pressure = columns.anywhere(["B010004"])
    setting = columns.anywhere(["B010052"])
    from_setting = pressure_of_altimeter(setting, place["station_height"])
    used = np.isfinite(from_setting) & np.isnan(pressure)
    reports.add("B010004", "surface_pressure", np.where(used, from_setting, pressure))
    reports.assume("surface pressures from altimeter settings", int(used.sum()))
    direction, speed = columns.anywhere(_DIRECTION10), columns.anywhere(_SPEED10)
    if columns.anywhere_known(_SPEED10):
        reports.add_wind(speed, direction, zero_is_variable=True, surface=np.ones(columns.n, bool))
    reports.add(
        "B022042",
        "sea_surface_temperature",
        columns.first(["B022042", "B022049", "B022043"]),
        count_missing=False,
    )
    return reports


def _at_two_metres(
    n: int, rows: np.ndarray, entries: _Columns, names: tuple[str, ...]
) -> np.ndarray:
    """Of several thermometers the one next to 2 m, not the one in the grass."""
    height, value = entries.first([_HEIGHT_OF_SENSOR]), entries.first(names)
    away = np.where(np.isfinite(value) & (height >= 1) & (height <= 30), np.abs(height - 2), np.inf)
    out = np.full(n, np.nan)
    order = np.lexsort((away, rows))
    first = order[np.unique(rows[order], return_index=True)[1]]
    first = first[np.isfinite(away[first])]
    out[rows[first]] = value[first]
    return out


def _single_level(category: int, columns: _Columns) -> Reports:
    """Reports of aircraft and of satellite winds: one level each."""
    aircraft = category == _AIRCRAFT
    place = _base(columns, {_AIRCRAFT: "aircraft", _AMV: "amv"}.get(category, "profiler"))
    place["level"] = columns.first(_PRESSURE[:1]) / 100.0
    reports = Reports(place)
    if aircraft:
        altitude = columns.first(_ALTITUDES)
        wanted = np.isnan(place["level"]) & np.isfinite(altitude)
        place["level"] = np.where(wanted, standard_pressure(altitude) / 100.0, place["level"])
        reports.assume(
            "pressures from flight levels through the ICAO standard atmosphere", int(wanted.sum())
        )
        _add_air(reports, columns)
    beside: dict[str, Any] = {}
    if category == _AMV and "B033007" in columns.numbers:
        marks = np.full(columns.n, np.nan)
        for occurrence in columns.numbers["B033007"]:
            marks = np.where(np.isfinite(marks), marks, occurrence)
        beside["quality"], reports.marks = marks, "amv"
    if columns.known(_SPEED):
        reports.add_wind(
            columns.first(_SPEED), columns.first(_DIRECTION), zero_is_variable=True, **beside
        )
    return reports


def _add_air(reports: Reports, columns: _Columns) -> None:
    """Temperature and one measure of humidity."""
    reports.add("temperature", "temperature", columns.first(_TEMPERATURE))
    dewpoint = columns.first(_DEWPOINT)
    reports.add("dew point", "dewpoint_temperature", dewpoint, count_missing=False)
    mixing = columns.first(["B013002"])
    mixing = np.where(np.isfinite(dewpoint), np.nan, mixing)
    reports.add("mixing ratio", "specific_humidity", mixing / (1 + mixing), count_missing=False)
    moist = np.isfinite(dewpoint) | np.isfinite(mixing)
    reports.add(
        "relative humidity",
        "relative_humidity",
        np.where(moist, np.nan, columns.first(["B013003"])),
        units="%",
        count_missing=False,
    )


def _profile(
    category: int, columns: _Columns, rows: np.ndarray, entries: _Columns, drift: bool
) -> Reports:
    place = {name: values[rows] for name, values in _base(columns, "").items()}
    reports = Reports(place)
    _drift(place, entries, reports, drift)
    level = entries.first(_PRESSURE[:1]) / 100.0
    height = entries.first(_ALTITUDES if category == _AIRCRAFT else _HEIGHTS)
    above = entries.first(_ABOVE_STATION) + place["station_height"]
    for other in (entries.first(["B010003"]) / G0, above):
        height = np.where(np.isfinite(height), height, other)
    from_height = np.isnan(level) & np.isfinite(height)
    place["level"] = level
    if from_height.any():
        reports.pressures_at_heights(
            rows, level, height, from_height, soundings=category == _SOUNDING
        )
    warm = np.isfinite(entries.first(_TEMPERATURE))
    sounded = np.bincount(rows, warm, columns.n)[rows] > 0
    profiler = columns.known(["B002003", "B025001", "B025020"]) and not columns.known(["B002011"])
    without = "profiler" if category == _RADAR or profiler else "pilot"
    place["kind"] = np.where(sounded, "radiosonde", without)
    if category == _AIRCRAFT:
        place["kind"] = np.full(rows.size, "aircraft")
    _add_air(reports, entries)
    if entries.known(_SPEED):
        reports.add_wind(entries.first(_SPEED), entries.first(_DIRECTION), zero_is_variable=True)
    elif entries.known(["B011003"]):
        for code, name in (("B011003", "u"), ("B011004", "v")):
            reports.add(code, f"{name}_component_of_wind", entries.first([code]))
    geopotential = entries.first(["B010003"])
    metres = G0 * entries.first(["B010009", "B010008"])
    geopotential = np.where(np.isfinite(geopotential), geopotential, metres)
    # a height that has become the level says nothing more
    reports.add(
        "height", "geopotential", np.where(from_height, np.nan, geopotential), count_missing=False
    )
    _count_unused(reports, entries)
    return reports


def _drift(place: dict[str, np.ndarray], entries: _Columns, reports: Reports, drift: bool) -> None:
    """Each level at its own place and time, by the displacements since the launch."""
    seconds, north, east = (entries.first([c]) for c in ("B004086", "B005015", "B006015"))
    if not drift:
        reports.unused["drift"] += int((np.isfinite(seconds) | np.isfinite(north)).sum())
        return
    place["lat"] = place["lat"] + np.nan_to_num(north)
    place["lon"] = place["lon"] + np.nan_to_num(east)
    place["time"] = place["time"] + np.round(np.nan_to_num(seconds)).astype("timedelta64[s]")


def _scatterometer(columns: _Columns) -> Reports:
    """The selected one of the ambiguous winds of each cell."""
    reports = Reports(_base(columns, "scatterometer"))
    reports.place.pop("station_height")
    speed, direction = columns.first(["B011012"]), columns.first(["B011011"])
    selected = columns.first(["B021102"])
    for rows, entries in columns.lists:
        if entries.known(["B011012"]):
            order = np.arange(rows.size) - np.searchsorted(rows, rows) + 1
            chosen = order == selected[rows]
            speed[rows[chosen]] = entries.first(["B011012"])[chosen]
            direction[rows[chosen]] = entries.first(["B011011"])[chosen]
            reports.unused["ambiguous winds that were not selected"] += int((~chosen).sum())
    beside: dict[str, Any] = {}
    if columns.known(["B021155"]):
        beside["quality"], reports.marks = columns.first(["B021155"]), "scatterometer"
    reports.add_wind(
        speed, direction, zero_is_variable=True, surface=np.ones(columns.n, bool), **beside
    )
    return reports


_USED = {
    *_T2M,
    *_TD2M,
    *_DIRECTION10,
    *_SPEED10,
    *_PRESSURE,
    *_HEIGHTS,
    "B010051",
    "B010003",
    "B022042",
    "B022049",
    "B013002",
    "B011003",
    "B011004",
}


def _count_unused(reports: Reports, columns: _Columns) -> None:
    """Values of elements that the package has no use for, by their names."""
    names = _names_of_elements(Path("BUFR"))
    for code, occurrences in columns.numbers.items():
        if _OBSERVED.fullmatch(code) and code not in _USED:
            count = sum(int(np.isfinite(values).sum()) for values in occurrences)
            reports.unused[f"{names.get(code, 'local element').lower()} ({code[1:]})"] += count
