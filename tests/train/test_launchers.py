"""What launchers say is understood; mpirun, where there is one, starts a run of two tasks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import processes
import pytest
from sample_log import read_samples

from xdiffda.errors import InputError
from xdiffda.train.distributed import StopRequest
from xdiffda.train.launchers import address_by_pmi, own_device, started_by, where_to_listen

HYDRA = {"PMI_SIZE": "2", "PMI_RANK": "1", "PMI_FD": "9", "MPI_LOCALNRANKS": "2"}


def test_hydra_is_recognised_inside_and_outside_of_slurm() -> None:
    assert started_by(HYDRA) == (None, 2, 1)
    slurm = {"SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "n[1-2]"}
    # mpiexec in a job: its helpers are the tasks of the step, one for each machine
    helper = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert started_by({**HYDRA, **slurm, **helper}) == (None, 2, 1)
    # srun --mpi=pmi2 sets the same variables, and its own say more
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert started_by({**HYDRA, **slurm, **task}) == ("n1:61441", 2, 1)


def test_open_mpi_takes_the_first_node_of_a_slurm_job() -> None:
    mpi = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "PMIX_NAMESPACE": "17"}
    mpi["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2"
    assert started_by(mpi) == (None, 4, 3)
    # on the other nodes it is Slurm that has started mpirun's helpers, in a step without the first
    step = {"SLURM_STEP_NODELIST": "n2", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    found = started_by({**mpi, **step, "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n[1-2]"})
    assert found == ("n1:61457", 4, 3)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("r[1-2]n[04-09],x", "r1n04"), ("n[1,3]-ib,m[1-2]", "n1-ib"), ("a,b[1-2]", "a")],
)
def test_the_first_of_slurms_nodes(nodes: str, first: str) -> None:
    slurm = {"SLURM_JOB_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    found = started_by({**slurm, "SLURM_STEP_NODELIST": nodes})
    assert found is not None and found[0] == f"{first}:61440"


def test_the_launcher_nearest_to_the_task_says_which_device_is_its_own() -> None:
    seen = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_LOCALID": "0"}
    assert own_device({**seen, "MPI_LOCALRANKID": "3"}) == {"local_device_ids": [3]}
    assert own_device(seen) == {"local_device_ids": [0]}
    bound = own_device({**seen, "CUDA_VISIBLE_DEVICES": "2"})
    assert bound == own_device({}) == {"cluster_detection_method": "deactivate"}


def test_a_run_on_one_machine_listens_there_alone() -> None:
    local = {"coordinator_bind_address": "127.0.0.1:7"}
    assert where_to_listen("127.0.0.1:7") == local
    assert where_to_listen("node1:7") == {}


def _launcher(wires: list[socket.socket], *, refuses: str = "") -> threading.Thread:
    """A Hydra of as many tasks as wires: serves each in turn up to the barrier, then on."""
    values: dict[str, str] = {}

    def answer(line: str) -> str:
        words = dict(word.split("=", 1) for word in line.split())
        if words["cmd"] == refuses:
            return "cmd=nothing rc=-1"
        if words["cmd"] == "put":
            values[words["key"]] = words["value"]
        if words["cmd"] == "get":
            return f"cmd=get_result rc=0 value={values[words['key']]}"
        return {
            "init": "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1",
            "get_my_kvsname": "cmd=my_kvsname kvsname=kvs_1",
            "put": "cmd=put_result rc=0",
            "barrier_in": "cmd=barrier_out",
            "finalize": "cmd=finalize_ack",
        }[words["cmd"]]

    def serve() -> None:
        files = [wire.makefile("rw") for wire in wires]
        for last in ("cmd=barrier_in", ""):  # then to the end
            waiting = []
            for file in files:
                for line in file:
                    if line.startswith(last) and last:
                        waiting.append((file, line))
                        break
                    file.write(answer(line) + "\n")
                    file.flush()
            for file, line in waiting:
                file.write(answer(line) + "\n")
                file.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("local", "host"), [({"MPI_LOCALNRANKS": "2"}, "127.0.0.1"), ({"MPI_LOCALNRANKS": "1"}, "n7")]
)
def test_process_0_tells_its_address_through_hydra(local: dict[str, str], host: str) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    thread = _launcher([far for _, far in pairs])
    found: dict[int, str | None] = {}

    def task(rank: int) -> None:
        own = {"PMI_FD": str(pairs[rank][0].fileno()), "PMI_HOSTNAME": f"n{7 + rank}", **local}
        found[rank] = address_by_pmi(own, 2, rank)
        pairs[rank][0].close()

    tasks = [threading.Thread(target=task, args=(rank,)) for rank in range(2)]
    for one in [*tasks]:
        one.start()
    for one in [*tasks, thread]:
        one.join(timeout=20)
    name, _, port = str(found[0]).rpartition(":")
    assert found[0] == found[1] and name == host and 0 < int(port) < 65536


def test_a_launcher_that_does_not_answer_is_named() -> None:
    near, far = socket.socketpair()
    _launcher([far], refuses="init")
    with near, pytest.raises(InputError, match="cmd=nothing.*to init.*--coordinator HOST"):
        address_by_pmi({"PMI_FD": str(near.fileno())}, 2, 0)


def test_a_warning_before_the_first_step_is_kept() -> None:
    with StopRequest() as early:
        assert not early.wanted
        with StopRequest() as other:
            assert not other.wanted
        os.kill(os.getpid(), signal.SIGUSR1)
        with StopRequest() as late:
            assert late.wanted
    with StopRequest() as next_run:
        assert not next_run.wanted


@pytest.mark.long
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun on this machine")
def test_mpirun_starts_two_tasks_and_one_stops_both(
    forecaster_folder: Path, root: Path, tmp_path: Path
) -> None:
    text = (forecaster_folder.parent / "forecaster.toml").read_text()
    text = text.replace(str(forecaster_folder), str(tmp_path / "out"))
    text = text.replace("save_every = 40", "save_every = 80\nlog_samples = true")
    config = tmp_path / "forecaster.toml"
    config.write_text(text)
    _, launcher, _ = processes.mpi(str(shutil.which("mpirun")))
    done = subprocess.run(
        [*launcher, sys.executable, processes.WORKER, config, "SIGTERM@1", "22", "0"],
        env={**os.environ, **processes.LOOPBACK, "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "out/status.json").read_text())
    assert status["processes"] == 2 and 20 <= status["step"] <= 27
    steps = [step for step, _ in read_samples(tmp_path / "out/samples.csv")]
    assert steps == list(range(1, status["step"] + 1))
    one, two = (processes.rows_of(f / "log.csv") for f in (forecaster_folder, tmp_path / "out"))
    curves = [[float(row["train_loss"]) for row in rows[:2]] for rows in (one, two)]
    np.testing.assert_allclose(*curves, rtol=1e-4)
