"""The loop on a tiny regression: resume to the bit, logs without gaps, averages, clipping."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sample_log import read_samples

import xdiffda
from xdiffda.errors import InputError, StorageError
from xdiffda.train.config import Compute, Network, Optimiser, TrainConfig
from xdiffda.train.distributed import Placement
from xdiffda.train.loader import Batch, Epochs, load_batches
from xdiffda.train.loop import HeldOut, Objective, Stopped, train
from xdiffda.train.run_folder import (
    claim_folder,
    make_optimiser,
    plot_log,
    restore_average,
)


def _model() -> eqx.nn.MLP:
    return eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0))


class _Loss(Objective):
    """Noise from the key, so that a resume with another key would show."""

    def draw(self, batch: Batch, key: jax.Array) -> Batch:
        return {**batch, "noise": 0.1 * jax.random.normal(key, batch["x"].shape)}

    def mean(self, model: eqx.nn.MLP, batch: Batch) -> jax.Array:
        out = jax.vmap(model)(batch["x"] + batch["noise"])[:, 0]
        return jnp.mean((out - batch["y"]) ** 2)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Sample 16 n + i is row i of batch n."""

    first: int = 0
    interrupt_at: int = -1
    poison_at: int = -1
    signal_at: int = -1

    def samples(self, step: int) -> np.ndarray:
        if step == self.interrupt_at:
            raise KeyboardInterrupt
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return 16 * (self.first + step) + np.arange(16)

    def read(self, index: np.ndarray) -> Batch:
        drawn = [np.random.default_rng([5, i]).normal(size=3) for i in index]
        x = np.array(drawn, np.float32)
        bad = np.float32(np.nan) if self.poison_at in index // 16 else np.float32(1)
        return {"x": x, "y": bad * (x[:, 0] - 0.5 * x[:, 1])}


def _config(out: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        "forecaster",
        "",
        str(out),
        steps=20,
        batch=16,
        log_every=5,
        save_every=10,
        validate_every=10,
        optimiser=Optimiser(peak=0.02, warmup_steps=4, ema=0.8),
    )
    return dataclasses.replace(config, **changes)


def _train(out: Path, source: _Source = _Source(), **changes: object) -> tuple:
    return train(
        _model(),
        _Loss(),
        source,
        _config(out, **changes),
        validation=HeldOut(_Source(first=900), 2),
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
        _train(tmp_path, _Source(interrupt_at=killed_at))
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
        _train(tmp_path, _Source(interrupt_at=7))
    assert _equal(_train(tmp_path), straight[1])
    assert [row["step"] for row in _rows(tmp_path)] == ["5", "10", "15", "20"]


def test_a_finished_run_returns_at_once_and_is_restored(straight: tuple[Path, tuple]) -> None:
    out, result = straight
    assert _equal(_train(out, _Source(interrupt_at=20)), result)
    average, step = restore_average(_model(), out, _config(out).optimiser)
    assert step == 20
    assert _equal(average, result[1])
    assert len(_rows(out)) == 4


def test_another_seed_ends_elsewhere(straight: tuple[Path, tuple], tmp_path: Path) -> None:
    assert not _equal(_train(tmp_path, seed=1), straight[1])


def test_a_batch_in_pieces_trains_the_same(straight: tuple[Path, tuple], tmp_path: Path) -> None:
    """Also the noise: it is drawn for the whole batch first."""
    pieces = _train(tmp_path, compute=Compute(accumulate=4))
    for one, other in zip(*map(jax.tree.leaves, (straight[1], pieces)), strict=True):
        if eqx.is_array(one):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)


def test_signals_save_and_the_run_goes_on(straight: tuple[Path, tuple], tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="stopped after step .* of 20: the same command"):
        _train(tmp_path, _Source(signal_at=7), log_samples=True)
    stopped = json.loads((tmp_path / "status.json").read_text())["step"]
    assert 5 < stopped < 12 and not (tmp_path / "finished").exists()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL  # given back
    assert _equal(_train(tmp_path, log_samples=True), straight[1])
    steps = [step for step, _ in read_samples(tmp_path / "samples.csv")]
    assert steps == list(range(1, 21))
    losses = [[row["train_loss"] for row in _rows(out)] for out in (straight[0], tmp_path)]
    assert losses[0] == losses[1]  # a row that spans the stop too


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch = 16 in 3 pieces; needed pieces of one size"):
        _config(tmp_path, compute=Compute(accumulate=3))
    with pytest.raises(InputError, match="batch = 5 for 1 devices in 2 pieces.*a multiple of 2"):
        Placement(5, accumulate=2)
    with pytest.raises(InputError, match="(?s)compute.dtype = 'f16'.*compute.readers = 0"):
        Compute(dtype="f16", readers=0)


def test_epochs_see_every_sample_once_each() -> None:
    """Batches of 4 of 6 samples: the seam of the epochs runs through the second."""
    source = Epochs(6, 4, seed=3, reader=lambda index: {"x": index})
    seen = np.concatenate([source.samples(step) for step in range(6)])
    for epoch in seen.reshape(4, 6):
        assert sorted(epoch.tolist()) == list(range(6))
    assert len({tuple(epoch) for epoch in seen.reshape(4, 6).tolist()}) > 1
    loaded = list(load_batches(source, slice(1, 3), begin=2, end=6))
    assert len(loaded) == 4
    for step, (samples, own) in enumerate(loaded, start=2):
        np.testing.assert_array_equal(samples, source.samples(step))
        np.testing.assert_array_equal(own["x"], samples[1:3])


def test_the_average_is_the_warmed_up_moving_average(tmp_path: Path) -> None:
    """ema <- d ema + (1 - d) w, d = min(ema, (1 + n) / (10 + n)), n = 0, 1, ... updates so far."""
    weights = [_model()]
    for n in range(1, 4):
        # the schedule hangs on the number of steps: stop the same run after n of them
        out = tmp_path / str(n)
        with pytest.raises(KeyboardInterrupt):
            _train(out, _Source(interrupt_at=n), save_every=n, log_every=1)
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

    from xdiffda.train.run_folder import State

    arrays, static = eqx.partition(_model(), eqx.is_inexact_array)
    start = make_optimiser(_config(out).optimiser, 20).init(arrays)
    with ocp.CheckpointManager((out / "checkpoints").absolute()) as manager:
        state = manager.restore(
            manager.latest_step(),
            args=ocp.args.StandardRestore(State(arrays, arrays, start, jnp.array(0))),
        )
    return eqx.combine(state.weights, static), eqx.combine(state.ema, static)


def _copy(straight: tuple[Path, tuple], tmp_path: Path) -> Path:
    return Path(shutil.copytree(straight[0], tmp_path / "run"))


def test_a_folder_belongs_to_one_configuration(
    straight: tuple[Path, tuple], tmp_path: Path
) -> None:
    """What is trained may not change; how it is computed, logged and watched may."""
    out = _copy(straight, tmp_path)
    before = (out / "config.json").read_text()
    changed = {"seed": 1, "batch": 8, "data": "elsewhere", "network": Network(latent=64)}
    with pytest.raises(InputError) as caught:
        _train(out, **changed)
    found = [str(problem) for problem in caught.value.problems]
    assert len(found) == 4
    for text, old, new in zip(
        found,
        ("data = ''", "batch = 16", "seed = 0", "network.latent = 128"),
        ("'elsewhere'", "8", "1", "64"),
        strict=True,
    ):
        assert f"found {old} in {out}; needed {new}, as this" in text
    assert "repair: `seed = 0`" in found[2]
    with pytest.raises(InputError, match="steps = 20 in .*needed 30,.*-2.*initial = "):
        _train(out, steps=30)  # the learning rates would jump
    with pytest.raises(InputError, match="optimiser.peak = 0.02"):
        _train(out, optimiser=Optimiser(peak=0.01, warmup_steps=4, ema=0.8))
    assert (out / "config.json").read_text() == before
    free = {"log_every": 1, "save_every": 3, "validate_every": 4, "compute": Compute(readers=1)}
    assert _equal(_train(out, **free), straight[1])
    assert TrainConfig.read_back(out) == _config(out, **free)
    (out / "config.json").unlink()
    with pytest.raises(InputError, match="checkpoints without config.json"):
        _train(out)


def test_what_was_measured_before_the_first_step_is_of_one_configuration(tmp_path: Path) -> None:
    config = _config(tmp_path, data=str(tmp_path / "one"))
    claim_folder(config)
    claim_folder(_config(tmp_path, data="two"))  # nothing there yet: free
    claim_folder(config)
    (tmp_path / "setting.npz").touch()
    relative = os.path.relpath(tmp_path / "one")
    claim_folder(dataclasses.replace(config, batch=2, data=relative))  # too large at first, say
    with pytest.raises(InputError, match="data = .*one'.*'two', as this") as caught:
        claim_folder(_config(tmp_path, data="two", batch=4))
    assert len(caught.value.problems) == 1


def test_checkpoints_of_another_network_are_named(
    straight: tuple[Path, tuple], tmp_path: Path
) -> None:
    """The same configuration, but the data behind it have changed."""
    wide = eqx.nn.MLP(3, 1, 16, 1, key=jax.random.key(0))
    out = _copy(straight, tmp_path)
    with pytest.raises(
        StorageError, match=r"checkpoints/20: no checkpoint of this network .*out ="
    ):
        train(wide, _Loss(), _Source(), _config(out), progress=False)


def test_the_versions_that_made_a_run_are_noted(
    straight: tuple[Path, tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, own = _copy(straight, tmp_path), xdiffda.__version__
    monkeypatch.setattr(xdiffda, "__version__", "9.9.9")

    def noted():
        return json.loads((out / "config.json").read_text())["xdiffda_versions"]

    claim_folder(_config(out))
    assert noted() == [own]  # finished: there is nothing that the other version adds
    (out / "finished").unlink()
    with pytest.warns(UserWarning, match=f"steps are from xdiffda {own}, the next are from 9.9.9"):
        claim_folder(_config(out))
    assert noted() == [own, "9.9.9"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claim_folder(_config(out))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="not finite at step 15.*lower optimiser.peak"):
        _train(tmp_path, _Source(poison_at=12))
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
