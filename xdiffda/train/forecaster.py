"""Forecaster: a GraphCast that steps the normalised state by six hours."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.graph import Graph, build_graph
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig
from xdiffda.priors.prior import year_phase
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import Nature, load_nature
from xdiffda.train.distributed import first_alone
from xdiffda.train.loader import Batch, Drawn
from xdiffda.train.loop import HeldOut, Objective, train
from xdiffda.train.run_folder import restore_average


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
            **config.compute.network_options(),
        ),
        key=jax.random.key(config.seed),
    )
    graph = build_graph(np.array(grid.lat), np.array(grid.lon), refinement=size.refinement)
    scale = (nature.diffs_stddev / nature.stddev).astype(np.float32)
    return Stepper(network, graph, nature.static, scale)


class RolloutLoss(Objective):
    """Mean squared error over the steps of a roll-out, in units of ``diffs_stddev``."""

    stepper: Stepper
    area: Float[Array, " node"]

    def mean(self, model: GraphCast, batch: Batch) -> Array:
        step = eqx.tree_at(lambda s: s.network, self.stepper, model)
        weight = jnp.asarray(self.area)[:, None, None]
        x, total = jnp.moveaxis(batch["states"][:, 0], 0, 1), jnp.zeros(())
        n_steps = batch["states"].shape[1] - 1
        for n in range(1, n_steps + 1):
            x = step(x, batch["year"][:, n])
            error = (x - jnp.moveaxis(batch["states"][:, n], 0, 1)) / step.residual_scale
            total += jnp.mean(weight * error**2)
        return total / n_steps


def rollout_loss(stepper: Stepper, area: np.ndarray) -> RolloutLoss:
    """The objective of a forecaster; its stepper carries no weights of its own."""
    return RolloutLoss(_without_weights(stepper), np.asarray(area, np.float32))


def _without_weights(stepper: Stepper) -> Stepper:
    """What is put in by `RolloutLoss` need not lie on the devices twice."""
    bare = eqx.filter(stepper.network, eqx.is_inexact_array, inverse=True)
    return eqx.tree_at(lambda s: s.network, stepper, bare)


def batches(nature: Nature, part: str, config: TrainConfig) -> Drawn:
    """Batches of consecutive states, (batch, rollout + 1, node, channel); samples are rows."""
    rows = nature.rows(part)
    rows = rows[rows[:, 0] + config.rollout <= rows[:, 1], 0]
    tag = {"train": 0, "validation": 1}[part]

    def read(first: np.ndarray) -> Batch:
        steps = first[:, None] + np.arange(config.rollout + 1)
        return {"states": nature.states[steps], "year": year_phase(nature.time[steps])}

    return Drawn(rows, config.batch, (config.seed, tag), read)


@with_own_jax
def run(config: TrainConfig, *, progress: bool = True) -> Stepper:
    """Train a forecaster and return it with averaged weights."""
    with first_alone("statistics of the nature run"):
        nature = load_nature(config.data)
    stepper = make_stepper(nature, config)
    network = stepper.network
    if config.initial:
        network, _ = restore_average(network, config.initial, config.optimiser)
    _, average = train(
        network,
        rollout_loss(stepper, nature.layout.grid.area_weights()),
        batches(nature, "train", config),
        config,
        validation=HeldOut(batches(nature, "validation", config), 4),
        progress=progress,
    )
    return eqx.tree_at(lambda s: s.network, stepper, average)


def load_stepper(config: TrainConfig, nature: Nature | None = None) -> Stepper:
    """Return the forecaster of the last checkpoint in ``config.out``."""
    nature = nature or load_nature(config.data)
    stepper = make_stepper(nature, config)
    network, _ = restore_average(stepper.network, Path(config.out), config.optimiser)
    return eqx.tree_at(lambda s: s.network, stepper, network)
