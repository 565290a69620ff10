"""Time of the observation operator: 10,000 columns x 83 channels at 721 x 1440.

Goal: build in less than 2 s, apply in less than 50 ms on two cores.  Wall clock and processor time
are both printed: on a busy machine only the second means anything, and the ratio to a plain copy
of as many numbers says how far from the memory's speed the gather is.

    python tests/benchmarks/operators.py [n_columns]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from xdiffda.observations import observation_operator, observation_rows, to_tidy
from xdiffda.state.grid import Grid, Layout

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
VARIABLES = (
    "temperature",
    "geopotential",
    "u_component_of_wind",
    "v_component_of_wind",
    "vertical_velocity",
    "specific_humidity",
    "2m_temperature",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "mean_sea_level_pressure",
    "total_precipitation_6hr",
)
TYPICAL = {"temperature": 250.0, "2m_temperature": 280.0, "mean_sea_level_pressure": 1e5}


def table(layout: Layout, n: int) -> xr.Dataset:
    """Tidy observations of all channels in ``n`` columns, station by station."""
    rng = np.random.default_rng(0)
    names = [channel.partition("@")[0] for channel in layout.channel_names]
    levels = [float(channel.partition("@")[2] or "nan") for channel in layout.channel_names]
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(0, 360, n)
    pressure = np.array([p if np.isfinite(p) else 1000.0 for p in levels])
    value = np.array([TYPICAL.get(name, 0.0) for name in names])
    phi = 9.80665 * 44330.8 * (1 - (pressure / 1013.25) ** 0.190263)
    value = np.where(np.array(names) == "geopotential", phi, value)
    each = len(names)

    def column(x):
        return ("obs", np.tile(x, n))

    return xr.Dataset(
        {"value": column(value), "error_std": ("obs", np.ones(n * each))},
        {
            "variable": column(np.array(names)),
            "level": column(levels),
            "lat": ("obs", np.repeat(lat, each)),
            "lon": ("obs", np.repeat(lon, each)),
            "time": ("obs", np.full(n * each, np.datetime64("2020-01-01", "ns"))),
        },
    )


def timed(what: str, run: Callable[[], object], repeat: int = 5) -> float:
    """Print the best of some runs after a first one; return its processor time."""
    jax.block_until_ready(run())
    best = (np.inf, np.inf)
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    print(f"{what:34} {1e3 * best[1]:9.1f} ms wall {1e3 * best[0]:9.1f} ms processor")
    return best[0]


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    layout = Layout(
        Grid.from_coords(np.linspace(-90, 90, 721), np.arange(1440) * 0.25), VARIABLES, LEVELS
    )
    tidy = table(layout, n)
    print(f"{n} columns x {layout.n_channel} channels on {layout.grid}")
    timed("validate (to_tidy)", lambda: to_tidy(tidy), 1)
    timed("build (observation_operator)", lambda: observation_operator(tidy, layout)[0], 3)
    timed("build (observation_rows)", lambda: observation_rows(tidy, layout).linear, 1)
    obs, _, _ = observation_operator(tidy, layout)
    x = jnp.ones((layout.grid.n_node, layout.n_channel), jnp.float32)
    apply, adjoint = jax.jit(lambda o, x: o.apply(x)), jax.jit(lambda o, y: o.adjoint(y))
    gather = timed("apply", lambda: apply(obs, x))
    timed("adjoint", lambda: adjoint(obs, obs.value))
    copy = jax.jit(lambda a: a + 1.0)
    plain = timed("copy of as many numbers", lambda: copy(obs.weight))
    print(f"apply / copy: {gather / plain:.1f}")


if __name__ == "__main__":
    main()
