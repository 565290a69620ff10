"""What the network computes from the graph alone, kept between evaluations: whole or in factors.

Embedded edges take (edges x latent) numbers: 0.7 GB at 1 degree, 6 GB at 0.25 degree in half
precision.  They are smooth functions of the four features of an edge (its length and its
direction), so all of them lie, to float32's rounding, in a space of 64 to 80 dimensions (width 512;
48 of width 128; fewer where products are rounded):

    W_e embed(features) = C Q,   C (edge, rank), Q (rank, latent)

which takes a seventh of the memory, and less than a tenth of the operations of embedding anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .layers import Values, dense
from .rows import in_rows

if TYPE_CHECKING:
    from .graph import Graph
    from .network import Decoder, Encoder, GraphCast

N_STRUCTURAL = 3
# What the factors may lack at any edge over the size of all values, root mean square over channels:
# float32 itself is off by 2e-7 to 5e-7 after embedding, normalisation and product.
_TOLERANCE = 1e-6
_TOLERANCE_ROUNDED = 1e-4  # where values or factors have bfloat16's 8 bits (4e-3), or TF32's 11
_SAMPLE = 2048
_BLOCK = 16  # ranks are multiples of it, as matrix units want them


class Factored(eqx.Module):
    """Values at edges as C Q.

    Attributes
    ----------
    coefficients : array (edge, rank)
    basis : array (rank, latent)
        Orthonormal rows.
    """

    coefficients: Float[Array, "edge rank"]
    basis: Float[Array, "rank latent"]

    def at(self, edges: Int[Array, " row"]) -> Values:
        """Values at some edges; zeros for numbers past the end."""
        own = self.coefficients.at[edges].get(mode="fill", fill_value=0)
        return dense(own[:, None], self.basis)


class Prepared(eqx.Module):
    """What the network computes from the graph alone: the same for every state and member.

    Attributes
    ----------
    grid : array (grid, 1, latent)
        Share of the structural features in the first layer of the grid's embedding.
    mesh : array (mesh, 1, latent)
        Embedded mesh nodes.
    edge : array (mesh edge, 1, latent)
        Embedded edges of the multimesh.
    grid2mesh, mesh2grid : arrays (edge, 1, latent)
        Embedded edges, multiplied already by the first weight of the step that reads them.
    """

    grid: Values
    mesh: Values
    edge: Values
    grid2mesh: Values
    mesh2grid: Values


class InFactors(eqx.Module):
    """The same for edges in chunks: edges in factors, None where these would be as large.

    The share of the grid's structural features takes few operations: it is not kept.
    """

    mesh: Values
    edge: Factored | None
    grid2mesh: Factored | None
    mesh2grid: Factored | None


def whole(net: GraphCast, graph: Graph) -> Prepared:
    """All of it as it is: most memory, no operations afterwards."""
    encoder, decoder = net.encoder, net.decoder
    _, on_grid = encoder.grid_embed.split(net.config.n_inputs, N_STRUCTURAL)
    return Prepared(
        grid=dense(graph.grid_features[:, None], on_grid),
        mesh=embedded_mesh(net, graph),
        edge=net.processor.edge_embed(graph.mesh.features[:, None]),
        grid2mesh=encoder.step.project(encoder.edge_embed(graph.grid2mesh.features[:, None])),
        mesh2grid=decoder.step.project(decoder.edge_embed(graph.mesh2grid.features[:, None])),
    )


def embedded_mesh(net: GraphCast, graph: Graph) -> Values:
    """Embedded mesh nodes: they have zeros in place of data."""
    embed = net.encoder.mesh_embed
    _, on_mesh = embed.split(net.config.n_inputs, N_STRUCTURAL)
    return embed.finish(dense(graph.mesh_features[:, None], on_mesh))


def in_factors(net: GraphCast, graph: Graph) -> InFactors:
    """The edges in factors, for networks with edges in chunks.

    The ranks depend on the weights: this is computed at once and cannot be compiled into
    another function.
    """
    encoder, processor, decoder = net.encoder, net.processor, net.decoder
    limit = net.config.edge_chunk
    exact = net.config.dtype != "bfloat16" and net.config.precision == "highest"
    tolerance = _TOLERANCE if exact else _TOLERANCE_ROUNDED
    edges = (
        factored(processor.edge_embed, graph.mesh.features, limit, tolerance),
        factored(_projected(encoder), graph.grid2mesh.features, limit, tolerance),
        factored(_projected(decoder), graph.mesh2grid.features, limit, tolerance),
    )
    return InFactors(eqx.filter_jit(embedded_mesh)(net, graph), *edges)


def _projected(part: Encoder | Decoder) -> Callable[[Values], Values]:
    """From the features of edges to their share in the first layer of a message."""
    return eqx.filter_jit(lambda features: part.step.project(part.edge_embed(features)))


def factored(
    embed: Callable[[Values], Values], features: Float[Array, "edge feature"], limit: int,
    tolerance: float = _TOLERANCE,
) -> Factored | None:  # fmt: skip
    """A function of all edges as C Q, or None if C would be over half of its size.

    Parameters
    ----------
    embed : callable
        From (edge, 1, feature) to (edge, 1, latent).
    features : array (edge, feature)
    limit : int
        Edges at a time.
    tolerance : float
        What may be lacking at any edge, over the size of the values.

    Examples
    --------
    >>> features = jnp.linspace(-1, 1, 3000)[:, None]
    >>> wave = lambda x: jnp.sin(x + jnp.arange(64.0))
    >>> factors = factored(wave, features, 1024)
    >>> factors.coefficients.shape
    (3000, 16)
    >>> bool(jnp.allclose(factors.at(jnp.arange(3)), wave(features[:3, None]), atol=1e-5))
    True
    """
    some = np.unique(np.linspace(0, len(features) - 1, _SAMPLE).astype(int))
    values = _values(embed, features, some)
    tolerance *= np.sqrt(np.square(values).mean())
    basis = _extended(np.empty((0, values.shape[1])), values, tolerance)
    while len(basis) <= values.shape[1] // 2:
        coefficients, residual = _on_basis(embed, limit)(features, jnp.asarray(basis, jnp.float32))
        # The residual of all edges has the rounding of two float32 products in it, which some
        # processors leave above the tolerance: it finds the worst edges, and is not the judge.
        values = _values(embed, features, jnp.argsort(residual)[-_SAMPLE:])
        if _lacking(values, basis).max() <= tolerance:
            return Factored(coefficients, jnp.asarray(basis, features.dtype))
        basis = _extended(basis, values, tolerance)
    return None


def _values(embed: Callable[[Values], Values], features: Array, edges: Any) -> np.ndarray:
    return np.asarray(embed(features[edges][:, None])[:, 0], np.float64)


def _extended(basis: np.ndarray, values: np.ndarray, tolerance: float) -> np.ndarray:
    """The basis with as many blocks of directions as these values need (past half of all: none)."""
    while len(basis) <= values.shape[1] // 2 and _lacking(values, basis).max() > tolerance:
        found = np.linalg.svd(_beyond(values, basis), full_matrices=False)[2][:_BLOCK]
        # Once more: of what is that small, a part is rounding that lies along the basis.
        basis = np.concatenate([basis, np.linalg.qr(_beyond(found, basis).T)[0].T])
    return basis


def _beyond(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What is left of some values beyond a basis."""
    return values - (values @ basis.T) @ basis


def _lacking(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Its root mean square over the channels, for each row."""
    return np.sqrt(np.square(_beyond(values, basis)).mean(axis=1))


def _on_basis(embed: Callable[[Values], Values], limit: int) -> Callable:
    """Coefficients of all edges, and what each of them lacks (root mean square)."""

    def of_rows(features: Float[Array, "edge feature"], basis: Array) -> Array:
        values = embed(features[:, None])
        own = dense(values, basis.T)
        lacking = jnp.sqrt(jnp.square(values - dense(own, basis)).mean(axis=-1, keepdims=True))
        return jnp.concatenate([own, lacking], axis=-1)

    @jax.jit
    def of_all(features: Float[Array, "edge feature"], basis: Array) -> tuple[Array, Array]:
        found = in_rows(lambda rows: of_rows(rows, basis), limit, features)[:, 0]
        return found[:, :-1], found[:, -1]

    return of_all
