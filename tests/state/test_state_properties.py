"""The way in and out is the identity, whatever convention the user has."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.grid import Grid, Layout

# name, its (user name, units, standard_name, from canonical) in several conventions
CLOTHES = {
    "temperature": [
        ("temperature", "K", "", lambda x: x),
        ("t", "K", "air_temperature", lambda x: x),
        ("ta", "degC", "air_temperature", lambda x: x - 273.15),
        ("x_17", "K", "air_temperature", lambda x: x),
        ("T", "", "", lambda x: x),
    ],
    "geopotential": [
        ("geopotential", "m**2 s**-2", "geopotential", lambda x: x),
        ("z", "m2 s-2", "", lambda x: x),
        ("gh", "gpm", "geopotential_height", lambda x: x / 9.80665),
        ("hgt", "", "", lambda x: x / 9.80665),
    ],
    "specific_humidity": [
        ("q", "kg kg**-1", "specific_humidity", lambda x: x),
        ("hus", "1", "specific_humidity", lambda x: x),
        ("shum", "g/kg", "", lambda x: 1000 * x),
    ],
    "10m_u_component_of_wind": [
        ("10m_u_component_of_wind", "m s-1", "", lambda x: x),
        ("u10", "m s**-1", "eastward_wind", lambda x: x),
        ("10u", "knots", "", lambda x: x / (1852 / 3600)),
    ],
    "mean_sea_level_pressure": [
        ("msl", "Pa", "unknown", lambda x: x),
        ("prmsl", "hPa", "air_pressure_at_sea_level", lambda x: x / 100),
    ],
}
RANGE = {
    "temperature": (200, 310),
    "geopotential": (52000, 58000),
    "specific_humidity": (0, 0.02),
    "10m_u_component_of_wind": (-40, 40),
    "mean_sea_level_pressure": (94e3, 106e3),
}


@st.composite
def states(draw):
    """A canonical state array, and the same in a user's clothes."""
    n_lat, n_lon = draw(st.integers(2, 5)), draw(st.integers(2, 6))
    grid = draw(
        st.sampled_from(
            [
                Grid(tuple(np.linspace(-90, 90, n_lat)), tuple(np.arange(n_lon) * 360 / n_lon)),
                Grid(
                    tuple((np.arange(n_lat) + 0.5) * 180 / n_lat - 90),
                    tuple((np.arange(n_lon) + 0.5) * 360 / n_lon),
                ),
            ]
        )
    )
    names = draw(st.lists(st.sampled_from(sorted(CLOTHES)), min_size=1, unique=True))
    levels = draw(st.lists(st.sampled_from([450, 475, 500, 525]), min_size=1, unique=True))
    layout = Layout(grid, tuple(names), tuple(levels))
    batch = draw(
        st.sampled_from(
            [
                {},
                {"time": 2},
                {"member": 3},
                {"time": 2, "member": 2},
                {"lead_time": 2},
                {"time": 1, "lead_time": 2, "member": 2},
            ]
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.uniform(size=(*batch.values(), grid.n_node, layout.n_channel))
    for i, (name, _) in enumerate(layout.channels):
        low, high = RANGE[name]
        x[..., i] = low + (high - low) * x[..., i]
    return x.astype(np.float32), layout, _clothe(draw, x, layout, batch)


def _clothe(draw, x, layout: Layout, batch) -> xr.Dataset:
    times = {
        "time": np.array(["2020-01-01", "2020-01-02"], "M8[ns]"),
        "lead_time": np.array([6, 12], "m8[h]").astype("m8[ns]"),
    }
    coords = {key: times[key][:n] for key, n in batch.items() if key in times}
    ds = from_state(x, layout, default_convention(layout), dims=tuple(batch), coords=coords)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    for name in layout.variables:
        user, units, standard, convert = draw(st.sampled_from(CLOTHES[name]))
        attrs = {"units": units, "standard_name": standard, "note": "mine"}
        attrs = {key: value for key, value in attrs.items() if value}
        values = convert(ds[name].astype(np.float64)).astype(dtype)
        ds = ds.assign({name: values.assign_attrs(attrs)})
        ds[name].attrs = attrs
        ds = ds.rename({name: user}) if user != name else ds
    return _rearrange(draw, ds)


def _rearrange(draw, ds: xr.Dataset) -> xr.Dataset:
    """Other coordinates, names and orders."""
    if draw(st.booleans()):
        ds = ds.isel(lat=slice(None, None, -1))
    if draw(st.booleans()):
        ds = ds.assign_coords(lon=("lon", (ds.lon.values + 180) % 360 - 180, ds.lon.attrs))
    ds = ds.roll(lon=draw(st.integers(0, ds.sizes["lon"] - 1)), roll_coords=True)
    ds = ds.assign_coords(lat=ds.lat.astype(draw(st.sampled_from([np.float32, np.float64]))))
    if "level" in ds.coords:
        order = draw(st.permutations(range(ds.sizes["level"])))
        ds = ds.isel(level=list(order))
        if draw(st.booleans()):
            pascal = ds.level.values.astype(float) * 100
            ds = ds.assign_coords(level=("level", pascal, {"units": "Pa"}))
    words = {
        "lat": ["lat", "latitude"],
        "lon": ["lon", "longitude"],
        "member": ["member", "number"],
        "level": ["level", "isobaricInhPa", "plev", "pressure_level"],
        "lead_time": ["lead_time", "step", "prediction_timedelta"],
    }
    renamed = {key: draw(st.sampled_from(names)) for key, names in words.items() if key in ds.dims}
    ds = ds.rename({key: name for key, name in renamed.items() if key != name})
    ds = ds.transpose(*draw(st.permutations(sorted(map(str, ds.dims)))))
    return ds.assign_coords(surface=0.0).assign_attrs(institution="here")


@given(states())
def test_any_convention_in_and_the_same_out(case):
    expected, layout, user = case
    x, found, convention = to_state(user)
    assert found == layout or found.grid.is_close(layout.grid)
    assert found.channels == layout.channels
    np.testing.assert_allclose(x, expected, rtol=3e-7, atol=1e-4)
    back = from_state(x, found, convention)
    assert list(back.data_vars) == list(user.data_vars) and back.attrs == user.attrs
    for name, variable in user.data_vars.items():
        assert back[name].dims == variable.dims and back[name].attrs == variable.attrs
        np.testing.assert_allclose(back[name].values, variable.values, rtol=3e-7, atol=1e-4)
    xr.testing.assert_identical(back.coords.to_dataset(), user.coords.to_dataset())
    for name in user.coords:
        assert back[name].dtype == user[name].dtype


@given(states())
def test_out_and_in_again_is_the_identity_on_arrays(case):
    _, layout, user = case
    x, found, convention = to_state(user, Layout(layout.grid, layout.variables, layout.levels))
    again, _, _ = to_state(from_state(x, found, convention), found)
    np.testing.assert_allclose(again, x, rtol=3e-7, atol=1e-4)


@given(states(), st.data())
def test_rows_and_meridians_may_come_in_any_order(case, data):
    _, _, user = case
    lat, lon = to_state(user)[2].axes["lat"].name, to_state(user)[2].axes["lon"].name
    turned = user.isel({lat: slice(None, None, -1)}).roll(
        {lon: data.draw(st.integers(1, user.sizes[lon]))}, roll_coords=True
    )
    np.testing.assert_array_equal(to_state(turned)[0], to_state(user)[0])


@pytest.mark.parametrize("shape", [(2, 3), (19, 36), (32, 64)])
def test_area_weights_sum_to_the_number_of_nodes(shape):
    n_lat, n_lon = shape
    grid = Grid.from_coords(np.linspace(-90, 90, n_lat), np.arange(n_lon) * 360 / n_lon)
    assert grid.area_weights().sum() == pytest.approx(grid.n_node, rel=1e-12)
    assert (grid.area_weights() > 0).all()
