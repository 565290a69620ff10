"""One process of a run that tests kill: python worker.py CONFIG SIGNAL STEP PAUSE [train options].

Sends itself SIGNAL while it reads the batch of STEP (of which the validation has fewer), and
sleeps for PAUSE seconds before it measures the statistics of fine-tuning.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from xdiffda.train.__main__ import main
from xdiffda.train.loader import Drawn, Epochs


def die_at(step: int, number: signal.Signals) -> None:
    """Let the readers of batches send the signal."""
    for kind in (Drawn, Epochs):
        kind.samples = _fatal(kind.samples, step, number)


def _fatal(draw: Callable, step: int, number: signal.Signals) -> Callable:
    def samples(self: Drawn | Epochs, now: int) -> np.ndarray:
        if now == step:
            os.kill(os.getpid(), number)
        return draw(self, now)

    return samples


def pause_for(seconds: float) -> None:
    """Let the measuring of statistics take longer."""
    from xdiffda.train import finetune

    measure = finetune._measure

    def slowly(*arguments: Any) -> None:
        time.sleep(seconds)
        measure(*arguments)

    finetune._measure = slowly


if __name__ == "__main__":
    config, name, step, pause, *options = sys.argv[1:]
    if name != "none":
        die_at(int(step), signal.Signals[name])
    if float(pause):
        pause_for(float(pause))
    main([config, *options])
