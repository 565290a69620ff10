"""A training run begun by 2 processes, stopped, gone on with by 3, stopped, finished by 1.

    python tests/benchmarks/resume_elsewhere.py [FOLDER]

Tiny waves and a tiny network on the CPU, a global batch of 12. Shows that every step sees the
samples that a run of one process sees, each step once, and that the curves agree; raises if not.
Seven starts of a process, two and a half minutes of processor time (largest relative difference of
the curves: 1.2e-6); tests/train has the same with 2, 2 and 1 processes and a kill.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "support"))
import processes  # noqa: E402
import waves  # noqa: E402
from sample_log import read_samples  # noqa: E402

from xdiffda.train.config import TrainConfig  # noqa: E402
from xdiffda.train.data import load_nature  # noqa: E402
from xdiffda.train.forecaster import batches  # noqa: E402

STEPS = 24
CONFIG = """
task = "forecaster"
data = "{folder}/nature"
out = "{folder}/{out}"
steps = {steps}
batch = 12
validate_every = 24
save_every = 100
log_every = 1
log_samples = true
[network]
refinement = 1
latent = 16
processor_steps = 1
[optimiser]
peak = 1e-2
warmup_steps = 4
ema = 0.9
"""


def main(folder: Path) -> None:
    waves.write_nature(folder / "nature")
    root = TESTS.parent

    def start(out: str, how: str, n: int, stop: int | None) -> list[tuple[int, list[int]]]:
        config = folder / f"{out}.toml"
        config.write_text(CONFIG.format(folder=folder, out=out, steps=STEPS))
        death = None if stop is None else processes.Death(n - 1, "SIGTERM", stop)
        codes = processes.run_processes(config, root, how, n, death)
        assert codes == [0] * n, (folder / f"{how}-0.err").read_text()
        seen = read_samples(folder / out / "samples.csv")
        print(f"{out}: {n} processes, {codes}, steps 1 to {seen[-1][0]}", flush=True)
        return seen

    start("many", "by hand", 2, 6)
    start("many", "srun", 3, 14)
    seen = start("many", "srun", 1, None)
    start("one", "srun", 1, None)

    expected = batches(
        load_nature(folder / "nature"), "train", TrainConfig.read_back(folder / "one")
    )
    assert [step for step, _ in seen] == list(range(1, STEPS + 1)), "a step was lost or repeated"
    assert all(samples == expected.samples(step - 1).tolist() for step, samples in seen)
    curves = [
        np.array([float(r["train_loss"]) for r in processes.rows_of(folder / out / "log.csv")])
        for out in ("many", "one")
    ]
    difference = float(np.max(np.abs(curves[0] / curves[1] - 1)))
    print(f"largest relative difference of the curves: {difference:.1e}")
    assert len(curves[0]) == STEPS and difference < 1e-4


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).absolute())
