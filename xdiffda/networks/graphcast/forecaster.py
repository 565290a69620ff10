"""Forecasts in physical units: normalisation and residuals around a network, and roll-out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.bare import BareNetwork
from xdiffda.networks.graphcast.checkpoint import TaskConfig
from xdiffda.networks.graphcast.fitting import check_datasets, not_finite


@dataclass(frozen=True, eq=False)
class Forecaster:
    """A network with its statistics: a model of the atmosphere, 6 h a step.

    Targets that are also inputs are predicted as change since the last input frame,
    out * diffs_stddev + last; others as out * stddev + mean. Statistics are matched by name of
    the variable and label of the level; a variable without statistics passes unchanged.

    Parameters
    ----------
    net
        A network with its task, from `xdiffda.networks.graphcast.load`.
    mean, stddev
        Mean and standard deviation of every variable, scalar or on ``level``.
    diffs_stddev
        Standard deviation of the 6 h changes.

    Raises
    ------
    InputError
        If statistics are NaN or not positive, lack a level of the task, or have no variable
        in common with the task; lists all problems.
    """

    net: BareNetwork
    mean: xr.Dataset
    stddev: xr.Dataset
    diffs_stddev: xr.Dataset

    def __init__(
        self, net: BareNetwork, *, mean: xr.Dataset, stddev: xr.Dataset, diffs_stddev: xr.Dataset
    ) -> None:
        statistics = {"mean": mean, "stddev": stddev, "diffs_stddev": diffs_stddev}
        problems: list[Problem] = []
        if not hasattr(net, "task"):
            problem = Problem(
                f"a {type(net).__name__} as net",
                "a network with its task",
                'xdiffda.graphcast.load("params.npz")',
            )
            raise InputError([problem], what="forecaster")
        check_datasets("statistics of the forecaster", **statistics)
        object.__setattr__(self, "net", net)
        for name, ds in statistics.items():
            object.__setattr__(self, name, self._selected(name, ds, problems))
        raise_if(problems, what="statistics of the forecaster")

    @with_own_jax
    def __call__(self, inputs: xr.Dataset, forcings: xr.Dataset) -> xr.Dataset:
        """The state one step after the inputs, in physical units.

        Parameters
        ----------
        inputs
            Input variables at the task's number of times, 6 h apart.
        forcings
            Forcing variables at the time of the outputs.

        Returns
        -------
        xr.Dataset
            Target variables on (batch, time, level, lat, lon).

        Raises
        ------
        InputError
            If something is missing or NaN; lists all problems.
        """
        inputs, forcings = self.net.select(inputs, forcings)
        not_finite("inputs and forcings", inputs, forcings)
        outputs = self.net(self.normalize(inputs), self.normalize(forcings))
        return self.denormalize(outputs, inputs)

    @with_own_jax
    def rollout(self, inputs: xr.Dataset, forcings: xr.Dataset, *, steps: int) -> xr.Dataset:
        """Feed the forecast back ``steps`` times.

        Parameters
        ----------
        inputs
            As for a single step.
        forcings
            Forcing variables at the time of every step; needed even where there are none,
            with an empty Dataset.
        steps
            Number of 6 h steps.

        Returns
        -------
        xr.Dataset
            Target variables on (batch, time, level, lat, lon), one time for each step.

        Raises
        ------
        InputError
            If forcings end too early, or an input changes with time but is neither predicted
            nor a forcing.
        """
        return roll_out(lambda _, *now: self(*now), self.net.task, inputs, forcings, steps)

    def reconfigured(self, **options: Any) -> Forecaster:
        """The same forecaster computed in another way: for less memory, or in half precision.

        Parameters
        ----------
        **options
            Those of `xdiffda.networks.graphcast.NetworkConfig` that change no weight:
            ``edge_chunk``,
            ``dtype``, ``precision``, ``unroll``, ``remat``.

        Raises
        ------
        ValueError
            If an option is not one of these.
        """
        other = copy.copy(self)
        object.__setattr__(other, "net", self.net.reconfigured(**options))
        return other

    def normalize(self, ds: xr.Dataset) -> xr.Dataset:
        """(x - mean) / stddev, in the precision of the data."""
        return ds.map(lambda x: _scaled(x, self.mean.get(x.name), self.stddev.get(x.name)))

    def denormalize(self, outputs: xr.Dataset, inputs: xr.Dataset) -> xr.Dataset:
        """Physical units from normalised outputs; ``inputs`` are physical."""

        def restore(x: xr.DataArray) -> xr.DataArray:
            name = str(x.name)
            if name in inputs:
                last = inputs[name].isel(time=-1, drop=True)
                change = x if name not in self.diffs_stddev else x * self.diffs_stddev[name]
                return (change + last).transpose(*x.dims).astype(x.dtype)
            scaled = x if name not in self.stddev else x * self.stddev[name]
            moved = scaled if name not in self.mean else scaled + self.mean[name]
            return moved.transpose(*x.dims).astype(x.dtype)

        return outputs.map(restore)

    def normalized_targets(self, targets: xr.Dataset, inputs: xr.Dataset) -> xr.Dataset:
        """What the network should answer for physical ``targets``: the inverse of `denormalize`."""

        def residual(x: xr.DataArray) -> xr.DataArray:
            if x.name not in inputs:
                return _scaled(x, self.mean.get(x.name), self.stddev.get(x.name))
            change = x - inputs[x.name].isel(time=-1, drop=True)
            return _scaled(change, None, self.diffs_stddev.get(x.name)).transpose(*x.dims)

        return targets[list(self.net.task.target_variables)].map(residual)

    def _selected(self, what: str, ds: xr.Dataset, problems: list[Problem]) -> xr.Dataset:
        """The statistics of the task's variables on its levels, in float32."""
        task = self.net.task
        names = {*task.input_variables, *task.target_variables, *task.forcing_variables}
        if what == "diffs_stddev":
            names &= {*task.input_variables} & {*task.target_variables}
        found = ds[[name for name in ds if name in names]]
        if not found:
            needed = f"some of {sorted(names)}"
            problems.append(Problem(f"{what} of {sorted(ds)}", needed, ""))
            return found
        if "level" in found.dims:
            absent = sorted(set(task.pressure_levels) - set(found["level"].values.tolist()))
            if absent:
                repair = f"{what}.interp(level={list(task.pressure_levels)})"
                problems.append(Problem(f"{what} without levels {absent}", "these levels", repair))
                return found
            found = found.sel(level=list(task.pressure_levels))
        for name in found:
            values = found[name].values
            if not np.isfinite(values).all() or (what != "mean" and (values <= 0).any()):
                needed = "finite values" if what == "mean" else "finite values above zero"
                repair = f"{what}.drop_vars('{name}')"
                problems.append(Problem(f"{what} {values.tolist()} of {name}", needed, repair))
        return found


def roll_out(
    step: Callable[[int, xr.Dataset, xr.Dataset], xr.Dataset],
    task: TaskConfig,
    inputs: xr.Dataset,
    forcings: xr.Dataset,
    steps: int,
) -> xr.Dataset:
    """Feed the outputs of ``step(number, inputs, forcings)`` back, ``steps`` times.

    Raises
    ------
    InputError
        If forcings end too early, or an input changes with time but is neither predicted
        nor a forcing.
    """
    check_datasets("roll-out", inputs=inputs, forcings=forcings)
    problems: list[Problem] = []
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        problem = Problem(f"steps={steps!r}", "1 or more", "f.rollout(..., steps=1)")
        raise InputError([problem], what="roll-out")
    inputs = inputs[[name for name in task.input_variables if name in inputs]]
    if task.forcing_variables and (n := forcings.sizes.get("time", 0)) < steps:
        repair = "xdiffda.graphcast.time_forcings(times, lat, lon)"
        problems.append(Problem(f"forcings for {n} times", f"{steps} times", repair))
    known = {*task.target_variables, *task.forcing_variables}
    moving = [name for name in inputs if "time" in inputs[name].dims]
    stuck = sorted(str(name) for name in moving if name not in known)
    if stuck and steps > 1:
        needed = "static fields, targets or forcings only"
        problems.append(Problem(f"inputs {stuck} that change with time", needed, "steps=1"))
    raise_if(problems, what="roll-out")

    outputs = []
    for number in range(steps):
        now = forcings.isel(time=[number]) if "time" in forcings.dims else forcings
        outputs.append(step(number, inputs, now))
        fed_back = outputs[-1].merge(now[list(task.forcing_variables)], compat="override")
        inputs = _advance(inputs, fed_back)
    return xr.combine_nested(outputs, concat_dim="time")


def _scaled(
    x: xr.DataArray, mean: xr.DataArray | None, stddev: xr.DataArray | None
) -> xr.DataArray:
    dims, dtype = x.dims, np.promote_types(x.dtype, np.float32)
    if mean is not None:
        x = x - mean.astype(dtype)
    if stddev is not None:
        x = x / stddev.astype(dtype)
    return x.transpose(*dims)


def _advance(inputs: xr.Dataset, new: xr.Dataset) -> xr.Dataset:
    """Drop the oldest frame and append the new one; static fields stay."""
    moving = [name for name in inputs if "time" in inputs[name].dims and name in new]
    frames = xr.concat([inputs[moving], new[moving]], dim="time").isel(time=slice(1, None))
    frames = frames.map(lambda x: x.transpose(*inputs[x.name].dims))
    static = inputs.drop_vars(moving).drop_dims("time", errors="ignore")
    return static.drop_vars("time", errors="ignore").merge(frames)
