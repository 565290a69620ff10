"""The GraphCast network: encode a grid on a multimesh, pass messages there, decode.

Lam et al. (2023), Science 382, 1416. Members of a batch share every index, so arrays are
(node, batch, channel) throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast import static
from xdiffda.networks.graphcast import static as chunks
from xdiffda.networks.graphcast.graph import Graph
from xdiffda.networks.graphcast.layers import Block, Conditioning, Interaction, Values, dense
from xdiffda.networks.graphcast.static import N_STRUCTURAL, InFactors
from xdiffda.networks.graphcast.static import Prepared as Prepared

# Sizes of the network and how it is computed.

_DTYPES = ("float32", "bfloat16", "float64")
_PRECISIONS = ("default", "high", "highest")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network and how it is computed.

    Parameters
    ----------
    n_inputs
        Data channels at each grid node; the network appends its three structural ones itself.
    n_outputs
        Output channels at each grid node.
    latent
        Width of all latent vectors.
    processor_steps
        Message-passing steps on the multimesh.
    hidden_layers
        Hidden layers of every perceptron.
    conditioning_width
        Length of the vector that conditions the layer normalisations; 0 for none.
    dtype
        Precision of the computation: float32, bfloat16 (sums and normalisations stay float32)
        or float64 (needs jax's 64-bit mode). Weights are kept as they are.
    precision
        Of float32 matrix products: highest is true float32; default rounds the factors, on
        accelerators as the device does it (TF32), on CPUs to bfloat16
        (``xdiffda.networks.graphcast.layers``); faster where the processor multiplies these.
    unroll
        Compile every processor step by itself (fastest); otherwise, and always with
        ``edge_chunk``, scan over them.
    remat
        Recompute every step in the backward pass instead of storing it.
    edge_chunk
        Compute so many edges (or grid nodes) at a time, for less memory and the same outputs;
        0 for all at once. At 1 degree 4,096 on a CPU take half of the memory and the same time.
        ``xdiffda.networks.graphcast.static`` says how.

    Raises
    ------
    ValueError
        If a size or a choice is not one of those above.

    Examples
    --------
    >>> NetworkConfig(n_inputs=85, n_outputs=37, latent=128, processor_steps=8).hidden_layers
    1
    """

    n_inputs: int
    n_outputs: int
    latent: int = 512
    processor_steps: int = 16
    hidden_layers: int = 1
    conditioning_width: int = 0
    dtype: str = "float32"
    precision: str = "highest"
    unroll: bool = True
    remat: bool = False
    edge_chunk: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {least} or more, a whole number, got {getattr(self, name)!r}"
            for name, least in (
                ("n_inputs", 1),
                ("n_outputs", 1),
                ("latent", 1),
                ("processor_steps", 1),
                ("hidden_layers", 0),
                ("conditioning_width", 0),
                ("edge_chunk", 0),
            )
            if not isinstance(size := getattr(self, name), int | np.integer) or size < least
        ]
        if self.dtype not in _DTYPES:
            wrong.append(f"dtype must be one of {_DTYPES}, got {self.dtype!r}")
        if self.precision not in _PRECISIONS:
            wrong.append(f"precision must be one of {_PRECISIONS}, got {self.precision!r}")
        if wrong:
            raise ValueError("NetworkConfig: " + "; ".join(wrong))


_N_EDGE = 4
_COMPUTATION = ("dtype", "precision", "unroll", "remat", "edge_chunk")


class Encoder(eqx.Module):
    """From grid to mesh."""

    grid_embed: Block
    mesh_embed: Block
    edge_embed: Block
    step: Interaction
    grid_update: Block


class Processor(eqx.Module):
    """On the multimesh."""

    edge_embed: Block
    steps: tuple[Interaction, ...]


class Decoder(eqx.Module):
    """From mesh to grid."""

    edge_embed: Block
    step: Interaction
    output: Block


class GraphCast(eqx.Module):
    """The network, without normalisation and without a graph.

    Parameters
    ----------
    config
        Sizes and computation.
    key
        Random key of the initial weights: truncated normal with standard deviation
        1/sqrt(inputs), biases zero. Conditioning starts as the identity.

    Examples
    --------
    >>> import numpy as np
    >>> from xdiffda.networks.graphcast.graph import build_graph
    >>> graph = build_graph(np.linspace(-80, 80, 9), np.arange(0, 360, 20), refinement=1)
    >>> config = NetworkConfig(n_inputs=5, n_outputs=2, latent=8, processor_steps=2)
    >>> net = GraphCast(config, key=jax.random.key(0))
    >>> net(jnp.zeros((graph.n_grid, 4, 5)), graph).shape
    (162, 4, 2)
    """

    encoder: Encoder
    processor: Processor
    decoder: Decoder
    config: NetworkConfig = eqx.field(static=True)

    @with_own_jax
    def __init__(self, config: NetworkConfig, *, key: PRNGKeyArray) -> None:
        self.config = config
        keys = iter(jax.random.split(key, 9 + config.processor_steps))
        width, cond = config.latent, config.conditioning_width
        hidden = (width,) * config.hidden_layers
        tail = (*hidden, width)
        n_grid = config.n_inputs + N_STRUCTURAL

        def step() -> Interaction:
            return Interaction(width, hidden, cond, key=next(keys))

        # What sees static features only stays unconditioned: it is the same for all members.
        self.encoder = Encoder(
            grid_embed=Block((n_grid, *tail), conditioning=cond, key=next(keys)),
            mesh_embed=Block((n_grid, *tail), key=next(keys)),
            edge_embed=Block((_N_EDGE, *tail), key=next(keys)),
            step=step(),
            grid_update=Block((width, *tail), conditioning=cond, key=next(keys)),
        )
        self.processor = Processor(
            edge_embed=Block((_N_EDGE, *tail), key=next(keys)),
            steps=tuple(step() for _ in range(config.processor_steps)),
        )
        self.decoder = Decoder(
            edge_embed=Block((_N_EDGE, *tail), key=next(keys)),
            step=step(),
            output=Block((*tail, config.n_outputs), norm=False, key=next(keys)),
        )

    def __call__(
        self,
        x: Float[Array, "grid batch in"],
        graph: Graph,
        conditioning: Float[Array, "batch cond"] | None = None,
        prepared: Prepared | InFactors | None = None,
    ) -> Float[Array, "grid batch out"]:
        """Apply the network to normalised channels at the nodes of the graph's grid.

        ``prepared``, from `prepare`, saves what depends on the graph alone when many states are
        evaluated with the same weights; differentiate without it.

        Raises
        ------
        ValueError
            If a shape does not fit the configuration or the graph.
        """
        self._check(x, graph, conditioning, prepared)
        dtype = jnp.dtype(self.config.dtype)
        net, graph, cond, ready = _cast((self, graph, conditioning, prepared), dtype)
        with jax.default_matmul_precision(self.config.precision):
            if isinstance(ready, Prepared) or not self.config.edge_chunk:
                ready = ready or static.whole(net, graph)
                grid, mesh = net.encode(x.astype(dtype), graph, cond, ready)
                mesh = net.process(mesh, graph, cond, ready)
                out = net.decode(mesh, grid, graph, cond, ready)
            else:
                out = chunks.apply(net, x.astype(dtype), graph, cond, ready)
        return out.astype(jnp.promote_types(dtype, jnp.float32))

    def prepare(self, graph: Graph) -> Prepared | InFactors:
        """What depends on weights and graph alone, for repeated calls.

        It takes (2 mesh + grid + all edges) x latent numbers; in half precision the members
        are those the network itself would compute. With edges in chunks the edges are kept in
        factors, a seventh of that (``xdiffda.networks.graphcast.static``), and this cannot be
        compiled.

        Examples
        --------
        >>> import numpy as np
        >>> from xdiffda.networks.graphcast.graph import build_graph
        >>> graph = build_graph(np.linspace(-80, 80, 9), np.arange(0, 360, 20), refinement=1)
        >>> config = NetworkConfig(n_inputs=5, n_outputs=2, latent=8, processor_steps=2)
        >>> net = GraphCast(config, key=jax.random.key(0))
        >>> net(jnp.zeros((162, 4, 5)), graph, prepared=net.prepare(graph)).shape
        (162, 4, 2)
        """
        dtype = jnp.dtype(self.config.dtype)
        if self.config.edge_chunk:
            # of true float32 products, whatever the network computes in: it is computed once
            with jax.default_matmul_precision("highest"):
                return _cast(static.in_factors(self, graph), dtype)
        net, graph = _cast((self, graph), dtype)
        with jax.default_matmul_precision(self.config.precision):
            return static.whole(net, graph)

    @with_own_jax
    def reconfigured(self, **options: Any) -> GraphCast:
        """The same weights with other options: dtype, precision, unroll, remat or edge_chunk.

        Raises
        ------
        ValueError
            If an option is not one of these.

        Examples
        --------
        >>> config = NetworkConfig(n_inputs=5, n_outputs=2, latent=8, processor_steps=2)
        >>> net = GraphCast(config, key=jax.random.key(0))
        >>> net.reconfigured(remat=True).config.remat
        True
        """
        if unknown := sorted(set(options) - set(_COMPUTATION)):
            raise ValueError(f"{unknown} cannot be changed in a network, only {_COMPUTATION}")
        other = jax.tree.map(lambda leaf: leaf, self)
        object.__setattr__(other, "config", replace(self.config, **options))
        return other

    def encode(
        self, x: Values, graph: Graph, conditioning: Conditioning | None, ready: Prepared
    ) -> tuple[Values, Values]:
        """Latent grid and mesh nodes after the step from grid to mesh."""
        part = self.encoder
        on_data = part.grid_embed.split(self.config.n_inputs)[0]
        grid = part.grid_embed.finish(dense(x, on_data) + ready.grid, conditioning)
        args = (ready.grid2mesh, grid, ready.mesh, graph.grid2mesh, conditioning)
        update = self._remat(Interaction.update)(part.step, *args)
        return grid + part.grid_update(grid, conditioning), ready.mesh + update

    def process(
        self, mesh: Values, graph: Graph, conditioning: Conditioning | None, ready: Prepared
    ) -> Values:
        """Latent mesh nodes after all processor steps."""

        def apply(step: Interaction, edge: Values, mesh: Values) -> tuple[Values, Values]:
            args = (edge, mesh, mesh, graph.mesh, conditioning)
            edge_update, mesh_update = self._remat(Interaction.__call__)(step, *args)
            return edge + edge_update, mesh + mesh_update

        first, *others = self.processor.steps
        # The first step stands alone: its edges do not depend on the batch yet.
        edge, mesh = apply(first, ready.edge, mesh)
        if self.config.unroll or not others:
            for step in others:
                edge, mesh = apply(step, edge, mesh)
            return mesh
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *others)
        scanned = jax.lax.scan(lambda c, step: (apply(step, *c), None), (edge, mesh), stacked)
        return scanned[0][1]

    def decode(
        self,
        mesh: Values,
        grid: Values,
        graph: Graph,
        conditioning: Conditioning | None,
        ready: Prepared,
    ) -> Float[Array, "grid batch out"]:
        """Output channels at the grid nodes."""
        args = (ready.mesh2grid, mesh, grid, graph.mesh2grid, conditioning)
        update = self._remat(Interaction.update)(self.decoder.step, *args)
        return self.decoder.output(grid + update)

    def _remat(self, function: Callable) -> Callable:
        return jax.checkpoint(function) if self.config.remat else function

    def _check(
        self,
        x: Values,
        graph: Graph,
        conditioning: Conditioning | None,
        prepared: Prepared | InFactors | None,
    ) -> None:
        config, wrong = self.config, []
        if x.ndim != 3 or x.shape[0] != graph.n_grid or x.shape[2] != config.n_inputs:
            needed = f"({graph.n_grid}, batch, {config.n_inputs})"
            wrong.append(f"x must be (grid, batch, in) = {needed}, got {x.shape}")
        expected = (x.shape[1:2] or (1,)) + (config.conditioning_width,)
        if config.conditioning_width and conditioning is None:
            wrong.append(f"conditioning of shape {expected} is missing")
        elif conditioning is not None and not config.conditioning_width:
            wrong.append("conditioning is given, but the network has conditioning_width 0")
        elif conditioning is not None and conditioning.shape != expected:
            wrong.append(f"conditioning must be {expected}, got {conditioning.shape}")
        if prepared is not None and isinstance(prepared, InFactors) != bool(config.edge_chunk):
            kind = "with edges in chunks" if isinstance(prepared, InFactors) else "without chunks"
            wrong.append(f"prepared is of a network {kind}, edge_chunk is {config.edge_chunk}")
        if wrong:
            raise ValueError("GraphCast: " + "; ".join(wrong))


def _cast(tree, dtype):
    """The tree with all its floating-point arrays in `dtype`."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)
