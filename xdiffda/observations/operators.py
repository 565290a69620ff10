"""The observation operator H: a sparse linear map from the state to the observations.

Each observation is a weighted sum of a few numbers of the state: bilinear in the horizontal,
periodic in longitude and continued to the poles, linear in log-pressure in the vertical (see
`stencil`). H is a gather, its adjoint a scatter-add; both are pure JAX and can be transformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations.sites import name_codes, place_runs
from xdiffda.observations.stencil import (
    Horizontal,
    horizontal_stencil,
    other_component,
    turned,
    vertical_stencil,
)
from xdiffda.state.variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

    from xdiffda.state.grid import Layout


# Terms of H: flat indices and weights of each observation, from those of its place and level.
#
# Numpy alone; `operators` puts the result into an `ObsVector`.


def sparse_rows(
    layout: Layout, lat: np.ndarray, lon: np.ndarray, channel: np.ndarray, level_weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices and weights, no wider than the observation with most non-zero weights."""
    size = layout.grid.n_node * layout.n_channel
    if size > np.iinfo(np.int32).max:
        raise InputError(
            [
                Problem(
                    f"a state of {size} numbers",
                    "fewer than 2^31, the reach of a 32-bit index",
                    "background[variables].sel(level=levels)",
                )
            ],
            what="observation operator",
        )
    runs = place_runs(lat, lon)
    near = horizontal_stencil(layout.grid, lat[runs.first], lon[runs.first])
    node = (near.node * layout.n_channel).astype(np.int32)
    if not level_weight[:, 1].any() and np.all(level_weight[:, 0] == 1.0):
        # All on levels, one channel each: unused terms are left out once for each place.
        share, short = _compact(near.weight.astype(np.float32), node)
        weight = np.take(share, runs.of_row, axis=0)
        index = np.take(np.where(share != 0, short, short[:, :1]), runs.of_row, axis=0)
        index += channel[:, :1].astype(np.int32, copy=False)
    else:
        wide = np.take(node, runs.of_row, axis=0)
        index, weight = _on_levels(wide, near.weight[runs.of_row], channel, level_weight)
    polar = np.flatnonzero(np.logical_or.reduce(near.pole, axis=1)[runs.of_row])
    if polar.size:
        at_pole = Horizontal(*(table[runs.of_row[polar]] for table in near))
        for rows, i, w in _vectors(layout, at_pole, channel[polar], level_weight[polar]):
            index, weight = _put(index, weight, polar[rows], i, w)
    return index, weight


def _on_levels(
    node: Int[np.ndarray, "row term"],
    share: Float[np.ndarray, "row term"],
    channel: Int[np.ndarray, "row level"],
    level_weight: Float[np.ndarray, "row level"],
) -> tuple[Int[np.ndarray, "row term"], Float[np.ndarray, "row term"]]:
    """Terms of all nodes and levels of each row."""
    index = node[:, :, None] + channel.astype(np.int32)[:, None, :]
    weight = (share[:, :, None] * level_weight[:, None, :]).astype(np.float32)
    weight, index = _compact(weight.reshape(len(node), -1), index.reshape(len(node), -1))
    return np.where(weight != 0, index, index[:, :1]), weight


def _vectors(
    layout: Layout, near: Horizontal, channel: np.ndarray, level_weight: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows near a pole of each component of a vector, with their indices and weights."""
    for name in filter(other_component, layout.variables):
        mine = layout.channel_slice(name)
        rows = np.flatnonzero((channel[:, 0] >= mine.start) & (channel[:, 0] < mine.stop))
        if not rows.size:
            continue
        both = other_component(name) in layout.variables
        at = Horizontal(*(table[rows] for table in near))
        own, other = turned(name, at, both=both)
        other_start = layout.channel_slice(other_component(name)).start if both else mine.start
        node = (at.node * layout.n_channel).astype(np.int32)
        aside = node + np.int32(other_start - mine.start)
        index, weight = _on_levels(
            np.concatenate([node, aside], axis=1),
            np.concatenate([own, other], axis=1),
            channel[rows],
            level_weight[rows],
        )
        yield rows, index, weight


def _put(
    index: np.ndarray, weight: np.ndarray, rows: np.ndarray, more: np.ndarray, its: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tables with some rows anew; all become as wide as the widest."""
    width = max(index.shape[1], more.shape[1])
    index, more = (np.pad(t, ((0, 0), (0, width - t.shape[1])), mode="edge") for t in (index, more))
    weight, its = (np.pad(t, ((0, 0), (0, width - t.shape[1]))) for t in (weight, its))
    index[rows], weight[rows] = more, its
    return index, weight


def _compact(weight: Float[np.ndarray, "row term"], *tables: np.ndarray) -> tuple[np.ndarray, ...]:
    """Leave out terms of weight 0: no wider than the row with most other ones."""
    used = weight != 0
    width = int(used.sum(axis=1).max())
    if width == weight.shape[1]:
        return weight, *tables
    columns = np.flatnonzero(used.any(axis=0))
    if columns.size == width:  # all alike, as on the grid
        return tuple(table[:, columns] for table in (weight, *tables))
    order = np.argsort(~used, axis=1, kind="stable")[:, :width]
    return tuple(np.take_along_axis(table, order, axis=1) for table in (weight, *tables))


class ObsVector(eqx.Module):
    r"""Observations with a sparse linear operator: :math:`(Hx)_i = \sum_j w_{ij} x_{c_{ij}}`.

    A pytree: it passes through ``jax.jit`` and ``jax.vmap`` as an argument.

    Parameters
    ----------
    value
        Observed values, canonical units of their variables.
    error_std
        Standard deviation of their errors, same units: the square root of diag R.
    index
        Positions in the flattened state, ``node * n_channel + channel``.
    weight
        Weights; unused places of ``index`` have weight 0.
    state_shape
        (n_node, n_channel) of the state that H acts on.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> obs = ObsVector(value=jnp.ones(1), error_std=jnp.ones(1), index=jnp.array([[0, 3]]),
    ...                 weight=jnp.array([[0.5, 0.5]]), state_shape=(2, 2))
    >>> x = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    >>> obs.apply(x).tolist(), obs.adjoint(jnp.array([2.0])).tolist()
    ([3.0], [[1.0, 0.0], [0.0, 1.0]])
    """

    value: Float[Array, "obs"]
    error_std: Float[Array, "obs"]
    index: Int[Array, "obs term"]
    weight: Float[Array, "obs term"]
    state_shape: tuple[int, int] = eqx.field(static=True)

    @property
    def n_obs(self) -> int:
        """Number of observations, padding included."""
        return self.value.shape[-1]

    def apply(self, x: Float[Array, "*batch node channel"]) -> Float[Array, "*batch obs"]:
        """H x: the state as the observations would see it, in the precision of ``x``."""
        x = jnp.asarray(x)
        flat = x.reshape(*x.shape[:-2], -1)
        weight = self.weight.astype(x.dtype)
        if self.index.shape[-1] == 1:  # on the grid: no sum to make
            return flat.at[..., self.index[:, 0]].get(mode="promise_in_bounds") * weight[:, 0]
        seen = flat.at[..., self.index].get(mode="promise_in_bounds")
        return jnp.sum(seen * weight, axis=-1)

    def adjoint(self, y: Float[Array, "*batch obs"]) -> Float[Array, "*batch node channel"]:
        """H^T y: observation space back onto the state, in the precision of ``y``."""
        y = jnp.asarray(y)
        n_node, n_channel = self.state_shape
        terms = y[..., None] * self.weight.astype(y.dtype)
        flat = jnp.zeros((*y.shape[:-1], n_node * n_channel), y.dtype)
        flat = flat.at[..., self.index].add(terms, mode="promise_in_bounds")
        return flat.reshape(*y.shape[:-1], n_node, n_channel)

    def padded(self, n_obs: int, n_term: int | None = None) -> ObsVector:
        """Pad with observations of weight 0, so that shapes agree.

        Compiled functions are keyed by shapes; padding lets many analysis times share one. A
        padded observation has value 0, error_std 1 and a zero row in H: its innovation is zero
        and it changes no analysis.

        Parameters
        ----------
        n_obs, n_term
            Sizes to reach, not below the present ones.

        Raises
        ------
        InputError
            If a size is below the present one.
        """
        n_term = self.index.shape[1] if n_term is None else n_term
        more_obs, more_term = n_obs - self.n_obs, n_term - self.index.shape[1]
        if more_obs < 0 or more_term < 0:
            raise InputError(
                [
                    Problem(
                        f"{self.n_obs} observations of {self.index.shape[1]} terms to be padded to "
                        f"{n_obs} of {n_term}",
                        "sizes not below the present ones",
                        f"obs_vector.padded({max(n_obs, self.n_obs)})",
                    )
                ],
                what="ObsVector.padded",
            )
        table = ((0, more_obs), (0, more_term))
        return ObsVector(
            jnp.pad(self.value, (0, more_obs)),
            jnp.pad(self.error_std, (0, more_obs), constant_values=1.0),
            jnp.pad(self.index, table),
            jnp.pad(self.weight, table),
            self.state_shape,
        )


@with_own_jax
def observation_operator(
    tidy: xr.Dataset, layout: Layout
) -> tuple[ObsVector, np.ndarray, dict[str, np.ndarray]]:
    """Build H for tidy observations on the grid, levels and channels of a state.

    Parameters
    ----------
    tidy
        Validated tidy observations, as `to_tidy` returns them.
    layout
        Layout of the state. Observations of variables that it lacks, or outside its levels, are
        rejected (nothing is extrapolated), never silently used.

    Returns
    -------
    obs : ObsVector
        The observations that are kept, in their order.
    kept : bool array, (n_obs,)
        Which of ``tidy`` these are.
    rejected : dict of str to int array
        Reason to the positions in ``tidy`` rejected for it; disjoint, and empty if all are kept.

    Raises
    ------
    InputError
        If no observation is left, with the reasons.

    Examples
    --------
    >>> import xarray as xr
    >>> from xdiffda.state.grid import Grid, Layout
    >>> from xdiffda.observations import to_tidy
    >>> layout = Layout(Grid.from_coords([-60, 0, 60], [0, 90, 180, 270]),
    ...                 ("temperature",), (500, 850))
    >>> tidy = to_tidy(xr.Dataset(
    ...     {"t": (("station", "level"), [[250.0, 210.0]])},
    ...     {"lat": ("station", [0.0]), "lon": ("station", [-90.0]), "level": [500, 200]}))
    >>> obs, kept, rejected = observation_operator(tidy, layout)
    >>> obs.value.tolist(), obs.index.tolist(), kept.tolist(), list(rejected)
    ([250.0], [[14]], [True, False], ['outside the levels 500 to 850 hPa'])
    """
    obs, kept, rejected = linear_rows(tidy, layout)
    if obs is None:
        raise none_usable(kept.size, rejected, layout)
    return obs, kept, rejected


@with_own_jax
def linear_rows(
    tidy: xr.Dataset, layout: Layout, coded: tuple[np.ndarray, list[str]] | None = None
) -> tuple[ObsVector | None, np.ndarray, dict[str, np.ndarray]]:
    """As `observation_operator`, but None where no observation can be used.

    ``coded`` are the variables as `name_codes` returns them, where they are known already.
    """
    code, names = name_codes(tidy["variable"].values) if coded is None else coded
    channel, level_weight, rejected = _channels(code, names, tidy["level"].values, layout)
    kept = np.ones(tidy.sizes["obs"], bool)
    for where in rejected.values():
        kept[where] = False
    if not kept.any():
        return None, kept, rejected
    take = slice(None) if kept.all() else np.flatnonzero(kept)
    index, weight = sparse_rows(
        layout,
        tidy["lat"].values[take],
        tidy["lon"].values[take],
        channel[take],
        level_weight[take],
    )
    obs = ObsVector(
        jnp.asarray(tidy["value"].values[take], jnp.float32),
        jnp.asarray(tidy["error_std"].values[take], jnp.float32),
        jnp.asarray(index),
        jnp.asarray(weight),
        (layout.grid.n_node, layout.n_channel),
    )
    return obs, kept, rejected


def none_usable(n_obs: int, rejected: dict[str, np.ndarray], layout: Layout) -> InputError:
    """The error to raise where every observation was rejected."""
    repair = f"obs.sel(obs=obs.variable.isin({list(layout.variables)}))"
    if rejected and all("without station_height" in reason for reason in rejected):
        repair = 'obs.assign_coords(station_height=("obs", heights_in_m))'
    needed = "at least one observation of the state's variables and levels"
    return none_left(n_obs, rejected, needed=needed, repair=repair)


def none_left(
    n_obs: int, rejected: Mapping[str, np.ndarray], *, needed: str, repair: str = ""
) -> InputError:
    """The error to raise where no observation is left, with how many were rejected and why."""
    reasons = "; ".join(f"{len(where)} {reason}" for reason, where in rejected.items())
    found = f"none of {n_obs} observations usable: {reasons or 'none were given'}"
    return InputError([Problem(found, needed, repair)], what="observations")


def _channels(
    code: np.ndarray, names: list[str], level: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Two channels and their weights for each observation, and which are rejected and why."""
    import pandas as pd

    # Variables and levels repeat: neighbours and weights are looked up once for each pair.
    level_code, levels = pd.factorize(level, use_na_sentinel=False)
    pair, distinct = pd.factorize(code * np.int64(max(levels.size, 1)) + level_code)
    of_name, of_level = np.divmod(distinct, max(levels.size, 1))
    channel = np.zeros((distinct.size, 2), np.int32)
    weight = np.zeros((distinct.size, 2))
    known, inside = np.zeros(distinct.size, bool), np.ones(distinct.size, bool)
    for number, name in enumerate(names):
        if name not in layout.variables:
            continue
        mine = of_name == number
        known[mine] = True
        start = layout.channel_slice(name).start
        if VARIABLES[name].on_levels:
            near = vertical_stencil(layout.levels, levels[of_level[mine]])
            channel[mine], weight[mine] = start + near.level, near.weight
            inside[mine] = near.inside
        else:
            channel[mine], weight[mine, 0] = start, 1.0
    reasons = {"of a variable that the state does not have": ~known}
    if layout.levels:
        reasons[f"outside the levels {layout.levels[0]} to {layout.levels[-1]} hPa"] = ~inside
    rejected = {r: np.flatnonzero(m[pair]) for r, m in reasons.items() if m.any()}
    return np.take(channel, pair, axis=0), np.take(weight, pair, axis=0), rejected
