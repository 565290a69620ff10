"""Fine-tuning by many processes: told to stop, left by the first of them, finished by others."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import era5_world
import numpy as np
import processes
import pytest
from sample_log import read_samples

from xdiffda.train.__main__ import main

pytestmark = pytest.mark.long  # trainings by many processes

STEPS, SAVE_EVERY, PAIRS = 14, 4, 14
PAUSE = 35.0  # s: gloo gives up a collective operation after 30
CONFIG = """
task = "diffda"
data = "{folder}/era5.zarr"
pairs = "{folder}/forecasts.zarr"
out = "{folder}/{out}"
initial = "{folder}/published.npz"
steps = {steps}
batch = 8
log_every = 1
save_every = {save_every}
log_samples = true
[network]
conditioning_width = 8
[optimiser]
peak = 1e-3
warmup_steps = 4
[compute]
{compute}
[era5]
variables = {variables}
levels = [500, 850, 1000]
first = "2000-01-02T12"
last = "2000-01-04T00"
leads = [6, 12]
statistics = "{folder}/stats"
n_statistics = 6
"""


def _write_config(folder: Path, name: str, *, out: str, compute: str = "") -> Path:
    text = CONFIG.format(
        folder=folder,
        out=out,
        compute=compute,
        steps=STEPS,
        save_every=SAVE_EVERY,
        variables=list(era5_world.STATE),
    )
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def _write_smaller_network(path: Path) -> None:
    """The golden network without its second processor step, on a coarser mesh: less to compile."""
    with np.load(era5_world.GOLDEN / "checkpoint.npz") as file:
        weights = dict(file)
    second = [f"mesh_gnn/~_networks_builder/processor_{part}_1" for part in ("edges", "nodes")]
    kept = {k: v for k, v in weights.items() if not any(name in k for name in second)}
    assert len(kept) < len(weights)
    for name in ("gnn_msg_steps", "mesh_size"):
        kept[f"model_config:{name}"] = np.array(1)
    np.savez(path, **kept)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store, forecasts, and the run of one process, in two pieces, in the folder ``one``."""
    folder = tmp_path_factory.mktemp("processes-era5")
    era5_world.write_store(folder / "era5.zarr")
    era5_world.write_statistics(folder / "stats")
    _write_smaller_network(folder / "published.npz")
    config = _write_config(folder, "one", out="one", compute="accumulate = 2")
    main(["forecasts", str(config)])
    main([str(config)])
    return folder


@pytest.fixture(scope="module")
def story(world: Path, root: Path) -> Path:
    """The same in the folder ``many``: stopped, then left by process 0, finished elsewhere."""
    out, run = world / "many", processes.run_processes
    config = _write_config(world, "two", out="many")
    stop = processes.Death(1, "SIGTERM", 4)
    codes = run(config, root, "by hand", 2, stop, pause=PAUSE)
    assert codes == [0, 0], (world / "by hand-1.err").read_text()
    _keep(out, world / "after-stop")

    codes = run(config, root, "srun", 2, processes.Death(0, "SIGKILL", 11))
    assert codes[0] == -signal.SIGKILL, (world / "srun-0.err").read_text()
    assert codes[1] != 0  # by itself: an error of the collective, or of the service that is gone
    _keep(out, world / "after-kill")

    lean = 'dtype = "bfloat16"\nremat = true'
    config = _write_config(world, "four", out="many", compute=lean)
    assert run(config, root, "alone", 1) == [0], (world / "alone-0.err").read_text()
    return world


def _keep(out: Path, copy: Path) -> None:
    """What the run has noted so far, and its last whole checkpoint."""
    copy.mkdir()
    for name in ("samples.csv", "log.csv", "status.json"):
        (copy / name).write_text((out / name).read_text())
    (copy / "saved").write_text(str(max(_saved(out))))


def _saved(out: Path) -> list[int]:
    return [int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdecimal()]


def _noted(copy: Path) -> tuple[list[int], int]:
    """Steps that were computed until then, and the step of the last checkpoint."""
    steps = [step for step, _ in read_samples(copy / "samples.csv")]
    return steps, int((copy / "saved").read_text())


def _curve(log: Path) -> np.ndarray:
    rows = processes.rows_of(log)
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return np.array([float(row["train_loss"]) for row in rows])


def test_two_processes_give_the_curve_of_one(story: Path) -> None:
    """Which computes its batch in two pieces: nothing differs but the order of sums."""
    one, two = _curve(story / "one/log.csv"), _curve(story / "after-kill/log.csv")
    assert len(two) > SAVE_EVERY and len(one) == STEPS
    np.testing.assert_allclose(two, one[: len(two)], rtol=1e-4)
    assert one[0] > 1.5 * one[-1]  # a curve that another order of samples would not give


def test_in_bfloat16_with_remat_it_goes_on_near_that_curve(story: Path) -> None:
    _, saved = _noted(story / "after-kill")
    one, all_ = _curve(story / "one/log.csv")[saved:], _curve(story / "many/log.csv")[saved:]
    np.testing.assert_allclose(all_, one, rtol=2e-2)
    assert np.abs(all_ / one - 1).max() > 1e-5  # it is another arithmetic


def test_one_is_told_to_stop_and_all_save(story: Path) -> None:
    steps, saved = _noted(story / "after-stop")
    status = json.loads((story / "after-stop/status.json").read_text())
    assert status == {"step": saved, "steps": STEPS, "processes": 2, "devices": 2}
    # nothing that was computed is lost, and what was asked for is done soon
    assert steps == list(range(1, saved + 1)) and 2 <= saved <= 9


def test_without_process_0_no_sample_is_lost_or_repeated(story: Path) -> None:
    before, stopped = _noted(story / "after-stop")
    until, saved = _noted(story / "after-kill")
    # from where it was stopped until it was killed; the checkpoint in flight may be lost
    assert until == [*before, *range(stopped + 1, until[-1] + 1)] and until[-1] < 12
    assert stopped <= saved <= until[-1] < saved + 2 * SAVE_EVERY
    seen = read_samples(story / "many/samples.csv")
    assert [step for step, _ in seen] == [*until, *range(saved + 1, STEPS + 1)]
    # the steps that count: of each epoch every pair once, in the order of one process
    final = dict(seen)
    order = np.concatenate([final[step] for step in range(1, STEPS + 1)])
    epochs = order[: len(order) // PAIRS * PAIRS].reshape(-1, PAIRS)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(PAIRS), (len(epochs), 1)))
    assert final == dict(read_samples(story / "one/samples.csv"))
    assert all(samples == final[step] for step, samples in seen)


def test_four_devices_finish_what_two_processes_began(story: Path) -> None:
    status = json.loads((story / "many/status.json").read_text())
    assert status == {"step": STEPS, "steps": STEPS, "processes": 1, "devices": 4}
    assert (story / "many/finished").exists() and (story / "many/model/card.json").exists()
    found = processes.which_are_split(story / "many/checkpoints" / str(STEPS))
    assert not any(found["weights"])
    for part in ("ema", "optimiser"):
        assert np.mean(found[part]) > 0.25  # matrices; vectors are too short to share
