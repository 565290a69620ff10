"""Values of nodes brought to their edges, and sums over the edges of each node.

The two are transposes of one another. The sums read tables of edge numbers, one row per node,
instead of adding edge by edge into memory: no atomics, the same bits on every run, and the
gradient of either is the other.

Measured on 2 CPU cores, float32, 5,100 edges x 1,024 columns to 642 nodes (median, busy
machine): table 1.8 ms, `segment_sum` over sorted edges 2.4 ms, over unsorted edges 1.4 ms,
one gather of 3-D tables and a reduction 5.5 ms. The products of one layer take 50 ms, so one
path serves every platform.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Up to this many edges per node the sum is written out, which compiles to one fused loop.
_UNROLL = 32
_MANY_DEGREES = 8


class Bucket(eqx.Module):
    """Nodes with (nearly) the same number of edges.

    A padded bucket has rows filled up with the number of edges, which is out of range.
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
