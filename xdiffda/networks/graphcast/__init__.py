"""GraphCast (Lam et al. 2023, Science 382, 1416) in Equinox: our own implementation.

Names are imported when first used, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xdiffda.networks.graphcast.bare import BareNetwork as BareNetwork
    from xdiffda.networks.graphcast.bare import load as load
    from xdiffda.networks.graphcast.checkpoint import Checkpoint as Checkpoint
    from xdiffda.networks.graphcast.checkpoint import ModelConfig as ModelConfig
    from xdiffda.networks.graphcast.checkpoint import TaskConfig as TaskConfig
    from xdiffda.networks.graphcast.checkpoint import read_checkpoint as read_checkpoint
    from xdiffda.networks.graphcast.checkpoint import write_checkpoint as write_checkpoint
    from xdiffda.networks.graphcast.forcings import solar_radiation as solar_radiation
    from xdiffda.networks.graphcast.forcings import time_forcings as time_forcings
    from xdiffda.networks.graphcast.forecaster import Forecaster as Forecaster
    from xdiffda.networks.graphcast.graph import Graph as Graph
    from xdiffda.networks.graphcast.graph import build_graph as build_graph
    from xdiffda.networks.graphcast.network import GraphCast as GraphCast
    from xdiffda.networks.graphcast.network import NetworkConfig as NetworkConfig


_HOME = {
    "BareNetwork": "bare",
    "Checkpoint": "checkpoint",
    "Forecaster": "forecaster",
    "Graph": "graph",
    "GraphCast": "network",
    "ModelConfig": "checkpoint",
    "NetworkConfig": "network",
    "TaskConfig": "checkpoint",
    "build_graph": "graph",
    "load": "bare",
    "read_checkpoint": "checkpoint",
    "solar_radiation": "forcings",
    "time_forcings": "forcings",
    "write_checkpoint": "checkpoint",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
