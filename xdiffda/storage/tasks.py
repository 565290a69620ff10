"""Independent tasks in this process or on a dask cluster; one that fails stops no other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

from xdiffda.errors import InputError, Problem, StorageError

AHEAD = 2  # tasks waiting for each thread of the cluster: enough to keep it busy
SHOWN = 20  # failures that an error tells of
Task = tuple[str, tuple | Exception]


def run_tasks(
    function: Callable[..., Any],
    tasks: Iterable[Task],
    client: Any,
    *,
    total: int,
    what: str,
    progress: bool,
) -> None:
    """Call ``function`` with the arguments of each task, whatever becomes of the others.

    Parameters
    ----------
    function : callable
    tasks : iterable of (name, arguments)
        Made as they are needed. An exception in place of arguments is why this one cannot be made.
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
        At the end, naming all tasks that failed and why; or if the cluster goes away.
    """
    failed: dict[str, BaseException] = {}
    with tqdm(total=total, desc=what, disable=not progress) as bar:
        for name, error in _results(function, iter(tasks), client):
            if error is not None:
                failed[name] = error
            bar.update()
    if failed:
        lines = [f"{what}: {len(failed)} of {total} failed; the others are in the store"]
        told = itertools.islice(failed.items(), SHOWN)
        lines += [f"  {name}: {type(e).__name__}: {e}" for name, e in told]
        lines += [f"  and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
        lines.append("repair: mend what is named and make the same call again, which resumes")
        raise StorageError("\n".join(lines)) from next(iter(failed.values()))


def _results(
    function: Callable[..., Any], tasks: Iterator[Task], client: Any
) -> Iterator[tuple[str, BaseException | None]]:
    if client is None:
        for name, arguments in tasks:
            yield name, _error_of(function, arguments)
        return
    from distributed import as_completed

    names: dict[str, str] = {}
    running = as_completed()

    def fill() -> Iterator[tuple[str, Exception]]:
        """Have tasks wait for all threads that there are by now; gives those that cannot be made.

        A cluster that adapts begins without a worker and grows with what waits for it.
        """
        room = AHEAD * _threads(client)
        while len(names) < room and (task := next(tasks, None)) is not None:
            name, arguments = task
            if isinstance(arguments, Exception):
                yield name, arguments
                continue
            # impure: calling again must look at the store, not at a remembered result
            future = client.submit(function, *arguments, pure=False)
            names[future.key] = name
            running.add(future)

    yield from fill()
    for future in running:
        error = None
        if future.status != "finished":
            error = future.exception() or RuntimeError(f"task {future.status}")
        yield names.pop(future.key), error
        yield from fill()


def _threads(client: Any) -> int:
    """Threads of a cluster, or one that it may start."""
    try:
        return sum(client.nthreads().values()) or 1
    except Exception as error:  # of a scheduler that is gone distributed raises what comes
        raise StorageError(
            f"the cluster cannot be reached ({type(error).__name__}: {error}); what is complete "
            "is in the store; repair: start a cluster and make the same call again, which resumes"
        ) from error


def _error_of(function: Callable[..., Any], arguments: tuple | Exception) -> Exception | None:
    """Return the error with which one task failed; interrupts pass through."""
    if isinstance(arguments, Exception):
        return arguments
    try:
        function(*arguments)
    except Exception as error:  # that of a damaged chunk comes from whatever reads it
        return error
    return None


def check_client(client: Any) -> None:
    """Raise InputError unless ``client`` is None or can be asked for work."""
    if client is None or hasattr(client, "nthreads"):
        return
    repair = "distributed.Client(cluster)"
    if isinstance(client, str):
        repair = f"distributed.Client({client!r})"
    raise InputError(
        [Problem(f"client={client!r}", "a distributed.Client", f"client={repair}")], what="cluster"
    )
