"""The bundled sample: held-out days of truth of the testbed and forecasts of them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import xarray as xr

from xdiffda.errors import InputError, Problem

SAMPLE = "sample:"  # in place of a path: a bundled sample
SAMPLES = {
    "truth": "nature run, held-out days",
    "background": "48 h forecasts valid at the times of the truth",
    "background_6h": "6 h forecasts valid at the times of the truth",
}


def open_sample(name: str) -> xr.Dataset:
    """Open a bundled sample dataset, lazily.

    Parameters
    ----------
    name : {"truth", "background", "background_6h"}
        Truth and forecasts valid at the same times, on the grid of the model ``speedy``:
        output of a general circulation model (SPEEDY physics, T31) that the bundled
        network has not seen.

    Returns
    -------
    Dataset
        On (time, level, lat, lon), WeatherBench names.

    Raises
    ------
    InputError
        If there is no such sample.

    Examples
    --------
    >>> open_sample("truth").sizes["level"]
    7
    """
    if name not in SAMPLES:
        raise InputError(
            [
                Problem(
                    f"sample {name!r}",
                    f"one of {', '.join(SAMPLES)}",
                    'xdiffda.open_sample("truth")',
                )
            ],
            what="open_sample",
        )
    path = Path(str(resources.files("xdiffda"))) / "sample_data" / f"{name}.nc"
    return xr.open_dataset(path, chunks={})


def open_named(name: str) -> Any:
    """Open what a configuration names: a Dataset in a file, or ``sample:NAME``."""
    from xdiffda.storage.files import open_dataset

    if name.startswith(SAMPLE):
        return open_sample(name.removeprefix(SAMPLE))
    return open_dataset(name)


def open_named_obs(name: str) -> xr.Dataset:
    """Observations that a configuration names, in any form that `xdiffda.read_obs` knows.

    Files of the package's own forms are opened lazily: they may hold years.

    Raises
    ------
    InputError, StorageError
        As `xdiffda.read_obs`.
    """
    from xdiffda.observations.readers.read import form_of, read_obs

    elsewhere = name.startswith(SAMPLE) or "://" in name
    if elsewhere or form_of(name) in ("netcdf", "zarr"):
        return open_named(name)
    return read_obs(name)
