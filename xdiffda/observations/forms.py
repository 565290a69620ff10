"""Read observations as users have them into plain arrays, one entry per observed value.

Nothing is judged here beyond what must be understood in order to read; see `checks`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import Problem
from xdiffda.observations.error_std import default_error_std
from xdiffda.observations.names import KNOWN, match_observed, to_units
from xdiffda.observations.sites import name_codes
from xdiffda.state.times import TimeTrouble, as_datetimes
from xdiffda.state.units import conversion
from xdiffda.state.variables import Variable, canonical_name

if TYPE_CHECKING:
    import pandas as pd


# Data frames before they are read: their index, repeated columns, wide tables.

_CLOCKS = ("time", "valid_time", "datetime")


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the levels of its index as columns, and an index of times as ``time``."""
    import pandas as pd

    names = {str(name).lower() for name in frame.columns}
    index = frame.index
    if isinstance(index, pd.DatetimeIndex) and index.name is None and not names & {*_CLOCKS}:
        index = index.rename("time")
    new = [name for name in index.names if name is not None and name not in frame.columns]
    if not new:
        return frame
    levels = index.to_frame(index=False)[new]
    return pd.concat([levels, frame.reset_index(drop=True)], axis=1)


def frame_problem(frame: pd.DataFrame) -> Problem | None:
    """What keeps a data frame from being read at all."""
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return Problem(
            f"columns {', '.join(twice)} more than once",
            "each column once",
            "obs.loc[:, ~obs.columns.duplicated()]",
        )
    lower = {name.lower() for name in [*names, *map(str, frame.index.names)]}
    wide = [name for name in names if canonical_name(name) is not None]
    if (
        wide
        and {"lat", "latitude"} & lower
        and {"lon", "longitude"} & lower
        and (not lower & {"value", "obs_value", "observation"})
    ):
        return Problem(
            f"a wide table with columns {', '.join(wide)}",
            "one row for each value (variable, lat, lon, level, time, value), or a Dataset in "
            "columns with units in the attributes",
            "obs.reset_index().to_xarray()",
        )
    return None


# What is read of observations, in the user's words, and what is wrong with it.

# DateString, Unix_time, obs_timestamp: what people call times besides the names that are known.
DROPPED = "xdiffda_observations_dropped"  # JSON: why a value is left out -> how many
_CLOCK = re.compile(r"^(date|time)|_(date|time)$|(datetime|timestamp)$")


@dataclass
class Raw:
    """Arrays of one length by canonical field, the user's words for them, and what was wrong.

    The field ``variable`` holds positions in ``names``: text is slow and large.
    """

    form: str
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    attrs: dict[Hashable, Any] = field(default_factory=dict)
    own: dict[str, Variable] = field(default_factory=dict)
    several: bool = True  # whether a tidy table holds more than one variable
    # canonical = factor * value + offset, and the unit as written, of each variable
    lines: dict[str, set[tuple[float, float, str]]] = field(default_factory=dict)
    level_factor: float = 1.0  # from the user's unit of pressure to hPa

    def known(self, name: str) -> Variable:
        """What is known of a variable, the user's own included."""
        return self.own.get(name) or KNOWN[name]

    def is_any_of(self, *wanted: str) -> np.ndarray:
        """Which observations are of one of these variables."""
        return np.array([name in wanted for name in self.names], bool)[self.fields["variable"]]

    def word(self, name: str) -> str:
        """The user's word for a field."""
        return self.words.get(name, name)


def as_numbers(raw: Raw, word: str, values: np.ndarray) -> np.ndarray:
    """Values as float64; a problem where they are no numbers."""
    if values.dtype.kind not in "cmM":
        try:
            return values.astype(np.float64)
        except (ValueError, TypeError):
            pass
    raw.problems.append(
        Problem(
            f"`{word}` that is not all numbers",
            "numbers, NaN where missing",
            assignment(raw, word, 'pandas.to_numeric({x}, errors="coerce")'),
        )
    )
    return np.full(values.shape, np.nan)


def assignment(raw: Raw, word: str, expression: str) -> str:
    """The statement that puts an expression of ``{x}``, a variable's values, in its place."""
    if raw.form == "frame":
        return f'obs["{word}"] = ' + expression.format(x=f'obs["{word}"]')
    values = expression.format(x=f'obs["{word}"].values')
    return f'obs["{word}"] = obs["{word}"].dims, {values}'


def read_times(raw: Raw, values: np.ndarray, attrs: Mapping[Any, Any]) -> np.ndarray:
    """Times as datetime64, UTC; text is parsed."""
    try:
        return as_datetimes(values, attrs)
    except TimeTrouble as trouble:
        word = raw.word("time")
        raw.problems.append(
            Problem(
                f"`{word}` that is not a time ({trouble})",
                "datetime64, UTC",
                assignment(raw, word, trouble.repair) + trouble.note if trouble.repair else "",
            )
        )
        return np.full(values.shape, "NaT", "datetime64[ns]")


def need_clock(raw: Raw, ds: xr.Dataset) -> None:
    """A problem where times are there, but under a name by which they are not known.

    Without a time observations count as made at the analysis time: never silently.
    """
    if "time" in raw.words:
        return
    plain = {str(name): v for name, v in ds.variables.items() if v.ndim <= 1}
    clocks = [
        name
        for name, v in plain.items()
        if v.dtype.kind == "M" or " since " in str(v.attrs.get("units", ""))
    ]
    clocks = clocks or [name for name in plain if _CLOCK.search(name.lower())]
    if clocks:
        raw.problems.append(
            Problem(
                f"times in {', '.join(f'`{name}`' for name in clocks)} and no `time`",
                "`time`, when each was observed (without it: at the analysis time)",
                f'obs.rename(columns={{"{clocks[0]}": "time"}})'
                if raw.form == "frame"
                else f'obs.rename({{"{clocks[0]}": "time"}})',
            )
        )


def hpa_factor(raw: Raw, attrs: dict, level: np.ndarray) -> float:
    """Factor from the user's unit of pressure to hPa; without units, above 2000 it is Pa."""
    units = str(attrs.get("units", "")).strip()
    if units in ("", "1"):
        largest = np.nanmax(level, initial=0.0) if level.size else 0.0
        raw.level_factor = 0.01 if largest > 2000.0 else 1.0
        return raw.level_factor
    line = conversion(units, "surface_pressure")
    if line is None:
        raw.problems.append(
            Problem(
                f"`{raw.word('level')}` in {units!r}",
                "pressure in hPa or Pa: heights are no pressure levels",
                "",
            )
        )
        return 1.0
    raw.level_factor = line[0] / 100.0
    return raw.level_factor


def to_canonical(raw: Raw, user_name: str, name: str, units: str) -> tuple[float, float]:
    """Factor and offset to canonical units."""
    line = to_units(units, raw.known(name), user_name)
    if line is None:
        raw.problems.append(
            Problem(
                f"`{user_name}` in {units!r}",
                f"{name} in units that convert to {raw.known(name).units}: either the unit is not "
                "written as it is meant, or this is another quantity",
                without(raw, user_name),
            )
        )
    raw.lines.setdefault(name, set()).add((*(line or (1.0, 0.0)), units))
    return line or (1.0, 0.0)


def without(raw: Raw, user_name: str) -> str:
    """The call that leaves out one variable, under the user's name."""
    if raw.form == "columns":
        return f'obs.drop_vars("{user_name}")'
    mine = f'obs["{raw.word("variable")}"] != "{user_name}"'
    return f"obs[{mine}]" if raw.form == "frame" else f"obs.isel({raw.word('dim')}={mine})"


def unit_repair(raw: Raw, name: str, units: str) -> str:
    """The statement that says the unit of one variable, and of no other."""
    if raw.form == "columns":
        return f'obs["{raw.word(name)}"].attrs["units"] = "{units}"'
    return set_for(raw, name, raw.word("units"), f'"{units}"', '""')


def set_for(raw: Raw, name: str, column: str, value: str, other: str) -> str:
    """The statement that sets a field of a tidy table for the observations of one variable."""
    if not raw.several:
        return f'obs["{column}"] = {value}'
    mine = f'obs["{raw.word("variable")}"] == "{raw.word(name)}"'
    if raw.form == "frame":
        return f'obs.loc[{mine}, "{column}"] = {value}'
    if column in raw.words.values():
        other = f'obs["{column}"]'
    return f'obs["{column}"] = xarray.where({mine}, {value}, {other})'


def unknown_variable(user_name: str, count: int, raw: Raw) -> Problem:
    """The problem of a variable nobody knows."""
    if user_name in ("nan", "None", "<NA>"):
        word = raw.word("variable")
        return Problem(
            f"{count} values without a variable",
            f"the name of what was observed in `{word}`",
            f"obs.dropna({raw.word('dim')!r}, subset=[{word!r}])"
            if raw.form != "frame"
            else f'obs[obs["{word}"].notnull()]',
        )
    return Problem(
        f"{count} values of {user_name!r}",
        "variables that xdiffda knows (sorted(xdiffda.observations.KNOWN)), or an operator for it "
        "(operators={...})",
        without(raw, user_name),
    )


OPTIONAL = ("station", "kind", "quality", "station_height", "level_bottom")
# Those of them that are numbers, NaN where unknown: metres above sea level; hPa.
NUMERIC = ("station_height", "level_bottom")
# A field of each value, in its units: what the background of the file's own system says.
BACKGROUND = "background"
TIDY_NAMES: dict[str, tuple[str, ...]] = {
    "variable": ("variable", "varname", "obs_type"),
    "value": ("value", "obs_value", "observation"),
    "error_std": ("error_std", "obs_error", "error", "std"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "longitude", "long"),
    "level": ("level", "pressure", "plev", "isobaricinhpa", "pressure_level"),
    "time": ("time", "valid_time", "datetime"),
    "station": ("station", "station_id"),
    "kind": ("kind",),
    "quality": ("quality",),
    "station_height": ("station_height", "station_elevation", "elevation", "altitude"),
    "level_bottom": ("level_bottom", "bottom_level", "pressure_bottom"),
    "background": ("background", "background_value"),
    "units": ("units", "unit"),
}


# ----------------------------------------------------------------------------- tidy


def read_tidy(ds: xr.Dataset, form: str, own: dict[str, Variable]) -> Raw:
    raw = Raw(form, attrs=dict(ds.attrs), own=own)
    lower = {str(name).lower(): str(name) for name in ds.variables}
    for ours, candidates in TIDY_NAMES.items():
        theirs = next((lower[name] for name in candidates if name in lower), None)
        if theirs is not None:
            raw.words[ours] = theirs
    for name in ("variable", "value", "lat", "lon"):
        if name not in raw.words:
            raw.problems.append(
                Problem(
                    f"no column `{name}` among {', '.join(map(str, ds.variables)) or 'none'}",
                    "tidy observations with variable, lat, lon, level, time, value",
                    "",
                )
            )
    need_clock(raw, ds)
    if raw.problems:
        return raw
    value = ds[raw.words["value"]]
    raw.words["dim"] = str(value.dims[0]) if value.ndim else "obs"
    if value.ndim > 1 or any(
        set(ds[t].dims) - set(value.dims) for t in raw.words.values() if t in ds.variables
    ):
        raw.problems.append(
            Problem(
                f"tidy fields on dimensions {dict(ds.sizes)}",
                "all of them on one dimension",
                f"obs.to_dataframe().dropna(subset=[{raw.words['value']!r}]).reset_index()",
            )
        )
        return raw
    for ours, theirs in raw.words.items():
        if ours != "dim":
            column = np.broadcast_to(np.asarray(ds[theirs].values), value.shape)
            raw.fields[ours] = np.atleast_1d(column)
    _tidy_types(raw, ds)
    if not raw.problems:
        _tidy_names_and_units(raw, str(value.attrs.get("units", "")))
    return raw


def _tidy_types(raw: Raw, ds: xr.Dataset) -> None:
    """Numbers as float64, times as datetime64, levels in hPa; a problem for what is neither."""
    n = raw.fields["value"].size
    raw.fields.setdefault("level", np.full(n, np.nan))
    raw.fields.setdefault("time", np.full(n, "NaT", "datetime64[ns]"))
    for name in ("value", "error_std", "lat", "lon", "level", BACKGROUND, *NUMERIC):
        if name in raw.fields:
            raw.fields[name] = as_numbers(raw, raw.word(name), raw.fields[name])
    for name in ("variable", "station", "kind", "units"):
        if name in raw.fields and raw.fields[name].dtype.kind == "S":
            raw.fields[name] = np.char.decode(raw.fields[name], "utf-8", "replace")
    attrs = ds[raw.words["time"]].attrs if raw.words.get("time") in ds.variables else {}
    raw.fields["time"] = read_times(raw, raw.fields["time"], attrs)
    for name in ("level", "level_bottom"):
        if name in raw.fields and not raw.problems:
            theirs = raw.word(name)
            attrs = ds[theirs].attrs if theirs in ds.variables else {}
            raw.fields[name] = raw.fields[name] * hpa_factor(raw, attrs, raw.fields[name])


def count_left_out(raw: Raw, more: Mapping[str, int]) -> None:
    """Count values that are left out, by name and reason, where readers count theirs."""
    try:
        count = Counter(json.loads(str(raw.attrs.get(DROPPED, "{}"))))
    except (ValueError, TypeError):
        count = Counter()
    raw.attrs[DROPPED] = json.dumps(dict((count + Counter(more)).most_common()))


def _tidy_names_and_units(raw: Raw, unit_of_all: str) -> None:
    """Canonical names, values and errors in canonical units, default errors where none.

    ``unit_of_all`` is that of the attributes, where no column says them row by row.
    """
    import pandas as pd

    fields = raw.fields
    observed = ~np.isnan(fields["value"])
    if not observed.all():
        missing = Counter(map(_text, fields["variable"][~observed]))
        count_left_out(raw, {f"{name}: missing": n for name, n in missing.items()})
        for name in fields:
            fields[name] = fields[name][observed]
    units = fields.pop("units", None)
    on_level = np.isfinite(fields["level"])
    user_code, user_names = name_codes(fields["variable"])
    raw.several = len(user_names) > 1
    unit_code, unit_names = np.zeros(1, np.int64), np.array([unit_of_all], object)
    if units is not None:
        unit_code, unit_names = pd.factorize(units.astype(object), use_na_sentinel=False)
    code = (user_code * len(unit_names) + unit_code) * 2 + on_level
    raw.names = all_names(raw.own)
    fields["variable"] = np.zeros(code.size, np.int64)
    default = np.full(code.size, np.nan)
    unknown: dict[str, int] = {}
    for kind in np.sort(pd.unique(code)):
        where = np.flatnonzero(code == kind)
        user_name = user_names[kind // 2 // len(unit_names)]
        match = match_observed(user_name, user_name, on_levels=bool(kind % 2), own=raw.own)
        if match is None:
            unknown[user_name] = unknown.get(user_name, 0) + where.size
            continue
        fields["variable"][where] = raw.names.index(match.name)
        raw.words.setdefault(match.name, user_name)
        unit = _text(unit_names[kind // 2 % len(unit_names)])
        line = to_canonical(raw, user_name, match.name, unit)
        if line != (1.0, 0.0):
            fields["value"][where] = fields["value"][where] * line[0] + line[1]
            if "error_std" in fields:
                fields["error_std"][where] *= line[0]
            if BACKGROUND in fields:
                fields[BACKGROUND][where] = fields[BACKGROUND][where] * line[0] + line[1]
        if "error_std" not in fields:
            default[where] = default_error(raw, match.name, fields["level"][where])
    fields.setdefault("error_std", default)
    for user_name, count in unknown.items():
        raw.problems.append(unknown_variable(user_name, count, raw))


def all_names(own: dict[str, Variable]) -> list[str]:
    """Every name that an observation may have, in alphabetical order."""
    return sorted({*KNOWN, *own})


def _text(unit: object) -> str:
    return "" if unit is None or unit != unit else str(unit)


def default_error(raw: Raw, name: str, level: np.ndarray) -> np.ndarray:
    """Default error at each level: the operator's for a variable of the user's own."""
    if name in raw.own:
        return np.full(np.shape(level), raw.own[name].default_error_std)
    return default_error_std(name, level)
