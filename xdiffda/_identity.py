"""What a file should be: its size and digests, as a server or a record beside it says."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Identity:
    """What a server says of a file, or what a record beside it says.

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
        """Whether content can be compared with it."""
        return bool(self.md5 or self.crc32c)

    def mismatch(self, path: Path, *, both: bool = False) -> str:
        """What of the file at ``path`` is not as it should be; empty if it is all right.

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
    """Where the record of a file lies: beside it."""
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
    """What a record says; what cannot be meant (it may come from any server) says nothing."""
    if not isinstance(record, dict):
        return Identity()
    size = record.get("size")
    texts = {name: record.get(name) for name in ("md5", "crc32c", "validator")}
    told = {
        name: text for name, text in texts.items() if isinstance(text, str) and text.isprintable()
    }
    return Identity(size if type(size) is int and size >= 0 else None, **told)
