"""Checkpoints: all state of a run, written while it goes on, read on any number of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from xdiffda.errors import StorageError
from xdiffda.train.config import Optimiser
from xdiffda.train.distributed import Placement
from xdiffda.train.folder import CHECKPOINTS


class State(NamedTuple):
    """What a checkpoint holds."""

    weights: Any
    ema: Any
    optimiser: Any
    step: jax.Array


def make_optimiser(config: Optimiser, steps: int) -> optax.GradientTransformation:
    """AdamW, warm-up and cosine decay, clipped by the global norm; no decay of vectors."""
    warmup = round(config.warmup_share * steps) if config.warmup_share else config.warmup_steps
    schedule = optax.warmup_cosine_decay_schedule(
        config.start, config.peak, min(warmup, steps - 1), steps, config.end
    )
    matrices = lambda weights: jax.tree.map(lambda a: a.ndim > 1, weights)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=matrices
        ),
    )


def start_state(weights: Any, optimiser: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(weights, weights, optimiser.init(weights), jnp.array(0))


def state_shardings(weights: Any, optimiser: Any, placement: Placement) -> State:
    """Where each array of a state lies."""
    shapes = jax.eval_shape(lambda w: start_state(w, optimiser), weights)
    return State(
        jax.tree.map(lambda _: placement.whole, shapes.weights),
        placement.split(shapes.ema), placement.split(shapes.optimiser), placement.whole,
    )  # fmt: skip


def open_manager(out: Path) -> ocp.CheckpointManager:
    """The checkpoints of a run's folder; the last two are kept, saving does not block."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    return ocp.CheckpointManager((out / CHECKPOINTS).absolute(), options=options)


def restore(manager: ocp.CheckpointManager, like: State, shardings: State) -> State:
    """The last checkpoint, laid out as told: it may come from other numbers of devices.

    Raises
    ------
    StorageError
        If it holds arrays of other shapes, or cannot be read.
    """
    place = lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)  # noqa: E731
    abstract = jax.tree.map(place, like, shardings)
    step = manager.latest_step()
    try:
        restored = manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except (ValueError, KeyError, TypeError, OSError) as error:  # as orbax and its stores have it
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(
            f"{Path(manager.directory) / str(step)}: no checkpoint of this network ({text[:200]}); "
            "what the network reads (data, initial) has changed, or a file is damaged; repair: "
            '`out = "..."`, a new folder, or remove this one to go on from the one before'
        ) from error
    return State(*restored)


def restore_average(model: Any, out: str | Path, optimiser: Optimiser) -> tuple[Any, int]:
    """Return ``model`` with the averaged weights of the last checkpoint, and its step.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    recipe = make_optimiser(optimiser, 2)
    placement = Placement(jax.device_count(), shard=False)
    like = jax.eval_shape(lambda w: start_state(w, recipe), weights)
    with open_manager(Path(out)) as manager:
        if manager.latest_step() is None:
            raise FileNotFoundError(f"no checkpoint in {out}: run `python -m xdiffda.train` first")
        state = restore(manager, like, state_shardings(weights, recipe, placement))
    # on the host's own device: what is done with a model need not know of any mesh
    average = jax.tree.map(lambda a: jnp.asarray(jax.device_get(a)), state.ema)
    return eqx.combine(average, static), int(state.step)
