"""Memory that drawing members and forecasts takes, and how many members fit into a device."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from xdiffda.assimilation.devices import Schedule, make_schedules
from xdiffda.assimilation.settings import Settings
from xdiffda.errors import InputError, Problem
from xdiffda.networks.gencast.costs import temporary_bytes as gencast_bytes
from xdiffda.networks.gencast.graph import GenCastGraph
from xdiffda.networks.graphcast.costs import Dimensions, temporary_bytes
from xdiffda.networks.graphcast.graph import Graph
from xdiffda.options import get_options, return_large_blocks
from xdiffda.priors.prior import Prior

# states of z and coefficients alive at once beside the network: noise, two estimates of the
# multistep sampler, and what the Kalman update transforms
STATES = 8
FRAMES = 3  # copies of a forecast's inputs and outputs: as Datasets, normalised, as one array
EDGES = tuple(2**n for n in range(18, 7, -1))  # sizes of chunks to propose
LARGE = 2 * 10**9  # from here on freed blocks are not kept: see `_huge_pages`
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
    trees = (prior.covariance, getattr(prior, "_calibrated", None), getattr(prior, "static", None))
    network, graph = getattr(prior, "_network", None), getattr(prior, "_graph", None)
    if network is None or graph is None:
        return Need(_size(trees), STATES * state)
    if isinstance(graph, GenCastGraph):
        trees = (*trees, prior.covariance)  # there once more with the signs of its noise
    backbone = getattr(network, "backbone", network)
    own = _of_network(backbone.config, graph, prepared=isinstance(graph, Graph))
    inputs = 4 * n_node * backbone.config.n_inputs
    return Need(_size((*trees, network, graph)) + own.shared, STATES * state + inputs + own.member)


def needed_to_forecast(network: Any, graph: Graph | GenCastGraph, *others: Any) -> Need:
    """Memory for steps of a forecaster.

    ``network`` is that of `xdiffda.graphcast` or `xdiffda.fgn`; ``others`` are further trainings
    of it, whose weights are kept beside.
    """
    config = network.config
    own = _of_network(config, graph, prepared=bool(getattr(config, "edge_chunk", 0)))
    if isinstance(graph, GenCastGraph):  # noise conditions all of it: members share nothing
        own = Need(0, own.shared + own.member)
    frames = 4 * FRAMES * graph.n_grid * (config.n_inputs + config.n_outputs)
    return Need(_size((network, graph, others)) + own.shared, frames + own.member)


def _of_network(config: Any, graph: Graph | GenCastGraph, *, prepared: bool) -> Need:
    """Of one evaluation beside weights and graph."""
    if jax.default_backend() == "cpu" and config.dtype == "bfloat16":
        config = dataclasses.replace(config, dtype="float32")  # XLA keeps most of it so there
    if isinstance(graph, GenCastGraph):
        return Need(*gencast_bytes(config, graph))
    return Need(*temporary_bytes(config, Dimensions.of(graph), prepared=prepared))


def plan_devices(prior: Prior, settings: Settings) -> list[Schedule]:
    """Sets of local devices that work on different times, and the groups of members on each.

    Raises
    ------
    InputError
        If there is not enough memory for a single member.
    """
    devices = _devices_to_use()
    method: Any = settings.method
    if not method.uses_network:
        return make_schedules(1, max_batch=1, devices=devices[:1])
    most = members_that_fit(prior, method.max_batch, devices)
    return make_schedules(settings.n_members, max_batch=most, devices=devices)


def _devices_to_use() -> list[Any]:
    devices, wanted = jax.local_devices(), get_options().n_devices
    if wanted is not None and wanted > len(devices):
        warnings.warn(
            f"the option n_devices is {wanted}, and this process has {len(devices)} "
            f"({devices[0].device_kind}): they are used, with the same members; repair: "
            f"`xdiffda.set_options(n_devices=0)` takes all there are",
            stacklevel=2,
        )
    return devices[:wanted]


def members_that_fit(prior: Prior, wanted: int, devices: list[Any]) -> int:
    """Members that a device can compute together, at most ``wanted``.

    Raises
    ------
    InputError
        If there is not enough memory for a single one.
    """
    ways = _Ways("prior", prior, needed)
    return _that_fit(ways, f"{prior.name!r}", wanted, devices)


def states_that_fit(
    model: Any, need: Callable[[Any], Need], wanted: int, *, name: str, code: str = "forecaster"
) -> int:
    """States that a forecaster can move together, at most ``wanted``.

    Parameters
    ----------
    model
        The forecaster; with a method ``reconfigured`` where it can be computed in another way.
    need : callable
        Model -> what it needs, from `needed_to_forecast`.
    wanted : int
    name, code : str
        The model for people, and as a user types it.

    Raises
    ------
    InputError
        If there is not enough memory for a single one.
    """
    ways = _Ways(code, model, need)
    return _that_fit(ways, f"a forecast with {name}", wanted, jax.local_devices()[:1])


class _Ways(NamedTuple):
    """A model, what it is called in code, and what it needs as it is and reconfigured."""

    name: str
    model: Any
    need: Callable[[Any], Need]

    def options(self) -> Iterator[dict[str, Any]]:
        """Options that reduce the memory, those first that change no number."""
        if hasattr(self.model, "reconfigured"):
            chunks = [{"edge_chunk": edges} for edges in EDGES]
            yield from chunks
            if jax.default_backend() != "cpu":  # saves little there, see `_of_network`
                yield from ({"dtype": "bfloat16"} | more for more in ({}, *chunks))

    def smaller(self, limit: int) -> tuple[str, Need] | None:
        """The first way that fits, as it is typed, and what is then needed."""
        for options in self.options():
            try:
                need = self.need(self.model.reconfigured(**options))
            except ValueError:  # no network, or one without this option
                continue
            if need.shared + need.member <= limit:
                given = ", ".join(f"{key}={value!r}" for key, value in options.items())
                return f"model={self.name}.reconfigured({given})", need
        return None


def _that_fit(ways: _Ways, name: str, wanted: int, devices: list[Any]) -> int:
    limit, source = memory_limit(devices)
    if limit is None:
        return wanted
    need = ways.need(ways.model)
    most = (limit - need.shared) // need.member
    if most < 1:
        raise InputError([_too_little(ways, name, limit, source)], what="memory of the device")
    # here, where it is known first: one heap of such blocks falls to pieces
    if devices[0].platform == "cpu" and need.shared + need.member > LARGE:
        return_large_blocks()
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


def _too_little(ways: _Ways, name: str, limit: int, source: str) -> Problem:
    from dask.utils import format_bytes

    need = ways.need(ways.model)
    total = need.shared + need.member
    found = f"{format_bytes(limit)} ({source}) for {name}"
    wanted = (
        f"{format_bytes(total)} for one member: {format_bytes(need.member)} and "
        f"{format_bytes(need.shared)} that members share"
    )
    smaller = ways.smaller(limit)
    if smaller is not None:
        repair, reduced = smaller
        fits = format_bytes(reduced.shared + reduced.member)
        return Problem(found, f"{wanted}; {fits} when computed as below", repair)
    more = f'xdiffda.set_options(memory_limit="{format_bytes(int(1.1 * total))}")'
    return Problem(found, f"{wanted}; no option makes that small enough", more)


def _size(tree: object) -> int:
    return sum(int(a.nbytes) for a in jax.tree.leaves(tree) if hasattr(a, "nbytes"))
