"""What became of each observation of an analysis: its flag, its reason, its departures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from xdiffda.observations.quality import WITHHELD, with_flags
from xdiffda.observations.rows import Operators
from xdiffda.verify import obs_space

OUTSIDE = "outside_window"
DEPARTURES = {
    "background_departure": "observation minus background (O-B)",
    "analysis_departure": "observation minus mean of the analysis (O-A)",
}


def observation_table(
    tidy: xr.Dataset,
    held: xr.Dataset | None,
    lost: Sequence[Mapping[str, Int[np.ndarray, " obs"]]],
    times: Sequence[np.datetime64 | None],
    background: xr.Dataset,
    analysis: xr.Dataset,
    *,
    window: Any,
    operators: Operators | None,
) -> xr.Dataset:
    """Every observation given to an analysis, with what became of it.

    Parameters
    ----------
    tidy, held : Dataset
        Observations given, and those of them that were withheld.
    lost : list of dict
        For each analysis time, reason -> rows of ``tidy`` rejected for it.
    times : list of datetime64 or None
    background, analysis : Dataset
    window
    operators : mapping, optional

    Returns
    -------
    Dataset
        Tidy, with ``flag``, ``reason`` and ``analysis_time``, and with departures where the state
        has an equivalent, NaN elsewhere. Of one time in the order given; of several, the windows
        one after another, then what is in none.
    """
    n_tidy = tidy.sizes["obs"]
    whole = tidy if held is None else xr.concat([tidy, held], "obs")
    n = whole.sizes["obs"]
    flagged = [with_flags(whole, reasons) for reasons in lost]
    for table in flagged:
        table["flag"].values[n_tidy:] = WITHHELD
    rows = [np.arange(n)] * len(times)
    if len(times) > 1:
        rows = [np.flatnonzero(table["flag"].values != OUTSIDE) for table in flagged]
    departures = {
        name: _departures(whole, state, n * len(times), window, operators)
        for name, state in zip(DEPARTURES, (background, analysis), strict=True)
    }
    parts: list[xr.Dataset] = []
    for i, (table, mine, time) in enumerate(zip(flagged, rows, times, strict=True)):
        stamp = np.asarray("NaT" if time is None else time, "datetime64[ns]")
        columns = {
            name: ("obs", values[i * n + mine], {"long_name": DEPARTURES[name]})
            for name, values in departures.items()
        }
        part = table.isel(obs=mine).assign(columns)
        parts.append(part.assign_coords(analysis_time=("obs", np.full(mine.size, stamp))))
    nowhere = np.setdiff1d(np.arange(n), np.concatenate(rows))
    if nowhere.size:
        part = flagged[0].isel(obs=nowhere)
        nothing = {name: ("obs", np.full(nowhere.size, np.nan)) for name in DEPARTURES}
        stamps = np.full(nowhere.size, np.datetime64("NaT", "ns"))
        parts.append(part.assign(nothing).assign_coords(analysis_time=("obs", stamps)))
    return parts[0] if len(parts) == 1 else xr.concat(parts, "obs", combine_attrs="override")


def _departures(
    whole: xr.Dataset, state: xr.Dataset, n: int, window: Any, operators: Operators | None
) -> Float[np.ndarray, " obs"]:
    """Observation minus state, by analysis time and row; NaN where the state says nothing."""
    seen = obs_space.beside(state, whole, window=window, operators=operators)
    found = np.full(n, np.nan)
    found[seen["obs"].values] = seen["value"].values - obs_space.mean(seen)
    return found
