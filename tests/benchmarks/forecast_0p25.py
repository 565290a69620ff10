"""A forecast at the size of graphcast-operational-0p25: seconds a step and peak memory.

    PYTHONPATH=. python tests/benchmarks/forecast_0p25.py --edge-chunk 16384        # CPU
    PYTHONPATH=. python tests/benchmarks/forecast_0p25.py --degrees 10 --latent 16 --processor 2

Weights are random but for the output layer, which is zero: the forecast then is persistence, which
is checked, so that what was timed is the whole way from Dataset to Dataset.
"""

from __future__ import annotations

import argparse
import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from denoiser_0p25 import random_network, resident, watched
from guided_0p25 import FIELDS, LEVELS

import xdiffda
from xdiffda.networks.graphcast.bare import BareNetwork
from xdiffda.networks.graphcast.checkpoint import ModelConfig, TaskConfig
from xdiffda.networks.graphcast.forcings import FORCING_VARIABLES
from xdiffda.networks.graphcast.forecaster import Forecaster
from xdiffda.networks.graphcast.network import NetworkConfig
from xdiffda.planning import mesh_for
from xdiffda.state.grid import equiangular

SURFACE = [name for name in FIELDS if name.startswith(("2m", "10m", "mean"))]
STATIC = ("geopotential_at_surface", "land_sea_mask")


def states(degrees: float) -> xr.Dataset:
    """Two states, six hours apart, of constant fields with some noise."""
    grid = equiangular(round(180 / degrees) + 1, round(360 / degrees), poles=True)
    rng = np.random.default_rng(0)
    coords = {
        "time": np.datetime64("2020-01-15T06", "ns") + np.arange(2) * np.timedelta64(6, "h"),
        "level": list(LEVELS),
        "lat": list(grid.lat),
        "lon": list(grid.lon),
    }
    data = {}
    for name, (mean, scale) in FIELDS.items():
        dims = ("time", "lat", "lon") if name in SURFACE else ("time", "level", "lat", "lon")
        shape = [len(coords[dim]) for dim in dims]
        data[name] = dims, mean + scale * rng.standard_normal(shape, np.float32)
    data |= {name: (("lat", "lon"), np.zeros((grid.n_lat, grid.n_lon), "f4")) for name in STATIC}
    return xr.Dataset(data, coords).astype(np.float32)


def make_forecaster(options: argparse.Namespace, ds: xr.Dataset) -> Forecaster:
    """A forecaster with the official variables and sizes."""
    targets, forcings = tuple(sorted(FIELDS)), tuple(FORCING_VARIABLES)
    task = TaskConfig((*targets, *forcings, *STATIC), targets, forcings, LEVELS)
    n_out = len(SURFACE) + (len(FIELDS) - len(SURFACE)) * len(LEVELS)
    config = NetworkConfig(
        2 * n_out + 3 * len(forcings) + len(STATIC),
        n_out,
        latent=options.latent,
        processor_steps=options.processor,
        dtype=options.dtype,
        precision=options.precision,
        edge_chunk=options.edge_chunk,
        unroll=False,
    )
    net = random_network(config)

    def last(net):
        return net.decoder.output.layers[-1]

    net = eqx.tree_at(last, net, jax.tree.map(jnp.zeros_like, last(net)))
    mesh = mesh_for(equiangular(ds.sizes["lat"], ds.sizes["lon"], poles=True))
    sizes = ModelConfig(options.degrees, mesh, options.latent, options.processor, 1)
    one = {name: ((), np.float32(1)) for name in FIELDS}
    mean = xr.Dataset({name: ((), np.float32(m)) for name, (m, _) in FIELDS.items()})
    spread = xr.Dataset({name: ((), np.float32(s)) for name, (_, s) in FIELDS.items()})
    return Forecaster(
        BareNetwork(net, task, sizes), mean=mean, stddev=spread, diffs_stddev=xr.Dataset(one)
    )


def main(options: argparse.Namespace) -> None:
    """Forecast twice; the second call is the one that counts."""
    xdiffda.set_options(progress=False)
    ds = states(options.degrees)
    forecaster = make_forecaster(options, ds)
    print(f"{forecaster.net.net.config.n_inputs} inputs; {resident('VmRSS'):.2f} GB before")
    lead = f"{6 * options.steps}h"
    for call in ("first, with graph, factors and compilation", "second"):
        wall, processor = time.perf_counter(), time.process_time()
        with watched(call), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fields of noise are no weather
            found = ds.diffda.forecast(lead, model=forecaster)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"{call}: {wall / options.steps:.1f} s a step, {processor / options.steps:.1f} of "
            "processor time",
            flush=True,
        )
    kept = float(np.abs(found["temperature"][-1] - ds["temperature"][-1]).max())
    print(f"largest change of temperature, which is to be none: {kept:.1e} K")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--degrees", type=float, default=0.25)
    parser.add_argument("--latent", type=int, default=512)
    parser.add_argument("--processor", type=int, default=16, help="steps of the processor")
    parser.add_argument("--steps", type=int, default=1, help="of the forecast, 6 h each")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--precision", default="highest", choices=["highest", "default"])
    parser.add_argument("--edge-chunk", type=int, default=0, help="edges at a time; 0 for all")
    main(parser.parse_args())
