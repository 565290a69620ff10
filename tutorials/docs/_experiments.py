"""Tables and figures of the experiments, from the files in ``tutorials/results``.

They were written by ``xdiffda experiment``; see ``experiments.toml`` beside them.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def _results(kind: str) -> Any:
    import xarray as xr

    return xr.load_dataset(RESULTS / f"{kind}.nc", decode_timedelta=True)


def experiment_analyses(kind: str) -> str:
    """RMSE, CRPS, shock and cost of the analyses."""
    from xdiffda.experiments import tables

    return tables.analysis_table(_results(kind))


def experiment_losses(kind: str) -> str:
    """Hours lost by 48 h forecasts from the mean of the members."""
    from xdiffda.experiments import tables

    return tables.loss_table(_results(kind))


def experiment_member_losses(kind: str) -> str:
    """Hours lost by 48 h forecasts from single members."""
    from xdiffda.experiments import tables

    return tables.loss_table(_results(kind), start="member")


def experiment_window() -> str:
    """Errors of 4D-Var and its rivals through a window."""
    import json

    from xdiffda.experiments import window_results

    return window_results.table(json.loads((RESULTS / "window.json").read_text()))


def experiment_figure(name: str) -> str:
    """A figure, inside the page."""
    data = base64.b64encode((RESULTS / "figures" / f"{name}.png").read_bytes()).decode()
    return (
        f'```{{raw}} html\n<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">\n```'
    )


def experiment_forecasts(kind: str) -> str:
    """Errors of forecasts by lead time, over where errors end."""
    from xdiffda.experiments import tables

    return tables.forecast_table(_results(kind))


def experiment_cycles(name: str) -> str:
    """Table of an experiment on cycles."""
    return (RESULTS / f"{name}.md").read_text()


def experiment_config() -> str:
    """The configuration that made them."""
    return f"```toml\n{(RESULTS / 'experiments.toml').read_text().rstrip()}\n```"


MADE = {
    "experiment-analyses": experiment_analyses, "experiment-cycles": experiment_cycles,
    "experiment-forecasts": experiment_forecasts, "experiment-config": experiment_config,
    "experiment-figure": experiment_figure, "experiment-losses": experiment_losses,
    "experiment-member-losses": experiment_member_losses, "experiment-window": experiment_window,
}  # fmt: skip
