"""The testbed's forecaster on arrays: loaded and compiled once, differentiable in the state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.errors import ModelError
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.fgn import FGNForecaster
from xdiffda.networks.graphcast import Forecaster, load
from xdiffda.networks.graphcast.graph import Graph
from xdiffda.networks.graphcast.network import GraphCast
from xdiffda.options import get_options
from xdiffda.priors import registry
from xdiffda.priors.prior import year_phase
from xdiffda.priors.published import is_published, load_published
from xdiffda.state.grid import Layout
from xdiffda.storage.model_folder import read_card

STEP = np.timedelta64(6, "h")
STATIC = ("geopotential_at_surface", "land_sea_mask")
FORCINGS = ("year_progress_cos", "year_progress_sin")


class Rollout(eqx.Module):
    """The model of the atmosphere M on state arrays, physical units.

    ``x(t + 6 h) = x(t) + diffs_stddev * network((x(t) - mean) / stddev, static, season)``,
    what `Forecaster` computes on Datasets.  A pytree: pass it to compiled functions as an
    argument, and differentiate through it as through any function of ``x``.

    Attributes
    ----------
    network : GraphCast
    graph : Graph
    static : array (node, 2)
        Normalised static fields.
    mean, stddev, diffs_stddev : arrays (channel,)
    layout : Layout
        Of the states.
    """

    network: GraphCast
    graph: Graph
    static: Float[Array, "node static"]
    mean: Float[Array, " channel"]
    stddev: Float[Array, " channel"]
    diffs_stddev: Float[Array, " channel"]
    layout: Layout = eqx.field(static=True)

    def __call__(
        self, x: Float[Array, "node batch channel"], year: Float[Array, "batch 2"]
    ) -> Float[Array, "node batch channel"]:
        """One step of 6 h.

        Parameters
        ----------
        x : array (node, batch, channel), physical units
        year : array (batch, 2)
            Cosine and sine of the phase of the year at the end of the step.
        """
        node, batch, _ = x.shape
        static = jnp.broadcast_to(self.static[:, None], (node, batch, self.static.shape[-1]))
        # the file format sorts variables by name, static fields among them, and forcings last
        names = [name for name, _ in self.layout.channels]
        order = np.argsort([*names, *STATIC], kind="stable")
        fields = jnp.concatenate([(x - self.mean) / self.stddev, static], axis=-1)[..., order]
        year = jnp.broadcast_to(year[None], (node, *year.shape))
        out = self.network(jnp.concatenate([fields, year], axis=-1), self.graph)
        back = np.argsort(np.argsort(names, kind="stable"), kind="stable")
        return x + self.diffs_stddev * out[..., back]

    def run(
        self,
        x: Float[np.ndarray, "batch node channel"],
        times: np.ndarray,
        n_steps: int,
        *,
        max_batch: int = 8,
        tick: Callable[[int], object] = lambda n: None,
    ) -> Float[np.ndarray, "step batch node channel"]:
        """Roll out states, each from its own initial time, ``max_batch`` at a time.

        Parameters
        ----------
        x : array (batch, node, channel), physical units
        times : datetime64 array (batch,)
            Initial times.
        n_steps : int
            Steps of 6 h.
        max_batch : int
            States computed together; bounds the memory.
        tick : callable
            Called with the number of states that were forecast one step further.

        Returns
        -------
        array (step, batch, node, channel)
        """
        out = np.empty((n_steps, *x.shape), np.float32)
        valid = np.asarray(times)[None] + np.arange(1, n_steps + 1)[:, None] * STEP
        year = year_phase(valid)
        for first in range(0, len(x), max_batch):
            part = slice(first, first + max_batch)
            state = jnp.asarray(np.moveaxis(x[part], 0, 1), jnp.float32)
            for n in range(n_steps):
                # one compiled step serves every lead time; a scan would compile for each
                state = _step(self, state, jnp.asarray(year[n, part]))
                out[n, part] = np.moveaxis(np.asarray(state), 1, 0)
                tick(state.shape[1])
        return out


@eqx.filter_jit
def _step(rollout: Rollout, x: Array, year: Array) -> Array:
    return rollout(x, year)


@with_own_jax
def load_rollout(name: str | Path | None = None) -> Rollout:
    """The forecaster of a model on arrays, from the cache if it was loaded before.

    Parameters
    ----------
    name : str or path, optional
        Bundled model or a folder of the same files; default the option ``default_model``.

    Raises
    ------
    ModelError
        If there is no such model, or its forecaster is of another kind.
    """
    return _cached(name)[1]


@with_own_jax
def load_forecaster(name: str | Path | None = None) -> Forecaster:
    """Load the forecaster of a bundled model, from the cache if it was loaded before.

    Parameters
    ----------
    name : str or path, optional
        Bundled model, a folder of the same files, or the name of a published GraphCast, which
        is fetched when it is first used; default the option ``default_model``. Published
        weights carry a licence of their own: see `xdiffda.models`.

    Returns
    -------
    Forecaster
        6 h a step, in physical units.

    Raises
    ------
    ModelError
        If there is no such model, or it is no forecaster.

    Examples
    --------
    >>> load_forecaster("speedy").net.task.pressure_levels
    (100, 200, 300, 500, 700, 850, 925)
    """
    if is_published(name):
        model = load_published(str(name))
        if isinstance(model, FGNForecaster):
            raise ModelError(
                f"found {name!r}, which draws ensembles; needed a forecaster of one future: "
                f'ds.diffda.forecast("48h", model={str(name)!r}, n_members=20)'
            )
        if not isinstance(model, Forecaster):
            raise ModelError(
                f"found {name!r}, a prior; needed a forecaster: its own draws are those of "
                f"xdiffda.load_model({name!r})"
            )
        return model
    return _cached(name)[0]


def _cached(name: str | Path | None) -> tuple[Forecaster, Rollout]:
    folder = registry.model_folder(name or get_options().default_model)
    # size and time of change stand for the digest, which would read 8 MB at every cycle
    stamps = [(folder / file).stat() for file in registry.FILES]
    return _load(folder.resolve(), tuple((s.st_size, s.st_mtime_ns) for s in stamps))


@functools.lru_cache(maxsize=4)
def _load(folder: Path, stamp: tuple[tuple[int, int], ...]) -> tuple[Forecaster, Rollout]:
    net = load(folder / "forecaster.npz")
    statistics = registry.load_statistics(folder)
    layout = registry.layout_of(read_card(folder), statistics)
    forecaster = _forecaster(net, statistics, layout)
    task = net.task
    wrong = {
        "input variables": (set(task.input_variables), {*layout.variables, *STATIC}),
        "targets": (set(task.target_variables), set(layout.variables)),
        "forcings": (set(task.forcing_variables), set(FORCINGS)),
        "input frames": (task.n_frames, 1),
    }
    unlike = [
        f"{what} {found}, needed {needed}"
        for what, (found, needed) in wrong.items()
        if found != needed
    ]
    if unlike:
        raise ModelError(f"{folder / 'forecaster.npz'} cannot be rolled out: {'; '.join(unlike)}")
    grid = xr.Dataset(coords={"lat": np.array(layout.grid.lat), "lon": np.array(layout.grid.lon)})
    rollout = Rollout(
        net.net,
        net.graph_for(grid),
        jnp.asarray(statistics["static"]),
        jnp.asarray(statistics["mean"], jnp.float32),
        jnp.asarray(statistics["stddev"], jnp.float32),
        jnp.asarray(statistics["diffs_stddev"], jnp.float32),
        layout,
    )
    return forecaster, rollout


def _forecaster(net, statistics: dict[str, np.ndarray], layout: Layout) -> Forecaster:
    static = {
        kind: {n: ((), v) for n, v in zip(STATIC, statistics[f"static_{kind}"], strict=True)}
        for kind in ("mean", "stddev")
    }
    fields = {k: _by_variable(statistics[k], layout) for k in ("mean", "stddev", "diffs_stddev")}
    return Forecaster(
        net,
        mean=fields["mean"].assign(static["mean"]),
        stddev=fields["stddev"].assign(static["stddev"]),
        diffs_stddev=fields["diffs_stddev"],
    )


def _by_variable(values: np.ndarray, layout: Layout) -> xr.Dataset:
    ds = xr.Dataset(coords={"level": np.array(layout.levels)})
    for name in layout.variables:
        own = values[layout.channel_slice(name)]
        ds[name] = ("level", own) if len(own) > 1 else ((), own[0])
    return ds
