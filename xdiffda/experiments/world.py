"""The world of an experiment: truth, backgrounds, forecaster, observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.cycling.observation_stream import clock_of, duration, state_at, time_seed
from xdiffda.cycling.plan import States, make_forecast, prior_digest
from xdiffda.cycling.rollout import STEP
from xdiffda.errors import InputError, Problem
from xdiffda.experiments.config import QUARTER, ExperimentConfig, plain
from xdiffda.observations import emulate_obs
from xdiffda.priors import registry
from xdiffda.priors.prior import Prior
from xdiffda.priors.samples import open_named
from xdiffda.state.convert import to_state
from xdiffda.storage.files import digest

# Background ensembles of the experiments: what a forecaster gets wrong, drawn from B.

State = Float[np.ndarray, "node channel"]
Ensemble = Float[np.ndarray, "member node channel"]
STREAM = 0xE75


def errors(prior: Prior, key: Any, n_members: int) -> Ensemble:
    """Draws from the Gaussian of the typical background error, in physical units.

    Their mean over the members is taken off: an ensemble keeps its mean, whatever its size.
    """
    keys = jax.random.split(key, n_members)
    z = np.moveaxis(np.asarray(prior.covariance.sample(keys) + prior.small_scales(keys)), 1, 0)
    return np.asarray(prior.scale) * (z - z.mean(0))


def roll_members(
    x: State,
    start: np.datetime64,
    n_steps: int,
    step: Callable[[Any, np.datetime64], Any],
    prior: Prior,
    *,
    n_members: int,
    noise: float,
    seed: int,
) -> Ensemble:
    """Forecast an ensemble, with errors added to each member every 6 h.

    All members start from ``x``. After every step each receives a random error with the
    statistics of the forecaster's own (an additive stochastic scheme): without it the members
    would agree on a forecast whose error they do not show.

    Parameters
    ----------
    x : array (node, channel)
        Where all members start; physical units.
    start : datetime64
        Its valid time.
    n_steps : int
        Of 6 h.
    step : callable (states, time) -> states
        The forecaster.
    prior : Prior
        Whose B the errors are drawn from.
    n_members : int
    noise : float
        Standard deviation of the error of one step, in units of the typical background error.
    seed : int

    Returns
    -------
    array (member, node, channel)
    """
    members = np.broadcast_to(x, (n_members, *x.shape))
    key = jax.random.key(time_seed(seed, start))
    for n in range(n_steps):
        own = jax.random.fold_in(jax.random.fold_in(key, STREAM), n)
        members = step(members, start + n * STEP) + noise * errors(prior, own, n_members)
    return members


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """Everything in an experiment that does not depend on the method.

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
        (dim,) = {
            d for d in self.truth.dims if d not in state_at(self.truth, times[0], what="truth").dims
        }
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
                x,
                start,
                int(lead // STEP),
                self.step,
                self.prior,
                seed=self.config.seed,
                n_members=self.config.background_members,
                noise=self.config.background_noise,
            )
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
    config: ExperimentConfig,
    *,
    prior: Prior | None = None,
    truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
) -> World:
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
        states,
        STEP.astype("timedelta64[ns]"),
        name if forecaster is None else prior,
        prior,
        forecaster,
        what="run",
    )
    members = (config.background_members, config.background_noise)
    key = plain(
        {
            **({"members": members} if members[0] else {}),
            "prior": f"{prior.name} {prior_digest(prior)}",
            "forecaster": forecast_name,
            "truth": _content(opened, prior, "truth"),
            "background": config.background
            if backgrounds is None
            else _content(backgrounds, prior, "background"),
            "errors": config.error_std,
            "variables": config.variables,
            "seed": config.seed,
        }
    )
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
        raise InputError(
            [
                Problem(
                    f"{len(chosen)} analysis times in a truth from {span}",
                    f"{config.n_cases} with {needs} and truth {config.reference_lead} after: a "
                    "shorter reference_lead, a longer period or fewer cases",
                    f"n_cases = {len(chosen)}" if len(chosen) else "",
                )
            ],
            what="truth",
        )
    return chosen[np.linspace(0, len(chosen) - 1, config.n_cases).astype(int)]


def _content(ds: xr.Dataset, prior: Prior, what: str) -> str:
    """Return a digest of the first state, which identifies a truth or background in any file."""
    first = state_at(ds, clock_of(ds, what=what).min(), what=what)
    return digest(to_state(first, prior.layout, what=what)[0])
