"""Error of denoisers over that of the Gaussian estimate, by kind of held-out background.

python tests/benchmarks/held_out_loss.py MODEL [MODEL ...] --data nature --pairs pairs

Models of one and the same s and B (one trained further from the other), on the validation pairs
of forecasts and of cycles.  Above 1 does not mean worse than no network: B is that of all
backgrounds together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import xdiffda
from xdiffda.experiments.osse.calibrate import measure
from xdiffda.train.data import load_nature, load_pairs
from xdiffda.train.denoiser import Setting

SIGMAS = (0.12, 0.5, 2.0, 80.0)


def main() -> None:
    ask = argparse.ArgumentParser(description="Held-out loss by kind of background.")
    ask.add_argument("models", nargs="+")
    ask.add_argument("--data", default="nature")
    ask.add_argument("--pairs", default="pairs")
    ask.add_argument("--n-pair", type=int, default=96)
    given = ask.parse_args()
    nature, pairs = load_nature(given.data), load_pairs(given.pairs, "validation")
    # those of cycles are 6 h forecasts from imperfect states, behind the forecasts
    cycled = np.arange(len(pairs.row)) > int(np.flatnonzero(pairs.lead != 6).max())
    kinds = {
        "cycles": cycled,
        "48 h forecasts": ~cycled & (pairs.lead == 48),
        "6 and 12 h forecasts": ~cycled & (pairs.lead <= 12),
    }
    print("| background | model | " + " | ".join(f"noise {s:g}" for s in SIGMAS) + " |")
    print("|---" * (2 + len(SIGMAS)) + "|")
    for kind, own in kinds.items():
        among = np.flatnonzero(own)
        n = min(given.n_pair, len(among)) // 8 * 8
        for name in given.models:
            prior = xdiffda.load_model(name)
            scale = prior.scale[:: nature.layout.grid.n_lon] / nature.stddev
            setting = Setting(
                scale,
                prior.covariance,
                prior._graph,
                nature.static,
                nature.layout.grid.area_weights(),
            )
            share = measure(
                nature, pairs, setting, prior._network, n_pair=n, among=among, sigmas=SIGMAS
            )[1]
            cells = " | ".join(f"{s:.3f}" for s in share)
            print(f"| {kind} | {Path(name).name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
