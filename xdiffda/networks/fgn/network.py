"""The FGN network: GenCast's trunk with narrow edges, every normalisation conditioned on noise.

Alet et al. (2025), arXiv 2506.10772.  One vector of normal numbers for the whole globe tells
one member from another: it is all that is random.  Arrays are (node, batch, channel).
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.fgn.config import Architecture, MessageConfig
from xdiffda.networks.gencast.graph import GenCastGraph
from xdiffda.networks.gencast.network import MeshTransformer, Transformer, _cast
from xdiffda.networks.graphcast.layers import (
    Block,
    Conditioning,
    Interaction,
    Linear,
    Values,
    dense,
)
from xdiffda.networks.graphcast.network import Decoder, Encoder

N_STRUCTURAL = 3
N_EDGE = 4
_DTYPES = ("float32", "bfloat16", "float64")
_PRECISIONS = ("default", "high", "highest")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network and how it is computed.

    Parameters
    ----------
    sizes
        Widths, layers, heads.
    n_inputs, n_outputs
        Data channels at each grid node; the three structural ones come on top.
    n_clocks
        Those of the data channels that are the same everywhere: the mesh nodes get them, too.
    sigmoids
        Output channels that pass through a sigmoid, and how they are moved before.
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
    """

    sizes: Architecture
    n_inputs: int
    n_clocks: int
    n_outputs: int
    sigmoids: tuple[tuple[int, float], ...] = ()
    dtype: str = "float32"
    precision: str = "highest"
    remat: bool = False

    def __post_init__(self) -> None:
        least = {"n_inputs": 1, "n_clocks": 0, "n_outputs": 1}
        wrong = [
            f"{name} must be {n} or more, got {getattr(self, name)}"
            for name, n in least.items()
            if getattr(self, name) < n
        ]
        if beyond := [i for i, _ in self.sigmoids if not 0 <= i < self.n_outputs]:
            wrong.append(f"sigmoids of channels {beyond}, of {self.n_outputs} outputs")
        if self.dtype not in _DTYPES:
            wrong.append(f"dtype must be one of {_DTYPES}, got {self.dtype!r}")
        if self.precision not in _PRECISIONS:
            wrong.append(f"precision must be one of {_PRECISIONS}, got {self.precision!r}")
        if wrong:
            raise ValueError("NetworkConfig: " + "; ".join(wrong))

    @property
    def latent(self) -> int:
        """Width of all nodes."""
        return self.sizes.latent

    @property
    def heads(self) -> int:
        """Of the attention."""
        return self.sizes.heads

    @property
    def ffw_hidden(self) -> int:
        """Width between the two layers of the transformer's perceptrons."""
        return self.sizes.ffw_hidden


class FGN(MeshTransformer):
    """The network, without normalisation and graph.

    A draw of z gives one member, and the same z the same member: the network is differentiable
    in z and in the state.

    Parameters
    ----------
    config
        Sizes and computation.
    key
        For random initial weights; what the noise does is zero then, as in GenCast.
    """

    noise: Float[Array, "noise cond"]
    config: NetworkConfig = eqx.field(static=True)

    @with_own_jax
    def __init__(self, config: NetworkConfig, *, key: PRNGKeyArray) -> None:
        sizes, keys = config.sizes, iter(jax.random.split(key, 10))
        width, cond = sizes.latent, sizes.conditioning_width

        def block(n_in: int, hidden: tuple[int, ...], n_out: int = width) -> Block:
            return Block((n_in, *hidden, n_out), conditioning=cond, key=next(keys))

        def step(told: MessageConfig) -> tuple[Block, Interaction]:
            edge = block(N_EDGE, told.edge_hidden, told.edge_width)
            return edge, Interaction(
                width,
                told.hidden,
                cond,
                edge_width=told.edge_width,
                hears_receiver=told.hears_receiver,
                divide_sums=told.divide_sums,
                key=next(keys),
            )

        self.config = config
        self.noise = Linear(sizes.noise_channels, cond, key=next(keys)).weight
        grid = block(config.n_inputs + N_STRUCTURAL, sizes.hidden)
        mesh = block(config.n_clocks + N_STRUCTURAL, sizes.hidden)
        update = block(width, sizes.grid2mesh.hidden)
        self.encoder = Encoder(grid, mesh, *step(sizes.grid2mesh), update)
        self.transformer = Transformer(
            width, sizes.layers, sizes.heads, sizes.ffw_hidden, cond, key=next(keys)
        )
        last = (width, *sizes.output_hidden, config.n_outputs)
        self.decoder = Decoder(*step(sizes.mesh2grid), Block(last, norm=False, key=next(keys)))

    def __call__(
        self,
        x: Float[Array, "grid batch in"],
        clocks: Float[Array, "batch clock"],
        z: Float[Array, "batch noise"],
        graph: GenCastGraph,
    ) -> Float[Array, "grid batch out"]:
        """Apply the network to normalised channels at the nodes of the graph's grid.

        A batch of one in ``x``, ``clocks`` or ``z`` serves all entries of the others: members
        that start from one state need it once.

        Parameters
        ----------
        x
            Channels in the order of the published models.
        clocks
            Those channels again that are the same everywhere.
        z
            Independent normal numbers.
        graph
            The graph of the grid.

        Raises
        ------
        ValueError
            If a shape does not fit the configuration or the graph.
        """
        self._check(x, clocks, z, graph)
        dtype = jnp.dtype(self.config.dtype)
        net, graph = _cast((self, graph), dtype)
        with jax.default_matmul_precision(self.config.precision):
            # what tells members apart is never rounded to half precision
            conditioning = (z @ self.noise.astype(z.dtype)).astype(dtype)
            grid, mesh = net.encode(x.astype(dtype), clocks.astype(dtype), graph, conditioning)
            mesh = net.process(mesh, graph, conditioning)
            out = net.decode(mesh, grid, graph, conditioning)
        out = out.astype(jnp.promote_types(dtype, jnp.float32))
        for channel, moved in self.config.sigmoids:
            out = out.at[..., channel].set(jax.nn.sigmoid(out[..., channel] + moved))
        return out

    def encode(
        self,
        x: Values,
        clocks: Float[Array, "batch clock"],
        graph: GenCastGraph,
        conditioning: Conditioning,
    ) -> tuple[Values, Values]:
        """Latent grid and mesh nodes after the step from grid to mesh."""
        return self.exchange(*self.embed(x, clocks, graph, conditioning), graph, conditioning)

    def embed(
        self,
        x: Values,
        clocks: Float[Array, "batch clock"],
        graph: GenCastGraph,
        conditioning: Conditioning,
    ) -> tuple[Values, Values]:
        """Grid and mesh nodes before any message."""
        nodes = (
            (self.encoder.grid_embed, x, graph.grid_features),
            (self.encoder.mesh_embed, clocks[None], graph.mesh_features),
        )
        embedded = []
        for block, data, features in nodes:
            on_data, on_structure = block.split(data.shape[-1], N_STRUCTURAL)
            structure = dense(features[:, None], on_structure)
            embedded.append(block.finish(dense(data, on_data) + structure, conditioning))
        grid, mesh = embedded
        return grid, mesh

    def _check(self, x: Array, clocks: Array, z: Array, graph: GenCastGraph) -> None:
        config, wrong = self.config, []
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (graph.n_grid, config.n_inputs):
            needed = f"({graph.n_grid}, batch, {config.n_inputs})"
            wrong.append(f"x must be (grid, batch, in) = {needed}, got {x.shape}")
        widths = {"clocks": (clocks, config.n_clocks), "z": (z, config.sizes.noise_channels)}
        for name, (value, width) in widths.items():
            if value.ndim != 2 or value.shape[1] != width:
                wrong.append(f"{name} must be (batch, {width}), got {value.shape}")
        if not wrong:
            batches = {x.shape[1], clocks.shape[0], z.shape[0]}
            if len(batches - {1}) > 1:
                wrong.append(f"batches of x, clocks and z must agree, got {sorted(batches)}")
        if wrong:
            raise ValueError("FGN: " + "; ".join(wrong))
