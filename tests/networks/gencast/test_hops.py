"""Neighbourhoods and attention over them, against matrices written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.networks.gencast.graph import compact_blocks, neighbour_table, neighbourhoods
from xdiffda.networks.gencast.network import attend
from xdiffda.networks.graphcast.mesh import mesh_hierarchy

MESH = mesh_hierarchy(2)[-1]


def dense_mask(near) -> np.ndarray:
    nodes, keys, seen = (np.asarray(x) for x in (near.nodes, near.keys, near.seen))
    n = len(near.position)
    mask = np.zeros((n, n), bool)
    block, query, key = np.nonzero(seen)
    mask[nodes[block, query], keys[block, key]] = True
    return mask


@pytest.mark.parametrize("block", [1000, 32, 7])
def test_mask_is_the_official_one(case, block):
    order = case.npz("geometry")["permutation"]
    near = neighbourhoods(MESH, 2, block=block)
    np.testing.assert_array_equal(dense_mask(near)[np.ix_(order, order)], case.mask)
    flat = np.asarray(near.nodes).reshape(-1)
    np.testing.assert_array_equal(flat[np.asarray(near.position)], np.arange(162))


@pytest.mark.parametrize("hops", [0, 1, 3, 30])
def test_mask_is_a_power_of_the_adjacency(hops):
    adjacent = np.eye(162, dtype=bool)
    senders, receivers = MESH.edges
    adjacent[receivers, senders] = True
    power = np.linalg.matrix_power(adjacent.astype(float), hops) > 0
    mask = dense_mask(neighbourhoods(MESH, hops, block=20))
    np.testing.assert_array_equal(mask, power)
    np.testing.assert_array_equal(mask, mask.T)


def test_blocks_read_little_more_than_they_need():
    """On a fine mesh a block's union of caps stays near one cap: 3 k (k + 1) + 1 nodes."""
    near = neighbourhoods(mesh_hierarchy(4)[-1], 4, block=64)
    assert np.asarray(near.seen).sum(-1).max() == 3 * 4 * 5 + 1
    assert near.keys.shape[1] < 4 * 61
    assert near.nodes.shape == (64, 41)


def test_neighbours_are_six_but_for_twelve():
    table = neighbour_table(MESH)
    own = (table == np.arange(162)[:, None]).sum(1)
    assert (own.sum(), own.max()) == (12, 1)
    assert all(len(set(row)) == 6 for row in table)


def test_compact_blocks_hold_every_node_once():
    blocks = compact_blocks(MESH.vertices, 25)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(162))
    assert max(map(len, blocks)) <= 25


def test_attention_and_its_gradient_agree_with_a_dense_softmax():
    near = neighbourhoods(MESH, 2, block=32)
    mask = dense_mask(near)
    q, k, v, c = jax.random.normal(jax.random.key(0), (4, 162, 2, 3, 5))

    def plain(q, k, v):
        logits = jnp.einsum("qbhd,kbhd->bhqk", q, k) / np.sqrt(5)
        weights = jnp.where(mask, jnp.exp(logits), 0)
        return jnp.einsum("bhqk,kbhd->qbhd", weights / weights.sum(-1, keepdims=True), v)

    def both(function):
        def weighted(*x):
            out = function(*x)
            return jnp.sum(c * out), out

        return jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(q, k, v)

    ((_, ours), our_slopes), ((_, theirs), slopes) = both(lambda *x: attend(*x, near)), both(plain)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    for a, b in zip(our_slopes, slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
    one_block = attend(q, k, v, neighbourhoods(MESH, 2))
    np.testing.assert_allclose(one_block, theirs, rtol=0, atol=2e-6)


def test_impossible_neighbourhoods_are_refused():
    with pytest.raises(ValueError, match="got -1 and 256"):
        neighbourhoods(MESH, -1)
    with pytest.raises(ValueError, match="got 1 and 0"):
        neighbourhoods(MESH, 1, block=0)
