"""The command line: ``xdiffda assimilate | cycle | verify | models | fetch | plan | ...``."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr

import xdiffda
from xdiffda.errors import Problem, StorageError

# What ``xdiffda demo`` does: one analysis on the bundled sample, scored and drawn.

VARIABLE, LEVEL = "geopotential", 500
SHOWN = (
    ("geopotential", 500, "m2 s-2"),
    ("temperature", 850, "K"),
    ("u_component_of_wind", 300, "m s-1"),
    ("specific_humidity", 850, "kg kg-1"),
    ("2m_temperature", None, "K"),
    ("mean_sea_level_pressure", None, "Pa"),
)


def run(out: Path, *, columns: int = 416, members: int = 8, seed: int = 0) -> xr.Dataset:
    """Assimilate emulated observations, print a table, write ``analysis.zarr`` and a map.

    Parameters
    ----------
    out : path
        Folder; made if absent.  An earlier demo's output is replaced.
    columns, members, seed : int

    Returns
    -------
    Dataset
        The analysis.
    """
    from xdiffda.plot import map_panels
    from xdiffda.storage.files import write_dataset

    _make_folder(out)
    begin = time.perf_counter()
    at = {"time": 8}
    truth = xdiffda.open_sample("truth").isel(at).load()
    background = xdiffda.open_sample("background").isel(at).load()
    quarter = xdiffda.load_model("speedy").typical_error(1 / 4)
    obs = truth.diffda.emulate_obs(n_columns=columns, error_std=quarter, seed=seed)
    print(
        f"Background: 48 h forecast valid {np.datetime_as_string(truth.time.values, 'h')}; "
        f"{columns} columns observed"
    )
    analysis = background.diffda.assimilate(obs, n_members=members, seed=seed, progress=True)
    interpolated = obs.diffda.interpolate(like=background, background=background)
    print(table(truth, background, interpolated, analysis))
    write_dataset(analysis, out / "analysis.zarr", overwrite=True)
    figure = map_panels(
        analysis,
        VARIABLE,
        level=LEVEL,
        truth=truth,
        background=background,
        obs=obs,
        panels=("background", "analysis", "truth", "increment", "error", "spread"),
    )
    figure.savefig(out / "analysis.png", dpi=110)
    print(
        f"{out / 'analysis.zarr'} and {out / 'analysis.png'} written; "
        f"{time.perf_counter() - begin:.0f} s in all"
    )
    return analysis


N_SPLIT = 5


def run_real(out: Path, *, members: int = 8, seed: int = 0) -> xr.Dataset:
    """Assimilate 45 real reports into a real forecast of the package; no model is asked for.

    Prints how far forecast and analyses are from stations that these did not see (each is withheld
    from one of five); writes the analysis with all of them, ``analysis.nc``, and a map.

    Parameters
    ----------
    out : path
        Folder; made if absent.  An earlier demo's output is replaced.
    members, seed : int

    Returns
    -------
    Dataset
        The analysis.
    """
    from xdiffda.plot import map_panels
    from xdiffda.storage.files import write_dataset
    from xdiffda.verify.obs_space import equivalents

    _make_folder(out)
    folder = Path(xdiffda.__file__).parent / "sample_data" / "real"
    background = xdiffda.open_dataset(folder / "forecast.nc").load()
    obs = xdiffda.read_obs(folder / "reports.csv")
    number = obs.sizes["obs"]
    split = np.random.default_rng(seed).permutation(number) % N_SPLIT
    print(
        "Background: 24 h forecast of ECMWF (temperature at 2 m) valid 2017-04-25T12; "
        f"{number} SYNOP reports"
    )

    def misfit(state: xr.Dataset, seen: xr.Dataset) -> np.ndarray:
        found = equivalents(state, seen)
        there = found["equivalent"]
        there = there.mean("member") if "member" in there.dims else there
        return (found["value"] - there).values

    settings = {"n_members": members, "seed": seed, "progress": False}
    before, after = [], []
    for part in range(N_SPLIT):
        held = obs.isel(obs=split == part)
        withheld = background.diffda.assimilate(obs.isel(obs=split != part), **settings)
        before.append(misfit(background, held))
        after.append(misfit(withheld, held))
    rms = [float(np.sqrt(np.mean(np.concatenate(x) ** 2))) for x in (before, after)]
    analysis = background.diffda.assimilate(obs, **settings | {"progress": True})
    print(
        f"Prior: {analysis.attrs['xdiffda_model']}\n"
        f"At withheld stations: forecast {rms[0]:.2f} K, analysis {rms[1]:.2f} K (rms)"
    )
    write_dataset(analysis, out / "analysis.nc", overwrite=True)
    figure = map_panels(
        analysis,
        "t2m",
        background=background,
        obs=obs,
        panels=("background", "analysis", "increment", "spread"),
    )
    figure.savefig(out / "analysis.png", dpi=110)
    print(f"{out / 'analysis.nc'} and {out / 'analysis.png'} written")
    return analysis


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{out}: no folder, and it cannot be made ({error.strerror}); repair: "
            "`xdiffda demo --out demo`"
        ) from error


def table(
    truth: xr.Dataset, background: xr.Dataset, interpolated: xr.Dataset, analysis: xr.Dataset
) -> str:
    """RMSE of the three states and spread of the analysis, area-weighted."""
    from xdiffda.verify import verify

    rows = {"background": background, "interpolated obs": interpolated, "analysis mean": analysis}
    scores = {name: verify(ds, truth) for name, ds in rows.items()}
    head = f"{'area-weighted RMSE':26s}" + "".join(f"{name:>18s}" for name in scores)
    lines = [head + f"{'spread':>12s}"]
    for name, level, units in SHOWN:
        label = f"{name.replace('_component_of', '')}{'' if level is None else f' {level}'}"
        at = {"score": "rmse"} if level is None else {"score": "rmse", "level": level}
        rmse = [float(ds[name].sel(at)) for ds in scores.values()]
        values = "".join(f"{value:18.4g}" for value in rmse)
        spread = float(scores["analysis mean"][name].sel(at | {"score": "spread"}))
        lines.append(f"{f'{label} ({units})':26s}{values}{spread:12.4g}")
    ratio = scores["analysis mean"].sel(score="rmse") / scores["background"].sel(score="rmse")
    mean = np.mean(np.concatenate([np.ravel(v.values) for v in ratio.data_vars.values()]))
    lines.append(
        f"Analysis error over all variables and levels: {100 * (1 - mean):.0f} % below "
        "the background's"
    )
    return "\n".join(lines)


VALID_TIME = "when the state is valid, UTC (2024-06-03T12), or the variable that tells it"
LEAD_UNIT = "of lead times without one: hours, days, minutes, seconds, nanoseconds"

SEED = "of all random numbers; the same seed draws the same members"
EXAMPLE = "print a complete, commented configuration that runs on the sample, and leave"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from xdiffda import __version__

        typer.echo(f"xdiffda {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="and leave")
    ] = False,
) -> None:
    """Weather data assimilation with diffusion models."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of analysis.zarr and .png")] = Path(),
    columns: Annotated[int, typer.Option(help="observed columns over the globe")] = 416,
    members: Annotated[int, typer.Option(help="members drawn")] = 8,
    seed: Annotated[int, typer.Option(help=SEED)] = 0,
    real: Annotated[
        bool, typer.Option("--real", help="real reports and a real forecast, both small")
    ] = False,
) -> None:
    """Assimilate emulated observations into the bundled sample, print scores, draw a map."""
    if real:
        run_real(out, members=members, seed=seed)
        return
    run(out, columns=columns, members=members, seed=seed)


@app.command()
def assimilate(
    background: Annotated[Path, typer.Argument(help="zarr, netCDF or GRIB")],
    obs: Annotated[Path, typer.Argument(help="netCDF, zarr or csv")],
    out: Annotated[Path, typer.Option("-o", "--out", help="zarr or netCDF")],
    members: Annotated[int, typer.Option(help="members drawn")] = 8,
    model: Annotated[
        str | None,
        typer.Option(
            help="name, see xdiffda models, or folder; by default the bundled network on its own "
            "grid, else reference"
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="guided, repaint, 3dvar, oi, letkf or interpolation")
    ] = "guided",
    steps: Annotated[
        int | None, typer.Option(help="network evaluations for each member (guided)")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="setting of the method as in a TOML file: n_steps=4; repeatable"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help=SEED)] = 0,
    overwrite: Annotated[bool, typer.Option(help="replace what stands at --out")] = False,
    scheduler: Annotated[str, typer.Option(help="address of a dask cluster (many times)")] = "",
    previous: Annotated[
        Path | None, typer.Option(help="earlier states, which GenCast is conditioned on")
    ] = None,
    valid_time: Annotated[str, typer.Option(help=VALID_TIME)] = "",
    lead_unit: Annotated[str, typer.Option(help=LEAD_UNIT)] = "",
) -> None:
    """Analyse the user's own files; of many times into zarr, which resumes if called again."""
    import xdiffda
    from xdiffda.cycling.reanalysis import has_times
    from xdiffda.storage.files import check_target, open_dataset, write_dataset

    chosen = _method(method, steps, setting or [])
    state = _dated(open_dataset(background), valid_time, lead_unit)
    if (
        out.suffix == ".zarr"
        and has_times(state)
        and not ((overwrite and out.exists()) or previous)
    ):
        with _cluster(scheduler) as client:
            analyses = xdiffda.assimilate_store(
                state,
                _open_obs(obs),
                out=out,
                n_members=members,
                model=model,
                seed=seed,
                settings={"method": chosen},
                client=client,
                progress=True,
            )
        times = analyses.sizes.get("time", 1)
        typer.echo(f"{out}: {times} times, {analyses.sizes['member']} members")
        return
    check_target(out, overwrite=overwrite)  # before the work, not after it
    analysis = xdiffda.assimilate(
        state,
        _open_obs(obs),
        n_members=members,
        model=_model(model, previous),
        method=chosen,
        seed=seed,
        progress=True,
    )
    write_dataset(analysis, out, overwrite=overwrite)
    typer.echo(f"{out}: {analysis.sizes['member']} members")


@app.command()
def verify(
    analysis: Annotated[Path, typer.Argument(help="zarr, netCDF or GRIB")],
    truth: Annotated[Path, typer.Argument(help="the same variables at the same times")],
    background: Annotated[Path | None, typer.Option(help="adds its scores")] = None,
    valid_time: Annotated[str, typer.Option(help=VALID_TIME)] = "",
    lead_unit: Annotated[str, typer.Option(help=LEAD_UNIT)] = "",
) -> None:
    """Print the scores of an analysis against the truth."""
    from xdiffda.state.clock import read_clock
    from xdiffda.storage.files import open_dataset
    from xdiffda.verify import skill_table
    from xdiffda.verify import verify as score

    def opened(path: Path) -> xr.Dataset:
        ds = open_dataset(path)
        # the options are for the files whose clock is not understood, there may be one of three
        return _dated(ds, valid_time, lead_unit) if read_clock(ds).valid is None else ds

    reference = opened(truth)
    rows = {"analysis": score(opened(analysis), reference)}
    if background is not None:
        rows = {"background": score(opened(background), reference), **rows}
    typer.echo(skill_table(rows))


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="for programs: a list of tables")] = False,
) -> None:
    """List the models: those in the package, and those that can be fetched."""
    from xdiffda.priors.registry import models as list_models

    table = list_models()
    rows = [
        {"model": str(name)}
        | {str(key): field.item() for key, field in table.sel(model=name).items()}
        for name in table.model.values
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        here = row["source"] if row["source"] == "bundled" else "not here"
        here = "cached" if row["cached"] and row["source"] != "bundled" else here
        typer.echo(
            f"{row['model']}: {row['title']}; {row['kind']}; {row['grid']}; "
            f"{row['megabytes']:g} MB, {here}; {row['parameters']} parameters; {row['licence']}"
        )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="published model, see xdiffda models")],
    out: Annotated[Path | None, typer.Option(help="folder, to carry to another machine")] = None,
    mirror: Annotated[str | None, typer.Option(help="instead of the public bucket")] = None,
) -> None:
    """Download published weights into the cache; resumes where it was interrupted."""
    from xdiffda.priors.published import fetch as bring

    for path in bring(name, out=out, mirror=mirror, progress=True):
        typer.echo(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")


@app.command()
def plan(
    grid: Annotated[str, typer.Option(help="spacing in degrees, or a name")] = "0.25",
    levels: Annotated[int, typer.Option(help="pressure levels, of six variables each")] = 13,
    members: Annotated[int, typer.Option(help="members of the ensemble")] = 8,
    obs: Annotated[float, typer.Option(help="scalar observations in the window")] = 1e4,
    devices: Annotated[int, typer.Option(help="devices that share the members")] = 1,
    device: Annotated[
        str, typer.Option(help="cpu (one core), a10, rtx4090, a100, h100, h200")
    ] = "h100",
    dtype: Annotated[str, typer.Option(help="of the network: float32 or bfloat16")] = "float32",
    latent: Annotated[int, typer.Option(help="width of the network")] = 512,
    processor_steps: Annotated[int, typer.Option(help="steps on the mesh")] = 16,
    refinement: Annotated[
        int | None, typer.Option(help="of the mesh; by default from the grid")
    ] = None,
    steps: Annotated[int, typer.Option(help="network evaluations for each member")] = 8,
    max_batch: Annotated[int, typer.Option(help="members computed together at most")] = 8,
    edge_chunk: Annotated[int, typer.Option(min=0, help="edges computed at a time, 0 for all")] = 0,
    truncation: Annotated[
        int | None, typer.Option(help="largest wavenumber of V; by default 63 or the grid's")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="of a solve; by default from the observations")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="for programs: bytes and seconds")
    ] = False,
) -> None:
    """Estimate memory, time and storage of an analysis; allocates nothing."""
    import dataclasses

    from xdiffda.planning import plan as estimate

    found = estimate(
        grid=_number(grid),
        levels=levels,
        members=members,
        obs=obs,
        devices=devices,
        device=device,
        dtype=dtype,
        latent=latent,
        processor_steps=processor_steps,
        refinement=refinement,
        n_steps=steps,
        max_batch=max_batch,
        edge_chunk=edge_chunk,
        truncation=truncation,
        iterations=iterations,
    )
    typer.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else found)


@app.command()
def cycle(
    config: Annotated[Path | None, typer.Argument(help="TOML file")] = None,
    example: Annotated[bool, typer.Option("--example", help=EXAMPLE)] = False,
) -> None:
    """Forecast, observe, assimilate, repeat, into one store; resumes where it stopped."""
    from xdiffda.cycling.config import CycleConfig
    from xdiffda.cycling.cycle import run_config

    if example:
        _print_example(CycleConfig.example(), "cycle")
        return
    path = _given(config, "cycle")
    done = run_config(path)
    typer.echo(f"{CycleConfig.read(path).out}: {done.sizes['time']} analyses")


@app.command()
def experiment(
    kind: Annotated[
        str,
        typer.Argument(help="single-step, lead-time, sigma-g, maps, cycling, window or departures"),
    ],
    config: Annotated[
        Path | None, typer.Argument(help="TOML file; for departures, observations")
    ] = None,
    example: Annotated[bool, typer.Option("--example", help=EXAMPLE)] = False,
) -> None:
    """Run an experiment of the DiffDA paper, or withhold stations of a file (departures)."""
    from xdiffda.experiments.command import example_of
    from xdiffda.experiments.command import main as run

    command = f"experiment {kind}"
    if example:
        _print_example(example_of(kind), command)
        return
    typer.echo(run(kind, _given(config, command)))


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="TOML file")] = None,
    example: Annotated[bool, typer.Option("--example", help=EXAMPLE)] = False,
) -> None:
    """Train a forecaster or a denoiser (extra train); resumes from the last checkpoint."""
    from xdiffda.train.__main__ import main as run
    from xdiffda.train.config import TrainConfig

    if example:
        _print_example(TrainConfig.example(), "train")
        return
    run([str(_given(config, "train"))])


def _print_example(config: Any, command: str) -> None:
    from xdiffda.storage.toml import write_commented

    file = command.replace(" ", "-") + ".toml"
    title = f"xdiffda {command} --example > {file}; xdiffda {command} {file}"
    typer.echo(write_commented(config, title=title))


def _given(config: Path | None, command: str) -> Path:
    from xdiffda.errors import InputError

    if config is None:
        needed = "a file, or --example, which prints a complete one"
        raise InputError(
            [Problem("no configuration", needed, f"xdiffda {command} --example")], what=command
        )
    return config


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """A client of the dask cluster at an address; None without one."""
    if not address:
        yield None
        return
    from xdiffda.errors import StorageError

    try:
        from distributed import Client

        client = Client(address, timeout=10)
    except (ImportError, OSError) as error:
        raise StorageError(
            f"{address}: no dask cluster ({type(error).__name__}: {error}); repair: "
            '`pip install "xdiffda[scale]"` and `dask scheduler`'
        ) from error
    with client:
        yield client


def _method(name: str, steps: int | None, given: list[str]) -> Any:
    """The method with the settings that the options give."""
    import tomllib

    from xdiffda.assimilation.methods import method_class
    from xdiffda.errors import InputError, raise_if
    from xdiffda.storage.toml import build

    if steps is not None:
        given = [f"n_steps = {steps}", *given]
    lines = []
    for line in given:
        key, _, value = line.partition("=")
        try:
            tomllib.loads(line)
        except tomllib.TOMLDecodeError:  # text without its quotes
            line = f"{key} = {json.dumps(value.strip())}"
        lines.append(line)
    try:
        table = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        problem = Problem(
            f"--set {' --set '.join(given)} ({error})", "NAME=VALUE", "--set n_steps=4"
        )
        raise InputError([problem], what="assimilate") from error
    problems: list[Problem] = []
    method = build(method_class(name), table, problems)
    raise_if(problems, what=f"settings of {name}")
    return method


def _model(name: str | None, previous: Path | None) -> Any:
    """The model by its name, after earlier states if there are any."""
    if previous is None:
        return name
    import xdiffda
    from xdiffda.errors import ModelError
    from xdiffda.options import get_options

    name = name or get_options().default_model
    model = xdiffda.load_model(name)
    if not hasattr(model, "given"):
        raise ModelError(
            f"found --previous {previous} with --model {name}, which takes no earlier states; "
            f"repair: `xdiffda assimilate ... --model {name}`, or --model gencast-1p0-mini"
        )
    return model.given(xdiffda.open_dataset(previous))


def _dated(ds: xr.Dataset, valid_time: str, lead_unit: str) -> xr.Dataset:
    """A dataset with the clock that the options tell."""
    from xdiffda.state.clock import with_lead_unit, with_valid_time

    if lead_unit:
        ds = with_lead_unit(ds, lead_unit)
    return with_valid_time(ds, valid_time) if valid_time else ds


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _open_obs(path: Path):
    """Read a file of observations in any form that the package knows."""
    from xdiffda.observations.readers import read_obs

    return read_obs(path)


# Names of the arguments of calls in Python that are others on the command line.
_OPTIONS = {"n_members": "members", "n_steps": "steps", "n_columns": "columns"}


def message(error: Exception, command: str) -> str:
    """The text of an error with its repairs as options of a command.

    Parameters
    ----------
    error
        Of the library, whose repairs are calls in Python.
    command
        Which was typed, such as ``assimilate``.

    Returns
    -------
    str
        What no option repairs stays a call; the text then says where it is made.

    Examples
    --------
    >>> from xdiffda.errors import StorageError
    >>> message(StorageError("a.nc: exists already; repair: `overwrite=True`"), "assimilate")
    'a.nc: exists already; repair: `xdiffda assimilate ... --overwrite`'
    """
    from xdiffda.errors import InputError

    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    options = {p.name: p.opts[-1] for p in commands[command].params} if command in commands else {}
    if not isinstance(error, InputError):
        return re.sub(
            r"`([^`]+)`",
            lambda code: f"`{_typed(code[1], command, options) or code[1]}`",
            str(error),
        )
    problems, in_python = [], False
    for problem in error.problems:
        option = getattr(problem, "option", "")
        name = option.partition(" ")[0][2:].replace("-", "_")
        typed = f"xdiffda {command} ... {option}" if name and name in options else None
        typed = typed or _typed(problem.repair, command, options)
        shell = problem.repair.startswith("xdiffda ")
        in_python |= bool(problem.repair) and typed is None and not shell
        problems.append(Problem(problem.found, problem.needed, typed or problem.repair))
    text = str(InputError(problems, what=error.what))
    if in_python:
        text += (
            "\n  (calls are made in Python: read the file with `xdiffda.open_dataset` or "
            "`xdiffda.read_obs`, repair, and write it with `xdiffda.write_dataset`)"
        )
    return text


def _typed(code: str, command: str, options: dict[str, str]) -> str | None:
    """A repair in Python as options of a command; None where they do not suffice."""
    try:
        statement = ast.parse(code).body[0]
    except (SyntaxError, IndexError):
        return None
    words: list[str] = []

    def put(name: str, value: ast.expr) -> bool:
        option = options.get(_OPTIONS.get(name, name))
        if isinstance(value, ast.Call):  # method=xdiffda.Guided(n_steps=8)
            kind = getattr(value.func, "attr", getattr(value.func, "id", "")).lower()
            kind = {"threedvar": "3dvar"}.get(kind, kind)
            return put(name, ast.Constant(kind)) and _all(put, value)
        if option is None or not option.startswith("-") or not isinstance(value, ast.Constant):
            return False
        words.extend([option] if value.value is True else [option, str(value.value)])
        return True

    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        done = put(statement.targets[0].id, statement.value)  # one argument: `overwrite=True`
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        called = statement.value.func
        name = getattr(called, "attr", getattr(called, "id", ""))
        done = name == command and bool(statement.value.keywords) and _all(put, statement.value)
    else:
        done = False
    dots = " ..." if any(not option.startswith("-") for option in options.values()) else ""
    return f"xdiffda {command}{dots} {' '.join(words)}" if done else None


def _all(put: Callable[[str, ast.expr], bool], call: ast.Call) -> bool:
    return all(put(str(k.arg), k.value) for k in call.keywords)


def main() -> None:
    """Run the command line; expected errors are printed without a traceback."""
    from xdiffda.errors import XdiffdaError
    from xdiffda.options import request_huge_pages

    if len(sys.orig_argv) > 1 and Path(sys.orig_argv[1]).stem == "xdiffda":  # not called by Python
        request_huge_pages()  # a third of an analysis' time was page faults
    try:
        app()
    except XdiffdaError as error:
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        typer.echo(f"xdiffda: {message(error, command)}", err=True)
        sys.exit(2)
    except FileNotFoundError as error:
        typer.echo(f"xdiffda: no such file: {error}", err=True)
        sys.exit(2)
    except SystemExit as leave:
        if leave.code == 130:  # typer turns an interrupt into this
            typer.echo("xdiffda: interrupted; repair: run the same command again", err=True)
        raise
