"""Analyses on one and on four (forced) devices of this CPU, printed as one line of numbers.

Run by test_devices.py in a process of its own: the number of devices is fixed when jax starts.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np
import xarray as xr
from gaussian_world import draw_states, make_prior
from network_world import make_network_prior

import xdiffda
from xdiffda.assimilation import devices as _devices
from xdiffda.assimilation import memory as _memory
from xdiffda.assimilation.methods import base as _methods
from xdiffda.diffusion import devices as _members
from xdiffda.diffusion.kalman import Solver

ERRORS = {"2m_temperature": 0.5, "geopotential": 80.0, "temperature": 0.4}
QUICK = {"method": xdiffda.Guided(n_steps=3), "background_error": 1.0, "progress": False}
PAINT = xdiffda.RePaint(n_levels=10, jump_length=5, resamplings=2)
# conjugate gradients stop at 1e-2: rounding in another order of sums may show up to that; without
# them it is ten units in the last place of a geopotential of 54,000
LOOSE, EXACT = 5e-3, 3e-4
TIGHT = Solver(tolerance=1e-6)
PLACED: list[tuple[int, ...]] = []


def noted(tree: Any, devices: Any) -> Any:
    """Place members, writing down the devices."""
    PLACED.append(tuple(d.id for d in devices))
    return _members.place_members(tree, devices)


def spread(one: xr.Dataset, other: xr.Dataset) -> float:
    """Largest difference, in units of each field's standard deviation."""
    return max(float(np.abs(one[v] - other[v]).max() / one[v].std()) for v in one)


def compare(name: str, one: xr.Dataset, other: xr.Dataset, most: float) -> None:
    """Print where the members of ``other`` were, and raise where they differ."""
    found = spread(one, other)
    print(name, f"{found:.1e}", sorted(set(PLACED)), len(PLACED), flush=True)
    assert found < most, (name, found)
    PLACED.clear()


def cases(background: xr.Dataset) -> dict[str, tuple[xr.Dataset, Any, dict, float]]:
    """Background, prior, settings and the difference that rounding may make."""
    prior, network = make_prior(), make_network_prior()
    later = background.time.values + np.timedelta64(6, "h")
    two = xr.concat([background, background.assign_coords(time=later)], "time").chunk(time=1)
    painted = {"n_members": 4, "method": PAINT}
    return {
        "uneven": (
            background,
            prior,
            {"n_members": 5, "method": xdiffda.Guided(n_steps=3, antithetic=True)},
            LOOSE,
        ),
        "robust": (
            background,
            prior,
            {
                "n_members": 6,
                "method": xdiffda.Guided(n_steps=3, max_batch=3),
                "quality": xdiffda.Quality(robust="huber"),
            },
            LOOSE,
        ),
        "cold": (
            background,
            prior,
            {"n_members": 4, "method": xdiffda.Guided(n_steps=3, start="cold")},
            LOOSE,
        ),
        "churn": (
            background,
            prior,
            {"n_members": 4, "method": xdiffda.Guided(n_steps=3, sampler="stochastic")},
            LOOSE,
        ),
        "times": (
            two,
            prior,
            {"n_members": 2, "method": xdiffda.Guided(n_steps=3, max_batch=1), "window": "24h"},
            LOOSE,
        ),
        "repaint": (background, network, painted, EXACT),
        "network": (
            background,
            network,
            {"n_members": 4, "method": xdiffda.Guided(n_steps=3, solver=TIGHT)},
            EXACT,
        ),
    }


def main() -> None:
    """Compare, and raise where members differ."""
    assert jax.local_device_count() == 4
    _methods.place_members = noted
    truth, background = draw_states(make_prior(), seed=5)
    obs = xdiffda.observations.emulate_obs(truth, n_columns=30, error_std=ERRORS, seed=1)
    known = cases(background)
    for name in sys.argv[1:] or list(known):
        start, prior, settings, most = known[name]

        def run(model: Any, **options: Any) -> xr.Dataset:
            with xdiffda.set_options(**options):
                return xdiffda.assimilate(start, obs, model=model, **(QUICK | settings))  # noqa: B023

        one = run(prior, n_devices=1)
        assert not PLACED
        compare(name, one, run(prior), most)
        if name == "network":
            # it is no Gaussian prior in disguise, and no member is that of another
            assert spread(one, run(prior.gaussian(), n_devices=1)) > 0.1
            assert min(spread(one[{"member": i}], one[{"member": i - 1}]) for i in range(4)) > 0.1
            # edges in chunks, and memory for one member on each of two devices: two groups
            small = prior.reconfigured(edge_chunk=40)
            limit = sum(_memory.needed(small))
            compare("memory", one, run(small, n_devices=2, memory_limit=limit), most)
    print("schedules", len(_devices.make_schedules(2, max_batch=8, devices=jax.local_devices())))


if __name__ == "__main__":
    main()
