"""One frame of an explorer: the field of a view, its colours, and the observations on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.plot.explore.states import Choice, States
from xdiffda.plot.panels import Group, Panel, Scale, Slice, describe, scale_of
from xdiffda.state.canonical import row_weights


@dataclass(frozen=True)
class View:
    """A way to look at a state.

    ``group`` says which colour scale it shares; ``needs`` the state that must be given;
    ``reference`` what profiles and plumes are drawn relative to.
    """

    label: str
    group: Group
    needs: str = ""
    reference: str = ""


VIEWS = {
    "mean": View("Mean", "field"),
    "member": View("Member", "field"),
    "spread": View("Spread", "spread", reference="analysis"),
    "background": View("Background", "field", needs="background"),
    "increment": View("Increment", "difference", needs="background", reference="background"),
    "truth": View("Truth", "field", needs="truth"),
    "error": View("Error", "difference", needs="truth", reference="truth"),
}


@dataclass(frozen=True)
class Frame:
    """What a map shows.

    Attributes
    ----------
    field
        (lat, lon), units of a figure.
    title, subtitle
        What and when; which view, with its global root mean square where that means something.
    dots
        Observations on ``obs``: ``lat``, ``lon``, ``value``, ``error_std``, ``departure``
        (from the background, or from the mean where there is none) and ``shown``, what their
        colour says: the value on fields, the departure on increments, NaN (grey) elsewhere.
    """

    field: xr.DataArray
    group: Group
    title: str
    subtitle: str
    dots: xr.Dataset

    @property
    def units(self) -> str:
        """Units of the field and the dots."""
        return str(self.field.attrs.get("units", ""))


def views_of(states: States, variable: str) -> list[str]:
    """Names of the views that the given states allow."""
    ensemble = states.n_members > 1
    return [
        name
        for name, view in VIEWS.items()
        if (ensemble or name not in ("member", "spread"))
        and (not view.needs or states.has(view.needs, variable))
    ]


def mean_of(field: xr.DataArray) -> xr.DataArray:
    """Mean of the members; a single state as it is."""
    return field.mean("member", keep_attrs=True) if "member" in field.dims else field


def build_frame(states: States, view: str, choice: Choice) -> Frame:
    """Read the chosen slice and build the frame of a view."""
    field = _field(states, view, choice).transpose("lat", "lon")
    group = VIEWS[view].group
    subtitle = _subtitle(states, view, choice)
    if group != "field":
        rms = float((field**2).weighted(row_weights(field)).mean() ** 0.5)
        subtitle += f", rms {rms:.3g} {field.attrs.get('units', '')}"
    # level and time of a surface variable, of a state without times: None
    where = Slice(choice.variable, choice.level, choice.valid_time, None)
    return Frame(field, group, describe(where), subtitle, _dots(states, view, choice))


def _field(states: States, view: str, choice: Choice) -> xr.DataArray:
    if view in ("background", "truth"):
        return mean_of(states.members(view, choice))
    members = states.members("analysis", choice)
    if view == "member":
        return members.isel(member=choice.member or 0)
    if view == "spread":
        return members.std("member", ddof=1, keep_attrs=True)
    field = mean_of(members)
    if reference := VIEWS[view].reference:
        other = mean_of(states.members(reference, choice)).transpose(*field.dims)
        # by position: coordinates that differ in the last digit would leave nothing
        field = field.copy(data=field.values - other.values)
    return field


def _subtitle(states: States, view: str, choice: Choice) -> str:
    n = states.n_members
    mean = f"mean of {n} members" if n > 1 else "analysis"
    words = {
        "mean": mean,
        "member": f"member {choice.member or 0}",
        "spread": f"spread of {n} members",
        "increment": f"increment ({mean} − background)",
        "error": f"error ({mean} − truth)",
    }
    text = words.get(view, view)
    if choice.lead_time is not None:
        text += f", lead time {choice.lead_time / np.timedelta64(1, 'h'):g} h"
    return text


def _dots(states: States, view: str, choice: Choice) -> xr.Dataset:
    """Observations of the slice, and what of them the view shows in colours."""
    dots = states.dots(choice, "level", "time")
    base = "background" if states.has("background", choice.variable) else "analysis"
    at = bilinear(mean_of(states.members(base, choice)), dots["lat"].values, dots["lon"].values)
    dots["departure"] = ("obs", dots["value"].values - at)
    shown = np.full(dots.sizes["obs"], np.nan)
    if VIEWS[view].group == "field":
        shown = dots["value"].values
    elif view == "increment":
        shown = dots["departure"].values
    dots["shown"] = ("obs", shown)
    return dots


def bilinear(field: xr.DataArray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Values of a field (lat, lon) at points, as the observation operator sees them.

    On a grid that is not global, NaN outside of it.
    """
    from xdiffda.observations.stencil import horizontal_stencil
    from xdiffda.state.grid import Grid

    if lat.size == 0:
        return np.zeros(0)
    field = field.transpose("lat", "lon")
    try:
        grid = Grid.from_coords(field["lat"].values.tolist(), field["lon"].values.tolist())
    except InputError:
        return _regional(field, lat, lon)
    stencil = horizontal_stencil(grid, lat, lon)
    return (field.values.ravel()[stencil.node] * stencil.weight).sum(-1)


def _regional(field: xr.DataArray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    from scipy.interpolate import RegularGridInterpolator

    axes = (field["lat"].values, field["lon"].values)
    if min(map(len, axes)) < 2:
        return np.full(lat.size, np.nan)
    points = np.stack([lat, np.mod(lon, 360)], axis=-1)
    return RegularGridInterpolator(axes, field.values, bounds_error=False)(points)


def scale_for(frame: Frame, variable: str) -> Scale:
    """Colours that suit one frame: differences symmetric, the spread from zero."""
    return scale_of(frame.group, [Panel("", "", frame.group, frame.field)], variable)
