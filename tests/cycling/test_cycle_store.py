"""The store of a cycled run: whole at every instant, whatever kills the process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from same_bytes import same_bytes

from xdiffda.cycling import store
from xdiffda.cycling.record import read_observations
from xdiffda.errors import InputError, StorageError

CONFIG = {"cycle_length": "6h", "variables": ["t"], "seed": 1, "settings.method": "guided"}
# observed variables of three cycles, and their codes: words new to a cycle get the next ones
OBSERVED, CODES = (["u", "t"], ["t"], ["a", "", "t"]), ([2, 1], [1], [3, 0, 1])
START = np.datetime64("2020-01-15T12", "ns")


def _record(n: int) -> xr.Dataset:
    """One cycle with contents of its own."""
    x = np.random.default_rng(n).normal(size=(1, 2, 3)).astype(np.float32)
    observed = OBSERVED[n % 3]
    return xr.Dataset(
        {
            "t": (("time", "member", "x"), x, {"units": "K", "standard_name": "air_temperature"}),
            "background_t": (("time", "x"), x[:, 0], {"units": "K"}),
            "score_t": (("time", "state", "score_level"), x.transpose(0, 2, 1)[:, :2]),
            "obs_value": (("time", "obs"), x.reshape(1, -1)[:, : len(observed)]),
            "obs_variable": (("time", "obs"), np.array([observed])),
        },
        coords={
            "time": [START + n * np.timedelta64(6, "h")],
            "x": np.arange(3.0),
            "state": ["analysis", "background"],
            "score_level": [500, 850],
        },
    )


def _write(path: Path, n_cycles: int) -> Path:
    for n in range(store.resume(path, CONFIG), n_cycles):
        store.append(path, _record(n), n, CONFIG)
    return path


def _expected(n_cycles: int) -> xr.Dataset:
    records = [_record(n).drop_dims("obs") for n in range(n_cycles)]
    width = max((len(OBSERVED[n % 3]) for n in range(n_cycles)), default=0)
    value, code = np.full((n_cycles, width), np.nan, np.float32), np.zeros((n_cycles, width), int)
    for n in range(n_cycles):
        codes = CODES[n % 3]
        value[n, : len(codes)], code[n, : len(codes)] = _record(n)["obs_value"][0], codes
    whole = xr.concat(records, "time", data_vars="all")
    return whole.assign(obs_value=(("time", "obs"), value), obs_variable=(("time", "obs"), code))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cycles, never interrupted."""
    return _write(tmp_path_factory.mktemp("whole") / "run.zarr", 3)


def test_what_is_written_is_read(whole: Path) -> None:
    found = xr.open_zarr(whole).load()
    wanted = _expected(3).assign_coords(state=[0, 1])
    xr.testing.assert_equal(found, wanted)
    assert found.state.attrs["flag_meanings"] == "analysis background"
    xr.testing.assert_equal(store.open_cycle(whole).load(), _expected(3))
    assert found.obs_variable.attrs["flag_meanings"] == "absent t u a"


def test_parts_come_under_plain_names(whole: Path) -> None:
    background = store.open_cycle(whole, "background").load()
    np.testing.assert_array_equal(background["t"], _expected(3)["background_t"])
    scores = store.open_cycle(whole, "scores").load()
    assert scores["t"].sel(state="background", level=850).dims == ("time",)
    assert store.open_cycle(whole, "analysis")["t"].attrs["standard_name"] == "air_temperature"
    with pytest.raises(InputError, match="no free_run"):
        store.open_cycle(whole, "free_run")
    with pytest.raises(InputError, match="one of analysis, background"):
        store.open_cycle(whole, "forecast")


class Killed(BaseException):
    """The process is dead: nothing it does afterwards reaches the disk."""


def _killed_at(monkeypatch: pytest.MonkeyPatch, operation: int) -> list[int]:
    """Let the process die at its n-th replacement of a file; return the counter."""
    count = [0]
    for name in ("replace", "rename"):
        real = getattr(os, name)

        def dying(*args: object, real=real, **options: object) -> object:
            count[0] += 1
            if count[0] >= operation:
                raise Killed
            return real(*args, **options)

        monkeypatch.setattr(os, name, dying)
    return count


def _operations(path: Path) -> tuple[int, int]:
    """How many it takes to make the store, and to write three cycles."""
    with pytest.MonkeyPatch.context() as patch:
        count = _killed_at(patch, 10**9)
        _write(path, 1)
        making = count[0]
        _write(path, 3)
    return making, count[0]


def test_a_kill_at_any_operation_leaves_whole_cycles_and_resumes_exactly(
    whole: Path, tmp_path: Path
) -> None:
    making, total = _operations(tmp_path / "counted.zarr")
    first = _write(tmp_path / "first.zarr", 1)
    seen = set()
    assert making > 10 and total > making + 10
    # until the store is there each operation is like the other; from then on, every one
    for operation in (1, making // 2, *range(making - 2, total + 1)):
        path = tmp_path / f"{operation}.zarr"
        if made := operation > making:
            shutil.copytree(first, path)
        with pytest.MonkeyPatch.context() as patch:
            _killed_at(patch, operation - made * making)
            with pytest.raises(Killed):
                _write(path, 3)
        n = 0
        if path.exists():
            found = xr.open_zarr(path).load()  # as a reader who knows nothing of us
            n = found.sizes["time"]
            xr.testing.assert_equal(found, _expected(n).assign_coords(state=[0, 1]))
        seen.add(n)
        assert same_bytes(_write(path, 3), whole), f"killed at operation {operation}"
    assert seen == {0, 1, 2, 3}


def test_what_lies_beyond_the_committed_cycles_is_removed(whole: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "run.zarr", 2)
    (path / "t/c/2/0").mkdir(parents=True)
    (path / "t/c/2/0/0").write_bytes(b"torn")
    (path / "t/zarr.json").write_text('{"torn')
    (path / "t/c/1/0/0.abc.partial").write_bytes(b"torn")
    assert same_bytes(_write(path, 3), whole)


def test_many_cycles_cross_the_chunks_of_clock_and_observations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CLOCK_CHUNK", 2)
    monkeypatch.setattr(store, "OBS_CHUNK", 2)
    path = _write(tmp_path / "run.zarr", 5)
    found = store.open_cycle(path).load()
    np.testing.assert_array_equal(found.time, START + np.arange(5) * np.timedelta64(6, "h"))
    xr.testing.assert_equal(found, _expected(5))
    assert sorted(p.name for p in (path / "obs_value/c/2").iterdir()) == ["0", "1"]


def test_a_store_of_an_earlier_version_goes_on_without_observations(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    for n in range(2):
        store.append(path, _record(n).drop_dims("obs"), n, CONFIG)
    found = store.open_cycle(_write(path, 3)).load()
    xr.testing.assert_equal(found, _expected(3).drop_dims("obs"))
    with pytest.raises(StorageError, match="without observations.*a run into a new store"):
        read_observations(path)


def test_large_states_are_cut_into_members(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = _record(0)["t"].variable
    assert store._chunks(variable) == (1, 2, 3)
    monkeypatch.setattr(store, "MAX_CHUNK_BYTES", 12)
    assert store._chunks(variable) == (1, 1, 3)


def test_another_configuration_is_refused_with_what_differs(whole: Path) -> None:
    before = (whole / "zarr.json").read_bytes()
    with pytest.raises(InputError, match="2 problems") as error:
        store.resume(whole, CONFIG | {"seed": 2, "settings.method": "3dvar"})
    for words in ("seed = 1", "cycle(..., seed=1)", "settings={'method': 'guided'}", "3dvar"):
        assert words in str(error.value)
    assert (whole / "zarr.json").read_bytes() == before


def test_cycles_of_another_version_are_read_and_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    _write(path, 1)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["xdiffda_version"] = "0.0.7"
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StorageError, match=r"xdiffda 0\.0\.7.*another `out`"):
        store.resume(path, CONFIG)
    assert store.open_cycle(path).sizes["time"] == 1


def test_what_is_in_the_way_is_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(other)
    with pytest.raises(StorageError, match="not one of a cycled run"):
        store.resume(other, CONFIG)
    assert xr.open_zarr(other)["a"].values.tolist() == [1.0]
    (tmp_path / "file.zarr").write_text("precious")
    with pytest.raises(StorageError, match="no store of a cycled run"):
        store.resume(tmp_path / "file.zarr", CONFIG)
    with pytest.raises(StorageError, match="mkdir -p"):
        store.resume(tmp_path / "no/run.zarr", CONFIG)
    with pytest.raises(StorageError, match="needed a folder .zarr"):
        store.resume(tmp_path / "run.nc", CONFIG)
    with pytest.raises(StorageError, match="no store of a cycled run"):
        store.open_cycle(tmp_path / "absent.zarr")


def test_a_full_disk_is_named_and_the_cycles_before_it_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "run.zarr", 2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError, match="No space left.*the 2 before it are whole"):
            store.append(path, _record(2), 2, CONFIG)
    assert store.open_cycle(path).sizes["time"] == 2
