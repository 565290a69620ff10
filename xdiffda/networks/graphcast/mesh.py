"""Icosahedral meshes of the sphere and the multimesh that GraphCast passes messages on.

Needs numpy only. Positions are float32, the precision in which the published
models' graphs were made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_GOLDEN = (1 + np.sqrt(5)) / 2
_BASE_FACES = np.array(
    [
        [0, 1, 2],
        [0, 6, 1],
        [8, 0, 2],
        [8, 4, 0],
        [3, 8, 2],
        [3, 2, 7],
        [7, 2, 1],
        [0, 4, 6],
        [4, 11, 6],
        [6, 11, 5],
        [1, 5, 7],
        [4, 10, 11],
        [4, 8, 10],
        [10, 8, 3],
        [10, 3, 9],
        [11, 10, 9],
        [11, 9, 5],
        [5, 9, 7],
        [9, 3, 7],
        [1, 6, 5],
    ],
    dtype=np.int32,
)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh on the unit sphere.

    Parameters
    ----------
    vertices
        Unit vectors.
    faces
        Vertex numbers, counter-clockwise seen from outside.
    """

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]

    @property
    def lat(self) -> Float[np.ndarray, " vertex"]:
        """Latitude of the vertices, degrees."""
        # The arc tangent keeps full precision near the poles, where the arc sine does not.
        x, y, z = self.vertices.T
        return np.rad2deg(np.arctan2(z, np.hypot(x, y)))

    @property
    def lon(self) -> Float[np.ndarray, " vertex"]:
        """Longitude of the vertices, degrees in [0, 360)."""
        lon = np.mod(np.rad2deg(np.arctan2(self.vertices[:, 1], self.vertices[:, 0])), 360)
        return np.where(lon >= 360, 0, lon).astype(np.float32)

    @property
    def edges(self) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]:
        """Senders and receivers of the directed edges around every face."""
        senders = self.faces.T.reshape(-1)
        receivers = np.roll(self.faces, -1, axis=1).T.reshape(-1)
        return senders, receivers

    @property
    def longest_edge(self) -> np.float32:
        """Length of the longest edge as a chord of the unit sphere."""
        senders, receivers = self.edges
        difference = self.vertices[senders] - self.vertices[receivers]
        return np.linalg.norm(difference, axis=-1).max()


def icosahedron() -> Mesh:
    """The mesh of refinement 0: 12 vertices and 20 faces, two of which are horizontal.

    Examples
    --------
    >>> icosahedron().vertices.shape
    (12, 3)
    """
    # Corners of three golden rectangles, turned about y until two faces are horizontal. Rounded
    # where the published graphs round: the last bit decides which of two triangles is nearer.
    corners = np.array(
        [np.roll([x, y, 0], k) for x in (1, -1) for y in (_GOLDEN, -_GOLDEN) for k in range(3)]
    ).astype(np.float32)
    corners = (corners / np.hypot(1, _GOLDEN)).astype(np.float32)
    angle = np.pi / 2 - np.arcsin(_GOLDEN / np.sqrt(3))
    sin, cos = np.sin(angle), np.cos(angle)
    vertices = corners.astype(np.float64) @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return Mesh(vertices.astype(np.float32), _BASE_FACES)


def refine(mesh: Mesh) -> Mesh:
    """Split every face into four at the middles of its edges.

    Vertices keep their numbers; a new one is numbered when a face first needs it.

    Examples
    --------
    >>> refine(icosahedron()).faces.shape
    (80, 3)
    """
    n_vertex = len(mesh.vertices)
    a, b, c = mesh.faces.T
    ends = np.stack([np.stack([a, b], -1), np.stack([b, c], -1), np.stack([c, a], -1)], axis=1)
    ends = np.sort(ends.reshape(-1, 2), axis=-1)
    key = ends[:, 0].astype(np.int64) * n_vertex + ends[:, 1]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)  # numbering by first use
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ab, bc, ca = (rank[inverse.reshape(-1)] + n_vertex).reshape(-1, 3).T

    middle = mesh.vertices[ends[first[order]]].sum(axis=1) / np.float32(2)
    # Squares in float32, their sum in float64: the rounding of the published graphs.
    square = np.sum(middle**2, axis=-1, dtype=np.float64, keepdims=True)
    middle /= np.sqrt(square.astype(np.float32))
    children = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    faces = np.stack([np.stack(child, axis=-1) for child in children], axis=1).reshape(-1, 3)
    return Mesh(np.concatenate([mesh.vertices, middle]), faces.astype(np.int32))


def mesh_hierarchy(refinement: int) -> list[Mesh]:
    """Meshes of refinement 0 to `refinement`, coarse to fine.

    Raises
    ------
    ValueError
        If `refinement` is negative.

    Examples
    --------
    >>> [len(mesh.vertices) for mesh in mesh_hierarchy(3)]
    [12, 42, 162, 642]
    """
    if refinement < 0:
        raise ValueError(f"refinement must be 0 or more, got {refinement}")
    meshes = [icosahedron()]
    for _ in range(refinement):
        meshes.append(refine(meshes[-1]))
    return meshes


def multimesh_edges(
    meshes: list[Mesh],
) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]:
    """Directed edges of all levels together, on the vertices of the finest.

    Examples
    --------
    >>> senders, receivers = multimesh_edges(mesh_hierarchy(3))
    >>> len(senders)
    5100
    """
    merged = Mesh(meshes[-1].vertices, np.concatenate([mesh.faces for mesh in meshes]))
    return merged.edges
