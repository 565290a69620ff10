"""Independent tasks in this process or on a dask cluster; one that fails stops no other."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xdiffda.errors import StorageError, XdiffdaError

AHEAD = 2  # tasks waiting for each thread of the cluster: enough to keep it busy
Task = tuple[str, tuple]


def run_tasks(
    function: Callable[..., Any], tasks: Iterable[Task], client: Any, *, total: int,
    what: str, progress: bool,
) -> None:  # fmt: skip
    """Call ``function`` with the arguments of each task, whatever becomes of the others.

    Parameters
    ----------
    function : callable
    tasks : iterable of (name, arguments)
        Made as they are needed.
    client : distributed.Client or None
        None works in this process, one after another.
    total : int
        Number of tasks.
    what : str
        Goes in front of the progress bar and of an error.
    progress : bool

    Raises
    ------
    StorageError
        At the end, naming all tasks that failed and why.
    """
    failed: dict[str, BaseException] = {}
    with tqdm(total=total, desc=what, disable=not progress) as bar:
        for name, error in _results(function, iter(tasks), client):
            if error is not None:
                failed[name] = error
            bar.update()
    if failed:
        lines = [f"{what}: {len(failed)} of {total} failed; the others are in the store"]
        lines += [f"  {name}: {type(e).__name__}: {e}" for name, e in failed.items()]
        lines.append("repair: mend what is named and make the same call again, which goes on")
        raise StorageError("\n".join(lines)) from next(iter(failed.values()))


def _results(
    function: Callable[..., Any], tasks: Iterator[Task], client: Any
) -> Iterator[tuple[str, BaseException | None]]:
    if client is None:
        for name, arguments in tasks:
            try:
                function(*arguments)
                yield name, None
            except XdiffdaError as error:
                yield name, error
        return
    from distributed import as_completed

    names: dict[str, str] = {}

    def submit(task: Task) -> Any:
        name, arguments = task
        # impure: calling again must look at the store, not at a remembered result
        future = client.submit(function, *arguments, pure=False)
        names[future.key] = name
        return future

    threads = sum(client.nthreads().values()) or 1
    running = as_completed([submit(t) for t in itertools.islice(tasks, AHEAD * threads)])
    for future in running:
        error = None
        if future.status != "finished":
            error = future.exception() or RuntimeError(f"task {future.status}")
        yield names.pop(future.key), error
        for task in itertools.islice(tasks, 1):
            running.add(submit(task))


@contextlib.contextmanager
def single_writer(path: Path) -> Iterator[None]:
    """Hold a lock beside ``path``; it goes with the process, however that ends.

    A worker that a cluster has given up may still be alive and writing.

    Raises
    ------
    StorageError
        If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    with open(lock, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"{path}: another process is writing to it; repair: wait for that one "
                f"(`fuser {lock}`), then make the same call again, which goes on"
            ) from error
        yield
        with contextlib.suppress(OSError):
            os.unlink(lock)
