"""Innovation statistics: consistency of assumed errors with what observations show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem
from xdiffda.verify.obs_space import (
    By,
    Groups,
    beside,
    mean,
    together,
    variance,
    variance_of_mean,
)

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.rows import Operators


_PROTOCOL = (
    "innovation y - H(x_b) and residual y - H(x_a) of the ensemble means, every observation "
    "counts once; chi_square is the mean of d (H B H' + R)^-1 d over observations; Desroziers "
    "et al. (2005): R = E[(y - H x_a)(y - H x_b)], H B H' = E[(H x_a - H x_b)(y - H x_b)], "
    "H A H' = E[(H x_a - H x_b)(y - H x_a)]"
)


def innovation_chi_square(
    innovation: Float[np.ndarray, " obs"],
    error_std: Float[np.ndarray, " obs"],
    hbht: Float[np.ndarray, " obs"] | Float[np.ndarray, "obs obs"],
) -> Float[np.ndarray, " obs"]:
    r"""Share of each observation in :math:`d^\top (H B H^\top + R)^{-1} d`.

    The sum over all p observations has expectation p, and each share expectation 1, if
    background and observation errors are as assumed (Ménard & Chang 2000, Mon. Wea. Rev.
    128, 2672-2686, for the sum).

    Parameters
    ----------
    innovation
        :math:`d = y - H x_b`.
    error_std
        Standard deviation of observation errors; R is diagonal.
    hbht
        :math:`H B H^\top`, or its diagonal alone: then correlations are neglected.

    Returns
    -------
    array (obs,)
        :math:`d_i\,[(H B H^\top + R)^{-1} d]_i`.

    Raises
    ------
    InputError
        If the shapes do not fit, or the matrix is not positive definite.

    Examples
    --------
    >>> innovation_chi_square(np.array([2.0]), np.array([1.0]), np.array([3.0])).tolist()
    [1.0]
    """
    d, r = np.asarray(innovation, np.float64), np.asarray(error_std, np.float64) ** 2
    b = np.asarray(hbht, np.float64)
    if b.shape not in ((d.size,), (d.size, d.size)) or r.shape != d.shape:
        raise InputError(
            [
                Problem(
                    f"H B H' of shape {b.shape} and {r.size} errors for {d.size} observations",
                    "one number or one row for each observation",
                    "innovation_chi_square(d, error_std, hbht)",
                )
            ],
            what="innovation_chi_square",
        )
    if b.ndim == 1:
        return d**2 / (b + r)
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    try:
        return d * cho_solve(cho_factor(b + np.diag(r)), d)
    except LinAlgError as error:
        raise InputError(
            [
                Problem(
                    "H B H' + R that is not positive definite",
                    "a covariance matrix",
                    "0.5 * (hbht + hbht.T)",
                )
            ],
            what="innovation_chi_square",
        ) from error


def innovation_statistics(
    background: xr.Dataset,
    obs: xr.Dataset | pd.DataFrame,
    *,
    analysis: xr.Dataset | None = None,
    hbht: Any = None,
    by: By = "variable",
    window: str | np.timedelta64 = "6h",
    operators: Operators | None = None,
) -> xr.Dataset:
    """Mean, spread, chi-square and Desroziers diagnostics of innovations, by groups.

    Parameters
    ----------
    background
        State or ensemble in any known convention; computed one time at a time.
    obs
        Observations, columns or tidy.
    analysis
        The analysis of these observations; adds the diagnostics of Desroziers et al. (2005,
        Q. J. R. Meteorol. Soc. 131, eqs. 1 to 4).
    hbht
        Background-error covariance in observation space, for chi-square: its diagonal
        (obs,), the matrix (obs, obs), or a DataArray whose first dimension is ``obs`` with
        the numbers of `equivalents`. By default the variance of the background's members;
        without members there is no chi-square.
    by
        Groups: ``variable``, ``level``, ``kind``, ``station``, ``time`` or several of them.
    window, operators
        As in `assimilate`.

    Returns
    -------
    xarray.Dataset
        On the groups, units in the coordinate ``units``: ``n``; ``mean``, ``std`` and ``rms``
        of the innovation; ``misfit``, its rms divided by the observation error;
        ``chi_square``, expected 1. With an analysis: ``residual_rms``; ``error_std``, assumed,
        and ``error_std_diagnosed``; ``background_std_diagnosed`` and
        ``analysis_std_diagnosed`` in observation space. NaN where a diagnosed variance is
        negative.

    Raises
    ------
    InputError
        If no observation can be used, or ``hbht`` has another shape.

    Notes
    -----
    The mean of N independent members carries a sampling error that lowers the diagnosed
    analysis variance by its N-th part; this is put back from the members' variance. The mean of
    antithetic pairs carries only what the pairs' own means vary by. The diagnostics
    are exact where the analysis used the true covariances, and else one step towards them.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), np.full((3, 4), 280.0))}, grid)
    >>> obs = xr.Dataset({"2m_temperature": ("station", [281.0, 283.0])},
    ...                  {"lat": ("station", [0.0, 60.0]), "lon": ("station", [90.0, 0.0])})
    >>> found = innovation_statistics(state, obs)
    >>> found["mean"].values.tolist(), found["n"].values.tolist()
    ([2.0], [2])
    """
    first = beside(background, obs, window=window, operators=operators, what="background")
    shares = _chi_square(first, hbht)
    if analysis is not None:
        shares = (
            None
            if shares is None
            else xr.DataArray(shares, dims="obs", coords={"obs": first["obs"].values})
        )
        second = beside(analysis, obs, window=window, operators=operators, what="analysis")
        first, second = together(background=first, analysis=second)
        shares = None if shares is None else shares.sel(obs=first["obs"]).values
    groups = Groups(first, by)
    value, sigma = first["value"].values, first["error_std"].values
    d = value - mean(first)
    average = groups.mean(d)
    square = groups.mean(d**2)
    columns = {
        "n": (groups.count, "number of observations"),
        "mean": (average, "mean innovation"),
        "std": (np.sqrt(np.maximum(square - average**2, 0)), "standard deviation of innovations"),
        "rms": (np.sqrt(square), "root mean square innovation"),
        "misfit": (np.sqrt(groups.mean((d / sigma) ** 2)), "rms innovation over error_std"),
    }
    if shares is not None:
        columns["chi_square"] = (groups.mean(shares), "chi-square per observation, expected 1")
    if analysis is not None:
        columns |= _desroziers(groups, d, value - mean(second), sigma, second)
    return groups.dataset(columns, protocol=_PROTOCOL)


def _chi_square(first: xr.Dataset, hbht: Any) -> np.ndarray | None:
    if hbht is None:
        hbht = variance(first)
        if hbht is None:
            return None
    elif isinstance(hbht, xr.DataArray):
        hbht = hbht.sel(obs=first["obs"]).values
    innovation = first["value"].values - mean(first)
    return innovation_chi_square(innovation, first["error_std"].values, hbht)


def _desroziers(
    groups: Groups,
    innovation: np.ndarray,
    residual: np.ndarray,
    sigma: np.ndarray,
    analysis: xr.Dataset,
) -> dict[str, tuple[np.ndarray, str]]:
    moved = innovation - residual  # H x_a - H x_b
    sampling = variance_of_mean(analysis)

    def root(product: np.ndarray) -> np.ndarray:
        found = groups.mean(product)
        return np.sqrt(np.where(found >= 0, found, np.nan))

    return {
        "residual_rms": (root(residual**2), "root mean square residual"),
        "error_std": (root(sigma**2), "assumed standard deviation of observation errors"),
        "error_std_diagnosed": (root(residual * innovation), "the same, diagnosed"),
        "background_std_diagnosed": (
            root(moved * innovation),
            "background error in observation space, diagnosed",
        ),
        "analysis_std_diagnosed": (
            root(moved * residual + sampling),
            "analysis error in observation space, diagnosed",
        ),
    }
