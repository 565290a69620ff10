"""Forcings known in advance: progress of year and day, solar radiation at the top of the air.

Plain numpy in float64; no jax. Times are UTC.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem
from xdiffda.networks.graphcast._solar_table import FIRST_YEAR, IRRADIANCE, SCALE

_SECONDS_PER_DAY = 86400.0
_DAYS_PER_YEAR = 365.24219  # tropical year
_J2000 = np.datetime64("2000-01-01T12:00:00", "ns")
_EPOCH = np.datetime64("1970-01-01T00:00:00", "ns")
_OBLIQUITY = 0.409093  # radians

FORCING_VARIABLES = (
    "toa_incident_solar_radiation",
    "year_progress_sin",
    "year_progress_cos",
    "day_progress_sin",
    "day_progress_cos",
)


def year_progress(time: np.ndarray) -> Float[np.ndarray, " time"]:
    """Fraction of the tropical year gone since the first of January 1970, modulo 1.

    Examples
    --------
    >>> float(year_progress(np.array(["1970-01-01"], "datetime64[ns]"))[0])
    0.0
    """
    years = _seconds(time) / _SECONDS_PER_DAY / _DAYS_PER_YEAR
    return np.mod(years, 1.0).astype(np.float32)


def day_progress(time: np.ndarray, lon: Float[np.ndarray, " lon"]) -> Float[np.ndarray, "time lon"]:
    """Fraction of the local mean solar day, at each longitude (degrees).

    Examples
    --------
    >>> time = np.array(["2020-01-01T06"], "datetime64[ns]")
    >>> day_progress(time, np.array([0.0, 90.0])).tolist()
    [[0.25, 0.5]]
    """
    utc = np.mod(_seconds(time), _SECONDS_PER_DAY) / _SECONDS_PER_DAY
    progress = np.mod(utc[:, None] + np.asarray(lon, dtype=np.float64) / 360.0, 1.0)
    return progress.astype(np.float32)


def total_solar_irradiance(time: np.ndarray) -> Float[np.ndarray, " time"]:
    """Total solar irradiance as in ERA5, W/m2: linear between the middles of years."""
    time = _as_datetime(time)
    start = time.astype("datetime64[Y]")
    length = (start + 1).astype("datetime64[ns]") - start.astype("datetime64[ns]")
    fraction = (time - start.astype("datetime64[ns]")) / length
    years = start.astype(int) + 1970 + fraction
    middles = FIRST_YEAR + 0.5 + np.arange(len(IRRADIANCE))
    return np.interp(years, middles, SCALE * np.asarray(IRRADIANCE))


def solar_radiation(
    time: np.ndarray,
    lat: Float[np.ndarray, " lat"],
    lon: Float[np.ndarray, " lon"],
    *,
    period: np.timedelta64 | str = "1h",
    n_bins: int = 360,
    irradiance: float | None = None,
) -> Float[np.ndarray, "time lat lon"]:
    """Solar radiation on a horizontal plane at the top of the atmosphere, J/m2.

    Integrated by the trapezoidal rule over the ``period`` ending at each time, as the ERA5
    variable ``toa_incident_solar_radiation``.

    Parameters
    ----------
    time
        UTC, datetime64.
    lat, lon
        Degrees.
    period
        Length of the accumulation.
    n_bins
        Intervals of the trapezoidal rule.
    irradiance
        Total solar irradiance in W/m2; the yearly table of ERA5 if None.

    Examples
    --------
    >>> noon = np.array(["2000-03-20T12:30"], "datetime64[ns]")
    >>> round(float(solar_radiation(noon, np.zeros(1), np.zeros(1))[0, 0, 0]) / 3600)
    1368
    """
    time = _as_datetime(time)
    lat, lon = np.deg2rad(np.asarray(lat, np.float64)), np.deg2rad(np.asarray(lon, np.float64))
    seconds = float(np.timedelta64(_timedelta(period), "ns") / np.timedelta64(1, "s"))
    tsi = total_solar_irradiance(time) if irradiance is None else np.full(len(time), irradiance)
    total = np.zeros((len(time), len(lat), len(lon)))
    # One row of bins at a time: quick enough, and a global 0.25 degree field fits in memory.
    for i, days in enumerate((time - _J2000) / np.timedelta64(1, "D")):
        for k, offset in enumerate(np.linspace(-seconds, 0.0, n_bins + 1)):
            end = 0.5 if k in (0, n_bins) else 1.0
            flux = _flux(days + offset / _SECONDS_PER_DAY, lat, lon)
            total[i] += end * flux
        total[i] *= tsi[i] * seconds / n_bins
    return total


def time_forcings(
    time: np.ndarray, lat: Float[np.ndarray, " lat"], lon: Float[np.ndarray, " lon"]
) -> xr.Dataset:
    """All forcings of GraphCast, in float32, on dimensions ``time``, ``lat`` and ``lon``.

    Examples
    --------
    >>> time = np.array(["2000-03-20T12:30"], "datetime64[ns]")
    >>> sorted(time_forcings(time, np.zeros(1), np.zeros(1)))[:2]
    ['day_progress_cos', 'day_progress_sin']
    """
    time = _as_datetime(time)
    year = np.float32(2 * np.pi) * year_progress(time)
    day = np.float32(2 * np.pi) * day_progress(time, lon)
    solar = solar_radiation(time, lat, lon).astype(np.float32)
    return xr.Dataset(
        {
            "toa_incident_solar_radiation": (("time", "lat", "lon"), solar, {"units": "J m**-2"}),
            "year_progress_sin": ("time", np.sin(year)),
            "year_progress_cos": ("time", np.cos(year)),
            "day_progress_sin": (("time", "lon"), np.sin(day)),
            "day_progress_cos": (("time", "lon"), np.cos(day)),
        },
        coords={"time": time, "lat": np.asarray(lat), "lon": np.asarray(lon)},
    )


def _flux(
    days: float, lat: Float[np.ndarray, " lat"], lon: Float[np.ndarray, " lon"]
) -> Float[np.ndarray, "lat lon"]:
    """Flux through a horizontal plane for an irradiance of 1, `days` after 2000-01-01T12."""
    t = days / 365.25
    e = 1.7535 + 6.283076 * t  # mean anomaly
    m = 6.240041 + 6.28302 * t
    q = 4.8951 + 6.283076 * t  # mean longitude
    ecliptic = (
        4.8952
        + 6.28332 * t
        - 0.0075 * np.sin(e)
        - 0.0326 * np.cos(e)
        - 0.0003 * np.sin(2 * e)
        + 0.0002 * np.cos(2 * e)
    )
    equation_of_time = (
        591.8 * np.sin(2 * q)
        - 459.4 * np.sin(m)
        + 39.5 * np.sin(m) * np.cos(2 * q)
        - 12.7 * np.sin(4 * q)
        - 4.8 * np.sin(2 * m)
    )  # seconds
    distance = 1.0001 - 0.0163 * np.sin(e) + 0.0037 * np.cos(e)
    sin_declination = np.sin(_OBLIQUITY) * np.sin(ecliptic)
    cos_declination = np.sqrt(1 - sin_declination**2)
    hour_angle = 2 * np.pi * (np.mod(days, 1.0) + equation_of_time / _SECONDS_PER_DAY) + lon
    sin_altitude = (
        np.sin(lat)[:, None] * sin_declination
        + np.cos(lat)[:, None] * cos_declination * np.cos(hour_angle)[None]
    )
    return np.maximum(sin_altitude, 0.0) / distance**2


def _seconds(time: np.ndarray) -> Float[np.ndarray, " time"]:
    return (_as_datetime(time) - _EPOCH) / np.timedelta64(1, "s")


def _as_datetime(time: np.ndarray) -> np.ndarray:
    time = np.atleast_1d(np.asarray(time))
    if not np.issubdtype(time.dtype, np.datetime64):
        found = f"times of type {time.dtype}"
        repair = "ds.assign_coords(time=init_time + ds.time)"
        raise InputError([Problem(found, "UTC times, datetime64", repair)], what="forcings")
    return time.astype("datetime64[ns]")


def _timedelta(period: np.timedelta64 | str) -> np.timedelta64:
    if isinstance(period, str):
        import pandas as pd

        return pd.to_timedelta([period]).to_numpy()[0]
    return period
