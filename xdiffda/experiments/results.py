"""Prepare the scores of an experiment for tables and figures.

Squared errors are averaged over a method's cases before the root is taken.  A method that was
run at some of the cases only is compared with background and truth at those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.experiments.runner import by_variable
from xdiffda.state.variables import VARIABLES
from xdiffda.verify import lead_time_loss
from xdiffda.verify.table import HEADLINES

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
    """Return whether a method was run, by case, columns and method."""
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


def saturation_rmse(results: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return the saturation error: label -> ``rmse``, for lines in figures of forecasts.

    A forecast that is another state of the season errs by the square root of two times the
    standard deviation about the climate, the climate itself by once that. Empty where the
    results do not have it.
    """
    if "saturation_squared" not in results:
        return {}
    squared = pooled(results, "saturation_squared")
    return {
        "another state of the season": _scored({"rmse": np.sqrt(squared)}),
        "climate": _scored({"rmse": np.sqrt(squared / 2)}),
    }


def losses(results: xr.Dataset, *, start: str = "mean") -> By:
    """Lead-time losses (`xdiffda.verify.lead_time_loss`): method -> columns -> hours.

    The reference are forecasts from the truth at the method's own cases. For
    `xdiffda.plot.lead_time_loss`.

    Parameters
    ----------
    results : Dataset
        Of `xdiffda.experiments.run`, with forecasts.
    start : {"mean", "member"}
        What the forecasts start from.
    """
    ran = cases_of(results)

    def of(at: dict[str, Any], scores: xr.Dataset) -> xr.Dataset:
        return lead_time_loss(scores, truth_forecast_rmse(results, of=ran.sel(at, drop=True)))

    own = forecast_rmse(results, start=start)
    return {
        method: {n: of({"scheme": method, "columns": n}, ds) for n, ds in by.items()}
        for method, by in own.items()
    }


def loss_at(results: xr.Dataset, *, start: str = "mean", lead_time: float = 48.0) -> xr.DataArray:
    """Lead-time loss at one lead time (hours), on ``columns``, ``scheme`` and ``channel``.

    NaN where the error is beyond that of the longest forecast from the truth.
    """
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


def background_losses(results: xr.Dataset) -> xr.Dataset:
    """Lead-time loss of the background's own continuation: about its age."""
    return lead_time_loss(background_forecast_rmse(results), truth_forecast_rmse(results))


def rmse_ratios(results: xr.Dataset, columns: int) -> dict[str, xr.Dataset]:
    """RMSE over that of the background at the same cases: label -> Dataset.

    For `xdiffda.plot.scorecard` with ``reference="background"``.
    """
    ran, base = cases_of(results), results["background_squared"].where(cases_of(results))
    ratio = ((results["squared"].where(ran)).mean("case") / base.mean("case")) ** 0.5
    fields = {m: ratio.sel(at, drop=True) for m, at in _ran_with(results, columns).items()}
    return _with_ones("background", fields, "rmse")


def balance_ratios(results: xr.Dataset, columns: int) -> dict[str, xr.Dataset]:
    """Balance of members over that of the truth at the same cases: label -> Dataset.

    Tendencies of the first 6 h (less one they are the shock, see
    `xdiffda.verify.initial_shock`), divergence and ageostrophic wind, and the amplitude of short
    waves (the upper half of the zonal wavenumbers) of the headline channels. For
    `xdiffda.plot.scorecard` with ``reference="truth"`` and ``score="magnitude"``.
    """
    out = {"background": _balance(results, "background_", None, {})}
    for method, at in _ran_with(results, columns).items():
        out[method] = _balance(results, "", cases_of(results).sel(at, drop=True), at)
    first = out["background"]
    return {"truth": xr.ones_like(first), **out}


def _balance(results: xr.Dataset, prefix: str, ran: xr.DataArray | None, at: Mapping) -> xr.Dataset:
    def ratio(name: str) -> xr.DataArray:
        own = pooled(results, f"{prefix}{name}", of=None if ran is None else cases_of(results))
        return own.sel(at, drop=True) / pooled(results, f"truth_{name}", of=ran)

    fields = {
        f"tendency of {_short(str(name))}": field
        for name, field in by_variable(ratio("tendency") ** 0.5).items()
    }
    for name in ("divergence", "ageostrophic_ratio"):
        if f"truth_{name}" in results:
            fields[name.replace("_", " ")] = ratio(name)
    if "truth_spectrum" in results:
        fields |= _short_waves(ratio("spectrum"), results)
    return xr.Dataset(fields).expand_dims(score=["magnitude"])


def _short_waves(ratio: xr.DataArray, results: xr.Dataset) -> dict[str, xr.DataArray]:
    """Amplitude in the upper half of the zonal wavenumbers, of the headline channels.

    A root mean square of ratios: each wavenumber counts alike, however small its variance.
    """
    known = results["channel"].values.tolist()
    shown = [c for c in HEADLINES.values() if c in known] or known[:6]
    field = ratio.isel(wavenumber=slice(ratio.sizes["wavenumber"] // 2, None)).mean("wavenumber")
    names = {c: " ".join([_short(c.partition("@")[0]), *c.split("@")[1:]]) for c in shown}
    return {f"short waves of {n}": field.sel(channel=c, drop=True) ** 0.5 for c, n in names.items()}


def _with_ones(label: str, fields: Mapping[str, xr.DataArray], score: str) -> dict[str, xr.Dataset]:
    """Datasets of ratios, and the reference that is one everywhere."""
    out = {name: by_variable(f).expand_dims(score=[score]) for name, f in fields.items()}
    return {label: xr.ones_like(next(iter(out.values()))), **out}


def _ran_with(results: xr.Dataset, columns: int) -> dict[str, dict[str, Any]]:
    """Methods that were run with so many columns, and where they stand."""
    ran = cases_of(results).sel(columns=columns).any("case")
    every = {m: {"columns": columns, "scheme": m} for m in results["scheme"].values.tolist()}
    return {m: at for m, at in every.items() if bool(ran.sel({"scheme": m}))}


def shock(results: xr.Dataset) -> xr.DataArray:
    """First 6 h tendency over that from the truth, less one: by columns, method, channel."""
    ran = cases_of(results)
    own = pooled(results, "tendency", of=ran)
    base = results["truth_tendency"].where(ran).mean("case")
    out = (own / base) ** 0.5 - 1
    return out.transpose("columns", "scheme", "channel").assign_attrs(long_name="shock", units="1")


def spectra(results: xr.Dataset, columns: int) -> dict[str, xr.Dataset]:
    """Spectra of truth, background and members, for `xdiffda.plot.spectra`."""
    out = {
        label: _squares(by_variable(results[f"{label}_spectrum"].mean("case")))
        for label in ("truth", "background")
    }
    for method, at in _ran_with(results, columns).items():
        out[method] = _squares(by_variable(results["spectrum"].sel(at, drop=True).mean("case")))
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
    """Return scores laid out as by `xdiffda.verify.verify`: on ``score``, with units."""
    parts = [
        by_variable(f.drop_vars(["scheme", "columns"], errors="ignore")) for f in fields.values()
    ]
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
