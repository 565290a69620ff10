"""Which variables of a dataset are which, in which units: by metadata alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import xarray as xr

from ._coordinates import Axis
from ._grid import Layout
from ._units import conversion
from .errors import Problem
from .variables import VARIABLES, Match, match_name, user_default_units

NO_UNITS = {"", "~", "none", "unknown"}


@dataclass(frozen=True, eq=False)
class Field:
    """One state variable in the user's words: ``canonical = factor * value + offset``."""

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
    matches, problems = _best_matches(ds, axes)
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
        problems += [_missing(name, extras, ds) for name in layout.variables if name not in seen]
    order = {name: i for i, name in enumerate(names)}
    fields.sort(key=lambda f: order[f.user_name])
    return Recognised(tuple(fields), tuple(statics), extras, tuple(problems))


def user_names(ds: xr.Dataset, axes: Mapping[str, Axis]) -> dict[str, str]:
    """User name -> canonical name, for all that is recognised, ambiguous or not."""
    return {match.user_name: match.name for match in _best_matches(ds, axes)[0]}


def has_level(variable: xr.DataArray, axes: Mapping[str, Axis]) -> bool | None:
    """Whether a variable lives on levels; None if a scalar level may or may not be meant."""
    level = axes.get("level")
    if level is None:
        return False
    return None if level.dim is None else level.dim in variable.dims


def _best_matches(ds: xr.Dataset, axes: Mapping[str, Axis]) -> tuple[list[Match], list[Problem]]:
    """One user variable for each canonical name: the one recognised for the strongest reason."""
    horizontal = {axes[key].dim for key in ("lat", "lon") if key in axes}
    by_name: dict[str, list[Match]] = {}
    best, problems = [], []
    for name, variable in ds.data_vars.items():
        if not horizontal <= set(variable.dims) or variable.dtype.kind not in "fiubO":
            continue
        standard_name = str(variable.attrs.get("standard_name", ""))
        match = match_name(str(name), standard_name, on_levels=has_level(variable, axes))
        if match is not None:
            by_name.setdefault(match.name, []).append(match)
    for name, matches in by_name.items():
        matches.sort(key=lambda match: match.rank)
        best.append(matches[0])
        if len(matches) > 1 and matches[0].rank == matches[1].rank:
            problems.append(
                Problem(
                    f"`{matches[0].user_name}` and `{matches[1].user_name}`, which both look "
                    f"like {name}",
                    f"one {name}",
                    f'ds.drop_vars("{matches[1].user_name}")',
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
                f"{match.name} in {known.units} or a unit that converts to it",
                f'ds["{user}"].attrs["units"] = "{known.units}"',
            )
        )
    for dim in variable.dims:
        size, known_dims = ds.sizes[dim], {axis.dim for axis in axes.values()}
        if size == 0 or (size > 1 and dim not in known_dims):
            problems.append(
                Problem(
                    f"`{user}` with dimension `{dim}` of size {size}",
                    "time, member, level, latitude and longitude",
                    f"ds.isel({dim}=0)" if size else f"ds with at least one {dim}",
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
                f"the level of {match.name}, in hPa",
                "ds.expand_dims(level=[500])"
                if "level" not in axes
                else f'ds["{user}"].expand_dims({axes["level"].name}=[500])',
            )
        )
    if not known.on_levels and has_level(variable, axes):
        level = axes["level"].name
        problems.append(
            Problem(
                f"`{user}` with dimension `{level}`",
                f"{match.name} at one height",
                f'ds.assign({{"{user}": ds["{user}"].isel({level}=0, drop=True)}})',
            )
        )
    return problems


def _nothing_known(names: list[str]) -> Problem:
    return Problem(
        f"variables {', '.join(names)}, none of which is known" if names else "no variables",
        "at least one variable on latitude and longitude with a name of WeatherBench, GRIB or CF",
        f'ds.rename({{"{names[0] if names else "my_name"}": "temperature"}})',
    )


def _missing(name: str, extras: tuple[str, ...], ds: xr.Dataset) -> Problem:
    known = VARIABLES[name]
    spellings = {extra: extra for extra in extras}
    spellings |= {str(ds[extra].attrs.get("long_name", extra)).lower(): extra for extra in extras}
    near = difflib.get_close_matches(name, spellings, n=1, cutoff=0.6) or (
        difflib.get_close_matches(known.long_name, spellings, n=1, cutoff=0.6)
    )
    repair = f'xr.merge([ds, other[["{name}"]]])'
    if near:
        repair = f'ds.rename({{"{spellings[near[0]]}": "{name}"}})'
    return Problem(f"no {name}", f"{name} in {known.units}", repair)
