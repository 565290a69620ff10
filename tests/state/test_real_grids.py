"""Real files as users have them: GRIB through cfgrib, and netCDF; there and back unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.state.convert import from_state, infer_layout, read_metadata, to_state
from xdiffda.state.grid import Layout
from xdiffda.storage.files import open_dataset, write_dataset

GRIBS = {
    "era5-levels-members.grib": (
        (4, 10, 61 * 120, 4),
        ("time", "member"),
        ("geopotential", "temperature"),
        (500, 850),
    ),
    "pl_regular_ll.grib": (
        (4, 2, 19 * 36, 30),
        ("time", "lead_time"),
        (
            "geopotential",
            "relative_humidity",
            "temperature",
            "u_component_of_wind",
            "v_component_of_wind",
        ),
        (300, 400, 500, 700, 850, 1000),
    ),
    "ghtuv.grib": (
        (181 * 360, 8),
        (),
        ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind"),
        (300, 700),
    ),
    "t2m_grib_older.grib": ((181 * 360, 1), (), ("2m_temperature",), ()),
}


def open_as_users_do(path) -> xr.Dataset:
    pytest.importorskip("cfgrib", exc_type=ImportError, reason="the extra `obs` is not installed")
    return xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""})


@pytest.mark.parametrize("name", GRIBS)
def test_grib_there_and_back(shared, name):
    shape, batch, variables, levels = GRIBS[name]
    ds = open_as_users_do(shared(f"data/grids/{name}"))
    x, layout, convention = to_state(ds)
    assert x.shape == shape and convention.batch_dims == batch
    assert (layout.variables, layout.levels) == (variables, levels)
    assert convention.extras == ()
    xr.testing.assert_identical(from_state(x, layout, convention), ds)


def test_values_of_grib_are_where_they_belong(shared):
    ds = open_as_users_do(shared("data/grids/era5-levels-members.grib"))
    x, layout, _ = to_state(ds)
    node = np.flatnonzero((layout.grid.node_lat == 48.0) & (layout.grid.node_lon == 15.0))
    here = ds.sel(latitude=48, longitude=15, isobaricInhPa=850).isel(time=2, number=7)
    assert x[2, 7, node[0], layout.channel_index("temperature", 850)] == here["t"].item()
    # the cold pole, the warm equator and the thickness of the layer between, as physics has them
    mean = x.mean(axis=(0, 1)).reshape(*layout.grid.shape, -1)
    t850 = mean[..., layout.channel_index("temperature", 850)].mean(axis=1)
    assert t850[layout.grid.n_lat // 2] > 285 > 260 > t850[0]
    z = (layout.grid.area_weights()[:, None] * x.mean(axis=(0, 1))).mean(axis=0)
    t = 0.5 * (z[2] + z[3])
    assert (z[0] - z[1]) == pytest.approx(287.05 * t * np.log(850 / 500), rel=0.02)


def test_valid_times_of_forecasts(shared):
    ds = open_as_users_do(shared("data/grids/pl_regular_ll.grib"))
    times = read_metadata(ds).valid_times
    expected = np.arange("2024-06-03T00", "2024-06-05T00", 6, dtype="M8[h]").reshape(4, 2)
    np.testing.assert_array_equal(times, expected)
    older = open_as_users_do(shared("data/grids/t2m_grib_older.grib"))
    assert read_metadata(older).valid_times == np.datetime64("2017-04-25T12")


def test_reanalysis_in_netcdf(shared):
    ds = open_dataset(shared("data/grids/era_reanalysis_20050123T00_t.nc"))
    layout = infer_layout(ds)
    assert len(layout.levels) == 37 and layout.grid.shape == (121, 240)
    part = Layout(layout.grid, ("temperature",), (250, 500, 850))
    x, _, convention = to_state(ds, part)
    expected = ds.sel(level=[250, 500, 850]).astype(np.float32).compute()
    xr.testing.assert_identical(from_state(x, part, convention), expected)


def test_levels_and_surface_in_one_grib_file(shared, tmp_path):
    """cfgrib keeps them apart; they come as one dataset, without what is of another time."""
    eccodes = pytest.importorskip("eccodes", exc_type=ImportError, reason="no extra `obs`")
    levels = shared("data/grids/ghtuv.grib").read_bytes()
    surface = shared("data/grids/t2m_grib_older.grib").read_bytes()
    (tmp_path / "two_times.grib").write_bytes(levels + surface)
    two_times = open_dataset(tmp_path / "two_times.grib")
    assert two_times.attrs["xdiffda_file_left_out"] == (
        "t2m (surface, step 24 h, valid_time 2017-04-25T12:00)"
    )
    assert (
        infer_layout(two_times).channel_names
        == infer_layout(open_dataset(shared("data/grids/ghtuv.grib"))).channel_names
    )

    message = eccodes.codes_new_from_message(surface)
    for key, value in (("dataDate", 20170520), ("dataTime", 0), ("stepRange", "30")):
        eccodes.codes_set(message, key, value)
    changed = eccodes.codes_get_message(message)
    eccodes.codes_release(message)
    (tmp_path / "one_time.grib").write_bytes(levels + changed)
    _, layout, convention = to_state(open_dataset(tmp_path / "one_time.grib"))
    assert layout.channel_names[0] == "2m_temperature" and layout.n_channel == 9
    assert convention.valid_times == np.datetime64("2017-05-21T06")


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_grib_to_zarr_and_netcdf_and_back(shared, tmp_path, suffix):
    pytest.importorskip("cfgrib", exc_type=ImportError, reason="the extra `obs` is not installed")
    ds = open_dataset(shared("data/grids/pl_regular_ll.grib"))
    assert all(variable.chunks for variable in ds.data_vars.values())  # lazy
    again = open_dataset(write_dataset(ds, tmp_path / f"fields{suffix}"))
    assert all(variable.chunks for variable in again.data_vars.values())
    np.testing.assert_array_equal(to_state(again)[0], to_state(ds)[0])
    np.testing.assert_array_equal(read_metadata(again).valid_times, read_metadata(ds).valid_times)
