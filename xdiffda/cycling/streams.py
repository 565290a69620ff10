"""A reanalysis in several cycled streams side by side, opened as one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.cycling.config import Assimilation
from xdiffda.cycling.cycle import cycle
from xdiffda.cycling.observation_stream import duration, state_at
from xdiffda.cycling.store import open_cycle
from xdiffda.errors import InputError, Problem, StorageError, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.options import get_options
from xdiffda.priors.prior import Prior
from xdiffda.state.times import width_of
from xdiffda.storage.tasks import Task, check_client, run_tasks

INDEX = "streams.json"
Time = np.datetime64


@dataclasses.dataclass(frozen=True)
class Streams:
    """The times at which each stream begins, begins to count, and ends.

    Attributes
    ----------
    starts : tuple of str
        Analysis times from which each stream counts.
    end : str
        Last analysis time.
    spin_up : str
        Length that all but the first stream run before they count.
    cycle_length : str
    """

    starts: tuple[str, ...]
    end: str
    spin_up: str
    cycle_length: str

    def first(self, k: int) -> Time:
        """First analysis time of stream ``k``, its spin-up included."""
        return self.counts_from(k) - (duration(self.spin_up) if k else np.timedelta64(0, "ns"))

    def counts_from(self, k: int) -> Time:
        """First analysis time that the reanalysis takes from stream ``k``."""
        return np.datetime64(self.starts[k], "ns")

    def last(self, k: int) -> Time:
        """Last analysis time of stream ``k``."""
        if k + 1 < len(self.starts):
            return self.counts_from(k + 1) - duration(self.cycle_length)
        return np.datetime64(self.end, "ns")

    def n_cycles(self, k: int) -> int:
        """Cycles of stream ``k``."""
        return int((self.last(k) - self.first(k)) // duration(self.cycle_length)) + 1

    def problems(self) -> list[Problem]:
        """List the problems of the times."""
        if problems := self._unreadable():
            return problems
        length = duration(self.cycle_length)
        marks = [
            *(self.counts_from(k) for k in range(len(self.starts))),
            np.datetime64(self.end, "ns") + length,
        ]
        steps = np.diff(np.array(marks))
        if not self.starts or (steps < length).any() or (steps % length).any():
            problems.append(
                Problem(
                    f"starts={list(self.starts)}, end={self.end!r}",
                    f"rising times, whole cycles of {self.cycle_length} apart",
                    'run_streams(..., starts=["2020-01-01", "2020-07-01"], end="2020-12-31")',
                )
            )
        if duration(self.spin_up) < np.timedelta64(0, "ns") or duration(self.spin_up) % length:
            problems.append(
                Problem(
                    f"spin_up={self.spin_up!r}",
                    f"whole cycles of {self.cycle_length}",
                    'run_streams(..., spin_up="10D")',
                )
            )
        return problems

    def _unreadable(self) -> list[Problem]:
        """Texts that are no time, or no duration."""
        import pandas as pd

        problems = []
        for name, word in (
            *((f"starts[{k}]", t) for k, t in enumerate(self.starts)),
            ("end", self.end),
        ):
            if pd.isna(pd.to_datetime(word, errors="coerce")) or not word[:4].isdigit():
                problems.append(
                    Problem(
                        f"{name}={word!r}",
                        "a time",
                        'run_streams(..., starts=["2020-01-01"], end="2020-12-31")',
                    )
                )
        for name in ("spin_up", "cycle_length"):
            length = width_of(getattr(self, name)).total_seconds()
            if not (length > 0 or (name == "spin_up" and length == 0)):
                problems.append(
                    Problem(
                        f"{name}={getattr(self, name)!r}",
                        "a duration with its unit",
                        f'run_streams(..., {name}="6h")',
                    )
                )
        return problems


@with_own_jax
def run_streams(
    background: xr.Dataset,
    obs: Any,
    *,
    out: str | os.PathLike,
    starts: Sequence[str],
    end: str,
    spin_up: str = "0h",
    n_members: int = 8,
    carry: str = "mean",
    cycle_length: str = "6h",
    seed: int = 0,
    model: str | Prior | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
    truth: xr.Dataset | None = None,
    settings: Assimilation | Mapping[str, Any] | None = None,
    client: Any = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Run several cycled streams side by side, each into a store of its own; resumes.

    A cycled run is sequential, so a long period is cut into streams. Every stream but the
    first begins ``spin_up`` before it counts, while the one before it still runs; in that
    overlap the reanalysis takes the earlier stream, which has forgotten its first background.
    A stream whose worker is lost goes on elsewhere from its last whole cycle.

    Parameters
    ----------
    background : Dataset
        First backgrounds: a state at the first time of each stream (``starts``, less the
        spin-up), along time.
    obs, n_members, carry, cycle_length, seed, model, forecaster, truth, settings
        As in `xdiffda.cycling.cycle.cycle`; a cluster's workers must be able to import the
        forecaster.
    out : path
        Folder, made if it is absent: ``stream-00.zarr``, ``stream-01.zarr``, ...
    starts : sequence of str
        Analysis times from which each stream counts.
    end : str
        Last analysis time.
    spin_up : str
        Such as ``"10D"``; a multiple of the cycle's length.
    client : distributed.Client, optional
        The cluster; default this process, one stream after another.
    progress : bool, optional
        Show a progress bar of streams; default the option ``progress``.

    Returns
    -------
    Dataset
        As `open_streams` shows it.

    Raises
    ------
    InputError
        If times or arguments do not fit, or the folder is that of another reanalysis.
    StorageError
        If the folder cannot be written; or at the end, if a stream failed: the others, and all
        whole cycles of it, are stored.
    """
    folder = Path(out).expanduser().absolute()  # workers may have another working directory
    check_client(client)
    given = [starts] if isinstance(starts, str | np.datetime64) else starts
    streams = Streams(tuple(map(str, given)), str(end), spin_up, cycle_length)
    raise_if(streams.problems(), what="reanalysis")
    firsts = [
        state_at(background, streams.first(k), what="background")
        for k in range(len(streams.starts))
    ]
    _index(folder, streams)
    shared = {
        "n_members": n_members,
        "carry": carry,
        "cycle_length": cycle_length,
        "seed": seed,
        "model": model,
        "forecaster": forecaster,
        "truth": truth,
        "settings": settings,
    }

    def tasks() -> Iterator[Task]:
        for k, first in enumerate(firsts):
            given = Stream(str(_path(folder, k)), first, obs, streams.n_cycles(k), shared)
            yield f"stream {k}", (given,)

    wanted = get_options().progress if progress is None else progress
    run_tasks(run_stream, tasks(), client, total=len(firsts), what="reanalysis", progress=wanted)
    return open_streams(folder)


def open_streams(out: str | os.PathLike, *, stream: int | None = None) -> xr.Dataset:
    """Open the streams of a reanalysis as one, also while they grow; whole cycles only.

    Parameters
    ----------
    out : path
        Folder of `run_streams`.
    stream : int, optional
        One stream alone, with its spin-up: beside the whole it shows in the overlap how far
        two streams have come together.

    Returns
    -------
    Dataset
        Lazy, along ``time``, as `xdiffda.cycling.cycle.open_cycle`, with the coordinate ``stream``:
        each time from the stream that counts there, never from a spin-up. Without the
        observations, which `xdiffda.cycling.cycle.read_observations` reads from a stream's store.

    Raises
    ------
    StorageError
        If there is no reanalysis, or none of its streams has a whole cycle.
    """
    folder = Path(out).expanduser()
    streams = _read_index(folder)
    if stream is not None and stream not in range(len(streams.starts)):
        raise InputError(
            [
                Problem(
                    f"stream={stream!r}",
                    f"one of 0 to {len(streams.starts) - 1}",
                    "open_streams(out, stream=0)",
                )
            ],
            what="open_streams",
        )
    parts = []
    for k in range(len(streams.starts)):
        if stream not in (None, k) or not _path(folder, k).exists():
            continue
        ds = open_cycle(_path(folder, k))
        if stream is None:
            ds = ds.isel(time=ds["time"].values >= streams.counts_from(k))
        ds = ds.drop_dims("obs", errors="ignore")  # of another length in each store
        if ds.sizes["time"]:
            parts.append(ds.assign_coords(stream=("time", np.full(ds.sizes["time"], k))))
    if not parts:
        repair = f"run_streams(..., out={str(folder)!r})"
        raise StorageError(f"{folder}: no whole cycle yet; repair: `{repair}`")
    along: list[Any] = [name for name in parts[0].data_vars if "time" in parts[0][name].dims]
    whole = xr.concat(
        parts,
        "time",
        data_vars=along,
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )
    assert isinstance(whole, xr.Dataset)
    return whole


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """One cycled run, in a form that dask does not look into."""

    path: str
    background: xr.Dataset
    obs: Any
    n_cycles: int
    shared: Mapping[str, Any]


@with_own_jax
def run_stream(stream: Stream) -> None:
    """Run or resume one stream: one task of a cluster."""
    import dask

    path = Path(stream.path)
    with dask.config.set(scheduler="synchronous"):
        cycle(
            stream.background,
            stream.obs,
            out=path,
            n_cycles=stream.n_cycles,
            progress=False,
            **stream.shared,
        )


def _path(folder: Path, k: int) -> Path:
    return folder / f"stream-{k:02d}.zarr"


def _index(folder: Path, streams: Streams) -> None:
    """Write down when streams count, or compare with what is written."""
    if (folder / INDEX).exists():
        stored = _read_index(folder)
        if stored != streams:
            raise InputError(
                [
                    Problem(
                        f"{stored} in {folder}",
                        f"{streams}, as this call says",
                        f"run_streams(..., out={str(folder) + '-2'!r})",
                    )
                ],
                what="existing reanalysis, which is left as it is",
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{INDEX}.{os.getpid()}.partial"
        partial.write_text(json.dumps(dataclasses.asdict(streams), indent=2))
        os.replace(partial, folder / INDEX)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written ({type(error).__name__}: {error}); repair: a folder "
            f"that you may write to, with room (`df -h {folder.parent}`)"
        ) from error


def _read_index(folder: Path) -> Streams:
    try:
        content = json.loads((folder / INDEX).read_text())
        return Streams(**(content | {"starts": tuple(content["starts"])}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder}: no reanalysis ({type(error).__name__}: {error}); repair: give the folder "
            "that `run_streams` writes"
        ) from error
