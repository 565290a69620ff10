"""The methods behind `assimilate`: each turns one analysis time into members of z."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda._devices import Schedule
from xdiffda._settings import Settings
from xdiffda.baselines import letkf, oi
from xdiffda.diffusion._members import place_members, replicate
from xdiffda.diffusion.guidance import Draws, Likelihood, make_draws
from xdiffda.diffusion.repaint import sample_repaint
from xdiffda.diffusion.sampling import Conditioned, sample_posterior, three_d_var
from xdiffda.ensemble import FlowDependent, centre, variance_ratio
from xdiffda.errors import InputError, Problem
from xdiffda.observations import interpolated_state, observation_operator, soft_mask
from xdiffda.prior import Prior

SMALL_SCALES = 0x5CA1E  # a stream of random numbers that nothing else uses
Tick = Callable[[int], None]
Members = Float[np.ndarray, "node member channel"]


class AnalysisTime(NamedTuple):
    """All that a method may look at.

    Attributes
    ----------
    prior : Prior
    background : array (node, channel)
        Physical units.
    time : datetime64 or None
    r : float
        Scale of the background error.
    likelihood : Likelihood
        Whitened observations of z.
    tidy : Dataset
        The observations behind it: those used, and no others.
    key : jax key
    ensemble : array (member, node, channel) or None
        Background members, physical units, where the background has them; ``background`` is
        then their mean.
    schedule : Schedule, optional
        How members are grouped, and on which devices; by default ``max_batch`` at a time on
        the default device.
    """

    prior: Prior
    background: Float[np.ndarray, "node channel"]
    time: np.datetime64 | None
    r: float
    likelihood: Likelihood
    tidy: xr.Dataset
    key: Array
    ensemble: Float[np.ndarray, "member node channel"] | None = None
    schedule: Schedule | None = None

    def conditioned(self) -> Conditioned:
        """The prior, conditioned on the background."""
        return self.prior.condition(self.background, self.time, self.r)

    def variance_of_the_day(self) -> Float[np.ndarray, "node channel"]:
        """Where background members differ more or less than B says; r says how much in all."""
        layout, covariance = self.prior.layout, self.prior.covariance
        _, perturbations = centre(self.ensemble, self.prior.scale, r=self.r)
        return variance_ratio(
            perturbations, np.asarray(covariance.variance), covariance.basis,
            area=layout.grid.area_weights(),
        )  # fmt: skip


def guided(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """Posterior sampling with the guided denoiser."""
    prior, covariance = at.conditioned(), settings.covariance
    if at.ensemble is not None and covariance in ("calibrated", "climatological"):
        own = prior.calibrated if covariance == "calibrated" else prior.climatology.posterior
        variance = prior.climatology.variance
        day = FlowDependent(own, jnp.asarray(at.variance_of_the_day()), variance)
        prior, covariance = prior._replace(calibrated=day), "calibrated"

    prior, likelihood = _on_devices(at, (prior, at.likelihood))

    def draw(draws: Draws) -> Array:
        return sample_posterior(
            prior, likelihood, draws, covariance=covariance,
            guidance=settings.guidance, tick=lambda: tick(1),
        )  # fmt: skip

    return _in_groups(draw, at, settings)


def repaint(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """Inpainting of interpolated observations, as in the DiffDA paper."""
    prior, layout = at.conditioned(), at.prior.layout
    mask = jnp.asarray(soft_mask(at.tidy, layout, sigma=settings.repaint.mask_sigma))
    field, covered = interpolated_state(at.tidy, layout)
    # where no site is near there is nothing to inpaint: the background stands, and the mask
    # of a Gaussian is all but zero there
    field = np.where(covered, field, at.background)
    z = jnp.asarray((field - at.background) / (at.r * at.prior.scale), jnp.float32)
    prior, z, mask = _on_devices(at, (prior, z, mask))

    def draw(draws: Draws) -> Array:
        return sample_repaint(prior, z, mask, draws, settings=settings.repaint, tick=tick)

    return _in_groups(draw, at, settings)


def three_d_variational(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """The minimum of 3D-Var's cost function with the prior's B."""
    covariance, likelihood = _on_devices(at, (at.prior.covariance, at.likelihood))
    z = three_d_var(covariance, likelihood, solver=settings.guidance.solver)
    tick(1)
    return np.asarray(z)


def optimal_interpolation(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """Local analyses from the nearest observations with the prior's B."""
    z = oi(at.prior.covariance, at.likelihood, at.prior.layout.grid)
    tick(1)
    return np.asarray(z)


def local_ensemble_transform(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """LETKF of the background members; what comes out are its members, as z."""
    if at.ensemble is None:
        raise InputError(
            [Problem("a background of one state", "an ensemble along the dimension member",
                     'assimilate(obs, method="guided")')], what="background",
        )  # fmt: skip
    layout = at.prior.layout
    obs, *_ = observation_operator(at.tidy, layout)
    result = letkf(at.ensemble, obs, layout, inflation=settings.inflation,
                   localisation=settings.localisation)  # fmt: skip
    tick(1)
    return np.moveaxis((result.ensemble - at.background) / (at.r * at.prior.scale), 0, 1)


def _in_groups(draw: Callable[[Draws], Array], at: AnalysisTime, settings: Settings) -> Members:
    """Draw all members, a group at a time; a member is the same in any group."""
    schedule = at.schedule or Schedule(settings.max_batch)
    groups = []
    for numbers in schedule.groups(settings.n_members):
        draws = make_draws(at.key, jnp.asarray(numbers), antithetic=settings.antithetic)
        if schedule.devices:
            draws = place_members(draws, schedule.devices)
        z = np.asarray(draw(draws))
        if settings.small_scales:
            z = z + np.asarray(_small_scales(at.prior, draws))
        groups.append(z)
    return np.concatenate(groups, axis=1)[:, : settings.n_members]


def _on_devices(at: AnalysisTime, tree: Any) -> Any:
    """A copy on each device of the schedule."""
    if at.schedule is None or not at.schedule.devices:
        return tree
    return replicate(tree, at.schedule.devices)


def _small_scales(prior: Prior, draws: Draws) -> Array:
    """What the prior's basis leaves out, drawn for each member from a key of its own."""
    keys = jax.vmap(lambda k: jax.random.fold_in(k, SMALL_SCALES))(draws.keys)
    return draws.signs[:, None] * prior.small_scales(keys)


METHODS = {
    "guided": guided, "repaint": repaint, "3dvar": three_d_variational,
    "oi": optimal_interpolation, "letkf": local_ensemble_transform,
}  # fmt: skip
