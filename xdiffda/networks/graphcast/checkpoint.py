"""Checkpoints of the published models: a plain `.npz`, read and written without pickle."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from xdiffda.errors import ModelError, StorageError
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.layers import Block
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig

# The entries of a checkpoint file, read without pickle: weights, settings and texts.

REPAIR = "repair: delete it and bring it here again (a published one: `xdiffda fetch NAME`)"
# what a setting may be, beside being absent
_KINDS = {
    int: ("iu", "a whole number"),
    float: ("iuf", "a number"),
    str: ("U", "a text"),
    bool: ("b", "true or false"),
}
# counts beyond which a file is damaged for certain; to build what they say would take all memory
MOST = {
    "mesh_size": 9,
    "latent_size": 2**14,
    "d_model": 2**14,
    "ffw_hidden": 2**17,
    "gnn_msg_steps": 1024,
    "num_layers": 1024,
    "hidden_layers": 64,
    "num_heads": 1024,
    "attention_k_hop": 1024,
    "num_frequencies": 2**14,
    "num_noise_levels": 10**6,
    "mesh_num_splits": 9,
    "output_size": 2**14,
    "hidden_size": 2**14,
    "num_hidden_layers": 64,
}


def read_entries(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All arrays of a ``.npz``; nothing in it executes when it is read.

    Raises
    ------
    StorageError
        If it is none, or damaged, or holds Python objects.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, no archive of them (.npz)")
        with file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # damage shows in many ways: zip, zlib, headers, sizes
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise StorageError(f"cannot read {path} as a checkpoint: {text}; {REPAIR}") from error


def take_text(entries: dict[str, Any], name: str) -> str:
    """A text that may be absent."""
    return str(entries.pop(name, ""))


def take_setting(entries: dict[str, Any], key: str, kind: type, wrong: list[str]) -> Any:
    """Take one value out of the entries; an invalid one is None and is named in ``wrong``."""
    value = np.asarray(entries.pop(key))
    letters, words = _KINDS[kind]
    most = MOST.get(key.rpartition(":")[2], float("inf")) if kind is int else float("inf")
    if value.size != 1 or value.dtype.kind not in letters:
        found = f"{value.dtype} of shape {value.shape}" if value.size != 1 else repr(value.item())
        wrong.append(f"{key} is {found}, not {words}")
    elif kind in (int, float) and not 0 <= value.item() <= most:
        limit = "0 or more" if most == float("inf") else f"0 to {most}"
        wrong.append(f"{key} is {value.item()}, not {limit}")
    else:
        return value.item()
    return None


def weight_problems(
    weights: Mapping[str, Any], needed: Mapping[str, Any], optional: Mapping[str, Any]
) -> list[str]:
    """What is wrong with weights, by the names and shapes they should have."""
    wrong = []
    for name, leaf in {**needed, **optional}.items():
        if name not in weights:
            wrong += [f"missing params:{name}"] if name in needed else []
        elif weights[name].shape != leaf.shape:
            shapes = f"{weights[name].shape}, the configuration {leaf.shape}"
            wrong.append(f"params:{name} has shape {shapes}")
        elif not np.issubdtype(weights[name].dtype, np.floating):
            wrong.append(f"params:{name} holds {weights[name].dtype}, not floating-point numbers")
        elif not np.isfinite(weights[name]).all():
            wrong.append(f"params:{name} holds values that are not finite")
    return wrong + [f"unknown params:{k}" for k in weights if k not in needed and k not in optional]


def weights_of(entries: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights by their names."""
    named = {k.removeprefix("params:"): v for k, v in entries.items() if k.startswith("params:")}
    return {name: np.asarray(value) for name, value in named.items()}


def leaves_of(weights: Mapping[str, np.ndarray], names: Sequence[str]) -> list[Array]:
    """Weights as a network holds them: never in half precision, whatever order their bytes have."""
    wide = {name: np.float64 if weights[name].dtype.itemsize > 4 else np.float32 for name in names}
    return [jnp.asarray(weights[name].astype(wide[name], copy=False)) for name in names]


_LIST_FIELDS = ("input_variables", "target_variables", "forcing_variables", "pressure_levels")
_BUILDER = "/~_networks_builder/"
_ENCODER, _PROCESSOR, _DECODER = (
    name + _BUILDER for name in ("grid2mesh_gnn", "mesh_gnn", "mesh2grid_gnn")
)
# The decoder's update of the mesh nodes is stored with the weights, but nothing reads it.
_UNUSED = _DECODER + "processor_nodes_0_mesh_nodes"


@dataclass(frozen=True)
class TaskConfig:
    """What a network was trained to do: variables in and out, levels, frames.

    Parameters
    ----------
    input_variables, target_variables, forcing_variables
        Names as in the Datasets.
    pressure_levels
        In hPa, in channel order.
    input_duration
        Time spanned by the input frames, 6 h for each: 12h is two frames.
    """

    input_variables: tuple[str, ...]
    target_variables: tuple[str, ...]
    forcing_variables: tuple[str, ...]
    pressure_levels: tuple[int, ...]
    input_duration: str = "12h"

    @property
    def n_frames(self) -> int:
        """Number of input times, 6 h apart."""
        import pandas as pd

        return round(pd.to_timedelta([self.input_duration]).total_seconds()[0] / (6 * 3600))


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of network and mesh, under the names of the file format."""

    resolution: float
    mesh_size: int
    latent_size: int
    gnn_msg_steps: int
    hidden_layers: int
    radius_query_fraction_edge_length: float = 0.6
    mesh2grid_edge_normalization_factor: float | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything a checkpoint file holds."""

    net: GraphCast
    task: TaskConfig
    config: ModelConfig
    description: str = ""
    license: str = ""
    # Weights of the format that no output depends on, kept so that they can be written back.
    unused: Mapping[str, np.ndarray] = field(default_factory=dict)


@with_own_jax
def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint in the format of the published GraphCast models.

    Raises
    ------
    StorageError
        If the file cannot be read.
    ModelError
        If entries are missing, unknown or of the wrong shape; lists all of them.
    """
    entries, wrong = read_entries(path), []
    task = read_task(entries, wrong)
    config = _read_config(entries, wrong)
    texts = {name: take_text(entries, name) for name in ("description", "license")}
    if task is None or config is None:
        raise _damaged(path, wrong)
    weights = weights_of(entries)
    wrong += [f"unknown entry {k}" for k in entries if not k.startswith("params:")]
    try:
        net, unused = _read_network(weights, config, wrong)
    except ValueError as error:  # sizes that no network has
        raise _damaged(path, [*wrong, str(error)]) from error
    if wrong:
        raise _damaged(path, wrong)
    return Checkpoint(net, task, config, texts["description"], texts["license"], unused)


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint that the published code and `read_checkpoint` can read.

    An existing file is replaced only when the new one is complete.

    Raises
    ------
    ModelError
        If the network has conditional layer normalisation, which the format cannot hold.
    StorageError
        If the file cannot be written.
    """
    net = checkpoint.net
    if net.config.conditioning_width:
        raise ModelError(
            "found a network with conditional layer normalisation; needed one without: "
            "the official format has no place for it"
        )
    entries: dict[str, np.ndarray] = {}
    blocks = dict(_blocks(net))
    for name, block in blocks.items():
        entries |= {f"params:{k}": np.asarray(v) for k, v in _arrays(name, block).items()}
    unused = dict(checkpoint.unused) or _default_unused(net.config)
    entries |= {f"params:{name}": np.asarray(value) for name, value in unused.items()}
    for item in fields(ModelConfig):
        value = getattr(checkpoint.config, item.name)
        if value is not None:
            entries[f"model_config:{item.name}"] = np.asarray(value)
    for name in _LIST_FIELDS:
        values = enumerate(getattr(checkpoint.task, name))
        entries |= {f"task_config:{name}:{i}": np.asarray(value) for i, value in values}
    entries["task_config:input_duration"] = np.asarray(checkpoint.task.input_duration)
    entries["description"] = np.asarray(checkpoint.description)
    entries["license"] = np.asarray(checkpoint.license)
    _write(Path(path), entries)


def _write(path: Path, entries: Mapping[str, np.ndarray]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **entries)  # pyright: ignore[reportArgumentType]
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def read_task(
    entries: dict[str, Any], wrong: list[str], *, prefix: str = "task_config"
) -> TaskConfig | None:
    """The task, taken out of the entries; None, and more in ``wrong``, if it is not whole."""
    n_wrong = len(wrong)
    lists: dict[str, tuple] = {}
    for name in _LIST_FIELDS:
        kind = int if name == "pressure_levels" else str
        pattern = re.compile(rf"{prefix}:{name}:(\d+)")
        found = {int(m[1]): k for k in entries if (m := pattern.fullmatch(k))}
        if sorted(found) != list(range(len(found))):
            wrong.append(f"{prefix}:{name} has gaps: {sorted(found)}")
        lists[name] = tuple(take_setting(entries, found[i], kind, wrong) for i in sorted(found))
    if not lists["target_variables"]:
        wrong.append(f"missing {prefix}:target_variables:0")
    key, duration = f"{prefix}:input_duration", None
    if key not in entries:
        wrong.append(f"missing {key}")
    elif (duration := take_setting(entries, key, str, wrong)) is not None:
        wrong += [] if _is_duration(duration) else [f"{key} is {duration!r}, not a time as 12h"]
    return None if len(wrong) > n_wrong else TaskConfig(**lists, input_duration=str(duration))


def _is_duration(text: str) -> bool:
    import pandas as pd

    try:
        return bool(pd.to_timedelta([text]).total_seconds()[0] > 0)
    except ValueError:
        return False


def _read_config(entries: dict[str, Any], wrong: list[str]) -> ModelConfig | None:
    values, n_wrong = {}, len(wrong)
    for item in fields(ModelConfig):
        key, kind = f"model_config:{item.name}", int if item.type == "int" else float
        if key in entries:
            values[item.name] = take_setting(entries, key, kind, wrong)
        elif item.name != "mesh2grid_edge_normalization_factor":
            wrong.append(f"missing {key}")
    return None if len(wrong) > n_wrong else ModelConfig(**values)


def _read_network(
    weights: dict[str, np.ndarray], config: ModelConfig, wrong: list[str]
) -> tuple[GraphCast, dict[str, np.ndarray]]:
    """The network with these weights, and the weights it has no use for."""
    first = weights.get(f"{_ENCODER}encoder_nodes_grid_nodes_mlp/~/linear_0:w")
    last = weights.get(f"{_DECODER}decoder_nodes_grid_nodes_mlp/~/linear_{config.hidden_layers}:b")
    sizes = NetworkConfig(
        # Any size will do where the entry is missing: it is reported below.
        n_inputs=4 if first is None or first.ndim != 2 else max(first.shape[0] - 3, 1),
        n_outputs=1 if last is None or last.ndim != 1 else max(len(last), 1),
        latent=config.latent_size,
        processor_steps=config.gnn_msg_steps,
        hidden_layers=config.hidden_layers,
    )
    template = eqx.filter_eval_shape(GraphCast, sizes, key=jax.random.key(0))
    known = dict(_blocks(template))
    needed = {k: v for name, block in known.items() for k, v in _arrays(name, block).items()}
    unused_shapes = _default_unused(sizes)
    wrong += weight_problems(weights, needed, unused_shapes)
    unused = {k: weights[k] for k in unused_shapes if k in weights}
    if wrong:
        return template, unused
    leaves = leaves_of(weights, list(needed))
    net = eqx.tree_at(
        lambda tree: [v for name, b in _blocks(tree) for v in _arrays(name, b).values()],
        template,
        leaves,
    )
    return net, unused


def _blocks(net: GraphCast) -> Iterator[tuple[str, Block]]:
    """The blocks of a network under their names in the file format."""
    encoder, processor, decoder = net.encoder, net.processor, net.decoder
    yield _ENCODER + "encoder_edges_grid2mesh", encoder.edge_embed
    yield _ENCODER + "encoder_nodes_grid_nodes", encoder.grid_embed
    yield _ENCODER + "encoder_nodes_mesh_nodes", encoder.mesh_embed
    yield _ENCODER + "processor_edges_0_grid2mesh", encoder.step.edge
    yield _ENCODER + "processor_nodes_0_grid_nodes", encoder.grid_update
    yield _ENCODER + "processor_nodes_0_mesh_nodes", encoder.step.node
    yield _PROCESSOR + "encoder_edges_mesh", processor.edge_embed
    for i, step in enumerate(processor.steps):
        yield f"{_PROCESSOR}processor_edges_{i}_mesh", step.edge
        yield f"{_PROCESSOR}processor_nodes_{i}_mesh_nodes", step.node
    yield _DECODER + "encoder_edges_mesh2grid", decoder.edge_embed
    yield _DECODER + "processor_edges_0_mesh2grid", decoder.step.edge
    yield _DECODER + "processor_nodes_0_grid_nodes", decoder.step.node
    yield _DECODER + "decoder_nodes_grid_nodes", decoder.output


def _arrays(name: str, block: Block) -> dict:
    """The arrays of a block under their names in the file format."""
    arrays = {}
    for k, layer in enumerate(block.layers):
        arrays[f"{name}_mlp/~/linear_{k}:w"] = layer.weight
        arrays[f"{name}_mlp/~/linear_{k}:b"] = layer.bias
    if block.norm is not None:
        arrays[f"{name}_layer_norm:scale"] = block.norm.scale
        arrays[f"{name}_layer_norm:offset"] = block.norm.offset
    return arrays


def _default_unused(config: NetworkConfig) -> dict[str, np.ndarray]:
    """The weights no output depends on, as zeros: the published code expects to find them."""
    width, arrays = config.latent, {}
    for k in range(config.hidden_layers + 1):
        arrays[f"{_UNUSED}_mlp/~/linear_{k}:w"] = np.zeros((width, width), np.float32)
        arrays[f"{_UNUSED}_mlp/~/linear_{k}:b"] = np.zeros(width, np.float32)
    arrays[f"{_UNUSED}_layer_norm:scale"] = np.ones(width, np.float32)
    arrays[f"{_UNUSED}_layer_norm:offset"] = np.zeros(width, np.float32)
    return arrays


def _damaged(path: str | os.PathLike[str], wrong: list[str]) -> ModelError:
    lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(wrong, start=1))
    return ModelError(f"{path} is not a usable GraphCast checkpoint:\n{lines}\n{REPAIR}")
