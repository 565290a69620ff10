"""Files are written whole or not at all; what existed survives a full disk and an interrupt."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import StorageError
from xdiffda.storage import files as storage
from xdiffda.storage.files import open_dataset, write_dataset

OLD = xr.Dataset({"a": ("x", [1.0, 2.0])}, attrs={"title": "old"})
NEW = xr.Dataset(
    {"a": (("time", "x"), np.arange(6.0).reshape(2, 3))},
    coords={
        "time": np.array(["2020-01-01", "2020-01-02"], "M8[ns]"),
        "step": np.timedelta64(6, "h").astype("m8[ns]"),
    },
    attrs={"title": "new"},
)
SUFFIXES = pytest.mark.parametrize("suffix", [".zarr", ".nc"])


def _write_half(ds, partial):
    """Begin to write, as a run does that is then stopped."""
    if partial.suffix == ".zarr":
        partial.mkdir()
        (partial / "zarr.json").write_text("{")
    else:
        partial.write_bytes(b"half")


@SUFFIXES
def test_round_trip_is_lazy(tmp_path, suffix):
    again = open_dataset(write_dataset(NEW, tmp_path / f"a{suffix}"))
    assert again["a"].chunks is not None
    xr.testing.assert_identical(again.compute(), NEW)
    assert os.listdir(tmp_path) == [f"a{suffix}"]


@SUFFIXES
def test_what_exists_is_not_overwritten_unless_asked(tmp_path, suffix):
    path = write_dataset(OLD, tmp_path / f"a{suffix}")
    with pytest.raises(StorageError, match="exists already.*`overwrite=True`"):
        write_dataset(NEW, path)
    assert open_dataset(path).attrs["title"] == "old"
    write_dataset(NEW, path, overwrite=True)
    xr.testing.assert_identical(open_dataset(path).compute(), NEW)
    assert os.listdir(tmp_path) == [path.name]


@SUFFIXES
def test_a_lazy_result_may_replace_its_own_source(tmp_path, suffix):
    path = write_dataset(NEW, tmp_path / f"a{suffix}")
    write_dataset(open_dataset(path) + 1, path, overwrite=True)
    np.testing.assert_array_equal(open_dataset(path)["a"], NEW["a"] + 1)


@SUFFIXES
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize(
    ("error", "raised", "match"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            StorageError,
            "the disk is full.*nothing that existed was changed.*repair: free some space",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            StorageError,
            "cannot be written.*a folder of your own",
        ),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (ZeroDivisionError("in the user's graph"), ZeroDivisionError, "user's graph"),
    ],
)
def test_a_failed_write_leaves_all_as_it_was(
    tmp_path, monkeypatch, suffix, existing, error, raised, match
):
    path = tmp_path / f"a{suffix}"
    if existing:
        write_dataset(OLD, path)

    def fail(ds, partial):
        _write_half(ds, partial)
        raise error

    monkeypatch.setattr(storage, "_write", fail)
    with pytest.raises(raised, match=match):
        write_dataset(NEW, path, overwrite=existing)
    assert os.listdir(tmp_path) == ([path.name] if existing else [])
    if existing:
        xr.testing.assert_identical(open_dataset(path).compute(), OLD)


@SUFFIXES
@pytest.mark.parametrize("which", [1, 2])
def test_an_interrupt_while_renaming_puts_the_old_back(tmp_path, monkeypatch, suffix, which):
    path = write_dataset(OLD, tmp_path / f"a{suffix}")
    calls, real = [], {"rename": os.rename, "replace": os.replace}

    def interrupted(name):
        def call(*args):
            if path not in args:  # zarr renames files of its own
                return real[name](*args)
            calls.append(args)
            if len(calls) == (which if suffix == ".zarr" else 1):
                raise KeyboardInterrupt
            return real[name](*args)

        return call

    monkeypatch.setattr(os, "rename", interrupted("rename"))
    monkeypatch.setattr(os, "replace", interrupted("replace"))
    with pytest.raises(KeyboardInterrupt):
        write_dataset(NEW, path, overwrite=True)
    monkeypatch.undo()
    xr.testing.assert_identical(open_dataset(path).compute(), OLD)
    assert os.listdir(tmp_path) == [path.name]


@SUFFIXES
def test_a_real_limit_of_the_system(tmp_path, suffix):
    """The libraries fail in their own words where the system refuses to write on."""
    resource = pytest.importorskip("resource")  # absent on Windows
    path = write_dataset(OLD, tmp_path / f"a{suffix}")
    big = xr.Dataset({"a": ("x", np.random.default_rng(0).normal(size=500_000))})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(StorageError, match="nothing that existed was changed"):
            write_dataset(big, path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    xr.testing.assert_identical(open_dataset(path).compute(), OLD)
    assert os.listdir(tmp_path) == [path.name]


def test_the_folder_must_exist(tmp_path):
    with pytest.raises(StorageError, match=r"no folder .*; repair: `mkdir -p "):
        write_dataset(NEW, tmp_path / "none" / "a.zarr")


def test_unknown_kinds(tmp_path):
    with pytest.raises(StorageError, match=r"unknown kind '.csv'; needed .zarr or .nc"):
        write_dataset(NEW, tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(StorageError, match="neither Zarr nor netCDF nor GRIB"):
        open_dataset(tmp_path / "a.csv")


def test_an_absent_file_names_its_neighbour(tmp_path):
    write_dataset(OLD, tmp_path / "background.nc")
    with pytest.raises(StorageError, match="no such file; repair: `xdiffda.open_data.*ground.nc"):
        open_dataset(tmp_path / "backgruond.nc")


@pytest.mark.parametrize("name", ["a.nc", "a.zarr", "a.grib"])
def test_a_damaged_file_is_said_to_be(tmp_path, name):
    if name == "a.grib":
        pytest.importorskip("cfgrib", exc_type=ImportError, reason="no extra `obs`")
    path = tmp_path / name
    if name == "a.zarr":
        write_dataset(NEW, path)
        (path / "zarr.json").write_text("{ half")
    else:
        path.write_bytes(b"GRIB but not really" * 3)
    with pytest.raises(StorageError, match="repair: fetch or write it again"):
        open_dataset(path)


def test_grib_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cfgrib", None)
    (tmp_path / "a.grib").write_bytes(b"GRIB")
    with pytest.raises(StorageError, match=r'pip install "xdiffda\[obs\]"'):
        open_dataset(tmp_path / "a.grib")


def test_stale_encoding_is_not_inherited(tmp_path):
    packed = NEW.copy()
    packed["a"].encoding = {"dtype": "int16", "scale_factor": 1.0, "chunksizes": (1, 1)}
    packed["a"] = packed["a"] + 0.25
    packed["a"].encoding = {"dtype": "int16", "scale_factor": 1.0}
    again = open_dataset(write_dataset(packed, tmp_path / "a.nc"))
    np.testing.assert_array_equal(again["a"], packed["a"])


def classic(path: Path, form: str, unlimited: list[str]) -> None:
    ds = xr.Dataset(
        {"a": (("time", "x"), np.arange(5000.0).reshape(50, 100)), "b": ("time", np.arange(50.0))}
    )
    ds.to_netcdf(path, format=form, engine="netcdf4", unlimited_dims=unlimited)


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT"])
@pytest.mark.parametrize("unlimited", [[], ["time"]])
@pytest.mark.parametrize("lost", [1, 4, 1000, 39_000])
def test_a_classic_netcdf_file_that_was_cut_short_is_refused(tmp_path, form, unlimited, lost):
    """The library reads zeros for what is missing."""
    path = tmp_path / "a.nc"
    classic(path, form, unlimited)
    assert float(open_dataset(path)["a"][-1, -1]) == 4999.0
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(StorageError, match="fewer than the header .* needs.*cut short"):
        open_dataset(path)


def test_files_are_known_by_their_content(tmp_path):
    ds = xr.Dataset({"a": ("x", [1.0, 2.0])})
    ds.to_netcdf(tmp_path / "a.nc")
    ds.to_zarr(tmp_path / "b.zarr", zarr_format=3)
    (tmp_path / "a.nc").rename(tmp_path / "gfs.t00z.f000")
    (tmp_path / "b.zarr").rename(tmp_path / "store")
    for name in ("gfs.t00z.f000", "store"):
        assert open_dataset(tmp_path / name)["a"].values.tolist() == [1.0, 2.0]


def test_a_grib_file_is_known_by_its_content(tmp_path, shared):
    import shutil

    path = tmp_path / "gfs.t00z.pgrb2.0p25.f000"
    shutil.copy(shared("data/grids/ghtuv.grib"), path)
    assert set(open_dataset(path).data_vars) == {"z", "t", "u", "v"}


def test_a_grib_file_of_several_kinds_gives_what_fits_and_names_the_rest(tmp_path, shared):
    """Fields of another time cannot stand beside those on levels."""
    levels, surface = shared("data/grids/ghtuv.grib"), shared("data/grids/t2m_grib_older.grib")
    path = tmp_path / "both.bin"
    path.write_bytes(levels.read_bytes() + surface.read_bytes())
    ds = open_dataset(path)
    assert set(ds.data_vars) == {"z", "t", "u", "v"}
    assert "t2m" in ds.attrs["xdiffda_file_left_out"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nc")
    with pytest.raises(StorageError, match="a pipe, device or socket"):
        open_dataset(tmp_path / "a.nc")


def test_a_loop_of_links_and_an_endless_name_are_refused(tmp_path):
    (tmp_path / "a.nc").symlink_to(tmp_path / "b.nc")
    (tmp_path / "b.nc").symlink_to(tmp_path / "a.nc")
    for path in (tmp_path / "a.nc", tmp_path / ("x" * 5000 + ".nc")):
        with pytest.raises(StorageError):
            open_dataset(path)


def flipped(path: Path, content: bytes) -> None:
    """Flip a bit in the middle of the file under ``path`` that holds most bytes."""
    files = [p for p in [path, *path.rglob("*")] if p.is_file() and p.name != "zarr.json"]
    largest = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    at = data.find(content)
    data[at + 5 if at >= 0 else len(data) // 2] ^= 4
    largest.write_bytes(data)


@SUFFIXES
def test_a_flipped_bit_is_found_by_the_checksum(tmp_path, suffix):
    """Of 100 flipped bits of stores without checksums 85 came back as other numbers."""
    values = np.random.default_rng(0).normal(size=(40, 60))
    path = write_dataset(xr.Dataset({"a": (("t", "x"), values)}), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(open_dataset(path)["a"].values, values)
    flipped(path, values[20].tobytes())
    with pytest.raises(StorageError, match="checksum does not agree.*repair"):
        storage.compute(open_dataset(path))


def _lose(store: Path, name: str, number: int = 0) -> None:
    chunks = sorted(p for p in (store / name / "c").rglob("*") if p.is_file())
    chunks[number].unlink()


@pytest.mark.parametrize("name", ["time", "t2m", "mask"])
def test_a_store_that_lost_a_chunk_is_refused(tmp_path: Path, name: str) -> None:
    """Zarr reads the fill value in its place: all times the first, a field of zeros."""
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    ds = xr.Dataset(
        {"t2m": (("time", "x"), np.ones((4, 3))), "mask": ("x", np.zeros(3, int))},
        {"time": times},
    )
    path = write_dataset(ds, tmp_path / "a.zarr")
    xr.testing.assert_identical(open_dataset(path).load(), ds)  # zeros are whole
    _lose(path, name)
    with pytest.raises(StorageError, match=rf"chunks are lost of {name} \(1 of 1\).*write it aga"):
        open_dataset(path)


def test_stores_of_others_may_leave_out_what_is_empty_but_no_times(tmp_path: Path) -> None:
    path = tmp_path / "foreign.zarr"
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    ds = xr.Dataset({"rain": (("time",), np.zeros(4, int))}, {"time": times})
    ds.to_zarr(path, zarr_format=3, consolidated=False)
    np.testing.assert_array_equal(open_dataset(path)["rain"], 0)
    _lose(path, "time")
    with pytest.raises(StorageError, match="chunks are lost of time"):
        open_dataset(path)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Of a power cut: whatever has the name has its content."""
    steps, plain, replace = [], os.fsync, os.replace
    rename = os.rename

    def noted(handle: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{handle}"))
        plain(handle)

    def moved(step):
        def call(one, other):
            steps.append(f"{one} -> {other}")
            return step(one, other)

        return call

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", moved(replace))
    monkeypatch.setattr(os, "rename", moved(rename))
    path = tmp_path / f"a{suffix}"
    write_dataset(xr.Dataset({"a": ("x", [1.0, 2.0])}), path)
    named = next(i for i, step in enumerate(steps) if step.endswith(f"-> {path}"))
    partial = steps[named].partition(" -> ")[0]
    before, after = steps[:named], steps[named + 1 :]
    assert partial in before and str(tmp_path) in after
    if suffix == ".zarr":
        assert any(step.startswith(partial) and step.endswith("c/0") for step in before)
