"""The turning world with a forecaster that is a little wrong, for experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cycle_world
import numpy as np
import xarray as xr

from xdiffda.experiments import ExperimentConfig
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state

METHODS = {"3D-Var": {"method": "3dvar", "background_error": 1.0}}
LEADS = {"background": "24h", "forecast_lead": "12h", "reference_lead": "48h"}


def forecaster(ds: xr.Dataset) -> xr.Dataset:
    """Turn the state, but smear it a little to the east: linear, the same at all times."""
    turned = cycle_world.forecaster(ds)
    return 0.98 * turned + 0.02 * turned.roll(lon=2)


def pieces(n_times: int = 20) -> dict[str, Any]:
    """Prior, truth and forecaster, as arguments of `run`."""
    truth, _ = cycle_world.make_states(n_times)
    return {"prior": cycle_world.make_prior(), "truth": truth, "forecaster": forecaster}


def config(out: Path, **choices: Any) -> ExperimentConfig:
    usual = {"columns": (8, 40), "methods": METHODS, "n_cases": 3, "error_std": cycle_world.ERRORS}
    return ExperimentConfig("", str(out), **(usual | LEADS | choices))


def drawn_pieces(folder: Path, n_times: int = 4, n_member: int = 0) -> tuple[dict[str, Any], str]:
    """Truths whose difference from the background is drawn from B, and the background's file.

    With members, truth and members are drawn alike.
    """
    import jax

    prior = cycle_world.make_prior()
    layout, convention = prior.layout, default_convention(prior.layout)
    errors = np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(7), n_times)))
    time = cycle_world.START + np.arange(n_times) * 40 * cycle_world.STEP
    base = np.broadcast_to(cycle_world.MEAN, (layout.grid.n_node, layout.n_channel))
    states = [base + cycle_world.SCALE * errors[:, i] for i in range(n_times)]

    def as_ds(xs):
        return xr.concat([from_state(x, layout, convention) for x in xs], "time").assign_coords(
            time=time
        )

    first = as_ds([base] * n_times)
    if n_member:
        draws = np.asarray(
            prior.covariance.sample(jax.random.split(jax.random.key(8), n_member * n_times))
        ).reshape(layout.grid.n_node, n_times, n_member, layout.n_channel)
        members = [
            [base + cycle_world.SCALE * draws[:, t, m] for t in range(n_times)]
            for m in range(n_member)
        ]
        first = xr.concat([as_ds(states) for states in members], "member")
    first.to_netcdf(folder / "background.nc")
    # `reference_lead` needs the truth afterwards: these worlds stand still
    later = [t + h * cycle_world.STEP for t in time for h in (0, 1)]
    truth = xr.concat([as_ds(states).isel(time=[i]) for i in np.repeat(range(n_times), 2)], "time")
    truth = truth.assign_coords(time=later)

    def still(ds):
        return ds.assign_coords(time=ds.time + cycle_world.STEP)

    return {"prior": prior, "truth": truth, "forecaster": still}, str(folder / "background.nc")
