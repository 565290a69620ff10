"""What is read of observations, in the user's words, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._times import TimeTrouble, as_datetimes
from .._units import conversion
from ..errors import Problem
from ._names import KNOWN, to_units

# DateString, Unix_time, obs_timestamp: what people call times besides the names that are known.
_CLOCK = re.compile(r"^(date|time)|_(date|time)$|(datetime|timestamp)$")

if TYPE_CHECKING:
    import xarray as xr

    from ..variables import Variable


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
    raw.problems.append(Problem(
        f"`{word}` that is not all numbers", "numbers, NaN where missing",
        assignment(raw, word, 'pandas.to_numeric({x}, errors="coerce")'),
    ))  # fmt: skip
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
        raw.problems.append(Problem(
            f"`{word}` that is not a time ({trouble})", "datetime64, UTC",
            assignment(raw, word, trouble.repair),
        ))  # fmt: skip
        return np.full(values.shape, "NaT", "datetime64[ns]")


def need_clock(raw: Raw, ds: xr.Dataset) -> None:
    """A problem where times are there, but under a name by which they are not known.

    Without a time observations count as made at the analysis time: never silently.
    """
    if "time" in raw.words:
        return
    plain = {str(name): v for name, v in ds.variables.items() if v.ndim <= 1}
    clocks = [name for name, v in plain.items() if v.dtype.kind == "M"
              or " since " in str(v.attrs.get("units", ""))]  # fmt: skip
    clocks = clocks or [name for name in plain if _CLOCK.search(name.lower())]
    if clocks:
        raw.problems.append(Problem(
            f"times in {', '.join(f'`{name}`' for name in clocks)} and no `time`",
            "`time`, when each was observed (without it: at the analysis time)",
            f'obs.rename(columns={{"{clocks[0]}": "time"}})' if raw.form == "frame"
            else f'obs.rename({{"{clocks[0]}": "time"}})',
        ))  # fmt: skip


def hpa_factor(raw: Raw, attrs: dict, level: np.ndarray) -> float:
    """Factor from the user's unit of pressure to hPa; without units, above 2000 it is Pa."""
    units = str(attrs.get("units", "")).strip()
    if units in ("", "1"):
        largest = np.nanmax(level, initial=0.0) if level.size else 0.0
        raw.level_factor = 0.01 if largest > 2000.0 else 1.0
        return raw.level_factor
    line = conversion(units, "surface_pressure")
    if line is None:
        raw.problems.append(Problem(
            f"`{raw.word('level')}` in {units!r}",
            "pressure in hPa or Pa: heights are no pressure levels", "",
        ))  # fmt: skip
        return 1.0
    raw.level_factor = line[0] / 100.0
    return raw.level_factor


def to_canonical(raw: Raw, user_name: str, name: str, units: str) -> tuple[float, float]:
    """Factor and offset to canonical units."""
    line = to_units(units, raw.known(name), user_name)
    if line is None:
        raw.problems.append(Problem(
            f"`{user_name}` in {units!r}",
            f"{name} in units that convert to {raw.known(name).units}: either the unit is not "
            "written as it is meant, or this is another quantity",
            without(raw, user_name),
        ))  # fmt: skip
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
            f"{count} values without a variable", f"the name of what was observed in `{word}`",
            f"obs.dropna({raw.word('dim')!r}, subset=[{word!r}])" if raw.form != "frame"
            else f'obs[obs["{word}"].notnull()]',
        )  # fmt: skip
    return Problem(
        f"{count} values of {user_name!r}",
        "variables that xdiffda knows (sorted(xdiffda.observations.KNOWN)), or an operator for it "
        "(operators={...})", without(raw, user_name),
    )  # fmt: skip
