"""Open real files lazily; write results so that nothing that existed is ever half lost.

A result is written to a temporary sibling and renamed when it is complete. What was there stays
until then, and is what remains after a full disk or an interrupt.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import os
import shutil
import stat
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import StorageError

_NETCDF = {".nc", ".nc4", ".netcdf", ".cdf"}
_CLASSIC = (b"CDF\x01", b"CDF\x02")  # netCDF-3
_ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")
_HEAD = 256
WHOLE = "xdiffda_all_chunks_written"  # attribute of a Zarr store
_CLOCK = {"time", "step", "valid_time"}


def write_dataset(ds: xr.Dataset, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write ``ds`` as Zarr (``.zarr``) or netCDF (``.nc``), all or nothing.

    Parameters
    ----------
    ds
        Any dataset; lazy data is computed as it is written.
    path
        Where to. Its folder must exist.
    overwrite
        Whether what is there may be replaced; the old one is kept until the new is complete.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    StorageError
        If the folder does not exist, something is in the way, the suffix is unknown, or the disk
        is full; the message names the repair. An interrupt is passed on. In each case what
        existed is untouched and nothing unfinished is left behind.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> path = write_dataset(xr.Dataset({"a": ("x", [1, 2])}), folder / "a.nc")
    >>> open_dataset(path)["a"].values.tolist()
    [1, 2]
    """
    path = Path(path).expanduser()
    check_target(path, overwrite=overwrite)
    with in_one_piece(path) as partial:
        _write(ds.drop_encoding(), partial)
    return path


@contextlib.contextmanager
def in_one_piece(path: Path) -> Iterator[Path]:
    """Give a name to write to beside ``path``, whose file takes its place when it is complete.

    Raises
    ------
    StorageError
        If it cannot be written; what existed is untouched, and nothing unfinished is left.
    """
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        _put_in_place(partial, path)
    except BaseException as error:  # an interrupt too must not leave a torso
        _remove(partial)
        if not isinstance(error, OSError | RuntimeError):
            raise
        raise _explained(error, path) from error


def write_text(text: str, path: str | os.PathLike) -> Path:
    """Write a text file, all or nothing; what was there is replaced.

    Raises
    ------
    StorageError
        If it cannot be written; what existed before is untouched.
    """
    path = Path(path).expanduser()
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        partial.write_text(text, encoding="utf-8")
        _put_in_place(partial, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        _remove(partial)
    return path


def open_dataset(path: str | os.PathLike) -> xr.Dataset:
    """Open Zarr, netCDF or GRIB lazily, told apart by what is in them, whatever their names.

    Parameters
    ----------
    path
        A Zarr folder or address (``gs://...`` or ``https://...``, with the extra ``cloud``;
        reads that fail are tried again), a netCDF file, or a GRIB file (needs the extra
        ``obs``). The parts of a GRIB file that cfgrib keeps apart (levels, 2 m, 10 m, ...) come
        as one dataset; parts that do not fit the first, such as those of another step or kind of
        level, are left out and named in the attribute ``xdiffda_file_left_out``.

    Returns
    -------
    xr.Dataset
        With dask arrays; nothing but coordinates is read.

    Raises
    ------
    StorageError
        If the file is absent, cut short, damaged, no regular file or of unknown kind, or a
        package is missing.
    """
    text = os.path.expanduser(path)
    try:
        kind = "zarr" if "://" in text else kind_of_file(Path(text))
        if kind == "zarr":
            if "://" in text:
                return _with_clock_read(_open_remote(text))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Failed to open Zarr store with consol")
                need_chunks(Path(text))
                return _with_clock_read(without_mark(_decoded(text, engine="zarr")))
        if kind == "netcdf":
            return _with_clock_read(_decoded(text, engine="netcdf4"))
        if kind == "grib":
            return _with_clock_read(_open_grib(text))
    except StorageError:
        raise
    except Exception as error:  # every backend has errors of its own
        raise StorageError(
            f"{text}: cannot be read ({type(error).__name__}: {_first_line(error)}); the file may "
            f"be damaged or incomplete; repair: fetch or write it again, then `xdiffda."
            f"open_dataset({text!r})`"
        ) from error
    raise StorageError(
        f"{text}: neither Zarr nor netCDF nor GRIB by its content; repair: observations are read "
        f"by `xdiffda.read_obs({text!r})`; of other fields make a Dataset with their own library"
    )


def kind_of_file(path: Path) -> str:
    """``"zarr"``, ``"netcdf"`` or ``"grib"`` by content, ``"gzip"``, or ``""`` for anything else.

    Raises
    ------
    StorageError
        If there is no such file, it is no regular file (a pipe or a device never ends), it is
        empty, or it is a netCDF file of the classic forms that is shorter than its header says.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a loop of links, a path that is too long
        if isinstance(error, FileNotFoundError):
            raise absent(path) from error
        raise StorageError(f"{path}: cannot be opened ({_first_line(error)})") from error
    if stat.S_ISDIR(mode):
        return "zarr" if any((path / name).exists() for name in _ZARR_FILES) else ""
    if not stat.S_ISREG(mode):
        raise StorageError(
            f"{path}: a pipe, device or socket; needed a regular file; repair: write what comes "
            "from it into a file first"
        )
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise StorageError(f"{path}: an empty file; repair: fetch or write it again")
    if head.startswith(_CLASSIC):
        need_whole(path)
        return "netcdf"
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"CDF\x05")):
        return "netcdf"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    # bulletins and some archives put a few bytes before the first message
    return "grib" if b"GRIB" in head else ""


def need_whole(path: Path) -> None:
    """Raise where a classic netCDF file is shorter than its header says.

    The netCDF library reads what is missing as zeros, without a word.
    """
    from scipy.io import netcdf_file

    try:
        with path.open("rb") as file, netcdf_file(file, mmap=True):
            pass
    except (ValueError, IndexError, TypeError, KeyError, OSError) as error:
        size = path.stat().st_size
        raise StorageError(
            f"{path}: {size} bytes, fewer than the header of this netCDF file needs "
            f"({_first_line(error)}): it was cut short; repair: fetch or write it again"
        ) from error


def need_chunks(path: Path) -> None:
    """Raise where a local Zarr store has lost chunks.

    Zarr reads the fill value in place of a chunk that is not there, without a word: all reports of
    a station table had the first time.  Stores that `write_dataset` made have every chunk.  Others
    may leave out chunks that hold the fill value alone; of a coordinate that tells places or times
    apart, which cannot be one value over, a chunk that is not there is a lost one all the same.

    Raises
    ------
    StorageError
        Naming the variables and how many of their chunks are lost.
    """
    import zarr

    group = zarr.open_group(path, mode="r")
    lost = []
    for name, array in group.arrays():
        labels = array.metadata.dimension_names if array.metadata.zarr_format == 3 else None
        labels = labels or array.attrs.get("_ARRAY_DIMENSIONS")
        index = array.ndim == 1 and list(labels or []) == [name] and max(array.chunks) > 1
        if (group.attrs.get(WHOLE) or index) and array.nchunks_initialized < array.nchunks:
            lost.append(f"{name} ({array.nchunks - array.nchunks_initialized} of {array.nchunks})")
    if lost:
        raise StorageError(
            f"{path}: chunks are lost of {', '.join(lost)}, which would be read as the fill "
            "value; repair: fetch or write it again"
        )


def without_mark(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset as it was written, without the mark of a store that has all its chunks."""
    ds.attrs.pop(WHOLE, None)
    return ds


def _with_clock_read(ds: xr.Dataset) -> xr.Dataset:
    """Coordinates along one dimension read: ``valid_time`` would be a dask array like a field."""
    return ds.assign_coords({n: c.load() for n, c in ds.coords.items() if c.ndim < 2})


def _decoded(path: str, **options: Any) -> xr.Dataset:
    """A dataset with its times decoded; as they are in the file where xarray cannot."""
    try:
        return xr.open_dataset(path, chunks={}, decode_timedelta=True, **options)
    except ValueError as error:
        if "unable to decode time" not in str(error):
            raise
        # the file is whole: who reads the clock says what is wrong with it
        return xr.open_dataset(path, chunks={}, decode_times=False, **options)


def _open_remote(address: str) -> xr.Dataset:
    from xdiffda.storage.remote import open_remote

    return open_remote(address, chunks={}, decode_timedelta=True)


def _open_grib(path: str) -> xr.Dataset:
    try:
        import cfgrib
    except Exception as error:  # eccodes raises RuntimeError where its library is missing
        raise StorageError(
            f"{path}: GRIB needs cfgrib and eccodes ({_first_line(error)}); repair: "
            '`pip install "xdiffda[obs]"`'
        ) from error
    options = {"indexpath": ""}  # no index file is written beside the user's data
    try:
        return xr.open_dataset(
            path,
            engine="cfgrib",
            chunks={},
            decode_timedelta=True,
            backend_kwargs={**options, "errors": "raise"},
        )
    except cfgrib.DatasetBuildError:  # several kinds of levels or steps in one file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of cfgrib's own calls
            parts = [part.chunk() for part in cfgrib.open_datasets(path, backend_kwargs=options)]
    return _merge_grib(parts, path)


def _merge_grib(parts: list[xr.Dataset], path: str) -> xr.Dataset:
    """Merge all parts that fit the first, without scalar heights that differ."""
    # levels of pressure first, so that what does not fit them is what is left out
    parts = sorted(parts, key=lambda part: "isobaricInhPa" not in part.dims)
    scalars = {str(n) for part in parts for n, c in part.coords.items() if c.ndim == 0}
    differing = [
        name
        for name in scalars - _CLOCK
        if len({str(part[name].values) for part in parts if name in part.coords}) > 1
        or any(name in part.dims for part in parts)
    ]
    whole, left_out = None, []
    for part in parts:
        part = part.drop_vars([n for n in differing if n in part.coords and not part[n].ndim])
        try:
            whole = (
                part
                if whole is None
                else xr.merge(
                    [whole, part],
                    join="exact",
                    compat="no_conflicts",
                    combine_attrs="override",
                )
            )
        except ValueError:  # xr.MergeError is one: another time, step or grid
            left_out.append(_describe_part(part))
    assert whole is not None
    return whole.assign_attrs(xdiffda_file_left_out="; ".join(left_out)) if left_out else whole


def _describe_part(part: xr.Dataset) -> str:
    """Variables of a part of a GRIB file, and what sets it apart."""
    about = []
    for name in ("step", "valid_time"):
        if name in part.coords and not part[name].ndim:
            value = part[name].values[()]
            lead = isinstance(value, np.timedelta64)
            text = f"{value / np.timedelta64(1, 'h'):g} h" if lead else str(value)[:16]
            about.append(f"{name} {text}")
    kinds = {str(v.attrs.get("GRIB_typeOfLevel", "")) for v in part.data_vars.values()} - {""}
    return f"{', '.join(map(str, part.data_vars))} ({', '.join([*sorted(kinds), *about])})"


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Raise where `write_dataset` could not write: before the work rather than after it.

    Raises
    ------
    StorageError
        If the suffix is unknown, the folder does not exist, or something is in the way.
    """
    path = path.expanduser()
    if path.suffix.lower() not in {".zarr", *_NETCDF}:
        raise StorageError(
            f"{path}: unknown kind {path.suffix!r}; needed .zarr or .nc; repair: "
            f"`write_dataset(ds, {str(path.with_suffix('.zarr'))!r})`"
        )
    if not path.parent.is_dir():
        raise StorageError(f"{path}: no folder {path.parent}; repair: `mkdir -p {path.parent}`")
    if path.exists() and not overwrite:
        raise StorageError(
            f"{path}: exists already and is left as it is; repair: `overwrite=True`, or another "
            "name"
        )


def codecs() -> dict[str, Any]:
    """Encoding of a zarr array whose chunks carry a checksum: a flipped bit is found on reading.

    Zstandard has one of its own only where it is asked for, and xarray's default does not.
    """
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return {"compressors": (ZstdCodec(), Crc32cCodec())}


def compute(ds: xr.Dataset) -> xr.Dataset:
    """Load a lazy dataset into memory.

    Raises
    ------
    StorageError
        If a chunk is not what its checksum says.
    """
    try:
        return ds.compute()
    except (ValueError, RuntimeError) as error:  # as zarr and the netCDF library have it
        if "checksum" in str(error) or "NetCDF: HDF error" in str(error):
            path = next((v.encoding.get("source") for v in ds.variables.values()), None)
            raise StorageError(
                f"{path or 'a file behind this dataset'}: a chunk is damaged, its checksum does "
                f"not agree ({_first_line(error)}); repair: fetch or write the file again"
            ) from error
        raise


def _write(ds: xr.Dataset, partial: Path) -> None:
    if partial.suffix.lower() == ".zarr":
        import zarr

        # by default chunks of the fill value alone are not written, and look as if lost
        with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
            # Consolidated metadata is no part of the Zarr 3 standard yet, and zarr warns about
            # it; without, xarray warns whenever the store is opened.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            encoding = {name: codecs() for name in ds.variables}
            ds = ds.assign_attrs({WHOLE: 1})
            ds.to_zarr(partial, mode="w-", consolidated=True, zarr_format=3, encoding=encoding)
    else:
        # the library computes checksums of chunks of numbers alone
        ds.to_netcdf(
            partial,
            encoding={
                name: {"fletcher32": True}
                for name, variable in ds.variables.items()
                if variable.size and variable.ndim and variable.dtype.kind in "biufmM"
            },
        )


def sync(*paths: Path) -> None:
    """Have files, and all files within folders, written to the disk before this returns.

    What the system keeps in memory is lost in a power cut: a file that was renamed before its
    content was on the disk would then be there, and empty.
    """
    for path in paths:
        below = path.rglob("*") if path.is_dir() else ()
        for each in (*below, path):
            try:
                handle = os.open(each, os.O_RDONLY)
            except OSError:  # a writer's partial file that has gone, or a system without folders
                continue
            try:
                with contextlib.suppress(OSError):  # some file systems know no such thing
                    os.fsync(handle)
            finally:
                os.close(handle)


def _put_in_place(partial: Path, path: Path) -> None:
    sync(partial)
    _renamed(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in a folder, not what is in the files."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _renamed(partial: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(partial, path)
        return
    # A folder cannot be replaced in one step: step aside, move in, and step back if that fails.
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.old{path.suffix}")
    try:
        os.rename(path, aside)
        os.rename(partial, path)
    except BaseException:
        if aside.exists() and not path.exists():
            os.rename(aside, path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        # writer threads of zarr may still be closing files: try until it stays away
        for _ in range(20):
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)
            if not path.exists():
                break
    else:
        path.unlink(missing_ok=True)


def _explained(error: OSError | RuntimeError, path: Path) -> StorageError:
    full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or (
        "no space left" in str(error).lower()
    )
    free = shutil.disk_usage(path.parent).free
    # The HDF5 library reports a full disk as its own error, without the number.
    if full or (free < 1_000_000 and "HDF" in str(error)):
        return StorageError(
            f"{path}: the disk is full ({free / 1e6:.0f} MB free in {path.parent}); nothing that "
            f"existed was changed; repair: free some space (`du -sh {path.parent}/*`) or write "
            "elsewhere"
        )
    return StorageError(
        f"{path}: cannot be written ({type(error).__name__}: {_first_line(error)}); nothing that "
        "existed was changed; repair: write to a folder of your own"
    )


def absent(path: Path, *, opener: str = "open_dataset") -> StorageError:
    """The error where there is no such file, with one beside it whose name is near.

    ``opener`` is the function of `xdiffda` that was to read it.
    """
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    repair = (
        f"`xdiffda.{opener}({str(path.parent / near[0])!r})`"
        if near
        else (f"look at `ls {path.parent}`")
    )
    return StorageError(f"{path}: no such file; repair: {repair}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def digest(*arrays: Any) -> str:
    """Sixteen hexadecimal digits that tell arrays (or bytes) apart."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]
