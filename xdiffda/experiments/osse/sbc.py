"""Simulation-based calibration of the bundled model: are its posteriors those of its own prior?

    python -m xdiffda.experiments.osse sbc --out xdiffda/models/speedy
    python -m xdiffda.experiments.osse sbc --prior gaussian --out xdiffda/models/speedy

Truths are drawn from the model itself (unguided, from pure noise) given backgrounds of the bundled
sample, observed, and ranked among the members of their analyses.  The backgrounds need no
nature run, so anyone can repeat this with the package alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.assimilation.calibration import simulation_based_calibration
from xdiffda.assimilation.methods import Guided
from xdiffda.errors import InputError, Problem
from xdiffda.experiments.osse.evaluate import weights_digest
from xdiffda.experiments.osse.tables import as_text, made_with
from xdiffda.priors.prior import Prior
from xdiffda.priors.registry import load_model
from xdiffda.priors.samples import open_sample

FILE = "sbc.json"
STATISTICS = ("chi_square", "slope", "curvature", "ks")
PRIORS = ("model", "gaussian")


def calibrate(
    *,
    model: str = "speedy",
    prior: str = "model",
    n_draws: int = 60,
    n_members: int = 8,
    n_columns: int = 416,
    n_steps: int = 8,
    start: str = "warm",
    covariance: str | None = None,
    prior_steps: int = 32,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run `xdiffda.assimilation.calibration.simulation_based_calibration` on the bundled sample.

    Parameters
    ----------
    model : str
        Name or folder of a model on the sample's grid.
    prior : {"model", "gaussian"}
        The model itself, or a Gaussian with its s and B and no network, whose truths are drawn
        exactly and for which V from B is exact: what is left to fail is sampler and solver.
    n_draws, n_members, n_columns, prior_steps, seed
        As there.
    n_steps, start, covariance
        Settings of `assimilate` under test; V by default that of the prior.

    Returns
    -------
    dict
        Plain JSON: counts of ranks and tests for every function, and what made them, the
        digest of the model's weights with it.
    """
    own = _prior(model, prior)
    settings = {
        "n_steps": n_steps,
        "start": start,
        "covariance": covariance or own.default_covariance,
    }
    found = simulation_based_calibration(
        own,
        open_sample("background"),
        n_draws=n_draws,
        n_members=n_members,
        n_columns=n_columns,
        prior_steps=prior_steps,
        seed=seed,
        settings={"method": Guided(**settings)},
        progress=progress,
    )
    drawn = {"prior_steps": prior_steps} if prior == "model" else {}  # a Gaussian is drawn exactly
    report = as_report(
        found,
        settings
        | {
            "model": model,
            "prior": prior,
            "n_columns": n_columns,
            **drawn,
            "seed": seed,
            "n_draws": n_draws,
            "n_members": n_members,
        },
    )
    return {"weights": weights_digest(model), **report}


def _prior(model: str, kind: str) -> Prior:
    if kind not in PRIORS:
        raise InputError(
            [Problem(f"prior={kind!r}", " or ".join(map(repr, PRIORS)), 'prior="gaussian"')],
            what="sbc",
        )
    loaded = load_model(model)
    return loaded.gaussian() if kind == "gaussian" else loaded


def as_report(found: xr.Dataset, settings: dict[str, Any]) -> dict[str, Any]:
    """Counts and p-values as plain numbers, with seed, settings and versions."""
    functions = {}
    for name in found["function"].values:
        own = found.sel(function=name)
        tests = {k: round(float(own[k]), 4) for s in STATISTICS for k in (s, f"{s}_p")}
        functions[str(name)] = {"count": own["count"].values.astype(int).tolist(), **tests}
    keep = ("protocol", "smallest_p", "uniform", "misfit_ratio")
    return {
        "settings": settings,
        "versions": made_with(),
        "functions": functions,
        **{k: found.attrs[k] for k in keep},
    }


def markdown(reports: dict[str, dict[str, Any]]) -> str:
    """A table of each calibration: ranks of every function and the tests of their uniformity."""
    lines = []
    for report in reports.values():
        s = report["settings"]
        verdict = "uniform" if report["uniform"] else _failing(report)
        lines += [
            f"**{_of(s)}**: {s['n_draws']} truths, {s['n_members']} members; smallest p after "
            f"correction for all tests {report['smallest_p']:.2g}: {verdict}.{_ratio(report)}",
            "",
            "| function | ranks | chi-square p | KS p | slope | curvature |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {name} | {' '.join(map(str, own['count']))} | {own['chi_square_p']:.2f} | "
            f"{own['ks_p']:.2f} | {own['slope']:+.1f} | {own['curvature']:+.1f} |"
            for name, own in report["functions"].items()
        ]
        lines.append("")
    return "\n".join(lines)


def _failing(report: dict[str, Any]) -> str:
    """Name the functions that are not uniform on their own, by their rounded p-values."""
    functions = report["functions"]
    n_test = len(functions) * len(STATISTICS)
    names = [
        name
        for name, own in functions.items()
        if min(own[f"{s}_p"] for s in STATISTICS) * n_test <= 0.01
    ]
    return f"not uniform ({', '.join(names)})" if names else "not uniform"


def _of(settings: dict[str, Any]) -> str:
    """Describe in words what was tested."""
    s = {"covariance": "calibrated", "prior": "model"} | settings
    gaussian = s["prior"] == "gaussian"
    return (
        f"{'Gaussian prior, ' if gaussian else ''}{s['n_columns']} columns, {s['start']} start, "
        f"{s['n_steps']} evaluations, "
        f"V {'exact' if gaussian and s['covariance'] == 'climatological' else s['covariance']}"
    )


def _ratio(report: dict[str, Any]) -> str:
    ratio = report.get("misfit_ratio")
    return (
        "" if ratio is None else f" Members' misfit to the observations over truth's: {ratio:.3f}."
    )


def figure(report: dict[str, Any]) -> Any:
    """Rank histogram of every function (`xdiffda.plot.rank_histogram`)."""
    from xdiffda.plot import rank_histogram

    functions = report["functions"]
    counts = np.array([own["count"] for own in functions.values()], np.float64)
    ranks = {
        "function": [_short(name) for name in functions],
        "rank": np.arange(1, counts.shape[1] + 1),
    }
    return rank_histogram(xr.Dataset({"count": (("function", "rank"), counts)}, ranks))


def _short(function: str) -> str:
    """A function by the first alias of its variable: ``u 200, mean``."""
    from xdiffda.state.variables import VARIABLES

    channel, comma, rest = function.partition(", ")
    name, _, level = channel.partition("@")
    if name not in VARIABLES:
        return function
    return f"{VARIABLES[name].aliases[0]} {level}".strip() + comma + rest


def sbc(*, out: str | None = None, figure_to: str | None = None, **choices: Any) -> str:
    """Calibrate and, with ``out``, add the result to ``sbc.json`` there; returns the table."""
    report = calibrate(**choices)
    key = _of(report["settings"])
    if figure_to is not None:
        figure(report).savefig(figure_to, dpi=110)
    if out is not None:
        path = Path(out) / FILE
        known = json.loads(path.read_text()) if path.exists() else {}
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(as_text(known | {key: report}) + "\n")
        os.replace(temporary, path)
    return markdown({key: report})
