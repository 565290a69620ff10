"""Operations of a function as XLA counts them."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from xdiffda.networks.graphcast import GraphCast, NetworkConfig


def lowered(graph, config: NetworkConfig, batch: int, *, prepared: bool = False):
    """The network traced for shapes alone: nothing is allocated."""
    net = eqx.filter_eval_shape(GraphCast, config, key=jax.random.key(0))
    ready = eqx.filter_eval_shape(GraphCast.prepare, net, graph) if prepared else None
    arrays, static = eqx.partition((net, graph, ready), lambda x: hasattr(x, "shape"))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)
    x = jax.ShapeDtypeStruct((graph.n_grid, batch, config.n_inputs), jnp.float32)
    width = config.conditioning_width
    given = jax.ShapeDtypeStruct((batch, width), jnp.float32) if width else None

    def apply(arrays, x, given):
        net, graph, ready = eqx.combine(arrays, static)
        return net(x, graph, given, ready)

    return jax.jit(apply).lower(shapes, x, given)
