"""The methods behind `assimilate`: each turns one analysis time into members of z."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda._settings import Settings
from xdiffda.diffusion.guidance import Draws, Likelihood, make_draws
from xdiffda.diffusion.repaint import sample_repaint
from xdiffda.diffusion.sampling import Conditioned, sample_posterior, three_d_var
from xdiffda.observations import interpolated_state, soft_mask
from xdiffda.prior import Prior

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
    """

    prior: Prior
    background: Float[np.ndarray, "node channel"]
    time: np.datetime64 | None
    r: float
    likelihood: Likelihood
    tidy: xr.Dataset
    key: Array

    def conditioned(self) -> Conditioned:
        """The prior, conditioned on the background."""
        return self.prior.condition(self.background, self.time, self.r)


def guided(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """Posterior sampling with the guided denoiser."""
    prior = at.conditioned()

    def draw(draws: Draws) -> Array:
        return sample_posterior(
            prior, at.likelihood, draws, covariance=settings.covariance,
            guidance=settings.guidance, tick=lambda: tick(1),
        )  # fmt: skip

    return _in_groups(draw, at.key, settings)


def repaint(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """Inpainting of interpolated observations, as in the DiffDA paper."""
    prior, layout = at.conditioned(), at.prior.layout
    mask = jnp.asarray(soft_mask(at.tidy, layout, sigma=settings.repaint.mask_sigma))
    field, covered = interpolated_state(at.tidy, layout)
    # where no site is near there is nothing to inpaint: the background stands, and the mask
    # of a Gaussian is all but zero there
    field = np.where(covered, field, at.background)
    z = jnp.asarray((field - at.background) / (at.r * at.prior.scale), jnp.float32)

    def draw(draws: Draws) -> Array:
        return sample_repaint(prior, z, mask, draws, settings=settings.repaint, tick=tick)

    return _in_groups(draw, at.key, settings)


def three_d_variational(at: AnalysisTime, settings: Settings, tick: Tick) -> Members:
    """The minimum of 3D-Var's cost function with the prior's B."""
    z = three_d_var(at.prior.covariance, at.likelihood, solver=settings.guidance.solver)
    tick(1)
    return np.asarray(z)


def _in_groups(draw: Callable[[Draws], Array], key: Array, settings: Settings) -> Members:
    """Draw all members, ``max_batch`` at a time."""
    groups = []
    for first in range(0, settings.n_members, settings.max_batch):
        numbers = jnp.arange(first, min(first + settings.max_batch, settings.n_members))
        draws = make_draws(key, numbers, antithetic=settings.antithetic)
        groups.append(np.asarray(draw(draws)))
    return np.concatenate(groups, axis=1)


METHODS = {"guided": guided, "repaint": repaint, "3dvar": three_d_variational}
