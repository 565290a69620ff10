"""Rank histograms, reliability and lead-time loss, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.special import sph_harm_y
from scipy.stats import kstest

from xdiffda.errors import InputError
from xdiffda.verify import (
    flatness,
    lead_time_loss,
    rank_histogram,
    reliability,
    spread_error,
)
from xdiffda.verify.ranks import EARTH_RADIUS_KM, thinned

LAT = np.arange(-87.1875, 90, 5.625)
LON = np.arange(0, 360, 5.625)
PHI, LAMBDA = np.deg2rad(LAT)[:, None], np.deg2rad(LON)[None]
T2M = "2m_temperature"


def field(values: np.ndarray, name: str = T2M, **coords: object) -> xr.Dataset:
    lead = list(coords)
    return xr.Dataset(
        {
            name: (
                (*lead, "lat", "lon"),
                np.broadcast_to(values, (*values.shape[:-2], 32, 64)).copy(),
            )
        },
        {"lat": LAT, "lon": LON, **coords},
    )


def draw(*shape: int, seed: int, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, std, (*shape, LAT.size, LON.size))


def members(values: np.ndarray) -> xr.Dataset:
    return field(values, member=np.arange(len(values)))


# ---- rank histograms -------------------------------------------------------------------


def test_ranks_agree_with_the_library() -> None:
    from scores.probability import rank_histogram as library

    ensemble, truth = members(np.round(draw(5, seed=0), 1)), field(np.round(draw(seed=1), 1))
    ensemble[T2M][2, 3, 4] = np.nan
    found = rank_histogram(ensemble, truth=truth)[T2M]
    weights = xr.DataArray(
        np.diff(np.sin(np.deg2rad(np.r_[-90, LAT[:-1] + 2.8125, 90]))),
        dims="lat",
        coords={"lat": LAT},
    )
    with pytest.warns(UserWarning, match="NaN"):
        expected = library(ensemble[T2M], truth[T2M], "member", weights=weights)
    np.testing.assert_allclose(found / found.sum(), expected, rtol=1e-9)
    np.testing.assert_array_equal(found["rank"], expected["rank"])


@pytest.mark.parametrize(
    ("spread", "shift", "statistic", "sign"),
    [
        (0.6, 0.0, "curvature", 1),
        (1.6, 0.0, "curvature", -1),
        (1, -0.3, "slope", 1),
        (1, 0.3, "slope", -1),
    ],
)
def test_shapes_are_named(spread: float, shift: float, statistic: str, sign: int) -> None:
    """U for members too close together, dome for too wide, slope for biased ones."""
    ensemble = members(shift + spread * draw(8, seed=2))
    found = flatness(rank_histogram(ensemble, truth=field(draw(seed=3))))[T2M]
    value = {str(k): float(found.sel(statistic=k)) for k in found["statistic"].values}
    assert sign * value[statistic] > 6
    assert value[f"{statistic}_p"] < 1e-8
    assert value["chi_square_p"] < 1e-6
    other = "slope" if statistic == "curvature" else "curvature"
    assert abs(value[other]) < abs(value[statistic]) / 2
    parts = value["slope"] ** 2 + value["curvature"] ** 2 + value["residual"]
    assert value["chi_square"] == pytest.approx(parts)


def test_exchangeable_members_are_flat() -> None:
    """Over many levels, p-values of exchangeable draws are themselves uniform."""
    levels = np.arange(100, 900, 10)
    all_of_them = draw(7, levels.size, seed=4)
    ensemble = field(all_of_them[1:], "temperature", member=np.arange(6), level=levels)
    truth = field(all_of_them[0], "temperature", level=levels)
    found = flatness(rank_histogram(ensemble, truth=truth))["temperature"]
    for name in ("chi_square_p", "slope_p", "curvature_p", "residual_p"):
        assert kstest(found.sel(statistic=name), "uniform").pvalue > 0.01, name
    # all points count, those near the poles for less: about 4/5 of 2,048
    assert 1500 < float(found.sel(statistic="n")[0]) < 2048


def test_dependent_points_need_thinning() -> None:
    """Errors of long scale look U-shaped or biased when every grid point counts as one."""
    rng = np.random.default_rng(5)
    waves = np.stack(
        [np.real(sph_harm_y(n, m, np.pi / 2 - PHI, LAMBDA)) for n in range(4) for m in range(n + 1)]
    )
    smooth = np.einsum("...k,kij->...ij", rng.normal(size=(7, 60, len(waves))), waves)
    levels = np.arange(100, 700, 10)
    ensemble = field(smooth[1:], "temperature", member=np.arange(6), level=levels)
    truth = field(smooth[0], "temperature", level=levels)
    rejected = []
    for thin_km in (None, 9000.0):
        found = flatness(rank_histogram(ensemble, truth=truth, thin_km=thin_km))["temperature"]
        rejected.append(float((found.sel(statistic="chi_square_p") < 0.05).mean()))
    assert rejected[0] > 0.9
    assert rejected[1] < 0.25


def histograms_by_time(smooth: np.ndarray) -> xr.Dataset:
    """Rank histograms of waves (ensemble, level, time, lat, lon), member 0 the truth."""
    levels = np.arange(100, 100 + 10 * smooth.shape[1], 10)
    found = []
    for step in range(smooth.shape[2]):
        ensemble = field(
            smooth[1:, :, step], "temperature", member=np.arange(len(smooth) - 1), level=levels
        )
        truth = field(smooth[0, :, step], "temperature", level=levels)
        found.append(rank_histogram(ensemble, truth=truth))
    return xr.concat(found, "time", combine_attrs="override")


def test_repetitions_bear_with_dependent_points() -> None:
    """With times as repetitions p-values are uniform, whatever the correlation in space."""
    rng = np.random.default_rng(6)
    waves = np.stack(
        [np.real(sph_harm_y(n, m, np.pi / 2 - PHI, LAMBDA)) for n in range(4) for m in range(n + 1)]
    )
    smooth = np.einsum("...k,kij->...ij", rng.normal(size=(4, 60, 20, len(waves))), waves)
    found = flatness(histograms_by_time(smooth), over="time")["temperature"]
    assert found.dims == ("statistic", "level")
    assert (found.sel(statistic="n") == 20).all()
    for name in ("chi_square_p", "slope_p", "curvature_p", "residual_p"):
        assert kstest(found.sel(statistic=name), "uniform").pvalue > 0.01, name
    smooth[1:] *= 0.4  # too little spread is found nevertheless
    narrow = flatness(histograms_by_time(smooth), over="time")["temperature"]
    assert float(narrow.sel(statistic="curvature").median()) > 4
    assert float(narrow.sel(statistic="chi_square_p").median()) < 1e-3


def test_repetitions_that_are_too_few() -> None:
    """Fewer times than ranks, or none: said, with the way out."""
    counts = xr.Dataset({"count": (("time", "rank"), np.ones((3, 5)))})
    with pytest.raises(InputError, match=r"3 repetitions along 'time'.*5 or more"):
        flatness(counts, over="time")
    with pytest.raises(InputError, match=r"along 'case'"):
        flatness(counts, over="case")


@pytest.mark.parametrize("spacing", [700.0, 2000.0, 6000.0])
def test_thinned_points_are_apart(spacing: float) -> None:
    mask = thinned(*(xr.DataArray(v, dims=d) for v, d in ((LAT, "lat"), (LON, "lon"))), spacing)
    row, column = np.nonzero(mask.values)
    phi, lam = np.deg2rad(LAT[row]), np.deg2rad(LON[column])
    xyz = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
    angle = np.arccos(np.clip(xyz.T @ xyz, -1, 1))
    # along a parallel the great circle is a little shorter than the row
    apart = angle[~np.eye(row.size, dtype=bool)].min() * EARTH_RADIUS_KM
    assert apart > 0.6 * spacing
    whole = 4 * np.pi * EARTH_RADIUS_KM**2 / spacing**2
    assert 0.3 * whole < row.size < whole


def test_one_of_truth_and_obs() -> None:
    state = members(draw(2, seed=6))
    with pytest.raises(InputError, match="neither truth nor obs"):
        rank_histogram(state)
    with pytest.raises(InputError, match="a single state"):
        rank_histogram(state.isel(member=0), truth=state.isel(member=1))


# ---- reliability -----------------------------------------------------------------------


def test_error_follows_spread() -> None:
    """Two members m -+ w have the spread sqrt(3) w; truths are drawn with that width."""
    width = 1.0 + np.arange(64) // 16  # 1, 2, 3, 4 on a quarter of the globe each
    centre = 5 * draw(20, seed=7)
    time = np.datetime64("2020-01-01", "ns") + np.arange(20) * np.timedelta64(6, "h")
    pair = np.stack([centre - width, centre + width])
    ensemble = field(pair, member=np.arange(2), time=time)
    truth = field(centre + np.sqrt(3) * width * draw(20, seed=8), time=time)
    found = spread_error(ensemble, truth, n_bins=4)[T2M]
    np.testing.assert_allclose(found.sel(quantity="spread"), np.sqrt(3) * np.arange(1, 5))
    np.testing.assert_allclose(found.sel(quantity="error"), np.sqrt(3) * np.arange(1, 5), rtol=0.03)


def test_bins_have_equal_area() -> None:
    """Spread = sin(lat) + 2: each of two bins is a hemisphere, whose mean is known."""
    pair = np.stack([np.full((32, 64), -1.0), np.full((32, 64), 1.0)]) * (np.sin(PHI) + 2)
    found = spread_error(members(pair), field(np.zeros((32, 64))), n_bins=2)[T2M]
    # mean over a hemisphere of (2 -+ x)^2, x from 0 to 1, times 2 (variance) and 3/2
    mean = np.array([4 - 2 + 1 / 3, 4 + 2 + 1 / 3])
    np.testing.assert_allclose(found.sel(quantity="spread"), np.sqrt(3 * mean), rtol=1e-3)
    np.testing.assert_allclose(found.sel(quantity="error"), 0, atol=1e-12)


def test_brier_decomposition() -> None:
    level = [500, 850]
    shift = xr.DataArray([0.3, -0.2], dims="level", coords={"level": level})
    signal = draw(2, seed=9)
    ensemble = field(signal + draw(4, 2, seed=10), "temperature", member=np.arange(4), level=level)
    truth = field(signal + draw(2, seed=11), "temperature", level=level)
    found = reliability(ensemble, truth, thresholds={"t": shift})
    terms = found["temperature_brier"]
    part = {str(k): terms.sel(term=k) for k in terms["term"].values}
    whole = part["reliability"] - part["resolution"] + part["uncertainty"]
    np.testing.assert_allclose(part["plain"], whole, rtol=1e-9)
    assert (part["fair"] < part["plain"]).all()
    np.testing.assert_allclose(found["temperature_share"].sum("probability"), 1)
    # a member of the same law as the truth: the more members, the more probable
    assert (found["temperature"].diff("probability") > 0.1).all()


def test_certain_forecasts() -> None:
    truth = field(draw(seed=12))
    twice = xr.concat([truth, truth], "member")
    found = reliability(twice, truth, thresholds={T2M: 0.0})
    np.testing.assert_allclose(found[T2M], [0, np.nan, 1])
    terms = found[f"{T2M}_brier"]
    assert float(terms.sel(term="plain")) == 0
    assert float(terms.sel(term="resolution")) == pytest.approx(
        float(terms.sel(term="uncertainty"))
    )


# ---- lead-time loss --------------------------------------------------------------------


def test_lead_time_loss() -> None:
    hours = np.arange(0, 121, 12)
    lead = hours * np.timedelta64(1, "h")

    def curve(rmse: np.ndarray) -> xr.Dataset:
        fields = {"geopotential": (("score", "lead_time", "level"), rmse[None, :, None] * [1, 2])}
        return xr.Dataset(fields, {"score": ["rmse"], "lead_time": lead, "level": [300, 500]})

    reference = curve(hours**1.5)
    found = lead_time_loss(curve((hours + 18.0) ** 1.5), reference)["geopotential"]
    inside = hours + 18 <= 120
    # chords of the curve lie above it: the interpolated loss is at most a little short
    np.testing.assert_allclose(found.isel(level=1)[inside], 18, atol=0.8)
    assert np.isnan(found[~inside]).all()
    wiggly = hours.astype(float)
    wiggly[3] = 20  # 24 at 24 h, 20 at 36 h, 48 at 48 h
    # 22 is reached at 22 h, again at 30 h and at 36 + 12 * 2 / 28 h: the nearest counts
    loss = lead_time_loss(curve(np.full(11, 22.0)), curve(wiggly))["geopotential"].isel(level=0)
    where = np.array([22, 22, 22, *[36 + 24 / 28] * 8])
    np.testing.assert_allclose(loss, where - hours)
    # forecasts from the truth itself have lost nothing, however their error wiggles
    for own in (wiggly, np.minimum(hours, 60.0)):
        itself = lead_time_loss(curve(own), curve(own))["geopotential"]
        np.testing.assert_array_equal(itself, 0.0)
    with pytest.raises(InputError, match=r"(?s)reference without a dimension lead_time.*'rmse'"):
        lead_time_loss(reference, reference.isel(score=0, lead_time=0, drop=True))


def test_stays_lazy(no_compute: None) -> None:
    ensemble = members(draw(3, seed=17)).chunk(lat=16, member=1)
    truth = field(draw(seed=18)).chunk(lat=16)
    results = [
        flatness(rank_histogram(ensemble, truth=truth)),
        spread_error(ensemble, truth),
        reliability(ensemble, truth, thresholds={T2M: 0.0}),
    ]
    for result in results:
        assert "protocol" in result.attrs
        assert all(
            v.chunks is not None for k, v in result.data_vars.items() if "threshold" not in str(k)
        )
