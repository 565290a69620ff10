"""The forecaster on waves whose future is known."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.priors.prior import year_phase
from xdiffda.train.config import Compute, TrainConfig
from xdiffda.train.data import SPLIT, Nature, load_nature
from xdiffda.train.forecaster import batches, make_stepper, rollout_loss, run

pytestmark = pytest.mark.long  # a training


@pytest.fixture(scope="module")
def nature(nature_folder: Path) -> Nature:
    return load_nature(nature_folder)


def test_states_are_normalised_and_come_back(nature: Nature, nature_folder: Path) -> None:
    weight = nature.layout.grid.area_weights()[:, None] / nature.layout.grid.n_node
    mean = np.sum(weight * nature.states.mean(0), axis=0)
    np.testing.assert_allclose(mean, 0.0, atol=1e-3)
    std = np.sqrt(np.sum(weight * np.mean(nature.states**2, axis=0), axis=0))
    np.testing.assert_allclose(std, 1.0, rtol=0.05)  # every seventh state was used
    step = np.diff(nature.states[: nature.stream_start[1]], axis=0) * nature.stddev
    rms = np.sqrt(np.sum(weight * np.mean(step**2, axis=0), axis=0))
    np.testing.assert_allclose(rms, nature.diffs_stddev, rtol=0.1)
    truth = xr.open_zarr(nature_folder / "stream1.zarr", consolidated=False).isel(time=3)
    row = nature.stream_start[1] + 3
    assert nature.time[row] == truth.time.values
    state = nature.states[row] * nature.stddev + nature.mean
    np.testing.assert_allclose(
        state[:, nature.layout.channel_index("temperature", 850)],
        truth.temperature.sel(level=850).values.reshape(-1),
        rtol=1e-5,
    )


def test_parts_do_not_overlap_and_keep_to_their_streams(nature: Nature) -> None:
    rows = {
        part: set(nature.rows(part)[:, 0].tolist())
        for part in ("train", "validation", "evaluation")
    }
    assert [len(r) for r in rows.values()] == [160, 56, 192]
    assert not (rows["train"] & rows["validation"] or rows["validation"] & rows["evaluation"])
    assert max(rows["train"]) < min(rows["validation"]) < nature.stream_start[1]
    assert min(rows["evaluation"]) >= nature.stream_start[1] + 48
    assert (nature.rows("validation")[:, 1] == 4 * 58 - 1).all()


def test_the_testbed_has_its_own_split_by_default(nature: Nature) -> None:
    testbed = dataclasses.replace(nature, split=SPLIT)
    # clipped to what is there: 60 days of each stream are all within the training days
    assert len(testbed.rows("train")) == len(nature.states)
    assert len(testbed.rows("validation")) == 0


def test_no_nature_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m xdiffda.experiments.osse nature --out"):
        load_nature(tmp_path)


def test_batches_are_consecutive_states_and_depend_on_step_and_seed(nature: Nature) -> None:
    config = TrainConfig("forecaster", "", "", batch=3, rollout=2)
    batch = batches(nature, "train", config)(4)
    assert batch["states"].shape == (3, 3, *nature.states.shape[1:])
    for states, year in zip(batch["states"], batch["year"], strict=True):
        row = int(np.flatnonzero((nature.states == states[0]).all((1, 2)))[0])
        np.testing.assert_array_equal(states, nature.states[row : row + 3])
        np.testing.assert_array_equal(year, year_phase(nature.time[row : row + 3]))
    same = batches(nature, "train", config)(4)["states"]
    np.testing.assert_array_equal(batch["states"], same)
    for other in (
        batches(nature, "train", config)(5),
        batches(nature, "train", dataclasses.replace(config, seed=1))(4),
    ):
        assert not np.array_equal(other["states"], same)


def test_persistence_costs_one(nature: Nature, forecaster_folder: Path) -> None:
    """In units of ``diffs_stddev``, a network of zeros has the loss 1 by construction."""
    config = TrainConfig.read_back(forecaster_folder)
    stepper = make_stepper(nature, config)

    def last(net):
        return net.decoder.output.layers[-1]

    zeros = eqx.tree_at(
        last,
        stepper.network,
        replace_fn=lambda layer: eqx.tree_at(
            lambda m: [w for w in (m.weight, m.bias) if w is not None],
            layer,
            replace_fn=jnp.zeros_like,
        ),
    )
    rows = nature.rows("train")[:-1, 0]
    batch = {
        "states": nature.states[np.stack([rows, rows + 1], 1)],
        "year": year_phase(nature.time[np.stack([rows, rows + 1], 1)]),
    }
    loss = rollout_loss(stepper, nature.layout.grid.area_weights())(zeros, batch, None)
    assert float(loss) == pytest.approx(1.0, rel=0.15)


def test_a_run_can_start_from_another_and_roll_out(forecaster_folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        TrainConfig.read_back(forecaster_folder),
        out=str(tmp_path),
        steps=2,
        rollout=2,
        log_every=1,
        initial=str(forecaster_folder),
        compute=Compute(dtype="bfloat16", remat=True, accumulate=2),
    )
    network = run(config).network
    weights = jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))
    assert network.config.dtype == "bfloat16" and {w.dtype for w in weights} == {jnp.dtype("f4")}
    with (tmp_path / "log.csv").open(newline="") as file:
        first = float(next(csv.DictReader(file))["train_loss"])
    assert first < 1.0  # untrained networks of this size begin far above


def test_the_trained_forecaster_beats_persistence_on_days_it_has_not_seen(
    forecaster_folder: Path,
) -> None:
    with (forecaster_folder / "log.csv").open(newline="") as file:
        rows = [r["validation_loss"] for r in csv.DictReader(file)]
    checked = [float(loss) for loss in rows if loss]
    # one is persistence; what remains after 80 steps is a third of it
    assert checked[-1] < 0.6 and checked[-1] < checked[0]
