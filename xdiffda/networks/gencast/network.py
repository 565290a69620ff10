"""The GenCast network F(x, sigma): GraphCast's encoder and decoder around a transformer.

Price et al. (2024), arXiv 2312.15796.  Every layer normalisation is conditioned on the noise
level.  Arrays are (node, batch, channel).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.gencast.config import NoiseEncoderConfig
from xdiffda.networks.gencast.graph import GenCastGraph, Neighbourhoods
from xdiffda.networks.graphcast.layers import (
    Block,
    Conditioning,
    Interaction,
    LayerNorm,
    Linear,
    Values,
    dense,
)
from xdiffda.networks.graphcast.network import Decoder, Encoder

# A transformer on the nodes of the mesh: attention over k-hop neighbourhoods.
#
# Pre-norm blocks (Price et al. 2024, arXiv 2312.15796; Vaswani et al. 2017, 1706.03762) whose
# layer normalisations are conditioned on the noise level.  Arrays are (node, batch, channel).

Heads = Float[Array, "node batch head width"]


def attend(query: Heads, key: Heads, value: Heads, near: Neighbourhoods) -> Heads:
    """softmax(q k / sqrt(width)) v of every node over its neighbourhood.

    One block of nodes after another: memory is that of one block's weights, also for the
    gradient, which computes them anew.

    Examples
    --------
    >>> from xdiffda.networks.graphcast.mesh import icosahedron
    >>> from xdiffda.networks.gencast.graph import neighbourhoods
    >>> x = jnp.ones((12, 1, 2, 4))
    >>> attend(x, x, 3 * x, neighbourhoods(icosahedron(), 1))[0, 0, 0].round(5).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    scale = query.shape[-1] ** -0.5
    wide = jnp.promote_types(query.dtype, jnp.float32)

    @jax.checkpoint
    def of_block(block: tuple[Array, Array, Array]) -> Heads:
        nodes, keys, seen = block

        def read(x):
            return x.at[keys].get(mode="fill", fill_value=0, unique_indices=True)

        q = query.at[nodes].get(mode="promise_in_bounds")
        logits = jnp.einsum("qbhd,kbhd->bhqk", q, read(key), preferred_element_type=wide)
        weights = jax.nn.softmax(jnp.where(seen, scale * logits, -jnp.inf), axis=-1)
        weights = weights.astype(value.dtype)
        out = jnp.einsum("bhqk,kbhd->qbhd", weights, read(value), preferred_element_type=wide)
        return out.astype(value.dtype)

    blocks = (near.nodes, near.keys, near.seen)
    if near.nodes.shape[0] == 1:
        out = of_block((near.nodes[0], near.keys[0], near.seen[0]))
    else:
        out = jax.lax.map(of_block, blocks).reshape(-1, *query.shape[1:])
    return out.at[near.position].get(mode="promise_in_bounds")


def _weight(n_in: int, n_out: int, key: PRNGKeyArray) -> Float[Array, "in out"]:
    return Linear(n_in, n_out, key=key).weight


class Attention(eqx.Module):
    """Multi-head attention; heads are consecutive parts of the channels."""

    query: Float[Array, "in out"]
    key: Float[Array, "in out"]
    value: Float[Array, "in out"]
    final: Linear
    n_head: int = eqx.field(static=True)

    def __init__(self, width: int, n_head: int, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 4)
        self.query, self.key, self.value = (_weight(width, width, k) for k in keys[:3])
        self.final, self.n_head = Linear(width, width, key=keys[3]), n_head

    def __call__(self, x: Values, near: Neighbourhoods) -> Values:
        def project(weight: Float[Array, "in out"]) -> Heads:
            return dense(x, weight).reshape(*x.shape[:2], self.n_head, -1)

        out = attend(project(self.query), project(self.key), project(self.value), near)
        return self.final(out.reshape(x.shape))


class TransformerBlock(eqx.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x))."""

    attention_norm: LayerNorm
    attention: Attention
    ffw_norm: LayerNorm
    up: Linear
    down: Linear

    def __init__(
        self, width: int, n_head: int, ffw_hidden: int, conditioning: int, *, key: PRNGKeyArray
    ) -> None:
        one, two, three = jax.random.split(key, 3)
        self.attention_norm = LayerNorm(width, conditioning)
        self.attention = Attention(width, n_head, key=one)
        self.ffw_norm = LayerNorm(width, conditioning)
        self.up, self.down = (
            Linear(width, ffw_hidden, key=two),
            Linear(ffw_hidden, width, key=three),
        )

    def __call__(self, x: Values, near: Neighbourhoods, conditioning: Conditioning) -> Values:
        x = x + self.attention(self.attention_norm(x, conditioning), near)
        hidden = jax.nn.gelu(self.up(self.ffw_norm(x, conditioning)), approximate=True)
        return x + self.down(hidden)


class Transformer(eqx.Module):
    """Blocks, and a last normalisation."""

    blocks: tuple[TransformerBlock, ...]
    norm: LayerNorm

    def __init__(
        self,
        width: int,
        n_layer: int,
        n_head: int,
        ffw_hidden: int,
        conditioning: int,
        *,
        key: PRNGKeyArray,
    ) -> None:
        sizes = (width, n_head, ffw_hidden, conditioning)
        self.blocks = tuple(TransformerBlock(*sizes, key=k) for k in jax.random.split(key, n_layer))
        self.norm = LayerNorm(width, conditioning)


_N_STRUCTURAL = 3
_N_EDGE = 4
_DTYPES = ("float32", "bfloat16", "float64")
_PRECISIONS = ("default", "high", "highest")
_COMPUTATION = ("dtype", "precision", "remat")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network and how it is computed.

    Parameters
    ----------
    n_inputs, n_outputs
        Data channels at each grid node; the three structural ones come on top.
    latent
        Width of all latent vectors, those of the transformer included.
    hidden_layers
        Hidden layers of the perceptrons of encoder and decoder.
    layers, heads, ffw_hidden
        Of the transformer.
    encoder
        Of the noise level.
    aggregate_normalization
        Constant by which sums over edges from grid to mesh are divided.
    dtype
        Precision of the computation: float32, bfloat16 (sums, normalisations and softmax stay
        float32) or float64 (needs jax's 64-bit mode). Weights are kept as they are.
    precision
        Of float32 matrix products on accelerators, as in
        `xdiffda.networks.graphcast.NetworkConfig`.
    remat
        Recompute every step in the backward pass instead of storing it.

    Raises
    ------
    ValueError
        If a size or a choice is not one of those above.

    Examples
    --------
    >>> NetworkConfig(n_inputs=84, n_outputs=24, latent=64, layers=2).heads
    4
    """

    n_inputs: int
    n_outputs: int
    latent: int = 512
    hidden_layers: int = 1
    layers: int = 16
    heads: int = 4
    ffw_hidden: int = 2048
    encoder: NoiseEncoderConfig = NoiseEncoderConfig()
    aggregate_normalization: float = 1.0
    dtype: str = "float32"
    precision: str = "highest"
    remat: bool = False

    def __post_init__(self) -> None:
        least = dict.fromkeys(("n_inputs", "n_outputs", "latent", "layers", "heads"), 1)
        least |= {"ffw_hidden": 1, "hidden_layers": 0}
        wrong = [
            f"{name} must be {n} or more, got {getattr(self, name)}"
            for name, n in least.items()
            if getattr(self, name) < n
        ]
        if self.heads > 0 and self.latent % self.heads:
            wrong.append(f"heads must divide latent, got {self.heads} and {self.latent}")
        if not self.aggregate_normalization > 0:
            wrong.append(f"aggregate_normalization must be > 0, got {self.aggregate_normalization}")
        if self.dtype not in _DTYPES:
            wrong.append(f"dtype must be one of {_DTYPES}, got {self.dtype!r}")
        if self.precision not in _PRECISIONS:
            wrong.append(f"precision must be one of {_PRECISIONS}, got {self.precision!r}")
        if wrong:
            raise ValueError("NetworkConfig: " + "; ".join(wrong))

    @property
    def conditioning_width(self) -> int:
        """Length of the encoded noise level."""
        return self.encoder.output_sizes[-1]


class NoiseEncoder(eqx.Module):
    """Fourier features of the noise level, then a perceptron with gelu between its layers."""

    layers: tuple[Linear, ...]
    config: NoiseEncoderConfig = eqx.field(static=True)

    def __init__(self, config: NoiseEncoderConfig, *, key: PRNGKeyArray) -> None:
        sizes = (2 * config.num_frequencies, *config.output_sizes)
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
        self.layers, self.config = tuple(Linear(i, o, key=k) for i, o, k in pairs), config

    def __call__(self, sigma: Float[Array, " level"]) -> Conditioning:
        encoded = jnp.log(sigma) if self.config.apply_log_first else sigma
        number = jnp.arange(1, self.config.num_frequencies + 1)
        phase = encoded[:, None] * (2 * jnp.pi / self.config.base_period) * number
        x = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)
        first, *others = self.layers
        x = first(x)
        for layer in others:
            x = layer(jax.nn.gelu(x, approximate=True))
        return x


class MeshTransformer(eqx.Module):
    """From grid to mesh, a transformer there, and back: all between the first layers and outputs.

    Every layer normalisation is conditioned on one vector for each entry of the batch: in
    GenCast on the noise level, in FGN (`xdiffda.fgn`) on noise itself.
    """

    encoder: Encoder
    transformer: Transformer
    decoder: Decoder
    config: Any = eqx.field(static=True)

    def reconfigured(self, **options: Any) -> Self:
        """The same weights with another dtype, precision or remat.

        Raises
        ------
        ValueError
            If an option is not one of these.
        """
        if unknown := sorted(set(options) - set(_COMPUTATION)):
            raise ValueError(f"{unknown} cannot be changed in a network, only {_COMPUTATION}")
        other = jax.tree.map(lambda leaf: leaf, self)
        object.__setattr__(other, "config", replace(self.config, **options))
        return other

    def exchange(
        self, grid: Values, mesh: Values, graph: GenCastGraph, conditioning: Conditioning
    ) -> tuple[Values, Values]:
        """Latent grid and mesh nodes after the step from grid to mesh, from embedded ones."""
        part = self.encoder
        edge = part.edge_embed(graph.grid2mesh.features[:, None], conditioning)
        _, update = self._remat(Interaction.__call__)(
            part.step, edge, grid, mesh, graph.grid2mesh, conditioning
        )
        return grid + part.grid_update(grid, conditioning), mesh + update

    def process(self, mesh: Values, graph: GenCastGraph, conditioning: Conditioning) -> Values:
        """Latent mesh nodes after the transformer."""
        apply = self._remat(TransformerBlock.__call__)
        for block in self.transformer.blocks:
            mesh = apply(block, mesh, graph.near, conditioning)
        return self.transformer.norm(mesh, conditioning)

    def decode(
        self, mesh: Values, grid: Values, graph: GenCastGraph, conditioning: Conditioning
    ) -> Float[Array, "grid batch out"]:
        """Output channels at the grid nodes."""
        part = self.decoder
        edge = part.edge_embed(graph.mesh2grid.features[:, None], conditioning)
        args = (part.step.project(edge), mesh, grid, graph.mesh2grid, conditioning)
        return part.output(grid + self._remat(Interaction.update)(part.step, *args))

    def _remat(self, function: Callable) -> Callable:
        return jax.checkpoint(function) if self.config.remat else function


class GenCast(MeshTransformer):
    """The network, without preconditioning, normalisation and graph.

    Parameters
    ----------
    config
        Sizes and computation.
    key
        For random initial weights.
    """

    noise: NoiseEncoder
    config: NetworkConfig = eqx.field(static=True)

    @with_own_jax
    def __init__(self, config: NetworkConfig, *, key: PRNGKeyArray) -> None:
        keys = iter(jax.random.split(key, 9))
        width, cond = config.latent, config.conditioning_width
        hidden = (width,) * config.hidden_layers

        def block(n_in: int) -> Block:
            return Block((n_in, *hidden, width), conditioning=cond, key=next(keys))

        def step(divide_sums: float = 1.0) -> Interaction:
            return Interaction(width, hidden, cond, divide_sums=divide_sums, key=next(keys))

        self.config = config
        self.noise = NoiseEncoder(config.encoder, key=next(keys))
        n_node = config.n_inputs + _N_STRUCTURAL
        embeds = block(n_node), block(n_node), block(_N_EDGE)
        self.encoder = Encoder(*embeds, step(config.aggregate_normalization), block(width))
        self.transformer = Transformer(
            width, config.layers, config.heads, config.ffw_hidden, cond, key=next(keys)
        )
        edge, step_back = block(_N_EDGE), step()
        last = Block((width, *hidden, config.n_outputs), norm=False, key=jax.random.fold_in(key, 1))
        self.decoder = Decoder(edge, step_back, last)

    def __call__(
        self, x: Float[Array, "grid batch in"], sigma: Float[Array, " level"], graph: GenCastGraph
    ) -> Float[Array, "grid batch out"]:
        """Apply the network to normalised channels at the nodes of the graph's grid.

        Parameters
        ----------
        x
            Channels in the order of the published models.
        sigma
            Noise levels: one for each entry of the batch, or one for all, which is cheaper.
        graph
            The graph of the grid.

        Raises
        ------
        ValueError
            If a shape does not fit the configuration or the graph.
        """
        wrong = []
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (graph.n_grid, self.config.n_inputs):
            needed = f"({graph.n_grid}, batch, {self.config.n_inputs})"
            wrong.append(f"x must be (grid, batch, in) = {needed}, got {x.shape}")
        if sigma.ndim != 1 or (x.ndim == 3 and sigma.shape[0] not in (1, x.shape[1])):
            wrong.append(f"sigma must have one level, or one for each entry, got {sigma.shape}")
        if wrong:
            raise ValueError("GenCast: " + "; ".join(wrong))
        dtype = jnp.dtype(self.config.dtype)
        net, graph = _cast((self, graph), dtype)
        with jax.default_matmul_precision(self.config.precision):
            # the noise level itself is never rounded to half precision
            conditioning = self.noise(sigma).astype(dtype)
            grid, mesh = net.encode(x.astype(dtype), graph, conditioning)
            mesh = net.process(mesh, graph, conditioning)
            out = net.decode(mesh, grid, graph, conditioning)
        return out.astype(jnp.promote_types(dtype, jnp.float32))

    def encode(
        self, x: Values, graph: GenCastGraph, conditioning: Conditioning
    ) -> tuple[Values, Values]:
        """Latent grid and mesh nodes after the step from grid to mesh."""
        part, n_data = self.encoder, self.config.n_inputs
        on_data, on_structure = part.grid_embed.split(n_data, _N_STRUCTURAL)
        structure = dense(graph.grid_features[:, None], on_structure)
        grid = part.grid_embed.finish(dense(x, on_data) + structure, conditioning)
        _, on_structure = part.mesh_embed.split(n_data, _N_STRUCTURAL)  # no data: zeros there
        structure = dense(graph.mesh_features[:, None], on_structure)
        mesh = part.mesh_embed.finish(structure, conditioning)
        return self.exchange(grid, mesh, graph, conditioning)


def _cast(tree, dtype):
    """The tree with all its floating-point arrays in `dtype`."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)
