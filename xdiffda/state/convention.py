"""The user's own convention: read from a dataset's metadata, kept, and given back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.state.clock import Clock, clock_names, read_clock, role_of
from xdiffda.state.coordinates import BATCH_DIMS, Axis, find_axes, levels_in_hpa
from xdiffda.state.grid import NAMED_GRIDS, Grid, Layout, eastward, grid_problems
from xdiffda.state.recognise import Field, Recognised, recognise_fields
from xdiffda.state.times import TimeTrouble, as_datetimes
from xdiffda.state.variables import VARIABLES


@dataclass(frozen=True, eq=False)
class Convention:
    """How a user's dataset expresses the content of a state array.

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
        When the states are valid, by the one rule of ``xdiffda.state.clock``.
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
    lon = eastward(ds[axes["lon"].coord].values)
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
        curved = [
            str(n)
            for n, c in ds.variables.items()
            if c.ndim > 1 and re.match(f"(x|nav_)?{key}", str(n).lower())
        ]
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
    problems = grid_problems(
        values["lat"], values["lon"], lat_name=lat_name, lon_name=lon_name, whole=False
    )
    if problems:
        return None, problems
    grid = Grid.from_coords(values["lat"], values["lon"])
    if layout is not None and not grid.is_global and not grid.is_close(layout.grid):
        problems = [
            Problem(
                f"a box of the globe, {grid}",
                f"the grid {layout.grid}, which this model is for",
                "model=xdiffda.reference_prior(background)  # a prior for this box",
            )
        ]
    elif layout is not None and not grid.is_close(layout.grid):
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


# Coordinates of a result: the user's own, with batch dimensions that came, changed or went.

_VALID = {"standard_name": "time", "long_name": "valid time"}
_INITIAL = {"standard_name": "forecast_reference_time", "long_name": "initial time"}


def template_for(
    convention: Convention, layout: Layout, sizes: Mapping[str, int], coords: dict[str, object]
) -> tuple[xr.Dataset, dict[str, str]]:
    """Coordinates and static fields of a result, and the user's name of each dimension.

    Parameters
    ----------
    convention
        The user's convention.
    layout
        Layout of the result; other levels than the user's come as ``level`` in hPa.
    sizes
        Canonical batch dimension -> size, of the result.
    coords
        Canonical batch dimension -> values, where they are not the user's.

    Returns
    -------
    template : xr.Dataset
    names : dict
        Canonical name -> the user's dimension; ``level`` -> "" where it is a scalar.
    """
    template, axes = convention.template, convention.axes
    if "time" in coords:  # what told the time before is void
        kept = {axes[d].coord for d in sizes if d in axes and d not in coords}
        template = template.drop_vars([n for n in clock_names(template) if n not in kept])
    for dim, size in zip(convention.batch_dims, convention.batch_shape, strict=True):
        if dim not in sizes and dim not in coords:
            there = str(axes[dim].dim)
            if size == 1 and dim != "member":  # its time or lead time still holds
                template = template.isel({there: 0}, missing_dims="ignore")
            template = template.drop_dims(there, errors="ignore")
    names: dict[str, str] = {}
    for dim, size in sizes.items():
        names[dim] = dimension_name(dim, convention, new=dim in coords)
        had = dim in convention.batch_dims
        same = had and size == convention.batch_shape[convention.batch_dims.index(dim)]
        if dim in coords or not same:
            values = _values(dim, size, coords)
            template = _replace(template, dim, names[dim], axes.get(dim), values)
    for dim in set(coords) - set(sizes):
        template = _replace(template, dim, None, axes.get(dim), coords[dim])
    if "time" in coords:
        forecast = "lead_time" in sizes or "lead_time" in coords
        clock = names.get("time") or _coordinate_name("time", axes.get("time"))
        template[clock].attrs = dict(_INITIAL if forecast else _VALID)
    template, names["level"] = _level(template, layout, convention)
    names["lat"], names["lon"] = str(axes["lat"].dim), str(axes["lon"].dim)
    return template, names


def dimension_name(dim: str, convention: Convention, *, new: bool = False) -> str:
    """The user's dimension; new times do not come under the name of an initial time."""
    axis = convention.axes.get(dim)
    if axis is None or axis.dim is None:
        return dim
    return _plain(dim, str(axis.dim)) if new else str(axis.dim)


def _plain(dim: str, name: str) -> str:
    return "time" if dim == "time" and role_of(name, {}) == "reference" else name


def _coordinate_name(dim: str, axis: Axis | None) -> str:
    return _plain(dim, axis.name) if axis is not None else dim


def _values(dim: str, size: int, coords: Mapping[str, object]) -> np.ndarray:
    if dim in coords:
        values = np.atleast_1d(np.asarray(coords[dim]))
        if values.shape == (size,):
            return values
        found = f"coords[{dim!r}] of shape {values.shape}"
    elif dim == "member":
        return np.arange(size)
    else:
        found = f"dimension {dim} of size {size}, other than the user's"
    raise InputError(
        [Problem(found, f"{size} values", f'from_state(..., coords={{"{dim}": values}})')],
        what="state",
    )


def _replace(
    template: xr.Dataset, dim: str, new_dim: str | None, axis: Axis | None, values
) -> xr.Dataset:
    """Put ``values`` in place of what stood for ``dim``, as a scalar if ``new_dim`` is None."""
    attrs: dict = {}
    if axis is not None and axis.coord in template.coords:
        attrs = dict(template[axis.coord].attrs)
    name = new_dim or _coordinate_name(dim, axis)
    if axis is not None and axis.dim is not None and axis.dim in template.dims:
        template = template.drop_dims(axis.dim)
    elif axis is not None and axis.coord is not None and axis.coord in template.coords:
        template = template.drop_vars(axis.coord)
    dims = () if new_dim is None else (new_dim,)
    return template.assign_coords({name: (dims, values, attrs)})


def _level(template: xr.Dataset, layout: Layout, convention: Convention) -> tuple[xr.Dataset, str]:
    axis = convention.axes.get("level")
    if not layout.levels:
        return template, ""
    if axis is not None and layout.levels == convention.layout.levels:
        return template, axis.dim or ""
    if axis is not None and axis.dim is not None:
        template = template.drop_dims(axis.dim, errors="ignore")
    attrs = {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}
    values = np.asarray(layout.levels, np.int32)
    name = axis.dim if axis is not None and axis.dim is not None else "level"
    return template.assign_coords({name: ((name,), values, attrs)}), name
