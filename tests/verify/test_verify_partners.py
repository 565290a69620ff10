"""Antithetic ensembles: unbiased scores in closed form, equal to the usual ones without pairs."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chisquare

from xdiffda.errors import InputError
from xdiffda.experiments.osse.tables import score
from xdiffda.verify import (
    degrees_of_freedom,
    innovation_statistics,
    rank_histogram,
    reliability,
    spread_error,
    verify,
)
from xdiffda.verify.partners import first_of_pairs, partners, variance, variance_of_mean

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
        {"member": np.arange(n), "lat": LAT, "lon": LON},
        attrs=PAIRED,
    )


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
        state["2m_temperature"].values.reshape(8, -1, 1),
        truth["2m_temperature"].values.reshape(-1, 1),
        area.ravel() / area.mean(),
        antithetic=True,
    )
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


# ---- diagnostics that take the sampling error of the mean into account ------------------


@pytest.mark.parametrize(("n", "correlation"), [(4, -1.0), (4, 0.0), (8, -0.7), (2, -1.0)])
def test_diagnostics_of_scalar_problems_do_not_depend_on_how_members_are_drawn(
    n: int, correlation: float
) -> None:
    """4,096 scalar problems with a gain of 1/2: half a degree of freedom each, error 1/sqrt(2).

    Perfect pairs have no sampling error in the mean: with spread / n added, four members
    gave 5/8 of a degree of freedom.
    """
    rng = np.random.default_rng(10)
    shape = 2, LAT.size, LON.size
    truth = 280 + rng.normal(size=shape)
    background, y = truth + rng.normal(size=shape), truth + rng.normal(size=shape)
    times = np.datetime64("2020-01-01", "ns") + np.arange(2) * np.timedelta64(6, "h")
    settings = '{"antithetic": %s}' % ("true" if correlation else "false")
    draws = xr.concat(
        [ensemble(n, seed=12, correlation=correlation, lag=lag) for lag in range(2)], "time"
    ).assign_coords(time=times)

    def label(x: np.ndarray) -> xr.Dataset:
        field = {"2m_temperature": (("time", "lat", "lon"), x)}
        return xr.Dataset(field, {"time": times, "lat": LAT, "lon": LON})

    mean = label((background + y) / 2)
    analysis = (mean + np.sqrt(0.5) * draws).assign_attrs(xdiffda_settings=settings)
    when, lat, lon = (a.ravel() for a in np.meshgrid(times, LAT, LON, indexing="ij"))
    obs = xr.Dataset(
        {"value": ("obs", y.ravel()), "error_std": ("obs", np.ones(y.size))},
        {
            "variable": ("obs", np.full(y.size, "2m_temperature")),
            "lat": ("obs", lat),
            "lon": ("obs", lon),
            "time": ("obs", when),
            "level": ("obs", np.full(y.size, np.nan)),
        },
    )
    # the mean of products of Gaussians of variance 1/2: four standard errors
    found = degrees_of_freedom(analysis, obs, background=label(background))
    assert found["dfs_innovations"].item() / y.size == pytest.approx(0.5, abs=0.045)
    assert found["influence"].item() == pytest.approx(0.5, abs=0.045)
    diagnosed = innovation_statistics(label(background), obs, analysis=analysis)
    assert diagnosed["analysis_std_diagnosed"].item() == pytest.approx(np.sqrt(0.5), abs=0.03)


def test_degrees_of_freedom_of_an_analysis_in_pairs_are_those_of_the_kalman_filter() -> None:
    """A Gaussian world: the mean of pairs is the Kalman analysis, and so is what is diagnosed."""
    import jax.numpy as jnp
    from gaussian_world import LAYOUT, draw_states, make_prior

    import xdiffda
    from xdiffda.observations import emulate_obs, observation_operator, to_tidy

    prior = make_prior()
    truth, background = draw_states(prior, seed=2)
    obs = to_tidy(emulate_obs(truth, n_columns=20, error_std=prior.typical_error(0.5), seed=1))
    analysis = xdiffda.assimilate(
        background, obs, model=prior, n_members=4, background_error=1.0, progress=False
    )
    seen, _, _ = observation_operator(obs, LAYOUT)
    n = seen.index.shape[0]
    H = np.zeros((n, prior.scale.size))
    np.put_along_axis(H, np.asarray(seen.index), np.asarray(seen.weight), axis=1)
    H = H * prior.scale.reshape(-1)  # of z
    columns = jnp.asarray(H.reshape(n, *prior.scale.shape).transpose(1, 0, 2), jnp.float32)
    BHt = np.asarray(prior.covariance(columns), np.float64).transpose(1, 0, 2).reshape(n, -1)
    sigma = np.asarray(seen.error_std, np.float64)
    HBHt = H @ BHt.T
    K = HBHt @ np.linalg.inv(HBHt + np.diag(sigma**2))
    first = xdiffda.verify.equivalents(background, obs)
    d = (first["value"] - first["equivalent"]).values
    kept = np.argsort(np.lexsort([first["lat"], first["lon"], first["variable"]]))
    mine = np.lexsort([obs["lat"], obs["lon"], obs["variable"]])[kept]
    K, sigma = K[np.ix_(mine, mine)], sigma[mine]
    exact = np.sum((K @ d) * (d - K @ d) / sigma**2)
    found = degrees_of_freedom(analysis, obs, background=background)
    assert found["dfs_innovations"].sum().item() == pytest.approx(exact, rel=0.02)
    # its expectation, and the members' own estimate of it
    assert found["dfs"].sum().item() == pytest.approx(np.trace(K), rel=0.25)
    assert exact == pytest.approx(np.trace(K), rel=0.35)
