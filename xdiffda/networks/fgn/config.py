"""The configuration that is published with FGN's weights: JSON, read as data.

The file is a serialised graph of objects, which the published code builds by importing and
calling what it names.  Here nothing is imported or called: the graph is laid out as a flat
table (path in the graph -> value), every entry that this package knows is taken out of it, and
what is missing, of another type, or left over is refused by its path.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from xdiffda.errors import ModelError, StorageError
from xdiffda.networks.graphcast.checkpoint import REPAIR, TaskConfig, read_task, take_setting

_NETWORK = "predictor_kwargs:noisy_function_kwargs"
_LOSS = "predictor_kwargs:fgn_loss_function_kwargs"
_STATISTICS = {
    "mean": "mean_by_level",
    "stddev": "stddev_by_level",
    "diffs_stddev": "diffs_stddev_by_level",
}
_MOST_VALUES = 1_000_000  # a published file has some ten thousand
_ITEM = re.compile(r"(?:Attr|Key|Index)\((?:name|key|index)=(.*)\)", re.DOTALL)
_REQUIRED = object()


@dataclass(frozen=True)
class MessageConfig:
    """One step of message passing between grid and mesh.

    Parameters
    ----------
    hidden
        Widths of the hidden layers of messages and nodes.
    edge_hidden, edge_width
        Widths of the edges' own embedding: hidden layers, and what it gives.
    hears_receiver
        Whether messages depend on the node that they go to.
    divide_sums
        Constant by which sums of messages are divided.
    """

    hidden: tuple[int, ...]
    edge_hidden: tuple[int, ...]
    edge_width: int
    hears_receiver: bool = True
    divide_sums: float = 1.0


@dataclass(frozen=True)
class Architecture:
    """Sizes of network and mesh.

    Parameters
    ----------
    latent
        Width of all nodes, on the grid, on the mesh and in the transformer.
    hidden
        Widths of the hidden layers that embed the nodes.
    grid2mesh, mesh2grid
        The two steps of message passing.
    output_hidden
        Widths of the layers before the outputs.
    noise
        Name of the noise, and of its dimension, in the weights.
    noise_channels, conditioning_width
        Numbers that are drawn for a member and step; what they are mapped to.
    layers, heads, ffw_hidden, hops
        Of the transformer; a node attends to all within so many edges.
    mesh_size
        How often the icosahedron is split.
    radius_fraction
        Radius of the edges from grid to mesh, in longest edges of the mesh.
    shifted_sigmoids
        Outputs that are a sigmoid of the last layer, with the shift added before it.

    Raises
    ------
    ValueError
        If a size is not one that a network can have.
    """

    latent: int
    hidden: tuple[int, ...]
    grid2mesh: MessageConfig
    mesh2grid: MessageConfig
    output_hidden: tuple[int, ...]
    noise: tuple[str, str]
    noise_channels: int
    conditioning_width: int
    layers: int
    heads: int
    ffw_hidden: int
    hops: int
    mesh_size: int
    radius_fraction: float
    shifted_sigmoids: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        sizes: dict[str, tuple[int, ...]] = {
            name: (getattr(self, name),)
            for name in (
                "latent",
                "noise_channels",
                "conditioning_width",
                "layers",
                "heads",
                "ffw_hidden",
            )
        } | {"hidden": self.hidden, "output_hidden": self.output_hidden}
        wrong = []
        for name in ("grid2mesh", "mesh2grid"):
            step = getattr(self, name)
            for part in ("hidden", "edge_hidden"):
                sizes[f"{name}.{part}"] = getattr(step, part)
            sizes[f"{name}.edge_width"] = (step.edge_width,)
            if not (0 < step.divide_sums < math.inf):
                wrong.append(f"{name}.divide_sums must be > 0, got {step.divide_sums}")
        for name, widths in sizes.items():
            if not widths:
                wrong.append(f"{name} must have one layer or more")
            elif min(widths) < 1:
                wrong.append(f"{name} must be 1 or more, got {min(widths)}")
        if self.heads > 0 and self.latent % self.heads:
            wrong.append(f"heads must divide latent, got {self.heads} and {self.latent}")
        if not (0 < self.radius_fraction < math.inf):
            wrong.append(f"radius_fraction must be > 0, got {self.radius_fraction}")
        if wrong:
            raise ValueError("Architecture: " + "; ".join(wrong))


@dataclass(frozen=True, eq=False)
class Configuration:
    """The contents of a configuration file: task, architecture and statistics.

    Parameters
    ----------
    task
        Variables, levels and frames.
    architecture
        Sizes.
    mean, stddev, diffs_stddev
        Statistics by level, of these and of other variables.
    fill
        What takes the place of NaN in inputs that have gaps, by variable.
    loss_weights
        Of variables in the training loss; 1 for those not named.
    gaps_in_targets
        Targets whose NaN count as zero loss.
    """

    task: TaskConfig
    architecture: Architecture
    mean: xr.Dataset
    stddev: xr.Dataset
    diffs_stddev: xr.Dataset
    fill: xr.Dataset
    loss_weights: Mapping[str, float]
    gaps_in_targets: tuple[str, ...]


def read_config(path: str | os.PathLike[str]) -> Configuration:
    """Read the JSON that is published beside FGN's weights; nothing in it is executed.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    StorageError
        If the file cannot be read as JSON.
    ModelError
        If entries are missing, unknown, of another type, or of another kind of network; lists
        all of them by their paths.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise StorageError(f"cannot read {path} as a configuration: {text}; {REPAIR}") from error
    try:
        entries = _Entries(_table(document))
    except (KeyError, TypeError, ValueError, SyntaxError, RecursionError) as error:
        text = f"no graph of objects as published ({type(error).__name__}: {error})"
        raise _damaged(path, [text[:300]]) from error
    wrong = entries.wrong
    task = read_task(entries.table, wrong, prefix="task")
    found = _architecture(entries)
    statistics, fill = _wrappers(entries)
    weights, gaps = _loss(entries)
    for name, kind in (("", "PredictorConfig"), ("task:", "TaskConfig")):
        entries.reference(f"{name}fn_or_cls", kind)
    entries.reference("predictor_constructor", "Predictor")
    wrong += [f"unknown entry {key}" for key in entries.table]
    if task is not None:
        moved = {name for name, _ in found["shifted_sigmoids"]}
        if strange := sorted(moved - {*task.target_variables}):
            wrong.append(f"{_NETWORK}:per_var_activation_fns: {', '.join(strange)} is no target")
    if wrong or task is None:
        raise _damaged(path, wrong)
    try:
        architecture = Architecture(**found)
    except ValueError as error:  # sizes that no network has
        raise _damaged(path, [str(error)]) from error
    return Configuration(
        task, architecture, **statistics, fill=fill, loss_weights=weights, gaps_in_targets=gaps
    )


@dataclass(frozen=True)
class _Reference:
    """A function or class that the published code would import: here a name."""

    name: str


class _Fields(dict):
    """The arrays and coordinates from which a Dataset is built."""


def _table(document: Any) -> dict[str, Any]:
    """The graph of objects as path -> value; lists and mappings are part of the path.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is no such graph, or an object contains itself.
    """
    objects, done, pending = document["objects"], {}, set()

    def resolved(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        kind = node["type"]
        if kind == "leaf":
            return node["value"]
        if kind == "pyref":
            return _Reference(node["name"].rpartition(".")[2])
        if kind != "ref":
            return built(node)
        key = node["key"]
        if key in pending:
            raise ValueError(f"the object {key} contains itself")
        if key not in done:
            pending.add(key)
            done[key] = built(objects[key])
            pending.discard(key)
        return done[key]

    def built(node: dict[str, Any]) -> Any:
        name = node["type"]["name"]
        items = {}
        for text, value in node["items"]:
            match = _ITEM.fullmatch(text)
            if match is None:
                raise ValueError(f"item {text!r}")
            items[ast.literal_eval(match[1])] = resolved(value)
        if name in ("tuple", "list"):
            return list(items.values())
        if name in ("Config", "Partial"):
            told = node["metadata"]
            told = objects[told["key"]] if told["type"] == "ref" else told
            return {"fn_or_cls": resolved(dict(told["items"])["Attr(name='fn_or_cls')"]), **items}
        if name == "Dataset":
            return _Fields(items["data"])
        if name != "dict":
            raise ValueError(f"an object of type {name}")
        return items

    table: dict[str, Any] = {}

    def lay_out(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict | list) and not isinstance(value, _Fields):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                lay_out(part, (*path, str(key)))
        else:
            table[":".join(path)] = value
            if len(table) > _MOST_VALUES:
                raise ValueError(f"more than {_MOST_VALUES} values")

    lay_out(resolved(document["root"]), ())
    return table


class _Entries:
    """A table that entries are taken out of, and what was wrong with them."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table
        self.wrong: list[str] = []

    def take(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        """Take one value of this type; None if it is invalid."""
        if default is not _REQUIRED and self.table.get(key) is None:
            self.table.pop(key, None)
            return default
        if key not in self.table:
            self.wrong.append(f"missing {key}")
            return None
        return take_setting(self.table, key, kind, self.wrong)

    def only(self, key: str, needed: Any) -> None:
        """An entry that has one value in all networks of this kind."""
        if key not in self.table:
            self.wrong.append(f"missing {key}")
            return
        found = self.table.pop(key)
        if type(found) is not type(needed) or found != needed:
            self.wrong.append(f"{key} is {found!r}; only {needed!r} is known")

    def reference(self, key: str, needed: str) -> None:
        """A function or class that has to be this one."""
        self.only(key, _Reference(needed))

    def idle(self, prefix: str, **kinds: type) -> None:
        """Entries that change no number; they may be absent."""
        for name, kind in kinds.items():
            self.take(f"{prefix}:{name}", kind, None)

    def numbers(self, prefix: str) -> list[str]:
        """Keys of the entries of a list of single values, in order."""
        found = [k for k in self.table if re.fullmatch(rf"{re.escape(prefix)}:\d+", k)]
        return sorted(found, key=lambda key: int(key.rpartition(":")[2]))

    def names(self, prefix: str) -> list[str]:
        """Keys directly under a mapping or list."""
        under = [k.removeprefix(f"{prefix}:") for k in self.table if k.startswith(f"{prefix}:")]
        return list(dict.fromkeys(name.partition(":")[0] for name in under))


def _layers(entries: _Entries, key: str) -> tuple[int, ...]:
    """Widths of hidden layers."""
    entries.only(f"{key}:activation", "swish")
    entries.only(f"{key}:activate_final", False)
    width = entries.take(f"{key}:hidden_size", int)
    number = entries.take(f"{key}:num_hidden_layers", int)
    return (width or 0,) * (number or 0)


def _dense(entries: _Entries, key: str) -> tuple[tuple[int, ...], int | None]:
    """Widths of a perceptron with conditioned normalisation: hidden layers, and output."""
    entries.only(f"{key}:activation_normalization", "layer_norm")
    entries.only(f"{key}:activation_normalization_kwargs:use_norm_conditioning", True)
    entries.idle(key, remat=bool)
    return _layers(entries, key), entries.take(f"{key}:output_size", int)


def _messages(
    entries: _Entries, key: str, name: str, connectivity: str, to_mesh: bool
) -> tuple[MessageConfig, int | None]:
    """A step of message passing, and the width of its nodes."""
    entries.reference(f"{key}:fn_or_cls", "PointsMeshTypedGraphGNN")
    entries.reference(f"{key}:connectivity_type", connectivity)
    entries.only(f"{key}:name", name)
    entries.only(f"{key}:is_points_to_mesh", to_mesh)
    entries.only(f"{key}:is_mesh_to_points", not to_mesh)
    for feature in (
        "add_scalar_distances",
        "add_vector_distances",
        "relative_latitude_vectors",
        "relative_longitude_vectors",
    ):
        entries.only(f"{key}:spatial_edge_features_kwargs:{feature}", True)
    gnn = f"{key}:deep_gnn_kwargs"
    entries.only(f"{gnn}:num_message_passing_steps", 1)
    entries.only(f"{gnn}:pre_gather_matmul", True)
    # nothing reads the edges after the only step, so their residuals change no number
    entries.idle(
        gnn,
        use_edge_residuals=bool,
        f32_aggregation=bool,
        remat_block_size=int,
        edge_update_remat_block_size=int,
    )
    edge_hidden, edge_width = _dense(entries, f"{key}:edge_encoder_dense_kwargs")
    hidden, width = _dense(entries, f"{key}:dense_kwargs")
    hears = entries.take(f"{gnn}:gather_from_receivers", bool, True)
    divide = entries.take(f"{gnn}:aggregate_normalization", float, 1.0)
    step = MessageConfig(hidden, edge_hidden, edge_width or 0, bool(hears), float(divide or 0))
    return step, width


def _architecture(entries: _Entries) -> dict[str, Any]:
    """What `Architecture` is made of; of no use where something was wrong."""
    found: dict[str, Any] = {}
    entries.reference("predictor_kwargs:noisy_function_constructor", "ForwardPass")
    for feature in ("add_sin_latitude", "add_sin_longitude", "add_cos_longitude"):
        entries.only(f"{_NETWORK}:spatial_features_kwargs:{feature}", True)
    found["hidden"], latent = _dense(entries, f"{_NETWORK}:latent_dense_kwargs")
    widths = {"latent_dense_kwargs:output_size": latent}
    steps = {
        "grid2mesh": (
            "points_to_mesh_model_ctor",
            "{points_name}_to_{mesh_name}_gnn",
            "BALL_QUERY",
            True,
        ),
        "mesh2grid": (
            "mesh_to_grid_model_ctor",
            "{mesh_name}_to_{points_name}_gnn",
            "IN_TRIANGLE",
            False,
        ),
    }
    for name, (key, *told) in steps.items():
        found[name], width = _messages(entries, f"{_NETWORK}:{key}", *told)
        widths[f"{key}:dense_kwargs:output_size"] = width
    ball = f"{_NETWORK}:points_to_mesh_model_ctor:ball_query_radius_fraction"
    found["radius_fraction"] = entries.take(ball, float)
    found["output_hidden"] = _layers(entries, f"{_NETWORK}:output_dense_kwargs")
    found["mesh_size"] = entries.take(f"{_NETWORK}:mesh_num_splits", int)

    mesh = f"{_NETWORK}:mesh_model_ctor"
    entries.reference(f"{mesh}:fn_or_cls", "MeshSparseTransformer")
    entries.only(f"{mesh}:name", "{mesh_name}_transformer")
    inner = f"{mesh}:transformer_kwargs"
    widths["mesh_model_ctor:transformer_kwargs:d_model"] = entries.take(f"{inner}:d_model", int)
    for ours, theirs in (
        ("layers", "num_layers"),
        ("heads", "num_heads"),
        ("ffw_hidden", "ffw_hidden"),
        ("hops", "attention_k_hop"),
    ):
        found[ours] = entries.take(f"{inner}:{theirs}", int)
    tiles = (
        "block_q",
        "block_kv",
        "block_kv_compute",
        "block_q_dkv",
        "block_kv_dkv",
        "block_kv_dkv_compute",
    )
    entries.idle(
        inner,
        **dict.fromkeys(tiles, int),
        attention_type=str,
        mask_type=str,
        attn_winit_final_mult=float,
        ffw_winit_final_mult=float,
        upcast_attn_to_fp32=bool,
    )
    if None not in widths.values() and len({*widths.values()}) > 1:
        told = ", ".join(f"{key} {width}" for key, width in widths.items())
        entries.wrong.append(f"{_NETWORK}: one width of all nodes is needed, found {told}")
    found["latent"] = latent
    return found | _noise(entries) | {"shifted_sigmoids": _sigmoids(entries)}


def _noise(entries: _Entries) -> dict[str, Any]:
    """The noise that tells members apart, and what it is mapped to."""
    entries.reference("predictor_kwargs:noise_generator_constructor", "gaussian_noise_generator")
    dense = f"{_NETWORK}:norm_conditioning_latent_dense_kwargs"
    entries.only(f"{dense}:num_hidden_layers", 0)
    entries.only(f"{dense}:activation_normalization", None)
    entries.only(f"{dense}:activate_final", False)
    entries.only(f"{dense}:with_bias", False)
    entries.idle(dense, hidden_size=int, activation=str)
    width = entries.take(f"{dense}:output_size", int)
    name = entries.take(f"{_NETWORK}:norm_conditioning_features:0", str)
    noise = f"predictor_kwargs:noise_generator_kwargs:noise_var_dict:{name}"
    entries.only(f"{noise}:source", "input")
    dim = entries.take(f"{noise}:non_batch_shape:0:0", str)
    number = entries.take(f"{noise}:non_batch_shape:0:1", int)
    return {"noise": (name, dim), "noise_channels": number, "conditioning_width": width}


def _sigmoids(entries: _Entries) -> tuple[tuple[str, float], ...]:
    """Outputs that pass through a sigmoid, and how they are moved before."""
    prefix, found = f"{_NETWORK}:per_var_activation_fns", {}
    for name in entries.names(prefix):
        entries.reference(f"{prefix}:{name}:0", "shifted_activation")
        entries.reference(f"{prefix}:{name}:1:activation_fn", "sigmoid")
        key = f"{prefix}:{name}:1:input_offset"
        moved = entries.table.pop(key, None)
        if isinstance(moved, bool) or not isinstance(moved, int | float):
            entries.wrong.append(f"{key} is {moved!r}, not a number" if moved else f"missing {key}")
        elif not math.isfinite(moved):
            entries.wrong.append(f"{key} is {moved!r}, not a finite number")
        else:
            found[name] = float(moved)
    return tuple(sorted(found.items()))


def _wrappers(entries: _Entries) -> tuple[dict[str, xr.Dataset], xr.Dataset]:
    """Statistics, and what fills gaps: from what the published code wraps the network in."""
    prefix, fill = "predictor_wrappers", xr.Dataset()
    statistics = dict.fromkeys(_STATISTICS, xr.Dataset())
    names = [
        getattr(entries.table.get(f"{prefix}:{i}:constructor"), "name", None)
        for i in entries.names(prefix)
    ]
    cleaners = [name for name in names if name == "NaNCleaner"]
    needed = ["InputsAndResiduals", *cleaners, "Predictor", "WithSampleDim"]
    if names != needed:
        entries.wrong.append(f"{prefix} are {names}; only {needed} are known")
    for i, name in enumerate(names):
        entries.table.pop(f"{prefix}:{i}:constructor", None)
        kwargs = f"{prefix}:{i}:kwargs"
        if name == "InputsAndResiduals":
            for role, key in _STATISTICS.items():
                statistics[role] = _dataset(entries, f"{kwargs}:{key}")
        elif name == "NaNCleaner":
            entries.only(f"{kwargs}:reintroduce_nans", True)
            variable = entries.take(f"{kwargs}:var_to_clean", str)
            values = _dataset(entries, f"{kwargs}:fill_value")
            if variable is not None and variable not in values:
                entries.wrong.append(f"missing {variable} in {kwargs}:fill_value")
            elif variable is not None:
                fill = fill.merge(values[[variable]])
        else:
            entries.idle(kwargs, gradient_checkpointing=bool, num_samples=int)
    return statistics, fill


def _dataset(entries: _Entries, key: str) -> xr.Dataset:
    """A Dataset of numbers, each a scalar or on ``level``."""
    if key not in entries.table:
        entries.wrong.append(f"missing {key}")
        return xr.Dataset()
    value = entries.table.pop(key)
    if not isinstance(value, _Fields):
        entries.wrong.append(f"{key} is {str(value)[:60]!r}, not a Dataset")
        return xr.Dataset()
    try:
        ds = xr.Dataset.from_dict(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        entries.wrong.append(f"{key} is no Dataset: {str(error)[:200]}")
        return xr.Dataset()
    bad = [str(v) for v in ds.variables if ds[v].dtype.kind not in "iuf"]
    bad += [str(v) for v in ds if not {*ds[v].dims} <= {"level"}]
    if bad:
        entries.wrong.append(f"{key}: {', '.join(sorted({*bad}))} must be numbers, by level or one")
        return xr.Dataset()
    return ds.astype("float64")


def _loss(entries: _Entries) -> tuple[dict[str, float], tuple[str, ...]]:
    """Weights of variables in the training loss, and targets whose gaps count as zero."""
    entries.only(f"{_LOSS}:loss_for_nan_targets", 0.0)
    prefix = f"{_LOSS}:per_variable_weights"
    weights = {v: entries.take(f"{prefix}:{v}", float) for v in entries.names(prefix)}
    gaps = [entries.take(key, str) for key in entries.numbers(f"{_LOSS}:vars_with_nan_targets")]
    return weights, tuple(str(name) for name in gaps)


def _damaged(path: str | os.PathLike[str], wrong: list[str]) -> ModelError:
    lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(wrong, start=1))
    return ModelError(f"{path} is not a usable FGN configuration:\n{lines}\n{REPAIR}")
