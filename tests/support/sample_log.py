"""Reads which samples a training saw, to compare interrupted runs with whole ones."""

from __future__ import annotations

import csv
from pathlib import Path


def read_samples(path: str | Path) -> list[tuple[int, list[int]]]:
    """Rows of a `SampleLog`: step and samples, in the order in which they were computed."""
    with Path(path).open(newline="") as file:
        return [(int(row[0]), [int(i) for i in row[1:]]) for row in csv.reader(file)]
