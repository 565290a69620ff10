"""Antithetic ensembles: unbiased scores in closed form, equal to the usual ones without pairs."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chisquare

from xdiffda.errors import InputError
from xdiffda.osse.records import score
from xdiffda.verify import rank_histogram, reliability, spread_error, verify
from xdiffda.verify._partners import first_of_pairs, partners, variance, variance_of_mean

LAT, LON = np.arange(-87.1875, 90, 5.625), np.arange(0, 360, 5.625)
PAIRED = {"xdiffda_settings": '{"antithetic": true}'}


def ensemble(n: int, *, seed: int, correlation: float = -1.0, lag: int = 0) -> xr.Dataset:
    """Members N(0, 1) whose partners have this correlation; independent with 0."""
    rng = np.random.default_rng([seed, lag])
    first, second = rng.normal(size=(2, (n + 1) // 2, LAT.size, LON.size))
    second = correlation * first + np.sqrt(1 - correlation**2) * second
    members = np.stack([first, second], axis=1).reshape(-1, LAT.size, LON.size)[:n]
    return xr.Dataset(
        {"2m_temperature": (("member", "lat", "lon"), members)},
        {"member": np.arange(n), "lat": LAT, "lon": LON}, attrs=PAIRED,
    )  # fmt: skip


def truth_of(seed: int) -> xr.Dataset:
    values = np.random.default_rng([seed, 99]).normal(size=(LAT.size, LON.size))
    return xr.Dataset({"2m_temperature": (("lat", "lon"), values)}, {"lat": LAT, "lon": LON})


@pytest.mark.parametrize("n", [4, 7, 8])
@pytest.mark.parametrize("correlation", [-1.0, -0.6])
def test_scores_of_a_calibrated_ensemble_in_pairs(n: int, correlation: float) -> None:
    """Truth and members N(0, 1): spread 1, spread/skill 1, fair CRPS 1 / sqrt(pi)."""
    found = verify(ensemble(n, seed=3, correlation=correlation), truth_of(3))["2m_temperature"]
    assert float(found.sel(score="spread")) == pytest.approx(1, abs=0.03)
    assert float(found.sel(score="spread_skill")) == pytest.approx(1, abs=0.05)
    assert float(found.sel(score="crps")) == pytest.approx(1 / np.sqrt(np.pi), abs=0.03)
    if correlation == -1 and n == 8:  # the mean has no sampling error: its error is the truth's
        assert float(found.sel(score="rmse")) == pytest.approx(1, abs=0.03)


def test_taken_as_independent_the_same_ensemble_seems_to_have_too_much_spread() -> None:
    """The check can fail: without the attribute the variance is 8 / 7 of what it is."""
    paired = ensemble(8, seed=4)
    plain = paired.drop_attrs()
    ratio = verify(plain, truth_of(4))["2m_temperature"].sel(score="spread") / verify(
        paired, truth_of(4)
    )["2m_temperature"].sel(score="spread")
    assert float(ratio) ** 2 == pytest.approx(8 / 7, rel=0.02)


def test_independent_members_have_the_usual_estimators() -> None:
    error = ensemble(5, seed=5, correlation=0.0)["2m_temperature"]
    usual = error.var("member", ddof=1)
    np.testing.assert_allclose(variance(error), usual, rtol=1e-12)
    np.testing.assert_allclose(variance_of_mean(error), usual / 5, rtol=1e-12)


def test_records_and_verify_agree() -> None:
    state, truth = ensemble(8, seed=6, correlation=-0.8), truth_of(6)
    area = np.cos(np.deg2rad(LAT))[:, None] * np.ones(LON.size)
    found = verify(state, truth)["2m_temperature"]
    record = score(
        state["2m_temperature"].values.reshape(8, -1, 1), truth["2m_temperature"].values
        .reshape(-1, 1), area.ravel() / area.mean(), antithetic=True,
    )  # fmt: skip
    assert record.crps[0] == pytest.approx(float(found.sel(score="crps")), rel=1e-3)
    ratio = np.sqrt(record.variance[0] / record.squared[0])
    assert ratio == pytest.approx(float(found.sel(score="spread_skill")), rel=1e-3)
    assert len(record.ranks[0]) == 5  # ranks among four independent members


def test_pairs_are_known_by_number() -> None:
    state = ensemble(8, seed=7)
    assert partners(state.isel(member=[5, 0, 2, 3, 4])) == ([2, 4], [3, 0])
    assert first_of_pairs(state)["member"].values.tolist() == [0, 2, 4, 6]
    assert first_of_pairs(state.isel(member=[1, 2, 3]))["member"].values.tolist() == [1, 2]
    assert partners(state.drop_attrs()) == ([], [])


def test_one_pair_counts_as_one_draw() -> None:
    state = ensemble(2, seed=8)
    found = verify(state, truth_of(8))["2m_temperature"]
    assert float(found.sel(score="spread")) == pytest.approx(1, abs=0.05)
    # the mean absolute difference of two independent N(0, 1)
    assert float(found.sel(score="crps")) == pytest.approx(2 / np.sqrt(np.pi), abs=0.05)


def test_spread_follows_error_in_pairs() -> None:
    found = spread_error(ensemble(8, seed=9), truth_of(9), n_bins=1)["2m_temperature"]
    np.testing.assert_allclose(found, 1, atol=0.05)


def test_ranks_are_those_of_independent_members() -> None:
    """Uniform for a calibrated ensemble in pairs; with all members the truth is too much inside."""
    ranks, all_members = np.zeros(5), np.zeros(9)
    for seed in range(3):  # 2,048 grid points each, all independent
        paired, truth = ensemble(8, seed=seed), truth_of(seed)
        found = rank_histogram(paired, truth=truth)
        assert found.attrs["n_member"] == 4
        assert "the first member only (4 of 8 members)" in found.attrs["protocol"]
        ranks += found["2m_temperature"].values
        all_members += rank_histogram(paired.drop_attrs(), truth=truth)["2m_temperature"].values
    assert chisquare(ranks).pvalue > 0.01
    assert chisquare(all_members).pvalue < 1e-6
    obs = truth_of(1).stack(station=("lat", "lon")).reset_index("station")
    obs = obs.isel(station=slice(None, None, 5)) + 280  # plausible temperatures
    error = np.random.default_rng(8).normal(size=obs.sizes["station"])
    obs["2m_temperature"] = obs["2m_temperature"] + 0.5 * error
    obs["2m_temperature_error_std"] = xr.full_like(obs["2m_temperature"], 0.5)
    found = rank_histogram((ensemble(8, seed=1) + 280).assign_attrs(PAIRED), obs=obs)
    assert found.attrs["n_member"] == 4
    assert chisquare(found["count"].values[0]).pvalue > 0.01


def test_reliability_takes_independent_members() -> None:
    """Half a pair is always below the median: all its probabilities would be one half."""
    paired, truth = ensemble(4, seed=2), truth_of(2)
    found = reliability(paired, truth, thresholds={"2m_temperature": 0.0})
    assert found["2m_temperature_share"].values == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    plain = reliability(paired.drop_attrs(), truth, thresholds={"2m_temperature": 0.0})
    assert plain["2m_temperature_share"].sel(probability=0.5) == 1
    with pytest.raises(InputError, match="one antithetic pair; needed 2 independent"):
        rank_histogram(ensemble(2, seed=1), truth=truth)
