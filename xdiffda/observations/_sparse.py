"""Terms of H: flat indices and weights of each observation, from those of its place and level.

Numpy alone; `operators` puts the result into an `ObsVector`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import InputError, Problem
from ._codes import place_runs
from .stencil import horizontal_stencil

if TYPE_CHECKING:
    from .._grid import Layout


def sparse_rows(
    layout: Layout, lat: np.ndarray, lon: np.ndarray,
    channel: np.ndarray, level_weight: np.ndarray, turns: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
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
        share, node, across = _compact(near.weight.astype(np.float32), node, near.across)
        weight = _turned(share, across, runs.of_row, turns)
        node = np.where(share != 0, node, node[:, :1])
        index = np.take(node, runs.of_row, axis=0)
        index += channel[:, :1].astype(np.int32, copy=False)
        return index, weight
    horizontal = _turned(near.weight, near.across, runs.of_row, turns)
    index = np.take(node, runs.of_row, axis=0)[:, :, None] + channel.astype(np.int32)[:, None, :]
    weight = (horizontal[:, :, None] * level_weight[:, None, :]).astype(np.float32)
    weight, index = _compact(weight.reshape(lat.size, -1), index.reshape(lat.size, -1))
    return np.where(weight != 0, index, index[:, :1]), weight


def _turned(
    weight: Float[np.ndarray, "place term"], across: Bool[np.ndarray, "place term"],
    place: Int[np.ndarray, "row"], turns: Bool[np.ndarray, "row"],
) -> Float[np.ndarray, "row term"]:  # fmt: skip
    """Weights of each row from those of its place; vector components turn over at the poles."""
    rows = np.take(weight, place, axis=0)
    if across.any():
        over = np.flatnonzero(np.any(across, axis=1)[place] & turns)
        rows[over] = np.where(across[place[over]], -rows[over], rows[over])
    return rows


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
