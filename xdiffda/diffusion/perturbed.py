"""Perturbed observations: draws of a Gaussian posterior by one Kalman update each.

``z = p + K (y + e - H p)``, p a draw from the prior and e one from N(0, R) (Burgers, van Leeuwen &
Evensen 1998; Houtekamer & Mitchell 1998). Exact for linear observations.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.covariance.draws import Draws, split_keys
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.kalman import Covariance, Solver, Update, update
from xdiffda.diffusion.likelihood import Likelihood, State


def gaussian_posterior(
    mean: State,
    covariance: SpectralCovariance,
    likelihood: Likelihood,
    draws: Draws,
    *,
    solver: Solver = Solver(),
) -> State:
    """Draw members of the posterior of a Gaussian prior, by perturbed observations.

    ``z = p + K (y + e - H p)``, p drawn from N(mean, V) and e from N(0, I): an ensemble
    of 3D-Vars around ``mean``, exact for linear observations.  Robust weights are those of the
    unperturbed observations against ``mean``, the same in all draws from it.

    Parameters
    ----------
    mean : array (node, 1 or member, channel)
    covariance : SpectralCovariance
    likelihood : Likelihood
    draws : Draws
    """
    prior_keys, error_keys = split_keys(draws.keys)
    drawn = draws.signs[:, None] * covariance.sample(prior_keys)
    found = perturbed_update(
        mean, drawn, covariance, likelihood, draws._replace(keys=error_keys), solver=solver
    )
    return mean + drawn + found.increment


def perturbed_update(
    mean: State,
    drawn: State,
    covariance: Covariance,
    likelihood: Likelihood,
    draws: Draws,
    *,
    solver: Solver = Solver(),
) -> Update:
    """Update draws ``mean + drawn`` of a prior, each by observations with its own errors."""
    prior = mean + drawn
    error = likelihood.draw_errors(draws.keys)
    scale = robust_scale(likelihood, covariance, mean, prior.shape[1], solver=solver)
    return update(
        likelihood, covariance, prior, solver=solver, noise=draws.signs * error, scale=scale
    )


def robust_scale(
    likelihood: Likelihood,
    covariance: Covariance,
    mean: State,
    n_member: int,
    *,
    solver: Solver = Solver(),
) -> Float[Array, "obs member"] | None:
    """Square roots of robust weights, of unperturbed observations against ``mean``, for all draws.

    None where the likelihood is not robust.
    """
    if likelihood.robust is None:
        return None
    if likelihood.value.ndim == 2:
        mean = jnp.broadcast_to(mean, (mean.shape[0], n_member, mean.shape[2]))
    scale = update(likelihood, covariance, mean, solver=solver).scale
    assert scale is not None
    return jnp.broadcast_to(scale, (likelihood.n_obs, n_member))
