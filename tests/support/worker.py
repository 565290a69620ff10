"""One process of a run that tests kill: python worker.py CONFIG SIGNAL STEP PAUSE [train options].

Sends itself SIGNAL while it reads the batch of STEP (of which the validation has fewer), and
sleeps for PAUSE seconds before it measures the statistics of fine-tuning. SIGKILL@1: only task 1
of a launcher. HOLD: no signal is sent, the batch waits for one, for PAUSE seconds at most.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from xdiffda.train.__main__ import main
from xdiffda.train.distributed import StopRequest
from xdiffda.train.launchers import started_by
from xdiffda.train.loader import Drawn, Epochs


def die_at(step: int, number: signal.Signals) -> None:
    """Let the readers of batches send the signal."""
    _do_at(step, lambda: os.kill(os.getpid(), number))


def hold_at(step: int, seconds: float) -> None:
    """Let the readers of batches wait until this process has been told to stop."""
    told, note = threading.Event(), StopRequest._note

    def noted(self: StopRequest, number: int, frame: FrameType | None) -> None:
        note(self, number, frame)
        told.set()

    StopRequest._note = noted
    _do_at(step, lambda: told.wait(seconds))


def _do_at(step: int, action: Callable) -> None:
    for kind in (Drawn, Epochs):
        kind.samples = _interrupted(kind.samples, step, action)


def _interrupted(draw: Callable, step: int, action: Callable) -> Callable:
    def samples(self: Drawn | Epochs, now: int) -> np.ndarray:
        if now == step:
            action()
        return draw(self, now)

    return samples


def _is_meant(task: str) -> bool:
    """Whether this is the task that a signal is for; without a number all are."""
    started = started_by(os.environ)
    return not task or (started is not None and started[2] == int(task))


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
    name, _, task = name.partition("@")
    if name == "HOLD":
        hold_at(int(step), float(pause))
    elif float(pause):
        pause_for(float(pause))
    if name not in ("none", "HOLD") and _is_meant(task):
        die_at(int(step), signal.Signals[name])
    main([config, *options])
