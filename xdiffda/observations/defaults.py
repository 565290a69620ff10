"""Default observation errors, where neither the observations nor the user state any.

Sources
-------
Wind 1 m/s, temperature 1 K, specific humidity 1 g/kg, surface pressure 1 hPa: the errors of the
SPEEDY-LETKF testbed, as in its public code (github.com/takemasa-miyoshi/letkf,
speedy/obs/obserr.tbl).  Relative humidity 10 %: default of the same family of codes (SCALE-LETKF,
OBSERR_RH).  They are kept in `xdiffda.variables`, with the same values for 2 m and 10 m variables
and mean sea level pressure, which is our choice.

Geopotential: `HEIGHT_ERROR_M`, the errors prescribed for heights of radiosondes in ECMWF's
assimilation (IFS documentation CY25r1, part I, observation processing, 2002), times standard
gravity.  They grow upwards, since heights are integrated from below.  Where no level is stated,
10 m, which is our choice.

All others are our choice, made to be of the right size and no more: state the errors of your
observations where you know them.

- Derived quantities (`xdiffda.observations.KNOWN`): speed 1 m/s as the components; direction 10
  degrees aloft and 20 at 10 m, that is 1 m/s across a wind of 6 and 3 m/s; dew point 2 K, about
  10 % of relative humidity; layer means as the temperature; thickness as the difference of two
  heights with independent errors.

All errors are standard deviations of instrument and representativeness together.  Errors of the
levels of one sounding are independent unless ``error_correlation`` says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..variables import G0
from ._names import KNOWN

if TYPE_CHECKING:
    from jaxtyping import Float

# hPa -> standard deviation of the height of a pressure level, m.
HEIGHT_ERROR_M: dict[int, float] = {
    1000: 4.3, 850: 4.4, 700: 5.2, 500: 8.4, 400: 9.8, 300: 10.7, 250: 11.8, 200: 13.2,
    150: 15.2, 100: 18.1, 70: 19.5, 50: 22.5, 30: 25.0, 20: 32.0, 10: 40.0,
}  # fmt: skip


def default_error_std(
    name: str, level: Float[np.ndarray, "point"] | float | None = None
) -> Float[np.ndarray, "point"]:
    """Default observation error of a variable, by level where it depends on it.

    Parameters
    ----------
    name
        Canonical name of a variable.
    level
        Pressure, hPa; None or NaN at the surface. Between the levels of the table the error is
        linear in log-pressure, beyond them constant.

    Returns
    -------
    array, shape of ``level``
        Standard deviations in the canonical units of the variable.

    Raises
    ------
    KeyError
        If the variable is unknown.

    Examples
    --------
    >>> float(default_error_std("temperature", 500.0))
    1.0
    >>> (default_error_std("geopotential", np.array([500.0, 100.0])) / 9.80665).round(1).tolist()
    [8.4, 18.1]
    """
    pressure = np.asarray(np.nan if level is None else level, np.float64)
    flat = np.full(pressure.shape, KNOWN[name].default_error_std)
    if name != "geopotential":
        return flat
    table = sorted(HEIGHT_ERROR_M.items())
    log_p, metres = np.log([p for p, _ in table]), [error for _, error in table]
    with np.errstate(invalid="ignore", divide="ignore"):
        by_level = G0 * np.interp(np.log(pressure), log_p, metres)
    return np.where(np.isfinite(pressure), by_level, flat)
