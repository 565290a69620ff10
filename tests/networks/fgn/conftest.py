"""What all tests of FGN share."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from fgn_world import GOLDEN, Case

from xdiffda.gencast.graph import GenCastGraph
from xdiffda.gencast.hops import Neighbourhoods
from xdiffda.graphcast.graph import Edges
from xdiffda.graphcast.tables import incidence


@pytest.fixture(scope="session")
def case() -> Case:
    """The golden configuration."""
    return Case(GOLDEN)


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
