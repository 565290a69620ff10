"""A student's flaky link, and files that are not what they should be: told, mended, never used."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import xarray as xr
from file_server import goog_hash, release_contents

import xdiffda
from xdiffda.errors import InputError, ModelError, StorageError
from xdiffda.networks import gencast
from xdiffda.networks.gencast import (
    Architecture,
    GenCastTask,
    NoiseEncoderConfig,
    TransformerConfig,
)
from xdiffda.priors.published import RELEASES, Release
from xdiffda.storage import download as _download
from xdiffda.storage.download import Identity, download, read_identity, record_of

WHOLE = np.random.default_rng(1).bytes(300_000)
TOLD = {"x-goog-hash": goog_hash(WHOLE), "ETag": '"a"'}
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextlib.contextmanager
def serve(answer: Answer) -> Iterator[tuple[str, list[str | None]]]:
    """A server that answers as it is told, and the parts that it was asked for."""
    asked: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.endswith(".json"):
                return send(self, 404, b"")
            asked.append(self.headers.get("Range"))
            return answer(self)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *a: None  # a broken line is what is tested
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/w", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(
    to: http.server.BaseHTTPRequestHandler,
    code: int,
    body: bytes,
    length: int | None = -1,
    **headers: str,
) -> None:
    """An answer; another ``length`` than its own cuts the line, None tells none."""
    to.send_response(code)
    for name, value in headers.items():
        to.send_header(name, value)
    if length is not None:
        to.send_header("Content-Length", str(len(body) if length == -1 else length))
    if length != -1:
        to.send_header("Connection", "close")
        to.close_connection = True
    to.end_headers()
    with contextlib.suppress(OSError):
        to.wfile.write(body)


def _rest(to: http.server.BaseHTTPRequestHandler) -> int:
    wanted = to.headers.get("Range")
    return int(wanted[6:-1]) if wanted else 0


def _span(first: int) -> dict[str, str]:
    return {"Content-Range": f"bytes {first}-{len(WHOLE) - 1}/{len(WHOLE)}"}


def _leave_part(path: Path) -> None:
    """What an interrupted call has left."""
    path.with_name("w.part").write_bytes(WHOLE[:100_000])
    told = dict(re.findall(r"(crc32c|md5)=([A-Za-z0-9+/=]+)", TOLD["x-goog-hash"]))
    Identity(len(WHOLE), validator='"a"', **told).write(path.with_name("w.part.json"))


@pytest.mark.parametrize("code", [206, 416])
def test_senseless_answers_end_in_an_error(tmp_path: Path, code: int) -> None:
    """A part that nobody asked for, or no part at all, again and again; what was there goes too."""
    _leave_part(tmp_path / "w")
    with serve(lambda to: send(to, code, WHOLE[5:], **TOLD, **_span(5))) as (url, asked):
        what = "a part of the file that was not asked for" if code == 206 else "answers 416"
        with pytest.raises(StorageError, match=f"{what}.*set_options"):
            download(url, tmp_path / "w")
    assert asked == ["bytes=100000-", None]
    assert not list(tmp_path.glob("w.part*"))


def test_a_server_that_calls_all_of_it_a_part(tmp_path: Path) -> None:
    with serve(lambda to: send(to, 206, WHOLE, **TOLD, **_span(0))) as (url, asked):
        download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WHOLE and asked == [None]


def test_a_line_that_breaks_early_and_often(tmp_path: Path) -> None:
    """Every connection brings 40,000 bytes; the rest tells less of the file than the beginning."""

    def answer(to: http.server.BaseHTTPRequestHandler) -> None:
        first = _rest(to)
        headers = {"ETag": '"a"', **_span(first)} if first else TOLD
        send(
            to, 206 if first else 200, WHOLE[first : first + 40_000], len(WHOLE) - first, **headers
        )

    with serve(answer) as (url, asked):
        identity = download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WHOLE
    assert 8 <= len(asked) <= 12, "a broken connection lost most of what it brought"
    assert identity.hashed and identity.size == len(WHOLE)


def test_digests_that_the_beginning_told_hold_for_the_rest(tmp_path: Path) -> None:
    """The first answer tells them, the one with the rest does not, and the rest is another."""

    def answer(to: http.server.BaseHTTPRequestHandler) -> None:
        if not (first := _rest(to)):
            return send(to, 200, WHOLE[:40_000], len(WHOLE), **TOLD)
        return send(to, 206, bytes(len(WHOLE) - first), ETag='"a"', **_span(first))

    with (
        serve(answer) as (url, _),
        pytest.raises(StorageError, match="not what it should be: crc32c"),
    ):
        download(url, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_line_that_breaks_before_anything_is_tried_again(tmp_path: Path) -> None:
    def answer(to: http.server.BaseHTTPRequestHandler) -> None:
        if len(asked) < 4:
            to.close_connection = True
            return to.connection.close()
        return send(to, 200, WHOLE, **TOLD)

    with serve(answer) as (url, asked):
        download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WHOLE and len(asked) == 4


def test_a_busy_server_does_not_stop_us_for_an_hour(tmp_path: Path) -> None:
    """It asks to come back in an hour; without an error nothing would be said until then."""
    busy = {"Retry-After": "3600"}
    with (
        serve(lambda to: send(to, 503, b"", **busy)) as (url, asked),
        pytest.raises(StorageError, match="answers 503"),
    ):
        download(url, tmp_path / "w")
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("length", "body", "what"),
    [(None, WHOLE[:1000], "no length and no digest"), (0, b"", "found no content")],
)
def test_what_nobody_could_tell_to_be_whole_is_refused(
    tmp_path: Path, length: int | None, body: bytes, what: str
) -> None:
    with (
        serve(lambda to: send(to, 200, body, length)) as (url, _),
        pytest.raises(StorageError, match=what),
    ):
        download(url, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_damage_of_what_a_plain_server_sent_is_noticed(tmp_path: Path) -> None:
    """It knows no digests: those of what arrived go into the record."""
    path = tmp_path / "w"
    with serve(lambda to: send(to, 200, WHOLE)) as (url, asked):
        download(url, path)
        record = read_identity(record_of(path))
        assert record is not None and not record.mismatch(path)
        path.write_bytes(b"\0" * len(WHOLE))
        assert "crc32c" in record.mismatch(path)
        download(url, path)
    assert path.read_bytes() == WHOLE and len(asked) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_and_the_next_call_goes_on(tmp_path: Path) -> None:
    (tmp_path / "w.part").symlink_to("/dev/full")
    with serve(lambda to: send(to, 200, WHOLE, **TOLD)) as (url, _):
        with pytest.raises(StorageError, match="No space left.*make room.*cache_dir="):
            download(url, tmp_path / "w")
        os.unlink(tmp_path / "w.part")
        download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WHOLE


NAMES = ("2m_temperature", "sea_surface_temperature", "temperature")
TINY = Release("gencast-files", "gencast", "GenCast <2019.npz", "for tests", 45.0, 2, 0, 1)


def _statistics() -> dict[str, xr.Dataset]:
    value = {n: ("level", [9.0, 9.0]) if n == "temperature" else 9.0 for n in NAMES}
    ds = xr.Dataset(value, coords={"level": [500, 850]})
    return {role: ds.copy() for role in ("mean", "stddev", "diffs_stddev", "minimum")}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny GenCast in the published format, in a folder laid out like the bucket."""
    folder = tmp_path_factory.mktemp("mirror")
    clock = ("year_progress_sin",)
    task = GenCastTask((*NAMES, *clock, "land_sea_mask"), NAMES, clock, (500, 850), "24h")
    encoder = NoiseEncoderConfig(num_frequencies=2, output_sizes=(4, 2))
    config = gencast.NetworkConfig(
        2 * 5 + 1 + 1 + 4, 4, latent=4, layers=1, heads=1, ffw_hidden=4, encoder=encoder
    )
    sizes = Architecture(TransformerConfig(1, 4, 1, 1, 4), mesh_size=0, latent_size=4)
    shapes = eqx.filter_eval_shape(gencast.GenCast, config, key=jax.random.key(0))
    net = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32) if hasattr(leaf, "shape") else leaf, shapes
    )
    gencast.write_checkpoint(folder / "c.npz", gencast.Checkpoint(net, task, sizes))
    for key, content in release_contents(TINY, folder, folder / "c.npz", _statistics()).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RELEASES, TINY.name, TINY)
        yield folder


def test_a_folder_may_be_said_as_an_address(mirror: Path) -> None:
    with xdiffda.set_options(mirror=f"file://{mirror}"):
        assert xdiffda.fetch(TINY.name).params.parent == mirror / "gencast/params"
        assert xdiffda.models().cached.sel(model=TINY.name)
        assert xdiffda.load_model(TINY.name).layout.levels == (500, 850)


@pytest.mark.parametrize(
    ("role", "change", "kind", "what"),
    [
        (
            "stddev",
            lambda ds: ds.drop_vars("2m_temperature"),
            ModelError,
            "stddev without 2m_temperature; needed statistics of every variable",
        ),
        (
            "diffs_stddev",
            lambda ds: ds.drop_vars("temperature"),
            ModelError,
            "diffs_stddev without temperature",
        ),
        ("mean", lambda ds: ds.isel(level=[0]), InputError, r"mean without levels \[850\]"),
        ("minimum", lambda ds: ds * np.nan, InputError, "minimum of .*sea_surface.* not finite"),
    ],
)
def test_statistics_that_lack_something_are_refused(
    mirror: Path, tmp_path: Path, role: str, change: Callable, kind: type, what: str
) -> None:
    """A variable without its own would go through the network unscaled."""
    shutil.copytree(mirror, tmp_path / "m")
    changed = change(_statistics()[role])
    (tmp_path / "m" / TINY.objects[role]).unlink()
    changed.to_netcdf(tmp_path / "m" / TINY.objects[role])
    with xdiffda.set_options(mirror=tmp_path / "m"), pytest.raises(kind, match=what):
        xdiffda.load_model(TINY.name)


def test_levels_in_another_order_are_refused(mirror: Path, tmp_path: Path) -> None:
    shutil.copytree(mirror, tmp_path / "m")
    params = tmp_path / "m" / TINY.objects["params"]
    entries = dict(np.load(params, allow_pickle=False))
    for i, level in enumerate((850, 500)):
        entries[f"task_config:pressure_levels:{i}"] = np.asarray(level)
    with open(params, "wb") as file:
        np.savez(file, **entries)
    with (
        xdiffda.set_options(mirror=tmp_path / "m"),
        pytest.raises(ModelError, match=r"levels \(850, 500\).*ascending"),
    ):
        xdiffda.load_model(TINY.name)


@pytest.mark.parametrize("code", [201, 202, 203, 204, 226])
def test_only_a_whole_or_a_part_is_an_answer(tmp_path: Path, code: int) -> None:
    with (
        serve(lambda to: send(to, code, WHOLE, **TOLD)) as (url, _),
        pytest.raises(StorageError, match=f"the server answers {code}"),
    ):
        download(url, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_redirects_stay_on_the_host(tmp_path: Path) -> None:
    def elsewhere(to: http.server.BaseHTTPRequestHandler) -> None:
        send(to, 302, b"", Location="http://localhost:9/w")

    def further(to: http.server.BaseHTTPRequestHandler) -> None:
        if to.path == "/w":
            send(to, 302, b"", Location="/there")
        else:
            send(to, 200, WHOLE, **TOLD)

    with (
        serve(elsewhere) as (url, _),
        pytest.raises(StorageError, match="leads to another host, localhost; nothing was"),
    ):
        download(url, tmp_path / "w")
    with serve(further) as (url, _):
        download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WHOLE


def test_a_file_without_an_end_is_bounded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(_download, "LARGEST", 100_000)

    def endless(to: http.server.BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("Transfer-Encoding", "chunked")
        to.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                to.wfile.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")

    with (
        serve(endless) as (url, _),
        pytest.raises(StorageError, match="more than the 100000 bytes"),
    ):
        download(url, tmp_path / "w")
    assert (tmp_path / "w.part").stat().st_size <= 100_000


def test_a_server_that_drips_is_given_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(_download, "PATIENCE", 0.2)
    monkeypatch.setattr(_download, "SLOWEST", 10**9)
    with (
        serve(lambda to: _dripping(to)) as (url, _),
        pytest.raises(StorageError, match=r"less than 1000000000 bytes a second"),
    ):
        download(url, tmp_path / "w")


def _dripping(to: http.server.BaseHTTPRequestHandler) -> None:
    to.send_response(200)
    for name, value in {**TOLD, "Content-Length": str(len(WHOLE))}.items():
        to.send_header(name, value)
    to.end_headers()
    with contextlib.suppress(ConnectionError):
        for first in range(0, len(WHOLE), 10_000):
            to.wfile.write(WHOLE[first : first + 10_000])
            time.sleep(0.1)


def test_the_first_file_of_a_server_without_digests_is_the_one_to_expect(tmp_path: Path) -> None:
    """No digest is published: that of the first download is kept, and compared."""
    sent = [WHOLE, WHOLE[::-1]]
    with serve(lambda to: send(to, 200, sent[0])) as (url, _):
        download(url, tmp_path / "w")
        (tmp_path / "w").unlink()  # cleared away, its record is not
        sent.pop(0)
        with pytest.raises(StorageError, match=r"another file than the one fetched first"):
            download(url, tmp_path / "w")
        record_of(tmp_path / "w").unlink()
        download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WHOLE[::-1]


def test_a_length_of_thousands_of_digits_is_none(tmp_path: Path) -> None:
    length = {"Content-Range": f"bytes 0-9/{'9' * 5000}"}
    with serve(lambda to: send(to, 206, WHOLE, **TOLD, **length)) as (url, _):
        download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WHOLE
