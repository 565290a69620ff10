"""Which grid points an observation sees, and with which weights (numpy only).

Horizontal: bilinear in latitude and longitude, periodic in longitude. Beyond the last row of a
grid without pole points, the meridian is followed across the pole to the same row on the other
side (180 degrees away), linearly in the distance. That needs no more than four points, is
continuous at the row and, for one meridian, across the pole; halfway, at the pole itself, it is
the mean of the row's two opposite points. Eastward and northward components change sign across
the pole, as the unit vectors do, so that a straight flow over the pole is kept.

Vertical: linear in the logarithm of pressure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from xdiffda.state.grid import Grid


# Files round coordinates to float32; nearer than this fraction of a cell is on the point, so
# that an observation on the grid has exactly one non-zero weight.
SNAP = 1e-4


class Horizontal(NamedTuple):
    """Four nodes around each point; ``across`` marks those reached over a pole."""

    node: Int[np.ndarray, "point 4"]
    weight: Float[np.ndarray, "point 4"]
    across: Bool[np.ndarray, "point 4"]


class Vertical(NamedTuple):
    """Two levels around each pressure, and whether it lies within the range of levels."""

    level: Int[np.ndarray, "point 2"]
    weight: Float[np.ndarray, "point 2"]
    inside: Bool[np.ndarray, "point"]


def is_vector_component(name: str) -> bool:
    """Whether a variable is a component of a horizontal vector (it turns over at the pole)."""
    return "component_of_wind" in name


def _bracket(
    nodes: Float[np.ndarray, "node"], x: Float[np.ndarray, "point"]
) -> tuple[Int[np.ndarray, "point"], Float[np.ndarray, "point"]]:
    """Interval of ``x`` among ascending ``nodes`` and the fraction of the way through it.

    On a node the fraction is 0; the last node is the beginning of an interval without end.
    """
    left = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
    width = nodes[left + 1] - nodes[left]
    # A pole row and its mirror image coincide: an interval of no width, of weight zero.
    fraction = np.where(width > 0, (x - nodes[left]) / np.where(width > 0, width, 1.0), 0.0)
    at_next = fraction > 1 - SNAP
    return left + at_next, np.where(at_next | (fraction < SNAP), 0.0, fraction)


def _meridians(
    grid: Grid, lon: Float[np.ndarray, "point"]
) -> tuple[Int[np.ndarray, "point"], Float[np.ndarray, "point"]]:
    """Meridian west of (or at) each longitude and the fraction of the way to the next."""
    nodes = np.asarray(grid.lon)
    if grid.wraps:
        closed = np.append(nodes, nodes[0] + 360.0)
        return _bracket(closed, np.mod(lon - nodes[0], 360.0) + nodes[0])
    # of a box: half of what is outside it counts as on its western, half as on its eastern edge
    beyond = (360.0 - nodes[-1] + nodes[0]) / 2
    east = np.mod(lon - nodes[0] + beyond, 360.0) - beyond + nodes[0]
    column, share = _bracket(nodes, np.clip(east, nodes[0], nodes[-1]))
    last = column == nodes.size - 1
    return np.where(last, nodes.size - 2, column), np.where(last, 1.0, share)


def horizontal_stencil(
    grid: Grid, lat: Float[np.ndarray, "point"], lon: Float[np.ndarray, "point"]
) -> Horizontal:
    """Bilinear weights of points on a grid, periodic in longitude, continued over the poles.

    Places outside a box (`Grid.holds`) are as if on its edge.

    Parameters
    ----------
    grid
        Of the globe or a box.
    lat, lon
        Degrees north in [-90, 90], degrees east in any convention.

    Returns
    -------
    Horizontal
        Nodes ``i_lat * n_lon + i_lon`` in the order (south, south, north, north), their weights
        (non-negative, sum 1), and which of them lie across a pole.

    Examples
    --------
    >>> from xdiffda.state.grid import Grid
    >>> grid = Grid.from_coords([-60, 0, 60], [0, 90, 180, 270])
    >>> near = horizontal_stencil(grid, np.array([90.0]), np.array([0.0]))
    >>> near.node[0].tolist(), near.weight[0].tolist(), near.across[0].tolist()
    ([8, 9, 10, 11], [0.5, 0.0, 0.5, 0.0], [False, False, True, True])
    """
    rows = np.asarray(grid.lat)
    n_lat, n_lon = grid.shape
    ends = [grid.wraps and reached for reached in grid.reaches]
    # rows beyond a pole that a grid does not go around: none is ever reached
    first = -180.0 - rows[0] if ends[0] else -400.0
    last = 180.0 - rows[-1] if ends[1] else 400.0
    mirrored = np.concatenate([[first], rows, [last]])
    lat = np.clip(
        np.asarray(lat, np.float64), None if ends[0] else rows[0], None if ends[1] else rows[-1]
    )
    south, north_share = _bracket(mirrored, lat)
    lon = np.asarray(lon, np.float64)
    west, east_share = _meridians(grid, lon)
    pairs = []
    for row, share in ((south, 1.0 - north_share), (south + 1, north_share)):
        across = (row == 0) | (row == n_lat + 1)
        column, east = west, east_share
        if across.any():
            column, east = west.copy(), east_share.copy()
            column[across], east[across] = _meridians(grid, lon[across] + 180.0)
        base = np.clip(row - 1, 0, n_lat - 1) * n_lon
        pairs += [
            (base + column % n_lon, share * (1.0 - east), across),
            (base + (column + 1) % n_lon, share * east, across),
        ]
    node, weight, across = (np.stack(part, axis=-1) for part in zip(*pairs, strict=True))
    return Horizontal(node, weight, across)


def vertical_stencil(levels: Sequence[float], pressure: Float[np.ndarray, "point"]) -> Vertical:
    """Weights linear in log-pressure between levels; outside their range nothing is guessed.

    Parameters
    ----------
    levels
        Ascending pressure levels, hPa.
    pressure
        Pressure of each point, hPa, positive.

    Examples
    --------
    >>> v = vertical_stencil((500, 1000), np.array([500.0, 707.1067811865476, 1013.0]))
    >>> v.weight.round(6).tolist(), v.inside.tolist()
    ([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]], [True, True, False])
    """
    nodes = np.log(np.asarray(levels, np.float64))
    height = np.log(np.asarray(pressure, np.float64))
    slack = SNAP * (np.min(np.diff(nodes)) if nodes.size > 1 else 0.1)
    inside = (height >= nodes[0] - slack) & (height <= nodes[-1] + slack)
    height = np.clip(height, nodes[0], nodes[-1])
    if nodes.size == 1:
        upper, share = np.zeros(height.shape, np.intp), np.zeros(height.shape)
    else:
        upper, share = _bracket(nodes, height)
    lower = np.minimum(upper + 1, nodes.size - 1)
    return Vertical(np.stack([upper, lower], -1), np.stack([1.0 - share, share], -1), inside)
