"""Check Datasets against the task of a network: list all problems, each with its repair."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import Problem, raise_if
from xdiffda.networks.graphcast.forcings import FORCING_VARIABLES
from xdiffda.state.variables import canonical_name

_DIMS = ("batch", "time", "level", "lat", "lon")
_OTHER_NAMES = {"latitude": "lat", "longitude": "lon", "member": "batch", "valid_time": "time"}
_CLOSE = 1e-3  # degrees: coordinates may have been stored in single precision


def check_datasets(what: str, **given: Any) -> None:
    """Raise InputError where something else than a Dataset was given."""
    wrong = [
        Problem(f"a {type(ds).__name__} as {name}", "a Dataset", _as_dataset(name, ds))
        for name, ds in given.items()
        if not isinstance(ds, xr.Dataset)
    ]
    raise_if(wrong, what=what)


def _as_dataset(name: str, given: Any) -> str:
    """The call that makes a Dataset of something else; empty where there is none."""
    if isinstance(given, str | os.PathLike):
        return f"xdiffda.open_dataset({name})"
    named = isinstance(given, xr.DataArray) and given.name is not None
    return f"{name}.to_dataset()" if named else ""


def all_problems(
    inputs: xr.Dataset, forcings: xr.Dataset, task: Any, *, step: np.timedelta64, outputs: str
) -> list[Problem]:
    """What keeps inputs and forcings from a network with this task.

    Parameters
    ----------
    inputs, forcings
        As the user gave them.
    task
        Names of variables, levels, number of frames.
    step
        Between input frames, and from the last one to the outputs.
    outputs
        What the network gives, in the words of its messages.
    """
    parts = {"inputs": inputs, "forcings": forcings}
    names = {"inputs": task.input_variables, "forcings": task.forcing_variables}
    problems = []
    for what, ds in parts.items():
        used = ds[[name for name in names[what] if name in ds]]
        problems += [
            *_missing(ds, names[what], what),
            *_foreign(used, what),
            *_no_numbers(used, what),
        ]
    return [
        *problems,
        *_level_problems(inputs, task),
        *_axes(inputs, forcings),
        *_times(inputs, forcings, task, step, outputs),
    ]


def _missing(ds: xr.Dataset, names: Sequence[str], what: str) -> list[Problem]:
    absent = [name for name in names if name not in ds]
    if not absent:
        return []
    other = {str(v): canonical_name(str(v), on_levels="level" in ds[v].dims) for v in ds}
    if {*absent} <= {*FORCING_VARIABLES}:
        made = f"xdiffda.graphcast.time_forcings({what}.time, inputs.lat, inputs.lon)"
        repair = f"{what}.merge({made})" if "time" in ds.coords else ""
    elif known := {old: new for old, new in other.items() if new in absent}:
        repair = f"{what}.rename({known})"
    else:
        repair = f"{what}.merge(ds[{absent}])"
    needed = "all of " + ", ".join(names)
    return [Problem(f"no {', '.join(absent)} in {what}", needed, repair)]


def _foreign(ds: xr.Dataset, what: str) -> list[Problem]:
    """Dimensions that a network does not know."""
    dims = [str(dim) for dim in ds.dims if dim not in _DIMS]
    known = {dim: new for dim in dims if (new := _OTHER_NAMES.get(dim)) and new not in ds.dims}
    problems = []
    if known:
        repair = f"{what}.rename({', '.join(f'{k}={v!r}' for k, v in known.items())})"
        needed = ", ".join(known.values())
        problems.append(Problem(f"dimensions {', '.join(known)} of {what}", needed, repair))
    if rest := [dim for dim in dims if dim not in known]:
        needed = f"dimensions among {', '.join(_DIMS)}"
        repair = f"{what}.isel({', '.join(f'{dim}=0' for dim in rest)})"
        problems.append(Problem(f"dimensions {', '.join(rest)} of {what}", needed, repair))
    return problems


def _no_numbers(ds: xr.Dataset, what: str) -> list[Problem]:
    texts = {str(name): str(x.dtype) for name, x in ds.items() if x.dtype.kind not in "fiub"}
    repair = f"{what}.astype('float32')"
    return [Problem(f"{texts} in {what}", "numbers", repair)] if texts else []


def _level_problems(inputs: xr.Dataset, task: Any) -> list[Problem]:
    known = [name for name in task.input_variables if name in inputs]
    if not any("level" in inputs[name].dims for name in known):
        return []
    needed, at = list(task.pressure_levels), inputs["level"].values.tolist()
    absent, problems = sorted(set(needed) - set(at)), []
    if absent:
        between = min(at) <= min(needed) and max(needed) <= max(at)
        repair = f"inputs.interp(level={needed})" if between else ""
        if {100 * level for level in needed} <= set(at):
            repair = "inputs.assign_coords(level=inputs.level / 100)"
        problems.append(Problem(f"no levels {absent}", "these levels, in hPa", repair))
    if len(set(at)) != len(at):
        repair = "inputs.drop_duplicates('level')"
        problems.append(Problem(f"levels {at}, some of them twice", "each once", repair))
    return problems


def _axes(inputs: xr.Dataset, forcings: xr.Dataset) -> list[Problem]:
    """Rows and columns, and members, of both: they are stacked by position."""
    problems = []
    for name in ("lat", "lon"):
        if name not in inputs.coords:
            if not {"latitude", "longitude"} & set(inputs.dims):  # else told by `_foreign`
                size = inputs.sizes.get(name, 0)
                fits = name in forcings.coords and forcings[name].shape == (size,)
                repair = f"inputs.assign_coords({name}=forcings.{name})" if fits else ""
                problems.append(Problem(f"no coordinate {name} of inputs", "degrees", repair))
            continue
        if name not in forcings.dims:
            continue
        here, there = inputs[name].values, forcings[name].values
        same = here.shape == there.shape
        if name in forcings.coords and same:
            same = np.allclose(here, there, rtol=0, atol=_CLOSE)
        if not same:
            found = f"forcings on other {name} ({there[0]:g} to {there[-1]:g}) than the inputs"
            within = name in forcings.coords and np.isin(here, there).all()
            repair = f"forcings.sel({name}=inputs.{name})"
            repair = repair if within else f"forcings.interp({name}=inputs.{name})"
            problems.append(Problem(found, f"{here[0]:g} to {here[-1]:g}", repair))
    n, own = inputs.sizes.get("batch", 1), forcings.sizes.get("batch", 1)
    if own not in (1, n):
        found = f"forcings of {own} entries of the batch for {n} of the inputs"
        problems.append(Problem(found, f"1 or {n}", "forcings.isel(batch=0)"))
    return problems


def _times(
    inputs: xr.Dataset, forcings: xr.Dataset, task: Any, step: np.timedelta64, outputs: str
) -> list[Problem]:
    n, hours = task.n_frames, step // np.timedelta64(1, "h")
    at, after = _clock(inputs), _clock(forcings)
    repair, problems = "", []
    if at is not None and np.isin(at[-1:] - np.arange(n) * step, at).all():
        back = f"np.arange({1 - n}, 1) * np.timedelta64({hours}, 'h')"
        repair = f"inputs.sel(time=inputs.time[-1].values + {back})"
    if (found := inputs.sizes.get("time", 0)) != n:
        problems.append(Problem(f"{found} input times", f"{n}, {hours} h apart", repair))
    elif at is not None and np.any(np.diff(at) != step):
        apart = (np.diff(at) / np.timedelta64(1, "h")).tolist()
        problems.append(Problem(f"input times {apart} h apart", f"{hours} h", repair))
    if not task.forcing_variables:
        return problems
    if "time" not in forcings.sizes and not {*task.forcing_variables} & {*forcings}:
        return problems  # nothing whose time could be wrong: told by `_missing`
    told = None
    if at is not None and after is not None and len(at) and at.dtype.kind == after.dtype.kind:
        told = at[-1], after  # the last input, and the times of the forcings
    then = f"inputs.time[-1:].values + np.timedelta64({hours}, 'h')"
    if (found := forcings.sizes.get("time", 0)) != 1:
        repair = f"forcings.sel(time={then})" if told and told[0] + step in told[1] else ""
        needed = f"1, that of the {outputs}"
        problems.append(Problem(f"{found} forcing times", needed, repair))
        return problems
    if told and (lead := told[1][0] - told[0]) != step:
        found = f"forcings {lead / np.timedelta64(1, 'h'):g} h after the last input"
        known = {*task.forcing_variables} <= {*FORCING_VARIABLES} and told[1].dtype.kind == "M"
        made = f"forcings = xdiffda.graphcast.time_forcings({then}, inputs.lat, inputs.lon)"
        repair = made if known else ""
        problems.append(Problem(found, f"{hours} h, the time of the {outputs}", repair))
    return problems


def _clock(ds: xr.Dataset) -> np.ndarray | None:
    """Times along the dimension, where they are times."""
    if "time" not in ds.coords or ds["time"].ndim != 1 or ds["time"].dtype.kind not in "mM":
        return None
    return ds["time"].values


def not_finite(what: str, *given: xr.Dataset) -> None:
    """Raise InputError where inputs or forcings have gaps: one of them reaches all outputs."""
    bad = sorted({str(n) for ds in given for n in ds if not np.isfinite(ds[n].values).all()})
    nan = sorted({str(n) for ds in given for n in ds if bool(ds[n].isnull().any())})
    if nan:
        needed = "no NaN: gaps filled as they were for training"
        raise_if([Problem(f"NaN in {nan}", needed, "")], what=what)
    if bad:
        raise_if([Problem(f"infinite values in {bad}", "finite ones", "")], what=what)


def selected(inputs: xr.Dataset, forcings: xr.Dataset, task: Any) -> tuple[xr.Dataset, xr.Dataset]:
    """The task's part of Datasets without problems; one batch of forcings serves all inputs."""
    inputs, forcings = inputs[list(task.input_variables)], forcings[list(task.forcing_variables)]
    if "level" in inputs.dims:
        inputs = inputs.sel(level=list(task.pressure_levels))
    if forcings.sizes.get("batch") == 1 and inputs.sizes.get("batch", 1) > 1:
        forcings = forcings.isel(batch=0, drop=True)
    return inputs, forcings
