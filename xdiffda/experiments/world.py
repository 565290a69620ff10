"""What an experiment takes place in: truth, backgrounds, forecaster, observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda import registry
from xdiffda._cycle_plan import States, make_forecast, prior_digest
from xdiffda._rollout import STEP
from xdiffda._stream import clock_of, digest, duration, state_at, time_seed
from xdiffda.errors import InputError, Problem
from xdiffda.experiments.config import QUARTER, ExperimentConfig, plain
from xdiffda.experiments.perturb import roll_members
from xdiffda.observations import emulate_obs
from xdiffda.prior import Prior
from xdiffda.samples import open_named
from xdiffda.state import to_state

State = Float[np.ndarray, "node channel"]


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """All that does not depend on the method.

    Attributes
    ----------
    config : ExperimentConfig
    prior : Prior
    truth : Dataset
        Lazy, along time.
    backgrounds : Dataset or None
        Of a file; None where they are forecasts from the truth.
    states : States
        Between arrays and Datasets.
    step : callable (states, time) -> states
        The forecaster, 6 h.
    times : datetime64 array (case,)
    key : str
        What all records of this world have in common.
    """

    config: ExperimentConfig
    prior: Prior
    truth: xr.Dataset
    backgrounds: xr.Dataset | None
    states: States
    step: Callable[[Any, np.datetime64], Any]
    times: np.ndarray
    key: str

    @property
    def area(self) -> Float[np.ndarray, " node"]:
        """Weights of mean 1."""
        return self.states.layout.grid.area_weights()

    def true(self, times: np.ndarray) -> Float[np.ndarray, "time node channel"]:
        """The truth at some times, read in one go."""
        clock = clock_of(self.truth, what="truth")
        order = np.argsort(clock)
        where = order[np.searchsorted(clock[order], times).clip(max=len(clock) - 1)]
        for gap in times[clock[where] != times][:1]:
            state_at(self.truth, gap, what="truth")  # says what is missing
        (dim,) = {d for d in self.truth.dims if d not in state_at(self.truth, times[0],
                                                                   what="truth").dims}  # fmt: skip
        x, layout, _ = to_state(self.truth.isel({dim: where}), self.states.layout, what="truth")
        return x.reshape(len(times), layout.grid.n_node, layout.n_channel)

    def background(self, time: np.datetime64) -> xr.Dataset:
        """The background of one analysis."""
        if self.backgrounds is not None:
            return state_at(self.backgrounds, time, what="background").compute()
        lead = self.config.background_lead()
        start = time - lead
        x = self.true(np.array([start]))[0]
        if self.config.background_members:
            last = roll_members(
                x, start, int(lead // STEP), self.step, self.prior, seed=self.config.seed,
                n_members=self.config.background_members, noise=self.config.background_noise,
            )  # fmt: skip
        else:
            last = self.roll(x, start, lead)[-1]
        return self.states.dataset(last, time)

    def roll(self, x: Any, time: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        """Forecast states to all multiples of 6 h up to ``lead``, along the first axis."""
        out = []
        for n in range(int(lead // STEP)):
            x = self.step(x, time + n * STEP)
            out.append(x)
        return np.stack(out)

    def observe(self, truth: State, time: np.datetime64, n_columns: int) -> xr.Dataset:
        """Emulated observations: fewer columns are some of the more."""
        errors = self.config.error_std
        if errors == QUARTER:
            errors = self.prior.typical_error(1 / 4)
        choices = self.config.emulation(n_columns, errors)
        state = self.states.dataset(truth, time)
        return emulate_obs(state, seed=time_seed(self.config.seed, time), **choices)


def open_world(
    config: ExperimentConfig, *, prior: Prior | None = None, truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
) -> World:  # fmt: skip
    """Open what a configuration names; prior, truth and forecaster may be given instead.

    Raises
    ------
    InputError
        If the truth does not have enough times, or the pieces do not fit together.
    """
    prior = prior or registry.resolve(config.model or None)
    name: Any = config.model or None
    opened = open_named(config.truth) if truth is None else truth
    lead = config.background_lead()
    backgrounds = open_named(config.background) if lead is None else None
    times = choose_times(config, opened, backgrounds)
    first = state_at(opened, times[0], what="truth")
    _, _, convention = to_state(first, prior.layout, what="truth")
    states = States(prior.layout, convention)
    step, forecast_name = make_forecast(
        states, STEP.astype("timedelta64[ns]"), name if forecaster is None else prior, prior,
        forecaster, what="run",
    )  # fmt: skip
    members = (config.background_members, config.background_noise)
    key = plain({
        **({"members": members} if members[0] else {}),
        "prior": f"{prior.name} {prior_digest(prior)}", "forecaster": forecast_name,
        "truth": _content(opened, prior, "truth"),
        "background": config.background if backgrounds is None
        else _content(backgrounds, prior, "background"),
        "errors": config.error_std, "variables": config.variables, "seed": config.seed,
    })  # fmt: skip
    return World(config, prior, opened, backgrounds, states, step, times, key)


def choose_times(
    config: ExperimentConfig, truth: xr.Dataset, backgrounds: xr.Dataset | None
) -> np.ndarray:
    """Analysis times, evenly spread, for which truth and background are there.

    Raises
    ------
    InputError
        If there are fewer than wanted.
    """
    known = clock_of(truth, what="truth")
    lead, ahead = config.background_lead(), duration(config.reference_lead)
    before = np.timedelta64(0, "ns") if lead is None else lead
    good = np.isin(known - before, known) & np.isin(known + ahead, known)
    if backgrounds is not None:
        good &= np.isin(known, clock_of(backgrounds, what="background"))
    if config.first:
        good &= known >= np.datetime64(config.first)
    if config.last:
        good &= known <= np.datetime64(config.last)
    chosen = np.sort(known[good])
    if len(chosen) < config.n_cases:
        span = f"{str(known.min())[:16]} to {str(known.max())[:16]}"
        needs = f"truth {config.background} before" if lead is not None else "a background"
        raise InputError([Problem(
            f"{len(chosen)} analysis times in a truth from {span}",
            f"{config.n_cases} with {needs} and truth {config.reference_lead} after",
            f"n_cases = {max(len(chosen), 1)}, a shorter reference_lead, or a longer period",
        )], what="truth")  # fmt: skip
    return chosen[np.linspace(0, len(chosen) - 1, config.n_cases).astype(int)]


def _content(ds: xr.Dataset, prior: Prior, what: str) -> str:
    """What tells one truth or background from another: its first state, whatever its file."""
    first = state_at(ds, clock_of(ds, what=what).min(), what=what)
    return digest(to_state(first, prior.layout, what=what)[0])
