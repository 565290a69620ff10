"""Configuration of a training run: frozen dataclasses, read from one TOML file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from xdiffda.errors import InputError, Problem


@dataclasses.dataclass(frozen=True)
class Network:
    """Size of the GraphCast network."""

    refinement: int = 3
    latent: int = 128
    processor_steps: int = 6
    hidden_layers: int = 1
    conditioning_width: int = 0


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up and cosine decay."""

    peak: float = 1e-3
    end: float = 1e-5
    warmup_steps: int = 200
    weight_decay: float = 0.01
    b2: float = 0.99
    clip: float = 1.0
    ema: float = 0.999


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes
    ----------
    task : {"forecaster", "denoiser"}
    data : str
        Folder of the nature run.
    pairs : str
        Folder of the pairs of truth and forecast (denoiser).
    out : str
        Folder for checkpoints, logs and curves.
    steps, batch : int
        Optimiser steps and global batch size.
    rollout : int
        Autoregressive steps in the loss (forecaster).
    initial : str
        Weights to start from (a checkpoint folder of another run), or empty.
    seed : int
    validate_every, save_every, log_every : int
        In steps.
    """

    task: str
    data: str
    out: str
    steps: int = 10_000
    batch: int = 8
    pairs: str = "pairs"
    rollout: int = 1
    initial: str = ""
    seed: int = 0
    validate_every: int = 500
    save_every: int = 250
    log_every: int = 25
    network: Network = Network()
    optimiser: Optimiser = Optimiser()

    def __post_init__(self) -> None:
        problems = []
        if self.task not in ("forecaster", "denoiser"):
            problems.append(Problem(f"task = {self.task!r}", "a known task", 'task = "denoiser"'))
        for name in ("steps", "batch", "rollout", "validate_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                problems.append(
                    Problem(f"{name} = {getattr(self, name)}", "at least 1", f"{name} = 1")
                )
        if problems:
            raise InputError(problems, what="training configuration")

    @classmethod
    def read(cls, path: str | Path) -> TrainConfig:
        """Read a TOML file.

        Raises
        ------
        InputError
            Listing every unknown or mistyped entry.
        """
        try:
            table = tomllib.loads(Path(path).read_text())
        except tomllib.TOMLDecodeError as error:
            problem = Problem(f"no TOML: {error}", "TOML", 'task = "denoiser"')
            raise InputError([problem], what=str(path)) from error
        problems: list[Problem] = []
        config = _build(cls, table, "", problems)
        if problems:
            raise InputError(problems, what=str(path))
        return config

    @classmethod
    def read_back(cls, out: str | Path) -> TrainConfig:
        """Read the configuration that a run left in its folder, pointing at that folder."""
        table = json.loads((Path(out) / "config.json").read_text())
        config = _build(cls, table, "", [])
        return dataclasses.replace(config, out=str(out))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _build(cls: type, table: dict[str, Any], prefix: str, problems: list[Problem]) -> Any:
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        label = prefix + name
        if name not in known:
            problems.append(Problem(f"entry {label}", f"one of {', '.join(known)}", f"# {label}"))
        elif dataclasses.is_dataclass(hints[name]) and isinstance(value, dict):
            values[name] = _build(hints[name], value, f"{label}.", problems)
        elif hints[name] is float and type(value) in (int, float):
            values[name] = float(value)
        elif type(value) is not hints[name]:  # a bool is an int, but not meant as one
            problems.append(
                Problem(f"{label} = {value!r}", f"a {_name(hints[name])}", f"{label} = ...")
            )
        else:
            values[name] = value
    for name, field in known.items():
        if field.default is dataclasses.MISSING and name not in table:
            problems.append(
                Problem(f"no entry {prefix}{name}", f"a {_name(hints[name])}", f"{name} = ...")
            )
    return None if problems else cls(**values)


def _name(hint: type | types.GenericAlias) -> str:
    return getattr(hint, "__name__", str(hint))
