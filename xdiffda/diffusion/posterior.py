"""Draw analysis members: cold or warm start, guided denoiser, sampler.

This is the whole method on arrays; `xdiffda.assimilation.assimilate` wraps it in xarray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from xdiffda.covariance.draws import Draws, split_keys
from xdiffda.covariance.spectral import CovarianceTable, SpectralCovariance, white_noise
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.devices import mesh_of, over_members
from xdiffda.diffusion.guidance import MINIMUM, Solver, choose_covariance, guide_once, robust_scale
from xdiffda.diffusion.kalman import Covariance, update
from xdiffda.diffusion.likelihood import Likelihood, State
from xdiffda.diffusion.noise import karras_ladder
from xdiffda.diffusion.sampler import NOISY, SAMPLERS, evaluations

__all__ = [
    "Guidance",
    "posterior_mean",
    "sample_gaussian",
    "sample_posterior",
    "three_d_var",
]

# The compiled pieces of guided sampling.
#
# A level is two programs, the network and the Kalman update.  The network's, the dearest to
# compile, knows nothing of the observations; the update's, compiled anew for another number of
# observations, is that of the warm start too.

Updated = tuple[State, Float[Array, " member"]]

fold_in = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))


@eqx.filter_jit
def evaluate(denoise: Any, z: State, sigma: Array, mesh: Mesh | None = None) -> State:
    """The denoiser alone."""

    def own(shared, z):
        return shared[0](z, shared[1])

    return over_members(own, mesh, (denoise, sigma), z, axes=(1,))


@eqx.filter_jit
def unit_noise(covariance: SpectralCovariance, keys: Array, mesh: Mesh | None = None) -> State:
    """White noise in the basis of ``covariance``."""
    return over_members(white_noise, mesh, covariance, keys, axes=(0,))


@eqx.filter_jit
def sample(covariance: SpectralCovariance, keys: Array, mesh: Mesh | None = None) -> State:
    """Draws from N(0, ``covariance``)."""
    return over_members(lambda b, keys: b.sample(keys), mesh, covariance, keys, axes=(0,))


@eqx.filter_jit
def decomposed(table: CovarianceTable, sigma: Array) -> SpectralCovariance:
    """V(sigma), to draw from."""
    return table(sigma).decompose()


@eqx.filter_jit
def covariance_at(
    name: str, climatology: SpectralCovariance, table: CovarianceTable | None, sigma: Array
) -> Covariance:
    """V(sigma) by its name, of one type for all that are given by blocks."""
    choice = choose_covariance(name, climatology, table)
    assert choice is not None
    found = choice(sigma)
    return found.by_blocks() if isinstance(found, SpectralCovariance) else found


@eqx.filter_jit
def draw_errors(
    likelihood: Likelihood, keys: Array, mesh: Mesh | None = None
) -> Float[Array, "obs member"]:
    """Whitened errors of the observations."""

    def own(likelihood, keys):
        return likelihood.draw_errors(keys)

    return over_members(own, mesh, likelihood, keys, axes=(0,))


@eqx.filter_jit
def known_scale(
    likelihood: Likelihood, covariance: Covariance, mean: State, n_member: int, solver: Solver
) -> Float[Array, "obs member"] | None:
    """`robust_scale`, compiled."""
    return robust_scale(likelihood, covariance, mean, n_member, solver=solver)


@eqx.filter_jit
def updated(
    likelihood: Likelihood,
    covariance: Covariance,
    estimate: State,
    noise: Float[Array, "obs member"],
    guess: Float[Array, "obs member"],
    scale: Float[Array, "obs member"] | None,
    solver: Solver,
    mesh: Mesh | None = None,
) -> tuple[State, Float[Array, " member"], Float[Array, "obs member"]]:
    """The Kalman update of ``estimate``, the relative residual of its solve, and the solution."""

    def own(
        shared: tuple, estimate: State, noise: Array, guess: Array, scale: Array | None = None
    ) -> tuple[Array, Array, Array]:
        likelihood, covariance = shared
        found = update(
            likelihood,
            covariance,
            estimate,
            solver=solver,
            noise=noise,
            scale=scale,
            first_guess=guess,
        )
        return estimate + found.increment, found.residual, found.dual

    members = (estimate, noise, guess) if scale is None else (estimate, noise, guess, scale)
    return over_members(
        own, mesh, (likelihood, covariance), *members, axes=[1] * len(members), out_axes=(1, 0, 1)
    )


@eqx.filter_jit
def guided_by_jacobian(
    denoise: Any,
    basis: Any,
    likelihood: Likelihood,
    z: State,
    sigma: Array,
    solver: Solver,
    mesh: Mesh | None = None,
) -> Updated:
    """A level with V from the denoiser's own derivative: one program by necessity."""

    def own(shared: tuple, z: State) -> Updated:
        denoise, basis, likelihood, sigma = shared
        return guide_once(
            denoise,
            likelihood,
            None,
            z,
            sigma,
            solver=solver,
            noise_covariance=lambda x: basis.synthesis(basis.adjoint(x)),
        )

    shared = (denoise, basis, likelihood, sigma)
    return over_members(own, mesh, shared, z, axes=(1,), out_axes=(1, 0))


def nothing(likelihood: Likelihood, z: State) -> Float[Array, "obs member"]:
    """Zeros in observation space for all members of ``z``."""
    return jnp.zeros((likelihood.n_obs, z.shape[1]), z.dtype)


FINAL = 0xF1AA1  # keys of the last step, far from those of any level
Watch = Callable[[Array], None]
"""Called with the relative residuals (member,) of every solve for the observations."""


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
        """What tells draws of this sampler from those of an earlier or later one.

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
        V of guidance: `xdiffda.diffusion.guidance.choose_covariance`.
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

    dual = nothing(likelihood, noise)

    def guided(z: Array, sigma: Array) -> Array:
        nonlocal dual  # the next level's solution begins from this one's
        out, residual, dual = _guided(prior, likelihood, z, sigma, dual, covariance, guidance, mesh)
        out.block_until_ready()  # progress and interrupts happen between levels
        tick()
        watch(residual)
        return out

    def fresh(level: int) -> Array:
        keys = fold_in(noise_keys, jnp.array(1 + level))
        return draws.signs[:, None] * unit_noise(prior.climatology, keys, mesh)

    def final(z: Array, sigma: Array) -> Array:
        own = draws._replace(keys=fold_in(noise_keys, jnp.array(FINAL)))
        out, residual = _final(prior, likelihood, z, sigma, own, covariance, guidance, mesh)
        out.block_until_ready()
        tick()
        watch(residual)
        return out

    options = {"noise": fresh} if guidance.sampler in NOISY else {}
    sampler = SAMPLERS[guidance.sampler]
    return sampler(guided, base + ladder[0] * noise, ladder, final=final, **options)


def sample_gaussian(
    prior: Conditioned,
    likelihood: Likelihood,
    draws: Draws,
    *,
    guidance: Guidance = Guidance(),
    watch: Watch = lambda residual: None,
) -> Float[Array, "node member channel"]:
    """Draw members of the posterior of a Gaussian prior: no denoiser, no noise levels.

    Perturbed observations: a draw from the prior, moved by the Kalman update to observations with
    errors of its own. Exact for linear observations; one solve for all members.

    Parameters
    ----------
    prior : Conditioned
        N(shift, ``climatology``), or with V of the day in its place.
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
    prior: Conditioned, likelihood: Likelihood, *, guidance: Guidance = Guidance()
) -> Float[Array, "node 1 channel"]:
    """The Kalman update of the denoiser's conditional mean: what a warm start begins from.

    One evaluation of the network. Of a Gaussian prior it is 3D-Var's analysis.
    """
    b = prior.climatology
    shape = jnp.zeros((b.basis.n_node, 1, b.variance.shape[-1]))
    mean = _prior_mean(prior, shape, jnp.asarray(guidance.sigma_max))
    v, zero = _mean_covariance(prior, guidance), nothing(likelihood, mean)
    return updated(likelihood, v, mean, zero, zero, None, guidance.solver)[0]


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
    return _perturbed(mean, spread, v, likelihood, draws, guidance.solver, mesh)


def _final(
    prior: Conditioned,
    likelihood: Likelihood,
    z: Array,
    sigma: Array,
    draws: Draws,
    covariance: str,
    guidance: Guidance,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    """Draws of the clean state from that of the last level, and the residual of their solve.

    Its law given the noisy state is N(D, V); its mean alone lacks what is left at that level,
    which is nearly all of the spread where observations are dense and precise. Jacobian and
    diagonal V give way to those that can be drawn from.
    """
    if covariance not in ("calibrated", "climatological"):
        covariance = "climatological" if prior.calibrated is None else "calibrated"
    if covariance == "calibrated":
        spread = decomposed(prior.calibrated, sigma)
    else:
        spread = prior.climatology.posterior(sigma)
    v = covariance_at(covariance, prior.climatology, prior.calibrated, sigma)
    mean = evaluate(prior.own_denoiser(), z, sigma, mesh)
    return _perturbed(mean, spread, v, likelihood, draws, guidance.solver, mesh)


def _perturbed(
    mean: Array,
    spread: Any,
    v: Covariance,
    likelihood: Likelihood,
    draws: Draws,
    solver: Solver,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    """Draws from N(mean, ``spread``), each moved by V to observations with errors of its own."""
    keys, error_keys = split_keys(draws.keys)
    drawn = draws.signs[:, None] * sample(spread, keys, mesh)
    errors = draws.signs * draw_errors(likelihood, error_keys, mesh)
    scale = known_scale(likelihood, v, mean, drawn.shape[1], solver)
    guess = nothing(likelihood, drawn)
    return updated(likelihood, v, mean + drawn, errors, guess, scale, solver, mesh)[:2]


def _guided(
    prior: Conditioned,
    likelihood: Likelihood,
    z: Array,
    sigma: Array,
    guess: Array,
    covariance: str,
    guidance: Guidance,
    mesh: Mesh | None,
) -> tuple[Array, Array, Array]:
    """One level: the members given the observations, residuals, and the solutions behind them."""
    denoise = prior.own_denoiser()
    if covariance == "jacobian":
        basis = prior.climatology.basis
        found = guided_by_jacobian(denoise, basis, likelihood, z, sigma, guidance.solver, mesh)
        return *found, guess
    v = covariance_at(covariance, prior.climatology, prior.calibrated, sigma)
    estimate = evaluate(denoise, z, sigma, mesh)
    noise = nothing(likelihood, z)
    return updated(likelihood, v, estimate, noise, guess, None, guidance.solver, mesh)


@eqx.filter_jit
def _three_d_var(covariance: Any, likelihood: Likelihood, solver: Solver) -> tuple[Array, Array]:
    start = jnp.zeros((covariance.basis.n_node, 1, covariance.variance.shape[-1]))
    found = update(likelihood, covariance, start, solver=solver)
    return found.increment, found.residual
