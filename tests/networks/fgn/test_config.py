"""The published configuration: read as data, complete, and executing nothing."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
from fgn_world import edited

from xdiffda.errors import ModelError, StorageError
from xdiffda.networks import fgn

NETWORK = "predictor_kwargs:noisy_function_kwargs:"
TRANSFORMER = f"{NETWORK}mesh_model_ctor:transformer_kwargs:"


def read(document: dict, folder: Path) -> fgn.Configuration:
    (folder / "config.json").write_text(json.dumps(document))
    return fgn.read_config(folder / "config.json")


def item(document: dict, path: str, name: str) -> tuple[list, int]:
    """The items of the object at a path, and where one of them stands."""
    (owner,) = (o for o in document["objects"].values() if path in o.get("paths", []))
    return owner["items"], next(i for i, (key, _) in enumerate(owner["items"]) if name in key)


def test_everything_is_read(case):
    told = case.net.checkpoint.configuration
    assert (told.task.pressure_levels, told.task.n_frames) == ((500, 850, 1000), 2)
    assert len(told.task.target_variables) == 29 and len(told.task.forcing_variables) == 4
    sizes = told.architecture
    assert (sizes.latent, sizes.heads, sizes.layers, sizes.ffw_hidden) == (16, 2, 2, 64)
    assert (sizes.hops, sizes.mesh_size, sizes.radius_fraction) == (2, 2, 0.6)
    assert sizes.noise == ("noise", "noise_channels") and sizes.noise_channels == 32
    assert not sizes.grid2mesh.hears_receiver and sizes.mesh2grid.hears_receiver
    assert told.stddev.temperature.sel(level=850).item() > 0
    assert float(told.fill.sea_surface_temperature) == 269.5
    assert "cyclone_exists_gaussian_unit_mode" not in told.mean
    assert told.loss_weights["cyclone_all_wind_disc"] == 10 and len(told.gaps_in_targets) == 16


def test_statistics_are_those_of_the_files(case, shared):
    import xarray as xr

    told = case.net.checkpoint.configuration
    for name in ("mean", "stddev", "diffs_stddev"):
        stored = xr.open_dataset(shared(f"golden/fgn_a/stats_{name}_by_level.nc")).load()
        xr.testing.assert_equal(getattr(told, name).astype("float32"), stored)


@pytest.mark.parametrize(
    ("end", "value", "message"),
    [
        ("['attention_k_hop']", "2", f"{TRANSFORMER}attention_k_hop is '2', not a whole number"),
        ("['num_layers']", 2.0, f"{TRANSFORMER}num_layers is 2.0, not a whole number"),
        ("['num_heads']", True, f"{TRANSFORMER}num_heads is True, not a whole number"),
        ("['mesh_num_splits']", 40, f"{NETWORK}mesh_num_splits is 40, not 0 to 9"),
        ("['mesh_num_splits']", None, f"{NETWORK}mesh_num_splits is None, not a whole number"),
        ("['block_q']", "many", f"{TRANSFORMER}block_q is 'many', not a whole number"),
        (".ball_query_radius_fraction", "0.6", "ball_query_radius_fraction is '0.6', not a number"),
        ("['latent_dense_kwargs']['activation']", "relu", "activation is 'relu'; only 'swish'"),
        ("['with_bias']", True, "with_bias is True; only False is known"),
        ("['pre_gather_matmul']", False, "pre_gather_matmul is False; only True"),
        ("['num_message_passing_steps']", True, "num_message_passing_steps is True; only 1"),
        ("['input_offset']", "-2", "input_offset is '-2', not a number"),
        ("['d_model']", 32, "one width of all nodes is needed, found .*d_model 32"),
        ("['num_heads']", 3, "heads must divide latent, got 3 and 16"),
        ("['num_layers']", 0, "layers must be 1 or more, got 0"),
        (".pressure_levels[1]", 850.5, "task:pressure_levels:1 is 850.5, not a whole number"),
        (".input_duration", "soon", "task:input_duration is 'soon'"),
        ("['loss_for_nan_targets']", 1.0, "loss_for_nan_targets is 1.0; only 0.0"),
        ("['aggregate_normalization']", 0.0, "grid2mesh.divide_sums must be > 0"),
        ("['aggregate_normalization']", "4", "aggregate_normalization is '4', not a number"),
        (
            "['data_vars']['temperature']['data'][1]",
            "warm",
            "mean_by_level.*temperature must be numb",
        ),
    ],
)
def test_wrong_entries_are_refused_by_name(case, tmp_path, end, value, message):
    with pytest.raises(ModelError, match=f"(?s)not a usable FGN configuration.*{message}"):
        read(edited(case.document, {end: value}), tmp_path)


def test_missing_and_unknown_entries_are_refused_together(case, tmp_path):
    document = copy.deepcopy(case.document)
    inner = "<root>.predictor_kwargs['noisy_function_kwargs']['mesh_model_ctor'].transformer_kwargs"
    for name in ("attention_k_hop", "d_model"):
        items, i = item(document, inner, name)
        del items[i]
    items.append(["Key(key='dropout')", {"type": "leaf", "value": 0.1, "paths": []}])
    items, i = item(document, "<root>.predictor_wrappers[1]['kwargs']", "fill_value")
    del items[i]
    items, i = item(document, "<root>.task", "pressure_levels")
    items[i][0] = "Attr(name='levels')"
    with pytest.raises(ModelError) as caught:
        read(document, tmp_path)
    for text in (
        f"missing {TRANSFORMER}attention_k_hop",
        f"missing {TRANSFORMER}d_model",
        f"unknown entry {TRANSFORMER}dropout",
        "unknown entry task:levels:0",
        "missing predictor_wrappers:1:kwargs:fill_value",
    ):
        assert text in str(caught.value)


def test_nothing_that_is_named_is_imported(case, tmp_path, monkeypatch):
    """A configuration can name any function of any module: here one that would leave a mark."""
    (tmp_path / "marked.py").write_text("open('mark', 'w').close()\ndef sigmoid(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    text = json.dumps(case.document)
    moved = text.replace("weathernext.utils.activations", "marked")
    told = read(json.loads(moved), tmp_path)  # where a function lives is of no interest
    assert told.architecture.shifted_sigmoids
    evil = text.replace('"weathernext.utils.points_mesh_gnn"', '"os"')
    evil = evil.replace('"PointsMeshTypedGraphGNN"', '"system"')
    with pytest.raises(ModelError, match="fn_or_cls is .*'system'"):
        read(json.loads(evil), tmp_path)
    assert "marked" not in sys.modules and not (tmp_path / "mark").exists()


def test_what_is_no_configuration_is_refused(case, tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(StorageError, match="cannot read .*config.json as a configuration"):
        fgn.read_config(path)
    for text in ("{", "[" * 100_000, '"\\ud800'):
        path.write_text(text)
        with pytest.raises(StorageError, match="as a configuration"):
            fgn.read_config(path)
    itself = {"type": {"name": "list"}, "items": [["Index(index=0)", {"type": "ref", "key": "a"}]]}
    for document in (
        [],
        {},
        {"root": 3, "objects": 4},
        {"root": {"type": "ref", "key": "b"}, "objects": {}},
        {"root": {"type": "ref", "key": "a"}, "objects": {"a": itself}},
    ):
        with pytest.raises(ModelError, match="not a usable FGN configuration"):
            read(document, tmp_path)


def test_a_graph_that_grows_without_end_is_refused(tmp_path):
    """Each object holds the one before it ten times."""
    objects = {
        "o0": {
            "type": {"name": "list"},
            "items": [[f"Index(index={i})", {"type": "leaf", "value": i}] for i in range(10)],
        }
    }
    for n in range(1, 12):
        part = {"type": "ref", "key": f"o{n - 1}"}
        objects[f"o{n}"] = {
            "type": {"name": "list"},
            "items": [[f"Index(index={i})", part] for i in range(10)],
        }
    with pytest.raises(ModelError, match="more than 1000000 values"):
        read({"root": {"type": "ref", "key": "o11"}, "objects": objects}, tmp_path)
