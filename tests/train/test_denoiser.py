"""The denoiser: the Gaussian prior before training, better than it after."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance, white_noise
from xdiffda.diffusion.denoiser import Conditioning, denoise_batch
from xdiffda.networks.graphcast.graph import build_graph
from xdiffda.train.config import Network, TrainConfig
from xdiffda.train.data import load_nature, load_pairs
from xdiffda.train.denoiser import (
    Setting,
    denoising_loss,
    load_network,
    make_network,
    prepare,
    residuals,
)

pytestmark = pytest.mark.long  # a training

N_CHANNEL = 3
LAT, LON = np.linspace(-78.75, 78.75, 8), np.arange(16) * 22.5
CONFIG = TrainConfig(
    "denoiser",
    "",
    "",
    network=Network(refinement=1, latent=16, processor_steps=1, conditioning_width=8),
)


@pytest.fixture(scope="module")
def setting() -> Setting:
    """A made-up B, red and with correlated channels."""
    from xdiffda.state.grid import Grid

    basis = sphere_basis(tuple(LAT.tolist()), tuple(LON.tolist()))
    spectrum = 1 / (1 + (np.arange(8) / 2.0) ** 3)
    channels = np.full((N_CHANNEL, N_CHANNEL), 0.6) + 0.4 * np.eye(N_CHANNEL)
    covariance = SpectralCovariance.from_blocks(basis, 2 * spectrum[:, None, None] * channels)
    area = Grid(tuple(LAT.tolist()), tuple(LON.tolist())).area_weights()
    static = np.random.default_rng(0).normal(size=(128, 2)).astype(np.float32)
    return Setting(
        np.ones((8, N_CHANNEL), np.float32),
        covariance,
        build_graph(LAT, LON, refinement=1),
        static,
        area,
    )


def _given(n: int) -> Conditioning:
    background = jax.random.normal(jax.random.key(7), (128, n, N_CHANNEL))
    return Conditioning(background, jnp.ones((n, 2)), jnp.ones(n))


def test_the_untrained_network_is_the_wiener_filter(setting: Setting) -> None:
    network = make_network(CONFIG, N_CHANNEL, 2)
    sigma = jnp.asarray([0.05, 0.8, 30.0])
    keys = jax.random.split(jax.random.key(1), 3)
    z = setting.covariance.sample(keys) + sigma[None, :, None] * white_noise(
        setting.covariance, jax.random.split(jax.random.key(2), 3)
    )
    found, c_out = denoise_batch(
        network, setting.covariance, setting.graph, jnp.asarray(setting.static), _given(3), z, sigma
    )
    for i, s in enumerate(sigma):
        np.testing.assert_allclose(
            found[:, i], setting.covariance.wiener(z[:, i], s), atol=1e-4 * float(s + 1)
        )
        np.testing.assert_allclose(
            c_out[i] ** 2, setting.covariance.posterior(s).variance, rtol=1e-4
        )


def test_the_untrained_loss_is_one_on_gaussian_data(setting: Setting) -> None:
    network = make_network(CONFIG, N_CHANNEL, 2)
    loss = jax.jit(lambda batch, key: denoising_loss(setting)(network, batch, key))
    n, values = 64, []
    for seed in range(6):
        keys = jax.random.split(jax.random.key(100 + seed), n)
        batch = {
            "z": jnp.moveaxis(setting.covariance.sample(keys), 1, 0),
            "r": jnp.ones(n),
            "background": jnp.zeros((n, 128, N_CHANNEL)),
            "year": jnp.ones((n, 2)),
        }
        values.append(float(loss(batch, jax.random.key(seed))))
    # r is jittered by 15 %, which costs at most a few per cent
    assert np.mean(values) == pytest.approx(1.0, abs=0.06)


def test_the_network_stays_in_the_span_of_the_basis(setting: Setting) -> None:
    import equinox as eqx

    network = make_network(CONFIG, N_CHANNEL, 2)

    def last(net):
        return net.backbone.decoder.output.layers[-1].weight

    def ramp(w):
        return 1 + 0.1 * jnp.arange(w.size, dtype=w.dtype).reshape(w.shape)

    shaken = eqx.tree_at(last, network, replace_fn=ramp)
    z = jnp.zeros((128, 1, N_CHANNEL))
    found, _ = denoise_batch(
        shaken,
        setting.covariance,
        setting.graph,
        jnp.asarray(setting.static),
        _given(1),
        z,
        jnp.ones(1),
    )
    assert float(jnp.abs(found).max()) > 0.1
    np.testing.assert_allclose(
        setting.covariance.basis.project(found), found, atol=1e-3 * float(jnp.abs(found).max())
    )


def test_residuals_have_unit_size_and_give_the_truth_back(
    nature_folder: Path, pairs_folder: Path
) -> None:
    nature, pairs = load_nature(nature_folder), load_pairs(pairs_folder, "train")
    scale = np.linspace(0.5, 1.5, 128 * 4, dtype=np.float32).reshape(128, 4)
    index = np.array([0, 17, 200])
    z, r = residuals(nature, pairs, index, scale)
    area = nature.layout.grid.area_weights()
    np.testing.assert_allclose(np.mean(area[None, :, None] * z**2, axis=(1, 2)), 1.0, rtol=1e-4)
    truth = pairs.background[index] + r[:, None, None] * scale * z
    np.testing.assert_allclose(truth, nature.states[pairs.row[index]], atol=1e-4)


def test_training_explains_more_than_the_gaussian_prior(denoiser_folder: Path) -> None:
    with (denoiser_folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["train_loss"]) < 1.5
    assert float(rows[-1]["train_loss"]) < 0.9 * float(rows[0]["train_loss"])
    assert float(rows[-1]["validation_loss"]) < 0.95


def test_the_processor_starts_from_the_forecaster(
    nature_folder: Path, forecaster_folder: Path, denoiser_folder: Path
) -> None:
    from xdiffda.train.denoiser import _start
    from xdiffda.train.forecaster import load_stepper

    config = TrainConfig.read_back(denoiser_folder)
    fresh = make_network(config, 4, 2)
    moved = _start(fresh, config)
    donor = load_stepper(TrainConfig.read_back(forecaster_folder)).network.processor
    own = moved.backbone.processor
    np.testing.assert_array_equal(
        own.steps[0].edge.layers[0].weight, donor.steps[0].edge.layers[0].weight
    )
    same = zip(
        jax.tree.leaves(fresh.backbone.decoder),
        jax.tree.leaves(moved.backbone.decoder),
        strict=True,
    )
    assert all(np.array_equal(a, b) for a, b in same)


def test_a_run_starts_from_all_of_another_denoiser(denoiser_folder: Path) -> None:
    from xdiffda.train.denoiser import _start

    config = TrainConfig.read_back(denoiser_folder)
    donor = load_network(config, 4, 2)
    moved = _start(
        make_network(config, 4, 2), dataclasses.replace(config, initial=str(denoiser_folder))
    )
    for a, b in zip(jax.tree.leaves(donor), jax.tree.leaves(moved), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_was_measured_is_cached_with_the_run(
    nature_folder: Path, pairs_folder: Path, denoiser_folder: Path
) -> None:
    config = TrainConfig.read_back(denoiser_folder)
    nature, pairs = load_nature(nature_folder), load_pairs(pairs_folder, "train")
    setting = prepare(nature, pairs, config)
    # B belongs to z / r, of unit mean square: so do its grid-point variances, near enough
    assert float(jnp.mean(setting.covariance.variance)) == pytest.approx(1.0, rel=0.3)
    index = np.flatnonzero((pairs.lead == 48) & ~pairs.perturbed)
    error = nature.states[pairs.row[index]] - pairs.background[index]
    rms = np.sqrt(np.mean(error.reshape(-1, 8, 16, 4) ** 2, axis=(0, 2)))
    assert (setting.scale[1:-1] > 0.5 * rms[1:-1]).all() and (setting.scale < 2 * rms.max(0)).all()
    assert load_network(config, 4, 2).backbone.config.latent == 16
