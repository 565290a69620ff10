"""A tiny GenCast from draw to analysis: random weights, plausible fields."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xdiffda.analysis import assimilate
from xdiffda.gencast import (
    Architecture,
    BareGenCast,
    Checkpoint,
    GenCast,
    GenCastForecaster,
    GenCastPrior,
    GenCastTask,
    NetworkConfig,
    NoiseEncoderConfig,
    SamplerConfig,
    TransformerConfig,
)
from xdiffda.gencast.forecaster import clock_forcings
from xdiffda.prior import Prior

TIME, STEP = np.datetime64("2019-06-15T00", "ns"), np.timedelta64(12, "h")
LAT, LON = np.linspace(-90, 90, 9), 22.5 * np.arange(16)
CLOCK = ("year_progress_sin", "year_progress_cos", "day_progress_sin", "day_progress_cos")
STATE = ("2m_temperature", "sea_surface_temperature", "temperature")
MEAN = {"2m_temperature": 285.0, "sea_surface_temperature": 290.0, "temperature": [255.0, 275.0]}


def statistics(change: float, spread: float) -> dict[str, xr.Dataset]:
    def of(value) -> xr.Dataset:
        data = {name: np.asarray(value(np.asarray(m))) for name, m in MEAN.items()}
        dims = {name: "level" if x.ndim else () for name, x in data.items()}
        return xr.Dataset({n: (dims[n], data[n]) for n in data}, coords={"level": [500, 850]})

    return {
        "mean": of(lambda m: m),
        "stddev": of(lambda m: np.full_like(m, spread)),
        "diffs_stddev": of(lambda m: np.full_like(m, change)),
        "minimum": of(lambda m: m - 15.0),
    }


@pytest.fixture(scope="module")
def forecaster() -> GenCastForecaster:
    task = GenCastTask((*STATE, *CLOCK, "land_sea_mask"), STATE, CLOCK, (500, 850), "24h")
    encoder = NoiseEncoderConfig(num_frequencies=4, output_sizes=(8, 4))
    config = NetworkConfig(
        25, 4, latent=8, layers=1, heads=2, ffw_hidden=8, encoder=encoder
    )  # two frames of 4 + 4 channels, the mask, 4 forcings, 4 noisy targets
    sizes = Architecture(TransformerConfig(2, 8, 1, 2, 8), mesh_size=1, latent_size=8)
    checkpoint = Checkpoint(
        eqx.filter_jit(GenCast)(config, key=jax.random.key(0)),
        task,
        sizes,
        SamplerConfig(num_noise_levels=3),
    )
    return GenCastForecaster(BareGenCast(checkpoint), **statistics(2.0, 15.0))


@pytest.fixture(scope="module")
def previous() -> xr.Dataset:
    """Two states; the eastern hemisphere is land."""
    rng, dims = np.random.default_rng(0), ("time", "lat", "lon")
    land = xr.DataArray((LON < 180) * np.ones((9, 1)), dims=dims[1:])
    mean = xr.DataArray(MEAN["temperature"], dims="level")
    ds = xr.Dataset(
        {
            "2m_temperature": (dims, rng.normal(285, 5, (2, 9, 16))),
            "sea_surface_temperature": (dims, rng.normal(290, 3, (2, 9, 16))),
            "temperature": (("time", "level", *dims[1:]), rng.normal(0, 5, (2, 2, 9, 16))),
            "land_sea_mask": land,
        },
        coords={
            "time": [TIME - 2 * STEP, TIME - STEP],
            "level": [500, 850],
            "lat": LAT,
            "lon": LON,
        },
    )
    sst = ds["sea_surface_temperature"].where(land == 0)
    return ds.assign(temperature=ds["temperature"] + mean, sea_surface_temperature=sst)


class Model(GenCastPrior, Prior):
    """A prior that `assimilate` takes."""


@pytest.fixture(scope="module")
def prior(forecaster, previous) -> Model:
    return Model(forecaster, previous, name="tiny")


def test_a_draw_depends_on_its_own_entry_only(forecaster, previous):
    frames = previous.merge(clock_forcings(previous["time"].values, LON))
    one = frames.expand_dims(batch=1)
    two = xr.concat([frames, frames.assign(land_sea_mask=1 - frames["land_sea_mask"])], "batch")
    forcings = clock_forcings(np.array([TIME]), LON)
    alone, beside = (forecaster(ds, forcings, key=jax.random.key(1)) for ds in (one, two))
    for name in STATE:
        a, b = alone[name].isel(batch=0), beside[name].isel(batch=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)
    assert abs(beside["temperature"].diff("batch")).max() > 0.1
    gaps = alone["sea_surface_temperature"].isnull()[0, 0]
    np.testing.assert_array_equal(gaps, previous["sea_surface_temperature"].isnull()[0])
    assert alone["time"].values.tolist() == [TIME.astype(int)]


def test_observations_guide_the_draw(forecaster, previous, prior):
    """Accurate observations draw all members to them; blind ones change none."""
    last = forecaster.clean(previous).isel(time=1).drop_vars("land_sea_mask")
    background = last.assign_coords(time=TIME)
    sites = [(-45.0, 45.0, 3.0), (22.5, 270.0, -3.0)]
    rows = [
        {
            "variable": "temperature", "level": 850.0, "lat": lat, "lon": lon, "time": TIME,
            "value": float(last["temperature"].sel(lat=lat, lon=lon, level=850)) + change,
        }
        for lat, lon, change in sites
    ]  # fmt: skip

    def analyse(error: float) -> xr.DataArray:
        obs = pd.DataFrame(rows).assign(error_std=error)
        analysis = assimilate(
            background, obs, model=prior, n_members=2, n_steps=4, background_error=1.0,
            gross_check=np.inf, progress=False,
        )  # fmt: skip
        assert analysis.attrs["xdiffda_model"] == "tiny"
        return analysis["temperature"].sel(level=850)

    close, blind, blinder = analyse(0.05), analyse(1e5), analyse(1e6)
    np.testing.assert_allclose(blind, blinder, rtol=0, atol=0.02)
    for lat, lon, change in sites:
        wanted = float(last["temperature"].sel(lat=lat, lon=lon, level=850)) + change
        assert abs(close.sel(lat=lat, lon=lon) - wanted).max() < 0.3
        assert abs(blind.sel(lat=lat, lon=lon) - wanted).max() > 1.0
    assert close.std("member").mean() > 0.1
