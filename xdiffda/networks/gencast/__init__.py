"""GenCast (Price et al. 2024, arXiv 2312.15796) in Equinox: our own implementation.

A diffusion model of the atmosphere, 12 h a step: p(x_t | x_(t-1), x_(t-2)).  Names are
imported when first used, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xdiffda.networks.gencast.bare import BareGenCast as BareGenCast
    from xdiffda.networks.gencast.bare import load as load
    from xdiffda.networks.gencast.checkpoint import Checkpoint as Checkpoint
    from xdiffda.networks.gencast.checkpoint import read_checkpoint as read_checkpoint
    from xdiffda.networks.gencast.checkpoint import write_checkpoint as write_checkpoint
    from xdiffda.networks.gencast.config import Architecture as Architecture
    from xdiffda.networks.gencast.config import GenCastTask as GenCastTask
    from xdiffda.networks.gencast.config import NoiseEncoderConfig as NoiseEncoderConfig
    from xdiffda.networks.gencast.config import SamplerConfig as SamplerConfig
    from xdiffda.networks.gencast.config import TrainingNoise as TrainingNoise
    from xdiffda.networks.gencast.config import TransformerConfig as TransformerConfig
    from xdiffda.networks.gencast.denoiser import GenCastDenoiser as GenCastDenoiser
    from xdiffda.networks.gencast.forecaster import GenCastForecaster as GenCastForecaster
    from xdiffda.networks.gencast.graph import GenCastGraph as GenCastGraph
    from xdiffda.networks.gencast.graph import build_graph as build_graph
    from xdiffda.networks.gencast.network import GenCast as GenCast
    from xdiffda.networks.gencast.network import NetworkConfig as NetworkConfig
    from xdiffda.networks.gencast.noise import gencast_basis as gencast_basis
    from xdiffda.networks.gencast.sampler import dpm_solver_2s as dpm_solver_2s


_HOME = {
    "Architecture": "config",
    "BareGenCast": "bare",
    "Checkpoint": "checkpoint",
    "GenCast": "network",
    "GenCastDenoiser": "denoiser",
    "GenCastForecaster": "forecaster",
    "GenCastGraph": "graph",
    "GenCastPrior": "..priors.gencast",
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
