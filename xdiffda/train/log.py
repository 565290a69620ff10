"""What a run writes beside its checkpoints: curves, and which samples were seen."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

_COLUMNS = ("step", "train_loss", "validation_loss", "seconds")


class CurveLog:
    """Curves as data: step, loss since the last row, validation loss, seconds.

    Rows beyond ``begin``, of steps that a resumed run makes again, are dropped.
    """

    def __init__(self, path: Path, begin: int) -> None:
        self.path = path
        rows = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) <= begin]
        self.offset = float(rows[-1]["seconds"]) if rows else 0.0
        self.start = time.monotonic()
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, step: int, loss: float, validation: float | None) -> None:
        seconds = self.offset + time.monotonic() - self.start
        checked = "" if validation is None else f"{validation:.6f}"
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.6f}", checked, f"{seconds:.1f}"])


class SampleLog:
    """Which samples every step saw: an audit that is only ever appended to.

    One row for each step that was computed: step (counted from 1), then the samples of the
    global batch. A step that was computed, lost with its process and computed again has two.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: int, samples: np.ndarray) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, *np.asarray(samples).tolist()])


def read_samples(path: str | Path) -> list[tuple[int, list[int]]]:
    """Rows of a `SampleLog`: step and samples, in the order in which they were computed."""
    with Path(path).open(newline="") as file:
        return [(int(row[0]), [int(i) for i in row[1:]]) for row in csv.reader(file)]


def write_status(out: Path, step: int, steps: int) -> None:
    """Note how far the run is; a file ``finished`` marks one that has nothing left to do."""
    status = {"step": step, "steps": steps, "processes": jax.process_count(),
              "devices": jax.device_count()}  # fmt: skip
    write_json(out / "status.json", status)
    if step >= steps:
        (out / "finished").touch()
    else:
        (out / "finished").unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write all or nothing."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)
