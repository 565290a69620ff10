"""The arrays of a store of analyses: made at full length, and written one time at a time."""

from __future__ import annotations

import abc
import errno
import itertools
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import Problem, StorageError, raise_if
from xdiffda.storage.files import codecs

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
            encoding[name] = {"chunks": _chunks(variable.variable, dim), **codecs()}
            if variable.dtype.kind == "f":
                encoding[name]["fill_value"] = np.nan  # of what is not written yet
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        template.to_zarr(
            target,
            mode="w-",
            compute=False,
            consolidated=consolidated,
            zarr_format=3,
            encoding=encoding,
        )


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


# A store of analyses of many times, each written by itself, in any order, by any process.
#
# One zarr 3 hierarchy whose arrays have their full length from the start.  Every time has chunks of
# its own, and an entry of the array ``complete``.  A process killed at any point leaves times that
# are complete and times that are not, and a time written twice holds the same values.

_CALL = "assimilate_store"
_ATTEMPTS = 5  # to write a time
_PLAIN = ("window", "background_error")  # settings that are values, not objects


class Store(abc.ABC):
    """The destination of analyses of many times; sent to the workers."""

    consolidated = True  # whether the metadata of all arrays lie together

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Return the name that messages use for the store."""

    @property
    @abc.abstractmethod
    def another(self) -> str:
        """The argument ``out`` of another store, as one would type it."""

    @abc.abstractmethod
    def exists(self) -> bool:
        """Return whether anything is stored there."""

    @abc.abstractmethod
    def source(self) -> Any:
        """Return what zarr and xarray open, in its present state."""

    @abc.abstractmethod
    def create(self, template: xr.Dataset, dim: str, config: Mapping[str, Any]) -> None:
        """Make the store, without a complete time, in one step.

        Parameters
        ----------
        template : Dataset
            All variables at full length; those along ``dim`` lazy, so that nothing is written.
        dim : str
            The dimension of time.
        config : mapping
            Plain JSON.

        Raises
        ------
        StorageError
            If it cannot be written there.
        """

    @abc.abstractmethod
    def write_time(self, i: int, record: xr.Dataset, dim: str) -> None:
        """Write everything of one time and that it is complete, all or nothing.

        Parameters
        ----------
        i : int
            Number of the time.
        record : Dataset
            Variables along ``dim`` of size 1; others are in the store already.
        dim : str

        Raises
        ------
        StorageError
            If the disk is full, for example; the time is then not complete, all others are as
            they were.
        """

    def need_shared(self) -> None:  # noqa: B027
        """Raise StorageError where other processes cannot write."""

    def missing_times(self) -> list[int]:
        """Numbers of the times that are not complete."""
        return np.flatnonzero(self.read_array(COMPLETE) != 1).tolist()

    def read_config(self) -> dict[str, Any]:
        """Read the settings, the version and the input with which the store was made.

        Raises
        ------
        StorageError
            If there is no store of analyses.
        """
        if not self.exists():
            raise StorageError(
                f"{self.name}: nothing is there, no store of `{_CALL}`; repair: "
                f"`xdiffda.{_CALL}(..., out={self.another})` makes one"
            )
        try:
            return json.loads(str(self._group().attrs[CONFIG]))
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(
                f"{self.name}: no store of `{_CALL}` ({type(error).__name__}: {error}); what is "
                f"there is left as it is; repair: `out={self.another}`"
            ) from error

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raise where a store is that of other settings, another version or other input.

        Raises
        ------
        InputError
            Naming all that differs; the store stays as it is.
        StorageError
            If there is no store of analyses.
        """
        stored, given = self.read_config(), json.loads(json.dumps(config))
        problems = []
        for key in sorted({*stored, *given}):
            if stored.get(key) == given.get(key):
                continue
            repair = f"{_CALL}(..., out={self.another})"
            if key == "version":
                repair = f'pip install "xdiffda=={stored.get(key)}"'
            elif key in ("n_members", "seed"):
                repair = f"{_CALL}(..., {key}={stored.get(key)!r})"
            elif key.removeprefix("settings.") in _PLAIN:
                name = key.removeprefix("settings.")
                repair = f"{_CALL}(..., settings={{{name!r}: {stored.get(key)!r}}})"
            problems.append(
                Problem(
                    f"{key} = {stored.get(key)!r} in {self.name}",
                    f"{given.get(key)!r}, as this call says, or another store",
                    repair,
                )
            )
        raise_if(problems, what="existing store, which is left as it is")

    def read_array(self, name: str) -> np.ndarray:
        """A small array of the store, read here: dask would ask a cluster that may be busy."""
        array: Any = self._group()[name]
        return np.asarray(array[:])

    def open_complete(self, dim: str) -> xr.Dataset:
        """The complete times, lazy."""
        ds = xr.open_zarr(self.source(), consolidated=self.consolidated, decode_timedelta=True)
        done = np.flatnonzero(self.read_array(COMPLETE) == 1)
        return ds.drop_vars(COMPLETE).isel({dim: done})

    def _group(self) -> Any:
        import zarr

        return zarr.open_group(self.source(), mode="r", use_consolidated=False)


class FolderStore(Store):
    """A folder ``.zarr``; the last thing written of a time is its entry of ``complete``."""

    def __init__(self, path: str | os.PathLike) -> None:
        # workers may have another working directory
        self.path = Path(path).expanduser().absolute()

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def another(self) -> str:
        return repr(str(self.path.with_name(f"{self.path.stem}-2.zarr")))

    def exists(self) -> bool:
        return self.path.exists()

    def source(self) -> Any:
        return self.path

    def create(self, template: xr.Dataset, dim: str, config: Mapping[str, Any]) -> None:
        path = self.path
        if path.suffix != ".zarr":
            raise StorageError(
                f"{path}: unknown kind {path.suffix!r}; needed a folder .zarr; "
                f"repair: `out={str(path.with_suffix('.zarr'))!r}`"
            )
        if not path.parent.is_dir():
            raise StorageError(f"{path}: no folder {path.parent}; repair: `mkdir -p {path.parent}`")
        partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
        try:
            write_blank(template, dim, config, partial, consolidated=True)
            os.rename(partial, path)
        except OSError as error:
            if self.exists():
                return  # another process has made it meanwhile
            raise StorageError(
                f"{path}: cannot be made ({type(error).__name__}: {error}); repair: "
                f"{_mend(error, path)}, or write elsewhere"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def missing_times(self) -> list[int]:
        """Numbers of the times that are not complete; torsos of killed writers are removed."""
        missing = super().missing_times()
        if missing:
            for torso in self.path.rglob("*.partial"):
                torso.unlink(missing_ok=True)
        return missing

    def write_time(self, i: int, record: xr.Dataset, dim: str) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._write(i, record, dim)
                return
            except OSError as error:
                # a call that begins removes torsos, also those that are still being written
                if isinstance(error, FileNotFoundError) and attempt + 1 < _ATTEMPTS:
                    continue
                raise StorageError(
                    f"{self.path}: time {i} cannot be written ({type(error).__name__}: {error}); "
                    f"all complete times are whole; repair: {_mend(error, self.path)} and make "
                    "the same call again, which goes on"
                ) from error

    def _write(self, i: int, record: xr.Dataset, dim: str) -> None:
        import zarr

        group = zarr.open_group(self.path, mode="r+", use_consolidated=False)
        for name, axis in write_variables(group, i, record, dim).items():
            flush(self.path / name, group[name], axis, i)
        marker: Any = group[COMPLETE]
        marker[i] = 1
        flush(self.path / COMPLETE, marker, 0, i)


def _mend(error: OSError, path: Path) -> str:
    """Return what a user can do where a folder cannot be written."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"a folder that you may write to (`ls -ld {path.parent}`)"
    if isinstance(error, FileNotFoundError):
        return f"a folder that every worker sees (`ls -d {path}` there)"
    return f"make room (`df -h {path.parent}`)"
