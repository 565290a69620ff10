"""Posterior sampling with the guided denoiser, the method of this package."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from xdiffda.assimilation.methods.around_members import move_members
from xdiffda.assimilation.methods.base import (
    AnalysisTime,
    Draw,
    Drawn,
    Method,
    Tick,
    Watch,
    in_groups,
    of_class,
    true_or_false,
    whole_number,
    with_small_scales,
)
from xdiffda.covariance.draws import Draws
from xdiffda.covariance.ensemble import FlowDependent, Hybrid
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.posterior import Guidance, sample_gaussian, sample_posterior
from xdiffda.diffusion.programs import choose_covariance
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.priors.prior import Prior

FEWEST_STEPS = 4  # of the table of guidance (docs, "Which V, which start, how many steps")
# members of a Gaussian prior come from one solve, which no later noise level corrects
AT_ONCE = Solver(tolerance=1e-4)
CALL = "xdiffda.Guided"


@dataclasses.dataclass(frozen=True)
class Guided(Method):
    """Posterior sampling: the diffusion prior, updated by the observations at every noise level.

    With a Gaussian prior members are exact draws from the posterior by one solve.

    Parameters
    ----------
    n_steps : int
        Network evaluations for each member. With fewer than 4 members lack spread: a warning.
    start : {"warm", "cold"}
        Warm: from the Gaussian posterior around the network's conditional mean; cold: from noise.
    sampler : {"dpm-solver", "heun", "stochastic"}
    covariance : {"calibrated", "climatological", "jacobian", "diagonal"}, optional
        V of the Kalman update of guidance; default what the model has measured.
    solver : Solver, optional
        Tolerance and most iterations of the solver for the observations
        (`xdiffda.Solver`); what it reached is in the attributes of the analysis.
    hybrid : Hybrid
        How background members enter (`xdiffda.Hybrid`). By default each
        analysis member is drawn around a background member, moved by four parts of B and one of
        the localised covariance of the ensemble.
    antithetic : bool, optional
        Draw members 2k and 2k + 1 with opposite perturbations: each is a draw from the posterior
        like any other, and the mean of a few has far less sampling error. The two of a pair are
        not independent of each other: `xdiffda.verify` knows that from the attributes; for
        statistics of your own that assume independence, take ``False``. By default pairs, and
        independent members in cycles that carry on the ensemble: the perturbations of a pair
        point the same way and would count as one.
    small_scales : bool
        Add to each member a draw of the scales that the model cannot represent (of the size
        measured for it), given what the observations say of them, so that members differ from
        each other as they do from the truth.
    max_batch : int
        Most members that a device computes together; fewer where its memory, or the option
        ``memory_limit``, asks for that (`xdiffda.set_options`). With several devices members and
        times are shared out among them.

    Raises
    ------
    InputError
        If a setting is out of its range, or two do not go together, with all that is wrong.

    Notes
    -----
    Rozet et al. (2024), arXiv 2405.13712, for guidance by a Gaussian approximation of
    p(z0 | z_sigma); the spectral covariances and the warm start are ours.

    Examples
    --------
    >>> Guided(n_steps=4, sampler="heun").start
    'warm'
    """

    name: ClassVar[str] = "guided"
    uses_members: ClassVar[bool] = True
    uses_network: ClassVar[bool] = True

    n_steps: int = 8
    start: str = "warm"
    sampler: str = "dpm-solver"
    covariance: str | None = None
    solver: Solver | None = None
    hybrid: Hybrid = Hybrid()
    antithetic: bool | None = None
    small_scales: bool = True
    max_batch: int = 8

    def __post_init__(self) -> None:
        problems = whole_number("n_steps", self.n_steps, CALL)
        problems += whole_number("max_batch", self.max_batch, CALL)
        problems += true_or_false("small_scales", self.small_scales, CALL)
        problems += of_class("hybrid", self.hybrid, Hybrid, CALL)
        if self.antithetic is not None:
            problems += true_or_false("antithetic", self.antithetic, CALL)
        if self.solver is not None:
            problems += of_class("solver", self.solver, Solver, CALL)
        if not problems:
            try:
                _ = self.guidance
            except ValueError as error:
                problems.append(Problem(str(error), "settings that fit together", f"{CALL}()"))
        raise_if(problems, what="settings of guided")

    @property
    def guidance(self) -> Guidance:
        """Settings of the sampler."""
        return Guidance(
            start=self.start,
            n_steps=int(self.n_steps),
            sampler=self.sampler,
            solver=self.solver or Solver(),
        )

    def for_prior(self, prior: Prior) -> Self:
        v = self.covariance or prior.default_covariance
        try:
            if v == "calibrated" and prior.default_covariance != "calibrated":
                raise ValueError("this model has no measured V: covariance='climatological'")
            if v != "calibrated":
                choose_covariance(v, prior.covariance, None)
        except ValueError as error:
            problem = Problem(str(error), "settings that fit together", f"{CALL}()")
            raise InputError([problem], what="settings of guided") from error
        if not prior.is_gaussian and self.n_steps < FEWEST_STEPS:
            warnings.warn(
                f"n_steps={self.n_steps} draws members that lack much of their spread (with 3 "
                f"steps from a warm start they have 60 % of it); "
                f"{FEWEST_STEPS} steps are the fewest that were tested; "
                f"repair: n_steps={FEWEST_STEPS} or more, "
                f"assimilate(obs, method=xdiffda.Guided(n_steps={Guidance().n_steps})) for the "
                "right spread",
                stacklevel=6,
            )
        solver = self.solver or (AT_ONCE if prior.is_gaussian else Solver())
        return dataclasses.replace(
            self, covariance=v, solver=solver, antithetic=self.antithetic is not False
        )

    def for_cycle(self, carry: str) -> Self:
        pairs = carry == "mean" if self.antithetic is None else self.antithetic
        return dataclasses.replace(self, antithetic=pairs)

    def network_evaluations(self, prior: Prior) -> int:
        return 0 if prior.is_gaussian else self.guidance.evaluations

    @property
    def alpha(self) -> float:
        return self.hybrid.alpha

    @property
    def solves(self) -> Solver:
        return self.guidance.solver

    def plain(self) -> dict[str, Any]:
        return super().plain() | {"sigma": self.guidance.version}

    def draw(self, at: AnalysisTime, tick: Tick) -> Drawn:
        residuals: list[float] = []

        def watch(found):
            return residuals.append(float(found.max()))

        around = self.hybrid.around if at.prior.of_errors else "mean"
        members = at.ensemble is not None and around == "members"
        draw = (self._around_members if members else self._around_mean)(at, tick, watch)
        # a prior conditioned on each member's own background stays on one device
        z = in_groups(
            draw,
            at,
            antithetic=self.antithetic is not False,
            max_batch=self.max_batch,
            place=not members,
        )
        return Drawn(z, float(np.max(residuals)))

    def _around_mean(self, at: AnalysisTime, tick: Tick, watch: Watch) -> Draw:
        prior, covariance = at.conditioned(), str(self.covariance)
        if at.ensemble is not None and covariance in ("calibrated", "climatological"):
            own = prior.calibrated if covariance == "calibrated" else prior.climatology.posterior
            variance = prior.climatology.variance
            flow = FlowDependent(own, jnp.asarray(at.flow_dependent_variance()), variance)
            prior, covariance = prior._replace(calibrated=flow), "calibrated"
        prior, likelihood = at.on_devices((prior, at.likelihood))

        def draw(draws: Draws, numbers: Array) -> Array:
            z = self._sampled(at, prior, likelihood, draws, covariance, tick, watch)
            return self._with_small_scales(at, z, draws, likelihood, watch)

        return draw

    def _around_members(self, at: AnalysisTime, tick: Tick, watch: Watch) -> Draw:
        """Move background members by the hybrid, then draw around each what they do not show."""
        hybrid, root = at.hybrid(self.hybrid), float(np.sqrt(self.hybrid.alpha))
        scale = (at.r * at.prior.scale)[:, None]
        likelihood = at.likelihood.rescaled(root)  # of the rest, in a unit of its own

        def draw(draws: Draws, numbers: Array) -> Array:
            moved = move_members(hybrid, at.likelihood, draws, numbers, self.solves)
            watch(moved.residual)
            members = at.given[:, None] + scale * np.asarray(moved.z)
            prior = at.prior.condition(members, at.time, at.r * root)
            prior = prior._replace(shift=moved.z / root)
            z = self._sampled(at, prior, likelihood, draws, str(self.covariance), tick, watch)
            # background members have their own small scales: only those of the rest are added
            return root * self._with_small_scales(at, z, draws, likelihood, watch)

        return draw

    def _sampled(
        self,
        at: AnalysisTime,
        prior: Conditioned,
        likelihood: Likelihood,
        draws: Draws,
        covariance: str,
        tick: Tick,
        watch: Watch,
    ) -> Array:
        """Draws from the posterior: at once where the prior is Gaussian, else by the sampler."""
        if at.prior.is_gaussian:
            z = sample_gaussian(prior, likelihood, draws, guidance=self.guidance, watch=watch)
            tick(1)
            return z
        return sample_posterior(
            prior,
            likelihood,
            draws,
            covariance=covariance,
            guidance=self.guidance,
            tick=lambda: tick(1),
            watch=watch,
        )

    def _with_small_scales(
        self, at: AnalysisTime, z: Array, draws: Draws, likelihood: Likelihood, watch: Watch
    ) -> Array:
        if not self.small_scales:
            return z
        return with_small_scales(at, z, draws, likelihood, self.solves, watch)
