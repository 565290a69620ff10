"""Plans that users make: small grids, fine meshes, nonsense, options that fit a grid, programs."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from typing import Any

import numpy as np
import pytest
from lowered import lowered
from typer.testing import CliRunner

import xdiffda
from xdiffda import cli
from xdiffda.errors import InputError
from xdiffda.networks.graphcast import NetworkConfig, build_graph
from xdiffda.networks.graphcast.costs import Dimensions, temporary_bytes
from xdiffda.planning import DEVICES, Device

# One evaluation of a network drawn at random, its processor time and the peak of its process,
# on one core of an Intel Xeon that other work shared: spacing, levels, width, steps, members
MEASURED = [
    ((10, 3, 32, 2, 1), {}, 0.002, 0.52e9),
    ((7.5, 5, 64, 4, 4), {}, 0.019, 0.54e9),
    ((5, 13, 128, 8, 2), {}, 0.153, 0.64e9),
    ((5, 7, 64, 4, 8), {"edge_chunk": 2048}, 0.237, 0.81e9),
    ((3, 4, 256, 2, 1), {}, 0.370, 0.81e9),
    ((3, 4, 64, 2, 8), {}, 0.570, 1.01e9),
    ((4, 7, 128, 4, 8), {}, 0.734, 0.86e9),
    ((2, 13, 128, 4, 1), {}, 0.327, 0.79e9),
    ((2, 7, 96, 4, 2), {"edge_chunk": 4096}, 0.364, 0.97e9),
    ((6, 7, 512, 16, 1), {}, 1.097, 0.98e9),
    ((6, 7, 16, 16, 8), {}, 0.074, 0.64e9),
    ((5, 7, 128, 4, 2), {"dtype": "bfloat16"}, 0.079, 0.69e9),
    ((5, 7, 128, 4, 2), {"refinement": 5}, 1.573, 1.37e9),
]


@pytest.mark.parametrize(("sizes", "options", "seconds", "peak"), MEASURED)
def test_a_plan_is_what_was_measured(
    sizes: tuple, options: dict, seconds: float, peak: float
) -> None:
    names = ("grid", "levels", "latent", "processor_steps", "members")
    given = dict(zip(names, sizes, strict=True)) | options
    plan = xdiffda.plan(device="cpu", obs=0, max_batch=8, **given)
    assert 0.5 < plan.evaluation_seconds / seconds < 2
    assert 1 / 1.5 < plan.memory_bytes / peak < 1.5


@pytest.mark.parametrize("refinement", [3, 4])
def test_a_mesh_that_is_fine_for_its_grid_takes_the_memory_that_xla_plans(refinement: int) -> None:
    """Members are what counts: with too little for them, a group does not fit."""
    graph = build_graph(np.linspace(-90, 90, 19), np.arange(0, 360, 10.0), refinement=refinement)
    config = NetworkConfig(n_inputs=40, n_outputs=20, latent=64, processor_steps=3)
    reserved: Any = lowered(graph, config, 4, prepared=True).compile().memory_analysis()
    size = Dimensions.of(graph)
    kept = size.grid + 2 * size.mesh + size.grid2mesh + size.within + size.mesh2grid
    shared, member = temporary_bytes(config, size, prepared=True)
    needed = reserved.temp_size_in_bytes + 4 * 64 * kept
    assert 0.85 < (shared + 4 * member) / needed < 1.3


def test_every_combination_gives_numbers_or_says_why_not() -> None:
    options = {
        "grid": [0.25, 1, 5.0, "speedy", 45],
        "levels": [1, 37, np.int64(13)],
        "members": [1, 5, 50],
        "obs": [0, 1e3, 1e12],
        "devices": [1, 4, 64],
        "device": list(DEVICES),
        "dtype": ["float32", "bfloat16"],
        "latent": [16, 512],
        "processor_steps": [1, 16],
        "refinement": [None, 0, 6],
        "n_steps": [1, np.int32(8)],
        "max_batch": [1, 100],
        "edge_chunk": [0, 1, 10**12],
        "truncation": [None, 0, 31],
        "iterations": [None, 1, 100],
    }
    draw = random.Random(3)
    for _ in range(300):
        plan = xdiffda.plan(**{name: draw.choice(values) for name, values in options.items()})
        assert 0 < plan.kalman_seconds < plan.seconds < np.inf
        assert 1 <= plan.batch <= -(-plan.members // plan.n_devices)
        assert plan.memory_bytes >= plan.shared_bytes + plan.batch * plan.member_bytes > 0
        assert not plan.fits or plan.memory_bytes < plan.device.memory or not plan.device.memory
        json.dumps(dataclasses.asdict(plan))  # numbers of Python, whatever was given
        assert str(plan).count("\n") >= 4


def test_rates_and_numbers_that_cannot_be_meant() -> None:
    slow = dataclasses.replace(DEVICES["h100"], bandwidth=0)
    with pytest.raises(InputError, match=r"(?s)obs=1e\+300; needed 1e\+12 at most.*bandwidth=0"):
        xdiffda.plan(obs=1e300, device=slow)


def test_a_solve_takes_no_more_steps_than_there_are_numbers_to_find() -> None:
    one = {"grid": 1, "members": 1, "device": "cpu", "n_steps": 1}
    none, few, most = (xdiffda.plan(**one, obs=n).kalman_seconds for n in (0, 3, 10_000))
    assert none < few == xdiffda.plan(**one, obs=3, iterations=3).kalman_seconds < most
    coarse = {**one, "truncation": 0, "levels": 1}  # ten channels, one number of each
    known = xdiffda.plan(**coarse, obs=1e6, iterations=10).kalman_seconds
    assert xdiffda.plan(**coarse, obs=1e6).kalman_seconds == known


@pytest.mark.parametrize("grid", [0.25, 1, 5])
def test_what_is_advised_needs_less_and_as_much_as_it_says(grid: float) -> None:
    whole = xdiffda.plan(grid=grid, members=4)
    memory = 0.9 * (whole.shared_bytes + whole.member_bytes)
    device = Device("a card", 20e12, 200e12, 1e12, memory)
    plan = xdiffda.plan(grid=grid, members=4, device=device)
    assert not plan.fits and (len(plan.advice) > 1 or grid == 5)  # where weights weigh most
    for line in plan.advice[1:]:
        words, verdict = line.split(": ")
        given = {k: v.strip('"') for k, v in re.findall(r"(\w+)=([^,]+)", words)}
        if "edge_chunk" in given:
            given["edge_chunk"] = int(given["edge_chunk"])
        mended = xdiffda.plan(grid=grid, members=1, device=device, **given)
        assert mended.memory_bytes < plan.memory_bytes
        assert mended.fits == verdict.endswith("member, fits")


def test_the_command_knows_all_options_and_speaks_to_programs() -> None:
    given = [
        "--grid",
        "5",
        "--device",
        "cpu",
        "--refinement",
        "4",
        "--processor-steps",
        "4",
        "--truncation",
        "20",
        "--iterations",
        "9",
        "--steps",
        "3",
        "--json",
    ]
    done = CliRunner().invoke(cli.app, ["plan", *given])
    plan = xdiffda.plan(
        grid=5,
        device="cpu",
        refinement=4,
        processor_steps=4,
        truncation=20,
        iterations=9,
        n_steps=3,
    )
    assert done.exit_code == 0
    found = json.loads(done.output)
    assert found["memory_bytes"] == plan.memory_bytes and found["seconds"] == plan.seconds
    assert found["device"]["name"] == "CPU core"
    wrong = CliRunner().invoke(cli.app, ["plan", "--steps", "0", "--dtype", "half"])
    assert isinstance(wrong.exception, InputError)
    for repair in ("`xdiffda plan --steps 8`", "`xdiffda plan --dtype bfloat16`"):
        assert repair in cli.message(wrong.exception, "plan")
