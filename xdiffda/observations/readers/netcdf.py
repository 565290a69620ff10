"""netCDF files and their variables as plain arrays, for every form that is laid out in netCDF."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xdiffda.observations.readers.files import bytes_of, damaged, is_compressed, need_room


@contextlib.contextmanager
def opened_netcdf(path: Path) -> Iterator[Any]:
    """A netCDF file, perhaps compressed, as netCDF4 opens it; a StorageError if it is damaged."""
    import netCDF4

    memory = bytes_of(path) if is_compressed(path) else None
    try:
        file = netCDF4.Dataset(path if memory is None else "obs", memory=memory)
    except (OSError, RuntimeError) as error:
        raise damaged(path, error) from error
    try:
        _need_room(path, file, path.stat().st_size if memory is None else len(memory))
        yield file
    except (OSError, RuntimeError) as error:  # of the netCDF library: bytes are absent
        raise damaged(path, error) from error
    finally:
        if file.isopen():  # xarray closes what it read
            file.close()


def _need_room(path: Path, file: Any, length: int) -> None:
    """Raise a StorageError if the variables are larger than a file of this length may have them."""
    size = sum(
        variable.size * (1 if variable.dtype is str else np.dtype(variable.dtype).itemsize)
        for group in (file, *file.groups.values())
        for variable in group.variables.values()
    )
    if file.data_model.startswith("NETCDF3") and size > length:  # these are not compressed inside
        raise damaged(path, f"its variables need {size} bytes, and it has {length}")
    need_room(path, size)


def units_of(variable: Any) -> str:
    """Units of a variable, without the parentheses that some put around dates; \"\" if none."""
    units = re.sub("[()]", "", str(getattr(variable, "units", ""))).strip()
    return "" if units == "unitless" else units


def numbers(variable: Any) -> np.ndarray:
    """Values as float64, NaN where missing; huge ones are fill values that nobody declared."""
    values = np.ma.filled(np.ma.asarray(variable[:]).astype(np.float64), np.nan)
    return np.where(np.abs(values) > 1e30, np.nan, values)


def texts(variable: Any) -> np.ndarray:
    """Text, of characters or of strings, without padding."""
    import netCDF4

    values = np.ma.filled(variable[:]) if variable.dtype is not str else variable[:]
    values = np.asarray(values)
    if values.dtype.kind == "S" and values.ndim == 2:
        values = netCDF4.chartostring(values, "utf-8")
    return np.char.strip(values.astype(str), "\0 ")
