"""Memory of one evaluation of GenCast's network, counted from sizes: no array is made."""

from __future__ import annotations

from xdiffda.networks.gencast.graph import GenCastGraph
from xdiffda.networks.gencast.network import NetworkConfig

_WIDTH = {"float32": 4, "bfloat16": 2, "float64": 8}  # bytes


def temporary_bytes(config: NetworkConfig, graph: GenCastGraph) -> tuple[int, int]:
    """Memory of one evaluation beside weights and graph: shared, and for each member.

    As in `xdiffda.networks.graphcast.costs.temporary_bytes`, most is needed when messages are
    formed from mesh to grid, unless the mesh is so fine that the transformer needs more. Edges
    there are embedded by noise level, which all members share.

    Parameters
    ----------
    config
        Sizes of the network and its precision.
    graph
        Numbers of nodes and edges; how many nodes a block of attention reads.

    Returns
    -------
    shared, member : int
        Bytes.
    """
    width = _WIDTH[config.dtype]
    row, grid, mesh = config.latent * width, graph.n_grid, graph.n_mesh
    most = max(len(e.features) for e in (graph.mesh2grid, graph.grid2mesh))
    _, query, key = graph.near.seen.shape
    # query, key, value and what they are made from; or the hidden layer before and after gelu
    nodes = mesh * max(6 * row, 2 * row + 2 * config.ffw_hidden * width)
    # weights are made in float32
    block = 2 * key * row + 2 * max(4, width) * config.heads * query * key
    return 2 * most * row, max((3 * most + 2 * grid) * row, nodes + block + grid * row)
