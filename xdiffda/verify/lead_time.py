"""Lead-time loss: by how many hours a forecast is behind a reference."""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem


def lead_time_loss(scores: xr.Dataset, reference: xr.Dataset, *, score: str = "rmse") -> xr.Dataset:
    """Hours by which forecasts from an analysis are behind those from the reference.

    A forecast whose error at lead time t equals that of the reference at a later lead time
    t + L has lost L hours (Huang et al. 2024, DiffDA, arXiv 2401.05932). The reference's
    error is interpolated linearly between its lead times. Where it has the same error at
    several lead times (it need not grow at every step), the one nearest to t is taken:
    forecasts from the reference itself have lost nothing, whatever their curve.

    Parameters
    ----------
    scores
        Result of `verify` of forecasts, with a dimension ``lead_time``.
    reference
        The same for forecasts from the reference (the truth), to longer lead times.
    score
        A score that grows with the error: ``rmse`` or ``crps``.

    Returns
    -------
    xarray.Dataset
        Variables on (``lead_time``[, ``level``]), hours. Negative where the forecast is
        ahead; NaN where its error lies outside the reference's range.

    Raises
    ------
    InputError
        If there is no lead time, or no such score.

    Examples
    --------
    >>> hours = np.arange(0, 97, 24) * np.timedelta64(1, "h")
    >>> def curve(rmse):
    ...     return xr.Dataset({"2m_temperature": (("score", "lead_time"), [rmse])},
    ...                       {"score": ["rmse"], "lead_time": hours})
    >>> loss = lead_time_loss(curve([1.0, 2.0, 3.0, 4.0, 5.0]), curve([0.0, 1.0, 2.0, 3.0, 4.0]))
    >>> loss["2m_temperature"].values.tolist()
    [24.0, 24.0, 24.0, 24.0, nan]
    """
    problems = [
        Problem(f"{what} without {part}", "scores of forecasts", "verify(forecast, truth)")
        for what, ds in (("scores", scores), ("reference", reference))
        for part, ok in (
            ("a dimension lead_time", "lead_time" in ds.dims),
            (f"the score {score!r}", score in np.atleast_1d(ds.get("score", []))),
        )
        if not ok
    ]
    if problems:
        raise InputError(problems, what="lead_time_loss")
    own, base = _hours(scores), _hours(reference)
    out = {}
    for name, field in scores.sel(score=score, drop=True).data_vars.items():
        if name not in reference or "lead_time" not in field.dims:
            continue
        curve = reference[name].sel(score=score, drop=True)
        out[name] = xr.apply_ufunc(
            _behind,
            field,
            curve.rename(lead_time="reference_lead_time"),
            input_core_dims=[["lead_time"], ["reference_lead_time"]],
            output_core_dims=[["lead_time"]],
            vectorize=True,
            kwargs={"own": own, "base": base},
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"allow_rechunk": True},
            join="inner",
        ).transpose("lead_time", ...)
        out[name].attrs = {"units": "h", "long_name": "lead-time loss"}
    protocol = f"hours between equal {score} of a forecast and of the reference"
    return xr.Dataset(out, attrs={"protocol": protocol})


def _hours(ds: xr.Dataset) -> Float[np.ndarray, " lead"]:
    lead = ds["lead_time"].values
    if lead.dtype.kind == "m":
        return lead / np.timedelta64(1, "h")
    return lead.astype(np.float64)


def _behind(
    error: Float[np.ndarray, " lead"],
    curve: Float[np.ndarray, " base"],
    *,
    own: Float[np.ndarray, " lead"],
    base: Float[np.ndarray, " base"],
) -> Float[np.ndarray, " lead"]:
    known = np.isfinite(curve)
    if known.sum() < 2:
        return np.full(error.shape, np.nan)
    curve, base = curve[known], base[known]
    crossings = _crossings(error[:, None], curve[None], base[None], own[:, None])
    distance = np.where(np.isnan(crossings), np.inf, np.abs(crossings - own[:, None]))
    nearest = np.argmin(distance, axis=1)[:, None]
    return np.take_along_axis(crossings, nearest, axis=1)[:, 0] - own


def _crossings(
    error: Float[np.ndarray, "lead 1"],
    curve: Float[np.ndarray, "1 base"],
    base: Float[np.ndarray, "1 base"],
    own: Float[np.ndarray, "lead 1"],
) -> Float[np.ndarray, "lead segment"]:
    """Lead time at which each segment of the curve has an error; NaN where it has not."""
    left, right, begin, end = curve[:, :-1], curve[:, 1:], base[:, :-1], base[:, 1:]
    inside = (np.minimum(left, right) <= error) & (error <= np.maximum(left, right))
    flat = left == right
    share = (error - left) / np.where(flat, 1.0, right - left)
    at = np.where(flat, np.clip(own, begin, end), begin + share * (end - begin))
    return np.where(inside, at, np.nan)
