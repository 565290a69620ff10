"""The methods behind `assimilate`: each turns one analysis time into members of z."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.assimilation.baselines.optimal_interpolation import oi
from xdiffda.assimilation.devices import Schedule
from xdiffda.assimilation.methods.around_members import move_members
from xdiffda.assimilation.methods.letkf import local_ensemble_transform
from xdiffda.assimilation.methods.types import AnalysisTime, Drawn, Members, Tick
from xdiffda.assimilation.settings import Settings
from xdiffda.covariance.draws import Draws, make_draws
from xdiffda.covariance.ensemble import FlowDependent
from xdiffda.diffusion.complement import explain, observed
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.devices import place_members, replicate
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.posterior import sample_gaussian, sample_posterior, three_d_var
from xdiffda.diffusion.repaint import sample_repaint
from xdiffda.observations import interpolated_state, soft_mask

# streams of random numbers that nothing else uses
SMALL_SCALES, SMALL_ERRORS = 0x5CA1E, 0x5CA1F
Watch = Callable[[Array], None]
# (draws, numbers of the members) -> z of a group of members
Draw = Callable[[Draws, Array], Array]


def guided(at: AnalysisTime, settings: Settings, tick: Tick) -> Drawn:
    """Posterior sampling with the guided denoiser."""
    residuals: list[float] = []

    def watch(found):
        return residuals.append(float(found.max()))

    around = settings.hybrid.around if at.prior.of_errors else "mean"
    members = at.ensemble is not None and around == "members"
    draw = (_around_members if members else _around_mean)(at, settings, tick, watch)
    # a prior conditioned on each member's own background stays on one device
    return Drawn(_in_groups(draw, at, settings, place=not members), float(np.max(residuals)))


def _around_mean(at: AnalysisTime, settings: Settings, tick: Tick, watch: Watch) -> Draw:
    prior, covariance = at.conditioned(), settings.covariance
    if at.ensemble is not None and covariance in ("calibrated", "climatological"):
        own = prior.calibrated if covariance == "calibrated" else prior.climatology.posterior
        variance = prior.climatology.variance
        day = FlowDependent(own, jnp.asarray(at.variance_of_the_day()), variance)
        prior, covariance = prior._replace(calibrated=day), "calibrated"

    prior, likelihood = _on_devices(at, (prior, at.likelihood))

    def draw(draws: Draws, numbers: Array) -> Array:
        z = _sampled(at, prior, likelihood, draws, covariance, settings, tick, watch)
        return _with_small_scales(at, z, draws, settings, likelihood, watch)

    return draw


def _around_members(at: AnalysisTime, settings: Settings, tick: Tick, watch: Watch) -> Draw:
    """Move background members by the hybrid, then draw around each what they do not show."""
    hybrid, root = at.hybrid(settings), float(np.sqrt(settings.hybrid.alpha))
    scale = (at.r * at.prior.scale)[:, None]
    likelihood = at.likelihood.rescaled(root)  # of the rest, in a unit of its own

    def draw(draws: Draws, numbers: Array) -> Array:
        moved = move_members(hybrid, at.likelihood, draws, numbers, settings.guidance.solver)
        watch(moved.residual)
        members = at.given[:, None] + scale * np.asarray(moved.z)
        prior = at.prior.condition(members, at.time, at.r * root)
        prior = prior._replace(shift=moved.z / root)
        z = _sampled(at, prior, likelihood, draws, settings.covariance, settings, tick, watch)
        # background members have their own small scales: only those of the rest are added
        return root * _with_small_scales(at, z, draws, settings, likelihood, watch)

    return draw


def _sampled(
    at: AnalysisTime,
    prior: Conditioned,
    likelihood: Likelihood,
    draws: Draws,
    covariance: str,
    settings: Settings,
    tick: Tick,
    watch: Watch,
) -> Array:
    """Draws from the posterior: at once where the prior is Gaussian, else by the sampler."""
    if at.prior.is_gaussian:
        z = sample_gaussian(prior, likelihood, draws, guidance=settings.guidance, watch=watch)
        tick(1)
        return z
    return sample_posterior(
        prior,
        likelihood,
        draws,
        covariance=covariance,
        guidance=settings.guidance,
        tick=lambda: tick(1),
        watch=watch,
    )


def repaint(at: AnalysisTime, settings: Settings, tick: Tick) -> Drawn:
    """Inpainting of interpolated observations, as in the DiffDA paper."""
    prior, layout = at.conditioned(), at.prior.layout
    mask = jnp.asarray(soft_mask(at.tidy, layout, sigma=settings.repaint.mask_sigma))
    # where no site is near there is nothing to inpaint: the background stands, and the mask
    # of a Gaussian is all but zero there
    z = jnp.asarray(_kriged(at))
    prior, z, mask = _on_devices(at, (prior, z, mask))

    def draw(draws: Draws, numbers: Array) -> Array:
        found = sample_repaint(prior, z, mask, draws, settings=settings.repaint, tick=tick)
        return _with_small_scales(at, found, draws, settings)

    return Drawn(_in_groups(draw, at, settings))


def three_d_variational(at: AnalysisTime, settings: Settings, tick: Tick) -> Drawn:
    """The minimum of 3D-Var's cost function with the prior's B, hybrid where there are members."""
    residuals: list[float] = []

    def watch(found):
        return residuals.append(float(found.max()))

    covariance = at.prior.covariance_at(at.r) if at.ensemble is None else at.hybrid(settings)
    covariance, likelihood = _on_devices(at, (covariance, at.likelihood))
    z = three_d_var(covariance, likelihood, solver=settings.guidance.solver, watch=watch)
    tick(1)
    return Drawn(
        np.asarray(_with_mean_small_scales(at, z, settings, watch)), float(np.max(residuals))
    )


def optimal_interpolation(at: AnalysisTime, settings: Settings, tick: Tick) -> Drawn:
    """Local analyses from the nearest observations with the prior's B."""
    z = oi(at.prior.covariance_at(at.r), at.likelihood, at.prior.layout.grid)
    tick(1)
    return Drawn(np.asarray(_with_mean_small_scales(at, jnp.asarray(z), settings)))


def interpolation(at: AnalysisTime, settings: Settings, tick: Tick) -> Drawn:
    """Kriging of the observations alone, and the background where none is near."""
    z = _kriged(at)
    tick(1)
    return Drawn(z[:, None])


def _kriged(at: AnalysisTime) -> Float[np.ndarray, "node channel"]:
    """z of the interpolated observations; zero, the background, where no site is near."""
    field, covered = interpolated_state(at.tidy, at.prior.layout)
    departure = np.where(covered, field - at.background, 0.0)
    return (departure / (at.r * at.prior.scale)).astype(np.float32)


def _in_groups(draw: Draw, at: AnalysisTime, settings: Settings, *, place: bool = True) -> Members:
    """Draw all members, a group at a time; a member is the same in any group.

    ``place`` shares the members of a group out among the devices of the schedule.
    """
    schedule = at.schedule or Schedule(settings.max_batch)
    groups = []
    for numbers in map(jnp.asarray, schedule.groups(settings.n_members)):
        draws = make_draws(at.key, numbers, antithetic=settings.antithetic)
        if place and schedule.devices:
            draws = place_members(draws, schedule.devices)
        groups.append(np.asarray(draw(draws, numbers)))
    return np.concatenate(groups, axis=1)[:, : settings.n_members]


def _on_devices(at: AnalysisTime, tree: Any) -> Any:
    """A copy on each device of the schedule."""
    if at.schedule is None or not at.schedule.devices:
        return tree
    return replicate(tree, at.schedule.devices)


def _with_small_scales(
    at: AnalysisTime,
    z: Array,
    draws: Draws,
    settings: Settings,
    likelihood: Likelihood | None = None,
    watch: Watch = lambda residual: None,
) -> Array:
    """Members with what the basis leaves out, drawn for each from a key of its own.

    Given the observations, where a ``likelihood`` tells of it.
    """
    complement = at.prior.complement(at.r) if settings.small_scales else None
    if complement is None:
        return z
    keys, error_keys = (_folded(draws.keys, n) for n in (SMALL_SCALES, SMALL_ERRORS))
    drawn = draws.signs[:, None] * complement.draw(keys)
    if likelihood is None or not observed(likelihood):
        return z + drawn
    found = explain(
        complement,
        likelihood,
        z,
        drawn,
        draws._replace(keys=error_keys),
        solver=settings.guidance.solver,
    )
    watch(found.residual)
    return found.z


def _with_mean_small_scales(
    at: AnalysisTime, z: Array, settings: Settings, watch: Watch = lambda residual: None
) -> Array:
    """The same for a best estimate: the mean of what the basis leaves out."""
    complement = at.prior.complement(at.r) if settings.small_scales else None
    if complement is None or not observed(at.likelihood):
        return z
    solver = settings.guidance.solver
    found = explain(complement, at.likelihood, z, jnp.zeros_like(z), solver=solver)
    watch(found.residual)
    return found.z


def _folded(keys: Array, number: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


METHODS = {
    "guided": guided,
    "repaint": repaint,
    "3dvar": three_d_variational,
    "oi": optimal_interpolation,
    "letkf": local_ensemble_transform,
    "interpolation": interpolation,
}
