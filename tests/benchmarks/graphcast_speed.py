"""Print how much faster our GraphCast is than a plain version of the same network.

    python tests/benchmarks/graphcast_speed.py [--no-wide]
    python tests/benchmarks/graphcast_speed.py --one-degree     # issue 5: at most half of the time

The plain version gathers senders and receivers, concatenates them with the edge, multiplies,
adds up with `segment_sum`, and lets jax differentiate all that; static features are embedded
for every member. Weights, graph and answers are the same. A last line takes our version as an
analysis calls it, with `GraphCast.prepare` done once for all its evaluations. Both run in turn in
one process and the median of each counts. Targets: 1.8 forward at width 512, 2 forward and
backward at the size of the testbed.

The processor time is printed beside the wall time: on a machine that is busy with other work
its ratio is the steadier one. Page faults are counted, because they can take half of the time:
see README.md beside this file, and run it with and without
``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.networks.graphcast.graph import Edges, Graph, build_graph
from xdiffda.networks.graphcast.layers import Block, Interaction
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig

# the bundled denoiser: noisy residual, its linear estimate and the background, 37 channels each,
# static fields and season; 8 processor steps (issue 2) on the mesh of refinement 3
N_INPUTS, N_OUTPUTS, STEPS = 3 * 37 + 4, 37, 8


def block(b: Block, x: Array) -> Array:
    """A perceptron and its normalisation."""
    for k, layer in enumerate(b.layers):
        x = (jax.nn.swish(x) if k else x) @ layer.weight + layer.bias
    if b.norm is None:
        return x
    centred = x - x.mean(-1, keepdims=True)
    spread = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    return centred * spread * b.norm.scale + b.norm.offset


def interact(
    step: Interaction, edge: Array, sender: Array, receiver: Array, edges: Edges
) -> tuple[Array, Array]:
    """One step of message passing."""
    senders, receivers = edges.senders.node, edges.receivers.node
    messages = block(step.edge, jnp.concatenate([edge, sender[senders], receiver[receivers]], -1))
    total = jax.ops.segment_sum(messages, receivers, receiver.shape[0], indices_are_sorted=True)
    return messages, block(step.node, jnp.concatenate([receiver, total], -1))


def plain(net: GraphCast, x: Float[Array, "grid batch in"], graph: Graph) -> Array:
    """The whole network, plainly."""

    def for_all(features: Array) -> Array:
        return jnp.broadcast_to(features[:, None], (len(features), x.shape[1], features.shape[1]))

    encoder, processor, decoder = net.encoder, net.processor, net.decoder
    grid = block(encoder.grid_embed, jnp.concatenate([x, for_all(graph.grid_features)], -1))
    mesh = for_all(graph.mesh_features)
    no_data = jnp.zeros((graph.n_mesh, *x.shape[1:]))
    mesh = block(encoder.mesh_embed, jnp.concatenate([no_data, mesh], -1))
    edge = block(encoder.edge_embed, for_all(graph.grid2mesh.features))
    _, update = interact(encoder.step, edge, grid, mesh, graph.grid2mesh)
    grid, mesh = grid + block(encoder.grid_update, grid), mesh + update
    edge = block(processor.edge_embed, for_all(graph.mesh.features))
    for step in processor.steps:
        edge_update, update = interact(step, edge, mesh, mesh, graph.mesh)
        edge, mesh = edge + edge_update, mesh + update
    edge = block(decoder.edge_embed, for_all(graph.mesh2grid.features))
    _, update = interact(decoder.step, edge, mesh, grid, graph.mesh2grid)
    return block(decoder.output, grid + update)


def ours(net: GraphCast, x: Float[Array, "grid batch in"], graph: Graph) -> Array:
    """The network as it is."""
    return net(x, graph)


def sampling(net: GraphCast, x: Float[Array, "grid batch in"], graph: Graph, ready: Any) -> Array:
    """The network as samplers call it: what no state enters is known."""
    return net(x, graph, prepared=ready)


def compare(
    label: str, first: Callable, second: Callable, args: tuple, batch: int, repeats: int
) -> None:
    """Time two compiled functions in turn and print the ratios."""
    answers = [jax.block_until_ready(f(*args)) for f in (first, second)]
    leaves = zip(*(jax.tree.leaves(answer) for answer in answers), strict=True)
    worst = max(float(jnp.abs(a - b).max() / (jnp.abs(b).max() + 1e-30)) for a, b in leaves)
    seconds, faults = np.empty((2, 2, repeats)), np.zeros(2)
    for i in range(repeats):
        for j, f in enumerate((first, second)):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            wall, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(f(*args))
            seconds[:, j, i] = time.perf_counter() - wall, time.process_time() - processor
            faults[j] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    middle = np.median(seconds, axis=-1)
    print(f"{label}: page faults ours {faults[0] / repeats:.0f}, plain {faults[1] / repeats:.0f}")
    for name, (fast, slow) in zip(("wall", "processor"), 1e3 * middle / batch, strict=True):
        print(
            f"{label}: {name} ours {fast:.0f}, plain {slow:.0f} ms/sample, "
            f"ratio {slow / fast:.2f} (answers agree within {worst:.1e})",
            flush=True,
        )


def one_degree(repeats: int) -> None:
    """Compare at the size that the golden files' README has figures of: float32, one member."""
    lat, lon = np.linspace(-90, 90, 181), np.arange(0, 360, 1.0)
    graph = build_graph(lat, lon, refinement=5)
    sizes = NetworkConfig(186, 83, latent=512, processor_steps=16, unroll=False)
    net = eqx.filter_jit(GraphCast)(sizes, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (graph.n_grid, 1, sizes.n_inputs))
    plainly = eqx.filter_jit(lambda *args: plain(*args[:3]))
    ready = eqx.filter_jit(GraphCast.prepare)(net, graph)
    known = eqx.filter_jit(sampling)
    compare("1 degree, as in sampling", known, plainly, (net, x, graph, ready), 1, repeats)
    for precision in ("highest", "default"):
        slim = net.reconfigured(edge_chunk=4096, precision=precision)
        args = (slim, x, graph, slim.prepare(graph))
        compare(f"1 degree, chunks of 4,096, {precision}", known, plainly, args, 1, repeats)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-wide", action="store_true", help="leave out width 512")
    parser.add_argument("--one-degree", action="store_true", help="36 M parameters, and only that")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="processor steps")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    if options.one_degree:
        one_degree(options.repeats)
        return
    graph = build_graph(np.arange(-87.1875, 90, 5.625), np.arange(0, 360, 5.625), refinement=3)

    def case(width: int, steps: int, batch: int) -> tuple:
        sizes = NetworkConfig(N_INPUTS, N_OUTPUTS, latent=width, processor_steps=steps)
        net = eqx.filter_jit(GraphCast)(sizes, key=jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (graph.n_grid, batch, sizes.n_inputs))
        return net, x, graph

    def slope(function: Callable) -> Callable:
        def loss(net: GraphCast, x: Array, graph: Graph) -> Array:
            return jnp.mean(jnp.square(function(net, x, graph)))

        return eqx.filter_jit(eqx.filter_value_and_grad(loss))

    forward = [eqx.filter_jit(f) for f in (ours, plain)]
    args = case(128, options.steps, options.batch)
    compare("width 128, forward", *forward, args, options.batch, options.repeats)
    both = [slope(f) for f in (ours, plain)]
    compare("width 128, forward and backward", *both, args, options.batch, options.repeats)
    if not options.no_wide:
        net, _, graph = wide = case(512, options.steps, 1)
        compare("width 512, forward", *forward, wide, 1, options.repeats)
        pair = [eqx.filter_jit(f) for f in (sampling, lambda *args: plain(*args[:3]))]
        args = (*wide, eqx.filter_jit(GraphCast.prepare)(net, graph))
        compare("width 512, forward, as in sampling", *pair, args, 1, options.repeats)


if __name__ == "__main__":
    main()
