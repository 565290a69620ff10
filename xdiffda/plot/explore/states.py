"""The states that an explorer looks at: one grid, common times, read slice by slice."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.plot.panels import DISPLAY, Slice, pick_dots
from xdiffda.verify.scores import canonical_state

if TYPE_CHECKING:
    import pandas as pd


_DIMS = {"member", "time", "lead_time", "level", "lat", "lon"}
_SLICES_KEPT = 12  # slices of members in memory: going back and forth reads nothing twice


@dataclass(frozen=True)
class Choice:
    """What is looked at; None where the variable or the state has no such dimension."""

    variable: str
    level: float | None = None
    time: np.datetime64 | None = None
    lead_time: np.timedelta64 | None = None
    member: int | None = None

    @property
    def valid_time(self) -> np.datetime64 | None:
        """When the state is valid: ``time``, later by ``lead_time`` in a forecast."""
        if self.time is None or self.lead_time is None:
            return self.time
        return self.time + self.lead_time


class States:
    """Analysis, background, truth and observations, checked against each other.

    Parameters
    ----------
    analysis
        One state or an ensemble, in any known convention, with or without times.
    background, truth
        States on the same grid that cover its times.
    obs
        Observations in either form.

    Raises
    ------
    InputError
        With all problems of all states at once.
    """

    def __init__(
        self,
        analysis: xr.Dataset,
        *,
        background: xr.Dataset | None = None,
        truth: xr.Dataset | None = None,
        obs: xr.Dataset | pd.DataFrame | None = None,
    ) -> None:
        given = {"analysis": analysis, "background": background, "truth": truth}
        self.given = {k: canonical_state(ds, what=k) for k, ds in given.items() if ds is not None}
        first = self.given["analysis"]
        self.variables = tuple(str(n) for n, field in first.data_vars.items() if _drawable(field))
        raise_if(self._problems(), what="explore")
        self.lat = first["lat"].values.astype(np.float64)
        self.lon = first["lon"].values.astype(np.float64)
        self.n_members = first.sizes.get("member", 1)
        self.obs = None
        if obs is not None:
            from xdiffda.observations.table import to_tidy

            self.obs = to_tidy(obs)
        self._slices: OrderedDict[tuple[str, Choice], xr.DataArray] = OrderedDict()

    def _problems(self) -> list[Problem]:
        problems = []
        first = self.given["analysis"]
        if not self.variables:
            found = ", ".join(str(n) for n in first.data_vars) or "none"
            problems.append(
                Problem(
                    f"no field to draw among the variables ({found})",
                    "a variable on lat and lon, without dimensions besides "
                    f"{', '.join(sorted(_DIMS))}",
                    "analysis.isel(my_dimension=0)",
                )
            )
        for role, ds in self.given.items():
            same = all(
                first.sizes[d] == ds.sizes[d] and np.allclose(first[d], ds[d], atol=1e-3)
                for d in ("lat", "lon")
            )
            if not same:
                problems.append(
                    Problem(
                        f"the {role} on another grid than the analysis",
                        "one grid",
                        f"xdiffda.regrid({role}, like=analysis)",
                    )
                )
            missing = self._missing_times(ds) if role != "analysis" else 0
            if missing:
                problems.append(
                    Problem(
                        f"{missing} times of the analysis that the {role} does not have",
                        "all of them",
                        f"analysis.sel(time={role}.time)",
                    )
                )
        return problems

    def _missing_times(self, ds: xr.Dataset) -> int:
        first = self.given["analysis"]
        if "time" not in ds.coords or "time" not in first.coords:
            return 0  # one of them does not tell: taken as of the same time
        name = (
            "time" if "lead_time" in ds.dims or "valid_time" not in first.coords else "valid_time"
        )
        return int((~np.isin(first[name].values, ds["time"].values)).sum())

    # ---------------------------------------------------------------- what there is

    def levels(self, variable: str) -> tuple[float, ...]:
        """Pressure levels of a variable, hPa; none at the surface."""
        field = self.given["analysis"][variable]
        return tuple(field["level"].values.tolist()) if "level" in field.dims else ()

    def along(self, dim: str) -> np.ndarray:
        """Values of ``time`` or ``lead_time``; empty where there is no such dimension."""
        first = self.given["analysis"]
        return first[dim].values if dim in first.dims else np.array([])

    def scalar(self, dim: str) -> Any:
        """The one ``time`` or ``lead_time`` of a state without such a dimension, if known.

        Without a dimension of lead times, ``time`` is the valid time: nothing is added to it.
        """
        first = self.given["analysis"]
        if dim == "lead_time" and dim not in first.dims:
            return None
        return first[dim].values[()] if dim in first.coords and first[dim].ndim == 0 else None

    def has(self, role: str, variable: str) -> bool:
        """Whether a state is given and holds the variable."""
        return role in self.given and variable in self.given[role]

    # ---------------------------------------------------------------- reading

    def members(self, role: str, choice: Choice) -> xr.DataArray:
        """(member?, lat, lon) of one state, in memory and in the units of a figure."""
        key = (role, Choice(choice.variable, choice.level, choice.time, choice.lead_time))
        if key not in self._slices:
            self._slices[key] = _in_memory(self._pick(role, choice, "level", "time", "lead_time"))
            if len(self._slices) > _SLICES_KEPT:
                self._slices.popitem(last=False)
        self._slices.move_to_end(key)
        return self._slices[key]

    def column(self, role: str, choice: Choice, point: tuple[int, int]) -> xr.DataArray:
        """(member?, level) at a grid point, given as its row and column."""
        return _in_memory(self._at(role, choice, point, "time", "lead_time"))

    def series(self, role: str, choice: Choice, point: tuple[int, int]) -> xr.DataArray:
        """(member?, lead_time or time) at a grid point and level.

        Of a forecast, its lead times; of analyses, their times. A state without them, such
        as a truth for a forecast, is taken at the valid times.
        """
        along = self.series_dim
        fixed = ("level", "time") if along == "lead_time" else ("level",)
        ds = self.given[role]
        if along == "lead_time" and "lead_time" not in ds.dims and "time" in ds.dims:
            valid = choice.time + self.along("lead_time")
            field = self._at(role, choice, point, "level").sel(time=valid)
            return _in_memory(field.rename(time="lead_time"))
        return _in_memory(self._at(role, choice, point, *fixed))

    @property
    def series_dim(self) -> str:
        """The dimension of time series; empty where there is one time only."""
        return next((d for d in ("lead_time", "time") if self.along(d).size > 1), "")

    def _at(self, role: str, choice: Choice, point: tuple[int, int], *fixed: str) -> xr.DataArray:
        return self._pick(role, choice, *fixed).isel(lat=point[0], lon=point[1])

    def _pick(self, role: str, choice: Choice, *fixed: str) -> xr.DataArray:
        """Select the chosen level and times; nothing is read yet."""
        field = self.given[role][choice.variable]
        forecast = "lead_time" in field.dims
        wanted = {
            "level": choice.level,
            "time": choice.time if forecast else choice.valid_time,
            "lead_time": choice.lead_time,
        }
        for dim in fixed:
            if dim in field.dims and wanted[dim] is not None:
                field = field.isel({dim: _position(field, dim, wanted[dim], role)})
        return field

    def dots(self, choice: Choice, *fixed: str) -> xr.Dataset:
        """Tidy observations of the variable, with the chosen ``level`` and ``time`` if named."""
        if self.obs is None:
            return xr.Dataset({n: ("obs", np.zeros(0)) for n in ("lat", "lon", "value")})
        level = choice.level if "level" in fixed else None
        time = choice.valid_time if "time" in fixed else None
        return pick_dots(self.obs, Slice(choice.variable, level, time))


def _drawable(field: xr.DataArray) -> bool:
    numbers = field.dtype.kind in "fiu"
    return numbers and {"lat", "lon"} <= set(field.dims) and set(field.dims) <= _DIMS


def _position(field: xr.DataArray, dim: str, value: Any, role: str) -> int:
    found = np.flatnonzero(field[dim].values == value)
    if not found.size:
        have = ", ".join(str(v) for v in field[dim].values[:8])
        raise InputError(
            [Problem(f"no {dim} {value} of {field.name} in the {role}", f"one of {have}", "")],
            what="explore",
        )
    return int(found[0])


def _in_memory(field: xr.DataArray) -> xr.DataArray:
    text, factor = DISPLAY.get(units := str(field.attrs.get("units", "")), (units, 1.0))
    out = field.compute().astype(np.float64) * factor
    out.attrs["units"] = text
    return out
