"""Emulated observations: sites by area, errors of the stated size, stable under every choice."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import dask
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs, observation_operator, to_tidy
from xdiffda.observations.emulate import draw_sites
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Layout


def _values(obs: xr.Dataset) -> list[str]:
    return [str(name) for name in obs.data_vars if not str(name).endswith("_error_std")]


@pytest.fixture(scope="module")
def series(lab, layout) -> xr.Dataset:
    """Three analysis times."""
    time = np.array(["2020-01-01T00", "2020-01-01T06", "2020-01-01T12"], "datetime64[ns]")
    return lab.dataset(layout, lab.state(layout, 0, 3), time=time)


# ---------------------------------------------------------------------------- sites


def test_sites_are_drawn_by_area(lab):
    """Chi-square on latitude bands; few sites at a time, so that none runs out."""
    grid = lab.grid(32, 64)
    lat = np.concatenate([draw_sites(grid, 10, seed, 0, True).lat for seed in range(800)])
    band = np.searchsorted(grid.lat, lat)
    drawn = np.bincount(band, minlength=32)
    share = grid.area_weights().reshape(32, 64).sum(1) / grid.n_node
    assert stats.chisquare(drawn, share * lat.size).pvalue > 1e-3
    assert stats.chisquare(drawn, np.full(32, lat.size / 32)).pvalue < 1e-12  # not by index


def test_sites_off_the_grid_are_uniform_on_the_sphere(lab):
    sites = draw_sites(lab.grid(), 4000, 0, 0, False)
    assert stats.kstest(np.sin(np.deg2rad(sites.lat)), "uniform", (-1, 2)).pvalue > 1e-3
    assert stats.kstest(sites.lon, "uniform", (0, 360)).pvalue > 1e-3


def test_sites_are_drawn_without_replacement(truth, layout):
    obs = emulate_obs(truth, fraction=1.0, noise=False)
    assert obs.sizes["station"] == layout.grid.n_node
    assert len({*zip(obs.lat.values, obs.lon.values, strict=True)}) == layout.grid.n_node


def test_fraction_is_of_the_columns(truth):
    obs = emulate_obs(truth, fraction=0.1)
    assert obs.sizes["station"] == 29  # of 288
    assert obs.attrs["n_columns"] == 29
    xr.testing.assert_equal(obs, emulate_obs(truth, n_columns=29))


def test_more_columns_contain_the_fewer(truth):
    many, few = (emulate_obs(truth, n_columns=n, seed=4) for n in (50, 20))
    xr.testing.assert_equal(many.isel(station=slice(20)), few)


def test_sites_of_the_user(truth):
    sites = {"lat": [7.5, 52.5, 88.0], "lon": [-15.0, 14.2, 7.0], "station": ["a", "b", "c"]}
    obs = emulate_obs(truth, sites=sites, noise=False)
    assert obs.station.values.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(obs.lon, [345.0, 14.2, 7.0])
    on_grid = truth["2m_temperature"].sel(lat=7.5, lon=345.0)
    assert obs["2m_temperature"][0].item() == on_grid.item()
    xr.testing.assert_equal(
        obs,
        emulate_obs(
            truth,
            sites=xr.Dataset(
                {"latitude": ("x", sites["lat"]), "longitude": ("x", sites["lon"])},
                {"station": ("x", sites["station"])},
            ),
            noise=False,
        ),
    )


# ---------------------------------------------------------------------------- values


def test_without_noise_the_truth_is_seen(truth):
    obs = emulate_obs(truth, n_columns=60, noise=False, variables=["t"], levels=[850, 300])
    assert _values(obs) == ["temperature"]
    assert obs.level.values.tolist() == [300, 850]
    seen = truth["temperature"].sel(level=[300, 850], lat=obs.lat, lon=obs.lon)
    np.testing.assert_array_equal(obs.temperature, seen.transpose("station", "level"))


@pytest.mark.parametrize("poles", [False, True])
def test_off_the_grid_it_is_the_observation_operator(lab, poles):
    """The same H as in the analysis, wind over the poles included."""
    names = (*lab.names, "v_component_of_wind")
    layout = Layout(lab.grid(13, 24, poles=poles), names, lab.levels)
    x = lab.state(layout)
    obs = emulate_obs(lab.dataset(layout, x), n_columns=300, on_grid=False, noise=False)
    assert np.abs(obs.lat).max() > 85
    tidy = to_tidy(obs)
    operator, _, _ = observation_operator(tidy, layout)
    np.testing.assert_allclose(operator.apply(x), tidy.value, rtol=2e-6, atol=2e-5)


def test_noise_has_the_stated_size_and_is_independent(lab):
    layout = lab.layout(lab.grid(32, 64))
    ds = lab.dataset(layout, lab.state(layout))
    errors = {"t": {300: 2.0, 500: 1.0, 850: 0.5}, "u": 3.0, "2t": 0.25}
    kwargs = {"n_columns": 2048, "error_std": errors}
    obs, exact = emulate_obs(ds, **kwargs), emulate_obs(ds, noise=False, **kwargs)
    z = np.concatenate(
        [
            ((obs[n] - exact[n]) / obs[n + "_error_std"]).values.reshape(2048, -1)
            for n in _values(obs)
        ],
        axis=1,
    )
    assert z.shape == (2048, 7)
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(2048)
    assert np.abs(z.std(0) - 1).max() < 4 / np.sqrt(2 * 2048)
    assert np.abs(np.corrcoef(z.T) - np.eye(7)).max() < 4.5 / np.sqrt(2048)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(obs.temperature_error_std[0], [2.0, 1.0, 0.5])


def test_noise_does_not_depend_on_what_else_is_observed(truth):
    all_of_it = emulate_obs(truth, n_columns=20, seed=3)
    some = emulate_obs(truth, n_columns=20, seed=3, variables=["temperature"], levels=[500])
    xr.testing.assert_equal(all_of_it.temperature.sel(level=[500]), some.temperature)


def test_other_seeds_are_other_sites_and_errors(truth):
    a, b = (emulate_obs(truth, n_columns=20, seed=seed) for seed in (0, 1))
    assert set(a.lat.values) != set(b.lat.values) or set(a.lon.values) != set(b.lon.values)


def test_the_users_convention_does_not_matter(lab, layout, truth):
    user = truth.rename(lat="latitude", lon="longitude", level="plev", temperature="t")
    celsius = user["2m_temperature"].astype("f8") - 273.15
    user["2m_temperature"] = celsius.assign_attrs(units="degC")
    user = user.assign_coords(plev=("plev", user.plev.values * 100.0, {"units": "Pa"}))
    user = user.isel(latitude=slice(None, None, -1), plev=[2, 0, 1])
    user = user.assign_coords(longitude=(user.longitude + 180) % 360 - 180).sortby("longitude")
    user = user.transpose("longitude", "plev", "latitude")
    ours, theirs = (emulate_obs(ds, n_columns=40, seed=2) for ds in (truth, user))
    xr.testing.assert_allclose(ours, theirs[list(ours.variables)], rtol=1e-6)


# ------------------------------------------------------------------------------ time


def test_fixed_sites_through_time(series):
    obs = emulate_obs(series, n_columns=20, seed=1)
    assert obs.temperature.dims == ("time", "station", "level")
    np.testing.assert_array_equal(obs.time, series.time)
    assert to_tidy(obs).sizes["obs"] == 3 * 20 * 7
    exact = emulate_obs(series, n_columns=20, seed=1, noise=False)
    noise = (obs - exact)["temperature"].values.reshape(3, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.5  # 60 numbers: not repeated
    first = emulate_obs(series.isel(time=[0]), n_columns=20, seed=1)
    xr.testing.assert_equal(obs.isel(time=[0]), first)


def test_new_sites_at_each_time(series):
    obs = emulate_obs(series, n_columns=20, seed=1, fixed_sites=False, noise=False)
    assert dict(obs.sizes) == {"station": 60, "level": 3}
    np.testing.assert_array_equal(obs.time, np.repeat(series.time.values, 20))
    places = [
        set(zip(part.lat.values, part.lon.values, strict=True)) for _, part in obs.groupby("time")
    ]
    assert len(places[0] & places[1]) < 10
    seen = series["2m_temperature"].sel(lat=obs.lat, lon=obs.lon, time=obs.time)
    np.testing.assert_array_equal(obs["2m_temperature"], seen)


def test_scalar_time_is_the_time_of_every_station(series):
    obs = emulate_obs(series.isel(time=1), n_columns=5)
    assert obs.time.dims == ("station",)
    assert np.all(obs.time == series.time[1])


# ------------------------------------------------------------- laziness and processes


def test_lazy_until_the_sites_are_selected(series):
    computed = []

    def scheduler(dsk, keys, **options):
        computed.append(keys)
        return dask.get(dsk, keys, **options)

    lazy = series.chunk(time=1, lat=4)
    with dask.config.set(scheduler=scheduler):
        obs = emulate_obs(lazy, n_columns=20, seed=1)
        again = emulate_obs(lazy, n_columns=20, seed=1, fixed_sites=False)
    assert len(computed) == 2  # once for each call
    assert not obs.chunks
    assert not again.chunks
    xr.testing.assert_equal(obs, emulate_obs(series, n_columns=20, seed=1))


_SCRIPT = """
import numpy as np, xarray as xr, hashlib, sys
from xdiffda.observations import emulate_obs
field = xr.DataArray(np.full((12, 24), 280.0), dims=("lat", "lon"),
                     coords={"lat": np.arange(-82.5, 90, 15), "lon": np.arange(0, 360, 15)})
obs = emulate_obs(field.to_dataset(name="2m_temperature"), n_columns=30, seed=7)
assert "jax" not in sys.modules
print(hashlib.sha256(obs["2m_temperature"].values.tobytes() + obs.lat.values.tobytes()).hexdigest())
"""


def test_the_seed_reproduces_in_another_process(root):
    """Also with another hash seed, and without loading jax."""
    coords = {"lat": np.arange(-82.5, 90, 15), "lon": np.arange(0, 360, 15)}
    field = xr.DataArray(np.full((12, 24), 280.0), coords, ("lat", "lon"))
    obs = emulate_obs(field.to_dataset(name="2m_temperature"), n_columns=30, seed=7)
    digest = hashlib.sha256(obs["2m_temperature"].values.tobytes() + obs.lat.values.tobytes())
    other = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": str(root)},
    )
    assert other.stdout.strip() == digest.hexdigest()


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, "none of fraction, n_columns, sites; needed exactly one"),
        ({"fraction": 0.1, "n_columns": 5}, "fraction and n_columns; needed exactly one"),
        ({"fraction": 1.5}, r"fraction=1.5.*n_columns=2"),
        ({"n_columns": 0}, "whole number from 1 to 288"),
        ({"n_columns": 289}, "whole number from 1 to 288"),
        (
            {"n_columns": 5, "variables": ["q"]},
            "variables 'q'.*some of 2m_temperature, temperature",
        ),
        ({"n_columns": 5, "levels": [501]}, "levels 501.*some of 300, 500, 850 hPa"),
        ({"n_columns": 5, "error_std": 0.0}, "error_std of temperature.*noise=False"),
        ({"n_columns": 5, "error_std": 0.0, "noise": False}, "positive standard deviations in K"),
        ({"n_columns": 5, "error_std": {"t": {500: 1.0}}}, "temperature without 300, 850 hPa"),
        ({"n_columns": 5, "error_std": {"plankton": 1.0}}, "error_std for 'plankton'"),
        ({"n_columns": 5, "error_std": "typical"}, "error_std='typical'; needed `default`"),
        ({"n_columns": 5, "seed": -1}, "seed=-1; needed a whole number from 0"),
        ({"sites": {"lat": [0.0]}}, "sites with lat; needed lat and lon"),
        ({"sites": {"lat": [95.0], "lon": [0.0]}}, r"lat in \[-90, 90\]"),
    ],
)
def test_bad_arguments_are_refused_with_the_repair(truth, kwargs, match):
    with pytest.raises(InputError, match=match):
        emulate_obs(truth, **kwargs)


def test_members_are_to_be_chosen(lab, layout):
    ensemble = from_state(
        lab.state(layout, 0, 4), layout, default_convention(layout), dims=("member",)
    )
    with pytest.raises(InputError, match=r"4 along `member`; needed one member.*isel\(member=0\)"):
        emulate_obs(ensemble, n_columns=5)
    one = emulate_obs(ensemble.isel(member=[0]), n_columns=5)
    xr.testing.assert_equal(one, emulate_obs(ensemble.isel(member=0, drop=True), n_columns=5))


def test_errors_from_arrays_and_datasets(truth):
    by_level = xr.DataArray([4.0, 2.0, 1.0], {"plev": [30000, 50000, 85000]}, "plev")
    by_level.plev.attrs["units"] = "Pa"
    spec = xr.Dataset({"temperature_error_std": by_level, "2t": 0.5})
    obs = emulate_obs(truth, n_columns=5, error_std=spec)
    np.testing.assert_array_equal(obs.temperature_error_std[2], [4.0, 2.0, 1.0])
    assert obs["2m_temperature_error_std"][0] == 0.5
    assert obs["u_component_of_wind_error_std"][0, 0] == 1.0  # the default
    everywhere = emulate_obs(truth, n_columns=5, error_std=0.3)
    assert all((everywhere[n + "_error_std"] == 0.3).all() for n in _values(everywhere))


def test_observations_are_valid_and_say_how_they_were_made(truth):
    obs = emulate_obs(truth, n_columns=25, seed=9)
    assert to_tidy(obs).sizes["obs"] == 25 * 7
    assert {"seed": 9, "n_columns": 25, "error_std": "default"}.items() <= obs.attrs.items()
    assert obs.attrs["fraction"] == pytest.approx(25 / 288)


def test_what_the_truth_does_not_have_is_not_observed(truth):
    holes = truth.copy(deep=True)
    holes["2m_temperature"][3:6] = np.nan
    obs = emulate_obs(holes, fraction=1.0, noise=False)
    assert int(obs["2m_temperature"].isnull().sum()) == 3 * 24
    assert to_tidy(obs).sizes["obs"] == 288 * 7 - 3 * 24
