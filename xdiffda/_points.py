"""The grid points that observations read: harmonics, and so covariances, at these alone.

On a fine grid nearly all of a transform is the sums over zonal wavenumbers at every grid point.
Observations read few of these: 40,000 of a million at 0.25 degree for 10,000 columns. A solve for
the observations (`xdiffda.diffusion.kalman`) applies H V H^T at every step, and needs V nowhere
else. Of the package this knows `xdiffda.spectral` only: each covariance has a method ``at``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xdiffda.spectral import PRECISION, ScalarBasis

# Points that a solve may take, over those of the grid: beyond, the whole grid is as fast.
WORTH = 0.25


class Points(eqx.Module):
    """Some points of a (row, column) grid, in slots of which every row has as many.

    Attributes
    ----------
    column : int array (row, slot)
        Column of each slot; past the last column where there is no point.
    slot : int array (node,)
        Slot of each node, counted over all rows; 0 for nodes that are not among the points.
    """

    column: Int[Array, "row slot"]
    slot: Int[Array, " node"]

    @property
    def nodes(self) -> Int[Array, " slot"]:
        """Node of each slot; past the last node where there is no point."""
        n_row, n_node = len(self.column), len(self.slot)
        n_column = n_node // n_row
        node = jnp.arange(n_row)[:, None] * n_column + self.column
        return jnp.where(self.column < n_column, node, n_node).reshape(-1)

    def pick(self, x: Float[Array, "node *rest"]) -> Float[Array, "slot *rest"]:
        """What a state has at the points; zero where there is none."""
        return x.at[self.nodes].get(mode="fill", fill_value=0)

    def elements(self, index: Array, n_channel: int) -> Array:
        """Elements of the flattened (slot, channel) state, from those of (node, channel)."""
        return self.slot[index // n_channel] * n_channel + index % n_channel


def points_of(
    index: Int[np.ndarray, "obs point"], *, n_channel: int, n_row: int, n_column: int
) -> Points | None:
    """The points behind some elements of a state, or None where these are no small part of it.

    Parameters
    ----------
    index : array (obs, point)
        Elements of the flattened (node, channel) state.
    n_channel, n_row, n_column : int
        Of the state; ``node = row n_column + column``.

    Examples
    --------
    >>> points = points_of(np.array([[7], [2], [18]]), n_channel=1, n_row=2, n_column=16)
    >>> points.column.tolist(), points.elements(jnp.array([2, 7, 18]), 1).tolist()
    ([[2, 7], [2, 16]], [0, 1, 2])
    """
    seen = np.zeros(n_row * n_column, bool)  # flags: sorting millions of numbers takes a second
    seen[index // n_channel] = True
    nodes = np.flatnonzero(seen)
    row, column = np.divmod(nodes, n_column)
    count = np.bincount(row, minlength=n_row)
    width = _rounded(int(count.max(initial=0)))
    if width > WORTH * n_column:
        return None
    place = np.arange(nodes.size) - np.repeat(np.cumsum(count) - count, count)
    columns = np.full((n_row, width), n_column, np.int32)
    columns[row, place] = column
    slot = np.zeros(n_row * n_column, np.int32)
    slot[nodes] = row * width + place
    return Points(jnp.asarray(columns), jnp.asarray(slot))


def _rounded(n: int) -> int:
    """A number not below ``n``, of few, so that analyses share compiled code."""
    below = 1 << max(n - 1, 1).bit_length() >> 1
    return n + -n % max(below // 4, 1)


class PointBasis(ScalarBasis):
    """A basis at some points of its grid, which are its nodes; coefficients stay what they are.

    Attributes
    ----------
    along_columns : array (row, slot, order)
        Column functions at the points; zero where there is none.
    """

    along_columns: Float[Array, "row slot order"]

    @property
    def n_node(self) -> int:
        """Slots."""
        return self.along_columns.shape[0] * self.along_columns.shape[1]

    def grid_of(self, by_order: Float[Array, "order row *rest"]) -> Float[Array, "node *rest"]:
        """Sum over orders."""
        flat = by_order.reshape(*by_order.shape[:2], -1)
        values = jnp.einsum("rko,orx->rkx", self.along_columns, flat, precision=PRECISION)
        return values.reshape(-1, *by_order.shape[2:])

    def orders_of(
        self, x: Float[Array, "node *rest"], columns: Float[Array, "row slot order"]
    ) -> Float[Array, "order row *rest"]:
        """Sum over points, with these functions."""
        values = x.reshape(*columns.shape[:2], -1)
        by_order = jnp.einsum("rko,rkx->orx", columns, values, precision=PRECISION)
        return by_order.reshape(*by_order.shape[:2], *x.shape[1:])

    def analysis(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Not from some points."""
        raise TypeError("some points of a grid do not tell the coefficients")


def at_points(basis: ScalarBasis, points: Points) -> PointBasis:
    """The functions of a basis at some points of its grid."""
    columns = basis.along_columns.T.at[points.column].get(mode="fill", fill_value=0)
    return PointBasis(
        basis.along_rows, columns, basis.inverse_rows, basis.inverse_columns, basis.mask
    )


class Restricted(NamedTuple):
    """A covariance among some points, and from these to the whole grid.

    Attributes
    ----------
    among : callable
        From states at the points (slot, ..., channel) to such.
    spread : callable
        From these to the whole grid.
    n : int
        Slots.
    """

    among: Callable[[Array], Array]
    spread: Callable[[Array], Array]
    n: int


def restricted(covariance: Any, points: Points | None) -> Restricted | None:
    """A covariance at some points, by its method ``at``; None without points or without it."""
    at = getattr(covariance, "at", None)
    return None if points is None or at is None else at(points)
