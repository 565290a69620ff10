"""Which variables of a dataset are which, in which units: by metadata alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import xarray as xr

from xdiffda.errors import Problem
from xdiffda.state.coordinates import Axis, find_axes
from xdiffda.state.grid import Layout
from xdiffda.state.units import conversion
from xdiffda.state.variables import VARIABLES, Match, contradiction, match_name, user_default_units

NO_UNITS = {"", "~", "none", "unknown"}


@dataclass(frozen=True, eq=False)
class Field:
    """One state variable under the user's name: ``canonical = factor * value + offset``."""

    name: str
    user_name: str
    dims: tuple[str, ...]
    factor: float = 1.0
    offset: float = 0.0
    units: str = ""
    attrs: Mapping = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Recognised:
    """The variables of a dataset, sorted by what becomes of them."""

    fields: tuple[Field, ...]
    statics: tuple[str, ...]
    extras: tuple[str, ...]
    problems: tuple[Problem, ...]


def recognise_fields(ds: xr.Dataset, axes: Mapping[str, Axis], layout: Layout | None) -> Recognised:
    """Sort the variables of ``ds`` into state, static fields and extras."""
    names = [str(name) for name in ds.data_vars]
    matches, problems = _matches(ds, axes, None if layout is None else set(layout.variables))
    fields, statics = [], []
    for match in matches:
        wanted = layout is None or match.name in layout.variables
        if VARIABLES[match.name].role == "static" and (layout is None or not wanted):
            statics.append(match.user_name)
        elif wanted and (layout is not None or VARIABLES[match.name].role == "state"):
            one, wrong = _field(ds, axes, match)
            problems += wrong
            if one is not None:
                fields.append(one)
    seen = {f.name for f in fields} | {m.name for m in matches}
    taken = {f.user_name for f in fields} | set(statics)
    extras = tuple(n for n in names if n not in taken)
    if layout is None and not fields and not problems:
        problems.append(_nothing_known(names))
    if layout is not None:
        problems += [
            _missing(name, extras, ds, axes) for name in layout.variables if name not in seen
        ]
    order = {name: i for i, name in enumerate(names)}
    fields.sort(key=lambda f: order[f.user_name])
    return Recognised(tuple(fields), tuple(statics), extras, tuple(problems))


def user_names(ds: xr.Dataset, axes: Mapping[str, Axis]) -> dict[str, str]:
    """User name -> canonical name, for all that is recognised, ambiguous or not."""
    return {match.user_name: match.name for match in _matches(ds, axes)[0]}


def has_level(variable: xr.DataArray, axes: Mapping[str, Axis]) -> bool | None:
    """Return whether a variable lives on levels; None if a scalar level may or may not apply."""
    level = axes.get("level")
    if level is None:
        return False
    return None if level.dim is None else level.dim in variable.dims


def _matches(
    ds: xr.Dataset, axes: Mapping[str, Axis], wanted: set[str] | None = None
) -> tuple[list[Match], list[Problem]]:
    """Find one user variable for each canonical name, and what is ambiguous or contradictory.

    With ``wanted``, only these names have problems: what is not needed may be called anything.
    """
    horizontal = {axes[key].dim for key in ("lat", "lon") if key in axes}
    by_name: dict[str, list[Match]] = {}
    best, problems = [], []
    for name, variable in ds.data_vars.items():
        if not horizontal <= set(variable.dims) or variable.dtype.kind not in "fiubO":
            continue
        standard_name = str(variable.attrs.get("standard_name", ""))
        match = match_name(str(name), standard_name, on_levels=has_level(variable, axes))
        if match is not None:
            cell_methods = str(variable.attrs.get("cell_methods", ""))
            # tasmax has the standard name of tas, and is not the state at any time
            if match.rank[0] < 2 or not re.search("time: (maximum|minimum)", cell_methods):
                by_name.setdefault(match.name, []).append(match)
            continue
        said = contradiction(str(name), standard_name)
        if said is not None and (wanted is None or said in wanted):
            problems.append(
                Problem(
                    f"`{name}` with standard_name {standard_name!r}",
                    f"a name and a standard_name of one quantity ({said} or another): correct "
                    "the wrong one where the file is made, or leave the variable out",
                    f'ds.drop_vars("{name}")',
                )
            )
    for name, matches in by_name.items():
        matches.sort(key=lambda match: match.rank)
        best.append(matches[0])
        if len(matches) > 1 and (wanted is None or name in wanted):
            names = " and ".join(f"`{match.user_name}`" for match in matches)
            problems.append(
                Problem(
                    f"{names}, which all look like {name}",
                    f"one {name}: leave out the others",
                    f"ds.drop_vars({[match.user_name for match in matches[1:]]})",
                )
            )
    return best, problems


def _field(
    ds: xr.Dataset, axes: Mapping[str, Axis], match: Match
) -> tuple[Field | None, list[Problem]]:
    variable, known, user = ds[match.user_name], VARIABLES[match.name], match.user_name
    problems = []
    if variable.dtype.kind == "O":
        problems.append(
            Problem(
                f"`{user}` of Python objects",
                f"{match.name} as numbers",
                f'ds.assign({{"{user}": ds["{user}"].astype("float32")}})',
            )
        )
    problems += _level_problems(variable, axes, match)
    written = str(variable.attrs.get("units", "")).strip()
    units = user_default_units(user, match.name) if written.lower() in NO_UNITS else written
    line = conversion(units, match.name)
    if line is None:
        problems.append(
            Problem(
                f"`{user}` in {units!r}",
                f"{match.name} in {known.units} or a unit that converts to it: either the unit "
                "is misspelt, or this is another quantity",
                f'ds.drop_vars("{user}")',
            )
        )
    for dim in variable.dims:
        size, known_dims = ds.sizes[dim], {axis.dim for axis in axes.values()}
        if size == 0 or (size > 1 and dim not in known_dims):
            problems.append(
                Problem(
                    f"`{user}` with dimension `{dim}` of size {size}",
                    "time, member, level, latitude and longitude",
                    _one_of(dim, size, user),
                )
            )
    if line is None or problems:
        return None, problems
    dims = tuple(str(dim) for dim in variable.dims)
    return Field(match.name, user, dims, *line, units, dict(variable.attrs)), problems


def _level_problems(
    variable: xr.DataArray, axes: Mapping[str, Axis], match: Match
) -> list[Problem]:
    """A variable of the free atmosphere without a level, or one of the surface on levels."""
    known, user, problems = VARIABLES[match.name], match.user_name, []
    if known.on_levels and has_level(variable, axes) is False:
        dims = f"({', '.join(map(str, variable.dims))})"
        problems.append(
            Problem(
                f"`{user}` {dims} without a pressure level",
                f"the pressure level of {match.name}, in hPa, as a coordinate: only who made the "
                "file knows it",
                f'ds.drop_vars("{user}")',
            )
        )
    if not known.on_levels and has_level(variable, axes):
        level = axes["level"].name
        problems.append(
            Problem(
                f"`{user}` with dimension `{level}`",
                f"{match.name}, which has one height and no pressure levels: this is another field",
                f'ds.drop_vars("{user}")',
            )
        )
    return problems


def _one_of(dim: object, size: int, user: str) -> str:
    """The call that leaves one position of a dimension that a state does not have."""
    if size == 0:
        return ""
    if dim == "expver" and size == 2:  # final and preliminary ERA5, each where the other is NaN
        return "ds.isel(expver=0, drop=True).combine_first(ds.isel(expver=1, drop=True))"
    return f"ds.isel({dim}=0)"


def _nothing_known(names: list[str]) -> Problem:
    return Problem(
        f"variables {', '.join(names)}, none of which is known" if names else "no variables",
        "at least one variable on latitude and longitude with a name of WeatherBench, GRIB or "
        "CF, or its standard_name; the names are list(xdiffda.state.variables.VARIABLES)",
        "",
    )


def _missing(
    name: str, extras: tuple[str, ...], ds: xr.Dataset, axes: Mapping[str, Axis]
) -> Problem:
    known = VARIABLES[name]
    found, needed = f"no {name}", f"{name} in {known.units}"
    for extra in extras:
        if _is_spelling_of(ds[extra], name, axes):
            return Problem(found, needed, f'ds.rename({{"{extra}": "{name}"}})')
    names = user_names(ds, axes).values()
    if name == "specific_humidity" and {"relative_humidity", "temperature"} <= set(names):
        return Problem(
            f"{found}, but relative_humidity and temperature",
            needed,
            "xdiffda.with_specific_humidity(ds)",
        )
    return Problem(
        found,
        f"{needed}, from another dataset where this has none",
        f'xr.merge([ds, other[["{name}"]]])',
    )


def _is_spelling_of(variable: xr.DataArray, name: str, axes: Mapping[str, Axis]) -> bool:
    """Whether a variable is ``name`` with other letters: not another quantity with a like name.

    Its name or ``long_name`` has the same words, of which long ones may have a slip; and unit,
    levels and ``standard_name`` are possible. `virtual_temperature` is no temperature, and
    `10m_u_component_of_wind` no wind at levels.
    """
    known = VARIABLES[name]
    level, standard_name = has_level(variable, axes), str(variable.attrs.get("standard_name", ""))
    if (
        level not in (None, known.on_levels)
        or match_name(name, standard_name, on_levels=level) is None
    ):
        return False
    if match_name(str(variable.name), standard_name, on_levels=level) is not None:
        return False  # it is known, as something else
    units = str(variable.attrs.get("units", "")).strip()
    if units.lower() not in NO_UNITS and conversion(units, name) is None:
        return False
    said = [str(variable.name), str(variable.attrs.get("long_name", ""))]
    return any(_same_words(a, b) for a in said for b in (name, known.long_name) if a)


def _same_words(one: str, other: str) -> bool:
    """Return whether two names have the same words, but for case and a slip in a long word."""
    a, b = (re.findall(r"[0-9]+|[a-z]+", text.lower()) for text in (one, other))
    return len(a) == len(b) and all(
        x == y or (min(len(x), len(y)) >= 6 and difflib.SequenceMatcher(None, x, y).ratio() >= 0.85)
        for x, y in zip(a, b, strict=True)
    )


def recognise(ds: xr.Dataset) -> dict[str, str]:
    """Canonical name of each variable of ``ds`` that is recognised; reads metadata only.

    Parameters
    ----------
    ds
        A dataset in any usual convention.

    Returns
    -------
    dict
        User's name -> WeatherBench name: state variables, static fields and forcings.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> recognise(xr.Dataset({"msl": (("lat", "lon"), np.ones((2, 3)))}))
    {'msl': 'mean_sea_level_pressure'}
    """
    return user_names(ds, find_axes(ds)[0])
