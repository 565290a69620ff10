"""Which form a file has, by what is in it; the suffix is not asked."""

from __future__ import annotations

import contextlib
import gzip
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from xdiffda.errors import InputError, Problem, StorageError
from xdiffda.storage.files import absent

FORMATS = ("netcdf", "zarr", "csv", "ioda", "igra", "metar", "bufr", "prepbufr")
# What is recognised and not read: how it is called, and what makes tidy columns of it.
REFUSED = {
    "odb": ("ODB", "pyodc", "varno, obsvalue, lat, lon, vertco_reference_1, obs_error"),
}
_TIDY = "variable, lat, lon, level (hPa), time, value, error_std, station, quality and units"
_HEAD = 65536
# A compressed file that grows beyond both of these is taken for a bomb: reports compress by a
# factor of 5 to 30, and nobody has to hold more than this in memory to find out.
_LARGEST, _GROWTH = 256 * 2**20, 50
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")
_TABLES = (b"PREPBUFR", b"ADPSFC")  # in the mnemonic tables that begin every prepBUFR file
IGRA = re.compile(r"#[A-Z]{2}[A-Z0-9]{9} \d{4} \d\d \d\d \d\d (\d{4}|\s{4}) ")
METAR = {"Unix_time", "ICAO", "Latitude", "Longitude", "Temp", "Dewp", "Wdir", "Wspd", "Altimeter"}
_NOT_OBSERVATIONS = {
    b"GRIB": ("GRIB, which holds fields", "xdiffda.open_dataset({path!r})"),
    b"PAR1": ("parquet", "pandas.read_parquet({path!r})"),
    b"\x80": ("binary data that may be a pickle, which is never loaded", "obs.to_csv('obs.csv')"),
}


def recognise(path: Path) -> str:
    """Form of the file, one of `FORMATS` or `REFUSED`.

    Raises
    ------
    StorageError
        If it is damaged.
    InputError
        If it is none of the known forms.
    """
    if path.is_dir():
        if any((path / name).exists() for name in _ZARR):
            return "zarr"
        raise unknown(path, "a folder that is no Zarr store", f"os.listdir({str(path)!r})")
    head = head_of(path)
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02", b"CDF\x05")):
        return _kind_of_netcdf(path)
    if head.startswith(b"\xff\xffODA"):
        return "odb"
    if _is_bufr(head):
        return "prepbufr" if all(word in head for word in _TABLES) else "bufr"
    for magic, (found, repair) in _NOT_OBSERVATIONS.items():
        if head.startswith(magic):
            raise unknown(path, found, repair.format(path=str(path)))
    return _kind_of_text(path, head)


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


def refuse(path: Path, form: str) -> InputError:
    """The refusal of a form that other tools decode."""
    name, tool, words = REFUSED[form]
    return InputError(
        [
            Problem(
                f"{name}, which xdiffda does not decode",
                f"a table decoded from it ({words}) with columns {_TIDY}",
                f"pip install {tool}",
            )
        ],
        what=str(path),
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
    limit = max(_LARGEST, _GROWTH * path.stat().st_size)
    with _opened(path) as file:
        data = _read(path, file, limit + 1)
    if len(data) > limit:
        raise StorageError(
            f"{path}: {path.stat().st_size} bytes that decompress to more than {limit / 2**20:.0f} "
            f"MiB; needed a file of reports, which compress by less than {_GROWTH}; repair: "
            f"decompress it, then `xdiffda.read_obs(...)` on what comes out"
        )
    return data


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
    with path.open("rb") as file:
        compressed = file.read(4).startswith((b"\x1f\x8b", b"PK\x03\x04"))
    if data is None and not compressed:
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
        [Problem(f"content that cannot be read ({text})", f"a table with columns {_TIDY}", "")],
        what=str(path),
    )


def _is_bufr(head: bytes) -> bool:
    """A message of edition 2 to 4, perhaps behind the heading of a bulletin or a record mark."""
    at = head.find(b"BUFR", 0, 512)
    return at >= 0 and at + 7 < len(head) and head[at + 7] in (2, 3, 4)


def _kind_of_netcdf(path: Path) -> str:
    from xdiffda.observations.readers.ioda import is_ioda

    return "ioda" if is_ioda(path) else "netcdf"


def _is_text(head: bytes) -> bool:
    """Whether bytes are text in some encoding: tabs, form feeds and bulletin marks are."""
    controls = set(range(32)) - {*b"\t\n\v\f\r\x01\x03\x1a\x1b"}
    return not controls & set(head)


def _kind_of_text(path: Path, head: bytes) -> str:
    line = head.decode("utf-8-sig", "replace").lstrip().split("\n", 1)[0].rstrip("\r")
    if IGRA.match(line):
        return "igra"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        repair = f"iconv -f UTF-16 -t UTF-8 {path} > obs.csv"
        raise unknown(path, "text in UTF-16, where UTF-8 is read", repair)
    if not _is_text(head):
        raise unknown(path, "binary data of no known form", f"file {path}")
    from xdiffda.observations.readers.own import columns_of, is_tidy

    words = columns_of(line)
    if set(words) >= METAR:
        return "metar"
    if is_tidy(words):
        return "csv"
    if len(words) > 2:
        shown = ", ".join(words[:8])
        found = f"a table with columns {shown}" + ", ..." * (len(words) > 8)
        raise InputError(
            [
                Problem(
                    found,
                    f"one row for each value, with columns {_TIDY}",
                    f"pandas.read_csv({str(path)!r}).rename(columns={{...}})",
                )
            ],
            what=str(path),
        )
    raise unknown(path, f"text that begins with {line[:40]!r}", f"pandas.read_table({str(path)!r})")
