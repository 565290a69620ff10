"""Decoded METARs as a table: degrees Celsius, knots, inches of mercury, metres.

An altimeter setting is no pressure at sea level: it is the pressure at the station, brought down
through the ICAO standard atmosphere. It is brought up again in the same way, to
``surface_pressure`` at the height of the station.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.recognise import METAR, text_of, unreadable
from xdiffda.observations.readers.reports import Reports, as_numbers
from xdiffda.state.variables import G0

INCH_OF_MERCURY = 3386.389  # Pa, at 0 degrees Celsius and standard gravity
_R_DRY, _LAPSE, _T0 = 287.05, 0.0065, 288.15  # ICAO standard atmosphere
_PLACES = ("DateString", "Length", "Raw", "QcFlag", "Elev")


def read_metar(path: Path) -> xr.Dataset:
    """Read a table of decoded METARs."""
    import pandas as pd

    try:
        table = pd.read_csv(
            io.StringIO(text_of(path)), skipinitialspace=True, keep_default_na=False, na_values=[""]
        )
    except ValueError as error:
        raise unreadable(path, error) from error
    words = [str(word) for word in table.columns]
    if absent := sorted(METAR - {*words}):
        raise InputError(
            [
                Problem(
                    f"columns {', '.join(words[:8])}",
                    f"decoded METARs with {', '.join(absent)}",
                    f"xdiffda.read_obs({str(path)!r})",
                )
            ],
            what=str(path),
        )
    number = {word: as_numbers(table[word]) for word in METAR - {"ICAO"}}
    place = {
        "lat": number["Latitude"],
        "lon": number["Longitude"],
        "time": pd.to_datetime(number["Unix_time"], unit="s").to_numpy("datetime64[ns]"),
        "station": table["ICAO"].fillna("").astype(str).to_numpy(str),
        "kind": np.full(len(table), "metar"),
    }
    if "Elev" in table:
        place["station_height"] = as_numbers(table["Elev"])
    reports = Reports(place)
    quality = as_numbers(table["QcFlag"]) if "QcFlag" in table else None
    _add(reports, number, quality)
    for word in words:
        if word not in METAR and word not in _PLACES:
            reports.unused[word] += int(table[word].notna().sum())
    return reports.to_dataset()


def _add(reports: Reports, number: dict[str, np.ndarray], quality: np.ndarray | None) -> None:
    reports.add("Temp", "2m_temperature", number["Temp"], units="degC", quality=quality)
    reports.add("Dewp", "2m_dewpoint_temperature", number["Dewp"], units="degC", quality=quality)
    reports.add_wind(
        number["Wspd"],
        number["Wdir"],
        units="knots",
        quality=quality,
        surface=np.ones(number["Wspd"].size, bool),
        zero_is_variable=True,
    )
    if "station_height" in reports.place:
        pressure = _at_height(
            INCH_OF_MERCURY * number["Altimeter"], reports.place["station_height"]
        )
        unplaced = np.isfinite(number["Altimeter"]) & ~np.isfinite(pressure)
        reports.unused["Altimeter of stations without a height"] += int(unplaced.sum())
        reports.add("Altimeter", "surface_pressure", pressure, quality=quality)
    else:
        known = int(np.isfinite(number["Altimeter"]).sum())
        reports.unused["Altimeter of stations without a height"] += known


def _at_height(sea_level: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Pressure at a height in the ICAO standard atmosphere whose sea level has ``sea_level``.

    Examples
    --------
    >>> round(float(_at_height(101325.0, 1000.0)) / 100, 1)  # ICAO table: 898.75 hPa
    898.7
    """
    return sea_level * (1 - _LAPSE * height / _T0) ** (G0 / (_R_DRY * _LAPSE))
