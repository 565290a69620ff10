"""Write a trained model and its sample the way the package carries them.

python -m xdiffda.experiments.osse bundle --data DIR --pairs DIR --forecaster DIR --denoiser DIR
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr

from xdiffda.covariance.balance import kept_balance
from xdiffda.covariance.small_scales import SmallScaleFilter
from xdiffda.experiments.osse.calibrate import SIGMAS, measure, measure_sizes, noise_filter
from xdiffda.experiments.osse.pairs import BundledStepper, make_rollout, open_stepper
from xdiffda.networks.graphcast import Checkpoint, ModelConfig, TaskConfig, write_checkpoint
from xdiffda.networks.graphcast.network import GraphCast
from xdiffda.priors.prior import ErrorScales, year_phase
from xdiffda.priors.registry import model_folder, models_folder
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Layout
from xdiffda.storage.model_folder import (
    FORECASTER,
    STATISTICS,
    WEIGHTS,
    flatten,
    pack_symmetric,
    read_card,
    write_arrays,
    write_card,
)
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import STATIC, Nature, load_nature, load_pairs
from xdiffda.train.denoiser import Setting, load_network, prepare
from xdiffda.train.forecaster import Stepper

# Write the testbed's forecaster in the format of the published GraphCast checkpoints.

FORCINGS = ("year_progress_cos", "year_progress_sin")


def input_order(layout: Layout) -> np.ndarray:
    """Positions, in the training order, of the channels in the format's order.

    Training stacks state, static fields, season; the format sorts input variables
    alphabetically (state and static fields together), forcings after them.
    """
    names = [name for name, _ in layout.channels] + list(STATIC)
    return np.array([*np.argsort(names, kind="stable"), len(names), len(names) + 1])


def write_forecaster(
    path: str | Path, nature: Nature, stepper: Stepper, config: TrainConfig
) -> None:
    """Write the forecaster's network with its task; statistics are kept elsewhere."""
    order = input_order(nature.layout)
    levels = nature.layout.levels
    task = TaskConfig(
        input_variables=(*nature.layout.variables, *STATIC),
        target_variables=nature.layout.variables,
        forcing_variables=FORCINGS,
        pressure_levels=levels,
        input_duration="6h",
    )
    size = config.network
    model = ModelConfig(
        resolution=nature.layout.grid.spacing_deg,
        mesh_size=size.refinement,
        latent_size=size.latent,
        gnn_msg_steps=size.processor_steps,
        hidden_layers=size.hidden_layers,
    )
    write_checkpoint(
        path,
        Checkpoint(
            _reordered(stepper.network, order),
            task,
            model,
            description="6 h forecaster of the SPEEDY testbed, one input frame",
            license="Apache-2.0",
        ),
    )


def _reordered(network: GraphCast, order: np.ndarray) -> GraphCast:
    """Sort the rows of the two embedders' first weights; the structural rows stay last."""

    def first(net):
        return [
            net.encoder.grid_embed.layers[0].weight,
            net.encoder.mesh_embed.layers[0].weight,
        ]

    moved = [jnp.concatenate([w[: len(order)][order], w[len(order) :]]) for w in first(network)]
    return eqx.tree_at(first, network, moved)


SAMPLE_TIMES = 17  # four days, 6-hourly
SAMPLE_FIRST_DAY = 40  # of the evaluation year
SIGNIFICANT_DIGITS = 4


def bundle(
    data: str,
    pairs: str,
    forecaster: str,
    denoiser: str,
    *,
    name: str = "speedy",
    out: str | Path | None = None,
    sample_out: str | Path | None = None,
) -> Path:
    """Calibrate, then write weights, statistics, card and sample; return the model's folder.

    ``forecaster`` is a training folder, or a finished model whose forecaster stays.
    """
    folder = Path(out) if out else models_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    nature = load_nature(data)
    stepper = open_stepper(nature, forecaster)  # maybe of the very folder that is written
    config = TrainConfig.read_back(denoiser)
    held = load_pairs(pairs, "validation")
    setting = prepare(nature, held, config)
    network = load_network(config, nature.layout.n_channel, nature.static.shape[1])
    small, change = noise_filter(nature, held, setting)
    blocks, share = measure(nature, held, setting, network, change=change)
    sizes = measure_sizes(nature, held, setting, network, change=change)
    write_arrays(folder / WEIGHTS, flatten(network))
    write_arrays(folder / STATISTICS, _statistics(nature, setting, small, blocks, sizes))
    recipe = _write_forecaster(folder / FORECASTER, nature, stepper, forecaster)
    write_card(folder, _card(name, nature, config, recipe, network, share))
    samples = Path(sample_out) if sample_out else folder.parents[1] / "sample_data"
    write_sample(nature, stepper, samples)
    return folder


def _write_forecaster(
    path: Path, nature: Nature, stepper: Stepper | BundledStepper, forecaster: str
) -> dict[str, Any]:
    """Write the weights, or copy those of a finished model; return how they were trained."""
    if isinstance(stepper, BundledStepper):
        source = model_folder(forecaster)
        if not path.exists() or not path.samefile(source / FORECASTER):
            shutil.copyfile(source / FORECASTER, path)
        return read_card(source)["training"]["forecaster"]
    config = TrainConfig.read_back(forecaster)
    write_forecaster(path, nature, stepper, config)
    return _recipe(config)


def _statistics(
    nature: Nature,
    setting: Setting,
    small: SmallScaleFilter,
    blocks: np.ndarray,
    sizes: ErrorScales,
) -> dict[str, np.ndarray]:
    grid = nature.layout.grid
    rows = slice(None, None, grid.n_lon)
    return {
        "lat": np.array(grid.lat),
        "lon": np.array(grid.lon),
        "mean": nature.mean,
        "stddev": nature.stddev,
        "diffs_stddev": nature.diffs_stddev,
        "static": nature.static,
        "static_mean": nature.static_mean,
        "static_stddev": nature.static_stddev,
        "scale": (setting.scale * nature.stddev).astype(np.float32),
        # for r = 1, in which interpolation between the sizes ends up
        "unresolved": sizes.unresolved_at(1.0)[rows],
        "b_blocks": pack_symmetric(np.asarray(setting.covariance.blocks)).astype(np.float32),
        **kept_balance(setting.covariance.basis),
        "v_sigma": np.array(SIGMAS, np.float32),
        "v_blocks": pack_symmetric(blocks).astype(np.float32),
        "sizes_r": sizes.r,
        "sizes_covariance": pack_symmetric(sizes.covariance),
        "sizes_calibrated": pack_symmetric(sizes.calibrated),
        "sizes_unresolved": sizes.unresolved[:, rows],
        "small_scales_mean": small.mean,
        "small_scales_variance": np.array([small.variance], np.float32),
        "small_scales_roughness": small.roughness,
        "small_scales_damping": small.damping[:, rows],
    }


def _card(
    name: str,
    nature: Nature,
    config: TrainConfig,
    forecaster: dict[str, Any],
    network: Any,
    share: np.ndarray,
) -> dict[str, Any]:
    weights = flatten(network)
    layout = nature.layout
    return {
        "name": name,
        "title": "GraphCast denoiser on the SPEEDY testbed (T31 nature run, 64 x 32 grid)",
        "grid": str(layout.grid),
        "shape": list(layout.grid.shape),
        "variables": list(layout.variables),
        "levels": list(layout.levels),
        "parameters": int(sum(w.size for w in weights.values())),
        "network": config.to_dict()["network"],
        "data": "nature run of jcm 3.0.0 (SPEEDY physics, Apache-2.0), "
        "python -m xdiffda.experiments.osse nature",
        "split_days": {
            k: list(map(list, getattr(nature.split, k)))
            for k in ("train", "validation", "evaluation")
        },
        "training": {"denoiser": _recipe(config), "forecaster": forecaster},
        "denoising_error_over_gaussian": {
            f"{s:g}": round(float(v), 4) for s, v in zip(SIGMAS, share, strict=True)
        },
        "versions": {
            p: importlib.metadata.version(p) for p in ("jax", "equinox", "optax", "numpy", "xarray")
        },
        "licence": "Apache-2.0 (weights and sample data)",
    }


def _recipe(config: TrainConfig) -> dict[str, Any]:
    """The configuration without the folders of the machine that trained."""
    folders = ("data", "pairs", "out", "initial")
    return {k: v for k, v in config.to_dict().items() if k not in folders}


def write_sample(nature: Nature, stepper: Stepper | BundledStepper, folder: Path) -> None:
    """Write held-out truth and its 48 h and 6 h forecasts, rounded, as netCDF."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = nature.rows("evaluation")[:, 0]
    valid = rows[4 * SAMPLE_FIRST_DAY : 4 * SAMPLE_FIRST_DAY + SAMPLE_TIMES]
    roll = make_rollout(stepper)

    def years(first, n):
        return year_phase(nature.time[first[:, None] + np.arange(1, n + 1)]).transpose(1, 0, 2)

    forecasts = {
        lead: np.asarray(
            roll(np.array(nature.states[valid - lead // 6]), years(valid - lead // 6, lead // 6))
        )[-1]
        for lead in (6, 48)
    }
    fields = {
        "truth": nature.states[valid],
        "background": forecasts[48],
        "background_6h": forecasts[6],
    }
    for name, x in fields.items():
        ds = _labelled(x * nature.stddev + nature.mean, nature, nature.time[valid])
        ds.attrs["title"] = {
            "truth": "nature run, held-out days",
            "background": "48 h forecasts of the testbed's forecaster",
            "background_6h": "6 h forecasts of the testbed's forecaster",
        }[name]
        temporary = folder / f"{name}.tmp"
        ds.to_netcdf(temporary, encoding=_encoding(ds))
        os.replace(temporary, folder / f"{name}.nc")


def _labelled(x: np.ndarray, nature: Nature, time: np.ndarray) -> xr.Dataset:
    convention = default_convention(nature.layout)
    states = [from_state(one, nature.layout, convention) for one in x]
    return xr.concat(states, dim="time").assign_coords(time=time).transpose("time", ...)


def _encoding(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Compression after rounding to bits that matter (about 1e-4 of a field's range)."""
    packing = {}
    for name in ds.data_vars:
        bits = 12 if "geopotential" in str(name) or "pressure" in str(name) else 10
        if "temperature" in str(name):
            bits = 13
        packing[name] = {
            "zlib": True,
            "complevel": 6,
            "shuffle": True,
            "significant_digits": bits,
            "quantize_mode": "BitRound",
        }
    return packing
