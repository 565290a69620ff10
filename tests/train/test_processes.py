"""Two processes train what one trains; killed and stopped, nothing is lost or done twice."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import processes
import pytest
from sample_log import read_samples

from xdiffda.errors import InputError
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import load_nature
from xdiffda.train.distributed import initialise
from xdiffda.train.forecaster import batches
from xdiffda.train.launchers import started_by

STEPS = 80  # of the run of one process in conftest


@pytest.fixture(scope="module")
def story(nature_folder: Path, forecaster_folder: Path, root: Path, tmp_path_factory) -> Path:
    """The run of conftest: by two processes, killed, by two, stopped, finished by one."""
    folder = tmp_path_factory.mktemp("processes")
    config = folder / "forecaster.toml"
    text = (forecaster_folder.parent / "forecaster.toml").read_text()
    text = text.replace(str(forecaster_folder), str(folder / "out"))
    text = text.replace("save_every = 40", "save_every = 10\nlog_samples = true")
    text = text.replace("validate_every = 40", "validate_every = 80")
    config.write_text(text)

    out, run = folder / "out", processes.run_processes
    codes = run(config, root, "by hand", 2, processes.Death(1, "SIGKILL", 17))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0  # it finds out by itself
    (folder / "after-kill").write_text((out / "samples.csv").read_text())

    codes = run(config, root, "srun", 2, processes.Death(1, "SIGTERM", 33))
    assert codes == [0, 0], (folder / "srun-0.err").read_text()
    assert not (out / "finished").exists()
    for name in ("samples.csv", "status.json"):
        (folder / f"after-stop-{name}").write_text((out / name).read_text())

    assert run(config, root, "alone", 1) == [0]
    return folder


@pytest.mark.long
def test_two_processes_give_the_curve_of_one(story: Path, forecaster_folder: Path) -> None:
    one, two = (processes.rows_of(f / "log.csv") for f in (forecaster_folder, story / "out"))
    assert [r["step"] for r in two] == [r["step"] for r in one]
    curves = [[float(r["train_loss"]) for r in rows] for rows in (one, two)]
    np.testing.assert_allclose(*curves, rtol=1e-4)
    checked = [float(rows[-1]["validation_loss"]) for rows in (one, two)]
    assert checked[1] == pytest.approx(checked[0], rel=1e-4)


@pytest.mark.long
def test_the_run_says_how_far_it_is(story: Path) -> None:
    stopped = json.loads((story / "after-stop-status.json").read_text())
    assert (stopped["processes"], stopped["devices"], stopped["steps"]) == (2, 2, STEPS)
    done = json.loads((story / "out/status.json").read_text())
    assert done == {"step": STEPS, "steps": STEPS, "processes": 1, "devices": 4}
    assert (story / "out/finished").exists()


@pytest.mark.long
def test_optimiser_and_average_are_split_weights_are_not(story: Path) -> None:
    found = processes.which_are_split(story / "out/checkpoints" / str(STEPS))
    assert not any(found["weights"])
    for part in ("ema", "optimiser"):
        assert np.mean(found[part]) > 0.25  # matrices; vectors are too short to share


@pytest.mark.long
def test_no_batch_is_lost_or_repeated(story: Path, nature_folder: Path) -> None:
    config = TrainConfig.read_back(story / "out")
    expected = batches(load_nature(nature_folder), "train", config)
    seen = read_samples(story / "out/samples.csv")
    for step, samples in seen:
        assert samples == expected.samples(step - 1).tolist()
    steps = [step for step, _ in seen]
    n_killed = len(read_samples(story / "after-kill"))
    n_stopped = len(read_samples(story / "after-stop-samples.csv"))
    # SIGKILL: what came after the checkpoint of step 10 is lost, and computed again
    assert steps[:n_killed] == list(range(1, n_killed + 1)) and 10 <= n_killed < 20
    # SIGTERM: all processes save at the same step, soon, and nothing is computed again
    stopped_at = json.loads((story / "after-stop-status.json").read_text())["step"]
    assert steps[n_killed:n_stopped] == list(range(11, stopped_at + 1))
    assert 31 <= stopped_at <= 38
    assert steps[n_stopped:] == list(range(stopped_at + 1, STEPS + 1))


def test_the_launcher_is_recognised() -> None:
    assert started_by({}) is None
    slurm = {"SLURM_JOB_ID": "4097", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}
    for nodes, first in (("n7", "n7"), ("n[03,05]", "n03"), ("gpu-[1-4],x9", "gpu-1")):
        found = started_by({**slurm, "SLURM_STEP_NODELIST": nodes})
        assert found == (f"{first}:61441", 8, 3)
    # inside salloc: a job with many tasks, but no step
    assert started_by({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert started_by({**slurm, "SLURM_STEP_NODELIST": "n7", "SLURM_STEP_NUM_TASKS": "1"}) is None
    mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_NAMESPACE": "prterun-9"}
    here = started_by({**mpi, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    assert here is not None and here[0].startswith("127.0.0.1:6") and here[1:] == (2, 1)
    assert started_by({**mpi, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}) == (None, 2, 1)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no processes and no process_id.*--process-id"):
        initialise(coordinator="a:1")
    with pytest.raises(InputError, match="process 2 of 2; needed 0 to N - 1"):
        initialise(coordinator="a:1", processes=2, process_id=2)
    for name, value in (("SIZE", "2"), ("RANK", "1"), ("LOCAL_SIZE", "1")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(InputError, match="several machines.*--coordinator HOST"):
        initialise()
