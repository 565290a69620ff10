"""The golden cases: files of official answers and the objects made from them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.networks import graphcast
from xdiffda.networks.graphcast import mesh
from xdiffda.networks.graphcast.edges import incidence
from xdiffda.networks.graphcast.graph import Edges, Graph, connect

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    """One configuration of the golden data."""

    folder: Path

    @functools.cached_property
    def net(self) -> graphcast.BareNetwork:
        """The network of the checkpoint on the official choice of triangles."""
        net = graphcast.load(self.folder / "checkpoint.npz")
        stored, config = self.npz("geometry"), net.config
        lat, lon = stored["grid_lat"], stored["grid_lon"]
        graph = graphcast.build_graph(lat, lon, refinement=config.mesh_size)
        finest = mesh.mesh_hierarchy(config.mesh_size)[-1]
        grid_lat, grid_lon = (x.reshape(-1) for x in np.meshgrid(lat, lon, indexing="ij"))
        mesh2grid = connect(
            (stored["mesh2grid_senders"], np.repeat(np.arange(len(grid_lat)), 3)),
            (finest.lat, finest.lon),
            (grid_lat, grid_lon),
            normalization=config.mesh2grid_edge_normalization_factor,
        )
        return replace(net, graph=eqx.tree_at(lambda g: g.mesh2grid, graph, mesh2grid))

    @functools.cached_property
    def forecaster(self) -> graphcast.Forecaster:
        """The network with its statistics."""
        return graphcast.Forecaster(self.net, **self.stats)

    @property
    def stats(self) -> dict[str, xr.Dataset]:
        """Mean, standard deviation, and that of the changes."""
        found = {}
        for name, values in self.json("stats").items():
            level = values.pop("level")
            data = {k: ("level", v) if isinstance(v, list) else v for k, v in values.items()}
            found[name] = xr.Dataset(data, coords={"level": level}).astype(np.float32)
        return found

    def stored_graph(self) -> Graph:
        """The official graph with its own features (in 64 bits where jax has them)."""
        stored = self.npz("geometry")

        def edges(name: str, n_sender: int, n_receiver: int) -> Edges:
            senders, receivers = stored[f"{name}_senders"], stored[f"{name}_receivers"]
            return Edges(
                incidence(senders, n_sender),
                incidence(receivers, n_receiver),
                jnp.asarray(stored[f"{name}_edge_features"]),
            )

        n_grid, n_mesh = len(stored["grid_node_features"]), len(stored["mesh_node_features"])
        return Graph(
            jnp.asarray(stored["grid_node_features"]),
            jnp.asarray(stored["mesh_node_features"]),
            edges("grid2mesh", n_grid, n_mesh),
            edges("mesh", n_mesh, n_mesh),
            edges("mesh2grid", n_mesh, n_grid),
        )

    def npz(self, name: str) -> dict[str, np.ndarray]:
        return read_npz(self.folder / f"{name}.npz")

    def json(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())

    def nc(self, name: str) -> xr.Dataset:
        with xr.open_dataset(self.folder / f"{name}.nc", decode_timedelta=True) as ds:
            return ds.load()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden files."""
    return GOLDEN


@pytest.fixture(scope="session")
def gc_a() -> Case:
    """Batch of one, mesh refinement 2."""
    return Case(GOLDEN / "gc_a")


@pytest.fixture(scope="session")
def gc_b() -> Case:
    """Batch of two, mesh refinement 3, precipitation among the outputs only."""
    return Case(GOLDEN / "gc_b")


@pytest.fixture(scope="session", params=["gc_a", "gc_b"])
def case(request: pytest.FixtureRequest) -> Case:
    """Each golden configuration in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def meshes_r0_r3() -> dict[str, np.ndarray]:
    """The official meshes."""
    return read_npz(GOLDEN / "mesh/meshes_r0_r3.npz")


@pytest.fixture(scope="session")
def plain_network():
    """The network once more, in plain float64 numpy: gather, concatenate, add edge by edge.

    Written from the published description and independent of the module under test, which it
    uses for the list of edges only.
    """
    return _plain_forward


def _mlp(block, *parts):
    x = np.concatenate([np.asarray(part, np.float64) for part in parts], axis=-1)
    for k, layer in enumerate(block.layers):
        if k:
            x = x / (1 + np.exp(-x))
        x = x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
    if block.norm is None:
        return x
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * np.asarray(block.norm.scale) + np.asarray(block.norm.offset)


def _interact(step, edge, sender, receiver, edges):
    senders, receivers = np.asarray(edges.senders.node), np.asarray(edges.receivers.node)
    messages = _mlp(step.edge, edge, sender[senders], receiver[receivers])
    total = np.zeros(receiver.shape)
    np.add.at(total, receivers, messages)
    return messages, _mlp(step.node, receiver, total)


def _plain_forward(net, x, graph):
    """Outputs (grid, batch, out) for inputs (grid, batch, in)."""
    return np.stack([_forward(net, x[:, i], graph) for i in range(x.shape[1])], axis=1)


def _forward(net, x, graph):
    encoder, processor, decoder = net.encoder, net.processor, net.decoder
    grid = _mlp(encoder.grid_embed, x, graph.grid_features)
    no_data = np.zeros((graph.n_mesh, x.shape[-1]))
    mesh = _mlp(encoder.mesh_embed, no_data, graph.mesh_features)
    edge = _mlp(encoder.edge_embed, graph.grid2mesh.features)
    _, update = _interact(encoder.step, edge, grid, mesh, graph.grid2mesh)
    mesh, grid = mesh + update, grid + _mlp(encoder.grid_update, grid)
    edge = _mlp(processor.edge_embed, graph.mesh.features)
    for step in processor.steps:
        edge_update, update = _interact(step, edge, mesh, mesh, graph.mesh)
        edge, mesh = edge + edge_update, mesh + update
    edge = _mlp(decoder.edge_embed, graph.mesh2grid.features)
    _, update = _interact(decoder.step, edge, mesh, grid, graph.mesh2grid)
    return _mlp(decoder.output, grid + update)
