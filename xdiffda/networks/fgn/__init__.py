"""FGN (WeatherNext 2; Alet et al. 2025, arXiv 2506.10772) in Equinox: our own implementation.

An ensemble of the atmosphere, 6 h a step: one evaluation for each member, told apart by a few
normal numbers that condition every layer normalisation.  Names are imported when first used, so
that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xdiffda.networks.fgn.bare import BareFGN as BareFGN
    from xdiffda.networks.fgn.bare import load as load
    from xdiffda.networks.fgn.checkpoint import Checkpoint as Checkpoint
    from xdiffda.networks.fgn.checkpoint import read_checkpoint as read_checkpoint
    from xdiffda.networks.fgn.checkpoint import write_checkpoint as write_checkpoint
    from xdiffda.networks.fgn.config import Architecture as Architecture
    from xdiffda.networks.fgn.config import Configuration as Configuration
    from xdiffda.networks.fgn.config import MessageConfig as MessageConfig
    from xdiffda.networks.fgn.config import read_config as read_config
    from xdiffda.networks.fgn.forecaster import FGNForecaster as FGNForecaster
    from xdiffda.networks.fgn.forecaster import member_noise as member_noise
    from xdiffda.networks.fgn.graph import build_graph as build_graph
    from xdiffda.networks.fgn.loss import fair_crps as fair_crps
    from xdiffda.networks.fgn.network import FGN as FGN
    from xdiffda.networks.fgn.network import NetworkConfig as NetworkConfig

_HOME = {
    "Architecture": "config",
    "BareFGN": "bare",
    "Checkpoint": "checkpoint",
    "Configuration": "config",
    "FGN": "network",
    "FGNForecaster": "forecaster",
    "MessageConfig": "config",
    "NetworkConfig": "network",
    "build_graph": "graph",
    "fair_crps": "loss",
    "load": "bare",
    "member_noise": "forecaster",
    "read_checkpoint": "checkpoint",
    "read_config": "config",
    "write_checkpoint": "checkpoint",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
