"""Tables and figures of the experiments, from the files in ``tutorials/results``.

They were written by ``xdiffda experiment``; see ``experiments.toml`` beside them.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def _results(kind: str) -> Any:
    import xarray as xr

    return xr.load_dataset(RESULTS / f"{kind}.nc", decode_timedelta=True)


def _with_note(table: str, about: Mapping[str, Any]) -> str:
    """A table, and whether the bundled model was another one when it was made."""
    return _noted(table, json.loads(about["world"])["prior"].split()[-1])


def _noted(table: str, made_by: str) -> str:
    if made_by == _current():
        return table
    note = f"*Made with the weights of an earlier version (`{made_by}`).*"
    return f"{table.rstrip()}\n\n{note}\n"


@functools.cache
def _current() -> str:
    from xdiffda.cycling.plan import prior_digest
    from xdiffda.priors.registry import load_model

    return prior_digest(load_model("speedy"))


def experiment_analyses(kind: str) -> str:
    """RMSE, CRPS, shock and cost of the analyses."""
    from xdiffda.experiments import tables

    results = _results(kind)
    return _with_note(tables.analysis_table(results), results.attrs)


def experiment_losses(kind: str) -> str:
    """Hours lost by 48 h forecasts from the mean of the members."""
    from xdiffda.experiments import tables

    results = _results(kind)
    return _with_note(tables.loss_table(results), results.attrs)


def experiment_late_losses(kind: str) -> str:
    """Hours lost at the end of the forecasts."""
    import numpy as np

    from xdiffda.experiments import tables

    results = _results(kind)
    last = float(results["lead_time"].values[-1] / np.timedelta64(1, "h"))
    return _with_note(tables.loss_table(results, lead_time=last), results.attrs)


def experiment_member_losses(kind: str) -> str:
    """Hours lost by 48 h forecasts from single members."""
    from xdiffda.experiments import tables

    results = _results(kind)
    return _with_note(tables.loss_table(results, start="member"), results.attrs)


def experiment_halves(start: str) -> str:
    """In how many channels guided forecasts lose at most half of what RePaint's lose."""
    from xdiffda.experiments import results

    found = _results("lead-time")
    (rival,) = (m for m in found["scheme"].values.tolist() if m.startswith("RePaint"))
    loss = results.loss_at(found, start=start)
    lines = []
    for n in (416, 1000):
        share = (loss.sel(scheme="guided") / loss.sel(scheme=rival)).sel(columns=n)
        more = [str(c) for c in share["channel"].values[share.values > 0.5]]
        where = f" (`{share.idxmax().item()}`)" if more else ""
        lines.append(
            f"- {n:,} columns: at most half in {share.size - len(more)} of {share.size} variables "
            f"and levels; the median share is {float(share.median()):.2f}, the largest "
            f"{float(share.max()):.2f}{where}."
        )
    return "\n".join(lines)


def experiment_window() -> str:
    """Errors of 4D-Var and its rivals through a window."""
    from xdiffda.experiments import window as window_results

    report = json.loads((RESULTS / "window.json").read_text())
    return _with_note(window_results.table(report), report)


def experiment_figure(name: str) -> str:
    """A figure, inside the page."""
    data = base64.b64encode((RESULTS / "figures" / f"{name}.png").read_bytes()).decode()
    return (
        f'```{{raw}} html\n<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">\n```'
    )


def experiment_forecasts(kind: str) -> str:
    """Errors of forecasts by lead time, normalised by the saturation error."""
    from xdiffda.experiments import tables

    results = _results(kind)
    return _with_note(tables.forecast_table(results), results.attrs)


def experiment_cycles(name: str) -> str:
    """Table of an experiment on cycles; those of earlier versions do not say what made them."""
    table = (RESULTS / f"{name}.md").read_text()
    told = re.search(r"prior \S+ ([0-9a-f]{16})", table)
    return _noted(table, told[1]) if told else table


def experiment_config(name: str = "experiments") -> str:
    """The configuration that made them."""
    return f"```toml\n{(RESULTS / f'{name}.toml').read_text().rstrip()}\n```"


MADE = {
    "experiment-analyses": experiment_analyses,
    "experiment-cycles": experiment_cycles,
    "experiment-forecasts": experiment_forecasts,
    "experiment-config": experiment_config,
    "experiment-figure": experiment_figure,
    "experiment-losses": experiment_losses,
    "experiment-late-losses": experiment_late_losses,
    "experiment-halves": experiment_halves,
    "experiment-member-losses": experiment_member_losses,
    "experiment-window": experiment_window,
}
