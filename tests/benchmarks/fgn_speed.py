"""Print time and memory of one evaluation of WeatherNext 2 Mini at its published size.

    python tests/benchmarks/fgn_speed.py [--block 256] [--degrees 1] [--members 1] [--calls 1]

Random weights; 1 degree, mesh refined 5 times, width 512, 16 layers of 4 heads, 16 hops. Targets
(issue 23): under 60 s of processor time and 6 GB a member and step on two cores; the official
code takes 105 to 116 s and 7.8 GB there. Processor time is the steadier number on a busy machine.
Compilation is told by itself.
"""

from __future__ import annotations

import argparse
import resource
import time

import equinox as eqx
import jax
import numpy as np

from xdiffda.networks.fgn import FGN, Architecture, MessageConfig, NetworkConfig, build_graph


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--block", type=int, default=256, help="nodes in a block of attention")
    parser.add_argument("--degrees", type=float, default=1.0)
    parser.add_argument("--refinement", type=int, default=5)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--calls", type=int, default=1)
    told = parser.parse_args()

    message = {"hidden": (512,), "edge_hidden": (32,), "edge_width": 32}
    sizes = Architecture(
        latent=512,
        hidden=(512,),
        grid2mesh=MessageConfig(**message, hears_receiver=False),
        mesh2grid=MessageConfig(**message),
        output_hidden=(512,),
        noise=("noise", "noise_channels"),
        noise_channels=32,
        conditioning_width=32,
        layers=16,
        heads=4,
        ffw_hidden=2048,
        hops=16,
        mesh_size=told.refinement,
        radius_fraction=0.6,
    )
    config = NetworkConfig(sizes, n_inputs=180, n_clocks=6, n_outputs=101, sigmoids=((4, -2.0),))
    lat = tuple(np.linspace(-90, 90, round(180 / told.degrees) + 1).tolist())
    lon = tuple(np.arange(0, 360, told.degrees).tolist())
    start = time.process_time()
    graph = build_graph(lat, lon, refinement=told.refinement, hops=16, block=told.block)
    near = graph.near
    used = sum(int((np.asarray(keys) < graph.n_mesh).sum()) for keys in near.keys)
    pairs = near.nodes.shape[1] * near.keys.shape[1] * len(near.nodes)
    allowed = int(
        np.asarray(near.seen)[
            np.asarray(near.position) // near.nodes.shape[1],
            np.asarray(near.position) % near.nodes.shape[1],
        ].sum()
    )
    print(
        f"graph: {time.process_time() - start:.0f} s; {graph.n_grid} grid, {graph.n_mesh} mesh "
        f"nodes; {len(near.nodes)} blocks of {near.nodes.shape[1]} nodes and "
        f"{near.keys.shape[1]} keys ({used / near.keys.size:.0%} used); "
        f"{allowed / graph.n_mesh:.0f} nodes attended to, {pairs / allowed:.2f} times as many "
        "pairs computed"
    )

    net = eqx.filter_jit(FGN)(config, key=jax.random.key(0))
    n = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(net, eqx.is_array)))
    x = jax.random.normal(jax.random.key(1), (graph.n_grid, 1, 180))
    clocks = jax.random.normal(jax.random.key(2), (1, 6))
    z = jax.random.normal(jax.random.key(3), (told.members, 32))

    arrays, others = eqx.partition((net, graph), eqx.is_array)

    def evaluate(arrays: tuple, z: jax.Array) -> jax.Array:
        net, graph = eqx.combine(arrays, others)
        return net(x, clocks, z, graph)

    start = time.process_time()
    program = jax.jit(evaluate).lower(arrays, z).compile()
    temporary = program.memory_analysis().temp_size_in_bytes / 2**30
    print(
        f"{n / 1e6:.1f} million parameters; compiled in {time.process_time() - start:.0f} s of "
        f"processor time; {temporary:.2f} GiB of temporaries",
        flush=True,
    )
    for call in range(told.calls):
        cpu, wall = time.process_time(), time.perf_counter()
        program(arrays, z).block_until_ready()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"call {call + 1}: {cpu:.1f} s of processor time, {wall:.1f} s on the clock; "
            f"peak memory of the process {peak:.1f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
