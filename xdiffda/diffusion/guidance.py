"""Guidance by observations: one Kalman update of the denoiser's estimate per noise level.

With the likelihood y | x ~ N(H x, R) and the Gaussian approximation
p(z0 | z_sigma) = N(D, V) the posterior mean is

    D_y = D + V H^T (R + H V H^T)^-1 (y - H D),

solved in observation space by conjugate gradients, whitened by R^-1/2.  Rozet et al.
(2024), arXiv 2405.13712 (moment matching: V = sigma^2 J^T); the spectral V are ours.
Where H is not linear it is linearised around the current estimate at each noise level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.covariance.draws import Draws, split_keys
from xdiffda.covariance.spectral import CovarianceTable, SpectralCovariance
from xdiffda.diffusion.kalman import Covariance, Update, kalman_increment, update
from xdiffda.diffusion.likelihood import Likelihood, State

__all__ = [
    "MINIMUM",
    "Covariance",
    "DiagonalCovariance",
    "Likelihood",
    "Solver",
    "State",
    "Update",
    "choose_covariance",
    "diagonal_covariance",
    "gaussian_posterior",
    "guide",
    "guide_once",
    "kalman_increment",
    "perturbed_update",
    "robust_scale",
    "update",
]


JACOBIAN_ITERATIONS = 16


class Solver(NamedTuple):
    """Conjugate gradients: stop at a relative residual or at a number of iterations.

    Attributes
    ----------
    tolerance : float
        Of the residual, relative to the right-hand side. The matrix has no eigenvalue below 1, so
        observations are met to within that share of the departures: 1e-2 moves members by a
        thousandth of the background error (measured with 1,000 columns), a three hundredth of
        their own spread.
    max_iterations : int
    minimal_residual : int
        If above 0, as many iterations of GMRES instead, at most. V from the Jacobian of a trained
        network is neither symmetric nor positive: conjugate gradients diverge on it, while
        the residual of these never grows (``jacobian``, as in the code of Rozet et al. 2024).
    """

    tolerance: float = 1e-2
    max_iterations: int = 400
    minimal_residual: int = 0


MINIMUM = Solver(tolerance=1e-3)
"""Where a single solve is the whole analysis, and its result a minimum that others compare with."""


def guide(
    denoise: Callable[[Array, Array], Array],
    likelihood: Likelihood,
    covariance: Callable[[Array], Covariance] | None,
    *,
    noise_covariance: Covariance | None = None,
    solver: Solver = Solver(),
) -> Callable[[Array, Array], Array]:
    """Wrap a denoiser by observations; the result is itself a denoiser.

    Parameters
    ----------
    denoise : callable (z, sigma) -> estimate
    likelihood : Likelihood
    covariance : callable sigma -> V, or None
        None takes V = sigma^2 N J^T from the denoiser itself (exact for Gaussian priors,
        one reverse derivative of the network for each iteration of the solver).
    noise_covariance : callable, optional
        N, the covariance of the sampler's unit noise on the grid, which that V needs:
        Y Y^T for noise white on the sphere; default the identity.
    solver : Solver

    Returns
    -------
    callable (z, sigma) -> estimate of the posterior mean
    """

    def guided(z: State, sigma: Array) -> State:
        return guide_once(
            denoise,
            likelihood,
            covariance,
            z,
            sigma,
            noise_covariance=noise_covariance,
            solver=solver,
        )[0]

    return guided


def guide_once(
    denoise: Callable[[Array, Array], Array],
    likelihood: Likelihood,
    covariance: Callable[[Array], Covariance] | None,
    z: State,
    sigma: Array,
    *,
    noise_covariance: Covariance | None = None,
    solver: Solver = Solver(),
) -> tuple[State, Float[Array, " member"]]:
    """One evaluation of the guided denoiser, and the relative residual of the solve behind it.

    Parameters are those of `guide` and of what it returns.
    """
    if covariance is not None:
        estimate = denoise(z, sigma)
        found = update(likelihood, covariance(sigma), estimate, solver=solver)
        return estimate + found.increment, found.residual
    if not solver.minimal_residual:
        solver = solver._replace(minimal_residual=min(JACOBIAN_ITERATIONS, solver.max_iterations))
    estimate, transpose = jax.vjp(lambda z: denoise(z, sigma), z)
    variance = jnp.square(sigma)

    def own_update(member: Array) -> Update:
        def apply(state: State) -> State:
            padded = jnp.zeros_like(z).at[:, member].set(state[:, 0])
            back = transpose(padded)[0][:, member][:, None]
            return variance * (noise_covariance(back) if noise_covariance else back)

        own = jax.lax.dynamic_slice_in_dim(estimate, member, 1, axis=1)
        # the Jacobian does not tell its diagonal: that of a unit prior stands in
        expected = jnp.full(z.shape[2], variance / (1 + variance))
        return update(likelihood, apply, own, solver=solver, variance=expected, member=member)

    steps = [own_update(jnp.array(m)) for m in range(z.shape[1])]
    increment = jnp.concatenate([step.increment for step in steps], axis=1)
    return estimate + increment, jnp.concatenate([step.residual for step in steps])


class DiagonalCovariance(eqx.Module):
    """V = v I."""

    variance: Array

    def __call__(self, state: State) -> State:
        """Return V applied to a state."""
        return self.variance * state


def diagonal_covariance(sigma: Array) -> Covariance:
    """V = sigma^2 / (1 + sigma^2) I, the cheap choice (Song et al. 2023, PiGDM)."""
    return DiagonalCovariance(jnp.square(sigma) / (1 + jnp.square(sigma)))


def choose_covariance(
    name: str, climatology: SpectralCovariance, table: CovarianceTable | None
) -> Callable[[Array], Covariance] | None:
    """Return sigma -> V by its name.

    Raises
    ------
    ValueError
        If the name is unknown, or ``calibrated`` is asked of a prior without a table.
    """
    if name == "calibrated" and table is None:
        raise ValueError(
            "V = 'calibrated' needs a covariance measured for the weights; this model has "
            "none: use covariance='climatological'"
        )
    choices = {
        "calibrated": table,
        "climatological": climatology.posterior,
        "jacobian": None,
        "diagonal": diagonal_covariance,
    }
    if name not in choices:
        raise ValueError(f"covariance {name!r} is not one of {', '.join(choices)}")
    return choices[name]


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
