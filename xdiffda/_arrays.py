"""Fill a state array from a user's variables, and cut it up again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from ._conventions import Convention
from ._grid import Layout
from ._recognise import Field
from .variables import VARIABLES


def select_levels(ds: xr.Dataset, convention: Convention) -> xr.Dataset:
    """Only the levels of the layout, so that no others are computed."""
    axis = convention.axes.get("level")
    if axis is None or axis.dim is None or axis.dim not in ds.dims or not convention.layout.levels:
        return ds
    kept = convention.template[axis.coord].values
    labels = ds[axis.coord].values
    return ds if labels.size == kept.size else ds.isel({axis.dim: np.isin(labels, kept)})


def stack(ds: xr.Dataset, convention: Convention) -> np.ndarray:
    """Fill the state array variable by variable."""
    layout, axes = convention.layout, convention.axes
    batch = [str(axes[dim].dim) for dim in convention.batch_dims]
    horizontal = [str(axes["lat"].dim), str(axes["lon"].dim)]
    grid = layout.grid
    x = np.empty((*convention.batch_shape, grid.n_node, layout.n_channel), np.float32)
    for field in convention.fields:
        variable = ds[field.user_name].variable
        level = axes["level"].dim if VARIABLES[field.name].on_levels else None
        known = {*batch, *horizontal, level}
        variable = variable.squeeze([dim for dim in variable.dims if dim not in known])
        lacking = {
            d: n
            for d, n in zip(batch, convention.batch_shape, strict=True)
            if d not in variable.dims
        }
        variable = variable.set_dims({**lacking, **dict(variable.sizes)})
        tail = horizontal if level is None else [level, *horizontal]
        values = variable.transpose(*batch, *tail).values
        values = (
            values[..., None, :, :] if level is None else _take(values, convention.level_order, -3)
        )
        values = _take(_take(values, convention.lat_order, -2), convention.lon_order, -1)
        if (field.factor, field.offset) != (1.0, 0.0):
            values = values.astype(np.float64) * field.factor + field.offset
        nodes = values.reshape(*values.shape[:-2], grid.n_node)
        x[..., layout.channel_slice(field.name)] = np.moveaxis(nodes, -2, -1)
    return x


def unstack(x: np.ndarray, layout: Layout, convention: Convention, field: Field) -> np.ndarray:
    """(*batch, node, level) -> (*batch[, level], lat, lon) in the user's order of each axis."""
    values = np.moveaxis(x, -1, -2).reshape(*x.shape[:-2], x.shape[-1], *layout.grid.shape)
    values = _take(values, np.argsort(convention.lat_order), -2)
    values = _take(values, np.argsort(convention.lon_order), -1)
    level = convention.axes.get("level")
    if not VARIABLES[field.name].on_levels or (level is not None and level.dim is None):
        return values[..., 0, :, :]
    if layout.levels == convention.layout.levels:
        return _take(values, np.argsort(convention.level_order), -3)
    return values


def _take(values: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    """Reorder along an axis, without a copy where nothing changes or all is turned round."""
    steps = np.diff(order)
    if np.all(steps == 1):
        return values
    if np.all(steps == -1):
        return np.flip(values, axis)
    return np.take(values, order, axis)


def in_user_units(values: np.ndarray, field: Field, difference: bool) -> np.ndarray:
    if (field.factor, field.offset) == (1.0, 0.0):
        return np.ascontiguousarray(values, np.float32)
    offset = 0.0 if difference else field.offset
    return ((values.astype(np.float64) - offset) / field.factor).astype(np.float32)


def target_dims(
    dims: tuple[str, ...],
    convention: Convention,
    batch_dims: tuple[str, ...],
    names: Mapping[str, str],
) -> list[str]:
    """The user's order of dimensions, without those that went and with those that came."""
    gone = {convention.axes[d].dim for d in convention.batch_dims if d not in batch_dims}
    target = [dim for dim in dims if dim not in gone]
    position = 0
    for dim in batch_dims:
        if names[dim] not in target:
            target.insert(position, names[dim])
        position = target.index(names[dim]) + 1
    return target
