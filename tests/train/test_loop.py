"""The loop on a tiny regression: resume to the bit, logs without gaps, averages, clipping."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xdiffda.train.config import Optimiser, TrainConfig
from xdiffda.train.curves import plot_log
from xdiffda.train.loop import Batch, make_optimiser, restore_average, train


def _model() -> eqx.nn.MLP:
    return eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0))


def _loss(model: eqx.nn.MLP, batch: Batch, key: jax.Array) -> jax.Array:
    """Noise from the key, so that a resume with another key would show."""
    x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    return jnp.mean((jax.vmap(model)(x)[:, 0] - batch["y"]) ** 2)


def _batch(step: int) -> Batch:
    x = np.random.default_rng([5, step]).normal(size=(16, 3)).astype(np.float32)
    return {"x": x, "y": x[:, 0] - 0.5 * x[:, 1]}


def _interrupted(at: int) -> Callable[[int], Batch]:
    def batch_at(step: int) -> Batch:
        if step == at:
            raise KeyboardInterrupt
        return _batch(step)

    return batch_at


def _config(out: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        "forecaster", "", str(out), steps=20, log_every=5, save_every=10, validate_every=10,
        optimiser=Optimiser(peak=0.02, warmup_steps=4, ema=0.8),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def _train(out: Path, batch_at: Callable[[int], Batch] = _batch, **changes: object) -> tuple:
    return train(
        _model(),
        _loss,
        batch_at,
        [_batch(900), _batch(901)],
        _config(out, **changes),
        progress=False,
    )


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _equal(one: object, other: object) -> bool:
    leaves = zip(*(jax.tree.leaves(eqx.filter(t, eqx.is_array)) for t in (one, other)), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple]:
    out = tmp_path_factory.mktemp("straight")
    return out, _train(out)


@pytest.mark.parametrize("killed_at", [10, 13, 17])
def test_a_killed_run_ends_in_the_same_bits(
    straight: tuple[Path, tuple], tmp_path: Path, killed_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, _interrupted(killed_at))
    resumed = _train(tmp_path)
    assert _equal(resumed, straight[1])
    first, second = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in _rows(out)]
        for out in (straight[0], tmp_path)
    )
    assert [row["step"] for row in second] == ["5", "10", "15", "20"]
    assert first == second
    seconds = [float(row["seconds"]) for row in _rows(tmp_path)]
    assert seconds == sorted(seconds)


def test_a_kill_before_the_first_checkpoint_starts_afresh(
    straight: tuple[Path, tuple], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, _interrupted(7))
    assert _equal(_train(tmp_path), straight[1])
    assert [row["step"] for row in _rows(tmp_path)] == ["5", "10", "15", "20"]


def test_a_finished_run_returns_at_once_and_is_restored(straight: tuple[Path, tuple]) -> None:
    out, result = straight
    assert _equal(_train(out, _interrupted(20)), result)
    average, step = restore_average(_model(), out, _config(out).optimiser)
    assert step == 20
    assert _equal(average, result[1])
    assert len(_rows(out)) == 4


def test_another_seed_ends_elsewhere(straight: tuple[Path, tuple], tmp_path: Path) -> None:
    assert not _equal(_train(tmp_path, seed=1), straight[1])


def test_the_average_is_the_warmed_up_moving_average(tmp_path: Path) -> None:
    """ema <- d ema + (1 - d) w, d = min(ema, (1 + n) / (10 + n)), n = 0, 1, ... updates so far."""
    weights = [_model()]
    for n in range(1, 4):
        # the schedule hangs on the number of steps: stop the same run after n of them
        out = tmp_path / str(n)
        with pytest.raises(KeyboardInterrupt):
            _train(out, _interrupted(n), save_every=n, log_every=1)
        saved = _saved(out)
        weights.append(saved[0])
    expected = eqx.filter(weights[0], eqx.is_inexact_array)
    for n, w in enumerate(weights[1:]):
        d = min(0.8, (1 + n) / (10 + n))
        expected = jax.tree.map(
            lambda a, b, d=d: d * a + (1 - d) * b, expected, eqx.filter(w, eqx.is_inexact_array)
        )
    found = eqx.filter(saved[1], eqx.is_inexact_array)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7)


def _saved(out: Path) -> tuple:
    """Weights and average of the last checkpoint: a run of which no step is left to do."""
    import orbax.checkpoint as ocp

    from xdiffda.train.loop import State

    arrays, static = eqx.partition(_model(), eqx.is_inexact_array)
    start = make_optimiser(_config(out).optimiser, 20).init(arrays)
    with ocp.CheckpointManager((out / "checkpoints").absolute()) as manager:
        state = manager.restore(
            manager.latest_step(),
            args=ocp.args.StandardRestore(State(arrays, arrays, start, jnp.array(0))),
        )
    return eqx.combine(state.weights, static), eqx.combine(state.ema, static)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    def poisoned(step: int) -> Batch:
        batch = _batch(step)
        return {**batch, "y": batch["y"] * np.float32(np.nan if step == 12 else 1)}

    with pytest.raises(FloatingPointError, match="not finite at step 15.*lower optimiser.peak"):
        _train(tmp_path, poisoned)
    assert restore_average(_model(), tmp_path, _config(tmp_path).optimiser)[1] == 10


def test_no_checkpoint_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m xdiffda.train"):
        restore_average(_model(), tmp_path, Optimiser())


def test_vectors_do_not_decay_and_gradients_are_clipped() -> None:
    config = Optimiser(peak=0.1, end=0.1, warmup_steps=0, weight_decay=0.5, clip=1.0)
    optimiser = make_optimiser(config, 100)
    weights = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2)}
    none = jax.tree.map(jnp.zeros_like, weights)
    update, _ = optimiser.update(none, optimiser.init(weights), weights)
    np.testing.assert_allclose(update["vector"], 0.0)
    np.testing.assert_allclose(update["matrix"], -0.1 * 0.5, rtol=1e-5)
    state = optimiser.init(weights)
    huge = jax.tree.map(lambda w: 1e4 * jnp.ones_like(w), weights)
    _, state = optimiser.update(huge, state, weights)
    first_moment = optax.tree_utils.tree_get(state, "mu")
    norm = optax.global_norm(first_moment) / 0.1
    assert float(norm) == pytest.approx(1.0, rel=1e-4)


def test_curves_are_drawn(straight: tuple[Path, tuple]) -> None:
    import matplotlib.image

    path = plot_log(straight[0])
    picture = matplotlib.image.imread(path)[..., :3]
    assert path.name == "curves.png"
    # the two colours of the curves are in it: blue and vermilion of Okabe and Ito
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        distance = np.abs(picture - np.array(colour) / 255).max(-1)
        assert (distance < 0.02).sum() > 20
