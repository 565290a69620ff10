"""Solves for the observations: tolerance, and where each level's solve begins.

Steps of conjugate gradients (of the member that needs most) for the solves of one analysis by the
bundled model, processor time over that of the default, and how far members move from those solved
to 1e-6, in units of the background's error.

    PYTHONPATH=. python tests/benchmarks/solver.py --columns 416 1000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import xdiffda
from xdiffda.diffusion import kalman
from xdiffda.diffusion import programs as _programs
from xdiffda.diffusion.kalman import Solver

STEPS: list[int] = []
SOLVE, UPDATED = kalman.conjugate_gradients, _programs.updated


def counted(*args: Any, **settings: Any) -> Any:
    """As conjugate gradients, noting the steps taken."""
    found = SOLVE(*args, **settings)
    jax.debug.callback(lambda n: STEPS.append(int(np.max(n))), found.n_steps)
    return found


def from_zero(likelihood: Any, covariance: Any, estimate: Any, noise: Any, guess: Any, *rest: Any):
    """As an update that knows nothing of the level before."""
    return UPDATED(likelihood, covariance, estimate, noise, jnp.zeros_like(guess), *rest)


def run(analyse: Callable[[Solver], xr.Dataset], tolerance: float, carry: bool) -> Any:
    """Analysis, steps by solve, and processor seconds of a second call."""
    _programs.updated = UPDATED if carry else from_zero
    analyse(Solver(tolerance))  # compile
    STEPS.clear()
    start = time.process_time()
    analysis = analyse(Solver(tolerance))
    seconds = time.process_time() - start
    jax.effects_barrier()
    # one call for each member and solve
    steps = np.reshape(STEPS, (-1, analysis.sizes["member"])).max(1)
    return analysis, steps, seconds


def main(columns: list[int], n_members: int) -> None:
    kalman.conjugate_gradients = counted
    xdiffda.set_options(progress=False)
    every = {name: xdiffda.open_sample(name) for name in ("truth", "background")}
    error = every["background"].diffda.verify(every["truth"]).sel(score="rmse", drop=True)
    truth, background = (every[name].isel(time=8).load() for name in every)
    for n in columns:
        obs = truth.diffda.emulate_obs(n_columns=n, error_std=error / 4, seed=2)

        def analyse(solver, obs=obs):
            return background.diffda.assimilate(
                obs,
                n_members=n_members,
                seed=0,
                method=xdiffda.Guided(small_scales=False, solver=solver),
            )

        exact = run(analyse, 1e-6, True)[0]
        found = {
            (tolerance, carry): run(analyse, tolerance, carry)
            for tolerance in (1e-2, 1e-3)
            for carry in (True, False)
        }
        default = found[1e-2, True][2]
        for (tolerance, carry), (analysis, steps, seconds) in found.items():
            apart = ((analysis - exact) / error) ** 2
            moved = np.sqrt(np.mean([float(v.mean()) for v in apart.data_vars.values()]))
            begins = "the level before" if carry else "zero"
            print(
                f"{n:5d} columns, tolerance {tolerance:g}, from {begins:16s}: "
                f"{steps.sum():4d} steps {steps.tolist()}, time x {seconds / default:.2f}, "
                f"members moved by {moved:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, nargs="+", default=[416, 1000])
    parser.add_argument("--members", type=int, default=8)
    given = parser.parse_args()
    main(given.columns, given.members)
