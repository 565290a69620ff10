"""Gathers and sums: against plain numpy, as transposes of one another, bit for bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.networks.graphcast.edges import incidence, to_edges, to_nodes

N_NODE, N_COLUMN = 40, 3


@pytest.fixture(params=["regular", "few degrees", "many degrees", "pole"])
def node(request):
    rng = np.random.default_rng(0)
    degree = {
        "regular": np.full(N_NODE, 3),
        "few degrees": rng.choice([0, 5, 6], N_NODE),
        "many degrees": np.arange(N_NODE) // 2,
        "pole": np.concatenate([[700], np.arange(N_NODE - 1)]),
    }[request.param]
    return rng.permutation(np.repeat(np.arange(N_NODE), degree))


def test_against_plain_sums(node):
    end = incidence(node, N_NODE)
    rng = np.random.default_rng(1)
    edges = rng.normal(size=(len(node), N_COLUMN)).astype(np.float32)
    nodes = rng.normal(size=(N_NODE, N_COLUMN)).astype(np.float32)
    expected = np.zeros((N_NODE, N_COLUMN))
    np.add.at(expected, node, edges.astype(np.float64))
    np.testing.assert_allclose(to_nodes(jnp.asarray(edges), end), expected, atol=3e-5)
    np.testing.assert_array_equal(to_edges(jnp.asarray(nodes), end), nodes[node])
    assert end.n_node == N_NODE


def test_each_is_the_transpose_of_the_other(node):
    end = incidence(node, N_NODE)
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (N_NODE, N_COLUMN))
    y = jax.random.normal(keys[1], (len(node), N_COLUMN))
    forward, pull_x = jax.vjp(lambda x: to_edges(x, end), x)
    total, pull_y = jax.vjp(lambda y: to_nodes(y, end), y)
    inner = float(jnp.vdot(forward, y))
    assert np.isclose(inner, float(jnp.vdot(x, total)), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(pull_x(y)[0], total)
    np.testing.assert_array_equal(pull_y(x)[0], forward)


def test_derivatives_of_derivatives(node):
    end = incidence(node, N_NODE)
    y = jax.random.normal(jax.random.key(0), (len(node), 1))

    def energy(y):
        return jnp.sum(to_nodes(y, end) ** 2) / 2

    def slope(y):
        return jnp.vdot(jax.grad(energy)(y), y)

    np.testing.assert_allclose(slope(y), 2 * energy(y), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(slope)(y), 2 * jax.grad(energy)(y), atol=1e-3)


def test_half_precision_sums_keep_their_small_terms():
    end = incidence(np.zeros(600, dtype=int), 1)
    total = to_nodes(jnp.ones((600, 1), jnp.bfloat16), end)
    assert total.dtype == jnp.bfloat16
    assert float(total[0, 0]) == 600


def test_no_edges_at_all():
    end = incidence(np.zeros(0, dtype=int), 4)
    np.testing.assert_array_equal(to_nodes(jnp.zeros((0, 2)), end), np.zeros((4, 2)))
