"""Reliability: does the error follow the spread, and the frequency the probability?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem
from xdiffda.state.canonical import row_weights
from xdiffda.verify.partners import independent, partners, variance, variance_of_mean
from xdiffda.verify.scores import ensemble_pair, reduced, variable_of


def spread_error(analysis: xr.Dataset, truth: xr.Dataset, *, n_bins: int = 10) -> xr.Dataset:
    r"""Compare error and spread in bins of the spread.

    Grid points and times are sorted by their ensemble variance into bins of equal area;
    where the ensemble is reliable, both quantities agree in each (Leutbecher & Palmer 2008,
    J. Comput. Phys. 227, 3515-3539; finite-ensemble factor of Fortin et al. 2014).

    Parameters
    ----------
    analysis
        Ensemble in any known convention.
    truth
        State on the same grid.
    n_bins
        Number of bins, from small spread to large.

    Returns
    -------
    xarray.Dataset
        Variables on (``quantity``, ``bin``[, ``level``]), in the units of the variable:
        ``spread`` :math:`(\frac{N+1}{N} \langle s^2\rangle)^{1/2}` and ``error``, the root
        mean square error of the ensemble mean. Lazy where the input is.

    Raises
    ------
    InputError
        If there are fewer than 2 members or than 1 bin, or nothing can be compared.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> pair = np.stack([np.full((3, 4), 279.0), np.full((3, 4), 281.0)])
    >>> members = xr.Dataset({"2m_temperature": (("member", "lat", "lon"), pair)}, grid)
    >>> found = spread_error(members, members.mean("member") + 1, n_bins=1)["2m_temperature"]
    >>> found.values.round(3).tolist()  # spread, error
    [[1.732], [1.0]]
    """
    if n_bins < 1:
        raise InputError(
            [Problem(f"n_bins={n_bins}", "1 or more", "spread_error(..., n_bins=10)")],
            what="spread_error",
        )
    state, reference = ensemble_pair(analysis, truth, what="spread_error")
    pairs, weights = partners(analysis), row_weights(reference)
    out = {}
    for name in state.data_vars:
        error = state[name].astype(np.float64) - reference[name].astype(np.float64)
        square = error.mean("member", skipna=False) ** 2
        spread2 = variance(error, pairs) + variance_of_mean(error, pairs)
        dims = reduced(square)
        field = xr.apply_ufunc(
            _binned,
            spread2,
            square,
            xr.broadcast(weights, square)[0].transpose(*square.dims),
            input_core_dims=[dims] * 3,
            output_core_dims=[["quantity", "bin"]],
            kwargs={"n_bins": n_bins, "n_core": len(dims)},
            vectorize=False,
            dask="parallelized",
            dask_gufunc_kwargs={
                "allow_rechunk": True,
                "output_sizes": {"quantity": 2, "bin": n_bins},
            },
            output_dtypes=[np.float64],
        )
        field = field.assign_coords(quantity=["spread", "error"], bin=np.arange(1, n_bins + 1))
        field.attrs = _labels(reference[name])
        out[name] = field.transpose("quantity", "bin", ...)
    protocol = (
        "bins of equal area, sorted by ensemble variance; spread with the sampling "
        "variance of the mean (without antithetic pairs the factor (N + 1) / N); "
        "error of the ensemble mean"
    )
    return xr.Dataset(out, attrs={"protocol": protocol, "n_member": state.sizes["member"]})


def _binned(
    spread2: Float[np.ndarray, "*lead *core"],
    square: Float[np.ndarray, "*lead *core"],
    weight: Float[np.ndarray, "*lead *core"],
    *,
    n_bins: int,
    n_core: int,
) -> Float[np.ndarray, "*lead 2 bin"]:
    lead = spread2.shape[: spread2.ndim - n_core]
    rows = [a.reshape(*lead, -1).reshape(int(np.prod(lead)), -1) for a in (spread2, square, weight)]
    out = np.full((len(rows[0]), 2, n_bins), np.nan)
    for i, (s2, e2, w) in enumerate(zip(*rows, strict=True)):
        known = np.isfinite(s2) & np.isfinite(e2)
        order = np.argsort(s2[known], kind="stable")
        s2, e2, w = s2[known][order], e2[known][order], w[known][order]
        middle = (np.cumsum(w) - w / 2) / max(w.sum(), 1e-300)
        where = np.minimum((middle * n_bins).astype(int), n_bins - 1)
        total = np.bincount(where, w, n_bins)
        with np.errstate(invalid="ignore"):  # bins without a point are NaN
            for j, values in enumerate((s2, e2)):
                out[i, j] = np.sqrt(np.bincount(where, w * values, n_bins) / total)
    return out.reshape(*lead, 2, n_bins)


def reliability(
    analysis: xr.Dataset, truth: xr.Dataset, *, thresholds: Mapping[str, float | xr.DataArray]
) -> xr.Dataset:
    r"""Observed frequency of events by their forecast probability, and the Brier score.

    The event is a value at or above a threshold; its probability the share of members. The
    N + 1 probabilities that N members can give are the bins, so that the decomposition
    Brier score = reliability - resolution + uncertainty is exact (Murphy 1973, J. Appl.
    Meteor. 12, 595-600). The fair Brier score comes from the library ``scores``. Of antithetic
    pairs only the first member counts: shares of members that exclude each other are no
    probabilities.

    Parameters
    ----------
    analysis
        Ensemble in any known convention.
    truth
        State on the same grid.
    thresholds
        Variable -> threshold in canonical units; a number, or a DataArray on ``level``.

    Returns
    -------
    xarray.Dataset
        Variables on (``probability``[, ``level``]): the observed frequency;
        ``<name>_share``, the area and time in which a probability was forecast; and
        ``<name>_brier`` on (``term``[, ``level``]), terms ``fair``, ``plain``,
        ``reliability``, ``resolution``, ``uncertainty``; ``<name>_threshold``. Lazy where the
        input is.

    Raises
    ------
    InputError
        If there are fewer than 2 members, or a variable of ``thresholds`` is not there.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> pair = np.stack([np.full((3, 4), 279.0), np.full((3, 4), 281.0)])
    >>> members = xr.Dataset({"2m_temperature": (("member", "lat", "lon"), pair)}, grid)
    >>> found = reliability(members, members.isel(member=1), thresholds={"2m_temperature": 280.0})
    >>> found["2m_temperature_share"].values.tolist()  # probabilities 0, 1/2, 1
    [0.0, 1.0, 0.0]
    """
    analysis, left_out = independent(analysis, what="reliability")
    state, reference = ensemble_pair(analysis, truth, what="reliability")
    weights = row_weights(reference)
    out = {}
    for given, threshold in thresholds.items():
        name = variable_of(given, state, what="reliability")
        above = state[name].astype(np.float64) - threshold
        event = reference[name].astype(np.float64) - threshold
        frequency, share = _by_probability(above, event, weights)
        frequency.attrs = {"units": "1", "long_name": "observed frequency"}
        share.attrs = {"units": "1", "long_name": "share of area and time"}
        out[name], out[f"{name}_share"] = frequency, share
        out[f"{name}_brier"] = _brier(above, event, weights, frequency, share)
        out[f"{name}_threshold"] = xr.DataArray(threshold).assign_attrs(_labels(reference[name]))
    protocol = (
        "event: at or above the threshold; probability: share of members; weighted by cell area, "
        "pooled over times; Murphy's decomposition on the N + 1 possible probabilities"
    )
    protocol = "; ".join(filter(None, [protocol, left_out]))
    return xr.Dataset(out, attrs={"protocol": protocol, "n_member": state.sizes["member"]})


def _by_probability(
    above: xr.DataArray, event: xr.DataArray, weights: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    n = above.sizes["member"]
    known = above.notnull().all("member") & event.notnull()
    weight = weights.where(known, 0.0)
    count, dims = (above >= 0).sum("member"), reduced(event)
    inside = [weight.where(count == k, 0.0) for k in range(n + 1)]
    index = xr.DataArray(
        np.arange(n + 1) / n,
        dims="probability",
        name="probability",
        attrs={"units": "1", "long_name": "forecast probability"},
    )
    total = xr.concat([w.sum(dims) for w in inside], index)
    hits = xr.concat([w.where(event >= 0, 0.0).sum(dims) for w in inside], index)
    return hits / total.where(total > 0), total / weight.sum(dims)


def _brier(
    above: xr.DataArray,
    event: xr.DataArray,
    weights: xr.DataArray,
    frequency: xr.DataArray,
    share: xr.DataArray,
) -> xr.DataArray:
    from scores.probability import brier_score_for_ensemble

    def score(fair: bool) -> Any:
        found = brier_score_for_ensemble(
            above,
            event,
            "member",
            0.0,
            weights=weights,
            fair_correction=fair,
            reduce_dims=reduced(event),
        )
        return found.isel(threshold=0, drop=True) if "threshold" in found.dims else found

    base = (share * frequency).sum("probability")
    terms: dict[str, xr.DataArray] = {
        "fair": score(True),
        "plain": score(False),
        "reliability": (share * (frequency - share["probability"]) ** 2).sum("probability"),
        "resolution": (share * (frequency - base) ** 2).sum("probability"),
        "uncertainty": base * (1 - base),
    }
    index = xr.DataArray(list(terms), dims="term", name="term")
    out = xr.concat(list(terms.values()), index, coords="minimal", compat="override")
    out.attrs = {"units": "1", "long_name": "Brier score and its terms"}
    return out


def _labels(field: xr.DataArray) -> dict[str, str]:
    return {k: str(field.attrs.get(k, "")) for k in ("units", "long_name")}
