"""States seen as the observations see them, and averages over groups of observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.verify import partners as _partners
from xdiffda.verify.partners import partners

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.rows import Operators, Rows
    from xdiffda.state.convention import Convention


By = str | Sequence[str]


@with_own_jax
def equivalents(
    state: xr.Dataset,
    obs: xr.Dataset | pd.DataFrame,
    *,
    window: str | np.timedelta64 = "6h",
    operators: Operators | None = None,
    what: str = "state",
) -> xr.Dataset:
    """Return H(x) of every member beside the observations.

    Parameters
    ----------
    state
        State in any known convention, with or without ``member`` and ``time``. It is
        computed here, one time at a time.
    obs
        Observations, columns or tidy, derived quantities (wind speed, ...) included.
    window
        Full width around each valid time of ``state`` from which observations are taken, as
        in `assimilate`; a state without a time takes all.
    operators
        The user's own observation operators, as in `assimilate`.
    what
        What to call the state in errors.

    Returns
    -------
    xarray.Dataset
        The tidy observations that H can see, in canonical units, with ``equivalent`` on
        (``obs``[, ``member``]); directions in [0, 360), of which differences are to be taken on
        the circle, as all statistics of this module do. The coordinate ``obs`` numbers them: equal
        numbers in two results mean the same observation at the same analysis time.

    Raises
    ------
    InputError
        If no observation is inside a window and on the grid and levels of the state.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), np.full((3, 4), 280.0))}, grid)
    >>> obs = xr.Dataset({"2m_temperature": ("station", [281.0])},
    ...                  {"lat": ("station", [12.0]), "lon": ("station", [33.0])})
    >>> seen = equivalents(state, obs)
    >>> seen["value"].item(), round(seen["equivalent"].item(), 3)
    (281.0, 280.0)
    """
    seen = beside(state, obs, window=window, operators=operators, what=what)
    for name, period in _circles(operators).items():
        mine = seen["variable"] == name
        if bool(mine.any()):
            turned = seen["equivalent"] % period
            turned = turned.where(turned < period, 0.0)  # mod(-1e-20, 360) is 360
            seen["equivalent"] = xr.where(mine, turned, seen["equivalent"], keep_attrs=False)
            seen["equivalent"].attrs["long_name"] = f"H({what})"
    return seen


def _circles(operators: Operators | None) -> dict[str, float]:
    """Variables that live on a circle, and its length."""
    from xdiffda.observations.derived import OPERATORS
    from xdiffda.observations.nonlinear import as_operators

    own = {name: (operator,) for name, operator in as_operators(operators).items()}
    known = {**OPERATORS, **own}
    return {name: several[0].period for name, several in known.items() if several[0].period}


@with_own_jax
def beside(
    state: xr.Dataset,
    obs: xr.Dataset | pd.DataFrame,
    *,
    window: str | np.timedelta64 = "6h",
    operators: Operators | None = None,
    what: str = "state",
) -> xr.Dataset:
    """`equivalents` of which those on a circle are within half a turn of the observed value.

    Differences from it, and means of members, are then what they seem.
    """
    from xdiffda.observations import observation_rows, to_tidy
    from xdiffda.observations.operators import none_usable
    from xdiffda.state.clock import warn_without_clock
    from xdiffda.state.convert import read_metadata, to_state

    convention = read_metadata(state, what=what)
    _check_batch(convention, what)
    tidy = to_tidy(obs, operators=operators, strict=False)  # rejected ones have departures too
    times = _times(convention)
    warn_without_clock(times, tidy, what)
    dim = convention.axes["time"].dim if "time" in convention.batch_dims else None
    positions, numbers, seen, problems = [], [], [], []
    for i, time in enumerate(times):
        try:
            inside = _window(tidy, time, window)
            here = tidy.isel(obs=inside)
            rows = observation_rows(here, convention.layout, operators=operators)
            if not rows.n_obs:
                raise none_usable(inside.size, rows.rejected, convention.layout)
        except InputError as error:  # of many times, some may have no observations
            problems += error.problems
            continue
        piece = state if dim is None else state.isel({dim: i})
        x, _, _ = to_state(piece, convention.layout, what=what, check_values=False)
        kept, values = apply_rows(rows, x, here["value"].values)
        seen.append(values)
        positions.append(inside[kept])
        numbers.append(i * tidy.sizes["obs"] + positions[-1])
    if not seen:
        raise_if(problems, what="observations")
    out = tidy.isel(obs=np.concatenate(positions)).assign_coords(obs=np.concatenate(numbers))
    values = np.concatenate(seen, axis=-1)
    dims = ("obs", "member")[: values.ndim]
    out = out.assign(equivalent=(dims, values.T, {"long_name": f"H({what})"}))
    if partners(state)[0]:  # which members are antithetic stays known
        out = out.assign_coords(member=state["member"].values)
        out.attrs["xdiffda_settings"] = state.attrs["xdiffda_settings"]
    return out


def apply_rows(
    rows: Rows, x: Float[np.ndarray, "*member node channel"], observed: Float[np.ndarray, " obs"]
) -> tuple[Int[np.ndarray, " kept"], Float[np.ndarray, "*member kept"]]:
    """Return which rows of the table lie within reach of H, and H(x) there."""
    from xdiffda.observations.fgat import TimeStencil, guess

    n = observed.size
    now = TimeStencil(np.zeros(n, int), np.zeros(n), np.ones(n, bool))
    functions = (*rows.local, *rows.state)
    kept = np.sort(np.concatenate([rows.position, *(g.position for g in functions)]))
    states = x.reshape(-1, 1, *x.shape[-2:])  # a trajectory of one time for each member
    values = np.stack([guess(rows, np.asarray(s, np.float64), now, n) for s in states])
    for group in functions:
        if period := group.operator.period:
            away = observed[group.position] - values[:, group.position]
            values[:, group.position] += period * np.round(away / period)
    return kept, values[:, kept].reshape(*x.shape[:-2], kept.size)


def _check_batch(convention: Convention, what: str) -> None:
    extra = [d for d in convention.batch_dims if d not in ("time", "member")]
    if extra:
        raise InputError(
            [
                Problem(
                    f"a {what} with the dimension {extra[0]}",
                    "one state for each time",
                    f"{what}.isel({extra[0]}=0)",
                )
            ],
            what=what,
        )


def _times(convention: Convention) -> list[np.datetime64 | None]:
    """Valid time of each state, members aside; None where the state does not say."""
    dims = list(convention.batch_dims)
    n = convention.batch_shape[dims.index("time")] if "time" in dims else 1
    times = convention.valid_times
    if times is None:
        return [None] * n
    if "member" in dims:
        times = times.take(0, axis=dims.index("member"))
    return list(np.atleast_1d(times))


def _window(
    tidy: xr.Dataset, time: np.datetime64 | None, window: str | np.timedelta64
) -> Int[np.ndarray, " obs"]:
    from xdiffda.observations import select_window

    everything = np.arange(tidy.sizes["obs"])
    if time is None or np.isnat(time):
        return everything
    _, rejected = select_window(tidy, time, window)
    return np.setdiff1d(everything, np.concatenate([[], *rejected.values()]).astype(int))


def together(**seen: xr.Dataset) -> tuple[xr.Dataset, ...]:
    """The observations that all of several `equivalents` hold, in one order."""
    aligned = xr.align(*seen.values(), join="inner")
    if not aligned[0].sizes["obs"]:
        names = " and ".join(seen)
        raise InputError(
            [
                Problem(
                    f"{names} without a common observation",
                    "states of the same times",
                    "background.sel(time=analysis.time)",
                )
            ],
            what="observations",
        )
    return aligned


def mean(seen: xr.Dataset) -> Float[np.ndarray, " obs"]:
    """Ensemble mean of the equivalents."""
    field = seen["equivalent"]
    return (field.mean("member") if "member" in field.dims else field).values


def variance(seen: xr.Dataset) -> Float[np.ndarray, " obs"] | None:
    """Unbiased ensemble variance of the equivalents; None of a single state."""
    field = seen["equivalent"]
    if field.sizes.get("member", 1) < 2:
        return None
    return _partners.variance(field, partners(seen)).values


def variance_of_mean(seen: xr.Dataset) -> Float[np.ndarray, " obs"] | float:
    """Sampling variance of the ensemble mean of the equivalents; 0 of a single state.

    Antithetic partners cancel in the mean: it is far below the variance over the number of
    members, and none where the problem is linear.
    """
    field = seen["equivalent"]
    if field.sizes.get("member", 1) < 2:
        return 0.0
    return _partners.variance_of_mean(field, partners(seen)).values


class Groups:
    """Observations sorted into groups by one column of the table or several.

    Parameters
    ----------
    tidy
        Observations.
    by
        Column or columns: ``variable``, ``level``, ``kind``, ``station``, ``time``. One
        column gives its name to the dimension of results, several make it ``group``.

    Raises
    ------
    InputError
        If there is no such column.
    """

    def __init__(self, tidy: xr.Dataset, by: By) -> None:
        import pandas as pd

        from xdiffda.observations.names import KNOWN

        keys = [by] if isinstance(by, str) else list(by)
        missing = [k for k in keys if k not in tidy.variables]
        if missing or not keys:
            known = [str(k) for k in tidy.variables if tidy[k].dims == ("obs",)]
            raise InputError(
                [Problem(f"by={by!r}", f"some of {', '.join(known)}", 'by="variable"')],
                what="groups of observations",
            )
        frame = pd.DataFrame({k: np.asarray(tidy[k].values) for k in keys})
        frame = frame.astype({k: object for k in keys if frame[k].dtype.kind not in "fiuM"})
        self.code = frame.groupby(keys, sort=True, dropna=False).ngroup().to_numpy()
        _, first = np.unique(self.code, return_index=True)
        self.n, self.dim = first.size, keys[0] if len(keys) == 1 else "group"
        self.coords = {k: (self.dim, _plain(frame[k].to_numpy()[first])) for k in keys}
        if "variable" in keys:
            names = self.coords["variable"][1]
            units = np.array([KNOWN[n].units if n in KNOWN else "" for n in names])
            self.coords["units"] = (self.dim, units)

    def sum(self, values: Float[np.ndarray, " obs"]) -> Float[np.ndarray, " group"]:
        return np.bincount(self.code, values, minlength=self.n)

    def mean(self, values: Float[np.ndarray, " obs"]) -> Float[np.ndarray, " group"]:
        return self.sum(values) / self.count

    @property
    def count(self) -> Int[np.ndarray, " group"]:
        return np.bincount(self.code, minlength=self.n)

    def dataset(self, columns: dict[str, tuple[np.ndarray, str]], *, protocol: str) -> xr.Dataset:
        """Columns name -> (values, long name) on the dimension of the groups."""
        data = {k: (self.dim, v, {"long_name": text}) for k, (v, text) in columns.items()}
        return xr.Dataset(data, self.coords, {"protocol": protocol})


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype == object else values
