"""Cycled assimilation: forecast, observe, assimilate, repeat, into one store that resumes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from tqdm.auto import tqdm

from xdiffda.assimilation.assimilate import run_assimilation
from xdiffda.assimilation.methods import LETKF
from xdiffda.cycling.config import (
    Assimilation,
    CycleConfig,
    Emulation,
    assimilation_settings,
    kind_problems,
    plain_problems,
)
from xdiffda.cycling.observation_stream import (
    ObservationStream,
    Window,
    emulated_stream,
    state_at,
    state_of_start,
)
from xdiffda.cycling.plan import Plan, State, make_plan
from xdiffda.cycling.record import (
    WITHHELD,
    Outcome,
    all_of,
    error_of,
    make_record,
    read_observations,
    status_of,
)
from xdiffda.cycling.relaxation import Relaxation, mean_states
from xdiffda.cycling.store import append, open_cycle, resume
from xdiffda.errors import InputError, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations.quality import flag_of
from xdiffda.options import get_options
from xdiffda.priors import registry
from xdiffda.priors.prior import Prior
from xdiffda.priors.samples import open_named, open_named_obs
from xdiffda.storage.lock import single_writer

__all__ = [
    "Assimilation",
    "CycleConfig",
    "Emulation",
    "ObservationStream",
    "Relaxation",
    "cycle",
    "emulated_stream",
    "mean_states",
    "open_cycle",
    "read_observations",
    "run_config",
]


@with_own_jax
def cycle(
    background: xr.Dataset,
    obs: Any,
    *,
    out: str | os.PathLike,
    n_cycles: int,
    n_members: int = 8,
    carry: str = "mean",
    cycle_length: str = "6h",
    seed: int = 0,
    model: str | Prior | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
    truth: xr.Dataset | None = None,
    relaxation: Relaxation | None = None,
    settings: Assimilation | Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Forecast, observe, assimilate, repeat; the same call resumes an interrupted run.

    The first analysis starts from ``background`` (in the DiffDA paper a 48 h forecast), each
    further one from the forecast of the last analysis. Every cycle is committed to the store
    in one step: a process killed at any point leaves whole cycles, and calling again goes on
    to what would have come without the interruption, byte for byte. More cycles are added by
    calling with a greater ``n_cycles``.

    Parameters
    ----------
    background : Dataset
        State at the time of the first analysis, in any usual convention, optionally with
        ``member``.
    obs : Dataset, DataFrame or callable
        Observations of all times, in columns or tidy; or a callable from an analysis time
        (datetime64) to observations or None, such as `emulated_stream`. Where a window is
        empty the background stands as the analysis, with a warning.
    out : path
        Zarr store, ``.zarr``. Follow it while it grows with `open_cycle`.
    n_cycles : int
        Cycles in the store at the end, those of earlier calls included.
    n_members : int
    carry : {"mean", "ensemble"}
        What the next forecast starts from: the mean of the analysis, or each member. An
        ensemble of forecasts goes to `assimilate` as it is: members and their covariance
        enter the analysis (see its ``hybrid``). How large the error is
        remains with ``settings["background_error"]``, by default estimated from the
        innovations, which see errors of the forecaster that the members' spread does not.
    cycle_length : str
        Time between analyses; a multiple of 6 h for the models' forecasters.
    seed : int
        Random numbers depend on the seed and the time of the analysis only.
    model : str or Prior, optional
        Prior of `assimilate`, and its forecaster unless another one is given.
    forecaster : callable Dataset -> Dataset, optional
        Your own model: from states with scalar ``time``, with or without ``member``, to
        those one cycle later.
    truth : Dataset, optional
        Truth at all analysis times: adds scores and a free-running forecast from the first
        background.
    relaxation : Relaxation, optional
        Draw every forecast, the free-running one too, to a climatology, small scales faster:
        for a network as forecaster, which has no diffusion of its own.
    settings : Assimilation or mapping, optional
        Settings of `assimilate`; the window is by default as wide as the cycle is long.
    progress : bool, optional
        Show a progress bar; default the option ``progress``.

    Returns
    -------
    Dataset
        The store, lazy, along ``time``: the analysis under the names of the background,
        ``background_*``, and with a truth ``free_run_*``, ``score_*`` (on ``state`` and
        ``score``) and ``normalized_error``; ``n_obs_used``, ``n_obs_rejected`` (by
        ``reason``) and ``background_error`` (scale r); ``obs_*``, the observations
        themselves on (``time``, ``obs``), padded where a cycle has fewer than another
        (`read_observations` makes a table of them); ``inflation_factor`` of an LETKF with
        adaptive inflation, which the next cycle takes up, also when it resumes.

    Raises
    ------
    InputError
        If the arguments do not fit (all problems at once), or the store is that of another
        configuration.
    StorageError
        If the store cannot be written, another call is writing to it, or something else is in
        the way.

    Examples
    --------
    >>> import tempfile, xdiffda
    >>> truth, first = xdiffda.open_sample("truth"), xdiffda.open_sample("background")
    >>> stream = emulated_stream(truth, n_columns=45)
    >>> out = tempfile.mkdtemp() + "/run.zarr"
    >>> run = cycle(first.isel(time=0), stream, out=out, n_cycles=2, truth=truth,
    ...             settings=Assimilation(method="3dvar"), progress=False)
    >>> dict(run["normalized_error"].sizes)
    {'time': 2, 'state': 3}
    >>> obs = read_observations(out)
    >>> int((obs["status"] == "used").sum()) == int(run["n_obs_used"].sum())
    True
    """
    wrong = plain_problems(
        n_cycles=n_cycles, n_members=n_members, carry=carry, cycle_length=cycle_length, seed=seed
    )
    wrong += kind_problems(out=out, forecaster=forecaster, truth=truth, relaxation=relaxation)
    raise_if(wrong, what="cycle")
    chosen = assimilation_settings(settings, cycle_length, carry)
    prior, path = registry.resolve(model), Path(out).expanduser()
    plan = make_plan(
        background,
        obs,
        prior,
        n_cycles=n_cycles,
        cycle_length=cycle_length,
        model=model,
        truth=truth,
        forecaster=forecaster,
        settings=chosen,
        n_members=n_members,
        carry=carry,
        seed=int(seed),
        relaxation=relaxation,
    )
    with single_writer(path):
        done = resume(path, plan.config)
        wanted = get_options().progress if progress is None else progress
        with tqdm(
            total=max(n_cycles, done), initial=done, desc="cycle", unit="cycle", disable=not wanted
        ) as bar:
            for n in range(done, n_cycles):
                try:
                    outcome = _one_cycle(plan, path, n)
                except InputError as error:  # which of a thousand cycles it was
                    where = f"cycle {n} at {str(plan.time(n))[:16]}, {error.what}"
                    raise InputError(error.problems, what=where) from error
                record = make_record(plan, outcome)
                append(path, record.assign_attrs(_provenance()), n, plan.config)
                bar.set_postfix_str(f"{str(outcome.time)[:13]}Z {error_of(record)}", refresh=False)
                bar.update()
    return open_cycle(path)


def _one_cycle(plan: Plan, path: Path, n: int) -> Outcome:
    """Forecast from the store, observe, assimilate."""
    time = plan.time(n)
    forecasts, free, factor = plan.first, _mean(plan.first), _first_factor(plan)
    if n > 0:
        # read, not remembered: a resumed run then takes the very path of this one
        last = open_cycle(path).isel(time=n - 1)
        before = plan.time(n - 1)
        analysis = _read(plan, last, "")
        start = analysis if plan.config["carry"] == "ensemble" else _mean(analysis)
        forecasts = plan.forecast(start, before)
        factor = None if factor is None else last["inflation_factor"].values
        if plan.truth is not None:
            free = plan.forecast(_read(plan, last, "free_run_"), before)
    window = plan.source(time)
    if window.tidy is None:
        _warn(time, window, plan)
        analysis = _unchanged(plan, forecasts)
        record: dict[str, Any] = {"used": 0, "rejected": {}, "r": float("nan"), "parts": []}
    else:
        chosen = plan.settings.settings(
            n_members=plan.config["n_members"], seed=plan.config["seed"]
        )
        if factor is not None:
            chosen = replace(chosen, method=replace(chosen.method, inflation_factor=factor))
        result, tidy, records, held, _ = run_assimilation(
            plan.states.dataset(forecasts, time),
            window.tidy,
            chosen,
            model=plan.prior,
            progress=False,
        )
        if factor is not None:
            factor = result["inflation_factor"].values
        analysis = plan.states.array(result, what="analysis")
        record = {
            "used": records[0]["used"],
            "rejected": dict(records[0]["rejected"]),
            "r": json.loads(result.attrs["xdiffda_background_error"])[0],
            "parts": [status_of(tidy, records[0]["lost"])],
        }
        if held is not None:
            record["parts"].append(all_of(held, WITHHELD))
    if window.outside is not None:
        record["rejected"]["outside the window"] = window.n_outside
        record["parts"].append(all_of(window.outside, flag_of("outside the window")))
    truth = None if plan.truth is None else state_at(plan.truth, time, what="truth").compute()
    return Outcome(time, analysis, forecasts, _mean(forecasts), free, truth, record, factor)


def _first_factor(plan: Plan) -> Float[np.ndarray, "node channel"] | None:
    """Adaptive inflation before the first cycle; None where nothing is adapted."""
    method = plan.settings.method
    if not isinstance(method, LETKF) or not method.inflation.adaptive:
        return None
    shape = plan.prior.layout.grid.n_node, plan.prior.layout.n_channel
    return np.full(shape, method.inflation.factor, np.float32)


def _read(plan: Plan, last: xr.Dataset, prefix: str) -> State:
    names = {f"{prefix}{name}": name for name in plan.states.names}
    return plan.states.array(last[list(names)].rename(names).load(), what="store")


def _mean(x: State) -> State:
    return x if x.ndim == 2 else x.astype(np.float64).mean(0).astype(np.float32)


def _unchanged(plan: Plan, forecasts: State) -> State:
    """The analysis where nothing was observed."""
    there = len(forecasts) if forecasts.ndim == 3 else 1
    n = plan.settings.method.n_members(plan.config["n_members"], there)
    if forecasts.ndim == 3 and there == n:
        return forecasts
    return np.repeat(_mean(forecasts)[None], n, axis=0)


def _warn(time: np.datetime64, window: Window, plan: Plan) -> None:
    outside = f" ({window.n_outside} were given for other times)" if window.n_outside else ""
    warnings.warn(
        f"no observation within {plan.settings.window} around {str(time)[:16]}{outside}: the "
        "background stands as the analysis",
        stacklevel=4,
    )


def _provenance() -> dict[str, str]:
    from xdiffda import __version__

    return {
        "title": "cycled assimilation",
        "xdiffda_version": __version__,
        "xdiffda_jax_version": jax.__version__,
    }


@with_own_jax
def run_config(path: str | os.PathLike, *, progress: bool | None = None) -> xr.Dataset:
    """Run or resume what a TOML file describes (`CycleConfig`): ``xdiffda cycle CONFIG``.

    Returns
    -------
    Dataset
        As `cycle`.

    Raises
    ------
    InputError
        If the file, or what it names, does not fit.
    StorageError
        If a file cannot be read or written.
    """
    config = CycleConfig.read(Path(path))
    background = state_of_start(open_named(config.background), config.start)
    truth = open_named(config.truth) if config.truth else None
    obs: Any = None
    if config.emulate is not None and truth is not None:
        obs = emulated_stream(truth, **config.emulate.choices())
    else:
        obs = open_named_obs(config.observations)
    relaxation = config.relaxation
    if relaxation is not None and isinstance(relaxation.climatology, str):
        relaxation = replace(relaxation, climatology=open_named(relaxation.climatology))
    return cycle(
        background,
        obs,
        out=config.out,
        n_cycles=config.n_cycles,
        n_members=config.n_members,
        carry=config.carry,
        cycle_length=config.cycle_length,
        seed=config.seed,
        model=config.model or None,
        truth=truth,
        relaxation=relaxation,
        settings=config.assimilate,
        progress=progress,
    )
