"""The weights of a GenCast network under their names in the published file format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from xdiffda.graphcast.layers import Block, LayerNorm, Linear

from .network import GenCast, MeshTransformer, NetworkConfig
from .transformer import Transformer

Net = TypeVar("Net", bound=MeshTransformer)

_BUILDER = "/~_networks_builder/"
ENCODER, DECODER = "grid2mesh_gnn" + _BUILDER, "mesh2grid_gnn" + _BUILDER
_NOISE = "fourier_features_mlp/~/mlp/~/"
_TRANSFORMER = "mesh_transformer/~/transformer/"
# The decoder's update of the mesh nodes is stored with the weights, but nothing reads it.
_UNUSED = DECODER + "processor_nodes_0_mesh_nodes"


def named_arrays(net: GenCast) -> dict[str, Any]:
    """All weights that outputs depend on, leaves of the network."""
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
    """All weights of a transformer, under names that begin with ``path``."""
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
    """All layer normalisations."""

    def is_norm(part: Any) -> bool:
        return isinstance(part, LayerNorm)

    return [part for part in jax.tree.leaves(net, is_leaf=is_norm) if is_norm(part)]


def neutral_norms(net: Net) -> Net:
    """With scales 1 and offsets 0 in all normalisations, for which the format has no place."""

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
        leaves = lambda n: (n.scale, n.offset, n.modulation.weight, n.modulation.bias)  # noqa: E731
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
