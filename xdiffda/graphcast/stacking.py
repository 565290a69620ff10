"""Datasets <-> arrays (node, batch, channel), in the channel order of the published models.

Variables stand in plain alphabetical order. Inside a variable the dimensions that are neither
batch nor horizontal are flattened: first time, then level, in whatever order it has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

_HORIZONTAL = ("lat", "lon")


class Channel(NamedTuple):
    """What one channel holds: a variable, at one of its times, on one of its levels."""

    variable: str
    frame: int | None = None
    level: int | None = None


def channels_of(ds: xr.Dataset, names: Iterable[str]) -> tuple[Channel, ...]:
    """Channels that `stack` makes of these variables, in order.

    Examples
    --------
    >>> ds = xr.Dataset({"b": ("level", [1.0, 2.0]), "a": 0.0}, coords={"level": [500, 850]})
    >>> [tuple(channel) for channel in channels_of(ds, ["b", "a"])]
    [('a', None, None), ('b', None, 500), ('b', None, 850)]
    """
    channels = []
    for name in sorted(names):
        inner = _inner(ds[name].dims)
        for index in np.ndindex(*(ds.sizes[dim] for dim in inner)):
            at = dict(zip(inner, index, strict=True))
            level = int(ds["level"].values[at["level"]]) if "level" in at else None
            channels.append(Channel(name, at.get("time"), level))
    return tuple(channels)


def stack(
    ds: xr.Dataset, names: Iterable[str], *, sizes: Mapping[str, int]
) -> Float[np.ndarray, "node batch channel"]:
    """Channels of these variables at every node (latitude-major), in float32 or wider.

    Parameters
    ----------
    ds
        Dataset with dimensions among batch, time, level, lat and lon.
    names
        Variables to take.
    sizes
        Lengths of batch, lat and lon; variables without one of them are repeated along it.

    Examples
    --------
    >>> ds = xr.Dataset({"b": ("level", [1.0, 2.0]), "a": 0.0}, coords={"level": [500, 850]})
    >>> stack(ds, ["a", "b"], sizes={"batch": 1, "lat": 1, "lon": 2})[:, 0].tolist()
    [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    """
    outer = {dim: sizes[dim] for dim in (*_HORIZONTAL, "batch")}
    columns = []
    for name in sorted(names):
        variable = ds[name].variable
        inner = {dim: variable.sizes[dim] for dim in _inner(variable.dims)}
        values = variable.set_dims({**outer, **inner}).transpose(*outer, *inner).values
        dtype = np.promote_types(values.dtype, np.float32)
        columns.append(values.reshape(*outer.values(), -1).astype(dtype, copy=False))
    stacked = np.concatenate(columns, axis=-1)
    return stacked.reshape(sizes["lat"] * sizes["lon"], sizes["batch"], -1)


def _inner(dims: Iterable[Any]) -> list[Any]:
    """What the channels of a variable run over: time, then level, however it is stored."""
    inner = [dim for dim in dims if dim not in ("batch", *_HORIZONTAL)]
    return sorted(inner, key=lambda dim: {"time": 0, "level": 1}.get(dim, 2))


def unstack(
    values: Float[np.ndarray, "node batch channel"],
    channels: Sequence[Channel],
    *,
    time: np.ndarray,
    lat: np.ndarray,
    lon: np.ndarray,
) -> xr.Dataset:
    """The Dataset of one time that holds these channels.

    Variables come on (batch, time, level, lat, lon), without `level` where they have none.

    Examples
    --------
    >>> channels = [Channel("a"), Channel("b", 0, 500), Channel("b", 0, 850)]
    >>> ds = unstack(np.zeros((2, 1, 3)), channels, time=[0], lat=[0.0], lon=[0.0, 180.0])
    >>> ds["b"].dims
    ('batch', 'time', 'level', 'lat', 'lon')
    """
    values = np.asarray(values)
    fields = np.moveaxis(values.reshape(len(lat), len(lon), *values.shape[1:]), (2, 3), (0, 1))
    levels = list(dict.fromkeys(c.level for c in channels if c.level is not None))
    members: dict[str, list[int]] = {}
    for i, channel in enumerate(channels):
        members.setdefault(channel.variable, []).append(i)
    data = {}
    for name, index in members.items():
        if channels[index[0]].level is None:
            data[name] = (("batch", "time", *_HORIZONTAL), fields[:, index])
        else:
            data[name] = (("batch", "time", "level", *_HORIZONTAL), fields[:, None, index])
    coords = {"time": time, "lat": lat, "lon": lon}
    return xr.Dataset(data, coords={**coords, "level": levels} if levels else coords)
