"""The golden case of FGN: files of official answers and the objects made from them."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import xarray as xr

from xdiffda.networks import fgn
from xdiffda.networks.graphcast.graph import connect
from xdiffda.networks.graphcast.mesh import mesh_hierarchy

LAT, LON = tuple(np.linspace(-90.0, 90.0, 19).tolist()), tuple((10.0 * np.arange(36)).tolist())
LEVELS = [500, 850, 1000]


def leaves(node: Any) -> Iterator[dict]:
    """All single values of a configuration, in its own form."""
    if isinstance(node, dict) and node.get("type") == "leaf":
        yield node
    elif isinstance(node, dict | list):
        for part in node.values() if isinstance(node, dict) else node:
            yield from leaves(part)


def edited(document: dict, values: dict[str, Any]) -> dict:
    """A configuration with other values, found by the end of their paths."""
    document = copy.deepcopy(document)
    for end, value in values.items():
        found = [leaf for leaf in leaves(document) if any(p.endswith(end) for p in leaf["paths"])]
        assert found, end
        for leaf in found:
            leaf["value"] = value
    return document


@dataclass(frozen=True)
class Case:
    """The configuration of the golden data."""

    folder: Path

    @functools.cached_property
    def document(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())

    @functools.cached_property
    def net(self) -> fgn.BareFGN:
        """The network of the checkpoint on our graph with the official choice of triangles."""
        net = fgn.load(self.folder / "checkpoint.npz", config=self.folder / "config.json")
        stored, mesh = self.npz("geometry"), mesh_hierarchy(2)[-1]
        graph = fgn.build_graph(LAT, LON, refinement=2, hops=2, block=32)
        grid = tuple(x.reshape(-1) for x in np.meshgrid(LAT, LON, indexing="ij"))
        ends = (stored["mesh2grid_senders"].astype(int), np.repeat(np.arange(684), 3))
        order = np.argsort(stored["mesh2grid_receivers"], kind="stable")
        triangles = connect((ends[0][order], ends[1]), (mesh.lat, mesh.lon), grid)
        return fgn.BareFGN(net.checkpoint, eqx.tree_at(lambda g: g.mesh2grid, graph, triangles))

    @functools.cached_property
    def forecaster(self) -> fgn.FGNForecaster:
        return fgn.FGNForecaster(self.net)

    @functools.cached_property
    def stored(self) -> dict[str, np.ndarray]:
        return self.npz("fields")

    @functools.cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        return self.npz("outputs")

    def fields(self, group: str, dtype: type = np.float32) -> xr.Dataset:
        """Inputs, forcings, forcings_rollout or targets."""
        dims = json.loads((self.folder / "dims.json").read_text())
        hours = {"inputs": [-6, 0], "forcings_rollout": [6, 12]}.get(group, [6])
        time = np.array(hours, "timedelta64[h]").astype("timedelta64[ns]")
        found = {k: v for k, v in self.stored.items() if k.startswith(f"{group}/")}
        ds = xr.Dataset(
            {k.partition("/")[2]: (dims[k], v.astype(dtype)) for k, v in found.items()},
            coords={"time": time, "lon": list(LON)},
        )
        own = {"lat": list(LAT), "level": LEVELS} if group in ("inputs", "targets") else {}
        return ds.assign_coords(own)

    def norm(self, dtype: type = np.float32) -> tuple[xr.Dataset, xr.Dataset]:
        """Normalised inputs and forcings."""
        scaler = self.forecaster.scaler
        inputs = self.forecaster.clean(self.fields("inputs", dtype))
        return scaler.normalize(inputs), scaler.normalize(self.fields("forcings", dtype))

    @property
    def noise(self) -> np.ndarray:
        """Of members, entries of the batch and steps."""
        return self.stored["noise"]

    def at_nodes(self, ds: xr.Dataset) -> np.ndarray:
        """Fields as `outputs` has them."""
        columns = []
        for name in sorted(ds):
            values = ds[name].transpose("sample", "batch", "time", ..., "lat", "lon").values
            columns.append(values.reshape(*values.shape[:3], -1, 684))
        return np.concatenate(columns, axis=3)[..., self.outputs["nodes"]]

    @functools.cached_property
    def std(self) -> np.ndarray:
        """Unit of each channel of the outputs, as a column."""
        told, columns = self.net.checkpoint.configuration, []
        for channel in self.net.target_channels():
            std = told.stddev.get(channel.variable, xr.DataArray(1.0))
            columns.append(float(std.sel(level=channel.level) if channel.level else std))
        return np.array(columns)[:, None]

    def npz(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network that differ from the golden ones, and from one another, everywhere."""

    latent: int = 12
    hidden: tuple[int, ...] = (10, 10)
    message_hidden: tuple[int, int] = (9, 14)
    edge: tuple[int, int] = (5, 7)
    edge_hidden: tuple[int, int] = (6, 4)
    output_hidden: int = 11
    noise: int = 9
    conditioning: int = 3
    layers: int = 3
    heads: int = 3
    ffw: int = 20
    hops: int = 3
    splits: int = 1
    divide: float = 2.5
    levels: tuple[int, ...] = (500, 850)

    def document(self, like: dict) -> dict:
        """A configuration of these sizes in the published form."""
        network = "['noisy_function_kwargs']"
        gnns = ("['points_to_mesh_model_ctor']", "['mesh_to_grid_model_ctor']")
        values: dict[str, Any] = {
            f"{network}['latent_dense_kwargs']['output_size']": self.latent,
            f"{network}['latent_dense_kwargs']['hidden_size']": self.hidden[0],
            f"{network}['latent_dense_kwargs']['num_hidden_layers']": len(self.hidden),
            f"{network}['output_dense_kwargs']['hidden_size']": self.output_hidden,
            f"{network}['norm_conditioning_latent_dense_kwargs']['output_size']": self.conditioning,
            "['noise']['non_batch_shape'][0][1]": self.noise,
            "['mesh_num_splits']": self.splits,
            "['aggregate_normalization']": self.divide,
            ".ball_query_radius_fraction": 0.8,
            ".pressure_levels[0]": self.levels[0],
            ".pressure_levels[1]": self.levels[1],
        }
        inner = f"{network}['mesh_model_ctor'].transformer_kwargs"
        transformer = {
            "attention_k_hop": self.hops,
            "d_model": self.latent,
            "num_heads": self.heads,
            "num_layers": self.layers,
            "ffw_hidden": self.ffw,
        }
        values |= {f"{inner}['{name}']": value for name, value in transformer.items()}
        for i, gnn in enumerate(gnns):
            values[f"{gnn}.dense_kwargs['output_size']"] = self.latent
            values[f"{gnn}.dense_kwargs['hidden_size']"] = self.message_hidden[i]
            values[f"{gnn}.edge_encoder_dense_kwargs['output_size']"] = self.edge[i]
            values[f"{gnn}.edge_encoder_dense_kwargs['hidden_size']"] = self.edge_hidden[i]
        document = edited(like, values)
        levels = next(
            node
            for node in document["objects"].values()
            if node.get("paths") == ["<root>.task.pressure_levels"]
        )
        del levels["items"][len(self.levels) :]
        return document

    def shapes(self, task: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all weights, written out from the published description."""
        m, found = "multimodality_forward/", {}
        n, c, by = self.latent, self.conditioning, ",".join(map(str, self.levels))

        def dense(path: str, n_in: int | None, hidden: tuple[int, ...], n_out: int) -> None:
            widths = [n_in, *hidden, n_out]
            for k, (i, o) in enumerate(itertools.pairwise(widths)):
                if i is not None:
                    found[f"{path}mlp/linear_{k}:w"] = (i, o)
                found[f"{path}mlp/linear_{k}:b"] = (o,)
            norm(f"{path}normalization/linear_norm_conditioning/linear", n_out)

        def norm(path: str, width: int) -> None:
            found[f"{path}:w"], found[f"{path}:b"] = (c, 2 * width), (2 * width,)

        def variable(name: str) -> tuple[str, int]:
            three = (
                "temperature",
                "geopotential",
                "u_component_of_wind",
                "v_component_of_wind",
                "vertical_velocity",
                "specific_humidity",
            )
            return (f"{name}_level={by}", len(self.levels)) if name in three else (name, 1)

        conditioning = f"{m}global_norm_conditioning_encoder/split_input_matmul:w_input_noise"
        found[f"{conditioning}_noise_channels=range({self.noise})"] = (self.noise, c)
        for encoder in ("grid_encoder", "mesh_encoder"):
            split = f"{m}{encoder}/split_input_matmul:w_"
            for role, names, times in (
                ("input", task.input_variables, (-21600, 0)),
                ("forcing", task.forcing_variables, (21600,)),
            ):
                for name in names:
                    if encoder == "mesh_encoder" and not name.startswith("year"):
                        continue
                    label, width = variable(name)
                    static = name in ("geopotential_at_surface", "land_sea_mask")
                    for t in ("",) if static else (f"_time={t}" for t in times):
                        found[f"{split}{role}_{label}{t}"] = (width, self.hidden[0])
            found[f"{split}spatial_feature=sin_lat,sin_lon,cos_lon"] = (3, self.hidden[0])
            dense(f"{m}{encoder}/shared_dense/", None, self.hidden, n)
        steps = (
            ("grid_to_mesh_gnn", "points_to_mesh_nodes", ("edge", "sender")),
            ("mesh_to_grid_gnn", "mesh_to_points_nodes", ("edge", "sender", "receiver")),
        )
        for i, (gnn, ends, reads) in enumerate(steps):
            path, hidden = f"{m}{gnn}/edge_encoder/", self.edge_hidden[i]
            edge = f"{path}split_input_matmul:w_spatial_feature=distance,rel_x,rel_y,rel_z"
            found[edge] = (4, hidden)
            dense(f"{path}shared_dense/", None, (hidden,), self.edge[i])
            path, hidden = f"{m}{gnn}/deep_gnn/processor_", self.message_hidden[i]
            for read in reads:
                width = self.edge[i] if read == "edge" else n
                found[f"{path}edges_0_{read}_{ends}:w"] = (width, hidden)
            dense(f"{path}edges_0_{ends}/", None, (hidden,), n)
            for nodes, width in (("mesh_nodes", 2 * n - i * n), ("point_nodes", n + i * n)):
                dense(f"{path}nodes_0_{nodes}/", width, (hidden,), n)
        path = f"{m}mesh_transformer/transformer/"
        for k in range(self.layers):
            block = f"{path}block_{k:02d}/"
            norm(f"{block}block_{k:02d}_norm_conditioning/linear", n)
            norm(f"{block}block_{k:02d}_norm_conditioning_1/linear", n)
            found |= {f"{block}mha_proj_{letter}:w": (n, n) for letter in "qkv"}
            for name, i, o in (
                ("mha_final", n, n),
                ("ffw_up", n, self.ffw),
                ("ffw_down", self.ffw, n),
            ):
                found[f"{block}{name}:w"], found[f"{block}{name}:b"] = (i, o), (o,)
        norm(f"{path}transformer_final_norm_conditioning/linear", n)
        path, o = f"{m}grid_decoder/", self.output_hidden
        found[f"{path}shared_dense/mlp/linear_0:w"] = (n, o)
        found[f"{path}shared_dense/mlp/linear_0:b"] = (o,)
        for name in task.target_variables:
            label, width = variable(name)
            found[f"{path}split_output_linear:w_{label}_time=21600"] = (o, width)
            found[f"{path}split_output_linear:b_{label}_time=21600"] = (width,)
        return found


def random_weights(shapes: dict[str, tuple[int, ...]], path: Path, seed: int = 0) -> dict:
    """Weights file of these names and shapes; the weights are given back, too."""
    rng = np.random.default_rng(seed)
    weights = {
        name: (rng.normal(size=shape) / np.sqrt(shape[0] if len(shape) > 1 else 4)).astype("f4")
        for name, shape in shapes.items()
    }
    texts = {"description": "random weights", "license": "no rights claimed"}
    with open(path, "wb") as file:
        np.savez(file, **{f"params:{k}": v for k, v in weights.items()}, **texts)
    return weights


def plain_network(
    weights: dict[str, np.ndarray],
    sizes: Sizes,
    channels: dict[str, np.ndarray],
    clocks: dict[str, np.ndarray],
    z: np.ndarray,
    graph: Any,
    targets: list[str],
) -> np.ndarray:
    """The network of one entry of the batch in float64 numpy, from the published equations.

    Independent of the module under test, which it uses for the graph only. ``channels`` and
    ``clocks`` hold the parts of the inputs by the names of their weights, (node, channel).
    """
    m = "multimodality_forward/"
    w = {name.removeprefix(m): np.asarray(value, np.float64) for name, value in weights.items()}
    c = z @ w[next(name for name in w if name.startswith("global_norm"))]

    def normal(x: np.ndarray, path: str) -> np.ndarray:
        a, d = np.split(c @ w[f"{path}:w"] + w[f"{path}:b"], 2)
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * (1 + a) + d

    def swish(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    def rest(x: np.ndarray, path: str) -> np.ndarray:
        """A perceptron after the product of its first layer."""
        x, k = x + w[f"{path}mlp/linear_0:b"], 1
        while f"{path}mlp/linear_{k}:w" in w:
            x = swish(x) @ w[f"{path}mlp/linear_{k}:w"] + w[f"{path}mlp/linear_{k}:b"]
            k += 1
        return normal(x, f"{path}normalization/linear_norm_conditioning/linear")

    def embedded(path: str, parts: dict[str, np.ndarray]) -> np.ndarray:
        first = sum(x @ w[f"{path}split_input_matmul:w_{name}"] for name, x in parts.items())
        return rest(first, f"{path}shared_dense/")

    def summed(gnn, ends, edges, senders, receivers, hears):
        e = embedded(
            f"{gnn}/edge_encoder/",
            {"spatial_feature=distance,rel_x,rel_y,rel_z": np.asarray(edges.features, np.float64)},
        )
        path = f"{gnn}/deep_gnn/processor_edges_0_"
        at = [np.asarray(end.node) for end in (edges.senders, edges.receivers)]
        first = e @ w[f"{path}edge_{ends}:w"] + (senders @ w[f"{path}sender_{ends}:w"])[at[0]]
        if hears:
            first = first + (receivers @ w[f"{path}receiver_{ends}:w"])[at[1]]
        total = np.zeros((len(receivers), sizes.latent))
        np.add.at(total, at[1], rest(first, f"{path}{ends}/"))
        return total

    def updated(path: str, *parts: np.ndarray) -> np.ndarray:
        return rest(np.concatenate(parts, -1) @ w[f"{path}mlp/linear_0:w"], path)

    spatial = "spatial_feature=sin_lat,sin_lon,cos_lon"
    features = [np.asarray(x, np.float64) for x in (graph.grid_features, graph.mesh_features)]
    grid = embedded("grid_encoder/", channels | {spatial: features[0]})
    mesh = embedded("mesh_encoder/", clocks | {spatial: features[1]})
    gnn = "grid_to_mesh_gnn"
    total = summed(gnn, "points_to_mesh_nodes", graph.grid2mesh, grid, mesh, False) / sizes.divide
    mesh = mesh + updated(f"{gnn}/deep_gnn/processor_nodes_0_mesh_nodes/", mesh, total)
    grid = grid + updated(f"{gnn}/deep_gnn/processor_nodes_0_point_nodes/", grid)

    near, seen = graph.near, np.zeros((len(mesh), len(mesh)), bool)
    block, query, key = np.nonzero(np.asarray(near.seen))
    seen[np.asarray(near.nodes)[block, query], np.asarray(near.keys)[block, key]] = True
    width = sizes.latent // sizes.heads
    for i in range(sizes.layers):
        path = f"mesh_transformer/transformer/block_{i:02d}/"
        x = normal(mesh, f"{path}block_{i:02d}_norm_conditioning/linear")
        q, k, v = (x @ w[f"{path}mha_proj_{letter}:w"] for letter in "qkv")
        heads = []
        for h in range(sizes.heads):
            own = slice(h * width, (h + 1) * width)
            logits = np.where(seen, q[:, own] @ k[:, own].T / np.sqrt(width), -np.inf)
            share = np.exp(logits - logits.max(-1, keepdims=True))
            heads.append(share / share.sum(-1, keepdims=True) @ v[:, own])
        mesh = mesh + np.concatenate(heads, -1) @ w[f"{path}mha_final:w"] + w[f"{path}mha_final:b"]
        x = normal(mesh, f"{path}block_{i:02d}_norm_conditioning_1/linear")
        x = x @ w[f"{path}ffw_up:w"] + w[f"{path}ffw_up:b"]
        x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        mesh = mesh + x @ w[f"{path}ffw_down:w"] + w[f"{path}ffw_down:b"]
    mesh = normal(mesh, "mesh_transformer/transformer/transformer_final_norm_conditioning/linear")

    gnn = "mesh_to_grid_gnn"
    total = summed(gnn, "mesh_to_points_nodes", graph.mesh2grid, mesh, grid, True)
    grid = grid + updated(f"{gnn}/deep_gnn/processor_nodes_0_point_nodes/", grid, total)
    path = "grid_decoder/shared_dense/mlp/linear_0"
    hidden = swish(grid @ w[f"{path}:w"] + w[f"{path}:b"])
    columns = []
    for name in sorted(targets):
        (at,) = (k for k in w if k.startswith(f"grid_decoder/split_output_linear:w_{name}_"))
        column = hidden @ w[at] + w[at.replace(":w_", ":b_")]
        if name == "cyclone_exists_gaussian_unit_mode":
            column = 1 / (1 + np.exp(2 - column))
        columns.append(column)
    return np.concatenate(columns, -1)
