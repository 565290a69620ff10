"""Time of the observation side at 721 x 1440: 40,000 columns x 83 channels, 10^6 tidy rows.

Goals: soft mask, kriging and H for the columns in less than 5 s on two cores; 10^6 tidy rows,
read, checked and with H, in less than 10 s.  Printed are wall clock, processor time of all
threads, that of the main thread (what other cores cannot share), what two idle cores would take
(main + rest / 2), and the largest memory so far.  On a busy machine the wall clock means nothing.

    python tests/benchmarks/observations_at_scale.py [--columns 40000] [--rows 1000000] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse
import scipy.spatial  # noqa: F401  loading libraries is not what is timed
import xarray as xr
from operators import LEVELS, TYPICAL, VARIABLES  # beside this script

from xdiffda.observations import (
    drop_duplicates,
    emulate_obs,
    interpolate,
    interpolated_state,
    observation_operator,
    observation_rows,
    select_window,
    soft_mask,
    to_tidy,
)
from xdiffda.state.grid import Grid, Layout
from xdiffda.state.variables import VARIABLES as TABLE

TIME = np.datetime64("2020-01-01T00", "ns")


class Clock:
    """Runs stages, prints what each took, and remembers it for sums."""

    def __init__(self, profiled: bool) -> None:
        self.profiled = profiled
        self.taken: dict[str, tuple[float, float, float]] = {}
        head = ("wall s", "processor", "main", "two cores", "peak GB")
        print(f"{'':38}" + "".join(f"{word:>10}" for word in head))

    def __call__(self, stage: str, run: Callable[[], Any], *, first: bool = True) -> Any:
        """Run once (after one run that does not count, unless ``first``)."""
        if not first:
            jax.block_until_ready(run())
        profile = cProfile.Profile() if self.profiled else None
        clocks = (time.perf_counter, time.process_time, time.thread_time)
        begin = [clock() for clock in clocks]
        result = profile.runcall(run) if profile else run()
        jax.block_until_ready(result)
        wall, cpu, main = (clock() - t for clock, t in zip(clocks, begin, strict=True))
        self.taken[stage] = (wall, cpu, main)
        self._print(stage, self.taken[stage])
        if profile:
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(14)
        return result

    def total(self, what: str, stages: Iterable[str]) -> None:
        """Print the sum of some stages."""
        self._print(what, tuple(map(sum, zip(*(self.taken[s] for s in stages), strict=True))))

    @staticmethod
    def _print(stage: str, taken: tuple[float, ...]) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        wall, cpu, main = taken
        numbers = (wall, cpu, main, main + (cpu - main) / 2, peak)
        print(f"{stage:38}" + "".join(f"{number:10.2f}" for number in numbers), flush=True)


def typical(name: str, level: np.ndarray) -> np.ndarray:
    """Plausible values, so that the checks have nothing to object to."""
    if name == "geopotential":
        return 9.80665 * 44330.8 * (1 - (level / 1013.25) ** 0.190263)
    return np.full(level.shape, TYPICAL.get(name, 0.0))


def state() -> xr.Dataset:
    """A smooth state at 0.25 degree, float32, 345 MB."""
    lat, lon = np.linspace(90, -90, 721), np.arange(1440) * 0.25
    wave = np.cos(np.deg2rad(lat))[:, None] * np.sin(np.deg2rad(3 * lon))
    wave = (1e-4 * wave).astype(np.float32)
    levels = np.array(LEVELS, np.float64)
    fields = {}
    for name in VARIABLES:
        at = levels if TABLE[name].on_levels else np.array([1000.0])
        field = typical(name, at).astype(np.float32)[:, None, None] + wave
        dims = ("level", "lat", "lon")[-3 if TABLE[name].on_levels else -2 :]
        fields[name] = (dims, field if TABLE[name].on_levels else field[0])
    return xr.Dataset(fields, {"level": list(LEVELS), "lat": lat, "lon": lon, "time": TIME})


def empty_state(grid: Grid) -> xr.Dataset:
    """A state without memory of its own: only its coordinates are looked at."""
    zero, fields = np.float32(0), {}
    for name in VARIABLES:
        on = TABLE[name].on_levels
        shape, dims = (len(LEVELS), *grid.shape), ("level", "lat", "lon")
        fields[name] = (dims[not on :], np.broadcast_to(zero, shape[not on :]))
    coords = {"level": list(LEVELS), "lat": np.asarray(grid.lat), "lon": np.asarray(grid.lon)}
    return xr.Dataset(fields, coords)


def sites(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Uniform on the sphere, off the grid."""
    rng = np.random.default_rng(seed)
    return {"lat": np.rad2deg(np.arcsin(rng.uniform(-1, 1, n))), "lon": rng.uniform(0, 360, n)}


def columns(clock: Clock, layout: Layout, n: int) -> None:
    """What a user of many whole columns meets."""
    truth = state()
    obs = clock("emulate_obs", lambda: emulate_obs(truth, sites=sites(n), noise=True))
    del truth
    tidy = clock("to_tidy (read, check)", lambda: to_tidy(obs))
    clock("observation_operator (H)", lambda: observation_operator(tidy, layout)[0])
    h = clock("observation_rows (H, as assimilate)", lambda: observation_rows(tidy, layout)).linear
    x = jnp.ones((layout.grid.n_node, layout.n_channel), jnp.float32)
    apply, adjoint = jax.jit(lambda o, x: o.apply(x)), jax.jit(lambda o, y: o.adjoint(y))
    clock("H x", lambda: apply(h, x), first=False)
    clock("H^T y", lambda: adjoint(h, h.value), first=False)
    del x, h
    clock("soft_mask", lambda: soft_mask(tidy, layout))
    clock("interpolated_state (kriging)", lambda: interpolated_state(tidy, layout))
    like = empty_state(layout.grid)
    clock("interpolate (user's call, whole)", lambda: interpolate(obs, like=like))
    clock.total(
        "GOAL 5 s: mask + kriging + H",
        ("observation_rows (H, as assimilate)", "soft_mask", "interpolated_state (kriging)"),
    )
    clock.total(
        "the same with read, check, Hx, HTy",
        (
            "to_tidy (read, check)",
            "observation_rows (H, as assimilate)",
            "H x",
            "H^T y",
            "soft_mask",
            "interpolated_state (kriging)",
        ),
    )


def frame(n: int) -> pd.DataFrame:
    """A tidy table as users have it: any order, own words, no errors stated, some derived."""
    rng = np.random.default_rng(1)
    names = np.array(["t", "z", "u", "v", "q", "2t", "msl", "ff"], object)
    long = (
        "temperature",
        "geopotential",
        "u_component_of_wind",
        "v_component_of_wind",
        "specific_humidity",
        "2m_temperature",
        "mean_sea_level_pressure",
        "wind_speed",
    )
    code = rng.integers(0, names.size, n)
    level = np.exp(rng.uniform(np.log(60), np.log(990), n)).round(1)
    value = np.choose(code, [typical(name, level) for name in long])
    value = value + np.where(code == 4, 1e-6, 1.0) * rng.random(n)
    place = sites(n // 10, 2)
    station = rng.integers(0, n // 10, n)
    return pd.DataFrame(
        {
            "variable": names[code],
            "lat": place["lat"][station],
            "lon": place["lon"][station] - 180,
            "level": np.where((code == 5) | (code == 6), np.nan, level),
            "value": value,
            "time": TIME + rng.integers(-240, 240, n) * np.timedelta64(1, "m"),
        }
    )


def rows(clock: Clock, layout: Layout, n: int) -> None:
    """What a user of a long table meets."""
    table = frame(n)
    tidy = clock("to_tidy (DataFrame: read, check)", lambda: to_tidy(table))
    twice = pd.concat([table, table.iloc[:1000]], ignore_index=True)
    clock("drop_duplicates (DataFrame)", lambda: drop_duplicates(twice))
    clock("to_tidy (again, of tidy)", lambda: to_tidy(tidy))
    inside, _ = clock("select_window", lambda: select_window(tidy, TIME, "6h"))
    print(f"{inside.sizes['obs']} inside the window")
    clock("observation_rows of all (H)", lambda: observation_rows(tidy, layout))
    clock.total(
        "GOAL 10 s: read, check, window, H",
        (
            "to_tidy (DataFrame: read, check)",
            "select_window",
            "observation_rows of all (H)",
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=40_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--profile", action="store_true", help="cProfile of each stage")
    chosen = parser.parse_args()
    grid = Grid.from_coords(np.linspace(-90, 90, 721), np.arange(1440) * 0.25)
    layout = Layout(grid, VARIABLES, LEVELS)
    clock = Clock(chosen.profile)
    if chosen.columns:
        print(f"{chosen.columns} columns x {layout.n_channel} channels on {grid}")
        columns(clock, layout, chosen.columns)
    if chosen.rows:
        print(f"{chosen.rows} tidy rows on {grid}")
        rows(clock, layout, chosen.rows)


if __name__ == "__main__":
    main()
