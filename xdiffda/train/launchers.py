"""Read from srun, mpirun and mpiexec: the number of tasks, this task's rank, the host of rank 0."""

from __future__ import annotations

import os
import re
import socket
import zlib
from collections.abc import Mapping
from typing import Any

from xdiffda.errors import InputError, Problem


def started_by(environment: Mapping[str, str]) -> tuple[str | None, int, int] | None:
    """Address of process 0, number of processes and own number, from Slurm, Open MPI or Hydra.

    None where there is one process only; an address of None where the environment does not
    tell it (`address_by_pmi` asks Hydra, the launcher of MPICH and Intel MPI).

    Examples
    --------
    >>> started_by({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_JOB_ID": "17",
    ...             "SLURM_STEP_NODELIST": "node[003-006]"})
    ('node003:61457', 4, 2)
    >>> started_by({"PMI_SIZE": "4", "PMI_RANK": "2", "PMI_FD": "9"})
    (None, 4, 2)
    """
    # mpirun inside a Slurm job starts its tasks from a step of its own: MPI's numbers count
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        size, rank = (int(environment[f"OMPI_COMM_WORLD_{k}"]) for k in ("SIZE", "RANK"))
        return _mpi_address(environment, size), size, rank
    if _by_hydra(environment):
        return None, int(environment["PMI_SIZE"]), int(environment["PMI_RANK"])
    # the step's variables, not the job's: inside `salloc` a plain python is one process
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        size = int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"])
        port = _port(environment["SLURM_JOB_ID"] + environment.get("SLURM_STEP_ID", ""))
        host = _first_host(environment["SLURM_STEP_NODELIST"])
        return (f"{host}:{port}", size, int(environment["SLURM_PROCID"])) if size > 1 else None
    return None


def _by_hydra(environment: Mapping[str, str]) -> bool:
    """Return whether the variables of PMI are the only ones set.

    srun sets them too (--mpi=pmi2). Where Slurm counts as many tasks, its numbers serve as well,
    also if they are those of mpiexec's helpers, of which each has started one task.
    """
    if int(environment.get("PMI_SIZE", 1)) <= 1 or "PMI_RANK" not in environment:
        return False
    return environment.get("SLURM_STEP_NUM_TASKS") != environment["PMI_SIZE"]


def _mpi_address(environment: Mapping[str, str], size: int) -> str | None:
    """Where process 0 runs: known if all are on this machine, or on those of a Slurm job."""
    if int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 0)) == size:
        host = "127.0.0.1"
    elif "SLURM_JOB_NODELIST" in environment:  # mpirun fills them in their order
        host = _first_host(environment["SLURM_JOB_NODELIST"])
    else:
        return None
    job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid", "")
    return f"{host}:{_port(job)}"


def _port(job: str) -> int:
    """A port in the upper ephemeral range that all processes of a job agree on."""
    return 65535 - 4096 + (int(job) if job.isdigit() else zlib.crc32(job.encode())) % 4096 + 1


def _first_host(nodes: str) -> str:
    """First of Slurm's list: ``a[003-006,9]-ib,b`` -> ``a003-ib``."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^-,\]]*)[^\]]*\]", r"\1", first)


def own_device(environment: Mapping[str, str]) -> dict[str, Any]:
    """Give each task of a machine one accelerator, where every task sees all of them."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for variable in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"):
        local = int(environment.get(variable, -1))
        if local < 0:
            continue
        # a launcher that binds (--gpus-per-task=1) leaves each task a list of one
        if local < len(visible) > 1 and "JAX_LOCAL_DEVICE_IDS" not in environment:
            return {"local_device_ids": [local]}
        break
    return {"cluster_detection_method": "deactivate"}


def where_to_listen(coordinator: str) -> dict[str, str]:
    """Process 0 of a run on one machine is not to be reached from others."""
    host = coordinator.rpartition(":")[0]
    local = host in ("localhost", "[::1]") or host.startswith("127.")
    return {"coordinator_bind_address": coordinator} if local else {}


def address_by_pmi(environment: Mapping[str, str], size: int, rank: int) -> str | None:
    """Address that process 0 tells all others through Hydra, on any number of machines.

    Parameters
    ----------
    environment : mapping
        With ``PMI_FD``, the number of an open socket; without it the answer is None.
    size, rank : int
        Number of processes, and which of them this is. All of them must call.

    Raises
    ------
    InputError
        If the launcher does not speak version 1 of its protocol (PMI).
    """
    if "PMI_FD" not in environment:
        return None
    with socket.socket(fileno=os.dup(int(environment["PMI_FD"]))) as wire:
        pmi = _Pmi(wire)
        pmi.ask("init", "response_to_init", pmi_version="1", pmi_subversion="1")
        space = pmi.ask("get_my_kvsname", "my_kvsname")["kvsname"]
        own = {"kvsname": space, "key": "xdiffda"}
        if rank == 0:
            alone = int(environment.get("MPI_LOCALNRANKS", 0)) == size
            host = environment.get("PMI_HOSTNAME") or socket.gethostname()
            address = f"{'127.0.0.1' if alone else host}:{_free_port()}"
            pmi.ask("put", "put_result", **own, value=address)
        pmi.ask("barrier_in", "barrier_out")
        address = pmi.ask("get", "get_result", **own)["value"]
        # taken leave of: a task that ends later is then as one that never used MPI
        pmi.ask("finalize", "finalize_ack")
    return address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class _Pmi:
    """Questions and answers on the wire: a line of ``key=value`` each, ``cmd`` the first."""

    def __init__(self, wire: socket.socket) -> None:
        self.wire, self.lines = wire, wire.makefile("r")

    def ask(self, command: str, expected: str, **values: str) -> dict[str, str]:
        words = [f"{k}={v}" for k, v in {"cmd": command, **values}.items()]
        self.wire.sendall((" ".join(words) + "\n").encode())
        line = self.lines.readline()
        answer = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if answer.get("cmd") != expected or answer.get("rc", "0") != "0":
            problem = Problem(
                f"answer {line!r} of the launcher to {command}",
                f"cmd={expected}",
                "--coordinator HOST:29400",
            )
            raise InputError([problem], what="distributed run")
        return answer
