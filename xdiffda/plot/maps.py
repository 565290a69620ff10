"""Maps of a state: one panel, or background / analysis / truth and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cartopy.crs as ccrs
import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.plot.coastline import add_coastline
from xdiffda.plot.panels import Panel, Scale, Slice, build_panels, describe, dots_of, scale_of
from xdiffda.plot.styles import style
from xdiffda.state.canonical import row_weights

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


_PROJECTIONS = {
    "robinson": ccrs.Robinson,
    "mollweide": ccrs.Mollweide,
    "platecarree": ccrs.PlateCarree,
    "orthographic": ccrs.Orthographic,
    "northpolarstereo": ccrs.NorthPolarStereo,
    "southpolarstereo": ccrs.SouthPolarStereo,
}


def map_panels(
    ds: xr.Dataset,
    variable: str,
    *,
    level: float | None = None,
    time: Any = None,
    member: int | None = None,
    obs: xr.Dataset | pd.DataFrame | None = None,
    panels: Sequence[str] | None = None,
    truth: xr.Dataset | None = None,
    background: xr.Dataset | None = None,
    projection: str | ccrs.Projection = "robinson",
    central_longitude: float = 0.0,
) -> Figure:
    """Draw maps of one variable, with the observations on top.

    Parameters
    ----------
    ds
        The analysis (or any state), in any known convention.
    variable
        Its name or any alias (``"temperature"``, ``"t"``).
    level
        Pressure in hPa; needed where there are several.
    time
        Valid time; needed where there are several.
    member
        Position of one member; the ensemble mean if not given.
    obs
        Observations in either form. Those of this variable and level, within 3 h of the
        time, are drawn as dots: on fields in the colour of the observed value.
    panels
        Some of ``background``, ``analysis``, ``truth``, ``increment``, ``error``,
        ``spread``; by default all but the spread that the given states allow.
    truth, background
        States to compare with, on the same grid.
    projection
        ``robinson``, ``mollweide``, ``platecarree``, ``orthographic``,
        ``northpolarstereo``, ``southpolarstereo``, or a cartopy projection.
    central_longitude
        Degrees east, for projections given by name.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it. Fields share one colour scale, and so do the
        differences, symmetric about zero.

    Raises
    ------
    InputError
        If something asked for is missing, or a choice of level or time is needed.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), np.ones((3, 4)))}, grid)
    >>> figure = map_panels(state, "2t")
    >>> [ax.get_title() for ax in figure.axes][0]
    'analysis'
    """
    choice, drawn = build_panels(
        ds,
        Slice(variable, level, time, member),
        panels=panels,
        truth=truth,
        background=background,
    )
    dots = dots_of(obs, choice) if obs is not None else None
    on = _projection(projection, central_longitude)
    with style(axes_grid=False):
        figure, rows = _lay_out(drawn, on)
        for axes, row in rows:
            _draw_row(figure, axes, row, drawn, choice, dots, on)
        title = describe(choice)
        if dots is not None:
            title += f"  ({dots.sizes['obs']} observations)"
        figure.suptitle(title)
    return figure


def _lay_out(
    drawn: Sequence[Panel], on: ccrs.Projection
) -> tuple[Figure, list[tuple[Any, Sequence[Panel]]]]:
    """Make the figure; return it with the axes and the panels of each row."""
    import matplotlib.pyplot as plt

    n = len(drawn)
    n_column = n if n <= 3 else (2 if n == 4 else 3)
    n_row = -(-n // n_column)
    figure, axes = plt.subplots(
        n_row,
        n_column,
        figsize=(7.0, 4.4) if n == 1 else (3.6 * n_column, 2.45 * n_row + 0.4),
        layout="compressed",
        squeeze=False,
        subplot_kw={"projection": on},
    )
    # pyplot must not keep it: a notebook would show it twice, a loop would fill the memory
    plt.close(figure)
    for ax in axes.ravel()[n:]:
        figure.delaxes(ax)
    starts = range(0, n, n_column)
    return figure, [(row, drawn[at : at + n_column]) for row, at in zip(axes, starts, strict=True)]


def _draw_row(
    figure: Figure,
    axes: Any,
    row: Sequence[Panel],
    every: Sequence[Panel],
    choice: Slice,
    dots: xr.Dataset | None,
    on: ccrs.Projection,
) -> None:
    """Draw one row; neighbours of one group share a colour bar."""
    # dots of many observations must not hide the field
    n_obs = dots.sizes["obs"] if dots is not None else 0
    size = float(np.clip(8000 / max(n_obs, 1), 3, 30)) / (1 if len(every) == 1 else 2)
    sharing: list[list[int]] = []
    for i, panel in enumerate(row):
        if sharing and row[sharing[-1][-1]].group == panel.group:
            sharing[-1].append(i)
        else:
            sharing.append([i])
    for places in sharing:
        group = row[places[0]].group
        scale = scale_of(group, every, choice.variable)
        image: Any = None
        for i in places:
            image = _draw(axes[i], row[i], scale, dots, on, size=size)
        bar = figure.colorbar(
            image,
            ax=[axes[i] for i in places],
            orientation="horizontal",
            extend=scale.extend,
            shrink=0.7 if len(places) == 1 else 0.5,
            aspect=30 * len(places),
            pad=0.03,
            extendfrac=0.05 / len(places),
        )
        units = str(row[places[0]].field.attrs.get("units", ""))
        bar.set_label(units, labelpad=1)
        bar.ax.tick_params(labelsize=7.5, length=2.5)
        bar.outline.set_linewidth(0.4)


def _draw(
    ax: Any,
    panel: Panel,
    scale: Scale,
    dots: xr.Dataset | None,
    on: ccrs.Projection,
    *,
    size: float,
) -> Any:
    lon, lat, values = _cells(panel.field, on)
    plate = ccrs.PlateCarree()
    norm = {"cmap": scale.cmap, "vmin": scale.vmin, "vmax": scale.vmax}
    image = ax.pcolormesh(lon, lat, values, transform=plate, rasterized=True, **norm)
    if lon[-1] - lon[0] > 359:
        ax.set_global()
        half = {ccrs.NorthPolarStereo: (0, 90), ccrs.SouthPolarStereo: (-90, 0)}.get(type(on))
        if half is not None:  # the other half would be most of the picture
            ax.set_extent((-180, 180, *half), crs=plate)
    else:  # the box alone, whatever observations lie around it
        ax.set_extent((lon[0], lon[-1], lat.min(), lat.max()), crs=plate)
    add_coastline(ax, linewidth=0.6)
    if dots is not None:
        where = {"transform": plate, "s": size, "zorder": 4, "edgecolors": "black"}
        if panel.group == "field":
            ax.scatter(dots.lon, dots.lat, c=dots.value, linewidths=0.4, **where, **norm)
        else:
            small = where | {"s": size / 4}
            ax.scatter(dots.lon, dots.lat, color="black", linewidths=0, **small)
    ax.spines["geo"].set_linewidth(0.5)
    title = panel.title
    if panel.group != "field":
        units = str(panel.field.attrs.get("units", ""))
        rms = float((panel.field**2).weighted(row_weights(panel.field)).mean() ** 0.5)
        title += f", rms {rms:.3g} {units}"
    ax.set_title(title)
    return image


def _projection(projection: str | ccrs.Projection, central_longitude: float) -> ccrs.Projection:
    if isinstance(projection, ccrs.Projection):
        return projection
    if projection not in _PROJECTIONS:
        problem = Problem(
            f"projection {projection!r}",
            f"one of {', '.join(_PROJECTIONS)}, or a cartopy projection",
            'projection="robinson"',
        )
        raise InputError([problem], what="map")
    return _PROJECTIONS[projection](central_longitude=central_longitude)


def _cells(field: xr.DataArray, on: ccrs.Projection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges of cells and their values, cut where the map is cut.

    The column under the seam is drawn on both sides of it (the cyclic point), so that no
    cell wraps around the map.
    """
    lat, lon = field["lat"].values.astype(float), field["lon"].values.astype(float)
    values = field.values
    lat_edges = np.clip(_edges(lat), -90, 90)
    step = 360 / lon.size
    if lon.size < 3 or not np.allclose(np.diff(lon), step, atol=0.01 * step):
        # A box may lie across the first meridian: its columns begin after the widest gap, as a
        # cell drawn over the gap would go around the rest of the globe.
        begin = (int(np.argmax(np.diff(np.r_[lon, lon[0] + 360]))) + 1) % lon.size
        lon, values = np.roll(lon, -begin), np.roll(values, -begin, axis=1)
        lon = lon[0] + np.mod(lon - lon[0], 360)
        centre = float(on.proj4_params.get("lon_0", 0.0))
        return _edges(lon - 360 * np.round((lon.mean() - centre) / 360)), lat_edges, values
    seam = float(on.proj4_params.get("lon_0", 0.0)) - 180
    west = np.mod(lon - step / 2 - seam, 360)
    order = np.argsort(west)
    west, values = west[order], values[:, order]
    if west[0] > 1e-6:
        west = np.r_[0.0, west]
        values = np.concatenate([values[:, -1:], values], axis=1)
    # a hair inside the seam: on it, a projection may choose either side
    edges = seam + np.clip(np.r_[west, 360.0], 1e-6, 360 - 1e-6)
    return edges, lat_edges, values


def _edges(centre: np.ndarray) -> np.ndarray:
    if centre.size == 1:
        return np.array([centre[0] - 0.5, centre[0] + 0.5])
    middle = 0.5 * (centre[1:] + centre[:-1])
    return np.r_[2 * centre[0] - middle[0], middle, 2 * centre[-1] - middle[-1]]
