"""Draw analysis members: cold or warm start, guided denoiser, sampler.

This is the whole method on arrays; `xdiffda.analysis` wraps it in xarray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from xdiffda.covariance import CovarianceTable, SpectralCovariance, white_noise
from xdiffda.diffusion._members import mesh_of, over_members
from xdiffda.diffusion.guidance import (
    Draws,
    Likelihood,
    Solver,
    choose_covariance,
    gaussian_posterior,
    guide,
    kalman_increment,
    split_keys,
)
from xdiffda.diffusion.noise import karras_ladder
from xdiffda.diffusion.sampler import NOISY, SAMPLERS, evaluations


class Conditioned(NamedTuple):
    """A prior conditioned on one background.

    Attributes
    ----------
    denoise : callable (z, sigma) -> estimate
        A pytree (an equinox Module), so that compiled code is shared between backgrounds.
    climatology : SpectralCovariance
        B of z; gives the basis of the noise.
    calibrated : CovarianceTable or None
        Measured V(sigma), if the prior has it.
    """

    denoise: Any
    climatology: SpectralCovariance
    calibrated: CovarianceTable | None = None


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
    sampler : {"dpm-solver", "heun", "stochastic"}
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
    sigma_min: float = 0.1
    sigma_start: float = 6.0
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

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser for each member."""
        warm = self.start == "warm"
        return evaluations(self.sampler, self.n_steps - warm) + warm

    def ladder(self) -> Float[Array, " level"]:
        """Noise levels of the integration, from the start's level to 0."""
        warm = self.start == "warm"
        return karras_ladder(
            self.n_steps - warm,
            sigma_max=self.sigma_start if warm else self.sigma_max,
            sigma_min=self.sigma_min,
        )


def sample_posterior(
    prior: Conditioned,
    likelihood: Likelihood,
    draws: Draws,
    *,
    covariance: str = "climatological",
    guidance: Guidance = Guidance(),
    tick: Callable[[], None] = lambda: None,
) -> Float[Array, "node member channel"]:
    """Draw members of p(z | background, observations).

    Parameters
    ----------
    prior : Conditioned
        Denoiser and covariances; states are (node, member, channel).
    likelihood : Likelihood
    draws : Draws
        A member depends on its own key and sign only. Where they lie on several devices
        (`jax.sharding`, axis ``member``), each device computes its own members.
    covariance : str
        V of guidance: `xdiffda.diffusion.guidance.choose_covariance`.
    guidance : Guidance
    tick : callable
        Called after every evaluation of the denoiser.

    Returns
    -------
    array (node, member, channel)
    """
    mesh = mesh_of(draws.keys)
    start_keys, noise_keys = split_keys(draws.keys)
    draws = draws._replace(keys=start_keys)
    noise = draws.signs[:, None] * _white_noise(prior.climatology, noise_keys, mesh)
    ladder = guidance.ladder()
    if guidance.start == "warm":
        like = jnp.zeros((noise.shape[0], 1, noise.shape[2]), noise.dtype)
        mean = _prior_mean(prior.denoise, like, jnp.asarray(guidance.sigma_max))
        tick()
        base = _warm_start(prior, mean, likelihood, draws, guidance, mesh)
    else:
        # at sigma_max the prior still shines through the largest scales: draw it too
        base = draws.signs[:, None] * _sample(prior.climatology, start_keys, mesh)

    def guided(z: Array, sigma: Array) -> Array:
        out = _guided(prior, likelihood, z, sigma, covariance, guidance, mesh)
        out.block_until_ready()  # progress and interrupts happen between levels
        tick()
        return out

    def fresh(level: int) -> Array:
        keys = _fold_in(noise_keys, jnp.array(1 + level))
        return draws.signs[:, None] * _white_noise(prior.climatology, keys, mesh)

    options = {"noise": fresh} if guidance.sampler in NOISY else {}
    return SAMPLERS[guidance.sampler](guided, base + ladder[0] * noise, ladder, **options)


def three_d_var(
    climatology: SpectralCovariance, likelihood: Likelihood, *, solver: Solver = Solver()
) -> Float[Array, "node 1 channel"]:
    """The minimum of 3D-Var's cost function: the Kalman update of z = 0 with B."""
    return _three_d_var(climatology, likelihood, solver)


_fold_in = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))


@eqx.filter_jit
def _white_noise(covariance: SpectralCovariance, keys: Array, mesh: Mesh | None) -> Array:
    return over_members(white_noise, mesh, covariance, keys, axes=(0,))


@eqx.filter_jit
def _sample(covariance: SpectralCovariance, keys: Array, mesh: Mesh | None) -> Array:
    return over_members(lambda b, keys: b.sample(keys), mesh, covariance, keys, axes=(0,))


@eqx.filter_jit
def _prior_mean(denoise: Any, zero: Array, sigma_max: Array) -> Array:
    """E[z | background]: one evaluation at sigma_max, the same for all members."""
    return denoise(zero, sigma_max)


@eqx.filter_jit
def _warm_start(
    prior: Conditioned, mean: Array, likelihood: Likelihood, draws: Draws, guidance: Guidance,
    mesh: Mesh | None,
) -> Array:  # fmt: skip
    spread = prior.climatology
    if prior.calibrated is not None:
        spread = prior.calibrated(jnp.asarray(guidance.sigma_max)).decompose()

    def own(shared: tuple, keys: Array, signs: Array) -> Array:
        mean, spread, likelihood = shared
        draws = Draws(keys, signs)
        return gaussian_posterior(mean, spread, likelihood, draws, solver=guidance.solver)

    return over_members(own, mesh, (mean, spread, likelihood), *draws, axes=(0, 0))


@eqx.filter_jit
def _guided(
    prior: Conditioned, likelihood: Likelihood, z: Array, sigma: Array, covariance: str,
    guidance: Guidance, mesh: Mesh | None,
) -> Array:  # fmt: skip
    def own(shared: tuple[Conditioned, Likelihood, Array], z: Array) -> Array:
        prior, likelihood, sigma = shared
        basis = prior.climatology.basis
        guided = guide(
            prior.denoise, likelihood,
            choose_covariance(covariance, prior.climatology, prior.calibrated),
            noise_covariance=lambda x: basis.synthesis(basis.adjoint(x)),
            solver=guidance.solver,
        )  # fmt: skip
        return guided(z, sigma)

    return over_members(own, mesh, (prior, likelihood, sigma), z, axes=(1,))


@eqx.filter_jit
def _three_d_var(covariance: SpectralCovariance, likelihood: Likelihood, solver: Solver) -> Array:
    shape = (covariance.basis.n_node, 1, covariance.values.shape[1])
    innovation = likelihood.value[:, None]
    return kalman_increment(likelihood, covariance, innovation, shape, solver)[0]
