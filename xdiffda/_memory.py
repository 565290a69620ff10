"""Memory that drawing members takes, and how many members of a group fit into a device."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import numpy as np

from xdiffda._devices import Schedule, make_schedules
from xdiffda._settings import Settings
from xdiffda.errors import InputError, Problem
from xdiffda.graphcast.costs import Dimensions, temporary_bytes
from xdiffda.options import get_options
from xdiffda.prior import Prior

# states of z and coefficients alive at once beside the network: noise, two estimates of the
# multistep sampler, and what the Kalman update transforms
STATES = 8
SAMPLING = ("guided", "repaint")  # the methods that draw members by evaluations of the network
EDGES = tuple(2**n for n in range(18, 7, -1))  # sizes of chunks to propose
RESERVE = 0.9  # of the device: its allocator loses some to fragments


class Need(NamedTuple):
    """Bytes on one device.

    Attributes
    ----------
    shared : int
        Weights, graph, spectral basis, and what does not depend on the number of members.
    member : int
        For each member computed at the same time.
    """

    shared: int
    member: int


def needed(prior: Prior) -> Need:
    """Memory for drawing members of the posterior under a prior (an estimate)."""
    n_node, n_channel = prior.scale.shape
    mask = prior.covariance.basis.mask
    state = 4 * n_channel * (n_node + int(np.prod(mask.shape)))
    trees = (prior.covariance, getattr(prior, "_calibrated", None), getattr(prior, "_static", None))
    shared, member = _size(trees), STATES * state
    network, graph = getattr(prior, "_network", None), getattr(prior, "_graph", None)
    if network is not None and graph is not None:
        config = network.backbone.config
        once, each = temporary_bytes(config, Dimensions.of(graph), prepared=True)
        shared += _size((network, graph)) + once
        member += each
    return Need(shared, member)


def plan_devices(prior: Prior, settings: Settings) -> list[Schedule]:
    """Sets of local devices that work on different times, and the groups of members on each.

    Raises
    ------
    InputError
        If there is not enough memory for a single member.
    """
    devices = jax.local_devices()[: get_options().n_devices]
    if settings.method not in SAMPLING:
        return make_schedules(1, max_batch=1, devices=devices[:1])
    most = members_that_fit(prior, settings.max_batch, devices)
    return make_schedules(settings.n_members, max_batch=most, devices=devices)


def members_that_fit(prior: Prior, wanted: int, devices: list[Any]) -> int:
    """Members that a device can compute together, at most ``wanted``.

    Raises
    ------
    InputError
        If there is not enough memory for a single one.
    """
    limit, source = memory_limit(devices)
    if limit is None:
        return wanted
    need = needed(prior)
    most = (limit - need.shared) // need.member
    if most < 1:
        raise InputError([_too_little(prior, need, limit, source)], what="memory of the device")
    return int(min(wanted, most))


def memory_limit(devices: list[Any]) -> tuple[int | None, str]:
    """Bytes that may be used on each device, and where that number comes from."""
    own = get_options().memory_limit
    if own is not None:
        return own, "the option memory_limit"
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(RESERVE * stats["bytes_limit"]), f"the memory of {devices[0].device_kind}"
    if devices[0].platform == "cpu" and hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(RESERVE * total / len(devices)), "the memory of this machine"
    return None, ""


def _too_little(prior: Prior, need: Need, limit: int, source: str) -> Problem:
    from dask.utils import format_bytes

    total = need.shared + need.member
    found = f"{format_bytes(limit)} ({source}) for {prior.name!r}"
    wanted = (
        f"{format_bytes(total)} for one member: {format_bytes(need.member)} and "
        f"{format_bytes(need.shared)} that members share"
    )
    smaller = _smaller(prior, limit)
    if smaller is not None:
        edges, reduced = smaller
        fits = format_bytes(reduced.shared + reduced.member)
        return Problem(found, f"{wanted}; {fits} with edges in chunks",
                       f"model=prior.reconfigured(edge_chunk={edges})")  # fmt: skip
    more = f'xdiffda.set_options(memory_limit="{format_bytes(int(1.1 * total))}")'
    return Problem(found, f"{wanted}; there are no chunks small enough", more)


def _smaller(prior: Prior, limit: int) -> tuple[int, Need] | None:
    """The largest chunks of edges with which a network fits, and what it then needs."""
    reconfigured = getattr(prior, "reconfigured", None)
    if reconfigured is None or getattr(prior, "_graph", None) is None:
        return None
    for edges in EDGES:
        need = needed(reconfigured(edge_chunk=edges))
        if need.shared + need.member <= limit:
            return edges, need
    return None


def _size(tree: object) -> int:
    return sum(int(a.nbytes) for a in jax.tree.leaves(tree) if hasattr(a, "nbytes"))
