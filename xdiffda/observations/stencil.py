"""Which grid points an observation sees, and with which weights (numpy only).

Horizontal: bilinear in latitude and longitude, periodic in longitude. Between the last row of a
grid without pole points and the pole, linear in latitude to the value at the pole, which is one
for all longitudes: of a scalar the mean of its nearest circle, of a vector the mean of the
vectors there, each turned from the directions of its own meridian to those of the observation.
The circle is seen at a few of its points (`around_pole`): for the long waves that a field has so
near a pole their mean is that of all, and the rows of H stay short.

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
    """Nodes around each point; ``pole`` marks those that stand for the value at a pole.

    ``angle`` (radians, eastward at the north pole and westward at the south pole) is that from
    the meridian of such a node to the point's: see `turned`.
    """

    node: Int[np.ndarray, "point term"]
    weight: Float[np.ndarray, "point term"]
    angle: Float[np.ndarray, "point term"]
    pole: Bool[np.ndarray, "point term"]


class Vertical(NamedTuple):
    """Two levels around each pressure, and whether it lies within the range of levels."""

    level: Int[np.ndarray, "point 2"]
    weight: Float[np.ndarray, "point 2"]
    inside: Bool[np.ndarray, "point"]


def other_component(name: str) -> str:
    """The other component of a horizontal vector; empty for a scalar.

    Examples
    --------
    >>> other_component("10m_u_component_of_wind"), other_component("temperature")
    ('10m_v_component_of_wind', '')
    """
    u, v = "u_component_of_wind", "v_component_of_wind"
    return name.replace(u, v) if u in name else name.replace(v, u) if v in name else ""


def turned(
    name: str, near: Horizontal, *, both: bool
) -> tuple[Float[np.ndarray, "point term"], Float[np.ndarray, "point term"]]:
    """Weights of a variable's own values and of those of the other component of its vector.

    A scalar has no other one. Where a state lacks the other (``both`` false), the vector is what
    the component's wave of one turn around the pole says.

    Examples
    --------
    >>> near = Horizontal(*(np.array([[x]]) for x in (0, 1.0, np.pi / 2, True)))
    >>> own, other = turned("u_component_of_wind", near, both=True)
    >>> own.round(6).tolist(), other.tolist()
    ([[0.0]], [[1.0]])
    """
    if not other_component(name) or not near.pole.any():
        return near.weight, np.zeros_like(near.weight)
    along = np.where(near.pole, (1.0 if both else 2.0) * np.cos(near.angle), 1.0)
    aside = np.where(near.pole & both, np.sin(near.angle), 0.0)
    return near.weight * along, near.weight * (aside if "u_component" in name else -aside)


def _bracket(
    nodes: Float[np.ndarray, "node"], x: Float[np.ndarray, "point"]
) -> tuple[Int[np.ndarray, "point"], Float[np.ndarray, "point"]]:
    """Interval of ``x`` among ascending ``nodes`` and the fraction of the way through it.

    On a node the fraction is 0; the last node is the beginning of an interval without end.
    """
    left = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
    width = nodes[left + 1] - nodes[left]
    fraction = (x - nodes[left]) / width
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
    """Bilinear weights of points on a grid, periodic in longitude, continued to the poles.

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
        Nodes ``i_lat * n_lon + i_lon`` in the order (south, south, north, north) and, where a
        point lies between the last row and a pole, those that stand for it; their weights, sum 1.

    Examples
    --------
    >>> from xdiffda.state.grid import Grid
    >>> grid = Grid.from_coords([-60, 0, 60], [0, 90, 180, 270])
    >>> near = horizontal_stencil(grid, np.array([75.0]), np.array([0.0]))
    >>> near.node[0].tolist(), near.weight[0].tolist()
    ([8, 9, 8, 9, 8, 9, 10, 11], [0.5, 0.0, 0.0, 0.0, 0.125, 0.125, 0.125, 0.125])
    """
    rows = np.asarray(grid.lat)
    n_lat, n_lon = grid.shape
    lat, lon = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
    south, north_share = _bracket(rows, np.clip(lat, rows[0], rows[-1]))
    west, east_share = _meridians(grid, lon)
    pairs = []
    for row, share in ((south, 1.0 - north_share), (south + 1, north_share)):
        base = np.minimum(row, n_lat - 1) * n_lon
        pairs += [
            (base + west % n_lon, share * (1.0 - east_share)),
            (base + (west + 1) % n_lon, share * east_share),
        ]
    node, weight = (np.stack(part, axis=-1) for part in zip(*pairs, strict=True))
    beyond = _polar_share(grid, lat)
    if not beyond.any():
        return Horizontal(node, weight, np.zeros(node.shape), np.zeros(node.shape, bool))
    column, mean = around_pole(grid)
    last = np.where(lat > 0, n_lat - 1, 0)[:, None]
    sign = np.where(lat > 0, 1.0, -1.0)[:, None]
    angle = sign * np.deg2rad(lon[:, None] - np.asarray(grid.lon)[column])
    none = np.zeros(node.shape)
    return Horizontal(
        np.concatenate([node, last * n_lon + column], axis=1),
        np.concatenate([weight * (1.0 - beyond), beyond * mean], axis=1),
        np.concatenate([none, angle], axis=1),
        np.concatenate([none > 0, np.broadcast_to(beyond > 0, angle.shape)], axis=1),
    )


def _polar_share(grid: Grid, lat: Float[np.ndarray, "point"]) -> Float[np.ndarray, "point 1"]:
    """How far each latitude is on its way from the last row (0) to the pole (1)."""
    share = np.zeros(lat.shape)
    for sign, last, reached in zip(
        (-1, 1), (-grid.lat[0], grid.lat[-1]), grid.reaches, strict=True
    ):
        if grid.wraps and reached and last < 90.0:
            share = np.maximum(share, (sign * lat - last) / (90.0 - last))
    return np.where(share < SNAP, 0.0, np.minimum(share, 1.0))[:, None]


def around_pole(grid: Grid) -> tuple[Int[np.ndarray, "around"], Float[np.ndarray, "around"]]:
    """Meridians that stand for the circle next to a pole, and the weights that give its mean.

    Eight, four of a grid finer than 2 degrees, whose circle is small. On 64 x 32 points eight
    miss the mean of all by 0.008, four by 0.13 standard deviations of the background error at
    most. Equally far apart they have equal weights; else those nearest to equal ones that average
    out the longest waves, which alone are not small there.
    """
    n_lon = grid.shape[1]
    size = min(8 if n_lon <= 180 else 4, n_lon)
    column = np.round(np.arange(size) * n_lon / size).astype(int)
    wave = np.arange(1, (size - 1) // 2 + 1)[:2, None]
    angle = wave * np.deg2rad(np.asarray(grid.lon)[column])
    conditions = np.concatenate([np.ones((1, size)), np.cos(angle), np.sin(angle)])
    return column, np.linalg.pinv(conditions)[:, 0]


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
