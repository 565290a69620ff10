"""Priors of one's own: lagged forecasts, and few samples drawn towards `reference`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.priors.prior import GaussianPrior
from xdiffda.priors.reference import reference_prior
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Layout, equiangular

GRID = equiangular(9, 16, poles=True)
NAMES = ("geopotential", "temperature")


def _forecasts(n: int = 6) -> xr.Dataset:
    rng = np.random.default_rng(0)
    shape = (n, 3, 6, 12)
    return xr.Dataset(
        {
            "t2m": (("time", "step", "latitude", "longitude"), 280 + rng.normal(size=shape)),
            "lsm": (("latitude", "longitude"), np.zeros(shape[2:])),
        },
        {
            "time": pd.date_range("2020-01-01", periods=n, freq="12h"),
            "step": pd.to_timedelta(["12h", "24h", "36h"]),
            "latitude": np.linspace(75, -75, 6),
            "longitude": np.arange(12) * 30.0,
        },
    )


def test_pairs_are_valid_at_the_same_time_and_stay_lazy() -> None:
    forecasts = _forecasts().chunk({"time": 1})
    pairs = xdiffda.nmc(forecasts, ("12h", "36h"))
    assert pairs["t2m"].chunks is not None and list(pairs.data_vars) == ["t2m"]
    assert pairs.attrs["xdiffda_nmc"].startswith("4 pairs of forecasts of 36 h and 12 h, valid ")
    for i, time in enumerate(pairs["time"].values):
        one, other = (
            forecasts["t2m"].sel(time=time - np.timedelta64(h, "h"), step=np.timedelta64(h, "h"))
            for h in (36, 12)
        )
        np.testing.assert_array_equal(pairs["t2m"][i], one.values - other.values)
    prior = GaussianPrior.from_samples(pairs)
    assert prior.layout.channel_names == ("2m_temperature",)
    coarse = xdiffda.nmc(
        forecasts, (12, 36), like=xdiffda.Grid.from_coords([-60, 0, 60], [0, 90, 180, 270])
    )
    assert coarse["t2m"].shape == (4, 3, 4)


def test_forecasts_that_make_no_pairs_are_refused() -> None:
    forecasts = _forecasts()
    with pytest.raises(InputError, match="two of the lead times 12, 24, 36 h"):
        xdiffda.nmc(forecasts, ("12h", "48h"))
    with pytest.raises(InputError, match="2 or more"):
        xdiffda.nmc(forecasts.isel(time=slice(0, 3)), ("12h", "36h"))
    with pytest.raises(InputError, match="one of initial times and one of lead times"):
        xdiffda.nmc(forecasts.isel(step=0))


def _as_residuals(layout: Layout, x: np.ndarray) -> xr.Dataset:
    return from_state(x, layout, default_convention(layout), dims=("member",))


def test_what_samples_cannot_be_drawn_to_is_refused() -> None:
    layout = Layout(GRID, NAMES, (500,))
    x = np.random.default_rng(0).normal(size=(3, GRID.n_node, 2)).astype(np.float32)
    other = reference_prior(Layout(GRID, NAMES, (850,)))
    for towards, worth in ((other, 10.0), ("speedy", 10.0), ("reference", 0.0)):
        with pytest.raises(InputError, match="towards="):
            GaussianPrior.from_samples(_as_residuals(layout, x), towards=towards, worth=worth)
