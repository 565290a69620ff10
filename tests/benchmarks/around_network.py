"""3D-Var around the network's mean beside 3D-Var, OI and guided sampling, on the bundled sample.

    python tests/benchmarks/around_network.py --out tutorials/results/around-network.json

Truth, forecasts and network are those of the package, errors of observations a quarter of the
background's, sites new at each time.  RMSE (of the mean) and fair CRPS are normalised channel by
channel by the background's RMSE and averaged; differences are paired: the mean over times with its
standard error.  Times are 12 h apart within four days, so they are not independent, and the
standard errors are too small by perhaps a third.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

import xdiffda
from xdiffda.experiments.osse.tables import score
from xdiffda.state.convert import to_state
from xdiffda.verify.partners import is_antithetic

METHODS = {
    "OI": xdiffda.OptimalInterpolation(),
    "3D-Var": xdiffda.ThreeDVar(),
    "3D-Var around the network's mean": xdiffda.ThreeDVar(around="network"),
    "guided, 8 members": xdiffda.Guided(),
}
BASE = "3D-Var around the network's mean"


def measure(columns: int, numbers: range, seed: int) -> dict[str, dict[str, list[float]]]:
    """Normalised RMSE, CRPS and processor seconds of every method at every time."""
    prior = xdiffda.load_model("speedy")
    truth, background = (xdiffda.open_sample(n).load() for n in ("truth", "background"))
    area = prior.layout.grid.area_weights()
    found = {name: {"rmse": [], "crps": [], "seconds": []} for name in METHODS}
    for number in numbers:
        now, first = truth.isel(time=number), background.isel(time=number)
        obs = now.diffda.emulate_obs(
            n_columns=columns, error_std=prior.typical_error(1 / 4), seed=seed + number
        )
        x = to_state(now, prior.layout)[0].reshape(prior.scale.shape)
        b = to_state(first, prior.layout)[0].reshape(1, *prior.scale.shape)
        before = np.sqrt(score(b, x, area).squared)
        for name, method in METHODS.items():
            begin = time.process_time()
            analysis = first.diffda.assimilate(obs, method=method, seed=number, progress=False)
            seconds = time.process_time() - begin
            members = to_state(analysis, prior.layout)[0].reshape(-1, *prior.scale.shape)
            own = score(members, x, area, antithetic=is_antithetic(analysis))
            found[name]["rmse"].append(float(np.mean(np.sqrt(own.squared) / before)))
            found[name]["crps"].append(float(np.mean(np.asarray(own.crps) / before)))
            found[name]["seconds"].append(seconds)
    return found


def table(report: dict) -> str:
    """The report as Markdown."""
    head = (
        "| columns | method | RMSE | CRPS | RMSE less that of the base | CRPS less | evaluations |"
    )
    lines = [head, "|" + " --- |" * 7]
    for columns, found in report["scores"].items():
        base = found[BASE]
        for name, own in found.items():
            cells = [f"{np.mean(own[s]):.3f}" for s in ("rmse", "crps")]
            for s in ("rmse", "crps"):
                off = np.subtract(own[s], base[s])
                error = off.std(ddof=1) / np.sqrt(len(off))
                cells.append("-" if name == BASE else f"{off.mean():+.3f} ± {error:.3f}")
            lines.append(f"| {columns} | {name} | {' | '.join(cells)} | {COST[name]} |")
    return "\n".join(lines)


COST = {"OI": 0, "3D-Var": 0, BASE: 1, "guided, 8 members": "8 a member"}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, nargs="+", default=[45, 416, 1000])
    parser.add_argument("--every", type=int, default=2, help="steps of 6 h between times")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    numbers = range(0, 17, given.every)
    report = {
        "seed": given.seed,
        "times": len(numbers),
        "versions": {"xdiffda": xdiffda.__version__, "jax": jax.__version__},
        "scores": {str(n): measure(n, numbers, given.seed) for n in given.columns},
    }
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
