"""What an explorer says of one grid point: profile, plume, and a table of values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from xdiffda.observations.kriging import EARTH_RADIUS_KM
from xdiffda.observations.sites import unit_vectors
from xdiffda.plot.explore.frames import VIEWS, mean_of
from xdiffda.plot.explore.states import Choice, States


@dataclass(frozen=True)
class Observed:
    """Observations near a point, on the axis of its curves."""

    x: np.ndarray
    value: Float[np.ndarray, "obs"]
    error_std: Float[np.ndarray, "obs"]


@dataclass(frozen=True)
class Curves:
    """Members, mean and other states along one axis at one grid point.

    Attributes
    ----------
    x
        Pressure (hPa), valid times, or lead times (h).
    members
        Each member; one for a single state.
    mean
        Their mean.
    others
        ``background`` and ``truth``, where given.
    relative_to
        What was subtracted from all: ``""``, ``background``, ``truth`` or ``mean``.
    """

    x: np.ndarray
    members: Float[np.ndarray, "member x"]
    mean: Float[np.ndarray, "x"]
    others: dict[str, Float[np.ndarray, "x"]]
    observed: Observed
    relative_to: str
    units: str


def nearest_point(states: States, lat: float, lon: float) -> tuple[int, int]:
    """Row and column of the grid point whose cell holds a place."""
    across = np.abs((states.lon - lon + 180) % 360 - 180)
    return int(np.abs(states.lat - lat).argmin()), int(across.argmin())


def profile(states: States, view: str, choice: Choice, point: tuple[int, int]) -> Curves:
    """Values against pressure, in the reference of the view."""
    fields = {role: states.column(role, choice, point) for role in _roles(states, choice.variable)}
    x = fields["analysis"]["level"].values
    dots = _near(states, choice, point, "time")
    return _curves(
        fields, "level", x, view, dots, dots["level"].values if dots.sizes["obs"] else x[:0]
    )


def plume(states: States, view: str, choice: Choice, point: tuple[int, int]) -> Curves:
    """Values against time, in the reference of the view."""
    dim = states.series_dim
    fields = {role: states.series(role, choice, point) for role in _roles(states, choice.variable)}
    x = states.along(dim)
    times = choice.time + x if dim == "lead_time" and choice.time is not None else x
    for role in ("background", "truth"):  # they may have more times than the analysis
        if role in fields and dim in fields[role].dims and dim == "time":
            at = np.searchsorted(fields[role][dim].values, x)
            fields[role] = fields[role].isel({dim: at})
    dots = _near(states, choice, point, "level")
    at = dots["time"].values if dots.sizes["obs"] else times[:0]
    return _curves(fields, dim, times, view, dots, at)


def _roles(states: States, variable: str) -> list[str]:
    return [role for role in states.given if states.has(role, variable)]


def _curves(
    fields: dict[str, xr.DataArray],
    dim: str,
    x: np.ndarray,
    view: str,
    dots: xr.Dataset,
    dots_x: np.ndarray,
) -> Curves:
    analysis = fields["analysis"]
    rows = analysis.transpose(..., dim).values.reshape(-1, x.size)
    means = {role: np.broadcast_to(mean_of(f).values, x.shape) for role, f in fields.items()}
    reference = VIEWS[view].reference
    zero = means[reference] if reference else np.zeros(x.size)
    value = dots["value"].values - _at(x, zero, dots_x)
    error = dots["error_std"].values if "error_std" in dots else np.zeros(value.size)
    good = np.isfinite(value)
    return Curves(
        x,
        rows - zero,
        means["analysis"] - zero,
        {role: means[role] - zero for role in ("background", "truth") if role in means},
        Observed(dots_x[good], value[good], error[good]),
        "mean" if reference == "analysis" else reference,
        str(analysis.attrs.get("units", "")),
    )


def _at(x: np.ndarray, values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values at some of the places of ``x``, linearly between them."""
    if where.size == 0:
        return np.zeros(0)
    order = np.argsort(x)
    start = x[order[0]]
    numbers = [
        (v - start) / np.timedelta64(1, "s") if x.dtype.kind == "M" else v
        for v in (where, x[order])
    ]
    return np.interp(numbers[0], numbers[1], values[order])


def _near(states: States, choice: Choice, point: tuple[int, int], *fixed: str) -> xr.Dataset:
    """Observations inside the grid cell of the point."""
    dots = states.dots(choice, *fixed)
    if dots.sizes["obs"] == 0:
        return dots
    return dots.isel(obs=np.flatnonzero(in_cell(states, dots, point)))


def in_cell(states: States, dots: xr.Dataset, point: tuple[int, int]) -> Int[np.ndarray, "obs"]:
    """Whether each observation belongs to the cell of a grid point."""
    rows = np.abs(states.lat[:, None] - dots["lat"].values).argmin(0)
    across = np.abs((states.lon[:, None] - dots["lon"].values + 180) % 360 - 180)
    return (rows == point[0]) & (across.argmin(0) == point[1])


def distance_km(
    lat: float, lon: float, lats: Float[np.ndarray, "obs"], lons: Float[np.ndarray, "obs"]
) -> Float[np.ndarray, "obs"]:
    """Great-circle distances on the sphere.

    Examples
    --------
    >>> float(distance_km(0.0, 0.0, np.array([0.0]), np.array([90.0])).round()[0])
    10008.0
    """
    here = unit_vectors(np.array([lat]), np.array([lon]))
    chord = np.linalg.norm(unit_vectors(lats, lons) - here, axis=-1)
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1))
