"""Layers of the network, for arrays (node, batch, channel)."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.networks.graphcast.edges import Incidence, to_edges, to_nodes
from xdiffda.networks.graphcast.graph import Edges

# Matrix products in the precision that is asked for, on CPUs too.
#
# With jax's precision "default" accelerators round the factors of a float32 product. XLA for CPUs
# multiplies float32 whatever is asked for, and converts every latent vector back and forth where
# all is bfloat16. Here a CPU rounds the factors alone: bfloat16 products with float32 sums, and
# float32 between them. At 1 degree the network is twice as fast by that on a processor with
# matrix units (AMX, Intel since 2023), and 1.3 to 1.5 times with avx512_bf16 alone (AMD Zen 5);
# with
# neither it was not measured, and will not pay.

Rows = Float[Array, "row in"]
Weight = Float[Array, "in out"]


def product(x: Rows, weight: Weight) -> Float[Array, "row out"]:
    """x weight, summed in float32 or what is wider, in jax's default precision.

    Examples
    --------
    >>> x, weight = jnp.full((1, 2), 1.001), jnp.ones((2, 1))
    >>> for precision in ("highest", "default"):
    ...     with jax.default_matmul_precision(precision):
    ...         print(f"{float(product(x, weight)[0, 0]):.3f}")
    2.002
    2.000
    """
    # of the nearest `with` that is open
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if precision != "default" or x.dtype != jnp.float32:
        return _plain(x, weight)
    return jax.lax.platform_dependent(x, weight, cpu=_rounded, default=_plain)


def _plain(x: Rows, weight: Weight) -> Float[Array, "row out"]:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x, weight, preferred_element_type=wide)


def _rounded(x: Rows, weight: Weight) -> Float[Array, "row out"]:
    return _plain(x.astype(jnp.bfloat16), weight.astype(jnp.bfloat16))


# Batch is 1 where values do not depend on it (static features): they are computed once.
Values = Float[Array, "node batch channel"]
Conditioning = Float[Array, "batch cond"]

_EPSILON = 1e-5


def dense(x: Values, weight: Float[Array, "in out"]) -> Values:
    """Matrix product over the channels, as one flat 2-D product (the fastest form on CPUs)."""
    flat = product(x.reshape(-1, x.shape[-1]), weight)
    return flat.astype(x.dtype).reshape(*x.shape[:-1], weight.shape[1])


class Linear(eqx.Module):
    """y = x weight + bias."""

    weight: Float[Array, "in out"]
    bias: Float[Array, " out"]

    def __init__(self, n_in: int, n_out: int, *, key: PRNGKeyArray) -> None:
        draw = jax.random.truncated_normal(key, -2.0, 2.0, (n_in, n_out))
        self.weight = draw / jnp.sqrt(float(n_in))
        self.bias = jnp.zeros(n_out)

    def __call__(self, x: Values) -> Values:
        return dense(x, self.weight) + self.bias


class LayerNorm(eqx.Module):
    """Layer normalisation over channels, optionally conditioned.

    y = LN(x) scale (1 + a) + offset + b with (a | b) linear in the conditioning and zero at
    initialisation (Price et al. 2024), so that an unconditioned network's weights stay valid.
    """

    scale: Float[Array, " channel"]
    offset: Float[Array, " channel"]
    modulation: Linear | None

    def __init__(self, n_channel: int, n_conditioning: int = 0) -> None:
        self.scale = jnp.ones(n_channel)
        self.offset = jnp.zeros(n_channel)
        self.modulation = None
        if n_conditioning:
            linear = Linear(n_conditioning, 2 * n_channel, key=jax.random.key(0))
            self.modulation = jax.tree.map(jnp.zeros_like, linear)

    def __call__(self, x: Values, conditioning: Conditioning | None = None) -> Values:
        scale, offset = self.scale, self.offset
        if self.modulation is not None and conditioning is not None:
            a, b = jnp.split(self.modulation(conditioning), 2, axis=-1)
            scale, offset = scale * (1 + a), offset + b
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + _EPSILON)).astype(x.dtype) * scale + offset


class Block(eqx.Module):
    """Perceptron with swish between its layers, then layer normalisation if asked for."""

    layers: tuple[Linear, ...]
    norm: LayerNorm | None

    def __init__(
        self, sizes: tuple[int, ...], *, norm: bool = True, conditioning: int = 0, key: PRNGKeyArray
    ) -> None:
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
        self.layers = tuple(Linear(i, o, key=k) for i, o, k in pairs)
        self.norm = LayerNorm(sizes[-1], conditioning) if norm else None

    def split(self, *sizes: int) -> list[Float[Array, "in out"]]:
        """The first weight matrix, cut into the parts that act on each part of the input."""
        weight, parts = self.layers[0].weight, []
        for size in sizes:
            parts.append(weight[:size])
            weight = weight[size:]
        return parts

    def finish(self, first: Values, conditioning: Conditioning | None = None) -> Values:
        """The rest of the block, after the first layer's product (without its bias)."""
        x = first + self.layers[0].bias
        for layer in self.layers[1:]:
            x = layer(jax.nn.swish(x))
        return x if self.norm is None else self.norm(x, conditioning)

    def __call__(self, x: Values, conditioning: Conditioning | None = None) -> Values:
        return self.finish(dense(x, self.layers[0].weight), conditioning)


def gather(x: Values, end: Incidence) -> Values:
    """Values of nodes at the edges that meet them, by whole rows of batch and channel."""
    return to_edges(x.reshape(x.shape[0], -1), end).reshape(-1, *x.shape[1:])


def neighbour_sum(x: Values, end: Incidence) -> Values:
    """Sums of edges at each node."""
    return to_nodes(x.reshape(x.shape[0], -1), end).reshape(-1, *x.shape[1:])


class Interaction(eqx.Module):
    """One step of message passing from senders to receivers.

    Messages are a block of [edge, sender, receiver]. The product with the first weight is made
    on nodes, before their values are brought to the many more edges:
    W [e, s, r] = W_e e + (W_s s)[senders] + (W_r r)[receivers].

    Parameters
    ----------
    width
        Of nodes and messages.
    hidden
        Widths of the hidden layers of both blocks.
    conditioning
        Length of the vector that conditions the normalisations; 0 for none.
    edge_width
        Of the edges' own values; that of the nodes if None.
    hears_receiver
        Whether messages depend on the receiver, too.
    divide_sums
        Constant by which the sums of messages are divided.
    key
        For random initial weights.
    """

    edge: Block
    node: Block
    edge_width: int = eqx.field(static=True)
    hears_receiver: bool = eqx.field(static=True)
    divide_sums: float = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        hidden: tuple[int, ...],
        conditioning: int,
        *,
        edge_width: int | None = None,
        hears_receiver: bool = True,
        divide_sums: float = 1.0,
        key: PRNGKeyArray,
    ) -> None:
        key_edge, key_node = jax.random.split(key)
        self.edge_width = width if edge_width is None else edge_width
        self.hears_receiver, self.divide_sums = hears_receiver, divide_sums
        n_read = self.edge_width + (1 + hears_receiver) * width
        self.edge = Block((n_read, *hidden, width), conditioning=conditioning, key=key_edge)
        self.node = Block((2 * width, *hidden, width), conditioning=conditioning, key=key_node)

    def project(self, edge: Values) -> Values:
        """W_e e: what the edges themselves bring to the first layer."""
        return dense(edge, self.edge.split(edge.shape[-1])[0])

    def __call__(
        self,
        edge: Values,
        sender: Values,
        receiver: Values,
        edges: Edges,
        conditioning: Conditioning | None,
    ) -> tuple[Values, Values]:
        """Updates of edges and receivers (to be added to them)."""
        return self.projected(self.project(edge), sender, receiver, edges, conditioning)

    def projected(
        self,
        own: Values,
        sender: Values,
        receiver: Values,
        edges: Edges,
        conditioning: Conditioning | None,
    ) -> tuple[Values, Values]:
        """The same for edges whose product with the first weight is known."""
        from_sender, from_receiver = self._on_nodes(sender, receiver)
        # Both gathers first: one temporary of the edges' size less than adding them in turn.
        brought = gather(from_sender, edges.senders)
        if from_receiver is not None:
            brought = brought + gather(from_receiver, edges.receivers)
        messages = self.edge.finish(own + brought, conditioning)
        total = neighbour_sum(messages, edges.receivers)
        return messages, self._update(receiver, total, conditioning)

    def update(
        self,
        own: Values,
        sender: Values,
        receiver: Values,
        edges: Edges,
        conditioning: Conditioning | None,
    ) -> Values:
        """Update of the receivers alone.

        Where all receivers have as many edges, the first edges of all are computed together,
        then the second ones and so on: nothing is gathered for the receivers, no table is
        read for the sum, and temporaries are as large as the nodes, not the edges.
        """
        degree = edges.degree
        if degree is None:
            return self.projected(own, sender, receiver, edges, conditioning)[1]
        from_sender, from_receiver = self._on_nodes(sender, receiver)
        own = own.reshape(-1, degree, *own.shape[1:])
        brought = gather(from_sender, edges.senders).reshape(-1, degree, *from_sender.shape[1:])
        wide = jnp.promote_types(own.dtype, jnp.float32)
        total = 0.0
        for k in range(degree):
            heard = brought[:, k] if from_receiver is None else brought[:, k] + from_receiver
            total = total + self.edge.finish(own[:, k] + heard, conditioning).astype(wide)
        return self._update(receiver, jnp.asarray(total, own.dtype), conditioning)

    def _on_nodes(self, sender: Values, receiver: Values) -> tuple[Values, Values | None]:
        width = sender.shape[-1]
        _, on_sender, on_receiver = self.edge.split(self.edge_width, width, width)
        from_receiver = dense(receiver, on_receiver) if self.hears_receiver else None
        return dense(sender, on_sender), from_receiver

    def _update(self, receiver: Values, total: Values, conditioning: Conditioning | None) -> Values:
        on_node, on_total = self.node.split(receiver.shape[-1], total.shape[-1])
        if self.divide_sums != 1:  # W (total / c) = (W / c) total
            on_total = on_total / self.divide_sums
        first = dense(receiver, on_node) + dense(total, on_total)
        return self.node.finish(first, conditioning)
