"""GenCast (Price et al. 2024, arXiv 2312.15796) in Equinox: our own implementation.

A diffusion model of the atmosphere, 12 h a step: p(x_t | x_(t-1), x_(t-2)).  Names are
imported when first used, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bare import BareGenCast as BareGenCast
    from .bare import load as load
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import read_checkpoint as read_checkpoint
    from .checkpoint import write_checkpoint as write_checkpoint
    from .config import Architecture as Architecture
    from .config import GenCastTask as GenCastTask
    from .config import NoiseEncoderConfig as NoiseEncoderConfig
    from .config import SamplerConfig as SamplerConfig
    from .config import TrainingNoise as TrainingNoise
    from .config import TransformerConfig as TransformerConfig
    from .denoiser import GenCastDenoiser as GenCastDenoiser
    from .forecaster import GenCastForecaster as GenCastForecaster
    from .graph import GenCastGraph as GenCastGraph
    from .graph import build_graph as build_graph
    from .network import GenCast as GenCast
    from .network import NetworkConfig as NetworkConfig
    from .noise import gencast_basis as gencast_basis
    from .prior import GenCastPrior as GenCastPrior
    from .sampler import dpm_solver_2s as dpm_solver_2s

_HOME = {
    "Architecture": "config",
    "BareGenCast": "bare",
    "Checkpoint": "checkpoint",
    "GenCast": "network",
    "GenCastDenoiser": "denoiser",
    "GenCastForecaster": "forecaster",
    "GenCastGraph": "graph",
    "GenCastPrior": "prior",
    "GenCastTask": "config",
    "NetworkConfig": "network",
    "NoiseEncoderConfig": "config",
    "SamplerConfig": "config",
    "TrainingNoise": "config",
    "TransformerConfig": "config",
    "build_graph": "graph",
    "dpm_solver_2s": "sampler",
    "gencast_basis": "noise",
    "load": "bare",
    "read_checkpoint": "checkpoint",
    "write_checkpoint": "checkpoint",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
