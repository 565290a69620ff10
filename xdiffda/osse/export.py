"""Write the testbed's forecaster in the format of the published GraphCast checkpoints."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from xdiffda.graphcast import Checkpoint, ModelConfig, TaskConfig, write_checkpoint
from xdiffda.graphcast.network import GraphCast
from xdiffda.state import Layout
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import STATIC, Nature
from xdiffda.train.forecaster import Stepper

FORCINGS = ("year_progress_cos", "year_progress_sin")


def input_order(layout: Layout) -> np.ndarray:
    """Positions, in the training order, of the channels in the format's order.

    Training stacks state, static fields, season; the format sorts input variables
    alphabetically (state and static fields together), forcings after them.
    """
    names = [name for name, _ in layout.channels] + list(STATIC)
    return np.array([*np.argsort(names, kind="stable"), len(names), len(names) + 1])


def write_forecaster(
    path: str | Path, nature: Nature, stepper: Stepper, config: TrainConfig
) -> None:
    """Write the forecaster's network with its task; statistics are kept elsewhere."""
    order = input_order(nature.layout)
    levels = nature.layout.levels
    task = TaskConfig(
        input_variables=(*nature.layout.variables, *STATIC),
        target_variables=nature.layout.variables,
        forcing_variables=FORCINGS, pressure_levels=levels, input_duration="6h",
    )  # fmt: skip
    size = config.network
    model = ModelConfig(
        resolution=nature.layout.grid.spacing_deg, mesh_size=size.refinement,
        latent_size=size.latent, gnn_msg_steps=size.processor_steps,
        hidden_layers=size.hidden_layers,
    )  # fmt: skip
    write_checkpoint(path, Checkpoint(
        _reordered(stepper.network, order), task, model,
        description="6 h forecaster of the SPEEDY testbed, one input frame",
        license="Apache-2.0",
    ))  # fmt: skip


def _reordered(network: GraphCast, order: np.ndarray) -> GraphCast:
    """Sort the rows of the two embedders' first weights; the structural rows stay last."""
    first = lambda net: [  # noqa: E731
        net.encoder.grid_embed.layers[0].weight,
        net.encoder.mesh_embed.layers[0].weight,
    ]
    moved = [jnp.concatenate([w[: len(order)][order], w[len(order) :]]) for w in first(network)]
    return eqx.tree_at(first, network, moved)
