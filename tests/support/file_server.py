"""A small file server for tests: as Google Cloud Storage answers, or as a plain server does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import google_crc32c
import xarray as xr

from xdiffda.priors.published import Release


def goog_hash(content: bytes) -> str:
    """The header x-goog-hash of a content."""
    crc = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
    return f"crc32c={crc},md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"


@dataclass
class FileServer:
    """Contents by path, how they are served, and what was asked for.

    ``cut`` bytes are sent of each body, then the connection is closed (``cuts`` times in all);
    ``lies`` replaces digests; a ``plain`` server knows neither digests nor ranges nor dates.
    """

    files: dict[str, bytes]
    cut: int | None = None
    cuts: int = 10**9
    lies: dict[str, str] = field(default_factory=dict)
    plain: bool = False
    address: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_files: FileServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        state, path = self.server_files, unquote(self.path).lstrip("/")
        wanted = None if state.plain else self.headers.get("Range")
        state.requests.append((path, wanted))
        content = state.files.get(path)
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if self.headers.get("If-Range", etag) != etag:
            start = 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if not state.plain:
            self.send_header("ETag", etag)
            self.send_header("x-goog-hash", state.lies.get(path) or goog_hash(content))
        self.end_headers()
        if state.cut is not None and state.cuts > 0 and len(body) > state.cut:
            state.cuts -= 1
            body = body[: state.cut]
            self.close_connection = True
        state.sent += len(body)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


@contextlib.contextmanager
def serve(files: dict[str, bytes], **settings: object) -> Iterator[FileServer]:
    """Serve on a free port of this machine until the block ends."""
    state = FileServer(files, **settings)
    handler = type("Handler", (_Handler,), {"server_files": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def release_contents(
    release: Release, folder: Path, params: Path, statistics: dict[str, xr.Dataset]
) -> dict[str, bytes]:
    """The files of a published model, as they lie in its bucket; ``folder`` is for scratch."""
    contents = {release.objects["params"]: params.read_bytes()}
    for role, ds in statistics.items():
        ds.to_netcdf(folder / f"{role}.nc")
        contents[release.objects[role]] = (folder / f"{role}.nc").read_bytes()
    return contents
