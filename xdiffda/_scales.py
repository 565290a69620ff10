"""Sizes of background errors by row and channel, and what a truncated basis leaves out."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.spectral import Basis
from xdiffda.state import Layout


def unresolved_part(
    basis: Basis, samples: Float[np.ndarray, "sample node channel"], *, batch: int = 32
) -> Float[np.ndarray, "sample node channel"]:
    """What the basis cannot represent of each sample."""
    parts = [
        np.asarray(_unresolved(basis, jnp.asarray(samples[i : i + batch], jnp.float32)))
        for i in range(0, len(samples), batch)
    ]
    return np.concatenate(parts)


@eqx.filter_jit
def _unresolved(basis: Basis, samples: Array) -> Array:
    return jax.vmap(lambda x: x - basis.project(x))(samples)


def row_scale(
    x: Float[np.ndarray, "sample node channel"], layout: Layout, *, floor: float = 0.1
) -> Float[np.ndarray, "node channel"]:
    """Root mean square of samples per latitude row and channel, smoothed, on every node.

    Rows below ``floor`` times a channel's mean are raised to it.
    """
    n_lat, n_lon = layout.grid.shape
    square = np.mean(np.asarray(x) ** 2, axis=0).reshape(n_lat, n_lon, -1).mean(1)
    padded = np.pad(square, ((1, 1), (0, 0)), mode="edge")
    rows = np.sqrt((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)
    rows = np.maximum(rows, floor * rows.mean(0))
    return np.repeat(rows, n_lon, axis=0).astype(np.float32)


def wind_pairs(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels of u, and of v at the same places.

    Examples
    --------
    >>> from xdiffda.state import Grid
    >>> grid = Grid.from_coords([-45, 45], [0, 120, 240])
    >>> names = ("temperature", "u_component_of_wind", "v_component_of_wind")
    >>> wind_pairs(Layout(grid, names, (500, 850)))
    ((2, 3), (4, 5))
    """
    place = {channel: i for i, channel in enumerate(layout.channels)}
    pairs = []
    for (name, level), i in place.items():
        other = (name.replace("u_component", "v_component"), level)
        if other != (name, level) and other in place:
            pairs.append((i, place[other]))
    return tuple(i for i, _ in pairs), tuple(j for _, j in pairs)


def share_wind_scale(
    scale: Float[np.ndarray, "*node channel"], layout: Layout
) -> Float[np.ndarray, "*node channel"]:
    """The same s for both components of a wind: else its rotation would not be isotropic."""
    u, v = wind_pairs(layout)
    out = np.array(scale)
    both = np.sqrt((out[..., u] ** 2 + out[..., v] ** 2) / 2)
    out[..., u] = out[..., v] = both
    return out
