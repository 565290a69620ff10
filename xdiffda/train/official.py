"""The published forecaster of a run: from files given by path, or fetched by name."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.networks.graphcast import Forecaster
from xdiffda.networks.graphcast import load as load_network
from xdiffda.state.grid import Layout
from xdiffda.train.config import Compute, TrainConfig

_KINDS = ("mean", "stddev", "diffs_stddev")


def read_forecaster(config: TrainConfig) -> Forecaster:
    """The published GraphCast that a configuration names, computing as it says.

    Raises
    ------
    InputError
        If files are missing.
    StorageError, ModelError
        If they cannot be fetched or read.
    """
    files = _files(config)
    net = load_network(files["params"])
    statistics = {kind: _open(files[kind]) for kind in _KINDS}
    options = Compute.network_options(config.compute) | {"remat": False}
    computing = dataclasses.replace(net, net=net.net.reconfigured(**options))
    return Forecaster(computing, **statistics)


def _files(config: TrainConfig) -> dict[str, Path]:
    assert config.era5 is not None
    path, folder = Path(config.initial), Path(config.era5.statistics)
    if path.suffix != ".npz":
        found = importlib.import_module("xdiffda.priors.published").fetch(config.initial)
        return {kind: getattr(found, kind) for kind in ("params", *_KINDS)}
    files, problems = {"params": path}, []
    if not path.exists():
        problems.append(Problem(f"no file {path}", "weights", 'initial = "path/params.npz"'))
    for kind in _KINDS:
        pattern = f"*{kind}_by_level.nc"
        # "stddev" is also the end of "diffs_stddev"
        found = [p for p in folder.glob(pattern) if kind != "stddev" or "diffs" not in p.name]
        if len(found) != 1:
            text = f"{len(found)} files {pattern} in {folder}"
            problems.append(Problem(text, "one", 'era5.statistics = "path/stats"'))
        else:
            files[kind] = found[0]
    raise_if(problems, what="published forecaster")
    return files


def _open(path: Path) -> xr.Dataset:
    with xr.open_dataset(path) as ds:
        return ds.load()


def channel_statistics(ds: xr.Dataset, layout: Layout) -> np.ndarray:
    """Return one value for each channel of a state.

    Raises
    ------
    InputError
        If a variable has none.
    """
    absent = [name for name in layout.variables if name not in ds]
    if absent:
        problem = Problem(f"no statistics of {', '.join(absent)}", "all", "era5.variables")
        raise InputError([problem], what="published forecaster")
    return np.array(
        [
            float(ds[name] if level is None else ds[name].sel(level=level))
            for name, level in layout.channels
        ],
        np.float32,
    )
