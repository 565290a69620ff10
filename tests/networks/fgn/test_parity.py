"""Network, wrapped step, roll-out, loss and gradients against the official answers.

Tolerances: those of the golden data's note, float32 against float32 and float64 against float64.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from fgn_world import LAT, LON, edited

from xdiffda.networks import fgn
from xdiffda.networks.fgn.bare import apply_network
from xdiffda.networks.fgn.checkpoint import named_arrays
from xdiffda.networks.fgn.loss import channel_crps, weighted_loss
from xdiffda.networks.graphcast.bare import Channel


def agree(ours, theirs, *, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol)


def test_the_network_agrees(case):
    ours = case.net(*case.norm(), noise=case.noise[:, :, 0])
    assert ours["temperature"].dims == ("sample", "batch", "time", "level", "lat", "lon")
    assert ours["time"].values.tolist() == [6 * 3600 * 10**9]
    agree(case.at_nodes(ours), case.outputs["net_outputs"])


def test_on_a_graph_of_our_own_it_agrees_where_one_triangle_is_nearest(case):
    net = fgn.load(case.folder / "checkpoint.npz", config=case.folder / "config.json")
    noise = xr.DataArray(case.noise, dims=("sample", "batch", "time", "noise_channels"))
    noise = noise.isel(time=[0])  # of one step, as the official noise is stored
    ours = net(*case.norm(), noise=noise.transpose("batch", ...))
    equal = case.npz("geometry")["mesh2grid_num_equidistant_faces"][case.outputs["nodes"]] > 1
    error = np.abs(case.at_nodes(ours) - case.outputs["net_outputs"])
    assert error[..., ~equal].max() < 2e-5
    assert equal.sum() < 12


def test_a_step_in_physical_units_agrees(case):
    inputs, forcings = case.fields("inputs"), case.fields("forcings")
    ours = case.forecaster(inputs, forcings, noise=case.noise[:, :, 0])
    theirs = case.outputs["wrapped_outputs"]
    found = case.at_nodes(ours)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(theirs))
    agree(found / case.std, theirs / case.std, atol=5e-5)
    land = inputs["sea_surface_temperature"].isnull().any("time")
    missing = ours["sea_surface_temperature"].isnull().any(("sample", "time"))
    assert bool((missing == land).all()) and bool(land.any())


def test_a_roll_out_agrees(case):
    ours = case.forecaster.rollout(
        case.fields("inputs"), case.fields("forcings_rollout"), noise=case.noise, steps=2
    )
    theirs = case.outputs["rollout_outputs"]
    found = case.at_nodes(ours)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(theirs))
    agree(found / case.std, theirs / case.std, atol=5e-5)


@pytest.mark.long
def test_loss_its_terms_and_its_gradient_agree(case):
    stored = json.loads((case.folder / "loss.json").read_text())
    inputs, channels = case.fields("inputs"), case.net.target_channels()
    given = case.fields("forcings"), case.fields("targets")
    told = case.net.checkpoint.configuration
    arrays = case.forecaster.training_arrays(inputs, *given, case.noise[:, :, 0])

    def mean_loss(net):
        scores = case.forecaster.scores(arrays, inputs, net)
        loss = weighted_loss(scores, channels, told.loss_weights)
        return loss.mean(), loss

    (_, loss), slopes = eqx.filter_jit(eqx.filter_value_and_grad(mean_loss, has_aux=True))(
        case.net.net
    )
    np.testing.assert_allclose(loss, stored["loss"], rtol=5e-6)
    theirs, ours = case.npz("grads"), named_arrays(slopes, case.net.checkpoint.parts)
    unused = [k for k in theirs if "mesh_to_grid_gnn/deep_gnn/processor_nodes_0_mesh_nodes" in k]
    assert {*theirs} - {*unused} == {*ours} and all((theirs[k] == 0).all() for k in unused)
    for name, slope in ours.items():
        size = np.abs(theirs[name]).max()
        np.testing.assert_allclose(slope, theirs[name], rtol=0, atol=2e-5 * size, err_msg=name)
    terms = case.forecaster.loss_terms(inputs, *given, noise=case.noise[:, :, 0])
    assert {*terms} == {*stored["diagnostics"]}
    for name, term in terms.items():
        np.testing.assert_allclose(term, stored["diagnostics"][name], rtol=2e-5, err_msg=name)
    again = case.forecaster.loss(inputs, *given, noise=case.noise[:, :, 0])
    np.testing.assert_allclose(again, loss, rtol=2e-6)


def test_members_that_started_elsewhere_are_scored_against_one_truth():
    """Steps of 1 and 3 from states 0 and 5: members 1 and 8, where -1 came true."""
    start, step, truth = jnp.array([0.0, 5.0]), jnp.array([1.0, 3.0]), -1.0
    shape = (2, 2, 1, 1)
    outputs, targets = (
        jnp.broadcast_to(x[:, None, None, None], shape) for x in (step, truth - start)
    )
    found = channel_crps(outputs, targets, lat=np.array([-30.0, 30.0]), channels=[Channel("t")])
    # distances to the truth 2 and 9, between the members 7
    np.testing.assert_allclose(found, (2 + 9) / 2 - 7 / 2, atol=1e-6)


def test_float64_agrees_to_rounding(case, shared, official_graph):
    ours = members64(case.net, case, shared, official_graph)
    agree(ours, stored64("net_outputs_x64", shared), atol=1e-12)


def test_divided_sums_agree(case, shared, official_graph, tmp_path):
    divided = edited(case.document, {"['aggregate_normalization']": 4.0})
    (tmp_path / "config.json").write_text(json.dumps(divided))
    net = fgn.load(case.folder / "checkpoint.npz", config=tmp_path / "config.json")
    assert net.net.config.sizes.grid2mesh.divide_sums == 4
    ours = members64(net, case, shared, official_graph)[:1]
    agree(ours, stored64("net_outputs_aggregate_normalization_4_x64", shared), atol=1e-12)


def members64(net, case, shared, graph) -> np.ndarray:
    with jax.enable_x64(True):
        graph = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), graph)
        graph = eqx.tree_at(
            lambda g: (g.grid2mesh.features, g.mesh2grid.features),
            graph,
            tuple(jnp.asarray(features64(shared)[n]) for n in ("grid2mesh", "mesh2grid")),
        )
        wide = replace(net.reconfigured(dtype="float64"), graph=graph)
        out = wide(*case.norm(np.float64), noise=case.noise[:, :, 0].astype(np.float64))
        return all_values(out)


def features64(shared) -> dict[str, np.ndarray]:
    with np.load(shared("golden/fgn_a/geometry.npz")) as file:
        return {n: file[f"{n}_edge_features"] for n in ("grid2mesh", "mesh2grid")}


def stored64(name: str, shared) -> np.ndarray:
    ds = xr.open_dataset(shared(f"golden/fgn_a/{name}.nc"), decode_timedelta=True)
    return all_values(ds if "sample" in ds.dims else ds.expand_dims("sample"))


def all_values(ds: xr.Dataset) -> np.ndarray:
    columns = [
        ds[n].transpose("sample", "batch", "time", ..., "lat", "lon").values for n in sorted(ds)
    ]
    return np.concatenate([c.reshape(*c.shape[:3], -1, 684) for c in columns], axis=3)


def test_the_network_agrees_layer_by_layer(case, shared, official_graph):
    with np.load(shared("golden/fgn_a/activations_member0.npz")) as file:
        theirs = {key: file[key] for key in file.files}
    net, graph = case.net.net, official_graph
    x, clocks = case.net.stack(*case.net.select(*case.norm()))
    z = jnp.asarray(case.noise[0, :, 0])

    @eqx.filter_jit
    def states(net, graph, x, clocks, z):
        c, found = z @ net.noise, {}
        found["noise_conditioning"] = c
        grid, mesh = net.embed(x, clocks, graph, c)
        found["latent_grid_nodes_encoded"], found["latent_mesh_nodes_encoded"] = grid, mesh
        for part, edges, name in (
            (net.encoder, graph.grid2mesh, "grid2mesh"),
            (net.decoder, graph.mesh2grid, "mesh2grid"),
        ):
            found[f"{name}_edges_encoded"] = part.edge_embed(edges.features[:, None], c)
        grid, mesh = net.exchange(grid, mesh, graph, c)
        found["latent_grid_nodes_after_grid2mesh"] = grid
        found["latent_mesh_nodes_after_grid2mesh"] = mesh
        for i, block in enumerate(net.transformer.blocks):
            mesh = block(mesh, graph.near, c)
            found[f"transformer_block_{i:02d}"] = mesh
        mesh = found["latent_mesh_nodes_after_transformer"] = net.transformer.norm(mesh, c)
        edge = found["mesh2grid_edges_encoded"]
        step = net.decoder.step
        grid = grid + step.update(step.project(edge), mesh, grid, graph.mesh2grid, c)
        found["latent_grid_nodes_after_mesh2grid"] = grid
        found["decoder_hidden"] = jax.nn.swish(net.decoder.output.layers[0](grid))
        return found

    ours = states(net, graph, x, clocks, z)
    assert {*theirs} - {*ours} == {"grid2mesh_messages"}
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=2e-5, err_msg=name)


def test_channels_are_the_official_ones(case, shared):
    told = json.loads(Path(shared("golden/fgn_a/channels.json")).read_text())
    parts = case.net.checkpoint.parts
    for own, name in (
        (parts.grid, "grid_encoder_inputs"),
        (parts.mesh, "mesh_encoder_inputs"),
        (parts.targets, "outputs"),
    ):
        theirs = [row["parameter"] for row in told[name] if "spatial" not in row["parameter"]]
        assert [f"w_{part.name}" for part in own for _ in range(part.width)] == theirs


def test_edges_and_attention_are_the_official_ones(case, official):
    graph = fgn.build_graph(LAT, LON, refinement=2, hops=2, block=32)
    order = official["permutation"]
    senders, receivers = official["grid2mesh_senders"], order[official["grid2mesh_receivers"]]
    by = np.lexsort((senders, receivers))
    np.testing.assert_array_equal(graph.grid2mesh.senders.node, senders[by])
    np.testing.assert_array_equal(graph.grid2mesh.receivers.node, receivers[by])
    agree(graph.grid2mesh.features, official["grid2mesh_edge_features"][by], atol=5e-6)
    agree(graph.mesh_features[order], official["mesh_node_features"], atol=1e-6)
    agree(graph.grid_features, official["grid_node_features"], atol=1e-6)
    near, mask = graph.near, np.zeros((162, 162), bool)
    block, query, key = np.nonzero(np.asarray(near.seen))
    mask[np.asarray(near.nodes)[block, query], np.asarray(near.keys)[block, key]] = True
    np.testing.assert_array_equal(mask[np.ix_(order, order)], official["attention_mask"])


def test_members_of_one_state_need_it_once(case):
    """A batch of one state and several vectors of noise, in one evaluation or in several."""
    given = [ds.isel(batch=[0]) for ds in case.norm()]
    x, clocks = case.net.stack(*case.net.select(*given))
    z, graph = jnp.asarray(case.noise[:, 0, 0]), case.net.graph
    together = apply_network(case.net.net, x, clocks, z, graph)
    for i, one in enumerate(z):
        alone = apply_network(case.net.net, x, clocks, one[None], graph)
        agree(together[:, [i]], alone, atol=5e-6)


@pytest.mark.parametrize("turned", ["lat", "members"])
def test_order_does_not_matter(case, turned):
    inputs, forcings = case.norm()
    noise, own = case.noise[:, :, 0], replace(case.net, graph=None)
    straight = own(inputs, forcings, noise=noise)
    if turned == "lat":
        other = own(inputs.isel(lat=slice(None, None, -1)), forcings, noise=noise)
        other = other.isel(lat=slice(None, None, -1))
    else:
        other = own(inputs, forcings, noise=noise[::-1]).isel(sample=slice(None, None, -1))
    for name in straight:
        np.testing.assert_allclose(other[name], straight[name], rtol=0, atol=2e-5, err_msg=name)
