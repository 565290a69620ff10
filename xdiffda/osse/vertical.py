"""Sigma levels to pressure levels: linear in log-pressure, extrapolated below ground."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GRAVITY = 9.81  # m s-2
GAS_CONSTANT = 287.0  # J kg-1 K-1
LAPSE_RATE = 0.0065  # K m-1, standard atmosphere


def to_pressure_levels(
    *,
    sigma: np.ndarray,
    surface_pressure: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    temperature: np.ndarray,
    specific_humidity: np.ndarray,
    geopotential: np.ndarray,
    levels: Sequence[int],
) -> dict[str, np.ndarray]:
    """Interpolate a model state from sigma to pressure levels.

    Linear in the logarithm of pressure between sigma centres.  Below the lowest centre,
    wind and humidity are constant; temperature follows the standard lapse rate and
    geopotential the hydrostatic height that belongs to it (Trenberth et al. 1993,
    NCAR/TN-396, section 3, simplified to one lapse rate).  Mean sea level pressure is
    the same extrapolation taken to height zero.

    Parameters
    ----------
    sigma : array (layer,)
        Centres, top first.
    surface_pressure : array (time, x, y), Pa
    u, v, temperature, specific_humidity, geopotential : array (time, layer, x, y)
        Geopotential in m2 s-2 at the centres.
    levels : sequence of int, hPa

    Returns
    -------
    dict of str to array
        WeatherBench names; (time, level, x, y), and (time, x, y) for
        ``mean_sea_level_pressure`` in Pa.
    """
    log_p = np.log(sigma)[None, :, None, None] + np.log(surface_pressure)[:, None]
    p_low, t_low, z_low = (np.exp(log_p[:, -1]), temperature[:, -1], geopotential[:, -1] / GRAVITY)
    exponent = GAS_CONSTANT * LAPSE_RATE / GRAVITY
    columns = {
        "u_component_of_wind": u,
        "v_component_of_wind": v,
        "temperature": temperature,
        "specific_humidity": specific_humidity,
        "geopotential": geopotential,
    }
    out: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for level in levels:
        target = np.log(100.0 * level)
        below = target > log_p[:, -1]
        upper = np.clip((log_p < target).sum(1) - 1, 0, sigma.size - 2)[:, None]
        lower_log, upper_log = (np.take_along_axis(log_p, upper + k, 1)[:, 0] for k in (1, 0))
        weight = np.clip((target - upper_log) / (lower_log - upper_log), 0.0, 1.0)
        ratio = (100.0 * level / p_low) ** exponent
        for name, field in columns.items():
            above_value, below_value = (
                np.take_along_axis(field, upper + k, 1)[:, 0] for k in (0, 1)
            )
            value = (1 - weight) * above_value + weight * below_value
            if name == "temperature":
                value = np.where(below, t_low * ratio, value)
            elif name == "geopotential":
                height = z_low + t_low / LAPSE_RATE * (1 - ratio)
                value = np.where(below, GRAVITY * height, value)
            out[name].append(value)
    fields = {name: np.stack(values, axis=1) for name, values in out.items()}
    base = 1 + LAPSE_RATE * z_low / t_low
    fields["mean_sea_level_pressure"] = p_low * base ** (1 / exponent)
    return fields
