"""Forecasts of networks that start from several states, as the published GraphCast does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda._grid import equiangular
from xdiffda.errors import InputError, Problem
from xdiffda.graphcast import Forecaster
from xdiffda.graphcast.forcings import time_forcings
from xdiffda.state import (
    BATCH_DIMS,
    Convention,
    Grid,
    Layout,
    default_convention,
    from_state,
    to_state,
)
from xdiffda.variables import VARIABLES

STEP = np.timedelta64(6, "h")


@dataclass(frozen=True, eq=False)
class Start:
    """The states that forecasts start from, as the network takes them.

    Parameters
    ----------
    inputs
        Variables and static fields on (batch, time, level, lat, lon): members are the batch.
    convention
        How the user said them.
    times
        Of the frames; the last one is the initial time.
    static
        The user's static fields, as they were given.
    """

    inputs: xr.Dataset
    convention: Convention
    times: np.ndarray
    static: dict[str, xr.DataArray]


def read_start(ds: xr.Dataset, forecaster: Forecaster, name: str) -> Start:
    """Read the input frames of a network from states in any usual convention.

    Raises
    ------
    InputError
        If grid, levels, variables or times are not those of the network; lists all problems.
    """
    layout = input_layout(forecaster)
    what = f"initial states of {name}"
    x, _, convention = to_state(ds, layout, what=what)
    times = _frame_times(convention, forecaster.net.task.n_frames, what)
    members = x.reshape(len(times), -1, *x.shape[-2:])  # time comes first among batch axes
    own = default_convention(layout)
    inputs = from_state(members, layout, own, dims=("time", "member"), coords={"time": times})
    inputs = inputs.rename(member="batch").drop_vars("batch").transpose("batch", "time", ...)
    static = [v for v in layout.variables if VARIABLES[v].role == "static"]
    inputs = inputs.assign({v: inputs[v].isel(batch=0, time=0, drop=True) for v in static})
    given = {convention.user_name(v): ds[convention.user_name(v)] for v in static}
    moving = [str(axis.dim) for name, axis in convention.axes.items() if name in BATCH_DIMS]
    still = {name: field.isel(dict.fromkeys({*moving} & {*field.dims}, 0), drop=True)
             for name, field in given.items()}  # fmt: skip
    return Start(inputs, convention, times, still)


def roll_out(
    start: Start, forecaster: Forecaster, n_steps: int, *, max_batch: int
) -> tuple[Float[np.ndarray, "step batch node channel"], Layout]:
    """Forecast every member ``n_steps`` steps, ``max_batch`` of them together.

    Returns
    -------
    states : array (step, batch, node, channel), physical units
    layout : Layout
        Of the states: the targets of the network.
    """
    task, layout = forecaster.net.task, input_layout(forecaster)
    layout = Layout(layout.grid, task.target_variables, task.pressure_levels)
    lat, lon = np.asarray(layout.grid.lat), np.asarray(layout.grid.lon)
    ahead = start.times[-1] + np.arange(1, n_steps + 1) * STEP
    clocks = time_forcings(np.concatenate([start.times, ahead]), lat, lon)
    clocks = clocks.drop_vars([v for v in clocks if v not in task.forcing_variables])
    n_frame, groups = len(start.times), []
    for first in range(0, start.inputs.sizes["batch"], max_batch):
        inputs = start.inputs.isel(batch=slice(first, first + max_batch))
        inputs = inputs.merge(clocks.isel(time=slice(n_frame)))
        out = forecaster.rollout(inputs, clocks.isel(time=slice(n_frame, None)), steps=n_steps)
        groups.append(_arrays(out, layout))
    return np.concatenate(groups, axis=1), layout


def input_layout(forecaster: Forecaster) -> Layout:
    """State variables and static fields that the network reads, on the grid it was made for."""
    task = forecaster.net.task
    names = [v for v in task.input_variables if v in VARIABLES and VARIABLES[v].role != "forcing"]
    return Layout(_grid_of(forecaster), tuple(names), task.pressure_levels)


def _grid_of(forecaster: Forecaster) -> Grid:
    resolution = forecaster.net.config.resolution
    return equiangular(round(180 / resolution) + 1, round(360 / resolution), poles=True)


def _frame_times(convention: Convention, n_frames: int, what: str) -> np.ndarray:
    """Valid times of the frames; members share them."""
    problems, times = [], convention.valid_times
    sizes = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    found = np.empty(0, "datetime64[ns]") if times is None else np.unique(times)
    if "lead_time" in sizes and sizes["lead_time"] > 1:
        lead = convention.axes["lead_time"].dim
        problems.append(Problem("several lead times", "one of them", f"ds.isel({lead}=0)"))
    apart = np.diff(found)
    if sizes.get("time") != n_frames or len(found) != n_frames or np.any(apart != STEP):
        at = ", ".join(f"{t}"[:16] for t in found) or "no valid time"
        problems.append(
            Problem(
                f"{len(found)} initial states ({at})",
                f"{n_frames} states 6 h apart, the last one at the initial time",
                'ds.sel(time=[t - np.timedelta64(6, "h"), t])',
            )
        )
    if problems:
        raise InputError(problems, what=what)
    assert times is not None
    order = np.asarray(times).reshape(n_frames, -1)[:, 0]
    if np.any(np.diff(order) != STEP):
        repair = 'ds.sortby("time")'
        raise InputError([Problem("times that do not ascend", "ascending", repair)], what=what)
    return order


def _arrays(ds: xr.Dataset, layout: Layout) -> Float[np.ndarray, "step batch node channel"]:
    """The channels of a roll-out in the order of the layout."""
    columns = []
    for name in layout.variables:
        values = ds[name].transpose("time", "batch", ..., "lat", "lon").values
        flat = values.reshape(*values.shape[:2], -1, layout.grid.n_node)
        columns.append(np.moveaxis(flat, 2, 3))
    return np.concatenate(columns, axis=-1)
