"""What a cycled run does, checked before it begins: states, forecasts, observations, identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.cycling.config import Assimilation, flat_settings
from xdiffda.cycling.observation_stream import Source, clock_of, duration, make_source
from xdiffda.cycling.relaxation import Relaxation, Relaxed
from xdiffda.cycling.rollout import STEP, load_rollout
from xdiffda.errors import InputError, ModelError, Problem, raise_if
from xdiffda.options import get_options
from xdiffda.priors import registry
from xdiffda.priors.prior import Prior
from xdiffda.state.clock import clock_names, read_clock
from xdiffda.state.convention import Convention
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.grid import Layout
from xdiffda.storage.files import digest

State = Float[np.ndarray, "*member node channel"]
Forecast = Callable[[State, np.datetime64], State]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that a cycle needs and that is the same for all cycles.

    Attributes
    ----------
    prior : Prior
    first : array ([member,] node, channel)
        The first background.
    start : datetime64
        Time of the first analysis.
    length : timedelta64
        Of a cycle.
    states : States
    forecast : callable (state, time) -> state
        One cycle later.
    source : callable time -> Window
    settings : Assimilation
        Keywords of `assimilate`.
    config : mapping
        What tells this run from another; plain JSON.
    truth : Dataset or None
    """

    prior: Prior
    first: State
    start: np.datetime64
    length: np.timedelta64
    states: States
    forecast: Forecast
    source: Source
    settings: Assimilation
    config: Mapping[str, Any]
    truth: xr.Dataset | None

    def time(self, n: int) -> np.datetime64:
        """Time of analysis ``n``."""
        return self.start + n * self.length


@dataclass(frozen=True, eq=False)
class States:
    """Between state arrays and Datasets in the convention of the first background."""

    layout: Layout
    convention: Convention

    @property
    def names(self) -> list[str]:
        """The user's names of the variables."""
        return [field.user_name for field in self.convention.fields]

    def dataset(self, x: State, time: np.datetime64) -> xr.Dataset:
        """State or ensemble with its valid time, and the static fields of the background."""
        dims = ("member",) if x.ndim == 3 else ()
        ds = from_state(x, self.layout, self.convention, dims=dims, coords={"time": time})
        # other scalars of the first background would be wrong from now on
        kept = {*ds.dims, *clock_names(ds)}
        return ds.drop_vars([c for c in ds.coords if c not in kept])

    def array(self, ds: xr.Dataset, *, what: str) -> State:
        """State array, with a leading axis where the Dataset has members."""
        x, _, convention = to_state(ds, self.layout, what=what)
        other = [i for i, dim in enumerate(convention.batch_dims) if dim != "member"]
        if any(x.shape[i] > 1 for i in other):
            many = convention.axes[convention.batch_dims[other[0]]].dim
            raise InputError(
                [Problem(f"several states along {many}", "one state", f"ds.isel({many}=-1)")],
                what=what,
            )
        return x.squeeze(tuple(other))


def make_plan(
    background: xr.Dataset,
    obs: Any,
    prior: Prior,
    *,
    n_cycles: int,
    cycle_length: str,
    model: Any,
    truth: xr.Dataset | None,
    forecaster: Callable | None,
    settings: Assimilation,
    relaxation: Relaxation | None = None,
    **rest: Any,
) -> Plan:
    """Check everything and put it together; ``rest`` goes into the configuration."""
    _, _, convention = to_state(background, prior.layout, what="background")
    states, start = States(prior.layout, convention), _start(convention)
    first = states.array(background, what="background")
    length = duration(cycle_length)
    times = start + np.arange(n_cycles) * length
    source, stamps = make_source(obs, settings.window)
    problems = _truth_problems(truth, times) + _obs_problems(stamps, times, settings.window)
    if forecaster is None and length % STEP:
        problems.append(
            Problem(
                f"cycle_length={cycle_length!r}",
                "a multiple of 6 h, the step of the forecaster",
                'cycle(..., cycle_length="6h")',
            )
        )
    if hasattr(prior, "given"):  # a forecast brings one state, GenCast asks for two
        problems.append(
            Problem(
                f"the prior {prior.name!r}, which is conditioned on two earlier states",
                "a prior that is conditioned on the background alone; one time by itself is "
                "background.diffda.assimilate(obs, model=model.given(states))",
                "",
            )
        )
    if settings.method.needs_members and rest.get("carry") == "mean" and n_cycles > 1:
        problems.append(
            Problem(
                f'carry="mean" with method="{settings.method.name}", which would have one member '
                "in the second cycle",
                "members carried from cycle to cycle",
                'cycle(..., carry="ensemble")',
            )
        )
    raise_if(problems, what="cycle")
    forecast, description = make_forecast(states, length, model, prior, forecaster)
    forecast, relaxed = _relaxed(forecast, relaxation, prior, length)
    config = {
        "format": 1,
        "relaxation": relaxed,
        "variables": states.names,
        "first": str(start)[:19],
        "cycle_length": f"{length / np.timedelta64(1, 'h'):g}h",
        "background": digest(first),
        "model": f"{prior.name} {prior_digest(prior)}",
        "forecaster": description,
        "truth": truth is not None,
        # a table may have a description too, in words: whoever made it, or a column
        "observations": dict(getattr(obs, "description", {}) if callable(obs) else {}) or None,
        **rest,
        **{f"settings.{k}": v for k, v in flat_settings(settings).items()},
    }
    return Plan(prior, first, start, length, states, forecast, source, settings, config, truth)


def prior_digest(prior: Prior) -> str:
    """Sixteen hexadecimal digits that tell the numbers in a prior apart."""
    arrays = jax.tree.leaves((prior.covariance.blocks, getattr(prior, "_network", None)))
    parts = [np.asarray(a) for a in (prior.scale, *arrays) if hasattr(a, "dtype")]
    return digest(*parts)


def _start(convention: Convention) -> np.datetime64:
    """The one valid time of the background."""
    stamps = convention.valid_times
    times = np.array([], "datetime64[ns]") if stamps is None else np.unique(stamps)
    times = times[~np.isnat(times)]
    if times.size != 1:
        name = convention.axes["time"].name if "time" in convention.axes else "time"
        raise InputError(
            [
                Problem(
                    f"{times.size} valid times" if times.size else "no valid time",
                    "one, that of the first analysis",
                    f"background.isel({name}=0)"
                    if times.size
                    else 'background.assign_coords(time=np.datetime64("2020-01-01"))',
                )
            ],
            what="background",
        )
    return times[0]


def _truth_problems(truth: xr.Dataset | None, times: np.ndarray) -> list[Problem]:
    if truth is None:
        return []
    known = np.isin(times, clock_of(truth, what="truth"))
    if known.all():
        return []
    until = int(np.argmin(known))
    repair = f"cycle(..., n_cycles={until})" if until else "cycle(..., truth=None)"
    return [
        Problem(
            f"no truth at {(~known).sum()} of {times.size} analysis times, first at "
            f"{str(times[until])[:16]}",
            "the truth at each of them",
            repair,
        )
    ]


def _obs_problems(
    stamps: np.ndarray | None, times: np.ndarray, window: str | np.timedelta64
) -> list[Problem]:
    """A table without an observation in any window; single empty windows are no problem."""
    if stamps is None:
        return []
    half = duration(window) / 2
    stamps = np.sort(stamps)
    if (np.searchsorted(stamps, times + half) > np.searchsorted(stamps, times - half)).any():
        return []
    return [
        Problem(
            f"observations from {str(stamps[0])[:16]} to {str(stamps[-1])[:16]}, none in the "
            f"window "
            f"of an analysis from {str(times[0])[:16]} to {str(times[-1])[:16]}",
            "observations and background of the same period",
            f'background.assign_coords(time=np.datetime64("{str(stamps[0])[:16]}"))',
        )
    ]


def make_forecast(
    states: States,
    length: np.timedelta64,
    model: Any,
    prior: Prior,
    forecaster: Callable | None,
    *,
    what: str = "cycle",
) -> tuple[Forecast, str]:
    """The forecast of one cycle on arrays, and what to call it; ``what`` asks for it."""
    if forecaster is not None:
        name = getattr(forecaster, "__qualname__", type(forecaster).__qualname__)

        def own(x: State, time: np.datetime64) -> State:
            return _asked(forecaster(states.dataset(x, time)), x, time + length, states)

        return own, str(name)
    name = prior.name if isinstance(model, Prior) else model or get_options().default_model
    try:
        folder = registry.model_folder(name)
    except ModelError as error:
        raise InputError(
            [
                Problem(
                    f"the prior {name!r}, which brings no forecaster",
                    "a model of the atmosphere",
                    f"{what}(..., forecaster=lambda ds: my_model(ds))",
                )
            ],
            what=what,
        ) from error
    rollout = load_rollout(folder)
    if rollout.layout != states.layout:
        raise InputError(
            [
                Problem(
                    f"the forecaster of {name!r} for {rollout.layout.n_channel} channels on "
                    f"{rollout.layout.grid}",
                    f"{states.layout.n_channel} on {states.layout.grid}",
                    f"{what}(..., forecaster=lambda ds: my_model(ds))",
                )
            ],
            what=what,
        )

    def bundled(x: State, time: np.datetime64) -> State:
        flat = x.reshape(-1, *x.shape[-2:])
        times = np.full(len(flat), time)
        return rollout.run(flat, times, int(length // STEP))[-1].reshape(x.shape)

    file = hashlib.sha256((folder / "forecaster.npz").read_bytes()).hexdigest()[:16]
    return bundled, f"{name if isinstance(name, str) else folder.name} {file}"


def _relaxed(
    forecast: Forecast, relaxation: Relaxation | None, prior: Prior, length: np.timedelta64
) -> tuple[Forecast, dict[str, Any] | None]:
    """Forecasts drawn to climatology, and what tells this relaxation from another."""
    if relaxation is None:
        return forecast, None
    draw = Relaxed(relaxation, prior, length)

    def both(x: State, time: np.datetime64) -> State:
        return draw(forecast(x, time), time + length)

    return both, {
        "hours": relaxation.hours,
        "power": relaxation.power,
        "climatology": digest(draw.harmonics),
    }


def _asked(given: Any, x: State, time: np.datetime64, states: States) -> State:
    """Read what the user's forecaster returned."""
    result = states.array(given, what="forecast")
    problems = []
    if result.shape != x.shape:
        problems.append(
            Problem(
                f"a forecast of {result.shape[0] if result.ndim == 3 else 1} members",
                f"{x.shape[0] if x.ndim == 3 else 1}, as many as the forecaster was given",
                "forecaster=lambda ds: ds.map(step)",
            )
        )
    clock = read_clock(given).checked("forecast")
    found = time if clock is None else np.atleast_1d(clock.values)[-1]
    if found != time:
        wanted = str(time)[:16]
        stale = [name for name in clock_names(given) if name != "time"]
        drop = f".drop_vars({stale})" if stale else ""
        problems.append(
            Problem(
                f"a forecast for {str(found)[:16]}",
                wanted,
                f'forecast{drop}.assign_coords(time=np.datetime64("{wanted}"))',
            )
        )
    raise_if(problems, what="forecast")
    return result
