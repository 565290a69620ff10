"""One level, time and member of a field, or an error that says which there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem


def pick(field: xr.DataArray, dim: str, value: Any, what: str) -> tuple[xr.DataArray, Any]:
    """One level or time of a field, and what it is.

    Raises
    ------
    InputError
        If it is not there, or has to be chosen.
    """
    if isinstance(value, xr.DataArray):
        value = value.values[()]
    if dim == "time" and isinstance(value, str):
        try:
            value = np.datetime64(value)
        except ValueError:  # no time: what there is is named below
            value = repr(value)
    if dim not in field.dims:
        alone = dim in field.coords and field[dim].ndim == 0
        kept = field[dim].values[()] if alone else value
        if alone and value is not None and not _equal(kept, value):
            raise InputError([_absent(dim, value, [kept], what)], what="map")
        return field, kept
    if value is None and field.sizes[dim] == 1:
        field = field.isel({dim: 0})
        return field, field[dim].values[()] if dim in field.coords else None
    have = field[dim].values if dim in field.coords else np.arange(field.sizes[dim])
    matches = [i for i, v in enumerate(have) if value is not None and _equal(v, value)]
    if not matches:
        raise InputError([_absent(dim, value, have, what)], what="map")
    return field.isel({dim: matches[0]}), have[matches[0]]


def at_valid_time(field: xr.DataArray) -> xr.DataArray:
    """A forecast of one lead time, or of one initial time, along the times when it is valid."""
    if "valid_time" not in field.coords or "lead_time" not in field.dims:
        return field
    if field.sizes["lead_time"] == 1:
        field = field.isel(lead_time=0)
    elif field.sizes.get("time", 1) == 1:
        field = field.squeeze("time") if "time" in field.dims else field
        field = field.drop_vars("time", errors="ignore").drop_vars("lead_time", errors="ignore").rename(lead_time="time")
    else:
        return field
    valid = field["valid_time"].variable
    return field.drop_vars("valid_time").assign_coords(time=valid)


def _equal(one: Any, other: Any) -> bool:
    return bool(np.ndim(other) == 0 and one == other)


def _absent(dim: str, value: Any, have: Any, what: str) -> Problem:
    """A level or time that is not there, or was not chosen."""
    # the text "500" is no level, and has to look different from one
    plain = isinstance(value, int | float | np.generic) or dim == "time"
    found = f"{dim} {value}" if plain else f"{dim}={value!r}"
    if value is None:
        found = f"no choice of {dim}"
    shown = [f"{v:g}" if dim == "level" else str(v)[:16] for v in have]
    if len(shown) > 8:
        shown = [*shown[:3], "...", shown[-1]]
    repair = f"{dim}={shown[0]}" if dim == "level" else f'{dim}="{shown[0]}"'
    return Problem(found, f"one of the {what}'s {', '.join(shown)}", repair)


def position(member: Any, n: int) -> int:
    """The position of one member of ``n``."""
    whole = isinstance(member, int | np.integer) and not isinstance(member, bool)
    if not whole or not -n <= member < n:
        needed = f"the position of one of {n}, from 0" if n else "None, of a state without members"
        raise InputError([Problem(f"member={member!r}", needed,
                                  "member=0" if n else "member=None")], what="map")  # fmt: skip
    return int(member)
