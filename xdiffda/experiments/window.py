"""Observations of a window: 4D beside first guess at appropriate time and what knows no times.

Every row has the same background and the same observations, at the start of the window and
after every step of the forecaster.  The error is that of the state at each of these times: of
the analysis where it is valid, of its forecast later.
"""

from __future__ import annotations

import dataclasses
import json
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from tqdm import tqdm

from xdiffda._jax_settings import with_own_jax
from xdiffda._rollout import STEP
from xdiffda._stream import duration
from xdiffda.analysis import assimilate
from xdiffda.experiments.config import plain
from xdiffda.experiments.measure import Case, members_of, open_case
from xdiffda.experiments.runner import LEDGER
from xdiffda.experiments.tasks import digest_of
from xdiffda.experiments.window_config import CYCLE, START, WindowConfig, WindowMethod
from xdiffda.experiments.world import World, open_world
from xdiffda.four_d import assimilate_window
from xdiffda.observations import to_tidy
from xdiffda.options import get_options
from xdiffda.osse.records import Ledger, made_with
from xdiffda.prior import Prior

REFERENCE = "reference"
Trajectory = Float[np.ndarray, "time node channel"]


@with_own_jax
def run(
    config: WindowConfig, *, prior: Prior | None = None, truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None, forward: Any = None,
    progress: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run or resume; return the pooled errors of every row, as ``window.json`` has them.

    Parameters
    ----------
    config : WindowConfig
    prior, truth, forecaster, progress
        As in `xdiffda.experiments.run`.
    forward : pytree, optional
        The forecaster on arrays, see `xdiffda.four_d.assimilate_window`.

    Raises
    ------
    InputError, StorageError
        As `xdiffda.experiments.run`.
    """
    world = open_world(config.world(), prior=prior, truth=truth, forecaster=forecaster)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    book = Ledger(Path(config.out) / LEDGER, digest_of(world.key), kind=dict)
    wanted = get_options().progress if progress is None else progress
    tasks = _tasks(config, world)
    with tqdm(total=len(tasks), desc="window", unit="analysis", disable=not wanted) as bar:
        for time in world.times:
            case = None
            for at, columns, method in [(t, n, m) for t, n, m in tasks if t == time]:
                key = _key(config, columns, method, at)
                if key not in book:
                    case = open_case(world, time, config.window) if case is None else case
                    book.add(key, _record(world, case, config, columns, method, forward))
                bar.update()
            if (key := _key(config, 0, REFERENCE, time)) not in book:
                case = open_case(world, time, config.window) if case is None else case
                book.add(key, _reference(world, case, config))
    return _pooled(config, world, book)


def _tasks(config: WindowConfig, world: World) -> list[tuple[np.datetime64, int, WindowMethod]]:
    tasks = []
    for method in config.methods.values():
        n = min(method.n_cases or len(world.times), len(world.times))
        for i in np.linspace(0, len(world.times) - 1, n).astype(int):
            tasks += [(world.times[i], c, method) for c in method.columns or config.columns]
    return tasks


def _key(config: WindowConfig, columns: int, method: Any, time: np.datetime64) -> tuple[Any, ...]:
    """Settings count, names do not."""
    if isinstance(method, WindowMethod):
        method = digest_of(plain(dataclasses.replace(method, columns=(), n_cases=0)))
    return (f"window {config.window}", columns, method, str(time)[:19])


def _record(
    world: World, case: Case, config: WindowConfig, columns: int, method: WindowMethod, forward: Any
) -> dict[str, Any]:  # fmt: skip
    times = case.time + np.arange(len(case.truths)) * STEP
    each = [to_tidy(world.observe(x, t, columns)) for x, t in zip(case.truths, times, strict=True)]
    begin = clock.perf_counter()
    if method.how == CYCLE:
        states, attrs = _cycle(world, case, each, method)
    else:
        obs = each[0] if method.how == START else xr.concat(each, "obs")
        analysis = _analysis(world, case, config, obs, method, forward)
        mean = members_of(world, analysis, what="analysis").mean(0, dtype=np.float64)
        attrs = analysis.attrs
        states = _forecast(world, mean.astype(np.float32), case.time, len(times))
    residual = json.loads(attrs["xdiffda_solver_residual"])[0]
    r = json.loads(attrs["xdiffda_background_error"])[0]
    return {
        "squared": _squared(world, states, case), "r": r,
        "residual": np.nan if residual is None else residual,
        "seconds": round(clock.perf_counter() - begin, 1),
    }  # fmt: skip


def _analysis(
    world: World, case: Case, config: WindowConfig, obs: xr.Dataset, method: WindowMethod,
    forward: Any,
) -> xr.Dataset:  # fmt: skip
    shared = {
        "model": world.prior, "method": method.method, "n_members": method.n_members,
        "n_steps": method.n_steps, "solver": method.solver, "seed": config.seed,
    }  # fmt: skip
    if method.how == START:
        return assimilate(case.background, obs, progress=False, **shared)
    return assimilate_window(
        case.background, obs, window=config.window, dynamics=method.how, forward=forward,
        model_error=method.model_error, **shared,
    )  # fmt: skip


def _cycle(
    world: World, case: Case, each: list[xr.Dataset], method: WindowMethod
) -> tuple[Trajectory, dict[str, Any]]:
    """Analyses one after another, the mean carried on; attributes of the last."""
    background, states, attrs = case.background, [], {}
    for n, obs in enumerate(each):
        time = case.time + n * STEP
        analysis = assimilate(
            background, obs, model=world.prior, method=method.method, solver=method.solver,
            n_members=method.n_members, n_steps=method.n_steps, seed=world.config.seed,
            progress=False,
        )  # fmt: skip
        mean = members_of(world, analysis, what="analysis").mean(0, dtype=np.float64)
        states.append(mean.astype(np.float32))
        attrs = analysis.attrs
        background = world.states.dataset(world.step(states[-1], time), time + STEP)
    return np.stack(states), attrs


def _forecast(world: World, x: np.ndarray, time: np.datetime64, n_time: int) -> Trajectory:
    later = world.roll(x[None], time, (n_time - 1) * STEP)
    return np.concatenate([x[None], later[:, 0]])


def _squared(world: World, states: Trajectory, case: Case) -> list[list[float]]:
    weight = world.area / world.area.sum()
    squares = (states.astype(np.float64) - case.truths) ** 2
    return [[float(f"{v:.6g}") for v in weight @ square] for square in squares]


def _reference(world: World, case: Case, config: WindowConfig) -> dict[str, Any]:
    """The background that goes on, and forecasts from the truth."""
    base = members_of(world, case.background, what="background").mean(0)
    both = {"background": base, "truth": case.truths[0]}
    return {name: _squared(world, _forecast(world, x, case.time, len(case.truths)), case)
            for name, x in both.items()}  # fmt: skip


def _pooled(config: WindowConfig, world: World, book: Ledger) -> dict[str, Any]:
    """Mean squares over the cases of each row, beside the background's at the same cases."""
    tasks, rows = _tasks(config, world), []
    for columns in config.columns:
        for name, method in config.methods.items():
            times = [t for t, n, m in tasks if (n, m) == (columns, method)]
            if not times:
                continue
            records = [book[_key(config, columns, method, t)] for t in times]
            first = [book[_key(config, 0, REFERENCE, t)] for t in times]
            rows.append({
                "columns": columns, "method": name, "cases": len(times),
                "squared": _mean([r["squared"] for r in records]),
                **{k: _mean([r[k] for r in first]) for k in ("background", "truth")},
                "r": _mean([r["r"] for r in records]),
                "residual": max(r["residual"] for r in records),
                "seconds": float(np.median([r["seconds"] for r in records])),
            })  # fmt: skip
    steps = np.arange(int(duration(config.window) // STEP) + 1)
    return {
        "title": "experiment window", "command": "xdiffda experiment window CONFIG.toml",
        "config": json.loads(plain(config)), "seed": config.seed, "model": world.prior.name,
        "world": world.key, "versions": made_with(), "device": jax.devices()[0].platform,
        "protocol": "squared errors of the mean of the members, over the globe, weighted by "
        "area, meaned over cases; by time in the window and channel",
        "cases": [str(t)[:16] for t in world.times],
        "hours": (steps * STEP / np.timedelta64(1, "h")).tolist(),
        "channels": list(world.states.layout.channel_names), "rows": rows,
    }  # fmt: skip


def _mean(values: list[Any]) -> Any:
    mean = np.mean(values, axis=0)
    return np.vectorize(lambda v: float(f"{v:.6g}"))(mean).tolist()
