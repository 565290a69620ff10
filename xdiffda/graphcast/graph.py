"""The graph GraphCast works on: all that depends on grid and mesh, and on no weight."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .connectivity import (
    edge_features,
    flat_grid,
    grid_to_mesh_edges,
    mesh_to_grid_edges,
    node_features,
    unit_vectors,
)
from .mesh import mesh_hierarchy, multimesh_edges
from .tables import Incidence, incidence


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
