"""Soft masks and kriging: closed forms, exactness at sites, and invariants."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import KDTree

from xdiffda.errors import InputError
from xdiffda.observations import dilate_mask, emulate_obs, interpolate, krige, soft_mask, to_tidy
from xdiffda.observations.sites import channel_sites, unit_vectors
from xdiffda.state.convert import to_state
from xdiffda.state.grid import Layout

RADIUS_KM = 6371.0


def _surface(lat, lon, value=280.0, **more) -> pd.DataFrame:
    return pd.DataFrame({"variable": "2t", "lat": lat, "lon": lon, "value": value, **more})


def _angle(lat_a, lon_a, lat_b, lon_b) -> np.ndarray:
    """Great-circle distance by the spherical law of cosines, radians."""
    a, b, gap = np.deg2rad(lat_a), np.deg2rad(lat_b), np.deg2rad(np.subtract(lon_a, lon_b))
    return np.arccos(np.clip(np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(gap), -1, 1))


# ------------------------------------------------------------------------------ mask


@given(n=st.integers(1, 12), seed=st.integers(0, 1000), sigma=st.floats(0.3, 4.0))
def test_mask_is_the_maximum_of_gaussians(lab, n, seed, sigma):
    grid = lab.grid()
    layout = Layout(grid, ("2m_temperature",))
    rng = np.random.default_rng(seed)
    lat, lon = rng.uniform(-90, 90, n), rng.uniform(-180, 180, n)
    mask = soft_mask(to_tidy(_surface(lat, lon)), layout, sigma=sigma)[:, 0]
    angle = _angle(grid.node_lat[:, None], grid.node_lon[:, None], lat, lon)
    expected = np.exp(-0.5 * (angle / (sigma * np.deg2rad(15.0))) ** 2).max(axis=1)
    np.testing.assert_allclose(mask, expected, atol=1e-6)


def test_mask_is_exactly_one_at_sites_and_zero_where_nothing_is_observed(truth):
    obs = emulate_obs(truth, n_columns=30, variables=["t"], levels=[500], seed=1)
    mask = dilate_mask(obs, like=truth)
    at_sites = mask.temperature.sel(level=500, lat=obs.lat, lon=obs.lon)
    assert np.all(at_sites == 1.0)
    assert float(mask.temperature.sel(level=500).min()) >= 0.0
    assert int((mask.temperature.sel(level=500) == 1.0).sum()) == 30
    assert not mask.temperature.sel(level=[300, 850]).any()
    assert not mask["2m_temperature"].any()


@given(shift=st.integers(1, 23), seed=st.integers(0, 100))
def test_rolling_longitude_rolls_the_mask_and_the_interpolation(lab, layout, shift, seed):
    tidy = lab.tidy(40, seed)
    tidy = tidy.assign_coords(level=tidy.level.where(tidy.level.isnull(), 500.0))
    rolled = tidy.assign_coords(lon=(tidy.lon - 15.0 * shift) % 360)
    like = lab.dataset(layout, lab.state(layout))
    for make, tolerance in ((dilate_mask, 1e-6), (interpolate, 2e-3)):
        a, b = make(tidy, like=like), make(rolled, like=like)
        xr.testing.assert_allclose(
            a.roll(lon=-shift, roll_coords=False).fillna(0.0), b.fillna(0.0), atol=tolerance
        )


def test_permuting_observations_changes_nothing(lab, layout, truth):
    tidy = lab.tidy(60, 2)
    order = np.random.default_rng(0).permutation(60)
    for make in (dilate_mask, interpolate):
        a, b = make(tidy, like=truth), make(tidy.isel(obs=order), like=truth)
        xr.testing.assert_allclose(a, b, atol=1e-3)


def test_masks_and_fields_come_in_the_convention_of_like(truth):
    obs = emulate_obs(truth, n_columns=30, seed=1)
    user = truth.rename(lat="latitude", temperature="t").isel(latitude=slice(None, None, -1))
    user["2m_temperature"] = (user["2m_temperature"] - 273.15).assign_attrs(units="degC")
    mask = dilate_mask(obs, like=user)
    assert list(mask.t.dims) == list(user.t.dims)
    np.testing.assert_array_equal(mask.latitude, user.latitude)
    ours = dilate_mask(obs, like=truth)
    np.testing.assert_array_equal(mask.t.isel(latitude=slice(None, None, -1)), ours.temperature)
    assert float(mask["2m_temperature"].max()) == 1.0  # a mask has no degrees
    celsius = interpolate(obs, like=user)["2m_temperature"]
    kelvin = interpolate(obs, like=truth)["2m_temperature"]
    np.testing.assert_allclose(celsius[::-1] + 273.15, kelvin, atol=1e-3)


def test_mask_of_a_field_of_zeros_and_ones(truth):
    field = xr.zeros_like(truth["2m_temperature"])
    field[3, 4] = field[3, 23] = 1.0
    sites = _surface(truth.lat.values[[3, 3]], truth.lon.values[[4, 23]])
    by_sites = dilate_mask(sites, like=truth[["2m_temperature"]])["2m_temperature"]
    by_field = dilate_mask(field.isel(lat=slice(None, None, -1)), like=truth)
    np.testing.assert_allclose(by_field["2m_temperature"], by_sites, atol=1e-6)
    np.testing.assert_allclose(by_field["temperature"].sel(level=500), by_sites, atol=1e-6)


def test_bad_masks_are_refused(truth):
    obs = _surface([0.0], [0.0])
    with pytest.raises(InputError, match="sigma=0; needed a positive width"):
        dilate_mask(obs, like=truth, sigma=0)
    with pytest.raises(InputError, match="a DataArray on station"):
        dilate_mask(xr.DataArray([1.0], dims="station"), like=truth)


# --------------------------------------------------------------------------- kriging


def test_two_sites_in_closed_form(lab):
    """w1 = 1/2 + (c1 - c2) / (2 (1 - c12)), and 1 - w1 for the other."""
    grid = lab.grid(36, 72)
    lat, lon, value = np.array([7.5, 12.5]), np.array([0.0, 10.0]), np.array([270.0, 290.0])
    field, covered = krige(grid, unit_vectors(lat, lon), value[:, None])
    angle = _angle(grid.node_lat[:, None], grid.node_lon[:, None], lat, lon)
    assert np.array_equal(covered, angle.min(1) * RADIUS_KM < 2000)
    both = angle.max(1) * RADIUS_KM < 2000
    assert both.sum() > 20
    c = np.exp(-angle * RADIUS_KM / 600.0)
    c12 = np.exp(-_angle(lat[0], lon[0], lat[1], lon[1]) * RADIUS_KM / 600.0)
    weight = 0.5 + (c[:, 0] - c[:, 1]) / (2 * (1 - c12))
    expected = weight * value[0] + (1 - weight) * value[1]
    np.testing.assert_allclose(field[both, 0], expected[both], rtol=1e-10)
    one = covered & ~both
    np.testing.assert_allclose(field[one, 0], value[angle.argmin(1)][one], rtol=1e-12)


def test_noise_on_the_diagonal_in_closed_form(lab):
    """Two sites, relative error variance n: 1 - c12 becomes 1 + n - c12."""
    grid = lab.grid()
    lat, lon, value = np.array([7.5, 22.5]), np.array([0.0, 20.0]), np.array([[270.0], [290.0]])
    field, _ = krige(grid, unit_vectors(lat, lon), value, noise=np.full(2, 0.3), radius_km=3000)
    angle = _angle(grid.node_lat[:, None], grid.node_lon[:, None], lat, lon)
    near = angle.max(1) * RADIUS_KM < 3000
    c = np.exp(-angle * RADIUS_KM / 600.0)
    c12 = np.exp(-_angle(lat[0], lon[0], lat[1], lon[1]) * RADIUS_KM / 600.0)
    weight = 0.5 + (c[:, 0] - c[:, 1]) / (2 * (1.3 - c12))
    np.testing.assert_allclose(field[near, 0], (290 - 20 * weight)[near], rtol=1e-10)


@given(seed=st.integers(0, 1000), n=st.integers(1, 60))
def test_kriging_is_exact_at_sites_and_keeps_constants(lab, seed, n):
    grid = lab.grid()
    node = np.random.default_rng(seed).choice(grid.n_node, n, replace=False)
    place = unit_vectors(grid.node_lat, grid.node_lon)[node]
    value = np.random.default_rng(seed + 1).standard_normal((n, 2))
    value[:, 1] = 3.0
    field, covered = krige(grid, place, value)
    np.testing.assert_allclose(field[node], value, atol=1e-8)
    np.testing.assert_allclose(field[covered, 1], 3.0, rtol=1e-10)


def test_all_channels_share_weights_but_not_values(truth):
    """Together as one by one; other sites for another variable are their own group."""
    t = emulate_obs(truth, n_columns=40, variables=["t", "u"], seed=0)
    t2 = emulate_obs(truth, n_columns=25, variables=["2t"], seed=1)
    tidy = xr.concat([to_tidy(t), to_tidy(t2)], "obs")
    layout = to_state(truth)[1]
    groups = channel_sites(tidy, layout)
    assert sorted((g.place.shape[0], g.channels.size) for g in groups) == [(25, 1), (40, 6)]
    together = interpolate(tidy, like=truth)
    only = t[["temperature", "temperature_error_std"]].sel(level=[500])
    alone = interpolate(only, like=truth)
    a, b = (field.temperature.sel(level=500) for field in (together, alone))
    xr.testing.assert_allclose(a, b)
    assert alone["2m_temperature"].isnull().all()
    assert alone.temperature.sel(level=300).isnull().all()


def test_far_from_sites_the_background_or_the_area_mean(lab, truth):
    obs = emulate_obs(truth, sites={"lat": [37.5], "lon": [30.0]}, noise=False, variables=["2t"])
    alone = interpolate(obs, like=truth)["2m_temperature"]
    np.testing.assert_allclose(alone, obs["2m_temperature"].item(), rtol=1e-6)
    background = truth + 3.0
    filled = interpolate(obs, like=truth, background=background)
    far = _angle(*np.meshgrid(truth.lat, truth.lon, indexing="ij"), 37.5, 30.0) * RADIUS_KM > 2000
    np.testing.assert_array_equal(
        filled["2m_temperature"].values[far], background["2m_temperature"].values[far]
    )
    np.testing.assert_array_equal(filled.temperature, background.temperature)
    assert np.all(filled["2m_temperature"].values[~far] == np.float32(obs["2m_temperature"].item()))


def test_several_reports_of_one_site_are_averaged_by_their_errors(lab, truth):
    frame = _surface([7.5] * 2, [0.0] * 2, [280.0, 284.0], error_std=[1.0, 3.0])
    out = interpolate(frame, like=truth)["2m_temperature"].sel(lat=7.5, lon=0.0)
    assert float(out) == pytest.approx((280 * 1 + 284 / 9) / (1 + 1 / 9), abs=1e-4)


def test_profiles_are_brought_to_the_levels(truth):
    """Linear in log-pressure within a profile; a lone value off the levels is left out."""
    p = np.array([280.0, 400.0, 700.0, 900.0])
    frame = pd.DataFrame(
        {
            "variable": "t",
            "lat": 7.5,
            "lon": 0.0,
            "level": p,
            "value": 250.0 + 20.0 * np.log(p / 500.0),
        }
    )
    out = interpolate(frame, like=truth).temperature.sel(lat=7.5, lon=0.0)
    np.testing.assert_allclose(out, 250 + 20 * np.log(np.array([300, 500, 850]) / 500), atol=1e-3)
    lone = pd.DataFrame(
        {
            "variable": ["t", "2t"],
            "lat": 7.5,
            "lon": 0.0,
            "level": [600, np.nan],
            "value": [260.0, 280.0],
        }
    )
    assert interpolate(lone, like=truth).temperature.isnull().all()
    assert not dilate_mask(lone, like=truth).temperature.any()


def test_nugget_smooths(truth):
    """Pure noise of the stated size is smoothed away; exact observations are kept."""
    flat = xr.full_like(truth["2m_temperature"], 280.0).to_dataset()
    obs = emulate_obs(flat, n_columns=200, error_std=2.0, seed=0)
    sharp, smooth = (
        interpolate(obs, like=flat, nugget=nugget)["2m_temperature"] for nugget in (False, True)
    )
    assert float(smooth.std()) < 0.6 * float(sharp.std())


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"method": "nearest"}, "method='nearest'; needed `kriging`"),
        ({"range_km": 0.0, "n_neighbours": -1}, "2 problems"),
    ],
)
def test_bad_settings_are_refused(truth, kwargs, match):
    with pytest.raises(InputError, match=match):
        interpolate(_surface([0.0], [0.0]), like=truth, **kwargs)


def test_kriging_of_many_sites_is_quick(lab):
    """10,000 sites to 1 degree, in processor time."""
    rng = np.random.default_rng(0)
    lat = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 10_000)))
    place = unit_vectors(lat, rng.uniform(0, 360, 10_000))
    start = time.process_time()
    field, covered = krige(lab.grid(181, 360, poles=True), place, np.sin(np.deg2rad(lat))[:, None])
    assert time.process_time() - start < 2.0
    assert covered.all()
    grid = lab.grid(181, 360, poles=True)
    exact = np.sin(np.deg2rad(grid.node_lat))
    nearest = KDTree(place).query(unit_vectors(grid.node_lat, grid.node_lon))[1]
    error, error_nearest = (
        np.sqrt(np.mean(grid.area_weights() * (f - exact) ** 2))
        for f in (field[:, 0], place[nearest, 2])
    )
    assert error < 0.25 * error_nearest  # a smooth field: far better than the nearest site


def test_members_and_times_of_like_do_not_matter(lab, layout, truth):
    ensemble = lab.dataset(layout, lab.state(layout, 0, 2), member=np.arange(2))
    obs = emulate_obs(truth, n_columns=10)
    assert "member" not in dilate_mask(obs, like=ensemble).dims
    xr.testing.assert_equal(
        interpolate(obs, like=ensemble, background=ensemble.isel(member=[1])),
        interpolate(obs, like=truth, background=ensemble.isel(member=1, drop=True)),
    )


def test_background_must_be_one_state(lab, layout, truth):
    ensemble = lab.dataset(layout, lab.state(layout, 0, 2), member=np.arange(2))
    with pytest.raises(InputError, match=r"batch shape \(2,\)"):
        interpolate(_surface([0.0], [0.0]), like=truth, background=ensemble)
