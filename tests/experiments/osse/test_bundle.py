"""The whole chain on a tiny world: trained, bundled, loaded, it says what it said in training."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.cycling.forecast import forecast
from xdiffda.cycling.rollout import load_forecaster
from xdiffda.errors import ModelError
from xdiffda.experiments.osse.bundle import bundle, input_order
from xdiffda.priors.prior import year_phase
from xdiffda.priors.registry import load_model
from xdiffda.state.convert import to_state
from xdiffda.state.grid import Grid, Layout
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import load_nature, load_pairs, normalise_like
from xdiffda.train.denoiser import load_network, prepare
from xdiffda.train.forecaster import load_stepper

pytestmark = pytest.mark.long  # a training, bundled


@pytest.fixture(scope="module")
def bundled(
    nature_folder: Path, pairs_folder: Path, forecaster_folder: Path, denoiser_folder: Path
) -> tuple[Path, Path]:
    root = nature_folder.parent / "bundle"
    folder = bundle(
        str(nature_folder),
        str(pairs_folder),
        str(forecaster_folder),
        str(denoiser_folder),
        name="tiny",
        out=root / "tiny",
        sample_out=root / "sample",
    )
    return folder, root / "sample"


def test_input_order_sorts_state_and_static_fields_together() -> None:
    grid = Grid((-45.0, 45.0), (0.0, 90.0, 180.0, 270.0))
    layout = Layout(grid, ("2m_temperature", "geopotential", "temperature"), (500, 850))
    names = [
        "2m_temperature",
        "geopotential",
        "geopotential",
        "temperature",
        "temperature",
        "geopotential_at_surface",
        "land_sea_mask",
        "year cos",
        "year sin",
    ]
    assert [names[i] for i in input_order(layout)] == [
        "2m_temperature",
        "geopotential",
        "geopotential",
        "geopotential_at_surface",
        "land_sea_mask",
        "temperature",
        "temperature",
        "year cos",
        "year sin",
    ]
    # levels stay ascending inside a variable
    assert input_order(layout).tolist() == [0, 1, 2, 5, 6, 3, 4, 7, 8]


def test_the_exported_forecaster_steps_as_the_trained_one(
    bundled: tuple[Path, Path], nature_folder: Path, forecaster_folder: Path
) -> None:
    nature = load_nature(nature_folder)
    stepper = load_stepper(TrainConfig.read_back(forecaster_folder), nature)
    start = xr.open_zarr(nature_folder / "stream1.zarr", consolidated=False).isel(time=100)
    found = forecast(
        start.drop_vars(["land_sea_mask", "geopotential_at_surface"]), "12h", model=str(bundled[0])
    )
    row = nature.stream_start[1] + 100
    x = jnp.asarray(nature.states[row])[:, None]
    for n in (1, 2):
        x = stepper(x, year_phase(nature.time[row + n : row + n + 1]))
        state = to_state(found.isel(time=n - 1), nature.layout)[0]
        normalised = (state - nature.mean) / nature.stddev
        np.testing.assert_allclose(normalised, x[:, 0], atol=3e-4)
    task = load_forecaster(str(bundled[0])).net.task
    assert task.pressure_levels == (500, 850)


def test_the_bundled_prior_is_the_trained_one(
    bundled: tuple[Path, Path], nature_folder: Path, pairs_folder: Path, denoiser_folder: Path
) -> None:
    from xdiffda.train.data import load_pairs

    nature = load_nature(nature_folder)
    config = TrainConfig.read_back(denoiser_folder)
    setting = prepare(nature, load_pairs(pairs_folder, "train"), config)
    prior = load_model(bundled[0])
    assert prior.layout == nature.layout
    np.testing.assert_allclose(prior.scale, setting.node_scale() * nature.stddev, rtol=1e-5)
    np.testing.assert_allclose(
        prior.covariance.blocks, setting.covariance.blocks, rtol=1e-3, atol=1e-5
    )
    from xdiffda.diffusion.denoiser import Conditioning, Denoiser

    row = nature.stream_start[1] + 100
    background = nature.states[row]
    z = np.random.default_rng(0).normal(size=(128, 2, 4)).astype(np.float32)
    given = Conditioning(
        jnp.asarray(background)[:, None],
        jnp.asarray(year_phase(nature.time[row]))[None],
        jnp.asarray([0.7]),
    )
    trained = Denoiser(
        load_network(config, 4, 2),
        setting.covariance,
        setting.graph,
        jnp.asarray(setting.static),
        given,
    )
    loaded = prior.condition(background * nature.stddev + nature.mean, nature.time[row], 0.7)
    expected = np.asarray(trained(z, jnp.asarray(0.8)))
    np.testing.assert_allclose(loaded.denoise(z, jnp.asarray(0.8)), expected, atol=2e-3)


def test_card_and_sample_tell_where_they_come_from(bundled: tuple[Path, Path]) -> None:
    folder, sample = bundled
    card = json.loads((folder / "card.json").read_text())
    assert card["name"] == "tiny" and card["split_days"]["evaluation"] == [[1, 12, 60]]
    assert set(card["sha256"]) == {
        "denoiser.safetensors",
        "statistics.safetensors",
        "forecaster.npz",
    }
    truth, background, six = (
        xr.open_dataset(sample / f"{name}.nc") for name in ("truth", "background", "background_6h")
    )
    assert truth.sizes["time"] == 17
    np.testing.assert_array_equal(truth.time, background.time)

    def rmse(ds):
        return float(np.sqrt(((ds.temperature - truth.temperature) ** 2).mean()))

    assert rmse(six) < rmse(background)


def test_training_goes_on_from_a_bundled_model(
    bundled: tuple[Path, Path], denoiser_folder: Path
) -> None:
    import dataclasses

    from xdiffda.train.denoiser import _start, make_network

    config = TrainConfig.read_back(denoiser_folder)
    fresh = make_network(config, 4, 2)
    moved = _start(fresh, dataclasses.replace(config, initial=str(bundled[0])))
    trained = load_network(config, 4, 2)
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    wider = dataclasses.replace(config, network=dataclasses.replace(config.network, latent=24))
    with pytest.raises(ModelError, match="do not fit"):
        _start(make_network(wider, 4, 2), dataclasses.replace(wider, initial=str(bundled[0])))


def test_small_errors_have_covariances_of_their_own(
    bundled: tuple[Path, Path], nature_folder: Path, pairs_folder: Path, denoiser_folder: Path
) -> None:
    from xdiffda.train.data import load_pairs
    from xdiffda.train.denoiser import residuals

    prior, nature = load_model(bundled[0]), load_nature(nature_folder)
    setting = prepare(
        nature, load_pairs(pairs_folder, "train"), TrainConfig.read_back(denoiser_folder)
    )
    pairs = load_pairs(pairs_folder, "validation")
    z, r = residuals(nature, pairs, np.arange(len(pairs.row)), setting.node_scale())
    area = nature.layout.grid.area_weights()[:, None] / nature.layout.grid.n_node
    for size in (np.quantile(r, 0.05), np.quantile(r, 0.95)):
        near = np.argsort(np.abs(np.log(r / size)))[: len(r) // 8]
        resolved = np.asarray(jax.vmap(setting.covariance.basis.project)(jnp.asarray(z[near])))
        truth = (area * resolved**2).sum(1).mean(0)
        np.testing.assert_allclose(prior.covariance_at(float(size)).variance, truth, rtol=0.25)
        conditioned = prior.condition(nature.states[0] * nature.stddev + nature.mean, None, size)
        np.testing.assert_array_equal(
            conditioned.climatology.blocks, prior.covariance_at(float(size)).blocks
        )
    ends = [prior.condition(nature.states[0], None, r).calibrated.blocks for r in (1e-3, 1e3)]
    assert float(jnp.abs(ends[0] - ends[1]).max()) > 1e-3
    np.testing.assert_array_equal(prior.unresolved, prior.unresolved_at(1.0))


def test_bundled_model_damps_the_noise_of_backgrounds(
    bundled: tuple[Path, Path], nature_folder: Path, pairs_folder: Path
) -> None:
    from xdiffda.covariance.small_scales import unresolved_part
    from xdiffda.train.data import load_pairs

    prior, nature = load_model(bundled[0]), load_nature(nature_folder)
    pairs = load_pairs(pairs_folder, "validation")
    index = np.arange(0, len(pairs.row), 4)

    def physical(x):
        return np.asarray(x) * nature.stddev + nature.mean

    truth, background = physical(nature.states[pairs.row[index]]), pairs.background[index]
    background = physical(background)
    filtered = prior.filtered(background)
    basis, s = prior.covariance.basis, prior.scale
    moved = (filtered - background) / s
    np.testing.assert_allclose(unresolved_part(basis, moved), moved, atol=2e-3)

    def error(x):
        return np.mean(unresolved_part(basis, (truth - x) / s) ** 2)

    assert error(filtered) < 0.95 * error(background)
    # observations are told what is left of it, not what there was
    r = np.sqrt(np.mean(((truth - filtered) / s) ** 2, axis=(1, 2)))
    told = np.mean([np.mean(prior.unresolved_at(float(one)) ** 2) * one**2 for one in r])
    assert told == pytest.approx(error(filtered), rel=0.3)


def test_a_model_trained_further_keeps_its_scale_and_covariance(
    nature_folder: Path, pairs_folder: Path, denoiser_folder: Path, bundled, tmp_path: Path
) -> None:
    """Whatever pairs it is trained on: the network knows no other s and B."""
    nature, pairs = load_nature(nature_folder), load_pairs(pairs_folder, "validation")
    config = TrainConfig.read_back(denoiser_folder)
    first = prepare(nature, pairs, config)
    further = dataclasses.replace(config, initial=str(bundled[0]), out=str(tmp_path / "run"))
    setting = prepare(nature, pairs, further)
    np.testing.assert_allclose(setting.scale, first.scale, rtol=1e-5)
    np.testing.assert_allclose(
        setting.covariance.blocks, first.covariance.blocks, rtol=1e-3, atol=1e-4
    )
    x = np.random.default_rng(0).normal(size=(nature.layout.grid.n_node, 1, 4)).astype(np.float32)
    np.testing.assert_allclose(setting.covariance(x), first.covariance(x), rtol=1e-3, atol=1e-3)


def test_states_of_another_world_are_refused(
    nature_folder: Path, pairs_folder: Path, denoiser_folder: Path, bundled, tmp_path: Path
) -> None:
    nature, pairs = load_nature(nature_folder), load_pairs(pairs_folder, "validation")
    config = TrainConfig.read_back(denoiser_folder)
    further = dataclasses.replace(config, initial=str(bundled[0]), out=str(tmp_path / "a"))
    warmer = dataclasses.replace(nature, mean=nature.mean + 0.1 * nature.stddev)
    with pytest.raises(ModelError, match="trained with"):
        prepare(warmer, pairs, further)
    other = dataclasses.replace(further, initial="speedy", out=str(tmp_path / "b"))
    with pytest.raises(ModelError, match="needed one of the states"):
        prepare(nature, pairs, other)


def test_a_forecaster_can_stay(
    nature_folder: Path, pairs_folder: Path, denoiser_folder: Path, bundled, tmp_path: Path
) -> None:
    """A denoiser trained further is bundled with the forecaster that the model had."""
    first = bundled[0]
    folder = bundle(
        str(nature_folder),
        str(pairs_folder),
        str(first),
        str(denoiser_folder),
        name="again",
        out=tmp_path / "again",
        sample_out=tmp_path / "sample",
    )
    assert (folder / "forecaster.npz").read_bytes() == (first / "forecaster.npz").read_bytes()
    cards = [json.loads((f / "card.json").read_text())["training"] for f in (first, folder)]
    assert cards[0]["forecaster"] == cards[1]["forecaster"]
    truth, again = (xr.open_dataset(f / "background.nc") for f in (bundled[1], tmp_path / "sample"))
    for name in truth.data_vars:
        np.testing.assert_allclose(again[name], truth[name], rtol=2e-3, atol=1e-3)


def test_states_of_another_world_can_be_normalised_alike(
    nature_folder: Path, bundled, tmp_path: Path
) -> None:
    """Other numbers, the same states; nothing is left of the first normalisation."""
    folder = tmp_path / "nature"
    shutil.copytree(nature_folder, folder)
    prior, before = copy.copy(load_model(bundled[0])), load_nature(folder)
    physical = np.array(before.states[::50]) * before.stddev + before.mean
    prior.mean, prior.stddev = prior.mean + 0.5 * prior.stddev, 2 * prior.stddev
    after = normalise_like(folder, prior)
    np.testing.assert_allclose(after.mean, prior.mean, rtol=1e-6)
    np.testing.assert_array_equal(after.diffs_stddev, before.diffs_stddev)
    again = np.array(after.states[::50]) * after.stddev + after.mean
    np.testing.assert_allclose(again, physical, rtol=1e-4, atol=1e-3 * float(before.stddev.max()))
    assert np.std(after.states) == pytest.approx(0.5 * np.std(before.states), rel=0.2)
    with pytest.raises(ModelError, match="needed those of 'speedy'"):
        normalise_like(folder, load_model("speedy"))
