"""3D-Var: the most likely state of the Gaussian posterior with the prior's B.

Around the network's conditional mean it is the strongest of the simple methods: one evaluation of
the denoiser at the largest noise level says what the background's error is on average, given the
background; what is left of the error is Gaussian with the covariance V that was measured there, and
is updated by the observations in one solve.  It is the first step of guided sampling with a warm
start, and what the sampler has to beat.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

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
from xdiffda.diffusion.posterior import Guidance, posterior_mean, three_d_var
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.priors.prior import Prior

CALL = "xdiffda.ThreeDVar"
AROUND = ("background", "network")


@dataclasses.dataclass(frozen=True)
class ThreeDVar(Method):
    """3D-Var: the mean of the Gaussian posterior with the model's B; one state.

    Parameters
    ----------
    around : {"background", "network"}
        What the increment is added to. network: the network's conditional mean given the
        background (one evaluation), with the covariance of its error in place of B; background
        members enter by their mean alone.
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
    >>> ThreeDVar().ensemble, ThreeDVar(around="network").around
    (False, 'network')
    """

    name: ClassVar[str] = "3dvar"
    ensemble: ClassVar[bool] = False
    uses_members: ClassVar[bool] = True

    around: str = "background"
    solver: Solver = MINIMUM
    hybrid: Hybrid = Hybrid()
    small_scales: bool = True

    def __post_init__(self) -> None:
        problems = []
        if self.around not in AROUND:
            found, needed = f"around={self.around!r}", f"one of {', '.join(AROUND)}"
            problems.append(Problem(found, needed, f'{CALL}(around="background")'))
        problems += of_class("solver", self.solver, Solver, CALL)
        problems += of_class("hybrid", self.hybrid, Hybrid, CALL)
        problems += true_or_false("small_scales", self.small_scales, CALL)
        raise_if(problems, what="settings of 3dvar")

    def for_prior(self, prior: Prior) -> Self:
        if self.around == "network" and not (prior.has_denoiser or prior.is_gaussian):
            problem = Problem(
                f'around="network" with the prior {prior.name!r}',
                "a prior with a denoiser",
                'assimilate(obs, method="3dvar")',
            )
            raise InputError([problem], what="settings of 3dvar")
        return self

    def network_evaluations(self, prior: Prior) -> int:
        return int(self.around == "network" and not prior.is_gaussian)

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

        if self.around == "network":
            prior, likelihood = at.on_devices((at.conditioned(), at.likelihood))
            guidance = Guidance(solver=self.solver)
            z = posterior_mean(prior, likelihood, guidance=guidance, watch=watch)
        else:
            hybrid = at.ensemble is not None
            covariance = at.hybrid(self.hybrid) if hybrid else at.prior.covariance_at(at.r)
            covariance, likelihood = at.on_devices((covariance, at.likelihood))
            z = three_d_var(covariance, likelihood, solver=self.solver, watch=watch)
        tick(1)
        if self.small_scales:
            z = with_mean_small_scales(at, z, self.solver, watch)
        return Drawn(np.asarray(z), float(np.max(residuals)))
