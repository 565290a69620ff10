"""Diffusion-based data assimilation of the atmosphere, from xarray to xarray.

Importing the package registers the accessor ``.diffda`` on Datasets and DataArrays and
nothing else: jax, matplotlib and cartopy are loaded by the first call that needs them.

Examples
--------
>>> import xdiffda
>>> xdiffda.__version__.count(".")
2
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it; resolved on first use (PEP 562).
_EXPORTS = {
    "DiffusionPrior": "xdiffda.network_prior",
    "Forecaster": "xdiffda.graphcast.forecaster",
    "GaussianPrior": "xdiffda.prior",
    "Grid": "xdiffda.state",
    "InputError": "xdiffda.errors",
    "Layout": "xdiffda.state",
    "ModelError": "xdiffda.errors",
    "RePaint": "xdiffda.diffusion.repaint",
    "StorageError": "xdiffda.errors",
    "XdiffdaError": "xdiffda.errors",
    "assimilate": "xdiffda.analysis",
    "assimilate_store": "xdiffda.reanalysis",
    "fetch": "xdiffda.weights",
    "load_forecaster": "xdiffda.forecast",
    "load_model": "xdiffda.registry",
    "models": "xdiffda.registry",
    "open_analyses": "xdiffda.reanalysis",
    "open_dataset": "xdiffda.storage",
    "open_sample": "xdiffda.samples",
    "plan": "xdiffda._planning",
    "read_obs": "xdiffda.readers",
    "regrid": "xdiffda._regrid",
    "set_options": "xdiffda.options",
    "with_relative_humidity": "xdiffda._humidity",
    "with_specific_humidity": "xdiffda._humidity",
    "write_dataset": "xdiffda.storage",
}
_SUBMODULES = (
    "baselines", "calibration", "costs", "cycle", "diffusion", "ensemble", "explore", "gencast",
    "graphcast", "observations", "plot", "reanalysis", "verify",
)  # fmt: skip

__all__ = [
    "DiffusionPrior",
    "Forecaster",
    "GaussianPrior",
    "Grid",
    "InputError",
    "Layout",
    "ModelError",
    "RePaint",
    "StorageError",
    "XdiffdaError",
    "__version__",
    "assimilate",
    "assimilate_store",
    "baselines",
    "calibration",
    "costs",
    "cycle",
    "diffusion",
    "ensemble",
    "explore",
    "fetch",
    "gencast",
    "graphcast",
    "load_forecaster",
    "load_model",
    "models",
    "observations",
    "open_analyses",
    "open_dataset",
    "open_sample",
    "plan",
    "plot",
    "read_obs",
    "reanalysis",
    "regrid",
    "set_options",
    "verify",
    "with_relative_humidity",
    "with_specific_humidity",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"xdiffda.{name}")
    else:
        raise AttributeError(f"module 'xdiffda' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


importlib.import_module("xdiffda._jax_settings")  # remembers forks of a process in which jax ran
importlib.import_module("xdiffda.accessor")  # registers .diffda
