"""Results of an experiment as Markdown."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xdiffda._skill_table import HEADLINES
from xdiffda.experiments.results import cases_of, loss_at, pooled, shock


def tables(results: xr.Dataset, *, start: str = "mean", lead_time: float = 48.0) -> str:
    """Both tables, as Markdown."""
    parts = [analysis_table(results)]
    if "forecast_squared" in results:
        text = "the mean of the members" if start == "mean" else "one member"
        head = f"Hours lost by {lead_time:g} h forecasts from {text}:"
        parts += [head, loss_table(results, start=start, lead_time=lead_time)]
    return "\n\n".join(parts) + "\n"


def analysis_table(results: xr.Dataset) -> str:
    """RMSE and CRPS over the background's, shock and cost, of all channels and the headlines."""
    ran = cases_of(results)
    ratios = {
        name: pooled(results, name) / results[f"background_{name}"].where(ran).mean("case")
        for name in ("squared", "crps")
    }
    error, jump = ratios["squared"] ** 0.5, shock(results).mean("channel")
    shown = _shown(results)
    head = ["columns", "method", "RMSE", *shown, "CRPS", "shock", "members", "calls", "seconds",
            "cases"]  # fmt: skip
    rows = []
    for at, n_case in _ran(results):
        row = error.sel(at)
        cost = [int(results[k].sel(at).max()) for k in ("members", "evaluations")]
        rows.append([
            f"{at['columns']:,}", at["scheme"], f"**{float(row.mean()):.3f}**",
            *(f"{float(row.sel(channel=c)):.3f}" for c in shown.values()),
            f"{float(ratios['crps'].sel(at).mean()):.3f}", f"{float(jump.sel(at)):+.2f}",
            str(cost[0]), str(cost[1] or "-"), f"{float(results['seconds'].sel(at).median()):.1f}",
            str(n_case),
        ])  # fmt: skip
    return _markdown(head, rows)


def loss_table(results: xr.Dataset, *, start: str = "mean", lead_time: float = 48.0) -> str:
    """Hours lost by forecasts from the analyses, in headline channels."""
    shown, lost = _shown(results), loss_at(results, start=start, lead_time=lead_time)
    rows = []
    for at, n_case in _ran(results):
        row = lost.sel(at)
        hours = [_hours(float(row.sel(channel=c)), results, lead_time) for c in shown.values()]
        rows.append([f"{at['columns']:,}", at["scheme"], *hours, str(n_case)])
    return _markdown(["columns", "method", *shown, "cases"], rows)


def _shown(results: xr.Dataset) -> dict[str, str]:
    known = results["channel"].values.tolist()
    return {k: c for k, c in HEADLINES.items() if c in known} or {c: c for c in known[:6]}


def _ran(results: xr.Dataset) -> list[tuple[dict[str, Any], int]]:
    """Columns and methods that were run, with the number of cases."""
    count = cases_of(results).sum("case")
    every = [
        {"columns": n, "scheme": method}
        for n in results["columns"].values.tolist() for method in results["scheme"].values.tolist()
    ]  # fmt: skip
    return [(at, int(count.sel(at))) for at in every if int(count.sel(at))]


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _hours(value: float, results: xr.Dataset, lead_time: float) -> str:
    if np.isfinite(value):
        return f"{value:.1f}"
    last = results["reference_lead_time"].values[-1] / np.timedelta64(1, "h")
    return f"> {last - lead_time:g}"
