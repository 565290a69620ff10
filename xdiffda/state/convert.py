"""Between a dataset in anybody's convention and a state array (..., node, channel).

    x, layout, convention = to_state(background)
    analysis = from_state(x, layout, convention)

`to_state` computes lazy data once, in one place; everything before that reads metadata only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.convention import (
    Convention,
    default_convention,
    default_field,
    read_convention,
    template_for,
)
from xdiffda.state.coordinates import BATCH_DIMS, Axis, find_axes, levels_in_hpa
from xdiffda.state.grid import Grid, Layout
from xdiffda.state.recognise import NO_UNITS, Field
from xdiffda.state.units import USUAL, conversion, units_that_fit
from xdiffda.state.variables import G0, VARIABLES
from xdiffda.storage.files import compute

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "BATCH_DIMS",
    "Convention",
    "Grid",
    "Layout",
    "default_convention",
    "find_problems",
    "from_state",
    "infer_layout",
    "read_metadata",
    "to_state",
]


# Fill a state array from a user's variables, and cut it up again.


def select_levels(ds: xr.Dataset, convention: Convention) -> xr.Dataset:
    """Select the levels of the layout, so that no others are computed."""
    axis = convention.axes.get("level")
    if axis is None or axis.dim is None or axis.dim not in ds.dims or not convention.layout.levels:
        return ds
    kept = convention.template[axis.coord].values
    labels = ds[axis.coord].values
    return ds if labels.size == kept.size else ds.isel({axis.dim: np.isin(labels, kept)})


def stack(ds: xr.Dataset, convention: Convention) -> np.ndarray:
    """Fill the state array variable by variable."""
    layout, axes = convention.layout, convention.axes
    batch = [str(axes[dim].dim) for dim in convention.batch_dims]
    horizontal = [str(axes["lat"].dim), str(axes["lon"].dim)]
    grid = layout.grid
    x = np.empty((*convention.batch_shape, grid.n_node, layout.n_channel), np.float32)
    for field in convention.fields:
        variable = ds[field.user_name].variable
        level = axes["level"].dim if VARIABLES[field.name].on_levels else None
        known = {*batch, *horizontal, level}
        variable = variable.squeeze([dim for dim in variable.dims if dim not in known])
        lacking = {
            d: n
            for d, n in zip(batch, convention.batch_shape, strict=True)
            if d not in variable.dims
        }
        variable = variable.set_dims({**lacking, **dict(variable.sizes)})
        tail = horizontal if level is None else [level, *horizontal]
        values = variable.transpose(*batch, *tail).values
        values = (
            values[..., None, :, :] if level is None else _take(values, convention.level_order, -3)
        )
        values = _take(_take(values, convention.lat_order, -2), convention.lon_order, -1)
        if (field.factor, field.offset) != (1.0, 0.0):
            values = values.astype(np.float64) * field.factor + field.offset
        nodes = values.reshape(*values.shape[:-2], grid.n_node)
        x[..., layout.channel_slice(field.name)] = np.moveaxis(nodes, -2, -1)
    return x


def unstack(x: np.ndarray, layout: Layout, convention: Convention, field: Field) -> np.ndarray:
    """(*batch, node, level) -> (*batch[, level], lat, lon) in the user's order of each axis."""
    values = np.moveaxis(x, -1, -2).reshape(*x.shape[:-2], x.shape[-1], *layout.grid.shape)
    values = _take(values, np.argsort(convention.lat_order), -2)
    values = _take(values, np.argsort(convention.lon_order), -1)
    level = convention.axes.get("level")
    if not VARIABLES[field.name].on_levels or (level is not None and level.dim is None):
        return values[..., 0, :, :]
    if layout.levels == convention.layout.levels:
        return _take(values, np.argsort(convention.level_order), -3)
    return values


def _take(values: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    """Reorder along an axis, without a copy where nothing changes or all is turned round."""
    steps = np.diff(order)
    if np.all(steps == 1):
        return values
    if np.all(steps == -1):
        return np.flip(values, axis)
    return np.take(values, order, axis)


def in_user_units(values: np.ndarray, field: Field, difference: bool) -> np.ndarray:
    if (field.factor, field.offset) == (1.0, 0.0):
        return np.ascontiguousarray(values, np.float32)
    offset = 0.0 if difference else field.offset
    return ((values.astype(np.float64) - offset) / field.factor).astype(np.float32)


def target_dims(
    dims: tuple[str, ...],
    convention: Convention,
    batch_dims: tuple[str, ...],
    names: Mapping[str, str],
) -> list[str]:
    """The user's order of dimensions, without those that went and with those that came."""
    gone = {convention.axes[d].dim for d in convention.batch_dims if d not in batch_dims}
    target = [dim for dim in dims if dim not in gone]
    position = 0
    for dim in batch_dims:
        if names[dim] not in target:
            target.insert(position, names[dim])
        position = target.index(names[dim]) + 1
    return target


# Look at the values of a state: not-a-numbers, wrong units, implausible numbers.


def value_problems(values: xr.DataArray, field: Field, axes: Mapping[str, Axis]) -> list[Problem]:
    """Problems of one variable, in the user's units and words.

    Parameters
    ----------
    values
        The variable as the user has it, loaded.
    field
        How it was recognised.
    axes
        The axes of its dataset.
    """
    missing = ~np.isfinite(values.values)
    n_missing = int(np.count_nonzero(missing))
    problems = []
    if n_missing:
        problems.append(_missing_problem(values, missing, n_missing, field, axes))
    if n_missing < missing.size:
        finite = values.values[~missing] if n_missing else values.values.ravel()
        pressure = _pressures(values, axes)
        problem = _unit_problem(finite, field, pressure) or _disguised(values, field, pressure)
        problems += [problem] if problem is not None else _range_problem(finite, field)
    return problems


def _pressures(values: xr.DataArray, axes: Mapping[str, Axis]) -> list[tuple[float, xr.DataArray]]:
    """The pressure in hPa of each level, and the values there; none without levels."""
    level = axes.get("level")
    if level is None or level.coord is None or level.coord not in values.coords:
        return []
    labels, _, problems = levels_in_hpa(values[level.coord], level.name)
    if problems or not labels.size:
        return []
    if level.dim not in values.dims:
        return [(float(labels[0]), values)]
    return [(float(p), values.isel({level.dim: i})) for i, p in enumerate(labels)]


def _missing_problem(values, missing, n_missing, field: Field, axes) -> Problem:
    where, user = [], field.user_name
    for key in ("time", "lead_time", "member", "level", "lat", "lon"):
        axis = axes.get(key)
        if axis is None or axis.dim not in values.dims:
            continue
        others = tuple(i for i, dim in enumerate(values.dims) if dim != axis.dim)
        hit = np.flatnonzero(missing.any(axis=others))
        if hit.size < values.sizes[axis.dim]:
            labels = (
                values[axis.dim].values
                if axis.dim in values.coords
                else np.arange(values.sizes[axis.dim])
            )
            where.append(f"{axis.name} {_span(labels[hit])}")
    place = f" at {', '.join(where)}" if where else ""
    lon, level = axes["lon"].name, axes.get("level")
    share = n_missing / missing.size
    if level is not None and level.dim in values.dims and share < 1:
        others = tuple(i for i, dim in enumerate(values.dims) if dim != level.dim)
        empty = values[level.dim].values[missing.all(axis=others)]
        if empty.size and share == empty.size / values.sizes[level.dim]:
            return Problem(
                f"{n_missing} NaN of {missing.size} in `{user}`{place}",
                "finite values",
                f"ds.drop_sel({level.name}={empty.tolist()})",
            )
    rows = missing.all(axis=values.dims.index(axes["lon"].dim)).any()
    call = f'interpolate_na("{lon}", method="nearest", fill_value="extrapolate")'
    if rows or share > 0.2:
        call = f'fillna(first_guess["{user}"])'
    kind = "NaN"
    if np.isinf(values.values).any():  # which filling leaves as they are
        kind, call = "infinite or NaN", f'where(abs(ds["{user}"]) < float("inf"))'
    return Problem(
        f"{n_missing} {kind} of {missing.size} in `{user}`{place}",
        "finite values",
        f'ds.assign({{"{user}": ds["{user}"].{call}}})',
    )


def _span(labels: np.ndarray) -> str:
    first, last = labels[0], labels[-1]
    if labels.dtype.kind in "mM":
        return str(first) if labels.size == 1 else f"{first} to {last}"
    return f"{first:g}" if labels.size == 1 else f"{first:g} to {last:g}"


def _says(field: Field, units: str) -> str:
    return f'ds["{field.user_name}"].attrs["units"] = "{units}"'


def _unit_problem(
    finite: np.ndarray, field: Field, pressure: list[tuple[float, xr.DataArray]]
) -> Problem | None:
    """Values of which the median is impossible in their unit and possible in another."""
    variable = VARIABLES[field.name]
    low, high = variable.valid_range
    lowest, highest, median = float(finite.min()), float(finite.max()), float(np.median(finite))
    inside = [low <= x * field.factor + field.offset <= high for x in (lowest, median, highest)]
    if all(inside):
        return None
    if not inside[1]:
        level = float(np.median([p for p, _ in pressure])) if pressure else 1000.0
        likely = units_that_fit(lowest, highest, field.name, median=median, level=level)
    elif _share_outside(finite, field) > 0.01 or (
        # knots are twice m/s: only the jets tell, and not one wild value
        variable.units == "m s-1" and np.quantile(np.abs(finite), 0.999) > high / 2
    ):
        likely = units_that_fit(lowest, highest, field.name)
    else:
        likely = None
    if likely is None or conversion(likely, field.name) == (field.factor, field.offset):
        return None
    return Problem(
        f"`{field.user_name}` from {lowest:.6g} to {highest:.6g} {field.units}, "
        f"median {median:.6g}",
        f"{field.name} between {low:g} and {high:g} {variable.units}; the values fit {likely}",
        _says(field, likely),
    )


def _share_outside(finite: np.ndarray, field: Field) -> float:
    low, high = ((end - field.offset) / field.factor for end in VARIABLES[field.name].valid_range)
    return float(np.mean((finite < low) | (finite > high)))


def _range_problem(finite: np.ndarray, field: Field) -> list[Problem]:
    variable, name = VARIABLES[field.name], field.user_name
    low, high = variable.valid_range
    ends = float(finite.min()), float(finite.max())
    if low <= ends[0] * field.factor + field.offset and (
        ends[1] * field.factor + field.offset <= high
    ):
        return []
    bounds = [(end - field.offset) / field.factor for end in (low, high)]
    outside = _share_outside(finite, field)
    found = f"`{name}` from {ends[0]:.6g} to {ends[1]:.6g} {field.units}"
    needed = f"{field.name} between {low:g} and {high:g} {variable.units}"
    if outside > 0.2:
        needed += ": this is another quantity, or in no usual unit"
        return [Problem(found, needed, f'ds.drop_vars("{name}")')]
    keep = f'(ds["{name}"] >= {bounds[0]:.9g}) & (ds["{name}"] <= {bounds[1]:.9g})'
    return [Problem(found, needed, f'ds.assign({{"{name}": ds["{name}"].where({keep})}})')]


def _disguised(
    values: xr.DataArray, field: Field, pressure: list[tuple[float, xr.DataArray]]
) -> Problem | None:
    """Values that are possible in their unit, and by what the atmosphere has are in another.

    Shares and percentages, humidity, precipitation and heights: a factor of ten or more tells.
    """
    name, raw_max = field.name, float(np.nanmax(values.values))
    canonical = VARIABLES[name].units
    found = f"`{field.user_name}` up to {raw_max:.4g} {field.units}"
    if canonical == "%" and 0 < raw_max <= MOST_SHARE and field.factor == 1.0:
        unwritten = str(field.attrs.get("units", "")).strip().lower() in NO_UNITS
        if unwritten or any(p >= TROPOSPHERE for p, _ in pressure):
            said = f"{found}, which is assumed: no unit is written" if unwritten else found
            return Problem(said, f"{name} in %, or units that say a share of 1", _says(field, "1"))
    if canonical == "1" and 0.5 < raw_max <= MOST_SHARE and field.factor < 1.0:
        return Problem(found, f"{name} in %, or units that say a share of 1", _says(field, "1"))
    if name.startswith("total_precipitation"):
        mean = float(np.nanmean(values.values))
        if mean * field.factor > MOST_RAIN and (mean * 1e-3 < MOST_RAIN):
            return Problem(
                f"`{field.user_name}` with mean {mean:.4g} {field.units}",
                f"precipitation, with a mean below {MOST_RAIN:g} m",
                _says(field, "mm"),
            )
    heights = field.factor == 1.0 and 200 < raw_max < MOST_HEIGHT
    if name == "geopotential_at_surface" and heights:
        return Problem(
            found,
            "surface geopotential in m2 s-2, which exceeds 3e4 in the highest mountains; these "
            "are heights",
            _says(field, "gpm" if raw_max > MOST_HEIGHT / 10 else "dam"),
        )
    if name == "2m_specific_humidity":
        return _humidity_problem([(1000.0, values)], field)
    if name == "specific_humidity":
        return _humidity_problem(pressure, field)
    return _height_problem(pressure, field) if name == "geopotential" else None


MOST_SHARE = 1.5  # more than any share of 1, and less than any field of percentages reaches
TROPOSPHERE = 200.0  # hPa: somewhere below it is moister than 1.5 %
MOST_RAIN = 0.05  # m: the mean over the globe of a day's precipitation is 3 mm
MOST_HEIGHT = 9500.0  # m2 s-2, 970 m: mountains on a global grid are higher
MOST_ALOFT = 3e-4  # kg/kg: above 150 hPa air holds a tenth of it at most
LEAST_BELOW = 2e-5  # kg/kg: below 700 hPa the median over the globe is a hundred times as much


def _humidity_problem(pressure: list[tuple[float, xr.DataArray]], field: Field) -> Problem | None:
    """Tell kg/kg from g/kg and mg/kg by how dry air is aloft and how moist below."""
    for p, at_level in pressure:
        median = float(np.nanmedian(at_level.values))
        q = median * field.factor
        wrong = q > MOST_ALOFT if p <= 150 else 0 < q < LEAST_BELOW if p >= 700 else False
        if not wrong:
            continue
        for units in ("kg kg-1", "g kg-1", "mg kg-1"):
            factor = (conversion(units, field.name) or (1.0, 0.0))[0]
            q = median * factor
            fits = q < MOST_ALOFT / 3 if p <= 150 else 20 * LEAST_BELOW < q < 0.03
            if factor != field.factor and fits:
                return Problem(
                    f"`{field.user_name}` with median {median:.4g} {field.units} at {p:g} hPa",
                    f"{field.name} possible there; the values fit {units}",
                    _says(field, units),
                )
    return None


def _height_problem(pressure: list[tuple[float, xr.DataArray]], field: Field) -> Problem | None:
    """Tell geopotential from geopotential height: both lie inside the other's range.

    Between 925 and 1 hPa the global mean is within 30 % of the standard atmosphere's; the two
    differ by a factor of 9.8.
    """
    for p, at_level in sorted(pressure, key=lambda pair: abs(pair[0] - 400.0)):
        if not 1.0 <= p <= 925.0:
            continue
        mean, standard = float(at_level.mean()), standard_geopotential(p)
        if 0.5 < mean * field.factor / standard < 2.0:
            return None
        for units in USUAL["m2 s-2"]:
            factor = (conversion(units, "geopotential") or (1.0, 0.0))[0]
            if 0.5 < mean * factor / standard < 2.0:
                return Problem(
                    f"`{field.user_name}` in {field.units} with mean {mean:.6g} at {p:g} hPa",
                    f"geopotential, there about {standard:.6g} m2 s-2; the values fit {units}",
                    _says(field, units),
                )
        return None
    return None


def standard_geopotential(pressure: float) -> float:
    """Geopotential of the ICAO standard atmosphere, isothermal above 226.32 hPa, m2 s-2.

    Examples
    --------
    >>> round(standard_geopotential(500.0) / 9.80665)
    5574
    >>> round(standard_geopotential(100.0) / 9.80665)
    16180
    """
    if pressure >= 226.32:
        return G0 * 44330.8 * (1.0 - (pressure / 1013.25) ** 0.190263)
    return G0 * (11000.0 + 6341.62 * np.log(226.32 / pressure))


def infer_layout(ds: xr.Dataset, *, what: str = "dataset") -> Layout:
    """The layout of what is recognised in ``ds``; computes no data.

    Parameters
    ----------
    ds
        A dataset in any usual convention.
    what
        Its name in error messages.

    Raises
    ------
    InputError
        With all problems of the metadata at once.

    Examples
    --------
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("2m_temperature",))
    >>> ds = from_state(np.full((6, 1), 280.0), layout, default_convention(layout))
    >>> infer_layout(ds.rename({"2m_temperature": "t2m"})) == layout
    True
    """
    return read_metadata(ds, what=what).layout


def find_problems(ds: xr.Dataset, layout: Layout | None = None) -> tuple[Problem, ...]:
    """List what the metadata of ``ds`` shows to be unusable; computes no data, raises nothing.

    Parameters
    ----------
    ds
        A dataset in any usual convention.
    layout
        What is needed, for example by a model; without it, anything recognised will do.
    """
    return tuple(read_convention(ds, layout)[2])


def read_metadata(
    ds: xr.Dataset, layout: Layout | None = None, *, what: str = "dataset"
) -> Convention:
    """The `Convention` of ``ds``, without computing data or looking at values.

    Its ``layout``, ``fields``, ``extras``, ``batch_dims`` and ``valid_times`` say what is there.

    Raises
    ------
    InputError
        With all problems of the metadata at once.
    """
    convention, _, problems = read_convention(_dataset(ds, what), layout)
    raise_if(problems, what=what)
    assert convention is not None
    return convention


def to_state(
    ds: xr.Dataset,
    layout: Layout | None = None,
    *,
    what: str = "background",
    check_values: bool = True,
) -> tuple[Float[np.ndarray, "*batch node channel"], Layout, Convention]:
    """Turn a dataset in any usual convention into a state array.

    Lazy (dask or file-backed) data is computed here, all variables in one go, and nowhere else.

    Parameters
    ----------
    ds
        State variables on latitude, longitude, pressure level and any of time, lead time and
        member, in any order, under WeatherBench, GRIB or CF names and in convertible units.
    layout
        What is needed. Without it, the layout of all that is recognised; variables that are not
        recognised are then listed in ``Convention.extras``. With it, other variables and levels
        are left out.
    what
        The name of ``ds`` in error messages.
    check_values
        Whether NaN and implausible values are errors.

    Returns
    -------
    x : float32 array (*batch, node, channel)
        In canonical units; batch axes are those of (time, lead_time, member) that ``ds`` has.
    layout : Layout
        The given one, or the inferred one.
    convention : Convention
        What `from_state` needs to answer in the user's own words.

    Raises
    ------
    InputError
        With all problems at once, each with the call that repairs it.

    Examples
    --------
    >>> lat, lon = [60, 0, -60], [-180, -90, 0, 90]
    >>> field = xr.DataArray(np.full((3, 4), 7.0), {"latitude": lat, "longitude": lon},
    ...                      ("latitude", "longitude"), attrs={"units": "degC"})
    >>> x, layout, convention = to_state(field.to_dataset(name="t2m"))
    >>> x.shape, float(x[0, 0]), layout.channel_names
    ((12, 1), 280.1499938964844, ('2m_temperature',))
    >>> from_state(x, layout, convention)["t2m"].max().round(3).item()
    7.0
    """
    ds = _dataset(ds, what)
    convention, recognised, problems = read_convention(ds, layout)
    names = [field.user_name for field in recognised.fields]
    if convention is not None:
        loaded = compute(select_levels(ds[names], convention))
    else:
        loaded = compute(ds[names]) if check_values else ds[names]
    if check_values:
        axes = find_axes(ds)[0]
        if {"lat", "lon"} <= set(axes):
            for field in recognised.fields:
                problems += value_problems(loaded[field.user_name], field, axes)
    raise_if(problems, what=what)
    assert convention is not None
    return stack(loaded, convention), convention.layout, convention


def from_state(
    x: Float[np.ndarray, "*batch node channel"],
    layout: Layout,
    convention: Convention,
    *,
    dims: Sequence[str] | None = None,
    coords: Mapping[str, object] | None = None,
    difference: bool = False,
) -> xr.Dataset:
    """Turn a state array into a dataset in the user's own convention; inverse of `to_state`.

    Parameters
    ----------
    x
        State in canonical units; NumPy or JAX.
    layout
        The layout of ``x``. Variables that the user's dataset did not have come in canonical
        names and units.
    convention
        As returned by `to_state`, or `default_convention`.
    dims
        Canonical names (of time, lead_time, member) of the leading axes of ``x``. By default
        those that the user's dataset has. Others of its batch dimensions are dropped.
    coords
        Values along batch dimensions that are new or other than the user's, by canonical name;
        ``time`` means valid time. Members are numbered from zero by default.
    difference
        Whether ``x`` is a difference or a spread of states: then units are scaled only (an
        increment of 1 K is one of 1 degC).

    Returns
    -------
    xr.Dataset
        Float32 variables with the user's names, units, dimension order and attributes, the
        user's coordinates and static fields.

    Raises
    ------
    InputError
        If the shape of ``x`` does not fit.

    Examples
    --------
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("2m_temperature",))
    >>> members = np.full((8, 6, 1), 280.0, np.float32)
    >>> ds = from_state(members, layout, default_convention(layout), dims=("member",))
    >>> dict(ds.sizes)
    {'member': 8, 'lat': 2, 'lon': 3}
    """
    dims = tuple(convention.batch_dims if dims is None else dims)
    x = np.asarray(x)
    _check_shape(x, layout, convention, dims)
    sizes = dict(zip(dims, x.shape, strict=False))
    template, names = template_for(convention, layout, sizes, dict(coords or {}))
    fields = {field.name: field for field in convention.fields}
    user_order = [f.name for f in convention.fields if f.name in layout.variables]
    order = user_order + [name for name in layout.variables if name not in fields]
    variables = {}
    for name in order:
        field = fields.get(name, default_field(name))
        level = [names["level"]] if VARIABLES[name].on_levels and names["level"] else []
        horizontal = [names["lat"], names["lon"]]
        values = unstack(x[..., layout.channel_slice(name)], layout, convention, field)
        values = in_user_units(values, field, difference)
        variable = xr.Variable(
            [names[dim] for dim in dims] + level + horizontal, values, dict(field.attrs)
        )
        user_dims = field.dims if name in fields else (*level, *horizontal)
        target = target_dims(user_dims, convention, dims, names)
        lone = {dim: 1 for dim in target if dim not in variable.dims}
        variable = variable.set_dims({**lone, **dict(variable.sizes)})
        variables[field.user_name] = variable.transpose(*target)
    return xr.Dataset(variables, attrs=template.attrs).merge(template)


def _dataset(ds: object, what: str) -> xr.Dataset:
    if isinstance(ds, xr.DataArray):
        raise InputError(
            [
                Problem(
                    "a DataArray", "a Dataset", f'da.to_dataset(name="{ds.name or "temperature"}")'
                )
            ],
            what=what,
        )
    if not isinstance(ds, xr.Dataset):
        raise InputError(
            [Problem(f"a {type(ds).__name__}", "an xarray.Dataset", "xdiffda.open_dataset(path)")],
            what=what,
        )
    return ds


def _check_shape(x, layout: Layout, convention: Convention, dims: tuple[str, ...]) -> None:
    problems = []
    unknown = [dim for dim in dims if dim not in BATCH_DIMS]
    if unknown:
        problems.append(Problem(f"dims {unknown}", f"some of {BATCH_DIMS}", 'dims=("member",)'))
    expected = f"({', '.join((*dims, ''))}{layout.grid.n_node}, {layout.n_channel})"
    fits = x.shape[-2:] == (layout.grid.n_node, layout.n_channel)
    own = BATCH_DIMS[-(x.ndim - 2) :] if 2 < x.ndim <= 2 + len(BATCH_DIMS) else ()
    if x.ndim != len(dims) + 2 or not fits:
        problems.append(
            Problem(
                f"state of shape {x.shape}",
                f"shape {expected}",
                f"from_state(x, layout, convention, dims={own})" if fits else "",
            )
        )
    if layout.grid.shape != convention.layout.grid.shape:
        problems.append(
            Problem(
                f"grid {layout.grid}",
                f"grid {convention.layout.grid} as in the convention",
                "from_state(x, layout, default_convention(layout))",
            )
        )
    raise_if(problems, what="state")
