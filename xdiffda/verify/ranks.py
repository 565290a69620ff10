"""Rank histograms of the truth or of observations, and tests of their flatness."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.canonical import row_weights
from xdiffda.verify.obs_space import By, Groups, beside
from xdiffda.verify.partners import independent
from xdiffda.verify.scores import ensemble_pair, need_members, reduced

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.rows import Operators


# Tests of rank histograms: are they flat, and if not, how do they differ from flat?

_INDEPENDENT = (
    "chi-square of a flat rank histogram and its components along slope and curvature "
    "(Jolliffe and Primo 2008); p-values take the counts for independent"
)
_REPEATED = (
    "Hotelling's T-square of the mean shares of ranks over {} repetitions along {}, and its "
    "components along slope and curvature; p-values take the repetitions for independent"
)


def contrasts(n_rank: int) -> Float[np.ndarray, "contrast rank"]:
    """Orthonormal polynomials of degree 1 and 2 on equally spaced ranks.

    Examples
    --------
    >>> (contrasts(3).round(3) + 0.0).tolist()
    [[-0.707, 0.0, 0.707], [0.408, -0.816, 0.408]]
    """
    position = np.linspace(-1, 1, n_rank)
    q, _ = np.linalg.qr(position[:, None] ** np.arange(min(3, n_rank)))
    signs = np.where(q[-1] < 0, -1.0, 1.0)  # both rise towards the last rank
    return (q * signs)[:, 1:].T


def flatness(histogram: xr.Dataset, *, over: Hashable | None = None) -> xr.Dataset:
    r"""Test whether rank histograms are flat, and say how they are not.

    With counts :math:`n_k` of K ranks and :math:`e = \sum n_k / K`, the statistic
    :math:`\chi^2 = \sum_k (n_k - e)^2 / e` is the squared length of
    :math:`x_k = (n_k - e)/\sqrt e`, and splits into the squares of its components along
    orthonormal contrasts (Jolliffe & Primo 2008, Mon. Wea. Rev. 136, 2133-2139).

    That holds for independent counts. Neighbouring grid points, levels and variables are not.
    Where histograms of several analysis times far enough apart are at hand, let ``over`` name
    their dimension: how much the shares of the ranks vary from one time to the next then gives
    the scale, whatever the correlation within a time (Hotelling 1931, Ann. Math. Stat. 2,
    360-378: :math:`T^2 = n \bar x^T S^{-1} \bar x`).

    Parameters
    ----------
    histogram
        Counts with a dimension ``rank``: a result of `rank_histogram`.
    over
        Dimension of independent repetitions, at least K of them.

    Returns
    -------
    xarray.Dataset
        Same variables, on ``statistic`` in place of ``rank`` (and of ``over``):

        - ``n``: the number of counts, or of repetitions;
        - ``chi_square``, K - 1 degrees of freedom; of repetitions T-square, to which the
          chi-square is the limit for many of them;
        - ``slope``, standard normal (Student's t) if flat; positive: members too low;
        - ``curvature``, likewise; positive: U-shaped, an under-dispersive ensemble; negative:
          dome-shaped, an over-dispersive one;
        - ``residual``, chi-square or T-square with K - 3 degrees of freedom: every other shape;
        - ``chi_square_p``, ``slope_p``, ``curvature_p``, ``residual_p``: probabilities of
          such a value or a more extreme one, if counts (repetitions) are independent.

    Raises
    ------
    InputError
        If a variable lacks the dimension ``over``, or it has fewer than K repetitions.

    Examples
    --------
    >>> counts = xr.Dataset({"count": ("rank", [30.0, 10.0, 10.0, 30.0])})
    >>> found = flatness(counts)["count"]
    >>> found.sel(statistic=["chi_square", "slope", "curvature"]).values.round(3).tolist()
    [20.0, 0.0, 4.472]

    Six times, all of whose counts are alike by correlation: the first two kinds of time are as
    frequent, so nothing speaks against a flat histogram.

    >>> rows = np.array([[30.0, 10.0], [10.0, 30.0], [28.0, 12.0]])
    >>> times = xr.Dataset({"count": (("time", "rank"), np.concatenate([rows, rows[:, ::-1]]))})
    >>> found = flatness(times, over="time")["count"].sel(statistic=["chi_square_p", "slope_p"])
    >>> found.values.round(3).tolist()
    [1.0, 1.0]
    """
    ranked = {name: f for name, f in histogram.data_vars.items() if "rank" in f.dims}
    if over is None:
        fields = {name: _of_counts(f) for name, f in ranked.items()}
        protocol = _INDEPENDENT
    else:
        _check_repetitions(ranked, over)
        fields = {name: _of_repetitions(f, over) for name, f in ranked.items()}
        protocol = _REPEATED.format(histogram.sizes[over], over)
    protocol = "; ".join(filter(None, [histogram.attrs.get("protocol", ""), protocol]))
    return xr.Dataset(fields, attrs=histogram.attrs | {"protocol": protocol})


def _check_repetitions(ranked: dict[Hashable, xr.DataArray], over: Hashable) -> None:
    problems = []
    for name, field in ranked.items():
        n, k = field.sizes.get(over, 0), field.sizes["rank"]
        if n < k:
            found = f"{name}: {n} repetitions along {over!r}" if n else f"{name} on {field.dims}"
            needed = f"{k} or more along {over!r}, the number of ranks"
            problems.append(Problem(found, needed, "flatness(histogram)"))
    raise_if(problems, what="flatness")


def _of_repetitions(counts: xr.DataArray, over: Hashable) -> xr.DataArray:
    n, k = counts.sizes[over], counts.sizes["rank"]
    shares = counts / counts.sum("rank") * k - 1
    shapes = contrasts(k)
    # the remaining directions in which shares, which add up to one, can move
    known = np.concatenate([np.ones((1, k)) / np.sqrt(k), shapes])
    others = np.linalg.svd(known)[2][len(known) :]
    out = {"n": xr.full_like(shares.isel({over: 0, "rank": 0}, drop=True), n)}
    tests = {
        "chi_square": np.concatenate([shapes, others]),
        "slope": shapes[:1],
        "curvature": shapes[1:2],
        "residual": others,
    }
    results = {
        name: xr.apply_ufunc(
            _hotelling,
            shares,
            kwargs={"directions": directions, "signed": name in ("slope", "curvature")},
            input_core_dims=[[over, "rank"]],
            output_core_dims=[[], []],
            vectorize=True,
            dask="parallelized",
            output_dtypes=[np.float64, np.float64],
            dask_gufunc_kwargs={"allow_rechunk": True},
        )
        for name, directions in tests.items()
    }
    out |= {name: value for name, (value, _) in results.items()}
    return _stack(out | {f"{name}_p": p for name, (_, p) in results.items()})


def _hotelling(
    shares: Float[np.ndarray, "time rank"],
    *,
    directions: Float[np.ndarray, "one rank"],
    signed: bool,
) -> tuple[float, float]:
    """T-square (its signed root where there is one direction) and p-value of a mean of zero."""
    from scipy.stats import f

    n, p = len(shares), len(directions)
    if p == 0:
        return (np.nan, np.nan) if signed else (0.0, 1.0)
    x = shares @ directions.T
    mean, covariance = x.mean(0), np.cov(x.T, ddof=1).reshape(p, p)
    if np.linalg.matrix_rank(covariance, hermitian=True) < p:
        return np.nan, np.nan  # shares that never vary have no scale
    t_square = float(n * mean @ np.linalg.solve(covariance, mean))
    p_value = float(f.sf(t_square * (n - p) / (p * (n - 1)), p, n - p))
    return (float(np.sign(mean[0]) * np.sqrt(t_square)) if signed else t_square, p_value)


def _of_counts(counts: xr.DataArray) -> xr.DataArray:
    from scipy.stats import chi2

    k = counts.sizes["rank"]
    n = counts.sum("rank")
    expected = n / k
    x = (counts - expected) / expected**0.5
    shapes = contrasts(k)
    axis = {"dims": "rank"} | (
        {"coords": {"rank": counts["rank"]}} if "rank" in counts.coords else {}
    )
    total = (x**2).sum("rank")
    parts = [(x * xr.DataArray(shape, **axis)).sum("rank") for shape in shapes]
    slope, curvature = parts[0], parts[1] if len(parts) > 1 else xr.full_like(parts[0], np.nan)
    residual = total - slope**2 - curvature**2 if k > 3 else xr.zeros_like(total)

    def p_value(statistic: xr.DataArray, freedom: int) -> xr.DataArray:
        return xr.apply_ufunc(
            chi2.sf, statistic, freedom, dask="parallelized", output_dtypes=[np.float64]
        )

    out = {
        "n": n,
        "chi_square": total,
        "slope": slope,
        "curvature": curvature,
        "residual": residual,
        "chi_square_p": p_value(total, k - 1),
        "slope_p": p_value(slope**2, 1),
        "curvature_p": p_value(curvature**2, 1),
        "residual_p": p_value(residual, k - 3) if k > 3 else xr.ones_like(total),
    }
    return _stack(out)


def _stack(statistics: dict[str, xr.DataArray]) -> xr.DataArray:
    index = xr.DataArray(list(statistics), dims="statistic", name="statistic")
    return xr.concat(list(statistics.values()), index, coords="minimal", compat="override")


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
            [
                Problem(
                    "both of truth and obs" if obs is not None else "neither truth nor obs",
                    "exactly one of them",
                    "rank_histogram(analysis, truth=truth)",
                )
            ],
            what="rank_histogram",
        )
    analysis, left_out = independent(analysis, what="rank histogram")
    if truth is not None:
        out = _against_truth(analysis, truth, thin_km)
    else:
        seen = beside(analysis, obs, window=window, operators=operators, what="analysis")
        out = _against_obs(seen, by, seed)
    out.attrs["protocol"] = "; ".join(filter(None, [out.attrs["protocol"], left_out]))
    return out


def _against_truth(analysis: xr.Dataset, truth: xr.Dataset, thin_km: float | None) -> xr.Dataset:
    state, reference = ensemble_pair(analysis, truth, what="rank histogram")
    weights = row_weights(reference)
    protocol = _TRUTH
    if thin_km is not None:
        if not (isinstance(thin_km, int | float | np.number) and thin_km > 0):
            raise InputError(
                [
                    Problem(
                        f"thin_km={thin_km!r}",
                        "a positive distance in km",
                        "rank_histogram(..., thin_km=1500)",
                    )
                ],
                what="rank histogram",
            )
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
