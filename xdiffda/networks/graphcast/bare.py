"""A network tied to its task: normalised Datasets in, normalised Dataset out."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.errors import ModelError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.checkpoint import (
    Checkpoint,
    ModelConfig,
    TaskConfig,
    read_checkpoint,
)
from xdiffda.networks.graphcast.fitting import all_problems, check_datasets, selected
from xdiffda.networks.graphcast.graph import Graph, build_graph
from xdiffda.networks.graphcast.network import GraphCast
from xdiffda.networks.graphcast.static import InFactors

# Datasets <-> arrays (node, batch, channel), in the channel order of the published models.
#
# Variables stand in plain alphabetical order. Inside a variable the dimensions that are neither
# batch nor horizontal are flattened: first time, then level, in whatever order it has them.

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


_STEP = np.timedelta64(6, "h")


@dataclass(frozen=True, eq=False)
class BareNetwork:
    """A GraphCast network with its task; calls take and give normalised Datasets.

    Parameters
    ----------
    net
        The network.
    task
        Variables, levels and frames.
    config
        Sizes; those of the mesh are used here.
    graph
        A graph to use instead of the one that follows from grid and ``config``.
    description, license
        Texts of the checkpoint.
    unused
        Weights of the file format that no output depends on.
    """

    net: GraphCast
    task: TaskConfig
    config: ModelConfig
    graph: Graph | None = None
    description: str = ""
    license: str = ""
    unused: Mapping[str, np.ndarray] = field(default_factory=dict)
    _kept: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    @with_own_jax
    def __call__(self, norm_inputs: xr.Dataset, norm_forcings: xr.Dataset) -> xr.Dataset:
        """Normalised outputs for normalised inputs and forcings.

        Parameters
        ----------
        norm_inputs
            The input variables, at the task's number of times.
        norm_forcings
            The forcing variables, at the time of the outputs.

        Returns
        -------
        xr.Dataset
            Target variables on (batch, time, level, lat, lon).

        Raises
        ------
        InputError
            If variables, levels or times are missing; lists all problems.
        ModelError
            If the channels are not as many as the network has.
        """
        inputs, forcings = self.select(norm_inputs, norm_forcings)
        x = jnp.asarray(self.stack(inputs, forcings))
        graph = self.graph_for(inputs)
        out = apply_network(self.net, x, graph, self.prepared_for(graph))
        coords = {name: inputs[name].values for name in ("lat", "lon")}
        time = output_time(inputs, forcings)
        return unstack(np.asarray(out), self.output_channels(inputs), time=time, **coords)

    def select(self, inputs: xr.Dataset, forcings: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
        """The task's part of the Datasets, checked."""
        check_datasets("GraphCast", inputs=inputs, forcings=forcings)
        problems = all_problems(inputs, forcings, self.task, step=_STEP, outputs="outputs")
        raise_if([*problems, *self._other_grid(inputs)], what="GraphCast")
        return selected(inputs, forcings, self.task)

    def stack(self, inputs: xr.Dataset, forcings: xr.Dataset) -> Float[np.ndarray, "grid batch in"]:
        """Input channels of selected Datasets: inputs first, then forcings."""
        sizes = {"batch": inputs.sizes.get("batch", 1)}
        sizes |= {name: inputs.sizes[name] for name in ("lat", "lon")}
        parts = [stack(inputs, self.task.input_variables, sizes=sizes)]
        if self.task.forcing_variables:
            parts.append(stack(forcings, self.task.forcing_variables, sizes=sizes))
        x = np.concatenate(parts, axis=-1)
        if x.shape[-1] != self.net.config.n_inputs:
            raise ModelError(
                f"found {x.shape[-1]} channels in inputs and forcings; needed "
                f"{self.net.config.n_inputs}, as many as the network was made for: check the "
                "dimensions of the variables (static ones have no time) and the levels "
                f"{self.task.pressure_levels}"
            )
        return x

    def output_channels(self, inputs: xr.Dataset) -> tuple[Channel, ...]:
        """Channels of the outputs; which targets have levels is read off the inputs."""
        targets, levels = self.task.target_variables, self.task.pressure_levels
        on_levels = {name: "level" in inputs[name].dims for name in targets if name in inputs}
        others = [name for name in targets if name not in on_levels]
        n_known = sum(len(levels) if has else 1 for has in on_levels.values())
        # Targets that are not inputs: the number of channels left tells what they are.
        n_left = self.net.config.n_outputs - n_known
        if n_left not in (len(others), len(others) * len(levels)):
            raise ModelError(
                f"found {self.net.config.n_outputs} output channels; needed {n_known} for "
                f"{sorted(on_levels)} and 1 or {len(levels)} for each of {others}"
            )
        on_levels |= {name: n_left != len(others) for name in others}
        channels = []
        for name in sorted(targets):
            channels += [Channel(name, 0, z) for z in (levels if on_levels[name] else (None,))]
        return tuple(channels)

    def graph_for(self, ds: xr.Dataset) -> Graph:
        """The graph of the Dataset's grid (kept for the next call)."""
        if self.graph is not None:
            return self.graph
        return _graph(
            tuple(np.asarray(ds["lat"].values, np.float64).tolist()),
            tuple((np.asarray(ds["lon"].values, np.float64) % 360).tolist()),
            self.config.mesh_size,
            self.config.radius_query_fraction_edge_length,
            self.config.mesh2grid_edge_normalization_factor,
        )

    def prepared_for(self, graph: Graph) -> InFactors | None:
        """What the graph alone decides, with edges in chunks (kept for the next call).

        Without chunks it would take as much memory as the edges: each step computes it anew.
        """
        if not self.net.config.edge_chunk:
            return None
        if self._kept.get("graph") is not graph:
            self._kept.update(graph=graph, ready=self.net.prepare(graph))
        return self._kept["ready"]

    def reconfigured(self, **options: Any) -> BareNetwork:
        """The same network computed in another way: see `GraphCast.reconfigured`."""
        return replace(self, net=self.net.reconfigured(**options))

    def checkpoint(self) -> Checkpoint:
        """The network and its task, to be written with `write_checkpoint`."""
        texts = (self.description, self.license)
        return Checkpoint(self.net, self.task, self.config, *texts, self.unused)

    def _other_grid(self, inputs: xr.Dataset) -> list[Problem]:
        """Any grid would run: the weights serve that of the training alone."""
        needed = self.config.resolution
        if not needed or not {"lat", "lon"} <= set(inputs.coords):
            return []
        lat, lon = (inputs[name].values for name in ("lat", "lon"))
        if lat.ndim != 1 or lon.ndim != 1 or min(lat.size, lon.size) < 2:
            return []
        by = abs(float(lat[-1] - lat[0])) / (lat.size - 1), float(np.median(np.diff(np.sort(lon))))
        repair = "xdiffda.regrid(ds, like=grid)"
        if any(abs(found - needed) > 0.01 * needed for found in by):
            two = f"{by[0]:g} degrees" + (f" by {by[1]:g}" if abs(by[1] - by[0]) > 0.01 else "")
            text = f"{needed:g} degrees, as in the checkpoint"
            return [Problem(f"a grid of {two}", text, repair)]
        if abs(lon.size * by[1] - 360) > 1.5 * needed:
            found = f"columns from {lon.min():g} to {lon.max():g} degrees"
            return [Problem(found, "the whole globe", repair)]
        if min(lat.max(), -lat.min()) < 90 - 0.8 * needed:
            found = f"rows from {lat.min():g} to {lat.max():g} degrees"
            return [Problem(found, "the whole globe", repair)]
        return []


@with_own_jax
def load(path: str | os.PathLike[str]) -> BareNetwork:
    """Read a published GraphCast checkpoint (``.npz``).

    Published weights carry a licence of their own: CC BY 4.0 since August 2026, CC BY-NC-SA 4.0
    before, which the files still say (attribute ``license``).

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    BareNetwork
        Callable on normalised Datasets, with the attributes ``task`` and ``config``.

    Raises
    ------
    StorageError
        If the file cannot be read.
    ModelError
        If its entries are not those of a GraphCast network; lists all problems.
    """
    c = read_checkpoint(path)
    return BareNetwork(
        c.net, c.task, c.config, description=c.description, license=c.license, unused=c.unused
    )


@eqx.filter_jit
def apply_network(
    net: GraphCast,
    x: Float[Array, "grid batch in"],
    graph: Graph,
    prepared: InFactors | None = None,
) -> Float[Array, "grid batch out"]:
    """The network, compiled once for each shape and configuration."""
    return net(x, graph, prepared=prepared)


def output_time(inputs: xr.Dataset, forcings: xr.Dataset) -> np.ndarray:
    """Time of the outputs: that of the forcings, else 6 h after the last input."""
    if "time" in forcings.coords:
        return forcings["time"].values
    return inputs["time"].values[-1:] + _STEP if "time" in inputs.coords else np.array([_STEP])


@functools.lru_cache(maxsize=4)
def _graph(
    lat: tuple[float, ...],
    lon: tuple[float, ...],
    refinement: int,
    radius_fraction: float,
    normalization: float | None,
) -> Graph:
    return build_graph(
        np.asarray(lat),
        np.asarray(lon),
        refinement=refinement,
        radius_fraction=radius_fraction,
        mesh2grid_normalization=normalization,
    )
