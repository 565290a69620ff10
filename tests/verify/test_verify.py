"""Scores against closed forms, alignment of conventions, laziness."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.special import erf

from xdiffda.errors import InputError
from xdiffda.verify import PROTOCOL, increment, skill_table, verify

LAT = np.arange(-87.1875, 90, 5.625)
LON = np.arange(0, 360, 5.625)
TIMES = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")


def state(values: dict[str, np.ndarray], **coords: object) -> xr.Dataset:
    """Fields (…, lat, lon) on the test grid; leading dimensions in the order of ``coords``."""
    lead = list(coords)
    fields = {
        name: ((*lead[len(lead) - field.ndim + 2 :], "lat", "lon"), field)
        for name, field in values.items()
    }
    return xr.Dataset(fields, {"lat": LAT, "lon": LON, **coords})


def draw(*shape: int, seed: int, std: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, std, (*shape, LAT.size, LON.size))


def test_constant_shift() -> None:
    truth = state({"temperature": 280 + draw(2, seed=0)}, level=[500, 850])
    shift = xr.DataArray([-3.0, 2.0], dims="level", coords={"level": [500, 850]})
    scores = verify(truth + shift, truth)["temperature"]
    np.testing.assert_allclose(scores.sel(score="bias"), [-3, 2], rtol=1e-9)
    np.testing.assert_allclose(scores.sel(score="rmse"), [3, 2], rtol=1e-9)
    np.testing.assert_allclose(scores.sel(score="crps"), [3, 2], rtol=1e-9)


def test_averages_are_weighted_by_area() -> None:
    """The mean over the sphere of sin(lat)**2 is 1/3; unweighted it would be 1/2."""
    truth = state({"2m_temperature": np.zeros((LAT.size, LON.size))})
    wave = truth + np.sin(np.deg2rad(truth.lat))
    rmse = float(verify(wave, truth)["2m_temperature"].sel(score="rmse"))
    # band means of sin**2 differ from the mid-point value by O(spacing**2)
    assert rmse**2 == pytest.approx(1 / 3, rel=2e-3)


def test_fair_crps_of_gaussian_ensemble() -> None:
    """Fair CRPS of N(m, s) members against y has the closed form of Gneiting et al. (2005)."""
    n, mean, std = 40, 0.7, 1.3
    truth = state({"2m_temperature": np.zeros((LAT.size, LON.size))})
    members = state({"2m_temperature": mean + draw(n, seed=1, std=std)}, member=np.arange(n))
    z = -mean / std
    pdf, cdf = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), 0.5 * (1 + erf(z / np.sqrt(2)))
    expected = std * (z * (2 * cdf - 1) + 2 * pdf - 1 / np.sqrt(np.pi))
    found = float(verify(members, truth)["2m_temperature"].sel(score="crps"))
    assert found == pytest.approx(expected, abs=0.01)


def test_crps_is_fair() -> None:
    """Its expectation does not depend on the number of members (that of the plain CRPS does)."""
    truth = state({"2m_temperature": draw(4, seed=2)}, time=TIMES)
    found = [
        float(
            verify(
                state(
                    {"2m_temperature": draw(n, 4, seed=100 + n)}, member=np.arange(n), time=TIMES
                ),
                truth,
            )["2m_temperature"].sel(score="crps")
        )
        for n in (2, 4, 16)
    ]
    np.testing.assert_allclose(found, 1 / np.sqrt(np.pi), atol=0.03)


@pytest.mark.parametrize("n", [2, 8])
def test_exchangeable_members_have_spread_skill_one(n: int) -> None:
    members = state({"2m_temperature": draw(n, 4, seed=3)}, member=np.arange(n), time=TIMES)
    truth = state({"2m_temperature": draw(4, seed=4)}, time=TIMES)
    scores = verify(members, truth)["2m_temperature"]
    assert float(scores.sel(score="spread_skill")) == pytest.approx(1, abs=0.025)
    assert float(scores.sel(score="spread")) == pytest.approx(1, abs=0.02)
    assert float(scores.sel(score="rmse")) == pytest.approx(np.sqrt(1 + 1 / n), abs=0.02)


def test_float32_geopotential_keeps_its_spread() -> None:
    """A spread of 1 m2 s-2 on a mean of 5e5 survives (sorting in 32 bits would lose it)."""
    noise = draw(8, seed=5).astype(np.float32)
    truth = state({"geopotential": np.full((LAT.size, LON.size), 5e5, np.float32)})
    small = state({"geopotential": np.zeros((LAT.size, LON.size), np.float32)})
    members = state(
        {"geopotential": np.float32(5e5) + np.round(8 * noise) / 8}, member=np.arange(8)
    )
    about_zero = state({"geopotential": np.round(8 * noise) / 8}, member=np.arange(8))
    np.testing.assert_allclose(
        verify(members, truth)["geopotential"], verify(about_zero, small)["geopotential"], rtol=1e-9
    )


def test_background_columns() -> None:
    truth = state({"2m_temperature": draw(seed=6)})
    scores = verify(truth + 1, truth, background=truth - 4)["2m_temperature"]
    assert float(scores.sel(score="background_rmse")) == pytest.approx(4)
    assert float(scores.sel(score="rmse_reduction")) == pytest.approx(0.75)


def test_conventions_do_not_matter() -> None:
    truth = state({"temperature": 280 + draw(2, seed=7)}, level=[500, 850])
    analysis = truth + draw(2, seed=8)
    users = (analysis - 273.15).rename(
        temperature="t", lat="latitude", lon="longitude", level="plev"
    )
    users["t"].attrs["units"] = "degC"
    users = users.assign_coords(
        plev=("plev", [50000.0, 85000.0], {"units": "Pa"}),
        longitude=(users.longitude + 180) % 360 - 180,
    )
    users = users.sortby("longitude").isel(latitude=slice(None, None, -1))
    np.testing.assert_allclose(
        verify(users, truth)["temperature"], verify(analysis, truth)["temperature"], rtol=1e-6
    )


def test_common_times_levels_and_variables() -> None:
    truth = state({"temperature": draw(4, 3, seed=9)}, time=TIMES, level=[300, 500, 850])
    truth["2m_temperature"] = truth["temperature"].isel(level=0, drop=True)
    analysis = (truth + 1)[["temperature"]].isel(time=[1, 2]).sel(level=[850, 500])
    scores = verify(analysis, truth)
    assert list(scores.data_vars) == ["temperature"]
    assert scores.attrs["n_time"] == 2
    np.testing.assert_allclose(scores["temperature"].sel(score="rmse"), 1)
    one = verify(analysis.isel(time=0), truth)
    np.testing.assert_allclose(one["temperature"].sel(score="rmse"), 1)


def test_forecast_is_scored_at_its_valid_times() -> None:
    truth = state({"2m_temperature": draw(4, seed=10)}, time=TIMES)
    steps = np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]")
    fields = np.stack([truth["2m_temperature"][1] + 1, truth["2m_temperature"][2] + 2])
    forecast = state({"2m_temperature": fields}, lead_time=steps)
    forecast = forecast.assign_coords(init_time=TIMES[0])
    scores = verify(forecast, truth)["2m_temperature"]
    np.testing.assert_allclose(scores.sel(score="bias").transpose("lead_time"), [1, 2])


def test_missing_values() -> None:
    """NaN in the truth is left out; NaN in the analysis alone is not forgiven."""
    truth = state({"2m_temperature": draw(seed=11)})
    hole = truth.where(truth.lat > -60)
    assert float(verify(truth + 1, hole)["2m_temperature"].sel(score="rmse")) == pytest.approx(1)
    assert np.isnan(verify(hole + 1, truth)["2m_temperature"].sel(score="rmse"))


def test_stays_lazy(no_compute: None) -> None:
    members = state({"2m_temperature": draw(3, 4, seed=12)}, member=np.arange(3), time=TIMES)
    truth = state({"2m_temperature": draw(4, seed=13)}, time=TIMES)
    scores = verify(members.chunk(time=1), truth.chunk(time=2), background=truth.chunk(time=1))
    assert all(v.chunks is not None for v in scores.data_vars.values())


def test_errors_list_everything_at_once() -> None:
    truth = state({"temperature": draw(2, seed=14)}, level=[500, 850])
    other = truth.isel(lat=slice(4, None)).rename(temperature="geopotential")
    with pytest.raises(InputError, match=r"(?s)2 problems.*no variable.*truth\.interp"):
        verify(other, truth)
    with pytest.raises(InputError, match=r"level 300.*500 to 850"):
        verify(truth.isel(level=[0]).assign_coords(level=[300]), truth)
    with pytest.raises(InputError, match="truth with members"):
        verify(truth, truth.expand_dims(member=2))
    late = state({"2m_temperature": draw(seed=15)}).assign_coords(time=TIMES[0] + 1)
    with pytest.raises(InputError, match=r"truth\.sel\(time=analysis\.time\)"):
        verify(late, state({"2m_temperature": draw(4, seed=15)}, time=TIMES))


def test_increment_keeps_the_convention() -> None:
    background = state({"t2m": draw(seed=17)}).rename(lat="latitude", lon="longitude")
    background["t2m"].attrs["units"] = "K"
    analysis = background + xr.DataArray([1.0, 2.0, 3.0], dims="member")
    analysis["t2m"].attrs["units"] = "K"
    found = increment(analysis, background)["t2m"]
    np.testing.assert_allclose(found.mean(("latitude", "longitude")), [1, 2, 3], rtol=1e-9)
    assert found.attrs["units"] == "K"
    # a background in another convention, with more times: canonical names come back
    other = (background - 273.15).isel(latitude=slice(None, None, -1))
    other["t2m"].attrs["units"] = "degC"
    found = increment(analysis, other)["2m_temperature"]
    np.testing.assert_allclose(found.mean(("lat", "lon")), [1, 2, 3], rtol=1e-5)


def test_increment_of_ensembles() -> None:
    """Member by member where there are as many; else from the background's mean."""
    background = state({"2m_temperature": draw(3, seed=18)}, member=np.arange(3))
    shift = xr.DataArray([1.0, 2.0, 4.0], dims="member", coords={"member": np.arange(3)})
    found = increment((background + shift).assign_coords(member=[7, 8, 9]), background)
    np.testing.assert_allclose(found["2m_temperature"].mean(("lat", "lon")), [1, 2, 4])
    single = increment(background.mean("member") + 5, background)
    np.testing.assert_allclose(single["2m_temperature"], 5)


def test_table() -> None:
    truth = state({"temperature": draw(2, seed=16)}, level=[500, 850])
    truth["2m_temperature"] = truth["temperature"].isel(level=0, drop=True)
    error = xr.DataArray([1.0, 2.0], dims="level", coords={"level": [500, 850]})
    worse = truth + 4
    better = xr.Dataset(
        {"temperature": truth["temperature"] + error, "2m_temperature": truth["2m_temperature"] + 3}
    )
    scores = {"background": verify(worse, truth), "analysis": verify(better, truth)}
    lines = skill_table(scores, relative_to="background").splitlines()
    assert lines[0] == "rmse, divided by that of background"
    assert lines[1].split() == ["mean", "T850", "T2m", "worst"]
    assert lines[2].split() == ["background", "1.000", "1.000", "1.000", "1.000"]
    assert lines[3].split() == ["analysis", "0.500", "0.500", "0.750", "0.750"]
    assert lines[4] == PROTOCOL


def test_skill_table_needs_scores_and_shows_small_ones():
    for scores, name in (({}, None), ({"a": xr.Dataset()}, "b")):
        with pytest.raises(InputError, match="skill_table"):
            skill_table(scores, relative_to=name)
    small = xr.Dataset({"q": ("score", [0.00046])}, {"score": ["rmse"]})
    assert skill_table({"a": small}).splitlines()[2].split() == ["a", "0.00046"]
