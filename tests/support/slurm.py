"""A Slurm of two nodes on this machine: started by root, in a folder, on the loopback alone.

No accounts, no cgroups, no systemd; ``slurmd -N`` once for each node. Nodes are named 127.0.0.1 and
127.0.0.2, so that a task finds the first of them under its name, as on a cluster.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "squeue")
NODES = ("127.0.0.1", "127.0.0.2")
SETTINGS = """
ClusterName=xdiffda
SlurmctldHost={machine}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=60
"""


def is_installed() -> bool:
    """Whether this machine has all programs, and this user may start them."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)


def _free_ports(n: int) -> list[int]:
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Slurm:
    """Runs while the context is open; ``environment`` is what its commands need.

    Parameters
    ----------
    folder : Path
        Its path must be short: it holds a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Slurm:
        for name in ("key", "state", *NODES):
            (self.folder / name).mkdir(mode=0o700, parents=True)
        key = self.folder / "key/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = _free_ports(1 + len(NODES))
        text = SETTINGS.format(machine=socket.gethostname(), ports=ports, folder=self.folder)
        for node, port in zip(NODES, ports[1:], strict=True):
            text += f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 "
            text += f"Port={port} CPUs=4\n"
        text += "PartitionName=main Nodes=ALL Default=YES State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        try:
            self._start_all(key)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start_all(self, key: Path) -> None:
        at = self.folder
        self._start(
            "munged",
            "--foreground",
            "--force",
            f"--socket={at}/munge.socket",
            f"--key-file={key}",
            f"--pid-file={at}/key/pid",
            f"--log-file={at}/key/log",
            f"--seed-file={at}/key/seed",
        )
        time.sleep(1)
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        until = time.monotonic() + 60
        while self.call("sinfo", "-h", "-t", "idle", "-o", "%D") != str(len(NODES)):
            if time.monotonic() > until:
                raise TimeoutError(f"Slurm does not start: see the logs in {at}")
            time.sleep(0.5)

    def _start(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            daemon = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.daemons.append(daemon)

    def call(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout.strip()
