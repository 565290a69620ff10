"""The arrays of a store of analyses: made at full length, and written one time at a time."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

CONFIG = "xdiffda_analyses"
COMPLETE = "complete"
MAX_CHUNK_BYTES = 2**27


def write_blank(
    template: xr.Dataset, dim: str, config: Mapping[str, Any], target: Any, *, consolidated: bool
) -> None:
    """Write a template, its marker of complete times and the configuration."""
    marker = xr.zeros_like(template[dim].astype("uint8").drop_vars(dim).chunk({dim: 1}))
    marker.attrs = {"long_name": "whether the analysis of this time is complete"}
    template = template.assign({COMPLETE: marker}).drop_encoding()
    template.attrs |= {CONFIG: json.dumps(config)}
    encoding: dict[Any, dict[str, Any]] = {}
    for name, variable in template.data_vars.items():
        if dim in variable.dims:
            encoding[name] = {"chunks": _chunks(variable.variable, dim)}
            if variable.dtype.kind == "f":
                encoding[name]["fill_value"] = np.nan  # of what is not written yet
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        template.to_zarr(target, mode="w-", compute=False, consolidated=consolidated,
                         zarr_format=3, encoding=encoding)  # fmt: skip


def write_variables(group: Any, i: int, record: xr.Dataset, dim: str) -> dict[str, int]:
    """Write what depends on time; returns the axis of time of each variable."""
    axes = {}
    for name, variable in record.data_vars.items():
        if dim in variable.dims:
            axes[str(name)] = axis = variable.dims.index(dim)
            group[str(name)][(slice(None),) * axis + (slice(i, i + 1),)] = variable.values
    return axes


def _chunks(variable: xr.Variable, dim: str) -> tuple[int, ...]:
    """One time; of large states, one member or level of it."""
    sizes = dict(variable.sizes) | {dim: 1}
    for name in [n for n in sizes if n != dim]:
        if (
            np.prod(list(sizes.values()), dtype=np.int64) * variable.dtype.itemsize
            < MAX_CHUNK_BYTES
        ):
            break
        sizes[name] = 1
    return tuple(sizes.values())


def flush(folder: Path, array: Any, axis: int, i: int) -> None:
    """Have the disk hold the chunks of one time before anything says that they are there."""
    counts = [-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]
    ranges = [[i] if k == axis else range(n) for k, n in enumerate(counts)]
    for where in itertools.product(*ranges):
        chunk = folder / array.metadata.encode_chunk_key(where)
        if chunk.exists():  # chunks of nothing but the fill value are not written
            with open(chunk, "rb") as handle:
                os.fsync(handle.fileno())
