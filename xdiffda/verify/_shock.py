"""Shock: how much more a forecast moves at first than one from a balanced state."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xdiffda._fields import row_weights
from xdiffda._matching import matched
from xdiffda.errors import InputError, Problem
from xdiffda.verify._pairs import canonical_state


def initial_shock(
    state: xr.Dataset, forecast: xr.Dataset, *, reference: xr.Dataset,
    reference_forecast: xr.Dataset,
) -> xr.Dataset:  # fmt: skip
    r"""Compare the first tendency of a forecast with that of a forecast from the truth.

    With the state :math:`x_0`, the first output :math:`x_1` of the forecast from it (6 h for
    the bundled models), and the average :math:`\langle\cdot\rangle` weighted by cell area:
    ``tendency`` :math:`\langle(x_1 - x_0)^2\rangle^{1/2}`, ``reference_tendency`` the same of
    the reference, ``shock`` :math:`=` tendency / reference tendency :math:`- 1`. A state in
    balance has a shock of zero; one whose noise the model throws off at once, as gravity
    waves or by its dissipation, a positive one; a state too smooth, such as the mean of an
    ensemble, a negative one. The tendency of surface pressure is the classical measure
    (Lynch & Huang 1992); every variable of the state has one here.

    Parameters
    ----------
    state
        What the forecast starts from, at one time, with or without ``member``. Of an
        ensemble, members are measured, not their mean.
    forecast
        From it: `xdiffda.forecast.forecast`.
    reference, reference_forecast
        The same for a balanced state of the same time, usually the truth.

    Returns
    -------
    xarray.Dataset
        Variables in canonical names on (``score``[, ``level``]): in units of the variable
        per first interval of the forecast; ``shock`` is a ratio.

    Raises
    ------
    InputError
        If there are several initial times, or grids or variables do not fit.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> t = np.datetime64("2020-01-01", "ns") + np.array([0, 6]) * np.timedelta64(1, "h")
    >>> def at(time, value):
    ...     field = (("lat", "lon"), np.full((3, 4), value), {"units": "K"})
    ...     return xr.Dataset({"2m_temperature": field}, grid).assign_coords(time=time)
    >>> found = initial_shock(at(t[0], 280.0), at(t[1], 283.0),
    ...                       reference=at(t[0], 281.0), reference_forecast=at(t[1], 282.0))
    >>> found["2m_temperature"].values.tolist()
    [3.0, 1.0, 2.0]
    """
    own = _tendency(state, forecast, "state")
    base = _tendency(reference, reference_forecast, "reference")
    names = [name for name in own.data_vars if name in base]
    own, base = own[names], base[names]
    out = xr.concat(
        [own, base, own / base - 1], dim="score", coords="minimal", compat="override",
        combine_attrs="override",
    ).assign_coords(score=["tendency", "reference_tendency", "shock"])  # fmt: skip
    out.attrs = {
        "protocol": "root mean square change over the first interval of a forecast, weighted by "
        "area, members pooled; shock: over that of the reference, less one"
    }
    return out


def _tendency(state: xr.Dataset, forecast: xr.Dataset, what: str) -> xr.Dataset:
    first = _one_time(canonical_state(state, what=what), what)
    next_ = _one_time(_first_output(canonical_state(forecast, what=f"{what}'s forecast")), what)
    later, earlier = matched(next_, first, what=f"{what}'s forecast", other=what)
    change = later.astype(np.float64) - earlier.astype(np.float64)
    dims = [d for d in ("member", "lat", "lon") if d in change.dims]
    out = (change**2).weighted(row_weights(earlier)).mean(dims) ** 0.5
    for name, field in out.data_vars.items():
        field.attrs = {k: v for k, v in earlier[name].attrs.items() if k == "units"}
    return out


def _first_output(forecast: xr.Dataset) -> xr.Dataset:
    """The earliest valid time of a forecast."""
    many = [d for d in ("time", "lead_time") if forecast.sizes.get(d, 1) > 1]
    return forecast.isel(dict.fromkeys(many, 0))


def _one_time(ds: xr.Dataset, what: str) -> xr.Dataset:
    """Without the clock, so that states of different times can be subtracted."""
    clocks = [d for d in ("time", "init_time", "lead_time") if d in ds.dims]
    several = [d for d in clocks if ds.sizes[d] > 1]
    if several:
        raise InputError(
            [Problem(f"{ds.sizes[several[0]]} times along {several[0]}", "one initial time",
                     f"ds.isel({several[0]}=0)")], what=what,
        )  # fmt: skip
    stale: list[Any] = [n for n, c in ds.coords.items() if c.dtype.kind in "mM"]
    return ds.squeeze(clocks, drop=True).drop_vars(stale, errors="ignore")
