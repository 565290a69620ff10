"""The network once more, in plain float64 numpy: gather, concatenate, add up edge by edge.

Written from the published description and independent of the module under test, which it uses
for the list of edges only.
"""

from __future__ import annotations

import numpy as np


def mlp(block, *parts):
    x = np.concatenate([np.asarray(part, np.float64) for part in parts], axis=-1)
    for k, layer in enumerate(block.layers):
        if k:
            x = x / (1 + np.exp(-x))
        x = x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
    if block.norm is None:
        return x
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * np.asarray(block.norm.scale) + np.asarray(block.norm.offset)


def interact(step, edge, sender, receiver, edges):
    senders, receivers = np.asarray(edges.senders.node), np.asarray(edges.receivers.node)
    messages = mlp(step.edge, edge, sender[senders], receiver[receivers])
    total = np.zeros(receiver.shape)
    np.add.at(total, receivers, messages)
    return messages, mlp(step.node, receiver, total)


def forward(net, x, graph):
    """Outputs (grid, batch, out) for inputs (grid, batch, in)."""
    return np.stack([_forward(net, x[:, i], graph) for i in range(x.shape[1])], axis=1)


def _forward(net, x, graph):
    encoder, processor, decoder = net.encoder, net.processor, net.decoder
    grid = mlp(encoder.grid_embed, x, graph.grid_features)
    no_data = np.zeros((graph.n_mesh, x.shape[-1]))
    mesh = mlp(encoder.mesh_embed, no_data, graph.mesh_features)
    edge = mlp(encoder.edge_embed, graph.grid2mesh.features)
    _, update = interact(encoder.step, edge, grid, mesh, graph.grid2mesh)
    mesh, grid = mesh + update, grid + mlp(encoder.grid_update, grid)
    edge = mlp(processor.edge_embed, graph.mesh.features)
    for step in processor.steps:
        edge_update, update = interact(step, edge, mesh, mesh, graph.mesh)
        edge, mesh = edge + edge_update, mesh + update
    edge = mlp(decoder.edge_embed, graph.mesh2grid.features)
    _, update = interact(decoder.step, edge, mesh, grid, graph.mesh2grid)
    return mlp(decoder.output, grid + update)
