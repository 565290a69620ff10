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

from ._arrays import in_user_units, select_levels, stack, target_dims, unstack
from ._checks import value_problems
from ._conventions import Convention, default_convention, default_field, read_convention
from ._coordinates import BATCH_DIMS, find_axes
from ._grid import Grid, Layout
from ._restore import template_for
from .errors import InputError, Problem, raise_if
from .variables import VARIABLES

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "BATCH_DIMS", "Convention", "Grid", "Layout", "default_convention", "find_problems",
    "from_state", "infer_layout", "read_metadata", "to_state",
]  # fmt: skip


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
    """What the metadata of ``ds`` says against using it; computes no data, raises nothing.

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
        loaded = select_levels(ds[names], convention).compute()
    else:
        loaded = ds[names].compute() if check_values else ds[names]
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
    if x.ndim != len(dims) + 2 or x.shape[-2:] != (layout.grid.n_node, layout.n_channel):
        problems.append(
            Problem(
                f"state of shape {x.shape}",
                f"shape {expected}",
                "from_state(x, layout, convention, dims=...)",
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
