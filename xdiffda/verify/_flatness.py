"""Tests of rank histograms: are they flat, and if not, how do they differ from flat?"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import Problem, raise_if

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
        - ``curvature``, likewise; positive: U, members too close together; negative: dome,
          too far apart;
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
            problems.append(Problem(found, needed, "more times, or flatness(histogram)"))
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
        "chi_square": np.concatenate([shapes, others]), "slope": shapes[:1],
        "curvature": shapes[1:2], "residual": others,
    }  # fmt: skip
    results = {
        name: xr.apply_ufunc(
            _hotelling, shares, kwargs={"directions": directions, "signed": name in
                                        ("slope", "curvature")},
            input_core_dims=[[over, "rank"]], output_core_dims=[[], []], vectorize=True,
            dask="parallelized", output_dtypes=[np.float64, np.float64],
            dask_gufunc_kwargs={"allow_rechunk": True},
        )
        for name, directions in tests.items()
    }  # fmt: skip
    out |= {name: value for name, (value, _) in results.items()}
    return _stack(out | {f"{name}_p": p for name, (_, p) in results.items()})


def _hotelling(
    shares: Float[np.ndarray, "time rank"], *, directions: Float[np.ndarray, "one rank"],
    signed: bool,
) -> tuple[float, float]:  # fmt: skip
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
        return xr.apply_ufunc(chi2.sf, statistic, freedom, dask="parallelized",
                              output_dtypes=[np.float64])  # fmt: skip

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
