"""Two datasets on their common variables, levels and times, or an error that says why not."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if

SAME_GRID_DEG = 1e-3


def matched(
    state: xr.Dataset, truth: xr.Dataset, *, what: str, other: str = "truth"
) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both on their common variables, levels and times, with identical coordinates.

    ``what`` and ``other`` are what errors call them; a truth must not have members.
    """
    names = [name for name in state.data_vars if name in truth.data_vars]
    names = [str(n) for n in names if {"lat", "lon"} <= set(state[n].dims)]
    problems = []
    if not names:
        problems.append(
            Problem(
                f"no variable of the {what} ({', '.join(map(str, state.data_vars))}) "
                f"in the {other} ({', '.join(map(str, truth.data_vars))})",
                "at least one in common",
                "",
            )
        )
    if other == "truth" and "member" in truth.dims:
        problems.append(
            Problem(
                "a truth with members", "one truth", 'truth.mean("member")  # or .isel(member=0)'
            )
        )
    if not all(
        state.sizes[d] == truth.sizes[d] and np.allclose(state[d], truth[d], atol=SAME_GRID_DEG)
        for d in ("lat", "lon")
    ):
        problems.append(
            Problem(
                f"the {what} on {state.sizes['lat']} x {state.sizes['lon']} points "
                f"and the {other} on {truth.sizes['lat']} x {truth.sizes['lon']} others",
                "one grid",
                f"{other}.interp(lat={what}.lat, lon={what}.lon)",
            )
        )
    forecast = "valid_time" in state.coords and "time" in truth.dims
    if forecast:
        truth = truth.rename(time="valid_time")
    clock = "valid_time" if forecast else "time"
    for dim in ("level", clock):
        problems += _no_overlap(state, truth, dim, what, other)
    raise_if(problems, what=f"{what} and {other}")
    truth = truth.assign_coords(lat=state["lat"].variable, lon=state["lon"].variable)
    state, truth = state[names], truth[names]
    for dim in ("level", clock):
        if dim in state.coords and dim in truth.coords:
            state, truth = _on_common(state, truth, dim)
    return state, truth


def _no_overlap(
    state: xr.Dataset, truth: xr.Dataset, dim: str, what: str, other: str
) -> list[Problem]:
    if dim not in state.coords and dim in truth.dims and truth.sizes[dim] > 1:
        return [
            Problem(
                f"the {what} without {dim} and the {other} with {truth.sizes[dim]}",
                f"the {dim} of the {what}",
                "",
            )
        ]
    if dim in state.coords and dim in truth.coords:
        here, there = (np.atleast_1d(ds[dim].values).ravel() for ds in (state, truth))
        together = np.isin(here, there)
        if not (together.all() if dim == "valid_time" else together.any()):
            return [
                Problem(
                    f"the {what} at {dim} {_span(here)} and the {other} at {_span(there)}",
                    f"a common {dim}",
                    f"{other}.sel({dim}={what}.{dim})",
                )
            ]
    return []


def _on_common(state: xr.Dataset, truth: xr.Dataset, dim: str) -> tuple[xr.Dataset, xr.Dataset]:
    here, there = state[dim], truth[dim]
    if here.dims == (dim,) and there.dims == (dim,):
        common = here.values[np.isin(here.values, there.values)]
        return state.sel({dim: common}), truth.sel({dim: common})
    if there.dims == (dim,):
        # a scalar, or the valid times of a forecast: the truth of each
        return state, truth.sel({dim: here.variable if here.ndim else here.values})
    if here.dims == (dim,):
        return state.sel({dim: there.values}), truth
    return state, truth


def same_channels(background: xr.Dataset, truth: xr.Dataset) -> None:
    lost = [n for n in truth.data_vars if n not in background.data_vars]
    lost += [d for d in ("level", "time") if background.sizes.get(d, 1) != truth.sizes.get(d, 1)]
    if lost:
        found = f"a background without all of the analysis's {', '.join(map(str, lost))}"
        raise InputError(
            [Problem(found, "the background of this analysis", "analysis[list(background)]")],
            what="verify",
        )


def _span(values: np.ndarray) -> str:
    first, last = (
        f"{v:g}" if values.dtype.kind in "fi" else str(v)[:16] for v in (values.min(), values.max())
    )
    return first if first == last else f"{first} to {last}"
