"""The graph of GenCast: GraphCast's edges to and from the finest mesh, and attention blocks."""

from __future__ import annotations

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.graph import (
    Edges,
    connect,
    flat_grid,
    grid_to_mesh_edges,
    mesh_to_grid_edges,
    node_features,
    unit_vectors,
)
from xdiffda.networks.graphcast.mesh import Mesh, mesh_hierarchy

# Neighbourhoods of a mesh: which nodes each node attends to, in compact blocks.
#
# A node attends to the nodes within k edges (Price et al. 2024: 32-hop neighbourhoods).  On the
# sphere those are caps.  Nodes are grouped into compact blocks, so that the caps of one block
# overlap almost entirely: a block reads the union of them and masks what is beyond.  (In an
# order that makes the mask a band matrix, each block would read three whole bands, on the finest
# mesh most of the globe.)

_MOST_NEIGHBOURS = 6


class Neighbourhoods(eqx.Module):
    """Blocks of nodes, and what each may attend to.

    Attributes
    ----------
    nodes : array (block, query)
        Nodes of each block, padded with its first node.
    keys : array (block, key)
        Nodes that a block reads, each once, padded with indices out of range.
    seen : array (block, query, key)
        Whether a node of the block attends to one that is read.
    position : array (node,)
        Where each node stands in the blocks laid end to end.
    """

    nodes: Int[Array, "block query"]
    keys: Int[Array, "block key"]
    seen: Bool[Array, "block query key"]
    position: Int[Array, " node"]


def neighbourhoods(mesh: Mesh, hops: int, *, block: int = 256) -> Neighbourhoods:
    """Group the nodes of a mesh into blocks, and find all nodes within so many edges.

    Parameters
    ----------
    mesh
        Edges and positions; the finest mesh of GenCast.
    hops
        Number of edges.
    block
        Largest number of nodes in a block.

    Raises
    ------
    ValueError
        If ``hops`` is negative or ``block`` is not positive.

    Examples
    --------
    >>> from xdiffda.networks.graphcast.mesh import icosahedron
    >>> near = neighbourhoods(icosahedron(), 1)
    >>> near.seen.shape, near.seen.sum(-1).tolist()[0][:3]
    ((1, 12, 12), [6, 6, 6])
    """
    if hops < 0 or block < 1:
        raise ValueError(f"hops must be 0 or more and block 1 or more, got {hops} and {block}")
    table, blocks = neighbour_table(mesh), compact_blocks(mesh.vertices, block)
    found = [reachable(table, nodes, hops) for nodes in blocks]
    n_node, n_query = len(mesh.vertices), max(len(nodes) for nodes in blocks)
    n_key = max(len(keys) for keys, _ in found)
    nodes = np.stack([np.pad(b, (0, n_query - len(b)), constant_values=b[0]) for b in blocks])
    # numbers out of range differ: the transpose of a gather by unique numbers needs no atomics
    all_keys = np.tile(n_node + np.arange(n_key), (len(blocks), 1))
    seen = np.zeros((len(blocks), n_query, n_key), bool)
    position = np.empty(n_node, np.int32)
    for i, (own, (keys, mask)) in enumerate(zip(blocks, found, strict=True)):
        all_keys[i, : len(keys)] = keys
        seen[i, : len(own), : len(keys)] = mask
        seen[i, len(own) :] = seen[i, 0]  # a row without any node would give NaN
        position[own] = i * n_query + np.arange(len(own))
    return Neighbourhoods(
        jnp.asarray(nodes, jnp.int32),
        jnp.asarray(all_keys, jnp.int32),
        jnp.asarray(seen),
        jnp.asarray(position),
    )


def neighbour_table(mesh: Mesh) -> Int[np.ndarray, "node 6"]:
    """Neighbours of every node; the twelve nodes that have five get themselves as the sixth.

    Examples
    --------
    >>> from xdiffda.networks.graphcast.mesh import icosahedron
    >>> neighbour_table(icosahedron())[0].tolist()
    [1, 2, 4, 6, 8, 0]
    """
    senders, receivers = mesh.edges
    order = np.lexsort((senders, receivers))
    senders, receivers = senders[order], receivers[order]
    n_node = len(mesh.vertices)
    degree = np.bincount(receivers, minlength=n_node)
    slot = np.arange(len(receivers)) - np.repeat(np.cumsum(degree) - degree, degree)
    table = np.tile(np.arange(n_node)[:, None], (1, _MOST_NEIGHBOURS))
    table[receivers, slot] = senders
    return table


def compact_blocks(
    positions: Float[np.ndarray, "node 3"], size: int
) -> list[Int[np.ndarray, " member"]]:
    """Halve the nodes across their longest extent until no part has more than ``size``.

    Examples
    --------
    >>> [part.tolist() for part in compact_blocks(np.diag([1.0, 2.0, 9.0]), 2)]
    [[0], [1, 2]]
    """
    pending, blocks = [np.arange(len(positions))], []
    while pending:
        nodes = pending.pop()
        if len(nodes) <= size:
            blocks.append(np.sort(nodes))
            continue
        along = positions[nodes, np.argmax(np.ptp(positions[nodes], axis=0))]
        nodes = nodes[np.argsort(along, kind="stable")]
        pending += [nodes[len(nodes) // 2 :], nodes[: len(nodes) // 2]]
    return blocks


def reachable(
    table: Int[np.ndarray, "node degree"], nodes: Int[np.ndarray, " query"], hops: int
) -> tuple[Int[np.ndarray, " key"], Bool[np.ndarray, "query key"]]:
    """Nodes within so many edges of any of ``nodes``, and of which ones.

    Sets of nodes are carried from neighbour to neighbour as bits, eight of them in a byte.
    """
    near = np.zeros(len(table), bool)
    near[nodes] = True
    for _ in range(hops):
        near |= near[table].any(axis=1)
        if near.all():
            break
    keys = np.flatnonzero(near)
    # beyond the last key stands a row of zeros, for neighbours that nobody needs
    local = np.full(len(table), len(keys))
    local[keys] = np.arange(len(keys))
    around = local[table[keys]]
    bits = np.zeros((len(keys) + 1, -(-len(nodes) // 8)), np.uint8)
    bits[local[nodes]] = np.packbits(np.eye(len(nodes), dtype=bool), axis=1)
    for _ in range(hops):
        bits[:-1] |= np.bitwise_or.reduce(bits[around], axis=1)
    return keys, np.unpackbits(bits[:-1], axis=1, count=len(nodes)).T.astype(bool)


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
) -> GenCastGraph:
    """The same on a mesh that is given."""
    grid_lat, grid_lon = flat_grid(np.asarray(lat), np.asarray(lon))
    positions = unit_vectors(grid_lat, grid_lon)
    radius = np.float32(radius_fraction) * mesh.longest_edge
    grid, vertices = (grid_lat, grid_lon), (mesh.lat, mesh.lon)
    triangles = mesh_to_grid_edges(positions, mesh)
    return GenCastGraph(
        grid_features=jnp.asarray(node_features(*grid)),
        mesh_features=jnp.asarray(node_features(*vertices)),
        grid2mesh=connect(grid_to_mesh_edges(positions, mesh, radius=radius), grid, vertices),
        near=neighbourhoods(mesh, hops, block=block),
        mesh2grid=connect(triangles, vertices, grid),
    )
