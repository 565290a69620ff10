"""From the scores of an experiment to what tables and figures are made of.

Squared errors are averaged over a method's cases before the root is taken.  A method that was
run at some of the cases only is compared with background and truth at those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xdiffda._skill_table import HEADLINES
from xdiffda._stream import duration
from xdiffda.experiments.assemble import by_variable
from xdiffda.variables import VARIABLES
from xdiffda.verify import lead_time_loss

By = dict[str, dict[int, xr.Dataset]]


def pooled(results: xr.Dataset, name: str, *, of: xr.DataArray | None = None) -> xr.DataArray:
    """Mean over cases of a squared measure; ``of``: over the cases that this one has.

    Parameters
    ----------
    results
        Of `xdiffda.experiments.run`.
    name
        Variable on ``case``.
    of
        Boolean on ``case`` (and more): which cases count.
    """
    field = results[name]
    if of is not None:
        field = field.where(of)
    return field.mean("case")


def cases_of(results: xr.Dataset) -> xr.DataArray:
    """Whether a method was run, by case, columns and method."""
    return results["squared"].notnull().all("channel")


def rmse(results: xr.Dataset) -> By:
    """Scores of analyses: method -> number of columns -> ``rmse`` and ``crps``."""
    fields = {"rmse": pooled(results, "squared") ** 0.5, "crps": pooled(results, "crps")}
    return _by(results, lambda at: _scored({k: f.sel(at) for k, f in fields.items()}))


def background_rmse(results: xr.Dataset) -> xr.Dataset:
    """Scores of the background, over all cases."""
    squared, crps = (pooled(results, f"background_{n}") for n in ("squared", "crps"))
    return _scored({"rmse": np.sqrt(squared), "crps": crps})


def truth_forecast_rmse(results: xr.Dataset, *, of: xr.DataArray | None = None) -> xr.Dataset:
    """Scores of forecasts from the truth, along ``lead_time``."""
    squared = pooled(results, "truth_forecast_squared", of=of)
    return _scored({"rmse": np.sqrt(squared.rename(reference_lead_time="lead_time"))})


def forecast_rmse(results: xr.Dataset, *, start: str = "mean") -> By:
    """Scores of forecasts from analyses, along ``lead_time``."""
    field = pooled(results, "forecast_squared").sel(start=start, drop=True) ** 0.5
    return _by(results, lambda at: _scored({"rmse": field.sel(at)}))


def background_forecast_rmse(results: xr.Dataset) -> xr.Dataset:
    """Scores of the background's own continuation, along ``lead_time``."""
    squared = pooled(results, "background_forecast_squared").isel(start=0, drop=True)
    return _scored({"rmse": np.sqrt(squared)})


def losses(results: xr.Dataset, *, start: str = "mean") -> By:
    """Lead-time losses (`xdiffda.verify.lead_time_loss`): method -> columns -> hours.

    The background is among the methods where it is a forecast from the truth: by its age it
    should have lost just that.
    """
    ran = cases_of(results)

    def of(at: dict[str, Any], scores: xr.Dataset) -> xr.Dataset:
        return lead_time_loss(scores, truth_forecast_rmse(results, of=ran.sel(at, drop=True)))

    own = forecast_rmse(results, start=start)
    return {
        method: {n: of({"scheme": method, "columns": n}, ds) for n, ds in by.items()}
        for method, by in own.items()
    }


def background_losses(results: xr.Dataset) -> xr.Dataset:
    """Lead-time loss of the background's own continuation."""
    return lead_time_loss(background_forecast_rmse(results), truth_forecast_rmse(results))


def balance_sizes(results: xr.Dataset, columns: int) -> dict[str, xr.Dataset]:
    """Balance beside the truth's: label -> divergence, tendencies and ageostrophic wind.

    For `xdiffda.plot.scorecard` with ``reference="truth"``, ``score="magnitude"``: 1 is the noise
    of the truth; ``tendency_...`` less one is the shock (`xdiffda.verify.initial_shock`).
    """
    ran = cases_of(results).sel(columns=columns, drop=True)
    out = {}
    for label in ("truth", "background"):
        out[label] = _balance(results, f"{label}_", ran.any("scheme"), {})
    for method in results["scheme"].values.tolist():
        own = ran.sel({"scheme": method}, drop=True)
        if bool(own.any()):
            at = {"columns": columns, "scheme": method}
            out[method] = _balance(results, "", own, at)
    return out


def _balance(results: xr.Dataset, prefix: str, ran: xr.DataArray, at: Mapping) -> xr.Dataset:
    fields: dict[str, xr.DataArray] = {}
    tendency = pooled(results, f"{prefix}tendency", of=ran)
    for name, field in by_variable(np.sqrt(tendency.sel(at, drop=True))).items():
        fields[f"tendency of {_short(str(name))}"] = field
    for name in ("divergence", "ageostrophic_ratio"):
        if f"{prefix}{name}" in results:
            fields[name.replace("_", " ")] = pooled(
                results, f"{prefix}{name}", of=ran
            ).sel(at, drop=True)  # fmt: skip
    return xr.Dataset(fields).expand_dims(score=["magnitude"])


def shock(results: xr.Dataset) -> xr.DataArray:
    """First 6 h tendency over that from the truth, less one: by columns, method, channel."""
    ran = cases_of(results)
    own = pooled(results, "tendency", of=ran)
    base = results["truth_tendency"].where(ran).mean("case")
    out = (own / base) ** 0.5 - 1
    return out.transpose("columns", "scheme", "channel").assign_attrs(long_name="shock", units="1")


def spectra(results: xr.Dataset, columns: int) -> dict[str, xr.Dataset]:
    """Spectra of truth, background and members, for `xdiffda.plot.spectra`."""
    ran = cases_of(results).sel(columns=columns, drop=True)
    out = {
        label: _squares(by_variable(results[f"{label}_spectrum"].mean("case")))
        for label in ("truth", "background")
    }
    for method in results["scheme"].values.tolist():
        if bool(ran.sel({"scheme": method}).any()):
            field = results["spectrum"].sel({"columns": columns, "scheme": method}, drop=True)
            out[method] = _squares(by_variable(field.mean("case")))
    return out


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
    shown, lost = _shown(results), _lost(results, start, lead_time)
    rows = []
    for at, n_case in _ran(results):
        row = lost.sel(at)
        hours = [_hours(float(row.sel(channel=c)), results, lead_time) for c in shown.values()]
        rows.append([f"{at['columns']:,}", at["scheme"], *hours, str(n_case)])
    return _markdown(["columns", "method", *shown, "cases"], rows)


def condensed(results: xr.Dataset, *, every: str = "24h") -> xr.Dataset:
    """What tables and curves need, in few bytes: no spectra, forecasts at fewer lead times."""
    kept = results.drop_vars([n for n in results.data_vars if "spectrum" in str(n)])
    if "lead_time" in kept.dims:
        some = [t for t in kept["lead_time"].values if not t % duration(every)]
        kept = kept.sel(lead_time=some)
    return kept.map(lambda f: f.astype(np.float32)).assign_attrs(results.attrs)


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


def _lost(results: xr.Dataset, start: str, lead_time: float) -> xr.DataArray:
    """Loss at one lead time by columns, method and channel."""
    lead = np.timedelta64(int(lead_time * 60), "m")
    out = results["squared"].mean("case") * np.nan
    for method, by in losses(results, start=start).items():
        for n, ds in by.items():
            for channel in results["channel"].values.tolist():
                name, _, level = channel.partition("@")
                field = ds[name].sel(lead_time=lead)
                value = field.sel(level=float(level)) if level else field
                out.loc[{"scheme": method, "columns": n, "channel": channel}] = float(value)
    return out


def _by(results: xr.Dataset, make: Any) -> By:
    """Method -> columns -> Dataset, where the method was run."""
    ran = cases_of(results).any("case")
    return {
        method: {
            n: make({"scheme": method, "columns": n})
            for n in results["columns"].values.tolist()
            if bool(ran.sel({"scheme": method, "columns": n}))
        }
        for method in results["scheme"].values.tolist()
    }


def _scored(fields: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """As `xdiffda.verify.verify` gives them: variables on ``score``, with units."""
    parts = [by_variable(f.drop_vars(["scheme", "columns"], errors="ignore"))
             for f in fields.values()]  # fmt: skip
    out = xr.concat(parts, "score").assign_coords(score=list(fields))
    for name, field in out.data_vars.items():
        field.attrs = {"units": VARIABLES[str(name)].units} if name in VARIABLES else {}
    return out


def _squares(ds: xr.Dataset) -> xr.Dataset:
    for name, field in ds.data_vars.items():
        if name in VARIABLES:
            field.attrs = {"units": f"({VARIABLES[str(name)].units})^2"}
    return ds


def _short(name: str) -> str:
    known = VARIABLES.get(name)
    return known.aliases[0] if known and known.aliases else name
