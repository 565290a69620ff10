"""When a state is valid: the one rule by which every part of xdiffda reads clocks.

1. ``valid_time``, or a coordinate whose ``standard_name`` is ``time``, says it.
2. A reference time (``forecast_reference_time``, ``init_time``, ...) and a lead time
   (``forecast_period``, ``lead_time``, ``prediction_timedelta``, ``step``, ...) add up.
3. A plain ``time`` beside a lead time is the initial time (WeatherBench 2, earth2studio,
   cfgrib), unless a reference time says otherwise: the two add up.
4. A plain ``time`` without a lead time is the valid time.

What else the dataset tells must agree with that. What is not understood is a `Problem`, and so
is a clock under a name that nobody knows: without a time no window holds.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.times import TimeTrouble, as_datetimes, as_durations

VALID = ("valid_time",)
REFERENCE = (
    "forecast_reference_time",
    "init_time",
    "reference_time",
    "initial_time",
    "initialization_time",
    "initial_time0_hours",
)
LEAD = (
    "lead_time",
    "step",
    "prediction_timedelta",
    "forecast_period",
    "lead",
    "leadtime",
    "fhour",
    "forecast_hour",
    "forecast_time0",
)
_PLAIN = ("time",)
_ROLES = {
    **dict.fromkeys(VALID, "valid"),
    **dict.fromkeys(REFERENCE, "reference"),
    **dict.fromkeys(LEAD, "lead"),
    **dict.fromkeys(_PLAIN, "plain"),
}
_BY_STANDARD_NAME = {
    "time": "valid",
    "forecast_reference_time": "reference",
    "forecast_period": "lead",
}
_IN_HOURS = {"fhour", "forecast_hour"}  # their names say the unit
# clocks under names that nobody agreed upon: refused rather than overlooked
_FOREIGN = re.compile(
    r"(^|_)(date|times?|datetime|timestamp|reftime)(_|\d|$)|date$|(date|ref)time$", re.IGNORECASE
)
# Where nothing tells the time, the user alone can: ``valid_time`` is theirs to give.
_TOLD = "xdiffda.with_valid_time(ds, valid_time)  # when it is valid, UTC"
_TOLD_OPTION = "--valid-time YYYY-MM-DDTHH"
_INITIAL = re.compile(r"ref|base|init|anal|cycle|run", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ClockProblem(Problem):
    """A clock that is not understood; ``option`` repairs it on the command line."""

    option: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Clock:
    """The valid, initial and lead times of a dataset; made by `read_clock`.

    Attributes
    ----------
    valid : DataArray of datetime64[ns] or None
        On the user's dimensions; None where the dataset holds no time, or there are problems.
    initial : DataArray of datetime64[ns] or None
        When the forecasts began; None where the dataset does not say.
    lead : DataArray of timedelta64[ns] or None
    problems : tuple of Problem
    """

    valid: xr.DataArray | None = None
    initial: xr.DataArray | None = None
    lead: xr.DataArray | None = None
    problems: tuple[Problem, ...] = ()

    def checked(self, what: str) -> xr.DataArray | None:
        """The valid times.

        Raises
        ------
        InputError
            If they are not understood; ``what`` is the dataset's name in the message.
        """
        raise_if(self.problems, what=what)
        return self.valid


def role_of(name: str, attrs: Mapping[Any, Any], kind: str = "") -> str | None:
    """Return the role of a coordinate: ``valid``, ``reference``, ``lead``, ``plain`` or None.

    ``kind`` is that of its dtype. Names that say it go before attributes.

    Examples
    --------
    >>> role_of("step", {}), role_of("time", {}), role_of("time", {"standard_name": "time"})
    ('lead', 'plain', 'valid')
    >>> role_of("level", {}) is None
    True
    """
    own = _ROLES.get(name.lower())
    if own == "plain" and kind == "m":
        return "lead"  # `time` since the start, as in the files of GraphCast
    if own not in (None, "plain"):
        return own
    return _BY_STANDARD_NAME.get(str(attrs.get("standard_name", "")), own)


def clock_names(ds: xr.Dataset) -> list[str]:
    """Return all coordinates that hold a time or a lead time, under whatever name."""
    return [
        str(name)
        for name, coord in ds.coords.items()
        if coord.dtype.kind in "mM" or role_of(str(name), coord.attrs)
    ]


def read_clock(ds: xr.Dataset) -> Clock:
    """Read when the states of a dataset are valid; coordinates alone are computed.

    Examples
    --------
    >>> at = {"time": np.datetime64("2019-12-31", "ns"), "step": np.timedelta64(24, "h")}
    >>> print(read_clock(xr.Dataset(coords=at)).valid.values)
    2020-01-01T00:00:00.000000000
    """
    given = _Given(ds)
    valid, reference, lead, plain = map(given.first, ("valid", "reference", "lead", "plain"))
    if valid is not None:
        found = given.times(valid)
        start, ahead = given.silently(reference), given.silently(lead)
        if found is not None:
            _check_valid(given, found)
            start = start if ahead is None else found - ahead
        return given.clock(found, start, ahead)
    if lead is not None and (start := reference or plain) is not None:
        first, ahead = given.times(start), given.leads(lead)
        found = None if first is None or ahead is None else first + ahead
        if found is not None:
            _check_sum(given, found, first)
        return given.clock(found, first, ahead)
    if plain is not None:
        if lead is None and (bare := _bare_lead(ds)) is not None:
            given.problems.append(bare)
        return given.clock(given.times(plain), given.silently(reference), None)
    if reference is not None:
        given.problems.append(
            ClockProblem(
                f"`{reference}` without a lead time",
                "the lead time beside it, or `time`, when the states are valid",
                f'ds.rename({reference}="time")  # if they are valid then',
                f"--valid-time {reference}",
            )
        )
    elif (foreign := _foreign(ds, lead)) is not None:
        given.problems.append(foreign)
    return given.clock(None, None, given.silently(lead))


class _Given:
    """The clocks of one dataset, decoded when they are asked for."""

    def __init__(self, ds: xr.Dataset) -> None:
        self.ds, self.problems = ds, list[Problem]()
        self.roles: dict[str, list[str]] = {}
        for name, coord in ds.coords.items():
            role = role_of(str(name), coord.attrs, coord.dtype.kind)
            if role is not None:
                self.roles.setdefault(role, []).append(str(name))
        for names in self.roles.values():  # preferred names first
            names.sort(key=lambda n: [*_ROLES].index(n.lower()) if n.lower() in _ROLES else 99)

    def first(self, role: str) -> str | None:
        return next(iter(self.roles.get(role, [])), None)

    def clock(
        self, valid: xr.DataArray | None, initial: xr.DataArray | None, lead: xr.DataArray | None
    ) -> Clock:
        if self.problems:
            return Clock(problems=tuple(self.problems))
        bare = [None if a is None else a.reset_coords(drop=True) for a in (valid, initial, lead)]
        return Clock(*bare)

    def times(self, name: str) -> xr.DataArray | None:
        """A coordinate as times; a problem where it is none."""
        coord = self.ds[name]
        try:
            read = as_datetimes(coord.values, coord.attrs)
        except TimeTrouble as trouble:
            self.problems.append(_no_time(coord, name, trouble))
            return None
        if np.isnat(read).any():
            self.problems.append(_missing(self, name, np.isnat(read), "time"))
            return None
        return _bare(coord, read)

    def leads(self, name: str) -> xr.DataArray | None:
        """A coordinate as lead times; a problem where it is none."""
        coord = self.ds[name]
        hours = {"units": "hours"} if name.lower() in _IN_HOURS else {}
        try:
            read = as_durations(coord.values, hours | dict(coord.attrs))
        except TimeTrouble as trouble:
            repair = trouble.repair.format(x=f'ds["{name}"]')
            unit = trouble.note.rpartition(" ")[2]
            self.problems.append(
                ClockProblem(
                    f"`{name}` that is not a lead time ({trouble})",
                    "lead times as timedelta64, or numbers with their unit",
                    f"ds.assign_coords({name}={repair}){trouble.note}" if repair else _TOLD,
                    f"--lead-unit {unit}{trouble.note}" if repair else _TOLD_OPTION,
                )
            )
            return None
        if np.isnat(read).any():
            self.problems.append(_missing(self, name, np.isnat(read), "lead time"))
            return None
        return _bare(coord, read)

    def silently(self, name: str | None) -> xr.DataArray | None:
        """A coordinate that is not needed to know the valid time; None if it cannot be read."""
        if name is None:
            return None
        before, is_lead = len(self.problems), name in self.roles.get("lead", [])
        read = self.leads(name) if is_lead else self.times(name)
        del self.problems[before:]
        return read


def _bare(coord: xr.DataArray, values: np.ndarray) -> xr.DataArray:
    """Values on the dimensions of a coordinate, without coordinates that could be aligned."""
    return xr.DataArray(values.reshape(coord.shape), dims=coord.dims, attrs=dict(coord.attrs))


def _check_valid(given: _Given, valid: xr.DataArray) -> None:
    """Check that the other clocks agree with a valid time."""
    name = given.first("valid")
    lead, reference = (given.silently(given.first(role)) for role in ("lead", "reference"))
    for other in given.roles["valid"][1:]:
        if (told := given.silently(other)) is not None and not _same(told, valid):
            given.problems.append(
                _contradiction(given, f"`{other}` is {_span(told)}", valid, other)
            )
    if lead is None:
        return
    plain = given.silently(given.first("plain"))
    if reference is not None and not _same(reference + lead, valid):
        given.problems.append(_contradiction(given, _sum_words(given, "reference"), valid, name))
    # someone may have moved `time` to the valid time and left the lead time where it was
    elif (
        reference is None
        and plain is not None
        and not _same(plain + lead, valid)
        and not _same(plain, valid)
    ):
        given.problems.append(_contradiction(given, _sum_words(given, "plain"), valid, name))


def _check_sum(given: _Given, valid: xr.DataArray, first: xr.DataArray | None) -> None:
    """A plain `time` beside a reference and a lead time is one of its two ends."""
    for role in ("reference", "plain"):
        for other in given.roles.get(role, []):
            told = given.silently(other)
            if told is not None and not _same(told, valid) and not _same(told, first):
                given.problems.append(
                    _contradiction(given, f"`{other}` is {_span(told)}", valid, other)
                )
    for other in given.roles["lead"][1:]:
        told, ahead = given.silently(other), given.silently(given.first("lead"))
        if told is not None and ahead is not None and not _same(told, ahead):
            given.problems.append(
                Problem(
                    f"`{given.first('lead')}` and `{other}`, which differ",
                    "one lead time",
                    f'ds.drop_vars("{other}")  # or the other',
                )
            )


def _same(one: xr.DataArray, other: xr.DataArray | None) -> bool:
    return other is not None and bool((one == other).all())


def _sum_words(given: _Given, role: str) -> str:
    start, lead = given.first(role), given.first("lead")
    both = given.silently(start), given.silently(lead)
    assert both[0] is not None and both[1] is not None
    return f"`{start}` and `{lead}` add up to {_span(both[0] + both[1])}"


def _contradiction(given: _Given, told: str, valid: xr.DataArray, wrong: str | None) -> Problem:
    """Describe two clocks that differ, of which one has to go."""
    names = [
        n for role in ("valid", "reference", "lead", "plain") for n in given.roles.get(role, [])
    ]
    needed = "clocks that agree: drop what is wrong of " + ", ".join(f"`{n}`" for n in names)
    return ClockProblem(
        f"clocks that contradict each other: {told}, the others say {_span(valid)}",
        needed,
        f'ds.drop_vars("{wrong}")',
        "--valid-time " + (given.first("valid") or "TIME"),
    )


def _no_time(coord: xr.DataArray, name: str, trouble: TimeTrouble) -> Problem:
    """Times that cannot be read."""
    found, needed = f"`{name}` that is not a time ({trouble})", "datetime64, UTC"
    if "calendar" in str(trouble):
        # 30 February has no date in the calendar of the others
        align = ', align_on="date"' if "360" in str(trouble) else ""
        call = f'convert_calendar("standard", dim="{name}"{align})'
        repair = f"xarray.decode_cf(ds).{call}"
        if not coord.ndim:
            repair = f'xarray.decode_cf(ds.expand_dims("{name}")).{call}.isel({name}=0)'
        return ClockProblem(found, "dates of the calendar of observations", repair, _TOLD_OPTION)
    if not trouble.repair:
        return ClockProblem(found, needed, _TOLD, _TOLD_OPTION)
    values = trouble.repair.format(x=f'ds["{name}"].values.reshape(-1)')
    value = f"({values})[0]"
    if coord.ndim:
        flat = values if coord.ndim == 1 else f"numpy.reshape({values}, {coord.shape})"
        value = f"({coord.dims}, {flat})"
    repair = f"ds.assign_coords({name}={value}){trouble.note}"
    return ClockProblem(found, needed, repair, _TOLD_OPTION)


def _missing(given: _Given, name: str, lost: np.ndarray, word: str) -> Problem:
    """Times that are there and not told."""
    found = f"`{name}` that is missing (NaT)"
    coord = given.ds[name]
    # all of them: an initial time that has lost its lead time would pass for a valid one
    repair = f"ds.drop_vars({sorted(n for names in given.roles.values() for n in names)})"
    needed = f"the {word} of each state; without any clock all observations count as of its time"
    if coord.ndim == 1 and not lost.all():
        found = f"`{name}` that is missing (NaT) for {int(lost.sum())} of {lost.size} states"
        needed, repair = f"the {word} of each state", f'ds.sel({name}=ds["{name}"].notnull())'
        if coord.dims[0] != name:
            repair = f'ds.isel({coord.dims[0]}=ds["{name}"].notnull().values)'
    return ClockProblem(found, needed, repair, _TOLD_OPTION)


def _bare_lead(ds: xr.Dataset) -> Problem | None:
    """A dimension of lead times that has no values."""
    bare = [str(d) for d in ds.dims if role_of(str(d), {}) == "lead" and d not in ds.coords]
    if not bare:
        return None
    return ClockProblem(
        f"dimension `{bare[0]}` without values, beside `time`",
        "the lead time of each state along it, or one state without it",
        f"ds.isel({bare[0]}=0)  # if `time` is its valid time",
        _TOLD_OPTION,
    )


def _foreign(ds: xr.Dataset, lead: str | None) -> Problem | None:
    """A clock under a name by which it is not known, or among the variables."""
    small = {
        str(n): v
        for n, v in ds.variables.items()
        if v.ndim <= 1 and role_of(str(n), v.attrs, v.dtype.kind) != "lead"
    }
    dated = [
        n
        for n, v in small.items()
        if v.dtype.kind == "M" or " since " in str(v.attrs.get("units", ""))
    ]
    clocks = dated or [n for n in small if _FOREIGN.search(n)]
    if not clocks:
        return None
    name = clocks[0]
    known = role_of(name, small[name].attrs) is not None
    new = "forecast_reference_time" if lead is not None and _INITIAL.search(name) else "time"
    new = "valid_time" if new in ds.variables or (new in ds.dims and name != new) else new
    repair = "ds" if known else f'ds.rename({name}="{new}")'
    if not name.isidentifier():
        repair = f'ds.rename({{"{name}": "{new}"}})'
    if name not in ds.coords:
        repair += f'.set_coords("{name if known else new}")'
    return ClockProblem(
        f"a clock in `{name}`, and no `time`",
        "`time`, when the states are valid (without it no window of observations holds)",
        repair,
        f"--valid-time {name}",
    )


def with_valid_time(ds: xr.Dataset, valid_time: Any) -> xr.Dataset:
    """Say when the states of a dataset are valid, whatever clocks it has.

    Parameters
    ----------
    ds
        Its clocks (``clock_names``) are dropped, so that nothing contradicts.
    valid_time
        A time (text, datetime64, ...), in UTC unless it has a zone; times along a dimension of a
        clock of ``ds``; or the name of a coordinate or variable of ``ds`` that holds them.

    Returns
    -------
    Dataset
        With ``valid_time``.

    Raises
    ------
    InputError
        If these are no times, or there are not as many as states.

    Examples
    --------
    >>> ds = xr.Dataset(coords={"time": ("time", [3], {"units": "moons since the flood"})})
    >>> print(with_valid_time(ds, "2024-06-03T12")["valid_time"].values)
    ['2024-06-03T12:00:00.000000000']
    """
    named = isinstance(valid_time, str) and valid_time in ds.variables
    given = ds[valid_time] if named else valid_time
    values, attrs = np.asarray(getattr(given, "values", given)), getattr(given, "attrs", {})
    old = [n for n in clock_names(ds) if n in ds.coords]
    dims = next((ds[n].dims for n in old if ds[n].shape == values.shape), None)
    if named:
        dims = ds[valid_time].dims
    elif dims is None and values.ndim <= 1:
        # one time for a dataset of one, or of one for each along the only dimension of clocks
        along = list(dict.fromkeys(d for n in old for d in ds[n].dims))
        fits = [d for d in along if ds.sizes[d] == values.size]
        dims = (fits[0],) if fits else () if values.size == 1 and not along else None
    try:
        read = as_datetimes(values, attrs)
    except TimeTrouble as trouble:
        problem = Problem(
            f"`valid_time` that is not a time ({trouble})",
            "datetime64, UTC",
            'xdiffda.with_valid_time(ds, "2024-06-03T12")  # or when it is',
        )
        raise InputError([problem], what="valid time") from trouble
    if dims is None or np.isnat(read).any():
        sizes = {str(d): n for n_ in old for d, n in zip(ds[n_].dims, ds[n_].shape, strict=True)}
        found = f"{values.size} valid times for states along {sizes}"
        found = "missing valid times (NaT)" if dims is not None else found
        raise InputError([Problem(found, "one for each state", "")], what="valid time")
    bare = ds.drop_vars([*old, *([valid_time] if named and valid_time not in old else [])])
    return bare.assign_coords(valid_time=(dims, read.reshape([ds.sizes[d] for d in dims])))


def with_lead_unit(ds: xr.Dataset, unit: str) -> xr.Dataset:
    """Lead times of ``ds`` that are numbers or text without a unit, as lengths in this unit.

    Raises
    ------
    InputError
        If there is no such lead time, or the unit is unknown.

    Examples
    --------
    >>> at = {"time": np.datetime64("2019-12-31", "ns"), "step": 24}
    >>> print(read_clock(with_lead_unit(xr.Dataset(coords=at), "hours")).valid.values)
    2020-01-01T00:00:00.000000000
    """
    names = [n for n in clock_names(ds) if role_of(n, ds[n].attrs) == "lead"]
    names = [n for n in names if ds[n].dtype.kind != "m"]
    new = {}
    try:
        for name in names:
            numbers = ds[name].values.astype(str).astype(np.float64)
            new[name] = (ds[name].dims, as_durations(numbers, {"units": unit}))
    except ValueError as trouble:  # TimeTrouble is one
        problem = Problem(
            f"lead times `{name}` that are not numbers in {unit!r} ({trouble})",
            "numbers in hours, days, minutes, seconds or nanoseconds",
            "",
        )
        raise InputError([problem], what="unit of the lead time") from trouble
    if not new:
        problem = Problem(
            f"no lead time without a unit among {list(map(str, ds.coords))}",
            f"a coordinate such as {', '.join(LEAD[:3])}",
            "",
        )
        raise InputError([problem], what="unit of the lead time")
    return ds.assign_coords(new)


def warn_without_clock(times: Any, tidy: xr.Dataset, what: str = "background") -> None:
    """Warn where observations have times and the state has none: then no window holds.

    ``times`` are the valid times of the states, None where they are unknown.
    """
    dated = int((~np.isnat(tidy["time"].values)).sum())
    if dated and any(t is None for t in times):
        warnings.warn(
            f"the {what} has no valid time, although {dated} of {tidy.sizes['obs']} observations "
            f"have a time: all observations are used as if made at its valid time, and no window "
            f"is applied; repair: `xdiffda.with_valid_time({what}, valid_time)`, in UTC",
            stacklevel=4,
        )


def _span(times: xr.DataArray) -> str:
    """The first and the last of some times."""
    values = np.atleast_1d(times.values).astype("datetime64[m]").reshape(-1)
    first, last = (str(t).replace("T", " ") for t in (values.min(), values.max()))
    return first if first == last else f"{first} to {last}"


def clock_text(ds: xr.Dataset) -> str:
    """Return the valid times in words; empty where the dataset holds none.

    Examples
    --------
    >>> at = {"time": np.datetime64("2019-12-31", "ns"), "step": np.timedelta64(24, "h")}
    >>> clock_text(xr.Dataset(coords=at))
    '2020-01-01 00:00 UTC, 24 h after 2019-12-31 00:00'
    """
    clock = read_clock(ds)
    if clock.problems:
        return "; ".join(map(str, clock.problems))
    if clock.valid is None or not clock.valid.size:
        return ""
    text = _span(clock.valid) + " UTC"
    if clock.valid.size > 1:
        text += f" ({clock.valid.size})"
    if clock.lead is None or not clock.lead.size or not np.any(clock.lead.values):
        return text
    hours = np.unique(clock.lead.values / np.timedelta64(1, "h"))
    lead = f"{hours[0]:g}" if hours.size == 1 else f"{hours[0]:g} to {hours[-1]:g}"
    start = "" if clock.initial is None else f" after {_span(clock.initial)}"
    return f"{text}, {lead} h{start or ' ahead'}"
