"""Which members and which analysis times go to which devices, and how many at a time."""

from __future__ import annotations

import contextvars
import dataclasses
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from xdiffda.jax_settings import with_own_jax

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the members of one analysis time are computed.

    Attributes
    ----------
    per_device : int
        Members that a device computes together.
    devices : tuple of Device
        The devices that share each group of members; empty for jax's default device.
    """

    per_device: int
    devices: tuple[Any, ...] = ()

    def groups(self, n_members: int) -> Iterator[Int[np.ndarray, " member"]]:
        """Numbers of the members of each group.

        A last group that its devices do not divide is padded with members that nobody
        asked for: the devices would be idle otherwise, and no member depends on another.
        """
        size = self.per_device * max(len(self.devices), 1)
        for first in range(0, n_members, size):
            numbers = np.arange(first, min(first + size, n_members))
            n = max(len(self.devices), 1)
            yield np.arange(first, first + -(-len(numbers) // n) * n)

    def n_groups(self, n_members: int) -> int:
        """Number of groups."""
        return sum(1 for _ in self.groups(n_members))


def make_schedules(n_members: int, *, max_batch: int, devices: Sequence[Any]) -> list[Schedule]:
    """Split devices into sets that work on different analysis times at once.

    The members of one time are shared out among as many devices as shorten it; with fewer
    members than devices, the others take other times.

    Parameters
    ----------
    n_members : int
    max_batch : int
        Most members that a device may compute together.
    devices : sequence of Device

    Examples
    --------
    >>> [len(s.devices) for s in make_schedules(2, max_batch=8, devices=[0, 1, 2, 3])]
    [2, 2]
    >>> schedule, = make_schedules(7, max_batch=8, devices=[0, 1, 2, 3])
    >>> [len(numbers) for numbers in schedule.groups(7)]
    [8]
    >>> schedule, = make_schedules(50, max_batch=4, devices=[0, 1, 2, 3])
    >>> schedule.per_device, schedule.n_groups(50)
    (4, 4)
    """
    if len(devices) < 2:
        return [Schedule(max_batch)]
    used = min(len(devices), n_members)
    rounds = -(-n_members // (used * max_batch))
    per_device = -(-n_members // (used * rounds))
    used = -(-n_members // (per_device * rounds))
    sets = range(0, len(devices) - used + 1, used)
    return [Schedule(per_device, tuple(devices[first : first + used])) for first in sets]


def run_times(
    work: Callable[[int, Schedule], Result], n_times: int, schedules: Sequence[Schedule]
) -> list[Result]:
    """Work on every time, as many at once as there are sets of devices; results in order.

    jax leaves Python while a device computes, so threads keep all sets busy.
    """
    if len(schedules) == 1 or n_times == 1:
        return [work(i, schedules[0]) for i in range(n_times)]
    free: queue.SimpleQueue[Schedule] = queue.SimpleQueue()
    for schedule in schedules:
        free.put(schedule)

    @with_own_jax  # settings of jax hold in one thread only
    def one(i: int) -> Result:
        schedule = free.get()
        try:
            return work(i, schedule)
        finally:
            free.put(schedule)

    # options of a ``with`` block hold in this thread's context: hand it on
    contexts = [contextvars.copy_context() for _ in range(n_times)]
    with ThreadPoolExecutor(len(schedules)) as pool:
        try:
            return list(pool.map(lambda i, c: c.run(one, i), range(n_times), contexts))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
