"""The network with its edges in chunks, for grids whose edges do not fit into memory at once.

At 0.25 degree three edges lead to each of a million grid nodes, and one array of latent vectors
at edges takes 3 GB for each member (width 512, bfloat16).  Messages are needed only until the
receivers have summed them: here they are computed for some receivers at a time, all their edges
together, so that sums are complete, ordered and free of atomics as in `tables`.  The arithmetic
of every edge and node is that of `GraphCast` without chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .graph import Edges, Graph
from .layers import Conditioning, Interaction, Values, dense
from .rows import Groups, Kept, Rows, Table, groups, in_rows, take, update_rows
from .static import Factored, InFactors, embedded_mesh
from .tables import Incidence

if TYPE_CHECKING:
    from .network import Decoder, Encoder, GraphCast


def apply(
    net: GraphCast, x: Values, graph: Graph, conditioning: Conditioning | None,
    ready: InFactors | None,
) -> Float[Array, "grid batch out"]:  # fmt: skip
    """As `GraphCast.__call__`, with ``edge_chunk`` edges or grid nodes at a time."""
    part, limit = net.encoder, net.config.edge_chunk
    grid, mesh = encode(net, x, graph, conditioning, ready)
    mesh = process(net, mesh, graph, conditioning, ready)

    def updated(nodes: Rows) -> Values:  # as the encoder leaves them: no second array of the grid
        rows = take(grid, nodes)
        return rows + part.grid_update(rows, conditioning)

    return update_receivers(
        net.decoder, ready and ready.mesh2grid, mesh, updated, graph.mesh2grid, conditioning,
        limit, then=net.decoder.output,
    )  # fmt: skip


def encode(
    net: GraphCast, x: Values, graph: Graph, conditioning: Conditioning | None,
    ready: InFactors | None,
) -> tuple[Values, Values]:  # fmt: skip
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
    net: GraphCast, mesh: Values, graph: Graph, conditioning: Conditioning | None,
    ready: InFactors | None,
) -> Values:  # fmt: skip
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
    step: Interaction, kept: Kept, mesh: Values, edges: Edges, grouped: Groups,
    conditioning: Conditioning | None, limit: int,
) -> tuple[Kept, Values]:  # fmt: skip
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
    part: Encoder | Decoder, known: Factored | None, sender: Values,
    receiver: Callable[[Rows], Values], edges: Edges, conditioning: Conditioning | None,
    limit: int, *,
    then: Callable[[Values], Values] = lambda rows: rows,
) -> Values:  # fmt: skip
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
