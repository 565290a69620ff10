"""What ``xdiffda demo`` does: one analysis on the bundled sample, scored and drawn."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import xarray as xr

import xdiffda
from xdiffda.errors import StorageError

VARIABLE, LEVEL = "geopotential", 500
SHOWN = (
    ("geopotential", 500, "m2 s-2"), ("temperature", 850, "K"),
    ("u_component_of_wind", 300, "m s-1"), ("specific_humidity", 850, "kg kg-1"),
    ("2m_temperature", None, "K"), ("mean_sea_level_pressure", None, "Pa"),
)  # fmt: skip


def run(out: Path, *, columns: int = 416, members: int = 8, seed: int = 0) -> xr.Dataset:
    """Assimilate emulated observations, print a table, write ``analysis.zarr`` and a map.

    Parameters
    ----------
    out : path
        Folder; made if absent.  An earlier demo's output is replaced.
    columns, members, seed : int

    Returns
    -------
    Dataset
        The analysis.
    """
    from xdiffda.plot import map_panels
    from xdiffda.storage import write_dataset

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out}: no folder, and it cannot be made ({error.strerror}); repair: "
                           "`xdiffda demo --out demo`") from error  # fmt: skip
    begin = time.perf_counter()
    at = {"time": 8}
    truth = xdiffda.open_sample("truth").isel(at).load()
    background = xdiffda.open_sample("background").isel(at).load()
    quarter = xdiffda.load_model("speedy").typical_error(1 / 4)
    obs = truth.diffda.emulate_obs(n_columns=columns, error_std=quarter, seed=seed)
    print(
        f"Background: 48 h forecast valid {np.datetime_as_string(truth.time.values, 'h')}; "
        f"{columns} columns observed"
    )
    analysis = background.diffda.assimilate(obs, n_members=members, seed=seed, progress=True)
    interpolated = obs.diffda.interpolate(like=background, background=background)
    print(table(truth, background, interpolated, analysis))
    write_dataset(analysis, out / "analysis.zarr", overwrite=True)
    figure = map_panels(
        analysis, VARIABLE, level=LEVEL, truth=truth, background=background, obs=obs,
        panels=("background", "analysis", "truth", "increment", "error", "spread"),
    )  # fmt: skip
    figure.savefig(out / "analysis.png", dpi=110)
    print(
        f"{out / 'analysis.zarr'} and {out / 'analysis.png'} written; "
        f"{time.perf_counter() - begin:.0f} s in all"
    )
    return analysis


def table(
    truth: xr.Dataset, background: xr.Dataset, interpolated: xr.Dataset, analysis: xr.Dataset
) -> str:
    """RMSE of the three states and spread of the analysis, area-weighted."""
    from xdiffda.verify import verify

    rows = {"background": background, "interpolated obs": interpolated, "analysis mean": analysis}
    scores = {name: verify(ds, truth) for name, ds in rows.items()}
    head = f"{'area-weighted RMSE':26s}" + "".join(f"{name:>18s}" for name in scores)
    lines = [head + f"{'spread':>12s}"]
    for name, level, units in SHOWN:
        label = f"{name.replace('_component_of', '')}{'' if level is None else f' {level}'}"
        at = {"score": "rmse"} if level is None else {"score": "rmse", "level": level}
        rmse = [float(ds[name].sel(at)) for ds in scores.values()]
        values = "".join(f"{value:18.4g}" for value in rmse)
        spread = float(scores["analysis mean"][name].sel(at | {"score": "spread"}))
        lines.append(f"{f'{label} ({units})':26s}{values}{spread:12.4g}")
    ratio = scores["analysis mean"].sel(score="rmse") / scores["background"].sel(score="rmse")
    mean = np.mean(np.concatenate([np.ravel(v.values) for v in ratio.data_vars.values()]))
    lines.append(
        f"Analysis error over all variables and levels: {100 * (1 - mean):.0f} % below "
        "the background's"
    )
    return "\n".join(lines)
