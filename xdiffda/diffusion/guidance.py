"""Guidance by observations: one Kalman update of the denoiser's estimate per noise level.

With the likelihood y | x ~ N(H x, R) and the Gaussian approximation
p(z0 | z_sigma) = N(D, V) the posterior mean is

    D_y = D + V H^T (R + H V H^T)^-1 (y - H D),

itself a denoiser: a sampler that follows it draws from the posterior and never learns that
observations exist. V is measured, climatological, diagonal (`programs.choose_covariance`) or the
denoiser's own derivative (`moment_matching`). The update is solved in observation space by
conjugate gradients, whitened by R^-1/2 (`kalman`); where H is not linear it is linearised around
the current estimate at each noise level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from xdiffda.covariance.draws import Draws, split_keys
from xdiffda.diffusion import programs
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.kalman import Covariance, Solver, update
from xdiffda.diffusion.likelihood import Likelihood, State
from xdiffda.diffusion.moment_matching import guide_by_jacobian

Watch = Callable[[Array], None]
"""Called with the relative residuals (member,) of every solve for the observations."""


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
        if covariance is None:
            return guide_by_jacobian(
                denoise, likelihood, z, sigma, noise_covariance=noise_covariance, solver=solver
            )[0]
        estimate = denoise(z, sigma)  # D
        v = covariance(sigma)  # V
        return estimate + update(likelihood, v, estimate, solver=solver).increment

    return guided


class GuidedDenoiser:
    """`guide` for a prior, compiled: callable (z, sigma) -> D_y for states (node, member, channel).

    Each level's solve begins from the solution of the level before, which it hardly differs from.

    Parameters
    ----------
    prior : Conditioned
    likelihood : Likelihood
    covariance : {"calibrated", "climatological", "diagonal", "jacobian"}
        V.
    solver : Solver
    mesh : Mesh, optional
        Devices that share the members.
    watch : callable
        Called with the relative residual of every solve.
    """

    def __init__(
        self,
        prior: Conditioned,
        likelihood: Likelihood,
        *,
        covariance: str,
        solver: Solver,
        mesh: Mesh | None = None,
        watch: Watch = lambda residual: None,
    ) -> None:
        self.prior, self.likelihood, self.covariance = prior, likelihood, covariance
        self.solver, self.mesh, self.watch = solver, mesh, watch
        self.denoise = prior.own_denoiser()
        self.dual: Array | None = None

    def __call__(self, z: State, sigma: Array) -> State:
        """D_y = D + V H^T (R + H V H^T)^-1 (y - H D)."""
        if self.covariance == "jacobian":
            basis = self.prior.climatology.basis
            guided, residual = programs.guided_by_jacobian(
                self.denoise, basis, self.likelihood, z, sigma, self.solver, self.mesh
            )
        else:
            zero = programs.nothing(self.likelihood, z)
            guess = zero if self.dual is None else self.dual
            estimate = programs.evaluate(self.denoise, z, sigma, self.mesh)  # D
            guided, residual, self.dual = programs.updated(
                self.likelihood, self._v(sigma), estimate, zero, guess, None, self.solver, self.mesh
            )
        guided.block_until_ready()  # progress and interrupts happen between levels
        self.watch(residual)
        return guided

    def draw_clean(self, z: State, sigma: Array, draws: Draws) -> State:
        """Draw the clean state given that of the last level: from N(D, V) given the observations.

        Its mean alone lacks what is left at that level, which is nearly all of the spread where
        observations are dense and precise. Jacobian and diagonal V give way to those that can be
        drawn from.
        """
        prior, name = self.prior, self.covariance
        if name not in ("calibrated", "climatological"):
            name = "climatological" if prior.calibrated is None else "calibrated"
        if name == "calibrated":
            spread = programs.decomposed(prior.calibrated, sigma)
        else:
            spread = prior.climatology.posterior(sigma)
        v = programs.covariance_at(name, prior.climatology, prior.calibrated, sigma)
        mean = programs.evaluate(self.denoise, z, sigma, self.mesh)
        drawn, residual = draw_around(
            mean, spread, v, self.likelihood, draws, self.solver, self.mesh
        )
        drawn.block_until_ready()
        self.watch(residual)
        return drawn

    def _v(self, sigma: Array) -> Covariance:
        prior = self.prior
        return programs.covariance_at(self.covariance, prior.climatology, prior.calibrated, sigma)


def draw_around(
    mean: Array,
    spread: Any,
    v: Covariance,
    likelihood: Likelihood,
    draws: Draws,
    solver: Solver,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    """Draws from N(mean, ``spread``), each updated by observations with errors of its own."""
    keys, error_keys = split_keys(draws.keys)
    drawn = draws.signs[:, None] * programs.sample(spread, keys, mesh)
    errors = draws.signs * programs.draw_errors(likelihood, error_keys, mesh)
    scale = programs.known_scale(likelihood, v, mean, drawn.shape[1], solver)
    guess = programs.nothing(likelihood, drawn)
    return programs.updated(likelihood, v, mean + drawn, errors, guess, scale, solver, mesh)[:2]
