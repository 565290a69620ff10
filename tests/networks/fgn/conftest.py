"""What all tests of FGN share."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from fgn_world import Case
from places import FGN_GOLDEN

from xdiffda.networks.gencast.graph import GenCastGraph, Neighbourhoods
from xdiffda.networks.graphcast.edges import incidence
from xdiffda.networks.graphcast.graph import Edges


@pytest.fixture(scope="session")
def case() -> Case:
    """The golden configuration."""
    return Case(FGN_GOLDEN)


@pytest.fixture(scope="session")
def official(shared) -> dict[str, np.ndarray]:
    """The official graph, with all its features in double precision."""
    with np.load(shared("golden/fgn_a/geometry.npz")) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture
def official_graph(official) -> GenCastGraph:
    """The same as our network takes it (in 64 bits where jax has them now)."""

    def edges(name: str, n_sender: int, n_receiver: int) -> Edges:
        return Edges(
            incidence(official[f"{name}_senders"], n_sender),
            incidence(official[f"{name}_receivers"], n_receiver),
            jnp.asarray(official[f"{name}_edge_features"]),
        )

    everything = jnp.arange(162)
    near = Neighbourhoods(
        everything[None],
        everything[None],
        jnp.asarray(official["attention_mask"])[None],
        everything,
    )
    return GenCastGraph(
        jnp.asarray(official["grid_node_features"]),
        jnp.asarray(official["mesh_node_features"]),
        edges("grid2mesh", 684, 162),
        near,
        edges("mesh2grid", 162, 684),
    )
