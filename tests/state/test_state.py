"""Grids, layouts, and the way from a dataset to a state array and back."""

from __future__ import annotations

import subprocess
import sys

import dask
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import find_problems, from_state, infer_layout, read_metadata, to_state
from xdiffda.state.grid import Grid, Layout

LAT = np.linspace(-87.1875, 87.1875, 32)
LON = np.arange(64) * 5.625
SPEEDY = Grid(tuple(LAT), tuple(LON))
LAYOUT = Layout(SPEEDY, ("temperature", "geopotential", "2m_temperature"), (500, 850))


def make(layout: Layout = LAYOUT, *, seed: int = 0, **dims: int) -> xr.Dataset:
    """A plausible state in canonical form."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*dims.values(), layout.grid.n_node, layout.n_channel))
    for i, (name, level) in enumerate(layout.channels):
        centre = {"temperature": 270, "2m_temperature": 285}.get(name, 0)
        scale = 5.0
        if name == "geopotential":
            centre, scale = {500: 54000, 850: 14000}[level], 500.0
        x[..., i] = centre + scale * x[..., i]
    coords = {"time": np.arange(dims.get("time", 0)).astype("M8[D]")}
    coords = {key: value for key, value in coords.items() if key in dims}
    return from_state(x, layout, default_convention(layout), dims=tuple(dims), coords=coords)


# --- Grid and Layout ---------------------------------------------------------------------------


def test_area_weights_are_exact_cell_areas():
    poles = Grid.from_coords(np.linspace(90, -90, 19), np.arange(-180, 180, 10))
    assert poles.area_weights().mean() == pytest.approx(1.0, abs=1e-14)
    rows = poles.area_weights().reshape(poles.shape)[:, 0] / poles.n_lat
    half = (1 - np.sin(np.deg2rad(85))) / 2  # the cap of a pole row, closed form
    assert rows[0] == pytest.approx(half, rel=1e-12) and rows[-1] == pytest.approx(half, rel=1e-12)
    # The mean of sin^2(lat) over the sphere is 1/3.
    fine = Grid.from_coords(np.linspace(-89.5, 89.5, 180), np.arange(0, 360, 10))
    mean = np.mean(fine.area_weights() * np.sin(np.deg2rad(fine.node_lat)) ** 2)
    assert mean == pytest.approx(1 / 3, rel=1e-4)


def test_nodes_are_latitude_major():
    assert SPEEDY.n_node == 2048
    i_lat, i_lon = 3, 17
    node = i_lat * SPEEDY.n_lon + i_lon
    assert (SPEEDY.node_lat[node], SPEEDY.node_lon[node]) == (LAT[i_lat], LON[i_lon])
    assert SPEEDY.spacing_deg == pytest.approx(5.625)


def test_grids_compare_and_hash_by_value_and_forgive_rounding():
    again = Grid.from_coords(LAT[::-1], (LON + 180) % 360 - 180)
    assert again == SPEEDY and hash(again) == hash(SPEEDY)
    rounded = Grid.from_coords(LAT.astype(np.float32) + 1e-5, LON.astype(np.float32))
    assert rounded != SPEEDY and rounded.is_close(SPEEDY)
    assert not Grid.from_coords(np.linspace(-90, 90, 32), LON).is_close(SPEEDY)


@pytest.mark.parametrize(
    ("lat", "lon", "match"),
    [
        (LAT, np.linspace(0, 360, 65), r"end point twice.*`ds.isel\(lon=slice\(None, -1\)\)`"),
        (LAT, np.linspace(-180, 180, 73), r"end point twice.*isel"),
        (LAT, 360 * np.linspace(0, 1, 64, endpoint=False) ** 1.05, "unequal steps.*regrid"),
        ([0, 10, 5], LON, r"turns back.*`ds.drop_duplicates\(\"lat\"\).sortby"),
        (np.deg2rad(LAT), LON, "radians.*rad2deg"),
        (LAT * 2, LON, r"needed degrees north in \[-90, 90\]"),
        (np.zeros((3, 3)), LON, "one dimension of rows"),
        (LAT, np.append(LON[:-1], LON[0] + 1e-6), "repeated meridian"),
    ],
)
def test_what_is_no_regular_grid(lat, lon, match):
    with pytest.raises(InputError, match=match):
        Grid.from_coords(lat, lon)


@pytest.mark.parametrize(
    ("lat", "lon", "first", "last"),
    [
        (np.linspace(20, 70, 20), LON, LON[0], LON[-1]),
        (np.linspace(70, 20, 51), np.linspace(0, 90, 64), 0.0, 90.0),
        (np.linspace(35, 60, 51), np.arange(-12, 31), 348.0, 390.0),
        (np.linspace(-20, 0, 21), np.arange(170, 191.0) - 360, 170.0, 190.0),
        (np.arange(49, 61, 0.25), np.arange(-6, 2, 0.25), 354.0, 361.75),
        (np.arange(-1.5, 1.6, 0.25), np.arange(0, 6.1, 0.25), 0.0, 6.0),
    ],
)
def test_boxes_of_the_globe_are_grids(lat, lon, first, last):
    grid = Grid.from_coords(lat, lon)
    assert (grid.lon[0], grid.lon[-1]) == pytest.approx((first, last))
    assert not grid.is_global and grid.wraps == (lon is LON)
    assert grid.holds(np.array([lat[0], lat[3]]), np.array([lon[0], lon[-1]])).all()
    assert not grid.holds(np.array([-89.0]), np.array([lon[0]])).any()
    same = Grid(grid.lat, grid.lon)
    assert same == grid and same.is_close(Grid.from_coords(lat, np.asarray(lon) + 360))


def test_grid_made_by_hand_must_be_in_order():
    with pytest.raises(InputError, match=r"repair: `Grid.from_coords\(lat, lon\)`"):
        Grid(tuple(LAT[::-1]), tuple(LON))
    with pytest.raises(InputError, match="from_coords"):
        Grid(tuple(LAT), tuple(LON - 180))


def test_channels_are_in_the_order_of_graphcast():
    layout = Layout(SPEEDY, ("temperature", "geopotential", "10m_u_component_of_wind"), (850, 500))
    assert layout.channel_names == (
        "10m_u_component_of_wind",
        "geopotential@500",
        "geopotential@850",
        "temperature@500",
        "temperature@850",
    )
    assert layout.channel_index("temperature", 850) == 4
    assert layout.channel_slice("geopotential") == slice(1, 3)
    same = Layout(SPEEDY, ("geopotential", "10m_u_component_of_wind", "temperature"), (500, 850))
    assert same == layout and hash(same) == hash(layout)
    with pytest.raises(KeyError, match="no channel temperature at 300 hPa"):
        layout.channel_index("temperature", 300)


def test_wrong_layouts_list_all_problems():
    with pytest.raises(InputError, match="layout: 3 problems"):
        Layout(SPEEDY, ("temprature", "temperature", "temperature"), (500, 500))
    with pytest.raises(InputError, match="no levels"):
        Layout(SPEEDY, ("temperature",))


# --- round trip --------------------------------------------------------------------------------


def test_values_land_in_their_channel_and_node():
    ds = make()
    x, layout, _ = to_state(ds)
    assert layout == LAYOUT and x.shape == (2048, 5) and x.dtype == np.float32
    node = 5 * 64 + 9
    picked = ds["temperature"].sel(level=850).isel(lat=5, lon=9)
    assert x[node, layout.channel_index("temperature", 850)] == picked.item()


def test_convention_and_back_in_grib_clothes():
    canonical = make(time=2, member=3)
    user = canonical.rename(
        {
            "temperature": "t",
            "geopotential": "gh",
            "2m_temperature": "t2m",
            "lat": "latitude",
            "lon": "longitude",
            "level": "plev",
            "member": "number",
        }
    )
    user["t2m"] = user["t2m"] - 273.15
    user["t2m"].attrs = {"units": "degC", "GRIB_paramId": 167}
    user["gh"] = user["gh"] / 9.80665
    user["gh"].attrs = {"units": "gpm", "standard_name": "geopotential_height"}
    user = user.assign_coords(
        plev=("plev", user.plev.values * 100.0, {"units": "Pa"}),
        longitude=("longitude", (LON + 180) % 360 - 180, {"units": "degrees_east"}),
        surface=0.0,
        number=("number", [1, 5, 9]),
    )
    user = user.sortby("longitude").isel(latitude=slice(None, None, -1), plev=[1, 0])
    user = user.transpose("number", "longitude", "plev", "time", "latitude")
    user.attrs = {"institution": "here"}

    x, layout, convention = to_state(user)
    expected, *_ = to_state(canonical)
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    assert layout == LAYOUT
    assert convention.batch_dims == ("time", "member") and convention.batch_shape == (2, 3)
    back = from_state(x, layout, convention)
    xr.testing.assert_allclose(back, user, rtol=1e-6, atol=1e-4)  # 285 K in float32
    assert back.attrs == user.attrs
    for name in user.variables:
        assert back[name].dims == user[name].dims and back[name].attrs == user[name].attrs
    xr.testing.assert_identical(back.coords.to_dataset(), user.coords.to_dataset())


def test_a_layout_takes_its_part_and_leaves_the_rest():
    wide = Layout(SPEEDY, ("temperature", "geopotential", "2m_temperature"), (500, 850))
    small = Layout(SPEEDY, ("temperature",), (850,))
    ds = make(wide).assign(noise=("lat", LAT))
    x, layout, convention = to_state(ds, small)
    assert layout == small and x.shape == (2048, 1)
    assert convention.extras == ("geopotential", "2m_temperature", "noise") or (
        set(convention.extras) == {"geopotential", "2m_temperature", "noise"}
    )
    back = from_state(x, layout, convention)
    xr.testing.assert_identical(back, ds[["temperature"]].sel(level=[850]))


def test_the_given_layout_comes_back_though_the_file_is_rounded():
    ds = make().assign_coords(lat=LAT.astype(np.float32), lon=LON.astype(np.float32))
    _, layout, convention = to_state(ds, LAYOUT)
    assert layout is LAYOUT
    assert from_state(np.ones((2048, 5)) * 250, layout, convention).lat.dtype == np.float32


def test_static_fields_pass_through_and_are_no_state():
    land = (("lat", "lon"), np.random.default_rng(0).uniform(size=SPEEDY.shape))
    ds = make(time=2).assign(land_sea_mask=land, z=(("lat", "lon"), np.ones(SPEEDY.shape)))
    x, layout, convention = to_state(ds)
    assert layout == LAYOUT and convention.extras == ()
    back = from_state(x, layout, convention)
    xr.testing.assert_identical(back["land_sea_mask"], ds["land_sea_mask"])
    xr.testing.assert_identical(back["z"], ds["z"])


def test_members_can_come_and_go():
    ds = make(time=2)
    x, layout, convention = to_state(ds)
    many = np.repeat(x[:, None], 4, axis=1)
    ensemble = from_state(many, layout, convention, dims=("time", "member"))
    assert ensemble["temperature"].dims == ("time", "member", "level", "lat", "lon")
    assert ensemble.member.values.tolist() == [0, 1, 2, 3]
    assert ensemble.time.identical(ds.time)
    y, _, other = to_state(ensemble)
    np.testing.assert_array_equal(y, many)
    mean = from_state(y.mean(axis=1), layout, other, dims=("time",))
    xr.testing.assert_allclose(mean, ds)
    fewer = from_state(y[:, :2], layout, other)
    assert fewer.sizes["member"] == 2


def test_an_ensemble_in_grib_words_keeps_its_words():
    ds = make(member=3).rename(member="number").assign_coords(number=("number", [3, 4, 5]))
    x, layout, convention = to_state(ds)
    back = from_state(np.concatenate([x, x]), layout, convention)
    assert back.sizes["number"] == 6 and "member" not in back.dims


def test_new_times_are_valid_times():
    ds = make().assign_coords(
        time=((), np.datetime64("2020-01-01"), {"standard_name": "forecast_reference_time"}),
        step=((), np.timedelta64(6, "h"), {"standard_name": "forecast_period"}),
        valid_time=((), np.datetime64("2020-01-01T06"), {"standard_name": "time"}),
    )
    x, layout, convention = to_state(ds)
    new = np.array(["2020-01-02", "2020-01-03"], "M8[ns]")
    out = from_state(np.stack([x, x]), layout, convention, dims=("time",), coords={"time": new})
    assert out["temperature"].dims == ("time", "level", "lat", "lon")
    assert (out.time.values == new).all() and "step" not in out.coords
    np.testing.assert_array_equal(read_metadata(out).valid_times, new)
    with pytest.raises(InputError, match="2 values"):
        from_state(np.stack([x, x]), layout, convention, dims=("time",))


def test_an_increment_has_no_offset():
    ds = make()
    ds["2m_temperature"] = (ds["2m_temperature"] - 273.15).assign_attrs(units="degC")
    x, layout, convention = to_state(ds)
    increment = from_state(np.ones_like(x), layout, convention, difference=True)
    np.testing.assert_allclose(increment["2m_temperature"], 1.0)


def test_other_levels_than_the_users_come_in_hpa():
    _, _, convention = to_state(make())
    other = Layout(SPEEDY, ("temperature", "vertical_velocity"), (300, 500, 700))
    out = from_state(np.ones((2048, 6)), other, convention)
    assert out.level.values.tolist() == [300, 500, 700]
    assert out["vertical_velocity"].attrs["units"] == "Pa s-1"


def test_one_level_chosen_with_sel():
    ds = make().sel(level=500)
    x, layout, convention = to_state(ds)
    assert layout.levels == (500,)
    xr.testing.assert_identical(from_state(x, layout, convention), ds)


def test_dimensions_of_size_one_are_kept():
    ds = make().expand_dims("batch").assign_coords(batch=[7])
    x, layout, convention = to_state(ds)
    assert x.shape == (2048, 5)
    xr.testing.assert_identical(from_state(x, layout, convention), ds)


def test_projected_names_with_one_dimensional_coordinates():
    ds = make().rename_dims(lat="y", lon="x")
    x, layout, convention = to_state(ds)
    assert layout == LAYOUT
    xr.testing.assert_identical(from_state(x, layout, convention), ds)


def test_coordinates_known_by_attributes_alone():
    ds = make().rename(lat="foo", lon="bar", level="p_axis")
    ds.p_axis.attrs = {"axis": "Z", "units": "hPa", "positive": "down"}
    assert infer_layout(ds) == LAYOUT


# --- clocks ------------------------------------------------------------------------------------

DAY, HOUR = np.datetime64("2020-01-01", "ns"), np.timedelta64(1, "h")


def _with_clock(**coords) -> np.ndarray | None:
    dims = {name: len(c[1]) for name, c in coords.items() if isinstance(c, tuple) and c[0] == name}
    ds = make().expand_dims(dims).assign_coords(coords)
    return read_metadata(ds).valid_times


def test_valid_time_of_an_analysis():
    assert _with_clock(time=DAY) == DAY
    assert _with_clock() is None
    times = [DAY, DAY + 6 * HOUR]
    np.testing.assert_array_equal(_with_clock(time=("time", times)), times)


def test_valid_time_of_a_grib_forecast():
    times = _with_clock(time=("time", [DAY, DAY + 12 * HOUR]), step=("step", [0 * HOUR, 6 * HOUR]))
    expected = [[DAY, DAY + 6 * HOUR], [DAY + 12 * HOUR, DAY + 18 * HOUR]]
    np.testing.assert_array_equal(times, np.array(expected))


def test_valid_time_of_a_forecast_of_several_steps_and_one_start():
    valid = ("step", [DAY + 6 * HOUR, DAY + 12 * HOUR])
    times = _with_clock(time=DAY, step=("step", [6 * HOUR, 12 * HOUR]), valid_time=valid)
    np.testing.assert_array_equal(times, valid[1])


def test_valid_time_of_a_weatherbench_forecast():
    lead = ("prediction_timedelta", [0 * HOUR, 24 * HOUR])
    times = _with_clock(time=("time", [DAY]), prediction_timedelta=lead)
    np.testing.assert_array_equal(times, [[DAY, DAY + 24 * HOUR]])


def test_time_beside_lead_time_is_the_initial_time_unless_its_attributes_say_otherwise():
    assert _with_clock(time=DAY, lead_time=48 * HOUR) == DAY + 48 * HOUR
    valid = ((), DAY, {"standard_name": "time"})
    assert _with_clock(time=valid, lead_time=48 * HOUR) == DAY
    assert _with_clock(init_time=DAY, lead_time=48 * HOUR) == DAY + 48 * HOUR


def test_valid_time_as_the_dimension_of_new_era5_files():
    times = _with_clock(valid_time=("valid_time", [DAY, DAY + HOUR]), expver="0001")
    np.testing.assert_array_equal(times, [DAY, DAY + HOUR])


def test_valid_time_is_repeated_over_members():
    ds = make(time=2, member=3)
    np.testing.assert_array_equal(
        read_metadata(ds).valid_times, np.repeat(ds.time.values[:, None], 3, axis=1)
    )


# --- lazy and light ----------------------------------------------------------------------------


def test_recognition_computes_nothing(no_compute):
    ds = make(time=2).chunk({"time": 1})
    assert infer_layout(ds) == LAYOUT
    assert find_problems(ds, LAYOUT) == ()
    assert read_metadata(ds).batch_shape == (2,)
    with pytest.raises(AssertionError, match="dask was computed"):
        to_state(ds)


def test_to_state_computes_once():
    runs = []

    def count(graph, keys, **options):
        runs.append(keys)
        return dask.get(graph, keys, **options)

    ds = make(time=2).chunk({"time": 1})
    with dask.config.set(scheduler=count):
        x, layout, convention = to_state(ds)
        from_state(x, layout, convention)
    assert len(runs) == 1


def test_only_the_levels_of_the_layout_are_computed():
    ds = make().chunk({"level": 1})
    small = Layout(SPEEDY, ("temperature",), (850,))
    bad = ds.assign(temperature=ds.temperature.map_blocks(_refuse_500, template=ds.temperature))
    x, *_ = to_state(bad, small)
    assert np.isfinite(x).all()


def _refuse_500(block: xr.DataArray) -> xr.DataArray:
    assert 500 not in block.level.values
    return block


def test_state_imports_nothing_heavy():
    code = (
        "import sys, xarray; before = set(sys.modules); import xdiffda.state.convert,"
        "xdiffda.storage, xdiffda.options, xdiffda.state.regrid;"
        "heavy = {'jax', 'matplotlib', 'cartopy', 'dask', 'pint', 'cf_xarray', 'jaxtyping'};"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- bad input ---------------------------------------------------------------------------------


def test_all_problems_at_once():
    layout = Layout(
        SPEEDY,
        ("temperature", "geopotential", "2m_temperature", "mean_sea_level_pressure"),
        (300, 500, 850),
    )
    ds = make().isel(lat=slice(None, None, -1))
    ds["2m_temperature"] = (ds["2m_temperature"] - 273.15).assign_attrs(units="K")
    ds["geopotential"].attrs["units"] = "kg"
    ds["temperature"][0, 3, 4:6] = np.nan
    with pytest.raises(InputError, match="background: 5 problems") as caught:
        to_state(ds, layout)
    text = str(caught.value)
    for part in (
        "found no mean_sea_level_pressure; needed mean_sea_level_pressure in Pa, from another "
        "dataset where this has none; repair: "
        '`xr.merge([ds, other[["mean_sea_level_pressure"]]])`',
        "found no level 300 hPa in `level`; needed levels 300, 500, 850 hPa; repair: "
        "`ds.combine_first(other.sel(level=[300]))`",
        """`geopotential` in 'kg'""",
        "found 2 NaN of 4096 in `temperature` at level 500, lat",
        'interpolate_na("lon", method="nearest", fill_value="extrapolate")',
        '`ds["2m_temperature"].attrs["units"] = "degC"`',
    ):
        assert part in text, part


def test_repairs_repair():
    """The calls in the messages, run as they are written."""
    ds = make()
    ds["2m_temperature"] = (ds["2m_temperature"] - 273.15).assign_attrs(units="K")
    ds["temperature"][0, 3, 4:6] = np.nan
    with pytest.raises(InputError, match="2 problems") as caught:
        to_state(ds)
    for problem in caught.value.problems:
        scope = {"ds": ds, "xr": xr}
        if "attrs" in problem.repair:
            exec(problem.repair, scope)
        else:
            ds = eval(problem.repair, scope)
    x, *_ = to_state(ds)
    assert np.isfinite(x).all()


def test_a_level_between_others_is_interpolated():
    layout = Layout(SPEEDY, ("temperature",), (500, 700, 850))
    ds = make().assign_coords(level=("level", [50000.0, 85000.0], {"units": "Pa"}))
    with pytest.raises(InputError, match="no level 700 hPa") as caught:
        to_state(ds, layout)
    repair = caught.value.problems[0].repair
    assert repair == "ds.interp(level=[50000, 70000, 85000])"
    to_state(eval(repair, {"ds": ds})[["temperature"]], layout)


def test_another_grid_names_regrid():
    import xdiffda

    grid = Grid.from_coords(np.linspace(-90, 90, 19), np.arange(0, 360, 10))
    ds = make(Layout(grid, ("2m_temperature",)))
    want = Layout(SPEEDY, ("2m_temperature",))
    with pytest.raises(InputError, match=r"grid 19 x 36 .*needed grid 32 x 64.*like=\"speedy\"\)"):
        to_state(ds, want)
    assert to_state(xdiffda.regrid(ds, like="speedy"), want)[0].shape == (2048, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda ds: ds["temperature"], r'a DataArray.*`da.to_dataset\(name="temperature"\)`'),
        (lambda ds: "file.nc", "a str; needed an xarray.Dataset"),
        (lambda ds: ds.drop_vars(list(ds.data_vars)), "no variables"),
        (
            lambda ds: ds[["2m_temperature"]].rename({"2m_temperature": "foo"}).drop_attrs(),
            r"variables foo, none of which is known.*xdiffda.state.variables",
        ),
        (lambda ds: ds.rename(lat="a", lon="b").drop_vars(["a", "b"]), "no latitude among"),
        (
            lambda ds: ds.pad(lon=(0, 1), mode="wrap").assign_coords(lon=np.linspace(0, 360, 65)),
            r"end point twice.*`ds.isel\(lon=slice\(None, -1\)\)`",
        ),
        (lambda ds: ds.expand_dims(version=2), r"dimension `version` of size 2.*isel\(version=0\)"),
        (lambda ds: ds.drop_vars("level"), "dimension `level` without values"),
        (
            lambda ds: ds.isel(level=0, drop=True),
            r"without a pressure level.*only who made the file.*drop_vars",
        ),
        (
            lambda ds: ds.assign_coords(level=[0.5, 850.0]),
            r"`level` at 0.5 hPa.*sel\(level=\[850.0\]\)",
        ),
        (lambda ds: ds.assign_coords(level=("level", [1, 2], {"units": "sigma"})), "in 'sigma'"),
        (
            lambda ds: (
                ds.assign(t2m=ds["2m_temperature"].copy(), tas=ds["2m_temperature"])
                .drop_vars("2m_temperature")
                .rename(t2m="a", tas="b")
                .map(lambda v: v.assign_attrs(standard_name="air_temperature"))
            ),
            "which all look like 2m_temperature",
        ),
        (lambda ds: ds.assign(temperature=ds.temperature * np.nan), "NaN of 4096"),
        (
            lambda ds: ds.assign(temperature=ds.temperature.where(ds.level > 600)),
            r"2048 NaN of 4096 in `temperature` at level 500.*drop_sel\(level=\[500\]\)",
        ),
        (lambda ds: ds.assign(temperature=ds.temperature / 0.0), "NaN of 4096"),
        (
            lambda ds: ds.assign(temperature=(ds.temperature - 273.15).assign_attrs(units="K")),
            '"degC"',
        ),
        (lambda ds: ds.assign(temperature=ds.temperature.assign_attrs(units="degC")), '= "K"'),
        (
            lambda ds: ds.assign(
                geopotential=(ds.geopotential / 9.80665).assign_attrs(units="m2 s-2")
            ),
            'attrs\\["units"\\] = "gpm"',
        ),
        (
            lambda ds: ds.assign(temperature=ds.temperature + 5000 * (ds.lon == 0)),
            "temperature between 130 and 360 K",
        ),
    ],
)
def test_bad_input_names_its_repair(change, match):
    with pytest.raises(InputError, match=match):
        to_state(change(make()))


def test_wrong_shapes_of_a_state():
    x, layout, convention = to_state(make())
    with pytest.raises(InputError, match=r"shape \(4, 2048, 5\); needed shape \(2048, 5\)"):
        from_state(np.stack([x] * 4), layout, convention)
    with pytest.raises(InputError, match=r"dims \['height'\]"):
        from_state(np.stack([x] * 4), layout, convention, dims=("height",))
