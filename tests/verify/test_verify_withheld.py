"""Observations are divided by whole stations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs, to_tidy
from xdiffda.observations.nonlinear import Operator
from xdiffda.verify import split_obs

LAT, LON = np.arange(-78.75, 90, 22.5), np.arange(16) * 22.5
TIMES = np.datetime64("2020-01-01", "ns") + np.arange(3) * np.timedelta64(6, "h")
T2M = "2m_temperature"
FIELD = 280 + np.random.default_rng(0).standard_normal((3, LAT.size, LON.size))
TRUTH = xr.Dataset({T2M: (("time", "lat", "lon"), FIELD)}, {"time": TIMES, "lat": LAT, "lon": LON})
TABLE = pd.DataFrame({"variable": T2M, "value": 280.0, "lat": LAT, "lon": 5.0, "error_std": 1.0})


def test_columns_are_never_split() -> None:
    truth = TRUTH.expand_dims(level=[500, 850])
    obs = emulate_obs(truth.rename({T2M: "temperature"}), n_columns=30, seed=0)
    used, withheld = split_obs(obs, 0.1, seed=4)
    places = [set(zip(o["lat"].values, o["lon"].values, strict=True)) for o in (used, withheld)]
    assert (len(places[0]), len(places[1])) == (27, 3)
    assert not places[0] & places[1]
    assert withheld.sizes["obs"] == 3 * 2 * 3  # stations, levels, times
    together = xr.concat([used, withheld], "obs").sortby(["lat", "lon", "level", "time"])
    xr.testing.assert_equal(together, to_tidy(obs).sortby(["lat", "lon", "level", "time"]))


def test_split_does_not_depend_on_the_order() -> None:
    obs = emulate_obs(TRUTH.isel(time=0), n_columns=40, seed=0)
    shuffled = obs.isel(station=np.random.default_rng(0).permutation(40))
    chosen = [set(split_obs(o, 0.25, seed=7)[1]["value"].values) for o in (obs, shuffled)]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 10
    assert chosen[0] != set(split_obs(obs, 0.25, seed=8)[1]["value"].values)


def test_an_ascent_that_drifts_stays_whole() -> None:
    drift = pd.DataFrame(
        {
            "variable": "temperature",
            "value": 250.0,
            "level": [850.0, 500.0, 200.0] * 6,
            "lat": np.repeat(np.arange(6) * 10.0, 3) + np.tile([0, 0.1, 0.3], 6),
            "lon": 5.0,
            "station": np.repeat([f"S{i}" for i in range(6)], 3),
            "time": TIMES[0],
            "error_std": 1.0,
        }
    )
    used, withheld = split_obs(drift, 0.5, seed=0)
    assert not set(used["station"].values) & set(withheld["station"].values)
    assert withheld.sizes["obs"] == 9


def test_split_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"fraction=1\.5"):
        split_obs(TABLE, 1.5)
    with pytest.raises(InputError, match="one station"):
        split_obs(TABLE.iloc[:1], 0.1)


def test_observations_of_the_users_own_operators_are_split() -> None:
    own = {"own": Operator(lambda s: s["2m_temperature"] ** 2, inputs=(T2M,), units="K2")}
    used, withheld = split_obs(TABLE.assign(variable="own"), 0.3, operators=own)
    assert (used.sizes["obs"], withheld.sizes["obs"]) == (6, 2)
