"""Reports of a file, and how tidy observations are made of them.

A reader fills one `Reports`: places on one axis, and columns of values on it. What cannot be
used is counted here, by reason and by name, for every reader in the same way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.observations import KNOWN, default_error_std
from xdiffda.observations.checks import HIGHEST_PRESSURE
from xdiffda.observations.forms import DROPPED
from xdiffda.observations.names import to_units
from xdiffda.observations.readers.air import standard_pressure
from xdiffda.observations.sites import on_globe
from xdiffda.observations.table import _ATTRS

# What a variable on levels is called where the report is one of the surface.
AT_SURFACE = {
    "temperature": "2m_temperature",
    "dewpoint_temperature": "2m_dewpoint_temperature",
    "specific_humidity": "2m_specific_humidity",
    "u_component_of_wind": "10m_u_component_of_wind",
    "v_component_of_wind": "10m_v_component_of_wind",
    "wind_speed": "10m_wind_speed",
}
UNUSED = "xdiffda_observations_unused"
DEFAULT_ERRORS = "xdiffda_observations_default_errors"
MARKS = "xdiffda_observations_marks"
ASSUMED = "xdiffda_observations_assumed"


@dataclass
class Column:
    """Values of one variable, one for each report, in canonical units; NaN where missing."""

    name: str
    value: np.ndarray
    error: np.ndarray | None = None
    quality: np.ndarray | None = None
    background: np.ndarray | None = None


@dataclass
class Reports:
    """Places of reports, what was observed there, and what was left out.

    Parameters
    ----------
    place
        Arrays of one length: ``lat``, ``lon``, ``time`` and, where known, ``level`` (hPa),
        ``station``, ``kind``, ``station_height`` (m).
    columns
        What was observed.
    dropped
        Values by the reason for which they cannot be used.
    unused
        Values by the name, in the file, of what the package has no use for.
    marks
        By which rule the marks of quality are to be read: one of `marks.RULES`.
    assumed
        Values by what was taken for granted to read them.
    """

    place: dict[str, np.ndarray]
    columns: list[Column] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    marks: str = ""
    assumed: Counter[str] = field(default_factory=Counter)

    def assume(self, what: str, number: int) -> None:
        """Note what a reader took for granted, and for how many values."""
        if number:
            self.assumed[what] += int(number)

    def add(
        self,
        word: str,
        name: str,
        value: np.ndarray,
        *,
        units: str = "",
        error: np.ndarray | None = None,
        quality: np.ndarray | None = None,
        background: np.ndarray | None = None,
        surface: np.ndarray | None = None,
        count_missing: bool = True,
    ) -> None:
        """Add values in ``units``; ``word`` is the file's name for them.

        ``background`` is that of the file, in the same units; ``surface`` says which reports are
        of the surface.  A column without any value is none.
        """
        value = np.asarray(value, np.float64)
        line = to_units(units, KNOWN[name])
        if line is None:
            self.unused[f"{word} in {units}"] += int(np.isfinite(value).sum())
            return
        present = np.isfinite(value)
        if not present.any():
            return
        self._count(f"{name}: missing", ~present & count_missing)
        value = np.where(present, value * line[0] + line[1], np.nan)
        error = None if error is None else np.asarray(error, np.float64) * line[0]
        if background is not None:
            background = np.asarray(background, np.float64) * line[0] + line[1]
        if surface is None or name not in AT_SURFACE:
            # what has no name at the surface has a level there: its pressure
            self.columns.append(Column(name, value, error, quality, background))
            return
        for where, called in ((~surface, name), (surface, AT_SURFACE[name])):
            if where.any():
                part = np.where(where, value, np.nan)
                self.columns.append(Column(called, part, error, quality, background))

    def add_wind(
        self,
        speed: np.ndarray,
        direction: np.ndarray,
        *,
        units: str = "m s-1",
        zero_is_variable: bool = False,
        count_missing: bool = True,
        **others: Any,
    ) -> None:
        """Add wind as components where both are known, else its speed.

        With ``zero_is_variable`` a wind from 0 degrees blows from nowhere in particular: by the
        code of WMO 360 is north, 0 is calm.
        """
        factor = (to_units(units, KNOWN["wind_speed"]) or (1.0, 0.0))[0]
        speed = np.asarray(speed, np.float64) * factor
        direction = np.asarray(direction, np.float64)
        if others.get("error") is not None:
            others["error"] = np.asarray(others["error"], np.float64) * factor
        if count_missing:
            self._count("wind: missing", ~np.isfinite(speed) & ~np.isfinite(direction))
        self._count("wind direction without a speed", ~np.isfinite(speed) & np.isfinite(direction))
        names = ("u_component_of_wind", "v_component_of_wind", "wind_speed")
        parts = components(speed, direction, zero_is_variable=zero_is_variable)
        for name, value in zip(names, parts, strict=True):
            # a wind that is no speed alone is not missing
            self.add(name, name, value, count_missing=False, **others)

    def pressures_at_heights(
        self,
        rows: np.ndarray,
        level: np.ndarray,
        height: np.ndarray,
        wanted: np.ndarray,
        *,
        soundings: bool,
    ) -> None:
        """Levels where only heights are known: through the sounding itself, else ICAO's atmosphere.

        Parameters
        ----------
        rows
            Sounding of each report.
        level, height
            Pressure (hPa) and height (m).
        wanted
            Which reports need a pressure.
        soundings
            Whether a sounding may have pressures at some of its heights.
        """
        standard = standard_pressure(height) / 100.0
        result = np.where(wanted, standard, level)
        own = np.zeros(rows.size, bool)
        both = np.isfinite(level) & np.isfinite(height) & (level > 0)
        if soundings and both.any():
            for row in np.unique(rows[wanted]):
                mine = np.flatnonzero(rows == row)
                known, asked = mine[both[mine]], mine[wanted[mine]]
                if known.size < 2:
                    continue
                known = known[np.argsort(height[known], kind="stable")]
                inside = (height[asked] >= height[known[0]]) & (height[asked] <= height[known[-1]])
                log_p = np.interp(height[asked], height[known], np.log(level[known]))
                result[asked[inside]] = np.exp(log_p[inside])
                own[asked[inside]] = True
        self.place["level"] = result
        self.assume("pressures from heights through the sounding itself", int(own.sum()))
        self.assume(
            "pressures from heights through the ICAO standard atmosphere",
            int((wanted & ~own).sum()),
        )

    def drop(self, reason: str, bad: np.ndarray) -> None:
        """Leave out all values of the reports that are ``bad``."""
        for column in self.columns:
            lost = bad & np.isfinite(column.value)
            self._count(reason, lost)
            column.value = np.where(lost, np.nan, column.value)

    def _count(self, reason: str, which: np.ndarray) -> None:
        if number := int(np.count_nonzero(which)):
            self.dropped[reason] += number

    @classmethod
    def joined(cls, parts: Sequence[Reports]) -> Reports:
        """Reports of several parts of a file as one; what a part lacks is missing there."""
        sizes = [part.place["lat"].size for part in parts]
        words = dict.fromkeys(word for part in parts for word in part.place)
        joined = cls(
            {word: _joined([part.place.get(word) for part in parts], sizes) for word in words}
        )
        numbered = [_numbered(part.columns) for part in parts]
        for key in dict.fromkeys(key for part in numbered for key in part):
            columns = [part.get(key) for part in numbered]
            given = {
                name: [None if c is None else getattr(c, name) for c in columns]
                for name in ("value", "error", "quality", "background")
            }
            joined.columns.append(
                Column(
                    key[0],
                    **{
                        name: _joined(values, sizes)
                        for name, values in given.items()
                        if any(v is not None for v in values)
                    },
                )
            )
        for part in parts:
            joined.dropped += part.dropped
            joined.unused += part.unused
            joined.assumed += part.assumed
            joined.marks = joined.marks or part.marks
        return joined

    def to_dataset(self) -> xr.Dataset:
        """Tidy observations, report by report; everything that had to be dropped is counted."""
        self._drop_unplaced()
        self._drop_impossible()
        parts = [np.flatnonzero(np.isfinite(c.value)) for c in self.columns]
        row = np.concatenate([*parts, np.zeros(0, np.int64)])
        order = np.argsort(row, kind="stable")
        names = np.repeat(np.array([c.name for c in self.columns], str), [p.size for p in parts])
        fields = {"variable": names[order] if names.size else np.zeros(0, "U1")}
        for name in ("lat", "lon", "level", "time", "station", "kind", "station_height"):
            if name in self.place:
                fields[name] = self.place[name][row][order]
        fields.setdefault("level", np.full(row.size, np.nan))
        surface = np.isin(fields["variable"], [n for n, v in KNOWN.items() if not v.on_levels])
        fields["level"] = np.where(surface, np.nan, fields["level"])
        fields["lon"] = np.mod(fields["lon"], 360.0)
        fields["value"] = self._gather(parts, "value")[order]
        attrs: dict[str, Any] = {}
        if any(c.error is not None and np.any(c.error > 0) for c in self.columns):
            fields["error_std"] = self._errors(fields, self._gather(parts, "error")[order], attrs)
        quality = self._gather(parts, "quality")[order]
        if np.any(quality != "" if quality.dtype.kind == "U" else np.isfinite(quality)):
            fields["quality"] = quality
            if self.marks:
                attrs[MARKS] = self.marks
        background = self._gather(parts, "background")[order]
        if np.isfinite(background).any():
            fields["background"] = background
        attrs |= {DROPPED: as_text(self.dropped), UNUSED: as_text(self.unused)}
        if self.assumed:
            attrs[ASSUMED] = as_text(self.assumed)
        return as_dataset(fields, attrs)

    def _drop_unplaced(self) -> None:
        lat, lon = on_globe(self.place["lat"]), self.place["lon"]
        self.place["lat"] = lat
        self.drop("no place on the globe", ~(np.abs(lat) <= 90) | ~(np.abs(lon) <= 720))
        self.drop("no time", np.isnat(self.place["time"]))
        level = self.place.get("level", np.full(lat.size, np.nan))
        height = self.place.get("station_height", np.full(lat.size, np.nan))
        for column in self.columns:
            if KNOWN[column.name].on_levels:
                bad = ~((level > 0) & (level <= HIGHEST_PRESSURE))
                reason = f"{column.name}: no pressure"
            else:
                bad = ~np.isfinite(height) & (column.name == "surface_pressure")
                reason = f"{column.name}: no height of the station"
            bad &= np.isfinite(column.value)
            self._count(reason, bad)
            column.value = np.where(bad, np.nan, column.value)

    def _drop_impossible(self) -> None:
        for column in self.columns:
            known = KNOWN[column.name]
            low, high = known.valid_range
            bad = (column.value < low) | (column.value > high)
            self._count(f"{column.name}: outside [{low:g}, {high:g}] {known.units}", bad)
            column.value = np.where(bad, np.nan, column.value)

    def _gather(self, parts: list[np.ndarray], name: str) -> np.ndarray:
        """One field of all columns, one after the other; missing where a column has none."""
        text = any(
            np.asarray(getattr(c, name)).dtype.kind == "U"
            for c in self.columns
            if getattr(c, name) is not None
        )
        empty: Any = "" if text else np.nan
        found = [
            np.full(where.size, empty)
            if getattr(column, name) is None
            else np.asarray(getattr(column, name))[where]
            for column, where in zip(self.columns, parts, strict=True)
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def _errors(
        self, fields: dict[str, np.ndarray], error: np.ndarray, attrs: dict[str, Any]
    ) -> np.ndarray:
        """Errors of the file, and the default where it has none for a value."""
        missing = ~(error > 0)
        for name in np.unique(fields["variable"][missing]):
            mine = missing & (fields["variable"] == name)
            error[mine] = default_error_std(str(name), fields["level"][mine])
        if missing.any():
            attrs[DEFAULT_ERRORS] = int(missing.sum())
        return error


def _numbered(columns: list[Column]) -> dict[tuple[str, int], Column]:
    """Columns by name, and by their place among those of the same name."""
    seen: Counter[str] = Counter()
    out = {}
    for column in columns:
        out[column.name, seen[column.name]] = column
        seen[column.name] += 1
    return out


def _joined(parts: Sequence[np.ndarray | None], sizes: Sequence[int]) -> np.ndarray:
    """Arrays one after the other; missing values of their type where there is none."""
    kind = next(part.dtype.kind for part in parts if part is not None)
    nothing = {"U": "", "M": np.datetime64("NaT", "ns")}.get(kind, np.nan)
    return np.concatenate(
        [
            np.full(size, nothing) if part is None else part
            for part, size in zip(parts, sizes, strict=True)
        ]
    )


def components(
    speed: np.ndarray, direction: np.ndarray, *, zero_is_variable: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eastward and northward wind where speed and direction are known, else the speed alone.

    Examples
    --------
    >>> east, north, alone = components(np.array([10.0, 5.0]), np.array([270.0, np.nan]))
    >>> east.tolist(), alone.tolist()
    ([10.0, nan], [nan, 5.0])
    """
    direction = np.where(speed == 0, 0.0, direction)  # calm has no direction
    known = np.isfinite(direction) & ~(zero_is_variable & (direction == 0) & (speed > 0))
    known &= (direction >= 0) & (direction <= 360)
    angle = np.deg2rad(direction)
    both = np.isfinite(speed) & known
    # plus zero: -0.0 is no wind
    east, north = (0.0 - speed * part(angle) for part in (np.sin, np.cos))
    return (
        np.where(both, east, np.nan),
        np.where(both, north, np.nan),
        np.where(~known, speed, np.nan),
    )


def as_numbers(values: Any) -> np.ndarray:
    """A column of a table as float64; NaN where it holds no number."""
    import pandas as pd

    return np.asarray(pd.to_numeric(values, errors="coerce"), np.float64)


def as_text(counts: Counter[str]) -> str:
    """Counts as JSON, the largest first; attributes of netCDF hold no dictionaries."""
    return json.dumps({name: number for name, number in counts.most_common() if number})


def as_dataset(fields: dict[str, np.ndarray], attrs: dict[str, Any]) -> xr.Dataset:
    """Tidy observations as `xdiffda.observations.to_tidy` lays them out."""
    data = {name: ("obs", column, _ATTRS.get(name, {})) for name, column in fields.items()}
    values = ("value", "error_std", "quality", "background")
    coords = {name: data[name] for name in data if name not in values}
    return xr.Dataset({name: data[name] for name in values if name in data}, coords, attrs)
