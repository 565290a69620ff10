"""Rank histograms of the truth or of observations, and tests of their flatness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdiffda._fields import row_weights
from xdiffda.errors import InputError, Problem
from xdiffda.verify._obs_space import By, Groups, equivalents
from xdiffda.verify._pairs import ensemble_pair, need_members, reduced
from xdiffda.verify._partners import independent

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.rows import Operators

EARTH_RADIUS_KM = 6371.0
_TRUTH = (
    "rank of the truth among the members, ties shared; counts weighted by cell area and scaled "
    "to the effective number sum(w)^2 / sum(w^2)"
)
_THINNED = "rank of the truth among the members, ties shared; grid points at least {:g} km apart"
_OBS = (
    "rank of the observation among members to which noise of the observation error was added "
    "(seed {}), ties shared; every observation counts once"
)


def rank_histogram(
    analysis: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    obs: xr.Dataset | pd.DataFrame | None = None,
    thin_km: float | None = None,
    by: By = "variable",
    window: str | np.timedelta64 = "6h",
    operators: Operators | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Count the rank of the truth, or of observations, among the members.

    Rank 1 is below all N members, rank N + 1 above them; of equal values, each rank in
    question gets its share (as in ``scores.probability.rank_histogram``, whose result this
    is without its reading the data at once). An observation differs from the truth by its
    error: members get noise of the same variance before they are compared (Hamill 2001,
    Mon. Wea. Rev. 129, 550-560).

    Ranks are uniform for members that are exchangeable with the truth. The two of an
    antithetic pair are not: where one is too high the other is too low, and the truth lies
    between them more often than chance. Of each pair the first member is ranked, so that 8
    members in pairs have 5 ranks; ``n_member`` and the protocol say so.

    Parameters
    ----------
    analysis
        Ensemble in any known convention.
    truth
        State on the same grid; every grid point has a rank. Stays lazy.
    obs
        Observations, columns or tidy, best such as were not assimilated; the analysis is
        computed.
    thin_km
        Against the truth: use only grid points at least so far apart. Errors of neighbours
        are alike, and a test that takes them for independent rejects every ensemble: choose
        the distance at which errors decorrelate (1,000 to 2,000 km) before `flatness`.
    by
        Against observations: groups, by ``variable``, ``level``, ``kind``, ...
    window, operators
        Against observations: as in `assimilate`.
    seed
        Of the noise added to members.

    Returns
    -------
    xarray.Dataset
        Against the truth: variables in canonical names on (``rank``[, ``level``]); against
        observations ``count`` on (groups, ``rank``). Counts, not frequencies: `flatness`
        needs their number.

    Raises
    ------
    InputError
        If not exactly one of truth and obs is given, or there are fewer than 2 (independent)
        members.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> members = xr.Dataset({"2m_temperature": (
    ...     ("member", "lat", "lon"), [np.full((3, 4), 279.0), np.full((3, 4), 281.0)])}, grid)
    >>> counts = rank_histogram(members, truth=members.isel(member=0) + 1)["2m_temperature"]
    >>> (counts / counts.sum()).values.tolist()
    [0.0, 1.0, 0.0]
    """
    if (truth is None) == (obs is None):
        raise InputError(
            [Problem("both of truth and obs" if obs is not None else "neither truth nor obs",
                     "exactly one of them", "rank_histogram(analysis, truth=truth)")],
            what="rank_histogram",
        )  # fmt: skip
    analysis, left_out = independent(analysis, what="rank histogram")
    if truth is not None:
        out = _against_truth(analysis, truth, thin_km)
    else:
        seen = equivalents(analysis, obs, window=window, operators=operators, what="analysis")
        out = _against_obs(seen, by, seed)
    out.attrs["protocol"] = "; ".join(filter(None, [out.attrs["protocol"], left_out]))
    return out


def _against_truth(analysis: xr.Dataset, truth: xr.Dataset, thin_km: float | None) -> xr.Dataset:
    state, reference = ensemble_pair(analysis, truth, what="rank histogram")
    weights = row_weights(reference)
    protocol = _TRUTH
    if thin_km is not None:
        if not (isinstance(thin_km, int | float | np.number) and thin_km > 0):
            raise InputError([Problem(f"thin_km={thin_km!r}", "a positive distance in km",
                                      "rank_histogram(..., thin_km=1500)")],
                             what="rank histogram")  # fmt: skip
        weights = thinned(reference["lat"], reference["lon"], thin_km).astype(np.float64)
        protocol = _THINNED.format(thin_km)
    out = {n: _counts(state[n], reference[n], weights) for n in state.data_vars}
    return xr.Dataset(out, attrs={"protocol": protocol, "n_member": state.sizes["member"]})


def _counts(members: xr.DataArray, truth: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    known = members.notnull().all("member") & truth.notnull()
    below = (members < truth).sum("member")
    ties = (members == truth).sum("member")
    weight = weights.where(known, 0.0)
    dims = reduced(known)
    scale = weight.sum(dims) / (weight**2).sum(dims)
    ranks = np.arange(members.sizes["member"] + 1)
    # one rank at a time: an array with all ranks would be N + 1 times the field
    parts: list[xr.DataArray] = [
        (((k >= below) & (k <= below + ties)) / (ties + 1) * weight).sum(dims) * scale
        for k in ranks
    ]
    counts: xr.DataArray = xr.concat(parts, xr.DataArray(ranks + 1, dims="rank", name="rank"))
    counts.attrs = {"units": "1", "long_name": f"count, {truth.attrs.get('long_name', '')}"}
    return counts


def _against_obs(seen: xr.Dataset, by: By, seed: int) -> xr.Dataset:
    members = seen["equivalent"]
    need_members(members.sizes.get("member", 1), what="rank histogram")
    n_obs, n_member = members.shape
    noise = np.random.default_rng(seed).standard_normal((n_obs, n_member))
    noisy = members.values + noise * seen["error_std"].values[:, None]
    value = seen["value"].values[:, None]
    below, ties = (noisy < value).sum(1), (noisy == value).sum(1)
    groups = Groups(seen, by)
    ranks = np.arange(n_member + 1)
    counts = np.stack(
        [groups.sum(((k >= below) & (k <= below + ties)) / (ties + 1)) for k in ranks], axis=1
    )
    return xr.Dataset(
        {"count": ((groups.dim, "rank"), counts, {"units": "1", "long_name": "count"})},
        groups.coords | {"rank": ranks + 1},
        {"protocol": _OBS.format(seed), "n_member": n_member},
    )


def thinned(lat: xr.DataArray, lon: xr.DataArray, spacing_km: float) -> xr.DataArray:
    """Mark grid points that are ``spacing_km`` or more apart along rows and along meridians.

    Rows are taken from the south; along a row, every k-th point, so many that the last is
    as far from the first.

    Examples
    --------
    >>> lat, lon = np.arange(-85.0, 90, 10), np.arange(0, 360, 10.0)
    >>> mask = thinned(xr.DataArray(lat, dims="lat"), xr.DataArray(lon, dims="lon"), 3000.0)
    >>> mask.sum("lon").values.tolist()
    [1, 0, 0, 7, 0, 0, 12, 0, 0, 12, 0, 0, 9, 0, 0, 5, 0, 0]
    """
    phi, n_lon = np.asarray(lat.values, np.float64), lon.size
    mask = np.zeros((phi.size, n_lon), bool)
    last = -np.inf
    for row in np.argsort(phi):
        if np.deg2rad(phi[row] - last) * EARTH_RADIUS_KM < spacing_km:
            continue
        last = phi[row]
        circle = 2 * np.pi * EARTH_RADIUS_KM * np.cos(np.deg2rad(last))
        step = min(n_lon, int(np.ceil(spacing_km / max(circle / n_lon, 1e-9))))
        mask[row, np.arange(max(n_lon // step, 1)) * step] = True
    return xr.DataArray(mask, dims=("lat", "lon"), coords={"lat": lat.values, "lon": lon.values})
