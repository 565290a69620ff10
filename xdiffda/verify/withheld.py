"""Withheld observations: verification without a truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from jaxtyping import Int

from xdiffda.errors import InputError, Problem
from xdiffda.verify.obs_space import By, Groups, beside, mean, together, variance

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.rows import Operators


SAME_PLACE_DEG = 1e-4


def split_obs(
    obs: xr.Dataset | pd.DataFrame,
    fraction: float,
    *,
    seed: int = 0,
    operators: Operators | None = None,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Divide observations into those to assimilate and those to withhold, by whole stations.

    A station is all that shares a place, at any time; and all of one name at one time, so
    that an ascent that drifts stays whole. Observations of one column have common errors,
    and a column of which half is assimilated says nothing about the other half.

    Parameters
    ----------
    obs
        Observations, columns or tidy.
    fraction
        Of the stations to withhold, in (0, 1); at least one is withheld and one is kept.
    seed
        Same seed, same stations, whatever the order of the table.
    operators
        The user's own observation operators, as in `assimilate`.

    Returns
    -------
    used, withheld : xarray.Dataset
        Tidy observations, in their order.

    Raises
    ------
    InputError
        If the fraction is not inside (0, 1), or there is only one station.

    Examples
    --------
    >>> obs = xr.Dataset({"2m_temperature": ("station", [281.0, 282.0, 283.0])},
    ...                  {"lat": ("station", [0.0, 10.0, 20.0]), "lon": ("station", [0.0] * 3)})
    >>> used, withheld = split_obs(obs, 0.3)
    >>> used.sizes["obs"], withheld.sizes["obs"]
    (2, 1)
    """
    from xdiffda.observations import to_tidy

    if not 0 < fraction < 1:
        raise InputError(
            [
                Problem(
                    f"fraction={fraction!r}",
                    "a fraction of the stations between 0 and 1",
                    "split_obs(obs, 0.1)",
                )
            ],
            what="split_obs",
        )
    tidy = to_tidy(obs, operators=operators, strict=False)
    station = stations(tidy)
    n = station.max() + 1
    if n < 2:
        raise InputError(
            [
                Problem(
                    "observations of one station",
                    "2 stations or more, to withhold one",
                    "assimilate(obs)  # without withhold",
                )
            ],
            what="split_obs",
        )
    # in the order of places, not of the table
    order = np.lexsort((tidy["lon"].values, tidy["lat"].values))
    _, first = np.unique(station[order], return_index=True)
    in_space = station[order][np.sort(first)]
    n_out = min(max(round(fraction * n), 1), n - 1)
    out = np.random.default_rng(seed).permutation(in_space)[:n_out]
    mask = np.isin(station, out)
    return tidy.isel(obs=np.flatnonzero(~mask)), tidy.isel(obs=np.flatnonzero(mask))


def stations(tidy: xr.Dataset) -> Int[np.ndarray, " obs"]:
    """Number the stations: connected by place, or by name and time."""
    import pandas as pd
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = tidy.sizes["obs"]
    place = pd.DataFrame({k: np.round(tidy[k].values / SAME_PLACE_DEG) for k in ("lat", "lon")})
    links = [place.groupby(["lat", "lon"]).ngroup().to_numpy()]
    if "station" in tidy.variables:
        name = pd.DataFrame({"station": np.asarray(tidy["station"].values).astype(str)})
        name["time"] = tidy["time"].values if "time" in tidy.variables else 0
        links.append(name.groupby(["station", "time"], dropna=False).ngroup().to_numpy())
    # a graph of observations and of the groups that hold them
    rows, columns, offset = [], [], n
    for link in links:
        rows.append(np.arange(n))
        columns.append(link + offset)
        offset += int(link.max()) + 1
    edges = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(edges[0].size), edges), shape=(offset, offset))
    _, label = connected_components(graph, directed=False)
    return np.unique(label[:n], return_inverse=True)[1].reshape(-1)


def withheld_report(
    analysis: xr.Dataset,
    background: xr.Dataset,
    withheld: xr.Dataset | pd.DataFrame,
    *,
    by: By = "variable",
    window: str | np.timedelta64 = "6h",
    operators: Operators | None = None,
) -> xr.Dataset:
    """Measure whether the analysis came closer to observations withheld from it.

    Parameters
    ----------
    analysis, background
        States or ensembles in any known convention; their means are judged.
    withheld
        Observations that were not assimilated (`split_obs`).
    by
        Groups; the whole is in the attributes.
    window, operators
        As in `assimilate`.

    Returns
    -------
    xarray.Dataset
        On the groups: ``n`` observations of ``n_station`` stations; ``background_misfit`` and
        ``analysis_misfit``, root mean squares of (y - H x) / error_std; their ``ratio``;
        ``closer``, whether it is below 1; ``p_value``, the probability of such a gain by
        chance (one-sided t-test over stations; NaN for fewer than 3); for an ensemble
        ``chi_square``, the mean of (y - H x_a)^2 / (error_std^2 + spread^2), expected about 1.
        ``attrs``: ``closer`` for all observations together (1 or 0), ``ratio``, ``summary``.

    Raises
    ------
    InputError
        If none of the withheld observations can be seen by both states.

    Notes
    -----
    The misfit of a perfect analysis is 1, not 0: a small fall of the ratio below 1 may be a
    large fall of the error.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), np.full((3, 4), 280.0))}, grid)
    >>> obs = xr.Dataset({"2m_temperature": ("station", [282.0]),
    ...                   "2m_temperature_error_std": ("station", [1.0])},
    ...                  {"lat": ("station", [0.0]), "lon": ("station", [90.0])})
    >>> withheld_report(state + 1, state, obs).attrs["summary"]
    'closer to 1 of 1 withheld variables; misfit 2.000 before, 1.000 after'
    """
    first = beside(background, withheld, window=window, operators=operators, what="background")
    second = beside(analysis, withheld, window=window, operators=operators, what="analysis")
    first, second = together(background=first, analysis=second)
    groups, station = Groups(second, by), stations(second)
    value, sigma = second["value"].values, second["error_std"].values
    before = ((value - mean(first)) / sigma) ** 2
    after = ((value - mean(second)) / sigma) ** 2
    misfit = np.sqrt(groups.mean(before)), np.sqrt(groups.mean(after))
    members = [np.flatnonzero(groups.code == g) for g in range(groups.n)]
    columns = {
        "n": (groups.count, "number of observations"),
        "n_station": (np.array([np.unique(station[m]).size for m in members]), "stations"),
        "background_misfit": (misfit[0], "rms innovation over error_std"),
        "analysis_misfit": (misfit[1], "rms residual over error_std"),
        "ratio": (misfit[1] / misfit[0], "analysis misfit over background misfit"),
        "closer": (misfit[1] < misfit[0], "whether the analysis came closer"),
        "p_value": (
            np.array([_p_value((before - after)[m], station[m]) for m in members]),
            "probability of such a gain by chance",
        ),
    }
    spread = variance(second)
    if spread is not None:
        share = (value - mean(second)) ** 2 / (sigma**2 + spread)
        columns["chi_square"] = (groups.mean(share), "squared residual over its expectation")
    out = groups.dataset(
        columns,
        protocol=(
            "withheld observations, ensemble means; misfit: root mean square of (y - H x) / "
            "error_std; "
            "p_value: one-sided t-test over stations"
        ),
    )
    return out.assign_attrs(_whole(out, before, after, station, by))


def _p_value(gain: np.ndarray, station: np.ndarray) -> float:
    """One-sided: stations are independent, observations of one station are not."""
    from scipy.stats import ttest_1samp

    _, code = np.unique(station, return_inverse=True)
    by_station = np.bincount(code, gain)
    if by_station.size < 3 or np.ptp(by_station) == 0:
        return np.nan
    return float(ttest_1samp(by_station, 0.0, alternative="greater")[1])


def _whole(
    out: xr.Dataset, before: np.ndarray, after: np.ndarray, station: np.ndarray, by: By
) -> dict[str, object]:
    misfit = np.sqrt(before.mean()), np.sqrt(after.mean())
    closer = out["closer"].values
    word = f"{by}s" if isinstance(by, str) else "groups"
    return {
        "closer": int(misfit[1] < misfit[0]),
        "ratio": float(misfit[1] / misfit[0]),
        "p_value": _p_value(before - after, station),
        "n_station": int(np.unique(station).size),
        "summary": f"closer to {closer.sum()} of {closer.size} withheld {word}; misfit "
        f"{misfit[0]:.3f} before, {misfit[1]:.3f} after",
    }
