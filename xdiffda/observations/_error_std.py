"""Read the ``error_std`` argument: default, number, mapping, Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from .._coordinates import find_axes, levels_in_hpa
from ..errors import Problem, raise_if
from ..variables import VARIABLES, canonical_name
from ._names import KNOWN, to_units
from .defaults import default_error_std

SUFFIX = "_error_std"
_USE = 'error_std={"temperature": 1.0, "geopotential": {500: 80.0, 850: 40.0}}'


def error_std_by_level(spec: Any, channels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Standard deviation of the error of each variable at each of its levels.

    Parameters
    ----------
    spec
        ``"default"``; a number for all variables, each in its canonical unit; or a mapping (or
        Dataset, whose names may end in ``_error_std``) from any of a variable's names to a
        number, a mapping from level (hPa) to number, or a DataArray on a level dimension.
        Variables that a mapping leaves out have their default; a pandas Series is a mapping.
    channels
        Canonical variable -> its levels in hPa ([NaN] at the surface).

    Returns
    -------
    dict of str to float array (level,)
        Canonical units.

    Raises
    ------
    InputError
        If an error is not positive, a level is missing, or a name is unknown.
    """
    problems: list[Problem] = []
    given: dict[str, Any] = {}
    if isinstance(spec, str):
        if spec != "default":
            problems.append(Problem(f"error_std={spec!r}", "`default` or numbers", _USE))
    elif isinstance(spec, (Mapping, xr.Dataset)):
        for user_name, value in (spec.data_vars if isinstance(spec, xr.Dataset) else spec).items():
            name = _name(str(user_name), channels)
            if name is None:
                problems.append(Problem(
                    f"error_std for {user_name!r}", f"some of {', '.join(channels)}", _USE
                ))  # fmt: skip
            else:
                given[name] = value
    else:
        spec = spec.to_dict() if hasattr(spec, "to_dict") and hasattr(spec, "keys") else spec
        if isinstance(spec, Mapping):  # a pandas Series
            return error_std_by_level(spec, channels)
        given = dict.fromkeys(channels, spec)
    result = {}
    for name, levels in channels.items():
        value = _in_canonical_units(name, given.get(name), problems)
        error = (
            default_error_std(name, levels)
            if value is None
            else (_one(name, value, levels, problems))
        )
        if not np.all(error > 0):
            units = VARIABLES[name].units
            problems.append(Problem(
                f"error_std of {name} = {np.unique(error[~(error > 0)]).tolist()}",
                f"positive standard deviations in {units}; for exact values switch the noise off "
                "and state a small error",
                f'emulate_obs(..., noise=False, error_std={{"{name}": '
                f"{0.01 * VARIABLES[name].default_error_std:g}}})",
            ))  # fmt: skip
        result[name] = error
    raise_if(problems, what="error_std")
    return result


def _name(user_name: str, channels: Mapping[str, np.ndarray]) -> str | None:
    """Canonical name of what is observed; None if it is not among ``channels``."""
    bare = user_name.removesuffix(SUFFIX)
    for on_levels in (True, False):
        name = canonical_name(bare, on_levels=on_levels)
        if name in channels:
            return name
    # An error for a variable that is known but not observed does no harm.
    return canonical_name(bare)


def _in_canonical_units(name: str, value: Any, problems: list[Problem]) -> Any:
    """An error whose attributes say another unit than the canonical one, converted."""
    units = str(getattr(value, "attrs", {}).get("units", ""))
    if not isinstance(value, xr.DataArray) or not units:
        return value
    line = to_units(units, KNOWN[name])
    if line is None:
        problems.append(Problem(
            f"error_std of {name} in {units!r}", f"units that convert to {KNOWN[name].units}",
            f'error_std["{name}"].attrs["units"] = "{KNOWN[name].units}"',
        ))  # fmt: skip
        return value
    return value if line[0] == 1.0 else value * line[0]


def _one(name: str, value: Any, levels: np.ndarray, problems: list[Problem]) -> np.ndarray:
    if isinstance(value, Mapping):
        table = {float(level): float(error) for level, error in value.items()}
    elif isinstance(value, xr.DataArray) and value.ndim:
        axes, _ = find_axes(value.to_dataset(name="error_std"))
        axis = axes.get("level")
        if axis is None or value.ndim > 1 or axis.coord is None:
            problems.append(Problem(
                f"error_std of {name} on {', '.join(map(str, value.dims))}",
                "a number, or numbers on a level dimension with coordinate", _USE,
            ))  # fmt: skip
            return np.ones(levels.size)
        hpa, _, wrong = levels_in_hpa(value[axis.coord], axis.name)
        problems += wrong
        table = dict(zip(hpa.tolist(), value.values.astype(np.float64).tolist(), strict=False))
    else:
        try:
            return np.full(levels.size, float(value))
        except (ValueError, TypeError):
            problems.append(Problem(
                f"error_std of {name} = {value!r}",
                "a number, or a mapping from level or a DataArray on levels", _USE,
            ))  # fmt: skip
            return np.ones(levels.size)
    missing = [level for level in levels.tolist() if level not in table]
    if missing and np.isnan(missing).all():
        problems.append(Problem(
            f"error_std of {name} by level", f"one number, for {name} is not on levels",
            f'error_std={{"{name}": {VARIABLES[name].default_error_std:g}}}',
        ))  # fmt: skip
    elif missing:
        problems.append(Problem(
            f"error_std of {name} without {', '.join(f'{p:g}' for p in missing)} hPa",
            "an error for each observed level", _USE,
        ))  # fmt: skip
    return np.array([table.get(level, 1.0) for level in levels.tolist()])
