"""Which sites observe which channels, so that geometry is done once for all that share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..variables import VARIABLES
from .stencil import SNAP

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float, Int

    from .._grid import Layout

# Places nearer than this on the unit sphere (6 m) are one site.
_SAME_PLACE = 1e-6


@dataclass(frozen=True)
class SiteSet:
    """Sites that observe the same channels.

    Parameters
    ----------
    place
        Unit vectors of the distinct sites.
    channels
        Channels of the layout that are observed there.
    value, error_std
        One column per channel. Several observations of one site are averaged, weighted by their
        inverse error variances.
    """

    place: Float[np.ndarray, "site 3"]
    channels: Int[np.ndarray, "channel"]
    value: Float[np.ndarray, "site channel"]
    error_std: Float[np.ndarray, "site channel"]


def unit_vectors(
    lat: Float[np.ndarray, "place"], lon: Float[np.ndarray, "place"]
) -> Float[np.ndarray, "place 3"]:
    """Unit vectors of places in degrees.

    Examples
    --------
    >>> unit_vectors(np.array([0.0, 90.0]), np.array([90.0, 0.0])).round(3).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def channel_sites(tidy: xr.Dataset, layout: Layout) -> list[SiteSet]:
    """Group the channels of a layout by the sites that observe them.

    Observations between two levels are brought to the levels of the layout by interpolation in
    log-pressure between the values of the same site and time; a lone value off the levels has no
    neighbour to be interpolated with and is left out.
    """
    place = unit_vectors(tidy["lat"].values, tidy["lon"].values)
    _, first, site = np.unique(
        np.round(place / _SAME_PLACE).astype(np.int64), axis=0, return_index=True,
        return_inverse=True,
    )  # fmt: skip
    site, where = site.reshape(-1), place[first]
    variable, level = tidy["variable"].values, tidy["level"].values
    value, error_std = tidy["value"].values, tidy["error_std"].values
    time = tidy["time"].values.view(np.int64)
    groups: dict[bytes, list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]] = {}
    for name in layout.variables:
        mine = np.flatnonzero(variable == name)
        if not mine.size:
            continue
        if VARIABLES[name].on_levels:
            column = (site[mine], time[mine], level[mine], value[mine], error_std[mine])
            found = [(level, _at_level(*column, float(level))) for level in layout.levels]
        else:
            found = [(None, (site[mine], value[mine], error_std[mine]))]
        for at, (sites, values, errors) in found:
            if sites.size:
                merged = _merge(sites, values, errors)
                entry = (layout.channel_index(name, at), *merged)
                groups.setdefault(merged[0].tobytes(), []).append(entry)
    return [
        SiteSet(
            where[entries[0][1]], np.array([entry[0] for entry in entries]),
            np.stack([entry[2] for entry in entries], axis=-1),
            np.stack([entry[3] for entry in entries], axis=-1),
        )
        for entries in groups.values()
    ]  # fmt: skip


def _merge(
    site: np.ndarray, value: np.ndarray, error_std: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One value per site, ascending."""
    distinct, inverse = np.unique(site, return_inverse=True)
    # Relative to the smallest error, so that tiny and infinite errors have weights, too.
    relative = error_std / error_std.min() if np.isfinite(error_std.min()) else np.ones(site.size)
    weight = 1.0 / relative**2
    total = np.bincount(inverse, weight)
    unknown = total == 0  # all errors infinite: a plain mean
    weight = np.where(unknown[inverse], 1.0, weight)
    total = np.bincount(inverse, weight)
    mean = np.bincount(inverse, weight * value) / total
    error = np.where(unknown, np.inf, error_std.min() / np.sqrt(total))
    return distinct, mean, error


def _at_level(
    site: np.ndarray, time: np.ndarray, level: np.ndarray, value: np.ndarray,
    error_std: np.ndarray, wanted: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Site, value and error at one level: observed there, or between two that enclose it."""
    distance = np.log(level / wanted)
    on = np.abs(distance) < SNAP
    found = [(site[on], value[on], error_std[on])]
    if not on.all():
        order = np.lexsort((distance, time, site))
        below, above = order[:-1], order[1:]
        encloses = (
            (site[below] == site[above]) & (time[below] == time[above])
            & (distance[below] < -SNAP) & (distance[above] > SNAP)
        )  # fmt: skip
        a, b = below[encloses], above[encloses]
        share = -distance[a] / (distance[b] - distance[a])
        mean = (1 - share) * value[a] + share * value[b]
        error = np.hypot((1 - share) * error_std[a], share * error_std[b])
        found.append((site[a], mean, error))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]
