"""Times as people have them: datetime64, text, Python's, cftime's, numbers since a date."""

from __future__ import annotations

import contextlib
import difflib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


# Calendars in which every date of the last centuries is the one that datetime64 has.
REAL_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
_SECONDS = {
    "nanosecond": 1e-9,
    "ns": 1e-9,
    "microsecond": 1e-6,
    "us": 1e-6,
    "millisecond": 1e-3,
    "ms": 1e-3,
    "second": 1.0,
    "sec": 1.0,
    "s": 1.0,
    "minute": 60.0,
    "min": 60.0,
    "hour": 3600.0,
    "hr": 3600.0,
    "h": 3600.0,
    "day": 86400.0,
    "d": 86400.0,
    "week": 604800.0,
}
_FIRST, _LAST = 1678, 2261  # whole years that 64 bits of nanoseconds can count


class TimeTrouble(ValueError):
    """Values that are no times; ``repair`` makes them such, ``{x}`` being their place.

    It is empty where nothing in the values says how; ``note`` is what it takes for granted.
    """

    def __init__(self, found: str, repair: str, note: str = "") -> None:
        super().__init__(found)
        self.repair, self.note = repair, f"  # {note}" if note else ""


def as_datetimes(values: Any, attrs: Mapping[Any, Any] | None = None) -> np.ndarray:
    """Times as datetime64[ns], UTC; NaT where missing.

    Parameters
    ----------
    values
        Array of datetime64, text, datetime, pandas or cftime objects; numbers only with
        ``attrs["units"]`` such as ``"hours since 2020-01-01"``.
    attrs
        Attributes of the array.

    Raises
    ------
    TimeTrouble
        If they cannot be read, or nanoseconds cannot count them.

    Examples
    --------
    >>> as_datetimes(np.array(["2020-01-01T12:00+02:00"]))[0]
    np.datetime64('2020-01-01T10:00:00.000000000')
    >>> as_datetimes(np.array([6]), {"units": "hours since 2020-01-01"})[0]
    np.datetime64('2020-01-01T06:00:00.000000000')
    """
    values = np.asarray(values)
    if values.dtype.kind == "M":
        return _in_nanoseconds(values)
    flat = values.reshape(-1)
    if flat.dtype.kind in "iufb":
        read = _from_numbers(flat, dict(attrs or {}))
    else:
        read = _from_objects(flat)
    return read.reshape(values.shape)


def as_durations(values: Any, attrs: Mapping[Any, Any] | None = None) -> np.ndarray:
    """Convert durations, such as lead times, to timedelta64[ns]; NaT where missing.

    Parameters
    ----------
    values
        Array of timedelta64, text or timedelta objects; numbers only with ``attrs["units"]``
        such as ``"hours"`` (nothing but zeros needs no unit).
    attrs
        Attributes of the array.

    Raises
    ------
    TimeTrouble
        If they cannot be read.

    Examples
    --------
    >>> as_durations(np.array([1.5]), {"units": "hours"})[0].astype("timedelta64[m]").item()
    datetime.timedelta(seconds=5400)
    """
    import pandas as pd

    values = np.asarray(values)
    if values.dtype.kind == "m":
        return values.astype("timedelta64[ns]")
    if values.dtype.kind not in "iuf":
        numbers = [_number(v) for v in values.flat]
        if any(v is not None for v in numbers):  # not nanoseconds
            lengths = np.array([v for v in numbers if v is not None])
            repair = _durations_from(lengths).replace("{x}", '{x}.astype(str).astype("float64")')
            note = f"if they are {'nanoseconds' if '[ns]' in repair else 'hours'}"
            raise TimeTrouble(f"{values.flat[0]!r} without a unit", repair, note)
        try:
            read = pd.to_timedelta(values.reshape(-1).astype(object)).to_numpy()
        except (ValueError, TypeError, OverflowError) as error:
            raise TimeTrouble(f"{values.flat[0]!r}", "") from error
        return read.astype("timedelta64[ns]").reshape(values.shape)
    units = str((attrs or {}).get("units", "")).strip().lower()
    missing = ~np.isfinite(values)
    seconds = _SECONDS.get(units, _SECONDS.get(units.rstrip("s"))) if units else None
    if seconds is None and not np.any(values[~missing]) and not missing.all():
        seconds = 1.0  # zero in any unit
    if seconds is None:
        first = values[~missing].flat[0] if not missing.all() else values.flat[0]
        if units:
            near = difflib.get_close_matches(units.rstrip("s"), _SECONDS, n=1, cutoff=0.75)
            repair = f"{{x}} * pandas.Timedelta(1, {near[0]!r}).to_numpy()" if near else ""
            note = f"if {units!r} are {near[0]}s" if near else ""
            raise TimeTrouble(f"numbers such as {first:g} in {units!r}", repair, note)
        repair = _durations_from(values[~missing])
        note = f"if they are {'nanoseconds' if '[ns]' in repair else 'hours'}"
        raise TimeTrouble(f"numbers such as {first:g} without a unit", repair, note)
    whole = np.round(np.where(missing, 0, values).astype(np.float64) * (seconds * 1e9))
    return np.where(missing, np.timedelta64("NaT", "ns"), whole.astype("timedelta64[ns]"))


def _number(value: Any) -> float | None:
    """A number, or text that is one; None for anything else, and for what is missing."""
    if not isinstance(value, (int, float, np.number, str)) or isinstance(value, np.timedelta64):
        return None
    with contextlib.suppress(ValueError):
        number = float(value)
        return number if np.isfinite(number) else None
    return None


def _durations_from(numbers: np.ndarray) -> str:
    """Code that makes durations of numbers without a unit: hours, or nanoseconds if huge."""
    if numbers.size and np.abs(numbers).max() >= 1e9:
        return '{x}.astype("timedelta64[ns]")'
    if numbers.dtype.kind == "f":
        return '({x} * 3600).round().astype("timedelta64[s]")'
    return '{x} * numpy.timedelta64(1, "h")'


def width_of(length: Any) -> pd.Timedelta:
    """Convert to a duration; NaT for anything else, and for a bare number.

    pandas would read a bare number as nanoseconds, which no user means.

    Examples
    --------
    >>> width_of("6h").total_seconds(), width_of(6).total_seconds()
    (21600.0, nan)
    """
    import pandas as pd

    nothing: Any = pd.NaT
    if isinstance(length, (int, float, np.number)) and not isinstance(length, np.timedelta64):
        return nothing
    try:
        width: Any = pd.Timedelta(length)
        return width
    except (ValueError, TypeError, OverflowError):
        return nothing


def _in_nanoseconds(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.dtype("datetime64[ns]") and values.size:
        year = values.astype("datetime64[Y]").astype(np.int64) + 1970
        outside = ~np.isnat(values) & ((year < _FIRST) | (year > _LAST))
        if outside.any():
            raise _outside(int(year[outside].flat[0]), '{x}.astype("datetime64[s]")')
    return values.astype("datetime64[ns]")


def _outside(year: int, dates: str) -> TimeTrouble:
    """Years that nanoseconds cannot count: the calendar comes again after 400 of them."""
    cycles = round((1970 - year) / 400)
    return TimeTrouble(
        f"the year {year}, outside {_FIRST} to {_LAST}",
        f'{dates} + numpy.timedelta64({146097 * cycles}, "D")',
        f"{400 * cycles:+d} years, when the calendar is the same; the other times likewise",
    )


def _from_numbers(values: np.ndarray, attrs: dict[Any, Any]) -> np.ndarray:
    """Numbers mean nothing without the unit and the date from which they count."""
    if values.dtype.kind == "f" and np.isnan(values).all():
        return np.full(values.shape, "NaT", "datetime64[ns]")
    if " since " in str(attrs.get("units", "")):
        import xarray as xr

        known = {key: attrs[key] for key in ("units", "calendar") if key in attrs}
        units, calendar = str(attrs["units"]), str(attrs.get("calendar", "standard"))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Unable to decode time axis")
                decoded = xr.decode_cf(xr.Dataset({"time": ("obs", values, known)}))["time"].values
        except (ValueError, OverflowError) as error:
            raise _since(values, units) from error
        try:
            return as_datetimes(decoded)
        except TimeTrouble as trouble:
            if "the year" not in str(trouble):
                raise
            dates = f"cftime.num2date({{x}}, {units!r}, {calendar!r})"
            years = [v.year for v in decoded if not _FIRST <= v.year <= _LAST]
            raise _outside(years[0], _isoformat(dates)) from trouble
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise TimeTrouble("infinite numbers", "numpy.where(numpy.isfinite({x}), {x}, numpy.nan)")
    first = finite[0]
    raise TimeTrouble(
        f"numbers such as {first!s} without the date from which they count",
        f"pandas.to_datetime({_how(int(first), '{x}')})",
    )


def _isoformat(dates: str) -> str:
    """Dates of cftime as those of NumPy."""
    return f'numpy.array([t.isoformat() for t in {dates}], "datetime64[s]")'


def _since(values: np.ndarray, units: str) -> TimeTrouble:
    """Numbers in a unit that has no fixed length, or that nobody knows."""
    import pandas as pd

    found = f"numbers in {units!r}"
    word, start = (part.strip() for part in units.lower().split(" since ", 1))
    try:
        origin = pd.Timestamp(start)
    except (ValueError, TypeError, OverflowError):
        return TimeTrouble(found, "")
    if (months := {"month": 1, "year": 12}.get(word.rstrip("s"))) is not None:
        if np.all(values == np.round(values)):
            first = f'numpy.datetime64("{origin:%Y-%m}", "M")'
            rest = origin - pd.Timestamp(origin.year, origin.month, 1)
            seconds = round(rest.total_seconds())
            later = f' + numpy.timedelta64({seconds}, "s")' if seconds else ""
            step = f'{{x}}.astype("int64") * numpy.timedelta64({months}, "M")'
            return TimeTrouble(found, f"({first} + {step}){later}", "if months of the calendar")
        days = 365.2425 * months / 12  # as UDUNITS counts them, which the CF conventions follow
        count = f'({{x}} * {days * 86400:.10g}).round().astype("timedelta64[s]")'
        note = "if a year has 365.2425 days, as CF says"
        return TimeTrouble(found, f'numpy.datetime64("{origin:%Y-%m-%dT%H:%M:%S}") + {count}', note)
    near = difflib.get_close_matches(word.rstrip("s"), _SECONDS, n=1, cutoff=0.75)
    if not near:
        return TimeTrouble(found, "")
    count = f'({{x}} * {_SECONDS[near[0]] * 1e3:.10g}).round().astype("timedelta64[ms]")'
    repair = f'numpy.datetime64("{origin:%Y-%m-%dT%H:%M:%S}") + {count}'
    return TimeTrouble(found, repair, f"if {word!r} are {near[0]}s")


def _how(number: int, place: str) -> str:
    """Arguments of `pandas.to_datetime` for numbers: digits are read as text."""
    guess = _guess(number)
    digits = f'{place}.astype("int64").astype(str)'
    return f"{digits if guess.startswith('format') else place}, {guess}"


def _guess(number: int) -> str:
    """Suggest how `pandas.to_datetime` may read a number: by its digits, or as Unix seconds."""
    formats = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
    text = str(number)
    if text[:2] in ("19", "20") and len(text) in formats:
        return f'format="{formats[len(text)]}"'
    return 'unit="s"'


def _from_objects(values: np.ndarray) -> np.ndarray:
    import pandas as pd

    given: list[Any] = []
    # one look at the types spares a million strings a test one by one
    if values.dtype.kind == "O" and not set(map(type, values)) <= {str, pd.Timestamp}:
        given = [v for v in values if not pd.isna(v)]
    foreign = {str(v.calendar) for v in given if hasattr(v, "calendar")} - {*REAL_CALENDARS}
    if foreign:
        raise TimeTrouble(
            f"dates of the calendar {', '.join(sorted(foreign))}",
            "pandas.to_datetime([t.isoformat() for t in {x}])",
        )
    numbers = [v for v in given if isinstance(v, (int, float, np.number))]
    if numbers:
        return _from_numbers(np.array(numbers, np.float64), {})
    if any(hasattr(v, "calendar") for v in given):
        years = [v.year for v in given if not _FIRST <= v.year <= _LAST]
        if years:
            raise _outside(years[0], _isoformat("{x}"))
        values = np.array([v.isoformat() if hasattr(v, "calendar") else v for v in values], object)
    try:
        stamps = pd.to_datetime(values, utc=True, format="mixed").tz_localize(None)
        return _in_nanoseconds(np.asarray(stamps))
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, TimeTrouble):
            raise
        said = (str(error).strip().splitlines() or [""])[0]
        texts = [v for v in values if isinstance(v, str) and v.strip()]
        how = _format_of(texts)
        repair = "" if how is None else f'pandas.to_datetime({{x}}, format="{how}")'
        raise TimeTrouble(said, repair) from error


def _format_of(texts: list[str]) -> str | None:
    """Guess the format of dates that pandas does not read by itself."""
    import pandas as pd

    for how in _FORMATS if texts else ():
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            pd.to_datetime(texts, format=how)
            return how
    return None


# How dates are written where pandas does not know it: by digits, by WRF, by GrADS, in Europe.
_FORMATS = (
    "%Y%m%d",
    "%Y%m%d%H",
    "%Y%m%d%H%M",
    "%Y%m%d%H%M%S",
    "%Y-%m-%d_%H:%M:%S",
    "%HZ%d%b%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
)
