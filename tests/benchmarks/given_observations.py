"""What it gains, and costs, to draw the scales beyond the basis given the observations.

python tests/benchmarks/given_observations.py --data nature --pairs pairs [--columns 416 1000]

On validation times, with errors of a quarter of the background's: RMSE and CRPS over the
background's, spread/skill, outer ranks and seconds for one analysis, with those scales left out,
drawn from climatology, and drawn given the observations; side by side, in one run.
"""

from __future__ import annotations

import argparse
import time

import xdiffda
from xdiffda.assimilation import methods as _methods
from xdiffda.assimilation.methods import METHODS
from xdiffda.experiments.osse.evaluate import _array, make_cases, quarter_errors
from xdiffda.experiments.osse.tables import score, summary
from xdiffda.observations import emulate_obs
from xdiffda.train.data import load_nature, load_pairs
from xdiffda.verify.partners import is_antithetic

HOW = {"left out": (False, False), "climatology": (True, False), "given observations": (True, True)}


def main() -> None:
    ask = argparse.ArgumentParser(description="Scales beyond the basis, given the observations.")
    ask.add_argument("--data", default="nature")
    ask.add_argument("--pairs", default="pairs")
    ask.add_argument("--columns", type=int, nargs="+", default=[416, 1000])
    ask.add_argument("--n-case", type=int, default=6)
    given = ask.parse_args()
    nature, prior = load_nature(given.data), xdiffda.load_model("speedy")
    cases = make_cases(nature, load_pairs(given.pairs, "validation"), given.n_case)
    errors, area = quarter_errors(cases, prior.layout), prior.layout.grid.area_weights()
    seen = _methods.observed
    print(
        "| columns | method | scales beyond the basis | RMSE | CRPS | spread/skill | outer ranks "
        "| s |\n" + "|---" * 8 + "|"
    )
    for columns in given.columns:
        for method in ("3dvar", "guided"):
            for how, (small, told) in HOW.items():
                _methods.observed = seen if told else (lambda likelihood: False)
                own, base, begin = [], [], 0.0
                for case in [cases[0], *cases]:  # the first one compiles
                    obs = emulate_obs(
                        case.truth,
                        n_columns=columns,
                        error_std=errors,
                        seed=1000 * columns + case.number,
                    )
                    analysis = xdiffda.assimilate(
                        case.background,
                        obs,
                        model=prior,
                        method=METHODS[method](small_scales=small),
                        seed=case.number,
                        progress=False,
                    )
                    if not begin:
                        begin = time.perf_counter()
                        continue
                    truth = _array(case.truth, prior.layout)
                    members = _array(analysis, prior.layout).reshape(-1, *truth.shape)
                    own.append(score(members, truth, area, antithetic=is_antithetic(analysis)))
                    background = _array(case.background, prior.layout)
                    base.append(score(background[None], truth, area))
                each = (time.perf_counter() - begin) / len(cases)
                row = summary(own, base, prior.layout)
                print(
                    f"| {columns} | {method} | {how} | {row['rmse']:.4f} | {row['crps']:.4f} "
                    f"| {row['spread_skill']:.2f} | {row['outer_ranks']:.2f} | {each:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
