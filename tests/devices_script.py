"""Analyses on one and on four (forced) devices of this CPU, printed as one line of numbers.

Run by test_devices.py in a process of its own: the number of devices is fixed when jax starts.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
import xarray as xr
from gaussian_world import draw_states, make_prior

import xdiffda
from xdiffda import _devices
from xdiffda.diffusion import _members

ERRORS = {"2m_temperature": 0.5, "geopotential": 80.0, "temperature": 0.4}
QUICK = {"n_steps": 3, "background_error": 1.0, "progress": False}
PAINT = xdiffda.RePaint(n_levels=10, jump_length=5, resamplings=2)


def used(record: list, function):
    """The function, writing down the devices of everything it places."""

    def wrapped(tree, devices):
        record.append(tuple(d.id for d in devices))
        return function(tree, devices)

    return wrapped


def main() -> None:
    """Compare, and raise where members differ."""
    assert jax.local_device_count() == 4
    record: list = []
    from xdiffda import _methods

    _methods.place_members = used(record, _members.place_members)
    prior = make_prior()
    truth, background = draw_states(prior, seed=5)
    later = background.time.values + np.timedelta64(6, "h")
    two = xr.concat([background, background.assign_coords(time=later)], "time")
    obs = xdiffda.observations.emulate_obs(truth, n_columns=30, error_std=ERRORS, seed=1)
    cases = {
        "uneven": (background, {"n_members": 5, "antithetic": True}),
        "robust": (background, {"n_members": 6, "max_batch": 3, "robust": "huber"}),
        "cold": (background, {"n_members": 4, "start": "cold"}),
        "churn": (background, {"n_members": 4, "sampler": "stochastic"}),
        "times": (two, {"n_members": 2, "max_batch": 1, "window": "24h"}),
        "repaint": (background, {"n_members": 4, "method": "repaint", "repaint": PAINT}),
    }
    wanted = sys.argv[1:] or list(cases)
    for name in wanted:
        start, settings = cases[name]
        if name == "times":
            start = start.chunk(time=1)
        with xdiffda.set_options(n_devices=1):
            one = xdiffda.assimilate(start, obs, model=prior, **(QUICK | settings))
        assert not record
        four = xdiffda.assimilate(start, obs, model=prior, **(QUICK | settings))
        spread = max(float(np.abs(one[v] - four[v]).max() / one[v].std()) for v in one)
        print(name, f"{spread:.1e}", sorted(set(record)), len(record), flush=True)
        # conjugate gradients stop at 1e-3: rounding in another order of sums may show up to that
        assert spread < 5e-3, (name, spread)
        record.clear()
    print("schedules", len(_devices.make_schedules(2, max_batch=8, devices=jax.local_devices())))


if __name__ == "__main__":
    main()
