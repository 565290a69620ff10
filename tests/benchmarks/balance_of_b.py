"""Print what 3D-Var gains from a B that knows rotational from divergent wind, and balance.

    python tests/benchmarks/balance_of_b.py --data nature --pairs pairs-rollout

The same backgrounds, observations of whole columns and solver meet four covariances of the
same residuals: u and v as two scalars; stream function and velocity potential in their place;
mass regressed on the stream function as well; and that with the factor of latitude, which is
the package's (`xdiffda.covariance.balance`).  B comes from the validation part's forecasts of 36
to 60 h,
errors are those of the evaluation part's of 48 h.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np

from xdiffda.covariance.balance import BalancedBasis, balanced_basis, fit_basis, with_balance
from xdiffda.covariance.harmonics import Basis
from xdiffda.covariance.small_scales import row_scale, share_wind_scale, unresolved_part
from xdiffda.covariance.spectral import SpectralCovariance, estimate_blocks
from xdiffda.experiments.osse.cycled_pairs import analyse
from xdiffda.priors.registry import load_model
from xdiffda.state.grid import Layout
from xdiffda.train.data import Nature, Pairs, load_nature, load_pairs


def residuals(pairs: Pairs, nature: Nature, scale: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Truth minus background over s."""
    truth = np.stack([nature.states[pairs.row[i]] for i in chosen])
    background = np.stack([pairs.background[i] for i in chosen])
    return ((truth - background) / scale).astype(np.float32)


def make_bases(layout: Layout, z: np.ndarray) -> dict[str, Basis]:
    """The four, by what they know."""
    winds, fitted = balanced_basis(layout), fit_basis(layout, z)
    assert isinstance(winds, BalancedBasis)
    ones = np.ones((layout.grid.n_lat, len(winds.mass)))
    return {
        "u and v as scalars": winds.scalar,
        "stream function and potential": winds,
        "the same, balanced mass": with_balance(winds, z, ones),
        "the same, factor of latitude": fitted,
    }


def main(data: str, pairs: str, n_case: int) -> None:
    """Estimate, assimilate, print."""
    nature, prior = load_nature(data), load_model("speedy")
    layout, area = prior.layout, prior.layout.grid.area_weights()[:, None]
    scale = share_wind_scale(np.array(prior.scale), layout) / nature.stddev
    known, held_out = (load_pairs(pairs, part) for part in ("validation", "evaluation"))
    chosen = np.flatnonzero((known.lead >= 36) & (known.lead <= 60))
    z = residuals(known, nature, scale, chosen)
    bases = make_bases(layout, z)
    priors = {
        name: SimpleNamespace(
            layout=layout,
            unresolved=row_scale(unresolved_part(basis, z), layout, floor=0.0),
            covariance=SpectralCovariance.from_blocks(basis, estimate_blocks(basis, z)),
        )
        for name, basis in bases.items()
    }
    index = np.flatnonzero((held_out.lead == 48) & ~held_out.perturbed)
    index = index[np.linspace(0, len(index) - 1, n_case).astype(int)]
    new = residuals(held_out, nature, scale, index)
    std = 0.25 * np.sqrt((area * new**2).mean((0, 1)))
    last = list(bases.values())[-1]
    assert isinstance(last, BalancedBasis)
    parts = {"all": slice(None), "winds": [*last.u, *last.v], "mass": list(last.mass)}
    for n_column in (100, 416, 1000):
        total, base = dict.fromkeys(priors, 0.0), (area * new**2).mean(1).sum(0)
        for case, i in enumerate(index):
            rng = np.random.default_rng(1000 * n_column + case)
            share = area[:, 0] / area.sum()
            sites = np.sort(rng.choice(share.size, n_column, replace=False, p=share))
            truth, background = np.array(nature.states[held_out.row[i]]), held_out.background[i]
            for name, own in priors.items():
                rng = np.random.default_rng(case)
                found = analyse(own, scale, np.array(background), truth, sites, std, rng)
                total[name] += (area * ((found - truth) / scale) ** 2).mean(0)
        for name, square in total.items():
            ratio = np.sqrt(square / base)
            text = "  ".join(f"{part} {ratio[c].mean():.3f}" for part, c in parts.items())
            print(f"{n_column:5d} columns  {name:30s} {text}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="nature")
    parser.add_argument("--pairs", default="pairs-rollout")
    parser.add_argument("--n-case", type=int, default=20, dest="n_case")
    main(**vars(parser.parse_args()))
