"""The training loop: AdamW, EMA, clipping, checkpoints, exact resume, curves as data.

A batch is a pure function of (seed, step), so that a resumed run sees what an
uninterrupted one would have seen; all state is in the checkpoint (orbax).
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from tqdm import tqdm

from xdiffda.train.config import Optimiser, TrainConfig

Batch = dict[str, np.ndarray]
Loss = Callable[[Any, Batch, jax.Array], jax.Array]


class State(NamedTuple):
    """What a checkpoint holds."""

    weights: Any
    ema: Any
    optimiser: Any
    step: jax.Array


def make_optimiser(config: Optimiser, steps: int) -> optax.GradientTransformation:
    """AdamW, warm-up and cosine decay, clipped by the global norm; no decay of vectors."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.peak, min(config.warmup_steps, steps - 1), steps, config.end
    )
    matrices = lambda weights: jax.tree.map(lambda a: a.ndim > 1, weights)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, b2=config.b2, weight_decay=config.weight_decay, mask=matrices),
    )


def train(
    model: Any,
    loss: Loss,
    batch_at: Callable[[int], Batch],
    validation: list[Batch],
    config: TrainConfig,
    *,
    progress: bool = True,
) -> tuple[Any, Any]:
    """Train ``model`` and return it with its final and its averaged (EMA) weights.

    Parameters
    ----------
    model : pytree
        Its floating-point arrays are trained.
    loss : callable (model, batch, key) -> scalar
    batch_at : callable step -> batch
        Deterministic; called ahead of the step on a thread.
    validation : list of batches
        Evaluated with fixed keys and the averaged weights.
    config : TrainConfig

    Returns
    -------
    model, averaged model
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "config.json", config.to_dict())
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    optimiser = make_optimiser(config.optimiser, config.steps)
    state = State(weights, weights, optimiser.init(weights), jnp.array(0))
    manager = _manager(out / "checkpoints")
    if manager.latest_step() is not None:
        state = State(*manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state)))
    begin = int(state.step)
    log = _Log(out / "log.csv", begin)
    step = _make_step(loss, static, optimiser, config)
    evaluate = eqx.filter_jit(lambda w, batch, key: loss(eqx.combine(w, static), batch, key))
    bar = tqdm(
        range(begin, config.steps),
        desc=config.task,
        initial=begin,
        total=config.steps,
        disable=not progress,
        mininterval=5,
    )
    losses: list[jax.Array] = []
    try:
        for index in bar:
            state, value = step(state, batch_at(index))
            losses.append(value)
            done = index + 1
            if done % config.log_every == 0 or done == config.steps:
                checked = None
                if validation and (done % config.validate_every == 0 or done == config.steps):
                    checked = _validate(evaluate, state.ema, validation)
                mean = float(jnp.mean(jnp.stack(losses)))
                losses.clear()
                if not np.isfinite(mean):
                    raise FloatingPointError(
                        f"the loss is not finite at step {done}; the last checkpoint stands in "
                        f"{out / 'checkpoints'}: lower optimiser.peak and run again"
                    )
                log.write(done, mean, checked)
                bar.set_postfix(loss=f"{mean:.4f}")
            if done % config.save_every == 0 or done == config.steps:
                manager.save(done, args=ocp.args.StandardSave(state))
    finally:  # an interrupt too waits for the checkpoint in flight
        manager.close()
    return eqx.combine(state.weights, static), eqx.combine(state.ema, static)


def restore_average(model: Any, out: str | Path, optimiser: Optimiser) -> tuple[Any, int]:
    """Return ``model`` with the averaged weights of the last checkpoint, and its step."""
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    state = State(weights, weights, make_optimiser(optimiser, 2).init(weights), jnp.array(0))
    manager = _manager(Path(out) / "checkpoints")
    latest = manager.latest_step()
    if latest is None:
        raise FileNotFoundError(f"no checkpoint in {out}: run `python -m xdiffda.train` first")
    state = State(*manager.restore(latest, args=ocp.args.StandardRestore(state)))
    return eqx.combine(state.ema, static), int(state.step)


def _make_step(loss: Loss, static: Any, optimiser: Any, config: TrainConfig) -> Callable:
    key = jax.random.key(config.seed)

    @jax.jit
    def step(state: State, batch: Batch) -> tuple[State, jax.Array]:
        value, gradient = jax.value_and_grad(
            lambda w: loss(eqx.combine(w, static), batch, jax.random.fold_in(key, state.step))
        )(state.weights)
        update, inner = optimiser.update(gradient, state.optimiser, state.weights)
        weights = optax.apply_updates(state.weights, update)
        # the average warms up, so that a short run is not held by its random start
        decay = jnp.minimum(config.optimiser.ema, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, state.ema, weights)
        return State(weights, ema, inner, state.step + 1), value

    return step


def _validate(evaluate: Callable, weights: Any, batches: list[Batch]) -> float:
    keys = jax.random.split(jax.random.key(0), len(batches))
    values = [evaluate(weights, b, k) for b, k in zip(batches, keys, strict=True)]
    return float(jnp.mean(jnp.stack(values)))


def _manager(path: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    return ocp.CheckpointManager(path.absolute(), options=options)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)


class _Log:
    """Curves as data: step, loss since the last row, validation loss, seconds."""

    def __init__(self, path: Path, begin: int) -> None:
        self.path = path
        rows = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) <= begin]
        self.offset = float(rows[-1]["seconds"]) if rows else 0.0
        self.start = time.monotonic()
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "train_loss", "validation_loss", "seconds"])
            writer.writeheader()
            writer.writerows(rows)

    def write(self, step: int, loss: float, validation: float | None) -> None:
        seconds = self.offset + time.monotonic() - self.start
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(
                [
                    step,
                    f"{loss:.6f}",
                    "" if validation is None else f"{validation:.6f}",
                    f"{seconds:.1f}",
                ]
            )
