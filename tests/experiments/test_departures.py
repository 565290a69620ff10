"""Departures of real observations at withheld stations: the experiment and its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from places import SHARED

import xdiffda
from xdiffda.errors import InputError
from xdiffda.experiments import departures as experiment
from xdiffda.experiments.command import main as command
from xdiffda.priors.reference import reference_prior
from xdiffda.state.grid import Layout, Places, equiangular

# 71 radiosonde stations of Europe, 2020-11-01 12 UTC, GDAS prepBUFR (NOAA, public domain)
EXTRACT = Path(__file__).with_name("soundings-europe.csv")
GDAS = SHARED / "data" / "prepbufr" / "gdas.t12z.ADPUPA.prepbufr"


@pytest.fixture(scope="module")
def departures() -> experiment.Departures:
    return experiment.read_departures(EXTRACT)


@pytest.fixture(scope="module")
def few(departures: experiment.Departures) -> experiment.Departures:
    """Stations and channels few enough for dense algebra."""
    names = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind")
    old, take = departures.layout, np.arange(0, departures.layout.grid.n_node, 5)
    places = Places(*(tuple(np.array(x)[take]) for x in (old.grid.lat, old.grid.lon)))
    layout = Layout(places, names, (250, 500))
    own = [old.channel_index(*channel) for channel in layout.channels]
    parts = (departures.value, departures.error_std, departures.background)
    return experiment.Departures(layout, *(x[np.ix_(take, own)] for x in parts))


@pytest.mark.long
def test_covariance_between_places_is_that_of_a_grid_with_these_points() -> None:
    names = ("u_component_of_wind", "v_component_of_wind", "geopotential", "specific_humidity")
    grid = equiangular(13, 24, poles=True)
    whole = reference_prior(Layout(grid, names, (500, 850)), truncation=11)
    nodes = [50, 133, 200, 12 * 12]
    places = Places(tuple(grid.node_lat[nodes]), tuple(grid.node_lon[nodes]))
    here = reference_prior(Layout(places, names, (500, 850)), truncation=11)
    np.testing.assert_allclose(here.scale, whole.scale[nodes], rtol=1e-6)
    np.testing.assert_allclose(here.unresolved, whole.unresolved[nodes], rtol=1e-6)
    x = np.random.default_rng(0).normal(size=(4, 2, here.layout.n_channel)).astype(np.float32)
    spread = np.zeros((grid.n_node, *x.shape[1:]), np.float32)
    spread[nodes] = x
    expected = np.asarray(whole.covariance(jnp.asarray(spread)))[nodes]
    np.testing.assert_allclose(here.covariance(jnp.asarray(x)), expected, atol=1e-5)


def test_departures_are_those_of_the_file_less_their_mean(
    departures: experiment.Departures,
) -> None:
    assert departures.layout.grid.n_node == 71
    obs = xdiffda.read_obs(EXTRACT)
    own = (obs["variable"].values == "temperature") & (obs["level"].values == 500)
    apart = (obs["value"] - obs["background"]).values[own]
    found = departures.value[:, departures.layout.channel_index("temperature", 500)]
    found = found[np.isfinite(found)]
    assert found.size >= 0.95 * own.sum() and abs(found.mean()) < 1e-9
    assert found.std() == pytest.approx(apart.std(), rel=0.1)


@pytest.mark.long
def test_analyses_at_withheld_stations_are_those_of_dense_algebra(
    few: experiment.Departures,
) -> None:
    errors = experiment.reference_errors(few, 21)
    n_site, n_channel = few.value.shape
    eye = jnp.eye(n_site * n_channel).reshape(n_site, n_channel, -1).swapaxes(1, 2)
    z = np.asarray(errors.covariance(eye), np.float64)
    scale = errors.scale.reshape(-1).astype(np.float64)
    b = z.swapaxes(1, 2).reshape(n_site * n_channel, -1) * scale[:, None] * scale
    error = few.error_std**2 + (errors.scale * errors.unresolved) ** 2
    d, known = few.value.reshape(-1), few.known.reshape(-1)
    found = experiment.analyse(few, errors)
    split = np.random.default_rng(0).permutation(n_site) % experiment.N_SPLIT
    chi2 = np.zeros((experiment.N_SPLIT, d.size))
    for i in range(experiment.N_SPLIT):
        used = known & np.repeat(split != i, n_channel)
        s = b[np.ix_(used, used)] + np.diag(error.reshape(-1)[used])
        w = np.linalg.solve(s, d[used])
        left = (d - b[:, used] @ w).reshape(n_site, n_channel)[split == i]
        np.testing.assert_allclose(found.left[split == i], left, atol=2e-2 * np.nanstd(d))
        chi2[i, used] = d[used] * w
    expected = chi2.sum(0)[known] / (experiment.N_SPLIT - 1)
    np.testing.assert_allclose(found.chi2.reshape(-1)[known], expected, atol=0.03)


def test_departures_drawn_from_the_prior_have_chi_square_one(
    few: experiment.Departures,
) -> None:
    """And their misfit shrinks by what the prior says; noise alone shrinks by nothing."""
    errors = experiment.reference_errors(few, 21)
    n_site, n_channel = few.value.shape
    eye = jnp.eye(n_site * n_channel).reshape(n_site, n_channel, -1).swapaxes(1, 2)
    z = np.asarray(errors.covariance(eye), np.float64).swapaxes(1, 2).reshape(eye.shape[1], -1)
    values, vectors = np.linalg.eigh((z + z.T) / 2)
    rng = np.random.default_rng(1)
    drawn = (vectors * np.sqrt(np.maximum(values, 0))) @ rng.normal(size=eye.shape[1])
    own = drawn.reshape(n_site, n_channel)
    own = own + errors.unresolved * rng.normal(size=own.shape)
    exact = replace(few, error_std=0.3 * errors.scale)
    value = errors.scale * own + exact.error_std * rng.normal(size=own.shape)
    exact = replace(exact, value=np.where(few.known, value, np.nan))
    found = experiment.analyse(exact, errors)
    assert np.nanmean(found.chi2) == pytest.approx(1, abs=0.12)
    assert np.nanmean(found.left**2) < 0.9 * np.nanmean(exact.value**2)
    wrong = experiment.analyse(exact, errors, 3.0)
    assert np.nanmean(wrong.chi2) < 0.5


def test_the_experiment_on_an_extract() -> None:
    priors = ["univariate", "reference"]
    found = experiment.run(EXTRACT, priors=priors, truncation=31)
    assert found["prior"].values.tolist() == priors
    misfit = found["misfit_of_variable"].sel(prior="reference")
    assert float(misfit.sel(name="geopotential")) > 5
    assert 0.8 < float(found["chi2_of_all"].sel(prior="reference")) < 1.2
    assert (found["gain"].sel(prior="univariate") == 0).all()
    gain = found["misfit"].sel(prior="reference") - found["misfit"].sel(prior="univariate")
    np.testing.assert_allclose(found["gain"].sel(prior="reference"), gain)
    assert (found["gain_error"].sel(prior="reference") > 0).all()
    text = experiment.tables(found)
    assert "| reference |" in text and "| 500 |" in text and "| ground |" in text


def test_any_prior_with_a_grid_can_stand_beside(few: experiment.Departures) -> None:
    """Of `reference` on a grid, interpolated: about that at the places themselves."""
    grid = equiangular(37, 72, poles=True)
    prior = reference_prior(Layout(grid, few.layout.variables, (250, 500)), truncation=21)
    there = experiment.gridded_errors(few, prior)
    here = experiment.reference_errors(few, 21)
    left = [experiment.analyse(few, errors).left for errors in (there, here)]
    apart = np.nanmean((left[0] - left[1]) ** 2, axis=0) / np.nanmean(few.value**2, axis=0)
    assert (apart < 0.03).all()
    lacks = experiment.gridded_errors(few, xdiffda.load_model("speedy"))  # no geopotential at 250
    assert np.isfinite(lacks.scale).all()


def test_files_without_a_background_are_refused(tmp_path: Path) -> None:
    obs = xdiffda.read_obs(EXTRACT)
    xdiffda.write_dataset(obs.drop_vars("background"), tmp_path / "bare.nc")
    with pytest.raises(InputError, match="the background at each observation"):
        command("departures", tmp_path / "bare.nc")
    two = obs.isel(obs=obs["station"].values == obs["station"].values[0])
    with pytest.raises(InputError, match="8 departures or more"):
        experiment.read_departures(two)


@pytest.mark.long
@pytest.mark.skipif(not GDAS.exists(), reason="needs ../shared")
def test_real_departures_of_a_whole_cycle() -> None:
    """What the page of the prior says of it."""
    found = experiment.run(GDAS, priors=["univariate", "reference"])
    misfit = found["misfit_of_variable"].sel(prior="reference")
    for name, least in (("geopotential", 9), ("temperature", 3.3), ("v_component_of_wind", 1.0)):
        assert float(misfit.sel(name=name)) > least
    assert 0.9 < float(found["chi2_of_all"].sel(prior="reference")) < 1.1


def test_xarray_of_observations_is_taken_as_well() -> None:
    obs = xdiffda.read_obs(EXTRACT)
    assert isinstance(obs, xr.Dataset)
    assert experiment.read_departures(obs).layout.grid.n_node == 71
