"""Observations of one analysis time after another: from a table, or emulated from a truth."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations import emulate_obs, to_tidy
from xdiffda.state.clock import read_clock
from xdiffda.storage.files import digest

Time = np.datetime64


@dataclass(frozen=True, eq=False)
class ObservationStream:
    """Emulated observations of a nature run: call it with a time. Made by `emulated_stream`.

    Attributes
    ----------
    truth : Dataset
        The nature run, along time.
    choices : mapping
        Arguments of `xdiffda.observations.emulate_obs`; ``sites`` where they are fixed.
    seed : int
    description : mapping
        What tells this stream from another; goes into the store of a cycled run.
    """

    truth: xr.Dataset
    choices: Mapping[str, Any]
    seed: int
    description: Mapping[str, Any]

    def __call__(self, time: Time | str) -> xr.Dataset:
        """Observations of the truth at one time, in columns.

        Errors, and sites where they change, depend on the seed and the time alone.

        Raises
        ------
        InputError
            If the truth does not have this time.
        """
        state = state_at(self.truth, np.asarray(time, "datetime64[ns]")[()], what="truth")
        return emulate_obs(state, seed=time_seed(self.seed, time), **self.choices)


def emulated_stream(
    truth: xr.Dataset,
    *,
    n_columns: int | None = None,
    fraction: float | None = None,
    sites: xr.Dataset | Mapping[str, Any] | None = None,
    fixed_sites: bool = True,
    variables: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    error_std: Any = "default",
    seed: int = 0,
    on_grid: bool = True,
) -> ObservationStream:
    """Observe a nature run at every analysis time, at fixed sites or at new ones each time.

    Parameters
    ----------
    truth : Dataset
        States along time, in any usual convention.
    n_columns, fraction, sites, variables, levels, error_std, on_grid
        As in `xdiffda.observations.emulate_obs`.
    fixed_sites : bool
        Whether the sites drawn (``n_columns`` or ``fraction``) are those of all times.
    seed : int

    Returns
    -------
    ObservationStream
        To be given to `cycle` as ``obs``.

    Raises
    ------
    InputError
        If the choices do not fit the truth.

    Examples
    --------
    >>> import xdiffda
    >>> stream = emulated_stream(xdiffda.open_sample("truth"), n_columns=45, seed=1)
    >>> stream("2012-12-22T06").sizes["station"]
    45
    """
    choices: dict[str, Any] = {
        "n_columns": n_columns,
        "fraction": fraction,
        "sites": sites,
        "variables": variables,
        "levels": levels,
        "error_std": error_std,
        "on_grid": on_grid,
    }
    first = state_at(truth, clock_of(truth, what="truth")[0], what="truth")
    probe = emulate_obs(first, seed=seed, noise=False, **choices)
    if fixed_sites and sites is None:
        choices |= {
            "n_columns": None,
            "fraction": None,
            "sites": {n: probe[n].values for n in ("lat", "lon", "station")},
        }
    fixed = choices["sites"] is not None
    errors = [probe[n].values for n in sorted(map(str, probe.data_vars)) if n.endswith("_std")]
    places = [probe["lat"].values, probe["lon"].values] if fixed else []
    description = {
        "kind": "emulated",
        "seed": int(seed),
        "n_columns": int(probe.sizes["station"]),
        "fixed_sites": fixed,
        "digest": digest(*places, *errors),
    }
    return ObservationStream(truth, choices, int(seed), description)


class Window(NamedTuple):
    """The observations to assimilate at one analysis time.

    Attributes
    ----------
    tidy : Dataset or None
        Observations inside the window, validated; None if there are none.
    outside : Dataset or None
        Observations given for this time that lie outside its window, if there are any.
    """

    tidy: xr.Dataset | None
    outside: xr.Dataset | None

    @property
    def n_outside(self) -> int:
        """Number of those outside."""
        return 0 if self.outside is None else self.outside.sizes["obs"]


Source = Callable[[Time], Window]


def make_source(obs: Any, window: str | np.timedelta64) -> tuple[Source, np.ndarray | None]:
    """Return time -> `Window`, and all times of a table (None of a callable).

    Raises
    ------
    InputError
        If ``obs`` is a table that is not valid, or observations in it have no time.
    """
    if isinstance(obs, str | os.PathLike | Mapping | Sequence | Iterator) and not isinstance(
        obs, xr.Dataset
    ):
        raise InputError([_of_many(obs)], what="observations")
    if callable(obs):
        return lambda time: _asked(obs, time, window), None
    tidy = to_tidy(obs, strict=False)  # `assimilate` judges them
    stamps = tidy["time"].values
    if np.isnat(stamps).any():
        raise InputError(
            [
                Problem(
                    f"{np.isnat(stamps).sum()} of {stamps.size} observations without a time",
                    "a time for each: it says to which cycle they belong",
                    'obs.assign_coords(time=("station", times))',
                )
            ],
            what="observations",
        )
    return lambda time: Window(_split(tidy, time, window).tidy, None), stamps


def _asked(obs: Callable[[Time], Any], time: Time, window: str | np.timedelta64) -> Window:
    given = obs(time)
    if given is None or _is_empty(given):
        return Window(None, None)
    return _split(to_tidy(given, strict=False), time, window)


def _is_empty(given: Any) -> bool:
    """Return whether there is no observation: an empty table, or columns of NaN alone."""
    if not isinstance(given, xr.Dataset):
        return hasattr(given, "__len__") and len(given) == 0
    if 0 in given.sizes.values() or not given.variables:
        return True
    if "station" not in given.dims:
        return False
    columns = [v for n, v in given.data_vars.items() if not str(n).endswith("_error_std")]
    values = [v for v in columns if "station" in v.dims and v.dtype.kind == "f"]
    return bool(values) and all(bool(v.isnull().all()) for v in values)


def _of_many(obs: Any) -> Problem:
    """Observations in a container that says nothing of their times."""
    kind = type(obs).__name__
    needed = "a table of all times (Dataset or DataFrame), or a function from a time to one"
    if isinstance(obs, str | os.PathLike):
        return Problem(f"the text {str(obs)!r}", needed, f"xdiffda.read_obs({str(obs)!r})")
    if isinstance(obs, Mapping):
        return Problem(f"a {kind}", needed, "obs.get  # its keys the times, datetime64[ns]")
    return Problem(
        f"a {kind} of several",
        needed,
        'xr.concat([xdiffda.observations.to_tidy(o) for o in obs], "obs")',
    )


def _split(tidy: xr.Dataset, time: Time, window: str | np.timedelta64) -> Window:
    """Do as `select_window`, but return None where nothing is left."""
    half = duration(window) / 2
    stamps = tidy["time"].values
    kept = ((stamps > time - half) & (stamps <= time + half)) | (stamps == time) | np.isnat(stamps)
    if kept.all():
        return Window(tidy, None)
    inside, outside = (tidy.isel(obs=np.flatnonzero(which)) for which in (kept, ~kept))
    return Window(inside if kept.any() else None, outside)


def state_at(ds: xr.Dataset, time: Time, *, what: str) -> xr.Dataset:
    """The state at one valid time; computes nothing.

    Raises
    ------
    InputError
        If there is none.
    """
    clock = _clock(ds, what)
    times = np.atleast_1d(clock.values)
    where = np.flatnonzero(times == time)
    if not where.size:
        raise InputError(
            [
                Problem(
                    f"a {what} from {str(times.min())[:16]} to {str(times.max())[:16]}, "
                    f"{times.size} times",
                    f"the time {str(time)[:16]}",
                    "",
                )
            ],
            what=what,
        )
    return ds.isel({clock.dims[0]: int(where[0])}) if clock.ndim else ds


def state_of_start(background: xr.Dataset, start: str) -> xr.Dataset:
    """The state that a configured run starts from: the one of ``start``, or the only one."""
    if start:
        return state_at(background, np.datetime64(start, "ns"), what="background")
    times = read_clock(background).checked("background")
    if times is not None and times.size > 1:
        first = str(times.values.min())[:16]
        raise InputError(
            [
                Problem(
                    f"a background of {times.size} times and no start",
                    "one of them",
                    f'start = "{first}"',
                )
            ],
            what="background",
        )
    return background


def clock_of(ds: xr.Dataset, *, what: str) -> np.ndarray:
    """Valid times along the one time axis of a dataset.

    Raises
    ------
    InputError
        If it has no valid times, or more than one axis of them.
    """
    return np.atleast_1d(_clock(ds, what).values)


def _clock(ds: xr.Dataset, what: str) -> xr.DataArray:
    times = read_clock(ds).checked(what)
    if times is None or times.ndim > 1:
        raise InputError(
            [
                Problem(
                    f"a {what} without valid times"
                    if times is None
                    else f"a {what} with valid times on {', '.join(map(str, times.dims))}",
                    "one coordinate time of type datetime64",
                    f"{what}.assign_coords(time=times)",
                )
            ],
            what=what,
        )
    return times.astype("datetime64[ns]")


def duration(length: str | np.timedelta64) -> np.timedelta64:
    """Convert a duration to nanoseconds.

    Examples
    --------
    >>> float(duration("6h") / np.timedelta64(1, "h"))
    6.0
    """
    import pandas as pd

    return pd.to_timedelta([length]).to_numpy().astype("timedelta64[ns]")[0]


def time_seed(seed: int, time: Time | str) -> int:
    """A seed for one time, the same in every process."""
    minutes = int(np.asarray(time, "datetime64[m]").astype(np.int64))
    sequence = np.random.SeedSequence([int(seed), minutes % 2**32, minutes // 2**32 % 2**32])
    return int(sequence.generate_state(1, np.uint32)[0])
