"""First guess at appropriate time: the background seen when each observation was made.

A background at several times is interpolated linearly to the time of each observation, so that
``innovation = y - H(x_b(t_obs))``; the increment is then valid at the analysis time, as if the
error of the background did not change within the window (known as 3D-FGAT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations.operators import none_usable
from xdiffda.observations.rows import LocalGroup, Operators, Rows, StateGroup, observation_rows

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Array, Bool, Float, Int

    from xdiffda.state.grid import Layout


_REPAIR = 'trajectory=(forecast["time"].values, states)'


class Trajectory(NamedTuple):
    """States at several times.

    Attributes
    ----------
    times : datetime64 array (time,)
        Ascending, UTC.
    states : array (time, node, channel)
        Canonical units.
    """

    times: np.ndarray
    states: Float[np.ndarray, "time node channel"]


class TimeStencil(NamedTuple):
    """The time before each observation and the share of the way to the next one."""

    before: Int[np.ndarray, "obs"]
    share: Float[np.ndarray, "obs"]
    inside: Bool[np.ndarray, "obs"]

    def take(self, position: Int[np.ndarray, "row"]) -> TimeStencil:
        """Return that of some of the observations."""
        return TimeStencil(self.before[position], self.share[position], self.inside[position])


def check_trajectory(
    trajectory: Trajectory | tuple[np.ndarray, np.ndarray], layout: Layout
) -> Trajectory:
    """Return a trajectory that can be used, or raise with all that is wrong with it.

    Raises
    ------
    InputError
        If times do not ascend, or states have another shape than (time, node, channel).
    """
    try:
        times, states = trajectory
        times, states = np.asarray(times, "datetime64[ns]").reshape(-1), np.asarray(states)
    except (TypeError, ValueError) as error:
        raise InputError(
            [
                Problem(
                    f"a trajectory that is no pair of times and states ({error})",
                    "times (datetime64) and states (time, node, channel)",
                    _REPAIR,
                )
            ],
            what="trajectory",
        ) from error
    problems = []
    shape = (times.size, layout.grid.n_node, layout.n_channel)
    if states.shape != shape:
        problems.append(Problem(f"states of shape {states.shape}", f"shape {shape}", _REPAIR))
    if np.isnat(times).any() or np.any(np.diff(times) <= np.timedelta64(0, "ns")):
        problems.append(
            Problem(
                "times that do not ascend",
                "each time once, in order",
                'forecast.sortby("time").drop_duplicates("time")',
            )
        )
    if times.size == 0:
        problems.append(Problem("no time", "two or more times around the analysis", _REPAIR))
    raise_if(problems, what="trajectory")
    return Trajectory(times, states)


def time_stencil(
    times: np.ndarray, observed: np.ndarray, *, default: np.datetime64 | None = None
) -> TimeStencil:
    """Weights linear in time; outside the times nothing is guessed.

    Parameters
    ----------
    times
        Of the states, ascending.
    observed
        Of the observations; where NaT, ``default`` (the analysis time) stands in.

    Examples
    --------
    >>> t = np.array(["2020-01-01T00", "2020-01-01T06"], "datetime64[ns]")
    >>> found = time_stencil(t, np.array(["2020-01-01T01:30", "2020-01-01T07"], "datetime64[ns]"))
    >>> found.before.tolist(), found.share.tolist(), found.inside.tolist()
    ([0, 0], [0.25, 0.0], [True, False])
    """
    observed = np.asarray(observed, "datetime64[ns]")
    if default is not None:
        observed = np.where(np.isnat(observed), np.asarray(default, "datetime64[ns]"), observed)
    inside = (observed >= times[0]) & (observed <= times[-1])
    safe = np.where(inside, observed, times[0])
    last = np.maximum(np.searchsorted(times, safe, side="right") - 1, 0)
    before = np.minimum(last, max(times.size - 2, 0))
    after = np.minimum(before + 1, times.size - 1)
    width = (times[after] - times[before]).astype(np.int64)
    gone = (safe - times[before]).astype(np.int64)
    return TimeStencil(before, np.where(width > 0, gone / np.maximum(width, 1), 0.0), inside)


def seen(
    states: Float[np.ndarray, "time node channel"],
    index: Int[np.ndarray, "obs *input term"],
    weight: Float[np.ndarray, "obs *input term"],
    at: TimeStencil,
) -> Float[np.ndarray, "obs *input"]:
    """Return sparse sums over the states, each at its time."""
    flat = states.reshape(states.shape[0], -1)
    wide = (slice(None),) + (None,) * (index.ndim - 1)
    weight = np.asarray(weight, np.float64)
    first = (flat[at.before[wide], index] * weight).sum(-1)
    if not at.share.any():
        return first
    following = np.minimum(at.before + 1, states.shape[0] - 1)
    second = (flat[following[wide], index] * weight).sum(-1)
    return first + at.share[wide[: first.ndim]] * (second - first)


def local_guess(
    group: LocalGroup, states: Float[np.ndarray, "time node channel"], at: TimeStencil
) -> tuple[Float[np.ndarray, "obs input"], Float[np.ndarray, "obs"]]:
    """Inputs of a local operator at each observation's place and time, and its values."""
    inputs = seen(states, group.index, group.weight, at.take(group.position))
    values = group.call.values(_float32(inputs), _float32(group.parameters))
    return inputs, np.asarray(values, np.float64)


def state_guess(
    group: StateGroup, states: Float[np.ndarray, "time node channel"], at: TimeStencil
) -> Float[np.ndarray, "obs"]:
    """Values of a state operator, interpolated in time between those of the states."""
    fields = {name: _float32(field) for name, field in group.fields.items()}
    every = np.stack([np.asarray(group.call(_float32(x), fields), np.float64) for x in states])
    mine = at.take(group.position)
    which = np.arange(group.position.size)
    following = np.minimum(mine.before + 1, len(every) - 1)
    first = every[mine.before, which]
    return first + mine.share * (every[following, which] - first)


def guess(rows: Rows, states: np.ndarray, at: TimeStencil, n_obs: int) -> np.ndarray:
    """Return H(x_b(t_obs)) for each row of the table, NaN where no part of H takes it."""
    result = np.full(n_obs, np.nan)
    if rows.linear is not None:
        index, weight = np.asarray(rows.linear.index), np.asarray(rows.linear.weight)
        result[rows.position] = seen(states, index, weight, at.take(rows.position))
    for group in rows.local:
        result[group.position] = local_guess(group, states, at)[1]
    for group in rows.state:
        result[group.position] = state_guess(group, states, at)
    return result


@with_own_jax
def first_guess(
    tidy: xr.Dataset,
    layout: Layout,
    states: Float[np.ndarray, "*time node channel"],
    times: np.ndarray | None = None,
    *,
    operators: Operators | None = None,
    orography: Float[np.ndarray, "node"] | None = None,
    time: np.datetime64 | None = None,
) -> tuple[Float[np.ndarray, "obs"], dict[str, Int[np.ndarray, "obs"]]]:
    """Return the background as each observation would have seen it, at its own time.

    Parameters
    ----------
    tidy
        Validated tidy observations (`to_tidy`).
    layout
        Layout of the states.
    states
        One state (node, channel), or with ``times`` a trajectory (time, node, channel).
    times
        Valid times of the states, ascending.
    operators, orography
        See `observation_rows`.
    time
        Stands in for the time of observations that have none.

    Returns
    -------
    values : array (obs,)
        H(x_b(t_obs)) in canonical units; NaN where rejected.  The innovation is
        ``tidy.value - values`` (on a circle for directions).
    rejected : dict of str to int array
        Reason to the rows rejected for it.

    Raises
    ------
    InputError
        If the trajectory cannot be used, or no observation is left.

    Examples
    --------
    >>> import xarray as xr
    >>> from xdiffda.observations import to_tidy
    >>> from xdiffda.state.grid import Grid, Layout
    >>> layout = Layout(Grid.from_coords([-60, 0, 60], [0, 90, 180, 270]), ("2m_temperature",))
    >>> times = np.array(["2020-01-01T00", "2020-01-01T06"], "datetime64[ns]")
    >>> states = np.stack([np.full((12, 1), 280.0), np.full((12, 1), 286.0)])
    >>> obs = to_tidy(xr.Dataset(
    ...     {"2t": ("station", [284.0])},
    ...     {"lat": ("station", [10.0]), "lon": ("station", [5.0]),
    ...      "time": ("station", times[:1] + np.timedelta64(2, "h"))}))
    >>> first_guess(obs, layout, states, times)[0].round(3).tolist()
    [282.0]
    """
    rows = observation_rows(tidy, layout, operators=operators, orography=orography)
    n_obs = tidy.sizes["obs"]
    rejected = dict(rows.rejected)
    if times is None:
        states = np.asarray(states)[None]
        at = TimeStencil(np.zeros(n_obs, int), np.zeros(n_obs), np.ones(n_obs, bool))
    else:
        times, states = check_trajectory((times, states), layout)
        at = time_stencil(times, tidy["time"].values, default=time)
    values = guess(rows, states, at, n_obs)
    outside = ~at.inside & np.isfinite(values)
    if outside.any():
        rejected["outside the times of the trajectory"] = np.flatnonzero(outside)
        values[outside] = np.nan
    if not np.isfinite(values).any():
        raise none_usable(n_obs, rejected, layout)
    return values, rejected


def _float32(array: np.ndarray) -> Float[Array, "..."]:
    import jax.numpy as jnp

    return jnp.asarray(array, jnp.float32)
