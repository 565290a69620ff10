"""GraphCast (Lam et al. 2023, Science 382, 1416) in Equinox: our own implementation.

Names are imported when first used, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bare import BareNetwork as BareNetwork
    from .bare import load as load
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import ModelConfig as ModelConfig
    from .checkpoint import TaskConfig as TaskConfig
    from .checkpoint import read_checkpoint as read_checkpoint
    from .checkpoint import write_checkpoint as write_checkpoint
    from .forcings import solar_radiation as solar_radiation
    from .forcings import time_forcings as time_forcings
    from .forecaster import Forecaster as Forecaster
    from .graph import Graph as Graph
    from .graph import build_graph as build_graph
    from .network import GraphCast as GraphCast
    from .network import NetworkConfig as NetworkConfig

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
