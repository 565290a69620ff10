"""The inputs of local operators: which numbers of the state stand behind each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, Problem
from ..variables import VARIABLES
from .operators import sparse_rows
from .stencil import horizontal_stencil, vertical_stencil

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float, Int

    from .._grid import Layout
    from .nonlinear import Operator


def usable(
    name: str, operator: Operator, layout: Layout, pressures: dict[str, np.ndarray],
    fields: dict[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """Which observations have what the operator asks for."""
    specs = [spec.partition("@") for spec in operator.inputs or ()]
    on_levels = [at for variable, _, at in specs if VARIABLES[variable].on_levels]
    asked = {at or "level" for at in on_levels if at in ("", "level", "level_bottom")}
    asked |= {p for p in fields if p in pressures and on_levels}
    reasons = {}
    good = np.ones(pressures["level"].size, bool)
    lost = ~np.all([np.isfinite(column) for column in fields.values()] or [good], axis=0)
    if lost.any():
        absent = [p for p, column in fields.items() if np.isnan(column).any()]
        reasons[f"of {name} without {', '.join(absent)}"] = lost
    for key in sorted(asked):
        outside = ~_inside(layout, pressures[key]) & ~lost
        if outside.any():
            reasons[f"of {name} with {key} outside the levels"] = outside
        lost = lost | outside
    return good & ~lost, {reason: np.flatnonzero(mask) for reason, mask in reasons.items()}


def _inside(layout: Layout, pressure: np.ndarray) -> np.ndarray:
    known = np.isfinite(pressure) & (pressure > 0)
    safe = np.where(known, pressure, layout.levels[0])
    return vertical_stencil(layout.levels, safe).inside & known


def input_terms(
    operator: Operator, layout: Layout, pressures: dict[str, np.ndarray]
) -> tuple[list[tuple[str, int]], np.ndarray, np.ndarray]:
    """Keys of the inputs, and for each scalar among them two channels and their weights."""
    n = pressures["level"].size
    keys, channels, weights = [], [], []

    def add(channel: np.ndarray, weight: np.ndarray) -> None:
        channels.append(np.broadcast_to(channel, (n, 2)))
        weights.append(np.broadcast_to(weight, (n, 2)))

    for spec in operator.inputs or ():
        name, _, at = spec.partition("@")
        first = layout.channel_slice(name).start
        if not VARIABLES[name].on_levels:
            keys.append((spec, 0))
            add(np.array([first, first]), np.array([1.0, 0.0]))
        elif at in ("*", "around"):
            if at == "*":
                which = np.broadcast_to(np.arange(len(layout.levels)), (n, len(layout.levels)))
            else:
                which = around(layout, pressures)
            keys.append((spec, which.shape[1]))
            for level in which.T:
                add(first + np.stack([level, level], -1), np.array([1.0, 0.0]))
        else:
            near = vertical_stencil(layout.levels, _pressure(spec, at, layout, pressures))
            keys.append((spec, 0))
            add(first + near.level, near.weight)
    return keys, np.stack(channels, 1), np.stack(weights, 1)


def _pressure(
    spec: str, at: str, layout: Layout, pressures: dict[str, np.ndarray]
) -> Float[np.ndarray, "obs"]:
    if at in ("", *pressures):
        return pressures[at or "level"]
    try:
        fixed = float(at)
        inside = bool(_inside(layout, np.array([fixed]))[0])
    except ValueError:
        fixed, inside = np.nan, False
    if not inside:
        raise InputError([Problem(
            f"an operator with the input {spec!r}",
            f"a pressure between {layout.levels[0]} and {layout.levels[-1]} hPa, *, around or "
            "level_bottom after the @", f'inputs=("{spec.partition("@")[0]}@{layout.levels[-1]}",)',
        )], what="observation operator")  # fmt: skip
    return np.full(pressures["level"].size, fixed)


def around(layout: Layout, pressures: dict[str, np.ndarray]) -> Int[np.ndarray, "obs 2"]:
    """The two levels around a pressure; beyond the last one, the last two."""
    levels = np.asarray(layout.levels, np.float64)
    upper = np.clip(np.searchsorted(levels, pressures["around"]) - 1, 0, max(levels.size - 2, 0))
    return np.stack([upper, np.minimum(upper + 1, levels.size - 1)], -1)


def gather(
    layout: Layout, tidy: xr.Dataset, where: np.ndarray, channel: np.ndarray, weight: np.ndarray,
    turns: list[bool],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Sparse rows (obs, input, term) of all inputs, of one width."""
    n, n_input = channel.shape[:2]
    repeat = lambda name: np.repeat(tidy[name].values[where], n_input)  # noqa: E731
    index, terms = sparse_rows(
        layout, repeat("lat"), repeat("lon"), channel.reshape(-1, 2), weight.reshape(-1, 2),
        np.tile(turns, n),
    )  # fmt: skip
    return index.reshape(n, n_input, -1), terms.reshape(n, n_input, -1)


def bilinear(
    layout: Layout, tidy: xr.Dataset, where: np.ndarray, field: Float[np.ndarray, "node"]
) -> Float[np.ndarray, "obs"]:
    near = horizontal_stencil(layout.grid, tidy["lat"].values[where], tidy["lon"].values[where])
    return (field[near.node] * near.weight).sum(1)


def field(tidy: xr.Dataset, name: str) -> Float[np.ndarray, "obs"]:
    if name not in tidy.variables:
        return np.full(tidy.sizes["obs"], np.nan)
    return np.asarray(tidy[name].values, np.float64)
