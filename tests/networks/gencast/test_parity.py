"""Network, denoiser, loss and sampler against the official answers.

Tolerances: those of the golden data's note, float32 against float32.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.networks import gencast
from xdiffda.networks.gencast.bare import _apply
from xdiffda.networks.graphcast.graph import flat_grid, unit_vectors
from xdiffda.networks.graphcast.mesh import mesh_hierarchy

SIGMA = np.array([0.7, 12.0], np.float32)
LAT, LON = np.linspace(-90, 90, 19), 10.0 * np.arange(36)


def agree(ours, theirs, *, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def arrays(case):
    """What the network is given, noisy targets, noise levels."""
    given = case.net.given(*case.norm())
    w = jnp.asarray(case.net.stack_targets(case.fields("noisy_targets")))
    return given, w, jnp.asarray(SIGMA)


def test_missing_values_are_filled_before_normalisation(case):
    inputs, _ = case.norm()
    assert not any(bool(inputs[name].isnull().any()) for name in inputs)
    names = ("sea_surface_temperature", "geopotential")
    columns = [inputs[n].transpose("lat", "lon", "batch", ...).values for n in names]
    ours = np.concatenate([c.reshape(684, 2, -1) for c in columns], axis=-1)
    agree(ours[case.outputs["nodes"]], case.outputs["norm_inputs"], atol=2e-6)


def test_channels_agree(case, arrays):
    given, w, _ = arrays
    inputs, forcings = case.net.select(case.fields("inputs"), case.fields("forcings"))
    channels = gencast.bare.channels_of(inputs, inputs) + gencast.bare.channels_of(
        forcings, forcings
    )
    hours = [(-12, 0)[c.frame] if c.frame is not None else None for c in channels]
    hours[-len(forcings) :] = [12] * len(forcings)
    row = [
        *((c.variable, h, c.level) for c, h in zip(channels, hours, strict=True)),
        *((c.variable, 12, c.level) for c in case.net.target_channels()),
    ]
    stored = [c for c in case.facts["channels"]["input_channels"] if c["part"] != "node_structure"]
    theirs = [(c["variable"], c.get("time_h"), c.get("level")) for c in stored]
    assert [row[i] for i in given.order] == theirs
    outputs = [(c["variable"], c.get("level")) for c in case.facts["channels"]["output_channels"]]
    assert [(c.variable, c.level) for c in case.net.target_channels()] == outputs
    x = given.joined(w)[case.outputs["nodes"][::3]]
    agree(x, case.outputs["grid_node_input_features"], atol=2e-6)


@pytest.mark.parametrize("entry", [0, 1])
def test_denoiser_agrees(case, entry):
    given = [ds.isel(batch=[entry]) for ds in (*case.norm(), case.fields("noisy_targets"))]
    ours = case.net(*given, SIGMA[[entry]])
    assert ours["temperature"].dims == ("batch", "time", "level", "lat", "lon")
    assert ours["time"].values.tolist() == [12 * 3600 * 10**9]
    ours = case.net.stack_targets(ours)[case.outputs["nodes"], 0]
    agree(ours, case.outputs["denoised"][:, entry])


def test_network_agrees_layer_by_layer(case, arrays):
    given, w, sigma = arrays
    net, graph, order = case.net.net, case.net.graph, case.npz("geometry")["permutation"]

    @jax.jit
    def states(x, sigma):
        conditioning = net.noise(sigma)
        grid, mesh = net.encode(x, graph, conditioning)
        after = net.process(mesh, graph, conditioning)
        return conditioning, grid, mesh, after, net.decode(after, grid, graph, conditioning)

    conditioning, grid, mesh, after, outputs = states(given.joined(w), sigma)
    agree(conditioning, case.outputs["noise_level_encodings"])
    agree(grid[case.outputs["nodes"]], case.outputs["latent_grid"])
    agree(mesh[order][::2], case.outputs["latent_mesh"])
    agree(after[order][::2], case.outputs["latent_mesh_after"])
    agree(outputs[case.outputs["nodes"]], case.outputs["raw"])


def test_float64_agrees_to_rounding(case):
    with jax.enable_x64(True):
        net = case.net.net.reconfigured(dtype="float64")
        given = case.net.given(*case.norm(np.float64))
        w = case.net.stack_targets(case.fields("noisy_targets").astype(np.float64))
        sigma = jnp.asarray(SIGMA, jnp.float64)  # 0.7 in float32, cast up
        ours = _apply(net, case.stored_graph(), given, jnp.asarray(w), sigma)
        ours = np.asarray(ours)[case.outputs["nodes"][::2]]
    agree(ours, case.outputs["raw_x64"], atol=1e-12)


def test_encodings_of_noise_levels_agree(case):
    stored = case.facts["schedule"]["noise_encoder"]
    ours = case.net.net.noise(jnp.asarray(stored["sigma"], jnp.float32))
    agree(ours, np.asarray(stored["encodings_f32"]))


def test_sampler_agrees_step_by_step(case):
    inputs, forcings = (case.fields(name).isel(batch=[0]) for name in ("inputs", "forcings"))
    noise, states = case.noise("sampler")[:, :, None], []
    ours = case.forecaster.sample(
        inputs, forcings, noise=lambda i: jnp.asarray(noise[i]), watch=states.append
    )
    nodes, names = case.outputs["nodes"], [c.variable for c in case.net.target_channels()]
    watched = [i for i, n in enumerate(names) if n in ("2m_temperature", "temperature")]
    for state, theirs in zip(states, case.outputs["states"], strict=True):
        # the noise was stored as coefficients: times 113, the first level, its error is 7e-5
        scale = max(1.0, np.abs(theirs).max() / 8)
        agree(state[nodes, 0][:, watched], theirs, atol=2e-5 * scale)
    land = case.outputs["land"]
    np.testing.assert_array_equal(ours["sea_surface_temperature"].isnull()[0, 0], land)
    values, std = case.net.stack_targets(ours)[nodes], case.outputs["std"]
    np.testing.assert_allclose(values / std, case.outputs["sampled"] / std, rtol=0, atol=5e-5)


def test_loss_agrees(case):
    inputs, forcings = (case.fields(name).isel(batch=[1]) for name in ("inputs", "forcings"))
    stored, noise = case.facts["loss"], case.noise("loss").swapaxes(0, 1)
    loss = case.forecaster.loss(
        inputs,
        forcings,
        case.fields("targets"),
        noise=noise,
        noise_levels=np.asarray(stored["noise_levels"][1:], np.float32),
    )
    np.testing.assert_allclose(loss, stored["loss"][1:], rtol=5e-6)


def test_own_triangles_differ_at_ties_only(case):
    """Where the choices differ, the point lies over the edge that both triangles share."""
    own = replace(case.net, graph=None).graph_for(case.fields("inputs"))
    theirs, ours = (
        np.asarray(g.mesh2grid.senders.node).reshape(-1, 3) for g in (case.net.graph, own)
    )
    points, corners = unit_vectors(*flat_grid(LAT, LON)), mesh_hierarchy(2)[-1].vertices
    differ = np.flatnonzero((np.sort(theirs) != np.sort(ours)).any(1))
    assert 0 < len(differ) <= 10
    for node in differ:
        shared = np.intersect1d(theirs[node], ours[node])
        assert len(shared) == 2
        assert abs(np.dot(np.cross(*corners[shared]), points[node])) < 1e-6


def test_edges_agree(case):
    stored, graph = case.npz("geometry"), case.net.graph
    senders, receivers = (
        stored["grid2mesh_senders"],
        stored["permutation"][stored["grid2mesh_receivers"]],
    )
    order = np.lexsort((senders, receivers))
    np.testing.assert_array_equal(graph.grid2mesh.senders.node, senders[order])
    np.testing.assert_array_equal(graph.grid2mesh.receivers.node, receivers[order])
    agree(graph.grid2mesh.features, stored["grid2mesh_edge_features"][order], atol=5e-6)
    agree(graph.mesh_features[stored["permutation"]], stored["mesh_node_features"], atol=1e-6)
    agree(graph.grid_features, stored["grid_node_features"], atol=1e-6)
