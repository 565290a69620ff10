"""Run an experiment: every case, number of columns and method once, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from xdiffda.cycling.config import as_plain
from xdiffda.cycling.observation_stream import duration
from xdiffda.cycling.rollout import STEP
from xdiffda.errors import InputError, Problem
from xdiffda.experiments import measure
from xdiffda.experiments.config import ExperimentConfig, Method, check_columns, of_widths, plain
from xdiffda.experiments.measure import DIMS
from xdiffda.experiments.osse.tables import Ledger
from xdiffda.experiments.world import World, open_world
from xdiffda.jax_settings import with_own_jax
from xdiffda.options import get_options
from xdiffda.priors.prior import Prior
from xdiffda.storage.files import write_dataset
from xdiffda.verify.partners import is_antithetic

# What is to be run, and where its records stand in the ledger.


@dataclasses.dataclass(frozen=True)
class Task:
    """One method at one time with one number of columns."""

    time: np.datetime64
    columns: int
    name: str
    method: Method

    def of(self, kind: str) -> tuple[Any, ...]:
        """Key of its record of this kind; settings count, the name does not."""
        what = as_plain(dataclasses.replace(self.method, columns=(), n_cases=0))
        if what["ensemble"]:
            del what["ensemble"]  # records from before there was a choice stay valid
        return (kind, self.columns, digest_of(plain(what)), str(self.time)[:19])


def tasks_of(world: World) -> list[Task]:
    """List every method at its times and numbers of columns."""
    config, tasks = world.config, []
    for name, method in config.methods.items():
        n = min(method.n_cases or len(world.times), len(world.times))
        for i in np.linspace(0, len(world.times) - 1, n).astype(int):
            tasks += [
                Task(world.times[i], columns, name, method)
                for columns in method.columns or config.columns
            ]
    return tasks


def reference_of(config: ExperimentConfig, time: np.datetime64) -> tuple[Any, ...]:
    """Key of the record of truth and background."""
    return (
        f"reference {config.reference_lead}",
        *forecast_kind(config).split(" ", 1),
        str(time)[:19],
    )


def saturation_of(time: np.datetime64) -> tuple[Any, ...]:
    """Key of the record of the saturation error."""
    return ("saturation", str(time)[:19])


def forecast_kind(config: ExperimentConfig) -> str:
    """Kind of records of forecasts: those of other leads or starts are others."""
    return f"forecast {config.forecast_lead} {','.join(config.starts)}"


def digest_of(text: str) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# One Dataset of all records, and back from channels to variables on levels.

LONG_NAMES = {
    "squared": "squared error of the mean of the members",
    "crps": "fair CRPS",
    "variance": "what the squared error is expected to be, from the members' spread",
    "tendency": "mean squared change of a member in the first 6 h of a forecast",
    "divergence": "root mean square divergence of members",
    "ageostrophic_ratio": "ageostrophic over geostrophic wind of members",
    "spectrum": "variance of members by zonal wavenumber",
    "evaluations": "network evaluations for each member",
    "forecast_squared": "squared error of forecasts",
}


def assemble(world: World, tasks: Sequence[Task], book: Ledger, *, forecasts: bool) -> xr.Dataset:
    """Return all records as one Dataset; NaN where a method was not run.

    Methods lie along ``scheme``: ``ds.sel(method=...)`` means another thing in xarray.

    Variables that begin with ``background_`` and ``truth_`` do not depend on the method;
    forecasts from the truth reach to ``reference_lead_time``.
    """
    config, layout = world.config, world.states.layout
    names = list(dict.fromkeys(t.name for t in tasks))
    coords: dict[str, Any] = {
        "case": world.times,
        "columns": list(config.columns),
        "scheme": names,
        "channel": list(layout.channel_names),
        "level": np.array(layout.levels, float),
        "start": list(config.starts),
        "lead_time": _leads(config.forecast_lead),
        "reference_lead_time": _leads(config.reference_lead),
    }
    where = {
        d: {v: i for i, v in enumerate(np.asarray(coords[d]).tolist())}
        for d in ("case", "columns", "scheme")
    }
    rows = []
    for task in tasks:
        record = dict(book[task.of("analysis")])
        if forecasts:
            record |= book[task.of(forecast_kind(config))]
        at = (
            world.times.tolist().index(task.time.tolist()),
            where["columns"][task.columns],
            where["scheme"][task.name],
        )
        rows.append((at, record))
    shape = (len(world.times), len(config.columns), len(names))
    variables = _filled(rows, ("case", "columns", "scheme"), shape)
    references = []
    for i, time in enumerate(world.times):
        record = dict(book[reference_of(config, time)])
        if forecasts:
            record |= book[saturation_of(time)]
        references.append(((i,), record))
    variables |= _filled(references, ("case",), shape[:1])
    if not forecasts:
        variables = {n: v for n, v in variables.items() if n != "background_forecast_squared"}
        coords = {n: c for n, c in coords.items() if n not in ("start", "lead_time")}
    ds = xr.Dataset(variables)
    ds = ds.assign_coords({n: c for n, c in coords.items() if n in ds.dims})
    if "wavenumber" in ds.dims:
        ds = ds.assign_coords(wavenumber=np.arange(ds.sizes["wavenumber"]))
    return ds


def _leads(lead: str) -> np.ndarray:
    steps = np.arange(int(duration(lead) // STEP) + 1)
    return (steps * STEP).astype("timedelta64[ns]")


def _filled(
    rows: Sequence[tuple[tuple[int, ...], Mapping[str, Any]]],
    dims: tuple[str, ...],
    shape: tuple[int, ...],
) -> dict[str, xr.Variable]:
    """Arrays of what the records hold."""
    arrays: dict[str, np.ndarray] = {}
    for at, record in rows:
        for name, value in record.items():
            value = np.asarray(value, np.float64)
            arrays.setdefault(name, np.full((*shape, *value.shape), np.nan))[at] = value
    out = {}
    for name, values in arrays.items():
        prefix, kind = _kind(name)
        own = DIMS[kind]
        if prefix == "truth" and kind == "forecast_squared":
            own = ("reference_lead_time", "channel")
        attrs = {"long_name": f"{prefix + ': ' if prefix else ''}{LONG_NAMES.get(kind, kind)}"}
        out[name] = xr.Variable((*dims, *own), values, attrs)
    return out


def _kind(name: str) -> tuple[str, str]:
    for prefix in ("background", "truth", "saturation"):
        if name.startswith(f"{prefix}_"):
            return prefix, name.removeprefix(f"{prefix}_")
    return "", name


def by_variable(field: xr.DataArray) -> xr.Dataset:
    """Split ``channel`` (``temperature@850``) into variables, on ``level`` where they have it.

    Examples
    --------
    >>> field = xr.DataArray([1.0, 2.0, 3.0], {"channel": ["temperature@500", "temperature@850",
    ...                                                     "2m_temperature"]}, "channel")
    >>> ds = by_variable(field)
    >>> ds["temperature"].sel(level=850).item(), ds["2m_temperature"].item()
    (2.0, 3.0)
    """
    names: dict[str, list[tuple[int, float | None]]] = {}
    for i, channel in enumerate(field["channel"].values.tolist()):
        name, _, level = channel.partition("@")
        names.setdefault(name, []).append((i, float(level) if level else None))
    out = {}
    for name, places in names.items():
        part = field.isel(channel=[i for i, _ in places]).drop_vars("channel")
        if places[0][1] is None:
            out[name] = part.isel(channel=0)
        else:
            levels = [level for _, level in places]
            out[name] = part.rename(channel="level").assign_coords(level=levels)
    return xr.Dataset(out)


KINDS = ("single-step", "lead-time", "sigma-g")
LEDGER, SCORES = "records.jsonl", "{kind}.nc"


@with_own_jax
def run(
    kind: str,
    config: ExperimentConfig | str | os.PathLike,
    *,
    prior: Prior | None = None,
    truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
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
) -> None:
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
            book.add(
                task.of("analysis"),
                measure.analysis_record(
                    world,
                    case,
                    x,
                    antithetic=is_antithetic(analysis),
                    seconds=seconds,
                    evaluations=int(analysis.attrs.get("xdiffda_network_evaluations", 0)),
                ),
            )
        if forecasts and task.of(forecast_kind(world.config)) not in book:
            book.add(task.of(forecast_kind(world.config)), measure.forecast_record(world, case, x))
        bar.update()


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError(
            [
                Problem(
                    f"the experiment {kind!r}",
                    f"one of {', '.join(KINDS)}",
                    'run("lead-time", config)',
                )
            ],
            what="experiment",
        )


def _provenance(kind: str, world: World) -> dict[str, Any]:
    from xdiffda import __version__

    return {
        "title": f"experiment {kind}",
        "command": f"xdiffda experiment {kind} CONFIG.toml",
        "config": plain(world.config),
        "model": world.prior.name,
        "world": world.key,
        "xdiffda_version": __version__,
        "jax_version": jax.__version__,
        "protocol": "squared errors are means over the globe, weighted by area, of the mean of "
        "the members; average them over cases before taking roots",
    }
