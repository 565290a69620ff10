"""IODA: netCDF with groups MetaData, ObsValue, ObsError and quality marks by location.

Names of the first files (``air_temperature``, also flat as ``air_temperature@ObsValue``) and of
the present convention (``airTemperature``, versions 2 and 3) are understood. The level of a report
is its pressure. A report is one of the surface where its name says so (``airTemperatureAt2M``),
its ``ObsType`` is one of the surface in the table of prepBUFR (180 to 199, 280 to 299), it has no
pressure and stands at the height of its station, or it is a wind without pressure and height, as
those of scatterometers are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.air import standard_pressure, virtual_factor
from xdiffda.observations.readers.indirect import refuse_indirect
from xdiffda.observations.readers.kinds import is_surface_type, kinds_of
from xdiffda.observations.readers.netcdf import numbers, opened_netcdf, texts, units_of
from xdiffda.observations.readers.reports import Reports
from xdiffda.state.times import TimeTrouble, as_datetimes
from xdiffda.state.units import conversion

_VALUE, _META = "ObsValue", "MetaData"
# Groups about values, the best first; of several outer loops the last one counts.
_ERRORS = (r"EffectiveError(\d*)", r"ObsError()")
_QUALITY = (r"EffectiveQC(\d*)", r"GsiEffectiveQC()", r"PreQC()", r"QualityMarker()")
_BACKGROUND = (r"hofx0()", r"hofx()", r"HofX0()", r"HofX()", r"GsiHofX()")
# The dump of BUFR files marks groups of variables.
_SHORT_MARKS = {
    "dewpointTemperature": "moisture",
    "specificHumidity": "moisture",
    "relativeHumidity": "moisture",
    "windSpeed": "wind",
    "windDirection": "wind",
    "windEastward": "wind",
    "windNorthward": "wind",
    "stationPressure": "pressure",
}
_VIRTUAL = ("virtual_temperature", "virtualTemperature")
_ALTITUDE = ("pressureAltitude", "pressure_altitude", "aircraftPressureAltitude")
_ABOVE_GROUND = 30.0  # m: a thermometer or an anemometer higher than this is not at the surface
# Canonical name: names in IODA, old and new.
_LEVELS = {
    "temperature": ("air_temperature", "airTemperature"),
    "specific_humidity": ("specific_humidity", "specificHumidity"),
    "u_component_of_wind": ("eastward_wind", "windEastward"),
    "v_component_of_wind": ("northward_wind", "windNorthward"),
    "dewpoint_temperature": (
        "dew_point_temperature",
        "dewpoint_temperature",
        "dewPointTemperature",
        "dewpointTemperature",
    ),
    "geopotential": ("geopotential_height", "geopotentialHeight"),
}
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
_WINDS = (
    ("windSpeed", "windDirection", False),
    ("wind_speed", "wind_direction", False),
    ("windSpeedAt10M", "windDirectionAt10M", True),
)
_HUMIDITY = ("relative_humidity", "relativeHumidity")
_PRESSURE = ("pressure", "air_pressure")
_STATION = ("stationIdentification", "station_id", "reportIdentifier", "stationIdentifier")
_HEIGHT = ("stationElevation", "station_elevation")
KIND = "platformType"  # in MetaData: the kind of report in words, where `write_ioda` wrote it

Groups = dict[str, dict[str, Any]]


def is_ioda(file: Any) -> bool:
    """Whether an open netCDF file is laid out in groups as IODA files are, or flat with ``@``."""
    return _VALUE in file.groups or _META in file.groups or any("@" in n for n in file.variables)


def read_ioda(path: Path, *, heights: str | None = None) -> xr.Dataset:
    """Read an IODA file.

    With ``heights="standard"`` heights aloft without a pressure are brought to one through the ICAO
    standard atmosphere.
    """
    with opened_netcdf(path) as file:
        groups = _groups(file)
        _need_groups(path, groups)
        start = str(getattr(file, "date_time", ""))
        reports = _places(path, groups, start, heights)
        _values(groups, reports)
    if not any(np.isfinite(column.value).any() for column in reports.columns):
        refuse_indirect(path, [f"{_VALUE}/{word}" for word in groups[_VALUE]])
    obs = reports.to_dataset()
    if not obs.sizes["obs"] and (height := reports.place.get("height")) is not None:
        _refuse_heights(path, height, reports)
    return obs


def _refuse_heights(path: Path, height: np.ndarray, reports: Reports) -> None:
    """Raise the error for reports aloft that have heights and no pressure."""
    known = height[np.isfinite(height)]
    if known.size and "level" in reports.place and np.isnan(reports.place["level"]).all():
        problem = Problem(
            f"reports at heights of {known.min():.0f} to {known.max():.0f} m without a pressure",
            f"{_META}/pressure, or heights that are pressure altitudes, which the ICAO standard "
            f"atmosphere takes to pressures",
            f"xdiffda.read_obs({str(path)!r}, heights='standard')",
        )
        raise InputError([problem], what=str(path))


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
        raise InputError(
            [
                Problem(
                    f"groups {found}" if groups else found,
                    f"{' and '.join(absent)} of an IODA file",
                    f"xdiffda.read_obs({str(path)!r}, format='netcdf')",
                )
            ],
            what=str(path),
        )


def _places(path: Path, groups: Groups, start: str, heights: str | None) -> Reports:
    meta = groups[_META]
    lat, lon = (_first(meta, (word, word.capitalize())) for word in ("latitude", "longitude"))
    time = _times(meta, start)
    found = {"latitude": lat, "longitude": lon, "dateTime": time}
    if lat is None or lon is None or time is None:
        problems = [
            Problem(f"{_META} with {', '.join(meta)}", f"{_META}/{word}", f"ncdump -h {path}")
            for word, values in found.items()
            if values is None
        ]
        raise InputError(problems, what=str(path))
    place = {"lat": lat, "lon": lon, "time": time, "level": np.full(lat.size, np.nan)}
    for group in (_META, _VALUE):
        level = _first(groups[group], _PRESSURE, "surface_pressure", "Pa")
        if level is not None and level.size == lat.size:
            place["level"] = level / 100.0
            break
    if (elevation := _first(meta, _HEIGHT)) is not None:
        place["station_height"] = elevation
    if word := next((name for name in _STATION if name in meta), None):
        place["station"] = texts(meta[word])
    reports = Reports(place)
    _kinds(groups, reports)
    _heights(meta, reports, heights)
    return reports


def _kinds(groups: Groups, reports: Reports) -> None:
    """The kind of each report by its ObsType, which is the same for all its variables."""
    n = reports.place["lat"].size
    if KIND in groups[_META]:
        reports.place["kind"] = texts(groups[_META][KIND])
        return
    code = np.full(n, np.nan)
    for variable in groups.get("ObsType", {}).values():
        if variable.shape == (n,):
            values = numbers(variable)
            code = np.where(np.isfinite(code), code, np.where(values > 0, values, np.nan))
    if np.isfinite(code).any():
        reports.place["kind"] = kinds_of(code)


def _heights(meta: dict[str, Any], reports: Reports, heights: str | None) -> None:
    """Heights of reports, and pressures from those that are pressure altitudes."""
    altitude = _first(meta, _ALTITUDE)
    height = _first(meta, ("height", "altitude"))
    if altitude is None and height is not None:
        word = "height" if "height" in meta else "altitude"
        said = " ".join(
            str(getattr(meta[word], name, "")) for name in ("long_name", "standard_name")
        )
        if heights == "standard" or "pressure altitude" in said.lower().replace("_", " "):
            altitude = height
    if height is not None:
        reports.place["height"] = height
    if altitude is None:
        return
    ground = reports.place.get("station_height", np.full(altitude.shape, np.nan))
    level = reports.place["level"]
    # close to the ground a report is one of the surface, and needs no pressure
    wanted = np.isnan(level) & np.isfinite(altitude) & ~(altitude - ground <= _ABOVE_GROUND)
    reports.place["level"] = np.where(wanted, standard_pressure(altitude) / 100.0, level)
    reports.assume("pressures from heights through the ICAO standard atmosphere", int(wanted.sum()))


def _first(
    group: dict[str, Any], names: tuple[str, ...], like: str = "", default: str = ""
) -> np.ndarray | None:
    """The first of these variables as numbers, in the units of ``like`` where one is given."""
    word = next((name for name in names if name in group), None)
    if word is None:
        return None
    values = numbers(group[word])
    if like and (line := conversion(units_of(group[word]) or default, like)):
        values = values * line[0] + line[1]
    return values


def _times(meta: dict[str, Any], start: str) -> np.ndarray | None:
    """Times from seconds since a date, from text, or from hours after the date of the file."""
    if "dateTime" in meta:
        stamps = meta["dateTime"][:]
        attrs = {"units": units_of(meta["dateTime"])}
        times = _as_times(np.ma.filled(stamps, 0), attrs)
        return np.where(np.ma.getmaskarray(stamps), np.datetime64("NaT"), times)
    if "datetime" in meta:
        return _as_times(texts(meta["datetime"]).astype(object), {})
    if "time" in meta and len(start) == 10 and start.isdigit():
        day = f"{start[:4]}-{start[4:6]}-{start[6:8]}T{start[8:]}:00"
        return _as_times(numbers(meta["time"]), {"units": f"hours since {day}"})
    return None


def _as_times(values: np.ndarray, attrs: dict[str, str]) -> np.ndarray:
    try:
        return as_datetimes(values, attrs)
    except TimeTrouble:
        return np.full(values.shape, np.datetime64("NaT", "ns"))


def _values(groups: Groups, reports: Reports) -> None:
    values, n = groups[_VALUE], reports.place["lat"].size
    reports.marks = _rule(groups)
    flat = {
        word
        for word, v in values.items()
        if v.shape == (n,) and v.dtype is not str and np.dtype(v.dtype).kind in "iuf"
    }
    used = set() if any(name in groups[_META] for name in _PRESSURE) else {*_PRESSURE}
    for names, at_level in ((_LEVELS, True), (_SURFACE, False)):
        for name, words in names.items():
            for word in flat.intersection(words):
                used.add(word)
                surface = _surface_of(groups, word, reports) if at_level else None
                units = units_of(values[word]) or ("gpm" if name == "geopotential" else "")
                reports.add(
                    f"{_VALUE}/{word}",
                    name,
                    numbers(values[word]),
                    units=units,
                    surface=surface,
                    **_beside(groups, word, n),
                )
    _virtual(groups, reports, flat, used)
    for word in flat.intersection(_HUMIDITY):
        if units := units_of(values[word]):  # without them 1 is saturated, or dry
            used.add(word)
            aloft = ~_surface_of(groups, word, reports)
            reports.add(
                f"{_VALUE}/{word}",
                "relative_humidity",
                np.where(aloft, numbers(values[word]), np.nan),
                units=units,
                count_missing=False,
                **_beside(groups, word, n),
            )
            at_surface = np.isfinite(numbers(values[word])) & ~aloft
            reports.unused[f"{_VALUE}/{word} at 2 m"] += int(at_surface.sum())
    for speed, direction, at_surface in _WINDS:
        if speed not in flat:
            continue
        used |= {speed, direction} & flat
        nothing = np.full(n, np.nan)
        turned = numbers(values[direction]) if direction in flat else nothing
        beside = _beside(groups, speed, n)
        if direction in flat:
            beside.pop("background")  # that of a speed is none of its components
        reports.add_wind(
            numbers(values[speed]),
            turned,
            surface=_surface_of(groups, speed, reports) | at_surface,
            units=units_of(values[speed]) or "m s-1",
            count_missing=direction in flat,
            **beside,
        )
    for word in values.keys() - used:
        reports.unused[f"{_VALUE}/{word}"] += _count(values[word])


def _virtual(groups: Groups, reports: Reports, flat: set[str], used: set[str]) -> None:
    """Virtual temperatures as temperatures, where the humidity is there and no temperature is."""
    values = groups[_VALUE]
    word = next((word for word in _VIRTUAL if word in flat), None)
    moist = next((name for name in _LEVELS["specific_humidity"] if name in flat), None)
    if (
        word is None
        or moist is None
        or (line := conversion(units_of(values[moist]) or "kg kg-1", "specific_humidity")) is None
    ):
        return
    used.add(word)
    n = reports.place["lat"].size
    warm, humidity = numbers(values[word]), numbers(values[moist]) * line[0] + line[1]
    dry = np.full(n, np.nan)
    for name in flat.intersection(_LEVELS["temperature"]):
        dry = np.where(np.isfinite(dry), dry, numbers(values[name]))
    beside = _beside(groups, word, n)
    beside.pop("background")  # of the virtual temperature
    temperature = np.where(np.isfinite(dry), np.nan, warm / virtual_factor(humidity))
    reports.add(
        f"{_VALUE}/{word}",
        "temperature",
        temperature,
        units=units_of(values[word]) or "K",
        surface=_surface_of(groups, word, reports),
        count_missing=False,
        **beside,
    )
    left = np.isfinite(warm) & ~np.isfinite(temperature)
    reports.unused[f"{_VALUE}/{word}"] += int(left.sum())
    reports.assume(
        "temperatures from virtual temperatures and the humidity of the file",
        int(np.isfinite(temperature).sum()),
    )


def _count(variable: Any) -> int:
    if variable.dtype is str or np.dtype(variable.dtype).kind not in "iuf":
        return int(np.size(variable[:]))
    return int(np.isfinite(numbers(variable)).sum())


def _rule(groups: Groups) -> str:
    """By which marks values are judged: those of one kind of group, the best that is there."""
    for pattern in _QUALITY:
        if _best(groups, pattern):
            return re.sub(r"\(.*", "", pattern).removeprefix("Gsi")
    return ""


def _best(groups: Groups, pattern: str) -> str | None:
    """The group of this pattern with the largest number at its end."""
    found = {name: match for name in groups if (match := re.fullmatch(pattern, name))}
    return max(found, key=lambda name: int(found[name][1] or -1), default=None)


def _beside(groups: Groups, word: str, n: int) -> dict[str, np.ndarray | None]:
    """Error, quality mark and background of a variable, where the file has them by location."""
    best = next((group for p in _QUALITY if (group := _best(groups, p))), None)
    found = {"quality": _of_group(groups, best, word, n) if best else None}
    if best and found["quality"] is None and word in _SHORT_MARKS:
        found["quality"] = _of_group(groups, best, _SHORT_MARKS[word], n)
    error = None
    for pattern in _ERRORS:
        if group := _best(groups, pattern):
            stated = _of_group(groups, group, word, n)
            if error is None:
                error = stated
            elif stated is not None:  # where the better one says nothing
                error = np.where(error > 0, error, stated)
    found["error"] = error
    group = next((group for p in _BACKGROUND if (group := _best(groups, p))), None)
    found["background"] = _of_group(groups, group, word, n) if group else None
    return found


def _of_group(groups: Groups, group: str, word: str, n: int) -> np.ndarray | None:
    variable = groups[group].get(word)
    if variable is None or variable.shape != (n,) or variable.dtype is str:
        return None
    return numbers(variable)


def _surface_of(groups: Groups, word: str, reports: Reports) -> np.ndarray:
    """Which reports of a variable are of the surface."""
    place = reports.place
    n = place["lat"].size
    nothing = np.full(n, np.nan)
    variable = groups.get("ObsType", {}).get(word)
    by_type = np.zeros(n, bool)
    if variable is not None and variable.shape == (n,):
        by_type = is_surface_type(numbers(variable))
    height, ground = place.get("height", nothing), place.get("station_height", nothing)
    unplaced = np.isnan(place["level"])
    on_ground = unplaced & (np.abs(height - ground) <= _ABOVE_GROUND)
    nowhere = unplaced & np.isnan(height)
    has_pressure = any(name in groups[g] for g in (_META, _VALUE) for name in _PRESSURE)
    if has_pressure:  # a report aloft whose pressure is missing is no report of the surface
        nowhere[:] = False
    if "wind" not in word.lower():
        nowhere &= np.isfinite(ground)
    return by_type | on_ground | nowhere
