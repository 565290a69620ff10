"""The bundled sample: held-out truth and forecasts valid at its times."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.priors.samples import SAMPLES
from xdiffda.state.convert import infer_layout


def test_all_samples_are_on_the_model_grid_at_the_same_times(no_network: None) -> None:
    layout = xdiffda.load_model("speedy").layout
    truth = xdiffda.open_sample("truth")
    assert truth.sizes["time"] == 17  # four days, 6-hourly
    assert set(np.diff(truth.time.values)) == {np.timedelta64(6, "h")}
    for name in SAMPLES:
        ds = xdiffda.open_sample(name)
        assert infer_layout(ds) == layout
        np.testing.assert_array_equal(ds.time, truth.time)


def test_samples_are_lazy(no_compute: None) -> None:
    ds = xdiffda.open_sample("truth")
    assert all(v.chunks is not None for v in ds.data_vars.values())


def test_errors_grow_with_lead_time() -> None:
    truth = xdiffda.open_sample("truth")

    def rmse(ds: xr.Dataset) -> xr.Dataset:
        weight = np.cos(np.deg2rad(truth.lat))
        return np.sqrt(((ds - truth) ** 2).weighted(weight).mean(("time", "lat", "lon"))).compute()

    late, early = (rmse(xdiffda.open_sample(n)) for n in ("background", "background_6h"))
    for name in ("geopotential", "temperature", "u_component_of_wind"):
        assert (early[name] > 0).all() and (early[name] < late[name]).all(), name


def test_fields_look_like_an_atmosphere() -> None:
    truth = xdiffda.open_sample("truth").load()
    tropics = truth.sel(lat=slice(-20, 20)).mean(("time", "lat", "lon"))
    assert 50_000 < float(tropics.geopotential.sel(level=500)) < 60_000
    assert 285 < float(tropics.temperature.sel(level=850)) < 300
    assert (truth.geopotential.diff("level") < 0).all()  # higher pressure, lower height
    assert float(truth.specific_humidity.min()) > -1e-3
    pole = truth.temperature.sel(level=850).isel(lat=[0, -1]).mean()
    assert float(pole) < float(tropics.temperature.sel(level=850)) - 15


def test_an_unknown_sample_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="(?s)'thruth'.*truth, background, .*open_sample"):
        xdiffda.open_sample("thruth")
