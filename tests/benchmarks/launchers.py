"""Training under real launchers on this machine: a Slurm of two nodes, mpirun, mpiexec.

    python tests/benchmarks/launchers.py FOLDER [slurm] [MPIRUN ...]

MPIRUN is a program of Open MPI, MPICH or Intel MPI. Tiny waves, a tiny network, a global batch of
12. Under each launcher 2 tasks (of MPICH and Slurm as if on two machines) train what 1 process
trains: the same samples, and, to rounding, the same losses and weights; they are warned, cancelled
and killed on the way, and no step is lost or repeated but those since the last checkpoint before a
kill. Raises if not. Slurm (root only, of Debian's slurm-wlm and munge) is started in a temporary
folder and stopped at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "benchmarks")]
import processes  # noqa: E402
from resume_elsewhere import CONFIG, STEPS  # noqa: E402
from sample_log import read_samples  # noqa: E402
from slurm import Slurm, is_installed  # noqa: E402
from waves import write_nature  # noqa: E402

from xdiffda.train.config import TrainConfig  # noqa: E402
from xdiffda.train.forecaster import load_stepper  # noqa: E402

PATIENCE = 600  # s
HELD = 300  # s that a held step waits for a signal at most
Fate = tuple[str, int]  # what befalls a run, while it reads the batch of which step
# one checkpoint every 4 steps, so that a kill at step 10 costs 2 (or 6, if one is in flight)
SAVED = CONFIG.replace("save_every = 100", "save_every = 4")


class Runs:
    """Runs of one folder, and what they are compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS.parent),
            "JAX_PLATFORMS": "cpu",
            **processes.LOOPBACK,
        }
        write_nature(folder / "nature")
        self.start("one", []).wait()
        self.samples = dict(read_samples(folder / "one/samples.csv"))

    def command(self, out: str, fate: Fate | None) -> list[str]:
        config = self.folder / f"{out}.toml"
        config.write_text(SAVED.format(folder=self.folder, out=out, steps=STEPS))
        if fate is None:
            return [sys.executable, "-m", "xdiffda.train", str(config)]
        worker = [sys.executable, str(processes.WORKER), str(config)]
        return [*worker, fate[0], str(fate[1]), str(HELD if fate[0] == "HOLD" else 0)]

    def start(self, out: str, launcher: list[str], fate: Fate | None = None) -> subprocess.Popen:
        with (self.folder / f"{out}.err").open("ab") as log:
            return subprocess.Popen(
                [*launcher, *self.command(out, fate)],
                env=self.environment,
                cwd=TESTS.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def seen(self, out: str) -> list[int]:
        """Steps that were computed until now, in their order."""
        path = self.folder / out / "samples.csv"
        return [step for step, _ in read_samples(path)] if path.exists() else []

    def saved(self, out: str) -> int:
        """Step of the last whole checkpoint."""
        found = (self.folder / out / "checkpoints").iterdir()
        return max(int(path.name) for path in found if path.name.isdecimal())

    def when_held(self, out: str, step: int) -> None:
        """Wait until all steps before this one are done."""
        wait(lambda: self.seen(out)[-1:] == [step], f"{out}: step {step}, held")
        time.sleep(1)

    def stopped(self, out: str, what: str) -> None:
        """Check that a run that was warned has saved all it had computed."""
        steps = self.seen(out)
        assert steps[-1] == self.saved(out) < STEPS, (what, steps, self.saved(out))
        print(f"{out}: {what}: saved step {steps[-1]}, the last computed", flush=True)

    def finished(self, out: str, restarts: list[tuple[int, int]]) -> None:
        """Compare with the run of one process.

        Restarts are the number of steps computed until then, and the step gone on from.
        """
        expected, begin = [], 0
        for computed, saved in [*restarts, (0, 0)]:
            n = computed - len(expected) if computed else STEPS - begin
            expected += range(begin + 1, begin + n + 1)
            begin = saved
        seen = read_samples(self.folder / out / "samples.csv")
        assert [step for step, _ in seen] == expected, [step for step, _ in seen]
        assert all(self.samples[step] == samples for step, samples in seen)
        curves, weights = zip(*map(self._result, ("one", out)), strict=True)
        assert len(curves[0]) == len(curves[1]) == STEPS
        loss = float(np.max(np.abs(curves[1] / curves[0] - 1)))
        weight = max(
            float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(*weights, strict=True)
        )
        print(f"{out}: differs from 1 process by {loss:.1e} in losses, {weight:.1e} in weights")
        assert loss < 1e-4 and weight < 1e-3 and curves[0][0] > 3 * curves[0][-1]

    def _result(self, out: str) -> tuple[np.ndarray, list[np.ndarray]]:
        rows = processes.rows_of(self.folder / out / "log.csv")
        stepper = load_stepper(TrainConfig.read_back(self.folder / out))
        arrays = jax.tree.leaves(eqx.filter(stepper.network, eqx.is_inexact_array))
        arrays = [np.asarray(array) for array in arrays]
        return np.array([float(r["train_loss"]) for r in rows]), [a for a in arrays if a.any()]


def wait(until: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


def killed(runs: Runs, out: str, ends: Callable[[], bool]) -> tuple[int, int]:
    """Wait until a run ends of which a task kills itself; how much was computed, and saved."""
    wait(ends, f"{out}: the end of all tasks")
    seconds = time.time() - (runs.folder / out / "samples.csv").stat().st_mtime
    steps = runs.seen(out)
    print(f"{out}: kill -9 of task 1 after step {steps[-1]}: all ended {seconds:.1f} s later")
    assert seconds < 60 and steps[-1] < STEPS
    return len(steps), runs.saved(out)


def under_mpi(runs: Runs, name: str, launcher: list[str], also: list[str]) -> None:
    """Warned through the launcher, killed, finished; ``also`` is the launcher for the last part."""
    run = runs.start(name, launcher, ("HOLD", 5))
    runs.when_held(name, 5)
    run.send_signal(signal.SIGUSR1)
    assert run.wait(PATIENCE) == 0
    runs.stopped(name, "SIGUSR1 to mpirun")
    restarts = [(len(runs.seen(name)), runs.saved(name))]
    run = runs.start(name, launcher, ("SIGKILL@1", 14))
    restarts.append(killed(runs, name, lambda: run.poll() is not None))
    assert run.returncode != 0
    assert runs.start(name, also).wait(PATIENCE) == 0
    runs.finished(name, restarts)


def _environment_of_script(runs: Runs, folder: Path) -> None:
    """The .venv that train.sbatch wants: python does what fate-I says, after I restarts."""
    bin_ = folder / ".venv/bin"
    bin_.mkdir(parents=True)
    (bin_ / "activate").write_text(f"export PATH={bin_}:$PATH PYTHONPATH={TESTS.parent}\n")
    python = bin_ / "python"
    python.write_text(
        f"#!/bin/bash\nfate={folder}/fate-${{SLURM_RESTART_COUNT:-0}}\n"
        f'[[ -e "$fate" ]] && exec {sys.executable} {processes.WORKER} "$3" $(<$fate) "${{@:4}}"\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (folder / "fate-0").write_text(f"HOLD 5 {HELD}")
    (folder / "fate-1").write_text("SIGKILL@1 14 0")


def under_slurm(runs: Runs, slurm: Slurm) -> None:
    """By srun, by Open MPI's mpirun across both nodes, and by the sample script."""
    runs.environment |= {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
    srun = ["srun", "-N2", "-n2", "--kill-on-bad-exit=1"]
    assert runs.start("srun", srun).wait(PATIENCE) == 0
    runs.finished("srun", [])
    mpirun = shutil.which("mpirun")
    if mpirun and "openmpi" in processes.mpi(mpirun)[0]:  # which starts its helper by srun
        across = ["salloc", "-N2", "-n2", *processes.mpi(mpirun)[1], "-N", "1"]
        assert runs.start("mpirun-in-slurm", across).wait(PATIENCE) == 0
        runs.finished("mpirun-in-slurm", [])
    _story_of_slurm(runs, slurm, srun)


def _story_of_slurm(runs: Runs, slurm: Slurm, srun: list[str]) -> None:
    """The sample script to its time limit, again, killed; srun, cancelled; srun to the end."""
    folder, out = runs.folder, "sbatch"
    _environment_of_script(runs, folder)
    runs.command(out, None)  # writes the configuration
    script = (TESTS.parent / "tutorials/slurm/train.sbatch").read_text()
    (folder / "train.sbatch").write_text(script.replace("#SBATCH --gpus-per-node=4\n", ""))
    job = slurm.call(
        "sbatch",
        "--parsable",
        "-N2",
        "--ntasks-per-node=1",
        "--cpus-per-task=2",
        "--time=3",
        "--signal=USR1@60",
        f"--chdir={folder}",
        str(folder / "train.sbatch"),
        f"{out}.toml",
        out,
    )
    assert job.isdecimal(), job
    runs.when_held(out, 5)

    def state():
        return slurm.call("squeue", "-h", "-j", job, "-o", "%T")

    wait(lambda: state() == "PENDING", "the job is queued again")
    runs.stopped(out, "USR1 before the time limit, and the job queued again by its script")
    restarts = [(len(runs.seen(out)), runs.saved(out))]
    restarts.append(killed(runs, out, lambda: state() in ("", "FAILED")))

    run = runs.start(out, srun, ("HOLD", 18))
    runs.when_held(out, 18)
    slurm.call("scancel", slurm.call("squeue", "-h", "-t", "RUNNING", "-o", "%A"))
    run.wait(PATIENCE)
    runs.stopped(out, "scancel")
    restarts.append((len(runs.seen(out)), runs.saved(out)))
    assert runs.start(out, srun).wait(PATIENCE) == 0
    runs.finished(out, restarts)


def main(folder: Path, ways: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    runs = Runs(folder)
    for way in ways:
        if way != "slurm":
            under_mpi(runs, *processes.mpi(way))
        elif is_installed():
            with tempfile.TemporaryDirectory(prefix="slurm-") as place, Slurm(Path(place)) as slurm:
                under_slurm(runs, slurm)
        else:
            print("slurm: not installed, or not root")


if __name__ == "__main__":
    at, *ways = sys.argv[1:]
    mpirun = shutil.which("mpirun")
    main(Path(at).absolute(), ways or ["slurm", *([mpirun] if mpirun else [])])
