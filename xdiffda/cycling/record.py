"""The observations of a cycled run in its store: every one, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.cycling.plan import Plan, State
from xdiffda.cycling.store import EPOCH, OBS, PREFIX, SCORE_LEVEL, open_cycle
from xdiffda.errors import InputError, Problem, StorageError
from xdiffda.observations.quality import FLAGS, OTHER, USED, WITHHELD, flag_of
from xdiffda.storage.flags import ABSENT, decode_words

OBS_PREFIX = "obs_"
REASONS = (*dict.fromkeys(FLAGS.values()), OTHER)  # why an observation is not used
STATUS = (ABSENT, USED, *REASONS, WITHHELD)
NUMBERS = {
    "value": "observed value, canonical units of the variable",
    "error_std": "standard deviation of the observation error",
    "lat": "latitude, degrees north",
    "lon": "longitude, degrees east",
    "level": "pressure, hPa",
    "station_height": "height above mean sea level, m",
    "level_bottom": "lower bound of a layer, hPa",
}
WORDS = {"variable": "observed variable", "kind": "kind of instrument"}
TIME_UNITS = EPOCH.replace("seconds", "nanoseconds")
Part = tuple[xr.Dataset, np.ndarray]


def status_of(tidy: xr.Dataset, lost: Mapping[str, np.ndarray]) -> Part:
    """Observations given to `assimilate`, and what became of each."""
    status = np.full(tidy.sizes["obs"], USED, "U32")
    for reason, where in lost.items():
        status[where] = flag_of(reason)
    return tidy, status


def all_of(tidy: xr.Dataset, status: str) -> Part:
    """Observations of which the same became."""
    return tidy, np.full(tidy.sizes["obs"], status, "U32")


def observation_record(parts: Sequence[Part]) -> xr.Dataset:
    """The observations of one cycle along ``obs``, as they are stored."""
    n = sum(tidy.sizes["obs"] for tidy, _ in parts)

    def column(name: str, default: Any) -> np.ndarray:
        pieces = [
            tidy[name].values if name in tidy.variables else np.full(tidy.sizes["obs"], default)
            for tidy, _ in parts
        ]
        # no dimension has the size zero: a cycle without observations has one that is absent
        return np.concatenate(pieces) if n else np.array([default])

    status = np.concatenate([status for _, status in parts]) if n else np.array([""])
    no_time = np.datetime64("NaT", "ns")
    stamps = column("time", no_time).astype("datetime64[ns]").astype(np.int64)
    clock = {
        "long_name": "time of observation",
        "units": TIME_UNITS,
        "_FillValue": no_time.astype(np.int64),
    }
    columns: dict[str, Any] = {
        name: (OBS, column(name, np.nan).astype(np.float64), {"long_name": long_name})
        for name, long_name in NUMBERS.items()
    }
    columns |= {
        name: (OBS, _text(column(name, "")), {"long_name": long_name})
        for name, long_name in WORDS.items()
    }
    columns["time"] = OBS, stamps, clock
    columns["status"] = (
        OBS,
        status,
        {
            "long_name": "used, or why not",
            "flag_meanings": " ".join(STATUS),
        },
    )
    return xr.Dataset({f"{OBS_PREFIX}{name}": content for name, content in columns.items()})


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
    if f"{OBS_PREFIX}value" not in run:
        raise StorageError(
            f"{path}: a store without observations, of a version that kept their numbers only; "
            "repair: a run into a new store"
        )
    if time is not None:
        run = run.isel(time=_positions(run, time, path))
    names = (*NUMBERS, *WORDS, "time", "status")
    ds = run[[f"{OBS_PREFIX}{name}" for name in names]].load()
    cycle, slot = np.nonzero(ds[f"{OBS_PREFIX}status"].transpose("time", OBS).values)
    data: dict[str, Any] = {"analysis_time": ds["time"].values[cycle]}
    for name in names:
        stored = ds[f"{OBS_PREFIX}{name}"].transpose("time", OBS)
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
        raise InputError(
            [
                Problem(
                    f"time={time!r}",
                    "an analysis time, or several",
                    f'read_observations(out, "{str(known[-1])[:16]}")',
                )
            ],
            what="observations",
        ) from error
    absent = wanted[~np.isin(wanted, known)]
    if absent.size:
        span = f"{str(known[0])[:16]} to {str(known[-1])[:16]}"
        raise InputError(
            [
                Problem(
                    f"no cycle at {str(absent[0])[:16]} in {path}",
                    f"one of {span}",
                    f'read_observations(out, "{str(known[-1])[:16]}")',
                )
            ],
            what="observations",
        )
    return np.flatnonzero(np.isin(known, wanted))


# What the store keeps of one cycle: states, scores, and the account of the observations.

SCORES = ("rmse", "bias", "crps", "spread", "spread_skill")
STATES = ("analysis", "background", "free_run")


class Outcome(NamedTuple):
    """The result of one cycle.

    Attributes
    ----------
    time : datetime64
    analysis : array (member, node, channel)
    forecasts : array ([member,] node, channel)
        What `assimilate` was given.
    background : array (node, channel)
        Their mean.
    free : array (node, channel)
        The free-running forecast.
    truth : Dataset or None
    observed : mapping
        ``used``, ``rejected`` (reason to number), ``r``, and ``parts``, the observations
        with what became of each.
    inflation : array (node, channel), optional
        Adaptive inflation for the next cycle.
    """

    time: np.datetime64
    analysis: State
    forecasts: State
    background: State
    free: State
    truth: xr.Dataset | None
    observed: Mapping[str, Any]
    inflation: Float[np.ndarray, "node channel"] | None = None


def make_record(plan: Plan, outcome: Outcome) -> xr.Dataset:
    """Return the result of one cycle as a Dataset along ``time`` (size 1)."""
    kept = {"analysis": outcome.analysis, "background": outcome.background}
    if outcome.truth is not None:
        kept["free_run"] = outcome.free
    record = xr.Dataset(attrs=dict(plan.states.convention.template.attrs))
    for part, x in kept.items():
        ds = plan.states.dataset(x, outcome.time)[plan.states.names]
        ds = ds.drop_vars([name for name in ds.coords if name not in ds.dims])
        for name in ds.data_vars:
            attrs = dict(ds[name].attrs)
            if part != "analysis":  # only the analysis answers to the name of the quantity
                attrs.pop("standard_name", None)
                attrs["long_name"] = f"{attrs.get('long_name', name)} ({part.replace('_', ' ')})"
            ds[name].attrs = attrs
        record = record.merge(ds.rename({n: f"{PREFIX[part]}{n}" for n in ds.data_vars}))
    record = record.assign(account(outcome.observed))
    record = record.assign(observation_record(outcome.observed["parts"]))
    if outcome.inflation is not None:
        attrs = {
            "long_name": "inflation of the background's variance, for the next cycle",
            "units": "1",
        }
        record["inflation_factor"] = ("node", "channel"), outcome.inflation, attrs
        record = record.assign_coords(channel=list(plan.prior.layout.channel_names))
    if outcome.truth is not None:
        record = record.merge(_scores(plan, outcome))
    clock = ("time", [outcome.time], {"standard_name": "time", "long_name": "analysis time"})
    return record.expand_dims("time").assign_coords(time=clock)


def error_of(record: xr.Dataset) -> str:
    """Return the text that the progress bar shows for one cycle."""
    if "normalized_error" not in record:
        r = float(record["background_error"].item())
        return f"{int(record['n_obs_used'].item())} obs, r {r:.2f}"
    return "error " + ", ".join(
        f"{state.replace('_', ' ')} {float(record['normalized_error'].sel(state=state).item()):.3f}"
        for state in STATES
    )


def account(observed: Mapping[str, Any]) -> xr.Dataset:
    labels = [*REASONS]
    counts = dict.fromkeys(labels, 0)
    for reason, n in observed["rejected"].items():
        counts[flag_of(reason)] += int(n)
    return xr.Dataset(
        {
            "n_obs_used": (
                (),
                np.int32(observed["used"]),
                {"long_name": "observations assimilated", "units": "1"},
            ),
            "n_obs_rejected": (
                "reason",
                np.array([counts[k] for k in labels], np.int32),
                {"long_name": "observations rejected", "units": "1"},
            ),
            "background_error": (
                (),
                np.float32(observed["r"]),
                {"long_name": "scale r of the background error", "units": "1"},
            ),
        },
        coords={"reason": labels},
    )


def _scores(plan: Plan, outcome: Outcome) -> xr.Dataset:
    """Scores of analysis, background and free run on (state, score[, level])."""
    from xdiffda.verify import verify

    scored = {
        "analysis": outcome.analysis,
        "background": outcome.forecasts,
        "free_run": outcome.free,
    }
    parts, errors = [], []
    for x in scored.values():
        ds = verify(plan.states.dataset(x, outcome.time), outcome.truth)
        ds = ds.drop_vars([name for name in ds.coords if name not in ds.dims])
        wanted: dict[str, Any] = {"score": list(SCORES)}
        if "level" in ds.dims:
            wanted["level"] = list(plan.prior.layout.levels)
        ds = ds.reindex(wanted).astype(np.float32)
        parts.append(ds)
        errors.append(_normalized(plan, ds.sel(score="rmse")))
    out = xr.concat(parts, dim="state", combine_attrs="override").assign_coords(state=list(STATES))
    out = out.rename({name: f"{PREFIX['scores']}{name}" for name in out.data_vars})
    if "level" in out.dims and not _shares_levels(plan):
        out = out.rename(level=SCORE_LEVEL)
    out["normalized_error"] = (
        "state",
        np.array(errors, np.float32),
        {
            "long_name": "root mean square over variables and levels of rmse / s",
            "units": "1",
        },
    )
    return out.drop_attrs(deep=False)


def _normalized(plan: Plan, rmse: xr.Dataset) -> float:
    """Error of a state in units of s, the standard deviation of the background error."""
    layout, weight = plan.prior.layout, plan.prior.layout.grid.area_weights()
    s = np.sqrt(np.average(np.asarray(plan.prior.scale, np.float64) ** 2, axis=0, weights=weight))
    ratios = [
        np.atleast_1d(rmse[name].values) / s[layout.channel_slice(name)]
        for name in layout.variables
        if name in rmse
    ]
    return float(np.sqrt(np.nanmean(np.concatenate(ratios) ** 2)))


def _shares_levels(plan: Plan) -> bool:
    """Return whether the user's levels are those of the scores: hPa, ascending, same name."""
    axis = plan.states.convention.axes.get("level")
    if axis is None or axis.dim != "level":
        return False
    levels = plan.states.convention.template["level"].values
    return np.array_equal(levels, plan.prior.layout.levels)
