"""A store of analyses in an icechunk repository: one commit for each time.

Written on the branch ``main``. What a killed process had not committed is not there; workers that
commit at the same time write different chunks, and the later one is put on top of the other. An
object store sees to it that one of them is the later one; on a disk icechunk does not, and a lock
has to.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from xdiffda.errors import StorageError
from xdiffda.storage.regions import COMPLETE, FolderStore, Store, write_blank, write_variables

SCHEME = "icechunk://"
_INSTALL = 'pip install "xdiffda[icechunk]"'
# icechunk tells where a repository is stored in the text of its storage alone
_ON_DISK = re.compile(r"LocalFileSystem\w*\(path=(.*)\)\)$", re.DOTALL)
_IN_MEMORY = "(backend=InMemory"


def as_store(out: Any) -> Store:
    """The store that is meant by a path, an address or an icechunk repository.

    Parameters
    ----------
    out : path, str or icechunk.Repository
        A folder ``.zarr``; ``icechunk://FOLDER``, a repository on this disk that is made unless
        it is there; or a repository, wherever it lies.

    Raises
    ------
    StorageError
        If an address is given and icechunk is not installed, or cannot open it.
    """
    if isinstance(out, Store):
        return out
    if _is_repository(out):
        found = _ON_DISK.search(str(out.storage))
        return IcechunkStore(out, lock=found and _lock_beside(Path(found[1])))
    if not isinstance(out, str | os.PathLike):
        raise StorageError(
            f"out={out!r}: a {type(out).__name__}; needed a path or an icechunk repository; "
            "repair: `out='analyses.zarr'`"
        )
    text = os.fspath(out)
    if not text.startswith(SCHEME):
        _need_folder(text)
        return FolderStore(text)
    folder = Path(text.removeprefix(SCHEME)).expanduser().absolute()
    repository, storage = _open(text, folder)
    return IcechunkStore(repository, lock=_lock_beside(folder), blank=storage)


class IcechunkStore(Store):
    """The branch ``main`` of an icechunk repository.

    Parameters
    ----------
    repository : icechunk.Repository or None
    lock : path, optional
        A file to hold while committing, where the storage itself keeps no order.
    blank : icechunk.Storage, optional
        Where the repository is made when it is first written to, if there is none.
    """

    consolidated = False
    branch = "main"

    def __init__(self, repository: Any, *, lock: Path | None = None, blank: Any = None) -> None:
        self._repository, self.lock, self._blank = repository, lock, blank

    @property
    def repository(self) -> Any:
        """The repository; made now if there is none."""
        if self._repository is None:
            import icechunk

            self._repository = icechunk.Repository.open_or_create(self._blank)
        return self._repository

    @property
    def name(self) -> str:
        return f"branch {self.branch!r} of the icechunk repository"

    @property
    def another(self) -> str:
        return "another_repository"

    def exists(self) -> bool:
        if self._repository is None:
            return False
        try:
            self._group()
        except FileNotFoundError:  # a new repository has no root
            return False
        return True

    def need_shared(self) -> None:
        if self._repository is not None and _IN_MEMORY in str(self._repository.storage):
            raise StorageError(
                f"{self.name}: it lies in the memory of this process, where no worker of a "
                f"cluster can write; repair: `out={SCHEME + '/FOLDER'!r}`, a folder that all "
                "workers see, or a repository in an object store, or leave out `client`"
            )

    def source(self) -> Any:
        return self.repository.readonly_session(branch=self.branch).store

    def create(self, template: xr.Dataset, dim: str, config: Mapping[str, Any]) -> None:
        session = self._session()
        write_blank(template, dim, config, session.store, consolidated=False)
        self._commit(session, "store of analyses, none complete")

    def write_time(self, i: int, record: xr.Dataset, dim: str) -> None:
        import zarr

        session = self._session()
        group = zarr.open_group(session.store, mode="r+", use_consolidated=False)
        write_variables(group, i, record, dim)
        marker: Any = group[COMPLETE]
        marker[i] = 1
        try:
            self._commit(session, f"analysis of {str(record[dim].values[0])[:16]}")
        except StorageError:
            # a worker that the cluster has given up may be alive: what it wrote is the same
            if i in self.missing_times():
                raise

    def _session(self) -> Any:
        import icechunk

        try:
            return self.repository.writable_session(self.branch)
        except icechunk.IcechunkError as error:
            raise StorageError(
                f"{self.name}: cannot be opened for writing in this process ({error}); repair: "
                "keep it where every worker sees it, and make the same call again"
            ) from error

    def _commit(self, session: Any, message: str) -> None:
        import icechunk
        from filelock import FileLock

        held = contextlib.nullcontext() if self.lock is None else FileLock(self.lock)
        try:
            with held:
                session.commit(message, rebase_with=icechunk.ConflictDetector())
        except (
            OSError,
            icechunk.IcechunkError,
            icechunk.ConflictError,
            icechunk.RebaseFailedError,
        ) as error:
            raise StorageError(
                f"{self.name}: cannot commit {message!r} ({error}); all times committed before "
                "are whole; repair: make the same call again, which goes on"
            ) from error


def _is_repository(out: Any) -> bool:
    # by name: icechunk is not imported for those who do not use it
    return type(out).__module__.split(".")[0] == "icechunk" and hasattr(out, "writable_session")


def _lock_beside(folder: Path) -> Path:
    """The file that whoever commits to a repository on a disk holds."""
    folder = folder.resolve()  # workers may have another working directory
    return folder.with_name(f".{folder.name}.lock")


def _need_folder(text: str) -> None:
    """Raise where a path is an address: analyses are flushed to a disk and renamed."""
    if "://" in text or re.match(r"[a-z][a-z0-9+.-]+:/", text):
        bucket, _, prefix = text.partition("://")[2].partition("/")
        kind = "gcs" if text.startswith("g") else "s3"
        storage = f"icechunk.{kind}_storage(bucket={bucket!r}, prefix={prefix!r})"
        raise StorageError(
            f"{text}: an address; needed a folder .zarr on a disk, or an icechunk repository; "
            f"repair: `icechunk.Repository.open_or_create({storage})` as `out`"
        )


def _open(address: str, folder: Path) -> tuple[Any, Any]:
    """The repository, None where there is nothing yet, and its storage."""
    try:
        import icechunk
    except ImportError as error:
        raise StorageError(
            f"{address}: needs the package icechunk ({error}); repair: `{_INSTALL}`, or a zarr "
            f"store: `out={str(folder.with_suffix('.zarr'))!r}`"
        ) from error
    if folder.name in ("", "~") or not folder.parent.is_dir():
        raise StorageError(
            f"{address}: no folder {folder.parent} for the repository; repair: "
            f"`mkdir -p {folder.parent}`"
        )
    storage, found = icechunk.local_filesystem_storage(str(folder)), "a file"
    try:
        # looked at beforehand: opened on a file, icechunk ends in a panic
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None, storage
        if folder.is_dir():
            found = "a folder without a repository"
            if icechunk.Repository.exists(storage):
                return icechunk.Repository.open(storage), storage
    except icechunk.IcechunkError as error:
        found = str(error)
    raise StorageError(
        f"{address}: no icechunk repository can be opened there ({found}); what is there is left "
        f"as it is; repair: `out={f'{SCHEME}{folder}-2'!r}`"
    )
