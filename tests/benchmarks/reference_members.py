"""Print what members with the prior `reference` cost: seconds, processor time, largest memory.

    python tests/benchmarks/reference_members.py [--rows 181] [--columns 10000] [--members 8]

A synthetic layout of ERA5 with six variables on 13 levels; columns of all of them at random places.
The goal for 1 degree, on two quiet cores: prior 5 s, analysis 60 s and 4 GB; for 0.25 degree
(``--rows 721``) 10 min and 12 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import xarray as xr

import xdiffda
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Layout, equiangular

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
TYPICAL = {
    "temperature": 260.0,
    "geopotential": 5e4,
    "specific_humidity": 2e-3,
    "u_component_of_wind": 5.0,
    "v_component_of_wind": 5.0,
    "relative_humidity": 50.0,
}


class Clock:
    """Seconds on the clock and of processors since the last call."""

    def __init__(self) -> None:
        self.last = time.perf_counter(), time.process_time()

    def __call__(self, what: str) -> None:
        now = time.perf_counter(), time.process_time()
        wall, processor = (b - a for a, b in zip(self.last, now, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{what}: {wall:.1f} s, {processor:.1f} s of processors, peak {peak:.2f} GB", flush=True
        )
        self.last = now


def _columns(layout: Layout, n: int) -> xr.Dataset:
    """Observations of all channels at random places."""
    rng = np.random.default_rng(0)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(0, 360, n)
    names, levels = (np.array([c[i] for c in layout.channels]) for i in (0, 1))
    base = np.array([TYPICAL[name] for name in names])
    error = np.array(
        [xdiffda.reference_prior(layout).typical_error()[v][p] for v, p in layout.channels]
    )
    value = base + rng.normal(size=(n, len(base))) * error
    return xr.Dataset(
        {"value": ("obs", value.ravel()), "error_std": ("obs", np.tile(error, n))},
        {
            "variable": ("obs", np.tile(names, n)),
            "lat": ("obs", np.repeat(lat, len(base))),
            "lon": ("obs", np.repeat(lon, len(base))),
            "level": ("obs", np.tile(levels.astype(float), n)),
            "time": ("obs", np.full(n * len(base), np.datetime64("2020-01-01T12", "ns"))),
        },
    )


def main(rows: int, columns: int, members: int) -> None:
    """Measure and print."""
    layout = Layout(equiangular(rows, 2 * (rows - 1), poles=True), tuple(TYPICAL), LEVELS)
    clock = Clock()
    prior = xdiffda.reference_prior(layout)
    clock("prior, the first of a process")
    xdiffda.reference_prior(layout, lead_time="48h")
    clock("prior, another one")
    base = np.array([TYPICAL[name] for name, _ in layout.channels], np.float32)
    state = np.broadcast_to(base, (layout.grid.n_node, base.size))
    background = from_state(state, layout, default_convention(layout))
    background = background.assign_coords(time=np.datetime64("2020-01-01T12", "ns"))
    obs = _columns(layout, columns)
    clock("background and observations")
    analysis = xdiffda.assimilate(
        background, obs, model=prior, n_members=members, background_error=1.0, progress=False
    )
    clock(f"{members} members, {obs.sizes['obs']:,} observations")
    residual = json.loads(analysis.attrs["xdiffda_solver_residual"])[0]
    print(f"solved to {residual:.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=181)
    parser.add_argument("--columns", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=8)
    main(**vars(parser.parse_args()))
