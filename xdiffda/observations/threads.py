"""Numpy over pieces of a long axis on all cores; its loops release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def n_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_pieces(work: Callable[[slice], None], size: int, piece: int) -> None:
    """Call ``work`` for consecutive pieces of ``range(size)``, in threads where there are many.

    Examples
    --------
    >>> seen = []
    >>> for_pieces(lambda rows: seen.append(rows.stop - rows.start), 10, 4)
    >>> sorted(seen)
    [2, 4, 4]
    """
    pieces = [slice(start, min(start + piece, size)) for start in range(0, size, piece)]
    if len(pieces) < 4 or n_threads() == 1:
        for rows in pieces:
            work(rows)
        return
    with ThreadPoolExecutor(n_threads()) as pool:
        for _ in pool.map(work, pieces):  # raises what the work raised
            pass
