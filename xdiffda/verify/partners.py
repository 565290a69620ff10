"""Unbiased statistics of ensembles whose members may come in antithetic pairs.

Members ``2k`` and ``2k + 1`` of an antithetic ensemble share their random numbers with
opposite signs (`xdiffda.assimilate`).  Each is a draw from the posterior, and members of
different pairs are independent; the two of a pair are not.  What the usual estimators take
from all pairs of members, these take from the independent ones:

    spread^2     = mean of (x_i - x_j)^2 / 2          over members of different pairs
    fair CRPS    = mean of |x_i - t| - mean of |x_i - x_j| / 2, the second likewise
    var of mean  = variance of the pairs' means / number of pairs

Without partners they are the estimators of Fortin et al. (2014) and Ferro (2014).
"""

from __future__ import annotations

import json
from typing import TypeVar

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem

Field = TypeVar("Field", xr.Dataset, xr.DataArray)
Partners = tuple[list[int], list[int]]
NONE: Partners = ([], [])


def is_antithetic(analysis: xr.Dataset) -> bool:
    """Return whether an analysis has antithetic pairs of members, by its attributes."""
    try:
        settings = json.loads(str(analysis.attrs.get("xdiffda_settings", "{}")))
    except json.JSONDecodeError:
        return False
    return isinstance(settings, dict) and bool(settings.get("antithetic", False))


def partners(analysis: xr.Dataset) -> Partners:
    """Positions of the first and second members of all complete pairs; empty without pairs.

    Pairs are known by the member's number, so that a selection of members stays right.
    """
    if "member" not in analysis.dims or not is_antithetic(analysis):
        return NONE
    numbers = analysis["member"].values.tolist()
    where = {number: position for position, number in enumerate(numbers)}
    firsts = [n for n in numbers if n % 2 == 0 and n + 1 in where]
    return [where[n] for n in firsts], [where[n + 1] for n in firsts]


def first_of_pairs(analysis: xr.Dataset) -> xr.Dataset:
    """The independent members: of each complete pair the first, and those without partner."""
    _, second = partners(analysis)
    kept = [i for i in range(analysis.sizes.get("member", 0)) if i not in set(second)]
    return analysis.isel(member=kept) if second else analysis


def independent(analysis: xr.Dataset, *, what: str) -> tuple[xr.Dataset, str]:
    """The independent members, for statistics that take members for exchangeable with the truth.

    Returns
    -------
    Dataset
        `first_of_pairs`.
    str
        What was left out, for the protocol; empty where nothing was.

    Raises
    ------
    InputError
        If pairs are there, but fewer than two members are left.
    """
    kept = first_of_pairs(analysis)
    n, n_kept = analysis.sizes.get("member", 0), kept.sizes.get("member", 0)
    if n == n_kept:
        return analysis, ""
    if n_kept < 2:
        raise InputError(
            [
                Problem(
                    f"{n} members that are one antithetic pair",
                    "2 independent members or more",
                    "background.diffda.assimilate(obs, method=xdiffda.Guided(antithetic=False))",
                )
            ],
            what=what,
        )
    return kept, f"of antithetic pairs the first member only ({n_kept} of {n} members)"


def variance(error: Field, pairs: Partners = NONE) -> Field:
    """Variance of a member, unbiased (over ``member``, 2 or more)."""
    n = error.sizes["member"]
    count = _independent(n, pairs)
    apart = _apart(error, pairs)
    if not count:  # one pair: its members lie opposite each other about the mean
        return (apart**2).sum("member", skipna=False) / 4
    squares = n * ((error - error.mean("member", skipna=False)) ** 2).sum("member", skipna=False)
    return (squares - (apart**2).sum("member", skipna=False)) / count


def variance_of_mean(error: Field, pairs: Partners = NONE) -> Field:
    """Sampling variance of the ensemble mean."""
    n, k = error.sizes["member"], len(pairs[0])
    alone = (n - 2 * k) / n**2 * variance(error, pairs)
    if k < 2:  # one pair gives no variance of pair means: its mean counts as exact
        return alone
    first, second = (
        error.isel(member=list(of)).drop_vars("member", errors="ignore") for of in pairs
    )
    return alone + 4 * k / n**2 * ((first + second) / 2).var("member", ddof=1, skipna=False)


def fair_crps(absolute: Field, fair: Field, apart: Field, n: int, pairs: Partners = NONE) -> Field:
    """Fair CRPS of an ensemble in pairs, from that of the same members taken as independent.

    Parameters
    ----------
    absolute
        Mean of |x_i - t| over members.
    fair
        Its fair CRPS.
    apart
        Sum over pairs of |x_2k - x_2k+1|, averaged like the two others.
    n : int
        Members.
    pairs : tuple of lists
    """
    count = _independent(n, pairs)
    if not count:  # one independent draw: as of a single member
        return absolute
    every = 2 * n * (n - 1) * (absolute - fair)  # sum over i, j of |x_i - x_j|
    return absolute - (every - 2 * apart) / (2 * count)


def distance_of_partners(error: Field, pairs: Partners) -> Field:
    """Sum over pairs of |x_2k - x_2k+1|."""
    return abs(_apart(error, pairs)).sum("member", skipna=False)


def _apart(error: Field, pairs: Partners) -> Field:
    first, second = (
        error.isel(member=list(of)).drop_vars("member", errors="ignore") for of in pairs
    )
    return first - second


def _independent(n: int, pairs: Partners) -> int:
    """Ordered pairs of independent members."""
    return int(n * (n - 1) - 2 * np.size(pairs[0]))
