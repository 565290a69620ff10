"""Configuration of a training run: frozen dataclasses, read from one TOML file."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.variables import VARIABLES, canonical_name
from xdiffda.storage.toml import build, read_toml

# Invalid numbers of a configuration.


def out_of_range(
    settings: Any, table: str, ranges: dict[str, tuple[float, float]]
) -> list[Problem]:
    """List the numbers out of their range (NaN among them) in one table of the configuration."""
    default = {item.name: item.default for item in dataclasses.fields(settings)}
    return [
        Problem(
            f"{table}.{name} = {value}", f"{least:.4g} to {most:.4g}", f"{name} = {default[name]}"
        )
        for name, (least, most) in ranges.items()
        if not least <= (value := getattr(settings, name)) <= most
    ]


# Invalid entries of the table ``[era5]`` of a configuration.

_STATE = [name for name, variable in VARIABLES.items() if variable.role == "state"]
_PERIODS = (("first", "last"), ("validation_first", "validation_last"))
_EXAMPLES = {"variables": ["2m_temperature"], "levels": [500, 850], "leads": [6, 48]}


def end_of(last: str) -> np.datetime64:
    """First hour after a period of which ``last`` (a day, or an hour) is the end.

    Examples
    --------
    >>> str(end_of("2000-01-01")), str(end_of("2000-01-01T06"))
    ('2000-01-02T00', '2000-01-01T07')
    """
    hours = 24 if len(last) == len("2000-01-01") else 1
    return np.datetime64(last, "h") + np.timedelta64(hours, "h")


def era5_problems(era5: Era5) -> list[Problem]:
    """List the problems of the table, in the order of its entries."""
    problems = [
        Problem(f"era5.{name} is empty", "a value", "")
        for name in ("variables", "first", "last", "leads")
        if not getattr(era5, name)
    ]
    problems += _list_problems("variables", era5.variables, str, "names") or _names(era5.variables)
    problems += _list_problems("levels", era5.levels, int, "whole hPa") or _levels(era5.levels)
    for period in _PERIODS:
        problems += _period(era5, *period)
    hours = era5.every_hours
    # other steps meet a time of the store, or an hour of the day, only now and then
    if hours < 1 or (24 % hours and hours % 6):
        found, needed = f"era5.every_hours = {hours}", "a divisor of 24 or a multiple of 6"
        problems.append(Problem(found, needed, "every_hours = 6"))
    problems += _list_problems("leads", era5.leads, int, "whole hours") or _leads(era5.leads)
    ranges = {"truncation": (0, 9999), "n_statistics": (1, 10**9)}
    return problems + out_of_range(era5, "era5", ranges)


def _list_problems(name: str, values: Sequence[Any], of: type, needed: str) -> list[Problem]:
    """Entries of another type (a bool is an int, but not meant as one)."""
    wrong = [value for value in values if type(value) is not of]
    repair = f"{name} = {json.dumps(_EXAMPLES[name])}"
    return [Problem(f"era5.{name} {wrong}", needed, repair)] if wrong else []


def _names(variables: Sequence[str]) -> list[Problem]:
    """Names that no state has, with the nearest that one can have; and repeated ones."""
    problems = []
    for name in dict.fromkeys(variables):
        if name in _STATE:
            continue
        meant = canonical_name(name)
        near = [meant] if meant in _STATE else difflib.get_close_matches(name, _STATE, n=1)
        repair = (
            f'"{near[0]}" in era5.variables'
            if near
            else "sorted(xdiffda.state.variables.VARIABLES)"
        )
        needed = "a state variable of WeatherBench"
        problems.append(Problem(f"era5.variables {name!r}", needed, repair))
    return problems + _repeated("variables", variables)


def _levels(levels: Sequence[int]) -> list[Problem]:
    """Levels in an order of their own would be taken in that of the state in silence."""
    order = sorted({level for level in levels if level > 0})
    if list(levels) == order:
        return []
    repair = f"levels = {order or _EXAMPLES['levels']}"
    return [Problem(f"era5.levels {list(levels)}", "hPa above 0, ascending, each once", repair)]


def _leads(leads: Sequence[int]) -> list[Problem]:
    wrong, problems = [lead for lead in leads if lead < 6 or lead % 6], []
    if wrong:
        problems.append(Problem(f"era5.leads {wrong}", "multiples of 6 h", "leads = [6, 48]"))
    return problems + _repeated("leads", leads)


def _repeated(name: str, values: Sequence[Any]) -> list[Problem]:
    once = list(dict.fromkeys(values))
    if len(once) == len(values):
        return []
    more = [value for value in once if list(values).count(value) > 1]
    repair = f"{name} = {json.dumps(once)}"
    return [Problem(f"era5.{name} {more} more than once", "each once", repair)]


def _period(era5: Era5, first: str, last: str) -> list[Problem]:
    begin, end = getattr(era5, first), getattr(era5, last)
    problems = [
        Problem(f"era5.{name} = {value!r}", "a time", f'{name} = "1979-01-01T06"')
        for name, value in ((first, begin), (last, end))
        if value and not _is_time(value)
    ]
    if problems or not (begin or end):
        return problems
    if not (begin and end):
        given, absent = (first, last) if begin else (last, first)
        if absent in _PERIODS[0]:
            return []  # told as an empty entry
        found = f"era5.{given} without {absent}"
        return [Problem(found, "both, or neither", f"# {given}")]
    if np.datetime64(begin, "h") >= end_of(end):
        found = f"era5.{first} = {begin!r} after {last} = {end!r}"
        repair = f'{first} = "{end}", {last} = "{begin}"'
        return [Problem(found, "a period that does not end before it begins", repair)]
    return []


def _is_time(text: str) -> bool:
    """Return whether numpy reads a fixed time (it also knows ``now`` and ``NaT``)."""
    try:
        np.datetime64(text, "h")
    except ValueError:
        return False
    return text[0].isdigit()


TASKS = ("forecaster", "denoiser", "diffda")
DTYPES = ("float32", "bfloat16")
CONFIG, VERSIONS = "config.json", "xdiffda_versions"  # in the folder of a run


@dataclasses.dataclass(frozen=True)
class Network:
    """Size of the GraphCast network."""

    refinement: int = 3
    latent: int = 128
    processor_steps: int = 6
    hidden_layers: int = 1
    conditioning_width: int = 0

    def __post_init__(self) -> None:
        # beyond the finest of these meshes no memory holds the graph
        ranges = {
            "refinement": (0, 9),
            "latent": (1, 2**14),
            "processor_steps": (1, 1024),
            "hidden_layers": (0, 64),
            "conditioning_width": (0, 2**14),
        }
        raise_if(out_of_range(self, "network", ranges), what="training configuration")


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up and cosine decay.

    Attributes
    ----------
    start, peak, end : float
        Learning rate before the warm-up, after it, and at the end of the cosine.
    warmup_steps : int
        Length of the warm-up.
    warmup_share : float
        Length of the warm-up as a share of all steps; counts if above 0.
    weight_decay, b1, b2 : float
        Of AdamW; vectors (biases, normalisations) do not decay.
    clip : float
        Largest global norm of a gradient.
    ema : float
        Decay of the moving average of the weights.
    """

    start: float = 0.0
    peak: float = 1e-3
    end: float = 1e-5
    warmup_steps: int = 200
    warmup_share: float = 0.0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.99
    clip: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        almost, tiny = 1 - 1e-12, 1e-30
        ranges = {
            "start": (0, 10),
            "peak": (tiny, 10),
            "end": (0, 10),
            "warmup_steps": (0, 10**12),
            "warmup_share": (0, 1),
            "weight_decay": (0, 10**6),
            "b1": (0, almost),
            "b2": (0, almost),
            "clip": (tiny, 10**12),
            "ema": (0, almost),
        }
        raise_if(out_of_range(self, "optimiser", ranges), what="training configuration")


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a run is computed; these settings change its results by rounding alone.

    Attributes
    ----------
    dtype : {"float32", "bfloat16"}
        Of products and activations. Weights, sums, normalisations, optimiser and averages
        are float32 always.
    precision : {"default", "high", "highest"}
        Of float32 matrix products on accelerators.
    remat : bool
        Recompute each message-passing step in the backward pass instead of storing it.
    unroll : bool
        Compile every processor step by itself instead of scanning over them.
    edge_chunk : int
        Edges of the graph computed at a time, 0 for all: less memory, a tenth more time.
    accumulate : int
        Pieces in which a batch is computed, one after another: memory falls, time does not.
    shard : bool
        Split optimiser state and averages over the devices.
    readers : int
        Threads that read batches ahead of the step.
    prefetch : int
        Batches that they may be ahead.
    """

    dtype: str = "float32"
    precision: str = "highest"
    remat: bool = False
    unroll: bool = True
    edge_chunk: int = 0
    accumulate: int = 1
    shard: bool = True
    readers: int = 2
    prefetch: int = 2

    def __post_init__(self) -> None:
        problems = []
        choices = {"dtype": DTYPES, "precision": ("default", "high", "highest")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                found = f"compute.{name} = {getattr(self, name)!r}"
                problems.append(Problem(found, f"one of {known}", f'{name} = "{known[0]}"'))
        least = {"edge_chunk": 0, "accumulate": 1, "readers": 1, "prefetch": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                found = f"compute.{name} = {getattr(self, name)}"
                problems.append(Problem(found, f"at least {smallest}", f"{name} = {smallest}"))
        raise_if(problems, what="training configuration")

    def network_options(self) -> dict[str, Any]:
        """The options of `xdiffda.graphcast.GraphCast.reconfigured`."""
        names = ("dtype", "precision", "remat", "unroll", "edge_chunk")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Era5:
    """The part of a reanalysis (schema of WeatherBench 2 or ARCO-ERA5) that is used, and how.

    Attributes
    ----------
    variables, levels : tuple
        The state: names of WeatherBench, levels in hPa, ascending.
    first, last, validation_first, validation_last : str
        Valid times of the pairs, both ends included.
    every_hours : int
        Hours between valid times: a divisor of 24 or a multiple of 6, and of the store's step.
    leads : tuple of int
        Lead times of the backgrounds in hours, multiples of 6.
    statistics : str
        Folder of ``*mean_by_level.nc``, ``*stddev_by_level.nc``, ``*diffs_stddev_by_level.nc``
        of the published forecaster; empty where ``initial`` is a name.
    storage : dict
        Options of the store's file system, as ``{token = "anon"}``.
    truncation : int
        Largest total wavenumber of noise and B; 0 for what the grid resolves.
    n_statistics : int
        Pairs on which s and B are measured.
    """

    variables: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    first: str = ""
    last: str = ""
    validation_first: str = ""
    validation_last: str = ""
    every_hours: int = 6
    leads: tuple[int, ...] = (6, 48)
    statistics: str = ""
    storage: dict[str, Any] = dataclasses.field(default_factory=dict)
    truncation: int = 0
    n_statistics: int = 200

    def __post_init__(self) -> None:
        raise_if(era5_problems(self), what="training configuration")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes
    ----------
    task : {"forecaster", "denoiser", "diffda"}
    data : str
        Folder of the nature run; store of the reanalysis (diffda).
    pairs : str
        Folder of the pairs of truth and forecast (denoiser); store of the forecasts (diffda).
    out : str
        Folder for checkpoints, logs and curves.
    steps, batch : int
        Optimiser steps and global batch size: over all devices of all processes.
    epochs : float
        Number of steps as passes over all samples; counts if above 0 (diffda).
    rollout : int
        Autoregressive steps in the loss (forecaster).
    initial : str
        Weights to start from (a checkpoint folder of another run; for a denoiser also a model,
        by folder or name), or empty; file or name of a published GraphCast (diffda).
    seed : int
    validate_every, save_every, log_every : int
        In steps.
    log_samples : bool
        Whether ``samples.csv`` keeps which samples every step has seen.
    """

    task: str
    data: str
    out: str
    steps: int = 10_000
    batch: int = 8
    epochs: float = 0.0
    pairs: str = "pairs"
    rollout: int = 1
    initial: str = ""
    seed: int = 0
    validate_every: int = 500
    save_every: int = 250
    log_every: int = 25
    log_samples: bool = False
    network: Network = Network()
    optimiser: Optimiser = Optimiser()
    compute: Compute = Compute()
    era5: Era5 | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.task not in TASKS:
            problems.append(Problem(f"task = {self.task!r}", "a known task", 'task = "denoiser"'))
        for name in ("steps", "batch", "rollout", "validate_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                problems.append(
                    Problem(f"{name} = {getattr(self, name)}", "at least 1", f"{name} = 1")
                )
        for name in ("epochs", "seed"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                problems.append(Problem(f"{name} = {value}", "0 or more", f"{name} = 0"))
        if self.task == "diffda" and not (self.era5 and self.initial):
            found = f"initial = {self.initial!r} and {'a' if self.era5 else 'no'} table era5"
            problems.append(Problem(found, "both, for task diffda", 'initial = "params.npz"'))
        if self.batch % self.compute.accumulate:
            found = f"batch = {self.batch} in {self.compute.accumulate} pieces"
            problems.append(Problem(found, "pieces of one size", "compute.accumulate = 1"))
        raise_if(problems, what="training configuration")

    @classmethod
    def example(cls) -> TrainConfig:
        """A small forecaster, trained for a few steps on the bundled sample."""
        return cls(
            task="forecaster",
            data="sample:truth",
            out="forecaster",
            steps=20,
            batch=2,
            validate_every=10,
            save_every=10,
            log_every=5,
            network=Network(refinement=2, latent=32, processor_steps=2),
            optimiser=Optimiser(warmup_steps=5),
        )

    @classmethod
    def read(cls, path: str | Path) -> TrainConfig:
        """Read a TOML file.

        Raises
        ------
        InputError
            Listing every unknown or mistyped entry.
        """
        return read_toml(cls, path, example='task = "denoiser"')

    @classmethod
    def read_back(cls, out: str | Path) -> TrainConfig:
        """Read the configuration that a run left in its folder, pointing at that folder."""
        try:
            table = dict(json.loads((Path(out) / CONFIG).read_text()))
        except (ValueError, TypeError) as error:
            problem = Problem(
                f"{CONFIG} that cannot be read ({error})", "what a run has left", f'out = "{out}-2"'
            )
            raise InputError([problem], what=str(Path(out) / CONFIG)) from error
        table.pop(VERSIONS, None)
        problems: list[Problem] = []
        config = build(cls, table, problems)
        raise_if(problems, what=str(Path(out) / CONFIG))
        return dataclasses.replace(config, out=str(out))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
