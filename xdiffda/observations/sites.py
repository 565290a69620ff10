"""Which sites observe which channels, so that geometry is done once for all that share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xdiffda.observations.stencil import SNAP
from xdiffda.state.variables import VARIABLES

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float, Int

    from xdiffda.state.grid import Grid, Layout


# Numbers for what repeats in long tables: names, and places row after row.
#
# A million names compared as text cost seconds and hundreds of megabytes; their numbers do not.
# Observations of a column follow one another, so that geometry is done once for each run of rows
# at one place.

_BLOCK = 16384  # names of one block stay in cache while they are compared
_MANY = 64  # with more distinct names, hashing is quicker than comparing


def name_codes(names: np.ndarray) -> tuple[Int[np.ndarray, "row"], list[str]]:
    """Number the distinct names in the order in which they first occur.

    Parameters
    ----------
    names
        Text of fixed width, or objects (each is taken for its ``str``).

    Returns
    -------
    code : int array (row,)
    distinct : list of str
        ``distinct[code[i]]`` is ``str(names[i])``.

    Examples
    --------
    >>> code, distinct = name_codes(np.array(["t", "u", "t"]))
    >>> code.tolist(), distinct
    ([0, 1, 0], ['t', 'u'])
    """
    if names.dtype.kind != "U":
        return _hashed(names.astype(object))
    code = np.empty(names.size, np.int64)
    distinct: list[str] = []
    for start in range(0, names.size, _BLOCK):
        block = names[start : start + _BLOCK]
        found = np.full(block.size, -1)
        for number, name in enumerate(distinct):
            found[block == name] = number
        while (left := np.flatnonzero(found < 0)).size:
            if len(distinct) == _MANY:
                return _hashed(names.astype(object))
            distinct.append(str(block[left[0]]))
            found[block == distinct[-1]] = len(distinct) - 1
        code[start : start + _BLOCK] = found
    return code, distinct


def _hashed(names: np.ndarray) -> tuple[np.ndarray, list[str]]:
    import pandas as pd

    code, distinct = pd.factorize(names, use_na_sentinel=False)
    text = [str(name) for name in distinct]
    if len(set(text)) < len(text):  # 1 and "1" are one name
        again, merged = pd.factorize(np.array(text, object))
        return again[code], [str(name) for name in merged]
    return code, text


class Runs(NamedTuple):
    """Runs of consecutive rows at one place.

    Attributes
    ----------
    first : int array (run,)
        First row of each run.
    of_row : int array (row,)
        The run of each row.
    """

    first: Int[np.ndarray, "run"]
    of_row: Int[np.ndarray, "row"]


def place_runs(lat: Float[np.ndarray, "row"], lon: Float[np.ndarray, "row"]) -> Runs:
    """Runs of consecutive rows with the same latitude and longitude.

    Examples
    --------
    >>> runs = place_runs(np.array([1.0, 1.0, 2.0]), np.array([5.0, 5.0, 5.0]))
    >>> runs.first.tolist(), runs.of_row.tolist()
    ([0, 2], [0, 0, 1])
    """
    begins = np.ones(lat.size, bool)
    begins[1:] = (lat[1:] != lat[:-1]) | (lon[1:] != lon[:-1])
    return Runs(np.flatnonzero(begins), np.cumsum(begins) - 1)


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

    @property
    def columns(self) -> slice | np.ndarray:
        """The channels as an index of columns: a slice, which is quicker, where they adjoin."""
        first, last = int(self.channels[0]), int(self.channels[-1])
        if np.array_equal(self.channels, np.arange(first, last + 1)):
            return slice(first, last + 1)
        return self.channels


def on_globe(lat: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Latitudes, degrees, those beyond a pole by no more than rounding (1e-6) at the pole.

    Examples
    --------
    >>> on_globe(np.array([-90.00000000000001, 90.000002])).tolist()
    [-90.0, 90.000002]
    """
    return np.where(np.abs(lat) <= 90.0 + 1e-6, np.clip(lat, -90.0, 90.0), lat)


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


def node_vectors(grid: Grid) -> Float[np.ndarray, "node 3"]:
    """Unit vectors of the nodes of a grid, from sines and cosines of its rows and meridians."""
    phi, lam = np.deg2rad(grid.lat)[:, None], np.deg2rad(grid.lon)
    out = np.empty((*grid.shape, 3))
    out[..., 0] = np.cos(phi) * np.cos(lam)
    out[..., 1] = np.cos(phi) * np.sin(lam)
    out[..., 2] = np.sin(phi)
    return out.reshape(-1, 3)


def channel_sites(tidy: xr.Dataset, layout: Layout) -> list[SiteSet]:
    """Group the channels of a layout by the sites that observe them.

    Observations between two levels are brought to the levels of the layout by interpolation in
    log-pressure between the values of the same site and time; a lone value off the levels has no
    neighbour to be interpolated with and is left out.
    """
    site, place = _distinct_places(tidy["lat"].values, tidy["lon"].values)
    code, names = name_codes(tidy["variable"].values)
    level, time = tidy["level"].values, tidy["time"].values.view(np.int64)
    value, error_std = tidy["value"].values, tidy["error_std"].values
    groups: dict[bytes, list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]] = {}
    for name in layout.variables:
        if name not in names:
            continue
        mine = np.flatnonzero(code == names.index(name))
        here = _Rows(site[mine], value[mine], error_std[mine])
        if VARIABLES[name].on_levels:
            found = list(
                zip(
                    layout.levels,
                    _by_level(here, time[mine], level[mine], layout.levels),
                    strict=True,
                )
            )
        else:
            found = [(None, here)]
        for at, rows in found:
            if rows.site.size:
                merged = _merge(rows, len(place))
                entry = (layout.channel_index(name, at), *merged)
                groups.setdefault(merged[0].tobytes(), []).append(entry)
    return [
        SiteSet(
            place[entries[0][1]],
            np.array([entry[0] for entry in entries]),
            np.stack([entry[2] for entry in entries], axis=-1),
            np.stack([entry[3] for entry in entries], axis=-1),
        )
        for entries in groups.values()
    ]


def _distinct_places(
    lat: Float[np.ndarray, "obs"], lon: Float[np.ndarray, "obs"]
) -> tuple[Int[np.ndarray, "obs"], Float[np.ndarray, "site 3"]]:
    """Number of each observation's site, and the sites in an order that is theirs alone."""
    runs = place_runs(lat, lon)
    vector = unit_vectors(lat[runs.first], lon[runs.first])
    # Three whole numbers of at most 2^20 in size, side by side in one of 63 bits.
    x, y, z = np.round(vector / _SAME_PLACE).astype(np.int64).T + (1 << 20)
    _, first, site = np.unique((x << 42) | (y << 21) | z, return_index=True, return_inverse=True)
    return site[runs.of_row], vector[first]


@dataclass(frozen=True)
class _Rows:
    """Observations of one variable: number of the site, value, error."""

    site: Int[np.ndarray, "row"]
    value: Float[np.ndarray, "row"]
    error_std: Float[np.ndarray, "row"]


def _merge(rows: _Rows, n_site: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One value per site, ascending."""
    count = np.bincount(rows.site, minlength=n_site)
    distinct = np.flatnonzero(count)
    if distinct.size == rows.site.size:  # nothing to average
        order = np.empty(n_site, np.intp)
        order[rows.site] = np.arange(rows.site.size)
        order = order[distinct]
        return distinct, rows.value[order], rows.error_std[order]
    inverse = (np.cumsum(count > 0) - 1)[rows.site]
    error_std = rows.error_std
    # Relative to the smallest error, so that tiny and infinite errors have weights, too.
    smallest = error_std.min()
    relative = error_std / smallest if np.isfinite(smallest) else np.ones(error_std.size)
    weight = 1.0 / relative**2
    total = np.bincount(inverse, weight)
    unknown = total == 0  # all errors infinite: a plain mean
    weight = np.where(unknown[inverse], 1.0, weight)
    total = np.bincount(inverse, weight)
    mean = np.bincount(inverse, weight * rows.value) / total
    error = np.where(unknown, np.inf, smallest / np.sqrt(total))
    return distinct, mean, error


def _by_level(
    rows: _Rows,
    time: Int[np.ndarray, "row"],
    level: Float[np.ndarray, "row"],
    levels: tuple[float, ...],
) -> list[_Rows]:
    """Rows for each of the levels: observed there, or between two that enclose it."""
    height, wanted = np.log(level), np.log(np.asarray(levels, np.float64))
    nearest = np.searchsorted(0.5 * (wanted[1:] + wanted[:-1]), height)
    on = np.abs(height - wanted[nearest]) < SNAP
    enclosed, between = _enclosed(rows, time, height, wanted)
    at = np.concatenate([nearest[on], between])
    order = np.argsort(at.astype(np.int16), kind="stable")  # short numbers are sorted by counting
    ends = np.cumsum(np.bincount(at, minlength=wanted.size))[:-1]
    pieces = [
        np.split(np.concatenate([seen[on], made])[order], ends)
        for seen, made in (
            (rows.site, enclosed.site),
            (rows.value, enclosed.value),
            (rows.error_std, enclosed.error_std),
        )
    ]
    return [_Rows(*parts) for parts in zip(*pieces, strict=True)]


def _enclosed(
    rows: _Rows, time: np.ndarray, height: np.ndarray, wanted: np.ndarray
) -> tuple[_Rows, Int[np.ndarray, "row"]]:
    """Interpolated to every level that lies between two neighbours of one site and time."""
    below, above = _neighbours(rows.site, time, height)
    first = np.searchsorted(wanted, height[below] + SNAP, side="right")
    n_level = np.maximum(np.searchsorted(wanted, height[above] - SNAP, side="left") - first, 0)
    pair = np.repeat(np.arange(below.size), n_level)
    before = np.cumsum(n_level) - n_level
    at = first[pair] + np.arange(pair.size) - before[pair]
    a, b = below[pair], above[pair]
    share = (wanted[at] - height[a]) / (height[b] - height[a])
    value = (1 - share) * rows.value[a] + share * rows.value[b]
    error = np.hypot((1 - share) * rows.error_std[a], share * rows.error_std[b])
    return _Rows(rows.site[a], value, error), at


def _neighbours(
    site: np.ndarray, time: np.ndarray, height: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows next to each other in a profile of one site and time, ascending in ``height``."""
    same = (site[1:] == site[:-1]) & (time[1:] == time[:-1])
    # Profiles that come one after another, as columns do, need no sorting if each of them is in
    # order and none is continued later on.
    starts = np.append(True, ~same)
    whole = _distinct_pairs(site[starts], time[starts])
    if whole and np.all(height[1:][same] >= height[:-1][same]):
        below = np.flatnonzero(same)
        return below, below + 1
    order = np.lexsort((height, time, site))
    below, above = order[:-1], order[1:]
    same = (site[below] == site[above]) & (time[below] == time[above])
    return below[same], above[same]


def _distinct_pairs(a: np.ndarray, b: np.ndarray) -> bool:
    import pandas as pd

    return not pd.DataFrame({"a": a, "b": b}).duplicated().any()
