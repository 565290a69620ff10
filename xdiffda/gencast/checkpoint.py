"""Checkpoints of the published GenCast models: a plain `.npz`, read and written without pickle."""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from xdiffda.errors import ModelError
from xdiffda.graphcast.archive import (
    REPAIR,
    leaves_of,
    read_entries,
    take_setting,
    take_text,
    weight_problems,
    weights_of,
)
from xdiffda.graphcast.checkpoint import TaskConfig, _write, read_task

from .config import Architecture, GenCastTask, NoiseEncoderConfig, SamplerConfig, TrainingNoise
from .names import DECODER, ENCODER, default_unused, folded, named_arrays, neutral_norms
from .network import GenCast, NetworkConfig

_SECTIONS: dict[str, type] = {
    "denoiser_architecture_config": Architecture,
    "sampler_config": SamplerConfig,
    "noise_config": TrainingNoise,
    "noise_encoder_config": NoiseEncoderConfig,
}
Entries = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything a checkpoint file holds.

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
    weights: dict[str, np.ndarray], config: Architecture, encoder: NoiseEncoderConfig,
    wrong: list[str],
) -> tuple[GenCast, dict[str, np.ndarray]]:  # fmt: skip
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
