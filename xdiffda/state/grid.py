"""Grid and Layout: what a state array means, as frozen and hashable records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.variables import VARIABLES

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy.typing import ArrayLike


# What keeps latitudes and longitudes from being a regular global grid.

# A grid in a file is rounded (float32 degrees); a hundredth of a cell is the same grid.
SAME_GRID = 0.01

_GLOBAL = "ds = xr.open_dataset(a_global_file)"  # no call makes up the rest of the globe


def longitudes_from_zero(lon: np.ndarray) -> np.ndarray:
    """Longitudes in [0, 360), where -1e-7 is zero and not 359.9999999."""
    folded = np.mod(np.asarray(lon, np.float64), 360.0)
    return np.where(360.0 - folded < 1e-5, 0.0, folded)


def eastward(lon: np.ndarray) -> np.ndarray:
    """Longitudes in the order given, each at or east of the western edge of what they span.

    That lies in [0, 360), and none is a whole turn east of it: a box around Greenwich goes from
    350 to 370. Meridians all around the globe are in [0, 360).

    Examples
    --------
    >>> eastward(np.array([-20.0, -10.0, 0.0, 10.0])).tolist()
    [340.0, 350.0, 360.0, 370.0]
    >>> eastward(np.array([-180.0, -90.0, 0.0, 90.0])).tolist()
    [180.0, 270.0, 0.0, 90.0]
    """
    folded = longitudes_from_zero(lon)
    ordered = np.sort(folded)
    steps = np.diff(np.append(ordered, ordered[0] + 360.0))
    if ordered.size < 2 or steps.max() <= (1 + 3 * SAME_GRID) * np.median(steps):
        return folded
    west = ordered[(int(np.argmax(steps)) + 1) % ordered.size]
    return np.where(folded < west, folded + 360.0, folded)


def grid_problems(
    lat: np.ndarray,
    lon: np.ndarray,
    *,
    lat_name: str = "lat",
    lon_name: str = "lon",
    whole: bool = True,
) -> list[Problem]:
    """Say what keeps ``lat`` and ``lon`` (degrees, in any order) from being a regular grid.

    Of the whole globe; or, unless ``whole``, of any box of it.
    """
    lat, lon = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
    # rows of a box near the equator are not in radians; of meridians around the globe they are
    around = np.unique(lon).size == lon.size > 1 and np.ptp(lon) * (1 + 1 / lon.size) > 350.0
    whole_lat = whole or bool(around) or _in_radians(lon)
    return latitude_problems(lat, lat_name, whole, radians=whole_lat) + longitude_problems(
        lon, lon_name, whole
    )


def _in_radians(lon: np.ndarray) -> bool:
    """Return whether meridians go around a circle of 2 pi."""
    if lon.ndim != 1 or lon.size < 7 or not np.all(np.isfinite(lon)):
        return False
    return abs(np.ptp(lon) * lon.size / (lon.size - 1) - 2 * np.pi) < 2e-3


def latitude_problems(
    lat: np.ndarray, name: str, whole: bool = True, *, radians: bool = True
) -> list[Problem]:
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
    if radians and np.max(np.abs(lat)) < 1.6 and lat.size > 4:
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
    if whole and gap > 1.01 * np.abs(steps).max():
        return [
            Problem(
                f"`{name}` from {lat.min():g} to {lat.max():g}", "rows from pole to pole", _GLOBAL
            )
        ]
    return []


def longitude_problems(lon: np.ndarray, name: str, whole: bool = True) -> list[Problem]:
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
    if _in_radians(lon):
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
    inner = np.diff(np.sort(eastward(lon)))
    if not whole and np.ptp(inner) <= 2 * SAME_GRID * inner.mean():
        return []
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


@dataclass(frozen=True)
class Grid:
    """A regular latitude-longitude grid of the globe, or of a box of it.

    Nodes are numbered latitude-major: ``node = i_lat * n_lon + i_lon``.

    Parameters
    ----------
    lat
        Rows, degrees north, ascending; equiangular or Gaussian, with or without poles.
    lon
        Meridians, degrees east, ascending from one in [0, 360) in equal steps; those of a box
        across Greenwich go on beyond 360.

    Raises
    ------
    InputError
        If the rows or meridians are not a regular grid in this order.

    Examples
    --------
    >>> grid = Grid.from_coords([60, 0, -60], [-180, -90, 0, 90])
    >>> grid.lat, grid.lon
    ((-60.0, 0.0, 60.0), (0.0, 90.0, 180.0, 270.0))
    >>> grid.shape, grid.n_node, round(float(grid.area_weights().mean()), 12)
    ((3, 4), 12, 1.0)
    """

    lat: tuple[float, ...]
    lon: tuple[float, ...]

    def __post_init__(self) -> None:
        lat, lon = np.asarray(self.lat, np.float64), np.asarray(self.lon, np.float64)
        object.__setattr__(self, "lat", tuple(lat.ravel().tolist()))
        object.__setattr__(self, "lon", tuple(lon.ravel().tolist()))
        problems = grid_problems(lat, lon, whole=False)
        if not problems and (
            np.any(np.diff(lat) < 0) or not np.allclose(np.sort(eastward(lon)), lon, atol=1e-4)
        ):
            problems = [
                Problem(
                    f"lat from {lat[0]:g} to {lat[-1]:g}, lon from {lon[0]:g} to {lon[-1]:g}",
                    "lat ascending, lon ascending in [0, 360)",
                    "Grid.from_coords(lat, lon)",
                )
            ]
        raise_if(problems, what="grid")

    @classmethod
    def from_coords(cls, lat: ArrayLike, lon: ArrayLike) -> Grid:
        """Make a grid from rows in either order and meridians in any convention (degrees)."""
        rows, meridians = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
        raise_if(grid_problems(rows, meridians, whole=False), what="grid")
        return cls(tuple(np.sort(rows)), tuple(np.sort(eastward(meridians))))

    @property
    def n_lat(self) -> int:
        """Number of rows."""
        return len(self.lat)

    @property
    def n_lon(self) -> int:
        """Number of meridians."""
        return len(self.lon)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_lat, n_lon)."""
        return self.n_lat, self.n_lon

    @property
    def n_node(self) -> int:
        """Number of grid points."""
        return self.n_lat * self.n_lon

    @property
    def spacing_deg(self) -> float:
        """Mean distance between rows, degrees."""
        return (self.lat[-1] - self.lat[0]) / (self.n_lat - 1)

    @property
    def lon_spacing_deg(self) -> float:
        """Distance between meridians, degrees."""
        return (self.lon[-1] - self.lon[0]) / (self.n_lon - 1)

    @cached_property
    def wraps(self) -> bool:
        """Return whether the meridians go around the globe."""
        return abs(self.n_lon * self.lon_spacing_deg - 360.0) < self.lon_spacing_deg / 2

    @cached_property
    def reaches(self) -> tuple[bool, bool]:
        """Return whether the rows reach each pole to within one step (south, north)."""
        step = 1.01 * float(np.max(np.diff(self.lat)))
        return self.lat[0] + 90.0 <= step, 90.0 - self.lat[-1] <= step

    @cached_property
    def is_global(self) -> bool:
        """Return whether the grid goes around the globe and from pole to pole."""
        return self.wraps and all(self.reaches)

    def holds(
        self, lat: Float[np.ndarray, " place"], lon: Float[np.ndarray, " place"]
    ) -> Bool[np.ndarray, " place"]:
        """Return whether places lie between points of the grid; on the globe all do.

        Examples
        --------
        >>> box = Grid.from_coords([40, 50], [-10, 0, 10])
        >>> box.holds(np.array([45.0, 45.0]), np.array([355.0, 20.0])).tolist()
        [True, False]
        """
        slack = SAME_GRID * self.spacing_deg
        pole = [self.wraps and reached for reached in self.reaches]  # the meridian goes on there
        south = -90.0 if pole[0] else self.lat[0] - slack
        north = 90.0 if pole[1] else self.lat[-1] + slack
        inside = (np.asarray(lat) >= south) & (np.asarray(lat) <= north)
        if self.wraps:
            return inside
        slack = SAME_GRID * self.lon_spacing_deg
        east = np.mod(np.asarray(lon) - self.lon[0] + slack, 360.0)
        return inside & (east <= self.lon[-1] - self.lon[0] + 2 * slack)

    @cached_property
    def node_lat(self) -> Float[np.ndarray, " node"]:
        """Latitude of each node, degrees north."""
        return np.repeat(np.asarray(self.lat), self.n_lon)

    @cached_property
    def node_lon(self) -> Float[np.ndarray, " node"]:
        """Longitude of each node, degrees east in [0, 360)."""
        return np.tile(np.mod(self.lon, 360.0), self.n_lat)

    def latitude_edges(self) -> Float[np.ndarray, " edge"]:
        """Edges of the rows, degrees north: midpoints; n_lat + 1 of them.

        The first and the last are poles, or, of a box, half a step from its rows.
        """
        lat = np.asarray(self.lat)
        south = -90.0 if self.reaches[0] else 1.5 * lat[0] - 0.5 * lat[1]
        north = 90.0 if self.reaches[1] else 1.5 * lat[-1] - 0.5 * lat[-2]
        return np.concatenate([[south], 0.5 * (lat[1:] + lat[:-1]), [north]])

    def area_weights(self) -> Float[np.ndarray, " node"]:
        """Exact area of each cell, divided by the mean cell area.

        The area between two parallels is proportional to the difference of the sines of their
        latitudes; a row at a pole owns a half cell.
        """
        rows = np.diff(np.sin(np.deg2rad(self.latitude_edges())))
        return np.repeat(rows * self.n_lat / rows.sum(), self.n_lon)

    def is_close(self, other: Grid) -> bool:
        """Return whether ``other`` is the same grid to within a hundredth of a cell."""
        if self.shape != other.shape:
            return False
        apart_lat = np.max(np.abs(np.subtract(self.lat, other.lat)))
        apart_lon = np.max(np.abs(np.subtract(self.lon, other.lon)))
        return bool(
            apart_lat < SAME_GRID * self.spacing_deg
            and apart_lon < SAME_GRID * self.lon_spacing_deg
        )

    def __str__(self) -> str:
        return (
            f"{self.n_lat} x {self.n_lon} (lat {self.lat[0]:g} to {self.lat[-1]:g}, "
            f"lon {self.lon[0]:g} to {self.lon[-1]:g})"
        )


@dataclass(frozen=True)
class Places(Grid):
    """Single places on the sphere, as if each were a row of a grid with one point.

    For covariances between places (`xdiffda.covariance.harmonics.harmonics_at`): a `Layout` takes
    them for its grid.

    Parameters
    ----------
    lat, lon
        Degrees north and east, of each place, in any order.

    Examples
    --------
    >>> places = Places((48.2, -33.9), (16.4, 18.6))
    >>> places.n_node, places.node_lat.tolist()
    (2, [48.2, -33.9])
    """

    def __post_init__(self) -> None:
        """Places need be no regular grid."""

    @property
    def n_lon(self) -> int:
        """Points of a row."""
        return 1

    @cached_property
    def node_lon(self) -> Float[np.ndarray, " node"]:
        """Longitude of each place, degrees east in [0, 360)."""
        return np.mod(self.lon, 360.0)

    def area_weights(self) -> Float[np.ndarray, " node"]:
        """All places count the same."""
        return np.ones(self.n_node)

    def __str__(self) -> str:
        return f"{self.n_node} places"


def equiangular(n_lat: int, n_lon: int, *, poles: bool) -> Grid:
    """The equiangular grid with rows at the poles, or half a cell away from them.

    Examples
    --------
    >>> equiangular(32, 64, poles=False).lat[0], equiangular(19, 36, poles=True).lat[0]
    (-87.1875, -90.0)
    """
    half = 0.0 if poles else 90.0 / n_lat
    return Grid(
        tuple(np.linspace(-90.0 + half, 90.0 - half, n_lat)),
        tuple(np.arange(n_lon) * (360.0 / n_lon)),
    )


# Grids that have a name: that of the bundled model, and those of WeatherBench 2.
NAMED_GRIDS: dict[str, Callable[[], Grid]] = {
    "speedy": lambda: equiangular(32, 64, poles=False),
    "64x32": lambda: equiangular(32, 64, poles=False),
    "240x121": lambda: equiangular(121, 240, poles=True),
    "360x181": lambda: equiangular(181, 360, poles=True),
    "1440x721": lambda: equiangular(721, 1440, poles=True),
}


@dataclass(frozen=True)
class Layout:
    """The meaning of the axes of a state array.

    Channels come in the plain alphabetical (ASCII) order of their variables, levels ascending
    inside a variable, as official GraphCast stacks them. Variables and levels are sorted here,
    so that layouts that hold the same channels are equal.

    Parameters
    ----------
    grid
        The horizontal grid, or single places.
    variables
        Names in ``VARIABLES``.
    levels
        Pressure levels in hPa, shared by all variables that live on levels.

    Raises
    ------
    InputError
        If a variable is unknown or repeated, or levels are missing.

    Examples
    --------
    >>> grid = Grid.from_coords([-60, 0, 60], [0, 90, 180, 270])
    >>> layout = Layout(grid, ("temperature", "2m_temperature"), (850, 500))
    >>> layout.channel_names
    ('2m_temperature', 'temperature@500', 'temperature@850')
    >>> layout.channel_index("temperature", 850)
    2
    """

    grid: Grid
    variables: tuple[str, ...]
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = [
            Problem(
                f"variable {name!r}",
                "a name in WeatherBench form",
                "sorted(xdiffda.state.variables.VARIABLES)",
            )
            for name in self.variables
            if name not in VARIABLES
        ]
        if len(set(self.variables)) < len(self.variables) or not self.variables:
            problems.append(
                Problem(
                    f"variables {tuple(self.variables)}",
                    "at least one, each once",
                    "tuple(dict.fromkeys(variables))",
                )
            )
        if any(int(p) != p or p <= 0 for p in self.levels) or (
            len(set(self.levels)) < len(self.levels)
        ):
            problems.append(
                Problem(
                    f"levels {tuple(self.levels)}",
                    "whole positive hPa, each once",
                    "tuple(sorted(set(levels)))",
                )
            )
        raise_if(problems, what="layout")
        on_levels = any(VARIABLES[name].on_levels for name in self.variables)
        if on_levels and not self.levels:
            raise InputError(
                [
                    Problem(
                        "no levels",
                        "pressure levels in hPa",
                        "Layout(grid, variables, levels=(500, 850))",
                    )
                ],
                what="layout",
            )
        object.__setattr__(self, "variables", tuple(sorted(self.variables)))
        levels = tuple(sorted(int(p) for p in self.levels)) if on_levels else ()
        object.__setattr__(self, "levels", levels)

    @cached_property
    def channels(self) -> tuple[tuple[str, int | None], ...]:
        """(variable, level in hPa or None at the surface) of each channel."""
        return tuple(
            (name, level)
            for name in self.variables
            for level in (self.levels if VARIABLES[name].on_levels else (None,))
        )

    @property
    def n_channel(self) -> int:
        """Number of channels."""
        return len(self.channels)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names such as ``temperature@850`` and ``2m_temperature``."""
        return tuple(n if level is None else f"{n}@{level}" for n, level in self.channels)

    def channel_index(self, name: str, level: int | None = None) -> int:
        """Position of a channel; raises `KeyError` if the layout does not hold it."""
        try:
            return self.channels.index((name, None if level is None else int(level)))
        except ValueError:
            at = "at the surface" if level is None else f"at {level} hPa"
            raise KeyError(f"no channel {name} {at} in {self.channel_names}") from None

    def channel_slice(self, name: str) -> slice:
        """Positions of all levels of a variable, which are contiguous."""
        where = [i for i, (variable, _) in enumerate(self.channels) if variable == name]
        if not where:
            raise KeyError(f"no variable {name} in {self.variables}")
        return slice(where[0], where[-1] + 1)

    def table(self, values: Float[np.ndarray, " channel"]) -> dict[str, float | dict[int, float]]:
        """One number a channel as `emulate_obs` takes errors: by variable, and by level in it."""
        out: dict[str, Any] = {}
        for (name, level), value in zip(self.channels, values, strict=True):
            if level is None:
                out[name] = float(value)
            else:
                out.setdefault(name, {})[level] = float(value)
        return out
