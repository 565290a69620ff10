"""Draw analysis members: cold or warm start, guided denoiser, sampler.

This is the whole method on arrays; `xdiffda.assimilation.assimilate` wraps it in xarray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from xdiffda.covariance.draws import Draws, split_keys
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.devices import mesh_of
from xdiffda.diffusion.guidance import GuidedDenoiser, Watch, draw_around
from xdiffda.diffusion.kalman import MINIMUM, Covariance, Solver, update
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.noise import karras_ladder
from xdiffda.diffusion.programs import (
    covariance_at,
    decomposed,
    evaluate,
    fold_in,
    nothing,
    sample,
    unit_noise,
    updated,
)
from xdiffda.diffusion.sampler import NOISY, SAMPLERS, evaluations

__all__ = [
    "Guidance",
    "posterior_mean",
    "sample_gaussian",
    "sample_posterior",
    "three_d_var",
]

FINAL = 0xF1AA1  # keys of the last step, far from those of any level


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Settings of the sampling of the posterior.

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
    sigma_min: float = 0.25
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

    @property
    def version(self) -> str:
        """Return a text that identifies this version of the sampler in stored results.

        For records of runs that are kept: settings that nobody chooses change with the package.
        """
        ends = f"{self.sigma_max:g} {self.sigma_start:g} {self.sigma_min:g}"
        return f"{ends}, last step drawn"

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
    watch: Watch = lambda residual: None,
) -> Float[Array, "node member channel"]:
    """Draw members of p(z | background, observations).

    Parameters
    ----------
    prior : Conditioned
        Denoiser and covariances; states are (node, member, channel).
    likelihood : Likelihood
    draws : Draws
        A member depends on its own key and sign only. Where they lie on several devices
        (``jax.sharding``, axis ``member``), each device computes its own members.
    covariance : str
        V of guidance: `xdiffda.diffusion.programs.choose_covariance`.
    guidance : Guidance
    tick : callable
        Called after every evaluation of the denoiser.
    watch : callable
        Called with the relative residual of every solve.

    Returns
    -------
    array (node, member, channel)
    """
    mesh = mesh_of(draws.keys)
    start_keys, noise_keys = split_keys(draws.keys)
    draws = draws._replace(keys=start_keys)
    noise = draws.signs[:, None] * unit_noise(prior.climatology, noise_keys, mesh)
    ladder = guidance.ladder()
    if guidance.start == "warm":
        mean = _prior_mean(prior, noise, jnp.asarray(guidance.sigma_max))
        tick()
        base, residual = _warm_start(prior, mean, likelihood, draws, guidance, mesh)
        watch(residual)
    else:
        # at sigma_max the prior still shines through the largest scales: draw it too
        base = draws.signs[:, None] * sample(prior.climatology, start_keys, mesh)
        base = base if prior.shift is None else base + prior.shift

    guided = GuidedDenoiser(
        prior, likelihood, covariance=covariance, solver=guidance.solver, mesh=mesh, watch=watch
    )

    def denoise(z: Array, sigma: Array) -> Array:
        out = guided(z, sigma)
        tick()
        return out

    def fresh(level: int) -> Array:
        keys = fold_in(noise_keys, jnp.array(1 + level))
        return draws.signs[:, None] * unit_noise(prior.climatology, keys, mesh)

    def final(z: Array, sigma: Array) -> Array:
        keys = fold_in(noise_keys, jnp.array(FINAL))
        out = guided.draw_clean(z, sigma, draws._replace(keys=keys))
        tick()
        return out

    options = {"noise": fresh} if guidance.sampler in NOISY else {}
    sampler = SAMPLERS[guidance.sampler]
    return sampler(denoise, base + ladder[0] * noise, ladder, final=final, **options)


def sample_gaussian(
    prior: Conditioned,
    likelihood: Likelihood,
    draws: Draws,
    *,
    guidance: Guidance = Guidance(),
    watch: Watch = lambda residual: None,
) -> Float[Array, "node member channel"]:
    """Draw members of the posterior of a Gaussian prior: no denoiser, no noise levels.

    Each member is a draw from the prior, updated towards observations with perturbations of its
    own (Kalman update with the covariance of the prior). This is exact for linear observations,
    and one solve serves all members.

    Parameters
    ----------
    prior : Conditioned
        N(shift, ``climatology``); a flow-dependent covariance may stand for the climatology.
    likelihood : Likelihood
    draws : Draws
        As for `sample_posterior`.
    guidance : Guidance
        Its solver counts.
    watch : callable
        Called with the relative residuals of the solve.
    """
    b = prior.climatology
    zero = jnp.zeros((b.basis.n_node, 1, b.variance.shape[-1]))
    mean = zero if prior.shift is None else prior.shift
    z, residual = _warm_start(prior, mean, likelihood, draws, guidance, mesh_of(draws.keys))
    watch(residual)
    return z


def three_d_var(
    covariance: Any,
    likelihood: Likelihood,
    *,
    solver: Solver = MINIMUM,
    watch: Watch = lambda residual: None,
) -> Float[Array, "node 1 channel"]:
    """The minimum of 3D-Var's cost function: the Kalman update of z = 0.

    With B climatological (`SpectralCovariance`) or hybrid (`xdiffda.covariance.ensemble`).
    """
    increment, residual = _three_d_var(covariance, likelihood, solver)
    watch(residual)
    return increment


def posterior_mean(
    prior: Conditioned,
    likelihood: Likelihood,
    *,
    guidance: Guidance = Guidance(),
    watch: Watch = lambda residual: None,
) -> Float[Array, "node 1 channel"]:
    """The Kalman update of the denoiser's conditional mean: what a warm start begins from.

    One evaluation of the network. Of a Gaussian prior it is 3D-Var's analysis.
    """
    b = prior.climatology
    shape = jnp.zeros((b.basis.n_node, 1, b.variance.shape[-1]))
    mean = _prior_mean(prior, shape, jnp.asarray(guidance.sigma_max))
    v, zero = _mean_covariance(prior, guidance), nothing(likelihood, mean)
    z, residual, _ = updated(likelihood, v, mean, zero, zero, None, guidance.solver)
    watch(residual)
    return z


def _prior_mean(prior: Conditioned, noise: Array, sigma_max: Array) -> Array:
    """E[z | background]: one evaluation at sigma_max, the same for all members of one prior."""
    if prior.shift is not None:
        return prior.shift + evaluate(prior.denoise, jnp.zeros_like(noise), sigma_max)
    zero = jnp.zeros((noise.shape[0], 1, noise.shape[2]), noise.dtype)
    return evaluate(prior.denoise, zero, sigma_max)


def _mean_covariance(prior: Conditioned, guidance: Guidance) -> Covariance:
    """V of the conditional mean."""
    if prior.calibrated is None:
        return prior.climatology.by_blocks()
    sigma = jnp.asarray(guidance.sigma_max)
    return covariance_at("calibrated", prior.climatology, prior.calibrated, sigma)


def _warm_start(
    prior: Conditioned,
    mean: Array,
    likelihood: Likelihood,
    draws: Draws,
    guidance: Guidance,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    """Draws of the Gaussian posterior around ``mean``, and the residual of their solve."""
    spread, v = prior.climatology, _mean_covariance(prior, guidance)
    if prior.calibrated is not None:
        spread = decomposed(prior.calibrated, jnp.asarray(guidance.sigma_max))
    return draw_around(mean, spread, v, likelihood, draws, guidance.solver, mesh)


@eqx.filter_jit
def _three_d_var(covariance: Any, likelihood: Likelihood, solver: Solver) -> tuple[Array, Array]:
    start = jnp.zeros((covariance.basis.n_node, 1, covariance.variance.shape[-1]))
    found = update(likelihood, covariance, start, solver=solver)
    return found.increment, found.residual
