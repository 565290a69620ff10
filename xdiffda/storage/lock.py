"""One writer for the store of a cycled run: a second would discard what the first has in hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from xdiffda.errors import StorageError


@contextlib.contextmanager
def single_writer(path: Path) -> Iterator[None]:
    """Hold the lock of a store, a hidden file beside it, which goes with the process.

    It is held before the store exists, so that two runs from nothing cannot both begin. Where a
    file system has no locks, nothing is held.

    Parameters
    ----------
    path
        Folder of the store, which need not exist yet.

    Raises
    ------
    StorageError
        If another call holds it, or the folder of the store cannot be written to.
    """
    if not path.parent.is_dir():  # filelock would make it: who writes says what is wrong
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"{path}: another process writes cycles into it; needed one at a time; repair: wait "
            f"for it (`xdiffda.cycling.cycle.open_cycle({str(path)!r})` follows it), or another "
            "`out`"
        ) from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    except OSError as error:
        raise StorageError(
            f"{path}: its folder cannot be written to ({error}); repair: another `out`"
        ) from error
    try:
        yield
    finally:
        lock.release()
