"""One writer for the store of a cycled run: a second would discard what the first has in hand."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from xdiffda.errors import StorageError


class Writer:
    """The right to write to a store, until the context is left or the process ends.

    The lock is on the folder itself: it leaves nothing behind, and readers do not see it. Where
    a file system or platform has no locks, nothing is held.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: int | None = None

    def __enter__(self) -> Writer:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def take(self) -> None:
        """Take the lock, if the store exists and it is not held already.

        Raises
        ------
        StorageError
            If another call holds it.
        """
        if self._held is not None or not self._path.is_dir():
            return
        try:
            import fcntl
        except ImportError:
            return
        held = os.open(self._path, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(held)
            if not isinstance(error, BlockingIOError):
                return
            raise StorageError(
                f"{self._path}: another process writes cycles into it; needed one at a time; "
                f"repair: wait for it (`xdiffda.cycling.cycle.open_cycle({str(self._path)!r})` "
                f"follows "
                "it), or another `out`"
            ) from error
        self._held = held
