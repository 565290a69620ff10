"""What GenCast is conditioned on: the states 24 and 12 h before an analysis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem
from xdiffda.state import Grid, Layout, default_convention, from_state, to_state
from xdiffda.variables import VARIABLES

from .config import STEP, GenCastTask
from .denoiser import GenCastDenoiser
from .forecaster import GenCastForecaster, clock_forcings


class Evidence(NamedTuple):
    """What two known states say of the one after them.

    Attributes
    ----------
    denoiser : GenCastDenoiser
        Of the normalised change w.
    reference : array (node, channel)
        The state with w = 0, physical units.
    """

    denoiser: GenCastDenoiser
    reference: Float[np.ndarray, "node channel"]


def evidence_of(forecaster: GenCastForecaster, previous: xr.Dataset, layout: Layout) -> Evidence:
    """What two frames say of the state 12 h after them."""
    lon, time = previous["lon"].values, previous["time"].values[-1:] + STEP
    frames = forecaster.clean(previous).merge(
        clock_forcings(previous["time"].values, lon), compat="override"
    )
    denoiser = forecaster.denoiser(frames, clock_forcings(time, lon))
    # w = 0: the last frame, and the mean of variables that are no input
    zero = np.zeros((layout.grid.n_node, 1, layout.n_channel), np.float32)
    changes = forecaster.net.unstack_targets(zero, frames, frames.isel(time=[-1]))
    state = forecaster.scaler.denormalize(changes, frames)
    return Evidence(denoiser, np.asarray(forecaster.net.stack_targets(state))[:, 0])


def earlier_states(ds: xr.Dataset, task: GenCastTask, grid: Grid) -> xr.Dataset:
    """Input variables in their canonical form: (time, level, lat, lon), static ones without time.

    Raises
    ------
    InputError
        If there are no two times 12 h apart, or something does not fit; lists all problems.
    """
    names = [name for name in task.input_variables if name in VARIABLES]
    layout = Layout(grid, tuple(names), task.pressure_levels)
    x, _, convention = to_state(ds, layout, what="earlier states", check_values=False)
    times = convention.valid_times
    if convention.batch_dims != ("time",) or times is None or not _successive(times):
        at = [] if times is None else [str(t)[:16] for t in np.unique(times)]
        repair = 'states.sel(time=[t - np.timedelta64(24, "h"), t - np.timedelta64(12, "h")])'
        if "member" in convention.batch_dims:
            repair = "states.isel(member=0), and so on: each member has its own prior"
        problem = Problem(
            f"states on {convention.batch_dims} at {at}", "two times or more, 12 h apart", repair
        )
        raise InputError([problem], what="earlier states")
    own = default_convention(layout)
    clean = from_state(x, layout, own, dims=("time",), coords={"time": times})
    static = [name for name in names if VARIABLES[name].role == "static"]
    return clean.assign({name: clean[name].isel(time=0, drop=True) for name in static})


def _successive(times: np.ndarray) -> bool:
    """Whether some two times are 12 h apart, and none stands twice."""
    known = set(times.tolist())
    apart = STEP.astype("timedelta64[ns]").astype(int)
    return len(known) == times.size and any(t + apart in known for t in known)


def unknown_states(states: xr.Dataset | None, time: np.datetime64 | None) -> Problem:
    """What to say where an analysis lacks the states before it."""
    when = [f"{t}"[:16] for t in (() if states is None else states["time"].values)]
    found = f"states at {', '.join(when)}" if when else "no earlier states"
    needed = "the states 24 and 12 h before each analysis, which GenCast is conditioned on"
    chosen = "[t - np.timedelta64(24, 'h'), t - np.timedelta64(12, 'h')]"
    if time is not None:
        two = [f"{time - n * STEP}"[:16] for n in (2, 1)]
        needed = f"those of {two[0]} and {two[1]}, which the analysis of {f'{time}'[:16]} needs"
        chosen = f"{two}"
    return Problem(found, needed, f"model.given(states.sel(time={chosen}))")
