"""One analysis time on arrays: observations in, the chosen method, and an account of it all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.assimilation import innovations
from xdiffda.assimilation.devices import Schedule
from xdiffda.assimilation.methods import AnalysisTime, Guided
from xdiffda.assimilation.settings import Settings
from xdiffda.covariance.ensemble import centre, spread_scale, variance_ratio
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.priors.prior import Prior
from xdiffda.state.convention import Convention

# times the solver's tolerance: in single precision the residual drifts from what it follows
MISSED = 5.0
# root mean square of z = (x - x_b) / (r s): a few at most where r is of any use
DIVERGED = 30.0
Analysed = tuple[Float[np.ndarray, "member node channel"], dict[str, Any]]


def check_clock(convention: Convention) -> None:
    """Raise where the background's times are not understood, or several lead times are there."""
    problems = list(convention.clock.problems)
    sizes = dict(zip(convention.batch_dims, convention.batch_shape, strict=True))
    if sizes.get("lead_time", 1) > 1:
        dim = convention.axes["lead_time"].dim
        problems.append(
            Problem(
                f"{sizes['lead_time']} lead times along `{dim}`",
                "one for each analysis time: choose one, or make the valid time a dimension",
                f"background.isel({dim}=0)",
            )
        )
    raise_if(problems, what="background")


def analyse_time(
    prior: Prior,
    states: Float[np.ndarray, "member node channel"],
    time: np.datetime64 | None,
    tidy: xr.Dataset,
    settings: Settings,
    tick: Callable[[int], Any],
    *,
    schedule: Schedule | None = None,
) -> Analysed:
    """Analyse one time on arrays, physical units; also return the record of what was used.

    ``states`` are background members, or one state; ``schedule`` says on which devices.
    """
    given = states.mean(0, dtype=np.float64).astype(np.float32)
    states = prior.filtered(states)
    background = states.mean(0, dtype=np.float64).astype(np.float32)
    prior = prior.at_background(background)
    error = settings.background_error
    if error == "spread":
        error = r_of_spread(states, prior)
    day = None
    if len(states) > 1 and settings.method.uses_members:
        day = flow_dependent_variance(states, prior, settings.method.alpha)
    likelihood, r, record = innovations.observe(
        tidy,
        prior,
        background,
        time,
        window=settings.window,
        background_error=error,
        quality=settings.quality,
        operators=settings.operators,
        error_correlation=settings.error_correlation,
        day=day,
    )
    prior = prior.with_factors(record["factors"]) if record["factors"] else prior
    inside = tidy.isel(obs=record.pop("inside"))
    key = jax.random.fold_in(jax.random.key(settings.seed), _stamp(time))
    ensemble = states if len(states) > 1 else None
    at = AnalysisTime(
        prior,
        given,
        background,
        time,
        r,
        likelihood,
        record.pop("rows"),
        inside,
        key,
        settings.n_members,
        ensemble,
        schedule,
    )
    drawn = settings.method.draw(at, tick)
    _check_size(drawn.z, settings)
    record |= {"residual": drawn.residual, "inflation": drawn.inflation}
    warn_of_residual(drawn.residual, settings, time)
    members = background[None] + r * prior.scale[None] * np.moveaxis(drawn.z, 1, 0)
    return prior.within_bounds(members), record


def flow_dependent_variance(
    states: Float[np.ndarray, "member node channel"], prior: Prior, alpha: float
) -> Float[np.ndarray, "node channel"]:
    """Where background members differ more or less than B says, mean 1."""
    return variance_ratio(
        centre(states, prior.scale)[1],
        np.asarray(prior.covariance.variance),
        prior.covariance.basis,
        alpha=alpha,
        area=prior.layout.grid.area_weights(),
    )


def r_of_spread(states: Float[np.ndarray, "member node channel"], prior: Prior) -> float:
    """Scale r of the background error, from the spread of its members.

    B and the unresolved variance depend on r: one step towards the fixed point.
    """
    area, r = prior.layout.grid.area_weights(), 1.0
    perturbations = centre(states, prior.scale)[1]
    for _ in range(2):
        unresolved = np.average(prior.unresolved_at(r) ** 2, axis=0, weights=area)
        variance = np.asarray(prior.covariance_at(r).variance) + unresolved
        size = spread_scale(perturbations, variance, area)
        r = float(np.clip(size, *innovations.R_BOUNDS))
    return r


def _check_size(z: Float[np.ndarray, "node member channel"], settings: Settings) -> None:
    """Refuse members that no posterior holds: the update was solved with what is no covariance.

    The Jacobian of a trained network need be neither symmetric nor positive; with dense and
    precise observations conjugate gradients then diverge.
    """
    size, method = float(np.sqrt(np.mean(np.square(z, dtype=np.float64)))), settings.method
    if not np.isfinite(size) and not isinstance(method, Guided):
        raise InputError(
            [
                Problem(
                    "an analysis with numbers that are not finite",
                    "errors of observations that single precision can hold beside the "
                    "background's: larger error_std, a ten-thousandth of that is next to none",
                    "",
                )
            ],
            what=method.name,
        )
    if isinstance(method, Guided) and not size < DIVERGED:
        raise InputError(
            [
                Problem(
                    f"increments of {size:.2g} times the background error",
                    "a V that is "
                    f"symmetric and positive; covariance={method.covariance!r} was not here",
                    'assimilate(obs, method=xdiffda.Guided(covariance="climatological"))'
                    if method.covariance != "climatological"
                    else "",
                )
            ],
            what="guided sampling",
        )


def rounded(residual: float) -> float | None:
    """A residual as it is written down; None where no solve was made."""
    return None if np.isnan(residual) else float(f"{residual:.2e}")


def warn_of_residual(residual: float, settings: Settings, time: np.datetime64 | None) -> None:
    solver = settings.method.solves
    if solver is None:
        return
    if residual > MISSED * solver.tolerance or np.isnan(residual):
        when = "" if time is None or np.isnat(time) else f" at {str(time)[:16]}"
        warnings.warn(
            f"the solver for the observations stopped{when} at a relative residual of "
            f"{residual:.1e}, not {solver.tolerance:.0e}, after {solver.max_iterations} "
            "iterations: errors are tiny beside the background's, or observations contradict "
            "each other; repair: larger error_std, fewer observations that say the same, or "
            f"assimilate(obs, method=xdiffda.{type(settings.method).__name__}("
            "solver=xdiffda.Solver(max_iterations=2000)))",
            stacklevel=4,
        )


def _stamp(time: np.datetime64 | None) -> int:
    """A stable 31-bit number of an analysis time, to derive its random key."""
    if time is None or np.isnat(time):
        return 0
    return int(np.asarray(time, "datetime64[m]").astype(np.int64) % (2**31 - 1))
