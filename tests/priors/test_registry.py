"""Models: listed, cached, and refused with a repair where a file is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import xdiffda
from xdiffda.errors import ModelError
from xdiffda.priors.registry import FILES, models_folder, resolve
from xdiffda.storage.model_folder import flatten, pack_symmetric, read_card, unpack_symmetric

SPEEDY = models_folder() / "speedy"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "speedy"
    folder.mkdir()
    for file in FILES:
        shutil.copyfile(SPEEDY / file, folder / file)
    return folder


def _accept(folder: Path, file: str) -> None:
    """Write the digest of a changed file into the card, so that later checks are reached."""
    card = read_card(folder)
    card["sha256"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))


def test_models_lists_what_is_bundled() -> None:
    table = xdiffda.models()
    assert table.model.values[table.source == "bundled"].tolist() == ["speedy"]
    row = table.sel(model="speedy")
    assert "SPEEDY" in str(row.title.values) and "Apache-2.0" in str(row.licence.values)
    assert str(row.grid.values).startswith("32 x 64") and row.cached
    files = sum((SPEEDY / file).stat().st_size for file in FILES)
    assert row.megabytes == pytest.approx(files / 1e6, abs=0.06)


def test_a_model_is_loaded_once_and_by_either_name() -> None:
    prior = xdiffda.load_model("speedy")
    assert xdiffda.load_model("speedy") is prior
    assert resolve(None) is prior and resolve("speedy") is prior and resolve(prior) is prior
    assert prior.layout.grid.shape == (32, 64) and prior.layout.n_channel == 37
    assert prior.name == "speedy"


def test_the_card_tells_the_truth_about_the_files() -> None:
    card, prior = read_card(SPEEDY), xdiffda.load_model("speedy")
    weights = load_file(SPEEDY / "denoiser.safetensors")
    assert card["parameters"] == sum(w.size for w in weights.values())
    assert card["variables"] == list(prior.layout.variables)
    assert card["levels"] == list(prior.layout.levels) == [100, 200, 300, 500, 700, 850, 925]
    assert card["shape"] == list(prior.layout.grid.shape)
    for field in (
        "title",
        "data",
        "training",
        "licence",
        "versions",
        "network",
        "denoising_error_over_gaussian",
    ):
        assert card[field], field
    training = card["split_days"]["train"] + card["split_days"]["validation"]
    for stream, first, last in card["split_days"]["evaluation"]:
        assert last - first >= 365
        assert all(last <= a or b <= first for s, a, b in training if s == stream)
    days = sum(last - first for _, first, last in card["split_days"]["train"])
    assert days >= 5 * 365
    assert "/work/" not in (SPEEDY / "card.json").read_text(), "paths of the maker's machine"


def test_stored_weights_come_back_unchanged() -> None:
    prior, weights = xdiffda.load_model("speedy"), load_file(SPEEDY / "denoiser.safetensors")
    found = flatten(prior._network)
    assert set(found) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value)


def test_models_and_sample_are_under_20_mb() -> None:
    files = [
        p
        for folder in (models_folder(), models_folder().parent / "sample_data")
        for p in folder.rglob("*")
        if p.is_file()
    ]
    assert sum(p.stat().st_size for p in files) < 20e6


@pytest.mark.parametrize("file", FILES[1:])
def test_a_flipped_byte_is_found(copy: Path, file: str) -> None:
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(bytes(content))
    with pytest.raises(ModelError, match=f"(?s){file} .*digest in card.json.*pip install"):
        xdiffda.load_model(copy)


@pytest.mark.parametrize("file", FILES[1:3])
def test_truncated_weights_are_refused(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="digest"):
        xdiffda.load_model(copy)
    _accept(copy, file)
    with pytest.raises(ModelError, match=f"(?s)cannot read .*{file}.*pip install"):
        xdiffda.load_model(copy)


def test_weights_of_another_network_are_refused(copy: Path) -> None:
    path = copy / "denoiser.safetensors"
    weights = load_file(path)
    name = next(n for n, w in weights.items() if w.ndim == 2)
    weights[name] = weights[name][:, :-1].copy()
    lost = next(n for n in weights if n != name)
    weights["surplus"] = weights.pop(lost)
    save_file(weights, path)
    _accept(copy, path.name)
    with pytest.raises(ModelError, match="(?s)do not fit") as caught:
        xdiffda.load_model(copy)
    for part in (name, "shape", "surplus", lost):
        assert part in str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    repair = "load_model\\('speedy'\\)" if file == "card.json" else "pip install"
    with pytest.raises(ModelError, match=f"(?s){file} not found.*{repair}"):
        xdiffda.load_model(copy)


def test_a_foreign_folder_is_refused_by_what_it_holds(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.pt").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="only weights.pt; needed .*pickled weights never"):
        xdiffda.load_model(other)
    card = read_card(copy)
    (copy / "card.json").write_text(json.dumps(card | {"kind": "flow"}))
    with pytest.raises(ModelError, match="the kind 'flow'; needed one of testbed, diffda"):
        xdiffda.load_model(copy)
    (copy / "card.json").write_text(json.dumps({"name": "x", "levels": []}))
    with pytest.raises(ModelError, match="does not tell 'variables'.*'network'"):
        xdiffda.load_model(copy)
    (copy / "card.json").write_text("[1]")
    with pytest.raises(ModelError, match="no object of names"):
        xdiffda.load_model(copy)


def test_a_card_that_is_no_json_is_refused(copy: Path) -> None:
    (copy / "card.json").write_text('{"name": "spee')
    with pytest.raises(ModelError, match="card.json"):
        xdiffda.load_model(copy)


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="(?s)no model 'speady'.*bundled models are speedy"):
        xdiffda.load_model("speady")


def test_symmetric_matrices_are_packed_without_loss() -> None:
    root = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
    blocks = root + root.swapaxes(-1, -2)
    packed = pack_symmetric(blocks)
    assert packed.shape == (2, 3, 15)
    np.testing.assert_array_equal(unpack_symmetric(packed), blocks)
    assert unpack_symmetric(pack_symmetric(np.ones((37, 37)))).shape == (37, 37)
