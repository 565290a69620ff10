"""Regridding keeps area means, reproduces smooth fields, and knows that the earth is round."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.state.convert import infer_layout, to_state
from xdiffda.state.grid import Grid, Layout
from xdiffda.state.regrid import regrid

LAT, LON = np.linspace(90, -90, 91), np.arange(-180, 180, 4.0)


def field(function, lat=LAT, lon=LON) -> xr.Dataset:
    """A field of (lat, lon) in radians, with descending rows."""
    values = function(np.deg2rad(lat)[:, None], np.deg2rad(lon)[None, :]) + np.zeros(
        (lat.size, lon.size)
    )
    coords = {"latitude": ("latitude", lat, {"units": "degrees_north"}), "longitude": lon}
    return xr.Dataset({"t2m": (("latitude", "longitude"), values, {"units": "K"})}, coords)


def smooth(lat, lon):
    return 280 + 20 * np.cos(lat) ** 2 * np.cos(2 * lon - 1) + 10 * np.sin(lat)


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
@pytest.mark.parametrize("like", ["speedy", "240x121"])
def test_smooth_fields_are_reproduced(method, like):
    out = regrid(field(smooth), like=like, method=method)
    expected = smooth(*np.deg2rad(np.meshgrid(out.latitude, out.longitude, indexing="ij")))
    # Second order in the coarser spacing (5.6 degrees; a curvature of about 80 K per radian^2).
    assert np.abs(out["t2m"].values - expected).max() < (0.25 if like == "speedy" else 0.75)
    assert infer_layout(out).grid.shape == ((32, 64) if like == "speedy" else (121, 240))


@pytest.mark.parametrize("like", ["speedy", "240x121", Grid.from_coords([-60, 10, 60], [1, 181])])
def test_conservative_keeps_the_global_mean(like):
    rng = np.random.default_rng(0)
    ds = field(lambda lat, lon: 280 + 5 * rng.normal(size=(lat.size, lon.size)))
    means = []
    for one in (ds, regrid(ds, like=like, method="conservative")):
        x, layout, _ = to_state(one)
        weights = layout.grid.area_weights() / layout.grid.n_node
        means.append((weights @ x.astype(np.float64)).item())
    assert means[0] == pytest.approx(means[1], rel=1e-7)


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_a_constant_stays(method):
    for like in ("speedy", "64x32", "360x181"):
        out = regrid(field(lambda lat, lon: 273.0), like=like, method=method)
        np.testing.assert_allclose(out["t2m"], 273.0, rtol=1e-12)


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_the_same_grid_is_the_identity(method):
    ds = field(smooth)
    xr.testing.assert_allclose(regrid(ds, like=ds, method=method), ds, rtol=1e-12)


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_order_and_convention_do_not_matter(method):
    ds = field(smooth)
    other = (
        ds.isel(latitude=slice(None, None, -1))
        .assign_coords(longitude=LON % 360)
        .roll(longitude=7, roll_coords=True)
    )
    xr.testing.assert_allclose(
        regrid(other, like="speedy", method=method), regrid(ds, like="speedy", method=method)
    )


def test_bilinear_beyond_the_last_row_goes_to_its_mean():
    ds = field(lambda lat, lon: np.cos(lon), lat=np.linspace(-80, 80, 9))
    out = regrid(ds, like=Grid.from_coords(np.linspace(-90, 90, 37), LON % 360), method="bilinear")
    at = out["t2m"].sel(longitude=0)
    assert at.sel(latitude=80).item() == pytest.approx(1.0)
    assert at.sel(latitude=85).item() == pytest.approx(0.5)
    assert at.sel(latitude=90).item() == pytest.approx(0.0, abs=1e-9)


def test_bilinear_wind_keeps_its_direction_at_the_pole():
    """A uniform flow over the pole; its mean along the row next to it is no wind."""
    grid = Grid.from_coords(np.linspace(-90, 90, 37), LON % 360)
    for name, flow in (
        ("u", lambda lat, lon: -np.sin(lon)),
        ("10v", lambda lat, lon: -np.sign(lat) * np.cos(lon)),
    ):
        ds = field(flow, lat=np.linspace(-80, 80, 9)).rename(t2m=name)
        out = regrid(ds, like=grid, method="bilinear")[name].sel(latitude=[-90, -85, 85, 90])
        lat, lon = np.meshgrid(out.latitude, np.deg2rad(out.longitude), indexing="ij")
        np.testing.assert_allclose(out, flow(lat, lon), atol=1e-6)


def test_the_order_of_a_dataset_is_taken_over():
    like = field(smooth, lat=np.linspace(90, -90, 19), lon=np.arange(-180, 180, 10.0))
    out = regrid(field(smooth), like=like)
    np.testing.assert_array_equal(out.latitude, like.latitude)
    np.testing.assert_array_equal(out.longitude, like.longitude)
    assert abs(out["t2m"] - like["t2m"]).max() < 0.5


def test_dimensions_names_and_attributes_are_kept_and_lazy_stays_lazy(no_compute):
    ds = field(smooth).expand_dims(time=3).transpose("longitude", "time", "latitude")
    ds = ds.assign(scalar=1.0).assign_attrs(title="x").chunk({"time": 1, "longitude": 30})
    out = regrid(ds, like="speedy")
    assert out["t2m"].dims == ("longitude", "time", "latitude")
    assert out["t2m"].attrs == {"units": "K"} and out.attrs == {"title": "x"}
    assert out["t2m"].chunks is not None and "scalar" in out
    assert out.latitude.attrs == {"units": "degrees_north"}


def test_nan_does_not_spread_over_the_row():
    ds = field(smooth)
    ds["t2m"][40:50, 10:20] = np.nan
    for method in ("conservative", "bilinear"):
        share = np.isnan(regrid(ds, like="speedy", method=method)["t2m"]).mean().item()
        assert 0.005 < share < 0.03  # 10 x 10 of 91 x 90 cells are 1.2 %


def test_unequal_meridians_can_be_mended():
    lon = 360 * np.linspace(0, 1, 90, endpoint=False) ** 1.05
    out = regrid(field(smooth, lon=lon), like="speedy", method="bilinear")
    expected = smooth(*np.deg2rad(np.meshgrid(out.latitude, out.longitude, indexing="ij")))
    assert np.abs(out["t2m"].values - expected).max() < 0.5


@pytest.mark.parametrize(
    ("change", "like", "match"),
    [
        (lambda ds: ds, "nowhere", "like='nowhere'; needed one of speedy"),
        (lambda ds: ds.isel(longitude=slice(0, 40)), "speedy", "a part of the globe"),
        (lambda ds: ds.isel(latitude=slice(0, 40)), "speedy", "from pole to pole"),
        (
            lambda ds: ds.assign_coords(longitude=np.linspace(0, 360, 90)),
            "speedy",
            r"end point twice.*isel\(longitude=slice\(None, -1\)\)",
        ),
        (lambda ds: ds.drop_vars("longitude").rename(longitude="foo"), "speedy", "no one-dim"),
    ],
)
def test_what_cannot_be_regridded(change, like, match):
    with pytest.raises(InputError, match=match):
        regrid(change(field(smooth)), like=like)


def test_levels_and_layouts():
    ds = field(smooth).rename(t2m="t").expand_dims(level=[500, 850])
    layout = Layout(
        Grid.from_coords(np.linspace(-88, 88, 45), np.arange(0, 360, 8)),
        ("temperature",),
        (500, 850),
    )
    assert to_state(regrid(ds, like=layout), layout)[0].shape == (45 * 45, 2)
