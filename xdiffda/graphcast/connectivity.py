"""Edges between a latitude-longitude grid and the mesh, and the features they carry."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree as cKDTree

from .mesh import Mesh

Indices = Int[np.ndarray, " edge"]

# Two triangles count as equally near a point when their distances (squared) agree to this.
_TIE = 1e-10
_CANDIDATES = 10
_CHUNK = 1 << 15


def flat_grid(
    lat: Float[np.ndarray, " lat"], lon: Float[np.ndarray, " lon"]
) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, " node"]]:
    """Latitude and longitude of every grid node, latitude-major, in float32 degrees.

    Examples
    --------
    >>> flat_grid(np.array([-45.0, 45.0]), np.array([0.0, 180.0]))[0].tolist()
    [-45.0, -45.0, 45.0, 45.0]
    """
    node_lat, node_lon = np.meshgrid(
        np.asarray(lat, np.float32), np.asarray(lon, np.float32), indexing="ij"
    )
    return node_lat.reshape(-1), node_lon.reshape(-1)


def unit_vectors(
    lat: Float[np.ndarray, " node"], lon: Float[np.ndarray, " node"]
) -> Float[np.ndarray, "node 3"]:
    """Positions on the unit sphere, in the precision of `lat` and `lon` (degrees)."""
    phi, theta = np.deg2rad(lon), np.deg2rad(90 - lat)
    return np.stack(
        [np.cos(phi) * np.sin(theta), np.sin(phi) * np.sin(theta), np.cos(theta)], axis=-1
    )


def grid_to_mesh_edges(
    positions: Float[np.ndarray, "grid 3"], mesh: Mesh, *, radius: float
) -> tuple[Indices, Indices]:
    """Edges from every grid node to the mesh nodes within a chord of `radius`.

    Returns
    -------
    senders, receivers
        Grid and mesh nodes, sorted by mesh node, then by grid node.

    Examples
    --------
    >>> from .mesh import icosahedron
    >>> senders, receivers = grid_to_mesh_edges(np.eye(3), icosahedron(), radius=0.6)
    >>> len(senders)
    3
    """
    tree = cKDTree(mesh.vertices)
    near = tree.query_ball_point(positions, radius)
    counts = np.fromiter((len(found) for found in near), dtype=np.int64, count=len(near))
    receivers = np.concatenate([np.asarray(found, dtype=np.int64) for found in near])
    senders = np.repeat(np.arange(len(positions)), counts)
    order = np.lexsort((senders, receivers))
    return senders[order].astype(np.int32), receivers[order].astype(np.int32)


def mesh_to_grid_edges(
    positions: Float[np.ndarray, "grid 3"], mesh: Mesh, *, tie: float = _TIE
) -> tuple[Indices, Indices]:
    """Three edges to every grid node, from the corners of the triangle nearest to it.

    Two triangles count as equally near when their squared distances agree to ``tie``.

    Returns
    -------
    senders, receivers
        Mesh and grid nodes, sorted by grid node, corners in the order of the face.

    Examples
    --------
    >>> from .mesh import icosahedron
    >>> senders, receivers = mesh_to_grid_edges(np.array([[0.0, 0.0, 1.0]]), icosahedron())
    >>> sorted(senders.tolist())
    [1, 2, 7]
    """
    face = nearest_face(positions, mesh, tie=tie)
    receivers = np.repeat(np.arange(len(positions), dtype=np.int32), 3)
    return mesh.faces[face].reshape(-1), receivers


def nearest_face(
    positions: Float[np.ndarray, "node 3"], mesh: Mesh, *, tie: float = _TIE
) -> Int[np.ndarray, " node"]:
    """Number of the flat triangle nearest to each position.

    Over an edge two triangles are equally near: then the one that faces the position more
    directly is taken, and of two that do so equally (a plane of symmetry) the first.
    """
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    centres = corners.mean(axis=1)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    tree = cKDTree(centres)
    n_candidate = min(_CANDIDATES, len(centres))
    nearest = np.empty(len(positions), dtype=np.int64)
    for start in range(0, len(positions), _CHUNK):
        point = np.asarray(positions[start : start + _CHUNK], dtype=np.float64)
        # Sorting by number makes the choice of the first independent of the tree's order.
        candidates = np.sort(tree.query(point, k=n_candidate)[1], axis=-1)
        offset = point[:, None] - _closest_point(point, corners[candidates], normals[candidates])
        squared = np.sum(offset**2, axis=-1)
        facing = np.sum(offset * normals[candidates], axis=-1)
        tied = squared <= squared.min(axis=-1, keepdims=True) + tie
        facing = np.where(tied, facing, -np.inf)
        chosen = np.argmax(facing >= facing.max(axis=-1, keepdims=True) - tie, axis=-1)
        nearest[start : start + _CHUNK] = candidates[np.arange(len(point)), chosen]
    return nearest


def _closest_point(
    point: Float[np.ndarray, "node 3"],
    corners: Float[np.ndarray, "node candidate 3 3"],
    normals: Float[np.ndarray, "node candidate 3"],
) -> Float[np.ndarray, "node candidate 3"]:
    """The point of each candidate triangle that is closest to the node."""
    to_plane = np.sum((point[:, None] - corners[:, :, 0]) * normals, axis=-1, keepdims=True)
    best = point[:, None] - to_plane * normals  # right where it falls inside the triangle
    inside = np.ones(best.shape[:2], dtype=bool)
    distance = np.full(best.shape[:2], np.inf)
    on_edge = best.copy()
    for k in range(3):
        start, end = corners[:, :, k], corners[:, :, (k + 1) % 3]
        along = end - start
        inside &= np.sum(np.cross(along, best - start) * normals, axis=-1) >= 0
        fraction = np.sum((point[:, None] - start) * along, axis=-1) / np.sum(along**2, axis=-1)
        foot = start + np.clip(fraction, 0, 1)[..., None] * along
        squared = np.sum((point[:, None] - foot) ** 2, axis=-1)
        closer = squared < distance
        on_edge = np.where(closer[..., None], foot, on_edge)
        distance = np.where(closer, squared, distance)
    return np.where(inside[..., None], best, on_edge)


def node_features(
    lat: Float[np.ndarray, " node"], lon: Float[np.ndarray, " node"]
) -> Float[np.ndarray, "node 3"]:
    """Structural features of nodes: sine of latitude, cosine and sine of longitude.

    Examples
    --------
    >>> node_features(np.array([90.0]), np.array([0.0])).tolist()
    [[1.0, 1.0, 0.0]]
    """
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.sin(phi), np.cos(lam), np.sin(lam)], axis=-1).astype(np.float32)


def edge_features(
    sender: tuple[Float[np.ndarray, " edge"], Float[np.ndarray, " edge"]],
    receiver: tuple[Float[np.ndarray, " edge"], Float[np.ndarray, " edge"]],
    *,
    normalization: float | None = None,
) -> Float[np.ndarray, "edge 4"]:
    """Length and direction of edges, seen from the receiver.

    The direction is the chord from receiver to sender in the receiver's own frame: up, east,
    north. Everything is divided by `normalization`.

    Parameters
    ----------
    sender, receiver
        Latitude and longitude of the two ends of each edge, degrees.
    normalization
        Chord to divide by; the longest of these edges if None.

    Examples
    --------
    >>> one = np.ones(1)
    >>> edge_features((0 * one, 90 * one), (0 * one, 0 * one)).round(3).tolist()
    [[1.0, -0.707, 0.707, 0.0]]
    """
    lat, lon = (np.deg2rad(np.asarray(x, dtype=np.float64)) for x in receiver)
    lat_s, lon_s = (np.deg2rad(np.asarray(x, dtype=np.float64)) for x in sender)
    s = np.stack([np.cos(lat_s) * np.cos(lon_s), np.cos(lat_s) * np.sin(lon_s), np.sin(lat_s)])
    up = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)])
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    direction = np.stack([np.sum(s * axis, axis=0) for axis in (up, east, north)], axis=-1)
    direction[:, 0] -= 1
    length = np.linalg.norm(direction, axis=-1, keepdims=True)
    longest = length.max() if normalization is None else normalization
    return np.concatenate([length, direction], axis=-1) / longest
