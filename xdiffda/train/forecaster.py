"""Forecaster: a GraphCast that steps the normalised state by six hours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.graphcast.graph import Graph, build_graph
from xdiffda.graphcast.network import GraphCast, NetworkConfig
from xdiffda.prior import year_phase
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import Nature, load_nature
from xdiffda.train.loop import Batch, restore_average, train


class Stepper(eqx.Module):
    """One step of the forecaster on normalised arrays.

    ``x(t + 6 h) = x(t) + diffs_stddev / stddev * network(x(t), static, season at t + 6 h)``
    """

    network: GraphCast
    graph: Graph
    static: Float[np.ndarray, "node 2"]
    residual_scale: Float[np.ndarray, " channel"]

    def __call__(
        self, x: Float[Array, "node batch channel"], year: Float[Array, "batch 2"]
    ) -> Float[Array, "node batch channel"]:
        node, batch, _ = x.shape
        inputs = jnp.concatenate(
            [
                x,
                jnp.broadcast_to(jnp.asarray(self.static)[:, None], (node, batch, 2)),
                jnp.broadcast_to(year[None], (node, batch, 2)),
            ],
            axis=-1,
        )
        return x + self.residual_scale * self.network(inputs, self.graph)


def make_stepper(nature: Nature, config: TrainConfig) -> Stepper:
    """Build the untrained forecaster for the layout of ``nature``."""
    grid, n_channel = nature.layout.grid, nature.layout.n_channel
    size = config.network
    network = GraphCast(
        NetworkConfig(
            n_inputs=n_channel + 4,
            n_outputs=n_channel,
            latent=size.latent,
            processor_steps=size.processor_steps,
            hidden_layers=size.hidden_layers,
        ),
        key=jax.random.key(config.seed),
    )
    graph = build_graph(np.array(grid.lat), np.array(grid.lon), refinement=size.refinement)
    scale = (nature.diffs_stddev / nature.stddev).astype(np.float32)
    return Stepper(network, graph, nature.static, scale)


def rollout_loss(stepper: Stepper, area: np.ndarray) -> Callable:
    """Mean squared error over the steps of a roll-out, in units of ``diffs_stddev``."""
    weight = jnp.asarray(area)[:, None, None]

    def loss(network: GraphCast, batch: Batch, key: Any) -> Array:
        step = eqx.tree_at(lambda s: s.network, stepper, network)
        x, total = jnp.moveaxis(batch["states"][:, 0], 0, 1), 0.0
        n_steps = batch["states"].shape[1] - 1
        for n in range(1, n_steps + 1):
            x = step(x, batch["year"][:, n])
            error = (x - jnp.moveaxis(batch["states"][:, n], 0, 1)) / step.residual_scale
            total += jnp.mean(weight * error**2)
        return total / n_steps

    return loss


def batches(nature: Nature, part: str, config: TrainConfig) -> Callable[[int], Batch]:
    """Return step -> batch of consecutive states, (batch, rollout + 1, node, channel)."""
    rows = nature.rows(part)
    rows = rows[rows[:, 0] + config.rollout <= rows[:, 1], 0]
    tag = {"train": 0, "validation": 1}[part]

    def batch_at(step: int) -> Batch:
        rng = np.random.default_rng([config.seed, tag, step])
        first = np.sort(rng.choice(rows, config.batch, replace=False))
        steps = first[:, None] + np.arange(config.rollout + 1)
        return {"states": nature.states[steps], "year": year_phase(nature.time[steps])}

    return batch_at


def run(config: TrainConfig) -> Stepper:
    """Train a forecaster and return it with averaged weights."""
    nature = load_nature(config.data)
    stepper = make_stepper(nature, config)
    area = nature.layout.grid.area_weights()
    network = stepper.network
    if config.initial:
        network, _ = restore_average(network, config.initial, config.optimiser)
    validation = batches(nature, "validation", config)
    _, average = train(
        network,
        rollout_loss(stepper, area),
        batches(nature, "train", config),
        [validation(i) for i in range(4)],
        config,
    )
    return eqx.tree_at(lambda s: s.network, stepper, average)


def load_stepper(config: TrainConfig, nature: Nature | None = None) -> Stepper:
    """Return the forecaster of the last checkpoint in ``config.out``."""
    nature = nature or load_nature(config.data)
    stepper = make_stepper(nature, config)
    network, _ = restore_average(stepper.network, Path(config.out), config.optimiser)
    return eqx.tree_at(lambda s: s.network, stepper, network)
