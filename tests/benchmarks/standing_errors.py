"""How much of the error of cycled analyses stands still from day to day.

python tests/benchmarks/standing_errors.py STORE [STORE ...] --truth TRUTH [--model speedy]

Of the second half of each cycled run (`xdiffda cycle`, `xdiffda experiment cycling`): root mean
square error of the mean analysis in units of s, the same of its mean map over time, and the
share of the error variance that this map holds, for some channels and for all together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import xdiffda
from xdiffda.cycling.store import open_cycle
from xdiffda.priors.samples import open_named
from xdiffda.state.convert import to_state

SHOWN = (
    "geopotential@300",
    "geopotential@500",
    "2m_temperature",
    "temperature@850",
    "u_component_of_wind@300",
    "specific_humidity@850",
)


def main() -> None:
    ask = argparse.ArgumentParser(description="Errors of cycled analyses that stand still.")
    ask.add_argument("stores", nargs="+")
    ask.add_argument("--truth", required=True)
    ask.add_argument("--model", default="speedy")
    given = ask.parse_args()
    prior, truth = xdiffda.load_model(given.model), open_named(given.truth)
    names, weight = prior.layout.channel_names, prior.layout.grid.area_weights()
    print("| run | channel | error | of its mean map | share |\n|---|---|---|---|---|")
    for store in given.stores:
        analysis = open_cycle(store, "analysis")
        analysis = analysis.mean("member") if "member" in analysis.dims else analysis
        late = analysis.isel(time=slice(analysis.sizes["time"] // 2, None)).compute()
        own = truth[list(late.data_vars)].sel(time=late.time).compute()
        error = (to_state(late, prior.layout)[0] - to_state(own, prior.layout)[0]) / prior.scale
        square = np.einsum("tnc,n->c", error**2, weight / weight.sum()) / len(error)
        map_square = np.einsum("nc,n->c", error.mean(0) ** 2, weight / weight.sum())
        rows = [(n, square[names.index(n)], map_square[names.index(n)]) for n in SHOWN]
        for name, all_of, still in [*rows, ("all", square.mean(), map_square.mean())]:
            print(
                f"| {Path(store).stem} | {name} | {all_of**0.5:.3f} | {still**0.5:.3f} "
                f"| {still / all_of:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
