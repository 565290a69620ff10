"""Results of an experiment as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.experiments.results import cases_of, loss_at, pooled, shock
from xdiffda.verify.table import HEADLINES


def tables(
    results: xr.Dataset, *, start: str = "mean", lead_time: float | Sequence[float] = 48.0
) -> str:
    """Return all tables as Markdown, with the lead-time loss at one lead time after another."""
    parts = [analysis_table(results)]
    if "forecast_squared" in results:
        text = "the mean of the members" if start == "mean" else "one member"
        leads = np.atleast_1d(lead_time).tolist()
        for lead in leads:
            head = f"Hours lost by {lead:g} h forecasts from {text}:"
            parts += [head, loss_table(results, start=start, lead_time=lead)]
        if len(leads) > 1 and "saturation_squared" in results:
            head = f"RMSE of forecasts from {text} over that of another state of the season:"
            parts += [head, forecast_table(results, start=start, lead_times=leads)]
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
    head = [
        "columns",
        "method",
        "RMSE",
        *shown,
        "CRPS",
        "shock",
        "members",
        "calls",
        "seconds",
        "cases",
    ]
    rows = []
    for at, n_case in _ran(results):
        row = error.sel(at)
        cost = [int(results[k].sel(at).max()) for k in ("members", "evaluations")]
        rows.append(
            [
                f"{at['columns']:,}",
                at["scheme"],
                f"**{float(row.mean()):.3f}**",
                *(f"{float(row.sel(channel=c)):.3f}" for c in shown.values()),
                f"{float(ratios['crps'].sel(at).mean()):.3f}",
                f"{float(jump.sel(at)):+.2f}",
                str(cost[0]),
                str(cost[1] or "-"),
                f"{float(results['seconds'].sel(at).median()):.1f}",
                str(n_case),
            ]
        )
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


def forecast_table(
    results: xr.Dataset, *, start: str = "mean", lead_times: Sequence[float] = (48.0, 240.0)
) -> str:
    """RMSE of forecasts at some lead times (hours), normalised by the saturation error.

    The mean over all channels. Rows of the forecasts from the background and from the truth are
    averages over all cases.
    """
    leads = [np.timedelta64(int(hours * 60), "m") for hours in lead_times]
    end = results["saturation_squared"]
    ran = cases_of(results)
    head = ["columns", "method", *(f"{hours:g} h" for hours in lead_times), "cases"]
    own = results["forecast_squared"].sel(start=start, lead_time=leads)
    ratio = _share(own, end.where(ran))
    rows = [
        [f"{at['columns']:,}", at["scheme"], *_numbers(ratio.sel(at)), str(n)]
        for at, n in _ran(results)
    ]
    base = results["background_forecast_squared"].isel(start=0).sel(lead_time=leads)
    truth = results["truth_forecast_squared"].rename(reference_lead_time="lead_time")
    kept = truth.reindex(lead_time=np.array(leads, "timedelta64[ns]"))
    count = str(results.sizes["case"])
    rows += [
        ["-", "background", *_numbers(_share(base, end)), count],
        ["-", "truth", *_numbers(_share(kept, end)), count],
    ]
    return _markdown(head, rows)


def _share(squared: xr.DataArray, end: xr.DataArray) -> xr.DataArray:
    return ((squared.mean("case") / end.mean("case")) ** 0.5).mean("channel")


def _numbers(field: xr.DataArray) -> list[str]:
    return [f"{value:.3f}" for value in field.values.tolist()]


def _shown(results: xr.Dataset) -> dict[str, str]:
    known = results["channel"].values.tolist()
    return {k: c for k, c in HEADLINES.items() if c in known} or {c: c for c in known[:6]}


def _ran(results: xr.Dataset) -> list[tuple[dict[str, Any], int]]:
    """Columns and methods that were run, with the number of cases."""
    count = cases_of(results).sum("case")
    every = [
        {"columns": n, "scheme": method}
        for n in results["columns"].values.tolist()
        for method in results["scheme"].values.tolist()
    ]
    return [(at, int(count.sel(at))) for at in every if int(count.sel(at))]


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _hours(value: float, results: xr.Dataset, lead_time: float) -> str:
    if np.isfinite(value):
        return f"{value:.1f}"
    last = results["reference_lead_time"].values[-1] / np.timedelta64(1, "h")
    return f"> {last - lead_time:g}"
