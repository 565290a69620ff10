"""Forecasts from a state: roll out the forecaster that belongs to a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda._jax_settings import with_own_jax
from xdiffda._memory import Need, needed_to_forecast, states_that_fit
from xdiffda._published import is_published, load_published
from xdiffda._restore import dimension_name
from xdiffda._rollout import STEP, load_forecaster, load_rollout
from xdiffda._two_frames import read_start, roll_out
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.graphcast import Forecaster
from xdiffda.options import get_options
from xdiffda.state import Convention, Layout, from_state, to_state

__all__ = ["Forecaster", "forecast", "load_forecaster", "load_rollout"]


@with_own_jax
def forecast(
    ds: xr.Dataset,
    lead_time: str | np.timedelta64 = "48h",
    *,
    model: str | Path | Forecaster | None = None,
    max_batch: int = 8,
) -> xr.Dataset:
    """Forecast from states with their valid times, every 6 hours.

    The forecaster is loaded once and its step compiled once for each number of states
    computed together, whatever the lead time.

    The published GraphCast models (``model="graphcast-small-1p0"`` and the others of
    `xdiffda.models`) start from two states: ``ds`` then holds the states 6 h before the initial
    time and at it, with the static fields ``geopotential_at_surface`` and ``land_sea_mask``;
    their weights are fetched when first used, and carry a licence of their own (see
    `xdiffda.models`).

    Parameters
    ----------
    ds : Dataset
        State (an analysis, with or without ``member``) at one time or at several, in any
        usual convention. Times are the initial times of the forecasts.
    lead_time : str or timedelta64
        How far; a multiple of 6 h.
    model : str, path or Forecaster, optional
        Bundled model whose forecaster is taken, a folder of the same files, the name of a
        published GraphCast, or a `Forecaster` made from a checkpoint of that format.
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
    if not isinstance(name, str | Path | Forecaster):
        raise InputError([Problem(f"model of type {type(name).__name__}", "the name of a model, a "
                                  "folder of the same files, or a Forecaster",
                                  'ds.diffda.forecast("48h", model="speedy")')],
                         what="forecast")  # fmt: skip
    if isinstance(name, Forecaster) or is_published(name):
        return _from_two_frames(ds, lead_time, name, max_batch)
    rollout = load_rollout(name)
    x, layout, convention = to_state(ds, rollout.layout, what="initial state")
    times, n_steps = _checked(convention, lead_time, max_batch)
    need = lambda own: needed_to_forecast(own.network, own.graph)  # noqa: E731
    batch = states_that_fit(rollout, need, max_batch, name=repr(str(name)))
    states = rollout.run(x.reshape(-1, *x.shape[-2:]), times.reshape(-1), n_steps, max_batch=batch)
    states = states.reshape(n_steps, *x.shape)
    if "time" in convention.batch_dims and convention.batch_shape[0] > 1:
        return _of_several_times(states, times, layout, convention)
    return _of_one_time(states, times.reshape(-1)[0], layout, convention)


def _from_two_frames(
    ds: xr.Dataset, lead_time: str | np.timedelta64, model: str | Path | Forecaster,
    max_batch: int,
) -> xr.Dataset:  # fmt: skip
    """Forecast with a network that starts from two states."""
    forecaster, name = model, "the forecaster"
    if not isinstance(model, Forecaster):
        forecaster, name = load_published(str(model)), str(model)
    if not isinstance(forecaster, Forecaster):
        problem = Problem(f"model={name!r}, which draws states 12 h on", "a forecaster",
                          'ds.diffda.forecast(model="graphcast-small-1p0")')  # fmt: skip
        raise InputError([problem], what="forecast")
    n_steps, problems = _settings(lead_time, max_batch)
    raise_if(problems, what="forecast")
    start = read_start(ds, forecaster, name)
    graph, named = forecaster.net.graph_for(start.inputs), not isinstance(model, Forecaster)

    def need(own: Forecaster) -> Need:
        return needed_to_forecast(own.net.net, graph)

    code = f"xdiffda.load_model({name!r})" if named else "forecaster"
    batch = states_that_fit(forecaster, need, max_batch, name=name, code=code)
    states, layout = roll_out(start, forecaster, n_steps, max_batch=batch)
    sizes = dict(zip(start.convention.batch_dims, start.convention.batch_shape, strict=True))
    kept = [n if dim == "member" else 1 for dim, n in sizes.items()]
    states = states.reshape(n_steps, *kept, *states.shape[-2:])
    out = _of_one_time(states, start.times[-1], layout, start.convention)
    return out.assign({name: field.variable for name, field in start.static.items()})


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
        problems.append(Problem(f"lead_time={lead_time!r}", "a positive multiple of 6 h",
                                'ds.diffda.forecast("48h")'))  # fmt: skip
    whole = isinstance(max_batch, int | np.integer)
    if not whole or max_batch < 1:
        problems.append(Problem(f"max_batch={max_batch!r}", "a whole number of 1 or more",
                                "ds.diffda.forecast(max_batch=8)"))  # fmt: skip
    return int(n_steps), problems


def _checked(
    convention: Convention, lead_time: str | np.timedelta64, max_batch: int
) -> tuple[np.ndarray, int]:
    """Initial time of every state, and the number of steps."""
    n_steps, problems = _settings(lead_time, max_batch)
    times = convention.valid_times
    if times is None or np.isnat(times).any():
        problems.append(Problem("no valid time", "a coordinate time, one for each state",
                                'ds.assign_coords(time=np.datetime64("2020-01-01"))'))  # fmt: skip
    sizes = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    if (n := sizes.get("lead_time", 1)) > 1:
        problems.append(Problem(f"states of {n} lead times", "one lead time",
                                f"ds.isel({convention.axes['lead_time'].dim}=0)"))  # fmt: skip
    raise_if(problems, what="forecast")
    return np.asarray(times), n_steps


def _of_one_time(
    states: Float[np.ndarray, "step *batch node channel"], start: np.datetime64, layout: Layout,
    convention: Convention,
) -> xr.Dataset:  # fmt: skip
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
    states: Float[np.ndarray, "step time *batch node channel"], times: np.ndarray, layout: Layout,
    convention: Convention,
) -> xr.Dataset:  # fmt: skip
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
    move = lambda field: field.transpose(*names, ...) if names[0] in field.dims else field  # noqa: E731
    return ds.map(move, keep_attrs=True)
