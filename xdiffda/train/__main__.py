"""`python -m xdiffda.train CONFIG.toml [--out DIR] [--data DIR]`: train or resume."""

from __future__ import annotations

import argparse
import dataclasses

from xdiffda._huge_pages import request_huge_pages
from xdiffda.train.config import TrainConfig


def main(arguments: list[str] | None = None) -> None:
    """Train what the configuration says; calling again resumes from the last checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m xdiffda.train", description=__doc__)
    parser.add_argument("config", help="TOML file")
    parser.add_argument("--out", help="folder for checkpoints and curves (overrides the file)")
    parser.add_argument("--data", help="folder of the nature run (overrides the file)")
    parser.add_argument("--pairs", help="folder of the pairs (overrides the file)")
    parser.add_argument("--initial", help="run to start from (overrides the file)")
    parser.add_argument("--steps", type=int, help="optimiser steps (overrides the file)")
    options = vars(parser.parse_args(arguments))
    config = TrainConfig.read(options.pop("config"))
    config = dataclasses.replace(config, **{k: v for k, v in options.items() if v is not None})
    if config.task == "forecaster":
        from xdiffda.train.forecaster import run
    else:
        from xdiffda.train.denoiser import run
    run(config)
    from xdiffda.train.curves import plot_log

    plot_log(config.out)


if __name__ == "__main__":
    request_huge_pages()
    main()
