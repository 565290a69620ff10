"""Weights of the published FGN models: a plain `.npz`, read and written without pickle.

The file holds weights alone; task and sizes stand in the configuration beside it.  Which
variables have levels, and which change with time, is read off the names of the weights.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from xdiffda.errors import ModelError
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.fgn.config import Architecture, Configuration, read_config
from xdiffda.networks.fgn.network import FGN, N_STRUCTURAL, NetworkConfig
from xdiffda.networks.gencast.checkpoint import folded, neutral_norms, transformer_arrays
from xdiffda.networks.graphcast.checkpoint import (
    REPAIR,
    TaskConfig,
    _write,
    leaves_of,
    read_entries,
    take_text,
    weight_problems,
    weights_of,
)
from xdiffda.networks.graphcast.layers import Block, LayerNorm
from xdiffda.state.variables import VARIABLES

STEP = 6 * 3600  # seconds
_M = "multimodality_forward/"
_GRID, _MESH, _DECODER = (
    f"{_M}{name}/" for name in ("grid_encoder", "mesh_encoder", "grid_decoder")
)
_SPLIT, _DENSE = "split_input_matmul:w_", "shared_dense/"
_OUT = "split_output_linear:"
_NODES = "spatial_feature=sin_lat,sin_lon,cos_lon"
_EDGES = "spatial_feature=distance,rel_x,rel_y,rel_z"
# The same everywhere, whatever the names of the weights say.
_CLOCKS = ("year_progress_sin", "year_progress_cos")
# The last update of the mesh nodes is stored with the weights, but nothing reads it.
_UNUSED = f"{_M}mesh_to_grid_gnn/deep_gnn/processor_nodes_0_mesh_nodes/"
_PART = re.compile(r"(.+?)(_level=[^_]+)?(_time=-?\d+)?")


class Part(NamedTuple):
    """The channels of one variable at one time, which have a weight of their own.

    Attributes
    ----------
    role
        ``input`` or ``forcing``; nothing for targets.
    variable
    levels
        hPa; empty for variables without levels.
    seconds
        From the last input frame; None for what does not change.
    """

    role: str
    variable: str
    levels: tuple[int, ...] = ()
    seconds: int | None = None

    @property
    def name(self) -> str:
        """As in the names of weights."""
        role = f"{self.role}_" if self.role else ""
        level = f"_level={','.join(map(str, self.levels))}" if self.levels else ""
        time = "" if self.seconds is None else f"_time={self.seconds}"
        return f"{role}{self.variable}{level}{time}"

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.levels) or 1


@dataclass(frozen=True)
class Parts:
    """The meaning and order of the channels.

    Parameters
    ----------
    grid
        Read by grid nodes: forcings, then inputs, each in the order of their names.
    mesh
        Those of them that are the same everywhere, read by mesh nodes, too.
    targets
        Given by the network.
    """

    grid: tuple[Part, ...]
    mesh: tuple[Part, ...]
    targets: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights with their configuration."""

    net: FGN
    configuration: Configuration
    parts: Parts
    description: str = ""
    license: str = ""
    # Weights of the format that no output depends on, kept so that they can be written back.
    unused: Mapping[str, np.ndarray] = field(default_factory=dict)


@with_own_jax
def read_checkpoint(
    path: str | os.PathLike[str], config: str | os.PathLike[str] | Configuration
) -> Checkpoint:
    """Read weights in the format of the published FGN models.

    Parameters
    ----------
    path
        The weights (``.npz``).
    config
        The configuration published with them (``.json``), or what `read_config` gave.

    Raises
    ------
    StorageError
        If a file cannot be read.
    ModelError
        If entries are missing, unknown or of the wrong shape; lists all of them.
    """
    told = config if isinstance(config, Configuration) else read_config(config)
    entries, wrong = read_entries(path), []
    texts = {name: take_text(entries, name) for name in ("description", "license")}
    weights = weights_of(entries)
    wrong += [f"unknown entry {k}" for k in entries if not k.startswith("params:")]
    parts = parts_of(weights, told.task)
    sizes = network_config(told.architecture, parts)
    template = eqx.filter_eval_shape(FGN, sizes, key=jax.random.key(0))
    needed, unused_shapes = shapes(template, parts), default_unused(told.architecture)
    wrong += weight_problems(weights, needed, unused_shapes)
    if wrong:
        lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(wrong, start=1))
        text = f"{path} is not a usable FGN checkpoint for its configuration:\n{lines}\n{REPAIR}"
        raise ModelError(text)
    named = dict(zip(needed, leaves_of(weights, list(needed)), strict=True))
    leaves = [
        jnp.concatenate([named[name] for name, _ in slot.pieces], axis=slot.axis)
        for slot in slots(template, parts)
    ]
    net = eqx.tree_at(lambda tree: [slot.leaf for slot in slots(tree, parts)], template, leaves)
    unused = {name: weights[name] for name in unused_shapes if name in weights}
    return Checkpoint(neutral_norms(net), told, parts, **texts, unused=unused)


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write weights that the published code and `read_checkpoint` can read.

    An existing file is replaced only when the new one is complete.  The configuration is a
    file of its own, and is not written.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    named = named_arrays(folded(checkpoint.net), checkpoint.parts)
    unused = dict(checkpoint.unused) or default_unused(checkpoint.configuration.architecture)
    entries = {f"params:{name}": np.asarray(value) for name, value in {**named, **unused}.items()}
    texts = {"description": checkpoint.description, "license": checkpoint.license}
    _write(Path(path), entries | {name: np.asarray(text) for name, text in texts.items()})


def network_config(architecture: Architecture, parts: Parts) -> NetworkConfig:
    """Sizes of a network with these channels."""
    targets = [part.variable for part in parts.targets for _ in range(part.width)]
    moved = dict(architecture.shifted_sigmoids)
    return NetworkConfig(
        architecture,
        n_inputs=sum(part.width for part in parts.grid),
        n_clocks=sum(part.width for part in parts.mesh),
        n_outputs=len(targets),
        sigmoids=tuple((i, moved[name]) for i, name in enumerate(targets) if name in moved),
    )


def parts_of(weights: Iterable[str], task: TaskConfig) -> Parts:
    """The parts that a task needs, of the kind that the names of the weights tell.

    Examples
    --------
    >>> task = TaskConfig(("q",), ("q",), (), (500, 850), "6h")
    >>> split = "multimodality_forward/grid_encoder/split_input_matmul:w_input_q"
    >>> [part.name for part in parts_of([f"{split}_level=500,850_time=0"], task).grid]
    ['input_q_level=500,850_time=0']
    """
    names = list(weights)
    grid, mesh = _kinds(names, _GRID + _SPLIT), _kinds(names, _MESH + _SPLIT)
    out = _kinds(names, f"{_DECODER}{_OUT}w_")
    frames = tuple(STEP * (i + 1 - task.n_frames) for i in range(task.n_frames))
    roles = (("forcing", task.forcing_variables, (STEP,)), ("input", task.input_variables, frames))
    on_mesh = {name.partition("_")[2] for name in mesh} | {*_CLOCKS}
    all_parts, mesh_parts = [], []
    for role, variables, seconds in roles:
        for variable in sorted(variables):
            found = _parts(role, variable, grid.get(f"{role}_{variable}"), seconds, task)
            all_parts += found
            mesh_parts += found if variable in on_mesh else []
    targets = []
    for variable in sorted(task.target_variables):
        targets += _parts("", variable, out.get(variable), (STEP,), task)
    return Parts(tuple(all_parts), tuple(mesh_parts), tuple(targets))


def _kinds(names: Iterable[str], prefix: str) -> dict[str, tuple[bool, bool]]:
    """Return whether each variable has levels and times, by the names of its weights."""
    found: dict[str, tuple[bool, bool]] = {}
    for name in names:
        if name.startswith(prefix) and (match := _PART.fullmatch(name.removeprefix(prefix))):
            found[match[1]] = (match[2] is not None, match[3] is not None)
    return found


def _parts(
    role: str,
    variable: str,
    kind: tuple[bool, bool] | None,
    seconds: tuple[int, ...],
    task: TaskConfig,
) -> list[Part]:
    """Parts of one variable; one that the file does not have is reported by its usual name."""
    if kind is None:
        known = VARIABLES.get(variable)
        kind = (bool(known and known.on_levels), not (known and known.role == "static"))
    levels = task.pressure_levels if kind[0] else ()
    return [Part(role, variable, levels, t) for t in (seconds if kind[1] else (None,))]


class Slot(NamedTuple):
    """A leaf of the network, and the weights it is made of, laid end to end along an axis.

    One weight alone is the whole leaf, whatever size stands with it.
    """

    leaf: Any
    pieces: tuple[tuple[str, int], ...]
    axis: int = 0


def named_arrays(net: FGN, parts: Parts) -> dict[str, Any]:
    """Return all weights that outputs depend on, by their names."""
    arrays = {}
    for leaf, pieces, axis in slots(net, parts):
        ends = np.cumsum([size for _, size in pieces], dtype=int)[:-1].tolist()
        cut = jnp.split(leaf, ends, axis=axis)
        arrays |= {name: piece for (name, _), piece in zip(pieces, cut, strict=True)}
    return arrays


def shapes(net: FGN, parts: Parts) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of all weights that outputs depend on."""
    found = {}
    for leaf, pieces, axis in slots(net, parts):
        for name, own in pieces:
            size = own if len(pieces) > 1 else leaf.shape[axis]
            shape = (*leaf.shape[:axis], size, *leaf.shape[axis + 1 :])
            found[name] = jax.ShapeDtypeStruct(shape, leaf.dtype)
    return found


def slots(net: FGN, parts: Parts) -> Iterator[Slot]:
    """Return all leaves but scales and offsets of normalisations, which the format lacks."""
    sizes, encoder, decoder = net.config.sizes, net.encoder, net.decoder
    name, dim = sizes.noise
    number = sizes.noise_channels
    noise = f"{_M}global_norm_conditioning_encoder/{_SPLIT}input_{name}_{dim}=range({number})"
    yield _whole(noise, net.noise)
    embeds = (
        (_GRID, encoder.grid_embed, parts.grid, _NODES, N_STRUCTURAL),
        (_MESH, encoder.mesh_embed, parts.mesh, _NODES, N_STRUCTURAL),
        (f"{_M}grid_to_mesh_gnn/edge_encoder/", encoder.edge_embed, (), _EDGES, 4),
        (f"{_M}mesh_to_grid_gnn/edge_encoder/", decoder.edge_embed, (), _EDGES, 4),
    )
    for path, block, data, structure, width in embeds:
        pieces = [(f"{path}{_SPLIT}{part.name}", part.width) for part in data]
        pieces.append((f"{path}{_SPLIT}{structure}", width))
        yield Slot(block.layers[0].weight, tuple(pieces))
        yield from _rest(path + _DENSE, block)
    steps = (
        ("grid_to_mesh_gnn", "points_to_mesh_nodes", encoder.step, "mesh_nodes"),
        ("mesh_to_grid_gnn", "mesh_to_points_nodes", decoder.step, "point_nodes"),
    )
    for gnn, ends, step, nodes in steps:
        path, width = f"{_M}{gnn}/deep_gnn/processor_", sizes.latent
        reads = {"edge": step.edge_width, "sender": width}
        reads |= {"receiver": width} if step.hears_receiver else {}
        pieces = tuple((f"{path}edges_0_{k}_{ends}:w", size) for k, size in reads.items())
        yield Slot(step.edge.layers[0].weight, pieces)
        yield from _rest(f"{path}edges_0_{ends}/", step.edge)
        yield from _block(f"{path}nodes_0_{nodes}/", step.node)
    update = f"{_M}grid_to_mesh_gnn/deep_gnn/processor_nodes_0_point_nodes/"
    yield from _block(update, encoder.grid_update)
    path = f"{_M}mesh_transformer/transformer/"
    for key, leaf in transformer_arrays(path, net.transformer).items():
        yield _whole(key, leaf)
    *hidden, last = decoder.output.layers
    for k, layer in enumerate(hidden):
        yield _whole(f"{_DECODER}{_DENSE}mlp/linear_{k}:w", layer.weight)
        yield _whole(f"{_DECODER}{_DENSE}mlp/linear_{k}:b", layer.bias)
    pieces = tuple((f"{_DECODER}{_OUT}%s_{part.name}", part.width) for part in parts.targets)
    yield Slot(last.weight, tuple((key % "w", size) for key, size in pieces), 1)
    yield Slot(last.bias, tuple((key % "b", size) for key, size in pieces))


def _whole(name: str, leaf: Any) -> Slot:
    return Slot(leaf, ((name, 0),))


def _block(path: str, block: Block) -> Iterator[Slot]:
    yield _whole(f"{path}mlp/linear_0:w", block.layers[0].weight)
    yield from _rest(path, block)


def _rest(path: str, block: Block) -> Iterator[Slot]:
    """Return everything of a block but its first weight."""
    for k, layer in enumerate(block.layers):
        if k:
            yield _whole(f"{path}mlp/linear_{k}:w", layer.weight)
        yield _whole(f"{path}mlp/linear_{k}:b", layer.bias)
    assert isinstance(block.norm, LayerNorm) and block.norm.modulation is not None
    linear = f"{path}normalization/linear_norm_conditioning/linear"
    yield _whole(f"{linear}:w", block.norm.modulation.weight)
    yield _whole(f"{linear}:b", block.norm.modulation.bias)


def default_unused(sizes: Architecture) -> dict[str, np.ndarray]:
    """The weights no output depends on, as zeros: the published code expects to find them."""
    widths, arrays = (sizes.latent, *sizes.mesh2grid.hidden, sizes.latent), {}
    for k, shape in enumerate(itertools.pairwise(widths)):
        arrays[f"{_UNUSED}mlp/linear_{k}:w"] = np.zeros(shape, np.float32)
        arrays[f"{_UNUSED}mlp/linear_{k}:b"] = np.zeros(shape[1], np.float32)
    linear = f"{_UNUSED}normalization/linear_norm_conditioning/linear"
    shape = (sizes.conditioning_width, 2 * sizes.latent)
    arrays[f"{linear}:w"] = np.zeros(shape, np.float32)
    arrays[f"{linear}:b"] = np.zeros(shape[1], np.float32)
    return arrays
