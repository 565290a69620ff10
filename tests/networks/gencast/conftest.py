"""The golden case: files of official answers and the objects made from them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.networks import gencast
from xdiffda.networks.gencast.graph import GenCastGraph, Neighbourhoods
from xdiffda.networks.graphcast.edges import incidence
from xdiffda.networks.graphcast.graph import Edges, connect
from xdiffda.networks.graphcast.mesh import mesh_hierarchy

LAT, LON = tuple(np.linspace(-90.0, 90.0, 19).tolist()), tuple((10.0 * np.arange(36)).tolist())
LEVELS = [500, 850, 1000]
SIGMA = np.array([0.7, 12.0], np.float32)


@dataclass(frozen=True)
class Case:
    """The configuration of the golden data."""

    folder: Path

    @functools.cached_property
    def net(self) -> gencast.BareGenCast:
        """The network of the checkpoint on our graph with the official choice of triangles."""
        net = gencast.load(self.folder / "checkpoint.npz")
        stored, mesh = self.npz("geometry"), mesh_hierarchy(2)[-1]
        graph = gencast.build_graph(LAT, LON, refinement=2, hops=2, block=32)
        grid = tuple(x.reshape(-1) for x in np.meshgrid(LAT, LON, indexing="ij"))
        senders = stored["permutation"][stored["mesh2grid_senders"]]
        triangles = connect((senders, np.repeat(np.arange(684), 3)), (mesh.lat, mesh.lon), grid)
        graph = eqx.tree_at(lambda g: g.mesh2grid, graph, triangles)
        return gencast.BareGenCast(net.checkpoint, graph)

    @functools.cached_property
    def forecaster(self) -> gencast.GenCastForecaster:
        """The network with its statistics."""
        return gencast.GenCastForecaster(
            self.net,
            mean=self.stats("mean"),
            stddev=self.stats("stddev"),
            diffs_stddev=self.stats("diffs_stddev"),
            minimum=self.stats("min"),
        )

    @functools.cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """What the official code answers, at some nodes."""
        return self.npz("outputs")

    @functools.cached_property
    def facts(self) -> dict:
        return json.loads((self.folder / "facts.json").read_text())

    @functools.cached_property
    def mask(self) -> np.ndarray:
        """Who attends to whom, in the official order of mesh nodes."""
        return np.unpackbits(self.npz("geometry")["attention_mask"], axis=1, count=162).astype(bool)

    def stats(self, name: str) -> xr.Dataset:
        values = json.loads((self.folder / "stats.json").read_text())[name]
        level = values.pop("level")
        data = {k: ("level", v) if isinstance(v, list) else v for k, v in values.items()}
        return xr.Dataset(data, coords={"level": level}).astype(np.float32)

    def fields(self, group: str) -> xr.Dataset:
        """Inputs, forcings, targets or noisy_targets."""
        dims = json.loads((self.folder / "dims.json").read_text())
        dims["total_precipitation_12hr"] = dims["2m_temperature"]
        hours = [-12, 0] if group == "inputs" else [12]
        time = np.array(hours, "timedelta64[h]").astype("timedelta64[ns]")
        stored = {k.split("/")[1]: v for k, v in self.npz("fields").items() if k.startswith(group)}
        return xr.Dataset(
            {k: (dims[k], v) for k, v in stored.items()},
            coords={"time": time, "lat": list(LAT), "lon": list(LON)},
        ).assign_coords({} if group == "forcings" else {"level": LEVELS})

    def norm(self, dtype: type = np.float32) -> tuple[xr.Dataset, xr.Dataset]:
        """Normalised inputs and forcings."""
        clean = self.forecaster.clean(self.fields("inputs").astype(dtype))
        forcings = self.fields("forcings").astype(dtype)
        return self.forecaster.scaler.normalize(clean), self.forecaster.scaler.normalize(forcings)

    def noise(self, name: str) -> np.ndarray:
        """Unit noise of `sampler` (number, node, channel) or `loss` (node, channel)."""
        stored = self.npz("noise")
        basis = gencast.gencast_basis(LAT, LON)
        degree, order = stored["degree_order"].T
        values = np.atleast_3d(stored[name].T).T if name == "loss" else stored[name]
        a = np.zeros((*basis.mask.shape, *values.shape[::2]), np.float32)
        a[degree, order] = values.swapaxes(0, 1)
        return np.moveaxis(np.asarray(basis.synthesis(jnp.asarray(a))), 1, 0)

    def stored_graph(self) -> GenCastGraph:
        """The official graph with its own features (in 64 bits where jax has them)."""
        stored = self.npz("geometry")

        def edges(name: str, n_sender: int, n_receiver: int) -> Edges:
            return Edges(
                incidence(stored[f"{name}_senders"], n_sender),
                incidence(stored[f"{name}_receivers"], n_receiver),
                jnp.asarray(stored[f"{name}_edge_features"]),
            )

        everything = jnp.arange(162)
        near = Neighbourhoods(
            everything[None], everything[None], jnp.asarray(self.mask)[None], everything
        )
        return GenCastGraph(
            jnp.asarray(stored["grid_node_features"]),
            jnp.asarray(stored["mesh_node_features"]),
            edges("grid2mesh", 684, 162),
            near,
            edges("mesh2grid", 162, 684),
        )

    def npz(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}


@pytest.fixture(scope="session")
def case() -> Case:
    """The golden configuration."""
    return Case(Path(__file__).parent / "golden")
