"""Backgrounds of cycles: analyses are exact, errors stay bounded, they stand beside forecasts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from xdiffda.covariance import SpectralCovariance
from xdiffda.osse import cycled_pairs as module
from xdiffda.osse.cycled_pairs import analyse, make_cycled_pairs
from xdiffda.osse.pairs import Joined, load_pairs
from xdiffda.prior import GaussianPrior
from xdiffda.spectral import sphere_basis
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import load_nature
from xdiffda.train.forecaster import load_stepper


@pytest.fixture(scope="module")
def world(nature_folder: Path, forecaster_folder: Path):
    nature = load_nature(nature_folder)
    grid = nature.layout.grid
    basis = sphere_basis(grid.lat, grid.lon, 4)
    blocks = np.tile(np.eye(nature.layout.n_channel), (basis.mask.shape[0], 1, 1))
    scale = np.tile(0.3 * nature.stddev, (grid.n_node, 1))
    prior = GaussianPrior(nature.layout, scale, SpectralCovariance.from_blocks(basis, blocks))
    return nature, load_stepper(TrainConfig.read_back(forecaster_folder), nature), prior


def test_one_analysis_is_the_kalman_filter(world) -> None:
    """Dense algebra, errors of zero drawn: the observations are the truth."""
    nature, _, prior = world
    truth, background = np.array(nature.states[40]), np.array(nature.states[44])
    scale = prior.scale / nature.stddev
    sites, error = np.array([3, 40, 77]), np.full(nature.layout.n_channel, 0.5)

    class NoNoise:
        def normal(self, size):
            return np.zeros(size)

    found = analyse(prior, scale, background, truth, sites, error, NoNoise())
    B = np.asarray(prior.covariance(np.eye(nature.layout.grid.n_node)[:, :, None]
                                    * np.ones(error.size)))[..., 0]  # fmt: skip
    d = ((truth - background) / scale)[sites]
    r = module.estimate_r((d / error).ravel(), np.full(d.size, 2.0), 3)
    gain = r**2 * B[:, sites] @ np.linalg.inv(r**2 * B[np.ix_(sites, sites)] + 0.25 * np.eye(3))
    np.testing.assert_allclose(found, background + scale * (gain @ d), atol=2e-3)


def test_cycles_stand_beside_forecasts_and_resume(
    world, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder / "validation", out / "validation")
    forecasts = load_pairs(out, "validation")
    monkeypatch.setattr(module, "COLUMNS", (0.1, 0.2))  # one shape, one compilation
    joined = make_cycled_pairs(*world, out, part="validation", n_initial=8)
    n = len(forecasts.row)
    assert len(joined.row) == n + 8 * 12 and isinstance(joined.background, Joined)
    np.testing.assert_array_equal(joined.background[[0, 5]], forecasts.background[[0, 5]])
    assert joined.perturbed[n:].all() and set(joined.lead[n:]) == {6}

    assert np.isfinite(joined.background[np.arange(n, n + 96)]).all()
    late = n + np.arange(88, 96)
    again = make_cycled_pairs(*world, out, part="validation", n_initial=8)
    np.testing.assert_array_equal(again.background[late], joined.background[late])


def test_every_background_is_the_forecast_of_an_analysis(world, monkeypatch) -> None:
    """A still world, a forecaster that errs in the first 48 h and then never again."""
    nature, _, prior = world
    still = np.broadcast_to(nature.states[:1], nature.states.shape)
    nature = dataclasses.replace(nature, states=still)
    wrong = 0.3 * np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(0), 8)))

    def roll(x, years):
        return (x + np.moveaxis(wrong, 1, 0) if len(years) == 8 else x)[None]

    monkeypatch.setattr(module, "COLUMNS", (0.2, 0.3))
    kept = module._cycle(nature, roll, prior, np.arange(8), np.random.default_rng(0))
    error = np.sqrt(np.mean((kept - still[0]) ** 2, axis=(1, 2, 3)))
    first = np.sqrt(np.mean(wrong**2))
    assert error[0] < 0.8 * first and error[-1] < 0.5 * first
    assert (np.diff(error) < 0.02 * first).all()


def test_joined_arrays_read_like_one() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 2, 3)) for n in (4, 1, 5)]
    whole, joined = np.concatenate(parts), Joined(parts)
    for index in (3, 9, slice(2, 8), np.array([9, 0, 4, 4]), whole[:, 0, 0] > 0):
        np.testing.assert_array_equal(joined[index], whole[index])
    assert joined.shape == whole.shape and len(joined) == 10
