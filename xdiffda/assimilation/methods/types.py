"""What a method behind `assimilate` is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from xdiffda.assimilation.devices import Schedule
from xdiffda.assimilation.methods.around_members import hybrid_covariance
from xdiffda.assimilation.settings import Settings
from xdiffda.covariance.ensemble import HybridCovariance, centre, variance_ratio
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.priors.prior import Prior

Tick = Callable[[int], None]
Members = Float[np.ndarray, "node member channel"]


class Drawn(NamedTuple):
    """What a method returns.

    Attributes
    ----------
    z : array (node, member, channel)
    residual : float
        Largest relative residual of the solves for the observations; NaN where none is made.
    inflation : array (node, channel), optional
        Factor for the next cycle, of the LETKF with adaptive inflation.
    """

    z: Members
    residual: float = float("nan")
    inflation: Float[np.ndarray, "node channel"] | None = None


class AnalysisTime(NamedTuple):
    """All that a method may look at.

    Attributes
    ----------
    prior : Prior
    given : array (node, channel)
        The background as it came, which the network was trained to read; physical units.
    background : array (node, channel)
        The same with its grid-scale noise damped (`Prior.filtered`), from which z departs.
    time : datetime64 or None
    r : float
        Scale of the background error.
    likelihood : Likelihood
        Whitened observations of z.
    rows : int array (obs,)
        Row of ``tidy`` behind each row of the likelihood; -1 where it is not used.
    tidy : Dataset
        The observations behind it: those used, and no others.
    key : jax key
    ensemble : array (member, node, channel) or None
        Background members, filtered too, where the background has them; ``background`` is
        then their mean.
    factor : array (node, channel), optional
        Inflation of the cycle before, of the LETKF.
    schedule : Schedule, optional
        How members are grouped, and on which devices; by default ``max_batch`` at a time on
        the default device.
    """

    prior: Prior
    given: Float[np.ndarray, "node channel"]
    background: Float[np.ndarray, "node channel"]
    time: np.datetime64 | None
    r: float
    likelihood: Likelihood
    rows: Int[np.ndarray, " obs"]
    tidy: xr.Dataset
    key: Array
    ensemble: Float[np.ndarray, "member node channel"] | None = None
    factor: Float[np.ndarray, "node channel"] | None = None
    schedule: Schedule | None = None

    def conditioned(self) -> Conditioned:
        """The prior, conditioned on the background."""
        return self.prior.condition(self.given, self.time, self.r)

    def variance_of_the_day(self) -> Float[np.ndarray, "node channel"]:
        """Where background members differ more or less than B says; r says how much in all."""
        layout, covariance = self.prior.layout, self.prior.covariance
        _, perturbations = centre(self.ensemble, self.prior.scale, r=self.r)
        return variance_ratio(
            perturbations,
            np.asarray(covariance.variance),
            covariance.basis,
            area=layout.grid.area_weights(),
        )

    def hybrid(self, settings: Settings) -> HybridCovariance:
        """``alpha B + (1 - alpha) P`` of the day."""
        assert self.ensemble is not None
        return hybrid_covariance(
            self.ensemble,
            self.prior.scale,
            self.prior.covariance_at(self.r),
            self.prior.layout,
            settings.hybrid,
        )
