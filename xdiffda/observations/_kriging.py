"""Weights of ordinary kriging: geometry alone, once for all variables and levels.

The systems are small (ten rows) and many (a million), so they are solved side by side: arrays
are (neighbour, neighbour, node), and each operation of a Cholesky decomposition is one on all
nodes of a piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._sites import node_vectors
from ._threads import for_pieces, n_threads

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from .._grid import Grid

EARTH_RADIUS_KM = 6371.0
_PIECE = 8192  # nodes solved side by side: 5 MB of 9 x 9 matrices


class KrigingWeights(NamedTuple):
    """Weights of the sites near each node, and whether there is such a site at all.

    Attributes
    ----------
    near : int array (node, neighbour)
        Sites, nearest first; 0 with weight 0 where there are fewer.
    weight : float64 array (node, neighbour)
        Of sum 1 where covered.
    covered : bool array (node,)
    """

    near: Int[np.ndarray, "node neighbour"]
    weight: Float[np.ndarray, "node neighbour"]
    covered: Bool[np.ndarray, "node"]

    def apply(
        self, value: Float[np.ndarray, "site channel"], out: Float[np.ndarray, "node channel"],
        columns: slice | np.ndarray = slice(None),
        shift: Float[np.ndarray, "channel"] | float = 0.0,
    ) -> None:  # fmt: skip
        """Write the interpolated values plus ``shift`` into columns of ``out``; 0 if uncovered.

        In the precision of ``value``.
        """
        from scipy.sparse import csr_array

        k = self.near.shape[1]
        shift = np.asarray(shift, value.dtype)

        def work(rows: slice) -> None:
            n = rows.stop - rows.start
            begins = np.arange(0, n * k + 1, k, dtype=self.near.dtype)
            parts = (self.weight[rows].ravel().astype(value.dtype), self.near[rows].ravel(), begins)
            field = csr_array(parts, shape=(n, len(value))) @ value
            field += shift
            field[~self.covered[rows]] = 0.0
            out[rows, columns] = field

        for_pieces(work, len(self.near), 4 * _PIECE)


def kriging_weights(
    grid: Grid, place: Float[np.ndarray, "site 3"], *, range_km: float, n_neighbours: int,
    radius_km: float, noise: Float[np.ndarray, "site"] | None = None,
) -> KrigingWeights:  # fmt: skip
    """Weights of `krige`, which says what they are."""
    from scipy.spatial import KDTree

    k = min(n_neighbours, len(place))
    reach = min(radius_km / EARTH_RADIUS_KM, np.pi)
    bound = np.nextafter(2.0 * np.sin(0.5 * reach), np.inf)
    found = KDTree(place).query(
        node_vectors(grid), k=k, distance_upper_bound=bound, workers=n_threads()
    )
    chord, near = (np.reshape(part, (grid.n_node, k)) for part in found)  # k = 1 comes flat
    noise = np.zeros(len(place)) if noise is None else noise
    near = np.where(np.isfinite(chord), near, 0).astype(np.int32)
    weight = np.empty_like(chord)

    def work(rows: slice) -> None:
        weight[rows] = _weights(chord[rows].T, near[rows].T, place.T, noise,
                                range_km / EARTH_RADIUS_KM).T  # fmt: skip

    for_pieces(work, grid.n_node, _PIECE)
    return KrigingWeights(near, weight, np.isfinite(chord[:, 0]))


def _covariance(chord_squared: np.ndarray, scale: float) -> np.ndarray:
    """``exp(-d / scale)``, d the angle that belongs to a chord of the unit sphere; in place."""
    half = np.sqrt(chord_squared, out=chord_squared)
    half *= 0.5
    angle = np.arcsin(np.minimum(half, 1.0, out=half), out=half)
    angle *= -2.0 / scale
    return np.exp(angle, out=angle)


def _weights(
    chord: Float[np.ndarray, "neighbour node"], near: Int[np.ndarray, "neighbour node"],
    place: Float[np.ndarray, "3 site"], noise: Float[np.ndarray, "site"], scale: float,
) -> Float[np.ndarray, "neighbour node"]:  # fmt: skip
    """Weights of all nodes at once; absent neighbours have an identity row and weight zero.

    With a = C^-1 c and b = C^-1 1 they are a - b (1'a - 1) / 1'b.
    """
    k, n = chord.shape
    there = np.isfinite(chord)
    where = place[:, near]
    matrix = np.zeros((k, k, n))  # the lower triangle is used
    for i in range(k):
        matrix[i, i] = np.where(there[i], 1.0 + noise[near[i]], 1.0)
        if i:
            apart = where[:, i, None] - where[:, :i]
            covariance = _covariance(np.einsum("xjn,xjn->jn", apart, apart), scale)
            matrix[i, :i] = covariance * (there[i] & there[:i])
    right = np.zeros((k, 2, n))
    right[:, 0] = _covariance(np.where(there, chord, 0.0) ** 2, scale) * there
    right[:, 1] = there
    a, b = _solved(matrix, right).transpose(1, 0, 2)
    norm = b.sum(0)
    return a - b * ((a.sum(0) - 1.0) / np.where(norm > 0, norm, 1.0))


def _solved(
    matrix: Float[np.ndarray, "k k node"], right: Float[np.ndarray, "k side node"]
) -> Float[np.ndarray, "k side node"]:
    """Solve positive definite systems by Cholesky decomposition, in place."""
    k = len(matrix)
    for j in range(k):
        pivot = 1.0 / np.sqrt(matrix[j, j])
        matrix[j:, j] *= pivot
        matrix[j, j] = pivot  # the inverse of the diagonal is what is needed later
        right[j] *= pivot
        below = matrix[j + 1 :, j]
        for i in range(j + 1, k):
            matrix[i, j + 1 : i + 1] -= below[i - j - 1] * below[: i - j]
        right[j + 1 :] -= below[:, None] * right[j]
    for j in range(k - 1, -1, -1):
        right[j] *= matrix[j, j]
        right[:j] -= matrix[j, :j][:, None] * right[j]
    return right
