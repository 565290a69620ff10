"""Runs of many processes as tests need them: started by hand or as srun would, one of them dies."""

from __future__ import annotations

import base64
import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

WORKER = Path(__file__).with_name("worker.py")
_RUN = 600  # s, for the first process to end
_NOTICE = 200  # s, for all others; at a normal exit jax would wait for a dead one for 300 s
# so that launchers listen on this machine alone; Open MPI 5 refuses to
LOOPBACK = {"OMPI_MCA_oob_tcp_if_include": "lo", "HYDRA_IFACE": "lo"}


class Death(NamedTuple):
    """Which process sends itself which signal, while it reads the batch of which step."""

    process: int
    signal: str
    step: int


def run_processes(
    config: Path, root: Path, how: str, n: int, death: Death | None = None, pause: float = 0
) -> list[int]:
    """Run n processes, started by hand or as srun would. Their exit statuses.

    What process i says is in ``{how}-{i}.err`` beside the configuration. Process 0 pauses for
    so many seconds when it measures what the others wait for.
    """
    port, processes = _port(), []
    for i in range(n):
        options, environment = _launch(how, n, i, port)
        dies = death is not None and death.process == i
        fate = [death.signal, str(death.step)] if dies else ["none", "0"]
        command = [sys.executable, str(WORKER), str(config), *fate, str(pause * (i == 0)), *options]
        environment = {**os.environ, "PYTHONPATH": str(root), **environment}
        with (config.parent / f"{how}-{i}.err").open("wb") as errors:
            processes.append(
                subprocess.Popen(command, env=environment, cwd=root, stdout=errors, stderr=errors)
            )
    try:
        first = death.process if death else 0
        processes[first].wait(timeout=_RUN)
        return [process.wait(timeout=_NOTICE) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _launch(how: str, n: int, i: int, port: int) -> tuple[list[str], dict[str, str]]:
    """Options and environment by which process i of n knows the others."""
    if how == "by hand":
        address = ["--coordinator", f"127.0.0.1:{port}"]
        return [*address, "--processes", str(n), "--process-id", str(i)], {}
    if how == "srun":
        return [], {
            "SLURM_JOB_ID": str(port),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_TASKS": str(n),
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": str(i),
        }
    # alone, on another number of devices
    return [], {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


def mpi(program: str) -> tuple[str, list[str], list[str]]:
    """A name, and how to start 2 tasks, on one host and (by MPICH only) as if on two."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" in text:
        root = ["--allow-run-as-root"] * (os.geteuid() == 0)
        alone = [program, *root, "--oversubscribe", "--bind-to", "none", "-n", "2"]
        return "openmpi" + text.split(")")[1].split(".")[0].strip(), alone, alone
    alone = [program, "-n", "2"]
    if "Intel" in text:
        return "intel", alone, alone
    two = [program, "-launcher", "fork", "-hosts", "127.0.0.1,127.0.0.2", "-ppn", "1", "-n", "2"]
    return "mpich", alone, two


def rows_of(log: Path) -> list[dict[str, str]]:
    """Rows of the curves that a run writes."""
    with log.open(newline="") as file:
        return list(csv.DictReader(file))


def which_are_split(checkpoint: Path) -> dict[str, list[bool]]:
    """For each array of weights, ema and optimiser: whether devices share it out."""
    text = (checkpoint / "default/_sharding").read_text()
    found: dict[str, list[bool]] = {}
    for name, value in json.loads(text).items():
        part = base64.b64decode(name).decode().split(".")[0]
        found.setdefault(part, []).append("data" in str(json.loads(value)["partition_spec"]))
    return found
