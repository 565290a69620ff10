"""IODA: netCDF with groups MetaData, ObsValue, ObsError and quality marks by location.

Names of the first files (``air_temperature``, also flat as ``air_temperature@ObsValue``) and of
the present convention (``airTemperature``) are understood. The level of a report is its pressure;
reports of the surface are those whose name says so (``airTemperatureAt2M``) or whose ``ObsType``
is one of the surface in the table of prepBUFR report types (180 to 199, 280 to 299).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .._times import TimeTrouble, as_datetimes
from .._units import conversion
from ..errors import InputError, Problem
from ._content import damaged
from ._reports import Reports

_VALUE, _META = "ObsValue", "MetaData"
_ERRORS = ("ObsError",)
_QUALITY = ("PreQC", "QualityMarker")
# Canonical name: names in IODA, old and new.
_LEVELS = {
    "temperature": ("air_temperature", "airTemperature"),
    "specific_humidity": ("specific_humidity", "specificHumidity"),
    "u_component_of_wind": ("eastward_wind", "windEastward"),
    "v_component_of_wind": ("northward_wind", "windNorthward"),
    "dewpoint_temperature": ("dew_point_temperature", "dewpoint_temperature",
                             "dewPointTemperature", "dewpointTemperature"),
    "geopotential": ("geopotential_height", "geopotentialHeight"),
}  # fmt: skip
_SURFACE = {
    "2m_temperature": ("airTemperatureAt2M",),
    "2m_dewpoint_temperature": ("dewpointTemperatureAt2M", "dewPointTemperatureAt2M"),
    "2m_specific_humidity": ("specificHumidityAt2M",),
    "10m_u_component_of_wind": ("windEastwardAt10M",),
    "10m_v_component_of_wind": ("windNorthwardAt10M",),
    "surface_pressure": ("surface_pressure", "stationPressure", "surfacePressure"),
    "mean_sea_level_pressure": ("mean_sea_level_pressure", "pressureReducedToMeanSeaLevel"),
    "sea_surface_temperature": ("sea_surface_temperature", "seaSurfaceTemperature"),
}
_WINDS = (("windSpeed", "windDirection", False), ("wind_speed", "wind_direction", False),
          ("windSpeedAt10M", "windDirectionAt10M", True))  # fmt: skip
_HUMIDITY = ("relative_humidity", "relativeHumidity")
_PRESSURE = ("pressure", "air_pressure")
_STATION = ("stationIdentification", "station_id", "reportIdentifier", "stationIdentifier")
_HEIGHT = ("stationElevation", "station_elevation")

Groups = dict[str, dict[str, Any]]


def is_ioda(path: Path) -> bool:
    """Whether a netCDF file is laid out in groups as IODA files are, or flat with ``@``."""
    with _opened(path) as file:
        return (
            _VALUE in file.groups or _META in file.groups or any("@" in n for n in file.variables)
        )


def read_ioda(path: Path) -> xr.Dataset:
    """Read an IODA file."""
    with _opened(path) as file:
        groups = _groups(file)
        _need_groups(path, groups)
        start = str(getattr(file, "date_time", ""))
        try:
            reports = _places(path, groups, start)
            _values(groups, reports)
        except (OSError, RuntimeError) as error:  # of the netCDF library: bytes are absent
            raise damaged(path, error) from error
    return reports.to_dataset()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import netCDF4

    try:
        file = netCDF4.Dataset(path)
    except (OSError, RuntimeError) as error:
        raise damaged(path, error) from error
    with file:
        yield file


def _groups(file: Any) -> Groups:
    groups: Groups = {name: dict(group.variables) for name, group in file.groups.items()}
    for name, variable in file.variables.items():
        base, at, group = name.partition("@")
        if at:
            groups.setdefault(group, {})[base] = variable
    return groups


def _need_groups(path: Path, groups: Groups) -> None:
    absent = [name for name in (_META, _VALUE) if not groups.get(name)]
    if absent:
        found = ", ".join(groups) or "no groups"
        raise InputError([Problem(
            f"groups {found}" if groups else found, f"{' and '.join(absent)} of an IODA file",
            f"xdiffda.read_obs({str(path)!r}, format='netcdf')",
        )], what=str(path))  # fmt: skip


def _places(path: Path, groups: Groups, start: str) -> Reports:
    meta = groups[_META]
    lat, lon = (_first(meta, (word, word.capitalize())) for word in ("latitude", "longitude"))
    time = _times(meta, start)
    absent = [w for w, v in zip(("latitude", "longitude", "dateTime"), (lat, lon, time),
                                strict=True) if v is None]  # fmt: skip
    if lat is None or lon is None or time is None:
        raise InputError([Problem(
            f"{_META} with {', '.join(meta)}", f"{_META}/{word}", f"ncdump -h {path}",
        ) for word in absent], what=str(path))  # fmt: skip
    place = {"lat": lat, "lon": lon, "time": time, "level": np.full(lat.size, np.nan)}
    for group in (_META, _VALUE):
        level = _first(groups[group], _PRESSURE, "surface_pressure", "Pa")
        if level is not None and level.size == lat.size:
            place["level"] = level / 100.0
            break
    if (height := _first(meta, _HEIGHT)) is not None:
        place["station_height"] = height
    if word := next((name for name in _STATION if name in meta), None):
        place["station"] = _texts(meta[word])
    return Reports(place)


def _first(
    group: dict[str, Any], names: tuple[str, ...], like: str = "", default: str = ""
) -> np.ndarray | None:
    """The first of these variables as numbers, in the units of ``like`` where one is given."""
    word = next((name for name in names if name in group), None)
    if word is None:
        return None
    values = _numbers(group[word])
    if like and (line := conversion(_units(group[word]) or default, like)):
        values = values * line[0] + line[1]
    return values


def _times(meta: dict[str, Any], start: str) -> np.ndarray | None:
    """Times from seconds since a date, from text, or from hours after the date of the file."""
    if "dateTime" in meta:
        stamps = meta["dateTime"][:]
        attrs = {"units": _units(meta["dateTime"])}
        times = _as_times(np.ma.filled(stamps, 0), attrs)
        return np.where(np.ma.getmaskarray(stamps), np.datetime64("NaT"), times)
    if "datetime" in meta:
        return _as_times(_texts(meta["datetime"]).astype(object), {})
    if "time" in meta and len(start) == 10 and start.isdigit():
        day = f"{start[:4]}-{start[4:6]}-{start[6:8]}T{start[8:]}:00"
        return _as_times(_numbers(meta["time"]), {"units": f"hours since {day}"})
    return None


def _as_times(values: np.ndarray, attrs: dict[str, str]) -> np.ndarray:
    try:
        return as_datetimes(values, attrs)
    except TimeTrouble:
        return np.full(values.shape, np.datetime64("NaT", "ns"))


def _units(variable: Any) -> str:
    units = str(getattr(variable, "units", "")).strip()
    return "" if units == "unitless" else units


def _numbers(variable: Any) -> np.ndarray:
    """Values as float64, NaN where missing; huge ones are fill values that nobody declared."""
    values = np.ma.filled(np.ma.asarray(variable[:]).astype(np.float64), np.nan)
    return np.where(np.abs(values) > 1e30, np.nan, values)


def _texts(variable: Any) -> np.ndarray:
    import netCDF4

    values = np.ma.filled(variable[:]) if variable.dtype is not str else variable[:]
    values = np.asarray(values)
    if values.dtype.kind == "S" and values.ndim == 2:
        values = netCDF4.chartostring(values, "utf-8")
    return np.char.strip(values.astype(str), "\0 ")


def _values(groups: Groups, reports: Reports) -> None:
    values, n = groups[_VALUE], reports.place["lat"].size
    flat = {word for word, v in values.items() if v.shape == (n,) and v.dtype is not str
            and np.dtype(v.dtype).kind in "iuf"}  # fmt: skip
    used = set() if any(name in groups[_META] for name in _PRESSURE) else {*_PRESSURE}
    for names, at_level in ((_LEVELS, True), (_SURFACE, False)):
        for name, words in names.items():
            for word in flat.intersection(words):
                used.add(word)
                marks = _marks(groups, word, n)
                surface = _surface_of(groups, word, n) if at_level else None
                units = _units(values[word]) or ("gpm" if name == "geopotential" else "")
                reports.add(f"{_VALUE}/{word}", name, _numbers(values[word]), units=units,
                            surface=surface, **marks)  # fmt: skip
    for word in flat.intersection(_HUMIDITY):
        if units := _units(values[word]):  # without them 1 is saturated, or dry
            used.add(word)
            reports.add(f"{_VALUE}/{word}", "relative_humidity", _numbers(values[word]),
                        units=units, **_marks(groups, word, n))  # fmt: skip
    for speed, direction, at_surface in _WINDS:
        if {speed, direction} <= flat:
            used |= {speed, direction}
            surface = _surface_of(groups, speed, n) | at_surface
            reports.add_wind(
                _numbers(values[speed]), _numbers(values[direction]), surface=surface,
                units=_units(values[speed]) or "m s-1", **_marks(groups, speed, n),
            )  # fmt: skip
    for word in values.keys() - used:
        reports.unused[f"{_VALUE}/{word}"] += _count(values[word])


def _count(variable: Any) -> int:
    if variable.dtype is str or np.dtype(variable.dtype).kind not in "iuf":
        return int(np.size(variable[:]))
    return int(np.isfinite(_numbers(variable)).sum())


def _marks(groups: Groups, word: str, n: int) -> dict[str, np.ndarray | None]:
    """Error and quality mark of a variable, where the file has them by location."""
    found: dict[str, np.ndarray | None] = {"error": None, "quality": None}
    for key, names in (("error", _ERRORS), ("quality", _QUALITY)):
        for group in names:
            variable = groups.get(group, {}).get(word)
            if variable is not None and variable.shape == (n,):
                found[key] = _numbers(variable)
                break
    return found


def _surface_of(groups: Groups, word: str, n: int) -> np.ndarray:
    """Which reports of a variable are of the surface, by the type of report."""
    variable = groups.get("ObsType", {}).get(word)
    if variable is None or variable.shape != (n,):
        return np.zeros(n, bool)
    kind = np.mod(_numbers(variable), 100)
    return (kind >= 80) & (kind < 100)
