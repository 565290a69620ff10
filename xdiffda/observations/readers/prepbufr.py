"""NCEP prepBUFR: values with the history of their events, quality marks, errors, background.

Each value stands on a stack of events, the newest first: every program of the preparation that
changed it has put a new value, mark and program code on top.  The file carries its own tables,
and the decoder reads it with them.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.air import specific_humidity, virtual_factor
from xdiffda.observations.readers.bufr_messages import TABLES, Message, date_of, decode, messages_of
from xdiffda.observations.readers.files import bytes_of
from xdiffda.observations.readers.kinds import is_surface_type, kinds_of
from xdiffda.observations.readers.reports import Reports
from xdiffda.state.humidity import saturation_pressure

_VIRTUAL = 8.0  # program code of VIRTMP, which replaces a temperature by the virtual one
_GROUND = 0.0  # category (CAT) of the level at the ground
_BUOYS = (561.0, 562.0)  # dump report types (T29) of moored and of drifting buoys
_CONTRADICTION = 0.2  # K, between temperatures that are rounded to 0.1 K
_PLACES = ("XOB", "YOB", "DHR", "ELV", "TYP", "T29")
_USED = {"POB", "QOB", "TOB", "ZOB", "UOB", "VOB", "PMO", "SST1", *_PLACES}
# What stands beside values: programs, reasons, marks, errors, analyses, bookkeeping; and DDO, FFO,
# TVO, which say again what others say.
_BESIDE = re.compile(
    r"CAT|\w+(PC|RC|QM|OE|FC|FCMOD|AN|CL|CS|OETU|VWTG|VWTA)|PMQ|BYTCNT|TSB|ITP|SQN|PROCN|RPT|TCOR|"
    r"RSRD|EXPRSRD|SIRC|DF[PQR]|DDO|FFO|TVO|RF10M|ESBAK|XDR|YDR|HRDR|SAID|SID|LOCAL.*|_.*|\..*"
)


@dataclass
class _Levels:
    """Levels of reports: the report of each, and by mnemonic the stack of its values.

    ``stacks[name]`` holds level and value of each event; of one level the newest comes first.
    """

    report: np.ndarray
    reports: dict[str, np.ndarray]
    stacks: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def newest(self, name: str) -> np.ndarray:
        """The newest value at each level; NaN where there is none."""
        out = np.full(self.report.size, np.nan)
        if name in self.stacks:
            level, value = self.stacks[name]
            at, first = np.unique(level, return_index=True)
            out[at] = value[first]
        return out

    def of_report(self, name: str) -> np.ndarray:
        """What a report says once, at each of its levels."""
        return self.reports[name][self.report]


def read_prepbufr(path: Path, *, drift: bool = True) -> xr.Dataset:
    """Read a prepBUFR file, of any types of report; without ``drift`` at the launch's places."""
    messages = messages_of(path, bytes_of(path))
    parts = []
    for tables, group in _groups(messages.found):
        for batch, of_row in decode(path, messages, group, tables):
            levels = _levels(batch, of_row)
            if levels.report.size:
                parts.append(_reports(levels, drift))
    if loss := messages.loss(path):
        warnings.warn(loss, stacklevel=3)
    if not parts:
        raise InputError(
            [
                Problem(
                    "no level of any report" + (f": {loss}" if loss else ""),
                    "reports with XOB, YOB, DHR and levels",
                    f"earth2bufr.read_bufr({str(path)!r})",
                )
            ],
            what=str(path),
        )
    reports = Reports.joined(parts)
    reports.dropped["messages that cannot be decoded"] += len(messages.lost)
    return reports.to_dataset()


def _groups(found: list[Message]) -> list[tuple[bytes, list[Message]]]:
    """Messages by template, each group with the tables that were in force: the last before it."""
    groups: dict[Any, list[Message]] = {}
    blocks: list[bytes] = [b""]
    before = False
    for message in found:
        if message.category == TABLES:
            blocks.append((blocks.pop() if before else b"") + message.data)
            before = True
        elif message.subsets:
            before = False
            groups.setdefault((len(blocks), *message.template), []).append(message)
    return [(blocks[key[0] - 1], group) for key, group in groups.items()]


# ------------------------------------------------------------------------------ from columns


def _levels(batch: Any, of_row: list[Message]) -> _Levels:
    """Unfold the nested columns of a batch."""
    import pyarrow as pa

    n = batch.num_rows
    subsets: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    report, stacks = np.arange(n), subsets
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_list(column.type) and "CAT" in _names(column.type):
            rows, entries = _unfold(column, np.arange(n))
            report, stacks = rows, {}
            _walk(entries, np.arange(rows.size), stacks)
        else:
            _walk_column(name, column, np.arange(n), subsets)
    levels = _Levels(report, {name: _once(subsets, name, n) for name in _PLACES})
    levels.reports["SID"] = _texts(batch)
    levels.reports["date"] = np.array([date_of(m) for m in of_row], "datetime64[ns]")
    levels.stacks = {name: _in_order(parts) for name, parts in stacks.items()}
    if stacks is not subsets:  # what is said once a report (sea surface temperature) is at its end
        last = np.full(n, -1)
        last[report] = np.arange(report.size)
        for name in ("SST1", "SSTQM", "SSTOE", "SSTFC"):
            value = _once(subsets, name, n)
            known = np.isfinite(value) & (last >= 0)
            levels.stacks[name] = last[known], value[known]
    levels.reports |= {
        f"unused {name}": _once(subsets, name, n)
        for name in subsets
        if stacks is not subsets and name not in _USED
    }
    return levels


def _names(kind: Any) -> set[str]:
    return {kind.value_type.field(i).name for i in range(kind.value_type.num_fields)}


def _unfold(column: Any, rows: np.ndarray) -> tuple[np.ndarray, Any]:
    """Entries of a column of lists, and the row of each."""
    import pyarrow.compute as pc

    parents = pc.call_function("list_parent_indices", [column]).to_numpy(zero_copy_only=False)
    return rows[parents.astype(np.int64)], column.flatten()


def _walk(entries: Any, rows: np.ndarray, into: dict[str, list]) -> None:
    """Gather the numbers of entries, however deep they are nested, by mnemonic."""
    for i in range(entries.type.num_fields):
        _walk_column(entries.type.field(i).name, entries.field(i), rows, into)


def _walk_column(name: str, column: Any, rows: np.ndarray, into: dict[str, list]) -> None:
    import pyarrow as pa

    if pa.types.is_list(column.type):
        inner, entries = _unfold(column, rows)
        if pa.types.is_struct(entries.type) and inner.size:
            _walk(entries, inner, into)
    elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        value = column.to_numpy(zero_copy_only=False).astype(np.float64)
        if not name.startswith("_") and np.isfinite(value).any():
            into.setdefault(name, []).append((rows, value))


def _in_order(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Events by level, the newest first; missing values stay, so that stacks remain parallel."""
    level = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(level, kind="stable")
    return level[order], np.concatenate([value for _, value in parts])[order]


def _once(columns: dict[str, list], name: str, n: int) -> np.ndarray:
    out = np.full(n, np.nan)
    for rows, value in reversed(columns.get(name, [])):
        at, first = np.unique(rows, return_index=True)
        out[at] = value[first]
    return out


def _texts(batch: Any) -> np.ndarray:
    if "SID" not in batch.schema.names:
        return np.full(batch.num_rows, "")
    return np.array([(text or "").strip("\0 ") for text in batch.column("SID").to_pylist()], str)


# ------------------------------------------------------------------------------ to reports


def _reports(levels: _Levels, drift: bool) -> Reports:
    place, surface = _place(levels, drift)
    reports = Reports(place, marks="prepbufr")
    if not drift:
        reports.unused["drift"] += int(np.isfinite(levels.newest("HRDR")).sum())
    pressure = levels.newest("POB")
    humidity = 1e-6 * levels.newest("QOB")  # mg/kg
    temperature, background = _sensible(levels, humidity)
    on_ground = levels.newest("CAT") == _GROUND
    reports.add(
        "TOB",
        "temperature",
        temperature,
        background=background,
        surface=surface,
        error=levels.newest("TOE"),
        quality=levels.newest("TQM"),
        count_missing=False,
    )
    reports.add(
        "QOB",
        "specific_humidity",
        humidity,
        surface=surface,
        background=1e-6 * levels.newest("QFC"),
        quality=levels.newest("QQM"),
        error=_humidity_error(levels, temperature, background, pressure),
        count_missing=False,
    )
    for name, word, first in (
        ("u_component_of_wind", "UOB", "UFC"),
        ("v_component_of_wind", "VOB", "VFC"),
    ):
        reports.add(
            word,
            name,
            levels.newest(word),
            error=levels.newest("WOE"),
            surface=surface,
            quality=levels.newest("WQM"),
            background=levels.newest(first),
            count_missing=False,
        )
    # at the ground ZOB is the height of the station
    aloft = ~surface & ~on_ground
    height = np.where(aloft, levels.newest("ZOB"), np.nan)
    reports.add(
        "ZOB",
        "geopotential",
        height,
        units="gpm",
        quality=levels.newest("ZQM"),
        background=levels.newest("ZFC"),
        count_missing=False,
    )
    reports.add(
        "POB",
        "surface_pressure",
        np.where(on_ground, pressure, np.nan),
        units="hPa",
        error=levels.newest("POE"),
        quality=levels.newest("PQM"),
        background=levels.newest("PFC"),
        count_missing=False,
    )
    reports.add(
        "PMO",
        "mean_sea_level_pressure",
        levels.newest("PMO"),
        units="hPa",
        quality=levels.newest("PMQ"),
        count_missing=False,
    )
    reports.add(
        "SST1",
        "sea_surface_temperature",
        levels.newest("SST1"),
        error=levels.newest("SSTOE"),
        quality=levels.newest("SSTQM"),
        background=levels.newest("SSTFC"),
        count_missing=False,
    )
    for name in levels.stacks:
        if name not in _USED and not _BESIDE.fullmatch(name):
            reports.unused[name] += int(np.isfinite(levels.newest(name)).sum())
    for name, values in levels.reports.items():
        word = name.removeprefix("unused ")
        if word != name and not _BESIDE.fullmatch(word):
            reports.unused[word] += int(np.isfinite(values).sum())
    return reports


def _place(levels: _Levels, drift: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Place and time of each level, with its drift, and whether its report is of the surface."""
    report_type = levels.of_report("TYP")
    kind = kinds_of(report_type)
    buoy = np.isin(levels.of_report("T29"), _BUOYS)
    kind = np.where(buoy & (kind == "ship"), "buoy", kind)

    def drifted(aloft: str, launch: str) -> np.ndarray:
        value = levels.newest(aloft if drift else "")
        return np.where(np.isfinite(value), value, levels.of_report(launch))

    hours = drifted("HRDR", "DHR")
    after = np.where(np.abs(hours) < 1e4, hours, np.nan)
    seconds = np.round(np.nan_to_num(after) * 3600.0).astype("timedelta64[s]")
    time = np.where(np.isnan(after), np.datetime64("NaT", "ns"), levels.of_report("date") + seconds)
    place = {
        "lat": drifted("YDR", "YOB"),
        "lon": drifted("XDR", "XOB"),
        "level": levels.newest("POB"),
        "time": time.astype("datetime64[ns]"),
        "station": levels.of_report("SID"),
        "kind": kind,
        "station_height": levels.of_report("ELV"),
    }
    return place, is_surface_type(report_type)


def _sensible(levels: _Levels, humidity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Temperature, K, and the background's.

    Where VIRTMP has replaced a temperature by the virtual one, the event below it holds the
    measured one; what later events changed is added.  Where nothing is below, or it contradicts
    the newest event and the humidity, the file's humidity brings the temperature back.  The
    background of such levels is virtual as well, and is brought to a temperature by the same
    ratio: a departure is that of the virtual temperature, and no error of the humidity enters it.
    """
    newest = levels.newest("TOB") + 273.15
    background = levels.newest("TFC") + 273.15
    if "TPC" not in levels.stacks or "TOB" not in levels.stacks:
        return newest, background
    level, code = levels.stacks["TPC"]
    value_level, value = levels.stacks["TOB"]
    if level.size != value_level.size:  # stacks that are not parallel cannot be read together
        return np.full(newest.size, np.nan), background
    n = newest.size
    at_code = np.flatnonzero(code == _VIRTUAL)
    last = np.full(n, -1)
    last[level[at_code]] = at_code  # the oldest: of several the last assignment stays
    virtual = last >= 0
    below = np.where(virtual, last + 1, 0)
    stands = virtual & (below < level.size)
    below = np.minimum(below, level.size - 1)
    stands &= (level[below] == np.arange(n)) & np.isfinite(value[below])
    changed = newest - 273.15 - value[np.maximum(last, 0)]
    measured = value[below] + 273.15 + np.nan_to_num(changed)
    dried = newest / virtual_factor(humidity)
    with np.errstate(invalid="ignore"):
        stands &= ~(np.abs(measured - dried) > _CONTRADICTION)
        temperature = np.where(stands, measured, np.where(virtual, dried, newest))
        return temperature, np.where(virtual, background * temperature / newest, background)


def _humidity_error(
    levels: _Levels, temperature: np.ndarray, background: np.ndarray, pressure: np.ndarray
) -> np.ndarray:
    """Error of specific humidity, from one in tenths of relative humidity (1 is 10 %)."""
    known = np.where(np.isfinite(temperature), temperature, background)
    vapour = 100.0 * saturation_pressure(known, "water")
    # aloft the vapour pressure of saturated air may exceed the pressure: no air holds it
    vapour = np.where(vapour < 50.0 * pressure, vapour, np.nan)
    return 0.1 * levels.newest("QOE") * specific_humidity(vapour, 100.0 * pressure)
