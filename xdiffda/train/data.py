"""Training data in memory: normalised states of the nature run, and pairs with forecasts."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import ModelError
from xdiffda.priors.diffusion import DiffusionPrior
from xdiffda.priors.registry import load_model
from xdiffda.priors.samples import SAMPLE, open_sample
from xdiffda.state.convert import to_state
from xdiffda.state.grid import Layout

STATIC = ("geopotential_at_surface", "land_sea_mask")


@dataclasses.dataclass(frozen=True)
class Split:
    """Days of each stream (after spin-up) that belong to one part of the data."""

    train: tuple[tuple[int, int, int], ...] = ((0, 0, 1290), (1, 0, 780))
    validation: tuple[tuple[int, int, int], ...] = ((1, 800, 910),)
    evaluation: tuple[tuple[int, int, int], ...] = ((1, 925, 1290),)


SPLIT = Split()


def read_split(folder: Path) -> Split:
    """Read ``split.json`` (part -> [[stream, first day, last day], ...]), else the testbed's."""
    path = folder / "split.json"
    if not path.exists():
        return SPLIT
    parts = json.loads(path.read_text())
    return Split(**{part: tuple(map(tuple, spans)) for part, spans in parts.items()})


@dataclasses.dataclass(frozen=True)
class Nature:
    """All states of the nature run, normalised, in one array.

    Attributes
    ----------
    states : array (time, node, channel)
        Normalised; streams one after another.
    time : datetime64 array (time,)
    stream_start : tuple of int
        First row of each stream, and the total number of rows.
    layout : Layout
    static : array (node, 2)
        Normalised surface geopotential, land-sea mask.
    static_mean, static_stddev : arrays (2,)
        With which these were normalised.
    mean, stddev, diffs_stddev : arrays (channel,)
    split : Split
        Which days are for training, validation and evaluation.
    """

    states: np.ndarray
    time: np.ndarray
    stream_start: tuple[int, ...]
    layout: Layout
    static: np.ndarray
    static_mean: np.ndarray
    static_stddev: np.ndarray
    mean: np.ndarray
    stddev: np.ndarray
    diffs_stddev: np.ndarray
    split: Split = SPLIT

    def rows(self, part: str) -> np.ndarray:
        """Rows of one part (``train``, ``validation``, ``evaluation``), each with its last row.

        Shape (n, 2).
        """
        out = []
        for stream, first, last in getattr(self.split, part):
            begin, end = self.stream_start[stream], self.stream_start[stream + 1]
            low, high = min(begin + 4 * first, end), min(begin + 4 * last, end)
            rows = np.arange(low, high)
            out.append(np.stack([rows, np.full_like(rows, high - 1)], axis=1))
        return np.concatenate(out)


def load_nature(folder: str | Path) -> Nature:
    """Read, normalise and cache the nature run.

    The first call writes ``states.npy`` beside the stores (normalised float32) and maps
    it afterwards.  A file ``split.json`` beside the stores replaces the testbed's split, and a
    ``statistics.json`` that is there before the first call its own mean and standard deviation:
    `normalise_like` writes that of a model that is to be trained further.

    ``sample:truth`` in place of a folder is the sample of the package, four days, to try a
    configuration on: three for training, the last for validation.

    Raises
    ------
    FileNotFoundError
        If the folder holds no nature run.
    """
    if str(folder) == f"{SAMPLE}truth":
        return _sample_nature()
    folder = Path(folder)
    stores = sorted(folder.glob("stream*.zarr"))
    if not stores:
        raise FileNotFoundError(
            f"no stream*.zarr in {folder}: make them by "
            f"`python -m xdiffda.experiments.osse nature --out {folder}`"
        )
    streams = [xr.open_zarr(store, consolidated=False) for store in stores]
    time = np.concatenate([ds.time.values for ds in streams])
    starts = (0, *np.cumsum([ds.sizes["time"] for ds in streams]).tolist())
    layout = to_state(streams[0].isel(time=[0]).drop_vars(list(STATIC)))[1]
    cache, statistics = folder / "states.npy", folder / "statistics.json"
    if not (statistics.exists() and cache.exists()):
        _write_cache(streams, starts, layout, cache, statistics)
    stats = {k: np.array(v, np.float32) for k, v in json.loads(statistics.read_text()).items()}
    fields = [streams[0][n].transpose("lat", "lon").values.reshape(-1) for n in STATIC]
    static = np.stack(fields, axis=-1).astype(np.float32)
    centre, width = static.mean(0), static.std(0)
    return Nature(
        np.load(cache, mmap_mode="r"),
        time,
        starts,
        layout,
        (static - centre) / width,
        centre,
        width,
        split=read_split(folder),
        **stats,
    )


def _sample_nature() -> Nature:
    """The sample, with static fields and normalisation of the bundled model."""
    truth, prior = open_sample("truth").load(), load_model("speedy")
    states, layout, _ = to_state(truth)
    static = np.asarray(prior.static)
    moments = {k: np.array(v, np.float32) for k, v in _moments([states], layout).items()}
    moments |= {"mean": prior.mean, "stddev": prior.stddev}
    days = len(states) // 4
    return Nature(
        ((states - prior.mean) / prior.stddev).astype(np.float32),
        truth.time.values,
        (0, len(states)),
        layout,
        static,
        np.zeros(static.shape[1], np.float32),
        np.ones(static.shape[1], np.float32),
        split=Split(((0, 0, days - 1),), ((0, days - 1, days + 1),), ()),
        **moments,
    )


def normalise_like(folder: str | Path, prior: DiffusionPrior) -> Nature:
    """Have the nature run in ``folder`` normalised as a model's states were, and return it.

    Another machine integrates another weather, and its mean and standard deviation are others:
    a network that is trained further knows those it was trained with.

    Raises
    ------
    ModelError
        If the model is one of other states.
    """
    nature, statistics = load_nature(folder), Path(folder) / "statistics.json"
    if nature.layout != prior.layout:
        raise ModelError(
            f"found states of {nature.layout.grid} with {nature.layout.n_channel} channels; "
            f"needed those of {prior.name!r}: {prior.layout.grid} with {prior.layout.n_channel}; "
            "repair: a nature run of its grid and variables"
        )
    stats = json.loads(statistics.read_text())
    stats |= {"mean": prior.mean.tolist(), "stddev": prior.stddev.tolist()}
    # in this order: states that are not there are made again, those of other numbers are not
    (Path(folder) / "states.npy").unlink()
    statistics.write_text(json.dumps(stats))
    return load_nature(folder)


def _write_cache(
    streams: list[xr.Dataset], starts: tuple[int, ...], layout: Layout, cache: Path, stats: Path
) -> None:
    parts = [to_state(ds.drop_vars(list(STATIC)), layout)[0] for ds in streams]
    if not stats.exists():
        stats.write_text(json.dumps(_moments(parts, layout)))
    found = json.loads(stats.read_text())
    mean, stddev = np.array(found["mean"]), np.array(found["stddev"])
    partial = cache.with_suffix(".partial")
    states = np.lib.format.open_memmap(
        partial, "w+", np.float32, (starts[-1], layout.grid.n_node, layout.n_channel)
    )
    for part, start in zip(parts, starts, strict=False):
        states[start : start + len(part)] = (part - mean) / stddev
    states.flush()
    os.replace(partial, cache)


def _moments(parts: list[np.ndarray], layout: Layout) -> dict[str, list[float]]:
    """Area means over all times: mean, standard deviation, that of changes in 6 h."""
    weight = layout.grid.area_weights()[:, None] / layout.grid.n_node
    mean = np.mean(
        [np.einsum("tnc,nc->c", p, np.broadcast_to(weight, p.shape[1:])) / len(p) for p in parts],
        axis=0,
    )

    def root(departure: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
        squares = [
            np.mean([np.sum(weight * departure(p, t) ** 2, axis=0) for t in range(1, len(p), 7)], 0)
            for p in parts
        ]
        return np.sqrt(np.mean(squares, axis=0))

    return {
        "mean": mean.tolist(),
        "stddev": root(lambda p, t: p[t] - mean).tolist(),
        "diffs_stddev": root(lambda p, t: p[t] - p[t - 1]).tolist(),
    }


N_LEADS = 12  # six-hourly, 6 to 72 h


GROUP = 8  # initial times rolled out together


CYCLES, OWN_CYCLES = "cycles", "own-cycles"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Backgrounds and where their truth stands.

    Attributes
    ----------
    background : array (pair, node, channel)
        Normalised like the nature run's states.
    row : int array (pair,)
        Row of the truth in the nature run's states.
    lead : int array (pair,)
        Forecast lead time in hours.
    perturbed : bool array (pair,)
        Whether the forecast started from an imperfect state, as all of a cycle do.
    """

    background: np.ndarray | Joined
    row: np.ndarray
    lead: np.ndarray
    perturbed: np.ndarray


class Joined:
    """Arrays one after another along the first axis, on disk as they are."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read one row, or the rows of an array or slice."""
        rows = np.arange(len(self))[index]
        flat = np.atleast_1d(rows)
        which = np.searchsorted(self._starts, flat, side="right") - 1
        out = np.empty((flat.size, *self.shape[1:]), self._parts[0].dtype)
        for i, part in enumerate(self._parts):
            own = which == i
            out[own] = part[flat[own] - self._starts[i]]
        return out[0] if np.ndim(rows) == 0 else out


def load_pairs(out: str | Path, part: str) -> Pairs:
    """Map the pairs written by `make_pairs`, and those of cycles where they were made.

    Raises
    ------
    FileNotFoundError
        If they were not made.
    """
    found = [
        _load(folder)
        for folder in (Path(out) / part, Path(out) / CYCLES / part, Path(out) / OWN_CYCLES / part)
        if (folder / "row.npy").exists()
    ]
    if not found:
        raise FileNotFoundError(
            f"no pairs in {Path(out) / part}: make them by `python -m xdiffda.experiments.osse "
            f"pairs "
            f"--out {out}`"
        )
    if len(found) == 1:
        return found[0]

    def join(name):
        return np.concatenate([getattr(pairs, name) for pairs in found])

    return Pairs(
        Joined([p.background for p in found]), join("row"), join("lead"), join("perturbed")
    )


def _load(folder: Path) -> Pairs:
    background = np.load(folder / "background.npy", mmap_mode="r")
    n_group = background.shape[0]
    labels = np.indices((n_group, N_LEADS, GROUP)).reshape(3, -1)
    cycled = (folder / "labels.json").exists()
    return Pairs(
        background.reshape(-1, *background.shape[3:]),
        np.load(folder / "row.npy", allow_pickle=False),
        np.full_like(labels[1], 6) if cycled else 6 * (labels[1] + 1),
        np.ones(labels[0].shape, bool) if cycled else labels[0] % 2 == 1,
    )
