"""Downloads that resume where they were cut, compared with what their source says.

pooch, which caches and compares hashes, discards what an interrupted transfer has brought and
knows neither crc32c nor hashes that only the server tells; hence this on top of requests.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from xdiffda.errors import StorageError

if TYPE_CHECKING:
    import requests


# What a file should be: its size and digests, as a server or a record beside it says.


@dataclass(frozen=True)
class Identity:
    """Size and digests of a file, from a server's answer or from the record beside the file.

    Parameters
    ----------
    size
        Bytes.
    md5, crc32c
        Base64 of the digest, as in the header ``x-goog-hash`` of Google Cloud Storage.
    validator
        Entity tag or date of change: another one means another file.
    """

    size: int | None = None
    md5: str | None = None
    crc32c: str | None = None
    validator: str | None = None

    @property
    def hashed(self) -> bool:
        """Return whether a digest is known, so that content can be checked."""
        return bool(self.md5 or self.crc32c)

    def mismatch(self, path: Path, *, both: bool = False) -> str:
        """Name what differs between the file at ``path`` and this identity; empty if nothing does.

        One digest will do where there are two, unless ``both`` are asked for.
        """
        wrong = []
        if self.size is not None and (found := path.stat().st_size) != self.size:
            wrong.append(f"{found} bytes, needed {self.size}")
        elif self.hashed:
            for name, found in digests(path, md5=both or self.crc32c is None).items():
                needed = getattr(self, name)
                if needed and found != needed:
                    wrong.append(f"{name} {found}, needed {needed}")
        return "; ".join(wrong)

    def write(self, path: Path) -> None:
        """Keep it as a record, all or nothing."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(dataclasses.asdict(self)))
        os.replace(partial, path)


def read_identity(path: Path) -> Identity | None:
    """The record at ``path``; None if there is none that can be read."""
    try:
        return identity_of(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def record_of(path: Path) -> Path:
    """Return the path of the record beside a file."""
    return path.with_name(path.name + ".json")


def digests(path: Path, *, md5: bool = True) -> dict[str, str]:
    """Digests of a file, base64; crc32c alone is several times faster.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "nine"
    >>> _ = path.write_bytes(b"123456789")
    >>> digests(path)  # the check value of CRC-32C is e3069283
    {'crc32c': '4waSgw==', 'md5': 'JfnnlDI7RTiF9RgfG2JNCw=='}
    """
    import google_crc32c

    crc, full = google_crc32c.Checksum(), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            crc.update(piece)
            if md5:
                full.update(piece)
    found = {"crc32c": crc.digest(), "md5": full.digest()} if md5 else {"crc32c": crc.digest()}
    return {name: base64.b64encode(value).decode() for name, value in found.items()}


def identity_of(record: Any) -> Identity:
    """Read a record; invalid entries are ignored, as the record may come from any server."""
    if not isinstance(record, dict):
        return Identity()
    size = record.get("size")
    texts = {name: record.get(name) for name in ("md5", "crc32c", "validator")}
    told = {
        name: text for name, text in texts.items() if isinstance(text, str) and text.isprintable()
    }
    return Identity(size if type(size) is int and size >= 0 else None, **told)


ATTEMPTS = 5  # in a row without a new byte
BACKOFF = 1.0  # seconds, doubled at each of them
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
LARGEST = 2**37  # bytes of a file whose size is not known; the largest weights have a hundredth
SLOWEST, PATIENCE = 1000, 60.0  # bytes a second, on the mean of so many seconds
KNOWN_HOSTS = ("storage.googleapis.com", "googleusercontent.com")  # where buckets lead to
_PIECE = 1 << 13  # a broken connection loses less than one
_ELSEWHERE = (
    'repair: name a source that has it, xdiffda.set_options(mirror="FOLDER or https://...")'
)


class Unreachable(StorageError):
    """The server did not answer: there is no network, or no route to it."""


def download(url: str, path: Path, *, progress: bool = False) -> Identity:
    """Bring the file at ``url`` to ``path``, resuming what an earlier call has left.

    What has arrived stands in ``NAME.part`` until it is complete and its digests are those
    that the server tells; only then does ``path`` exist, with a record ``NAME.json`` beside it.
    Several processes may call this at once: one brings the file, the others wait for it.

    Parameters
    ----------
    url
        http or https.
    path
        Its folder is made.
    progress
        Show a progress bar.

    Raises
    ------
    Unreachable
        If there is no connection; what has arrived stays for the next call.
    StorageError
        If there is no such file, its content is not what the server says, or the disk is full.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")), _session() as session:
            present = read_identity(record_of(path))
            if path.exists() and present and not present.mismatch(path):
                return present  # another process brought it
            identity = _transfer(session, url, path, progress)
            if not identity.hashed:  # later damage of this copy is noticed all the same
                part = _part(path)
                if present and present.hashed and (other := present.mismatch(part, both=True)):
                    _forget(path)
                    raise StorageError(
                        f"{url} has another file than the one fetched first ({other}), and no "
                        "digest of it; nothing was kept; repair: "
                        f"`rm {record_of(path)}` if that is meant, and call again"
                    )
                identity = dataclasses.replace(identity, size=_size(part), **digests(part))
            identity.write(record_of(path))
            os.replace(_part(path), path)
            _note(path).unlink(missing_ok=True)
            return identity
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error}; repair: make room, or take another folder, "
            'xdiffda.set_options(cache_dir="...")'
        ) from error


def _transfer(session: requests.Session, url: str, path: Path, progress: bool) -> Identity:
    """Fill the part file, over several connections if need be, and compare its content."""
    import requests

    failures, arrived = 0, False
    while True:
        before = _size(_part(path))
        try:
            identity = _attempt(session, url, path, progress)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            grown = _size(_part(path)) > before
            arrived, failures = arrived or _reached(error), 0 if grown else failures + 1
            # a line that broke may come back; one that never was is no network
            if failures >= (ATTEMPTS if arrived else 1):
                what = (
                    f"the line to {url} broke again and again"
                    if arrived
                    else f"no answer from {url}"
                )
                raise Unreachable(f"{what}: {_short(error)}") from error
            time.sleep(BACKOFF * 2**failures)
            continue
        except requests.RequestException as error:
            raise StorageError(f"cannot fetch {url}: {_short(error)}; {_ELSEWHERE}") from error
        if wrong := identity.mismatch(_part(path), both=True):
            _forget(path)
            raise StorageError(
                f"what {url} sent is not what it should be: {wrong}; nothing was kept; repair: "
                "call again, and if it stays so, name another source: "
                'xdiffda.set_options(mirror="...")'
            )
        return identity


def _attempt(session: requests.Session, url: str, path: Path, progress: bool) -> Identity:
    """Open one connection: append to a part of the same file, else begin anew."""
    part, known = _part(path), read_identity(_note(path))
    start = _size(part)
    if known is None or not (known.validator or known.hashed):
        start = 0  # nothing would tell two versions apart
    if known is not None and start and start == known.size:
        return known
    headers = {"Accept-Encoding": "identity"}
    if start and known is not None:
        headers["Range"] = f"bytes={start}-"
        if known.validator:
            headers["If-Range"] = known.validator
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        found = _identity(session, answer, url) if answer.ok else Identity()
        first = _first(answer)
        other = known is not None and first > 0 and not _same(known, found)
        # more is here than there, or the rest is of another file: once again, without a part
        if start and (answer.status_code == 416 or first not in (0, start) or other):
            _forget(path)
            return _attempt(session, url, path, progress)
        _check(answer, url, found, first, start)
        if first and known is not None:
            found = _both(known, found)
        found.write(_note(path))
        _append(answer, part, found, first, progress)
    return found


def _check(answer: requests.Response, url: str, found: Identity, first: int, start: int) -> None:
    """Raise StorageError where the answer is no file, or nobody could tell whether all of it."""
    headers, wrong = answer.headers, ""
    if answer.status_code not in (200, 206):  # others bring no file, or a part of no one
        wrong = f"the server answers {answer.status_code} {answer.reason}"
    elif first not in (0, start):
        wrong = "found a part of the file that was not asked for"
    elif not found.hashed:
        chunked = "chunked" in headers.get("Transfer-Encoding", "")  # tells its own end
        if headers.get("Content-Type", "").startswith("text/html"):
            wrong = "found a web page (a login?)"
        elif not (found.size or chunked):
            wrong = "found no content" if found.size == 0 else "found no length and no digest of it"
    if wrong:
        raise StorageError(f"{url}: {wrong}; needed a file there; {_ELSEWHERE}")


def _append(
    answer: requests.Response, part: Path, found: Identity, start: int, progress: bool
) -> None:
    from tqdm.auto import tqdm

    with (
        open(part, "r+b" if start else "wb") as file,
        tqdm(
            total=found.size,
            initial=start,
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            desc=part.name.removesuffix(".part")[:40],
            disable=not progress,
        ) as bar,
    ):
        file.seek(start)
        most, arrived = (LARGEST if found.size is None else found.size), start
        since, then = time.monotonic(), start
        for piece in answer.iter_content(_PIECE):
            arrived += len(piece)
            if arrived > most:
                raise StorageError(
                    f"{answer.url}: more than the {most} bytes that it should have; {_ELSEWHERE}"
                )
            file.write(piece)
            bar.update(len(piece))
            if (now := time.monotonic()) - since > PATIENCE:
                if arrived - then < SLOWEST * (now - since):
                    raise Unreachable(
                        f"{answer.url}: less than {SLOWEST} bytes a second for {PATIENCE:g} s; "
                        "what has arrived is kept for the next call"
                    )
                since, then = now, arrived


def _identity(session: requests.Session, answer: requests.Response, url: str) -> Identity:
    """What the answer's headers say; digests of a plain server from a record beside the file."""
    headers = answer.headers
    hashes = dict(re.findall(r"(crc32c|md5)=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", "")))
    length = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length")
    size = int(length) if length and re.fullmatch(r"[0-9]{1,18}", length) else None
    validator = headers.get("ETag") or headers.get("Last-Modified")
    if not hashes and "googleapis" not in url:
        record = session.get(url + ".json", timeout=TIMEOUT)
        try:
            told = identity_of(record.json()) if record.ok else Identity()
        except (ValueError, TypeError):
            told = Identity()
        return dataclasses.replace(told, size=told.size or size, validator=validator)
    return Identity(size, hashes.get("md5"), hashes.get("crc32c"), validator)


def _same(one: Identity, other: Identity) -> bool:
    """Return whether two identities may be of one file: no entry of both differs."""
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return all(a == b for a, b in pairs if a is not None and b is not None)


def _both(old: Identity, new: Identity) -> Identity:
    """Merge what two answers say of one file: an answer for a part may say less."""
    told = {k: v for k, v in dataclasses.asdict(new).items() if v is not None}
    return dataclasses.replace(old, **told)


def _first(answer: requests.Response) -> int:
    """Return where in the file an answer begins; -1 if it should say so and does not."""
    if answer.status_code != 206:
        return 0
    match = re.match(r"bytes ([0-9]{1,18})-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _reached(error: Exception) -> bool:
    """Whether a server was there: what broke or stalled later is no lack of a network."""
    import requests
    from urllib3.exceptions import ProtocolError, ReadTimeoutError

    cause = error.args[0] if error.args else None
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return True
    return isinstance(cause, ReadTimeoutError) or isinstance(
        getattr(cause, "reason", cause), ProtocolError
    )


def _session() -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class OneHost(requests.Session):
        """Follows redirects on the host that was asked, or to a known one."""

        def get_redirect_target(self, resp: requests.Response) -> str | None:
            target = super().get_redirect_target(resp)
            if target:
                asked = urlsplit(resp.url).hostname or ""
                there = urlsplit(urljoin(resp.url, target)).hostname or ""
                if there != asked and not there.endswith(KNOWN_HOSTS):
                    raise StorageError(
                        f"{resp.url} leads to another host, {there}; nothing was fetched from "
                        f'there; repair: xdiffda.set_options(mirror="https://{there}") if you '
                        "trust it"
                    )
            return target

    session = OneHost()
    busy = Retry(
        total=3,
        connect=1,
        read=0,
        backoff_factor=BACKOFF,
        raise_on_status=False,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=False,  # it may ask for hours, in which nothing would be said
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=busy))
    return session


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _forget(path: Path) -> None:
    _part(path).unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _short(error: Exception) -> str:
    # urllib3 wraps the reason into what was asked for, which the messages tell anyway
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return (str(reason or error).splitlines() or [type(error).__name__])[0][:200]
