"""The store of a cycled run: one zarr folder along time that is whole at every instant.

Every cycle has chunks of its own, written first; what makes them visible is the consolidated
metadata in the root ``zarr.json``, replaced in one step.  A process killed at any point
leaves the store without or with the cycle, and a reader never sees part of one.  What lies
beyond the committed cycles is overwritten on resuming.  Dimensions may grow from cycle to cycle,
as that of observations does: what a cycle does not fill reads as NaN, no time, or no word.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xdiffda.cycling.config import repair_of_setting
from xdiffda.errors import InputError, Problem, StorageError, raise_if
from xdiffda.storage.files import codecs, sync, sync_folder
from xdiffda.storage.flags import codes_for, encode_variables, with_flags, with_labels

# Whether a run of cycles may go on in the store that it finds.

# entries of the configuration that are arguments of `cycle` by that name
PLAIN = ("n_members", "carry", "cycle_length", "seed")


def check_version(attributes: Mapping[str, Any], path: Path) -> None:
    """Cycles of two versions do not belong into one store.

    Raises
    ------
    StorageError
    """
    from xdiffda import __version__

    if (made := attributes.get("xdiffda_version", __version__)) != __version__:
        raise StorageError(
            f"{path}: cycles of xdiffda {made}, needed those of {__version__}: two versions do not "
            f"go on alike; repair: another `out`, or `pip install xdiffda=={made}` "
            "(`xdiffda.cycling.cycle.open_cycle` reads it in any)"
        )


def check_configuration(stored: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    """A store goes on as it began.

    Raises
    ------
    InputError
        Naming all that differs.
    """
    problems = []
    for key in sorted({*stored, *given}):
        if stored.get(key) != given.get(key):
            value, group, name = stored.get(key), *key.rpartition(".")[::2]
            setting = repair_of_setting(name, value, str(stored.get("settings.method")))
            if group == "settings" and setting:
                repair = f"cycle(..., settings={setting})"
            elif key in PLAIN:
                repair = f"cycle(..., {key}={value!r})"
            else:
                repair = f"cycle(..., out={str(path.with_name(f'{path.stem}-2.zarr'))!r})"
            problems.append(
                Problem(
                    f"{key} = {value!r} in {path}",
                    f"{given.get(key)!r}, as this call says, or another store",
                    repair,
                )
            )
    raise_if(problems, what="store of another configuration")


CONFIG = "xdiffda_cycle"
PREFIX = {"analysis": "", "background": "background_", "free_run": "free_run_", "scores": "score_"}
SCORE_LEVEL = "score_level"
CLOCK_CHUNK = 1024  # times are known beforehand: one file for many cycles
OBS, OBS_CHUNK = "obs", 2**16  # the dimension that grows
MAX_CHUNK_BYTES = 2**27
EPOCH = "seconds since 1970-01-01"


def open_cycle(out: str | os.PathLike, part: str | None = None) -> xr.Dataset:
    """Open the store of a cycled run, also while it grows; shows whole cycles only.

    ``xarray.open_zarr`` on the same path shows the same cycles; what this adds is the choice
    of a part and readable labels.  A dataset opened earlier stays valid; open again to see
    the cycles that have been added since.

    Parameters
    ----------
    out : path
    part : {"analysis", "background", "free_run", "scores"}, optional
        One part under the plain names of the variables; by default everything, with the
        prefixes ``background_``, ``free_run_`` and ``score_``.

    Returns
    -------
    Dataset
        Lazy, along ``time``.

    Raises
    ------
    StorageError
        If there is no such store.
    InputError
        If there is no such part.
    """
    path = Path(out).expanduser()
    root = read_root(path)
    n, config = committed(root), json.loads(root["attributes"][CONFIG])
    ds = with_labels(xr.open_zarr(path, consolidated=True, decode_timedelta=True))
    ds = ds.isel(time=slice(n))
    if part is None:
        return ds
    if part not in PREFIX:
        raise InputError(
            [
                Problem(
                    f"part={part!r}", f"one of {', '.join(PREFIX)}", 'open_cycle(out, "analysis")'
                )
            ],
            what="open_cycle",
        )
    names = [f"{PREFIX[part]}{name}" for name in config["variables"]]
    if part == "scores":
        names = [str(name) for name in ds.data_vars if str(name).startswith(PREFIX[part])]
    if not names or names[0] not in ds:
        raise InputError(
            [Problem(f"no {part} in {path}", "a run with a truth", "cycle(..., truth=truth)")],
            what="open_cycle",
        )
    chosen = ds[names].rename({name: name.removeprefix(PREFIX[part]) for name in names})
    if part == "scores":
        return chosen.rename({SCORE_LEVEL: "level"} if SCORE_LEVEL in chosen.dims else {})
    for name in chosen.data_vars:  # those of the quantity, standard_name included
        chosen[name].attrs = dict(ds[name].attrs)
    return chosen


def resume(path: Path, config: Mapping[str, Any]) -> int:
    """How many cycles are committed; what an interrupted run left beyond them is removed.

    Raises
    ------
    StorageError
        If something else is in the way, the folder does not exist, or another version wrote it.
    InputError
        If the store is that of another configuration, naming all that differs.
    """
    if "://" in os.fspath(path) or ":/" in os.fspath(path)[1:]:
        raise StorageError(
            f"{path}: an address; needed a folder .zarr on a disk, which can be "
            "replaced in one step; repair: `out='run.zarr'`"
        )
    if path.suffix != ".zarr":
        raise StorageError(
            f"{path}: unknown kind {path.suffix!r}; needed a folder .zarr; "
            f"repair: `out={str(path.with_suffix('.zarr'))!r}`"
        )
    if not path.parent.is_dir():
        raise StorageError(f"{path}: no folder {path.parent}; repair: `mkdir -p {path.parent}`")
    shutil.rmtree(_partial(path), ignore_errors=True)
    if not path.exists():
        return 0
    root = read_root(path)
    check_configuration(
        json.loads(root["attributes"][CONFIG]), json.loads(json.dumps(config)), path
    )
    check_version(root["attributes"], path)
    n = committed(root)
    (path / "zarr.json.partial").unlink(missing_ok=True)
    for name, metadata in root["consolidated_metadata"]["metadata"].items():
        folder = path / name
        if not folder.is_dir():
            raise StorageError(
                f"{path}: a damaged store, without the array {name}; repair: bring "
                "that folder back, or a run into another `out`"
            )
        _write_json(folder / "zarr.json", metadata)
        _discard(folder, n if _along_time(metadata) and name != "time" else None)
    return n


def append(path: Path, record: xr.Dataset, n: int, config: Mapping[str, Any]) -> None:
    """Commit one cycle as number ``n``.

    Parameters
    ----------
    path : path
    record : Dataset
        Everything of one cycle along ``time`` (size 1), with all coordinates; string
        coordinates are written as CF flags.
    n : int
        Cycles committed so far; 0 makes the store.
    config : mapping
        Goes into the attributes of a new store; must hold ``cycle_length``, such as "6h".

    Raises
    ------
    StorageError
        If the disk is full, for example; the cycles before this one are whole.
    """
    record = with_flags(record.transpose("time", ...))
    try:
        if n == 0:
            _create(path, record, config)
        else:
            _extend(path, record, n, config["cycle_length"])
    except OSError as error:
        make = f"make room (`df -h {path.parent}`)"
        if isinstance(error, PermissionError):
            make = f"a folder that you may write to (`ls -ld {path.parent}`)"
        raise StorageError(
            f"{path}: cycle {n} cannot be written ({type(error).__name__}: {error}); the {n} "
            f"before it are whole; repair: {make} and make the same call again, which resumes"
        ) from error


def read_root(path: Path) -> dict[str, Any]:
    """The root metadata of the store.

    Raises
    ------
    StorageError
        If there is none, or it is not that of a cycled run.
    """
    try:
        root = json.loads((path / "zarr.json").read_text())
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path}: no store of a cycled run ({error}); repair: give the folder that `cycle` "
            "writes, or for a new run a name that is free"
        ) from error
    if CONFIG not in root.get("attributes", {}) or not root.get("consolidated_metadata"):
        raise StorageError(
            f"{path}: a zarr store, but not one of a cycled run; it is left as it is; repair: "
            f"`out={str(path.with_name(f'{path.stem}-cycle.zarr'))!r}`"
        )
    return root


def committed(root: Mapping[str, Any]) -> int:
    """Number of whole cycles."""
    return int(root["consolidated_metadata"]["metadata"]["time"]["shape"][0])


def _create(path: Path, record: xr.Dataset, config: Mapping[str, Any]) -> None:
    partial = _partial(path)
    record = record.drop_encoding().assign_attrs({**record.attrs, CONFIG: json.dumps(config)})
    record = encode_variables(record)
    encoding: dict[Any, dict[str, Any]] = {
        name: {"chunks": _chunks(variable), **_fill(variable), **codecs()}
        for name, variable in record.variables.items()
        if variable.dims[:1] == ("time",)
    }
    for name in record.variables:
        encoding.setdefault(name, codecs())
    encoding["time"] = {"chunks": (CLOCK_CHUNK,), "dtype": "int64", "units": EPOCH, **codecs()}
    record.to_zarr(partial, mode="w-", consolidated=False, zarr_format=3, encoding=encoding)
    _write_clock(partial, 0, config["cycle_length"])
    _commit(partial, 1)
    os.rename(partial, path)


def _extend(path: Path, record: xr.Dataset, n: int, cycle_length: str) -> None:
    import zarr

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, variable in record.variables.items():
        if OBS in variable.dims and str(name) not in group:
            continue  # the store of an earlier version goes on without
        if variable.dims[:1] == ("time",) and name != "time":
            array: Any = group[str(name)]
            values = variable.values[0]
            if values.dtype.kind == "U":
                values = codes_for(array, values)
            array.resize((n + 1, *np.maximum(array.shape[1:], values.shape).tolist()))
            array[(n, *map(slice, values.shape))] = values
    if n % CLOCK_CHUNK == 0:
        _write_clock(path, n, cycle_length)
    _commit(path, n + 1)


def _write_clock(path: Path, n: int, cycle_length: str) -> None:
    """Write the times of the cycles ``n`` to ``n + CLOCK_CHUNK``; a chunk never changes."""
    import pandas as pd
    import zarr

    array: Any = zarr.open_group(path, mode="r+", use_consolidated=False)["time"]
    first, seconds = int(array[0]), int(pd.Timedelta(cycle_length).total_seconds())
    array.resize((n + CLOCK_CHUNK,))
    array[n:] = first + seconds * np.arange(n, n + CLOCK_CHUNK)


def _commit(path: Path, n: int) -> None:
    """Make ``n`` cycles visible, in one step, once what belongs to them is on the disk."""
    sync(*path.glob(f"*/c/{n - 1}"))
    arrays = sorted(folder.parent.name for folder in path.glob("*/zarr.json"))
    metadata = {name: json.loads((path / name / "zarr.json").read_text()) for name in arrays}
    for entry in metadata.values():
        if _along_time(entry):
            entry["shape"][0] = n
    root = json.loads((path / "zarr.json").read_text())
    root["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": metadata,
    }
    _write_json(path / "zarr.json", root)
    _write_json(path / "time" / "zarr.json", metadata["time"])


def _discard(folder: Path, n: int | None) -> None:
    """Remove what a killed process may have left in the folder of one array."""
    for torso in folder.rglob("*.partial"):
        torso.unlink(missing_ok=True)
    chunks = folder / "c"
    if n is None or not chunks.is_dir():
        return
    for chunk in chunks.iterdir():
        if chunk.name.isdecimal() and int(chunk.name) >= n:
            shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
    """Return the shape of a chunk: one cycle, and of large states one member or level."""
    if OBS in variable.dims:
        return tuple({"time": 1, OBS: OBS_CHUNK}.get(str(d), n) for d, n in variable.sizes.items())
    chunks, itemsize = [1, *variable.shape[1:]], variable.dtype.itemsize
    for axis in range(1, len(chunks)):
        if np.prod(chunks, dtype=np.int64) * itemsize > MAX_CHUNK_BYTES:
            chunks[axis] = 1
    return tuple(chunks)


def _fill(variable: xr.Variable) -> dict[str, Any]:
    """Return the fill value, which is read where nothing was written."""
    absent = np.nan if variable.dtype.kind == "f" else variable.attrs.get("_FillValue", 0)
    return {"fill_value": absent} if OBS in variable.dims else {}


def _along_time(metadata: Mapping[str, Any]) -> bool:
    return list(metadata.get("dimension_names") or [])[:1] == ["time"]


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial{path.suffix}")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file in one step, in the layout that zarr writes, if it is not the same."""
    text = json.dumps(content, indent=2)
    if path.exists() and path.read_text() == text:
        return
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(text)
    sync(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)
