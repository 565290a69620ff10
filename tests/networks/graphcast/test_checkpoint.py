"""Checkpoints: read, written, damaged."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from xdiffda.errors import ModelError, StorageError
from xdiffda.networks.graphcast import (
    Checkpoint,
    GraphCast,
    ModelConfig,
    NetworkConfig,
    TaskConfig,
    load,
    read_checkpoint,
    write_checkpoint,
)


@pytest.fixture
def entries(case):
    return case.npz("checkpoint")


def test_everything_comes_back(case, entries, tmp_path):
    write_checkpoint(tmp_path / "copy.npz", read_checkpoint(case.folder / "checkpoint.npz"))
    with np.load(tmp_path / "copy.npz", allow_pickle=False) as copy:
        assert set(copy.files) == set(entries)
        for name, value in entries.items():
            np.testing.assert_array_equal(copy[name], value)
            assert copy[name].dtype == value.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["copy.npz"]


def test_load_tells_task_and_sizes(gc_a, gc_b):
    net = load(gc_a.folder / "checkpoint.npz")
    assert net.task.pressure_levels == (500, 850, 1000)
    assert net.task.n_frames == 2
    assert net.task.forcing_variables[0] == "toa_incident_solar_radiation"
    assert net.config.mesh2grid_edge_normalization_factor is None
    assert net.net.config == NetworkConfig(63, 23, latent=16, processor_steps=2)
    assert net.description.startswith("Tiny randomly initialised")
    assert gc_b.net.config.mesh2grid_edge_normalization_factor == 0.2


def test_own_networks_are_written_too(tmp_path):
    config = NetworkConfig(9, 4, latent=8, processor_steps=3, hidden_layers=2)
    net = GraphCast(config, key=jax.random.key(0))
    task = TaskConfig(("2m_temperature",), ("2m_temperature",), (), (500,), "6h")
    sizes = ModelConfig(10.0, 1, 8, 3, 2)
    write_checkpoint(tmp_path / "own.npz", Checkpoint(net, task, sizes))
    own = read_checkpoint(tmp_path / "own.npz")
    assert (own.task, own.config, own.net.config) == (task, sizes, config)
    for ours, theirs in zip(jax.tree.leaves(own.net), jax.tree.leaves(net), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Published code looks for the weights without influence, too.
    assert any("processor_nodes_0_mesh_nodes" in name for name in own.unused)


def test_all_that_is_wrong_is_listed(gc_a, tmp_path):
    entries = gc_a.npz("checkpoint")
    mesh_gnn = "params:mesh_gnn/~_networks_builder/"
    del entries[mesh_gnn + "encoder_edges_mesh_mlp/~/linear_0:b"]
    name = mesh_gnn + "processor_nodes_1_mesh_nodes_mlp/~/linear_0:w"
    entries[name] = entries[name][:5]
    entries["params:other:w"] = np.zeros(3)
    entries["surprise"] = np.zeros(3)
    nan = mesh_gnn + "processor_nodes_0_mesh_nodes_layer_norm:scale"
    entries[nan] = entries[nan] * np.nan
    np.savez(tmp_path / "wrong.npz", **entries)
    with pytest.raises(ModelError) as caught:
        read_checkpoint(tmp_path / "wrong.npz")
    message = str(caught.value)
    for part in (
        "missing params:mesh_gnn/~_networks_builder/encoder_edges_mesh_mlp/~/linear_0:b",
        "linear_0:w has shape (5, 16), the configuration (32, 16)",
        "unknown params:other:w",
        "unknown entry surprise",
        "layer_norm:scale holds values that are not finite",
    ):
        assert part in message


@pytest.mark.parametrize("lost", ["model_config:latent_size", "task_config:target_variables:0"])
def test_missing_configuration_is_named(gc_a, tmp_path, lost):
    entries = gc_a.npz("checkpoint")
    del entries[lost]
    np.savez(tmp_path / "wrong.npz", **entries)
    with pytest.raises(ModelError, match=lost.removesuffix(":0")):
        read_checkpoint(tmp_path / "wrong.npz")


def test_a_file_that_is_no_archive(gc_a, tmp_path):
    whole = (gc_a.folder / "checkpoint.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("half.npz", "absent.npz"):
        with pytest.raises(StorageError, match=name):
            read_checkpoint(tmp_path / name)


def test_objects_are_not_unpickled(gc_a, tmp_path):
    entries = gc_a.npz("checkpoint") | {"description": np.array({"a": 1}, dtype=object)}
    np.savez(tmp_path / "pickle.npz", **entries)
    with pytest.raises(StorageError, match="allow_pickle"):
        read_checkpoint(tmp_path / "pickle.npz")


def test_conditioned_networks_do_not_fit_the_format(gc_a, tmp_path):
    config = NetworkConfig(9, 4, latent=8, processor_steps=1, conditioning_width=2)
    checkpoint = gc_a.net.checkpoint()
    net = GraphCast(config, key=jax.random.key(0))
    changed = Checkpoint(net, checkpoint.task, checkpoint.config)
    with pytest.raises(ModelError, match="conditional layer normalisation"):
        write_checkpoint(tmp_path / "no.npz", changed)


def test_a_failed_write_leaves_the_old_file(gc_a, tmp_path, monkeypatch):
    path = tmp_path / "kept.npz"
    path.write_text("what was there")

    def full(file, **entries):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StorageError, match="No space left"):
        write_checkpoint(path, gc_a.net.checkpoint())
    assert path.read_text() == "what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.npz"]
