"""Figures say what the data say: fields, scales, dots, titles; offline."""

from __future__ import annotations

from pathlib import Path

import cartopy.crs as ccrs
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError, StorageError
from xdiffda.plot import coastline_lines, loss_curves, map_panels
from xdiffda.plot.maps import _cells, _projection
from xdiffda.plot.panels import Panel, Slice, build_panels, scale_of

LAT = np.arange(-82.5, 90, 15.0)
LON = np.arange(0, 360, 15.0)
TIME = np.datetime64("2013-07-04T06", "ns")
ALL = ("background", "analysis", "truth", "increment", "error", "spread")


def state(seed: int, *, members: int = 0) -> xr.Dataset:
    shape = (members, 2, LAT.size, LON.size) if members else (2, LAT.size, LON.size)
    values = 270 + np.random.default_rng(seed).normal(0, 5, shape).astype(np.float32)
    dims = ("member", "level", "lat", "lon")[-len(shape) :]
    coords = {"level": [500, 850], "lat": LAT, "lon": LON, "time": TIME}
    return xr.Dataset({"temperature": (dims, values)}, coords)


def columns(n: int = 5) -> xr.Dataset:
    lat, lon = np.linspace(-60, 60, n), np.linspace(-150, 150, n)
    values = 270 + np.arange(2.0 * n).reshape(n, 2)
    values[0, 0] = np.nan
    return xr.Dataset(
        {"temperature": (("station", "level"), values)},
        {
            "lat": ("station", lat),
            "lon": ("station", lon),
            "level": [500, 850],
            "time": ("station", np.full(n, TIME)),
        },
    )


def maps_of(figure) -> list:
    return [ax for ax in figure.axes if hasattr(ax, "projection")]


def scatter_of(ax):
    return next(c for c in ax.collections if type(c).__name__ == "PathCollection")


def mesh_of(ax):
    return next(c for c in ax.collections if "Mesh" in type(c).__name__)


@pytest.mark.parametrize(
    ("lon", "lat"), [(18.47, -34.36), (-9.5, 38.78), (-67.27, -55.98), (-80.9, 25.1), (77.5, 8.1)]
)
def test_coastline_passes_the_capes(lon: float, lat: float) -> None:
    """Good Hope, Roca, Horn, Florida, Comorin: within the generalisation of 1:110m."""
    points = np.concatenate(coastline_lines())
    assert np.hypot(points[:, 0] - lon, points[:, 1] - lat).min() < 0.8


def test_six_panels(no_network: None) -> None:
    figure = map_panels(
        state(0, members=4),
        "t",
        level=500,
        truth=state(1),
        background=state(2),
        panels=ALL,
        obs=columns(),
    )
    figure.canvas.draw()
    titles = [ax.get_title() for ax in maps_of(figure)]
    assert titles[:3] == ["background", "analysis, mean of 4", "truth"]
    assert titles[3].startswith("increment (analysis - background), rms ")
    assert titles[5].startswith("spread of 4 members, rms ")
    title = figure.get_suptitle()
    assert title == "temperature at 500 hPa, 2013-07-04 06:00 UTC  (4 observations)"
    bars = [ax.get_xlabel() for ax in figure.axes if not hasattr(ax, "projection")]
    assert bars == ["K", "K", "K"]  # fields, differences, spread


def test_values_and_scales() -> None:
    analysis, truth, background = state(0, members=4), state(1), state(2)
    figure = map_panels(
        analysis, "temperature", level=850, truth=truth, background=background, panels=ALL
    )
    mesh = {name: mesh_of(ax) for name, ax in zip(ALL, maps_of(figure), strict=True)}
    mean = analysis["temperature"].sel(level=850).astype(float).mean("member")
    expected = {
        "analysis": mean,
        "increment": mean - background["temperature"].sel(level=850).astype(float),
        "error": mean - truth["temperature"].sel(level=850).astype(float),
        "spread": analysis["temperature"].sel(level=850).astype(float).std("member", ddof=1),
    }
    for name, field in expected.items():
        drawn = np.asarray(mesh[name].get_array()).reshape(LAT.size, -1)
        # columns from the seam at 180 E eastwards; that under the seam is on both sides
        east = np.roll(field.values, 12, axis=1)
        np.testing.assert_allclose(drawn[:, :-1], east, rtol=1e-6)
        np.testing.assert_array_equal(drawn[:, 0], drawn[:, -1])
    limits = {name: m.get_clim() for name, m in mesh.items()}
    assert limits["background"] == limits["analysis"] == limits["truth"]
    assert limits["increment"] == limits["error"]
    assert limits["error"][0] == -limits["error"][1]
    assert limits["spread"][0] == 0


def test_dots_carry_the_observed_values() -> None:
    figure = map_panels(state(0), "temperature", level=500, obs=columns(), background=state(1))
    background, analysis, increment = maps_of(figure)
    np.testing.assert_array_equal(np.sort(scatter_of(analysis).get_array()), [272, 274, 276, 278])
    assert scatter_of(analysis).get_clim() == mesh_of(background).get_clim()
    assert scatter_of(increment).get_array() is None
    lon = np.sort((np.asarray(scatter_of(increment).get_offsets())[:, 0] + 180) % 360 - 180)
    np.testing.assert_allclose(lon, [-75, 0, 75, 150])


def test_dots_of_other_times_and_levels_are_left_out() -> None:
    late = columns().assign_coords(time=("station", np.full(5, TIME + np.timedelta64(4, "h"))))
    assert "(0 observations)" in map_panels(state(0), "t", level=500, obs=late).get_suptitle()
    upper = columns().assign_coords(level=[300, 850])
    assert "(0 observations)" in map_panels(state(0), "t", level=500, obs=upper).get_suptitle()


def test_units_are_readable() -> None:
    humid = state(0).rename(temperature="specific_humidity") * 1e-5
    pressure = state(0).isel(level=0, drop=True).rename(temperature="msl") * 370
    for ds, name, unit, high in [(humid, "q", "g/kg", 3), (pressure, "msl", "hPa", 1200)]:
        figure = map_panels(ds, name, level=500 if name == "q" else None)
        assert figure.axes[-1].get_xlabel() == unit
        assert high / 2 < mesh_of(maps_of(figure)[0]).get_clim()[1] < high


@pytest.mark.parametrize("center", [0.0, 100.0, -75.0, 180.0, 7.5])
def test_cells_cover_the_map_once(center: float) -> None:
    """Cells tile the map from seam to seam, and each holds the value of its own longitude."""
    field = xr.DataArray(
        np.tile(LON, (LAT.size, 1)), dims=("lat", "lon"), coords={"lat": LAT, "lon": LON}
    )
    edges, lat_edges, values = _cells(field, _projection("robinson", center))
    assert edges[0] == pytest.approx(center - 180, abs=1e-5)
    assert edges[-1] == pytest.approx(center + 180, abs=1e-5)
    assert np.all(np.diff(edges) > 0)
    assert (lat_edges[0], lat_edges[-1]) == (-90, 90)
    middle = 0.5 * (edges[1:] + edges[:-1])
    away = (middle - values[0] + 180) % 360 - 180
    assert np.abs(away).max() <= 7.5


def test_conventions_do_not_matter() -> None:
    ds = state(0)
    users = ds.rename(temperature="t", lat="latitude", lon="longitude", level="plev") - 273.15
    users["t"].attrs["units"] = "degC"
    users = users.assign_coords(
        longitude=(users.longitude + 180) % 360 - 180, plev=users.plev * 100
    )
    users = users.sortby("longitude").isel(latitude=slice(None, None, -1))
    (one,) = maps_of(map_panels(ds, "temperature", level=500))
    (two,) = maps_of(map_panels(users, "t", level=500))
    np.testing.assert_allclose(mesh_of(one).get_array(), mesh_of(two).get_array(), rtol=1e-6)


def test_reads_only_the_slice_it_draws() -> None:
    import dask.array as da

    read = []

    def block(value: float) -> np.ndarray:
        read.append(value)
        return np.full((1, LAT.size, LON.size), value)

    import dask

    blocks = [
        da.from_delayed(dask.delayed(block)(v), (1, LAT.size, LON.size), float) for v in (1.0, 2.0)
    ]
    ds = state(0).assign(temperature=(("level", "lat", "lon"), da.concatenate(blocks)))
    build_panels(ds, Slice("temperature", 850), panels=None, truth=None, background=None)
    assert read == [2.0]


def test_constant_field_has_a_scale() -> None:
    field = xr.DataArray(np.ones((2, 2)), dims=("lat", "lon"))
    scale = scale_of("field", [Panel("analysis", "", "field", field)], "temperature")
    assert (scale.vmin, scale.vmax, scale.extend) == (0.5, 1.5, "neither")


def test_errors_say_what_to_choose() -> None:
    ds = state(0)
    with pytest.raises(InputError, match="no choice of level.*500, 850.*level=500"):
        map_panels(ds, "temperature")
    with pytest.raises(InputError, match="no vorticity.*one of temperature"):
        map_panels(ds, "vorticity", level=500)
    with pytest.raises(InputError, match=r"(?s)3 problems.*'error' without truth.*members.*'diff'"):
        map_panels(ds, "t", level=500, panels=("error", "spread", "diff"))
    with pytest.raises(InputError, match="projection 'flat'"):
        map_panels(ds, "t", level=500, projection="flat")
    with pytest.raises(InputError, match=r"truth\.interp"):
        map_panels(ds, "t", level=500, truth=ds.isel(lon=slice(None, None, 2)))


def test_loss_curves(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = ["step,train_loss,validation_loss,seconds", "1,1.0,,0.1", "2,0.5,0.6,0.2", "3,0.3,,0.3"]
    path.write_text("\n".join(rows))
    figure = loss_curves(path, smooth=2)
    raw, mean, validation = figure.axes[0].lines
    np.testing.assert_allclose(raw.get_ydata(), [1.0, 0.5, 0.3])
    np.testing.assert_allclose(mean.get_ydata(), [1.0, 0.75, 0.4])
    np.testing.assert_allclose(validation.get_xydata(), [[2, 0.6]])
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(StorageError, match="step, train_loss, validation_loss"):
        loss_curves(path)


def test_a_box_across_the_first_meridian_is_drawn_without_the_rest_of_the_globe() -> None:
    """Its columns come sorted from 0 to 360: no cell may fill the gap, and none is far away."""
    lon = np.array([0.0, 10.0, 20.0, 340.0, 350.0])
    field = xr.DataArray(
        np.tile(lon, (3, 1)),
        dims=("lat", "lon"),
        coords={"lat": [40.0, 50.0, 60.0], "lon": lon},
    )
    for centre, west in ((0.0, -25.0), (180.0, 335.0)):
        edges, _, values = _cells(field, _projection("robinson", centre))
        np.testing.assert_allclose(edges, west + 10.0 * np.arange(6))
        np.testing.assert_allclose(values[0] % 360, (edges[:-1] + 5) % 360)
    figure = map_panels(field.to_dataset(name="msl") * 100 + 1e5, "msl")
    (ax,) = maps_of(figure)
    west, east, south, north = ax.get_extent(ccrs.PlateCarree())
    assert -60 < west < east < 60 and 30 < south < north < 70
