"""Copy what `xdiffda experiment` wrote into this folder, as small as the pages need it.

    python tutorials/results/collect.py FOLDER

FOLDER holds the outputs of the configurations beside this file: experiments, ensembles, sigma-g,
ten-days, cycling, cycling-5-columns, cycling-quarter, window; those that are absent are left as
they are here.  Scores lose the spectra, which are drawn already, and lead times that no table
shows; figures get a palette.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

HERE = Path(__file__).parent
SCORES = {
    "lead-time": "experiments/lead-time.nc",
    "sigma-g": "sigma-g/sigma-g.nc",
    "ten-days": "ten-days/lead-time.nc",
    "ensembles": "ensembles/lead-time.nc",
}
ALL_LEADS = ("ten-days",)
FIGURES = {
    "balance": "experiments/figures/lead-time-balance-416.png",
    "error-against-columns": "experiments/figures/lead-time-error-against-columns.png",
    "forecast-error": "experiments/figures/lead-time-forecast-error-1000.png",
    "lead-time-loss": "experiments/figures/lead-time-loss.png",
    "maps": "experiments/figures/maps-geopotential-500.png",
    "scorecard": "experiments/figures/lead-time-scorecard-416.png",
    "spectra": "experiments/figures/lead-time-spectra-416.png",
    "ten-days": "ten-days/figures/lead-time-forecast-error-1000.png",
    "width": "sigma-g/figures/sigma-g-width.png",
    "cycling": "cycling/cycling.png",
    "cycling-5-columns": "cycling-5-columns/cycling.png",
    "cycling-quarter": "cycling-quarter/cycling.png",
    "window": "window/window.png",
}
TABLES = {
    "cycling.md": "cycling/cycling.md",
    "cycling-5-columns.md": "cycling-5-columns/cycling.md",
    "cycling-quarter.md": "cycling-quarter/cycling.md",
    "window.json": "window/window.json",
}


def scores(source: Path, target: Path, *, all_leads: bool) -> None:
    """Single precision, compressed; of lead times, unless all are asked for, first and last."""
    ds = xr.load_dataset(source, decode_timedelta=True)
    ds = ds.drop_vars([n for n in ds.data_vars if "wavenumber" in ds[n].dims])
    if not all_leads:
        ds = ds.isel(lead_time=[0, -1]).drop_vars("saturation_squared", errors="ignore")
    ds = ds.drop_vars("wavenumber", errors="ignore")
    ds = ds.map(lambda v: v.astype(np.float32) if v.dtype.kind == "f" else v, keep_attrs=True)
    coding = {n: {"zlib": True, "complevel": 9} for n in ds if ds[n].dtype.kind in "fiu"}
    partial = target.with_name(f".{target.name}.partial")
    ds.to_netcdf(partial, engine="netcdf4", encoding=coding)
    os.replace(partial, target)


def figure(source: Path, target: Path) -> None:
    """The same drawing with 256 colours."""
    partial = target.with_name(f".{target.name}.partial")
    with Image.open(source) as drawn:
        few = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(partial, format="PNG", optimize=True)
    os.replace(partial, target)


def main() -> None:
    ask = argparse.ArgumentParser(description="Collect the results of the experiments.")
    ask.add_argument("folder", type=Path)
    folder = ask.parse_args().folder
    for name, path in SCORES.items():
        if (folder / path).exists():
            scores(folder / path, HERE / f"{name}.nc", all_leads=name in ALL_LEADS)
    for name, path in FIGURES.items():
        if (folder / path).exists():
            figure(folder / path, HERE / "figures" / f"{name}.png")
    for name, path in TABLES.items():
        if (folder / path).exists():
            shutil.copy(folder / path, HERE / name)


if __name__ == "__main__":
    main()
