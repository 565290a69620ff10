"""The settings of `assimilate`, checked as a whole and frozen."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from xdiffda.assimilation.baselines.letkf import Inflation
from xdiffda.covariance.ensemble import Hybrid
from xdiffda.covariance.localisation import Localisation
from xdiffda.diffusion.kalman import MINIMUM, Solver
from xdiffda.diffusion.posterior import Guidance
from xdiffda.diffusion.programs import choose_covariance
from xdiffda.diffusion.repaint import RePaint
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.quality import Quality
from xdiffda.priors.prior import Prior
from xdiffda.state.times import width_of

METHODS = ("guided", "repaint", "3dvar", "oi", "letkf", "interpolation")
SINGLE = ("3dvar", "oi", "interpolation")  # one best state, no ensemble
SOLVERS = {"3dvar": MINIMUM}
FEWEST_STEPS = 4  # of the table of guidance (docs, "Which V, which start, how many steps")
# members of a Gaussian prior come of one solve, which no later noise level corrects
AT_ONCE = Solver(tolerance=1e-4)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `assimilate` was asked for; see its parameters."""

    method: str
    n_members: int
    guidance: Guidance
    repaint: RePaint
    localisation: Localisation
    inflation: Inflation
    hybrid: Hybrid
    covariance: str
    background_error: float | str
    window: str | np.timedelta64
    gross_check: float
    robust: Any
    operators: Any
    error_correlation: Any
    withhold: float
    antithetic: bool
    small_scales: bool
    max_batch: int
    seed: int
    at_once: bool = False  # a Gaussian prior: drawn from without a sampler

    @property
    def control(self) -> Quality:
        """Return the quality control as an object."""
        return Quality(gross_check=self.gross_check, robust=self.robust)

    @property
    def evaluations(self) -> int:
        """Network evaluations for each member."""
        if self.method == "guided":
            return 0 if self.at_once else self.guidance.evaluations
        return self.repaint.evaluations if self.method == "repaint" else 0

    def provenance(self) -> dict[str, Any]:
        """What goes into the attributes of the analysis."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in kept.items():
            if dataclasses.is_dataclass(value):
                kept[name] = dataclasses.asdict(value)
        # functions cannot be written down: their names can
        kept |= {"window": str(self.window), "operators": sorted(self.operators or ())}
        kept["error_correlation"] = repr(self.error_correlation)
        own = {
            "guided": {
                "guidance",
                "covariance",
                "antithetic",
                "small_scales",
                "robust",
                "hybrid",
                "at_once",
            },
            "repaint": {"repaint", "antithetic", "small_scales"},
            "3dvar": {"robust", "hybrid", "small_scales"},
            "oi": {"small_scales"},
            "letkf": {"localisation", "inflation"},
            "interpolation": set(),
        }
        foreign = set().union(*own.values()) - own[self.method]
        return {name: value for name, value in kept.items() if name not in foreign}


def check_settings(
    prior: Prior,
    *,
    method: str,
    n_members: int,
    n_steps: int,
    start: str,
    sampler: str,
    solver: Solver | None,
    repaint: RePaint | None,
    localisation: Localisation | None,
    inflation: Inflation | None,
    hybrid: Hybrid | None,
    covariance: str | None,
    **rest: Any,
) -> Settings:
    """Return the settings, or raise with all that is wrong with them."""
    n_members, n_steps = (_plain(number) for number in (n_members, n_steps))
    rest = {name: _plain(value) for name, value in rest.items()}
    problems = _plain_problems(method=method, n_members=n_members, n_steps=n_steps, **rest)
    problems += _kind_problems(
        solver=solver,
        repaint=repaint,
        localisation=localisation,
        inflation=inflation,
        hybrid=hybrid,
    )
    guidance = Guidance()
    v = covariance or prior.default_covariance
    try:
        usual = AT_ONCE if method == "guided" and prior.is_gaussian else Solver()
        solver = solver if isinstance(solver, Solver) else SOLVERS.get(method, usual)
        n_steps = n_steps if _is_whole(n_steps) else Guidance().n_steps  # it is a problem already
        guidance = Guidance(start=start, n_steps=n_steps, sampler=sampler, solver=solver)
        if v == "calibrated" and prior.default_covariance != "calibrated":
            raise ValueError("this model has no measured V: covariance='climatological'")
        if v != "calibrated":
            choose_covariance(v, prior.covariance, None)
    except ValueError as error:
        problems.append(Problem(str(error), "settings that fit together", "assimilate(obs)"))
    for name, value, owners in (
        ("repaint", repaint, ("repaint",)),
        ("inflation", inflation, ("letkf",)),
        ("localisation", localisation, ("letkf",)),
        ("hybrid", hybrid, ("guided", "3dvar")),
    ):
        if value is not None and method not in owners:
            problems.append(
                Problem(
                    f"{name}=... with method={method!r}",
                    "the method it belongs to",
                    f'method="{owners[0]}"',
                )
            )
    for name in ("error_correlation", "robust"):
        if method == "letkf" and rest[name] not in (None, "none"):
            problems.append(
                Problem(
                    f'{name}=... with method="letkf"',
                    "a method that solves for all observations together",
                    'method="3dvar"',
                )
            )
    if method == "repaint" and not prior.has_denoiser:
        problems.append(
            Problem(
                f'method="repaint" with the prior {prior.name!r}',
                "a prior with a denoiser",
                'assimilate(obs, method="guided")',
            )
        )
    if problems:
        raise InputError(problems, what="settings of assimilate")
    if not prior.is_gaussian:
        _warn_of_few_steps(method, guidance)
    n_members = 1 if method in SINGLE else n_members
    if rest["background_error"] == "estimate" and not prior.estimates_background_error:
        rest["background_error"] = 1.0
    return Settings(
        method=method,
        n_members=n_members,
        guidance=guidance,
        repaint=repaint or RePaint(),
        localisation=localisation or Localisation(),
        inflation=inflation or Inflation(),
        hybrid=hybrid or Hybrid(),
        covariance=v,
        at_once=prior.is_gaussian,
        **rest,
    )


def _warn_of_few_steps(method: str, guidance: Guidance) -> None:
    """Fewer steps than any row of the table of guidance has: members lack spread."""
    if method == "guided" and guidance.n_steps < FEWEST_STEPS:
        warnings.warn(
            f"n_steps={guidance.n_steps} draws members that lack much of their spread (with 3 "
            f"steps from a warm start they have 60 % of it); "
            f"{FEWEST_STEPS} steps are the fewest that were tested; "
            f"repair: n_steps={FEWEST_STEPS} or more, "
            f"assimilate(obs, n_steps={Guidance().n_steps}) for the right spread",
            stacklevel=5,
        )


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, which can be written down as JSON."""
    ours = isinstance(value, np.generic) and not isinstance(value, np.timedelta64)
    return value.item() if ours else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not np.isnan(value)


def _kind_problems(**given: Any) -> list[Problem]:
    """Settings of a class of their own that are none."""
    kinds = {
        "solver": Solver,
        "repaint": RePaint,
        "localisation": Localisation,
        "inflation": Inflation,
        "hybrid": Hybrid,
    }
    return [
        Problem(
            f"{name}={value!r}",
            f"settings of class {kinds[name].__name__}",
            f"{name}={kinds[name].__name__}()",
        )
        for name, value in given.items()
        if value is not None and not isinstance(value, kinds[name])
    ]


def window_problem(window: Any) -> Problem | None:
    """What is wrong with the width of a window, if anything."""
    if width_of(window).total_seconds() >= 0:  # NaN where it is none
        return None
    hours = f'"{window}h"' if _is_number(window) and 0 < window < np.inf else '"6h"'
    return Problem(
        f"window={window!r}", "a positive width with its unit", f"assimilate(obs, window={hours})"
    )


def _plain_problems(**given: Any) -> list[Problem]:
    problems = []
    if given["method"] not in METHODS:
        problems.append(
            Problem(
                f"method={given['method']!r}",
                f"one of {', '.join(METHODS)}",
                'assimilate(obs, method="guided")',
            )
        )
    for name in ("n_members", "n_steps", "max_batch"):
        if not isinstance(given[name], int) or given[name] < 1:
            problems.append(
                Problem(
                    f"{name}={given[name]!r}",
                    "a whole number of 1 or more",
                    f"assimilate(obs, {name}=8)",
                )
            )
    if not (_is_number(given["withhold"]) and 0 <= given["withhold"] < 1):
        problems.append(
            Problem(
                f"withhold={given['withhold']!r}",
                "a share of the stations below 1",
                "assimilate(obs, withhold=0.1)",
            )
        )
    if not (_is_whole(given["seed"]) and 0 <= given["seed"] < 2**32):
        problems.append(
            Problem(
                f"seed={given['seed']!r}",
                "a whole number from 0 to 2**32 - 1",
                "assimilate(obs, seed=0)",
            )
        )
    if not (_is_number(given["gross_check"]) and given["gross_check"] > 0):
        problems.append(
            Problem(
                f"gross_check={given['gross_check']!r}",
                "a positive number of standard deviations, infinite for no check",
                "assimilate(obs, gross_check=10.0)",
            )
        )
    for name in ("antithetic", "small_scales"):
        if given[name] not in (True, False):
            problems.append(
                Problem(f"{name}={given[name]!r}", "True or False", f"assimilate(obs, {name}=True)")
            )
    if (problem := window_problem(given["window"])) is not None:
        problems.append(problem)
    r = given["background_error"]
    if r not in ("estimate", "spread") and not (isinstance(r, int | float) and 0 < r < np.inf):
        problems.append(
            Problem(
                f"background_error={r!r}",
                'a positive number, "estimate" or "spread"',
                "assimilate(obs, background_error=1.0)",
            )
        )
    return problems


def check_factor(factor: Any, prior: Prior, settings: Settings) -> None:
    """Raise where the adaptive inflation of the cycle before does not fit."""
    if factor is None:
        return
    problems = []
    shape = prior.layout.grid.n_node, prior.layout.n_channel
    if not settings.inflation.adaptive or settings.method != "letkf":
        problems.append(
            Problem(
                "inflation_factor without adaptive inflation",
                "the method it belongs to",
                'assimilate(obs, method="letkf", inflation=Inflation(adaptive=True))',
            )
        )
    if np.shape(factor) != shape or not np.all(np.asarray(factor) > 0):
        problems.append(
            Problem(
                f"inflation_factor of shape {np.shape(factor)}",
                f"positive numbers on {shape}",
                'inflation_factor=analysis["inflation_factor"].values',
            )
        )
    raise_if(problems, what="settings of assimilate")
