"""Print residual of the solver, seconds and gain with up to 10^5 observations.

    python tests/benchmarks/many_observations.py [--iterations 400] [--guided]

2,703 columns of 37 variables and levels, off the grid, are 100,011 observations: three for every
two numbers of the state.  3D-Var needs no network; ``--guided`` adds two members.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np

import xdiffda
from xdiffda.assimilation.methods import METHODS
from xdiffda.diffusion.kalman import Solver


def main(iterations: int, guided: bool) -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")  # the residual is printed
    truth, background = (xdiffda.open_sample(n).isel(time=3) for n in ("truth", "background"))
    truth = xdiffda.open_sample("truth").sel(time=background.time)
    rng = np.random.default_rng(0)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 2703)))
    lon = rng.uniform(0, 360, 2703)
    for method in ("3dvar", "guided") if guided else ("3dvar",):
        for n in (416, 2703):
            obs = truth.diffda.emulate_obs(sites={"lat": lat[:n], "lon": lon[:n]}, seed=0)
            wall, cpu = time.perf_counter(), time.process_time()
            analysis = background.diffda.assimilate(
                obs,
                method=METHODS[method](solver=Solver(max_iterations=iterations)),
                n_members=2,
                progress=False,
            )
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            used, residual = (
                json.loads(analysis.attrs[f"xdiffda_{name}"])[0]
                for name in ("observations_used", "solver_residual")
            )
            error = analysis["temperature"].mean("member") - truth["temperature"]
            base = background["temperature"] - truth["temperature"]
            ratio = float(np.sqrt((error**2).mean() / (base**2).mean()))
            print(
                f"{method}: {used:,} observations, residual {residual:.1e}, {wall:.0f} s "
                f"({cpu:.0f} s of processor time), temperature error / background's {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--guided", action="store_true")
    main(**vars(parser.parse_args()))
