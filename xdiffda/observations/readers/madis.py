"""MADIS: netCDF of METARs, ships and buoys, mesonets, aircraft, profilers, soundings, cloud winds.

The variables of each data set have names of their own; the mark of ``name`` is the letter
``nameDD``, where that is absent the failed checks are the bits of ``nameQCR`` (2: validity, which
is stage 1; all others are of stages 2 and 3). Source: MADIS, "Quality control" and the netCDF
headers of its data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.air import standard_pressure
from xdiffda.observations.readers.fields import Field, Meaning, add_fields
from xdiffda.observations.readers.netcdf import numbers, opened_netcdf, texts, units_of
from xdiffda.observations.readers.reports import Reports
from xdiffda.state.times import TimeTrouble, as_datetimes

_WHERE = {
    "lat": ("latitude", "staLat", "obLat", "obsLat"),
    "lon": ("longitude", "staLon", "obLon", "obsLon"),
    "station_height": ("elevation", "staElev"),
    "time": ("timeObs", "observationTime", "relTime", "synTime", "validTime"),
    "station": (
        "stationName",
        "stationId",
        "wmoStaNum",
        "staName",
        "en_tailNumber",
        "tailNumber",
        "satelliteId",
        "satelliteID",
    ),
}
_SURFACE = Meaning(
    {
        "temperature": "2m_temperature",
        "dewpoint": "2m_dewpoint_temperature",
        "stationPressure": "surface_pressure",
        "seaLevelPress": "mean_sea_level_pressure",
        "seaLevelPressure": "mean_sea_level_pressure",
        "seaSurfaceTemp": "sea_surface_temperature",
    },
    winds=(("windSpeed", "windDir"),),
    altimeter="altimeter",
)
_ALOFT = Meaning(
    {
        "temperature": "temperature",
        "dewpoint": "dewpoint_temperature",
        "relHumidity": "relative_humidity",
        "downlinkedRH": "relative_humidity",
        "uComponent": "u_component_of_wind",
        "vComponent": "v_component_of_wind",
        "height": "geopotential",
    },
    winds=(("windSpeed", "windDir"), ("windSpd", "windDir")),
)
# Levels of a sounding: the end of their names -> what is there. Of winds at heights the pressure
# is found; tropopause and maximum wind repeat significant levels.
_PARTS = {
    "Man": {"p": "prMan", "height": "htMan", "t": "tpMan", "td": "tdMan", "w": "Man"},
    "SigT": {"p": "prSigT", "t": "tpSigT", "td": "tdSigT"},
    "SigPrW": {"p": "prSigW", "w": "SigPrW"},
    "SigW": {"height": "htSigW", "w": "SigW"},
}
_REPEATED = ("prTrop", "prMaxW")
_VALIDITY = 2
# What is neither observed nor of use: marks, counts, codes.
_ABOUT = ("DD", "QCA", "QCR", "QCD", "ICA", "ICR", "Time")


def is_madis(file: Any) -> bool:
    """Whether an open netCDF file has the records and names of a MADIS data set."""
    by_record = {name for name, v in file.variables.items() if v.dimensions == ("recNum",)}
    return all(by_record & {*_WHERE[role]} for role in ("lat", "lon", "time"))


def read_madis(path: Path) -> xr.Dataset:
    """Read a file of any of these data sets."""
    with opened_netcdf(path) as file:
        v = file.variables
        if not is_madis(file):
            problem = Problem(
                f"netCDF with {', '.join(list(v)[:8]) or 'no variables'}",
                "records (recNum) with latitude, longitude and timeObs, as MADIS has them",
                f"xdiffda.read_obs({str(path)!r})",
            )
            raise InputError([problem], what=str(path))
        if "prMan" in v:
            reports = _soundings(v)
        elif "levels" in v and "uComponent" in v:
            reports = _profiles(v)
        elif "windSpd" in v:
            reports = _one_level(v, "amv")
        elif "altitude" in v and "elevation" not in v:
            reports = _one_level(v, "aircraft")
        else:
            reports = _surface(v)
        return reports.to_dataset()


def _places(v: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
    """Places, times and names of the records; of several times the first one that is known."""
    place: dict[str, np.ndarray] = {}
    for role in ("lat", "lon", "station_height"):
        if word := next((w for w in _WHERE[role] if w in v and v[w].ndim == 1), None):
            place[role] = numbers(v[word])
    n = place["lat"].size
    time = np.full(n, np.datetime64("NaT", "ns"))
    for word in _WHERE["time"]:
        if word in v and v[word].shape == (n,):
            time = np.where(np.isnat(time), _times(v[word]), time)
    place["time"] = time
    if word := next((w for w in _WHERE["station"] if w in v and v[w].shape[:1] == (n,)), None):
        code = v[word]
        text = code.dtype is str or code.dtype.kind == "S"
        place["station"] = texts(code) if text else _codes(numbers(code))
    place["kind"] = np.full(n, kind)
    return place


def _codes(values: np.ndarray) -> np.ndarray:
    return np.array([f"{value:05.0f}" if np.isfinite(value) else "" for value in values], str)


def _times(variable: Any) -> np.ndarray:
    seconds = numbers(variable)
    known = np.isfinite(seconds) & (np.abs(seconds) < 1e11)
    try:
        times = as_datetimes(np.where(known, seconds, 0.0), {"units": units_of(variable)})
    except TimeTrouble:
        return np.full(seconds.shape, np.datetime64("NaT", "ns"))
    return np.where(known, times, np.datetime64("NaT", "ns"))


def _field(v: Mapping[str, Any], word: str, default: str = "") -> Field:
    """Values, units and marks of a variable, record by record and level by level."""
    value = numbers(v[word])
    return Field(value.ravel(), units_of(v[word]) or default, _marks(v, word, value.shape))


def _marks(v: Mapping[str, Any], word: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if f"{word}DD" in v:
        letters = np.ma.filled(v[f"{word}DD"][:], b"").astype("S1").astype(str)
        if letters.size == np.prod(shape, dtype=int):
            return np.char.strip(letters.ravel(), "\0 ")
    if f"{word}QCR" in v and v[f"{word}QCR"].shape == shape:
        failed = np.nan_to_num(numbers(v[f"{word}QCR"]).ravel()).astype(np.int64)
        found = np.where(failed & _VALIDITY, "X", np.where(failed > 0, "Q", ""))
        return found
    return None


def _observed(v: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Field]:
    """All columns of numbers that are not about others."""
    about = {word for words in _WHERE.values() for word in words}
    return {
        word: _field(v, word)
        for word, variable in v.items()
        if variable.shape == shape
        and variable.dtype is not str
        and np.dtype(variable.dtype).kind == "f"
        and word not in about
        and not word.endswith(_ABOUT)
    }


def _surface(v: Mapping[str, Any]) -> Reports:
    kind = "mesonet" if "stationId" in v or "dataProvider" in v else "metar"
    reports = Reports(_places(v, kind), marks="madis")
    if "seaSurfaceTemp" in v and kind == "metar":
        # names of buoys are five digits, those of ships letters
        names = reports.place.get("station", np.zeros(reports.place["lat"].size, "U1"))
        reports.place["kind"] = np.where(np.char.isdigit(names), "buoy", "ship")
    n = reports.place["lat"].size
    add_fields(reports, _observed(v, (n,)), _SURFACE, surface=np.ones(n, bool))
    return reports


def _one_level(v: Mapping[str, Any], kind: str) -> Reports:
    """Aircraft, at their pressure altitude, and winds of clouds and water vapour."""
    place = _places(v, kind)
    n = place["lat"].size
    fields = _observed(v, (n,))
    place["level"] = np.full(n, np.nan)
    reports = Reports(place, marks="madis")
    if "pressure" in fields:
        field = fields.pop("pressure")
        place["level"] = field.value / (100.0 if "hect" not in field.units.lower() else 1.0)
        if field.units in ("hPa", "mb", "millibar"):
            place["level"] = field.value
    if "altitude" in fields:
        altitude = fields.pop("altitude").value
        wanted = np.isnan(place["level"]) & np.isfinite(altitude)
        place["level"] = np.where(wanted, standard_pressure(altitude) / 100.0, place["level"])
        reports.assume(
            "pressures from flight levels through the ICAO standard atmosphere", int(wanted.sum())
        )
    if "dewpoint" in fields:  # one measure of humidity
        for word in ("relHumidity", "downlinkedRH"):
            if word in fields:
                moist = np.isfinite(fields["dewpoint"].value)
                old = fields[word]
                fields[word] = Field(np.where(moist, np.nan, old.value), old.units, old.quality)
    add_fields(reports, fields, _ALOFT, count_missing=False)
    return reports


def _profiles(v: Mapping[str, Any]) -> Reports:
    """Wind profilers: heights above the station unless their name says above the sea."""
    n, n_level = v["levels"].shape
    row = np.repeat(np.arange(n), n_level)
    reports = Reports({k: x[row] for k, x in _places(v, "profiler").items()}, marks="madis")
    height = numbers(v["levels"]).ravel()
    said = str(getattr(v["levels"], "long_name", "")).lower()
    if "sea level" not in said and "msl" not in said:
        height = height + reports.place["station_height"]
    nothing = np.full(row.size, np.nan)
    reports.pressures_at_heights(row, nothing, height, np.isfinite(height), soundings=False)
    fields = _observed(v, (n, n_level))
    fields.pop("levels")
    add_fields(reports, fields, _ALOFT, count_missing=False)
    for word, field in _observed(v, (n,)).items():
        reports.unused[f"{word} at the station"] += int(np.isfinite(field.value).sum())
    return reports


def _soundings(v: Mapping[str, Any]) -> Reports:
    places = _places(v, "radiosonde")
    n = places["lat"].size
    parts, rows, levels, heights = [], [], [], []
    for names in _PARTS.values():
        words = [word for role, word in names.items() if role in ("p", "height")]
        if words[0] not in v or len(v[words[0]].shape) != 2:
            continue
        shape = v[words[0]].shape
        row = np.repeat(np.arange(n), shape[1])
        part = Reports({k: x[row] for k, x in places.items()}, marks="madis")
        nothing = np.full(row.size, np.nan)
        level = _field(v, names["p"], "hPa").value if "p" in names else nothing
        height = _field(v, names["height"], "m") if "height" in names else Field(nothing)
        part.place["level"] = level
        _add_level(part, v, names, height)
        parts.append(part)
        rows.append(row)
        levels.append(level)
        heights.append(height.value)
    reports = Reports.joined(parts)
    row, level, height = (np.concatenate(x) for x in (rows, levels, heights))
    wanted = np.isnan(level) & np.isfinite(height)
    reports.pressures_at_heights(row, level, height, wanted, soundings=True)
    for word in _REPEATED:
        if word in v:
            count = int(np.isfinite(numbers(v[word])).sum())
            reports.unused[f"{word}: levels of the tropopause and of maximum wind"] += count
    return reports


def _add_level(part: Reports, v: Mapping[str, Any], names: dict[str, str], height: Field) -> None:
    """Temperature, dew point (the file has its depression), wind and height of some levels."""
    fields: dict[str, Field] = {}
    if names.get("t") in v:
        fields["temperature"] = warm = _field(v, names["t"], "K")
        if names.get("td") in v:
            moist = _field(v, names["td"], "K")
            bad = moist.quality if moist.quality is not None else warm.quality
            fields["dewpoint"] = Field(warm.value - moist.value, warm.units, bad)
    if "w" in names and f"ws{names['w']}" in v:
        fields["windSpeed"] = _field(v, f"ws{names['w']}", "m s-1")
        fields["windDir"] = _field(v, f"wd{names['w']}", "degree")
    if "p" in names and "height" in names:
        fields["height"] = Field(height.value, "gpm", height.quality)
    add_fields(part, fields, _ALOFT, count_missing=False)
