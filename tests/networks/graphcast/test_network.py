"""The network: any sizes, options that change no numbers, conditioning, reproducibility."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.networks.graphcast import GraphCast, NetworkConfig, build_graph

GAUSSIAN = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(8)[0]))


@pytest.fixture(scope="module")
def graph():
    return build_graph(GAUSSIAN, np.arange(0, 360, 24), refinement=1)


def network(graph, **changes):
    sizes = {"n_inputs": 7, "n_outputs": 3, "latent": 12, "processor_steps": 3} | changes
    net = GraphCast(NetworkConfig(**sizes), key=jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (graph.n_grid, 4, sizes["n_inputs"]))
    return net, x


@eqx.filter_jit
def apply(net, x, graph, conditioning=None):
    return net(x, graph, conditioning)


@eqx.filter_jit
@eqx.filter_grad
def gradient(net, x, graph, conditioning=None):
    return jnp.mean(jnp.square(net(x, graph, conditioning)))


@pytest.mark.parametrize("hidden", [0, 1, 2])
@pytest.mark.parametrize("refinement", [0, 2])
def test_agrees_with_plain_numpy(plain_network, hidden, refinement):
    graph = build_graph(GAUSSIAN, np.arange(0, 360, 24), refinement=refinement)
    net, x = network(graph, hidden_layers=hidden)
    np.testing.assert_allclose(
        apply(net, x, graph), plain_network(net, np.asarray(x), graph), rtol=0, atol=2e-5
    )


@pytest.mark.long
@pytest.mark.parametrize("options", [{"unroll": False}, {"remat": True}])
def test_options_change_no_numbers(graph, options):
    net, x = network(graph)
    other = net.reconfigured(**options)
    np.testing.assert_allclose(apply(other, x, graph), apply(net, x, graph), atol=2e-6)
    ours, theirs = gradient(net, x, graph), gradient(other, x, graph)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_half_precision_stays_near(graph):
    net, x = network(graph)
    exact = apply(net, x, graph)
    half = apply(net.reconfigured(dtype="bfloat16"), x, graph)
    assert half.dtype == jnp.float32
    assert float(jnp.std(half - exact)) < 0.05 * float(jnp.std(exact))


def test_gradients_are_the_same_bit_for_bit(graph):
    net, x = network(graph)
    first, second = (jax.tree.leaves(gradient(net, x, graph)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.long
def test_gradient_against_finite_differences(graph):
    with jax.enable_x64(True):
        graph = build_graph(GAUSSIAN, np.arange(0, 360, 24), refinement=1)
        net, x = network(graph, dtype="float64", conditioning_width=2)
        direction = jax.random.normal(jax.random.key(5), x.shape)
        conditioning = jnp.ones((4, 2))

        @eqx.filter_jit
        def loss(x):
            return jnp.mean(jnp.square(net(x, graph, conditioning)))

        slope = float(jnp.vdot(jax.grad(loss)(x), direction))
        step = 1e-5
        estimate = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert np.isclose(slope, float(estimate), rtol=1e-7)


def test_members_do_not_see_each_other(graph):
    net, x = network(graph)
    np.testing.assert_allclose(
        apply(net, x[:, 1:2], graph), apply(net, x, graph)[:, 1:2], atol=2e-6
    )


def test_conditioning_starts_as_the_identity(graph):
    plain, x = network(graph)
    net, _ = network(graph, conditioning_width=5)
    conditioning = jax.random.normal(jax.random.key(3), (4, 5))
    # two compiled programs: the order of sums may differ by rounding between processors
    np.testing.assert_allclose(
        apply(net, x, graph, conditioning), apply(plain, x, graph), rtol=0, atol=2e-6
    )


@pytest.mark.long
def test_conditioning_learns_and_acts_on_each_member(graph):
    net, x = network(graph, conditioning_width=5)
    conditioning = jax.random.normal(jax.random.key(3), (4, 5))
    slopes = gradient(net, x, graph, conditioning)
    blocks = [slopes.encoder.grid_embed, slopes.encoder.grid_update, slopes.decoder.step.edge]
    blocks += [block for s in slopes.processor.steps for block in (s.edge, s.node)]
    # The last processor step's edges are read by the mesh nodes, so all of them matter.
    assert all(float(jnp.abs(block.norm.modulation.weight).max()) > 0 for block in blocks)
    moved = jax.tree.map(lambda w, g: w - 10 * g, net, slopes)
    x = jnp.repeat(x[:, :1], 4, axis=1)
    out = apply(moved, x, graph, conditioning)
    assert float(jnp.abs(out[:, 0] - out[:, 1]).max()) > 1e-3
    same = apply(moved, x, graph, jnp.repeat(conditioning[:1], 4, axis=0))
    np.testing.assert_allclose(same[:, 0], same[:, 3], atol=1e-6)


def test_initial_weights():
    net = GraphCast(NetworkConfig(200, 3, latent=128, processor_steps=1), key=jax.random.key(0))
    layer = net.encoder.step.edge.layers[0]
    # Truncated at two standard deviations, which leaves 0.88 of the standard deviation.
    assert np.isclose(float(jnp.std(layer.weight)) * np.sqrt(384), 0.88, atol=0.01)
    assert float(jnp.abs(layer.weight).max()) <= 2 / np.sqrt(384)
    assert not layer.bias.any()
    other = net.processor.steps[0].edge.layers[0]
    assert not np.array_equal(layer.weight, other.weight)


def test_wrong_sizes_are_refused(graph):
    with pytest.raises(ValueError, match=r"latent must be 1.*dtype must be one of"):
        NetworkConfig(7, 3, latent=0, dtype="float16")
    net, x = network(graph)
    with pytest.raises(ValueError, match=r"x must be \(grid, batch, in\) = \(120, batch, 7\)"):
        net(x[:, :, :3], graph)
    with pytest.raises(ValueError, match="conditioning_width 0"):
        net(x, graph, jnp.zeros((4, 2)))
    net, x = network(graph, conditioning_width=2)
    with pytest.raises(ValueError, match=r"conditioning of shape \(4, 2\) is missing"):
        net(x, graph)
    with pytest.raises(ValueError, match="latent"):
        net.reconfigured(latent=3)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prepared_embeddings_change_no_numbers(graph, dtype):
    net, x = network(graph, conditioning_width=5, dtype=dtype)
    conditioning = jax.random.normal(jax.random.key(3), (4, 5))
    prepared = eqx.filter_jit(GraphCast.prepare)(net, graph)
    assert prepared.edge.dtype == dtype
    ours = eqx.filter_jit(lambda *args: args[0](*args[1:]))(net, x, graph, conditioning, prepared)
    tolerance = 2e-6 if dtype == "float32" else 0.05
    np.testing.assert_allclose(ours, apply(net, x, graph, conditioning), atol=tolerance)


@pytest.mark.long
def test_regular_receivers_are_computed_corner_by_corner(graph):
    """The decoder's three edges a node take the short way; tables give the same."""
    assert graph.mesh2grid.degree == 3
    assert graph.mesh.degree is None
    tables = eqx.tree_at(
        lambda g: g.mesh2grid, graph, dataclasses.replace(graph.mesh2grid, degree=None)
    )
    net, x = network(graph, conditioning_width=5)
    conditioning = jax.random.normal(jax.random.key(3), (4, 5))
    np.testing.assert_allclose(
        apply(net, x, graph, conditioning), apply(net, x, tables, conditioning), atol=2e-6
    )
    ours, theirs = (gradient(net, x, g, conditioning) for g in (graph, tables))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
