"""A cycled run killed by SIGKILL at random points, followed live meanwhile, and resumed.

Where and when it is killed comes from one seed, which a failing test prints; the same again:

    XDIFFDA_KILL_SEED=1234 pytest tests/cycling/test_cycle_kill.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cycle_world as world
import pytest
import xarray as xr
from places import SUPPORT
from same_bytes import same_bytes

N_CYCLES = 8
KILLS = 2
N_FILES = 60  # fewer than are written before the first commit
SCRIPT = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "import cycle_world\n"
    "cycle_world.run(sys.argv[2], int(sys.argv[3]))\n"
)
# the process kills itself when it writes the n-th file of a store that has no name yet
EARLY = (
    "import os, signal, sys\n"
    "left = [int(sys.argv[4])]\n"
    "def watch(event, details):\n"
    "    if event == 'open' and '.partial.zarr' in str(details[0]) and 'w' in (details[1] or ''):\n"
    "        left[0] -= 1\n"
    "        if not left[0]:\n"
    "            os.kill(os.getpid(), signal.SIGKILL)\n"
    "sys.addaudithook(watch)\n"
) + SCRIPT

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is of POSIX"),
]


def _start(script: str, path: Path, *more: int) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-c", script, str(SUPPORT)]
    return subprocess.Popen([*command, str(path), str(N_CYCLES), *map(str, more)])


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


def _kill_later(path: Path, reference: xr.Dataset, delay: float) -> set[int]:
    """Run on, kill so many seconds after the next commit; what was seen meanwhile."""
    before, views = _committed(path), set()
    process = _start(SCRIPT, path)
    try:
        while process.poll() is None and _committed(path) <= before:
            time.sleep(0.02)
        deadline = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < deadline:
            views.add(_follow(path, reference))
    finally:
        process.kill()
        process.wait()
    assert _follow(path, reference) > before, "no cycle was added between the kills"
    return views


def test_killed_at_random_points_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.zarr", tmp_path / "run.zarr"
    seed = int(os.environ.get("XDIFFDA_KILL_SEED", random.SystemRandom().randrange(10**6)))
    draw = random.Random(seed)
    n_file, delays = draw.randint(1, N_FILES), [draw.uniform(0.0, 0.6) for _ in range(KILLS)]
    print(f"XDIFFDA_KILL_SEED={seed}: at file {n_file} of the new store, then after {delays} s")
    early = _start(EARLY, path, n_file)  # beside the whole run, which is as long
    try:
        world.run(whole, N_CYCLES)  # in this process: that of another must be the same
        early.wait(120)
    finally:
        early.kill()
    assert early.returncode == -signal.SIGKILL and not path.exists()
    assert [p for p in tmp_path.iterdir() if p != whole], "nothing was begun"
    reference = xr.open_zarr(whole).load()
    views = [_kill_later(path, reference, delay) for delay in delays]
    world.run(path, N_CYCLES)
    assert same_bytes(path, whole), f"killed with {seed=}, seen {views}"
    left = {p.name for p in tmp_path.iterdir() if p.suffix != ".lock"}  # those hold nothing
    assert left == {"whole.zarr", "run.zarr"}
