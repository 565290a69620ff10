"""Simulation-based calibration of the bundled model: are its posteriors those of its own prior?

    python -m xdiffda.osse sbc --out xdiffda/models/speedy

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

from xdiffda.calibration import simulation_based_calibration
from xdiffda.osse.evaluate import weights_digest
from xdiffda.osse.records import made_with
from xdiffda.registry import load_model
from xdiffda.samples import open_sample

FILE = "sbc.json"
STATISTICS = ("chi_square", "slope", "curvature", "ks")


def calibrate(
    *, model: str = "speedy", n_draws: int = 60, n_members: int = 8, n_columns: int = 416,
    n_steps: int = 8, start: str = "warm", covariance: str = "calibrated", prior_steps: int = 32,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run `xdiffda.calibration.simulation_based_calibration` on the bundled sample.

    Parameters
    ----------
    model : str
        Name or folder of a model on the sample's grid.
    n_draws, n_members, n_columns, prior_steps, seed
        As there.
    n_steps, start, covariance
        Settings of `assimilate` under test.

    Returns
    -------
    dict
        Plain JSON: counts of ranks and tests for every function, and what made them, the
        digest of the model's weights with it.
    """
    settings = {"n_steps": n_steps, "start": start, "covariance": covariance}
    found = simulation_based_calibration(
        load_model(model), open_sample("background"), n_draws=n_draws, n_members=n_members,
        n_columns=n_columns, prior_steps=prior_steps, seed=seed, settings=settings,
        progress=progress,
    )  # fmt: skip
    report = as_report(found, settings | {
        "model": model, "n_columns": n_columns, "prior_steps": prior_steps, "seed": seed,
        "n_draws": n_draws, "n_members": n_members,
    })  # fmt: skip
    return {"weights": weights_digest(model), **report}


def as_report(found: xr.Dataset, settings: dict[str, Any]) -> dict[str, Any]:
    """Counts and p-values as plain numbers, with seed, settings and versions."""
    functions = {}
    for name in found["function"].values:
        own = found.sel(function=name)
        tests = {k: round(float(own[k]), 4) for s in STATISTICS for k in (s, f"{s}_p")}
        functions[str(name)] = {"count": own["count"].values.astype(int).tolist(), **tests}
    keep = ("protocol", "smallest_p", "uniform", "misfit_ratio")
    return {"settings": settings, "versions": made_with(), "functions": functions,
            **{k: found.attrs[k] for k in keep}}  # fmt: skip


def markdown(reports: dict[str, dict[str, Any]]) -> str:
    """A table of each calibration: ranks of every function and the tests of their uniformity."""
    lines = []
    for report in reports.values():
        s = report["settings"]
        verdict = "uniform" if report["uniform"] else "not uniform"
        lines += [
            f"**{_of(s)}**: {s['n_draws']} truths, {s['n_members']} members; smallest p after "
            f"correction for all tests {report['smallest_p']:.2g}: {verdict}.{_ratio(report)}", "",
            "| function | ranks | chi-square p | KS p | slope | curvature |",
            "| --- | --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        lines += [
            f"| {name} | {' '.join(map(str, own['count']))} | {own['chi_square_p']:.2f} | "
            f"{own['ks_p']:.2f} | {own['slope']:+.1f} | {own['curvature']:+.1f} |"
            for name, own in report["functions"].items()
        ]
        lines.append("")
    return "\n".join(lines)


def _of(settings: dict[str, Any]) -> str:
    """What was tested, in words."""
    s = {"covariance": "calibrated"} | settings
    return (
        f"{s['n_columns']} columns, {s['start']} start, {s['n_steps']} evaluations, "
        f"V {s['covariance']}"
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
    from xdiffda.variables import VARIABLES

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
        temporary.write_text(json.dumps(known | {key: report}, indent=1) + "\n")
        os.replace(temporary, path)
    return markdown({key: report})
