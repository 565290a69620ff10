"""One Dataset of all records, and back from channels to variables on levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xdiffda._rollout import STEP
from xdiffda._stream import duration
from xdiffda.experiments.measure import DIMS
from xdiffda.experiments.tasks import Task, forecast_kind, reference_of, saturation_of
from xdiffda.experiments.world import World
from xdiffda.osse.records import Ledger

LONG_NAMES = {
    "squared": "squared error of the mean of the members",
    "crps": "fair CRPS",
    "variance": "what the squared error is expected to be, from the members' spread",
    "tendency": "mean squared change of a member in the first 6 h of a forecast",
    "divergence": "root mean square divergence of members",
    "ageostrophic_ratio": "ageostrophic over geostrophic wind of members",
    "spectrum": "variance of members by zonal wavenumber",
    "evaluations": "network evaluations for each member",
    "forecast_squared": "squared error of forecasts",
}


def assemble(
    world: World, tasks: Sequence[Task], book: Ledger, *, forecasts: bool
) -> xr.Dataset:  # fmt: skip
    """All records as one Dataset; NaN where a method was not run.

    Methods lie along ``scheme``: ``ds.sel(method=...)`` means another thing in xarray.

    Variables that begin with ``background_`` and ``truth_`` do not depend on the method;
    forecasts from the truth reach to ``reference_lead_time``.
    """
    config, layout = world.config, world.states.layout
    names = list(dict.fromkeys(t.name for t in tasks))
    coords: dict[str, Any] = {
        "case": world.times, "columns": list(config.columns), "scheme": names,
        "channel": list(layout.channel_names), "level": np.array(layout.levels, float),
        "start": list(config.starts), "lead_time": _leads(config.forecast_lead),
        "reference_lead_time": _leads(config.reference_lead),
    }  # fmt: skip
    where = {d: {v: i for i, v in enumerate(np.asarray(coords[d]).tolist())} for d in
             ("case", "columns", "scheme")}  # fmt: skip
    rows = []
    for task in tasks:
        record = dict(book[task.of("analysis")])
        if forecasts:
            record |= book[task.of(forecast_kind(config))]
        at = (world.times.tolist().index(task.time.tolist()), where["columns"][task.columns],
              where["scheme"][task.name])  # fmt: skip
        rows.append((at, record))
    shape = (len(world.times), len(config.columns), len(names))
    variables = _filled(rows, ("case", "columns", "scheme"), shape)
    references = []
    for i, time in enumerate(world.times):
        record = dict(book[reference_of(config, time)])
        if forecasts:
            record |= book[saturation_of(time)]
        references.append(((i,), record))
    variables |= _filled(references, ("case",), shape[:1])
    if not forecasts:
        variables = {n: v for n, v in variables.items() if n != "background_forecast_squared"}
        coords = {n: c for n, c in coords.items() if n not in ("start", "lead_time")}
    ds = xr.Dataset(variables)
    ds = ds.assign_coords({n: c for n, c in coords.items() if n in ds.dims})
    if "wavenumber" in ds.dims:
        ds = ds.assign_coords(wavenumber=np.arange(ds.sizes["wavenumber"]))
    return ds


def _leads(lead: str) -> np.ndarray:
    steps = np.arange(int(duration(lead) // STEP) + 1)
    return (steps * STEP).astype("timedelta64[ns]")


def _filled(
    rows: Sequence[tuple[tuple[int, ...], Mapping[str, Any]]], dims: tuple[str, ...],
    shape: tuple[int, ...],
) -> dict[str, xr.Variable]:  # fmt: skip
    """Arrays of what the records hold."""
    arrays: dict[str, np.ndarray] = {}
    for at, record in rows:
        for name, value in record.items():
            value = np.asarray(value, np.float64)
            arrays.setdefault(name, np.full((*shape, *value.shape), np.nan))[at] = value
    out = {}
    for name, values in arrays.items():
        prefix, kind = _kind(name)
        own = DIMS[kind]
        if prefix == "truth" and kind == "forecast_squared":
            own = ("reference_lead_time", "channel")
        attrs = {"long_name": f"{prefix + ': ' if prefix else ''}{LONG_NAMES.get(kind, kind)}"}
        out[name] = xr.Variable((*dims, *own), values, attrs)
    return out


def _kind(name: str) -> tuple[str, str]:
    for prefix in ("background", "truth", "saturation"):
        if name.startswith(f"{prefix}_"):
            return prefix, name.removeprefix(f"{prefix}_")
    return "", name


def by_variable(field: xr.DataArray) -> xr.Dataset:
    """From ``channel`` (``temperature@850``) to variables, on ``level`` where they have it.

    Examples
    --------
    >>> field = xr.DataArray([1.0, 2.0, 3.0], {"channel": ["temperature@500", "temperature@850",
    ...                                                     "2m_temperature"]}, "channel")
    >>> ds = by_variable(field)
    >>> ds["temperature"].sel(level=850).item(), ds["2m_temperature"].item()
    (2.0, 3.0)
    """
    names: dict[str, list[tuple[int, float | None]]] = {}
    for i, channel in enumerate(field["channel"].values.tolist()):
        name, _, level = channel.partition("@")
        names.setdefault(name, []).append((i, float(level) if level else None))
    out = {}
    for name, places in names.items():
        part = field.isel(channel=[i for i, _ in places]).drop_vars("channel")
        if places[0][1] is None:
            out[name] = part.isel(channel=0)
        else:
            levels = [level for _, level in places]
            out[name] = part.rename(channel="level").assign_coords(level=levels)
    return xr.Dataset(out)
