"""Backgrounds of cycles: analyses are exact, errors stay bounded, they stand beside forecasts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import Shifted
from xdiffda.experiments.osse import cycled_pairs as module
from xdiffda.experiments.osse.cycled_pairs import Moment, Tools, analyse, make_cycled_pairs
from xdiffda.priors.prior import GaussianPrior
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import OWN_CYCLES, Joined, load_nature, load_pairs
from xdiffda.train.forecaster import load_stepper

pytestmark = pytest.mark.long  # cycles of a trained world


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

    now = Moment(truth, nature.time[40], sites)
    found = analyse(nature, prior, background, now, error, NoNoise())
    B = np.asarray(
        prior.covariance(np.eye(nature.layout.grid.n_node)[:, :, None] * np.ones(error.size))
    )[..., 0]
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
    nature, stepper, prior = world
    joined = make_cycled_pairs(nature, stepper, prior, out, part="validation", n_initial=8)
    n = len(forecasts.row)
    assert len(joined.row) == n + 8 * 12 and isinstance(joined.background, Joined)
    np.testing.assert_array_equal(joined.background[[0, 5]], forecasts.background[[0, 5]])
    assert joined.perturbed[n:].all() and set(joined.lead[n:]) == {6}

    assert np.isfinite(joined.background[np.arange(n, n + 96)]).all()
    late = n + np.arange(88, 96)
    again = make_cycled_pairs(nature, stepper, prior, out, part="validation", n_initial=8)
    np.testing.assert_array_equal(again.background[late], joined.background[late])


class Corrected(GaussianPrior):
    """A Gaussian prior whose mean lies beside the background, where a network says so."""

    def condition(self, background, time, r):
        found = super().condition(background, time, r)
        shift = jnp.full((self.layout.grid.n_node, 1, self.layout.n_channel), 0.25 / r)
        return found._replace(denoise=Shifted(found.denoise, shift))


def test_the_denoisers_mean_is_what_observations_correct(world) -> None:
    """Without a site nearby its conditional mean is the analysis; a perfect one is the truth."""
    nature, _, prior = world
    corrected = Corrected(prior.layout, prior.scale, prior.covariance)
    scale = np.asarray(prior.scale) / nature.stddev
    background = np.array(nature.states[40])
    truth = background + 0.25 * scale
    error = np.full(nature.layout.n_channel, 0.1)
    now = Moment(truth, nature.time[40], np.array([3, 40, 77]))
    drawn = np.random.default_rng(0)
    found = analyse(nature, corrected, background, now, error, drawn)
    other = analyse(nature, prior, background, now, error, np.random.default_rng(0))

    def miss(x):
        return np.sqrt(np.mean(((x - truth) / scale) ** 2))

    assert miss(found) < 0.3 * miss(other) and miss(background) == pytest.approx(0.25, rel=1e-3)


def test_own_cycles_stand_beside_the_others(
    world, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are relaxed, so they differ from those of 3D-Var with the same Gaussian prior."""
    nature, stepper, prior = world
    monkeypatch.setattr(module, "COLUMNS", (0.1, 0.2))
    monkeypatch.setattr(module, "FEWEST", 0.1)
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder / "validation", out / "validation")
    first = make_cycled_pairs(nature, stepper, prior, out, part="validation", n_initial=8)
    both = make_cycled_pairs(
        nature, stepper, prior, out, part="validation", n_initial=8, kind=OWN_CYCLES
    )
    assert len(both.row) == len(first.row) + 96 and set(both.lead[-96:]) == {6}
    own = both.background[np.arange(len(first.row), len(both.row))]
    truth = nature.states[both.row[-96:]]
    assert np.isfinite(own).all() and np.sqrt(np.mean((own - truth) ** 2)) < 1.0


def test_every_background_is_the_forecast_of_an_analysis(world, monkeypatch) -> None:
    """A still world, a forecaster that errs in the first 48 h and then never again."""
    nature, _, prior = world
    still = np.broadcast_to(nature.states[:1], nature.states.shape)
    nature = dataclasses.replace(nature, states=still)
    wrong = 0.3 * np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(0), 8)))

    def roll(x, years):
        return (x + np.moveaxis(wrong, 1, 0) if len(years) == 8 else x)[None]

    monkeypatch.setattr(module, "COLUMNS", (0.2, 0.3))
    kept = module._cycle(nature, roll, Tools(prior), np.arange(8), np.random.default_rng(0))
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
