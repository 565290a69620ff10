"""Training data in memory: normalised states of the nature run, and pairs with forecasts."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from xdiffda.errors import ModelError
from xdiffda.network_prior import DiffusionPrior
from xdiffda.state import Layout, to_state

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
    """All states, normalised, in one array.

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

    Raises
    ------
    FileNotFoundError
        If the folder holds no nature run.
    """
    folder = Path(folder)
    stores = sorted(folder.glob("stream*.zarr"))
    if not stores:
        raise FileNotFoundError(
            f"no stream*.zarr in {folder}: make them by "
            f"`python -m xdiffda.osse nature --out {folder}`"
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
        np.load(cache, mmap_mode="r"), time, starts, layout, (static - centre) / width,
        centre, width, split=read_split(folder), **stats,
    )  # fmt: skip


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
        "mean": mean.tolist(), "stddev": root(lambda p, t: p[t] - mean).tolist(),
        "diffs_stddev": root(lambda p, t: p[t] - p[t - 1]).tolist(),
    }  # fmt: skip
