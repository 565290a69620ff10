"""Memory that is kept, on large pages: for long computations on CPUs under Linux.

XLA allocates the temporaries of every call anew, and the C library returns such blocks to the
system after each; the next call then faults its memory in again, 4 kB at a time.  Training the
testbed's denoiser spent half of its processor time on that (tests/benchmarks/README.md).  The
C library asks for pages of 2 MB, keeps what was freed and takes it all from one heap if told so
when the process starts, and only then.

Where single blocks take gigabytes, such a heap falls to pieces: an analysis at 0.25 degree grew
beyond 21 GB.  `return_large_blocks` has these returned at once, as usual.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

TUNABLE = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000:"
    "glibc.malloc.arena_max=1"
)
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_FIRST_GLIBC = (2, 35)
_MMAP_MAX, _MMAP_THRESHOLD = -4, -3  # of mallopt
_LARGE = 1 << 25  # bytes, the largest threshold that it takes


def request_huge_pages() -> None:
    """Start this process again (same number, same arguments) with large pages, where it helps.

    Does nothing if ``GLIBC_TUNABLES`` is set already (set it empty to opt out), outside Linux
    with glibc 2.35 or later, or where the system gives large pages always or never.  For the
    first lines of a program: whatever ran before runs twice.
    """
    if "GLIBC_TUNABLES" in os.environ or not _helps():
        return
    sys.stdout.flush()
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, "GLIBC_TUNABLES": TUNABLE})


def return_large_blocks() -> None:
    """Return blocks of 32 MB and more to the system when they are freed, from now on.

    Does nothing unless this process was told to keep them: its allocator is its own otherwise.
    """
    if "mmap_max=0" in os.environ.get("GLIBC_TUNABLES", "") and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 1 << 16)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.malloc_trim(0)  # and what the heap has kept so far


def _helps() -> bool:
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(n) for n in version.split(".")[:2]) < _FIRST_GLIBC:
        return False
    try:
        return "[madvise]" in _POLICY.read_text()
    except OSError:
        return False
