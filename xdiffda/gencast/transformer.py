"""A transformer on the nodes of the mesh: attention over k-hop neighbourhoods.

Pre-norm blocks (Price et al. 2024, arXiv 2312.15796; Vaswani et al. 2017, 1706.03762) whose
layer normalisations are conditioned on the noise level.  Arrays are (node, batch, channel).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.graphcast.layers import Conditioning, LayerNorm, Linear, Values, dense

from .hops import Neighbourhoods

Heads = Float[Array, "node batch head width"]


def attend(query: Heads, key: Heads, value: Heads, near: Neighbourhoods) -> Heads:
    """softmax(q k / sqrt(width)) v of every node over its neighbourhood.

    One block of nodes after another: memory is that of one block's weights, also for the
    gradient, which computes them anew.

    Examples
    --------
    >>> from xdiffda.graphcast.mesh import icosahedron
    >>> from xdiffda.gencast.hops import neighbourhoods
    >>> x = jnp.ones((12, 1, 2, 4))
    >>> attend(x, x, 3 * x, neighbourhoods(icosahedron(), 1))[0, 0, 0].round(5).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    scale = query.shape[-1] ** -0.5
    wide = jnp.promote_types(query.dtype, jnp.float32)

    @jax.checkpoint
    def of_block(block: tuple[Array, Array, Array]) -> Heads:
        nodes, keys, seen = block
        read = lambda x: x.at[keys].get(mode="fill", fill_value=0, unique_indices=True)  # noqa: E731
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
        self, width: int, n_layer: int, n_head: int, ffw_hidden: int, conditioning: int, *,
        key: PRNGKeyArray,
    ) -> None:  # fmt: skip
        sizes = (width, n_head, ffw_hidden, conditioning)
        self.blocks = tuple(TransformerBlock(*sizes, key=k) for k in jax.random.split(key, n_layer))
        self.norm = LayerNorm(width, conditioning)
