"""Which observations lie on a map: those of its variable, level and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdiffda.plot.panels import DISPLAY, Slice
from xdiffda.variables import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

WINDOW = np.timedelta64(3, "h")


def dots_of(obs: xr.Dataset | pd.DataFrame, choice: Slice) -> xr.Dataset:
    """Return the tidy observations of a variable, level and time, in the units of a figure.

    Parameters
    ----------
    obs
        Observations in either form.
    choice
        The slice of the map. Without level, all levels are returned; without time, all times;
        otherwise those within 3 h.

    Returns
    -------
    xarray.Dataset
        ``lat``, ``lon``, ``level``, ``time``, ``value`` and ``error_std`` on ``obs``, in memory.

    Examples
    --------
    >>> obs = xr.Dataset({"mean_sea_level_pressure": ("station", [101325.0])},
    ...                  {"lat": ("station", [0.0]), "lon": ("station", [9.0])})
    >>> dots_of(obs, Slice("mean_sea_level_pressure")).value.values
    array([1013.25])
    """
    from xdiffda.observations.table import to_tidy

    return pick_dots(to_tidy(obs), choice)


def pick_dots(tidy: xr.Dataset, choice: Slice) -> xr.Dataset:
    """`dots_of` for observations that are tidy and checked already."""
    keep = tidy["variable"].values == choice.variable
    if choice.level is not None and "level" in tidy:
        keep &= np.isnan(tidy["level"].values) | np.isclose(tidy["level"].values, choice.level)
    if choice.time is not None and "time" in tidy and tidy["time"].dtype.kind == "M":
        times = tidy["time"].values
        keep &= np.isnat(times) | (abs(times - np.datetime64(choice.time)) <= WINDOW)
    wanted = [n for n in ("lat", "lon", "level", "time", "value", "error_std") if n in tidy]
    shown = tidy[wanted].isel(obs=np.flatnonzero(keep)).load()
    units = VARIABLES[choice.variable].units if choice.variable in VARIABLES else ""
    for name in {"value", "error_std"} & set(wanted):
        shown[name] = shown[name] * DISPLAY.get(units, (units, 1.0))[1]
    return shown
