"""How much of a background's error lies beyond the basis, before and after it is damped.

python tests/benchmarks/small_scales.py --data nature --pairs pairs [--model speedy]

Share of the error variance (units of s) by kind of held-out background, with the filter that the
model carries.
"""

from __future__ import annotations

import argparse

import numpy as np

import xdiffda
from xdiffda.covariance.small_scales import unresolved_part
from xdiffda.train.data import load_nature, load_pairs

N_PAIR = 96  # of each kind


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--data", default="nature")
    ask.add_argument("--pairs", default="pairs")
    ask.add_argument("--model", default="speedy")
    given = ask.parse_args()
    nature, prior = load_nature(given.data), xdiffda.load_model(given.model)
    pairs = load_pairs(given.pairs, "validation")
    s, basis = prior.scale / nature.stddev, prior.covariance.basis
    fresh = ~pairs.perturbed
    # cycles are one long run of 6 h forecasts from imperfect states, behind the forecasts
    behind = np.arange(len(pairs.row)) >= int(np.flatnonzero(pairs.lead != 6).max()) + 1
    kinds = {f"{h} h forecasts": fresh & (pairs.lead == h) for h in (6, 24, 48, 72)}
    kinds["cycles"] = behind & pairs.perturbed
    print("| background | r | share beyond the basis | the same, damped |\n|---|---|---|---|")
    for kind, own in kinds.items():
        index = np.flatnonzero(own)
        if not len(index):
            continue
        index = index[np.linspace(0, len(index) - 1, min(N_PAIR, len(index))).astype(int)]
        background = pairs.background[index] / s
        error = np.asarray(nature.states[pairs.row[index]]) / s - background
        rest = unresolved_part(basis, error)
        damped = rest - prior.noise_correction(background)
        whole = np.mean(error**2)
        print(
            f"| {kind} | {np.sqrt(whole):.2f} | {np.mean(rest**2) / whole:.3f} "
            f"| {np.mean(damped**2) / whole:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
