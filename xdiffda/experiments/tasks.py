"""What is to be run, and where its records stand in the ledger."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from xdiffda._cycle_config import as_plain
from xdiffda.diffusion.sampling import Guidance
from xdiffda.experiments.config import ExperimentConfig, Method, plain
from xdiffda.experiments.world import World


@dataclasses.dataclass(frozen=True)
class Task:
    """One method at one time with so many columns."""

    time: np.datetime64
    columns: int
    name: str
    method: Method

    def of(self, kind: str) -> tuple[Any, ...]:
        """Key of its record of this kind; settings count, the name does not."""
        what = as_plain(dataclasses.replace(self.method, columns=(), n_cases=0))
        if what["ensemble"]:
            del what["ensemble"]  # records from before there was a choice stay valid
        if self.method.method == "guided":
            what["sampler"] = Guidance().version
        return (kind, self.columns, digest_of(plain(what)), str(self.time)[:19])


def tasks_of(world: World) -> list[Task]:
    """Every method at its times and numbers of columns."""
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
    return (f"reference {config.reference_lead}", *forecast_kind(config).split(" ", 1),
            str(time)[:19])  # fmt: skip


def saturation_of(time: np.datetime64) -> tuple[Any, ...]:
    """Key of the record of where errors end."""
    return ("saturation", str(time)[:19])


def forecast_kind(config: ExperimentConfig) -> str:
    """Kind of records of forecasts: those of other leads or starts are others."""
    return f"forecast {config.forecast_lead} {','.join(config.starts)}"


def digest_of(text: str) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
