"""The graph GenCast works on: GraphCast's edges to and from the finest mesh, and its caps."""

from __future__ import annotations

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.graphcast.connectivity import (
    flat_grid,
    grid_to_mesh_edges,
    mesh_to_grid_edges,
    node_features,
    unit_vectors,
)
from xdiffda.graphcast.graph import Edges, connect
from xdiffda.graphcast.mesh import Mesh, mesh_hierarchy

from .hops import Neighbourhoods, neighbourhoods


class GenCastGraph(eqx.Module):
    """Grid, mesh, the edges between them, and what mesh nodes attend to; a pytree of arrays.

    Pass it to compiled functions as an argument: as a constant it would slow their compilation.
    """

    grid_features: Float[Array, "grid 3"]
    mesh_features: Float[Array, "mesh 3"]
    grid2mesh: Edges
    near: Neighbourhoods
    mesh2grid: Edges

    @property
    def n_grid(self) -> int:
        """Number of grid nodes."""
        return self.grid_features.shape[0]

    @property
    def n_mesh(self) -> int:
        """Number of mesh nodes."""
        return self.mesh_features.shape[0]


@functools.lru_cache(maxsize=2)
def build_graph(
    lat: tuple[float, ...],
    lon: tuple[float, ...],
    *,
    refinement: int,
    hops: int,
    radius_fraction: float = 0.6,
    block: int = 256,
) -> GenCastGraph:
    """Connect a latitude-longitude grid with an icosahedral mesh.

    Parameters
    ----------
    lat, lon
        Rows and columns of the grid, degrees; nodes are latitude-major.
    refinement
        How often the icosahedron is split: 4 gives 2,562 mesh nodes, 6 gives 40,962.
    hops
        Mesh nodes attend to all nodes within so many edges.
    radius_fraction
        Radius of the edges from grid to mesh, in units of the mesh's longest edge.
    block
        Mesh nodes whose attention is computed together: ``neighbourhoods``.

    Examples
    --------
    >>> graph = build_graph((-60.0, 0.0, 60.0), (0.0, 90.0, 180.0, 270.0), refinement=1, hops=2)
    >>> graph.n_grid, graph.n_mesh, graph.near.seen.shape
    (12, 42, (1, 42, 42))
    """
    mesh = mesh_hierarchy(refinement)[-1]
    return connected(lat, lon, mesh, hops=hops, radius_fraction=radius_fraction, block=block)


def connected(
    lat: tuple[float, ...],
    lon: tuple[float, ...],
    mesh: Mesh,
    *,
    hops: int,
    radius_fraction: float,
    block: int,
    tie: float = 1e-10,
) -> GenCastGraph:
    """The same on a mesh that is given; ``tie`` is that of `mesh_to_grid_edges`."""
    grid_lat, grid_lon = flat_grid(np.asarray(lat), np.asarray(lon))
    positions = unit_vectors(grid_lat, grid_lon)
    radius = np.float32(radius_fraction) * mesh.longest_edge
    grid, vertices = (grid_lat, grid_lon), (mesh.lat, mesh.lon)
    triangles = mesh_to_grid_edges(positions, mesh, tie=tie)
    return GenCastGraph(
        grid_features=jnp.asarray(node_features(*grid)),
        mesh_features=jnp.asarray(node_features(*vertices)),
        grid2mesh=connect(grid_to_mesh_edges(positions, mesh, radius=radius), grid, vertices),
        near=neighbourhoods(mesh, hops, block=block),
        mesh2grid=connect(triangles, vertices, grid),
    )
