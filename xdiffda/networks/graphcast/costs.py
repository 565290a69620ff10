"""Costs of one evaluation of the network: operations, traffic and memory, counted from sizes.

The counts follow `network` and `layers` product by product: values that do not depend on the
batch (those of static features) are computed once, and the first product of every message is
made on nodes.  No array is made, so that the largest networks can be counted anywhere.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace

from xdiffda.networks.graphcast.graph import Graph
from xdiffda.networks.graphcast.mesh import mesh_hierarchy
from xdiffda.networks.graphcast.network import NetworkConfig

_N_STRUCTURAL = 3
_N_EDGE = 4
# Operations for each element, as XLA counts them: x sigmoid(x), and layer normalisation.
_SWISH, _NORM = 4, 8
# Of embedded edges in factors (`static`): of the bundled weights (width 128), and of random ones of
# width 512, the most there were.
_LEAST_RANK, _RANK = 48, 80
_WIDTH = {"float32": 4, "bfloat16": 2, "float64": 8}  # bytes


@dataclass(frozen=True)
class Dimensions:
    """Numbers of nodes and edges of a graph.

    Parameters
    ----------
    grid, mesh
        Nodes.
    grid2mesh, within, mesh2grid
        Edges from grid to mesh, within the multimesh, and from mesh to grid.
    """

    grid: int
    mesh: int
    grid2mesh: int
    within: int
    mesh2grid: int

    @classmethod
    def of(cls, graph: Graph) -> Dimensions:
        """Those of a graph that exists."""
        edges = (graph.grid2mesh, graph.mesh, graph.mesh2grid)
        return cls(graph.n_grid, graph.n_mesh, *(len(e.features) for e in edges))

    @classmethod
    def of_grid(
        cls, n_lat: int, n_lon: int, refinement: int, *, radius_fraction: float = 0.6
    ) -> Dimensions:
        """Those of a regular global grid, without building the graph.

        All are exact but ``grid2mesh``, which is the expected number: the grid points, were
        they spread evenly, in the caps around the mesh nodes times the number of these.

        Examples
        --------
        >>> Dimensions.of_grid(181, 360, 5)
        Dimensions(grid=65160, mesh=10242, grid2mesh=102634, within=81900, mesh2grid=195480)
        """
        grid, mesh = n_lat * n_lon, 10 * 4**refinement + 2
        radius = radius_fraction * longest_edge(refinement)
        # a cap of chord c has the share c^2 / 4 of the sphere
        grid2mesh = round(grid * mesh * radius**2 / 4)
        return cls(grid, mesh, grid2mesh, 20 * (4 ** (refinement + 1) - 1), 3 * grid)


@functools.cache
def longest_edge(refinement: int) -> float:
    """The longest edge of a mesh, as a chord of the unit sphere."""
    return float(mesh_hierarchy(refinement)[-1].longest_edge)


def parameters(config: NetworkConfig) -> int:
    """Number of weights.

    Examples
    --------
    >>> parameters(NetworkConfig(n_inputs=183, n_outputs=83)) // 10**6  # GraphCast, 13 levels
    35
    """
    width, hidden, cond = config.latent, config.hidden_layers, config.conditioning_width
    tail = hidden * (width**2 + width) + width

    def block(n_in: int, *, conditioned: bool = True) -> int:
        norm = 2 * width + (2 * width * (cond + 1) if conditioned and cond else 0)
        return n_in * width + tail + norm

    n_grid = config.n_inputs + _N_STRUCTURAL
    step = block(3 * width) + block(2 * width)
    encoder = block(n_grid) + block(n_grid, conditioned=False) + block(width)
    edges = 3 * block(_N_EDGE, conditioned=False)
    output = hidden * (width**2 + width) + (width + 1) * config.n_outputs
    return encoder + edges + (config.processor_steps + 2) * step + output


@dataclass
class Tally:
    """What was counted.

    Attributes
    ----------
    products : int
        Multiplications with additions in matrix products.
    elements : int
        Other operations.
    moved : int
        Numbers read from memory or written to it, where each product and each normalisation
        reads its inputs and writes its outputs once, and all else is fused into them.
    """

    products: int = 0
    elements: int = 0
    moved: int = 0

    @property
    def operations(self) -> int:
        """Floating-point operations: a multiplication with its addition are two."""
        return 2 * self.products + self.elements

    def product(self, rows: int, n_in: int, n_out: int) -> None:
        self.products += rows * n_in * n_out
        self.moved += rows * (n_in + n_out) + n_in * n_out

    def pointwise(self, numbers: int, each: int, *, moved: int = 0) -> None:
        self.elements += numbers * each
        self.moved += numbers * moved


def count(
    config: NetworkConfig, size: Dimensions, *, batch: int = 1, prepared: bool = False
) -> Tally:
    """Count one evaluation of the network.

    Parameters
    ----------
    config
        Sizes of the network.
    size
        Of the graph.
    batch
        Members computed together.
    prepared
        Whether what depends on the graph alone is kept between evaluations
        (`GraphCast.prepare`).

    Examples
    --------
    >>> config = NetworkConfig(n_inputs=183, n_outputs=83)
    >>> size = Dimensions.of_grid(181, 360, 5)
    >>> f"{count(config, size).operations:.2g}"  # multiplied out as published: 4.1e12
    '2.7e+12'
    """
    tally, width = Tally(), config.latent
    rank = _rank(config) if prepared else 0
    prepared = prepared and bool(rank or not config.edge_chunk)
    grid, mesh, own = size.grid, size.mesh, 0 if prepared else 1
    for edges in (size.grid2mesh, size.within, size.mesh2grid):
        tally.product(edges, rank, width)
    if not prepared:
        tally.product(grid, _N_STRUCTURAL, width)
        _block(tally, config, mesh, _N_STRUCTURAL)
        for edges in (size.grid2mesh, size.within, size.mesh2grid):
            _block(tally, config, edges, _N_EDGE)
    _block(tally, config, grid * batch, config.n_inputs)
    _interaction(
        tally,
        config,
        edges=own * size.grid2mesh,
        messages=size.grid2mesh * batch,
        sender=grid * batch,
        receiver=mesh,
        updated=mesh * batch,
    )
    _block(tally, config, grid * batch, width)
    nodes, points = mesh * batch, grid * batch
    for step in range(config.processor_steps):
        _interaction(
            tally,
            config,
            edges=size.within * (batch if step else 1),
            messages=size.within * batch,
            sender=nodes,
            receiver=nodes,
            updated=nodes,
        )
        tally.pointwise((size.within + mesh) * batch * width, 1, moved=2)  # residuals
    _interaction(
        tally,
        config,
        edges=own * size.mesh2grid,
        messages=size.mesh2grid * batch,
        sender=nodes,
        receiver=points,
        updated=points,
    )
    tally.pointwise(3 * points * width, 1, moved=1)  # residuals
    _block(tally, config, points, width, last=config.n_outputs)
    return tally


def _block(tally: Tally, config: NetworkConfig, rows: int, n_in: int = 0, *, last: int = 0) -> None:
    """A perceptron of so many rows; ``n_in`` 0 where its first product is made elsewhere.

    ``last`` outputs without normalisation, or as many as the latent width with it.
    """
    width, n_out = config.latent, last or config.latent
    sizes = [width] * config.hidden_layers + [n_out]
    if n_in:
        tally.product(rows, n_in, sizes[0])
    for before, after in itertools.pairwise(sizes):
        tally.product(rows, before, after)
        tally.pointwise(rows * before, _SWISH)
    tally.pointwise(rows * sum(sizes), 1)  # biases
    if not last:
        tally.pointwise(rows * width, _NORM, moved=2)


def _interaction(
    tally: Tally,
    config: NetworkConfig,
    *,
    edges: int,
    messages: int,
    sender: int,
    receiver: int,
    updated: int,
) -> None:
    """Messages and update, from numbers of rows: one for all members, or one for each.

    ``messages`` and ``updated`` receivers there are one for each member; ``edges`` (none, where
    their product is known), ``sender`` and ``receiver`` are what they are made from.
    """
    width = config.latent
    for rows in (edges, sender, receiver):
        tally.product(rows, width, width)
    tally.pointwise(2 * messages * width, 1, moved=1)  # three parts gathered and summed
    _block(tally, config, messages)
    tally.pointwise(messages * width, 1, moved=1)  # sums over neighbours
    for rows in (receiver, updated):
        tally.product(rows, width, width)
    tally.pointwise(updated * width, 1)
    _block(tally, config, updated)


def temporary_bytes(
    config: NetworkConfig, size: Dimensions, *, prepared: bool = False
) -> tuple[int, int]:
    """Memory of one evaluation beside weights and graph: shared, and for each member.

    Arrays of latent vectors that are alive at once. Without chunks most is needed when messages
    are formed from mesh to grid: of every member three arrays at the edges (what they were made
    from, what they are being made into, and one that waits) and two at the grid; and two more
    at the edges of each kind that all members share. Or, where the mesh is fine for its grid, on
    the mesh: of every member six arrays at its edges, ten at its nodes and two at the grid. With
    ``edge_chunk`` most is needed on the mesh: one array at the grid, one at the mesh's edges,
    three at its nodes and one more for all members, eight of a chunk.

    Parameters
    ----------
    config
        Sizes of the network, its precision and the size of chunks.
    size
        Of the graph.
    prepared
        Whether what depends on the graph alone is kept between evaluations (`GraphCast.prepare`);
        it is counted among what members share. With chunks it is kept in factors.

    Returns
    -------
    shared, member : int
        Bytes.
    """
    row, most = config.latent * _WIDTH[config.dtype], max(size.mesh2grid, size.grid2mesh)
    # a loop over the steps reads their weights from copies laid end to end
    looped = bool(config.edge_chunk) or not config.unroll
    copies = _WIDTH[config.dtype] * _step_parameters(config) * config.processor_steps * looped
    if config.edge_chunk:
        own = size.grid + size.within + 3 * size.mesh
        member = own + 8 * min(most, config.edge_chunk)
        edges = prepared * (size.grid2mesh + size.within + size.mesh2grid)
        factors = _rank(config) * edges * _WIDTH[config.dtype]
        return copies + size.mesh * row + factors, member * row
    kept = 2 * size.mesh + size.grid + size.grid2mesh + size.within + size.mesh2grid
    shared = kept + most if prepared else 2 * (most + size.within)
    decoded, on_mesh = 3 * most + 2 * size.grid, 6 * size.within + 10 * size.mesh + 2 * size.grid
    if on_mesh > decoded:
        # the decoder's sum for one member is still needed, and what is kept for all of them
        shared = max(shared + decoded - on_mesh, kept if prepared else 0)
    return copies + shared * row, max(decoded, on_mesh) * row


def _rank(config: NetworkConfig) -> int:
    """That of edges in factors; 0 without, and where they would be as large as the edges."""
    most = config.latent // 2
    return min(_RANK, most) if config.edge_chunk and most >= _LEAST_RANK else 0


def _step_parameters(config: NetworkConfig) -> int:
    """Weights of one step on the mesh."""
    longer = replace(config, processor_steps=config.processor_steps + 1)
    return parameters(longer) - parameters(config)
