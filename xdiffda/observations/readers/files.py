"""Files as bytes and text, decompressed within bounds, and the errors of those that are damaged."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from xdiffda.errors import InputError, Problem, StorageError
from xdiffda.options import get_options
from xdiffda.storage.files import absent

Format = Literal[
    "netcdf",
    "zarr",
    "csv",
    "ioda",
    "madis",
    "igra",
    "metar",
    "isd",
    "ghcnh",
    "bufr",
    "prepbufr",
    "odb",
]
FORMATS = get_args(Format)
TIDY = "variable, lat, lon, level (hPa), time, value, error_std, station, quality and units"
_HEAD = 65536
# Unless an option says otherwise, what grows beyond both of these is taken for a bomb: reports
# compress by a factor of 5 to 30, and nobody has to hold more than this in memory to find out.
_LARGEST, _GROWTH = 256 * 2**20, 50


def need_content(path: Path) -> None:
    """Raise a StorageError if there is no file, or nothing in it."""
    if not path.exists():
        raise absent(path, opener="read_obs")
    if not (path.is_file() or path.is_dir()):  # opening a pipe would wait for its writer for ever
        raise InputError(
            [
                Problem(
                    "a pipe, a socket or a device",
                    "a file, or the folder of a Zarr store",
                    f"cat {path} > obs.dat",
                )
            ],
            what=str(path),
        )
    if path.is_file() and not head_of(path):
        raise StorageError(
            f"{path}: empty file; needed observations; repair: fetch or write it again"
        )


def unknown(path: Path, found: str, repair: str) -> InputError:
    """The refusal of a file of unknown form."""
    return InputError(
        [Problem(found, f"observations in one of the forms {', '.join(FORMATS)}", repair)],
        what=str(path),
    )


def head_of(path: Path) -> bytes:
    """The first bytes of a file, decompressed."""
    with _opened(path) as file:
        return _read(path, file, _HEAD)


def bytes_of(path: Path) -> bytes:
    """All bytes of a file, decompressed; a StorageError if it is damaged, or grows like a bomb."""
    with _opened(path) as file:
        data = _read(path, file, largest_of(path) + 1 if is_compressed(path) else -1)
    if is_compressed(path):
        need_room(path, len(data))
    return data


def largest_of(path: Path) -> int:
    """Bytes to which a file may grow when it is decompressed."""
    return get_options().decompressed_limit or max(_LARGEST, _GROWTH * path.stat().st_size)


def need_room(path: Path, size: int) -> None:
    """Raise a StorageError if a file grows beyond that."""
    limit = largest_of(path)
    if size > limit:
        gigabytes = max(1, -(-4 * max(size, limit) // 10**9))
        raise StorageError(
            f"{path}: {path.stat().st_size} bytes that decompress to more than "
            f"{limit / 2**20:.1f} MiB; needed a file of reports, which compress by less than "
            f"{_GROWTH}; repair: xdiffda.set_options(decompressed_limit='{gigabytes} GB') if it "
            f"is one"
        )


def is_compressed(path: Path) -> bool:
    """Whether a file is gzip or zip."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"\x1f\x8b", b"PK\x03\x04"))


@contextlib.contextmanager
def plain_file(path: Path, data: bytes | None = None) -> Iterator[Path]:
    """The file itself, or its bytes in a temporary one where a decoder cannot take it as it is.

    Parameters
    ----------
    path
        A file, perhaps compressed.
    data
        What the temporary file shall hold; by default the decompressed bytes of ``path``.
    """
    if data is None and not is_compressed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="xdiffda-") as folder:
        plain = Path(folder) / "obs"
        plain.write_bytes(bytes_of(path) if data is None else data)
        yield plain


def text_of(path: Path) -> str:
    """The whole text of a file, decompressed; a StorageError if it is damaged."""
    data = bytes_of(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _opened(path: Path):
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if magic == b"PK\x03\x04":
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise damaged(path, error) from error
        members = [m for m in archive.namelist() if not m.endswith("/")]
        if len(members) != 1:
            raise unknown(path, f"an archive of {len(members)} files", f"unzip {path}")
        try:
            return archive.open(members[0])
        except (RuntimeError, NotImplementedError) as error:  # a password, a method of packing
            found = f"an archive that cannot be opened ({error})"
            raise unknown(path, found, f"unzip {path}") from error
    return path.open("rb")


def _read(path: Path, file, size: int) -> bytes:
    try:
        return file.read(size)
    except RuntimeError as error:  # zipfile's, of an archive that is whole
        raise unknown(
            path, f"an archive that cannot be opened ({error})", f"unzip {path}"
        ) from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException | str) -> StorageError:
    """The error for a file that cannot be read to its end."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}".split("\n")[0]
    return StorageError(
        f"{path}: cannot be read ({text}); the file may be truncated or damaged; "
        f"repair: fetch or write it again, then `xdiffda.read_obs({str(path)!r})`"
    )


def unreadable(path: Path, error: BaseException | str) -> InputError:
    """The error for a whole file whose content no reader of its form understands."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}".split("\n")[0]
    return InputError(
        [Problem(f"content that cannot be read ({text})", f"a table with columns {TIDY}", "")],
        what=str(path),
    )
