"""One case in full: the states whose errors are drawn on maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from xdiffda.experiments import measure
from xdiffda.experiments.config import ExperimentConfig, plain
from xdiffda.experiments.world import open_world
from xdiffda.prior import Prior
from xdiffda.storage import open_dataset, write_dataset

STORE = "maps.nc"


def states_of_case(
    config: ExperimentConfig, *, prior: Prior | None = None, truth: xr.Dataset | None = None,
    forecaster: Callable[[xr.Dataset], xr.Dataset] | None = None,
) -> dict[str, xr.Dataset]:  # fmt: skip
    """Truth, background and the analyses' means at the first time, with ``map_columns`` columns.

    They are kept in ``maps.nc`` in the folder ``out``, and read from there the next time.

    Parameters
    ----------
    config, prior, truth, forecaster
        As in `xdiffda.experiments.run`.

    Returns
    -------
    dict of str to Dataset
        ``truth``, ``background`` and the names of the methods.

    Raises
    ------
    InputError, StorageError
        As `xdiffda.experiments.run`.
    """
    world = open_world(config, prior=prior, truth=truth, forecaster=forecaster)
    path = Path(config.out) / STORE
    key = plain([world.key, config.map_columns, str(world.times[0]), config.methods])
    if path.exists() and (kept := open_dataset(path)).attrs.get("key") == key:
        kept = kept.load()
    else:
        case = measure.open_case(world, world.times[0], "0h")
        states = {"truth": case.truths[0]}
        background = measure.members_of(world, case.background, what="background")
        states["background"] = background.mean(0)
        for name, method in config.methods.items():
            analysis, _ = measure.timed_analysis(world, case, method, config.map_columns)
            states[name] = measure.members_of(world, analysis, what="analysis").mean(0)
        every = [world.states.dataset(x.astype(np.float32), case.time) for x in states.values()]
        kept = xr.concat(every, "state").assign_coords(state=list(states)).assign_attrs(key=key)
        Path(config.out).mkdir(parents=True, exist_ok=True)
        write_dataset(kept, path, overwrite=True)
    return {name: kept.sel(state=name, drop=True) for name in kept["state"].values.tolist()}
