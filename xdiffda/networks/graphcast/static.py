"""Terms of the network that depend on the graph alone, cached whole or as low-rank factors.

Embedded edges take (edges x latent) numbers: 0.7 GB at 1 degree, 6 GB at 0.25 degree in half
precision.  They are smooth functions of the four features of an edge (its length and its
direction), so all of them lie, to float32's rounding, in a space of 64 to 80 dimensions (width 512;
48 of width 128; fewer where products are rounded):

    W_e embed(features) = C Q,   C (edge, rank), Q (rank, latent)

which takes a seventh of the memory, and less than a tenth of the operations of embedding anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xdiffda.networks.graphcast.edges import (
    Groups,
    Incidence,
    Kept,
    Rows,
    Table,
    groups,
    in_rows,
    take,
    update_rows,
)
from xdiffda.networks.graphcast.graph import Edges, Graph
from xdiffda.networks.graphcast.layers import Conditioning, Interaction, Values, dense

if TYPE_CHECKING:
    from xdiffda.networks.graphcast.network import Decoder, Encoder, GraphCast


N_STRUCTURAL = 3
# What the factors may lack at any edge over the size of all values, root mean square over channels:
# float32 itself is off by 2e-7 to 5e-7 after embedding, normalisation and product.
_TOLERANCE = 1e-6
_TOLERANCE_ROUNDED = 1e-4  # where values or factors have bfloat16's 8 bits (4e-3), or TF32's 11
_SAMPLE = 2048
_BLOCK = 16  # ranks are multiples of it, as matrix units want them


class Factored(eqx.Module):
    """Values at edges as C Q.

    Attributes
    ----------
    coefficients : array (edge, rank)
    basis : array (rank, latent)
        Orthonormal rows.
    """

    coefficients: Float[Array, "edge rank"]
    basis: Float[Array, "rank latent"]

    def at(self, edges: Int[Array, " row"]) -> Values:
        """Values at some edges; zeros for numbers past the end."""
        own = self.coefficients.at[edges].get(mode="fill", fill_value=0)
        return dense(own[:, None], self.basis)


class Prepared(eqx.Module):
    """What the network computes from the graph alone: the same for every state and member.

    Attributes
    ----------
    grid : array (grid, 1, latent)
        Share of the structural features in the first layer of the grid's embedding.
    mesh : array (mesh, 1, latent)
        Embedded mesh nodes.
    edge : array (mesh edge, 1, latent)
        Embedded edges of the multimesh.
    grid2mesh, mesh2grid : arrays (edge, 1, latent)
        Embedded edges, multiplied already by the first weight of the step that reads them.
    """

    grid: Values
    mesh: Values
    edge: Values
    grid2mesh: Values
    mesh2grid: Values


class InFactors(eqx.Module):
    """The same for edges in chunks: edges in factors, None where these would be as large.

    The share of the grid's structural features takes few operations: it is not kept.
    """

    mesh: Values
    edge: Factored | None
    grid2mesh: Factored | None
    mesh2grid: Factored | None


def whole(net: GraphCast, graph: Graph) -> Prepared:
    """All of it as it is: most memory, no operations afterwards."""
    encoder, decoder = net.encoder, net.decoder
    _, on_grid = encoder.grid_embed.split(net.config.n_inputs, N_STRUCTURAL)
    return Prepared(
        grid=dense(graph.grid_features[:, None], on_grid),
        mesh=embedded_mesh(net, graph),
        edge=net.processor.edge_embed(graph.mesh.features[:, None]),
        grid2mesh=encoder.step.project(encoder.edge_embed(graph.grid2mesh.features[:, None])),
        mesh2grid=decoder.step.project(decoder.edge_embed(graph.mesh2grid.features[:, None])),
    )


def embedded_mesh(net: GraphCast, graph: Graph) -> Values:
    """Embedded mesh nodes: they have zeros in place of data."""
    embed = net.encoder.mesh_embed
    _, on_mesh = embed.split(net.config.n_inputs, N_STRUCTURAL)
    return embed.finish(dense(graph.mesh_features[:, None], on_mesh))


def in_factors(net: GraphCast, graph: Graph) -> InFactors:
    """The edges in factors, for networks with edges in chunks.

    The ranks depend on the weights: this is computed at once and cannot be compiled into
    another function.
    """
    encoder, processor, decoder = net.encoder, net.processor, net.decoder
    limit = net.config.edge_chunk
    exact = net.config.dtype != "bfloat16" and net.config.precision == "highest"
    tolerance = _TOLERANCE if exact else _TOLERANCE_ROUNDED
    edges = (
        factored(processor.edge_embed, graph.mesh.features, limit, tolerance),
        factored(_projected(encoder), graph.grid2mesh.features, limit, tolerance),
        factored(_projected(decoder), graph.mesh2grid.features, limit, tolerance),
    )
    return InFactors(eqx.filter_jit(embedded_mesh)(net, graph), *edges)


def _projected(part: Encoder | Decoder) -> Callable[[Values], Values]:
    """From the features of edges to their share in the first layer of a message."""
    return eqx.filter_jit(lambda features: part.step.project(part.edge_embed(features)))


def factored(
    embed: Callable[[Values], Values],
    features: Float[Array, "edge feature"],
    limit: int,
    tolerance: float = _TOLERANCE,
) -> Factored | None:
    """A function of all edges as C Q, or None if C would be over half of its size.

    Parameters
    ----------
    embed : callable
        From (edge, 1, feature) to (edge, 1, latent).
    features : array (edge, feature)
    limit : int
        Edges at a time.
    tolerance : float
        What may be lacking at any edge, over the size of the values.

    Examples
    --------
    >>> features = jnp.linspace(-1, 1, 3000)[:, None]
    >>> wave = lambda x: jnp.sin(x + jnp.arange(64.0))
    >>> factors = factored(wave, features, 1024)
    >>> factors.coefficients.shape
    (3000, 16)
    >>> bool(jnp.allclose(factors.at(jnp.arange(3)), wave(features[:3, None]), atol=1e-5))
    True
    """
    some = np.unique(np.linspace(0, len(features) - 1, _SAMPLE).astype(int))
    values = _values(embed, features, some)
    tolerance *= np.sqrt(np.square(values).mean())
    basis = _extended(np.empty((0, values.shape[1])), values, tolerance)
    while len(basis) <= values.shape[1] // 2:
        coefficients, residual = _on_basis(embed, limit)(features, jnp.asarray(basis, jnp.float32))
        # The residual of all edges has the rounding of two float32 products in it, which some
        # processors leave above the tolerance: it finds the worst edges, and is not the judge.
        values = _values(embed, features, jnp.argsort(residual)[-_SAMPLE:])
        if _lacking(values, basis).max() <= tolerance:
            return Factored(coefficients, jnp.asarray(basis, features.dtype))
        basis = _extended(basis, values, tolerance)
    return None


def _values(embed: Callable[[Values], Values], features: Array, edges: Any) -> np.ndarray:
    return np.asarray(embed(features[edges][:, None])[:, 0], np.float64)


def _extended(basis: np.ndarray, values: np.ndarray, tolerance: float) -> np.ndarray:
    """The basis with as many blocks of directions as these values need (past half of all: none)."""
    while len(basis) <= values.shape[1] // 2 and _lacking(values, basis).max() > tolerance:
        found = np.linalg.svd(_beyond(values, basis), full_matrices=False)[2][:_BLOCK]
        # Once more: of what is that small, a part is rounding that lies along the basis.
        basis = np.concatenate([basis, np.linalg.qr(_beyond(found, basis).T)[0].T])
    return basis


def _beyond(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What is left of some values beyond a basis."""
    return values - (values @ basis.T) @ basis


def _lacking(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Its root mean square over the channels, for each row."""
    return np.sqrt(np.square(_beyond(values, basis)).mean(axis=1))


def _on_basis(embed: Callable[[Values], Values], limit: int) -> Callable:
    """Coefficients of all edges, and what each of them lacks (root mean square)."""

    def of_rows(features: Float[Array, "edge feature"], basis: Array) -> Array:
        values = embed(features[:, None])
        own = dense(values, basis.T)
        lacking = jnp.sqrt(jnp.square(values - dense(own, basis)).mean(axis=-1, keepdims=True))
        return jnp.concatenate([own, lacking], axis=-1)

    @jax.jit
    def of_all(features: Float[Array, "edge feature"], basis: Array) -> tuple[Array, Array]:
        found = in_rows(lambda rows: of_rows(rows, basis), limit, features)[:, 0]
        return found[:, :-1], found[:, -1]

    return of_all


# The network with its edges in chunks, for grids whose edges do not fit into memory at once.
#
# At 0.25 degree three edges lead to each of a million grid nodes, and one array of latent vectors
# at edges takes 3 GB for each member (width 512, bfloat16).  Messages are needed only until the
# receivers have summed them: here they are computed for some receivers at a time, all their edges
# together, so that sums are complete, ordered and free of atomics as in `tables`.  The arithmetic
# of every edge and node is that of `GraphCast` without chunks.


def apply(
    net: GraphCast,
    x: Values,
    graph: Graph,
    conditioning: Conditioning | None,
    ready: InFactors | None,
) -> Float[Array, "grid batch out"]:
    """As `GraphCast.__call__`, with ``edge_chunk`` edges or grid nodes at a time."""
    part, limit = net.encoder, net.config.edge_chunk
    grid, mesh = encode(net, x, graph, conditioning, ready)
    mesh = process(net, mesh, graph, conditioning, ready)

    def updated(nodes: Rows) -> Values:  # as the encoder leaves them: no second array of the grid
        rows = take(grid, nodes)
        return rows + part.grid_update(rows, conditioning)

    return update_receivers(
        net.decoder,
        ready and ready.mesh2grid,
        mesh,
        updated,
        graph.mesh2grid,
        conditioning,
        limit,
        then=net.decoder.output,
    )


def encode(
    net: GraphCast,
    x: Values,
    graph: Graph,
    conditioning: Conditioning | None,
    ready: InFactors | None,
) -> tuple[Values, Values]:
    """Embedded grid nodes, and latent mesh nodes after the step from grid to mesh."""
    part, limit = net.encoder, net.config.edge_chunk
    n_data = net.config.n_inputs
    on_data, on_structure = part.grid_embed.split(n_data, graph.grid_features.shape[1])

    def embed(x: Values, structure: Float[Array, "row 3"]) -> Values:
        first = dense(x, on_data) + dense(structure[:, None], on_structure)
        return part.grid_embed.finish(first, conditioning)

    grid = in_rows(embed, limit, x, graph.grid_features)
    mesh = embedded_mesh(net, graph) if ready is None else ready.mesh
    own, rows = ready and ready.grid2mesh, partial(take, mesh)
    return grid, update_receivers(part, own, grid, rows, graph.grid2mesh, conditioning, limit)


def process(
    net: GraphCast,
    mesh: Values,
    graph: Graph,
    conditioning: Conditioning | None,
    ready: InFactors | None,
) -> Values:
    """Latent mesh nodes after all processor steps.

    Edges lie in groups of one receiver each, so that a chunk holds all that a group sums:
    messages are gone with their chunk, and edges are changed where they lie.
    """
    part, edges, limit = net.processor, graph.mesh, net.config.edge_chunk
    grouped = groups(edges.receivers)

    def embed(numbers: Rows) -> Float[Array, "row channel"]:
        if ready is not None and ready.edge is not None:
            return ready.edge.at(numbers)[:, 0]
        features = edges.features.at[numbers].get(mode="fill", fill_value=0)
        return part.edge_embed(features[:, None])[:, 0]

    kept = jnp.tile(in_rows(embed, limit, grouped.edges.reshape(-1)), (1, mesh.shape[1]))

    def apply(step: Interaction, kept: Kept, mesh: Values) -> tuple[Kept, Values]:
        kept, total = exchange(step, kept, mesh, edges, grouped, conditioning, limit)
        on_node, on_total = step.node.split(mesh.shape[-1], mesh.shape[-1])
        first = dense(mesh, on_node) + dense(total, on_total)
        return kept, mesh + step.node.finish(first, conditioning)

    apply = jax.checkpoint(apply) if net.config.remat else apply
    # never unrolled: the compiler would keep the edges of many steps
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *part.steps)
    return jax.lax.scan(lambda c, step: (apply(step, *c), None), (kept, mesh), stacked)[0][1]


def exchange(
    step: Interaction,
    kept: Kept,
    mesh: Values,
    edges: Edges,
    grouped: Groups,
    conditioning: Conditioning | None,
    limit: int,
) -> tuple[Kept, Values]:
    """Edges after one step on the multimesh, and the sums of messages at its nodes."""
    width, size = mesh.shape[-1], grouped.edges.shape[1]
    on_edge, on_sender, on_receiver = step.edge.split(width, width, width)
    sent, received = dense(mesh, on_sender), dense(mesh, on_receiver)

    def message(own: Kept, numbers: Table, receiver: Rows) -> tuple[Kept, Values]:
        flat, before = numbers.reshape(-1), own.reshape(len(own), -1, width)
        senders = edges.senders.node.at[flat].get(mode="fill", fill_value=0)
        brought = take(sent, senders) + take(received, jnp.repeat(receiver, size))
        out = step.edge.finish(dense(before, on_edge) + brought, conditioning)
        wide = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        if grouped.filled:
            wide = jnp.where((flat < edges.features.shape[0])[:, None, None], wide, 0)
        return (before + out).reshape(own.shape), wide.reshape(-1, size, *wide.shape[1:]).sum(1)

    rows = max(limit // size, 1)
    kept, sums = update_rows(message, rows, kept, grouped.edges, grouped.receiver)
    return kept, grouped.total(sums).astype(mesh.dtype)


def update_receivers(
    part: Encoder | Decoder,
    known: Factored | None,
    sender: Values,
    receiver: Callable[[Rows], Values],
    edges: Edges,
    conditioning: Conditioning | None,
    limit: int,
    *,
    then: Callable[[Values], Values] = lambda rows: rows,
) -> Values:
    """Receivers after one step along edges that nobody needs afterwards.

    Parameters
    ----------
    part : Encoder or Decoder
        Has the step, and embeds the features of the edges.
    known : Factored or None
        Embedded edges multiplied by the first weight of the step; None to compute them here.
    sender : array (node, batch, channel)
    receiver : callable
        From numbers of nodes to their rows (node, batch, channel).
    edges : Edges
    conditioning : array (batch, cond) or None
    limit : int
        Edges at a time.
    then : callable
        Applied to the updated receivers of each chunk.
    """
    step = part.step
    width = sender.shape[-1]
    on_edge, on_sender, on_receiver = step.edge.split(width, width, width)
    on_node, on_total = step.node.split(width, width)
    # where senders are few, they are projected once; else those of a chunk, edge by edge
    few = 2 * sender.shape[0] < edges.features.shape[0]
    sent = dense(sender, on_sender) if few else sender

    def embedded(numbers: Rows) -> Values:
        features = edges.features.at[numbers].get(mode="fill", fill_value=0)
        return dense(part.edge_embed(features[:, None]), on_edge)

    def update(numbers: Table, nodes: Rows) -> Values:
        own = receiver(nodes)
        flat = numbers.reshape(-1)
        first = known.at(flat) if known is not None else embedded(flat)
        values = take(sent, edges.senders.node.at[flat].get(mode="fill", fill_value=0))
        values = values if few else dense(values, on_sender)
        received = jnp.repeat(dense(own, on_receiver), numbers.shape[1], axis=0)
        messages = step.edge.finish(first + values + received, conditioning)
        wide = messages.astype(jnp.promote_types(messages.dtype, jnp.float32))
        real = (flat < edges.features.shape[0])[:, None, None]
        wide = jnp.where(real, wide, 0).reshape(*numbers.shape, *wide.shape[1:])
        total = wide.sum(axis=1).astype(messages.dtype)
        first = dense(own, on_node) + dense(total, on_total)
        return then(own + step.node.finish(first, conditioning))

    return by_receiver(update, edges.receivers, limit)


def by_receiver(function: Callable[[Table, Rows], Values], end: Incidence, limit: int) -> Values:
    """Rows for all nodes, from a function of the edges that meet some of them and their numbers.

    Edge numbers may be past the end: such edges do not exist.
    """
    rows, done = [], 0
    for bucket in end.buckets:
        nodes = end.node.at[bucket.edges[:, 0]].get(mode="promise_in_bounds")
        rows.append(in_rows(function, max(limit // bucket.edges.shape[1], 1), bucket.edges, nodes))
        done += len(bucket.edges)
    position, alone = end.position, end.n_node - done
    if alone:  # nodes that no edge meets
        lone = position >= done
        nodes = jnp.nonzero(lone, size=alone)[0].astype(end.node.dtype)
        absent = jnp.full((alone, 1), end.node.shape[0], end.node.dtype)
        rows.append(in_rows(function, limit, absent, nodes))
        position = jnp.where(lone, done + jnp.cumsum(lone) - 1, position)
    return take(jnp.concatenate(rows) if len(rows) > 1 else rows[0], position)
