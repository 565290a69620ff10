"""Optimal interpolation: at each grid point from the observations nearest to it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from xdiffda.assimilation.baselines.optimal_interpolation import oi
from xdiffda.assimilation.methods.base import (
    AnalysisTime,
    Drawn,
    Method,
    Tick,
    true_or_false,
    with_mean_small_scales,
)
from xdiffda.diffusion.kalman import Solver
from xdiffda.errors import raise_if


@dataclasses.dataclass(frozen=True)
class OptimalInterpolation(Method):
    """The mean of the Gaussian posterior from the nearest observations of each grid point.

    Parameters
    ----------
    small_scales : bool
        Add the mean of the scales that the model cannot represent, given the observations.

    Raises
    ------
    InputError
        If a setting is out of its range.

    Examples
    --------
    >>> OptimalInterpolation().name
    'oi'
    """

    name: ClassVar[str] = "oi"
    ensemble: ClassVar[bool] = False

    small_scales: bool = True

    def __post_init__(self) -> None:
        call = "xdiffda.OptimalInterpolation"
        raise_if(true_or_false("small_scales", self.small_scales, call), what="settings of oi")

    def draw(self, at: AnalysisTime, tick: Tick) -> Drawn:
        z = oi(at.prior.covariance_at(at.r), at.likelihood, at.prior.layout.grid)
        tick(1)
        if not self.small_scales:
            return Drawn(np.asarray(z))
        return Drawn(np.asarray(with_mean_small_scales(at, jnp.asarray(z), Solver())))
