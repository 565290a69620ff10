"""Checkpoints: read, written, damaged; networks of other sizes and precisions."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.errors import ModelError, StorageError
from xdiffda.networks.gencast import (
    Architecture,
    Checkpoint,
    GenCast,
    GenCastTask,
    NetworkConfig,
    NoiseEncoderConfig,
    TransformerConfig,
    build_graph,
    load,
    read_checkpoint,
    write_checkpoint,
)
from xdiffda.networks.gencast.checkpoint import norms

TRANSFORMER = "denoiser_architecture_config:sparse_transformer_config:"
SMALL = NetworkConfig(
    5,
    2,
    latent=8,
    layers=1,
    heads=2,
    ffw_hidden=12,
    encoder=NoiseEncoderConfig(num_frequencies=3, output_sizes=(6, 4)),
)


@pytest.fixture(scope="module")
def graph():
    lat, lon = tuple(np.linspace(-60.0, 60.0, 5)), tuple(45.0 * np.arange(8))
    return build_graph(lat, lon, refinement=0, hops=2, block=5)


@pytest.fixture(scope="module")
def net():
    return eqx.filter_jit(GenCast)(SMALL, key=jax.random.key(0))


@eqx.filter_jit
def apply(net, x, sigma, graph):
    return net(x, sigma, graph)


def test_everything_comes_back(case, tmp_path):
    write_checkpoint(tmp_path / "copy.npz", read_checkpoint(case.folder / "checkpoint.npz"))
    entries = case.npz("checkpoint")
    with np.load(tmp_path / "copy.npz", allow_pickle=False) as copy:
        assert set(copy.files) == set(entries)
        for name, value in entries.items():
            np.testing.assert_array_equal(copy[name], value, err_msg=name)
            assert copy[name].dtype.kind == value.dtype.kind


def test_load_tells_task_and_sizes(case):
    net = load(case.folder / "checkpoint.npz")
    assert (net.task.pressure_levels, net.task.n_frames) == ((500, 850, 1000), 2)
    inner = net.checkpoint.architecture.sparse_transformer_config
    assert (inner.attention_k_hop, inner.attention_type) == (2, "triblockdiag_mha")
    config = net.net.config
    assert (config.n_inputs, config.n_outputs, config.latent, config.heads) == (84, 24, 16, 2)
    assert net.checkpoint.sampler.num_noise_levels == 4
    assert net.license == "None: random numbers"
    # 24,536 in the file, those without influence included
    weights = sum(np.size(v) for k, v in case.npz("checkpoint").items() if k.startswith("params"))
    assert weights == 24_536


def test_all_that_is_wrong_is_listed(case, tmp_path):
    entries = case.npz("checkpoint")
    block = "params:mesh_transformer/~/transformer/block_01/"
    del entries[block + "ffw_up:b"]
    entries[block + "mha_proj_q:w"] = entries[block + "mha_proj_q:w"][:5]
    entries[block + "mha_final:b"] = entries[block + "mha_final:b"] * np.nan
    entries["params:other:w"] = np.zeros(3)
    np.savez(tmp_path / "wrong.npz", **entries)
    with pytest.raises(ModelError) as caught:
        read_checkpoint(tmp_path / "wrong.npz")
    for part in (
        "missing params:mesh_transformer/~/transformer/block_01/ffw_up:b",
        "mha_proj_q:w has shape (5, 16), the configuration (16, 16)",
        "mha_final:b holds values that are not finite",
        "unknown params:other:w",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "lost", [TRANSFORMER + "attention_k_hop", "sampler_config:rho", "task_config:input_duration"]
)
def test_missing_settings_are_named(case, tmp_path, lost):
    entries = case.npz("checkpoint") | {"surprise": np.zeros(3)}
    del entries[lost]
    np.savez(tmp_path / "wrong.npz", **entries)
    with pytest.raises(ModelError, match=rf"missing {lost}(.|\n)*unknown entry surprise"):
        read_checkpoint(tmp_path / "wrong.npz")


@pytest.mark.parametrize("lost", ["block_q", "mask_type", "ffw_winit_final_mult"])
def test_settings_of_other_attention_kernels_may_be_absent(case, tmp_path, lost):
    entries = case.npz("checkpoint")
    del entries[TRANSFORMER + lost]
    np.savez(tmp_path / "less.npz", **entries)
    write_checkpoint(tmp_path / "again.npz", read_checkpoint(tmp_path / "less.npz"))
    with np.load(tmp_path / "again.npz") as again:
        assert set(again.files) == set(entries)


def test_files_that_are_no_checkpoints(case, tmp_path):
    whole = (case.folder / "checkpoint.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "pickle.npz", description=np.array({"a": 1}, dtype=object))
    for name in ("half.npz", "absent.npz", "pickle.npz"):
        with pytest.raises(StorageError, match=name):
            read_checkpoint(tmp_path / name)


@pytest.mark.long
def test_own_networks_are_written_too(net, graph, tmp_path):
    """Scales and offsets of our normalisations have no place in the format: they are folded."""
    leaves, tree = jax.tree.flatten(net)
    rng = np.random.default_rng(0)
    shaken = [np.asarray(x + 0.3 * rng.normal(size=x.shape), np.float32) for x in leaves]
    net = jax.tree.map(jnp.asarray, jax.tree.unflatten(tree, shaken))
    task = GenCastTask(("2m_temperature",), ("2m_temperature",), (), (500,), "24h")
    sizes = Architecture(TransformerConfig(2, 8, 1, 2, 12), mesh_size=0, latent_size=8)
    write_checkpoint(tmp_path / "own.npz", Checkpoint(net, task, sizes))
    own = read_checkpoint(tmp_path / "own.npz")
    assert (own.task, own.architecture, own.net.config) == (task, sizes, SMALL)
    assert all((norm.scale == 1).all() and (norm.offset == 0).all() for norm in norms(own.net))
    x, sigma = jax.random.normal(jax.random.key(2), (40, 3, 5)), jnp.array([0.1, 1.0, 10.0])
    np.testing.assert_allclose(
        apply(own.net, x, sigma, graph), apply(net, x, sigma, graph), rtol=0, atol=2e-5
    )
    # one noise level for all is the same as that level for each, and entries do not mix
    np.testing.assert_allclose(
        apply(net, x, sigma[1:2], graph)[:, 1], apply(net, x, sigma, graph)[:, 1], atol=2e-5
    )


@pytest.mark.long
def test_options_change_no_numbers(net, graph):
    sigma = jnp.ones(1)
    x = jax.random.normal(jax.random.key(2), (40, 3, 5))
    exact = apply(net, x, sigma, graph)
    slope = eqx.filter_jit(jax.grad(lambda x, net: jnp.sum(net(x, sigma, graph) ** 2)))
    other = net.reconfigured(remat=True)
    np.testing.assert_allclose(slope(x, other), slope(x, net), rtol=0, atol=2e-5)
    half = apply(net.reconfigured(dtype="bfloat16"), x, sigma, graph)
    assert half.dtype == jnp.float32
    assert float(jnp.std(half - exact)) < 0.05 * float(jnp.std(exact))
    with pytest.raises(ValueError, match="latent"):
        net.reconfigured(latent=3)


def test_sums_over_edges_may_be_divided(net, graph):
    """Dividing the sum is dividing the rows of weights that read it."""
    x, sigma = jax.random.normal(jax.random.key(2), (40, 1, 5)), jnp.ones(1)
    config = replace(SMALL, aggregate_normalization=4.0)
    template = eqx.filter_eval_shape(GenCast, config, key=jax.random.key(0))
    divided = jax.tree.unflatten(jax.tree.structure(template), jax.tree.leaves(net))

    def where(n):
        return n.encoder.step.node.layers[0].weight

    rows = jnp.where(jnp.arange(16)[:, None] < 8, 1.0, 0.25)
    by_hand = eqx.tree_at(where, net, where(net) * rows)
    np.testing.assert_allclose(
        apply(divided, x, sigma, graph), apply(by_hand, x, sigma, graph), atol=1e-6
    )
    assert not np.allclose(apply(net, x, sigma, graph), apply(by_hand, x, sigma, graph), atol=1e-3)


def test_wrong_sizes_are_refused(net, graph):
    with pytest.raises(ValueError, match=r"layers must be 1.*heads must divide latent.*dtype"):
        NetworkConfig(5, 2, latent=9, layers=0, heads=2, dtype="float16")
    with pytest.raises(ValueError, match=r"\(40, batch, 5\), got \(40, 3, 4\).*got \(2,\)"):
        net(jnp.zeros((40, 3, 4)), jnp.ones(2), graph)
