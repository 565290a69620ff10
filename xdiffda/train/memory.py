"""What to say where a training run does not fit into the memory of its devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from xdiffda.errors import InputError, Problem
from xdiffda.train.config import TrainConfig

EDGES = 16384  # to propose where edges are computed all at once
_FULL = ("RESOURCE_EXHAUSTED", "out of memory")


@contextlib.contextmanager
def memory_explained(config: TrainConfig) -> Iterator[None]:
    """Turn an allocation that fails into an error that names what reduces the memory.

    Raises
    ------
    InputError
        In place of the allocator's error; others pass.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = (str(error).splitlines() or ["out of memory"])[0]
        if not isinstance(error, MemoryError) and not any(mark in text for mark in _FULL):
            raise
        raise InputError([_problem(config, text)], what="memory of training") from error


def _problem(config: TrainConfig, text: str) -> Problem:
    """What was asked of the allocator, and the entries of the configuration that ask for less."""
    compute, ways = config.compute, []
    if not compute.remat:
        ways.append("remat = true")
    pieces = [n for n in range(compute.accumulate + 1, config.batch + 1) if config.batch % n == 0]
    if pieces:
        ways.append(f"accumulate = {pieces[0]}")
    ways.append(f"edge_chunk = {compute.edge_chunk // 2 or EDGES}")
    if compute.dtype == "float32":
        ways.append('dtype = "bfloat16"')
    needed = (
        "memory for a step: entries of the table compute reduce it (remat stores no messages, "
        "accumulate computes the batch in pieces, edge_chunk some edges at a time), as would a "
        "smaller batch"
    )
    found = f"batch = {config.batch} on {jax.device_count()} devices: {text[:200]}"
    return Problem(found, needed, "; ".join(ways))
