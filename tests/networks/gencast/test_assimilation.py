"""A tiny GenCast from draw to analysis: random weights, plausible fields."""

from __future__ import annotations

import json

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from file_server import release_contents, serve

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.cycling.cycle import cycle
from xdiffda.errors import InputError, ModelError
from xdiffda.networks import gencast
from xdiffda.networks.gencast import (
    Architecture,
    BareGenCast,
    Checkpoint,
    GenCast,
    GenCastForecaster,
    GenCastTask,
    NetworkConfig,
    NoiseEncoderConfig,
    SamplerConfig,
    TransformerConfig,
)
from xdiffda.networks.gencast.forecaster import clock_forcings
from xdiffda.priors.prior import Prior
from xdiffda.priors.published import RELEASES, Release

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


@pytest.fixture(scope="module")
def model(forecaster, tmp_path_factory):
    """The tiny network as a published release: written, served, fetched and loaded."""
    release = Release(
        "gencast-tiny", "gencast", "GenCast tiny <2019.npz", "for tests", 22.5, 2, 1, 1
    )
    folder = tmp_path_factory.mktemp("release")
    gencast.write_checkpoint(folder / "tiny.npz", forecaster.net.checkpoint)
    files = release_contents(release, folder, folder / "tiny.npz", statistics(2.0, 15.0))
    with pytest.MonkeyPatch.context() as patch, serve(files) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setitem(RELEASES, release.name, release)
        with xdiffda.set_options(cache_dir=folder / "cache", mirror=server.address, progress=False):
            yield xdiffda.load_model("gencast-tiny")


@pytest.fixture(scope="module")
def prior(model, previous):
    return model.given(previous)


@pytest.mark.long
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


def test_a_published_model_is_the_network_that_was_written(model, prior, forecaster):
    assert isinstance(model, Prior) and model.name == "gencast-tiny"
    assert model.layout.grid.shape == (9, 16) and model.layout.levels == (500, 850)
    ours, theirs = (jax.tree.leaves(f.net.net) for f in (model._forecaster, forecaster))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert xdiffda.load_model("gencast-tiny") is model
    assert xdiffda.models().cached.sel(model="gencast-tiny")
    assert prior.times == (TIME,) and model.times == ()
    with pytest.raises(ModelError, match="'gencast-tiny', a prior; needed a forecaster"):
        xdiffda.load_forecaster("gencast-tiny")


def test_earlier_states_are_asked_for(model, prior, previous):
    obs = prior.background().diffda.emulate_obs(n_columns=3)
    with pytest.raises(
        InputError,
        match=r"gencast-tiny: 1 problem\n.*no earlier states; needed those of "
        r"2019-06-14T00:00 and 2019-06-14T12:00.*model.given\(states.sel\(time=",
    ):
        assimilate(prior.background(), obs, model="gencast-tiny", progress=False)
    with pytest.raises(InputError, match="no earlier states; needed the states 24 and 12 h"):
        model.background()
    with pytest.raises(InputError) as caught:
        model.given(previous.drop_vars("land_sea_mask").sel(level=[500]))
    assert len(caught.value.problems) == 2
    coarse = previous.isel(lat=slice(None, None, 2))
    with pytest.raises(InputError, match=r"grid 5 x 16 .*needed grid 9 x 16"):
        model.given(coarse)


def test_states_of_a_series_serve_each_analysis(model, prior, previous):
    """In another convention, with a gap: each analysis finds the two states before it."""
    later = previous.assign_coords(time=previous["time"] + 4 * STEP) + 1.0
    series = xr.concat(
        [previous, later], "time", data_vars="minimal", coords="minimal", compat="override"
    )
    turned = series.rename(lat="latitude", lon="longitude", temperature="t")
    turned = turned.isel(latitude=slice(None, None, -1))
    turned["t"] = (turned["t"] - 273.15).assign_attrs(units="degC")
    other = model.given(turned)
    assert other.times == (TIME, TIME + 4 * STEP)
    alone, beside = prior.background(TIME), other.background(TIME)
    xr.testing.assert_allclose(alone, beside, atol=1e-3)
    shift = other.background(TIME + 4 * STEP)["temperature"] - alone["temperature"].drop_vars(
        "time"
    )
    np.testing.assert_allclose(shift, 1.0, atol=1e-3)
    with pytest.raises(InputError, match="needed those of 2019-06-14T12:00 and 2019-06-15T00:00"):
        other.background(TIME + STEP)


@pytest.mark.long
def test_observations_guide_the_draw(forecaster, previous, prior):
    """As the page advises: accurate observations draw all members to them, blind ones none."""
    last = forecaster.clean(previous).isel(time=1).drop_vars("land_sea_mask")
    background = prior.background(TIME)
    for name in STATE:  # without rain, the state with no change is the last one
        np.testing.assert_allclose(background[name], last[name], rtol=1e-6)
    sites = [(-45.0, 45.0, 3.0), (22.5, 270.0, -3.0)]
    rows = [
        {
            "variable": "temperature",
            "level": 850.0,
            "lat": lat,
            "lon": lon,
            "time": TIME,
            "value": float(last["temperature"].sel(lat=lat, lon=lon, level=850)) + change,
        }
        for lat, lon, change in sites
    ]

    def analyse(error: float) -> xr.DataArray:
        obs = pd.DataFrame(rows).assign(error_std=error)
        analysis = assimilate(
            background,
            obs,
            model=prior,
            method=xdiffda.Guided(covariance="jacobian", n_steps=4),
            n_members=2,
            quality=xdiffda.Quality(gross_check=np.inf),
            progress=False,
        )
        assert analysis.attrs["xdiffda_model"] == "gencast-tiny"
        assert json.loads(analysis.attrs["xdiffda_background_error"]) == [
            1.0
        ]  # a unit, not estimated
        return analysis["temperature"].sel(level=850)

    close, blind, blinder = analyse(0.05), analyse(1e5), analyse(1e6)
    np.testing.assert_allclose(blind, blinder, rtol=0, atol=0.02)
    for lat, lon, change in sites:
        wanted = float(last["temperature"].sel(lat=lat, lon=lon, level=850)) + change
        assert abs(close.sel(lat=lat, lon=lon) - wanted).max() < 0.3
        assert abs(blind.sel(lat=lat, lon=lon) - wanted).max() > 1.0
    assert close.std("member").mean() > 0.1


def test_a_cycle_refuses_it_before_anything_is_written(previous, prior, tmp_path):
    """Its draws start from earlier states that are given, not from the forecast of a cycle."""
    background = prior.background(TIME)
    obs = background.diffda.emulate_obs(n_columns=3)
    with pytest.raises(InputError, match=r"two earlier states.*assimilate\(obs, model=model.given"):
        cycle(
            background,
            obs,
            out=tmp_path / "run.zarr",
            n_cycles=2,
            cycle_length="12h",
            model=prior,
            progress=False,
        )
    assert not list(tmp_path.iterdir())
