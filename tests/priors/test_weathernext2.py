"""WeatherNext 2 in the published formats, under the names of the bucket: served, fetched, run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fgn_world import Case, Sizes, random_weights
from file_server import FileServer, serve
from places import FGN_GOLDEN

import xdiffda
from xdiffda.errors import InputError, ModelError, StorageError
from xdiffda.networks import fgn
from xdiffda.priors.published import RELEASES

SIZES = Sizes(layers=1)
CASE = Case(FGN_GOLDEN)
# the files of the published one, with other sizes inside
TINY = dataclasses.replace(
    RELEASES["weathernext2-0p25"],
    name="weathernext2-tiny",
    resolution=10.0,
    n_levels=2,
    mesh_size=1,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """The release in force for this module; its files on a server that answers as the bucket."""
    folder = tmp_path_factory.mktemp("release")
    document = json.dumps(SIZES.document(CASE.document))
    (folder / "config.json").write_text(document)
    shapes = SIZES.shapes(fgn.read_config(folder / "config.json").task)
    files = {TINY.objects["config"]: document.encode()}
    for seed in range(1, 5):
        random_weights(shapes, folder / f"{seed}.npz", seed)
        key = f"weathernext2/params/WeatherNext2_<2025_model{seed}.npz"
        files[key] = (folder / f"{seed}.npz").read_bytes()
    with pytest.MonkeyPatch.context() as patch, serve(files) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setitem(RELEASES, TINY.name, TINY)
        with xdiffda.set_options(cache_dir=folder / "cache", mirror=server.address, progress=False):
            yield server


def states() -> tuple:
    return CASE.fields("inputs"), CASE.fields("forcings")


@pytest.mark.long
def test_four_trainings_are_fetched_once_and_members_share_them_out(server: FileServer) -> None:
    model = xdiffda.load_model(TINY.name)
    assert isinstance(model, fgn.FGNForecaster) and len(model.nets) == 4
    asked = [path for path, _ in server.requests]
    assert asked == [
        *(f"weathernext2/params/WeatherNext2_<2025_model{k}.npz" for k in (1, 2, 3, 4)),
        "weathernext2/configs/WeatherNext2.json",
    ]
    assert xdiffda.load_model(TINY.name) is model and len(server.requests) == 5
    files = xdiffda.fetch(TINY.name)
    assert len(files.weights) == 4 and "<" not in str(files.weights)
    assert bool(xdiffda.models().cached.sel(model=TINY.name))

    noise = np.random.default_rng(0).normal(size=(5, 2, SIZES.noise))
    found = model(*states(), noise=noise)
    for i in (0, 3, 4):
        alone = fgn.FGNForecaster(model.nets[i % 4])(*states(), noise=noise[[i]])
        other = fgn.FGNForecaster(model.nets[(i + 1) % 4])(*states(), noise=noise[[i]])
        name = "2m_temperature"
        np.testing.assert_allclose(found[name][i], alone[name][0], rtol=0, atol=2e-3)
        assert float(np.abs(found[name][i] - other[name][0]).mean()) > 0.1
    few = model(*states(), noise=noise[[3, 2]], members=[3, 2])
    np.testing.assert_allclose(few["2m_temperature"], found["2m_temperature"][[3, 2]], atol=2e-3)
    with pytest.raises(InputError, match=r"members \[1\] for noise of 2.*members=range\(2\)"):
        model(*states(), noise=noise[:2], members=[1])


def test_a_roll_out_keeps_each_member_to_its_training(server: FileServer) -> None:
    model = xdiffda.load_model(TINY.name)
    noise = np.random.default_rng(1).normal(size=(2, 2, 2, SIZES.noise))
    inputs, forcings = CASE.fields("inputs"), CASE.fields("forcings_rollout")
    both = model.rollout(inputs, forcings, noise=noise, steps=2)
    one = model.rollout(inputs, forcings, noise=noise[1:], steps=2, members=[1])
    np.testing.assert_allclose(one["2m_temperature"][0], both["2m_temperature"][1], atol=5e-3)
    assert both["2m_temperature"].sizes["time"] == 2


def test_the_card_has_licence_and_citation(server: FileServer) -> None:
    card = xdiffda.load_model(TINY.name).card
    assert "CC BY 4.0" in card["licence"] and "arXiv:2506.10772" in card["citation"]
    assert card["licence in the file"] == "no rights claimed"
    row = xdiffda.models().sel(model="weathernext2-0p25")
    assert row.kind == "forecaster" and row.grid == "721 x 1440, 13 levels"
    assert "CC BY 4.0" in str(row.licence.values)


def test_the_published_names_lead_to_the_bucket_and_to_the_code() -> None:
    mini, full = (RELEASES[f"weathernext2-{name}"] for name in ("mini-1p0", "0p25"))
    bucket = "https://storage.googleapis.com/dm_graphcast/weathernext2/params"
    assert mini.address("params", "") == f"{bucket}/WeatherNextCyclones_Mini_%3C2024.npz"
    assert full.address("params_4", "") == f"{bucket}/WeatherNext2_%3C2025_model4.npz"
    for release, name in ((mini, "WeatherNextCyclones_Mini"), (full, "WeatherNext2")):
        code = release.address("config", "")
        assert "google-deepmind/weathernext/v" in code
        assert code.endswith(f"/weathernext2/configs/{name}.json")
        own = release.address("config", "http://here/")
        assert own == f"http://here/weathernext2/configs/{name}.json"
    assert (list(full.objects), mini.seeds, full.seeds) == (
        ["params", "params_2", "params_3", "params_4", "config"],
        1,
        4,
    )


def test_another_grid_is_refused(server: FileServer) -> None:
    inputs, forcings = (ds.isel(lon=slice(None, None, 2)) for ds in states())
    with pytest.raises(InputError, match=r"grid of 19 x 18; needed 19 x 36.*xdiffda.regrid"):
        xdiffda.load_model(TINY.name)(inputs, forcings, noise=np.zeros((1, 2, SIZES.noise)))


def test_files_of_another_network_and_damaged_ones_are_refused(
    server: FileServer, tmp_path: Path
) -> None:
    for key, content in server.files.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(content)
    config = tmp_path / TINY.objects["config"]
    with xdiffda.set_options(mirror=tmp_path):
        config.write_text(json.dumps(CASE.document))
        with pytest.raises(
            ModelError,
            match=r"network of 3 levels on a mesh refined 2 times; "
            r"needed 2 levels on a mesh refined 1 times for weathernext2-tiny",
        ):
            xdiffda.load_model(TINY.name)
        document = json.dumps(SIZES.document(CASE.document))
        config.write_text(
            document.replace('"attention_k_hop"', '"hops"').replace(
                "Key(key='attention_k_hop')", "Key(key='hops')"
            )
        )
        with pytest.raises(ModelError, match=r"(?s)missing .*attention_k_hop.*unknown entry.*hops"):
            xdiffda.load_model(TINY.name)
        config.write_text(document)
        weights = tmp_path / TINY.objects["params_3"]
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
        with pytest.raises(StorageError, match=r"cannot read .*model3.npz as a checkpoint"):
            xdiffda.load_model(TINY.name)
        weights.unlink()
        with pytest.raises(StorageError, match=r"no weathernext2/params/WeatherNext2_<2025_model3"):
            xdiffda.load_model(TINY.name)


def test_networks_of_different_sizes_make_no_ensemble(server: FileServer) -> None:
    with pytest.raises(ModelError, match="different tasks or sizes"):
        fgn.FGNForecaster(CASE.net, xdiffda.load_model(TINY.name).net)
