"""The network and what is around it against the official answers.

Tolerances: those of the golden data's note, float32 against float32.
"""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.networks.graphcast.bare import apply_network, channels_of, stack
from xdiffda.networks.graphcast.checkpoint import _arrays, _blocks
from xdiffda.networks.graphcast.loss import latitude_weights, weighted_loss


def assert_fields_agree(ours: xr.Dataset, theirs: xr.Dataset, *, atol: float, over_std=False):
    """Same variables; differences within `atol`, or within `atol` standard deviations."""
    assert set(ours) == set(theirs)
    for name in theirs:
        expected = theirs[name]
        found = ours[name].transpose(*expected.dims).values
        scale = float(expected.std()) if over_std else 1.0
        np.testing.assert_allclose(found, expected.values, rtol=0, atol=atol * scale, err_msg=name)
        for dim in ("time", "lat", "lon", *(["level"] if "level" in expected.dims else [])):
            np.testing.assert_array_equal(ours[dim], theirs[dim])


def norm_data(case):
    inputs = case.nc("inputs")
    forcings = case.nc("forcings_rollout").isel(time=[0])
    return inputs, forcings, case.forecaster.normalize(inputs), case.forecaster.normalize(forcings)


def test_normaliser_agrees(gc_a):
    _inputs, _forcings, norm_inputs, norm_forcings = norm_data(gc_a)
    xr.testing.assert_allclose(norm_inputs, gc_a.nc("norm_inputs"), rtol=0, atol=2e-6)
    xr.testing.assert_allclose(norm_forcings, gc_a.nc("norm_forcings"), rtol=0, atol=2e-6)


def test_bare_network_agrees(case):
    _, _, inputs, forcings = norm_data(case)
    assert_fields_agree(case.net(inputs, forcings), case.nc("net_outputs"), atol=2e-5)


def test_own_triangles_differ_only_at_ties(gc_a):
    _, _, inputs, forcings = norm_data(gc_a)
    own = replace(gc_a.net, graph=None)(inputs, forcings)
    unique = gc_a.npz("geometry")["mesh2grid_num_equidistant_faces"] == 1
    assert unique.mean() > 0.9
    unique = xr.DataArray(unique.reshape(19, 36), dims=("lat", "lon"))
    theirs = gc_a.nc("net_outputs")
    assert_fields_agree(own.where(unique, 0), theirs.where(unique, 0), atol=2e-5)


def test_float64_agrees_to_rounding(gc_a):
    with jax.enable_x64(True):
        graph = gc_a.stored_graph()
        net = gc_a.net.net.reconfigured(dtype="float64")
        inputs, forcings = (
            gc_a.forecaster.normalize(ds.astype(np.float64)) for ds in norm_data(gc_a)[:2]
        )
        x = gc_a.net.stack(*gc_a.net.select(inputs, forcings))
        out = np.asarray(apply_network(net, jnp.asarray(x), graph))
    expected = gc_a.nc("net_outputs_x64")
    sizes = {"batch": 1, "lat": 19, "lon": 36}
    np.testing.assert_allclose(
        out, stack(expected, list(expected), sizes=sizes), rtol=0, atol=1e-12
    )


@pytest.mark.long
def test_activations_agree(gc_a):
    stored, net, graph = gc_a.npz("activations"), gc_a.net.net, gc_a.net.graph
    x = jnp.asarray(gc_a.net.stack(gc_a.nc("norm_inputs"), gc_a.nc("norm_forcings")))
    np.testing.assert_array_equal(x, stored["grid_node_input_features"])
    ready = net.prepare(graph)
    grid, mesh = net.encode(x, graph, None, ready)
    processed = net.process(mesh, graph, None, ready)
    outputs = net.decode(processed, grid, graph, None, ready)
    for name, ours in (
        ("latent_grid_nodes_after_grid2mesh", grid),
        ("latent_mesh_nodes_after_grid2mesh", mesh),
        ("latent_mesh_nodes_after_mesh_gnn", processed),
        ("grid_node_outputs", outputs),
    ):
        np.testing.assert_allclose(ours, stored[name], rtol=0, atol=2e-5, err_msg=name)


def test_channels_agree(case):
    forcings = case.nc("forcings_rollout").isel(time=[0])
    inputs, forcings = case.net.select(case.nc("inputs"), forcings)
    stored = case.json("channels")
    ours = channels_of(inputs, inputs) + channels_of(forcings, forcings)
    data = [channel for channel in stored["input_channels"] if "variable" in channel]
    data = [channel for channel in data if channel["part"] in ("inputs", "forcings")]
    for channel, theirs in zip(ours, data, strict=True):
        hours = {"inputs": (-6, 0), "forcings": (6,)}[theirs["part"]]
        assert channel.variable == theirs["variable"]
        assert channel.level == theirs.get("level")
        assert (None if channel.frame is None else hours[channel.frame]) == theirs.get("time_h")
    outputs = [(c.variable, c.level) for c in case.net.output_channels(inputs)]
    assert outputs == [(c["variable"], c.get("level")) for c in stored["output_channels"]]


def test_wrapped_network_agrees(gc_a):
    inputs, forcings, _, _ = norm_data(gc_a)
    ours = gc_a.forecaster(inputs, forcings)
    assert_fields_agree(ours, gc_a.nc("wrapped_outputs"), atol=5e-5, over_std=True)


def test_rollout_agrees(case):
    expected = case.nc("rollout_outputs")
    forcings = case.nc("forcings_rollout")
    ours = case.forecaster.rollout(case.nc("inputs"), forcings, steps=expected.sizes["time"])
    assert_fields_agree(ours, expected, atol=5e-5, over_std=True)
    assert ours["temperature"].dims == ("batch", "time", "level", "lat", "lon")


@pytest.fixture(scope="module")
def loss_and_gradients(case):
    inputs, _forcings, norm_inputs, norm_forcings = norm_data(case)
    selected, norm_forcings = case.net.select(norm_inputs, norm_forcings)
    channels = case.net.output_channels(selected)
    targets = case.forecaster.normalized_targets(case.nc("targets"), inputs)
    sizes = {"batch": inputs.sizes["batch"], "lat": 19, "lon": 36}
    y = jnp.asarray(stack(targets, case.net.task.target_variables, sizes=sizes))
    x = jnp.asarray(case.net.stack(selected, norm_forcings))

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def evaluate(net, x, y, graph):
        loss = weighted_loss(net(x, graph), y, lat=inputs["lat"].values, channels=channels)
        return loss.mean(), loss

    return evaluate(case.net.net, x, y, case.net.graph), y, channels


@pytest.mark.long
def test_loss_agrees(case, loss_and_gradients):
    ((mean, losses), _), _, _ = loss_and_gradients
    stored = case.json("loss")
    np.testing.assert_allclose(losses, stored["loss"], rtol=5e-6)
    np.testing.assert_allclose(mean, stored["loss_mean"], rtol=5e-6)


def test_unweighted_loss_of_each_variable_agrees(gc_a):
    inputs, _forcings, _, _ = norm_data(gc_a)
    targets = gc_a.forecaster.normalized_targets(gc_a.nc("targets"), inputs)
    outputs = gc_a.nc("net_outputs")
    weights = xr.DataArray(latitude_weights(inputs["lat"].values), dims="lat")
    for name, expected in gc_a.json("loss")["diagnostics"].items():
        square = (outputs[name] - targets[name]) ** 2 * weights
        if "level" in square.dims:
            square = square * (square["level"] / square["level"].mean())
        np.testing.assert_allclose(float(square.mean()), expected[0], rtol=1e-5)


def test_gradients_agree(case, loss_and_gradients):
    (_, gradients), _, _ = loss_and_gradients
    stored = case.npz("grads")
    ours = {k: v for name, block in _blocks(gradients) for k, v in _arrays(name, block).items()}
    for name, gradient in ours.items():
        scale = np.abs(stored[name]).max()
        assert scale > 0
        np.testing.assert_allclose(gradient, stored[name], rtol=0, atol=2e-5 * scale, err_msg=name)
    # What is left over is what cannot influence the outputs.
    for name in set(stored) - set(ours):
        assert name in case.net.unused
        assert not stored[name].any()
