"""An FGN network tied to its task: normalised Datasets in, normalised members out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.errors import InputError, ModelError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.fgn.checkpoint import Checkpoint, Part, read_checkpoint
from xdiffda.networks.fgn.config import Configuration
from xdiffda.networks.fgn.graph import build_graph
from xdiffda.networks.fgn.network import FGN
from xdiffda.networks.gencast.graph import GenCastGraph
from xdiffda.networks.graphcast.bare import Channel, channels_of, output_time, stack, unstack
from xdiffda.networks.graphcast.checkpoint import TaskConfig
from xdiffda.networks.graphcast.fitting import all_problems, check_datasets, selected

STEP = np.timedelta64(6, "h")


@dataclass(frozen=True, eq=False)
class BareFGN:
    """A network with its task; calls take and give normalised Datasets.

    Parameters
    ----------
    checkpoint
        Network, task and settings.
    graph
        A graph to use instead of the one that follows from grid and settings.
    """

    checkpoint: Checkpoint
    graph: GenCastGraph | None = None

    @property
    def net(self) -> FGN:
        """The network."""
        return self.checkpoint.net

    @property
    def task(self) -> TaskConfig:
        """Variables, levels and frames."""
        return self.checkpoint.configuration.task

    @property
    def license(self) -> str:
        """Return the licence that the file states."""
        return self.checkpoint.license

    @with_own_jax
    def __call__(
        self,
        norm_inputs: xr.Dataset,
        norm_forcings: xr.Dataset,
        *,
        noise: xr.DataArray | Float[np.ndarray, "sample batch noise_channels"],
    ) -> xr.Dataset:
        """Normalised outputs of every member, for noise that is given.

        Parameters
        ----------
        norm_inputs
            The input variables at the task's number of times, 6 h apart, without NaN.
        norm_forcings
            The forcing variables, at the time of the outputs.
        noise
            Independent normal numbers: one vector for each member and entry of the batch.

        Returns
        -------
        xr.Dataset
            Target variables on (sample, batch, time, level, lat, lon).

        Raises
        ------
        InputError
            If variables, levels or times are missing, or the noise has another shape; lists
            all problems.
        ModelError
            If the variables have other dimensions than those the network was made for.
        """
        inputs, forcings = self.select(norm_inputs, norm_forcings)
        z = self.noise_array(noise, inputs.sizes.get("batch", 1))
        x, clocks = self.stack(inputs, forcings)
        graph, time = self.graph_for(inputs), output_time(inputs, forcings)
        coords = {name: inputs[name].values for name in ("lat", "lon")}
        members = [
            unstack(
                np.asarray(apply_network(self.net, x, clocks, one, graph)),
                self.target_channels(),
                time=time,
                **coords,
            )
            for one in z
        ]
        return xr.concat(members, dim="sample")

    def select(self, inputs: xr.Dataset, forcings: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
        """The task's part of the Datasets, checked."""
        check_datasets("FGN", inputs=inputs, forcings=forcings)
        problems = all_problems(inputs, forcings, self.task, step=STEP, outputs="outputs")
        raise_if(problems, what="FGN")
        return selected(inputs, forcings, self.task)

    @with_own_jax
    def noise_array(self, noise: Any, n_batch: int) -> Float[Array, "sample batch noise_channels"]:
        """The noise as an array, of as many numbers as the network reads."""
        if isinstance(noise, xr.DataArray):
            noise = noise.squeeze("time", drop=True) if noise.sizes.get("time") == 1 else noise
            if {*noise.dims} == {*NOISE_DIMS}:
                noise = noise.transpose(*NOISE_DIMS)
        width = self.net.config.sizes.noise_channels
        values = np.asarray(noise)
        whole = values.dtype.kind == "f" and bool(np.isfinite(values).all())
        if values.ndim != 3 or values.shape[1:] != (n_batch, width) or not len(values) or not whole:
            found = f"noise of shape {values.shape} and type {values.dtype}"
            needed = f"finite numbers of shape (sample, {n_batch}, {width})"
            repair = f"np.random.default_rng(0).normal(size=(2, {n_batch}, {width}))"
            raise InputError([Problem(found, needed, repair)], what="FGN")
        return jnp.asarray(values.astype(np.promote_types(values.dtype, np.float32), copy=False))

    @with_own_jax
    def stack(
        self, inputs: xr.Dataset, forcings: xr.Dataset
    ) -> tuple[Float[Array, "grid batch in"], Float[Array, "batch clock"]]:
        """Input channels of selected Datasets, and those of them that are the same everywhere."""
        sizes = {"batch": inputs.sizes.get("batch", 1)}
        sizes |= {name: inputs.sizes[name] for name in ("lat", "lon")}
        parts, given = self.checkpoint.parts, {"forcing": forcings, "input": inputs}
        on_grid, same = [], []
        for role, ds in given.items():
            own = [part for part in parts.grid if part.role == role]
            self._check(role, ds, own)
            if own:
                on_grid.append(stack(ds, {part.variable for part in own}, sizes=sizes))
            if clocks := {part.variable for part in parts.mesh if part.role == role}:
                spread = sorted(v for v in clocks if {"lat", "lon"} & {*ds[v].dims})
                if spread:
                    raise ModelError(
                        f"found {', '.join(spread)} of {role}s by latitude or longitude; needed "
                        "one value for the globe, as the network was made for; repair: "
                        f"ds.assign({spread[0]}=ds.{spread[0]}.isel(lat=0, lon=0))"
                    )
                same.append(stack(ds, clocks, sizes=sizes | {"lat": 1, "lon": 1})[0])
        x = jnp.asarray(np.concatenate(on_grid, axis=-1))
        none = np.zeros((sizes["batch"], 0), x.dtype)
        return x, jnp.asarray(np.concatenate([none, *same], axis=-1))

    def target_channels(self) -> tuple[Channel, ...]:
        """Channels of the outputs."""
        return tuple(
            Channel(part.variable, 0, level)
            for part in self.checkpoint.parts.targets
            for level in part.levels or (None,)
        )

    def stack_targets(self, targets: xr.Dataset) -> Float[np.ndarray, "node batch channel"]:
        """Target variables of one time as an array, in the order of `target_channels`."""
        names = list(self.task.target_variables)
        if absent := [name for name in names if name not in targets]:
            needed = "all of " + ", ".join(names)
            problem = Problem(
                f"no {', '.join(absent)} in targets", needed, f"targets.merge(ds[{absent}])"
            )
            raise InputError([problem], what="FGN")
        targets = targets[names]
        if "level" in targets.dims:
            targets = targets.sel(level=list(self.task.pressure_levels))
        self._check("", targets, self.checkpoint.parts.targets)
        sizes = {"batch": targets.sizes.get("batch", 1)}
        sizes |= {name: targets.sizes[name] for name in ("lat", "lon")}
        return stack(targets, names, sizes=sizes)

    @with_own_jax
    def graph_for(self, ds: xr.Dataset) -> GenCastGraph:
        """The graph of the Dataset's grid (kept for the next call)."""
        if self.graph is not None:
            return self.graph
        lat, lon = (tuple(ds[name].values.astype(float).tolist()) for name in ("lat", "lon"))
        sizes = self.checkpoint.configuration.architecture
        return build_graph(
            lat,
            tuple(x % 360 for x in lon),
            refinement=sizes.mesh_size,
            hops=sizes.hops,
            radius_fraction=sizes.radius_fraction,
        )

    def reconfigured(self, **options: Any) -> BareFGN:
        """Return the same network computed differently: ``dtype``, ``precision`` or ``remat``."""
        other = replace(self.checkpoint, net=self.net.reconfigured(**options))
        return replace(self, checkpoint=other)

    def _check(self, role: str, ds: xr.Dataset, parts: Sequence[Part]) -> None:
        """Times and levels of variables are those that the weights were made for."""
        needed = {part.variable: (bool(part.levels), part.seconds is not None) for part in parts}
        found = {
            channel.variable: (channel.level is not None, channel.frame is not None)
            for channel in channels_of(ds, needed)
        }
        wrong = [
            f"{name} {_words(*found[name])}, not {_words(*needed[name])}"
            for name in needed
            if found[name] != needed[name]
        ]
        if wrong:
            raise ModelError(
                f"found {role or 'target'}s {'; '.join(wrong)}; needed the dimensions that the "
                "network was made for (static fields have no time); repair: drop what is too "
                "much, ds.isel(time=0, drop=True), or give what is missing, ds.expand_dims(...)"
            )


NOISE_DIMS = ("sample", "batch", "noise_channels")


def load(path: str | os.PathLike[str], config: str | os.PathLike[str] | Configuration) -> BareFGN:
    """Read published FGN weights (``.npz``) with their configuration (``.json``).

    Parameters
    ----------
    path
        The weights.
    config
        The configuration; it is read as data, and nothing in it is executed.

    Returns
    -------
    BareFGN
        Callable on normalised Datasets.

    Raises
    ------
    StorageError
        If a file cannot be read.
    ModelError
        If entries are not those of an FGN network, or the two files are not of one; lists all
        problems by name.
    """
    return BareFGN(read_checkpoint(path, config))


@eqx.filter_jit
def apply_network(
    net: FGN,
    x: Float[Array, "grid batch in"],
    clocks: Float[Array, "batch clock"],
    z: Float[Array, "batch noise"],
    graph: GenCastGraph,
) -> Float[Array, "grid batch out"]:
    """The network, compiled once for each shape and configuration."""
    return net(x, clocks, z, graph)


def _words(levels: bool, times: bool) -> str:
    return f"with{'' if levels else 'out'} levels and with{'' if times else 'out'} time"
