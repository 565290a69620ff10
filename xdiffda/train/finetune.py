"""DiffDA fine-tuning: a published GraphCast becomes a denoiser of its own forecasts' errors."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.small_scales import row_scale, unresolved_part
from xdiffda.covariance.spectral import SpectralCovariance, estimate_blocks
from xdiffda.diffusion.pretrained import Places, PretrainedNetwork, from_published, places_of
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast import Forecaster
from xdiffda.networks.graphcast.bare import channels_of
from xdiffda.priors.diffda import GivenChannels
from xdiffda.priors.prior import year_phase
from xdiffda.storage.model_folder import (
    STATISTICS,
    WEIGHTS,
    flatten,
    pack_symmetric,
    write_arrays,
    write_card,
)
from xdiffda.train.config import TrainConfig
from xdiffda.train.denoiser import Setting, denoising_loss
from xdiffda.train.distributed import first_alone, leads
from xdiffda.train.era5 import Reanalysis, open_store, state_of
from xdiffda.train.forecasts import Backgrounds, valid_times
from xdiffda.train.loader import Batch, Epochs
from xdiffda.train.loop import HeldOut, train
from xdiffda.train.official import channel_statistics, read_forecaster
from xdiffda.train.run_folder import SETTING, claim_folder

_CHUNK = 4  # states in memory at a time while s and B are measured


class World:
    """Everything that a run reads: truth, backgrounds, forcings, the published network."""

    def __init__(self, config: TrainConfig) -> None:
        assert config.era5 is not None
        era5 = config.era5
        self.forecaster = read_forecaster(config)
        task = self.forecaster.net.task
        store = open_store(config.data, era5.storage)
        self.truth = Reanalysis(store, task, variables=era5.variables, levels=era5.levels)
        self.layout = self.truth.layout
        self.backgrounds = Backgrounds(config.pairs, self.layout)
        self.mean = channel_statistics(self.forecaster.mean, self.layout)
        self.stddev = channel_statistics(self.forecaster.stddev, self.layout)
        start = self.backgrounds.ds["init_time"].values[0]
        inputs = self.truth.inputs(start)
        forcings = self.truth.forcings(np.array([start]))
        self.places = places_of(self.forecaster.net, inputs, forcings, self.layout)
        self.given = _given(self.forecaster, self.truth, self.places, inputs, forcings)
        self.parts = {
            part: self.backgrounds.pairs(valid_times(era5, part), self.truth.times)
            for part in ("train", "validation")
        }

    def pair(self, part: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Truth and background of one pair, normalised, (node, channel)."""
        time, forecast, lead = self.parts[part][number]
        background = state_of(
            self.backgrounds.read(forecast, lead), self.layout, what=f"forecast for {time}"
        )
        truth = self.truth.state(time)
        return (truth - self.mean) / self.stddev, (background - self.mean) / self.stddev

    def reader(self, part: str, node_scale: np.ndarray) -> Any:
        """Numbers of pairs -> batch: residuals z / r with backgrounds and forcings."""
        area = self.layout.grid.area_weights()

        def one(number: int) -> Batch:
            time = self.parts[part][number][0]
            truth, background = self.pair(part, number)
            z = (truth - background) / node_scale
            r = np.sqrt(np.mean(area[:, None] * z**2))
            return {
                "z": (z / r).astype(np.float32),
                "r": np.float32(r),
                "background": background.astype(np.float32),
                "year": year_phase(time),
                "forcings": self.given(time, solar=self.truth.solar(time)),
            }

        def read(index: np.ndarray) -> Batch:
            samples = [one(int(i)) for i in index]
            return {name: np.stack([s[name] for s in samples]) for name in samples[0]}

        return read


def _given(
    forecaster: Forecaster, truth: Reanalysis, places: Places, inputs: Any, forcings: Any
) -> GivenChannels:
    task = forecaster.net.task
    channels = channels_of(inputs, task.input_variables)
    channels += channels_of(forcings, task.forcing_variables)
    names = tuple(channels[i].variable for i in places.forcings)

    def value(ds, name, none):
        return float(ds[name]) if name in ds else none

    static = {
        str(name): truth.static[name].transpose("lat", "lon").values.reshape(-1).astype(np.float32)
        for name in truth.static
    }
    return GivenChannels(
        truth.layout.grid,
        names,
        np.array([value(forecaster.mean, n, 0.0) for n in names], np.float32),
        np.array([value(forecaster.stddev, n, 1.0) for n in names], np.float32),
        static,
    )


class _Residuals:
    """z / r of some training pairs, read a few at a time: what `estimate_blocks` loops over."""

    def __init__(self, world: World, numbers: np.ndarray, scale: np.ndarray) -> None:
        self.world, self.numbers = world, numbers
        self.read = world.reader("train", scale)
        self.shape = (len(numbers), world.layout.grid.n_node, world.layout.n_channel)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.read(self.numbers[rows])["z"]


def prepare(world: World, config: TrainConfig) -> tuple[Setting, np.ndarray]:
    """Measure s, B and the unresolved variance, once; build the graph."""
    assert config.era5 is not None
    grid, cache = world.layout.grid, Path(config.out) / SETTING
    limit = min(grid.n_lat - 1, grid.n_lon // 2 - 1)
    basis = sphere_basis(grid.lat, grid.lon, min(config.era5.truncation or limit, limit))
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        n = len(world.parts["train"])
        numbers = np.unique(np.linspace(0, n - 1, min(n, config.era5.n_statistics)).astype(int))
        _measure(world, numbers, basis, cache)
    saved = np.load(cache, allow_pickle=False)
    covariance = SpectralCovariance.from_blocks(basis, saved["blocks"])
    none = np.zeros((grid.n_node, 0), np.float32)
    graph = world.forecaster.net.graph_for(world.truth.ds)
    setting = Setting(saved["scale"], covariance, graph, none, grid.area_weights())
    return setting, saved["unresolved"]


def _measure(world: World, numbers: np.ndarray, basis: Any, cache: Path) -> None:
    layout, n_lon = world.layout, world.layout.grid.n_lon
    scale = row_scale(_rms_of_longest(world, numbers)[None], layout)
    z = _Residuals(world, numbers, scale)
    blocks = estimate_blocks(basis, z, batch=_CHUNK)  # pyright: ignore[reportArgumentType]
    rest = np.zeros((layout.grid.n_node, layout.n_channel))
    for first in range(0, len(z), _CHUNK):
        part = z[slice(first, first + _CHUNK)]
        rest += (unresolved_part(basis, part) ** 2).sum(0) / len(z)
    unresolved = row_scale(np.sqrt(rest)[None], layout, floor=0.0)
    partial = cache.with_name("setting.partial.npz")
    np.savez(
        partial,
        scale=scale[::n_lon],
        blocks=blocks.astype(np.float32),
        unresolved=unresolved[::n_lon],
    )
    os.replace(partial, cache)


def _rms_of_longest(world: World, numbers: np.ndarray) -> np.ndarray:
    """Root mean square of truth minus background at the longest lead time, (node, channel)."""
    leads_of = {i: world.backgrounds.leads[world.parts["train"][i][2]] for i in numbers}
    longest = max(leads_of.values())
    counted = [i for i, lead in leads_of.items() if lead == longest]
    square = np.zeros((world.layout.grid.n_node, world.layout.n_channel))
    for i in counted:
        truth, background = world.pair("train", i)
        square += (truth - background) ** 2 / len(counted)
    return np.sqrt(square)


@with_own_jax
def make_network(world: World, config: TrainConfig) -> PretrainedNetwork:
    """The denoiser's network with the published weights."""
    network = from_published(
        world.forecaster.net.net,
        world.places,
        conditioning_width=config.network.conditioning_width,
        key=jax.random.key(config.seed),
    )
    backbone = network.backbone.reconfigured(**config.compute.network_options())
    return eqx.tree_at(lambda n: n.backbone, network, backbone)


def with_steps(config: TrainConfig, n_pair: int) -> TrainConfig:
    """The configuration with its epochs as steps.

    Examples
    --------
    >>> with_steps(TrainConfig("denoiser", "d", "o", epochs=20, batch=48), 111_032).steps
    46264
    """
    if not config.epochs:
        return config
    return dataclasses.replace(config, steps=math.ceil(config.epochs * n_pair / config.batch))


@with_own_jax
def run(config: TrainConfig, *, progress: bool = True) -> PretrainedNetwork:
    """Fine-tune, and leave the prior in the folder ``model`` of the run."""
    world = World(config)
    config = with_steps(config, len(world.parts["train"]))
    claim_folder(config)  # before s and B of other pairs are taken for those of these
    with first_alone("statistics of the pairs"):
        setting, unresolved = prepare(world, config)
    scale, held = setting.node_scale(), len(world.parts["validation"])

    def epochs(part: str, seed: int) -> Epochs:
        reader = world.reader(part, scale)
        return Epochs(len(world.parts[part]), config.batch, seed=seed, reader=reader)

    validation = HeldOut(epochs("validation", 0), min(8, -(-held // config.batch)))
    _, average = train(
        make_network(world, config),
        denoising_loss(setting),
        epochs("train", config.seed),
        config,
        validation=validation if held else None,
        progress=progress,
    )
    if leads():
        save_prior(Path(config.out) / "model", world, setting, unresolved, average, config)
    return average


def save_prior(
    folder: Path,
    world: World,
    setting: Setting,
    unresolved: np.ndarray,
    network: PretrainedNetwork,
    config: TrainConfig,
) -> None:
    """Write what `xdiffda.load_model` reads; the card last, with the digests of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    grid, given, net = world.layout.grid, world.given, world.forecaster.net
    write_arrays(folder / WEIGHTS, flatten(network))
    write_arrays(
        folder / STATISTICS,
        {
            "lat": np.array(grid.lat),
            "lon": np.array(grid.lon),
            "mean": world.mean,
            "stddev": world.stddev,
            "scale": (setting.scale * world.stddev).astype(np.float32),
            "unresolved": unresolved,
            "b_blocks": pack_symmetric(np.asarray(setting.covariance.blocks)).astype(np.float32),
            "given_mean": given.mean,
            "given_stddev": given.stddev,
            **{f"static_{name}": field for name, field in given.static.items()},
        },
    )
    places = ("data", "pairs", "out", "initial")
    write_card(
        folder,
        {
            "name": Path(config.out).name,
            "kind": "diffda",
            "title": "GraphCast fine-tuned as DiffDA",
            "grid": str(grid),
            "variables": list(world.layout.variables),
            "levels": list(world.layout.levels),
            "network": dataclasses.asdict(network.backbone.config)
            | {"remat": False, "edge_chunk": 0},
            "mesh": {
                "refinement": net.config.mesh_size,
                "radius_fraction": net.config.radius_query_fraction_edge_length,
                "mesh2grid_normalization": net.config.mesh2grid_edge_normalization_factor,
            },
            "places": [list(part) for part in network.places],
            "given": list(given.names),
            "static": sorted(given.static),
            "training": {k: v for k, v in config.to_dict().items() if k not in places},
            "initial": net.description,
            "licence": net.license,
        },
    )
