"""Edges in chunks: the same outputs and gradients, in less memory, which can be foretold."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.networks.graphcast.costs import Dimensions, temporary_bytes
from xdiffda.networks.graphcast.edges import groups, in_rows, incidence, to_nodes, update_rows
from xdiffda.networks.graphcast.graph import build_graph
from xdiffda.networks.graphcast.mesh import mesh_hierarchy, multimesh_edges
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig
from xdiffda.networks.graphcast.static import by_receiver

BATCH = 2


def _network(latent: int, conditioning: int = 3) -> GraphCast:
    config = NetworkConfig(
        n_inputs=4, n_outputs=2, latent=latent, processor_steps=2, conditioning_width=conditioning
    )
    net = GraphCast(config, key=jax.random.key(0))
    # conditioning starts as the identity: let it act
    return jax.tree.map(lambda a: a + 0.05 * jax.random.normal(jax.random.key(5), a.shape), net)


@pytest.fixture(scope="module")
def world():
    # mesh nodes of many degrees, and some that hear from no grid node
    lat, lon = np.linspace(-60, 60, 7), np.arange(0, 360, 40)
    graph = build_graph(lat, lon, refinement=1, radius_fraction=0.3)
    assert (np.bincount(graph.grid2mesh.receivers.node, minlength=graph.n_mesh) == 0).any()
    x = jax.random.normal(jax.random.key(1), (graph.n_grid, BATCH, 4))
    return graph, x, jax.random.normal(jax.random.key(2), (BATCH, 3))


@pytest.mark.long
def test_chunks_give_the_same_outputs_and_gradients(world) -> None:
    graph, x, vector = world
    net = _network(8)

    @eqx.filter_jit
    def run(net: GraphCast):
        def total(x):
            out = net(x, graph, vector)
            return jnp.sum(jnp.sin(out)), out

        gradient, out = jax.grad(total, has_aux=True)(x)
        return out, gradient

    whole, chunked = run(net), run(net.reconfigured(edge_chunk=60))
    for one, other in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6 * float(jnp.abs(one).max()))


@pytest.mark.parametrize("limit", [1, 4, 5, 12, 100])
def test_rows_in_chunks_are_all_rows_in_order(limit: int) -> None:
    rows = jnp.arange(12.0)[:, None]
    sizes = []

    def double(rows, more):
        sizes.append(len(rows))
        return 2 * rows + more

    found = in_rows(double, limit, rows, rows)
    np.testing.assert_array_equal(found, 3 * rows)
    assert max(sizes) <= limit or limit > 12


def test_rows_changed_in_place_are_all_changed_once() -> None:
    kept = jnp.arange(26.0).reshape(26, 1)  # two for each row

    def change(own, rows):
        return own + jnp.repeat(rows, 2)[:, None], rows[:, None] + own.reshape(-1, 2).sum(1)[
            :, None
        ]

    rows = jnp.arange(13)
    whole = change(kept, rows)
    for limit in (1, 3, 4, 13, 20):  # with 3 and 4 some are left over
        for one, other in zip(update_rows(change, limit, kept, rows), whole, strict=True):
            np.testing.assert_array_equal(one, other)


def test_groups_hold_every_edge_once_with_its_receiver() -> None:
    meshes = mesh_hierarchy(2)
    receivers = multimesh_edges(meshes)[1]
    found = groups(incidence(receivers, 162))
    degree = np.bincount(receivers)
    # 12 nodes with 5 on each of 3 levels need one place more, or two
    assert found.edges.shape[1] == degree.min() == 6 and found.filled
    real = np.asarray(found.edges) < len(receivers)
    np.testing.assert_array_equal(np.sort(found.edges[real]), np.arange(len(receivers)))
    owner = np.repeat(np.asarray(found.receiver)[:, None], 6, axis=1)
    np.testing.assert_array_equal(receivers[np.asarray(found.edges)[real]], owner[real])
    sums = jnp.asarray(real.sum(1, dtype=np.float32))[:, None, None]
    np.testing.assert_array_equal(found.total(sums)[:, 0, 0], degree)


@pytest.mark.long
def test_by_receiver_sums_what_the_tables_sum() -> None:
    rng = np.random.default_rng(0)
    ends = incidence(np.sort(rng.integers(0, 40, 90)), 45)  # some nodes without edges
    values = jnp.asarray(rng.normal(size=(90, 3)).astype(np.float32))

    def total(edges, nodes):
        return values.at[edges].get(mode="fill", fill_value=0).sum(axis=1)

    np.testing.assert_allclose(by_receiver(total, ends, 6), to_nodes(values, ends), atol=1e-6)
    nodes = by_receiver(lambda edges, nodes: nodes[:, None], ends, 6)
    assert nodes[:, 0].tolist() == list(range(45))


def _reserved(net: GraphCast, graph, batch: int) -> int:
    """Temporary bytes that XLA reserves for one evaluation."""
    arrays, rest = eqx.partition((net, graph), eqx.is_array)

    def run(arrays, x, vector):
        net, graph = eqx.combine(arrays, rest)
        return net(x, graph, vector)

    def shape(a):
        return jax.ShapeDtypeStruct(a.shape, a.dtype)

    x = jax.ShapeDtypeStruct((graph.n_grid, batch, 4), jnp.float32)
    vector = jax.ShapeDtypeStruct((batch, 3), jnp.float32)
    compiled = jax.jit(run).lower(jax.tree.map(shape, arrays), x, vector).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.long
def test_the_estimate_of_memory_is_what_xla_reserves() -> None:
    graph = build_graph(np.linspace(-90, 90, 61), np.arange(0, 360, 3), refinement=3)
    net, found = _network(64), []
    for chunk in (0, 1024):
        chunked = net.reconfigured(edge_chunk=chunk)
        found.append(_reserved(chunked, graph, BATCH))
        shared, member = temporary_bytes(chunked.config, Dimensions.of(graph))
        foretold = shared + BATCH * member
        assert 0.75 < foretold / found[-1] < 1.35, (chunk, foretold, found[-1])
    assert found[1] < 0.7 * found[0]
