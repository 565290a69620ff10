"""What in the table ``[era5]`` of a configuration cannot be meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xdiffda.errors import Problem
from xdiffda.train.ranges import out_of_range
from xdiffda.variables import VARIABLES, canonical_name

if TYPE_CHECKING:
    from xdiffda.train.config import Era5

_STATE = [name for name, variable in VARIABLES.items() if variable.role == "state"]
_PERIODS = (("first", "last"), ("validation_first", "validation_last"))
_EXAMPLES = {"variables": ["2m_temperature"], "levels": [500, 850], "leads": [6, 48]}


def end_of(last: str) -> np.datetime64:
    """First hour after a period of which ``last`` (a day, or an hour) is the end.

    Examples
    --------
    >>> str(end_of("2000-01-01")), str(end_of("2000-01-01T06"))
    ('2000-01-02T00', '2000-01-01T07')
    """
    hours = 24 if len(last) == len("2000-01-01") else 1
    return np.datetime64(last, "h") + np.timedelta64(hours, "h")


def era5_problems(era5: Era5) -> list[Problem]:
    """All that is wrong with the table, in the order of its entries."""
    problems = [
        Problem(f"era5.{name} is empty", "a value", f"{name} = ...")
        for name in ("variables", "first", "last", "leads")
        if not getattr(era5, name)
    ]
    problems += _list_problems("variables", era5.variables, str, "names") or _names(era5.variables)
    problems += _list_problems("levels", era5.levels, int, "whole hPa") or _levels(era5.levels)
    for period in _PERIODS:
        problems += _period(era5, *period)
    hours = era5.every_hours
    # other steps meet a time of the store, or an hour of the day, only now and then
    if hours < 1 or (24 % hours and hours % 6):
        found, needed = f"era5.every_hours = {hours}", "a divisor of 24 or a multiple of 6"
        problems.append(Problem(found, needed, "every_hours = 6"))
    problems += _list_problems("leads", era5.leads, int, "whole hours") or _leads(era5.leads)
    ranges = {"truncation": (0, 9999), "n_statistics": (1, 10**9)}
    return problems + out_of_range(era5, "era5", ranges)


def _list_problems(name: str, values: Sequence[Any], of: type, needed: str) -> list[Problem]:
    """Entries of another type (a bool is an int, but not meant as one)."""
    wrong = [value for value in values if type(value) is not of]
    repair = f"{name} = {json.dumps(_EXAMPLES[name])}"
    return [Problem(f"era5.{name} {wrong}", needed, repair)] if wrong else []


def _names(variables: Sequence[str]) -> list[Problem]:
    """Names that no state has, with the nearest that one can have; and repeated ones."""
    problems = []
    for name in dict.fromkeys(variables):
        if name in _STATE:
            continue
        meant = canonical_name(name)
        near = [meant] if meant in _STATE else difflib.get_close_matches(name, _STATE, n=1)
        repair = f'"{near[0]}" in era5.variables' if near else "sorted(xdiffda.variables.VARIABLES)"
        needed = "a state variable of WeatherBench"
        problems.append(Problem(f"era5.variables {name!r}", needed, repair))
    return problems + _repeated("variables", variables)


def _levels(levels: Sequence[int]) -> list[Problem]:
    """Levels in an order of their own would be taken in that of the state in silence."""
    order = sorted({level for level in levels if level > 0})
    if list(levels) == order:
        return []
    repair = f"levels = {order or _EXAMPLES['levels']}"
    return [Problem(f"era5.levels {list(levels)}", "hPa above 0, ascending, each once", repair)]


def _leads(leads: Sequence[int]) -> list[Problem]:
    wrong, problems = [lead for lead in leads if lead < 6 or lead % 6], []
    if wrong:
        problems.append(Problem(f"era5.leads {wrong}", "multiples of 6 h", "leads = [6, 48]"))
    return problems + _repeated("leads", leads)


def _repeated(name: str, values: Sequence[Any]) -> list[Problem]:
    once = list(dict.fromkeys(values))
    if len(once) == len(values):
        return []
    more = [value for value in once if list(values).count(value) > 1]
    repair = f"{name} = {json.dumps(once)}"
    return [Problem(f"era5.{name} {more} more than once", "each once", repair)]


def _period(era5: Era5, first: str, last: str) -> list[Problem]:
    begin, end = getattr(era5, first), getattr(era5, last)
    problems = [
        Problem(f"era5.{name} = {value!r}", "a time", f'{name} = "1979-01-01T06"')
        for name, value in ((first, begin), (last, end))
        if value and not _is_time(value)
    ]
    if problems or not (begin or end):
        return problems
    if not (begin and end):
        given, absent = (first, last) if begin else (last, first)
        if absent in _PERIODS[0]:
            return []  # told as an empty entry
        found = f"era5.{given} without {absent}"
        return [Problem(found, "both, or neither", f"{absent} = ...")]
    if np.datetime64(begin, "h") >= end_of(end):
        found = f"era5.{first} = {begin!r} after {last} = {end!r}"
        repair = f'{first} = "{end}", {last} = "{begin}"'
        return [Problem(found, "a period that does not end before it begins", repair)]
    return []


def _is_time(text: str) -> bool:
    """Whether numpy reads a time, and the same tomorrow (it knows ``now`` and ``NaT``, too)."""
    try:
        np.datetime64(text, "h")
    except ValueError:
        return False
    return text[0].isdigit()
