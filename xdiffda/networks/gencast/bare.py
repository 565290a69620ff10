"""A GenCast network tied to its task: normalised Datasets in, normalised Dataset out."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.errors import ModelError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.gencast.checkpoint import Checkpoint, read_checkpoint
from xdiffda.networks.gencast.config import STEP, GenCastTask
from xdiffda.networks.gencast.denoiser import Given, compiled_denoise
from xdiffda.networks.gencast.graph import GenCastGraph, build_graph
from xdiffda.networks.gencast.network import GenCast
from xdiffda.networks.graphcast.bare import Channel, channels_of, stack, unstack
from xdiffda.networks.graphcast.fitting import all_problems, check_datasets, selected


@dataclass(frozen=True, eq=False)
class BareGenCast:
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
    def net(self) -> GenCast:
        """The network."""
        return self.checkpoint.net

    @property
    def task(self) -> GenCastTask:
        """Variables, levels and frames."""
        return self.checkpoint.task

    @property
    def license(self) -> str:
        """Return the licence in the file; `Checkpoint` says which one holds today."""
        return self.checkpoint.license

    @with_own_jax
    def __call__(
        self,
        norm_inputs: xr.Dataset,
        norm_forcings: xr.Dataset,
        noisy_targets: xr.Dataset,
        noise_levels: Float[np.ndarray, " batch"],
        *,
        preconditioned: bool = True,
    ) -> xr.Dataset:
        """Estimate the targets without noise, all in normalised units.

        Parameters
        ----------
        norm_inputs
            The input variables at two times, 12 h apart, without NaN.
        norm_forcings
            The forcing variables, at the time of the targets.
        noisy_targets
            Changes since the last input frame in units of their standard deviation, with
            noise added.
        noise_levels
            Of each entry of the batch.
        preconditioned
            The denoiser D; otherwise the network F inside it alone.

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
        given = self.given(norm_inputs, norm_forcings)
        w = jnp.asarray(self.stack_targets(noisy_targets))
        sigma = jnp.asarray(noise_levels, w.dtype)
        evaluate = compiled_denoise if preconditioned else _apply
        out = evaluate(self.net, self.graph_for(norm_inputs), given, w, sigma)
        return self.unstack_targets(np.asarray(out), norm_inputs, norm_forcings)

    def given(self, norm_inputs: xr.Dataset, norm_forcings: xr.Dataset) -> Given:
        """Return all inputs of the network besides the noisy targets, as one array."""
        inputs, forcings = self.select(norm_inputs, norm_forcings)
        sizes = _sizes(inputs)
        parts = [stack(inputs, self.task.input_variables, sizes=sizes)]
        later = []
        if self.task.forcing_variables:
            parts.append(stack(forcings, self.task.forcing_variables, sizes=sizes))
            later = list(channels_of(forcings, self.task.forcing_variables))
        channels = np.concatenate(parts, axis=-1)
        targets = list(self.target_channels())
        n_input, n_given = parts[0].shape[-1], channels.shape[-1]
        if (found := n_given + len(targets)) != (needed := self.net.config.n_inputs):
            raise ModelError(
                f"found {found} channels in inputs, forcings and targets; needed {needed}, as "
                "many as the network was made for: check the dimensions of the variables "
                f"(static ones have no time) and the levels {self.task.pressure_levels}"
            )
        # forcings and noisy targets stand in one alphabetical row, each variable's own order kept
        names = [channel.variable for channel in (*later, *targets)]
        row = sorted(range(len(names)), key=lambda i: names[i])
        order = (*range(n_input), *(n_input + i for i in row))
        return Given(jnp.asarray(channels), order)

    def select(self, inputs: xr.Dataset, forcings: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
        """The task's part of the Datasets, checked."""
        check_datasets("GenCast", inputs=inputs, forcings=forcings)
        problems = all_problems(inputs, forcings, self.task, step=STEP, outputs="targets")
        raise_if(problems, what="GenCast")
        return selected(inputs, forcings, self.task)

    def target_channels(self) -> tuple[Channel, ...]:
        """Channels of noisy targets and outputs."""
        from xdiffda.state.variables import VARIABLES

        task, channels = self.task, []
        for name in sorted(task.target_variables):
            levels = task.pressure_levels if VARIABLES[name].on_levels else (None,)
            channels += [Channel(name, 0, level) for level in levels]
        return tuple(channels)

    def reconfigured(self, **options: Any) -> BareGenCast:
        """Return the same network computed differently: see ``GenCast.reconfigured``."""
        other = replace(self.checkpoint, net=self.net.reconfigured(**options))
        return replace(self, checkpoint=other)

    def stack_targets(self, targets: xr.Dataset) -> Float[np.ndarray, "node batch channel"]:
        """Target variables of one time as an array, in the order of `target_channels`."""
        raise_if(_missing(targets, self.task.target_variables, "targets"), what="GenCast")
        targets = targets[list(self.task.target_variables)]
        if "level" in targets.dims:
            targets = targets.sel(level=list(self.task.pressure_levels))
        return stack(targets, self.task.target_variables, sizes=_sizes(targets))

    def unstack_targets(
        self,
        values: Float[np.ndarray, "node batch channel"],
        inputs: xr.Dataset,
        forcings: xr.Dataset,
    ) -> xr.Dataset:
        """The Dataset with these target variables, on the grid of the inputs."""
        time = forcings["time"].values if "time" in forcings.coords else _after(inputs)
        coords = {name: inputs[name].values for name in ("lat", "lon")}
        return unstack(values, self.target_channels(), time=time, **coords)

    @with_own_jax
    def graph_for(self, ds: xr.Dataset) -> GenCastGraph:
        """The graph of the Dataset's grid (kept for the next call)."""
        if self.graph is not None:
            return self.graph
        settings = self.checkpoint.architecture
        lat, lon = (tuple(ds[name].values.astype(float).tolist()) for name in ("lat", "lon"))
        lon = tuple(x % 360 for x in lon)
        return build_graph(
            lat,
            lon,
            refinement=settings.mesh_size,
            hops=settings.sparse_transformer_config.attention_k_hop,
            radius_fraction=settings.radius_query_fraction_edge_length,
        )


@with_own_jax
def load(path: str | os.PathLike[str]) -> BareGenCast:
    """Read a published GenCast checkpoint (``.npz``).

    What the network is conditioned on, and the terms of published weights: `GenCastPrior`.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    BareGenCast
        Callable on normalised Datasets.

    Raises
    ------
    StorageError
        If the file cannot be read.
    ModelError
        If its entries are not those of a GenCast network; lists all problems.
    """
    return BareGenCast(read_checkpoint(path))


@eqx.filter_jit
def _apply(net: GenCast, graph: GenCastGraph, given: Given, w: Array, sigma: Array) -> Array:
    return net(given.joined(w), sigma, graph)


def _sizes(ds: xr.Dataset) -> dict[str, int]:
    return {"batch": ds.sizes.get("batch", 1), "lat": ds.sizes["lat"], "lon": ds.sizes["lon"]}


def _after(inputs: xr.Dataset) -> np.ndarray:
    return inputs["time"].values[-1:] + STEP if "time" in inputs.coords else np.array([STEP])


def _missing(ds: xr.Dataset, names: tuple[str, ...], what: str) -> list[Problem]:
    absent = [name for name in names if name not in ds]
    needed = "all of " + ", ".join(names)
    repair = f"{what}.merge(ds[{absent}])" if absent else ""
    return [Problem(f"no {', '.join(absent)} in {what}", needed, repair)] if absent else []
