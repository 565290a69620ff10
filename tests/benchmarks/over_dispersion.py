"""What is behind the dome in the ranks of guided members: spread/skill and ranks, single changes.

python tests/benchmarks/over_dispersion.py --data nature --pairs pairs [--columns 416 1000]

On evaluation times, with errors of a quarter of the background's: members as they are; with the
scale r of the background error known; and, which only hindsight can do, with the departures from
their mean scaled so that spread equals error in each channel, and in each channel and row.  The
last two tell how flat ranks can get by a spread that is right on average.
"""

from __future__ import annotations

import argparse

import numpy as np

import xdiffda
from xdiffda.experiments.osse.evaluate import _array, make_cases, quarter_errors
from xdiffda.experiments.osse.tables import Case, score, summary
from xdiffda.observations import emulate_obs
from xdiffda.priors.prior import Prior
from xdiffda.train.data import load_nature, load_pairs
from xdiffda.verify.partners import variance, variance_of_mean

ROWS = ("as they are", "r known", "scaled by channel", "scaled by channel and row")
PAIRS = ([0, 2, 4, 6], [1, 3, 5, 7])


def true_r(prior: Prior, case: Case) -> float:
    """Root mean square of z over the globe."""
    background, truth = (_array(ds, prior.layout) for ds in (case.background, case.truth))
    z = (truth - prior.filtered(background[None])[0]) / prior.scale
    return float(np.sqrt(np.mean(prior.layout.grid.area_weights()[:, None] * z**2)))


def expected(errors: np.ndarray) -> np.ndarray:
    """What the squared error of the mean should be, (node, channel), from 4 antithetic pairs."""
    import xarray as xr

    field = xr.DataArray(errors, dims=("member", "node", "channel"))
    return (variance(field, PAIRS) + variance_of_mean(field, PAIRS)).values


def in_hindsight(errors: np.ndarray, area: np.ndarray, n_lon: int, *, rows: bool) -> np.ndarray:
    """The same errors (case, member, node, channel), their spread what the mean's error is."""
    mean = errors.mean(1, keepdims=True)
    square = np.stack([area[:, None] * m[0] ** 2 for m in mean])
    wanted = np.stack([area[:, None] * expected(one) for one in errors])
    if rows:
        square, wanted = (
            x.reshape(len(x), -1, n_lon, x.shape[-1]).sum((0, 2)).repeat(n_lon, axis=0)
            for x in (square, wanted)
        )
    else:
        square, wanted = (x.sum((0, 1)) for x in (square, wanted))
    return mean + np.sqrt(square / wanted) * (errors - mean)


def main() -> None:
    ask = argparse.ArgumentParser(description="What is behind the dome.")
    ask.add_argument("--data", default="nature")
    ask.add_argument("--pairs", default="pairs")
    ask.add_argument("--columns", type=int, nargs="+", default=[416, 1000])
    ask.add_argument("--n-case", type=int, default=20)
    given = ask.parse_args()
    nature, prior = load_nature(given.data), xdiffda.load_model("speedy")
    layout = prior.layout
    area, n_lon = layout.grid.area_weights(), layout.grid.n_lon
    cases = make_cases(nature, load_pairs(given.pairs, "evaluation"), given.n_case)
    error_std = quarter_errors(cases, layout)
    truth = [_array(case.truth, layout) for case in cases]
    base = [
        score(_array(case.background, layout)[None], x, area)
        for case, x in zip(cases, truth, strict=True)
    ]
    print(
        "| columns | members | RMSE | CRPS | spread/skill | outer ranks | p |\n" + "|---" * 7 + "|"
    )
    for columns in given.columns:
        errors: dict[str, np.ndarray] = {}
        for name in ROWS[:2]:
            found = []
            for case, x in zip(cases, truth, strict=True):
                obs = emulate_obs(
                    case.truth,
                    n_columns=columns,
                    error_std=error_std,
                    seed=1000 * columns + case.number,
                )
                analysis = xdiffda.assimilate(
                    case.background,
                    obs,
                    model=prior,
                    n_members=8,
                    seed=case.number,
                    progress=False,
                    background_error=true_r(prior, case) if name == ROWS[1] else "estimate",
                )
                found.append(_array(analysis, layout).reshape(-1, *x.shape) - x)
            errors[name] = np.stack(found)
        for name in ROWS[2:]:
            errors[name] = in_hindsight(errors[ROWS[0]], area, n_lon, rows="row" in name)
        for name in ROWS:
            own = [score(e, np.zeros_like(e[0]), area, antithetic=True) for e in errors[name]]
            row = summary(own, base, layout)
            print(
                f"| {columns} | {name} | {row['rmse']:.4f} | {row['crps']:.4f} "
                f"| {row['spread_skill']:.3f} | {row['outer_ranks']:.3f} "
                f"| {row.get('rank_p', np.nan):.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
