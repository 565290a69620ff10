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
    "DiffusionPrior": "xdiffda.priors.diffusion",
    "Forecaster": "xdiffda.networks.graphcast.forecaster",
    "GaussianPrior": "xdiffda.priors.prior",
    "Grid": "xdiffda.state.convert",
    "Guided": "xdiffda.assimilation.methods",
    "Hybrid": "xdiffda.covariance.ensemble",
    "Inflation": "xdiffda.assimilation.baselines.letkf",
    "InputError": "xdiffda.errors",
    "Interpolation": "xdiffda.assimilation.methods",
    "LETKF": "xdiffda.assimilation.methods",
    "Layout": "xdiffda.state.convert",
    "Localisation": "xdiffda.covariance.localisation",
    "ModelError": "xdiffda.errors",
    "OptimalInterpolation": "xdiffda.assimilation.methods",
    "Quality": "xdiffda.observations.quality",
    "RePaint": "xdiffda.assimilation.methods",
    "Robust": "xdiffda.observations.robust",
    "Solver": "xdiffda.diffusion.kalman",
    "StorageError": "xdiffda.errors",
    "ThreeDVar": "xdiffda.assimilation.methods",
    "XdiffdaError": "xdiffda.errors",
    "assimilate": "xdiffda.assimilation.assimilate",
    "assimilate_store": "xdiffda.cycling.reanalysis",
    "fetch": "xdiffda.priors.published",
    "load_forecaster": "xdiffda.cycling.forecast",
    "load_model": "xdiffda.priors.registry",
    "models": "xdiffda.priors.registry",
    "nmc": "xdiffda.priors.nmc",
    "open_analyses": "xdiffda.cycling.reanalysis",
    "open_dataset": "xdiffda.storage.files",
    "open_sample": "xdiffda.priors.samples",
    "plan": "xdiffda.planning",
    "read_obs": "xdiffda.observations.readers",
    "reference_prior": "xdiffda.priors.reference",
    "regrid": "xdiffda.state.regrid",
    "set_options": "xdiffda.options",
    "with_relative_humidity": "xdiffda.state.humidity",
    "with_specific_humidity": "xdiffda.state.humidity",
    "with_valid_time": "xdiffda.state.clock",
    "write_dataset": "xdiffda.storage.files",
    "write_ioda": "xdiffda.observations.readers.write_ioda",
}
# Public name -> the module behind it, so that `xdiffda.graphcast.load` and the like stay as they
# are.
_SUBMODULES = {
    "baselines": "xdiffda.assimilation.baselines",
    "calibration": "xdiffda.assimilation.calibration",
    "costs": "xdiffda.planning",
    "cycle": "xdiffda.cycling.cycle",
    "diffusion": "xdiffda.diffusion",
    "ensemble": "xdiffda.covariance.ensemble",
    "explore": "xdiffda.plot.explore",
    "fgn": "xdiffda.networks.fgn",
    "gencast": "xdiffda.networks.gencast",
    "graphcast": "xdiffda.networks.graphcast",
    "observations": "xdiffda.observations",
    "plot": "xdiffda.plot",
    "quality": "xdiffda.observations.quality",
    "reanalysis": "xdiffda.cycling.reanalysis",
    "verify": "xdiffda.verify",
}

__all__ = [
    "LETKF",
    "DiffusionPrior",
    "Forecaster",
    "GaussianPrior",
    "Grid",
    "Guided",
    "Hybrid",
    "Inflation",
    "InputError",
    "Interpolation",
    "Layout",
    "Localisation",
    "ModelError",
    "OptimalInterpolation",
    "Quality",
    "RePaint",
    "Robust",
    "Solver",
    "StorageError",
    "ThreeDVar",
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
    "fgn",
    "gencast",
    "graphcast",
    "load_forecaster",
    "load_model",
    "models",
    "nmc",
    "observations",
    "open_analyses",
    "open_dataset",
    "open_sample",
    "plan",
    "plot",
    "quality",
    "read_obs",
    "reanalysis",
    "reference_prior",
    "regrid",
    "set_options",
    "verify",
    "with_relative_humidity",
    "with_specific_humidity",
    "with_valid_time",
    "write_dataset",
    "write_ioda",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(_SUBMODULES[name])
    else:
        raise AttributeError(f"module 'xdiffda' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


importlib.import_module("xdiffda.jax_settings")  # remembers forks of a process in which jax ran
importlib.import_module("xdiffda.accessor")  # registers .diffda
