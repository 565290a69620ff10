"""3D-Var: the most likely state of the Gaussian posterior with the prior's B."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from xdiffda.assimilation.methods.base import (
    AnalysisTime,
    Drawn,
    Method,
    Tick,
    of_class,
    true_or_false,
    with_mean_small_scales,
)
from xdiffda.covariance.ensemble import Hybrid
from xdiffda.diffusion.kalman import MINIMUM, Solver
from xdiffda.diffusion.posterior import three_d_var
from xdiffda.errors import raise_if

CALL = "xdiffda.ThreeDVar"


@dataclasses.dataclass(frozen=True)
class ThreeDVar(Method):
    """3D-Var: the mean of the Gaussian posterior with the model's B; one state.

    Parameters
    ----------
    solver : Solver
        Tolerance and most iterations of the minimisation (`xdiffda.Solver`).
    hybrid : Hybrid
        How background members enter B (`xdiffda.Hybrid`).
    small_scales : bool
        Add the mean of the scales that the model cannot represent, given the observations.

    Raises
    ------
    InputError
        If a setting is out of its range, with all that is wrong.

    Notes
    -----
    Courtier, Thepaut & Hollingsworth (1994), doi 10.1002/qj.49712051912; hybrid: Hamill & Snyder
    (2000), doi 10.1175/1520-0493(2000)128<2905:AHEKFV>2.0.CO;2.

    Examples
    --------
    >>> ThreeDVar().ensemble
    False
    """

    name: ClassVar[str] = "3dvar"
    ensemble: ClassVar[bool] = False
    uses_members: ClassVar[bool] = True

    solver: Solver = MINIMUM
    hybrid: Hybrid = Hybrid()
    small_scales: bool = True

    def __post_init__(self) -> None:
        problems = of_class("solver", self.solver, Solver, CALL)
        problems += of_class("hybrid", self.hybrid, Hybrid, CALL)
        problems += true_or_false("small_scales", self.small_scales, CALL)
        raise_if(problems, what="settings of 3dvar")

    @property
    def alpha(self) -> float:
        return self.hybrid.alpha

    @property
    def solves(self) -> Solver:
        return self.solver

    def draw(self, at: AnalysisTime, tick: Tick) -> Drawn:
        residuals: list[float] = []

        def watch(found):
            return residuals.append(float(found.max()))

        hybrid = at.ensemble is not None
        covariance = at.hybrid(self.hybrid) if hybrid else at.prior.covariance_at(at.r)
        covariance, likelihood = at.on_devices((covariance, at.likelihood))
        z = three_d_var(covariance, likelihood, solver=self.solver, watch=watch)
        tick(1)
        if self.small_scales:
            z = with_mean_small_scales(at, z, self.solver, watch)
        return Drawn(np.asarray(z), float(np.max(residuals)))
