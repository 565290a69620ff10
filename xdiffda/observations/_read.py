"""Read observations as users have them into plain arrays, one entry per observed value.

Nothing is judged here beyond what must be understood in order to read; see `_checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..errors import Problem
from ..variables import Variable
from ._codes import name_codes
from ._frames import frame_problem, with_index
from ._names import KNOWN, match_observed
from ._raw import (
    Raw,
    as_numbers,
    hpa_factor,
    need_clock,
    read_times,
    to_canonical,
    unknown_variable,
)
from .defaults import default_error_std

if TYPE_CHECKING:
    import pandas as pd

OPTIONAL = ("station", "kind", "quality", "station_height", "level_bottom")
# Those of them that are numbers, NaN where unknown: metres above sea level; hPa.
NUMERIC = ("station_height", "level_bottom")
# A field of each value, in its units: what the background of the file's own system says.
BACKGROUND = "background"
TIDY_NAMES: dict[str, tuple[str, ...]] = {
    "variable": ("variable", "varname", "obs_type"),
    "value": ("value", "obs_value", "observation"),
    "error_std": ("error_std", "obs_error", "error", "std"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "longitude", "long"),
    "level": ("level", "pressure", "plev", "isobaricinhpa", "pressure_level"),
    "time": ("time", "valid_time", "datetime"),
    "station": ("station", "station_id"),
    "kind": ("kind",),
    "quality": ("quality",),
    "station_height": ("station_height", "station_elevation", "elevation", "altitude"),
    "level_bottom": ("level_bottom", "bottom_level", "pressure_bottom"),
    "background": ("background", "background_value"),
    "units": ("units", "unit"),
}


def read(obs: xr.Dataset | pd.DataFrame, own: dict[str, Variable] | None = None) -> Raw:
    """Read any of the accepted forms; ``own`` are variables with operators of the user."""
    own = own or {}
    if not isinstance(obs, xr.Dataset):
        if hasattr(obs, "columns") and hasattr(obs, "to_xarray"):
            return _read_frame(obs, own)
        return Raw("tidy", problems=[Problem(
            f"a {type(obs).__name__}",
            "an xarray Dataset (columns or tidy) or a tidy pandas DataFrame", _as_dataset(obs),
        )])  # fmt: skip
    names = {str(name).lower() for name in obs.variables}
    if {"variable", "value"} <= names:
        return _read_tidy(obs, "tidy", own)
    from ._columns import read_columns

    return read_columns(obs, own)


def _as_dataset(obs: Any) -> str:
    """The call that makes observations of something that is none of the accepted forms."""
    if isinstance(obs, xr.DataArray):
        return f'obs.to_dataset(name="{obs.name or "temperature"}")'
    for call in ("to_pandas", "compute", "to_frame"):  # of polars, dask and a pandas Series
        if hasattr(obs, call):
            return f"obs.{call}()"
    if isinstance(obs, str):
        return f'pandas.read_csv("{obs}")'
    return ('pandas.DataFrame({"variable": ["2t"], "lat": [52.2], "lon": [14.1], '
            '"time": ["2020-01-01T00"], "value": [280.0]})')  # fmt: skip


def _read_frame(frame: pd.DataFrame, own: dict[str, Variable]) -> Raw:
    problem = frame_problem(frame)
    if problem is not None:
        return Raw("frame", problems=[problem])
    plain = with_index(frame)
    data = {
        str(name): ("obs", column.to_numpy())
        if getattr(column.dtype, "tz", None) is None
        else ("obs", column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
        for name, column in plain.items()
    }
    return _read_tidy(xr.Dataset(data, attrs=dict(frame.attrs)), "frame", own)


# ----------------------------------------------------------------------------- tidy


def _read_tidy(ds: xr.Dataset, form: str, own: dict[str, Variable]) -> Raw:
    raw = Raw(form, attrs=dict(ds.attrs), own=own)
    lower = {str(name).lower(): str(name) for name in ds.variables}
    for ours, candidates in TIDY_NAMES.items():
        theirs = next((lower[name] for name in candidates if name in lower), None)
        if theirs is not None:
            raw.words[ours] = theirs
    for name in ("variable", "value", "lat", "lon"):
        if name not in raw.words:
            raw.problems.append(Problem(
                f"no column `{name}` among {', '.join(map(str, ds.variables)) or 'none'}",
                "tidy observations with variable, lat, lon, level, time, value",
                f'obs.rename(columns={{"...": "{name}"}})' if form == "frame"
                else f'obs.rename({{"...": "{name}"}})',
            ))  # fmt: skip
    need_clock(raw, ds)
    if raw.problems:
        return raw
    value = ds[raw.words["value"]]
    raw.words["dim"] = str(value.dims[0]) if value.ndim else "obs"
    if value.ndim > 1 or any(set(ds[t].dims) - set(value.dims) for t in raw.words.values()
                             if t in ds.variables):  # fmt: skip
        raw.problems.append(Problem(
            f"tidy fields on dimensions {dict(ds.sizes)}", "all of them on one dimension",
            "obs.stack(obs=[...]).reset_index('obs')",
        ))  # fmt: skip
        return raw
    for ours, theirs in raw.words.items():
        if ours != "dim":
            column = np.broadcast_to(np.asarray(ds[theirs].values), value.shape)
            raw.fields[ours] = np.atleast_1d(column)
    _tidy_types(raw, ds)
    if not raw.problems:
        _tidy_names_and_units(raw, str(value.attrs.get("units", "")))
    return raw


def _tidy_types(raw: Raw, ds: xr.Dataset) -> None:
    """Numbers as float64, times as datetime64, levels in hPa; a problem for what is neither."""
    n = raw.fields["value"].size
    raw.fields.setdefault("level", np.full(n, np.nan))
    raw.fields.setdefault("time", np.full(n, "NaT", "datetime64[ns]"))
    for name in ("value", "error_std", "lat", "lon", "level", BACKGROUND, *NUMERIC):
        if name in raw.fields:
            raw.fields[name] = as_numbers(raw, raw.word(name), raw.fields[name])
    for name in ("variable", "station", "kind", "units"):
        if name in raw.fields and raw.fields[name].dtype.kind == "S":
            raw.fields[name] = np.char.decode(raw.fields[name], "utf-8", "replace")
    attrs = ds[raw.words["time"]].attrs if raw.words.get("time") in ds.variables else {}
    raw.fields["time"] = read_times(raw, raw.fields["time"], attrs)
    for name in ("level", "level_bottom"):
        if name in raw.fields and not raw.problems:
            theirs = raw.word(name)
            attrs = ds[theirs].attrs if theirs in ds.variables else {}
            raw.fields[name] = raw.fields[name] * hpa_factor(raw, attrs, raw.fields[name])


def _tidy_names_and_units(raw: Raw, unit_of_all: str) -> None:
    """Canonical names, values and errors in canonical units, default errors where none.

    ``unit_of_all`` is that of the attributes, where no column says them row by row.
    """
    import pandas as pd

    fields = raw.fields
    observed = ~np.isnan(fields["value"])
    if not observed.all():
        for name in fields:
            fields[name] = fields[name][observed]
    units = fields.pop("units", None)
    on_level = np.isfinite(fields["level"])
    user_code, user_names = name_codes(fields["variable"])
    raw.several = len(user_names) > 1
    unit_code, unit_names = np.zeros(1, np.int64), np.array([unit_of_all], object)
    if units is not None:
        unit_code, unit_names = pd.factorize(units.astype(object), use_na_sentinel=False)
    code = (user_code * len(unit_names) + unit_code) * 2 + on_level
    raw.names = all_names(raw.own)
    fields["variable"] = np.zeros(code.size, np.int64)
    default = np.full(code.size, np.nan)
    unknown: dict[str, int] = {}
    for kind in np.sort(pd.unique(code)):
        where = np.flatnonzero(code == kind)
        user_name = user_names[kind // 2 // len(unit_names)]
        match = match_observed(user_name, user_name, on_levels=bool(kind % 2), own=raw.own)
        if match is None:
            unknown[user_name] = unknown.get(user_name, 0) + where.size
            continue
        fields["variable"][where] = raw.names.index(match.name)
        raw.words.setdefault(match.name, user_name)
        unit = _text(unit_names[kind // 2 % len(unit_names)])
        line = to_canonical(raw, user_name, match.name, unit)
        if line != (1.0, 0.0):
            fields["value"][where] = fields["value"][where] * line[0] + line[1]
            if "error_std" in fields:
                fields["error_std"][where] *= line[0]
            if BACKGROUND in fields:
                fields[BACKGROUND][where] = fields[BACKGROUND][where] * line[0] + line[1]
        if "error_std" not in fields:
            default[where] = default_error(raw, match.name, fields["level"][where])
    fields.setdefault("error_std", default)
    for user_name, count in unknown.items():
        raw.problems.append(unknown_variable(user_name, count, raw))


def all_names(own: dict[str, Variable]) -> list[str]:
    """Every name that an observation may have, in alphabetical order."""
    return sorted({*KNOWN, *own})


def _text(unit: object) -> str:
    return "" if unit is None or unit != unit else str(unit)


def default_error(raw: Raw, name: str, level: np.ndarray) -> np.ndarray:
    """Default error at each level: the operator's for a variable of the user's own."""
    if name in raw.own:
        return np.full(np.shape(level), raw.own[name].default_error_std)
    return default_error_std(name, level)
