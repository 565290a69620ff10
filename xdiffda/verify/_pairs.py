"""What all scores of fields share: matching, averaging, attributes."""

from __future__ import annotations

from collections.abc import Hashable

import xarray as xr

from xdiffda._fields import canonical
from xdiffda._matching import matched
from xdiffda.errors import InputError, Problem
from xdiffda.variables import canonical_name

REDUCED = ("time", "lat", "lon")


def pair(analysis: xr.Dataset, truth: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both in canonical names on their common variables, levels and times."""
    state = canonical(analysis, what="analysis")
    return matched(state, canonical(truth, what="truth"), what="analysis")


def ensemble_pair(
    analysis: xr.Dataset, truth: xr.Dataset, *, what: str
) -> tuple[xr.Dataset, xr.Dataset]:
    """As `pair`, of an ensemble of two members or more."""
    state, reference = pair(analysis, truth)
    need_members(state.sizes.get("member", 1), what=what)
    return state, reference


def need_members(n: int, *, what: str) -> None:
    """Raise where there is no ensemble."""
    if n < 2:
        raise InputError(
            [Problem("a single state", "an ensemble of 2 members or more",
                     "background.diffda.assimilate(obs, n_members=8)")], what=what,
        )  # fmt: skip


def reduced(field: xr.DataArray | xr.Dataset) -> list[Hashable]:
    """The dimensions that averages run over: those of `REDUCED` that ``field`` has."""
    return [d for d in REDUCED if d in field.dims]


def variable_of(name: str, ds: xr.Dataset, *, what: str) -> str:
    """Canonical name in ``ds`` of a variable known by any of its names."""
    for found in (name, canonical_name(name, on_levels=True), canonical_name(name)):
        if found is not None and found in ds:
            return found
    known = ", ".join(map(str, ds.data_vars))
    raise InputError([Problem(f"no {name}", f"one of {known}", "list(ds)")], what=what)
