"""The training loop: AdamW, EMA, clipping, checkpoints, exact resume, curves as data.

A batch is a pure function of (seed, step), so that a resumed run sees what an uninterrupted
one would have seen; all state is in the checkpoint (orbax). The same code runs in one process
or in many (`xdiffda.train.distributed`).
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm.auto import tqdm

from xdiffda.jax_settings import with_own_jax
from xdiffda.train.config import TrainConfig
from xdiffda.train.distributed import Placement, StopRequest, leads, memory_explained
from xdiffda.train.loader import Batch, Source, load_batches
from xdiffda.train.run_folder import (
    CurveLog,
    SampleLog,
    State,
    claim_folder,
    make_optimiser,
    open_manager,
    restore,
    start_state,
    state_shardings,
    write_status,
)

# What a run minimises, in a form that can be cut into pieces of the batch.


class Objective(eqx.Module):
    """A mean over the samples of a batch.

    All random numbers are drawn first and belong to samples (`draw`), so that devices and
    pieces of a batch see the numbers that the whole batch would have seen. Arrays among the
    fields (a graph, a covariance) become arguments of compiled code, not constants in it.
    """

    def draw(self, batch: Batch, key: PRNGKeyArray) -> Batch:
        """The batch with the random numbers of each sample, along the first axis."""
        return batch

    @abc.abstractmethod
    def mean(self, model: Any, batch: Batch) -> Float[Array, ""]:
        """Loss of a batch that has its random numbers."""

    def __call__(self, model: Any, batch: Batch, key: PRNGKeyArray) -> Float[Array, ""]:
        """Draw, and return the loss."""
        return self.mean(model, self.draw(batch, key))


def piecewise(function: Any, batch: Batch, n_piece: int) -> Any:
    """Mean of ``function(piece)``, a pytree, over equal pieces of a batch, one after another.

    Samples are dealt out in turn, so that each device keeps its own.

    Examples
    --------
    >>> batch = {"x": jnp.arange(6.0)}
    >>> float(piecewise(lambda piece: piece["x"].mean(), batch, 3))
    2.5
    """
    if n_piece == 1:
        return function(batch)
    dealt = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, n_piece, *x.shape[1:]), 0, 1), batch)
    shape = jax.eval_shape(function, jax.tree.map(lambda x: x[0], dealt))
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)

    def add(total: Any, piece: Batch) -> tuple[Any, None]:
        return jax.tree.map(lambda t, p: t + p / n_piece, total, function(piece)), None

    return jax.lax.scan(add, zero, dealt)[0]


class HeldOut(NamedTuple):
    """Batches 0 to n - 1 of a source, for validation."""

    source: Source
    n: int


class Stopped(Exception):
    """A run was asked to stop and has saved its state; the same call resumes it."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}: the same command resumes there")
        self.step, self.steps = step, steps


@with_own_jax
def train(
    model: Any,
    objective: Objective,
    source: Source,
    config: TrainConfig,
    *,
    validation: HeldOut | None = None,
    progress: bool = True,
) -> tuple[Any, Any]:
    """Train ``model`` and return it with its final and its averaged (EMA) weights.

    Parameters
    ----------
    model : pytree
        Its floating-point arrays are trained; the same on every process.
    objective : Objective
    source : Source
        Deterministic; read ahead of the step on threads.
    config : TrainConfig
    validation : HeldOut, optional
        Evaluated with fixed keys and the averaged weights.
    progress : bool

    Returns
    -------
    model, averaged model

    Raises
    ------
    InputError
        If the folder holds a run of another configuration, or a step does not fit into the
        memory.
    Stopped
        After SIGTERM or SIGUSR1 to any process, when the state has been saved.
    FloatingPointError
        If the loss is not finite.
    """
    with memory_explained(config):
        run = _Run(model, objective, config, validation)
    if leads():
        write_status(run.out, run.done, config.steps)
    try:
        with StopRequest() as stop, memory_explained(config):
            run.go(source, stop, progress=progress and leads())
    except KeyboardInterrupt:
        run.manager.close()
        raise
    except Exception:
        # where another process has died, waiting for it would never end
        if jax.process_count() == 1:
            run.manager.close()
        raise
    run.manager.close()
    if leads():
        write_status(run.out, run.done, config.steps)
    if run.done < config.steps:
        raise Stopped(run.done, config.steps)
    host = jax.tree.map(lambda a: jnp.asarray(_gathered(a)), (run.state.weights, run.state.ema))
    return eqx.combine(host[0], run.static), eqx.combine(host[1], run.static)


class _Run:
    """The state of a run and what advances it."""

    def __init__(
        self, model: Any, objective: Objective, config: TrainConfig, validation: HeldOut | None
    ) -> None:
        self.config, self.out = config, Path(config.out)
        compute = config.compute
        self.place = Placement(config.batch, accumulate=compute.accumulate, shard=compute.shard)
        claim_folder(config)
        weights, self.static = eqx.partition(model, eqx.is_inexact_array)
        optimiser = make_optimiser(config.optimiser, config.steps)
        shardings = state_shardings(weights, optimiser, self.place)
        weights = self.place.place(weights, shardings.weights)
        self.manager = open_manager(self.out)
        if self.manager.latest_step() is None:
            start = jax.jit(lambda w: start_state(w, optimiser), out_shardings=shardings)
            self.state, self.unlogged = start(weights), []
        else:
            like = jax.eval_shape(lambda w: start_state(w, optimiser), weights)
            self.state = restore(self.manager, like, shardings)
            saved = self.manager.metadata(self.manager.latest_step()).custom_metadata or {}
            self.unlogged = saved.get("unlogged", [])
        self.begin = self.done = int(self.state.step)
        self.fixed, self.rest = _fixed_arrays(objective, self.place)
        self.step = self._make_step(optimiser, shardings)
        self.evaluate = self._make_evaluation()
        self.held_out = self._read(validation)

    def go(self, source: Source, stop: StopRequest, *, progress: bool) -> None:
        """Advance to the last step, or to the one after which all processes stop."""
        config, losses, halt = self.config, list(self.unlogged), None
        curves = CurveLog(self.out / "log.csv", self.begin) if leads() else None
        seen = SampleLog(self.out / "samples.csv") if leads() and config.log_samples else None
        batches = load_batches(
            source,
            self.place.own_rows,
            begin=self.begin,
            end=config.steps,
            readers=config.compute.readers,
            prefetch=config.compute.prefetch,
        )
        bar = tqdm(
            batches,
            desc=config.task,
            initial=self.begin,
            total=config.steps,
            disable=not progress,
            mininterval=5 if sys.stderr.isatty() else 60,
        )
        for samples, own in bar:
            wish = self.place.flag(stop.wanted)
            arguments = (self.place.batch_of(own), wish, self.fixed)
            self.state, value, halting = self.step(self.state, *arguments)
            self.done += 1
            losses.append(value)
            if seen is not None:
                seen.write(self.done, samples)
            # looked at one step late, so that the device never waits for the host
            stopping = halt is not None and bool(halt)
            halt, last = halting, self.done == config.steps
            if self.done % config.log_every == 0 or last:
                self._log(losses, curves, bar, last=last)
            if self.done % config.save_every == 0 or last or stopping:
                self._save(losses)
            if stopping:
                break

    def _save(self, losses: list) -> None:
        # losses that no row of the curves has yet: a resumed run writes the rows of one that ran on
        unlogged = {"unlogged": [float(np.asarray(value)) for value in losses]}
        state = ocp.args.StandardSave(self.state)
        self.manager.save(self.done, args=state, custom_metadata=unlogged)

    def _log(self, losses: list, curves: CurveLog | None, bar: tqdm, *, last: bool) -> None:
        checked = None
        if self.held_out and (self.done % self.config.validate_every == 0 or last):
            checked = self._validate()
        mean = float(np.mean([np.asarray(value) for value in losses]))
        losses.clear()
        if not np.isfinite(mean):
            raise FloatingPointError(
                f"the loss is not finite at step {self.done}; the last checkpoint stands in "
                f"{self.out / 'checkpoints'}: lower optimiser.peak and run again"
            )
        if curves is not None:
            curves.write(self.done, mean, checked)
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)

    def _make_step(self, optimiser: optax.GradientTransformation, shardings: State) -> Callable:
        config, static, rest = self.config, self.static, self.rest
        key = jax.random.key(config.seed)

        def step(state: State, batch: Batch, wish: jax.Array, fixed: Any) -> tuple:
            objective: Objective = eqx.combine(fixed, rest)
            drawn = objective.draw(batch, jax.random.fold_in(key, state.step))

            def of(w, piece):
                return objective.mean(eqx.combine(w, static), piece)

            value, gradient = piecewise(
                lambda piece: jax.value_and_grad(of)(state.weights, piece),
                drawn,
                config.compute.accumulate,
            )
            update, inner = optimiser.update(gradient, state.optimiser, state.weights)
            weights = optax.apply_updates(state.weights, update)
            # the average warms up, so that a short run is not held by its random start
            decay = jnp.minimum(config.optimiser.ema, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, state.ema, weights)
            return State(weights, ema, inner, state.step + 1), value, wish.any()

        # on CPUs a checkpoint in flight may still look at the old buffers
        donate = () if jax.default_backend() == "cpu" else (0,)
        whole = self.place.whole
        return jax.jit(step, out_shardings=(shardings, whole, whole), donate_argnums=donate)

    def _make_evaluation(self) -> Callable:
        static, rest, n_piece = self.static, self.rest, self.config.compute.accumulate

        def evaluate(weights: Any, batch: Batch, key: jax.Array, fixed: Any) -> jax.Array:
            objective: Objective = eqx.combine(fixed, rest)
            model = eqx.combine(weights, static)
            drawn = objective.draw(batch, key)
            return piecewise(lambda piece: objective.mean(model, piece), drawn, n_piece)

        return jax.jit(evaluate, out_shardings=self.place.whole)

    def _read(self, validation: HeldOut | None) -> list[Batch]:
        """Own rows of the validation batches."""
        if validation is None:
            return []
        loaded = load_batches(validation.source, self.place.own_rows, begin=0, end=validation.n)
        return [own for _, own in loaded]

    def _validate(self) -> float:
        keys = jax.random.split(jax.random.key(0), len(self.held_out))
        values = [
            self.evaluate(self.state.ema, self.place.batch_of(own), key, self.fixed)
            for own, key in zip(self.held_out, keys, strict=True)
        ]
        return float(np.mean([np.asarray(value) for value in values]))


def _fixed_arrays(objective: Objective, place: Placement) -> tuple[Any, Any]:
    """Arrays of the objective, whole on every device, and all else of it."""

    def is_array(leaf):
        return isinstance(leaf, jax.Array | np.ndarray)

    arrays, rest = eqx.partition(objective, is_array)
    return place.place(arrays, jax.tree.map(lambda _: place.whole, arrays)), rest


def _gathered(array: jax.Array) -> np.ndarray:
    """Return the whole of an array that may be split over processes."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
