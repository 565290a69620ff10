"""From tidy observations to the whitened likelihood of z, with all that was rejected."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.diffusion.guidance import Likelihood
from xdiffda.errors import InputError, Problem
from xdiffda.observations import ObsVector, observation_operator, select_window
from xdiffda.prior import Prior
from xdiffda.state import Convention

# r is taken as log-normal around the model's own with this spread, so that a handful of
# observations does not decide it alone
R_PRIOR_STD = 0.5
R_BOUNDS = (0.05, 5.0)
PADDING = 128


def observe(
    tidy: xr.Dataset, prior: Prior, background: Float[np.ndarray, "node channel"],
    time: np.datetime64 | None, *, window: str | np.timedelta64, gross_check: float,
    background_error: float | str,
) -> tuple[Likelihood, float, dict[str, Any]]:  # fmt: skip
    """Return the likelihood of z at one analysis time, r, and the record of what was used.

    Parameters
    ----------
    tidy : Dataset
        Validated tidy observations of all times.
    prior : Prior
    background : array (node, channel), physical units
    time : datetime64 or None
        Analysis time; None takes all observations.
    window : str or timedelta64
        Full width around ``time``.
    gross_check : float
    background_error : float or "estimate"
    """
    rejected: dict[str, int] = {}
    if time is not None and not np.isnat(time):
        tidy, reasons = select_window(tidy, time, window)
        rejected |= {reason: len(where) for reason, where in reasons.items()}
    obs, _, reasons = observation_operator(tidy, prior.layout)
    rejected |= {reason: len(where) for reason, where in reasons.items()}

    obs = _sorted(obs)
    r0 = 1.0 if background_error == "estimate" else float(background_error)
    flat = np.asarray(background, np.float64).reshape(-1)
    index, weight = np.asarray(obs.index), np.asarray(obs.weight, np.float64)
    # what the basis cannot represent is error of representativeness
    unresolved = (weight * (prior.scale * prior.unresolved).reshape(-1)[index] * r0) ** 2
    error = np.sqrt(np.asarray(obs.error_std, np.float64) ** 2 + unresolved.sum(1))
    departure = (np.asarray(obs.value, np.float64) - (flat[index] * weight).sum(1)) / error
    # how one unit of z in each of the elements shows in an observation, per error
    sensitivity = weight * prior.scale.reshape(-1)[index] / error[:, None]
    channel = np.sqrt(np.asarray(prior.covariance.variance))[index % prior.layout.n_channel]
    spread = np.abs(sensitivity * channel).sum(1)

    good = np.ones(len(departure), bool)
    for _ in range(2):  # a gross error must not inflate the r that judges it
        r = (
            r0
            if background_error != "estimate"
            else estimate_r(departure[good], spread[good], _n_sites(tidy, len(departure)))
        )
        good = np.abs(departure) <= gross_check * np.sqrt(1 + (r * spread) ** 2)
    if not good.all():
        rejected["gross error"] = int((~good).sum())
    if not good.any():
        raise InputError(
            [Problem(f"all {good.size} observations further than {gross_check} expected "
                     "standard deviations from the background",
                     "observations and background of the same time, units and model",
                     "assimilate(obs, gross_check=np.inf)")], what="observations",
        )  # fmt: skip
    # rejected ones stay with weight zero: shapes, and so compiled code, do not change
    likelihood = _padded(np.where(good, departure, 0.0), index, sensitivity * good[:, None] * r)
    return likelihood, r, {"used": int(good.sum()), "rejected": rejected, "r": r}


def _sorted(obs: ObsVector) -> ObsVector:
    """Put observations into an order of their own.

    Perturbations are drawn along this order: the analysis does not depend on that of the
    user's file.
    """
    index, weight = np.asarray(obs.index), np.asarray(obs.weight)
    columns = [np.asarray(obs.error_std), np.asarray(obs.value), *weight.T, *index.T[::-1]]
    order = np.lexsort(columns)
    return jax.tree.map(lambda a: a[order], obs)


def _padded(value: np.ndarray, index: np.ndarray, weight: np.ndarray) -> Likelihood:
    """Fill up to a multiple of `PADDING`, so that analysis times share compiled code.

    A filling observation sees nothing and says nothing.
    """
    more = -len(value) % PADDING
    return Likelihood(
        jnp.asarray(np.pad(value, (0, more)), jnp.float32),
        jnp.asarray(np.pad(index, ((0, more), (0, 0)))),
        jnp.asarray(np.pad(weight, ((0, more), (0, 0))), jnp.float32),
    )


def estimate_r(
    departure: Float[np.ndarray, " obs"], spread: Float[np.ndarray, " obs"], n_site: int
) -> float:
    """Scale of the background error from the innovations, by their second moment.

    Whitened innovations have E[d^2] = 1 + r^2 (H B H^T)_ii.  The estimate of log r is
    averaged with the model's own r = 1 (spread `R_PRIOR_STD`); observations of one site
    see the same error, so a site counts as two independent ones.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> d = rng.normal(size=40_000) * np.sqrt(1 + 0.5**2 * 3.0**2)
    >>> round(estimate_r(d, np.full(40_000, 3.0), 1000), 2)
    0.5
    """
    # medians resist the gross errors that are not rejected yet
    limit = 5 * np.median(np.abs(departure)) / 0.6745
    d2, s2 = np.minimum(np.abs(departure), limit) ** 2, spread**2
    r2 = (np.sum(d2) - len(d2)) / max(np.sum(s2), 1e-12)
    log_r = 0.5 * np.log(np.clip(r2, R_BOUNDS[0] ** 2, R_BOUNDS[1] ** 2))
    information = 2.0 * (2 * n_site)
    log_r *= information / (information + R_PRIOR_STD**-2)
    return float(np.exp(log_r))


def valid_times(convention: Convention) -> list[np.datetime64 | None]:
    """Valid time of each state; None where the background does not say."""
    if convention.valid_times is None:
        return [None] * max(int(np.prod(convention.batch_shape)), 1)
    return list(np.atleast_1d(convention.valid_times).reshape(-1))


def _n_sites(tidy: xr.Dataset, n_obs: int) -> int:
    places = np.stack([tidy["lat"].values, tidy["lon"].values], axis=1)
    return len(np.unique(np.round(places, 4), axis=0))
