"""One command: run, write scores and figures, print the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xdiffda.cycling.observation_stream import duration
from xdiffda.errors import InputError, Problem
from xdiffda.experiments.config import ExperimentConfig
from xdiffda.experiments.runner import KINDS, run

MAPS, CYCLING, WINDOW, DEPARTURES = "maps", "cycling", "window", "departures"
FIGURES = "figures"


def main(kind: str, path: str | Path, *, progress: bool | None = True) -> str:
    """Run or resume one experiment of a TOML file or of observations; return tables as Markdown.

    Parameters
    ----------
    kind : {"single-step", "lead-time", "sigma-g", "maps", "cycling", "window", "departures"}
        As in `xdiffda.experiments.run`; ``maps`` draws the errors of one case, ``cycling`` runs
        every method for weeks, ``window`` sets 4D beside first guess at appropriate time,
        ``departures`` withholds stations of a file of real observations.
    path : path
        For ``departures`` a file with a background at each observation
        (`xdiffda.experiments.departures.run`), else a TOML file:
        See `xdiffda.experiments.ExperimentConfig`, for cycles
        `xdiffda.experiments.cycling.CyclingConfig`, for windows
        `xdiffda.experiments.window.WindowConfig`.
    progress : bool, optional

    Raises
    ------
    InputError
        If the kind is unknown, or the configuration or what it names does not fit.
    """
    _check_kind(kind, path)
    if kind == CYCLING:
        from xdiffda.experiments import cycling_results

        return cycling_results.main(path, progress=progress)
    if kind == WINDOW:
        from xdiffda.experiments import window as window_results

        return window_results.main(path, progress=progress)
    if kind == DEPARTURES:
        from xdiffda.experiments import departures

        return departures.main(path)
    from xdiffda.experiments import figures, tables
    from xdiffda.experiments import figures as maps

    config = ExperimentConfig.read(path)
    folder = Path(config.out) / FIGURES
    if kind == MAPS:
        drawn = figures.write_maps(
            maps.states_of_case(config), folder, figure_format=config.figure_format
        )
        return "".join(f"{p}\n" for p in drawn)
    found = run(kind, config, progress=progress)
    text = tables.tables(found, start=config.starts[0], lead_time=_shown_leads(config))
    (Path(config.out) / f"{kind}.md").write_text(text)
    figures.write_figures(kind, found, folder, figure_format=config.figure_format)
    return text


def example_of(kind: str) -> Any:
    """Configuration of an experiment on the bundled sample.

    Raises
    ------
    InputError
        If the kind is unknown, or one of a file of observations.
    """
    _check_kind(kind, "CONFIG")
    if kind == DEPARTURES:
        raise InputError(
            [
                Problem(
                    "an example of departures",
                    "observations with a background at each: prepBUFR, or IODA",
                    "xdiffda experiment departures FILE",
                )
            ],
            what="experiment",
        )
    if kind == CYCLING:
        from xdiffda.experiments.cycling import CyclingConfig

        return CyclingConfig.example()
    if kind == WINDOW:
        from xdiffda.experiments.window import WindowConfig

        return WindowConfig.example()
    return ExperimentConfig.example()


def _check_kind(kind: str, path: str | Path) -> None:
    kinds = (*KINDS, MAPS, CYCLING, WINDOW, DEPARTURES)
    if kind not in kinds:
        raise InputError(
            [
                Problem(
                    f"the experiment {kind!r}",
                    f"one of {', '.join(kinds)}",
                    f"xdiffda experiment {KINDS[0]} {path}",
                )
            ],
            what="experiment",
        )


def _shown_leads(config: ExperimentConfig) -> tuple[float, ...]:
    """Hours of the configured lead times, the last of the forecasts where they are shorter."""

    def hours(text):
        return float(duration(text) / np.timedelta64(1, "h"))

    last = hours(config.forecast_lead)
    return tuple(dict.fromkeys(min(last, hours(lead)) for lead in config.lead_times))
