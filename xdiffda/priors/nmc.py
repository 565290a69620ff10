"""Samples of background errors from forecasts alone: lagged pairs valid at the same time.

The difference of a longer and a shorter forecast for one time has about the structure of the
forecast's error (Parrish & Derber 1992, doi 10.1175/1520-0493(1992)120<1747:TNMCSS>2.0.CO;2), and
a size of its own, which r takes care of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.state.clock import read_clock
from xdiffda.state.regrid import regrid
from xdiffda.state.times import width_of

NMC = "xdiffda_nmc"


def nmc(
    forecasts: xr.Dataset,
    leads: Sequence[Any] = ("24h", "48h"),
    *,
    like: Any = None,
) -> xr.Dataset:
    """Differences of forecasts of two lead times that are valid at the same time.

    Nothing is loaded. `GaussianPrior.from_samples` makes a prior of them; where they are few, with
    ``towards="reference"``.

    Parameters
    ----------
    forecasts : Dataset
        With a dimension of initial times and one of lead times, in any convention: a store of
        forecasts of WeatherBench 2, or GRIB files joined along ``time`` and ``step``.
    leads : pair of str, timedelta64 or number of hours
        The shorter and the longer lead time.
    like : Dataset, Grid, Layout or str, optional
        Grid that the differences are brought to, as `xdiffda.regrid` takes it.

    Returns
    -------
    Dataset
        Longer minus shorter, on ``time``, when both are valid. The attribute ``xdiffda_nmc`` says
        how many pairs there are, and from when.

    Raises
    ------
    InputError
        If there are no initial times and lead times, not the leads, or fewer than two pairs.

    Examples
    --------
    >>> import numpy as np, pandas as pd, xarray as xr
    >>> ds = xr.Dataset(
    ...     {"2m_temperature": (("time", "prediction_timedelta", "lat", "lon"),
    ...                         np.random.default_rng(0).normal(size=(5, 2, 6, 12)))},
    ...     coords={"time": pd.date_range("2020-01-01", periods=5),
    ...             "prediction_timedelta": pd.to_timedelta(["24h", "48h"]),
    ...             "lat": np.linspace(-75, 75, 6), "lon": np.arange(12) * 30.0})
    >>> pairs = nmc(ds)
    >>> pairs.sizes["time"], pairs.attrs["xdiffda_nmc"][:38]
    (4, '4 pairs of forecasts of 48 h and 24 h,')
    """
    clock = read_clock(forecasts)
    valid, lead = clock.checked("forecasts"), clock.lead
    repair = 'xr.concat([xr.open_dataset(path) for path in paths], dim="time")'
    if valid is None or lead is None or lead.ndim != 1 or valid.ndim != 2:
        found = "dimensions " + ", ".join(map(str, forecasts.sizes))
        needed = "one of initial times and one of lead times"
        raise InputError([Problem(found, needed, repair)], what="forecasts")
    lead_dim = str(lead.dims[0])
    (first_dim,) = (str(dim) for dim in valid.dims if dim != lead_dim)
    short, long = _places(lead, leads)
    valid = valid.transpose(first_dim, lead_dim).values
    times, at_short, at_long = np.intersect1d(valid[:, short], valid[:, long], return_indices=True)
    hours = [f"{_hours(lead.values[i]):g} h" for i in (long, short)]
    if times.size < 2:
        found = f"{times.size} times for which there are forecasts of {' and '.join(hours)}"
        raise InputError([Problem(found, "2 or more", repair)], what="forecasts")
    names = [n for n, v in forecasts.data_vars.items() if {first_dim, lead_dim} <= {*v.dims}]

    def at(place: int, rows: np.ndarray) -> xr.Dataset:
        own = forecasts[names].isel({lead_dim: place, first_dim: rows})
        clocks = [c for c in own.coords if first_dim in own[c].dims or own[c].dims == ()]
        return own.drop_vars(clocks).rename({first_dim: "time"})

    with xr.set_options(keep_attrs=True):
        pairs = at(long, at_long) - at(short, at_short)
    pairs = pairs.assign_coords(time=times)
    pairs = pairs if like is None else regrid(pairs, like=like)
    pairs.attrs = {
        NMC: f"{times.size} pairs of forecasts of {' and '.join(hours)}, valid "
        f"{np.datetime_as_string(times[0], 'h')} to {np.datetime_as_string(times[-1], 'h')} UTC"
    }
    return pairs


def _places(lead: xr.DataArray, leads: Sequence[Any]) -> tuple[int, int]:
    known = [_hours(one) for one in lead.values]
    wanted = sorted(float(x) if isinstance(x, int | float) else _hours(x) for x in leads)
    if len(wanted) != 2 or wanted[0] == wanted[1] or not set(wanted) <= set(known):
        some = known if len(known) < 2 else [known[0], known[-1]]
        raise InputError(
            [
                Problem(
                    f"leads={tuple(leads)!r}",
                    f"two of the lead times {', '.join(f'{one:g}' for one in known)} h",
                    f"xdiffda.nmc(forecasts, leads={tuple(f'{one:g}h' for one in some)!r})",
                )
            ],
            what="forecasts",
        )
    return known.index(wanted[0]), known.index(wanted[1])


def _hours(length: Any) -> float:
    if isinstance(length, np.timedelta64):
        return pd.Timedelta(length).total_seconds() / 3600
    return width_of(length).total_seconds() / 3600
