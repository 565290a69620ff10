"""Observations of a window: 4D beside FGAT and beside methods that ignore observation times.

Every row has the same background and the same observations, at the start of the window and
after every step of the forecaster.  The error is that of the state at each of these times: of
the analysis where it is valid, of its forecast later.
"""

from __future__ import annotations

import dataclasses
import json
import time as clock
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from tqdm.auto import tqdm

from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.methods import Guided, ThreeDVar
from xdiffda.cycling.four_d import METHODS as PRIORS
from xdiffda.cycling.four_d import assimilate_window
from xdiffda.cycling.observation_stream import duration
from xdiffda.cycling.rollout import STEP
from xdiffda.diffusion.kalman import Solver
from xdiffda.errors import Problem, raise_if
from xdiffda.experiments.config import FORMATS, QUARTER, ExperimentConfig, plain
from xdiffda.experiments.measure import Case, members_of, open_case
from xdiffda.experiments.osse.tables import Ledger, made_with
from xdiffda.experiments.runner import LEDGER, digest_of
from xdiffda.experiments.world import World, open_world
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations import to_tidy
from xdiffda.options import get_options
from xdiffda.priors.prior import Prior
from xdiffda.storage.files import write_text
from xdiffda.storage.toml import build_all, read_toml
from xdiffda.verify.table import HEADLINES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Configuration of the experiment on windows.

START, CYCLE = "start", "cycle"
HOW = (START, "none", "fgat", "forecaster", CYCLE)


@dataclasses.dataclass(frozen=True)
class WindowMethod:
    """One row of the table.

    Attributes
    ----------
    how : {"start", "none", "fgat", "forecaster", "cycle"}
        start: the observations of the start alone. none, fgat, forecaster: all of them, by
        `xdiffda.cycling.four_d.assimilate_window`. cycle: one time after another, a forecast
        between.
    method : {"3dvar", "guided"}
    model_error : float
        See `xdiffda.cycling.four_d.assimilate_window`; of none, fgat and forecaster.
    n_members, n_steps : int
    tolerance, max_iterations
        Of the solver.
    columns : list of int, optional
        Numbers of columns at which it is run; default all of the experiment.
    n_cases : int, optional
        Run it at so many of the cases only, evenly spread.
    """

    how: str = "forecaster"
    method: str = "3dvar"
    model_error: float = 0.0
    n_members: int = 2
    n_steps: int = 8
    tolerance: float = 1e-3
    max_iterations: int = 400
    columns: tuple[int, ...] = ()
    n_cases: int = 0

    @property
    def prior_method(self) -> Guided | ThreeDVar:
        """Return the method with its settings."""
        solver = Solver(self.tolerance, self.max_iterations)
        if self.method == Guided.name:
            return Guided(n_steps=self.n_steps, solver=solver)
        return ThreeDVar(solver=solver)


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """The experiment, as ``xdiffda experiment window`` reads it.

    Attributes
    ----------
    truth, out, background, model, columns, first, last, n_cases, error_std, variables, seed
        See `xdiffda.experiments.ExperimentConfig`; the background is that of the start.
    window : str
        Length, a multiple of 6 h; every 6 h there are observations, at new sites each time.
    methods : table of tables
        Name -> `WindowMethod`.
    figure_format : {"png", "svg", "pdf"}
        Of the figure that is written.
    """

    truth: str
    out: str
    background: str = "48h"
    model: str = ""
    window: str = "12h"
    columns: tuple[int, ...] = (100, 416)
    methods: dict[str, Any] = dataclasses.field(default_factory=lambda: {"4D-Var": {}})
    first: str = ""
    last: str = ""
    n_cases: int = 6
    error_std: str | float | dict[str, Any] = QUARTER
    variables: tuple[str, ...] = ()
    seed: int = 0
    figure_format: str = FORMATS[0]

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        built = build_all(WindowMethod, self.methods, problems, "methods")
        object.__setattr__(self, "methods", built)
        for name, own in built.items():
            for entry, known in (("how", HOW), ("method", PRIORS)):
                if (found := getattr(own, entry)) not in known:
                    problems.append(
                        Problem(
                            f"methods.{name}: {entry} = {found!r}",
                            f"one of {', '.join(known)}",
                            f'{entry} = "{known[-1]}"',
                        )
                    )
            if more := sorted(set(own.columns) - set(self.columns)):
                problems.append(
                    Problem(
                        f"methods.{name}: columns = {more}",
                        f"some of {list(self.columns)}",
                        f"columns = {list(self.columns)}",
                    )
                )
        raise_if(problems, what="configuration of an experiment")
        self.world()  # has checks of its own

    @classmethod
    def example(cls) -> WindowConfig:
        """One window of 12 h on the bundled sample."""
        return cls(
            truth="sample:truth",
            background="sample:background",
            out="experiment-window",
            columns=(100,),
            n_cases=1,
        )

    @classmethod
    def read(cls, path: str | Path) -> WindowConfig:
        """Read a TOML file.

        Raises
        ------
        InputError
            Listing every unknown or mistyped entry.
        """
        return read_toml(cls, path, example='truth = "truth.zarr"')

    def world(self) -> ExperimentConfig:
        """Return the truth, backgrounds, forecaster and observations of the experiment."""
        shared = (
            "truth",
            "out",
            "background",
            "model",
            "columns",
            "first",
            "last",
            "n_cases",
            "error_std",
            "variables",
            "seed",
            "figure_format",
        )
        return ExperimentConfig(
            **{name: getattr(self, name) for name in shared},
            forecast_lead=self.window,
            reference_lead=self.window,
        )


REFERENCE = "reference"
Trajectory = Float[np.ndarray, "time node channel"]


@with_own_jax
def run(
    config: WindowConfig,
    *,
    prior: Prior | None = None,
    truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
    forward: Any = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run or resume; return the pooled errors of every row, as ``window.json`` has them.

    Parameters
    ----------
    config : WindowConfig
    prior, truth, forecaster, progress
        As in `xdiffda.experiments.run`.
    forward : pytree, optional
        The forecaster on arrays, see `xdiffda.cycling.four_d.assimilate_window`.

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
) -> dict[str, Any]:
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
        "squared": _squared(world, states, case),
        "r": r,
        "residual": np.nan if residual is None else residual,
        "seconds": round(clock.perf_counter() - begin, 1),
    }


def _analysis(
    world: World,
    case: Case,
    config: WindowConfig,
    obs: xr.Dataset,
    method: WindowMethod,
    forward: Any,
) -> xr.Dataset:
    shared = {
        "model": world.prior,
        "method": method.prior_method,
        "n_members": method.n_members,
        "seed": config.seed,
    }
    if method.how == START:
        return assimilate(case.background, obs, progress=False, **shared)
    return assimilate_window(
        case.background,
        obs,
        window=config.window,
        dynamics=method.how,
        forward=forward,
        model_error=method.model_error,
        **shared,
    )


def _cycle(
    world: World, case: Case, each: list[xr.Dataset], method: WindowMethod
) -> tuple[Trajectory, dict[str, Any]]:
    """Analyses one after another, the mean carried on; attributes of the last."""
    background, states, attrs = case.background, [], {}
    for n, obs in enumerate(each):
        time = case.time + n * STEP
        analysis = assimilate(
            background,
            obs,
            model=world.prior,
            method=method.prior_method,
            n_members=method.n_members,
            seed=world.config.seed,
            progress=False,
        )
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
    return {
        name: _squared(world, _forecast(world, x, case.time, len(case.truths)), case)
        for name, x in both.items()
    }


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
            rows.append(
                {
                    "columns": columns,
                    "method": name,
                    "cases": len(times),
                    "squared": _mean([r["squared"] for r in records]),
                    **{k: _mean([r[k] for r in first]) for k in ("background", "truth")},
                    "r": _mean([r["r"] for r in records]),
                    "residual": max(r["residual"] for r in records),
                    "seconds": float(np.median([r["seconds"] for r in records])),
                }
            )
    steps = np.arange(int(duration(config.window) // STEP) + 1)
    return {
        "title": "experiment window",
        "command": "xdiffda experiment window CONFIG.toml",
        "config": json.loads(plain(config)),
        "seed": config.seed,
        "model": world.prior.name,
        "world": world.key,
        "versions": made_with(),
        "device": jax.devices()[0].platform,
        "protocol": "squared errors of the mean of the members, over the globe, weighted by "
        "area, meaned over cases; by time in the window and channel",
        "cases": [str(t)[:16] for t in world.times],
        "hours": (steps * STEP / np.timedelta64(1, "h")).tolist(),
        "channels": list(world.states.layout.channel_names),
        "rows": rows,
    }


def _mean(values: list[Any]) -> Any:
    mean = np.mean(values, axis=0)
    return np.vectorize(lambda v: float(f"{v:.6g}"))(mean).tolist()


# Table and figure of the experiment on windows, and its command.

RESULTS, TABLE, FIGURE = "window.json", "window.md", "window.{}"


def main(path: str | Path, *, progress: bool | None = True) -> str:
    """Run or resume, write results, table and figure; return the table."""
    from xdiffda.plot.styles import save

    config = WindowConfig.read(path)
    found = run(config, progress=progress)
    out = Path(config.out)
    write_text(json.dumps(found, indent=1) + "\n", out / RESULTS)
    write_text(text := table(found), out / TABLE)
    save(figure(found), out / FIGURE.format(config.figure_format))
    return text


def ratios(row: Mapping[str, Any], *, of: str = "squared") -> np.ndarray:
    """RMSE over the background's at the same time and cases: (time, channel)."""
    return np.sqrt(np.array(row[of]) / np.array(row["background"]))


def table(found: Mapping[str, Any]) -> str:
    """Markdown: RMSE over that of the background, which goes on beside it through the window.

    The residual is the largest relative one of the row's cases at which its solver stopped.
    """
    shown = {k: found["channels"].index(c) for k, c in HEADLINES.items() if c in found["channels"]}
    at = [f"{h:g} h" for h in found["hours"]]
    head = [
        "columns",
        "method",
        *at,
        *(f"{name}, {at[0]}" for name in shown),
        "r",
        "residual",
        "seconds",
        "cases",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in found["rows"]:
        error = ratios(row)
        cells = [
            f"{row['columns']:,}",
            row["method"],
            *(f"**{e:.3f}**" for e in error.mean(1)),
            *(f"{error[0, i]:.3f}" for i in shown.values()),
            f"{row['r']:.2f}",
            f"{row['residual']:.2g}",
            f"{row['seconds']:.0f}",
            str(row["cases"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(found: Mapping[str, Any]) -> Figure:
    """Errors through the window, and that of forecasts from the truth."""
    from xdiffda.plot.styles import legend, lines, panels, style

    columns = list(dict.fromkeys(row["columns"] for row in found["rows"]))
    names = list(dict.fromkeys(row["method"] for row in found["rows"]))
    with style():
        # the legend of one panel needs the width of two
        width, height = (3.2, 2.8) if len(columns) > 1 else (6.4, 4.4)
        drawn, axes = panels(len(columns), width=width, height=height, sharey=True)
        look = lines(names)
        for ax, n in zip(axes, columns, strict=True):
            here = [row for row in found["rows"] if row["columns"] == n]
            for row in here:
                ax.plot(
                    found["hours"], ratios(row).mean(1), label=row["method"], **look[row["method"]]
                )
            most = max(here, key=lambda row: row["cases"])
            ax.plot(
                found["hours"],
                ratios(most, of="truth").mean(1),
                color="0.3",
                linestyle="--",
                label="forecast from the truth",
            )
            ax.axhline(1, color="0.4", linewidth=0.9, zorder=1)
            ax.set(
                title=f"{n:,} columns each time",
                xlabel="time in the window (h)",
                xticks=found["hours"],
            )
        axes[0].set_ylabel("RMSE / background's")
        legend(drawn, axes, n_column=4 if len(columns) > 1 else 2)
    return drawn


if __name__ == "__main__":
    import sys

    print(main(sys.argv[1]))
