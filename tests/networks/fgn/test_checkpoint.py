"""Weights: read, written, damaged; a network of other sizes against plain numpy."""

from __future__ import annotations

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fgn_world import Sizes, plain_network, random_weights

from xdiffda.errors import InputError, ModelError, StorageError
from xdiffda.networks import fgn
from xdiffda.networks.fgn.checkpoint import shapes
from xdiffda.networks.fgn.loss import channel_crps
from xdiffda.networks.graphcast.bare import Channel

SIZES = Sizes()


@pytest.fixture(scope="module")
def other(case, tmp_path_factory):
    """A network of other sizes with its weights."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "config.json").write_text(json.dumps(SIZES.document(case.document)))
    task = fgn.read_config(folder / "config.json").task
    weights = random_weights(SIZES.shapes(task), folder / "weights.npz")
    return fgn.load(folder / "weights.npz", config=folder / "config.json"), weights, folder


def test_a_network_of_other_sizes_agrees_with_plain_numpy(case, other):
    net, weights, _ = other
    inputs, forcings = case.norm()
    noise = np.random.default_rng(1).normal(size=(2, 2, SIZES.noise))
    found = net(inputs, forcings, noise=noise)
    assert found.level.values.tolist() == [500, 850]

    inputs = inputs.sel(level=list(SIZES.levels))
    graph, by = net.graph_for(inputs), ",".join(map(str, SIZES.levels))
    assert np.asarray(graph.mesh_features).shape == (42, 3)
    for sample, batch in ((0, 1), (1, 0)):
        channels, clocks = {}, {}
        for role, ds in (("input", inputs), ("forcing", forcings)):
            for name, field in ds.items():
                field = field.isel(batch=batch) if "batch" in field.dims else field
                for t, frame in enumerate(
                    field.transpose("time", ...) if "time" in field.dims else [field]
                ):
                    seconds = 21600 if role == "forcing" else 21600 * (t - 1)
                    time = f"_time={seconds}" if "time" in field.dims else ""
                    level = f"_level={by}" if "level" in field.dims else ""
                    part = f"{role}_{name}{level}{time}"
                    values = np.asarray(frame, np.float64)
                    wide = values if "level" in field.dims else values[None]
                    if "lat" not in field.dims:  # of longitude alone, or of nothing
                        row = wide if "lon" in field.dims else wide[:, None]
                        wide = np.broadcast_to(row[:, None], (len(row), 19, 36))
                    channels[part] = wide.reshape(len(wide), -1).T
                    if "year" in str(name):
                        clocks[part] = np.broadcast_to(values, (42, 1))
        theirs = plain_network(
            weights,
            SIZES,
            channels,
            clocks,
            noise[sample, batch],
            graph,
            list(net.task.target_variables),
        )
        own = found.isel(sample=[sample], batch=[batch]).squeeze(("sample", "batch"), drop=True)
        ours = net.stack_targets(own)[:, 0]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)


def test_all_sizes_come_from_the_files(other):
    net, weights, _ = other
    found = {k: tuple(v.shape) for k, v in shapes(net.net, net.checkpoint.parts).items()}
    theirs = {k: v.shape for k, v in weights.items()}
    unused = "mesh_to_grid_gnn/deep_gnn/processor_nodes_0_mesh_nodes"
    assert found == {k: v for k, v in theirs.items() if unused not in k}
    sizes = net.net.config.sizes
    assert (sizes.grid2mesh.edge_width, sizes.mesh2grid.edge_width) == SIZES.edge
    assert (sizes.hops, sizes.radius_fraction, sizes.mesh_size) == (3, 0.8, 1)


@pytest.mark.long
def test_everything_comes_back(case, other, tmp_path):
    cases = [(case.folder / "checkpoint.npz", case.net), (other[2] / "weights.npz", other[0])]
    for path, net in cases:
        fgn.write_checkpoint(tmp_path / "copy.npz", net.checkpoint)
        with np.load(path) as theirs, np.load(tmp_path / "copy.npz") as ours:
            assert {*ours.files} == {*theirs.files}
            for name in theirs.files:
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.long
def test_trained_scales_are_written_into_the_conditioning(other, tmp_path):
    """The format has no place for them: what is read again is the same function."""
    net, _, folder = other
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    def moved(leaf):
        return leaf + 0.2 * jax.random.normal(next(keys), leaf.shape)

    trained = jax.tree.map(moved, net.net)
    checkpoint = eqx.tree_at(lambda c: c, net.checkpoint, net.checkpoint)
    object.__setattr__(checkpoint, "net", trained)
    fgn.write_checkpoint(tmp_path / "trained.npz", checkpoint)
    again = fgn.load(tmp_path / "trained.npz", config=folder / "config.json")
    graph = fgn.build_graph((-60.0, 0.0, 60.0), (0.0, 120.0, 240.0), refinement=1, hops=3)
    x = jax.random.normal(next(keys), (9, 2, trained.config.n_inputs))
    clocks = jax.random.normal(next(keys), (2, trained.config.n_clocks))
    z = jax.random.normal(next(keys), (2, SIZES.noise))
    apply = eqx.filter_jit(lambda net: net(x, clocks, z, graph))
    np.testing.assert_allclose(apply(again.net), apply(trained), rtol=0, atol=5e-5)


def test_damaged_weights_are_refused_by_name(case, tmp_path):
    entries, path = case.npz("checkpoint"), tmp_path / "bad.npz"
    m = "params:multimodality_forward/"
    frame = f"{m}grid_encoder/split_input_matmul:w_input_temperature_level=500,850,1000_time=0"
    final, up = (f"{m}mesh_transformer/transformer/block_01/{k}:w" for k in ("mha_final", "ffw_up"))
    clock = f"{m}mesh_encoder/split_input_matmul:w_forcing_year_progress_sin_time=21600"
    bad = {k: v for k, v in entries.items() if k not in (frame, clock)}
    bad |= {final: entries[final][:3], up: np.full_like(entries[up], np.nan), "more": np.ones(1)}
    bad[f"{m}block_77:w"] = np.ones(3)
    np.savez(path, **bad)
    with pytest.raises(ModelError) as caught:
        fgn.load(path, config=case.folder / "config.json")
    for text in (
        f"missing {frame}",
        f"missing {clock}",
        f"{final} has shape (3, 16), the configuration (16, 16)",
        f"{up} holds values that are not finite",
        "unknown entry more",
        f"unknown {m}block_77:w",
        "xdiffda fetch",
    ):
        assert text in str(caught.value)
    path.write_bytes(b"no archive")
    with pytest.raises(StorageError, match="bad.npz as a checkpoint"):
        fgn.load(path, config=case.folder / "config.json")


def test_weights_of_other_levels_are_refused(case, other):
    with pytest.raises(ModelError, match="missing params:.*_level=500,850,1000_time"):
        fgn.load(other[2] / "weights.npz", config=case.folder / "config.json")


@pytest.mark.long
def test_a_batch_of_one_serves_all(other):
    net = other[0].net
    graph = fgn.build_graph((-60.0, 0.0, 60.0), (0.0, 120.0, 240.0), refinement=1, hops=3)
    x = jax.random.normal(jax.random.key(0), (9, 1, net.config.n_inputs))
    clocks, z = jnp.ones((1, net.config.n_clocks)), jax.random.normal(jax.random.key(1), (3, 9))
    apply = eqx.filter_jit(lambda *given: net(*given, graph))
    wide = [jnp.repeat(x, 3, axis=1), jnp.repeat(clocks, 3, axis=0)]
    np.testing.assert_allclose(apply(x, clocks, z), apply(*wide, z), rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match=r"batches of x, clocks and z must agree, got \[1, 2, 3\]"):
        net(jnp.repeat(x, 2, axis=1), clocks, z, graph)
    with pytest.raises(ValueError, match=r"\(9, batch, 48\), got.*z must be \(batch, 9\)"):
        net(x[..., :4], clocks, z[:, :4], graph)
    half = net.reconfigured(dtype="bfloat16")(x, clocks, z, graph)
    exact = apply(x, clocks, z)
    assert half.dtype == jnp.float32 and float(jnp.std(half - exact)) < 0.1 * float(jnp.std(exact))
    with pytest.raises(ValueError, match="latent"):
        net.reconfigured(latent=3)


def test_wrong_noise_and_wrong_fields_are_refused(case):
    inputs, forcings = case.norm()
    for noise in (
        np.zeros((2, 32)),
        np.zeros((2, 1, 32)),
        np.zeros((2, 2, 31)),
        np.full((2, 2, 32), np.nan),
        np.zeros((0, 2, 32)),
    ):
        with pytest.raises(InputError, match=r"needed finite numbers of shape \(sample, 2, 32\)"):
            case.net(inputs, forcings, noise=noise)
    noise = case.noise[:, :, 0]
    wide = inputs.assign(year_progress_sin=inputs.year_progress_sin * inputs.lat)
    with pytest.raises(ModelError, match="year_progress_sin of inputs by latitude.*one value"):
        case.net(wide, forcings, noise=noise)
    moving = inputs.assign(land_sea_mask=inputs.land_sea_mask * inputs["2m_temperature"])
    with pytest.raises(ModelError, match="land_sea_mask without levels and with time, not"):
        case.net(moving, forcings, noise=noise)
    with pytest.raises(InputError, match="no temperature, sea_surface_temperature in inputs"):
        case.net(
            inputs.drop_vars(["temperature", "sea_surface_temperature"]), forcings, noise=noise
        )
    with pytest.raises(InputError, match="1 input times; needed 2, 6 h apart"):
        case.net(inputs.isel(time=[1]), forcings, noise=noise)
    with pytest.raises(InputError, match=r"no levels \[850\]"):
        case.net(inputs.sel(level=[500, 1000]), forcings, noise=noise)
    with pytest.raises(InputError, match=r"noise of shape \(2, 2, 1, 32\).*2 or more steps"):
        case.forecaster.rollout(
            case.fields("inputs"),
            case.fields("forcings_rollout"),
            noise=case.noise[:, :, :1],
            steps=2,
        )
    hot = case.fields("inputs")
    hot["2m_temperature"][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"NaN in \['2m_temperature'\]"):
        case.forecaster(hot, case.fields("forcings"), noise=noise)


def test_members_do_not_depend_on_how_many_are_drawn():
    key = jax.random.key(3)
    many, few = fgn.member_noise(key, range(20), 4, 32), fgn.member_noise(key, [5, 2], 2, 32)
    np.testing.assert_array_equal(many[jnp.array([5, 2]), :2], few)
    later = fgn.member_noise(key, [5], 1, 32, first=3)
    np.testing.assert_array_equal(many[5, 3], later[0, 0])
    assert len(np.unique(np.asarray(many).round(6))) > 2500  # of 2,560: no number twice by rule
    assert abs(float(many.mean())) < 0.06 and abs(float(many.std()) - 1) < 0.05


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_fair_score_does_not_depend_on_the_number_of_members(n):
    """Of normal members and truth N(0, 1): 1/sqrt(pi) in the mean, whatever their number."""
    draw = np.random.default_rng(n).normal(size=(n + 1, 200_000))
    found = float(fgn.fair_crps(jnp.asarray(draw[:n]), jnp.asarray(draw[n])).mean())
    assert abs(found - 1 / np.sqrt(np.pi)) < 0.006
    assert float(fgn.fair_crps(jnp.ones((1, 3)), jnp.zeros(3)).mean()) == 1


def test_missing_targets_count_as_zero_and_are_counted():
    members = jnp.ones((2, 4, 1, 2))
    targets = jnp.zeros((1, 4, 1, 2)).at[0, :3].set(jnp.nan)
    channels, lat = [Channel("a"), Channel("b")], np.array([-30.0, 30.0])
    found = channel_crps(members, targets, lat=lat, channels=channels, gaps=["a"])
    assert found[0, 0] == 0.25 and bool(jnp.isnan(found[0, 1]))
    slope = jax.grad(
        lambda x: channel_crps(x, targets, lat=lat, channels=channels, gaps=["a", "b"]).sum()
    )(members)
    assert bool(jnp.isfinite(slope).all())
