"""Experiments on a store in the schema of WeatherBench 2 with a model folder of one's own.

Nothing is handed in from Python: both are named in a configuration, as those of ERA5 are.  The
weights of the folder make its forecaster persistence and its denoiser the Gaussian prior, so that
errors of backgrounds and forecasts are changes of the store, known without any of the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import era5_world
import jax
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from xdiffda.cli import app
from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.cycling.plan import prior_digest
from xdiffda.cycling.rollout import FORCINGS, STATIC
from xdiffda.cycling.store import open_cycle
from xdiffda.diffusion.denoiser import DenoiserNetwork
from xdiffda.networks.graphcast import (
    Checkpoint,
    GraphCast,
    ModelConfig,
    NetworkConfig,
    TaskConfig,
    write_checkpoint,
)
from xdiffda.priors.registry import load_model
from xdiffda.state.grid import Grid, Layout
from xdiffda.storage.model_folder import (
    FORECASTER,
    STATISTICS,
    WEIGHTS,
    flatten,
    pack_symmetric,
    write_arrays,
    write_card,
)

pytestmark = pytest.mark.long  # a whole experiment

CHANNELS = ("2m_temperature", "temperature@500", "temperature@850")
SIZES = {"latent": 4, "processor_steps": 1, "hidden_layers": 1}
TRUNCATION = 17  # what the basis of the store's grid has
CONFIG = """
truth = "{folder}/era5.zarr"
model = "{folder}/tiny"
out = "{folder}/{kind}"
background = "6h"
columns = [60]
error_std = 0.05
figure_format = "{figure_format}"
"""
LEAD_TIME = """
forecast_lead = "6h"
reference_lead = "6h"
lead_times = ["6h"]
n_cases = 1
starts = ["mean"]
[methods."3D-Var"]
method = "3dvar"
"""
CYCLING = """
n_cycles = 2
networks = ["changing"]
[methods."3D-Var"]
method = "3dvar"
"""


def write_model(folder: Path) -> Path:
    """A model laid out like a bundled one: other variables, levels, grid and weights."""
    folder.mkdir()
    grid = Grid.from_coords(era5_world.LAT, era5_world.LON)
    layout = Layout(grid, ("2m_temperature", "temperature"), (500, 850))
    basis = sphere_basis(grid.lat, grid.lon)
    degree, one = np.arange(TRUNCATION + 1), np.eye(layout.n_channel)
    spectrum = 1 / (1 + (degree / 2.0) ** 3)
    count = np.asarray(basis.multiplicity)
    spectrum /= (spectrum * count).sum() / count.sum()
    sigma = np.array([0.01, 100.0], np.float32)
    calibrated = spectrum * sigma[:, None] ** 2 / (sigma[:, None] ** 2 + spectrum)
    stats = {k: v.sel(level=[500, 850]) for k, v in era5_world.statistics().items()}

    def by_channel(kind):
        return np.concatenate([np.atleast_1d(stats[kind][n].values) for n in layout.variables])

    arrays = {
        "lat": np.array(grid.lat),
        "lon": np.array(grid.lon),
        "mean": by_channel("mean"),
        "stddev": by_channel("stddev"),
        "diffs_stddev": by_channel("diffs_stddev"),
        "static": np.zeros((grid.n_node, 2)),
        "static_mean": np.zeros(2),
        "static_stddev": np.ones(2),
        "scale": np.tile(0.05 * by_channel("stddev"), (grid.n_lat, 1)),
        "unresolved": np.zeros((grid.n_lat, layout.n_channel)),
        "b_blocks": pack_symmetric(spectrum[:, None, None] * one),
        "v_sigma": sigma,
        "v_blocks": pack_symmetric(calibrated[..., None, None] * one),
    }
    write_arrays(folder / STATISTICS, {k: v.astype(np.float32) for k, v in arrays.items()})
    write_arrays(
        folder / WEIGHTS,
        flatten(_nought(DenoiserNetwork, layout.n_channel, 2, **SIZES, conditioning_width=4)),
    )
    _write_persistence(folder / FORECASTER, layout)
    write_card(
        folder,
        {
            "name": "tiny",
            "variables": list(layout.variables),
            "levels": list(layout.levels),
            "network": {**SIZES, "conditioning_width": 4, "refinement": 1},
        },
    )
    return folder


def _write_persistence(path: Path, layout: Layout) -> None:
    """A forecaster that adds nothing."""
    net = _nought(GraphCast, NetworkConfig(layout.n_channel + 4, layout.n_channel, **SIZES))
    task = TaskConfig((*layout.variables, *STATIC), layout.variables, FORCINGS, layout.levels, "6h")
    size = ModelConfig(10.0, 1, SIZES["latent"], SIZES["processor_steps"], SIZES["hidden_layers"])
    write_checkpoint(path, Checkpoint(net, task, size))


def _nought(kind: type, *sizes: Any, **named: Any) -> Any:
    """A network whose weights are all zero; to draw some would take longer than the test."""
    shapes = eqx.filter_eval_shape(kind, *sizes, **named, key=jax.random.key(0))

    def zeros(leaf):
        return np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(lambda x: zeros(x) if isinstance(x, jax.ShapeDtypeStruct) else x, shapes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store, a day of it, and the model."""
    folder = tmp_path_factory.mktemp("era5")
    era5_world.write_store(folder / "era5.zarr", days=1)
    write_model(folder / "tiny")
    return folder


def _command(folder: Path, kind: str, text: str, figure_format: str) -> str:
    path = folder / f"{kind}.toml"
    path.write_text(CONFIG.format(folder=folder, kind=kind, figure_format=figure_format) + text)
    done = CliRunner().invoke(app, ["experiment", kind, str(path)])
    assert done.exit_code == 0, done.output
    return done.output


def _changes(folder: Path) -> np.ndarray:
    """Mean squares over the globe of the changes in 6 h, from the store: (time, channel)."""
    ds = xr.open_zarr(folder / "era5.zarr").load()
    edges = np.clip(np.append(ds.latitude.values + 5, -95), -90, 90)
    area = xr.DataArray(-np.diff(np.sin(np.deg2rad(edges))), {"latitude": ds.latitude})
    fields = [ds["2m_temperature"], *(ds["temperature"].sel(level=p) for p in (500, 850))]
    means = [
        (f.astype(float).diff("time") ** 2).weighted(area).mean(("latitude", "longitude"))
        for f in fields
    ]
    return np.stack([m.values for m in means], axis=-1)


def test_lead_time_of_a_store_and_weights_that_a_file_names(folder: Path) -> None:
    text = _command(folder, "lead-time", LEAD_TIME, "svg")
    out = folder / "lead-time"
    assert (out / "lead-time.md").read_text().strip() in text
    found = xr.load_dataset(out / "lead-time.nc", decode_timedelta=True)
    assert found["channel"].values.tolist() == list(CHANNELS)
    assert prior_digest(load_model(folder / "tiny")) in found.attrs["world"]
    assert found["case"].values[0] == xr.open_zarr(folder / "era5.zarr").time.values[1]
    changes = _changes(folder)  # from 00 to 06, from 06 to 12
    np.testing.assert_allclose(found["background_squared"][0], changes[0], rtol=1e-3)
    ahead = found["truth_forecast_squared"].isel(case=0, reference_lead_time=1)
    np.testing.assert_allclose(ahead, changes[1], rtol=1e-3)
    assert (found["squared"] < 0.25 * found["background_squared"]).all()
    assert {path.suffix for path in (out / "figures").iterdir()} == {".svg"}


def test_cycles_of_a_store_and_weights_that_a_file_names(folder: Path) -> None:
    text = _command(folder, "cycling", CYCLING, "pdf")
    out = folder / "cycling"
    assert f"prior tiny {prior_digest(load_model(folder / 'tiny'))}" in text
    assert (out / "cycling.pdf").read_bytes().startswith(b"%PDF")
    scores = open_cycle(out / "3d-var-60-changing.zarr", "scores")
    store = xr.open_zarr(folder / "era5.zarr")
    assert (scores.time.values == store.time.values[1:3]).all()
    rmse = scores["temperature"].sel(score="rmse", level=[500, 850])
    first = rmse.sel(state="background").isel(time=0)
    np.testing.assert_allclose(first, _changes(folder)[0, 1:] ** 0.5, rtol=1e-3)
    assert (rmse.sel(state="analysis") < 0.7 * rmse.sel(state="background")).all()
