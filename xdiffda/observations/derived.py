"""Derived quantities as functions of the state: wind, humidity, pressure, layers.

Each is a local operator (see `nonlinear`) with its formula and source; `OPERATORS` lists for each
quantity the ways to obtain it, best first: the first whose inputs the state has is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from xdiffda.observations.nonlinear import Operator
from xdiffda.state.variables import G0

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Array, Float

    from xdiffda.state.grid import Layout

    Seen = Mapping[str, Any]
    Scalar = Float[Array, ""]

R_DRY = 287.05  # J kg-1 K-1, dry air (ICAO standard atmosphere: 287.05287)
EPSILON = 0.622  # ratio of the gas constants of dry air and water vapour
LAPSE_RATE = 0.0065  # K m-1, ICAO standard atmosphere
STANDARD_TEMPERATURE = 288.15  # K, ICAO standard atmosphere at sea level
_CALM = 1e-3  # m s-1: below it the wind has no direction


def wind_speed(u: Scalar, v: Scalar) -> Scalar:
    """Speed, smooth at zero (there it is 1 mm/s).

    Examples
    --------
    >>> round(float(wind_speed(jnp.array(3.0), jnp.array(-4.0))), 4)
    5.0
    """
    return jnp.sqrt(u**2 + v**2 + _CALM**2)


def wind_from_direction(u: Scalar, v: Scalar) -> Scalar:
    """Direction the wind comes from, degrees clockwise from north in [0, 360).

    Examples
    --------
    >>> float(wind_from_direction(jnp.array(-5.0), jnp.array(0.0)))
    90.0
    """
    calm = u**2 + v**2 < _CALM**2
    # both arguments are replaced, so that the derivative of the calm branch is zero, not NaN
    u, v = jnp.where(calm, 0.0, u), jnp.where(calm, -1.0, v)
    return jnp.mod(jnp.rad2deg(jnp.arctan2(-u, -v)), 360.0)


def vapour_pressure(q: Scalar, pressure: Scalar) -> Scalar:
    """Vapour pressure, in the unit of ``pressure``, from specific humidity (kg/kg)."""
    return q * pressure / (EPSILON + (1.0 - EPSILON) * q)


def saturation_vapour_pressure(temperature: Scalar) -> Scalar:
    """Saturation vapour pressure over water, hPa: Bolton (1980), eq. 10.

    Examples
    --------
    >>> round(float(saturation_vapour_pressure(jnp.array(298.15))), 2)
    31.67
    """
    celsius = temperature - 273.15
    return 6.112 * jnp.exp(17.67 * celsius / (celsius + 243.5))


def relative_humidity(q: Scalar, temperature: Scalar, pressure: Scalar) -> Scalar:
    """Relative humidity with respect to water, %, as stations report it; pressure in hPa."""
    return 100.0 * vapour_pressure(q, pressure) / saturation_vapour_pressure(temperature)


def dewpoint_temperature(q: Scalar, pressure: Scalar) -> Scalar:
    """Dew point, K: the inverse of Bolton (1980), eq. 10; pressure in hPa.

    Examples
    --------
    >>> q = EPSILON * 10.0 / (850.0 - (1 - EPSILON) * 10.0)
    >>> round(float(saturation_vapour_pressure(dewpoint_temperature(jnp.array(q), 850.0))), 3)
    10.0
    """
    # the analysis may be drier than dry; below 1e-7 kg/kg it has no slope
    log_ratio = jnp.log(vapour_pressure(jnp.maximum(q, 1e-7), pressure) / 6.112)
    return 273.15 + 243.5 * log_ratio / (17.67 - log_ratio)


def pressure_at_height(
    sea_level_pressure: Scalar, height: Scalar, temperature: Scalar | None = None
) -> Scalar:
    """Pressure at a height (m) under a layer of constant lapse rate (ICAO, 6.5 K/km).

    ``p = p0 (1 - L h / T0)^(g / (R L))``, T0 the temperature at sea level: that of ``height``
    brought down with the lapse rate, or the standard one.

    Examples
    --------
    >>> round(float(pressure_at_height(101325.0, 1000.0)) / 100, 1)  # ICAO table: 898.75 hPa
    898.7
    """
    at_sea = STANDARD_TEMPERATURE if temperature is None else temperature + LAPSE_RATE * height
    return sea_level_pressure * (1 - LAPSE_RATE * height / at_sea) ** (G0 / (R_DRY * LAPSE_RATE))


def hydrostatic_pressure(
    geopotential: Float[Array, "2"],
    pressure: Float[Array, "2"],
    temperature: Float[Array, "2"] | None,
    at: Scalar,
) -> Scalar:
    """Pressure where the geopotential is ``at``, from two levels (upper, lower).

    Hydrostatic balance ``d Phi = -R T d ln p``.  With (virtual) temperatures, T is linear in ln p
    and the integral starts at the lower level; without, T is what the two geopotentials say.
    """
    x = jnp.log(pressure)
    if temperature is None:
        share = (at - geopotential[1]) / (geopotential[0] - geopotential[1])
        return jnp.exp(x[1] + share * (x[0] - x[1]))
    # R (T d + a d^2) = Phi - at, with d = ln p - ln p_lower: the root that is small when a is
    a = 0.5 * (temperature[1] - temperature[0]) / (x[1] - x[0])
    c = (geopotential[1] - at) / R_DRY
    t = temperature[1]
    return pressure[1] * jnp.exp(2 * c / (t + jnp.sqrt(t**2 + 4 * a * c)))


def layer_mean(
    profile: Float[Array, "level"], levels: Float[Array, "level"], top: Scalar, bottom: Scalar
) -> Scalar:
    """Mean over ln p between two pressures of a profile that is linear in ln p between levels."""
    x, a, b = jnp.log(levels), jnp.log(top), jnp.log(bottom)
    low, high = jnp.clip(x[:-1], a, b), jnp.clip(x[1:], a, b)
    middle = jnp.interp(0.5 * (low + high), x, profile)  # exact: linear within each layer
    return jnp.sum(middle * (high - low)) / (b - a)


# ------------------------------------------------------------------------------ operators


def _wind(function: Callable[..., Any], u: str, v: str) -> Callable[[Seen], Any]:
    return lambda s: function(s[u], s[v])


def _humidity(s: Seen) -> Any:
    return relative_humidity(s["specific_humidity"], s["temperature"], s["level"])


def _dewpoint(s: Seen) -> Any:
    return dewpoint_temperature(s["specific_humidity"], s["level"])


def _thickness(s: Seen) -> Any:
    return s["geopotential"] - s["geopotential@level_bottom"]


def _layer_mean_temperature(s: Seen) -> Any:
    return layer_mean(s["temperature@*"], s["levels"], s["level"], s["level_bottom"])


def _pressure_from_levels(s: Seen) -> Any:
    temperature = s.get("temperature@around")
    if temperature is not None and "specific_humidity@around" in s:
        temperature = temperature * (1 + (1 / EPSILON - 1) * s["specific_humidity@around"])
    return 100.0 * hydrostatic_pressure(
        s["geopotential@around"], s["levels@around"], temperature, G0 * s["station_height"]
    )


def _pressure_from_sea_level(s: Seen) -> Any:
    return pressure_at_height(
        s["mean_sea_level_pressure"], s["station_height"], s.get("2m_temperature")
    )


def _above_lowest_level(tidy: xr.Dataset, layout: Layout) -> np.ndarray:
    """Where the surface lies between levels: no reduction to sea level and back is needed."""
    return np.asarray(tidy["value"].values) <= 100.0 * max(layout.levels, default=0.0)


def _surface_pressure() -> tuple[Operator, ...]:
    level = ("geopotential@around", "temperature@around", "specific_humidity@around")
    between = [
        Operator(
            _pressure_from_levels,
            level[:n],
            ("station_height",),
            "Pa",
            around="value",
            applies=_above_lowest_level,
        )
        for n in (3, 2, 1)
    ]
    reduced = [
        Operator(_pressure_from_sea_level, inputs, ("station_height",), "Pa")
        for inputs in (("mean_sea_level_pressure", "2m_temperature"), ("mean_sea_level_pressure",))
    ]
    below = [
        Operator(_pressure_from_levels, level[:n], ("station_height",), "Pa", around="value")
        for n in (3, 2, 1)
    ]
    return (*between, *reduced, *below)


def _winds(prefix: str) -> dict[str, tuple[Operator, ...]]:
    u, v = (f"{prefix}{c}_component_of_wind" for c in "uv")
    direction = _wind(wind_from_direction, u, v)
    return {
        f"{prefix}wind_speed": (Operator(_wind(wind_speed, u, v), (u, v), units="m s-1"),),
        f"{prefix}wind_from_direction": (Operator(direction, (u, v), (), "degree", 360.0),),
    }


OPERATORS: dict[str, tuple[Operator, ...]] = {
    **_winds(""),
    **_winds("10m_"),
    "relative_humidity": (
        Operator(_humidity, ("specific_humidity", "temperature"), ("level",), "%"),
    ),
    "dewpoint_temperature": (Operator(_dewpoint, ("specific_humidity",), ("level",), "K"),),
    "thickness": (
        Operator(_thickness, ("geopotential", "geopotential@level_bottom"), units="m2 s-2"),
    ),
    "layer_mean_temperature": (
        Operator(_layer_mean_temperature, ("temperature@*",), ("level", "level_bottom"), "K"),
    ),
    "surface_pressure": _surface_pressure(),
}
