"""What keeps latitudes and longitudes from being a regular global grid."""

from __future__ import annotations

import numpy as np

from .errors import Problem

# A grid in a file is rounded (float32 degrees); a hundredth of a cell is the same grid.
SAME_GRID = 0.01

_GLOBAL = "ds = xr.open_dataset(a_global_file)"  # no call makes up the rest of the globe


def longitudes_from_zero(lon: np.ndarray) -> np.ndarray:
    """Longitudes in [0, 360), where -1e-7 is zero and not 359.9999999."""
    folded = np.mod(np.asarray(lon, np.float64), 360.0)
    return np.where(360.0 - folded < 1e-5, 0.0, folded)


def grid_problems(
    lat: np.ndarray, lon: np.ndarray, *, lat_name: str = "lat", lon_name: str = "lon"
) -> list[Problem]:
    """Say what keeps ``lat`` and ``lon`` (degrees, in any order) from being a global grid."""
    return latitude_problems(np.asarray(lat, np.float64), lat_name) + longitude_problems(
        np.asarray(lon, np.float64), lon_name
    )


def latitude_problems(lat: np.ndarray, name: str) -> list[Problem]:
    regrid = 'xdiffda.regrid(ds, like="speedy")'
    if lat.ndim != 1 or lat.size < 2:
        return [Problem(f"`{name}` of shape {lat.shape}", "one dimension of rows", regrid)]
    if not np.all(np.isfinite(lat)) or np.max(np.abs(lat)) > 90.0 + 1e-4:
        return [
            Problem(
                f"`{name}` from {lat.min():g} to {lat.max():g}",
                "degrees north in [-90, 90]",
                f"ds.sel({name}=slice(-90, 90))",
            )
        ]
    if np.max(np.abs(lat)) < 1.6 and lat.size > 4:
        return [
            Problem(
                f"`{name}` from {lat.min():g} to {lat.max():g}, as if in radians",
                "degrees north",
                f"ds.assign_coords({name}=np.rad2deg(ds.{name}))",
            )
        ]
    steps = np.diff(lat)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        return [
            Problem(
                f"`{name}` that turns back or repeats",
                "strictly increasing or decreasing rows",
                f'ds.drop_duplicates("{name}").sortby("{name}")',
            )
        ]
    gap = max(90.0 - lat.max(), 90.0 + lat.min())
    if gap > 1.01 * np.abs(steps).max():
        return [
            Problem(
                f"`{name}` from {lat.min():g} to {lat.max():g}", "rows from pole to pole", _GLOBAL
            )
        ]
    return []


def longitude_problems(lon: np.ndarray, name: str) -> list[Problem]:
    regrid = 'xdiffda.regrid(ds, like="speedy")'
    if lon.ndim != 1 or lon.size < 2 or not np.all(np.isfinite(lon)):
        return [Problem(f"`{name}` of shape {lon.shape}", "one dimension of meridians", regrid)]
    folded = np.sort(longitudes_from_zero(lon))
    steps = np.diff(np.append(folded, folded[0] + 360.0))
    if abs(abs(lon[-1] - lon[0]) - 360.0) < 1e-3:
        return [
            Problem(
                f"`{name}` with its end point twice ({lon[0]:g} and {lon[-1]:g})",
                "each meridian once",
                f"ds.isel({name}=slice(None, -1))",
            )
        ]
    if np.max(np.abs(lon)) < 6.3 and lon.size > 6:
        return [
            Problem(
                f"`{name}` from {lon.min():g} to {lon.max():g}, as if in radians",
                "degrees east",
                f"ds.assign_coords({name}=np.rad2deg(ds.{name}))",
            )
        ]
    if np.any(steps < 1e-4):
        return [
            Problem(
                f"`{name}` with a repeated meridian",
                "each meridian once",
                f'ds.drop_duplicates("{name}")',
            )
        ]
    spacing = 360.0 / lon.size
    if np.max(np.abs(steps - spacing)) > SAME_GRID * spacing:
        regional = np.max(steps) > 3.0 * np.median(steps)
        part = "on a part of the globe" if regional else "in unequal steps"
        return [
            Problem(
                f"`{name}` from {lon.min():g} to {lon.max():g} {part}",
                f"equal steps around the globe ({lon.size} of {spacing:g} degrees)",
                _GLOBAL if regional else regrid,
            )
        ]
    return []
