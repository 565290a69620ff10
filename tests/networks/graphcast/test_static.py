"""What is kept of the graph between evaluations: outputs do not tell whether it was."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xdiffda
from xdiffda.networks.graphcast.graph import build_graph
from xdiffda.networks.graphcast.layers import Block
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig
from xdiffda.networks.graphcast.static import InFactors, Prepared, factored


@pytest.fixture(scope="module")
def world():
    graph = build_graph(np.linspace(-85, 85, 18), np.arange(0, 360, 10), refinement=2)
    config = NetworkConfig(
        n_inputs=4, n_outputs=2, latent=128, processor_steps=2, conditioning_width=3, unroll=False
    )
    net = eqx.filter_jit(GraphCast)(config, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (graph.n_grid, 2, 4))
    return net, graph, x, jax.random.normal(jax.random.key(2), (2, 3))


@pytest.fixture(scope="module")
def run():
    return eqx.filter_jit(lambda net, *args: net(*args))


@pytest.mark.long
def test_edges_in_factors_change_outputs_by_rounding_only(world, run) -> None:
    net, graph, x, vector = world
    chunked = net.reconfigured(edge_chunk=500)
    ready = chunked.prepare(graph)
    kept = (ready.edge, ready.grid2mesh, ready.mesh2grid)
    edges = [len(e.features) for e in (graph.mesh, graph.grid2mesh, graph.mesh2grid)]
    # so that the test below is one of factors, and these are small
    assert [len(part.coefficients) for part in kept] == edges
    assert all(part.basis.shape[0] <= 64 for part in kept)
    plain = run(net, x, graph, vector)
    for given in (None, ready):
        found = run(chunked, x, graph, vector, given)
        np.testing.assert_allclose(found, plain, atol=5e-6 * float(jnp.abs(plain).max()))


@pytest.mark.long
def test_edges_of_the_bundled_network_come_back_from_their_factors() -> None:
    prior = xdiffda.load_model("speedy")
    net, graph = prior._network.backbone, prior._graph
    whole = eqx.filter_jit(GraphCast.prepare)(net, graph)
    parts = net.reconfigured(edge_chunk=512).prepare(graph)
    for name in ("edge", "grid2mesh", "mesh2grid"):
        true = getattr(whole, name)
        found = getattr(parts, name).at(jnp.arange(len(true)))
        size = float(jnp.sqrt(jnp.mean(jnp.square(true))))
        rms = jnp.sqrt(jnp.mean(jnp.square(found - true), axis=-1))
        assert float(rms.max()) < 2e-6 * size, name  # of the worst edge of all
        beyond = getattr(parts, name).at(jnp.asarray([len(true)]))
        assert not jnp.any(beyond)  # an edge that does not exist


@pytest.mark.long
def test_the_basis_of_wide_factors_is_orthonormal() -> None:
    """Directions of what is left at 1e-6 of the whole are mostly rounding along the others."""
    embed = Block((4, 512, 512), key=jax.random.key(0))
    angle, radius = np.random.default_rng(0).uniform(size=(2, 6000))
    angle *= 2 * np.pi
    edges = np.stack([radius, -(radius**2) / 90, radius * np.cos(angle), radius * np.sin(angle)])
    features = jnp.asarray(edges.T, jnp.float32)
    call, ranks = eqx.filter_jit(embed), []
    with jax.default_matmul_precision("highest"):
        for tolerance in (1e-6, 1e-4):
            found = factored(call, features, 4096, tolerance)
            assert found is not None
            ranks.append(len(found.basis))
            gram = np.asarray(found.basis, float) @ np.asarray(found.basis, float).T
            np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-6)
            true = np.asarray(call(features[:, None]), float)
            missed = np.asarray(found.at(jnp.arange(len(features))), float) - true
            worst = np.sqrt(np.square(missed).mean(-1)).max() / np.sqrt(np.square(true).mean())
            # beside the tolerance two products with their rounding
            assert worst < tolerance + 2e-6
    assert ranks[1] < ranks[0] <= 96


def test_white_functions_have_no_factors() -> None:
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3000, 64)), jnp.float32)

    def pick(x):
        return weights[x[:, :, 0].astype(int)]

    assert factored(pick, jnp.arange(3000.0)[:, None], 512) is None


def test_a_prior_with_chunks_keeps_factors(world) -> None:
    prior = xdiffda.load_model("speedy")
    assert isinstance(prior._prepared, Prepared)
    assert isinstance(prior.reconfigured(edge_chunk=512)._prepared, InFactors)


def test_what_another_configuration_prepared_is_refused(world) -> None:
    net, graph, x, vector = world
    chunked = net.reconfigured(edge_chunk=500)
    with pytest.raises(ValueError, match="prepared is of a network without chunks.*500"):
        chunked(x, graph, vector, eqx.filter_jit(GraphCast.prepare)(net, graph))
    with pytest.raises(ValueError, match="with edges in chunks, edge_chunk is 0"):
        net(x, graph, vector, chunked.prepare(graph))


@pytest.mark.long
@pytest.mark.parametrize("chunk", [0, 500])
def test_rounded_factors_are_rounded_as_bfloat16_is(world, run, chunk: int) -> None:
    net, graph, x, vector = world
    exact = run(net, x, graph, vector)
    size = float(jnp.sqrt(jnp.mean(jnp.square(exact))))

    def rms(out):
        return float(jnp.sqrt(jnp.mean(jnp.square(out - exact)))) / size

    rounded = rms(run(net.reconfigured(precision="default", edge_chunk=chunk), x, graph, vector))
    half = rms(run(net.reconfigured(dtype="bfloat16", edge_chunk=chunk), x, graph, vector))
    # every factor is off by up to 2^-9; float32 between the products makes it no worse than half
    assert 2**-11 < rounded < 1.2 * half < 2**-4


@pytest.mark.long
def test_gradients_with_rounded_factors(world) -> None:
    net, graph, x, vector = world

    @eqx.filter_jit
    def slope(net: GraphCast):
        return eqx.filter_grad(lambda net: jnp.mean(jnp.square(net(x, graph, vector))))(net)

    exact, rounded = slope(net), slope(net.reconfigured(precision="default"))
    flat = [
        jnp.concatenate([a.ravel() for a in jax.tree.leaves(tree) if eqx.is_inexact_array(a)])
        for tree in (exact, rounded)
    ]
    error = jnp.linalg.norm(flat[1] - flat[0]) / jnp.linalg.norm(flat[0])
    assert 1e-4 < float(error) < 0.03
