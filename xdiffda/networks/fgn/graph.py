"""The graph of FGN: GenCast's, on a mesh whose positions were rounded through degrees."""

from __future__ import annotations

import functools

import equinox as eqx

from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.gencast.graph import GenCastGraph, connected
from xdiffda.networks.graphcast.graph import unit_vectors
from xdiffda.networks.graphcast.mesh import Mesh, mesh_hierarchy

_OWN_ORDER = (0, 2, 1)  # of structural features: sine of latitude, sine and cosine of longitude


@functools.lru_cache(maxsize=2)
@with_own_jax
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

    As in GenCast, with two differences: the positions of mesh nodes are recomputed from their
    latitude and longitude in single precision, which decides between triangles that are equally
    near a grid node; and structural features come as sin(lat), sin(lon), cos(lon).

    Parameters
    ----------
    lat, lon
        Rows and columns of the grid, degrees; nodes are latitude-major.
    refinement
        How often the icosahedron is split: 5 gives 10,242 mesh nodes, 6 gives 40,962.
    hops
        Mesh nodes attend to all nodes within so many edges.
    radius_fraction
        Radius of the edges from grid to mesh, in units of the mesh's longest edge.
    block
        Mesh nodes whose attention is computed together.

    Examples
    --------
    >>> graph = build_graph((-60.0, 0.0, 60.0), (0.0, 90.0, 180.0, 270.0), refinement=1, hops=2)
    >>> graph.grid_features[1].round(3).tolist()
    [-0.866, 1.0, 0.0]
    """
    finest = mesh_hierarchy(refinement)[-1]
    mesh = Mesh(unit_vectors(finest.lat, finest.lon), finest.faces)
    graph = connected(lat, lon, mesh, hops=hops, radius_fraction=radius_fraction, block=block)
    features = (graph.grid_features, graph.mesh_features)
    return eqx.tree_at(
        lambda g: (g.grid_features, g.mesh_features),
        graph,
        tuple(x[:, list(_OWN_ORDER)] for x in features),
    )
