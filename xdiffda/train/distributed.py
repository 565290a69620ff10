"""Distributed training: start of the processes, placement of arrays, a common end.

Every process runs the same program on its own devices. All of them see the same global batch;
each reads its own rows of it. Nothing here depends on how many processes there are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.train.config import TrainConfig
from xdiffda.train.launchers import address_by_pmi, own_device, started_by, where_to_listen

AXIS = "data"


def initialise(
    *, coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the processes of this run; do nothing where there is only one.

    Parameters
    ----------
    coordinator : str, optional
        ``host:port`` of process 0. Without it, what ``srun`` or ``mpirun`` left in the
        environment counts, if it started more than one task.
    processes, process_id : int, optional
        Number of processes, and which of them this is.

    Raises
    ------
    InputError
        If only some of the three are given where the environment does not know the others.
    """
    started = started_by(os.environ)
    given = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    if all(value is None for value in given.values()):
        if started is None:
            return
        coordinator, processes, process_id = started
        coordinator = coordinator or address_by_pmi(os.environ, processes, process_id)
    elif started is not None:
        coordinator = coordinator or started[0]
        processes = started[1] if processes is None else processes
        process_id = started[2] if process_id is None else process_id
    missing = [name for name, value in given.items() if value is None and started is None]
    problems = []
    if missing:
        problems.append(Problem(f"no {' and no '.join(missing)}", "all three", _HOSTS))
    elif processes is not None and not 0 <= (process_id or 0) < processes:
        problems.append(Problem(f"process {process_id} of {processes}", "0 to N - 1", _HOSTS))
    elif coordinator is None:
        found = "tasks on several machines, and no address of the first"
        problems.append(Problem(found, "its host and a free port", "--coordinator HOST:29400"))
    raise_if(problems, what="distributed run")
    if processes == 1 or coordinator is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    options = {**own_device(os.environ), **where_to_listen(coordinator)}
    jax.distributed.initialize(coordinator, processes, process_id, **options)


_HOSTS = "--coordinator HOST:29400 --processes N --process-id I"


@contextmanager
def all_or_none() -> Iterator[None]:
    """End this process at once if it fails while others run.

    A normal exit would wait for them (until their heartbeat is missed, minutes later), and they
    wait for this one in a collective operation.
    """
    try:
        yield
    except BaseException:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def leads() -> bool:
    """Return whether this is the process that writes logs and caches."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes are here, however long one of them computes.

    Asked of process 0's service, not of the devices: on CPUs a collective operation gives up
    after 30 s. A process that dies meanwhile is missed by its heartbeat, and ends the others.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        key = f"xdiffda {next(_BARRIERS)}: {name}"
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=_PATIENCE)


_BARRIERS = count()  # all processes pass them in the same order; a key serves once
_PATIENCE = 24 * 3600 * 1000  # ms


@contextmanager
def first_alone(name: str) -> Iterator[None]:
    """Process 0 goes through the block first (it fills caches), then all others.

    They leave it together: the next collective operation waits for none of them.
    """
    if not leads():
        barrier(name)
    try:
        yield
    finally:
        if leads():
            barrier(name)
    barrier(f"{name}, in all processes")


class Placement:
    """How a run's arrays lie on all devices of all processes.

    Batches are split along their first axis; weights are whole on every device; optimiser
    state and averages are split along the first axis that all devices can share (the ZeRO
    scheme of Rajbhandari et al. 2020, arXiv 1910.02054, stage 1), else whole.

    Parameters
    ----------
    batch : int
        Global batch.
    accumulate : int
        Pieces in which it is computed.
    shard : bool
        Whether optimiser state and averages are split.

    Raises
    ------
    InputError
        If the batch cannot be cut into equal pieces for all devices.
    """

    def __init__(self, batch: int, *, accumulate: int = 1, shard: bool = True) -> None:
        self.devices = jax.devices()
        self.batch, self.shard = batch, shard
        n = len(self.devices) * accumulate
        if batch % n:
            found = f"batch = {batch} for {len(self.devices)} devices in {accumulate} pieces each"
            near = max(n, round(batch / n) * n)
            problem = Problem(found, f"a multiple of {n}", f"batch = {near}  # or fewer devices")
            raise InputError([problem], what="training configuration")
        self.mesh = Mesh(np.array(self.devices), (AXIS,))
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        self.rows = NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def own_rows(self) -> slice:
        """Rows of the global batch that this process reads."""
        n = self.batch // jax.process_count()
        return slice(n * jax.process_index(), n * (jax.process_index() + 1))

    def split(self, tree: Any) -> Any:
        """Shardings of optimiser state or averages."""
        return jax.tree.map(self._split, tree)

    def _split(self, array: Any) -> NamedSharding:
        shape, n = np.shape(array), len(self.devices)
        if self.shard and n > 1:
            for axis, size in enumerate(shape):
                if size % n == 0 and np.size(array) >= 16 * n:
                    spec = PartitionSpec(*(None,) * axis, AXIS)
                    return NamedSharding(self.mesh, spec)
        return self.whole

    def place(self, tree: Any, shardings: Any) -> Any:
        """Put arrays that are the same on every process where they belong."""

        def one(array: Any, sharding: NamedSharding) -> jax.Array:
            host = np.asarray(array)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(one, tree, shardings)

    def batch_of(self, own: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """The global batch, from this process's rows of it."""
        one = jax.make_array_from_process_local_data
        return {
            k: one(self.rows, np.ascontiguousarray(v), (self.batch, *v.shape[1:]))
            for k, v in own.items()
        }

    def flag(self, value: bool) -> jax.Array:
        """One value per device, so that any process can tell all others something."""
        own = np.full(len(jax.local_devices()), value)
        return jax.make_array_from_process_local_data(self.rows, own, (len(self.devices),))


class StopRequest:
    """Turns SIGTERM (and SIGUSR1, Slurm's usual warning) into a wish to stop after a step.

    Schedulers send it before they take a machine away. A second signal ends the process. What
    came while another one was at watch around this one (from the start of a run) counts.
    """

    SIGNALS = ("SIGTERM", "SIGUSR1")

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for name in self.SIGNALS:
            number = getattr(signal, name, None)
            if number is None:  # Windows has no SIGUSR1
                continue
            earlier = getattr(signal.getsignal(number), "__self__", None)
            self.wanted |= isinstance(earlier, StopRequest) and earlier.wanted
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: signals are the caller's business
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.wanted = True


# What to say where a training run does not fit into the memory of its devices.

EDGES = 16384  # to propose where edges are computed all at once
_FULL = ("RESOURCE_EXHAUSTED", "out of memory")


@contextlib.contextmanager
def memory_explained(config: TrainConfig) -> Iterator[None]:
    """Turn an allocation that fails into an error that names what reduces the memory.

    Raises
    ------
    InputError
        In place of the allocator's error; others pass.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = (str(error).splitlines() or ["out of memory"])[0]
        if not isinstance(error, MemoryError) and not any(mark in text for mark in _FULL):
            raise
        raise InputError([_problem(config, text)], what="memory of training") from error


def _problem(config: TrainConfig, text: str) -> Problem:
    """Describe the failed allocation, and the entries of the configuration that need less."""
    compute, ways = config.compute, []
    if not compute.remat:
        ways.append("remat = true")
    pieces = [n for n in range(compute.accumulate + 1, config.batch + 1) if config.batch % n == 0]
    if pieces:
        ways.append(f"accumulate = {pieces[0]}")
    ways.append(f"edge_chunk = {compute.edge_chunk // 2 or EDGES}")
    if compute.dtype == "float32":
        ways.append('dtype = "bfloat16"')
    needed = (
        "memory for a step: entries of the table compute reduce it (remat stores no messages, "
        "accumulate computes the batch in pieces, edge_chunk some edges at a time), as would a "
        "smaller batch"
    )
    found = f"batch = {config.batch} on {jax.device_count()} devices: {text[:200]}"
    return Problem(found, needed, "; ".join(ways))
