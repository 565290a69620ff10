"""Coastlines from a file inside the package; cartopy would download its own."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np


@lru_cache(maxsize=1)
def coastline_lines() -> tuple[np.ndarray, ...]:
    """Return the world's coastline at 1:110 million.

    Natural Earth (public domain), rounded to a hundredth of a degree.

    Returns
    -------
    tuple of array (point, 2)
        Longitude (-180 to 180) and latitude in degrees, one array per line.

    Examples
    --------
    >>> lines = coastline_lines()
    >>> len(lines), lines[0].shape[1]
    (134, 2)
    """
    file = resources.files("xdiffda.plot") / "coastline_110m.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as stored:
        points = stored["points"].astype(np.float64) / 100
        ends = np.cumsum(stored["length"].astype(np.int64))
    return tuple(np.split(points, ends[:-1]))


@lru_cache(maxsize=1)
def _feature() -> Any:
    """Return one cartopy feature for all maps, since it caches its projected paths."""
    import cartopy.crs as ccrs
    from cartopy.feature import ShapelyFeature
    from shapely.geometry import LineString

    return ShapelyFeature([LineString(line) for line in coastline_lines()], ccrs.PlateCarree())


def add_coastline(ax: Any, *, color: str = "0.15", linewidth: float = 0.5) -> None:
    """Draw the coastline on a cartopy axes.

    Parameters
    ----------
    ax : cartopy.mpl.geoaxes.GeoAxes
    color : str
        Any matplotlib colour.
    linewidth : float
        In points.
    """
    from matplotlib.colors import to_rgba

    # a light seam under the line: visible on dark fields too
    for colour, width in ((to_rgba("white", 0.4), 3 * linewidth), (color, linewidth)):
        ax.add_feature(_feature(), facecolor="none", edgecolor=colour, linewidth=width, zorder=3)
