"""Run an experiment: every case, number of columns and method once, whatever interrupts it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from tqdm import tqdm

from xdiffda._jax_settings import with_own_jax
from xdiffda.errors import InputError, Problem
from xdiffda.experiments import measure
from xdiffda.experiments.assemble import assemble
from xdiffda.experiments.config import ExperimentConfig, check_columns, of_widths, plain
from xdiffda.experiments.tasks import (
    Task,
    digest_of,
    forecast_kind,
    reference_of,
    saturation_of,
    tasks_of,
)
from xdiffda.experiments.world import World, open_world
from xdiffda.options import get_options
from xdiffda.osse.records import Ledger
from xdiffda.prior import Prior
from xdiffda.storage import write_dataset
from xdiffda.verify._partners import is_antithetic

KINDS = ("single-step", "lead-time", "sigma-g")
LEDGER, SCORES = "records.jsonl", "{kind}.nc"


@with_own_jax
def run(
    kind: str, config: ExperimentConfig | str | os.PathLike, *, prior: Prior | None = None,
    truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None, progress: bool | None = None,
) -> xr.Dataset:  # fmt: skip
    """Run or resume one of the experiments of the DiffDA paper, with every method beside it.

    Records of single analyses are kept in ``records.jsonl`` in the folder ``out``: what they
    hold of the same truth, model, errors and settings is not run again, and kinds share them.
    The scores of all are written to ``<kind>.nc`` beside it.

    Parameters
    ----------
    kind : {"single-step", "lead-time", "sigma-g"}
        Error of the analysis against the number of columns (experiment 1); forecasts from
        analyses and the hours they have lost against forecasts from the truth (experiment
        3); the same for RePaint with soft masks of several widths, in place of the methods.
    config : ExperimentConfig or path
        A configuration, or a TOML file with one.
    prior : Prior, optional
        Instead of the model named in the configuration.
    truth : Dataset, optional
        Instead of the file named there.
    forecaster : callable Dataset -> Dataset, optional
        Your own model: from states with scalar ``time``, with or without ``member``, to
        those 6 h later.
    progress : bool, optional
        Show a progress bar; default the option ``progress``.

    Returns
    -------
    Dataset
        Squared errors and other measures on (``case``, ``columns``, ``scheme``, ...); see
        `xdiffda.experiments.results` for what to make of it.

    Raises
    ------
    InputError
        If the configuration, or what it names, does not fit.
    StorageError
        If a file cannot be read or written.

    Examples
    --------
    >>> import tempfile
    >>> config = ExperimentConfig("sample:truth", tempfile.mkdtemp(), "sample:background",
    ...                           columns=(45,), methods={"3D-Var": {"method": "3dvar"}},
    ...                           n_cases=1, forecast_lead="6h", reference_lead="6h")
    >>> found = run("single-step", config, progress=False)
    >>> dict(found["squared"].sizes)
    {'case': 1, 'columns': 1, 'scheme': 1, 'channel': 37}
    """
    if not isinstance(config, ExperimentConfig):
        config = ExperimentConfig.read(Path(config))
    config = of_widths(config) if kind == "sigma-g" else config
    _check_kind(kind)
    check_columns(config)
    world = open_world(config, prior=prior, truth=truth, forecaster=forecaster)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    book = Ledger(out / LEDGER, digest_of(world.key), kind=dict)
    forecasts = kind != "single-step"
    wanted = get_options().progress if progress is None else progress
    tasks = tasks_of(world)
    with tqdm(total=len(tasks), desc=kind, unit="analysis", disable=not wanted) as bar:
        for time in world.times:
            _run_case(world, time, [t for t in tasks if t.time == time], book, forecasts, bar)
    ds = assemble(world, tasks, book, forecasts=forecasts).assign_attrs(_provenance(kind, world))
    write_dataset(ds, out / SCORES.format(kind=kind), overwrite=True)
    return ds


def _run_case(
    world: World, time: np.datetime64, tasks: list[Task], book: Ledger, forecasts: bool, bar: Any
) -> None:  # fmt: skip
    kinds = ["analysis", forecast_kind(world.config)] if forecasts else ["analysis"]
    missing = [t for t in tasks if any(t.of(kind) not in book for kind in kinds)]
    reference = reference_of(world.config, time)
    bar.update(len(tasks) - len(missing))
    if forecasts and saturation_of(time) not in book:
        book.add(saturation_of(time), measure.saturation_record(world, time))
    if not missing and reference in book:
        return
    case = measure.open_case(world, time, world.config.reference_lead)
    if reference not in book:
        book.add(reference, measure.reference_record(world, case))
    for task in missing:
        bar.set_postfix_str(f"{task.name}, {task.columns} columns", refresh=False)
        analysis, seconds = measure.timed_analysis(world, case, task.method, task.columns)
        x = measure.members_of(world, analysis, what="analysis")
        if task.of("analysis") not in book:
            book.add(task.of("analysis"), measure.analysis_record(
                world, case, x, antithetic=is_antithetic(analysis), seconds=seconds,
                evaluations=int(analysis.attrs.get("xdiffda_network_evaluations", 0)),
            ))  # fmt: skip
        if forecasts and task.of(forecast_kind(world.config)) not in book:
            book.add(task.of(forecast_kind(world.config)), measure.forecast_record(world, case, x))
        bar.update()


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError([Problem(f"the experiment {kind!r}", f"one of {', '.join(KINDS)}",
                                  'run("lead-time", config)')], what="experiment")  # fmt: skip


def _provenance(kind: str, world: World) -> dict[str, Any]:
    from xdiffda import __version__

    return {
        "title": f"experiment {kind}", "command": f"xdiffda experiment {kind} CONFIG.toml",
        "config": plain(world.config), "model": world.prior.name, "world": world.key,
        "xdiffda_version": __version__, "jax_version": jax.__version__,
        "protocol": "squared errors are means over the globe, weighted by area, of the mean of "
        "the members; average them over cases before taking roots",
    }  # fmt: skip
