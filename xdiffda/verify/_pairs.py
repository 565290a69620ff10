"""What all scores of fields share: matching, averaging, attributes."""

from __future__ import annotations

from collections.abc import Hashable

import xarray as xr

from xdiffda._fields import canonical
from xdiffda._matching import matched
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.variables import canonical_name

REDUCED = ("time", "lat", "lon")


def pair(analysis: xr.Dataset, truth: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both in canonical names on their common variables, levels and times."""
    return pair_with(canonical_state(analysis, what="analysis"), truth, what="truth")


def pair_with(
    state: xr.Dataset, other: xr.Dataset, *, what: str, first: str = "analysis"
) -> tuple[xr.Dataset, xr.Dataset]:
    """As `pair`, of a state in canonical names; ``what`` and ``first`` are for errors."""
    one, two = matched(state, canonical_state(other, what=what), what=first, other=what)
    problems = []
    for name in one.data_vars:
        here, there = (str(ds[name].attrs.get("units", "")).strip() for ds in (one, two))
        if here and there and here != there:
            found = f"{name} in {here!r} in the {first}, {there!r} in the {what}"
            repair = f'{what}["{name}"].attrs["units"] = {here!r}'
            problems.append(Problem(found, "one unit", repair))
    raise_if(problems, what=f"{first} and {what}")
    return one, two


def canonical_state(ds: xr.Dataset, *, what: str) -> xr.Dataset:
    """As `xdiffda._fields.canonical`, of a Dataset of fields whose times are all different.

    Raises
    ------
    InputError
        If it is none.
    """
    if not isinstance(ds, xr.Dataset):
        repair = "xdiffda.open_dataset(path)"
        if isinstance(ds, xr.DataArray):
            repair = f'{what}.to_dataset(name="{ds.name or "temperature"}")'
        raise InputError([Problem(f"a {type(ds).__name__}", "a Dataset", repair)], what=what)
    on = next((d for d in ("obs", "station") if d in ds.dims), None)
    if on is not None and {"lat", "lon"}.isdisjoint(ds.dims):
        raise InputError(
            [Problem(f"observations, on {on}", "a state on latitudes and longitudes",
                     "xdiffda.verify.withheld_report(background, analysis, obs)")], what=what,
        )  # fmt: skip
    out = canonical(ds, what=what)
    for dim in ("time", "level"):
        if dim in out.indexes and not out.indexes[dim].is_unique:
            found = f"{out.sizes[dim]} states along {dim}, {out.indexes[dim].nunique()} of them"
            raise InputError([Problem(f"{found} different by their {dim}", f"each {dim} once",
                                      f'{what}.drop_duplicates("{dim}")')], what=what)  # fmt: skip
    return out


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
