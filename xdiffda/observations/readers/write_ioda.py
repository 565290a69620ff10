"""Write observations as IODA, version 3: what JEDI reads, and `read_obs` too."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import Problem, raise_if
from xdiffda.observations.readers.ioda import KIND
from xdiffda.observations.readers.marks import RULES, good_marks
from xdiffda.observations.readers.own import states_errors
from xdiffda.observations.readers.reports import MARKS
from xdiffda.observations.table import first_seen, readable, tidy_of
from xdiffda.state.variables import G0
from xdiffda.storage.files import check_target, in_one_piece

if TYPE_CHECKING:
    import pandas as pd

# Variable -> its name in the convention, the units there, and what 1 of them is in ours.
_NAMES = {
    "temperature": ("airTemperature", "K", 1.0),
    "specific_humidity": ("specificHumidity", "kg kg-1", 1.0),
    "relative_humidity": ("relativeHumidity", "%", 1.0),
    "dewpoint_temperature": ("dewPointTemperature", "K", 1.0),
    "u_component_of_wind": ("windEastward", "m s-1", 1.0),
    "v_component_of_wind": ("windNorthward", "m s-1", 1.0),
    "wind_speed": ("windSpeed", "m s-1", 1.0),
    "geopotential": ("geopotentialHeight", "m", G0),
    "2m_temperature": ("airTemperatureAt2M", "K", 1.0),
    "2m_dewpoint_temperature": ("dewPointTemperatureAt2M", "K", 1.0),
    "2m_specific_humidity": ("specificHumidityAt2M", "kg kg-1", 1.0),
    "10m_u_component_of_wind": ("windEastwardAt10M", "m s-1", 1.0),
    "10m_v_component_of_wind": ("windNorthwardAt10M", "m s-1", 1.0),
    "10m_wind_speed": ("windSpeedAt10M", "m s-1", 1.0),
    "surface_pressure": ("stationPressure", "Pa", 1.0),
    "mean_sea_level_pressure": ("pressureReducedToMeanSeaLevel", "Pa", 1.0),
    "sea_surface_temperature": ("seaSurfaceTemperature", "K", 1.0),
}
# Field of the table -> name and units in MetaData, and what 1 of them is in ours.
_PLACES = {
    "lat": ("latitude", "degrees_north", 1.0),
    "lon": ("longitude", "degrees_east", 1.0),
    "level": ("pressure", "Pa", 0.01),
    "station_height": ("stationElevation", "m", 1.0),
}
_WORDS = {"station": "stationIdentification", "kind": KIND}
_SECONDS = "seconds since 1970-01-01T00:00:00Z"
_FILL = np.int32(-2147483647)
# Rules whose marks have a group; marks of other rules become marks of prepBUFR.
_GROUPS = {"prepbufr": "PreQC", **{n: n for n in ("PreQC", "QualityMarker", "EffectiveQC")}}
_GOOD, _BAD = 2.0, 15.0
# Flags of quality control -> codes of UFO's QCflags: filters of the same purpose.
_FLAGS = {"used": 0, "bad_mark": 11, "out_of_range": 12, "outside_levels": 13, "duplicate": 16}
_FLAGS |= {"outside_window": 13, "gross_error": 19}
_OTHER_FLAG = 14  # on a list of rejected reports


def write_ioda(
    obs: xr.Dataset | pd.DataFrame, path: str | os.PathLike, *, overwrite: bool = False
) -> Path:
    """Write observations as an IODA file, version 3, all or nothing.

    Parameters
    ----------
    obs
        Observations in any accepted form, with a time for each; with flags where
        ``xdiffda.quality.screen`` made them, which become ``EffectiveQC``.
    path
        Where to (``.nc4`` or ``.nc``). Its folder must exist.
    overwrite
        Whether what is there may be replaced.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    InputError
        If an observation has no time, or is of a variable that the convention has no name for.
    StorageError
        If it cannot be written; what existed is untouched.

    Notes
    -----
    Groups ``MetaData``, ``ObsValue`` and, where the observations have them, ``ObsError``,
    ``PreQC`` (or the group by whose rule the marks are read) and ``hofx0`` on ``Location``, which
    is a place, level, time and station. Marks of other forms (MADIS, ISD, ...) become 2 where they
    are good and 15 where they are bad; marks without a rule are left out with a warning. `read_obs`
    gives the same values, places, times (whole seconds), errors and backgrounds, report by report;
    pressures and heights to the last bit but one, as they are kept in other units. Names and units
    are those of JCSDA, "IODA data conventions".

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> import xdiffda
    >>> table = pd.DataFrame({"variable": ["t", "u"], "lat": 48.2, "lon": 16.4, "level": 500.0,
    ...                       "time": pd.Timestamp("2020-01-01"), "value": [250.0, 12.5]})
    >>> path = write_ioda(table, Path(tempfile.mkdtemp()) / "obs.nc4")
    >>> obs = xdiffda.read_obs(path)
    >>> obs["variable"].values.tolist(), obs["value"].values.tolist()
    (['temperature', 'u_component_of_wind'], [250.0, 12.5])
    """
    target = Path(path).expanduser()
    flags = np.asarray(obs["flag"]) if "flag" in getattr(obs, "variables", obs) else None
    rule = str(obs.attrs.get(MARKS, ""))
    raw = readable(obs)
    raise_if(raw.problems, what="observations")
    stated = states_errors(raw)
    tidy = tidy_of(raw)
    _need_names_and_times(tidy)
    check_target(target, overwrite=overwrite)
    location, first = _locations(tidy)
    groups = {"MetaData": _meta(tidy, first), "ObsValue": {}}
    fields = {"ObsValue": tidy["value"].values}
    if stated:
        fields["ObsError"] = tidy["error_std"].values
    if "background" in tidy:
        fields["hofx0"] = tidy["background"].values
    if flags is not None and flags.size == tidy.sizes["obs"]:
        codes = [_FLAGS.get(str(flag), _OTHER_FLAG) for flag in flags]
        fields["EffectiveQC"] = np.array(codes, np.float64)
    if "quality" in tidy:
        fields |= {k: v for k, v in _quality(tidy, rule).items() if k not in fields}
    for name in dict.fromkeys(tidy["variable"].values.tolist()):
        where = np.flatnonzero(tidy["variable"].values == name)
        word, units, one = _NAMES[name]
        for group, values in fields.items():
            marks = group not in ("ObsValue", "ObsError", "hofx0")
            column = np.full(first.size, np.nan)
            column[location[where]] = values[where] / (1.0 if marks else one)
            kept = _as_codes(column) if marks else _narrow(column)
            groups.setdefault(group, {})[word] = (kept, "" if marks else units)
    with in_one_piece(target) as partial:
        _write(partial, first.size, groups)
    return target


def _need_names_and_times(tidy: xr.Dataset) -> None:
    problems = []
    for name in np.unique(tidy["variable"].values).tolist():
        if name not in _NAMES:
            problems.append(
                Problem(
                    f"observations of {name}",
                    f"variables that IODA has a name for: {', '.join(_NAMES)}",
                    f'obs.isel(obs=obs["variable"].values != {name!r})',
                )
            )
    missing = int(np.isnat(tidy["time"].values).sum())
    if missing:
        problems.append(
            Problem(
                f"{missing} observations without a time",
                "a time for each",
                'obs.assign_coords(time=("obs", times))',
            )
        )
    raise_if(problems, what="write_ioda")


def _locations(tidy: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Location of each observation, and the first observation of each location.

    What shares a place, level, time and station is one; a second value of the same variable there
    gets a location of its own.
    """
    import pandas as pd

    keys = ("lat", "lon", "time", "level", *_WORDS, "station_height")
    place = first_seen([tidy[name].values for name in keys if name in tidy.variables])
    again = pd.DataFrame({"place": place, "name": tidy["variable"].values})
    location = first_seen([place, again.groupby(["place", "name"]).cumcount().to_numpy()])
    return location, np.unique(location, return_index=True)[1]


def _meta(tidy: xr.Dataset, first: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    seconds = tidy["time"].values[first].astype("datetime64[ns]").astype(np.int64) / 1e9
    out: dict[str, tuple[np.ndarray, str]] = {
        "dateTime": (np.rint(seconds).astype(np.int64), _SECONDS)
    }
    for name, (word, units, one) in _PLACES.items():
        if name in tidy.variables and np.isfinite(tidy[name].values).any():
            out[word] = _narrow(tidy[name].values[first] / one), units
    for name, word in _WORDS.items():
        if name in tidy.variables:
            out[word] = tidy[name].values[first].astype(str).astype(object), ""
    return out


def _quality(tidy: xr.Dataset, rule: str) -> dict[str, np.ndarray]:
    """Marks in the group by whose rule they are read."""
    if rule in _GROUPS:
        return {_GROUPS[rule]: np.asarray(tidy["quality"].values, np.float64)}
    if rule not in RULES:
        warnings.warn(
            "marks of quality without a rule by which they are read are not written; "
            f"obs.attrs[{MARKS!r}] = 'prepbufr' says one",
            stacklevel=3,
        )
        return {}
    return {"PreQC": np.where(good_marks(tidy), _GOOD, _BAD)}


def _narrow(values: np.ndarray) -> np.ndarray:
    """Single precision, as is usual in these files, where nothing is lost; else double."""
    single = values.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), values, equal_nan=True) else values


def _as_codes(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), np.rint(np.nan_to_num(values)), _FILL).astype(np.int32)


def _write(path: Path, n: int, groups: dict[str, dict[str, tuple[np.ndarray, str]]]) -> None:
    import netCDF4

    with netCDF4.Dataset(path, "w") as file:
        file.setncattr_string("_ioda_layout", "ObsGroup")
        file.setncattr("_ioda_layout_version", np.int32(0))
        file.createDimension("Location", n)
        file.createVariable("Location", np.int64, "Location")[:] = np.arange(n)
        for group, columns in groups.items():
            home = file.createGroup(group)
            for word, (values, units) in columns.items():
                _add(home, word, values, units)


def _add(home: Any, word: str, values: np.ndarray, units: str) -> None:
    import netCDF4

    if values.dtype == object:
        home.createVariable(word, str, "Location")[:] = values
        return
    fill = _FILL if values.dtype.kind == "i" else netCDF4.default_fillvals["f4"]
    if values.dtype == np.int64:
        fill = np.int64(-(2**63))
    variable = home.createVariable(
        word, values.dtype, "Location", fill_value=fill, compression="zlib", fletcher32=True
    )
    if units:
        variable.units = units
    variable[:] = np.where(np.isnan(values), fill, values) if values.dtype.kind == "f" else values
