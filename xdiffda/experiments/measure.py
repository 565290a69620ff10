"""The measurements of one analysis, and of the forecasts from it."""

from __future__ import annotations

import dataclasses
import time as clock
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.assimilation.assimilate import run_assimilation
from xdiffda.cycling.observation_stream import clock_of, duration
from xdiffda.cycling.rollout import STEP
from xdiffda.experiments.config import Method
from xdiffda.experiments.osse.tables import score
from xdiffda.experiments.world import World
from xdiffda.state.convert import to_state
from xdiffda.verify import balance, zonal_spectrum

Ensemble = Float[np.ndarray, "member node channel"]
Record = dict[str, Any]
WIND = {"u_component_of_wind", "v_component_of_wind"}

DIMS: dict[str, tuple[str, ...]] = {
    "squared": ("channel",),
    "crps": ("channel",),
    "variance": ("channel",),
    "tendency": ("channel",),
    "divergence": ("level",),
    "ageostrophic_ratio": ("level",),
    "spectrum": ("channel", "wavenumber"),
    "members": (),
    "evaluations": (),
    "seconds": (),
    "forecast_squared": ("start", "lead_time", "channel"),
}
"""Dimensions of what a record holds, besides those that tell records apart."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One analysis time, with everything that all methods share there.

    Attributes
    ----------
    time : datetime64
    truths : array (lead, node, channel)
        The truth from the analysis time on, 6-hourly.
    background : Dataset
    """

    time: np.datetime64
    truths: Float[np.ndarray, "lead node channel"]
    background: xr.Dataset


def open_case(world: World, time: np.datetime64, lead: str) -> Case:
    """Read the truth up to ``lead`` and make the background."""
    times = time + np.arange(int(duration(lead) // STEP) + 1) * STEP
    return Case(time, world.true(times), world.background(time))


def analyse(world: World, case: Case, method: Method, obs: xr.Dataset) -> xr.Dataset:
    """The analysis of one method."""
    background = case.background
    if not method.ensemble and "member" in background.dims:
        background = background.mean("member", keep_attrs=True)
    settings = method.settings(n_members=method.n_members, seed=world.config.seed)
    return run_assimilation(background, obs, settings, model=world.prior, progress=False).analysis


def members_of(world: World, ds: xr.Dataset, *, what: str) -> Ensemble:
    """Members of an analysis; one of a single state."""
    x = to_state(ds, world.states.layout, what=what)[0]
    return x.reshape(-1, *x.shape[-2:])


def analysis_record(
    world: World,
    case: Case,
    x: Ensemble,
    *,
    antithetic: bool = False,
    evaluations: int = 0,
    seconds: float = 0.0,
) -> Record:
    """Scores and balance of an analysis; ``x`` are its members, in pairs if antithetic."""
    scored = score(x, case.truths[0], world.area, antithetic=antithetic)
    first = world.step(x, case.time)
    change = np.mean((first.astype(np.float64) - x) ** 2, axis=0)
    return {
        "squared": scored.squared,
        "crps": scored.crps,
        "variance": scored.variance,
        "tendency": _rounded(_area_mean(world, change)),
        **balance_record(world, x, case.time),
        "members": len(x),
        "evaluations": evaluations,
        "seconds": round(seconds, 3),
    }


def balance_record(world: World, x: Ensemble, time: np.datetime64) -> Record:
    """Noise in the wind, and the spectrum of each channel, means over members."""
    ds = world.states.dataset(x, time)
    layout = world.states.layout
    spectrum = zonal_spectrum(ds).sel(band="globe")
    rows = [
        spectrum[name].sel(level=level) if level is not None else spectrum[name]
        for name, level in layout.channels
    ]
    record: Record = {"spectrum": [_rounded(row.values, 5) for row in rows]}
    if set(layout.variables) >= WIND:
        found = balance(ds)
        for name in ("divergence", "ageostrophic_ratio"):
            if name in found:
                values = found[name].sel(level=list(layout.levels)).values
                record[name] = _rounded(values)
    return record


def forecast_record(world: World, case: Case, x: Ensemble) -> Record:
    """Squared errors of forecasts from an analysis, at all lead times from 0."""
    starts = {"mean": x.astype(np.float64).mean(0).astype(np.float32), "member": x[0]}
    chosen = np.stack([starts[name] for name in world.config.starts])
    lead = duration(world.config.forecast_lead)
    return {"forecast_squared": forecast_errors(world, case, chosen, lead)}


def forecast_errors(
    world: World, case: Case, x: Ensemble, lead: np.timedelta64
) -> list[list[list[float]]]:
    """Mean squared errors by start, lead time and channel."""
    states = np.concatenate([x[None], world.roll(x, case.time, lead)])
    truths = case.truths[: len(states), None]
    squares = (states.astype(np.float64) - truths) ** 2
    return [
        [_rounded(_area_mean(world, square)) for square in of_start]
        for of_start in squares.swapaxes(0, 1)
    ]


def reference_record(world: World, case: Case) -> Record:
    """Measure the truth and the background in the same way, for comparison."""
    truth = case.truths[:1]
    lead = (len(case.truths) - 1) * STEP
    base = members_of(world, case.background, what="background")
    own = analysis_record(world, case, truth)
    first = analysis_record(world, case, base)
    spread = ("variance",) if len(base) > 1 else ()
    of_first = forecast_record(world, case, base)["forecast_squared"]
    return {
        **{f"truth_{name}": own[name] for name in BALANCE if name in own},
        **{
            f"background_{name}": first[name]
            for name in ("squared", "crps", *spread, *BALANCE)
            if name in first
        },
        "truth_forecast_squared": forecast_errors(world, case, truth, lead)[0],
        "background_forecast_squared": of_first,
    }


SATURATION_DAYS = (15, 20, 25, 30)


def saturation_record(world: World, time: np.datetime64) -> Record:
    """Measure the saturation error: how far states of one season are from each other.

    Mean squared difference of the truth of this time from those of weeks before and after,
    as far as there is a truth: twice the variance about the climate of the season.
    """
    known = clock_of(world.truth, what="truth")
    wanted = [
        time + sign * np.timedelta64(days, "D") for days in SATURATION_DAYS for sign in (-1, 1)
    ]
    others = [t for t in wanted if t in known]
    if not others:
        return {"saturation_squared": [float("nan")] * world.states.layout.n_channel}
    here, *there = world.true(np.array([time, *others]))
    squares = np.mean([(x.astype(np.float64) - here) ** 2 for x in there], axis=0)
    return {"saturation_squared": _rounded(_area_mean(world, squares))}


BALANCE = ("tendency", "divergence", "ageostrophic_ratio", "spectrum")


def timed_analysis(
    world: World, case: Case, method: Method, n_columns: int
) -> tuple[xr.Dataset, float]:
    """The analysis of one method, and the seconds it took."""
    obs = world.observe(case.truths[0], case.time, n_columns)
    begin = clock.perf_counter()
    analysis = analyse(world, case, method, obs)
    return analysis, clock.perf_counter() - begin


def _area_mean(
    world: World, field: Float[np.ndarray, "node channel"]
) -> Float[np.ndarray, " channel"]:
    return (world.area / world.area.sum()) @ field


def _rounded(values: np.ndarray, digits: int = 8) -> list[float]:
    return [float(f"{v:.{digits}g}") for v in np.asarray(values, np.float64)]
