"""The observations of a cycled run in its store: every one, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda._cycle_store import EPOCH, OBS, open_cycle
from xdiffda._flags import ABSENT, decode_words
from xdiffda.errors import InputError, Problem, StorageError

PREFIX = "obs_"
# beginning of a reason that `assimilate` gives -> its label in the store
REASONS = {
    "gross error": "gross_error", "outside the levels": "outside_levels",
    "of a variable": "unknown_variable", "outside the window": "outside_window",
}  # fmt: skip
OTHER, USED, WITHHELD = "other", "used", "withheld"
STATUS = (ABSENT, USED, *REASONS.values(), OTHER, WITHHELD)
NUMBERS = {
    "value": "observed value, canonical units of the variable",
    "error_std": "standard deviation of the observation error",
    "lat": "latitude, degrees north", "lon": "longitude, degrees east", "level": "pressure, hPa",
    "station_height": "height above mean sea level, m",
    "level_bottom": "lower bound of a layer, hPa",
}  # fmt: skip
WORDS = {"variable": "observed variable", "kind": "kind of instrument"}
TIME_UNITS = EPOCH.replace("seconds", "nanoseconds")
Part = tuple[xr.Dataset, np.ndarray]


def label(reason: str) -> str:
    """The label of a reason that `assimilate` gives."""
    return next((known for start, known in REASONS.items() if reason.startswith(start)), OTHER)


def status_of(tidy: xr.Dataset, lost: Mapping[str, np.ndarray]) -> Part:
    """Observations given to `assimilate`, and what became of each."""
    status = np.full(tidy.sizes["obs"], USED, "U32")
    for reason, where in lost.items():
        status[where] = label(reason)
    return tidy, status


def all_of(tidy: xr.Dataset, status: str) -> Part:
    """Observations of which the same became."""
    return tidy, np.full(tidy.sizes["obs"], status, "U32")


def observation_record(parts: Sequence[Part]) -> xr.Dataset:
    """The observations of one cycle along ``obs``, as they are stored."""
    n = sum(tidy.sizes["obs"] for tidy, _ in parts)

    def column(name: str, default: Any) -> np.ndarray:
        pieces = [tidy[name].values if name in tidy.variables
                  else np.full(tidy.sizes["obs"], default) for tidy, _ in parts]  # fmt: skip
        # no dimension has the size zero: a cycle without observations has one that is absent
        return np.concatenate(pieces) if n else np.array([default])

    status = np.concatenate([status for _, status in parts]) if n else np.array([""])
    no_time = np.datetime64("NaT", "ns")
    stamps = column("time", no_time).astype("datetime64[ns]").astype(np.int64)
    clock = {"long_name": "time of observation", "units": TIME_UNITS,
             "_FillValue": no_time.astype(np.int64)}  # fmt: skip
    columns: dict[str, Any] = {
        name: (OBS, column(name, np.nan).astype(np.float64), {"long_name": long_name})
        for name, long_name in NUMBERS.items()
    }
    columns |= {
        name: (OBS, _text(column(name, "")), {"long_name": long_name})
        for name, long_name in WORDS.items()
    }
    columns["time"] = OBS, stamps, clock
    columns["status"] = OBS, status, {
        "long_name": "used, or why not", "flag_meanings": " ".join(STATUS),
    }  # fmt: skip
    return xr.Dataset({f"{PREFIX}{name}": content for name, content in columns.items()})


def _text(words: np.ndarray) -> np.ndarray:
    import pandas as pd

    return np.where(pd.isna(words), "", words).astype(str)


def read_observations(out: str | os.PathLike, time: Any = None) -> xr.Dataset:
    """The observations of a cycled run, used and rejected, tidy.

    Parameters
    ----------
    out : path
        Store of `cycle`, also while it grows.
    time : datetime, str or sequence of them, optional
        Analysis times; default all.

    Returns
    -------
    Dataset
        In memory, tidy along ``obs``, cycle after cycle, in canonical units, as
        `xdiffda.verify.equivalents`, `assimilate` and the figures take it. With ``status``:
        ``used``, ``withheld``, or the label of why it was rejected, those of
        ``n_obs_rejected``; and with ``analysis_time``, that of the cycle. The names of
        stations are not stored, and in ``kind`` blanks become underscores.

    Raises
    ------
    StorageError
        If there is no such store, or it is of a version that stored numbers of observations
        only.
    InputError
        If there is no such analysis time.
    """
    path = Path(out).expanduser()
    run = open_cycle(path)
    if f"{PREFIX}value" not in run:
        raise StorageError(
            f"{path}: a store without observations, of a version that kept their numbers only; "
            "repair: a run into a new store"
        )
    if time is not None:
        run = run.isel(time=_positions(run, time, path))
    names = (*NUMBERS, *WORDS, "time", "status")
    ds = run[[f"{PREFIX}{name}" for name in names]].load()
    cycle, slot = np.nonzero(ds[f"{PREFIX}status"].transpose("time", OBS).values)
    data: dict[str, Any] = {"analysis_time": ds["time"].values[cycle]}
    for name in names:
        stored = ds[f"{PREFIX}{name}"].transpose("time", OBS)
        words = name in WORDS or name == "status"
        data[name] = (decode_words(stored) if words else stored.values)[cycle, slot]
    for name in ("kind", "station_height", "level_bottom"):  # stored also where unknown
        if not np.any(data[name] != "" if name in WORDS else np.isfinite(data[name])):
            del data[name]
    variables = {name: (OBS, column) for name, column in data.items()}
    return xr.Dataset(variables).set_coords([n for n in data if n not in ("value", "error_std")])


def _positions(run: xr.Dataset, time: Any, path: Path) -> np.ndarray:
    known = run["time"].values
    try:
        wanted = np.atleast_1d(np.asarray(time, "datetime64[ns]"))
    except (ValueError, TypeError) as error:
        raise InputError([Problem(f"time={time!r}", "an analysis time, or several",
                                  f'read_observations(out, "{str(known[-1])[:16]}")')],
                         what="observations") from error  # fmt: skip
    absent = wanted[~np.isin(wanted, known)]
    if absent.size:
        span = f"{str(known[0])[:16]} to {str(known[-1])[:16]}"
        raise InputError(
            [Problem(f"no cycle at {str(absent[0])[:16]} in {path}", f"one of {span}",
                     f'read_observations(out, "{str(known[-1])[:16]}")')], what="observations",
        )  # fmt: skip
    return np.flatnonzero(np.isin(known, wanted))
