"""Published weights from a server of this machine: whole, cut, damaged, absent, mirrored."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from file_server import goog_hash, serve

import xdiffda
from xdiffda.errors import InputError, ModelError, StorageError
from xdiffda.priors import published as weights
from xdiffda.priors.published import BUCKET, RELEASES
from xdiffda.storage import download as _download
from xdiffda.storage import download as _identity
from xdiffda.storage.download import digests, download

NAME = "gencast-1p0-mini"
KEYS = RELEASES[NAME].objects


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, no waiting between attempts, no proxy before this machine."""
    monkeypatch.setattr(_download, "BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("XDIFFDA_MIRROR", raising=False)
    with xdiffda.set_options(cache_dir=tmp_path / "cache", mirror="", progress=False):
        yield tmp_path


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {key: rng.bytes(200_000 if "params" in key else 5_000) for key in KEYS.values()}


def _contents(found: weights.ReleaseFiles) -> list[bytes]:
    return [path.read_bytes() for path in found]


def _no_server() -> str:
    """An address of this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_files_are_fetched_once(files: dict[str, bytes], here: Path) -> None:
    with serve(files) as server:
        found = xdiffda.fetch(NAME, mirror=server.address)
        assert _contents(found) == list(files.values())
        asked = [path for path, _ in server.requests]
        assert asked == list(KEYS.values())
        assert xdiffda.fetch(NAME, mirror=server.address) == found
        assert len(server.requests) == len(asked), "asked for what was there"
    assert found.params.is_relative_to(here / "cache") and "<" not in str(found.params)
    assert weights.cached(NAME) and not weights.cached("gencast-1p0")
    left = {path.suffix for path in (here / "cache").rglob("*") if path.is_file()}
    assert left <= {".npz", ".nc", ".json", ".lock"}, "a part was left"


def test_without_a_network_the_cache_serves(
    files: dict[str, bytes], request: pytest.FixtureRequest
) -> None:
    with serve(files) as server:
        found = xdiffda.fetch(NAME, mirror=server.address)
    request.getfixturevalue("no_network")
    assert xdiffda.fetch(NAME) == found


def test_no_network_and_no_cache_says_what_to_do() -> None:
    with pytest.raises(StorageError) as caught:
        xdiffda.fetch(NAME, mirror=_no_server())
    for part in (
        f"xdiffda fetch {NAME} --out",
        "set_options(mirror=",
        "XDIFFDA_MIRROR",
        "5 files",
        "about 230 MB",
        "no answer from http://127.0.0.1",
    ):
        assert part in str(caught.value)


def test_a_cut_connection_is_resumed_in_the_same_call(files: dict[str, bytes]) -> None:
    key = KEYS["params"]
    with serve(files, cut=65_536, cuts=2) as server:
        found = xdiffda.fetch(NAME, mirror=server.address)
    assert found.params.read_bytes() == files[key]
    asked = [span for path, span in server.requests if path == key]
    assert asked == [None, "bytes=65536-", "bytes=131072-"]
    assert server.sent == sum(map(len, files.values())), "bytes were sent twice"


def test_half_a_download_is_never_loaded_and_is_resumed_later(
    files: dict[str, bytes], here: Path
) -> None:
    key, path = KEYS["params"], here / "half" / "weights.npz"
    with serve(files, cut=131_072, cuts=1) as server:
        url = f"{server.address}/{key.replace('<', '%3C')}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_download, "ATTEMPTS", 0)
            with pytest.raises(_download.Unreachable):
                download(url, path)
        assert not path.exists(), "a part stands under the name of the whole"
        assert path.with_name("weights.npz.part").stat().st_size == 131_072
        download(url, path)
        assert path.read_bytes() == files[key]
        assert server.requests[-1] == (key, "bytes=131072-")
        assert server.sent == len(files[key])


def test_a_part_of_another_version_is_not_resumed(files: dict[str, bytes], here: Path) -> None:
    path = here / "weights"
    with serve({"w": files[KEYS["params"]]}, cut=131_072, cuts=1) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_download, "ATTEMPTS", 0)
            with pytest.raises(StorageError):
                download(f"{server.address}/w", path)
        server.files["w"] = new = files[KEYS["params"]][::-1]
        download(f"{server.address}/w", path)
    assert path.read_bytes() == new


@pytest.mark.parametrize("size", [131_072, 300_000])
def test_a_part_that_is_not_what_was_sent_is_refused(
    files: dict[str, bytes], here: Path, size: int
) -> None:
    """Its content was changed on the disk; of more than the whole, nothing is used."""
    path, whole = here / "weights", files[KEYS["params"]]
    with serve({"w": whole}, cut=131_072, cuts=1) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_download, "ATTEMPTS", 0)
            with pytest.raises(StorageError):
                download(f"{server.address}/w", path)
        part = path.with_name("weights.part")
        part.write_bytes(b"\0" * size)
        if size < len(whole):
            with pytest.raises(StorageError, match="not what it should be"):
                download(f"{server.address}/w", path)
            assert not path.exists() and not part.exists()
        download(f"{server.address}/w", path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("digest", ["crc32c=AAAAAA==", "md5=AAAAAAAAAAAAAAAAAAAAAA=="])
@pytest.mark.parametrize("with_the_other", [False, True])
def test_wrong_digests_are_refused(
    files: dict[str, bytes], here: Path, digest: str, with_the_other: bool
) -> None:
    true = [d for d in goog_hash(files[KEYS["mean"]]).split(",") if d[:3] != digest[:3]]
    lie = ",".join([digest, *true]) if with_the_other else digest
    with (
        serve(files, lies={KEYS["mean"]: lie}) as server,
        pytest.raises(
            StorageError,
            match=r"mean_by_level.nc sent is not what it should be: (crc32c|md5) \S+, "
            r"needed A+==; nothing was kept",
        ),
    ):
        xdiffda.fetch(NAME, mirror=server.address)
    assert not list((here / "cache").rglob("mean_by_level.nc*[!k]")), "something was kept"
    assert not weights.cached(NAME)


def test_a_file_that_is_not_there_is_named(files: dict[str, bytes]) -> None:
    fewer = {key: value for key, value in files.items() if key != KEYS["minimum"]}
    with (
        serve(fewer) as server,
        pytest.raises(
            StorageError, match=r"gencast/stats/min_by_level.nc: the server answers 404.*mirror="
        ),
    ):
        xdiffda.fetch(NAME, mirror=server.address)


def test_a_damaged_file_is_fetched_anew(files: dict[str, bytes], here: Path) -> None:
    with serve(files) as server:
        found = xdiffda.fetch(NAME, mirror=server.address)
        content = bytearray(files[KEYS["params"]])
        content[1000] ^= 1
        found.params.write_bytes(bytes(content))
        with pytest.warns(RuntimeWarning, match="damaged.*crc32c.*fetched anew"):
            xdiffda.fetch(NAME, mirror=server.address)
        assert found.params.read_bytes() == files[KEYS["params"]]
    found.params.write_bytes(bytes(content[:-1]))
    with (
        pytest.warns(RuntimeWarning, match="bytes, needed 200000"),
        pytest.raises(StorageError, match="is damaged; needed.*on a machine with a network"),
    ):
        xdiffda.fetch(NAME, mirror=_no_server())


def test_a_folder_is_a_mirror_and_is_not_copied(
    files: dict[str, bytes], here: Path, request: pytest.FixtureRequest
) -> None:
    """What `xdiffda fetch --out` wrote elsewhere, and a bare copy of the bucket."""
    with serve(files) as server:
        xdiffda.fetch(NAME, mirror=server.address, out=here / "carried")
    bare = here / "bare"
    for key, content in files.items():
        (bare / key).parent.mkdir(parents=True, exist_ok=True)
        (bare / key).write_bytes(content)
    request.getfixturevalue("no_network")
    for folder in (here / "carried", bare):
        with xdiffda.set_options(mirror=folder):
            found = xdiffda.fetch(NAME)
            assert weights.cached(NAME)
        assert _contents(found) == list(files.values())
        assert all(path.is_relative_to(folder) for path in found)
    assert not (here / "cache").exists()
    with pytest.raises(InputError, match="mirror that is an address"):
        xdiffda.fetch(NAME, mirror=bare, out=here)
    carried = weights.fetch(NAME, mirror=here / "carried")
    carried.mean.write_bytes(b"no netCDF")
    (bare / KEYS["stddev"]).unlink()
    with pytest.raises(StorageError, match="mean_by_level.nc damaged: 9 bytes, needed 5000"):
        xdiffda.fetch(NAME, mirror=here / "carried")
    with pytest.raises(StorageError, match=f"no {KEYS['stddev']} in it.*fetch {NAME} --out"):
        xdiffda.fetch(NAME, mirror=bare)


def test_any_web_server_over_a_cache_is_a_mirror(files: dict[str, bytes], here: Path) -> None:
    """Python's own server, which knows neither digests nor ranges: the records tell them."""
    with serve(files) as server:
        xdiffda.fetch(NAME, mirror=server.address, out=here / "shared")
    # under the bucket's own name, as a mirror of the bucket has it
    params = here / "shared" / KEYS["params"]
    for suffix in ("", ".json"):
        shutil.copyfile(
            here / "shared" / f"{weights.local_name(KEYS['params'])}{suffix}", f"{params}{suffix}"
        )
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    plain = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(quiet, directory=here / "shared")
    )
    thread = threading.Thread(target=plain.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        address = f"http://127.0.0.1:{plain.server_port}"
        found = xdiffda.fetch(NAME, mirror=address)
        assert _contents(found) == list(files.values())
        shutil.rmtree(here / "cache")
        params.write_bytes(files[KEYS["params"]][::-1])
        with pytest.raises(StorageError, match="not what it should be: crc32c"):
            xdiffda.fetch(NAME, mirror=address)
    finally:
        plain.shutdown()
        plain.server_close()
        thread.join()


def test_a_server_without_ranges_sends_all_again(files: dict[str, bytes], here: Path) -> None:
    with serve({"w": files[KEYS["params"]]}, plain=True, cut=131_072, cuts=1) as server:
        download(f"{server.address}/w", here / "w")
    assert (here / "w").read_bytes() == files[KEYS["params"]]


def test_processes_that_fetch_together_share_one_download(
    files: dict[str, bytes], here: Path
) -> None:
    code = (
        "import sys, xdiffda; xdiffda.set_options(cache_dir=sys.argv[1], progress=False); "
        f"print(xdiffda.fetch({NAME!r}, mirror=sys.argv[2]).params)"
    )
    with serve(files) as server:
        command = [sys.executable, "-c", code, str(here / "cache"), server.address]
        runs = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}) for _ in range(2)
        ]
        answers = {run.communicate()[0] for run in runs}
        assert [run.returncode for run in runs] == [0, 0] and len(answers) == 1
        assert server.sent == sum(map(len, files.values()))


def test_a_disk_without_room_is_told(files: dict[str, bytes], here: Path) -> None:
    (here / "cache").write_text("a file where a folder should be")
    with serve(files) as server, pytest.raises(StorageError, match="cannot write.*cache_dir="):
        xdiffda.fetch(NAME, mirror=server.address)


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(ModelError, match="no published model 'gencast-mini'.*gencast-1p0-mini"):
        xdiffda.fetch("gencast-mini")


def test_addresses_are_those_of_the_release() -> None:
    assert BUCKET == "https://storage.googleapis.com/dm_graphcast"
    assert KEYS["params"] == "gencast/params/GenCast 1p0deg Mini <2019.npz"
    assert RELEASES["graphcast-small-1p0"].objects["params"] == (
        "graphcast/params/GraphCast_small - ERA5 1979-2015 - resolution 1.0 - pressure levels 13 "
        "- mesh 2to5 - precipitation input and output.npz"
    )
    assert set(KEYS) == {"params", "mean", "stddev", "diffs_stddev", "minimum"}
    for release in RELEASES.values():
        assert all(key.startswith(release.kind + "/") for key in release.objects.values())


def test_digests_are_those_of_the_bucket(tmp_path: Path) -> None:
    """Check value of CRC-32C (RFC 3720) and the digest of RFC 1321, in base64."""
    (tmp_path / "a").write_bytes(b"123456789")
    assert digests(tmp_path / "a")["crc32c"] == "4waSgw=="
    (tmp_path / "a").write_bytes(b"abc")
    assert digests(tmp_path / "a")["md5"] == "kAFQmDzST7DWlj99KOF/cg=="
    record = {"size": 3, "md5": "kAFQmDzST7DWlj99KOF/cg=="}
    (tmp_path / "a.json").write_text(json.dumps(record | {"more": 1}))
    identity = _identity.read_identity(tmp_path / "a.json")
    assert identity is not None and identity.mismatch(tmp_path / "a") == ""
    (tmp_path / "a").write_bytes(b"abd")
    assert "md5" in identity.mismatch(tmp_path / "a")
