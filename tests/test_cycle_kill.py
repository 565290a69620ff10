"""A cycled run killed by SIGKILL at random points, followed live meanwhile, and resumed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cycle_world as world
import pytest
import xarray as xr
from test_cycle_store import same_bytes

N_CYCLES = 8
KILLS = 2
SCRIPT = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "import cycle_world\n"
    "cycle_world.run(sys.argv[2], int(sys.argv[3]))\n"
)


def _committed(path: Path) -> int:
    return xr.open_zarr(path).sizes["time"] if path.exists() else 0


def _follow(path: Path, reference: xr.Dataset) -> int:
    """Read as another process does while the run writes: whole cycles and nothing else."""
    if not path.exists():
        return 0
    seen = xr.open_zarr(path).load()
    n = seen.sizes["time"]
    xr.testing.assert_identical(seen, reference.isel(time=slice(n)))
    return n


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is of POSIX")
def test_killed_at_random_points_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.zarr", tmp_path / "run.zarr"
    world.run(whole, N_CYCLES)  # in this process: that of another must be the same
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(Path(__file__).parent)]
    reference = xr.open_zarr(whole).load()
    draw, committed, views = random.Random(), [], set()
    for _ in range(KILLS):
        before = _committed(path)
        process = subprocess.Popen([*command, str(path), str(N_CYCLES)])
        try:
            while process.poll() is None and _committed(path) <= before:
                time.sleep(0.02)
            deadline = time.monotonic() + draw.uniform(0.0, 0.6)
            while process.poll() is None and time.monotonic() < deadline:
                views.add(_follow(path, reference))
        finally:
            process.kill()
            process.wait()
        committed.append(_follow(path, reference))
    assert before < committed[-1], f"no cycle was added between the kills: {committed}"
    world.run(path, N_CYCLES)
    assert same_bytes(path, whole), f"killed after {committed} cycles, seen {views}"
