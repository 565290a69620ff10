"""A tiny nature run whose future is known: waves that travel east at fixed speeds.

Written as `xdiffda.experiments.osse.nature` writes it: stream0.zarr, stream1.zarr, static fields
inside.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xarray as xr

N_LAT, N_LON, LEVELS = 8, 16, (500, 850)
LAT = (np.arange(N_LAT) + 0.5) * 180 / N_LAT - 90
LON = np.arange(N_LON) * 360 / N_LON
MEAN = {"geopotential": (55000.0, 14000.0), "temperature": (255.0, 280.0)}
AMPLITUDE = {"geopotential": (900.0, 500.0), "temperature": (6.0, 8.0)}
SPLIT = {"train": [[0, 0, 40]], "validation": [[0, 44, 58]], "evaluation": [[1, 12, 60]]}


def stream(number: int, days: int) -> xr.Dataset:
    """Two waves for each field; amplitudes wander slowly, phases differ between streams."""
    rng = np.random.default_rng(number)
    hours = 6.0 * np.arange(1, 4 * days + 1)
    start = np.datetime64(f"{2000 + 10 * number}-01-01", "ns")
    lat, lon = np.deg2rad(LAT)[:, None], np.deg2rad(LON)[None]
    fields = {}
    for name in MEAN:
        levels = []
        for mean, amplitude in zip(MEAN[name], AMPLITUDE[name], strict=True):
            total = np.full((len(hours), N_LAT, N_LON), mean)
            for wavenumber, period in ((1, 97.0), (2, 61.0)):
                phase = 2 * np.pi * (hours / period + rng.uniform())
                swing = 1 + 0.5 * np.sin(2 * np.pi * hours / 171.0 + rng.uniform() * 6)
                wave = np.cos(wavenumber * lon - phase[:, None, None]) * np.cos(lat) ** wavenumber
                total += amplitude * swing[:, None, None] * wave
            levels.append(total)
        fields[name] = np.stack(levels, axis=1).astype(np.float32)
    data = {k: (("time", "level", "lat", "lon"), v) for k, v in fields.items()}
    ground = np.cos(lat) ** 2 * np.cos(lon)
    return xr.Dataset(
        {
            **data,
            "land_sea_mask": (("lat", "lon"), (ground > 0).astype(np.float32)),
            "geopotential_at_surface": (("lat", "lon"), (1e3 * (1 + ground)).astype(np.float32)),
        },
        coords={
            "time": start + hours.astype("timedelta64[h]"),
            "level": np.array(LEVELS, np.int32),
            "lat": LAT,
            "lon": LON,
        },
    )


def write_nature(folder: Path) -> Path:
    """Write both streams and the split of their days."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (0, 1):
        ds = stream(number, 60)
        ds.chunk(time=120).to_zarr(folder / f"stream{number}.zarr", consolidated=False)
    (folder / "split.json").write_text(json.dumps(SPLIT))
    return folder
