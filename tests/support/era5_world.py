"""A small store in the schema of WeatherBench 2: smooth fields, chunked by time, rows from north.

Grid, levels and statistics are those of the golden network gc_a, whose weights are random.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xarray as xr
from places import GRAPHCAST_GOLDEN

GOLDEN = GRAPHCAST_GOLDEN / "gc_a"
LEVELS = (500, 850, 1000)
LAT, LON = np.linspace(90, -90, 19), np.arange(36) * 10.0
STATE = (
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
    "geopotential",
    "mean_sea_level_pressure",
    "specific_humidity",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "vertical_velocity",
)


def statistics() -> dict[str, xr.Dataset]:
    """Mean, standard deviation and that of the changes, as the golden data has them."""
    found = {}
    for name, values in json.loads((GOLDEN / "stats.json").read_text()).items():
        level = values.pop("level")
        data = {k: ("level", v) if isinstance(v, list) else v for k, v in values.items()}
        found[name] = xr.Dataset(data, coords={"level": level}).astype(np.float32)
    # the golden numbers are random: states should be plausible
    assert level == [300, 500, 700, 850, 1000]
    for name, values in (
        ("temperature", [230, 252, 270, 278, 285]),
        ("geopotential", [89_800, 54_700, 29_500, 14_300, 1_100]),
    ):
        found["mean"][name] = ("level", np.array(values, np.float32))
    found["stddev"]["geopotential"] = ("level", np.array([3000, 2500, 1500, 1000, 800], "f4"))
    return found


def write_statistics(folder: Path) -> Path:
    """Statistics as the published files have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ds in statistics().items():
        ds.to_netcdf(folder / f"{name}_by_level.nc")
    return folder


def reanalysis(days: int) -> xr.Dataset:
    """Waves around the statistics' means, six-hourly from 2000-01-01T00."""
    stats, rng = statistics(), np.random.default_rng(3)
    time = np.datetime64("2000-01-01T00", "ns") + np.arange(4 * days) * np.timedelta64(6, "h")
    hours = 6.0 * np.arange(len(time))
    lat, lon = np.deg2rad(LAT)[:, None], np.deg2rad(LON)[None]

    def field(mean: float, std: float) -> np.ndarray:
        total = np.zeros((len(time), len(LAT), len(LON)))
        for wavenumber, period in ((1, 97.0), (2, 61.0), (3, 41.0)):
            phase = 2 * np.pi * (hours / period + rng.uniform())
            wave = np.cos(wavenumber * lon - phase[:, None, None]) * np.cos(lat) ** wavenumber
            total += wave
        return (mean + 0.3 * std * total).astype(np.float32)

    data = {}
    for name in (*STATE, "total_precipitation_6hr"):
        mean, std = stats["mean"][name], stats["stddev"][name]
        if "level" in mean.dims:
            parts = [field(float(mean.sel(level=z)), float(std.sel(level=z))) for z in LEVELS]
            data[name] = (("time", "level", "latitude", "longitude"), np.stack(parts, 1))
        else:
            data[name] = (("time", "latitude", "longitude"), field(float(mean), float(std)))
    ground = np.cos(lat) ** 2 * np.cos(lon)
    for name, values in (("land_sea_mask", ground > 0), ("geopotential_at_surface", 1e4 * ground)):
        data[name] = (("latitude", "longitude"), values.astype(np.float32))
    coords = {"time": time, "level": np.array(LEVELS, np.int32), "latitude": LAT, "longitude": LON}
    return xr.Dataset(data, coords=coords)


def write_store(path: Path, days: int = 6) -> Path:
    """The store, one time in a chunk."""
    reanalysis(days).chunk(time=1).to_zarr(path, consolidated=True, zarr_format=2)
    return path
