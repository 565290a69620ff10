"""One process of a run that tests kill: python worker.py CONFIG SIGNAL STEP [train options].

Sends itself SIGNAL while it reads the batch of STEP.
"""

from __future__ import annotations

import os
import signal
import sys

import numpy as np

from xdiffda.train.__main__ import main
from xdiffda.train.loader import Drawn


def die_at(step: int, number: signal.Signals) -> None:
    """Let the reader of training batches send the signal."""
    draw = Drawn.samples

    def samples(self: Drawn, now: int) -> np.ndarray:
        if now == step and self.seed[1] == 0:  # not those of the validation
            os.kill(os.getpid(), number)
        return draw(self, now)

    Drawn.samples = samples


if __name__ == "__main__":
    config, name, step, *options = sys.argv[1:]
    if name != "none":
        die_at(int(step), signal.Signals[name])
    main([config, *options])
