"""The network with its edges in chunks, for grids whose edges do not fit into memory at once.

At 0.25 degree three edges lead to each of a million grid nodes, and one array of latent vectors
at edges takes 3 GB for each member (width 512, bfloat16).  Messages are needed only until the
receivers have summed them: here they are computed for some receivers at a time, all their edges
together, so that sums are complete, ordered and free of atomics as in `tables`.  The arithmetic
of every edge and node is that of `GraphCast.encode` and `decode`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .graph import Edges, Graph
from .layers import Block, Conditioning, Interaction, Values, dense, neighbour_sum
from .tables import Incidence

if TYPE_CHECKING:
    from .network import GraphCast

Rows = Int[Array, " row"]


def encode(
    net: GraphCast, x: Values, graph: Graph, conditioning: Conditioning | None
) -> tuple[Values, Values]:
    """As `GraphCast.encode`, with ``edge_chunk`` edges or grid nodes at a time."""
    part, limit = net.encoder, net.config.edge_chunk
    n_data = net.config.n_inputs
    on_data, on_structure = part.grid_embed.split(n_data, graph.grid_features.shape[1])

    def embed(x: Values, structure: Float[Array, "row 3"]) -> Values:
        first = dense(x, on_data) + dense(structure[:, None], on_structure)
        return part.grid_embed.finish(first, conditioning)

    grid = in_rows(embed, limit, x, graph.grid_features)
    _, on_structure = part.mesh_embed.split(n_data, graph.mesh_features.shape[1])
    mesh = part.mesh_embed.finish(dense(graph.mesh_features[:, None], on_structure))
    mesh = update_receivers(
        part.edge_embed, part.step, grid, mesh, graph.grid2mesh, conditioning, limit
    )
    grid = in_rows(lambda rows: rows + part.grid_update(rows, conditioning), limit, grid)
    return grid, mesh


def decode(
    net: GraphCast, mesh: Values, grid: Values, graph: Graph, conditioning: Conditioning | None
) -> Float[Array, "grid batch out"]:
    """As `GraphCast.decode`, with ``edge_chunk`` edges at a time."""
    part = net.decoder
    return update_receivers(
        part.edge_embed, part.step, mesh, grid, graph.mesh2grid, conditioning,
        net.config.edge_chunk, then=part.output,
    )  # fmt: skip


def interact(
    step: Interaction, edge: Values, sender: Values, receiver: Values, edges: Edges,
    conditioning: Conditioning | None, limit: int,
) -> tuple[Values, Values]:  # fmt: skip
    """As an `Interaction` whose edges go on to the next step, ``limit`` of them at a time."""
    width = edge.shape[-1]
    on_edge, on_sender, on_receiver = step.edge.split(width, width, width)
    sent, received = dense(sender, on_sender), dense(receiver, on_receiver)

    def message(edge: Values, senders: Rows, receivers: Rows) -> Values:
        first = dense(edge, on_edge) + take(sent, senders) + take(received, receivers)
        return step.edge.finish(first, conditioning)

    messages = in_rows(message, limit, edge, edges.senders.node, edges.receivers.node)
    total = neighbour_sum(messages, edges.receivers)
    on_node, on_total = step.node.split(width, width)
    first = dense(receiver, on_node) + dense(total, on_total)
    return messages, step.node.finish(first, conditioning)


def update_receivers(
    embed: Block, step: Interaction, sender: Values, receiver: Values, edges: Edges,
    conditioning: Conditioning | None, limit: int, *,
    then: Callable[[Values], Values] = lambda rows: rows,
) -> Values:  # fmt: skip
    """Receivers after one step along edges that nobody needs afterwards.

    Parameters
    ----------
    embed : Block
        Of the features of the edges.
    step : Interaction
    sender, receiver : arrays (node, batch, channel)
    edges : Edges
    conditioning : array (batch, cond) or None
    limit : int
        Edges at a time.
    then : callable
        Applied to the updated receivers of each chunk.
    """
    width = receiver.shape[-1]
    on_edge, on_sender, on_receiver = step.edge.split(width, width, width)
    on_node, on_total = step.node.split(width, width)
    # where senders are few, they are projected once; else those of a chunk, edge by edge
    few = 2 * sender.shape[0] < edges.features.shape[0]
    sent = dense(sender, on_sender) if few else sender

    def update(numbers: Int[Array, "row degree"], nodes: Rows) -> Values:
        own = take(receiver, nodes)
        flat = numbers.reshape(-1)
        features = edges.features.at[flat].get(mode="fill", fill_value=0)
        values = take(sent, edges.senders.node.at[flat].get(mode="fill", fill_value=0))
        values = values if few else dense(values, on_sender)
        received = jnp.repeat(dense(own, on_receiver), numbers.shape[1], axis=0)
        first = dense(embed(features[:, None]), on_edge) + values + received
        messages = step.edge.finish(first, conditioning)
        wide = messages.astype(jnp.promote_types(messages.dtype, jnp.float32))
        real = (flat < edges.features.shape[0])[:, None, None]
        wide = jnp.where(real, wide, 0).reshape(*numbers.shape, *wide.shape[1:])
        total = wide.sum(axis=1).astype(messages.dtype)
        first = dense(own, on_node) + dense(total, on_total)
        return then(own + step.node.finish(first, conditioning))

    return by_receiver(update, edges.receivers, limit)


def by_receiver(
    function: Callable[[Int[Array, "row degree"], Rows], Values], end: Incidence, limit: int
) -> Values:
    """Rows for all nodes, from a function of the edges that meet some of them and their numbers.

    Edge numbers may be past the end: such edges do not exist.
    """
    rows, done = [], 0
    for bucket in end.buckets:
        n, degree = bucket.edges.shape
        nodes = end.node.at[bucket.edges[:, 0]].get(mode="promise_in_bounds")
        rows.append(in_rows(function, max(limit // degree, 1), bucket.edges, nodes))
        done += n
    position, alone = end.position, end.n_node - done
    if alone:  # nodes that no edge meets
        lone = position >= done
        nodes = jnp.nonzero(lone, size=alone)[0].astype(end.node.dtype)
        absent = jnp.full((alone, 1), end.node.shape[0], end.node.dtype)
        rows.append(in_rows(function, limit, absent, nodes))
        position = jnp.where(lone, done + jnp.cumsum(lone) - 1, position)
    return take(jnp.concatenate(rows) if len(rows) > 1 else rows[0], position)


def in_rows(function: Callable[..., Values], limit: int, *arrays: Array) -> Values:
    """Apply a function of rows to at most ``limit`` of them at a time.

    In the backward pass each chunk is computed anew: its values would otherwise be kept.
    """
    n = arrays[0].shape[0]
    least = -(-n // limit)
    if least <= 1:
        return function(*arrays)
    # equal chunks need no filling, and so no copy of what is large
    count = next((c for c in range(least, min(2 * least, n) + 1) if n % c == 0), least)
    size = -(-n // count)
    split = [_filled(a, count * size).reshape(count, size, *a.shape[1:]) for a in arrays]
    out = jax.lax.map(jax.checkpoint(lambda chunk: function(*chunk)), split)
    return out.reshape(count * size, *out.shape[2:])[:n]


def take(values: Values, rows: Int[Array, " row"]) -> Values:
    """Rows of an array of nodes."""
    return values.at[rows].get(mode="promise_in_bounds")


def _filled(array: Array, n: int) -> Array:
    """The array with its last row repeated up to ``n`` rows."""
    more = n - array.shape[0]
    if not more:
        return array
    return jnp.concatenate([array, jnp.repeat(array[-1:], more, axis=0)])


def member_bytes(network: GraphCast, graph: Graph) -> int:
    """Temporary memory that each further member adds to one evaluation of the network.

    An estimate: latent vectors alive at once in the step that needs most, counted in what XLA
    reserves for float32 on CPU (`memory_analysis`), which it meets within a third.
    """
    decoded, meshed, n_grid = _counts(graph)
    if chunk := network.config.edge_chunk:
        rows = 2.4 * n_grid + 3.5 * meshed + 2 * min(chunk, decoded)
    else:
        rows = 2 * n_grid + max(decoded, 4 * meshed)
    return int(rows * _row_bytes(network))


def shared_bytes(network: GraphCast, graph: Graph) -> int:
    """Temporary memory of one evaluation that does not depend on the number of members.

    That of the embedded features of edges, mostly; see `member_bytes`.
    """
    decoded, meshed, _ = _counts(graph)
    chunk = network.config.edge_chunk
    rows = 3 * meshed + 3 * min(chunk, decoded) if chunk else 4.5 * decoded
    return int(rows * _row_bytes(network))


def _counts(graph: Graph) -> tuple[int, int, int]:
    """Edges from or to the grid (the more), edges of the mesh, grid nodes."""
    outer = max(len(graph.mesh2grid.features), len(graph.grid2mesh.features))
    return outer, len(graph.mesh.features), graph.n_grid


def _row_bytes(network: GraphCast) -> int:
    return network.config.latent * jnp.dtype(network.config.dtype).itemsize
