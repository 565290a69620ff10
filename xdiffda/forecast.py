"""Forecasts from a state: roll out the forecaster that belongs to a model."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xdiffda import registry
from xdiffda.errors import InputError, Problem
from xdiffda.graphcast import Forecaster, load, time_forcings
from xdiffda.options import get_options
from xdiffda.state import from_state, to_state

__all__ = ["Forecaster", "forecast", "load_forecaster"]

STEP = np.timedelta64(6, "h")
STATIC = ("geopotential_at_surface", "land_sea_mask")


def load_forecaster(name: str | None = None) -> Forecaster:
    """Load the forecaster of a bundled model.

    Parameters
    ----------
    name : str, optional
        Default the option ``default_model``.

    Returns
    -------
    Forecaster
        6 h a step, in physical units.

    Examples
    --------
    >>> load_forecaster("speedy").net.task.pressure_levels
    (100, 200, 300, 500, 700, 850, 925)
    """
    folder = registry.model_folder(name or get_options().default_model)
    net = load(folder / "forecaster.npz")
    statistics = registry.load_statistics(folder)
    layout = registry.layout_of(registry.load_card(folder), statistics)
    fields = lambda values: _by_variable(values, layout)  # noqa: E731
    static = {
        kind: {n: ((), v) for n, v in zip(STATIC, statistics[f"static_{kind}"], strict=True)}
        for kind in ("mean", "stddev")
    }
    return Forecaster(
        net, mean=fields(statistics["mean"]).assign(static["mean"]),
        stddev=fields(statistics["stddev"]).assign(static["stddev"]),
        diffs_stddev=fields(statistics["diffs_stddev"]),
    )  # fmt: skip


def forecast(
    ds: xr.Dataset, lead_time: str | np.timedelta64 = "48h", *, model: str | None = None
) -> xr.Dataset:
    """Forecast from a state with its valid time, every 6 hours.

    Parameters
    ----------
    ds : Dataset
        State (an analysis, with or without ``member``) at one time, in any usual convention.
    lead_time : str or timedelta64
        How far; a multiple of 6 h.
    model : str, optional
        Bundled model whose forecaster is taken.

    Returns
    -------
    Dataset
        With the dimension ``time`` (valid time) and the coordinate ``lead_time`` on it.

    Raises
    ------
    InputError
        If the state does not fit the model, has no valid time, or the lead time is not a
        multiple of 6 h.

    Examples
    --------
    >>> import xdiffda
    >>> truth = xdiffda.open_sample("truth").isel(time=0)
    >>> forecast(truth, "12h").sizes["time"]
    2
    """
    import pandas as pd

    name = model or get_options().default_model
    n_steps, rest = divmod(pd.to_timedelta([lead_time]).total_seconds()[0], 6 * 3600)
    n_steps = int(n_steps)
    statistics = registry.load_statistics(registry.model_folder(name))
    layout = registry.layout_of(registry.load_card(registry.model_folder(name)), statistics)
    x, _, convention = to_state(ds, layout, what="initial state")
    times = convention.valid_times
    problems = []
    if rest or n_steps < 1:
        problems.append(Problem(f"lead_time={lead_time!r}", "a positive multiple of 6 h",
                                'ds.diffda.forecast("48h")'))  # fmt: skip
    if times is None or len(np.unique(times)) != 1:
        problems.append(Problem("no single valid time", "one scalar coordinate time",
                                'ds.assign_coords(time=np.datetime64("2020-01-01"))'))  # fmt: skip
    if problems:
        raise InputError(problems, what="forecast")
    start = np.unique(np.asarray(times))[0]
    members = x.reshape(-1, *x.shape[-2:])
    inputs = _inputs(members, layout, statistics, start)
    valid = start + np.arange(1, n_steps + 1) * STEP
    lat, lon = (inputs[k].values for k in ("lat", "lon"))
    forcings = time_forcings(valid, lat, lon)[["year_progress_cos", "year_progress_sin"]]
    rolled = load_forecaster(name).rollout(inputs, forcings, steps=n_steps)
    states = np.stack([_stacked(rolled.isel(time=i), layout) for i in range(n_steps)])
    return _labelled(states, x.shape[:-2], layout, convention, valid, start)


def _inputs(members: np.ndarray, layout, statistics: dict, start: np.datetime64) -> xr.Dataset:
    shape = layout.grid.shape
    coords = {"lat": np.array(layout.grid.lat), "lon": np.array(layout.grid.lon),
              "level": np.array(layout.levels), "time": [start]}  # fmt: skip
    ds = xr.Dataset(coords=coords)
    for name in layout.variables:
        values = np.moveaxis(members[..., layout.channel_slice(name)], -1, 1)
        values = values.reshape(len(members), 1, -1, *shape)
        on_levels = values.shape[2] > 1
        dims = ("batch", "time", *(("level",) if on_levels else ()), "lat", "lon")
        ds[name] = dims, values if on_levels else values[:, :, 0]
    static = statistics["static"] * statistics["static_stddev"] + statistics["static_mean"]
    for i, name in enumerate(STATIC):
        ds[name] = ("lat", "lon"), static[:, i].reshape(shape)
    return ds


def _stacked(ds: xr.Dataset, layout) -> np.ndarray:
    """Dataset on (batch, [level,] lat, lon) -> (batch, node, channel)."""
    parts = []
    for name in layout.variables:
        field = ds[name].transpose("batch", ..., "lat", "lon").values
        parts.append(field.reshape(len(field), -1, layout.grid.n_node))
    return np.moveaxis(np.concatenate(parts, axis=1), 1, -1)


def _labelled(states, batch, layout, convention, valid, start) -> xr.Dataset:
    dims = tuple(d for d in convention.batch_dims if d != "time")
    kept = tuple(n for d, n in zip(convention.batch_dims, batch, strict=True) if d != "time")
    pieces = [
        from_state(x.reshape(*kept, *x.shape[-2:]), layout, convention, dims=dims) for x in states
    ]
    name = convention.user_name("time")
    pieces = [p.drop_vars(name, errors="ignore").expand_dims({name: [t]})
              for p, t in zip(pieces, valid, strict=True)]  # fmt: skip
    return xr.concat(pieces, dim=name).assign_coords(lead_time=(name, valid - start))


def _by_variable(values: np.ndarray, layout) -> xr.Dataset:
    ds = xr.Dataset(coords={"level": np.array(layout.levels)})
    for name in layout.variables:
        own = values[layout.channel_slice(name)]
        ds[name] = ("level", own) if len(own) > 1 else ((), own[0])
    return ds
