"""Checkpoints of the published GenCast models: a plain `.npz`, read and written without pickle."""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from xdiffda.errors import ModelError
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.gencast.config import (
    Architecture,
    GenCastTask,
    NoiseEncoderConfig,
    SamplerConfig,
    TrainingNoise,
)
from xdiffda.networks.gencast.network import GenCast, MeshTransformer, NetworkConfig, Transformer
from xdiffda.networks.graphcast.checkpoint import (
    REPAIR,
    TaskConfig,
    _write,
    leaves_of,
    read_entries,
    read_task,
    take_setting,
    take_text,
    weight_problems,
    weights_of,
)
from xdiffda.networks.graphcast.layers import Block, LayerNorm, Linear

# The weights of a GenCast network under their names in the published file format.

Net = TypeVar("Net", bound=MeshTransformer)

_BUILDER = "/~_networks_builder/"
ENCODER, DECODER = "grid2mesh_gnn" + _BUILDER, "mesh2grid_gnn" + _BUILDER
_NOISE = "fourier_features_mlp/~/mlp/~/"
_TRANSFORMER = "mesh_transformer/~/transformer/"
# The decoder's update of the mesh nodes is stored with the weights, but nothing reads it.
_UNUSED = DECODER + "processor_nodes_0_mesh_nodes"


def named_arrays(net: GenCast) -> dict[str, Any]:
    """Return all weights that outputs depend on, as leaves of the network."""
    arrays = {}
    for i, layer in enumerate(net.noise.layers):
        arrays |= _linear(f"{_NOISE}linear_{i}", layer)
    for name, block in _blocks(net):
        for k, layer in enumerate(block.layers):
            arrays |= _linear(f"{name}_mlp/~/linear_{k}", layer)
        if block.norm is not None:
            arrays |= _norm(f"{name}_norm_conditioning", block.norm)
    return arrays | transformer_arrays(_TRANSFORMER, net.transformer)


def transformer_arrays(path: str, transformer: Transformer) -> dict[str, Any]:
    """Return all weights of a transformer, under names that begin with ``path``."""
    arrays = {}
    for i, block in enumerate(transformer.blocks):
        number = f"block_{i:02d}"
        own = f"{path}{number}/"
        arrays |= _norm(f"{own}{number}_norm_conditioning", block.attention_norm)
        for letter, weight in (
            ("q", block.attention.query),
            ("k", block.attention.key),
            ("v", block.attention.value),
        ):
            arrays[f"{own}mha_proj_{letter}:w"] = weight
        arrays |= _linear(f"{own}mha_final", block.attention.final)
        arrays |= _norm(f"{own}{number}_norm_conditioning_1", block.ffw_norm)
        arrays |= _linear(f"{own}ffw_up", block.up) | _linear(f"{own}ffw_down", block.down)
    return arrays | _norm(f"{path}transformer_final_norm_conditioning", transformer.norm)


def norms(net: MeshTransformer) -> list[LayerNorm]:
    """Return all layer normalisations."""

    def is_norm(part: Any) -> bool:
        return isinstance(part, LayerNorm)

    return [part for part in jax.tree.leaves(net, is_leaf=is_norm) if is_norm(part)]


def neutral_norms(net: Net) -> Net:
    """Set scales to 1 and offsets to 0 in all normalisations, which the format lacks."""

    def factors(tree: Net) -> list[Any]:
        return [v for norm in norms(tree) for v in (norm.scale, norm.offset)]

    neutral = [jnp.full(v.shape, float(i % 2 == 0)) for i, v in enumerate(factors(net))]
    return eqx.tree_at(factors, net, neutral)


def folded(net: Net) -> Net:
    """The same function with scales 1 and offsets 0, for which the format has no place.

    scale (1 + a) + (offset + b), a and b linear in the conditioning, is again of that form.
    """

    def fold(norm: LayerNorm) -> LayerNorm:
        scale, offset = np.asarray(norm.scale), np.asarray(norm.offset)
        both = np.concatenate([scale, np.ones_like(offset)])
        assert norm.modulation is not None
        weight, bias = np.asarray(norm.modulation.weight), np.asarray(norm.modulation.bias)
        new = (weight * both, bias * both + np.concatenate([scale - 1, offset]))

        def leaves(n):
            return (n.scale, n.offset, n.modulation.weight, n.modulation.bias)

        return eqx.tree_at(leaves, norm, (np.ones_like(scale), np.zeros_like(offset), *new))

    return eqx.tree_at(norms, net, [fold(norm) for norm in norms(net)])


def default_unused(config: NetworkConfig) -> dict[str, np.ndarray]:
    """The weights no output depends on, as zeros: the published code expects to find them."""
    width, arrays = config.latent, {}
    for k in range(config.hidden_layers + 1):
        arrays[f"{_UNUSED}_mlp/~/linear_{k}:w"] = np.zeros((width, width), np.float32)
        arrays[f"{_UNUSED}_mlp/~/linear_{k}:b"] = np.zeros(width, np.float32)
    conditioning = f"{_UNUSED}_norm_conditioning/linear"
    shape = (config.conditioning_width, 2 * width)
    arrays[f"{conditioning}:w"] = np.zeros(shape, np.float32)
    arrays[f"{conditioning}:b"] = np.zeros(2 * width, np.float32)
    return arrays


def _blocks(net: GenCast) -> Iterator[tuple[str, Block]]:
    """The blocks of encoder and decoder under their names."""
    encoder, decoder = net.encoder, net.decoder
    yield ENCODER + "encoder_edges_grid2mesh", encoder.edge_embed
    yield ENCODER + "encoder_nodes_grid_nodes", encoder.grid_embed
    yield ENCODER + "encoder_nodes_mesh_nodes", encoder.mesh_embed
    yield ENCODER + "processor_edges_0_grid2mesh", encoder.step.edge
    yield ENCODER + "processor_nodes_0_grid_nodes", encoder.grid_update
    yield ENCODER + "processor_nodes_0_mesh_nodes", encoder.step.node
    yield DECODER + "encoder_edges_mesh2grid", decoder.edge_embed
    yield DECODER + "processor_edges_0_mesh2grid", decoder.step.edge
    yield DECODER + "processor_nodes_0_grid_nodes", decoder.step.node
    yield DECODER + "decoder_nodes_grid_nodes", decoder.output


def _linear(name: str, layer: Linear) -> dict[str, Any]:
    return {f"{name}:w": layer.weight, f"{name}:b": layer.bias}


def _norm(name: str, norm: LayerNorm) -> dict[str, Any]:
    assert norm.modulation is not None
    return _linear(f"{name}/linear", norm.modulation)


_SECTIONS: dict[str, type] = {
    "denoiser_architecture_config": Architecture,
    "sampler_config": SamplerConfig,
    "noise_config": TrainingNoise,
    "noise_encoder_config": NoiseEncoderConfig,
}
Entries = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The contents of a checkpoint file.

    The published weights were released under CC BY-NC-SA 4.0, and the files still say so in
    ``license``; since 6 August 2026 the project's README gives CC BY 4.0 instead.
    """

    net: GenCast
    task: GenCastTask
    architecture: Architecture
    sampler: SamplerConfig = SamplerConfig()
    noise: TrainingNoise = TrainingNoise()
    description: str = ""
    license: str = ""
    # Weights of the format that no output depends on, kept so that they can be written back.
    unused: Mapping[str, np.ndarray] = field(default_factory=dict)


@with_own_jax
def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint in the format of the published GenCast models.

    Raises
    ------
    StorageError
        If the file cannot be read.
    ModelError
        If entries are missing, unknown or of the wrong shape; lists all of them.
    """
    entries, wrong = read_entries(path), []
    task = read_task(entries, wrong)
    found = {name: _read_section(entries, name, kind, wrong) for name, kind in _SECTIONS.items()}
    texts = {name: take_text(entries, name) for name in ("description", "license")}
    weights = weights_of(entries)
    wrong += [f"unknown entry {k}" for k in entries if not k.startswith("params:")]
    if wrong or task is None:
        raise _damaged(path, wrong)
    architecture, sampler, noise, encoder = found.values()
    try:
        net, unused = _read_network(weights, architecture, encoder, wrong)
    except ValueError as error:  # sizes that no network has
        raise _damaged(path, [*wrong, str(error)]) from error
    if wrong:
        raise _damaged(path, wrong)
    task = GenCastTask(**vars(task))
    return Checkpoint(net, task, architecture, sampler, noise, **texts, unused=unused)


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint that the published code and `read_checkpoint` can read.

    An existing file is replaced only when the new one is complete.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    net, entries = checkpoint.net, {}
    unused = dict(checkpoint.unused) or default_unused(net.config)
    for name, value in {**named_arrays(folded(net)), **unused}.items():
        entries[f"params:{name}"] = np.asarray(value)
    task = {item.name: getattr(checkpoint.task, item.name) for item in fields(TaskConfig)}
    sections = (checkpoint.architecture, checkpoint.sampler, checkpoint.noise, net.config.encoder)
    entries |= _flat("task_config", task)
    for name, section in zip(_SECTIONS, sections, strict=True):
        entries |= _flat(name, asdict(section))
    texts = {"description": checkpoint.description, "license": checkpoint.license}
    _write(Path(path), entries | {name: np.asarray(text) for name, text in texts.items()})


def _flat(prefix: str, value: Any) -> dict[str, np.ndarray]:
    """Nested settings under names of their path; None is left out."""
    if value is None:
        return {}
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, tuple):
        parts = enumerate(value)
    else:
        return {prefix: np.asarray(value)}
    return {k: v for name, part in parts for k, v in _flat(f"{prefix}:{name}", part).items()}


def _read_section(entries: Entries, prefix: str, kind: type, wrong: list[str]) -> Any:
    """Settings of one dataclass, taken out of the entries; None if some are missing."""
    hints, values, complete = typing.get_type_hints(kind), {}, True
    for item in fields(kind):
        key, hint = f"{prefix}:{item.name}", hints[item.name]
        if is_dataclass(hint):
            values[item.name] = _read_section(entries, key, hint, wrong)
            complete &= values[item.name] is not None
        elif typing.get_origin(hint) is tuple:
            numbered = {int(m[1]): k for k in entries if (m := re.fullmatch(rf"{key}:(\d+)", k))}
            kind_of = typing.get_args(hint)[0]
            each = [take_setting(entries, numbered[i], kind_of, wrong) for i in sorted(numbered)]
            values[item.name] = tuple(each)
        elif key in entries:
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            values[item.name] = take_setting(entries, key, options[0], wrong)
            complete &= values[item.name] is not None
        elif isinstance(hint, types.UnionType):  # may be None
            values[item.name] = None
        else:
            wrong.append(f"missing {key}")
            complete = False
    if not complete:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        wrong.append(str(error))


def _read_network(
    weights: dict[str, np.ndarray],
    config: Architecture,
    encoder: NoiseEncoderConfig,
    wrong: list[str],
) -> tuple[GenCast, dict[str, np.ndarray]]:
    """The network with these weights, and the weights it has no use for."""
    inner = config.sparse_transformer_config
    if inner.d_model != config.latent_size:
        wrong.append(f"d_model is {inner.d_model}, latent_size {config.latent_size}: not the same")
    if config.norm_conditioning_features != ("noise_level_encodings",):
        wrong.append(f"conditioning on {config.norm_conditioning_features} is not known")
    first = weights.get(f"{ENCODER}encoder_nodes_grid_nodes_mlp/~/linear_0:w")
    last = weights.get(f"{DECODER}decoder_nodes_grid_nodes_mlp/~/linear_{config.hidden_layers}:b")
    sizes = NetworkConfig(
        # Any size will do where the entry is missing: it is reported below.
        n_inputs=4 if first is None or first.ndim != 2 else max(first.shape[0] - 3, 1),
        n_outputs=1 if last is None or last.ndim != 1 else max(len(last), 1),
        latent=config.latent_size,
        hidden_layers=config.hidden_layers,
        layers=inner.num_layers,
        heads=inner.num_heads,
        ffw_hidden=inner.ffw_hidden,
        encoder=encoder,
        aggregate_normalization=config.grid2mesh_aggregate_normalization or 1.0,
    )
    template = eqx.filter_eval_shape(GenCast, sizes, key=jax.random.key(0))
    needed, unused_shapes = named_arrays(template), default_unused(sizes)
    wrong += weight_problems(weights, needed, unused_shapes)
    unused = {k: weights[k] for k in unused_shapes if k in weights}
    if wrong:
        return template, unused
    leaves = leaves_of(weights, list(needed))
    net = eqx.tree_at(lambda tree: list(named_arrays(tree).values()), template, leaves)
    return neutral_norms(net), unused


def _damaged(path: str | os.PathLike[str], wrong: list[str]) -> ModelError:
    lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(wrong, start=1))
    return ModelError(f"{path} is not a usable GenCast checkpoint:\n{lines}\n{REPAIR}")
