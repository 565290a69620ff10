"""What observations say: consistency, influence, impact, withheld stations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import chi2

from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs, to_tidy
from xdiffda.observations.nonlinear import Operator
from xdiffda.verify import (
    degrees_of_freedom,
    equivalents,
    flatness,
    innovation_chi_square,
    innovation_statistics,
    observation_impact,
    rank_histogram,
    withheld_report,
)

LAT, LON = np.arange(-78.75, 90, 22.5), np.arange(16) * 22.5
TIMES = np.datetime64("2020-01-01", "ns") + np.arange(20) * np.timedelta64(6, "h")
T2M, MSL = "2m_temperature", "mean_sea_level_pressure"
SIGMA_B, SIGMA_O = 2.0, 1.0
GAIN = SIGMA_B**2 / (SIGMA_B**2 + SIGMA_O**2)


def state(values: np.ndarray, **coords: object) -> xr.Dataset:
    return xr.Dataset({T2M: ((*coords, "lat", "lon"), values)}, {"lat": LAT, "lon": LON, **coords})


def draw(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((*shape, LAT.size, LON.size))


def everywhere(values: np.ndarray, error_std: float) -> pd.DataFrame:
    """Observations of every grid point at every time."""
    time, lat, lon = (a.ravel() for a in np.meshgrid(TIMES, LAT, LON, indexing="ij"))
    return pd.DataFrame(
        {
            "variable": T2M,
            "lat": lat,
            "lon": lon,
            "time": time,
            "value": values.ravel(),
            "error_std": error_std,
        }
    )


@pytest.fixture(scope="module")
def world() -> dict:
    """2,560 independent scalar problems: errors without correlation, H = 1, the exact gain."""
    truth = 280 + draw(20, seed=0)
    background = truth + SIGMA_B * draw(20, seed=1)
    y = truth + SIGMA_O * draw(20, seed=2)
    mean = background + GAIN * (y - background)
    posterior = mean + np.sqrt(GAIN) * SIGMA_O * draw(6, 20, seed=3)
    return {
        "truth": state(truth, time=TIMES),
        "background": state(background, time=TIMES),
        "analysis": state(mean, time=TIMES),
        "ensemble": state(posterior, member=np.arange(6), time=TIMES),
        "obs": everywhere(y, SIGMA_O),
        "y": y,
        "n": y.size,
    }


# ---- observation space -----------------------------------------------------------------


def test_equivalents_are_the_state_at_grid_points(world: dict) -> None:
    seen = equivalents(world["ensemble"], world["obs"])
    expected = world["ensemble"][T2M].transpose("member", ...).values.reshape(6, -1).T
    np.testing.assert_allclose(seen["equivalent"], expected, rtol=1e-6)
    np.testing.assert_array_equal(seen["value"], world["y"].ravel())


def test_times_without_observations_are_passed_over(world: dict) -> None:
    late = world["obs"][world["obs"]["time"] >= TIMES[18]]
    seen = equivalents(world["background"], late)
    assert seen.sizes["obs"] == 2 * LAT.size * LON.size
    assert seen["obs"].to_index().is_unique
    other = late.assign(time=TIMES[0] - np.timedelta64(9, "D"))
    with pytest.raises(InputError, match="before the window"):
        equivalents(world["background"], other)
    forecast = world["background"].isel(time=[0, 1]).rename(time="lead_time")
    steps = np.array([0, 6], "timedelta64[h]").astype("timedelta64[ns]")
    with pytest.raises(InputError, match=r"isel\(lead_time=0\)"):
        equivalents(forecast.assign_coords(lead_time=steps, init_time=TIMES[0]), late)


def test_derived_observations_and_the_users_own() -> None:
    """Speed and direction of the wind, and a function of the user; north is 0 and 360."""
    shape = (1, LAT.size, LON.size)
    wind = {
        "u_component_of_wind": -0.5 * np.ones(shape),
        "v_component_of_wind": np.full(shape, -9.0),
    }
    fields = xr.Dataset(
        {k: (("level", "lat", "lon"), v) for k, v in wind.items()},
        {"lat": LAT, "lon": LON, "level": [500]},
    )
    direction = np.rad2deg(np.arctan2(0.5, 9.0))  # from just east of north
    table = pd.DataFrame(
        {
            "variable": ["wind_speed", "wind_from_direction", "own"],
            "value": [9.0, 358.0, 80.0],
            "lat": 11.0,
            "lon": [20.0, 21.0, 22.0],
            "level": [500.0, 500.0, np.nan],
            "error_std": [1.0, 10.0, 1.0],
        }
    )
    own = {
        "own": Operator(
            lambda s: s["v_component_of_wind@500"] ** 2,
            inputs=("v_component_of_wind@500",),
            units="m2 s-2",
        )
    }
    seen = equivalents(fields, table, operators=own)
    expected = [np.hypot(9, 0.5), direction, 81.0]  # and its difference from 358 on the circle
    np.testing.assert_allclose(seen["equivalent"], expected, rtol=1e-5)
    found = innovation_statistics(fields, table, operators=own).sel(variable="wind_from_direction")
    assert float(found["mean"]) == pytest.approx(-2 - direction, rel=1e-4)
    assert withheld_report(fields, fields, table, operators=own).sizes["variable"] == 3
    with pytest.raises(InputError, match="own"):
        equivalents(fields, table)


def test_groups() -> None:
    fields = state(280 + draw(seed=4)).assign({MSL: (("lat", "lon"), 1e5 + 100 * draw(seed=5))})
    obs = to_tidy(emulate_obs(fields, n_columns=10, seed=0))
    obs["kind"] = ("obs", np.where(np.arange(20) % 4 < 2, "synop", "buoy"))
    found = innovation_statistics(fields, obs, by=("kind", "variable"))
    assert list(zip(found["kind"].values, found["variable"].values, strict=True)) == [
        ("buoy", T2M),
        ("buoy", MSL),
        ("synop", T2M),
        ("synop", MSL),
    ]
    assert found["units"].values.tolist() == ["K", "Pa", "K", "Pa"]
    assert int(found["n"].sum()) == 20
    with pytest.raises(InputError, match="by='sort'"):
        innovation_statistics(fields, obs, by="sort")


def test_ranks_of_observations(world: dict) -> None:
    """With noise of the stated error, observations rank as the truth does; too little: U."""
    # six members and the truth, all draws from one law around an unknown centre
    centre = draw(20, seed=6)
    members = state(280 + centre + 0.5 * draw(6, 20, seed=7), member=np.arange(6), time=TIMES)
    y = 280 + centre + 0.5 * draw(20, seed=8) + SIGMA_O * draw(20, seed=9)
    curvature = {}
    for stated in (SIGMA_O, 0.2, 3.0):
        ranks = rank_histogram(members, obs=everywhere(y, stated), seed=1)
        assert float(ranks["count"].sum()) == world["n"]
        curvature[stated] = flatness(ranks)["count"].sel(variable=T2M)
    right = curvature[SIGMA_O]
    assert float(right.sel(statistic="chi_square_p")) > 0.01
    assert float(curvature[0.2].sel(statistic="curvature")) > 10
    assert float(curvature[3.0].sel(statistic="curvature")) < -10


# ---- innovations -----------------------------------------------------------------------


def test_chi_square_of_correlated_errors() -> None:
    rng = np.random.default_rng(10)
    root = rng.normal(size=(30, 30)) / 5
    hbht, sigma = root @ root.T, rng.uniform(0.5, 2, 30)
    covariance = hbht + np.diag(sigma**2)
    d = np.linalg.cholesky(covariance) @ rng.normal(size=(30, 400))
    sums = np.array([innovation_chi_square(one, sigma, hbht).sum() for one in d.T])
    np.testing.assert_allclose(sums, np.einsum("it,ij,jt->t", d, np.linalg.inv(covariance), d))
    # the sum of 400 of them is chi-square with 12,000 degrees of freedom; each share has mean 1
    assert 0.001 < chi2.cdf(sums.sum(), 12_000) < 0.999
    shares = np.mean([innovation_chi_square(one, sigma, hbht) for one in d.T], axis=0)
    np.testing.assert_allclose(shares, 1, atol=0.35)
    with pytest.raises(InputError, match="not positive definite"):
        innovation_chi_square(np.ones(2), np.ones(2), np.array([[1.0, 5.0], [5.0, 1.0]]))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        innovation_chi_square(np.ones(2), np.ones(2), np.ones(3))


def test_innovation_statistics(world: dict) -> None:
    biased = world["background"] - 0.5
    hbht = np.full(world["n"], SIGMA_B**2)
    found = innovation_statistics(biased, world["obs"], hbht=hbht).sel(variable=T2M)
    total = np.sqrt(SIGMA_B**2 + SIGMA_O**2)
    error = total / np.sqrt(world["n"])
    assert float(found["mean"]) == pytest.approx(0.5, abs=4 * error)
    assert float(found["std"]) == pytest.approx(total, abs=4 * error)
    assert float(found["misfit"]) == pytest.approx(float(found["rms"]) / SIGMA_O)
    expected = 1 + 0.5**2 / total**2
    assert float(found["chi_square"]) == pytest.approx(expected, abs=5 * np.sqrt(2 / world["n"]))
    assert "chi_square" not in innovation_statistics(biased, world["obs"])


def test_background_members_give_hbht(world: dict) -> None:
    centre = world["background"][T2M].values
    members = state(centre + SIGMA_B * draw(60, 20, seed=11), member=np.arange(60), time=TIMES)
    found = innovation_statistics(members, world["obs"])["chi_square"].item()
    # the mean of 60 members adds 1/60 of their variance; a sample variance in the denominator
    assert found == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("kind", ["analysis", "ensemble"])
def test_desroziers_recovers_the_errors(world: dict, kind: str) -> None:
    found = innovation_statistics(world["background"], world["obs"], analysis=world[kind])
    found = found.sel(variable=T2M)
    # products of Gaussians: relative sampling error of a variance below sqrt(6 / n) = 5 %
    for name, expected in (
        ("error_std_diagnosed", SIGMA_O),
        ("background_std_diagnosed", SIGMA_B),
        ("analysis_std_diagnosed", np.sqrt(GAIN) * SIGMA_O),
    ):
        assert float(found[name]) == pytest.approx(expected, rel=0.06), name


def test_desroziers_sees_a_wrong_gain(world: dict) -> None:
    """With gain k, E[d_oa d_ob] = (1 - k)(B + R), whatever the true R: half of it here."""
    half = world["background"] + 0.5 * (world["y"] - world["background"])
    found = innovation_statistics(world["background"], world["obs"], analysis=half)
    expected = np.sqrt(0.5 * (SIGMA_B**2 + SIGMA_O**2))
    assert found["error_std_diagnosed"].item() == pytest.approx(expected, rel=0.05)
    assert found["error_std"].item() == pytest.approx(SIGMA_O)


# ---- influence and impact --------------------------------------------------------------


def test_degrees_of_freedom_of_scalar_problems(world: dict) -> None:
    """DFS of one scalar problem is its gain."""
    found = degrees_of_freedom(world["ensemble"], world["obs"], background=world["background"])
    error = np.sqrt(2 / (5 * world["n"]))
    assert found["influence"].item() == pytest.approx(GAIN, rel=5 * error)
    assert found["dfs"].item() == pytest.approx(found["influence"].item() * world["n"])
    assert found["dfs_innovations"].item() == pytest.approx(GAIN * world["n"], rel=0.1)
    alone = degrees_of_freedom(world["analysis"], world["obs"], background=world["background"])
    assert set(alone.data_vars) == {"n", "dfs_innovations"}
    with pytest.raises(InputError, match="a single state"):
        degrees_of_freedom(world["analysis"], world["obs"])


def test_observation_impact(world: dict) -> None:
    found = observation_impact(
        world["analysis"], world["background"], world["obs"], truth=world["truth"]
    )
    d = world["y"] - world["background"][T2M].values
    cost = 0.5 * (d**2).sum() * np.array([1, (1 - GAIN) ** 2])
    assert found["cost_background"].item() == pytest.approx(cost[0], rel=1e-5)
    assert found["cost_analysis"].item() == pytest.approx(cost[1], rel=1e-4)
    assert found["share"].item() == 1
    assert found["background_error"].item() == pytest.approx(SIGMA_B, rel=0.06)
    assert found["analysis_error"].item() == pytest.approx(np.sqrt(GAIN), rel=0.06)


# ---- withheld stations -----------------------------------------------------------------


def test_withheld_observations_came_closer(world: dict) -> None:
    """An analysis that halves the error of everything comes closer to what it has not seen."""
    better = world["truth"] + 0.5 * (world["background"] - world["truth"])
    found = withheld_report(better, world["background"], world["obs"])
    before, after = SIGMA_O**2 + SIGMA_B**2, SIGMA_O**2 + (SIGMA_B / 2) ** 2
    assert found["background_misfit"].item() == pytest.approx(np.sqrt(before), rel=0.06)
    assert found["analysis_misfit"].item() == pytest.approx(np.sqrt(after), rel=0.06)
    assert found["n_station"].item() == LAT.size * LON.size
    assert found["closer"].item() and found.attrs["closer"] == 1
    assert found["p_value"].item() < 1e-6
    assert found.attrs["summary"].startswith("closer to 1 of 1 withheld variables")


def test_withheld_observations_that_gain_nothing(world: dict) -> None:
    """Another draw of the same error is as far away: by chance a little closer, or not."""
    other = world["truth"] + SIGMA_B * xr.DataArray(draw(20, seed=12), dims=("time", "lat", "lon"))
    found = withheld_report(other, world["background"], world["obs"])
    assert found["ratio"].item() == pytest.approx(1, abs=0.07)
    assert 0.001 < found["p_value"].item() < 0.999
    ensemble = withheld_report(world["ensemble"], world["background"], world["obs"])
    assert ensemble["chi_square"].item() < 1  # these were assimilated: too close
