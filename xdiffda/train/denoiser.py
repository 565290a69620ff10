"""Denoiser: learns p(truth | background) on pairs, noise white on the sphere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from xdiffda.covariance.balance import fit_basis, kept_balance, read_basis
from xdiffda.covariance.small_scales import share_wind_scale
from xdiffda.covariance.spectral import SpectralCovariance, estimate_blocks, white_coefficients
from xdiffda.diffusion.denoiser import Conditioning, DenoiserNetwork, denoise_batch
from xdiffda.diffusion.noise import LogNormalNoise
from xdiffda.errors import ModelError
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.graph import Graph, build_graph
from xdiffda.priors import registry
from xdiffda.priors.diffusion import DiffusionPrior
from xdiffda.priors.prior import year_phase
from xdiffda.train.config import CONFIG, TrainConfig
from xdiffda.train.data import Nature, Pairs, load_nature, load_pairs
from xdiffda.train.distributed import first_alone
from xdiffda.train.loader import Batch, Drawn
from xdiffda.train.loop import HeldOut, Objective, train
from xdiffda.train.run_folder import SETTING, claim_folder, restore_average

SAME_STATES = 0.01  # most that normalisations of one and the same nature run may differ
R_JITTER = 0.15  # r is known at analysis time to this relative accuracy


class Setting(eqx.Module):
    """Everything fixed before training: scale s, covariance B, graph, static fields.

    Attributes
    ----------
    scale : array (row, channel)
        Standard deviation of (truth - background), normalised units, for 48 h forecasts;
        per latitude row and channel, floored at a tenth of the channel's mean.
    covariance : SpectralCovariance
        B of z / r.
    """

    scale: np.ndarray
    covariance: SpectralCovariance
    graph: Graph
    static: np.ndarray
    area: np.ndarray

    def node_scale(self) -> np.ndarray:
        return np.repeat(self.scale, len(self.area) // len(self.scale), axis=0)


def residuals(
    nature: Nature,
    pairs: Pairs,
    index: np.ndarray,
    scale: np.ndarray,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return z / r, shape (pair, node, channel), and r of pairs ``index``.

    ``change`` is what is added to backgrounds in units of s beforehand.
    """
    area, background = nature.layout.grid.area_weights(), pairs.background[index]
    z = (nature.states[pairs.row[index]] - background) / scale
    if change is not None:
        z = z - change(background / scale)
    r = np.sqrt(np.mean(area[None, :, None] * z**2, axis=(1, 2)))
    return (z / r[:, None, None]).astype(np.float32), r.astype(np.float32)


def measure_scale(nature: Nature, pairs: Pairs, n_sample: int = 400) -> np.ndarray:
    """Standard deviation s (row, channel) of 48 h errors from truth, smoothed along latitude."""
    index = np.flatnonzero((pairs.lead == 48) & ~pairs.perturbed)
    index = index[np.linspace(0, len(index) - 1, min(n_sample, len(index))).astype(int)]
    n_lat, n_lon = nature.layout.grid.shape
    total = np.zeros((n_lat, nature.states.shape[2]))
    for i in index:
        error = nature.states[pairs.row[i]] - pairs.background[i]
        total += (error**2).reshape(n_lat, n_lon, -1).mean(1) / len(index)
    padded = np.pad(total, ((1, 1), (0, 0)), mode="edge")
    scale = np.sqrt((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)
    return np.maximum(scale, 0.1 * scale.mean(0)).astype(np.float32)


def prepare(nature: Nature, pairs: Pairs, config: TrainConfig) -> Setting:
    """Graph, and s and B: of the model that is trained further, else measured on the pairs.

    What was measured is kept in the run's folder.
    """
    grid = nature.layout.grid
    cache = Path(config.out) / SETTING
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        known = _setting_of_model(nature, config) or _measure_setting(nature, pairs)
        np.savez(cache, **known)
    saved = np.load(cache, allow_pickle=False)
    basis = read_basis(nature.layout, saved)
    graph = build_graph(
        np.array(grid.lat), np.array(grid.lon), refinement=config.network.refinement
    )
    covariance = SpectralCovariance.from_blocks(basis, saved["blocks"])
    return Setting(saved["scale"], covariance, graph, nature.static, grid.area_weights())


def _measure_setting(nature: Nature, pairs: Pairs) -> dict[str, np.ndarray]:
    stddev = nature.stddev  # one s for both components of a wind, in physical units
    scale = share_wind_scale(measure_scale(nature, pairs) * stddev, nature.layout) / stddev
    node_scale = np.repeat(scale, nature.layout.grid.n_lon, axis=0)
    index = np.arange(len(pairs.row))[:: max(1, len(pairs.row) // 3000)]
    z, _ = residuals(nature, pairs, index, node_scale)
    basis = fit_basis(nature.layout, z)
    blocks = estimate_blocks(basis, z).astype(np.float32)
    return {"scale": scale, "blocks": blocks, **kept_balance(basis)}


def _setting_of_model(nature: Nature, config: TrainConfig) -> dict[str, np.ndarray] | None:
    """s and B of the model that a run starts from: its network knows no others."""
    if not config.initial or _is_run(config.initial):
        return None
    prior = registry.resolve(config.initial)
    if not isinstance(prior, DiffusionPrior) or prior.layout != nature.layout:
        raise ModelError(
            f"found {config.initial!r}, a model of {prior.layout.grid} with "
            f"{prior.layout.n_channel} channels; needed one of the states in {config.data}; "
            'repair: initial = "" (from scratch), or the folder of a run on these states'
        )
    off = np.abs(nature.mean - prior.mean) / prior.stddev + np.abs(nature.stddev / prior.stddev - 1)
    if off.max() > SAME_STATES:
        worst = nature.layout.channel_names[int(off.argmax())]
        raise ModelError(
            f"mean and standard deviation of {worst} in {config.data} differ by {off.max():.2g} "
            f"standard deviations from those that {config.initial!r} was trained with; repair: "
            f"xdiffda.train.data.normalise_like({config.data!r}, "
            f'xdiffda.load_model({config.initial!r})), then the pairs anew; or initial = ""'
        )
    scale = np.asarray(prior.scale)[:: nature.layout.grid.n_lon] / nature.stddev
    basis, blocks = prior.covariance.basis, np.asarray(prior.covariance.blocks)
    return {"scale": scale, "blocks": blocks, **kept_balance(basis)}


def make_network(config: TrainConfig, n_channel: int, n_static: int) -> DenoiserNetwork:
    """Build the untrained network of a configuration."""
    size = config.network
    network = DenoiserNetwork(
        n_channel,
        n_static,
        latent=size.latent,
        processor_steps=size.processor_steps,
        hidden_layers=size.hidden_layers,
        conditioning_width=size.conditioning_width,
        key=jax.random.key(config.seed),
    )
    backbone = network.backbone.reconfigured(**config.compute.network_options())
    return eqx.tree_at(lambda n: n.backbone, network, backbone)


class DenoisingLoss(Objective):
    """Area-weighted squared error in units of the Gaussian estimate's error (c_out)."""

    setting: Setting
    noise: LogNormalNoise = eqx.field(static=True)

    def draw(self, batch: Batch, key: PRNGKeyArray) -> Batch:
        level_key, noise_key, r_key = jax.random.split(key, 3)
        n = batch["r"].shape[0]
        told = batch["r"] * jnp.exp(R_JITTER * jax.random.normal(r_key, (n,)))
        keys = jax.random.split(noise_key, n)
        return {**batch, "told_r": told, "sigma": self.noise(level_key, (n,)), "key": keys}

    def mean(self, model: Any, batch: Batch) -> Array:
        setting, covariance = self.setting, self.setting.covariance
        basis, sigma, r = covariance.basis, batch["sigma"], batch["told_r"]
        z = basis.project(jnp.moveaxis(batch["z"], 0, 1))
        # the state is scaled by the r that conditions the network, which at analysis time is an
        # estimate too: the true r of the pair is not known then
        z = z * (batch["r"] / r)[None, :, None]
        unit = basis.synthesis(white_coefficients(covariance, batch["key"]))
        background = jnp.moveaxis(batch["background"], 0, 1)
        forcings = batch.get("forcings")
        if forcings is not None:
            forcings = jnp.moveaxis(forcings, 0, 1)
        given = Conditioning(background, jnp.asarray(batch["year"]), jnp.asarray(r), forcings)
        estimate, c_out = denoise_batch(
            model,
            covariance,
            setting.graph,
            jnp.asarray(setting.static),
            given,
            z + sigma[None, :, None] * unit,
            sigma,
        )
        weight = jnp.asarray(setting.area)[:, None, None]
        return jnp.mean(weight * ((estimate - z) / c_out[None]) ** 2)


def denoising_loss(setting: Setting, noise: LogNormalNoise = LogNormalNoise()) -> DenoisingLoss:
    """The objective of a denoiser."""
    return DenoisingLoss(setting, noise)


def batches(
    nature: Nature, pairs: Pairs, node_scale: np.ndarray, config: TrainConfig, part: str
) -> Drawn:
    """Batches of residuals z / r with their backgrounds; samples are pairs."""
    tag = {"train": 0, "validation": 1}[part]

    def read(index: np.ndarray) -> Batch:
        z, r = residuals(nature, pairs, index, node_scale)
        return {
            "z": z,
            "r": r,
            "background": pairs.background[index],
            "year": year_phase(nature.time[pairs.row[index]]),
        }

    return Drawn(np.arange(len(pairs.row)), config.batch, (config.seed, tag), read)


@with_own_jax
def run(config: TrainConfig, *, progress: bool = True) -> DenoiserNetwork:
    """Train a denoiser and return it with averaged weights."""
    pairs = load_pairs(config.pairs, "train")
    claim_folder(config)  # before s and B of other pairs are taken for those of these
    with first_alone("statistics of nature run and pairs"):
        nature = load_nature(config.data)
        setting = prepare(nature, pairs, config)
    network = make_network(config, nature.layout.n_channel, nature.static.shape[1])
    if config.initial:
        network = _start(network, config)
    held = load_pairs(config.pairs, "validation")
    scale = setting.node_scale()
    _, average = train(
        network,
        denoising_loss(setting),
        batches(nature, pairs, scale, config, "train"),
        config,
        validation=HeldOut(batches(nature, held, scale, config, "validation"), 12),
        progress=progress,
    )
    return average


def _start(network: DenoiserNetwork, config: TrainConfig) -> DenoiserNetwork:
    """Start from another run or a model: all of a denoiser, the processor of a forecaster."""
    if not _is_run(config.initial):
        return registry.with_weights_of(config.initial, network)
    other = TrainConfig.read_back(config.initial)
    if other.task == "denoiser":
        return restore_average(network, other.out, other.optimiser)[0]
    return _from_forecaster(network, other)


def _is_run(folder: str) -> bool:
    """Return whether that is the folder of a training run; else it names a model."""
    return (Path(folder) / CONFIG).exists()


def _from_forecaster(network: DenoiserNetwork, other: TrainConfig) -> DenoiserNetwork:
    """Start the processor from a forecaster's, as DiffDA starts from GraphCast's.

    Only what has the same shape and the same meaning is taken: the processor.
    """
    from xdiffda.train.forecaster import load_stepper

    donor = load_stepper(other).network.processor
    own = network.backbone.processor
    steps = list(own.steps)
    for i in range(min(len(steps), len(donor.steps))):
        steps[i] = _copy_weights(steps[i], donor.steps[i])
    processor = eqx.tree_at(
        lambda p: (p.edge_embed, p.steps), own, (donor.edge_embed, tuple(steps))
    )
    return eqx.tree_at(lambda n: n.backbone.processor, network, processor)


def _copy_weights(own: Any, donor: Any) -> Any:
    """Take the donor's perceptrons and layer norms; the conditioning stays the own (zero)."""

    def parts(step):
        return [
            leaf
            for block in (step.edge, step.node)
            for leaf in (block.layers, block.norm.scale, block.norm.offset)
        ]

    return eqx.tree_at(parts, own, parts(donor))


def load_network(config: TrainConfig, n_channel: int, n_static: int) -> DenoiserNetwork:
    """Return the averaged network of the last checkpoint in ``config.out``."""
    network = make_network(config, n_channel, n_static)
    return restore_average(network, config.out, config.optimiser)[0]
