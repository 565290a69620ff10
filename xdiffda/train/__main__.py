"""`python -m xdiffda.train [forecasts] CONFIG.toml [--out DIR] ...`: train or resume.

With `forecasts`, make the backgrounds of a configuration of task diffda.
Under srun, mpirun or mpiexec all tasks work on one run; on a plain list of hosts give every
process --coordinator HOST:PORT --processes N --process-id I.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

from xdiffda.errors import XdiffdaError
from xdiffda.jax_settings import with_own_jax
from xdiffda.options import request_huge_pages
from xdiffda.train.config import TrainConfig

_OVERRIDES = {
    "out": "folder for checkpoints and curves",
    "data": "nature run or reanalysis",
    "pairs": "pairs or forecasts",
    "initial": "run or published weights to start from",
}


@with_own_jax
def main(arguments: list[str] | None = None) -> None:
    """Train what the configuration says; calling again resumes from the last checkpoint.

    A run that receives SIGTERM or SIGUSR1 saves a checkpoint and returns. ``status.json`` in its
    folder holds the progress; a file ``finished`` means that nothing is left to do.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    forecasts = arguments[:1] == ["forecasts"]
    options = vars(_parser().parse_args(arguments[forecasts:]))
    config = TrainConfig.read(options.pop("config"))
    places = {k: options.pop(k) for k in ("coordinator", "processes", "process_id")}
    config = dataclasses.replace(config, **{k: v for k, v in options.items() if v is not None})
    from xdiffda.train.distributed import all_or_none, initialise

    initialise(**places)
    with all_or_none():
        _forecasts(config) if forecasts else _train(config)


def _forecasts(config: TrainConfig) -> None:
    from xdiffda.train.forecasts import make_forecasts

    make_forecasts(config)


def _train(config: TrainConfig) -> None:
    from xdiffda.train.distributed import StopRequest, leads
    from xdiffda.train.loop import Stopped

    try:
        with StopRequest():  # a warning that comes while data are read is kept for the first step
            _run(config)
    except Stopped as stopped:
        if leads():
            print(stopped)
        return
    if leads():
        from xdiffda.train.run_folder import plot_log

        plot_log(config.out)


def _run(config: TrainConfig) -> None:
    if config.task == "forecaster":
        from xdiffda.train.forecaster import run
    elif config.task == "diffda":
        from xdiffda.train.finetune import run
    else:
        from xdiffda.train.denoiser import run
    run(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m xdiffda.train", description=__doc__)
    parser.add_argument("config", help="TOML file")
    for name, text in _OVERRIDES.items():
        parser.add_argument(f"--{name}", help=f"{text} (overrides the file)")
    parser.add_argument("--steps", type=int, help="optimiser steps (overrides the file)")
    parser.add_argument("--coordinator", help="HOST:PORT of process 0")
    parser.add_argument("--processes", type=int, help="number of processes of the run")
    parser.add_argument("--process-id", type=int, help="which of them this is, from 0")
    return parser


def command() -> None:
    """Call `main`; errors that the user can repair are printed without a traceback."""
    try:
        main()
    except (
        XdiffdaError,
        FloatingPointError,
        FileNotFoundError,
        IsADirectoryError,
        NotADirectoryError,
        FileExistsError,
        PermissionError,
    ) as error:
        sys.exit(f"xdiffda.train: {error}")


if __name__ == "__main__":
    request_huge_pages()
    command()
