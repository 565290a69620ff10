"""First guess at appropriate time: agreement with xarray, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations import first_guess
from xdiffda.observations.fgat import time_stencil

TIMES = np.datetime64("2020-01-01T00", "ns") + np.array([0, 3, 9]) * np.timedelta64(1, "h")


@pytest.fixture(scope="module")
def trajectory(lab, layout):
    return lab.state(layout, 0, 3)


def _timed(lab, n=60, span=9.0):
    hours = np.random.default_rng(5).uniform(0, span, n)
    tidy = lab.tidy(n, seed=2)
    lat = np.clip(tidy.lat, -80.0, 80.0)
    stamps = TIMES[0] + (hours * 3600).astype("timedelta64[s]")
    return tidy.assign_coords(lat=lat, time=("obs", stamps.astype("datetime64[ns]")))


def test_agrees_with_interpolation_by_xarray_in_time_and_space(lab, layout, trajectory):
    tidy = _timed(lab)
    values, rejected = first_guess(tidy, layout, trajectory, TIMES)
    assert not rejected
    field = lab.dataset(layout, trajectory, time=TIMES).astype("f8")
    field = field.assign_coords(level=np.log(lab.levels)).pad(lon=(1, 1), mode="wrap")
    field = field.assign_coords(lon=np.r_[layout.grid.lon[-1] - 360, layout.grid.lon, 360.0])
    for name in lab.names:
        mine = tidy.variable.values == name
        where = {"lat": tidy.lat[mine], "lon": tidy.lon[mine], "time": tidy.time[mine]}
        if name != "2m_temperature":
            where["level"] = np.log(tidy.level[mine])
        np.testing.assert_allclose(values[mine], field[name].interp(where), atol=3e-3)


def test_at_the_times_of_the_states_and_with_one_state_nothing_is_interpolated(
    lab, layout, trajectory
):
    tidy = lab.tidy(20)
    at_start = tidy.assign_coords(time=("obs", np.full(20, TIMES[1])))
    values, _ = first_guess(at_start, layout, trajectory, TIMES)
    alone, _ = first_guess(tidy, layout, trajectory[1])
    np.testing.assert_array_equal(values, alone)


def test_a_function_sees_its_inputs_at_the_time_of_the_observation(lab, layout, trajectory):
    """H of the interpolated state, not the interpolated H of states."""
    from xdiffda.observations import Operator

    square = Operator(lambda s: s["temperature@500"] ** 2, ("temperature@500",))
    tidy = _timed(lab, 6)
    mine = tidy.assign_coords(variable=("obs", ["sq"] * 6))
    plain = tidy.assign_coords(variable=("obs", ["temperature"] * 6), level=("obs", [500.0] * 6))
    squares, _ = first_guess(mine, layout, trajectory, TIMES, operators={"sq": square})
    values, _ = first_guess(plain, layout, trajectory, TIMES)
    np.testing.assert_allclose(squares, values**2, rtol=1e-5)

    def whole(state, obs):
        return 0 * obs["lat"] + state["temperature@500"].mean()

    means, _ = first_guess(mine, layout, trajectory, TIMES, operators={"sq": whole})
    hours = (tidy.time.values - TIMES[0]) / np.timedelta64(1, "h")
    mean = trajectory[:, :, layout.channel_index("temperature", 500)].mean(1)
    np.testing.assert_allclose(means, np.interp(hours, [0, 3, 9], mean), rtol=1e-5)


def test_outside_the_times_nothing_is_guessed_and_nat_is_the_analysis_time(lab, layout, trajectory):
    tidy = lab.tidy(3)
    stamps = np.array([TIMES[0] - np.timedelta64(1, "h"), TIMES[2], np.datetime64("NaT")])
    tidy = tidy.assign_coords(time=("obs", stamps.astype("datetime64[ns]")))
    values, rejected = first_guess(tidy, layout, trajectory, TIMES, time=TIMES[1])
    assert {reason: where.tolist() for reason, where in rejected.items()} == {
        "outside the times of the trajectory": [0]
    }
    at_analysis, _ = first_guess(tidy, layout, trajectory[1])
    assert np.isnan(values[0]) and values[2] == at_analysis[2]
    with pytest.raises(InputError, match="1 outside the times"):
        first_guess(tidy.isel(obs=[0]), layout, trajectory, TIMES)


def test_one_time_is_a_trajectory():
    found = time_stencil(TIMES[:1], TIMES[[0, 1]])
    assert found.inside.tolist() == [True, False] and found.share.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("times", "states", "match"),
    [
        (TIMES[::-1], np.zeros((3, 288, 7)), "times that do not ascend.*sortby"),
        (
            TIMES,
            np.zeros((2, 288, 7)),
            r"states of shape \(2, 288, 7\); needed shape \(3, 288, 7\)",
        ),
        (TIMES[:0], np.zeros((0, 288, 7)), "no time"),
        (["noon"], np.zeros((1, 288, 7)), "no pair of times and states"),
    ],
)
def test_trajectories_that_do_not_fit_are_refused(lab, layout, times, states, match):
    with pytest.raises(InputError, match=match):
        first_guess(lab.tidy(3), layout, states, times)


def test_the_order_of_observations_is_kept(lab, layout, trajectory):
    tidy = _timed(lab, 40)
    order = np.random.default_rng(0).permutation(40)
    a, _ = first_guess(tidy, layout, trajectory, TIMES)
    b, _ = first_guess(tidy.isel(obs=order), layout, trajectory, TIMES)
    np.testing.assert_array_equal(a[order], b)
    assert isinstance(tidy, xr.Dataset)
