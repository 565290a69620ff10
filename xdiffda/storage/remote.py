"""Zarr stores behind a network: a read that fails is tried again before it is an error.

File systems in the cloud try again by themselves, or not at all (plain https). A run of days
reads millions of chunks, and should not end with the first that is late.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import xarray as xr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, WrapperStore

from xdiffda.errors import StorageError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


ATTEMPTS = 5
BACKOFF = 1.0  # seconds, doubled at each attempt
_LATER = (408, 429)  # of the answers that blame the question, those that time may change
_FINAL = (ImportError, NotImplementedError, PermissionError, LookupError, TypeError, ValueError)
_T = TypeVar("_T")


class PatientStore(WrapperStore[FsspecStore]):
    """A store whose reads are tried several times.

    Raises
    ------
    StorageError
        On reading, if all attempts fail; errors that no further attempt can mend are raised at
        once.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return await self._again(key, lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        wanted = list(key_ranges)  # an iterator would be empty at the second attempt
        first = wanted[0][0] if wanted else ""
        return await self._again(first, lambda: self._store.get_partial_values(prototype, wanted))

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncIterator[tuple[str, Buffer | None]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        async for found in Store._get_many(self, requests):  # by `get`, unlike the wrapped one's
            yield found

    async def _again(self, key: str, read: Callable[[], Awaitable[_T]]) -> _T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await read()
            except Exception as error:
                if _is_final(error) or attempt == ATTEMPTS:
                    times = "" if _is_final(error) else f" in {attempt} attempts"
                    raise StorageError(
                        f"{self._store.path}/{key}: cannot be read{times} ({_said(error)}); "
                        f"repair: {repair_of(error)}; a run that is called again goes on"
                    ) from error
            await asyncio.sleep(BACKOFF * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")


def open_remote(path: str, storage: Mapping[str, Any] | None = None, **options: Any) -> xr.Dataset:
    """Open a zarr store at an address, lazily.

    Parameters
    ----------
    path
        Address as ``gs://...`` or ``https://...``.
    storage
        Options of its file system, as ``{"token": "anon"}``.
    **options
        Of `xarray.open_zarr`.

    Raises
    ------
    StorageError
        If it cannot be opened, with what repairs it.
    """
    try:
        store = FsspecStore.from_url(path, storage_options=dict(storage or {}), read_only=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Failed to open Zarr store with consol")
            ds = xr.open_zarr(PatientStore(store), **options)
    except StorageError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise StorageError(
            f"{path}: cannot be opened as zarr ({_said(error)}); repair: {repair_of(error)}"
        ) from error
    ds.encoding["source"] = path
    return ds


def repair_of(error: BaseException) -> str:
    """Return what a user can do about an error of a file system."""
    text, kind = str(error), type(error).__name__
    if isinstance(error, ImportError):
        return '`pip install "xdiffda[cloud]"`'
    if isinstance(error, FileNotFoundError) or "NotFound" in kind:
        return "the address of a zarr store (it holds zarr.json, .zgroup or .zmetadata)"
    if isinstance(error, PermissionError) or _status(error) in (401, 403) or _forbidden(text):
        return 'a public store with storage = {token = "anon"}, or credentials that may read it'
    if "rotocol" in text:
        return "an address as gs://BUCKET/STORE.zarr or https://HOST/STORE.zarr"
    return "a network that reaches it"


def _is_final(error: Exception) -> bool:
    """Return whether another attempt would fail in the same way."""
    blamed = 400 <= _status(error) < 500 and _status(error) not in _LATER
    return isinstance(error, _FINAL) or blamed or _forbidden(str(error))


def _status(error: BaseException) -> int:
    """Status of an answer over http, 0 where there is none: aiohttp's name, then gcsfs's."""
    found = getattr(error, "status", None) or getattr(error, "code", None) or 0
    return int(found) if str(found).isdigit() else 0


def _forbidden(text: str) -> bool:
    return text.startswith("Forbidden")  # gcsfs, an OSError


def _said(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
