"""Observations: tables, operators, emulation, masks and interpolation.

Everything but the operators is numpy and xarray; jax is loaded by the first use of
`observation_operator` or `ObsVector`.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> module of this package that defines it; resolved on first use (PEP 562).
_EXPORTS = {
    "KNOWN": "names",
    "ObsVector": "operators",
    "Operator": "nonlinear",
    "Trajectory": "fgat",
    "VerticalCorrelation": "correlation",
    "default_error_std": "error_std",
    "dilate_mask": "mask",
    "drop_duplicates": "table",
    "drop_out_of_range": "table",
    "emulate_obs": "emulate",
    "first_guess": "fgat",
    "interpolate": "kriging",
    "interpolated_state": "kriging",
    "krige": "kriging",
    "observation_operator": "operators",
    "observation_rows": "rows",
    "select_window": "table",
    "soft_mask": "mask",
    "to_columns": "table",
    "to_tidy": "table",
}

__all__ = [
    "KNOWN",
    "ObsVector",
    "Operator",
    "Trajectory",
    "VerticalCorrelation",
    "default_error_std",
    "dilate_mask",
    "drop_duplicates",
    "drop_out_of_range",
    "emulate_obs",
    "first_guess",
    "interpolate",
    "interpolated_state",
    "krige",
    "observation_operator",
    "observation_rows",
    "select_window",
    "soft_mask",
    "to_columns",
    "to_tidy",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
