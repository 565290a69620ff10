"""The origin of stored forecasts (weights, arithmetic, data, version), compared entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from xdiffda.errors import Problem
from xdiffda.networks.graphcast import Forecaster
from xdiffda.storage.files import digest
from xdiffda.train.config import TrainConfig
from xdiffda.train.era5 import Reanalysis

_VERSION = "xdiffda_version"
# attribute of the store: what it tells, and the setting to put back
_ENTRIES = {
    "xdiffda_weights": ("weights and statistics", "initial = ..., era5.statistics = ..."),
    "xdiffda_arithmetic": ("arithmetic", "compute.dtype = ..., compute.precision = ..."),
    "xdiffda_data": ("data at the first and last initial time", "data = ..."),
    _VERSION: ("xdiffda", ""),
}


def forecast_origin(
    config: TrainConfig, forecaster: Forecaster, data: Reanalysis, times: np.ndarray
) -> dict[str, str]:
    """Return the attributes of a store of forecasts: everything that they depend on.

    A reanalysis is too large to be read for its digest: two of its times stand for it.
    """
    from xdiffda import __version__

    statistics = (forecaster.mean, forecaster.stddev, forecaster.diffs_stddev)
    weights = [np.asarray(a) for a in jax.tree.leaves(forecaster.net.net) if hasattr(a, "dtype")]
    sampled = [_digest_of(data.inputs(time)) for time in sorted({times[0], times[-1]})]
    return {
        "xdiffda_weights": digest(*weights, *(_digest_of(ds) for ds in statistics)),
        "xdiffda_arithmetic": f"{config.compute.dtype}, {config.compute.precision}",
        "xdiffda_data": digest(*sampled),
        _VERSION: __version__,
    }


def origin_problems(
    stored: Mapping[Any, Any], given: Mapping[str, str], *, complete: bool, at: Path
) -> list[Problem]:
    """List differences from a store's attributes; a complete store may be of any version."""
    problems = []
    for name, (what, setting) in _ENTRIES.items():
        old, new = stored.get(name), given[name]
        if old == new or (complete and name == _VERSION):
            continue
        back = f'pip install "xdiffda=={old}"' if name == _VERSION and old else setting
        repair = f'pairs = "{at.with_stem(f"{at.stem}-2")}"'
        found = f"forecasts of {what} {old or 'that was not noted'}"
        problems.append(Problem(found, f"{new}, or the old one: {back}" if back else new, repair))
    return problems


def _digest_of(ds: xr.Dataset) -> bytes:
    """Names and values of all variables, in the order of the names."""
    names = sorted(map(str, ds.variables))
    arrays = [np.ascontiguousarray(ds[name].values) for name in names]
    return digest(
        *(part for n, a in zip(names, arrays, strict=True) for part in (n.encode(), a))
    ).encode()
