"""From sample numbers to batches: deterministic, read ahead, the same for any processes.

Which samples a step sees is a pure function of the seed and the step.  A process reads its own
rows of that batch; so nothing about the order needs to be saved, and a run goes on exactly
where it was, on any number of processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grain
import numpy as np
from jaxtyping import Int

from xdiffda.errors import InputError, Problem

Batch = dict[str, Any]


class Source(Protocol):
    """Interface of a source of batches."""

    def samples(self, step: int) -> Int[np.ndarray, " batch"]:
        """Numbers of the samples in the global batch of a step."""
        ...

    def read(self, index: Int[np.ndarray, " sample"]) -> Batch:
        """Arrays of these samples, along their first axis."""
        ...


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Draw every batch from all samples independently, without repeats within a batch.

    Attributes
    ----------
    choices : int array (sample,)
        What is drawn from.
    batch : int
    seed : tuple of int
        Together with the step, all that the draw depends on.
    reader : callable
        Numbers to arrays.
    """

    choices: np.ndarray
    batch: int
    seed: tuple[int, ...]
    reader: Callable[[np.ndarray], Batch]

    def __post_init__(self) -> None:
        if (n := len(self.choices)) < self.batch:
            problem = Problem(
                f"{n} samples",
                f"batch = {self.batch} of them, or more: more data, a shorter rollout",
                f"batch = {n}" if n else "",
            )
            raise InputError([problem], what="training data")

    def samples(self, step: int) -> np.ndarray:
        rng = np.random.default_rng([*self.seed, step])
        return np.sort(rng.choice(self.choices, self.batch, replace=False))

    def read(self, index: np.ndarray) -> Batch:
        return self.reader(index)

    def __call__(self, step: int) -> Batch:
        """The whole batch of a step."""
        return self.read(self.samples(step))


class Epochs:
    """Use every sample once in random order, then all again; batches may span two epochs.

    Parameters
    ----------
    n_sample, batch : int
    seed : int
    reader : callable
        Numbers to arrays.
    """

    def __init__(
        self, n_sample: int, batch: int, *, seed: int, reader: Callable[[np.ndarray], Batch]
    ) -> None:
        self.batch, self.reader = batch, reader
        self._order = grain.MapDataset.range(n_sample).seed(seed).shuffle().repeat()

    def samples(self, step: int) -> np.ndarray:
        first = step * self.batch
        return np.array([self._order[first + i] for i in range(self.batch)])

    def read(self, index: np.ndarray) -> Batch:
        return self.reader(index)


@dataclasses.dataclass(frozen=True)
class _OwnRows:
    """Own rows of all batches, by step: what grain reads ahead from."""

    source: Source
    rows: slice
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, Batch]:
        samples = self.source.samples(int(step))
        return samples, self.source.read(samples[self.rows])


def load_batches(
    source: Source, rows: slice, *, begin: int, end: int, readers: int = 2, prefetch: int = 2
) -> Iterator[tuple[Int[np.ndarray, " batch"], Batch]]:
    """Yield, for each step, the samples of the global batch and the arrays of own rows.

    Parameters
    ----------
    source
    rows
        Rows of the global batch that this process reads.
    begin, end
        First step, and the one after the last.
    readers, prefetch
        Threads that read, and batches that they may be ahead.

    Examples
    --------
    >>> source = Epochs(6, 4, seed=0, reader=lambda index: {"x": 10 * index})
    >>> (seen, batch), *_ = load_batches(source, slice(2, 4), begin=1, end=3)
    >>> batch["x"].tolist() == (10 * seen[2:4]).tolist()
    True
    """
    steps = grain.MapDataset.source(_OwnRows(source, rows, end))[begin:]
    options = grain.ReadOptions(num_threads=readers, prefetch_buffer_size=prefetch)
    return iter(steps.to_iter_dataset(options))
