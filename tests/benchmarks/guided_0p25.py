"""A guided analysis at scale: seconds and peak memory, beside what `xdiffda.plan` says of it.

    PYTHONPATH=. python tests/benchmarks/guided_0p25.py       # 0.25 degree, 8 members: needs a GPU
    PYTHONPATH=. python tests/benchmarks/guided_0p25.py --members 1 --dtype float32 \\
        --edge-chunk 16384                                    # on CPUs with 16 GB of memory
    PYTHONPATH=. python tests/benchmarks/guided_0p25.py --degrees 10 --latent 16 --steps 2 \\
        --levels 500 850 --columns 200 --members 2 --dtype float32

Weights are random but for the output layer, which is zero: the denoiser then is the Gaussian
estimate, so that the error of the analysis over that of its background, which is printed, tells
whether what was timed was an analysis. The second call is the one that counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import xdiffda
from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import DenoiserNetwork
from xdiffda.networks.graphcast.graph import build_graph
from xdiffda.planning import DEVICES, amount, mesh_for
from xdiffda.priors.diffusion import DiffusionPrior
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Layout, equiangular

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
# mean and scale of the errors, for all levels
FIELDS = {
    "geopotential": (5e4, 200.0),
    "specific_humidity": (3e-3, 5e-4),
    "temperature": (260.0, 1.5),
    "u_component_of_wind": (5.0, 2.5),
    "v_component_of_wind": (0.0, 2.5),
    "vertical_velocity": (0.0, 0.1),
    "2m_temperature": (285.0, 1.5),
    "10m_u_component_of_wind": (0.0, 2.0),
    "10m_v_component_of_wind": (0.0, 2.0),
    "mean_sea_level_pressure": (101e3, 150.0),
}


def random_network(layout: Layout, latent: int, steps: int) -> DenoiserNetwork:
    """A denoiser with random weights, made without compiling their initialisation."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / leaf.shape[0] ** 0.5)

    shapes = eqx.filter_eval_shape(
        DenoiserNetwork,
        layout.n_channel,
        2,
        latent=latent,
        processor_steps=steps,
        hidden_layers=1,
        conditioning_width=16,
        key=jax.random.key(0),
    )
    network = jax.tree.map(draw, shapes)

    def last(net):
        return net.backbone.decoder.output.layers[-1]

    zero = jax.tree.map(jnp.zeros_like, last(network))
    return eqx.tree_at(last, network, zero)


def make_prior(options: argparse.Namespace) -> DiffusionPrior:
    """A prior with a red spectrum and independent channels."""
    spacing = options.degrees
    grid = equiangular(round(180 / spacing) + 1, round(360 / spacing), poles=True)
    layout = Layout(grid, tuple(sorted(FIELDS)), tuple(options.levels))
    limit = min(grid.n_lat - 1, grid.n_lon // 2 - 1, options.truncation)
    basis = sphere_basis(grid.lat, grid.lon, limit)
    count = np.asarray(basis.multiplicity)
    spectrum = 1 / (1 + (np.arange(len(count)) / 8.0) ** 3)
    spectrum /= (spectrum * count).sum() / count.sum()
    blocks = spectrum[:, None, None] * np.eye(layout.n_channel)
    mean, scale = np.array([FIELDS[name] for name, _ in layout.channels]).T
    unroll = {"unroll": False, "dtype": options.dtype, "edge_chunk": options.edge_chunk}
    return DiffusionPrior(
        "random",
        layout,
        np.tile(scale, (grid.n_node, 1)),
        SpectralCovariance.from_blocks(basis, blocks),
        network=random_network(layout, options.latent, options.steps),
        graph=build_graph(np.array(grid.lat), np.array(grid.lon), refinement=mesh_for(grid)),
        static=np.zeros((grid.n_node, 2), np.float32),
        mean=mean,
        stddev=10 * scale,
        calibrated=None,
        unresolved=np.zeros((grid.n_node, layout.n_channel), np.float32),
        card={},
    ).reconfigured(**unroll)


def states(prior: DiffusionPrior) -> tuple[xr.Dataset, xr.Dataset]:
    """Truth and background, apart by a draw from the prior."""
    keys = jax.random.split(jax.random.key(1), 1)
    error = prior.scale * np.asarray(prior.covariance.sample(keys))[:, 0]
    convention, base = default_convention(prior.layout), np.tile(prior.mean, (len(error), 1))
    time = np.datetime64("2020-01-15T12", "ns")
    pair = (from_state(x, prior.layout, convention) for x in (base + error, base))
    truth, background = (ds.assign_coords(time=time) for ds in pair)
    return truth, background


def off_grid(truth: xr.Dataset, prior: DiffusionPrior, columns: int) -> xr.Dataset:
    """Columns anywhere on the sphere; errors a quarter of the background's."""
    rng, error = np.random.default_rng(2), {name: s / 4 for name, (_, s) in FIELDS.items()}
    lat = np.degrees(np.arcsin(rng.uniform(-0.99, 0.99, columns)))
    sites = {"lat": lat, "lon": rng.uniform(0, 360, columns)}
    return truth.diffda.emulate_obs(sites=sites, error_std=error, seed=0)


def peak() -> tuple[int, str]:
    """Largest memory so far, and of what."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "process"


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    xdiffda.set_options(progress=False)
    prior = make_prior(options)
    truth, background = states(prior)
    obs = off_grid(truth, prior, options.columns)
    n_obs = options.columns * prior.layout.n_channel
    device = options.device or ("cpu" if jax.default_backend() == "cpu" else "h200")
    print(
        xdiffda.plan(
            grid=prior.layout.grid,
            levels=len(options.levels),
            members=options.members,
            obs=n_obs,
            device=DEVICES[device],
            dtype=options.dtype,
            latent=options.latent,
            processor_steps=options.steps,
            edge_chunk=options.edge_chunk,
            truncation=prior.covariance.basis.mask.shape[0] - 1,
        )
    )
    for call in ("first, with compilation", "second"):
        wall, processor = time.perf_counter(), time.process_time()
        analysis = background.diffda.assimilate(
            obs, model=prior, method="guided", n_members=options.members, seed=0
        )
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        size, of = peak()
        print(
            f"{call}: {wall:.1f} s, {processor:.1f} s of processor time; {of}'s peak so far "
            f"{amount(size)}",
            flush=True,
        )
    name = "temperature"
    left = analysis[name].mean("member") - truth[name]
    ratio = float(np.sqrt((left**2).mean() / ((background[name] - truth[name]) ** 2).mean()))
    residual = json.loads(analysis.attrs["xdiffda_solver_residual"])[0]
    used = json.loads(analysis.attrs["xdiffda_observations_used"])[0]
    print(
        f"{jax.devices()[0].device_kind}; {used:,} "
        f"observations; residual of the solves {residual:.1e}; error / background's {ratio:.2f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--degrees", type=float, default=0.25)
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--columns", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--latent", type=int, default=512)
    parser.add_argument("--steps", type=int, default=16, help="of the processor")
    parser.add_argument("--truncation", type=int, default=63, help="of V")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--edge-chunk", type=int, default=0, help="edges at a time; 0 for all")
    parser.add_argument("--device", default="", choices=["", *DEVICES], help="to plan for")
    main(parser.parse_args())
