"""Grid-scale noise of backgrounds: damp it by regression on the truth's unresolved scales.

Grid-scale noise of a forecaster is nearly all error: the truth's own small scales stand still
(mountains, coasts) or are of another phase.  The best linear estimate of them from the
background's damps its departures from their climatological mean,

    u_truth  ~  m + a (u_background - m),

a by channel and latitude.  How noisy a background is differs by more than its lead time, so a is
a table over what can be seen of it, its roughness: variance about m over the truth's variance.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.covariance.harmonics import Basis
from xdiffda.jax_settings import with_own_jax
from xdiffda.state.grid import Layout

# Sizes of background errors by row and channel, and the variance that a basis does not resolve.


@with_own_jax
def unresolved_part(
    basis: Basis, samples: Float[np.ndarray, "sample node channel"], *, batch: int = 32
) -> Float[np.ndarray, "sample node channel"]:
    """Return the part of each sample that the basis cannot represent."""
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
    >>> from xdiffda.state.grid import Grid
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
    """Give both wind components one s, as otherwise their rotation would not be isotropic."""
    u, v = wind_pairs(layout)
    out = np.array(scale)
    both = np.sqrt((out[..., u] ** 2 + out[..., v] ** 2) / 2)
    out[..., u] = out[..., v] = both
    return out


class SmallScaleFilter(NamedTuple):
    """Linear estimate of the truth's small scales; all in units of s.

    Attributes
    ----------
    mean : array (node, channel)
        m: mean of the truth beyond the basis.
    variance : float
        Of the truth about m, mean over the globe and channels.
    roughness : array (class,)
        Ascending; variance of the background about m over ``variance``.
    damping : array (class, node, channel)
        a.
    """

    mean: Float[np.ndarray, "node channel"]
    variance: float
    roughness: Float[np.ndarray, " class"]
    damping: Float[np.ndarray, "class node channel"]

    def change(
        self,
        basis: Basis,
        x: Float[np.ndarray, "state node channel"],
        area: Float[np.ndarray, " node"],
    ) -> Float[np.ndarray, "state node channel"]:
        """What to add to states so that they hold the estimate; nothing within the basis.

        ``area`` are weights of mean 1.
        """
        about = unresolved_part(basis, x) - self.mean
        seen = roughness(about, self.variance, area)
        a = np.stack([np.tensordot(self.weights(one), self.damping, 1) for one in seen])
        return unresolved_part(basis, (a - 1) * about)  # a differs from row to row

    def weights(self, seen: float) -> Float[np.ndarray, " class"]:
        """Weights of linear interpolation in log roughness, constant beyond the ends.

        Examples
        --------
        >>> SmallScaleFilter(np.zeros(1), 1.0, np.array([1.0, 4.0]), np.ones(2)).weights(2.0)
        array([0.5, 0.5])
        """
        log, eye = np.log(self.roughness), np.eye(len(self.roughness))
        return np.array([np.interp(np.log(max(seen, 1e-9)), log, row) for row in eye])


def roughness(
    about: Float[np.ndarray, "state node channel"],
    variance: float,
    area: Float[np.ndarray, " node"],
) -> Float[np.ndarray, " state"]:
    """Variance of small scales about their mean over that of the truth; ``area`` of mean 1."""
    return np.mean(area[:, None] * about**2, axis=(1, 2)) / variance


@with_own_jax
def fit_filter(
    basis: Basis,
    truths: Float[np.ndarray, "sample node channel"],
    backgrounds: Float[np.ndarray, "pair node channel"],
    their_truths: Float[np.ndarray, "pair node channel"],
    area: Float[np.ndarray, " node"],
    *,
    n_lon: int,
    n_class: int = 6,
) -> SmallScaleFilter:
    """Regress the truth's small scales on the background's, by class of roughness.

    Parameters
    ----------
    basis : Basis
    truths
        States of many seasons, of which the mean is taken; in units of s, as all here.
    backgrounds, their_truths
        Pairs of all qualities.
    area
        Weights of mean 1.
    n_lon : int
        Nodes of a row: a is the same along it.
    n_class : int
        Of equally many pairs.
    """
    beyond = unresolved_part(basis, truths)
    mean = beyond.mean(0)
    variance = float(roughness(beyond - mean, 1.0, area).mean())
    known = unresolved_part(basis, backgrounds) - mean
    wanted = unresolved_part(basis, their_truths) - mean
    seen = roughness(known, variance, area)
    edges = np.quantile(seen, np.linspace(0, 1, n_class + 1)[1:-1])
    found = []
    for own in (np.flatnonzero(np.searchsorted(edges, seen) == c) for c in range(n_class)):
        both = _by_row(known[own] * wanted[own], n_lon)
        alone = _by_row(known[own] ** 2, n_lon)
        a = np.clip(both / np.maximum(alone, 1e-12), 0.0, 1.0)
        found.append((np.exp(np.log(seen[own]).mean()), np.repeat(a, n_lon, axis=0)))
    centres, damping = (np.stack(part).astype(np.float32) for part in zip(*found, strict=True))
    return SmallScaleFilter(mean.astype(np.float32), variance, centres, damping)


def _by_row(x: Float[np.ndarray, "pair node channel"], n_lon: int) -> Float[np.ndarray, "row c"]:
    """Mean over pairs and longitude, smoothed along latitude."""
    rows = x.mean(0).reshape(-1, n_lon, x.shape[-1]).mean(1)
    padded = np.pad(rows, ((1, 1), (0, 0)), mode="edge")
    return (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
