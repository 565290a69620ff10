"""Test functions, ranks and tests of simulation-based calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from xdiffda.prior import Prior

TestFunction = Callable[[Float[np.ndarray, "*batch node channel"]], Float[np.ndarray, "*batch"]]


def default_functions(
    prior: Prior, *, n_channel: int = 4, seed: int = 0
) -> dict[str, TestFunction]:
    """Grid values, means over the globe and spectral coefficients of some channels.

    Parameters
    ----------
    prior
        Its layout and basis are used.
    n_channel
        How many channels, evenly chosen.
    seed
        Of the grid points, drawn by area.

    Examples
    --------
    >>> import xarray as xr
    >>> from xdiffda.prior import GaussianPrior
    >>> noise = np.random.default_rng(0).normal(size=(20, 6, 12))
    >>> errors = xr.Dataset({"2m_temperature": (("member", "lat", "lon"), noise)},
    ...                     {"lat": np.linspace(-75, 75, 6), "lon": np.arange(12) * 30.0})
    >>> list(default_functions(GaussianPrior.from_samples(errors), n_channel=1))[1]
    '2m_temperature, mean'
    """
    layout, basis = prior.layout, prior.covariance.basis
    rng = np.random.default_rng([seed, 0])
    area = layout.grid.area_weights() / layout.grid.n_node
    chosen = np.unique(np.linspace(0, layout.n_channel - 1, n_channel).round().astype(int))
    n_degree, n_order = np.asarray(basis.mask).shape
    out: dict[str, TestFunction] = {}
    for channel in chosen:
        name, node = layout.channel_names[channel], int(rng.choice(area.size, p=area))
        place = f"{layout.grid.node_lat[node]:g} N {layout.grid.node_lon[node]:g} E"
        out[f"{name}, {place}"] = _at(node, channel)
        out[f"{name}, mean"] = _mean(area, channel)
        for degree in sorted({min(2, n_degree - 1), 2 * n_degree // 3}):
            order = int(rng.integers(0, min(2 * degree + 1, n_order)))
            out[f"{name}, coefficient ({degree}, {order})"] = _coefficient(
                basis, channel, degree, order
            )
    return out


def _at(node: int, channel: int) -> TestFunction:
    return lambda z: z[..., node, channel]


def _mean(area: np.ndarray, channel: int) -> TestFunction:
    return lambda z: z[..., channel] @ area


def _coefficient(basis: Any, channel: int, degree: int, order: int) -> TestFunction:
    def function(z: np.ndarray) -> np.ndarray:
        fields = z[..., channel].reshape(-1, z.shape[-2]).T.astype(np.float32)
        return np.asarray(basis.scalar.analysis(fields))[degree, order].reshape(z.shape[:-2])

    return function


def rank_of_first(values: Float[np.ndarray, " state"], rng: np.random.Generator) -> int:
    """Rank of the first value among the others, from 1; chance decides between equals."""
    below, ties = int((values[1:] < values[0]).sum()), int((values[1:] == values[0]).sum())
    return 1 + below + int(rng.integers(0, ties + 1))


def n_bins(n_draws: int, n_rank: int) -> int:
    """Most bins of equally many ranks that expect 5 draws or more each, and at least 2.

    Examples
    --------
    >>> n_bins(100, 16), n_bins(40, 16), n_bins(4, 9)
    (16, 8, 3)
    """
    divisors = [k for k in range(2, n_rank + 1) if n_rank % k == 0]
    return max([k for k in divisors if n_draws / k >= 5], default=divisors[0])


def summary(
    rank: Int[np.ndarray, "function draw"], names: Sequence[str], n_members: int,
    significance: float, prior: Prior, rng: np.random.Generator,
) -> xr.Dataset:  # fmt: skip
    from scipy.stats import kstest

    from xdiffda.verify import flatness

    n_rank, n_draws = n_members + 1, rank.shape[1]
    bins = n_bins(n_draws, n_rank)
    where = (rank - 1) * bins // n_rank
    counts = np.stack([np.bincount(row, minlength=bins) for row in where]).astype(np.float64)
    shape = flatness(xr.Dataset({"count": (("function", "rank"), counts)}))["count"]
    ks = [kstest((row - 1 + rng.random(n_draws)) / n_rank, "uniform") for row in rank]
    columns = {
        str(k): ("function", shape.sel(statistic=k).values)
        for k in ("chi_square", "chi_square_p", "slope", "slope_p", "curvature", "curvature_p")
    }
    columns["ks"] = ("function", np.array([found.statistic for found in ks]))
    columns["ks_p"] = ("function", np.array([found.pvalue for found in ks]))
    p = np.stack([values for name, (_, values) in columns.items() if name.endswith("_p")])
    smallest = float(min(np.isfinite(p).sum() * np.nanmin(p), 1.0))
    return xr.Dataset(
        {"rank": (("function", "draw"), rank), "count": (("function", "rank_bin"), counts),
         **columns},
        {"function": names, "draw": np.arange(n_draws), "rank_bin": np.arange(1, bins + 1)},
        {"protocol": f"ranks of {n_draws} truths drawn from the prior among {n_members} members "
                     "of the analyses of their own observations (Talts et al. 2018); uniform: "
                     "smallest p of chi-square, slope, curvature and KS over all functions, "
                     f"times their number, above {significance:g}",
         "model": prior.name, "n_member": n_members, "smallest_p": smallest,
         "uniform": int(smallest > significance)},
    )  # fmt: skip
