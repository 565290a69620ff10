"""The experiments of the DiffDA paper, each one command, with every method beside it.

    xdiffda experiment single-step CONFIG.toml

    xdiffda experiment departures OBSERVATIONS

Error of the analysis against the number of columns, forecasts from analyses and the hours
they have lost, the width of RePaint's soft mask; scorecards, balance and maps of errors.
``departures`` is that of real observations: what analyses take away at stations they did not see.
"""

from __future__ import annotations

from xdiffda.experiments.config import ExperimentConfig, Method
from xdiffda.experiments.runner import run

__all__ = ["ExperimentConfig", "Method", "run"]
