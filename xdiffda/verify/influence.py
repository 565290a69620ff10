"""Influence of observations: degrees of freedom for signal, and impact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdiffda.verify.obs_space import (
    By,
    Groups,
    beside,
    mean,
    together,
    variance,
    variance_of_mean,
)
from xdiffda.verify.scores import need_members

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.rows import Operators


def degrees_of_freedom(
    analysis: xr.Dataset,
    obs: xr.Dataset | pd.DataFrame,
    *,
    background: xr.Dataset | None = None,
    by: By = "variable",
    window: str | np.timedelta64 = "6h",
    operators: Operators | None = None,
) -> xr.Dataset:
    r"""Degrees of freedom for signal: how many numbers the observations determine.

    :math:`\mathrm{DFS} = \mathrm{tr}\,\partial(H x_a)/\partial y = \mathrm{tr}(H K)`
    (Cardinali et al. 2004, Q. J. R. Meteorol. Soc. 130, 2767-2786). With
    :math:`H K = H A H^\top R^{-1}` it follows from the variance of the analysis members
    where they were observed, :math:`\sum_i s_i^2 / \sigma_i^2` (Liu et al. 2009, ibid. 135,
    1842-1851); and, as an expectation, from one analysis of its background by
    :math:`\sum_i (H x_a - H x_b)_i (y - H x_a)_i / \sigma_i^2` (Desroziers et al. 2005, eq. 4).

    Parameters
    ----------
    analysis
        The analysis of ``obs``, an ensemble; computed one time at a time.
    obs
        The observations that were assimilated, columns or tidy.
    background
        What the analysis started from; adds the second estimate. With it, the analysis may
        be a single state.
    by
        Groups: ``variable``, ``level``, ``kind``, ``station``, ... or several of them.
    window, operators
        As in `assimilate`.

    Returns
    -------
    xarray.Dataset
        On the groups: ``n`` observations; ``dfs``, and ``influence`` = dfs / n, between 0 and
        1 where the filter is consistent; with a background ``dfs_innovations``.

    Raises
    ------
    InputError
        If there are neither members nor a background, or no observation can be used.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> pair = np.stack([np.full((3, 4), 279.0), np.full((3, 4), 281.0)])  # variance 2
    >>> analysis = xr.Dataset({"2m_temperature": (("member", "lat", "lon"), pair)}, grid)
    >>> obs = xr.Dataset({"2m_temperature": ("station", [281.0]),
    ...                   "2m_temperature_error_std": ("station", [2.0])},
    ...                  {"lat": ("station", [0.0]), "lon": ("station", [90.0])})
    >>> degrees_of_freedom(analysis, obs)["dfs"].values.tolist()
    [0.5]
    """
    seen = beside(analysis, obs, window=window, operators=operators, what="analysis")
    if background is None:
        need_members(seen.sizes.get("member", 1), what="degrees_of_freedom")
    else:
        seen, first = together(
            analysis=seen,
            background=beside(
                background, obs, window=window, operators=operators, what="background"
            ),
        )
    groups, sigma2 = Groups(seen, by), seen["error_std"].values ** 2
    columns = {"n": (groups.count, "number of observations")}
    spread = variance(seen)
    if spread is not None:
        dfs = groups.sum(spread / sigma2)
        columns["dfs"] = (dfs, "degrees of freedom for signal")
        columns["influence"] = (dfs / groups.count, "mean influence of an observation")
    if background is not None:
        moved, residual = mean(seen) - mean(first), seen["value"].values - mean(seen)
        # the mean of few members is off by a sampling error, once in each factor
        estimate = groups.sum((moved * residual + variance_of_mean(seen)) / sigma2)
        columns["dfs_innovations"] = (estimate, "degrees of freedom for signal, from innovations")
    protocol = (
        "dfs: variance of the analysis members (N - 1) over that of the observation error, "
        "summed; dfs_innovations: sum of (H x_a - H x_b)(y - H x_a) / error_std^2"
    )
    return groups.dataset(columns, protocol=protocol)


def observation_impact(
    analysis: xr.Dataset,
    background: xr.Dataset,
    obs: xr.Dataset | pd.DataFrame,
    *,
    truth: xr.Dataset | None = None,
    by: By = ("variable", "kind"),
    window: str | np.timedelta64 = "6h",
    operators: Operators | None = None,
) -> xr.Dataset:
    r"""Measure how much nearer the analysis came to the observations, and to the truth there.

    Forecast-free: the fall of the observation term of the cost function,
    :math:`\frac12\sum_i [(y - H x_b)_i^2 - (y - H x_a)_i^2] / \sigma_i^2`, and, where a truth
    is known, of the error in observation space. It says where the analysis moved, not which
    observation moved it: neighbours help each other.

    Parameters
    ----------
    analysis, background
        States or ensembles in any known convention; their means are judged.
    obs
        Observations, columns or tidy: assimilated or withheld.
    truth
        State to judge errors by.
    by
        Groups; ``kind`` is left out where observations have none.
    window, operators
        As in `assimilate`.

    Returns
    -------
    xarray.Dataset
        On the groups: ``n``; ``cost_background`` and ``cost_analysis``; ``cost_reduction``
        and its ``share`` of the total. With a truth: ``background_error`` and
        ``analysis_error``, root mean squares in the coordinate ``units``, and
        ``error_reduction`` = 1 - analysis_error / background_error.

    Raises
    ------
    InputError
        If no observation can be used.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), np.full((3, 4), 280.0))}, grid)
    >>> obs = xr.Dataset({"2m_temperature": ("station", [282.0]),
    ...                   "2m_temperature_error_std": ("station", [1.0])},
    ...                  {"lat": ("station", [0.0]), "lon": ("station", [90.0])})
    >>> found = observation_impact(state + 1, state, obs)
    >>> found["cost_reduction"].item()  # from 2 to 1/2
    1.5
    """
    states = {"analysis": analysis, "background": background}
    if truth is not None:
        states["truth"] = truth
    seen = {
        name: beside(ds, obs, window=window, operators=operators, what=name)
        for name, ds in states.items()
    }
    seen = dict(zip(seen, together(**seen), strict=True))
    table = seen["analysis"]
    if not isinstance(by, str):
        by = tuple(k for k in by if k != "kind" or "kind" in table.variables)
    groups = Groups(table, by)
    value, sigma = table["value"].values, table["error_std"].values
    cost = {
        name: groups.sum(0.5 * ((value - mean(seen[name])) / sigma) ** 2)
        for name in ("background", "analysis")
    }
    fall = cost["background"] - cost["analysis"]
    columns = {
        "n": (groups.count, "number of observations"),
        "cost_background": (cost["background"], "J_o of the background"),
        "cost_analysis": (cost["analysis"], "J_o of the analysis"),
        "cost_reduction": (fall, "fall of J_o"),
        "share": (fall / fall.sum(), "share of the fall of J_o"),
    }
    if truth is not None:
        there = mean(seen["truth"])
        error = {
            name: np.sqrt(groups.mean((mean(seen[name]) - there) ** 2))
            for name in ("background", "analysis")
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = 1 - error["analysis"] / error["background"]
        columns |= {
            "background_error": (error["background"], "rms error of the background, observed"),
            "analysis_error": (error["analysis"], "rms error of the analysis, observed"),
            "error_reduction": (gain, "1 - analysis_error / background_error"),
        }
    protocol = "ensemble means; J_o = 1/2 sum of ((y - H x) / error_std)^2; no forecast"
    return groups.dataset(columns, protocol=protocol)
