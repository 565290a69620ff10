"""Draw analysis members: cold or warm start, guided denoiser, sampler.

This is the whole method on arrays; `xdiffda.analysis` wraps it in xarray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.covariance import SpectralCovariance, white_noise
from xdiffda.diffusion.guidance import (
    Covariance,
    Likelihood,
    Solver,
    gaussian_posterior,
    guide,
)
from xdiffda.diffusion.noise import karras_ladder
from xdiffda.diffusion.sampler import SAMPLERS

Denoise = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How the posterior is sampled.

    Attributes
    ----------
    start : {"warm", "cold"}
        Warm: from the Gaussian posterior around the denoiser's conditional mean, plus
        noise of ``sigma_start``; cold: from noise of ``sigma_max``.
    n_steps : int
        Network evaluations for each member with ``dpm-solver``, the one for the
        conditional mean included (it is shared by all members).
    sampler : {"dpm-solver", "heun"}
    sigma_max, sigma_min : float
        Ends of the ladder, in units of the background error's standard deviation.
    sigma_start : float
        Noise of the warm start.
    solver : Solver
        Tolerance of the Kalman update.
    """

    start: str = "warm"
    n_steps: int = 8
    sampler: str = "dpm-solver"
    sigma_max: float = 80.0
    sigma_min: float = 0.05
    sigma_start: float = 2.0
    solver: Solver = Solver()

    def __post_init__(self) -> None:
        problems = []
        if self.start not in ("warm", "cold"):
            problems.append(f"start={self.start!r} is neither 'warm' nor 'cold'")
        if self.sampler not in SAMPLERS:
            problems.append(f"sampler={self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        if self.n_steps < (3 if self.start == "warm" else 2):
            problems.append(f"n_steps={self.n_steps} is too few: 3 for a warm start, 2 for a cold")
        if not 0 < self.sigma_min < self.sigma_start <= self.sigma_max:
            problems.append("sigma_min < sigma_start <= sigma_max must hold, all positive")
        if problems:
            raise ValueError("; ".join(problems))

    def ladder(self) -> Float[Array, " level"]:
        """Noise levels of the integration, from the start's level to 0."""
        warm = self.start == "warm"
        return karras_ladder(
            self.n_steps - warm,
            sigma_max=self.sigma_start if warm else self.sigma_max,
            sigma_min=self.sigma_min,
        )


def sample_posterior(
    denoise: Denoise,
    covariance: Callable[[Array], SpectralCovariance | Covariance] | None,
    likelihood: Likelihood,
    keys: Array,
    *,
    climatology: SpectralCovariance,
    guidance: Guidance = Guidance(),
    start_covariance: SpectralCovariance | None = None,
) -> Float[Array, "node member channel"]:
    """Draw one member of p(z | background, observations) for each key.

    Parameters
    ----------
    denoise : callable (z, sigma) -> estimate
        The prior, conditioned on the background; z is (node, member, channel).
    covariance : callable sigma -> V, or None
        See `xdiffda.diffusion.guidance.choose_covariance`.
    likelihood : Likelihood
    keys : key array (member,)
        A member depends on its own key only.
    climatology : SpectralCovariance
        B of z; gives the basis of the noise.
    guidance : Guidance
    start_covariance : SpectralCovariance, optional
        Covariance of truth minus conditional mean, for the warm start; default B.

    Returns
    -------
    array (node, member, channel)
    """
    start_keys, noise_keys = jax.vmap(lambda k: tuple(jax.random.split(k)))(keys)
    noise = white_noise(climatology, noise_keys)
    basis = climatology.basis
    guided = guide(
        denoise, likelihood, covariance, solver=guidance.solver,
        noise_covariance=lambda x: basis.synthesis(basis.adjoint(x)),
    )
    ladder = guidance.ladder()
    if guidance.start == "warm":
        sigma_max = jnp.asarray(guidance.sigma_max)
        mean = denoise(jnp.zeros_like(noise[:, :1]), sigma_max)
        spread = climatology if start_covariance is None else start_covariance
        base = gaussian_posterior(mean, spread, likelihood, start_keys, solver=guidance.solver)
    else:
        # at sigma_max the prior still shines through the largest scales: draw it too
        base = climatology.sample(start_keys)
    return SAMPLERS[guidance.sampler](guided, base + ladder[0] * noise, ladder)
