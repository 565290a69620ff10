"""The graph of GraphCast: everything that depends on grid and mesh but on no weight."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree as cKDTree

from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.edges import Incidence, incidence
from xdiffda.networks.graphcast.mesh import Mesh, mesh_hierarchy, multimesh_edges

# Edges between a latitude-longitude grid and the mesh, and the features they carry.

Indices = Int[np.ndarray, " edge"]

# The thresholds of trimesh, whose query chose the triangles of the published graphs: two triangles
# are equally near a point when their squared distances agree to the first; dot products within
# the second of 0 count as 0.
_TIE = 1e-8
_ZERO = 1e-13
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
    positions: Float[np.ndarray, "grid 3"], mesh: Mesh
) -> tuple[Indices, Indices]:
    """Three edges to every grid node, from the corners of the triangle nearest to it.

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
    face = nearest_face(positions, mesh)
    receivers = np.repeat(np.arange(len(positions), dtype=np.int32), 3)
    return mesh.faces[face].reshape(-1), receivers


def nearest_face(positions: Float[np.ndarray, "node 3"], mesh: Mesh) -> Int[np.ndarray, " node"]:
    """Number of the flat triangle nearest to each position.

    The rule of the published graphs: of the two nearest triangles, where both are farther than
    ``sqrt(_TIE)`` and equally near (over an edge), the one that faces the position more directly.
    Rounding is that of the published graphs too, for it decides most ties on planes of symmetry.
    Where even that leaves two the same to the last bit, the published choice depends on whether
    the processor sorts with vector instructions, and cannot be followed: the lower number here.
    """
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    a, b, c = np.moveaxis(corners, 1, 0)
    normals = np.cross(b - a, c - b)
    normals *= 1 / np.sqrt(_dot(normals, normals))[:, None]
    tree = cKDTree(corners.mean(axis=1))
    n_candidate = min(_CANDIDATES, len(corners))
    nearest = np.empty(len(positions), dtype=np.int64)
    for start in range(0, len(positions), _CHUNK):
        point = np.asarray(positions[start : start + _CHUNK], dtype=np.float64)
        # Sorting by number makes the choice of the lower independent of the tree's order.
        candidates = np.sort(tree.query(point, k=n_candidate)[1], axis=-1)
        offset = point[:, None] - _closest_point(point[:, None], corners[candidates])
        squared = _dot(offset, offset)
        two = np.argsort(squared, axis=-1, kind="stable")[:, :2]
        squared = np.take_along_axis(squared, two, axis=-1)
        faces = np.take_along_axis(candidates, two, axis=-1)
        length = np.sqrt(np.maximum(squared, np.finfo(float).tiny))[..., None]
        direction = np.take_along_axis(offset, two[..., None], axis=1) / length
        facing = np.argmax(_dot(normals[faces], direction), axis=-1)
        tied = (squared[:, 1] - squared[:, 0] < _TIE) & (squared[:, 0] > _TIE)
        chosen = np.where(tied, facing, 0)
        nearest[start : start + _CHUNK] = faces[np.arange(len(point)), chosen]
    return nearest


def _dot(x: Float[np.ndarray, "*any 3"], y: Float[np.ndarray, "*any 3"]) -> np.ndarray:
    """Scalar product, summed from left to right whatever the machine."""
    product = x * y
    return (product[..., 0] + product[..., 1]) + product[..., 2]


def _closest_point(
    point: Float[np.ndarray, "node 1 3"], corners: Float[np.ndarray, "node candidate 3 3"]
) -> Float[np.ndarray, "node candidate 3"]:
    """The point of each candidate triangle that is closest to the node.

    Ericson (2005, Real-Time Collision Detection, 5.1.5): in turn the regions of corner a, corner
    b, edge ab, corner c, edge ac, edge bc; else the point lies over the face. Any other formula
    gives the same up to rounding, but rounding decides ties.
    """
    a, b, c = np.moveaxis(corners, 2, 0)
    ab, ac = b - a, c - a
    # how far along ab and ac, seen from each corner
    ab_a, ac_a = _dot(ab, point - a), _dot(ac, point - a)
    ab_b, ac_b = _dot(ab, point - b), _dot(ac, point - b)
    ab_c, ac_c = _dot(ab, point - c), _dot(ac, point - c)
    # areas opposite to each corner: barycentric coordinates
    of_a = ab_b * ac_c - ab_c * ac_b
    of_b = ab_c * ac_a - ab_a * ac_c
    of_c = ab_a * ac_b - ab_b * ac_a
    to_c, to_b = ac_b - ab_b, ab_c - ac_c  # along bc, from either end
    with np.errstate(divide="ignore", invalid="ignore"):  # of the regions that are not chosen
        one = 1 / (of_a + of_b + of_c)
        foot = [
            a,
            b,
            a + (ab_a / (ab_a - ab_b))[..., None] * ab,
            c,
            a + (ac_a / (ac_a - ac_c))[..., None] * ac,
            b + (to_c / (to_c + to_b))[..., None] * (c - b),
        ]
        over = a + ab * (of_b * one)[..., None] + ac * (of_c * one)[..., None]
    region = [
        (ab_a < _ZERO) & (ac_a < _ZERO),
        (ab_b > -_ZERO) & (ac_b <= ab_b),
        (of_c < _ZERO) & (ab_a > -_ZERO) & (ab_b < _ZERO),
        (ac_c > -_ZERO) & (ab_c <= ac_c),
        (of_b < _ZERO) & (ac_a > -_ZERO) & (ac_c < _ZERO),
        (of_a < _ZERO) & (to_c > -_ZERO) & (to_b > -_ZERO),
    ]
    return np.select([where[..., None] for where in region], foot, over)


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


class Edges(eqx.Module):
    """Directed edges between two sets of nodes, sorted by receiver.

    `degree` is known where every receiver has as many edges, one receiver's after another's.
    """

    senders: Incidence
    receivers: Incidence
    features: Float[Array, "edge 4"]
    degree: int | None = eqx.field(static=True, default=None)


class Graph(eqx.Module):
    """Grid, multimesh and the edges within and between them; a pytree of arrays.

    Pass it to compiled functions as an argument: as a constant it would slow their compilation.
    """

    grid_features: Float[Array, "grid 3"]
    mesh_features: Float[Array, "mesh 3"]
    grid2mesh: Edges
    mesh: Edges
    mesh2grid: Edges

    @property
    def n_grid(self) -> int:
        """Number of grid nodes."""
        return self.grid_features.shape[0]

    @property
    def n_mesh(self) -> int:
        """Number of mesh nodes."""
        return self.mesh_features.shape[0]


@with_own_jax
def build_graph(
    lat: Float[np.ndarray, " lat"],
    lon: Float[np.ndarray, " lon"],
    *,
    refinement: int,
    radius_fraction: float = 0.6,
    mesh2grid_normalization: float | None = None,
) -> Graph:
    """Connect a latitude-longitude grid with an icosahedral multimesh.

    The graph of Lam et al. (2023): a mesh node hears from the grid nodes within a radius, a
    grid node from the three corners of the triangle it lies over. Grid nodes are
    latitude-major: ``node = i_lat * n_lon + i_lon``, in the order of ``lat`` and ``lon``.

    Parameters
    ----------
    lat, lon
        Coordinates of the rows and columns of the grid, degrees; any spacing, poles or not.
    refinement
        How often the icosahedron is split: 3 gives 642 mesh nodes, 6 gives 40,962.
    radius_fraction
        Radius of the edges from grid to mesh, in units of the longest edge of the finest mesh.
    mesh2grid_normalization
        Chord by which the features of edges from mesh to grid are divided; the longest of
        them if None.

    Raises
    ------
    ValueError
        If a coordinate is not one-dimensional and finite, or a latitude is not in [-90, 90].

    Examples
    --------
    >>> graph = build_graph(np.linspace(-90, 90, 19), np.arange(0, 360, 10), refinement=2)
    >>> graph.n_grid, graph.n_mesh, len(graph.mesh2grid.features)
    (684, 162, 2052)
    """
    lat, lon = np.asarray(lat), np.asarray(lon)
    _check_coordinates(lat, lon)
    meshes = mesh_hierarchy(refinement)
    finest = meshes[-1]
    grid_lat, grid_lon = flat_grid(lat, lon)
    positions = unit_vectors(grid_lat, grid_lon)
    radius = np.float32(radius_fraction) * finest.longest_edge

    grid, mesh = (grid_lat, grid_lon), (finest.lat, finest.lon)
    senders, receivers = multimesh_edges(meshes)
    order = np.lexsort((senders, receivers))
    return Graph(
        grid_features=jnp.asarray(node_features(*grid)),
        mesh_features=jnp.asarray(node_features(*mesh)),
        grid2mesh=connect(grid_to_mesh_edges(positions, finest, radius=radius), grid, mesh),
        mesh=connect((senders[order], receivers[order]), mesh, mesh),
        mesh2grid=connect(
            mesh_to_grid_edges(positions, finest),
            mesh,
            grid,
            normalization=mesh2grid_normalization,
        ),
    )


def connect(
    ends: tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]],
    sender: tuple[Float[np.ndarray, " sender"], Float[np.ndarray, " sender"]],
    receiver: tuple[Float[np.ndarray, " receiver"], Float[np.ndarray, " receiver"]],
    *,
    normalization: float | None = None,
) -> Edges:
    """Edges with features and tables, from the numbers and the (lat, lon) of their nodes."""
    senders, receivers = ends
    features = edge_features(
        (sender[0][senders], sender[1][senders]),
        (receiver[0][receivers], receiver[1][receivers]),
        normalization=normalization,
    )
    return Edges(
        senders=incidence(senders, len(sender[0])),
        receivers=incidence(receivers, len(receiver[0])),
        features=jnp.asarray(features),
        degree=_regular_degree(receivers, len(receiver[0])),
    )


def _regular_degree(receivers: Int[np.ndarray, " edge"], n_node: int) -> int | None:
    degree, rest = divmod(len(receivers), n_node)
    regular = not rest and np.array_equal(receivers, np.repeat(np.arange(n_node), degree))
    return degree if regular else None


def _check_coordinates(lat: np.ndarray, lon: np.ndarray) -> None:
    for name, values in (("lat", lat), ("lon", lon)):
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} must be a non-empty 1-D array of finite degrees, got shape {values.shape}"
            )
    if np.abs(lat).max() > 90:
        raise ValueError(f"lat must lie in [-90, 90], got {lat.min()} to {lat.max()}")
