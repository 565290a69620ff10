"""Which marks of quality are good, by the rule of the form that a file has.

A reader keeps the marks as they stand in the file, and the attribute
``xdiffda_observations_marks`` says by which rule they are to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xdiffda.observations.readers.reports import MARKS


@dataclass(frozen=True)
class Rule:
    """How marks of one form are read.

    Parameters
    ----------
    good
        Marks, an array of numbers or of text -> whether each is good. A value without a mark (NaN,
        empty text) has not been judged, and is good.
    meaning
        The rule in words, with its source.
    """

    good: Callable[[np.ndarray], np.ndarray]
    meaning: str


def _at_most(limit: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda marks: ~(np.asarray(marks, np.float64) > limit)


def _none_of(bad: str) -> Callable[[np.ndarray], np.ndarray]:
    letters = [*bad]
    return lambda marks: ~np.isin(np.char.strip(np.asarray(marks, str)), letters)


def _without_bits(bad: tuple[int, ...], width: int) -> Callable[[np.ndarray], np.ndarray]:
    """None of these bits of a BUFR flag table, whose bit 1 is the largest of ``width``."""
    mask = sum(1 << (width - bit) for bit in bad)
    missing = (1 << width) - 1

    def good(marks: np.ndarray) -> np.ndarray:
        flags = np.nan_to_num(np.asarray(marks, np.float64)).astype(np.int64)
        return ((flags & mask) == 0) | (flags == missing)

    return good


_ISD_GOOD = "01459ACIMPRU"


def _metar(marks: np.ndarray) -> np.ndarray:
    marks = np.asarray(marks, np.float64)
    return ~np.isfinite(marks) | (marks >= 0)


RULES: dict[str, Rule] = {
    "prepbufr": Rule(
        _at_most(2),
        "NCEP: 0 keep, 1 good, 2 neutral or not checked; 3 is suspect, 4 to 15 are rejected",
    ),
    "EffectiveQC": Rule(_at_most(0), "UFO: 0 passed, 1 passive, all others name the filter"),
    "PreQC": Rule(_at_most(2), "IODA: the mark of prepBUFR"),
    "QualityMarker": Rule(_at_most(2), "IODA: the mark of the BUFR dump; 3 is suspect"),
    "madis": Rule(
        _none_of("XQB"),
        "MADIS: X failed stage 1, Q failed stage 2 or 3, B is on the "
        "subjective list of bad stations; Z is not checked, C, S, V "
        "passed stages 1 to 3, G is on the list of good ones",
    ),
    "isd": Rule(_none_of("2367"), "NOAA ISD: 2 and 6 are suspect, 3 and 7 erroneous"),
    "ghcnh": Rule(
        lambda marks: np.isin(
            np.char.strip(np.asarray(marks, str)), ("", *(f"isd {q}" for q in _ISD_GOOD))
        ),
        "NOAA GHCN hourly: any letter names the check that failed; marks of ISD as there",
    ),
    "igra": Rule(
        lambda marks: np.ones(np.shape(marks), bool),
        "IGRA: what failed is no longer in the file; A and B count checks passed",
    ),
    "metar": Rule(_metar, "decoded METAR: a negative flag is a failure"),
    "amv": Rule(
        lambda marks: ~(np.asarray(marks, np.float64) < 60),
        "BUFR 0 33 007 of satellite winds: per cent confidence, 60 or more",
    ),
    "scatterometer": Rule(
        _without_bits((2, 7, 8, 9, 10, 11, 18), width=24),
        "BUFR 0 21 155, wind vector cell quality: none of too few beams, the producer's quality "
        "control, land, ice, inversion failed, too far from the model function",
    ),
    "odb": Rule(
        _at_most(0), "ODB: datum_status without the bits of passive, rejected, blacklisted"
    ),
}


def good_marks(obs: xr.Dataset) -> np.ndarray:
    """Whether the mark of each observation is good; all are where the table has no marks.

    Parameters
    ----------
    obs
        Tidy observations as `read_obs` gives them, or a part of them.

    Returns
    -------
    array of bool
        One for each observation.

    Examples
    --------
    >>> obs = xr.Dataset({"value": ("obs", [280.0, 281.0, 282.0]),
    ...                   "quality": ("obs", [2.0, 8.0, np.nan])},
    ...                  attrs={"xdiffda_observations_marks": "prepbufr"})
    >>> good_marks(obs).tolist()
    [True, False, True]
    """
    rule = RULES.get(str(obs.attrs.get(MARKS, "")))
    if rule is None or "quality" not in obs.variables:
        return np.ones(obs.sizes["obs"], bool)
    return rule.good(obs["quality"].values)
