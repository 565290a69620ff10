"""Background ensembles of the experiments: what a forecaster gets wrong, drawn from B."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from xdiffda._rollout import STEP
from xdiffda._stream import time_seed
from xdiffda.prior import Prior

State = Float[np.ndarray, "node channel"]
Ensemble = Float[np.ndarray, "member node channel"]
STREAM = 0xE75


def errors(prior: Prior, key: Any, n_members: int) -> Ensemble:
    """Draws from the Gaussian of the typical background error, in physical units.

    Their mean over the members is taken off: an ensemble keeps its mean, whatever its size.
    """
    keys = jax.random.split(key, n_members)
    z = np.moveaxis(np.asarray(prior.covariance.sample(keys) + prior.small_scales(keys)), 1, 0)
    return np.asarray(prior.scale) * (z - z.mean(0))


def roll_members(
    x: State, start: np.datetime64, n_steps: int, step: Callable[[Any, np.datetime64], Any],
    prior: Prior, *, n_members: int, noise: float, seed: int,
) -> Ensemble:  # fmt: skip
    """Forecast an ensemble, with errors added to each member every 6 h.

    All members start from ``x``, and part because each is told, after every step, to be
    wrong as the forecaster is: an additive stochastic scheme, without which members would
    agree on a forecast that errs by itself.

    Parameters
    ----------
    x : array (node, channel)
        Where all members start; physical units.
    start : datetime64
        Its valid time.
    n_steps : int
        Of 6 h.
    step : callable (states, time) -> states
        The forecaster.
    prior : Prior
        Whose B the errors are drawn from.
    n_members : int
    noise : float
        Standard deviation of the error of one step, in units of the typical background error.
    seed : int

    Returns
    -------
    array (member, node, channel)
    """
    members = np.broadcast_to(x, (n_members, *x.shape))
    key = jax.random.key(time_seed(seed, start))
    for n in range(n_steps):
        own = jax.random.fold_in(jax.random.fold_in(key, STREAM), n)
        members = step(members, start + n * STEP) + noise * errors(prior, own, n_members)
    return members
