"""The user's own convention: read from a dataset's metadata, kept, and given back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ._clock import Clock, clock_names, read_clock, role_of
from ._coordinates import BATCH_DIMS, Axis, find_axes, levels_in_hpa
from ._grid import NAMED_GRIDS, Grid, Layout
from ._grid_checks import grid_problems, longitudes_from_zero
from ._recognise import Field, Recognised, recognise_fields
from ._times import TimeTrouble, as_datetimes
from .errors import Problem
from .variables import VARIABLES


@dataclass(frozen=True, eq=False)
class Convention:
    """How a user's dataset says what a state array says.

    Parameters
    ----------
    axes
        Canonical name (time, lead_time, member, level, lat, lon) -> the user's dimension and
        coordinate.
    fields
        The state variables in the user's order: names, dimensions, units, attributes.
    template
        Coordinates, static fields and attributes of the dataset; no state variables. Lazy
        where the dataset is.
    lat_order, lon_order
        Position in the user's dataset of each row and meridian of the grid.
    level_order
        Position on the template's level axis of each level of the layout.
    batch_dims, batch_shape
        Leading axes of the state array, in canonical names, and their sizes.
    extras
        Variables of the dataset that are not part of the state and are not given back.
    layout
        The layout that was read.
    clock
        When the states are valid, by the one rule of `xdiffda._clock`.
    """

    axes: Mapping[str, Axis]
    fields: tuple[Field, ...]
    template: xr.Dataset
    lat_order: np.ndarray
    lon_order: np.ndarray
    level_order: np.ndarray
    batch_dims: tuple[str, ...]
    batch_shape: tuple[int, ...]
    extras: tuple[str, ...]
    layout: Layout
    clock: Clock = Clock()
    other_levels: tuple[float, ...] = ()  # hPa, of the dataset and not of the layout

    @property
    def valid_times(self) -> np.ndarray | None:
        """Valid time of each state (datetime64[ns], shape ``batch_shape``); None if unknown.

        Of a forecast it is the initial time plus the lead time.

        Raises
        ------
        InputError
            If there is a clock that is not understood.
        """
        times = self.clock.checked("times of the states")
        if times is None:
            return None
        user_dims = [str(self.axes[dim].dim) for dim in self.batch_dims]
        if not set(times.dims) <= set(user_dims):
            return None
        missing = {
            d: n for d, n in zip(user_dims, self.batch_shape, strict=True) if d not in times.dims
        }
        full = times.variable.set_dims({**missing, **dict(times.sizes)}).transpose(*user_dims)
        return full.values.astype("datetime64[ns]")

    def user_name(self, name: str) -> str:
        """The user's name of a canonical variable or axis; the canonical one if they have none."""
        for one in self.fields:
            if one.name == name:
                return one.user_name
        return self.axes[name].name if name in self.axes else name


def default_convention(layout: Layout) -> Convention:
    """The convention of xdiffda itself: canonical names and units, ascending coordinates.

    Examples
    --------
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("2m_temperature",))
    >>> default_convention(layout).fields[0].dims
    ('lat', 'lon')
    """
    grid = layout.grid
    north = {"units": "degrees_north", "standard_name": "latitude"}
    east = {"units": "degrees_east", "standard_name": "longitude"}
    coords: dict = {
        "lat": ("lat", np.asarray(grid.lat), north),
        "lon": ("lon", np.asarray(grid.lon), east),
    }
    if layout.levels:
        attrs = {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}
        coords["level"] = ("level", np.asarray(layout.levels, np.int32), attrs)
    return Convention(
        axes={name: Axis(name, name) for name in coords},
        fields=tuple(default_field(name) for name in layout.variables),
        template=xr.Dataset(coords=coords),
        lat_order=np.arange(grid.n_lat),
        lon_order=np.arange(grid.n_lon),
        level_order=np.arange(len(layout.levels)),
        batch_dims=(),
        batch_shape=(),
        extras=(),
        layout=layout,
    )


def default_field(name: str) -> Field:
    """A variable in its canonical form, without batch dimensions."""
    known = VARIABLES[name]
    attrs = {"units": known.units, "long_name": known.long_name}
    if known.standard_name:
        attrs["standard_name"] = known.standard_name
    dims = ("level", "lat", "lon") if known.on_levels else ("lat", "lon")
    return Field(name, name, dims, units=known.units, attrs=attrs)


def read_convention(
    ds: xr.Dataset, layout: Layout | None
) -> tuple[Convention | None, Recognised, list[Problem]]:
    """Read the metadata of ``ds``; no data is computed.

    Returns
    -------
    convention : Convention or None
        None if there are problems.
    recognised : Recognised
        What can be examined further even so.
    problems : list of Problem
        All of them.
    """
    axes, problems = find_axes(ds)
    recognised = recognise_fields(ds, axes, layout)
    problems += recognised.problems
    on_levels = [f for f in recognised.fields if VARIABLES[f.name].on_levels]
    grid, wrong = _read_grid(ds, axes, layout)
    if wrong and not {"lat", "lon"} <= set(axes):  # nothing else can be said of the variables
        return None, recognised, wrong
    problems += wrong
    levels, wrong = _read_levels(ds, axes, layout) if on_levels else (np.array([]), [])
    problems += wrong
    if problems or grid is None:
        return None, recognised, problems
    if layout is None:
        names = tuple(f.name for f in recognised.fields)
        layout = Layout(grid, names, tuple(int(p) for p in levels))
    return _assemble(ds, axes, recognised, layout, levels), recognised, []


def _assemble(ds, axes, recognised: Recognised, layout: Layout, levels: np.ndarray) -> Convention:
    used = {dim for f in recognised.fields for dim in f.dims}
    batch_dims = tuple(d for d in BATCH_DIMS if d in axes and axes[d].dim in used)
    template = ds[list(recognised.statics)].assign_coords(ds.coords)
    template = _in_utc(template).assign_attrs(ds.attrs)
    template.encoding = {}
    level_order = np.zeros(0, int)
    if layout.levels:
        kept = [i for i, p in enumerate(levels) if int(p) in layout.levels]
        level_order = np.argsort(levels[kept])
        dim = axes["level"].dim
        if dim is not None and len(kept) < levels.size:
            template = template.isel({dim: kept})
    lon = longitudes_from_zero(ds[axes["lon"].coord].values)
    return Convention(
        axes=axes,
        fields=recognised.fields,
        template=template,
        lat_order=np.argsort(ds[axes["lat"].coord].values),
        lon_order=np.argsort(lon),
        level_order=level_order,
        batch_dims=batch_dims,
        batch_shape=tuple(ds.sizes[str(axes[d].dim)] for d in batch_dims),
        extras=recognised.extras,
        layout=layout,
        clock=read_clock(ds),
        other_levels=tuple(p for p in levels.tolist() if int(p) not in layout.levels),
    )


def _in_utc(template: xr.Dataset) -> xr.Dataset:
    """Times with a time zone, and times as text, become datetime64 in UTC: files can hold those."""
    told = {}
    for name in clock_names(template):
        coord = template[name]
        if role_of(name, coord.attrs, coord.dtype.kind) == "lead":
            continue
        if coord.dtype.kind == "M" and isinstance(coord.dtype, np.dtype):
            continue
        if coord.dtype.kind in "MOU" and not hasattr(coord.values.flat[0], "calendar"):
            try:
                told[name] = (coord.dims, as_datetimes(coord.values, coord.attrs), coord.attrs)
            except TimeTrouble:
                continue  # the clock says so to all who ask for it
    return template.assign_coords(told)


def _read_grid(ds, axes, layout: Layout | None) -> tuple[Grid | None, list[Problem]]:
    problems: list[Problem] = []
    values = {}
    for key, word in (("lat", "latitude"), ("lon", "longitude")):
        axis = axes.get(key)
        if axis is not None and axis.dim is not None and axis.coord is not None:
            values[key] = ds[axis.coord].values
            continue
        dims = ", ".join(str(dim) for dim in ds.dims)
        curved = [str(n) for n, c in ds.variables.items()
                  if c.ndim > 1 and re.match(f"(x|nav_)?{key}", str(n).lower())]  # fmt: skip
        projected = {"x", "y", "west_east", "south_north", "rlat", "rlon"} & set(map(str, ds.dims))
        found = f"no {word} among {dims}"
        if curved:
            found = f"two-dimensional `{curved[0]}`"
        elif projected:
            found = f"no {word}, but a projection on {', '.join(sorted(projected))}"
        needed = f"one-dimensional {word} in degrees"
        if curved or projected:
            needed = "a regular grid of latitudes by longitudes: regrid to one first"
        if all(problem.needed != needed for problem in problems):  # one sentence for both
            problems.append(Problem(found, needed, ""))
    if problems:
        return None, problems
    lat_name, lon_name = axes["lat"].name, axes["lon"].name
    if axes["lat"].dim == axes["lon"].dim:
        return None, [
            Problem(
                f"`{lat_name}` and `{lon_name}` along one dimension, `{axes['lat'].dim}`: places, "
                "as of observations",
                "fields on a grid of latitudes by longitudes",
                f'ds.unstack("{axes["lat"].dim}")  # a stacked grid; or background and '
                "observations the other way round",
            )
        ]
    problems = grid_problems(values["lat"], values["lon"], lat_name=lat_name, lon_name=lon_name)
    if problems:
        return None, problems
    grid = Grid.from_coords(values["lat"], values["lon"])
    if layout is not None and not grid.is_close(layout.grid):
        problems = [
            Problem(
                f"grid {grid}",
                f"grid {layout.grid}",
                f"xdiffda.regrid(ds, like={_grid_word(layout.grid)})",
            )
        ]
    return grid, problems


def _grid_word(grid: Grid) -> str:
    names = [name for name, make in NAMED_GRIDS.items() if grid.is_close(make())]
    return f'"{names[0]}"' if names else "model.layout"


def _read_levels(ds, axes, layout: Layout | None) -> tuple[np.ndarray, list[Problem]]:
    axis = axes["level"]
    if axis.coord is None:
        return np.array([]), [
            Problem(
                f"dimension `{axis.dim}` without values",
                "pressure in hPa of each level, as a coordinate: only who made the file knows it",
                "",
            )
        ]
    levels, factor, problems = levels_in_hpa(ds[axis.coord], axis.name)
    # Levels that the layout does not ask for may be anything.
    if problems and (layout is None or not set(layout.levels) <= set(levels.tolist())):
        return levels, problems
    if layout is None:
        return levels, []
    missing = sorted(set(layout.levels) - set(levels.astype(int).tolist()))
    if not missing:
        return levels, []
    user = [p / factor for p in layout.levels]
    wanted = [int(p) if p == int(p) else p for p in user]
    absent = [p for p in wanted if p * factor in missing]
    inside = levels.min() < min(missing) and max(missing) < levels.max()
    repair = (
        f"ds.interp({axis.name}={wanted})"
        if inside
        else f"ds.combine_first(other.sel({axis.name}={absent}))"
    )
    return levels, [
        Problem(
            f"no level {', '.join(map(str, missing))} hPa in `{axis.name}`",
            f"levels {', '.join(map(str, layout.levels))} hPa",
            repair,
        )
    ]
