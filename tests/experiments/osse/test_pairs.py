"""Pairs: an interruption leaves no trace; labels say what they are."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.experiments.osse import pairs as module
from xdiffda.experiments.osse.pairs import make_pairs
from xdiffda.priors.prior import year_phase
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import Nature, load_nature, load_pairs
from xdiffda.train.forecaster import Stepper, load_stepper


@pytest.fixture(scope="module")
def world(nature_folder: Path, forecaster_folder: Path) -> tuple[Nature, Stepper]:
    nature = load_nature(nature_folder)
    return nature, load_stepper(TrainConfig.read_back(forecaster_folder), nature)


@pytest.mark.long
def test_an_interruption_leaves_no_trace(
    world: tuple[Nature, Stepper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make_pairs(*world, tmp_path / "straight", part="validation", n_initial=30)
    original = module.make_rollout
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_rollout", _failing_after(original, 2))
        with pytest.raises(KeyboardInterrupt):
            make_pairs(*world, tmp_path / "killed", part="validation", n_initial=30)
    with pytest.raises(FileNotFoundError, match="python -m xdiffda.experiments.osse pairs"):
        load_pairs(tmp_path / "killed", "validation")
    resumed = make_pairs(*world, tmp_path / "killed", part="validation", n_initial=30)
    for name in ("background", "row", "lead", "perturbed"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(straight, name))


def _failing_after(make, n_call: int):
    def made(stepper):
        roll, calls = make(stepper), []

        def counted(states, years):
            calls.append(1)
            if len(calls) > n_call:
                raise KeyboardInterrupt
            return roll(states, years)

        return counted

    return made


@pytest.mark.long
def test_labels_belong_to_the_forecasts(world: tuple[Nature, Stepper], pairs_folder: Path) -> None:
    nature, stepper = world
    found = load_pairs(pairs_folder, "train")
    assert len(found.row) == 40 * 12 and found.background.shape[1:] == nature.states.shape[1:]
    assert sorted(set(found.lead.tolist())) == list(range(6, 73, 6))
    allowed = set(nature.rows("train")[:, 0].tolist())
    assert set(found.row.tolist()) <= allowed
    assert 0.3 < found.perturbed.mean() < 0.5  # two groups of five
    one = np.flatnonzero((found.lead == 6) & ~found.perturbed)[:8]
    start = found.row[one] - 1
    expected = stepper(
        jnp.moveaxis(jnp.asarray(nature.states[start]), 0, 1), year_phase(nature.time[start + 1])
    )
    np.testing.assert_allclose(
        found.background[one], np.moveaxis(np.asarray(expected), 1, 0), atol=1e-4
    )


def test_imperfect_starts_make_worse_forecasts(
    world: tuple[Nature, Stepper], pairs_folder: Path
) -> None:
    nature, found = world[0], load_pairs(pairs_folder, "train")

    def error(pick: np.ndarray) -> float:
        departure = found.background[pick] - nature.states[found.row[pick]]
        return float(np.sqrt(np.mean(departure**2)))

    first = found.lead == 6
    assert error(first & found.perturbed) > 1.2 * error(first & ~found.perturbed)
