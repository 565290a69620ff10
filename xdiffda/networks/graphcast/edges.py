"""Apply functions to rows in chunks, with edges grouped so that this is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Values of nodes brought to their edges, and sums over the edges of each node.
#
# The two are transposes of one another. The sums read tables of edge numbers, one row per node,
# instead of adding edge by edge into memory: no atomics, the same bits on every run, and the
# gradient of either is the other.
#
# Measured on 2 CPU cores, float32, 5,100 edges x 1,024 columns to 642 nodes (median, busy
# machine): table 1.8 ms, `segment_sum` over sorted edges 2.4 ms, over unsorted edges 1.4 ms,
# one gather of 3-D tables and a reduction 5.5 ms. The products of one layer take 50 ms, so one
# path serves every platform.

# Up to this many edges per node the sum is written out, which compiles to one fused loop.
_UNROLL = 32
_MANY_DEGREES = 8


class Bucket(eqx.Module):
    """Nodes with (nearly) the same number of edges.

    Rows of a padded bucket end with the number of edges, an index out of range that adds nothing.
    """

    edges: Int[Array, "node degree"]
    padded: bool = eqx.field(static=True)

    def sum(self, values: Float[Array, "edge column"]) -> Float[Array, "node column"]:
        mode = "fill" if self.padded else "promise_in_bounds"

        def read(index: Int[Array, "..."]) -> Float[Array, "... column"]:
            rows = values.at[index].get(mode=mode, fill_value=0)
            # Half precision sums of hundreds of edges would lose their last ones.
            return rows.astype(jnp.promote_types(rows.dtype, jnp.float32))

        if self.edges.shape[1] > _UNROLL:
            return read(self.edges).sum(axis=1).astype(values.dtype)
        total = read(self.edges[:, 0])
        for k in range(1, self.edges.shape[1]):
            total = total + read(self.edges[:, k])
        return total.astype(values.dtype)


class Incidence(eqx.Module):
    """One end of a set of edges: which node each edge meets, and which edges meet each node."""

    node: Int[Array, " edge"]
    buckets: tuple[Bucket, ...]
    # Where each node stands in the buckets laid end to end; nodes without edges come last.
    position: Int[Array, " node"]

    @property
    def n_node(self) -> int:
        """Number of nodes, with or without edges."""
        return self.position.shape[0]


def incidence(node: Int[np.ndarray, " edge"], n_node: int) -> Incidence:
    """Make the tables for edges that meet `node`.

    Examples
    --------
    >>> ends = incidence(np.array([0, 2, 2]), 3)
    >>> to_nodes(jnp.ones((3, 1)), ends)[:, 0].tolist()
    [1.0, 0.0, 2.0]
    """
    node = np.asarray(node, dtype=np.int32)
    degree = np.bincount(node, minlength=n_node)
    start = np.concatenate([[0], np.cumsum(degree)])
    by_node = np.argsort(node, kind="stable")
    width = _widths(degree)
    buckets, position, done = [], np.empty(n_node, dtype=np.int32), 0
    for size in np.unique(width[width > 0]):
        members = np.flatnonzero(width == size)
        column = np.arange(size)
        slot = np.minimum(start[members, None] + column, len(node) - 1)
        real = column < degree[members, None]
        table = np.where(real, by_node[slot], len(node)).astype(np.int32)
        buckets.append(Bucket(jnp.asarray(table), padded=not bool(real.all())))
        position[members] = done + np.arange(len(members))
        done += len(members)
    position[width == 0] = done
    return Incidence(jnp.asarray(node), tuple(buckets), jnp.asarray(position))


def _widths(degree: Int[np.ndarray, " node"]) -> Int[np.ndarray, " node"]:
    """Width of the table each node goes into: its degree, or the next of 1, 2, 3, 4, 6, 8, 12."""
    if len(np.unique(degree)) <= _MANY_DEGREES:
        return degree
    ladder = [0, 1]
    while ladder[-1] < degree.max():
        octave = 1 << (ladder[-1].bit_length() - 1)
        ladder.append(octave * 2 if ladder[-1] > octave or octave == 1 else octave * 3 // 2)
    return np.asarray(ladder)[np.searchsorted(ladder, degree)]


@jax.custom_vjp
def to_edges(values: Float[Array, "node column"], end: Incidence) -> Float[Array, "edge column"]:
    """Bring the values of nodes to the edges that meet them."""
    return values.at[end.node].get(mode="promise_in_bounds")


@jax.custom_vjp
def to_nodes(values: Float[Array, "edge column"], end: Incidence) -> Float[Array, "node column"]:
    """Sum values over the edges that meet each node; zero where there are none."""
    rows = [bucket.sum(values) for bucket in end.buckets]
    rows.append(jnp.zeros((1, values.shape[1]), values.dtype))
    return jnp.concatenate(rows).at[end.position].get(mode="promise_in_bounds")


def _to_edges_forward(values, end):
    return to_edges(values, end), end


def _to_edges_backward(end, cotangent):
    return to_nodes(cotangent, end), None


def _to_nodes_forward(values, end):
    return to_nodes(values, end), end


def _to_nodes_backward(end, cotangent):
    return to_edges(cotangent, end), None


to_edges.defvjp(_to_edges_forward, _to_edges_backward)
to_nodes.defvjp(_to_nodes_forward, _to_nodes_backward)


Values = Float[Array, "node batch channel"]
Rows = Int[Array, " row"]
Table = Int[Array, "row degree"]  # numbers of edges; past the end where there is none
# Flat: with an axis of one member the compiler gives some loops other layouts, and copies
# everything between them.
Kept = Float[Array, "edge batch*channel"]


class Groups(NamedTuple):
    """Edges in groups of equally many, each with one receiver that may have several groups.

    Attributes
    ----------
    edges : array (group, size)
        Numbers of edges; past the end where a receiver has no more.
    receiver : array (group,)
    end : Incidence
        Of the receivers.
    """

    edges: Table
    receiver: Rows
    end: Incidence

    @property
    def filled(self) -> bool:
        """Whether there are numbers past the end."""
        return self.edges.size > self.end.node.shape[0]

    def total(self, sums: Values) -> Values:
        """Sums over all edges of every node, from those of its groups."""
        rows, first, size = [], 0, self.edges.shape[1]
        for bucket in self.end.buckets:
            n, count = len(bucket.edges), -(-bucket.edges.shape[1] // size)
            part = sums[first : first + n * count].reshape(n, count, *sums.shape[1:])
            rows.append(part.sum(axis=1))
            first += n * count
        rows.append(jnp.zeros((1, *sums.shape[1:]), sums.dtype))  # of nodes without edges
        return take(jnp.concatenate(rows), self.end.position)


def groups(end: Incidence) -> Groups:
    """The edges of all receivers in groups of as many as the receivers with the fewest have.

    On the multimesh these are 6 or 5: a node has 6 on every level that it is on, and twelve
    nodes have 5.

    Examples
    --------
    >>> import numpy as np
    >>> from xdiffda.networks.graphcast.edges import incidence
    >>> groups(incidence(np.array([0, 0, 1, 1, 1]), 2)).edges.tolist()  # there is no edge 5
    [[0, 1], [2, 3], [4, 5]]
    """
    n_edge, tables, nodes = end.node.shape[0], [], []
    size = min(bucket.edges.shape[1] for bucket in end.buckets)
    for bucket in end.buckets:
        count = -(-bucket.edges.shape[1] // size)
        more = ((0, 0), (0, count * size - bucket.edges.shape[1]))
        tables.append(jnp.pad(bucket.edges, more, constant_values=n_edge).reshape(-1, size))
        nodes.append(jnp.repeat(take(end.node, bucket.edges[:, 0]), count))
    return Groups(jnp.concatenate(tables), jnp.concatenate(nodes), end)


def in_rows(function: Callable[..., Values], limit: int, *arrays: Array) -> Values:
    """Apply a function of rows to at most ``limit`` of them at a time.

    In the backward pass each chunk is computed anew: its values would otherwise be kept.
    """
    n = arrays[0].shape[0]
    count, size = _cut(n, limit)
    if count == 1:
        return function(*arrays)
    shapes = [a.shape[1:] for a in arrays]

    @jax.checkpoint
    def of_chunk(chunk: list[Array]) -> Values:
        given = (a.reshape(-1, *own) for a, own in zip(chunk, shapes, strict=True))
        return function(*given)

    # flat, as `Kept` is
    split = [_filled(a.reshape(n, -1), count * size).reshape(count, size, -1) for a in arrays]
    out = jax.lax.map(of_chunk, split)
    return out.reshape(count * size, *out.shape[2:])[:n]


def update_rows(
    function: Callable[..., tuple[Kept, Values]], limit: int, kept: Kept, *arrays: Array
) -> tuple[Kept, Values]:
    """As `in_rows`, with rows that are changed where they lie: no second copy of them is made.

    Parameters
    ----------
    function : callable
        Of rows of ``kept`` and of ``arrays``; returns those of ``kept`` anew, and others.
    limit : int
        Rows of ``arrays`` at a time.
    kept : array
        With one row for each of ``arrays``, or several.
    """
    n, each = arrays[0].shape[0], kept.shape[0] // arrays[0].shape[0]
    _, size = _cut(n, limit)
    whole = n // size * size
    # what is kept for the backward pass are a chunk's own rows, not the array they lie in
    function = jax.checkpoint(function)

    def one(kept: Kept, chunk: tuple[Array, ...]) -> tuple[Kept, Values]:
        first, *given = chunk
        own = jax.lax.dynamic_slice_in_dim(kept, first, len(given[0]) * each)
        own, out = function(own, *given)
        return jax.lax.dynamic_update_slice_in_dim(kept, own, first, 0), out

    split = [a[:whole].reshape(-1, size, *a.shape[1:]) for a in arrays]
    kept, out = jax.lax.scan(one, kept, (jnp.arange(0, whole, size) * each, *split))
    out = out.reshape(whole, *out.shape[2:])
    if whole == n:
        return kept, out
    kept, last = one(kept, (jnp.asarray(whole * each), *(a[whole:] for a in arrays)))
    return kept, jnp.concatenate([out, last])


def take(values: Array, rows: Int[Array, "..."]) -> Array:
    """Rows of an array of nodes."""
    return values.at[rows].get(mode="promise_in_bounds")


def _cut(n: int, limit: int) -> tuple[int, int]:
    """Number of chunks and rows of each.

    Equal chunks, where possible, need no padding, and so no copy of what is large.
    """
    least = -(-n // limit)
    count = next((c for c in range(least, min(2 * least, n) + 1) if n % c == 0), least)
    return count, -(-n // count)


def _filled(array: Array, n: int) -> Array:
    """The array with its last row repeated up to ``n`` rows."""
    more = n - array.shape[0]
    if not more:
        return array
    return jnp.concatenate([array, jnp.repeat(array[-1:], more, axis=0)])
