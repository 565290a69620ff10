"""Forecasts from a state: roll out the forecaster that belongs to a model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.assimilation.memory import Need, needed_to_forecast, states_that_fit
from xdiffda.cycling.rollout import STEP, load_forecaster, load_rollout
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.fgn import FGNForecaster, member_noise
from xdiffda.networks.graphcast import Forecaster, TaskConfig
from xdiffda.networks.graphcast.forcings import time_forcings
from xdiffda.options import get_options
from xdiffda.priors.published import is_published, load_published
from xdiffda.state.convention import Convention, default_convention, dimension_name
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.coordinates import BATCH_DIMS
from xdiffda.state.grid import Grid, Layout, equiangular
from xdiffda.state.recognise import recognise
from xdiffda.state.variables import VARIABLES

__all__ = ["Forecaster", "forecast", "load_forecaster", "load_rollout"]


# Forecasts of networks that start from several states, as the published GraphCast does.


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


def read_start(ds: xr.Dataset, forecaster: Forecaster | FGNForecaster, name: str) -> Start:
    """Read the input frames of a network from states in any usual convention.

    What the network takes with gaps (sea surface temperature over land) may have them.

    Raises
    ------
    InputError
        If grid, levels, variables or times are not those of the network; lists all problems.
    """
    layout = input_layout(forecaster)
    what, gaps = f"initial states of {name}", [*getattr(forecaster, "fill", ())]
    whole = _without_gaps(ds, gaps)
    x, _, convention = to_state(whole, layout, what=what)
    times = _frame_times(convention, forecaster.net.task.n_frames, what)
    members = x.reshape(len(times), -1, *x.shape[-2:])  # time comes first among batch axes
    own = default_convention(layout)
    inputs = from_state(members, layout, own, dims=("time", "member"), coords={"time": times})
    inputs = inputs.rename(member="batch").drop_vars("batch").transpose("batch", "time", ...)
    for v in gaps:
        part = Layout(layout.grid, (v,), layout.levels)
        known = ~np.isnan(to_state(ds, part, what=what, check_values=False)[0])
        rows = known.reshape(len(times), -1, layout.grid.n_lat, layout.grid.n_lon)
        inputs[v] = inputs[v].transpose("batch", "time", "lat", "lon").where(rows.swapaxes(0, 1))
    static = [v for v in layout.variables if VARIABLES[v].role == "static"]
    inputs = inputs.assign({v: inputs[v].isel(batch=0, time=0, drop=True) for v in static})
    given = {convention.user_name(v): ds[convention.user_name(v)] for v in static}
    moving = [str(axis.dim) for name, axis in convention.axes.items() if name in BATCH_DIMS]
    still = {
        name: field.isel(dict.fromkeys({*moving} & {*field.dims}, 0), drop=True)
        for name, field in given.items()
    }
    return Start(inputs, convention, times, still)


def _without_gaps(ds: xr.Dataset, names: list[str]) -> xr.Dataset:
    """Gaps filled with a value that occurs, in the units of the user: others are still checked."""
    users = {canonical: user for user, canonical in recognise(ds).items()}
    known = [users[name] for name in names if name in users]
    return ds.assign({name: ds[name].fillna(ds[name].min()) for name in known})


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
    clocks = _clocks(start, layout.grid, n_steps, task)
    n_frame, groups = len(start.times), []
    for first in range(0, start.inputs.sizes["batch"], max_batch):
        inputs = start.inputs.isel(batch=slice(first, first + max_batch))
        inputs = inputs.merge(clocks.isel(time=slice(n_frame)))
        out = forecaster.rollout(inputs, clocks.isel(time=slice(n_frame, None)), steps=n_steps)
        groups.append(_arrays(out, layout))
    return np.concatenate(groups, axis=1), layout


def _clocks(start: Start, grid: Grid, n_steps: int, task: TaskConfig) -> xr.Dataset:
    """Forcings at the frames and at every step."""
    ahead = start.times[-1] + np.arange(1, n_steps + 1) * STEP
    times = np.concatenate([start.times, ahead])
    clocks = time_forcings(times, np.asarray(grid.lat), np.asarray(grid.lon))
    return clocks.drop_vars([v for v in clocks if v not in task.forcing_variables])


def members_ahead(
    start: Start,
    forecaster: FGNForecaster,
    n_steps: int,
    *,
    n_members: int,
    seed: int,
    max_batch: int,
) -> tuple[Float[np.ndarray, "step member node channel"], Layout]:
    """Forecast members ``n_steps`` steps, up to ``max_batch`` of one training together.

    A state given once is that of all members. The numbers that a member is drawn from, and the
    training that it takes, follow from ``seed`` and its own number alone.

    Returns
    -------
    states : array (step, member, node, channel), physical units
    layout : Layout
        Of the states: the targets of the network that this package knows.
    """
    task, layout = forecaster.net.task, input_layout(forecaster)
    known = tuple(name for name in task.target_variables if name in VARIABLES)
    layout = Layout(layout.grid, known, task.pressure_levels)
    clocks, n_frame = _clocks(start, layout.grid, n_steps, task), len(start.times)
    width, n_net = forecaster.net.net.config.sizes.noise_channels, len(forecaster.nets)
    noise = np.asarray(member_noise(jax.random.key(seed), range(n_members), n_steps, width))
    shared = start.inputs.sizes["batch"] == 1
    found = np.empty((n_steps, n_members, layout.grid.n_node, layout.n_channel), np.float32)
    for k in range(min(n_net, n_members)):
        own = np.arange(k, n_members, n_net)
        for first in range(0, len(own), max_batch):
            group = own[first : first + max_batch]
            inputs = start.inputs.isel(batch=np.zeros(len(group), int) if shared else group)
            inputs = inputs.merge(clocks.isel(time=slice(n_frame)))
            out = forecaster.rollout(
                inputs,
                clocks.isel(time=slice(n_frame, None)),
                noise=noise[None, group],
                steps=n_steps,
                members=[k],
            )
            found[:, group] = _arrays(out.isel(sample=0), layout)
    return found, layout


def input_layout(forecaster: Forecaster | FGNForecaster) -> Layout:
    """State variables and static fields that the network reads, on the grid it was made for."""
    task = forecaster.net.task
    names = [v for v in task.input_variables if v in VARIABLES and VARIABLES[v].role != "forcing"]
    return Layout(_grid_of(forecaster), tuple(names), task.pressure_levels)


def _grid_of(forecaster: Forecaster | FGNForecaster) -> Grid:
    if isinstance(forecaster, FGNForecaster):
        if forecaster.grid is None:
            problem = Problem(
                "a forecaster that knows no grid",
                "the grid that its weights were trained on",
                "xdiffda.fgn.FGNForecaster(net, grid=xdiffda.Grid(lat, lon))",
            )
            raise InputError([problem], what="forecast")
        return forecaster.grid
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


@with_own_jax
def forecast(
    ds: xr.Dataset,
    lead_time: str | np.timedelta64 = "48h",
    *,
    model: str | Path | Forecaster | FGNForecaster | None = None,
    n_members: int | None = None,
    seed: int = 0,
    max_batch: int = 8,
) -> xr.Dataset:
    """Forecast from states with their valid times, every 6 hours.

    The forecaster is loaded once and its step compiled once for each number of states
    computed together, whatever the lead time.

    The published GraphCast models (``model="graphcast-small-1p0"`` and the others of
    `xdiffda.models`) start from two states: ``ds`` then holds the states 6 h before the initial
    time and at it, with the static fields ``geopotential_at_surface`` and ``land_sea_mask``;
    their weights are fetched when first used, and carry a licence of their own (see
    `xdiffda.models`). So does WeatherNext 2 (``model="weathernext2-mini-1p0"``), an ensemble
    forecaster: a member follows from ``seed`` and its own number, whatever is computed together.
    Variables of tropical cyclones are left out: ``xdiffda.fgn.FGNForecaster.rollout`` gives them.

    Parameters
    ----------
    ds : Dataset
        State (an analysis, with or without ``member``) at one time or at several, in any
        usual convention. Times are the initial times of the forecasts.
    lead_time : str or timedelta64
        How far; a multiple of 6 h.
    model : str, path or Forecaster, optional
        Bundled model whose forecaster is taken, a folder of the same files, the name of a
        published GraphCast or WeatherNext 2, or a `Forecaster` or ``xdiffda.fgn.FGNForecaster``
        made from checkpoints of those formats.
    n_members : int, optional
        Members of an ensemble forecaster: drawn from one state, default one, or one for each
        member of ``ds``. Other forecasters have none.
    seed : int
        Of the members.
    max_batch : int
        States (members and initial times) computed together at most; fewer where the device's
        memory, or the option ``memory_limit``, asks for that.

    Returns
    -------
    Dataset
        Of one initial time: with the dimension ``time`` (valid time) in front, and the
        coordinates ``lead_time`` on it and ``init_time``. Of several: with the dimensions
        ``init_time`` and ``lead_time`` in front and the coordinate ``valid_time`` on both.
        `xdiffda.verify` takes either.

    Raises
    ------
    InputError
        If the states do not fit the model or have no valid time, or the lead time is not a
        multiple of 6 h; lists all problems. If there is not enough memory for a single state:
        with what reduces it, as ``model=forecaster.reconfigured(edge_chunk=131072)``.

    Examples
    --------
    >>> import xdiffda
    >>> truth = xdiffda.open_sample("truth").isel(time=[0, 4])
    >>> dict(forecast(truth.isel(time=0), "12h").sizes)["time"]
    2
    >>> forecast(truth, "12h").valid_time.dims
    ('init_time', 'lead_time')
    """
    name = get_options().default_model if model is None else model
    if not isinstance(name, str | Path | Forecaster | FGNForecaster):
        raise InputError(
            [
                Problem(
                    f"model of type {type(name).__name__}",
                    "the name of a model, a folder of the same files, or a Forecaster",
                    'ds.diffda.forecast("48h", model="speedy")',
                )
            ],
            what="forecast",
        )
    if isinstance(name, Forecaster | FGNForecaster) or is_published(name):
        return _from_two_frames(ds, lead_time, name, n_members, seed, max_batch)
    _no_ensemble(n_members, repr(str(name)))
    rollout = load_rollout(name)
    x, layout, convention = to_state(ds, rollout.layout, what="initial state")
    times, n_steps = _checked(convention, lead_time, max_batch)

    def need(own):
        return needed_to_forecast(own.network, own.graph)

    batch = states_that_fit(rollout, need, max_batch, name=repr(str(name)))
    states = rollout.run(x.reshape(-1, *x.shape[-2:]), times.reshape(-1), n_steps, max_batch=batch)
    states = states.reshape(n_steps, *x.shape)
    if "time" in convention.batch_dims and convention.batch_shape[0] > 1:
        return _of_several_times(states, times, layout, convention)
    return _of_one_time(states, times.reshape(-1)[0], layout, convention)


def _from_two_frames(
    ds: xr.Dataset,
    lead_time: str | np.timedelta64,
    model: str | Path | Forecaster | FGNForecaster,
    n_members: int | None,
    seed: int,
    max_batch: int,
) -> xr.Dataset:
    """Forecast with a network that starts from two states."""
    forecaster, name, named = model, "the forecaster", False
    if not isinstance(model, Forecaster | FGNForecaster):
        forecaster, name, named = load_published(str(model)), str(model), True
    if not isinstance(forecaster, Forecaster | FGNForecaster):
        problem = Problem(
            f"model={name!r}, which draws states 12 h on",
            "a forecaster",
            'ds.diffda.forecast(model="graphcast-small-1p0")',
        )
        raise InputError([problem], what="forecast")
    n_steps, problems = _settings(lead_time, max_batch)
    raise_if(problems, what="forecast")
    drawn = isinstance(forecaster, FGNForecaster)
    if not drawn:
        _no_ensemble(n_members, name)
    start = read_start(ds, forecaster, name)
    graph = forecaster.net.graph_for(start.inputs)

    def need(own: Forecaster | FGNForecaster) -> Need:
        others = [net.net for net in getattr(own, "nets", ())[1:]]
        return needed_to_forecast(own.net.net, graph, *others)

    code = f"xdiffda.load_model({name!r})" if named else "forecaster"
    convention = start.convention
    if drawn:
        convention = _with_members(convention, n_members, seed)
    sizes = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    batch = states_that_fit(forecaster, need, max_batch, name=name, code=code)
    if isinstance(forecaster, FGNForecaster):
        states, layout = members_ahead(
            start, forecaster, n_steps, n_members=sizes["member"], seed=seed, max_batch=batch
        )
    else:
        states, layout = roll_out(start, forecaster, n_steps, max_batch=batch)
    kept = [n if dim == "member" else 1 for dim, n in sizes.items()]
    states = states.reshape(n_steps, *kept, *states.shape[-2:])
    out = _of_one_time(states, start.times[-1], layout, convention)
    return out.assign({name: field.variable for name, field in start.static.items()})


def _no_ensemble(n_members: int | None, name: str) -> None:
    """Raise InputError where members are asked of a forecaster that draws none."""
    if n_members is not None:
        problem = Problem(
            f"n_members={n_members!r} of {name}, which gives one forecast of each state",
            "an ensemble forecaster, or no n_members",
            'ds.diffda.forecast("48h", model="weathernext2-mini-1p0", n_members=20)',
        )
        raise InputError([problem], what="forecast")


def _with_members(convention: Convention, n_members: int | None, seed: int) -> Convention:
    """The convention of a forecast with members, from that of its initial states."""
    problems = []
    for name, value, least in (("n_members", n_members, 1), ("seed", seed, 0)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < least):
            repair = f"ds.diffda.forecast({name}={least})"
            needed = f"a whole number of {least} or more"
            problems.append(Problem(f"{name}={value!r}", needed, repair))
    sizes = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    if (given := sizes.get("member")) is not None:
        if n_members not in (None, given) and not problems:
            found = f"n_members={n_members} for states of {given} members"
            needed = "one forecast of each, without n_members, or a single state"
            problems.append(Problem(found, needed, "ds.isel(member=0)"))
        raise_if(problems, what="forecast")
        return convention
    raise_if(problems, what="forecast")
    return dataclasses.replace(
        convention,
        batch_dims=(*convention.batch_dims, "member"),
        batch_shape=(*convention.batch_shape, n_members or 1),
    )


def _settings(lead_time: str | np.timedelta64, max_batch: int) -> tuple[int, list[Problem]]:
    """Number of steps, and what is wrong with the settings."""
    import pandas as pd

    problems = []
    try:
        n_steps, rest = divmod(pd.to_timedelta([lead_time]).total_seconds()[0], 6 * 3600)
    except (ValueError, TypeError):
        n_steps, rest = 0, 0
    if not n_steps >= 1 or rest:  # not a time is NaN here
        n_steps = 0
        problems.append(
            Problem(
                f"lead_time={lead_time!r}",
                "a positive multiple of 6 h",
                'ds.diffda.forecast("48h")',
            )
        )
    whole = isinstance(max_batch, int | np.integer)
    if not whole or max_batch < 1:
        problems.append(
            Problem(
                f"max_batch={max_batch!r}",
                "a whole number of 1 or more",
                "ds.diffda.forecast(max_batch=8)",
            )
        )
    return int(n_steps), problems


def _checked(
    convention: Convention, lead_time: str | np.timedelta64, max_batch: int
) -> tuple[np.ndarray, int]:
    """Initial time of every state, and the number of steps."""
    n_steps, problems = _settings(lead_time, max_batch)
    times = convention.valid_times
    if times is None or np.isnat(times).any():
        problems.append(
            Problem(
                "no valid time",
                "a coordinate time, one for each state",
                'ds.assign_coords(time=np.datetime64("2020-01-01"))',
            )
        )
    sizes = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    if (n := sizes.get("lead_time", 1)) > 1:
        problems.append(
            Problem(
                f"states of {n} lead times",
                "one lead time",
                f"ds.isel({convention.axes['lead_time'].dim}=0)",
            )
        )
    raise_if(problems, what="forecast")
    return np.asarray(times), n_steps


def _of_one_time(
    states: Float[np.ndarray, "step *batch node channel"],
    start: np.datetime64,
    layout: Layout,
    convention: Convention,
) -> xr.Dataset:
    """On the dimension ``time`` of valid times."""
    single = [1 + i for i, dim in enumerate(convention.batch_dims) if dim != "member"]
    dims = ("time", *(dim for dim in convention.batch_dims if dim == "member"))
    leads = (np.arange(1, len(states) + 1) * STEP).astype("timedelta64[ns]")
    ds = from_state(
        states.squeeze(tuple(single)), layout, convention, dims=dims, coords={"time": start + leads}
    )
    name = _dimension("time", convention)
    # `time` is valid time: its attributes say so, and the two others add up to it
    return _front(ds, name).assign_coords(lead_time=(name, leads), init_time=start)


def _of_several_times(
    states: Float[np.ndarray, "step time *batch node channel"],
    times: np.ndarray,
    layout: Layout,
    convention: Convention,
) -> xr.Dataset:
    """On the dimensions ``init_time`` and ``lead_time``."""
    leads = (np.arange(1, len(states) + 1) * STEP).astype("timedelta64[ns]")
    if "lead_time" in convention.batch_dims:  # of size 1: the new one takes its place
        states = states.squeeze(1 + convention.batch_dims.index("lead_time"))
    states = np.moveaxis(states, 0, 1)
    dims = ("time", "lead_time", *(dim for dim in convention.batch_dims if dim == "member"))
    start = times.reshape(len(times), -1)[:, 0]
    ds = from_state(
        states, layout, convention, dims=dims, coords={"time": start, "lead_time": leads}
    )
    init, lead = _dimension("time", convention), _dimension("lead_time", convention)
    new = {init: "init_time", lead: "lead_time"}
    ds = ds.rename({old: name for old, name in new.items() if old != name})
    ds["init_time"].attrs = {"standard_name": "forecast_reference_time"}
    valid = (("init_time", "lead_time"), start[:, None] + leads)
    return _front(ds, "init_time", "lead_time").assign_coords(valid_time=valid)


def _dimension(name: str, convention: Convention) -> str:
    """The dimension that `from_state` gives to a batch axis."""
    return dimension_name(name, convention, new=True)


def _front(ds: xr.Dataset, *names: str) -> xr.Dataset:
    """Put the clock in front; static fields have none."""

    def move(field):
        return field.transpose(*names, ...) if names[0] in field.dims else field

    return ds.map(move, keep_attrs=True)
