"""Columns of a file under its own names, and what they mean: most readers are such a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xdiffda.observations.readers.air import pressure_of_altimeter
from xdiffda.observations.readers.marks import RULES
from xdiffda.observations.readers.reports import Reports


@dataclass(frozen=True)
class Field:
    """One column: numbers, NaN where missing, their units and their marks of quality."""

    value: np.ndarray
    units: str = ""
    quality: np.ndarray | None = None


@dataclass(frozen=True)
class Meaning:
    """What the columns of a form are called in the file.

    Parameters
    ----------
    variables
        Name in the file -> variable of the package; of several names of one variable the first
        that is there counts, the others are not used.
    winds
        Names of speed and direction that belong together.
    altimeter
        Name of an altimeter setting, which becomes the pressure at the station where no pressure
        is known.
    """

    variables: Mapping[str, str]
    winds: Sequence[tuple[str, str]] = ()
    altimeter: str = ""


# Reports of the surface are in code forms by which the platform is known (ISD, GHCN hourly).
KINDS_OF_CODES = {
    "FM12": "synop",
    "FM13": "ship",
    "FM14": "synop",
    "FM15": "metar",
    "FM16": "metar",
    "FM18": "buoy",
    "SAO": "metar",
    "SAOSP": "metar",
    "AERO": "metar",
    "SYMT": "metar",
    "MESOS": "mesonet",
    "MESOH": "mesonet",
    "MESOW": "mesonet",
}


def kinds_of_codes(codes: np.ndarray) -> np.ndarray:
    """Platforms of reports in these code forms; a land station where the code says nothing.

    Examples
    --------
    >>> kinds_of_codes(np.array(["FM-15", "FM12_4-USA", "AUTO"])).tolist()
    ['metar', 'synop', 'synop']
    """
    found, where = np.unique(np.asarray(codes, str), return_inverse=True)
    plain = [code.split("_")[0].replace("-", "").strip() for code in map(str, found)]
    return np.array([KINDS_OF_CODES.get(code, "synop") for code in plain], str)[where]


def add_fields(reports: Reports, fields: Mapping[str, Field], meaning: Meaning, **how: Any) -> None:
    """Add what these columns mean to the reports; what has no meaning is counted as unused.

    ``how`` goes to `Reports.add`, such as ``surface=``.
    """
    left = dict(fields)
    n = reports.place["lat"].size
    taken: set[str] = set()
    pressure = np.zeros(n, bool)
    for word, name in meaning.variables.items():
        if word in left and name not in taken:
            field = left.pop(word)
            if np.isfinite(field.value).any():
                taken.add(name)
            if name == "surface_pressure":
                pressure = np.isfinite(field.value)
            reports.add(word, name, field.value, units=field.units, quality=field.quality, **how)
    for speed, direction in meaning.winds:
        if speed in left and direction in left and "wind" not in taken:
            fast, turned = left.pop(speed), left.pop(direction)
            taken |= {"wind"} if np.isfinite(fast.value).any() else set()
            reports.add_wind(
                fast.value,
                turned.value,
                units=fast.units or "m s-1",
                quality=_worse(reports.marks, fast, turned),
                zero_is_variable=True,
                **how,
            )
    if meaning.altimeter in left:
        field = left.pop(meaning.altimeter)
        height = reports.place.get("station_height", np.full(n, np.nan))
        unplaced = np.isfinite(field.value) & np.isnan(height)
        reports.unused[f"{meaning.altimeter} of stations without a height"] += int(unplaced.sum())
        raised = np.where(pressure, np.nan, pressure_of_altimeter(field.value, height))
        reports.add(
            meaning.altimeter,
            "surface_pressure",
            raised,
            units=field.units,
            quality=field.quality,
            count_missing=not pressure.any(),
        )
        reports.assume("surface pressures from altimeter settings", int(np.isfinite(raised).sum()))
    for word, field in left.items():
        reports.unused[word] += int(np.isfinite(field.value).sum())


def _worse(rule: str, one: Field, other: Field) -> np.ndarray | None:
    """Of the marks of two columns the bad one; that of the first where the second is missing."""
    if one.quality is None or other.quality is None or rule not in RULES:
        return other.quality if one.quality is None else one.quality
    first = np.isnan(other.value) | ~RULES[rule].good(one.quality)
    return np.where(first, one.quality, other.quality)
