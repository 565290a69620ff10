"""Coordinates of a result: the user's own, with batch dimensions that came, changed or went."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from ._clock import clock_names, role_of
from ._conventions import Convention
from ._coordinates import Axis
from ._grid import Layout
from .errors import InputError, Problem

_VALID = {"standard_name": "time", "long_name": "valid time"}
_INITIAL = {"standard_name": "forecast_reference_time", "long_name": "initial time"}


def template_for(
    convention: Convention, layout: Layout, sizes: Mapping[str, int], coords: dict[str, object]
) -> tuple[xr.Dataset, dict[str, str]]:
    """Coordinates and static fields of a result, and the user's name of each dimension.

    Parameters
    ----------
    convention
        The user's convention.
    layout
        Layout of the result; other levels than the user's come as ``level`` in hPa.
    sizes
        Canonical batch dimension -> size, of the result.
    coords
        Canonical batch dimension -> values, where they are not the user's.

    Returns
    -------
    template : xr.Dataset
    names : dict
        Canonical name -> the user's dimension; ``level`` -> "" where it is a scalar.
    """
    template, axes = convention.template, convention.axes
    if "time" in coords:  # what told the time before is void
        kept = {axes[d].coord for d in sizes if d in axes and d not in coords}
        template = template.drop_vars([n for n in clock_names(template) if n not in kept])
    for dim, size in zip(convention.batch_dims, convention.batch_shape, strict=True):
        if dim not in sizes and dim not in coords:
            there = str(axes[dim].dim)
            if size == 1 and dim != "member":  # its time or lead time still holds
                template = template.isel({there: 0}, missing_dims="ignore")
            template = template.drop_dims(there, errors="ignore")
    names: dict[str, str] = {}
    for dim, size in sizes.items():
        names[dim] = dimension_name(dim, convention, new=dim in coords)
        had = dim in convention.batch_dims
        same = had and size == convention.batch_shape[convention.batch_dims.index(dim)]
        if dim in coords or not same:
            values = _values(dim, size, coords)
            template = _replace(template, dim, names[dim], axes.get(dim), values)
    for dim in set(coords) - set(sizes):
        template = _replace(template, dim, None, axes.get(dim), coords[dim])
    if "time" in coords:
        forecast = "lead_time" in sizes or "lead_time" in coords
        clock = names.get("time") or _coordinate_name("time", axes.get("time"))
        template[clock].attrs = dict(_INITIAL if forecast else _VALID)
    template, names["level"] = _level(template, layout, convention)
    names["lat"], names["lon"] = str(axes["lat"].dim), str(axes["lon"].dim)
    return template, names


def dimension_name(dim: str, convention: Convention, *, new: bool = False) -> str:
    """The user's dimension; new times do not come under the name of an initial time."""
    axis = convention.axes.get(dim)
    if axis is None or axis.dim is None:
        return dim
    return _plain(dim, str(axis.dim)) if new else str(axis.dim)


def _plain(dim: str, name: str) -> str:
    return "time" if dim == "time" and role_of(name, {}) == "reference" else name


def _coordinate_name(dim: str, axis: Axis | None) -> str:
    return _plain(dim, axis.name) if axis is not None else dim


def _values(dim: str, size: int, coords: Mapping[str, object]) -> np.ndarray:
    if dim in coords:
        values = np.atleast_1d(np.asarray(coords[dim]))
        if values.shape == (size,):
            return values
        found = f"coords[{dim!r}] of shape {values.shape}"
    elif dim == "member":
        return np.arange(size)
    else:
        found = f"dimension {dim} of size {size}, other than the user's"
    raise InputError(
        [Problem(found, f"{size} values", f'from_state(..., coords={{"{dim}": values}})')],
        what="state",
    )


def _replace(
    template: xr.Dataset, dim: str, new_dim: str | None, axis: Axis | None, values
) -> xr.Dataset:
    """Put ``values`` in place of what stood for ``dim``, as a scalar if ``new_dim`` is None."""
    attrs: dict = {}
    if axis is not None and axis.coord in template.coords:
        attrs = dict(template[axis.coord].attrs)
    name = new_dim or _coordinate_name(dim, axis)
    if axis is not None and axis.dim is not None and axis.dim in template.dims:
        template = template.drop_dims(axis.dim)
    elif axis is not None and axis.coord is not None and axis.coord in template.coords:
        template = template.drop_vars(axis.coord)
    dims = () if new_dim is None else (new_dim,)
    return template.assign_coords({name: (dims, values, attrs)})


def _level(template: xr.Dataset, layout: Layout, convention: Convention) -> tuple[xr.Dataset, str]:
    axis = convention.axes.get("level")
    if not layout.levels:
        return template, ""
    if axis is not None and layout.levels == convention.layout.levels:
        return template, axis.dim or ""
    if axis is not None and axis.dim is not None:
        template = template.drop_dims(axis.dim, errors="ignore")
    attrs = {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}
    values = np.asarray(layout.levels, np.int32)
    name = axis.dim if axis is not None and axis.dim is not None else "level"
    return template.assign_coords({name: ((name,), values, attrs)}), name
