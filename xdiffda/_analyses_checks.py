"""What `xdiffda.assimilate_store` asks of its input, and of a store that is there already."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xdiffda._analyses_record import state_digest, tidy_digest
from xdiffda._backgrounds import Backgrounds
from xdiffda._clock import role_of
from xdiffda._region_store import Store
from xdiffda._regions import COMPLETE
from xdiffda._stream import Source, duration
from xdiffda.errors import InputError, Problem, StorageError, raise_if
from xdiffda.prior import Prior


def need_times(background: xr.Dataset, times: list[Any], dims: tuple[str, ...]) -> None:
    """Raise unless a background has one axis of valid times, each of them once."""
    problems = []
    if "lead_time" in dims:
        lead = next(str(d) for d in background.dims if role_of(str(d), {}) == "lead")
        problems.append(
            Problem(f"a background along {', '.join(dims)}",
                    "one valid time after another along the dimension time",
                    f"background.isel({lead}=0)")
        )  # fmt: skip
    elif "time" not in dims:
        problems.append(
            Problem(f"a background along {', '.join(dims) or 'no time'}",
                    "one valid time after another along the dimension time",
                    'background.expand_dims("time")')
        )  # fmt: skip
    elif any(t is None or np.isnat(t) for t in times) or len(set(times)) != len(times):
        problems.append(
            Problem("times that are missing or not unique", "a valid time for each state",
                    'background.drop_duplicates("time")')
        )  # fmt: skip
    if problems:
        raise InputError(problems, what="background")


def need_written(store: Store, lost: list[int], backgrounds: Backgrounds) -> None:
    """Raise where an analysis was written by its account, and is not in the store."""
    if lost:
        shown = ", ".join(str(backgrounds.times[i])[:16] for i in lost[:5])
        raise StorageError(
            f"{store.name}: {len(lost)} analyses were written and are not there: {shown}"
            f"{', ...' if len(lost) > 5 else ''}; another process has written over them, or a "
            "worker to a place of its own; repair: keep the store where all workers see the same, "
            "and make the same call again, which goes on"
        )


def need_observations(stamps: np.ndarray | None, times: list[Any], window: Any, dim: str) -> None:
    """Raise where a table of observations has none for a time."""
    if stamps is None:
        return
    half, at = duration(window) / 2, np.array(times, "datetime64[ns]")
    stamps = np.sort(stamps)
    count = np.searchsorted(stamps, at + half, "right") - np.searchsorted(
        stamps, at - half, "right"
    )
    count += np.isin(at, stamps)
    empty = [str(t)[:16] for t in at[count <= 0]]
    if empty:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise InputError(
            [Problem(f"no observation within {window} around {len(empty)} times: {shown}",
                     "at least one for each", f"background.drop_sel({dim}=[{empty[0]!r}])")],
            what="observations",
        )  # fmt: skip


def same_input(store: Store, backgrounds: Backgrounds, source: Source, prior: Prior) -> None:
    """Compare the first, the middle and the last complete time with what they were made of."""
    import dask

    done = np.flatnonzero(store.read_array(COMPLETE) == 1)
    problems = []
    for i in sorted({int(done[k]) for k in (0, done.size // 2, -1)} if done.size else ()):
        with dask.config.set(scheduler="synchronous"):
            state = state_digest(backgrounds.at(i), prior)
        tidy = source(backgrounds.times[i]).tidy
        found = {"background": state, "obs": None if tidy is None else tidy_digest(tidy)}
        for name, own in found.items():
            if own != int(store.read_array(f"{name}_digest")[i]):
                what = "another background" if name == "background" else "other observations"
                problems.append(
                    Problem(f"{what} at {str(backgrounds.times[i])[:16]} than those of the "
                            f"analysis in {store.name}", "the same, or another store",
                            f"assimilate_store(..., out={store.another})")
                )  # fmt: skip
    raise_if(problems, what="existing store, which is left as it is")
