"""Options: folders, progress, default model, devices. Scientific choices are arguments."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from xdiffda.errors import Problem, raise_if

# Memory that is kept, on large pages: for long computations on CPUs under Linux.
#
# XLA allocates the temporaries of every call anew, and the C library returns such blocks to the
# system after each; the next call then faults its memory in again, 4 kB at a time.  Training the
# testbed's denoiser spent half of its processor time on that (tests/benchmarks/README.md).  The
# C library asks for pages of 2 MB, keeps what was freed and takes it all from one heap if told so
# when the process starts, and only then.
#
# Where single blocks take gigabytes, such a heap falls to pieces: an analysis at 0.25 degree grew
# beyond 21 GB.  `return_large_blocks` has these returned at once, as usual.

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

    Does nothing unless this process was started with the tunables that keep such blocks; the
    settings of another allocator are not touched.
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


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("XDIFFDA_CACHE_DIR") or Path(base) / "xdiffda")


@dataclass(frozen=True)
class Options:
    """All options and their present values; see `set_options`."""

    cache_dir: Path
    progress: bool = True
    default_model: str = "speedy"
    memory_limit: int | None = None
    n_devices: int | None = None
    mirror: str | None = None
    decompressed_limit: int | None = None


_common: list[Options] = []  # of the process; one element once options are first asked for
# Options of a ``with`` block, or of a thread that is not the main one. Had these changed what is
# common, threads that run side by side would see, and restore, each other's.
_own: ContextVar[Options | None] = ContextVar("options of xdiffda", default=None)


def _common_options() -> Options:
    if not _common:
        _common.append(Options(_default_cache(), mirror=os.environ.get("XDIFFDA_MIRROR")))
    return _common[0]


def get_options() -> Options:
    """The options in force.

    Examples
    --------
    >>> get_options().default_model
    'speedy'
    """
    return _own.get() or _common_options()


class set_options:
    """Set options, for good or inside a ``with`` block; all are checked before any is applied.

    In a ``with`` block they hold for that block and what it calls, not for other threads. Without
    one they hold for the process; set in a thread other than the main one, for that thread.

    Parameters
    ----------
    cache_dir : str or Path, optional
        Folder for downloaded weights. By default ``$XDIFFDA_CACHE_DIR``, else
        ``$XDG_CACHE_HOME/xdiffda``, else ``~/.cache/xdiffda``; made when first used.
    progress : bool, optional
        Whether long calls show progress unless told otherwise; default True.
    default_model : str, optional
        The model of calls that name none; default ``"speedy"``.
    memory_limit : str or int, optional
        Memory that `xdiffda.assimilate` and forecasts may use on each device, such as
        ``"20 GB"`` or a number of bytes; ``"device"`` (the default) takes what the device has.
        Members are computed in groups that fit.
    n_devices : int, optional
        Number of local devices that `xdiffda.assimilate` spreads members and analysis times
        over; 0 (the default) takes all.
    mirror : str or Path, optional
        Folder or address that published weights are taken from instead of their bucket, laid
        out like it (``graphcast/params/...``); "" for the bucket itself. By default
        ``$XDIFFDA_MIRROR``, else the bucket.
    decompressed_limit : str or int, optional
        Bytes to which a compressed file of observations may grow, such as ``"4 GB"``; what grows
        further is refused as a bomb. ``"auto"`` (the default) is 256 MiB or 50 times the
        compressed size, whichever is more.

    Raises
    ------
    InputError
        With all wrong values at once; no option is changed then.

    Examples
    --------
    >>> with set_options(progress=False):
    ...     get_options().progress
    False
    >>> get_options().progress
    True
    """

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike | None = None,
        progress: bool | None = None,
        default_model: str | None = None,
        memory_limit: str | int | None = None,
        n_devices: int | None = None,
        mirror: str | os.PathLike | None = None,
        decompressed_limit: str | int | None = None,
    ) -> None:
        given = {
            "cache_dir": cache_dir,
            "progress": progress,
            "default_model": default_model,
            "memory_limit": memory_limit,
            "n_devices": n_devices,
            "mirror": mirror,
            "decompressed_limit": decompressed_limit,
        }
        checked = _checked({name: value for name, value in given.items() if value is not None})
        self._common, self._before = _common_options(), _own.get()
        self._set = replace(get_options(), **checked)
        if self._before is None and threading.current_thread() is threading.main_thread():
            _common[0] = self._set
        else:
            _own.set(self._set)

    def __enter__(self) -> None:
        if _common[0] is self._set:  # it was set for good; it is for this block
            _common[0] = self._common
        _own.set(self._set)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _own.set(self._before)


def _folder(value: object) -> Path | None:
    folder = Path(value).expanduser() if isinstance(value, str | os.PathLike) else None
    return None if folder is None or folder.is_file() else folder


def _limit(value: object) -> int | str | None:
    return "device" if value == "device" else _bytes(value) or None


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def _address(value: object) -> str | None:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


# option: what makes a value of it of what was given (None: it cannot be one), what is needed,
# an example, and the word that stands for "no limit" or "the default" and is kept as None
_RULES: dict[str, tuple[Callable[[object], object], str, str, object]] = {
    "cache_dir": (_folder, "a folder", '"~/weights"', ...),
    "progress": (lambda v: v if isinstance(v, bool) else None, "True or False", "False", ...),
    "default_model": (
        lambda v: v if isinstance(v, str) and v else None,
        "the name of a model",
        '"speedy"',
        ...,
    ),
    "memory_limit": (_limit, 'an amount of memory, or "device"', '"20 GB"', "device"),
    "n_devices": (_count, "a number of devices, or 0 for all", "1", 0),
    "mirror": (_address, "a folder or an address", '"/data/dm_graphcast"', ""),
    "decompressed_limit": (
        lambda v: "auto" if v == "auto" else _bytes(v) or None,
        'an amount of memory, or "auto"',
        '"4 GB"',
        "auto",
    ),
}


def _checked(options: dict[str, object]) -> dict:
    """The options as they are kept; all that is wrong with them is raised at once."""
    problems, checked = [], {}
    for name, value in options.items():
        make, needed, example, neutral = _RULES[name]
        made = make(value)
        if made is None:
            repair = f"xdiffda.set_options({name}={example})"
            problems.append(Problem(f"{name}={value!r}", needed, repair))
        checked[name] = None if made == neutral else made
    raise_if(problems, what="options")
    return checked


def _bytes(value: object) -> int:
    """Bytes of an amount of memory; 0 where it is none."""
    from dask.utils import parse_bytes

    try:
        return 0 if isinstance(value, bool) else int(parse_bytes(value))
    except (ValueError, TypeError, AttributeError):
        return 0
