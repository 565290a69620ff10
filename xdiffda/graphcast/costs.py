"""What one evaluation of the network costs: operations, traffic and memory, counted.

The counts follow `network` and `layers` product by product: values that do not depend on the
batch (those of static features) are computed once, and the first product of every message is
made on nodes.  No array is made, so that the largest networks can be counted anywhere.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .graph import Graph
from .mesh import mesh_hierarchy
from .network import NetworkConfig

_N_STRUCTURAL = 3
_N_EDGE = 4
# Operations for each element, as XLA counts them: x sigmoid(x), and layer normalisation.
_SWISH, _NORM = 4, 8


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
        radius = radius_fraction * _longest_edge(refinement)
        # a cap of chord c has the share c^2 / 4 of the sphere
        grid2mesh = round(grid * mesh * radius**2 / 4)
        return cls(grid, mesh, grid2mesh, 20 * (4 ** (refinement + 1) - 1), 3 * grid)


@functools.cache
def _longest_edge(refinement: int) -> float:
    return float(mesh_hierarchy(refinement)[-1].longest_edge)


def parameters(config: NetworkConfig) -> int:
    """Number of weights.

    Examples
    --------
    >>> parameters(NetworkConfig(n_inputs=183, n_outputs=83)) // 10**6  # GraphCast, 13 levels
    35
    """
    width, hidden = config.latent, config.hidden_layers
    cond, tail = (
        config.conditioning_width,
        hidden * (config.latent**2 + config.latent) + config.latent,
    )

    def block(n_in: int, *, conditioned: bool = True) -> int:
        norm = 2 * width + (2 * width * (cond + 1) if conditioned and cond else 0)
        return n_in * width + tail + norm

    n_grid = config.n_inputs + _N_STRUCTURAL
    step = block(3 * width) + block(2 * width)
    encoder = block(n_grid) + block(n_grid, conditioned=False) + block(width)
    edges = 3 * block(_N_EDGE, conditioned=False)
    output = hidden * (width**2 + width) + (width + 1) * config.n_outputs
    return encoder + edges + (config.processor_steps + 2) * step + output


def operations(config: NetworkConfig, size: Dimensions, *, batch: int = 1) -> int:
    """Floating-point operations of one evaluation (a multiplication and an addition are two).

    Parameters
    ----------
    config
        Sizes of the network.
    size
        Of the graph.
    batch
        Members computed together.
    """
    width, hidden = config.latent, config.hidden_layers
    products, elements = _Count(), _Count()

    def block(rows: int, n_in: int = 0, *, n_out: int = width, norm: bool = True) -> None:
        """A perceptron on so many rows; ``n_in`` 0 where its first product is made elsewhere."""
        products.add(rows * n_in * width)
        products.add(rows * (max(hidden - 1, 0) * width * width + (width * n_out if hidden else 0)))
        elements.add(rows * width * (hidden * (_SWISH + 1) + 1) + rows * n_out)
        if norm:
            elements.add(rows * n_out * _NORM)

    def interaction(edges: int, once: bool, n_sender: int, n_receiver: int, own: int) -> None:
        """Messages and update; edges, and receivers (``own``), may be the same for all members."""
        products.add(edges * (1 if once else batch) * width * width)
        products.add((n_sender + own) * width * width)
        elements.add(2 * edges * batch * width)  # three parts summed
        block(edges * batch)
        elements.add(edges * batch * width)  # sums over neighbours
        products.add((own + n_receiver * batch) * width * width)
        elements.add(n_receiver * batch * width)
        block(n_receiver * batch)

    grid, mesh = size.grid, size.mesh
    products.add(grid * _N_STRUCTURAL * width)
    block(grid * batch, config.n_inputs)
    block(mesh, _N_STRUCTURAL)
    block(size.grid2mesh, _N_EDGE)
    interaction(size.grid2mesh, True, grid * batch, mesh, mesh)
    block(grid * batch, width)
    block(size.within, _N_EDGE)
    for step in range(config.processor_steps):
        interaction(size.within, step == 0, mesh * batch, mesh, mesh * batch)
        elements.add((size.within + mesh) * batch * width)  # residuals
    block(size.mesh2grid, _N_EDGE)
    interaction(size.mesh2grid, True, mesh * batch, grid, grid * batch)
    elements.add(3 * grid * batch * width)  # residuals
    block(grid * batch, width, n_out=config.n_outputs, norm=False)
    return 2 * products.total + elements.total


class _Count:
    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> None:
        self.total += n
