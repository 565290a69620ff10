"""One evaluation of the network at scale: time, peak memory, and the machine's matrix rate.

    python tests/benchmarks/denoiser_0p25.py                            # 0.25 degree: needs a GPU
    python tests/benchmarks/denoiser_0p25.py --degrees 1 --refinement 5 --dtype float32
    python tests/benchmarks/denoiser_0p25.py --degrees 10 --refinement 2 --latent 16 --steps 2

A plain product of the processor's shape is timed in turn with the network, as a yardstick: the
network is reported in seconds and as a share of that rate, which holds on a busy machine too.
Peak memory is the device's where it reports it, else that of this process in each phase
(Linux): static part, compilation and evaluation, with what the process held when it began.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from xdiffda.networks.graphcast.graph import Graph, build_graph
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig
from xdiffda.networks.graphcast.static import Factored, InFactors, Prepared


def operations(
    graph: Graph, config: NetworkConfig, *, prepared: Prepared | InFactors | None, plain: bool
) -> float:
    """Floating-point operations of all products in one evaluation with one member.

    `plain` gathers before it multiplies, as the reference implementation does.
    """
    width, grid, mesh = config.latent, graph.n_grid, graph.n_mesh
    g2m, inner, m2g = (len(e.features) for e in (graph.grid2mesh, graph.mesh, graph.mesh2grid))
    steps, square = config.processor_steps, width * width
    shared = grid * (config.n_inputs * width + square)  # embedding
    shared += 2 * grid * square  # update of the grid after the encoder
    shared += (3 * mesh * (1 + steps) + 3 * grid) * square  # nodes of all steps
    shared += grid * (square + width * config.n_outputs)
    edges = (g2m + steps * inner + m2g) * square
    if plain:
        return 2.0 * (shared + 4 * edges + (g2m + inner + m2g + mesh) * square)
    ends = (grid + mesh) * (1 + 1) * square + 2 * steps * mesh * square
    own = 0 if prepared else (2 * (g2m + m2g) + inner + mesh) * square
    kept = (prepared.grid2mesh, prepared.edge, prepared.mesh2grid) if prepared else ()
    own += sum(part.coefficients.size * width for part in kept if isinstance(part, Factored))
    return 2.0 * (shared + edges + steps * inner * square + ends + own)


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - processor


def random_network(config: NetworkConfig) -> GraphCast:
    """A network with random weights, made without a compilation whose memory would remain."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / leaf.shape[0] ** 0.5)

    shapes = eqx.filter_eval_shape(GraphCast, config, key=jax.random.key(0))
    return jax.tree.map(draw, shapes)


@contextlib.contextmanager
def watched(phase: str) -> Iterator[None]:
    """Print the largest memory of a phase, and what was held when it began."""
    process = Path("/proc/self")
    process.joinpath("clear_refs").write_text("5")  # the kernel forgets the peak so far
    held = resident("VmRSS")
    yield
    stats = jax.devices()[0].memory_stats() or {}
    device = stats.get("peak_bytes_in_use")
    told = f"; device so far {device / 1e9:.2f} GB" if device else ""
    print(f"{phase}: peak {resident('VmHWM'):.2f} GB, {held:.2f} GB at its start{told}", flush=True)


def resident(what: str) -> float:
    """Memory of this process in GB: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) * 1024 / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--degrees", type=float, default=0.25)
    parser.add_argument("--refinement", type=int, default=6)
    parser.add_argument("--latent", type=int, default=512)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--precision", default="highest", choices=["highest", "default"])
    parser.add_argument("--inputs", type=int, default=186, help="channels in (and 83 out)")
    parser.add_argument("--conditioning", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--edge-chunk", type=int, default=0, help="edges at a time; 0 for all")
    parser.add_argument("--unprepared", action="store_true", help="embed edges in every call")
    options = parser.parse_args()

    lat = np.linspace(-90, 90, round(180 / options.degrees) + 1)
    graph = build_graph(lat, np.arange(0, 360, options.degrees), refinement=options.refinement)
    config = NetworkConfig(
        options.inputs,
        83,
        latent=options.latent,
        processor_steps=options.steps,
        conditioning_width=options.conditioning,
        dtype=options.dtype,
        unroll=False,
        edge_chunk=options.edge_chunk,
        precision=options.precision,
    )
    net = random_network(config)
    x = jnp.asarray(np.ones((graph.n_grid, options.members, options.inputs), np.float32))
    given = jnp.ones((options.members, options.conditioning)) if options.conditioning else None
    prepared = None
    if not options.unprepared:
        prepare = GraphCast.prepare if options.edge_chunk else eqx.filter_jit(GraphCast.prepare)
        with watched("static part, with its compilation"):
            prepared = jax.block_until_ready(prepare(net, graph))
    apply = eqx.filter_jit(lambda net, *args: net(*args))
    with watched("compilation"):
        compiled = apply.lower(net, x, graph, given, prepared).compile()
    planned = compiled.compiled.memory_analysis()
    print(
        f"planned by the compiler: {planned.temp_size_in_bytes / 1e9:.2f} GB temporary, "
        f"{planned.argument_size_in_bytes / 1e9:.2f} GB arguments"
    )

    def evaluate():
        return compiled(net, x, graph, given, prepared)

    with watched("first evaluation"):
        seconds(evaluate)

    rows = min(len(graph.mesh.features), 100_000)
    a = jnp.ones((rows, options.latent), options.dtype)
    b = jnp.ones((options.latent, options.latent), options.dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    seconds(lambda: product(a, b))
    times = [(*seconds(evaluate), *seconds(lambda: product(a, b))) for _ in range(options.repeats)]
    wall, processor, wall_product, processor_product = np.median(times, axis=0)

    count = options.members * operations(graph, config, prepared=prepared, plain=False)
    plain = options.members * operations(graph, config, prepared=None, plain=True)
    rate = 2.0 * rows * options.latent**2
    print(
        f"{jax.devices()[0].device_kind}; {graph.n_grid} grid and {graph.n_mesh} mesh nodes; "
        f"{options.members} members; {options.dtype}, {options.precision}"
    )
    print(f"products: {count / 1e12:.3f} e12 operations, gathering first {plain / 1e12:.3f} e12")
    for name, ours, yard in (
        ("wall", wall, wall_product),
        ("processor", processor, processor_product),
    ):
        share = count / ours / (rate / yard)
        print(
            f"{name}: {ours:.3f} s, {count / ours / 1e9:.0f} GFLOP/s; plain product "
            f"{rate / yard / 1e9:.0f} GFLOP/s; share of that rate {share:.2f}"
        )


if __name__ == "__main__":
    main()
