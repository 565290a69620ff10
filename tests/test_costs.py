"""Costs that are counted against costs that XLA counts, and plans made from them."""

from __future__ import annotations

import dataclasses
import json

import equinox as eqx
import jax
import numpy as np
import pytest
from lowered import lowered
from places import GRAPHCAST_GOLDEN

import xdiffda
from xdiffda.errors import InputError
from xdiffda.networks.graphcast import GraphCast, NetworkConfig, build_graph
from xdiffda.networks.graphcast.costs import Dimensions, count, parameters, temporary_bytes
from xdiffda.planning import DEVICES, Device, Task, amount, duration, mesh_for
from xdiffda.state.grid import NAMED_GRIDS, Grid

COUNTS = GRAPHCAST_GOLDEN / "mesh/connectivity_counts.json"
LAT, LON = np.linspace(-90, 90, 19), 10.0 * np.arange(36)


@pytest.fixture(scope="module")
def graph():
    return build_graph(LAT, LON, refinement=2)


@pytest.mark.parametrize(
    ("batch", "prepared", "options"),
    [
        (1, True, {"latent": 64}),
        (3, False, {"latent": 64, "conditioning_width": 16}),
        (2, False, {"latent": 32, "hidden_layers": 2, "processor_steps": 3}),
    ],
)
def test_operations_are_those_that_xla_counts(
    graph, batch: int, prepared: bool, options: dict
) -> None:
    config = NetworkConfig(**{"n_inputs": 40, "n_outputs": 20, "processor_steps": 2, **options})
    theirs = lowered(graph, config, batch, prepared=prepared).cost_analysis()["flops"]
    ours = count(config, Dimensions.of(graph), batch=batch, prepared=prepared).operations
    assert ours == pytest.approx(theirs, rel=0.03)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_compiled_network_costs_what_was_counted(graph, batch: int) -> None:
    """XLA's plan for a CPU: operations, and bytes that are read, written and kept meanwhile."""
    config = NetworkConfig(n_inputs=40, n_outputs=20, latent=64, processor_steps=2)
    compiled = lowered(graph, config, batch).compile()
    tally = count(config, Dimensions.of(graph), batch=batch)
    costs = compiled.cost_analysis()
    assert tally.operations == pytest.approx(costs["flops"], rel=0.05)
    assert 0.4 < 4 * tally.moved / costs["bytes accessed"] < 1.2  # fusion is a guess
    shared, member = temporary_bytes(config, Dimensions.of(graph))
    kept = compiled.memory_analysis().temp_size_in_bytes
    assert shared + batch * member == pytest.approx(kept, rel=0.25)


@pytest.mark.parametrize("options", [{}, {"conditioning_width": 8}, {"hidden_layers": 2}])
def test_weights_are_counted_exactly(options: dict) -> None:
    config = NetworkConfig(n_inputs=7, n_outputs=3, latent=16, processor_steps=3, **options)
    net = eqx.filter_eval_shape(GraphCast, config, key=jax.random.key(0))
    assert parameters(config) == sum(
        int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(net) if hasattr(leaf, "shape")
    )


def test_dimensions_need_no_graph(graph) -> None:
    """Exact but for edges from grid to mesh, which the published counts check."""
    own = Dimensions.of_grid(19, 36, 2)
    assert dataclasses.replace(own, grid2mesh=0) == dataclasses.replace(
        Dimensions.of(graph), grid2mesh=0
    )
    counts = json.loads(COUNTS.read_text())
    checked = 0
    for case in counts.values():
        if not isinstance(case, dict) or case.get("mesh_refinement", 0) < 5:
            continue
        published = next(v for k, v in case.items() if "grid2mesh" in k and "num" in k)
        ours = Dimensions.of_grid(case["num_lat"], case["num_lon"], case["mesh_refinement"])
        assert ours.grid2mesh == pytest.approx(published, rel=0.012)
        checked += 1
    assert checked == 2


def test_chunks_and_half_precision_take_less() -> None:
    config = NetworkConfig(n_inputs=250, n_outputs=82)
    size = Dimensions.of_grid(721, 1440, 6)
    shared, member = temporary_bytes(config, size)
    half = temporary_bytes(dataclasses.replace(config, dtype="bfloat16"), size)
    assert half == (shared // 2, member // 2)
    chunked = temporary_bytes(dataclasses.replace(config, edge_chunk=2**17), size)
    assert chunked[0] < shared / 5 and chunked[1] < member / 1.5


def test_plans_are_what_was_measured() -> None:
    """Peak of a process on a CPU, one float32 evaluation (tests/benchmarks/README.md)."""
    for chunk, measured in ((0, 3.93e9), (4096, 1.85e9)):
        plan = xdiffda.plan(grid=1, members=1, obs=0, device="cpu", edge_chunk=chunk)
        assert 1 / 1.3 < plan.memory_bytes / measured < 1.3
    # a whole analysis at 0.25 degree on two cores, with compilation
    plan = xdiffda.plan(grid=0.25, members=1, obs=8.2e5, device="cpu", edge_chunk=16384)
    assert 1 / 1.3 < plan.memory_bytes / 13.9e9 < 1.3
    assert 0.5 < plan.seconds / 891 < 2
    # what XLA reserves for itself, at this size: minutes to compile
    config = NetworkConfig(186, 83, conditioning_width=16)
    size = Dimensions(65160, 10242, 101_892, 81_900, 195_480)
    for batch, chunk, prepared, reserved in (
        (1, 0, False, 2.691),
        (1, 0, True, 1.897 + 0.92),
        (4, 0, True, 6.418 + 0.92),
        (1, 4096, False, 0.568),
        (4, 4096, False, 1.834),
        (1, 16384, False, 0.761),
    ):
        own = dataclasses.replace(config, edge_chunk=chunk)
        shared, member = temporary_bytes(own, size, prepared=prepared)
        assert shared + batch * member == pytest.approx(1e9 * reserved, rel=0.15)


# What tests/benchmarks/README.md has of processor time on two machines, an AMD EPYC and an Intel
# Xeon of which a core multiplies at about 215 and 94 GFLOP/s in float32.
BUNDLED = {"grid": "speedy", "levels": 7, "processor_steps": 4, "device": "cpu"}
DEGREE = {"grid": 1, "members": 1, "obs": 0, "device": "cpu"}
FIVE = {"grid": 5, "latent": 256, "processor_steps": 3, "levels": 7, **DEGREE} | {"grid": 5}


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        (DEGREE, 14.3),
        (DEGREE, 23.4),
        (DEGREE | {"edge_chunk": 4096}, 15.0),
        (BUNDLED | {"latent": 128, "members": 8}, 0.42),
        (BUNDLED | {"latent": 128, "members": 8}, 0.302),
        (BUNDLED | {"latent": 128, "members": 8}, 0.221),
        (BUNDLED | {"latent": 256, "members": 2}, 0.21),
        (FIVE, 0.136),
        (FIVE | {"dtype": "bfloat16"}, 0.088),
    ],
)
def test_the_time_of_an_evaluation_is_what_was_measured(options: dict, seconds: float) -> None:
    assert 0.5 < xdiffda.plan(**options).evaluation_seconds / seconds < 2


def test_chunks_cost_what_they_were_measured_to_cost() -> None:
    """Nothing, with edges in factors (0.92 to 1.05 of an evaluation, by the size of chunks)."""
    whole, chunked = (xdiffda.plan(**DEGREE, edge_chunk=n) for n in (0, 4096))
    assert 0.92 < chunked.evaluation_seconds / whole.evaluation_seconds < 1.05


@pytest.mark.parametrize(
    ("obs", "steps", "seconds"),
    [(1850, 113, None), (15_392, 214, 8.6), (37_000, 341, 11.5), (99_900, 445, None)],
)
def test_solves_and_analyses_take_what_was_measured(
    obs: int, steps: int, seconds: float | None
) -> None:
    """The bundled model's: 37 channels, truncation 31, 8 evaluations, 8 members (else 2)."""
    config = NetworkConfig(115, 37, latent=128, processor_steps=4, conditioning_width=32)
    task = Task(NAMED_GRIDS["speedy"](), Dimensions.of_grid(32, 64, 3), config, 31, obs)
    assert 8 * task.iterations == pytest.approx(steps, rel=0.15)
    if seconds is not None:
        plan = xdiffda.plan(**BUNDLED, latent=128, members=8, obs=obs)
        assert 0.5 < plan.seconds / seconds < 2
        updates = seconds - 8 * 0.302
        assert 0.5 < plan.kalman_seconds / updates < 2


def test_half_precision_saves_no_memory_on_a_cpu_and_little_time() -> None:
    """XLA multiplies in bfloat16 there and does all else in float32."""
    full, half = (xdiffda.plan(**DEGREE, dtype=d) for d in ("float32", "bfloat16"))
    assert half.memory_bytes == full.memory_bytes
    assert 0.5 < half.evaluation_seconds / full.evaluation_seconds < 0.9
    small = (xdiffda.plan(**BUNDLED, latent=128, dtype=d) for d in ("float32", "bfloat16"))
    full, half = (plan.evaluation_seconds for plan in small)
    assert half == full  # bound by what is moved, as was measured


@pytest.mark.parametrize("card", ["a10", "rtx4090"])
def test_a_card_of_24_gb_needs_chunks_at_a_quarter_degree(card: str) -> None:
    goal = {"grid": 0.25, "members": 1, "obs": 830_000, "device": card, "dtype": "bfloat16"}
    whole, chunked = (xdiffda.plan(**goal, edge_chunk=n) for n in (0, 2**17))
    assert not whole.fits and chunked.fits and chunked.memory_bytes < 10e9
    assert any(
        line.startswith("edge_chunk=131072") and line.endswith("fits") for line in whole.advice
    )


def test_a_plan_adds_up() -> None:
    one = xdiffda.plan(grid=0.25, members=50, obs=1e6, devices=4, device="h200", dtype="bfloat16")
    assert one.grid == (721, 1440) and one.n_channel == 82
    assert one.storage_bytes == 4 * 50 * 721 * 1440 * 82
    assert one.memory_bytes == one.shared_bytes + one.batch * one.member_bytes
    assert one.fits and one.memory_bytes < 0.9 * 141e9
    groups = -(-13 // one.batch)  # 50 members on 4 devices
    assert one.seconds == pytest.approx(groups * 8 * one.evaluation_seconds + one.kalman_seconds)
    alone = xdiffda.plan(grid=0.25, members=13, obs=1e6, device="h200", dtype="bfloat16")
    assert alone.seconds == pytest.approx(one.seconds)
    for part in ("4 x H200 141 GB, bfloat16", "721 x 1440, 82 channels", "17 GB for an analysis"):
        assert part in str(one)


def test_what_does_not_fit_says_what_would() -> None:
    small = Device("a small card", 20e12, 200e12, 1e12, 24e9)
    plan = xdiffda.plan(grid=0.25, members=4, device=small)
    assert not plan.fits and plan.batch == 1 and "DOES NOT FIT 24 GB" in str(plan)
    assert [line.split(":")[0] for line in plan.advice] == [
        "max_batch=1",
        'dtype="bfloat16"',
        "edge_chunk=131072",
        'dtype="bfloat16", edge_chunk=131072',
    ]
    assert "does not fit" in plan.advice[0] and plan.advice[3].endswith("member, fits")
    mended = xdiffda.plan(grid=0.25, members=4, device=small, dtype="bfloat16", edge_chunk=2**17)
    assert mended.fits
    need = amount(mended.shared_bytes + mended.member_bytes)
    assert plan.advice[3] == f'dtype="bfloat16", edge_chunk=131072: {need} for one member, fits'
    assert xdiffda.plan(grid=5, members=2).advice == ()


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError, match="plan: 5 problems") as caught:
        xdiffda.plan(grid=0.7, device="tpu", members=0, obs=-1, dtype="float16")
    for part in ("grid=0.7", "device='tpu'", "members=0", "obs=-1", "dtype='float16'"):
        assert part in str(caught.value)


def test_words_and_meshes() -> None:
    assert [amount(x) for x in (999, 1500, 2.5e12)] == ["999 B", "1.5 kB", "2.5 TB"]
    assert [duration(x) for x in (0.5, 30, 7200)] == ["500 ms", "30 s", "2 h"]
    grids = {0.25: 6, 1.0: 5, 2.0: 4}
    for spacing, refinement in grids.items():
        n_lat, n_lon = round(180 / spacing) + 1, round(360 / spacing)
        grid = Grid(tuple(np.linspace(-90, 90, n_lat)), tuple(np.arange(n_lon) * spacing))
        assert mesh_for(grid) == refinement
    assert all(device.rate("bfloat16") >= device.rate("float32") for device in DEVICES.values())
