"""What users do wrong with stores of analyses and clusters, and what a cluster does to them."""

from __future__ import annotations

import errno
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cycle_world
import numpy as np
import pytest
import store_world as world
import xarray as xr
from same_bytes import same_bytes

import xdiffda
from xdiffda.cycling.reanalysis import open_analyses
from xdiffda.cycling.streams import open_streams, run_streams
from xdiffda.errors import InputError, StorageError
from xdiffda.storage import regions as _region_store
from xdiffda.storage import tasks as _cluster
from xdiffda.storage.icechunk import as_store
from xdiffda.storage.regions import FolderStore

SETTINGS = world.SETTINGS | {"method": "3dvar"}
TIMES = ["2020-01-15T12", "2020-01-15T18", "2020-01-16T00"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    return world.make_input(tmp_path_factory.mktemp("given"), len(TIMES))


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "analyses.zarr"
    _run(*given, out)
    return out


def _run(background: Any, obs: Any, out: Any, **choices: Any) -> xr.Dataset:
    return world.run(background, obs, out, settings=SETTINGS, **choices)


@pytest.fixture
def halfway(whole: Path, tmp_path: Path) -> Path:
    """Two of the three times complete."""
    shutil.copytree(whole, tmp_path / "run.zarr")
    (tmp_path / "run.zarr/complete/c/2").unlink()
    return tmp_path / "run.zarr"


# input


@pytest.mark.parametrize("kind", ["attribute", "column"])
def test_a_table_may_have_a_description(given, whole: Path, tmp_path: Path, kind: str) -> None:
    background, obs = given
    table: Any = obs.assign_attrs(description="SYNOP of Saxony")
    if kind == "column":
        table = obs.to_dataframe().reset_index(drop=True).assign(description="SYNOP")
    _run(background, table, tmp_path / "a.zarr")
    xr.testing.assert_identical(
        open_analyses(tmp_path / "a.zarr").load(), open_analyses(whole).load()
    )


def test_lazy_input_in_any_chunks_gives_the_same_bytes(given, whole: Path, tmp_path: Path) -> None:
    background, obs = given
    chunked = xdiffda.open_dataset(background).chunk(time=2, lat=3, level=1)
    obs.drop_encoding().to_zarr(tmp_path / "obs.zarr", zarr_format=2)
    _run(chunked, xr.open_zarr(tmp_path / "obs.zarr"), tmp_path / "a.zarr")
    assert same_bytes(tmp_path / "a.zarr", whole)


def test_other_input_for_any_part_of_a_store_is_refused(given, halfway: Path) -> None:
    """Also where only a later time differs, and where the observations do."""
    background, obs = given
    later = xdiffda.open_dataset(background).load()
    later["temperature"][1] += 1.0
    before = {p: p.read_bytes() for p in halfway.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=f"another background at {TIMES[1]}:00 than"):
        _run(later, obs, halfway)
    warmer = obs.assign(value=obs["value"] + np.where(obs["time"] == obs["time"][-1], 0.0, 1.0))
    with pytest.raises(InputError, match=f"(?s)2 problems.*other observations at {TIMES[0]}:00"):
        _run(background, warmer, halfway)
    assert before == {p: p.read_bytes() for p in halfway.rglob("*") if p.is_file()}
    # times that are missing may still have late observations
    _run(
        background,
        obs.assign(value=obs["value"] + np.where(obs["time"] == np.datetime64(TIMES[2]), 1.0, 0.0)),
        halfway,
    )
    assert world.complete(halfway).all()


@pytest.mark.parametrize("kind", ["observations", "chunk"])
def test_one_time_that_cannot_be_read_stops_no_other(given, tmp_path: Path, kind: str) -> None:
    background, obs = given

    def source(time: np.datetime64) -> xr.Dataset:
        absent = kind == "observations" and time == np.datetime64(TIMES[1])
        return {}["no file of that day"] if absent else obs

    if kind == "chunk":
        shutil.copytree(background, tmp_path / "background.zarr")
        background = tmp_path / "background.zarr"
        chunk = next(p for p in (background / "temperature/c/1").rglob("*") if p.is_file())
        chunk.write_bytes(b"no blosc, no zstd")
    with pytest.raises(StorageError, match=f"(?s)1 of 3 failed.*{TIMES[1]}:00: (KeyE|Runt|Value)"):
        _run(background, source, tmp_path / "a.zarr")
    assert world.complete(tmp_path / "a.zarr").tolist() == [True, False, True]


# places


def test_a_path_means_the_same_to_a_worker_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    sent = [pickle.dumps(as_store(name)) for name in ("a.zarr", "~/a.zarr")]
    monkeypatch.chdir("/")
    assert {pickle.loads(store).path for store in sent} == {tmp_path / "a.zarr"}


@pytest.mark.parametrize(
    ("out", "match"),
    [
        ("s3://bucket/a.zarr", "an address; needed a folder .zarr on a disk, or an icechunk"),
        (Path("gs://bucket/a.zarr"), "gs:/bucket/a.zarr: an address"),
        (None, "out=None: a NoneType; needed a path or an icechunk repository"),
    ],
)
def test_what_is_no_place_for_a_store(given, out: Any, match: str) -> None:
    with pytest.raises(StorageError, match=match):
        _run(*given, out)


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    for name in (str(tmp_path / "mistyped.zarr"), f"icechunk://{tmp_path}/mistyped"):
        if "icechunk" in name:
            pytest.importorskip("icechunk")
        with pytest.raises(StorageError, match="nothing is there, no store of `assimilate_store`"):
            open_analyses(name)
    assert not list(tmp_path.iterdir())


# several writers


def test_two_calls_may_begin_at_the_same_time(
    given, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the renaming, another process makes the same store."""
    plain = _region_store.write_blank

    def slowly(*arguments: Any, **keywords: Any) -> None:
        plain(*arguments, **keywords)
        monkeypatch.setattr(_region_store, "write_blank", plain)
        _run(*given, tmp_path / "a.zarr")

    monkeypatch.setattr(_region_store, "write_blank", slowly)
    _run(*given, tmp_path / "a.zarr")
    assert same_bytes(tmp_path / "a.zarr", whole)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_call_that_begins_does_not_disturb_one_that_writes(
    given, whole: Path, halfway: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes what killed processes have left, and cannot tell that from what is in hand."""
    plain, seen = Path.replace, []

    def interrupted(self: Path, target: Any) -> Any:
        if self.suffix == ".partial" and not seen:
            seen.append(self)
            FolderStore(halfway).missing_times()
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    _run(*given, halfway)
    assert len(seen) == 1 and same_bytes(halfway, whole)


@pytest.mark.parametrize(
    ("number", "repair"), [(errno.EROFS, "that you may write to"), (errno.ENOSPC, "make room")]
)
def test_a_disk_says_what_is_wrong_with_it(
    given, halfway: Path, monkeypatch: pytest.MonkeyPatch, number: int, repair: str
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(_region_store, "write_variables", refuse)
    with pytest.raises(StorageError, match=f"(?s)time 2 cannot be written.*repair: .*{repair}"):
        _run(*given, halfway)


# clusters


@pytest.mark.parametrize("client", ["tcp://host:8786", 3])
def test_what_is_no_client(given, tmp_path: Path, client: Any) -> None:
    match = r"found client=.*needed a distributed.Client; repair: `client=distributed.Client\("
    with pytest.raises(InputError, match=match):
        _run(*given, tmp_path / "a.zarr", client=client)
    with pytest.raises(InputError, match=match):
        run_streams(xr.Dataset(), None, out=tmp_path, starts=TIMES[:1], end=TIMES[1], client=client)
    assert not list(tmp_path.iterdir())


class FakeCluster:
    """A client whose workers come one after another, as tasks are done."""

    def __init__(self, most: int) -> None:
        self.most, self.done, self.waiting, self.seen = most, 0, [], []

    def nthreads(self) -> dict[str, int]:
        return {str(n): 1 for n in range(min(self.done, self.most))}

    def submit(self, function: Callable, *arguments: Any, pure: bool) -> Any:
        return SimpleNamespace(key=str(arguments), status="finished")

    def add(self, future: Any) -> None:
        self.waiting.append(future)

    def __iter__(self) -> Iterator:
        while self.waiting:
            self.seen.append(len(self.waiting))
            self.done += 1
            yield self.waiting.pop(0)


def test_a_cluster_that_grows_is_kept_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adaptive one begins without workers, and starts as many as tasks wait."""
    cluster = FakeCluster(4)
    module = SimpleNamespace(as_completed=lambda: cluster)
    monkeypatch.setitem(sys.modules, "distributed", module)  # type: ignore[arg-type]
    tasks = [(str(n), ValueError("no file") if n in (0, 7) else (n,)) for n in range(30)]
    with pytest.raises(StorageError, match=r"(?s)2 of 30 failed.*  0: ValueError: no file.*  7: "):
        _cluster.run_tasks(print, tasks, cluster, total=30, what="test", progress=False)
    assert cluster.done == 28 and cluster.seen[0] == 2 and max(cluster.seen) == 2 * 4


def test_a_cluster_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(4)
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(as_completed=lambda: cluster))  # type: ignore[arg-type]
    monkeypatch.setattr(cluster, "nthreads", lambda: None)  # as of a client that is closed
    with pytest.raises(StorageError, match=r"cluster cannot be reached.*start a cluster"):
        _cluster.run_tasks(print, [("0", (0,))], cluster, total=1, what="test", progress=False)


def test_many_failures_are_told_in_short() -> None:
    tasks = [(str(n), ValueError("no file")) for n in range(1000)]
    with pytest.raises(StorageError, match="1000 of 1000 failed") as caught:
        _cluster.run_tasks(print, tasks, None, total=1000, what="test", progress=False)
    assert "and 980 more" in str(caught.value) and len(str(caught.value).splitlines()) < 30


# streams


def test_times_of_streams_that_are_none(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"out": tmp_path / "r", "starts": ["soon"], "end": "2020"}
    with pytest.raises(InputError, match=r"(?s)starts\[0\]='soon'.*spin_up='long'.*cycle_length=6"):
        run_streams(xr.Dataset(), None, spin_up="long", cycle_length=6, **choices)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    (tmp_path / "r").write_text("a file")
    _, first = cycle_world.make_states(2)
    with pytest.raises(StorageError, match="cannot be written.*repair: a folder"):
        run_streams(first, None, **(choices | {"starts": TIMES[0], "end": TIMES[1]}))
    (tmp_path / "r").unlink()
    with pytest.raises(StorageError, match="1 of 1 failed"):  # one start needs no list
        run_streams(first, None, **(choices | {"starts": TIMES[0], "end": TIMES[1]}))
    with pytest.raises(InputError, match="stream=9; needed one of 0 to 0"):
        open_streams(tmp_path / "r", stream=9)
