"""Stores of many analyses: what is in them, restarts, and what does not fit them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cycle_world
import numpy as np
import pytest
import store_world as world
import xarray as xr
from same_bytes import same_bytes

import xdiffda
from xdiffda.assimilation.settings import Settings
from xdiffda.cycling import reanalysis
from xdiffda.errors import InputError, StorageError
from xdiffda.storage.regions import FolderStore

N_TIMES = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    return world.make_input(tmp_path_factory.mktemp("given"), N_TIMES)


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "analyses.zarr"
    world.run(*given, out)
    return out


def test_the_store_holds_what_assimilate_gives(given, whole: Path) -> None:
    background, obs = given
    found = reanalysis.open_analyses(whole).load()
    for i in range(N_TIMES):
        one = xdiffda.open_dataset(background).isel(time=[i]).load()
        wanted = xdiffda.assimilate(
            one, obs, n_members=2, model=cycle_world.make_prior(), progress=False, **world.SETTINGS
        )
        for name in wanted:
            assert found[name].dims == wanted[name].dims
            np.testing.assert_array_equal(found[name].isel(time=[i]), wanted[name])
        used = json.loads(wanted.attrs["xdiffda_observations_used"])
        assert found["n_obs_used"][i].item() == used[0] > 0
    assert found["n_obs_rejected"].dims == ("time", "reason")
    assert found["background_error"].values.tolist() == [1.0] * N_TIMES
    assert len(set(found["background_digest"].values.tolist())) == N_TIMES
    assert found.attrs["xdiffda_version"] == xdiffda.__version__
    assert found["member"].values.tolist() == [0, 1]


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    given, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, times = tmp_path / "run.zarr", world.interrupt_second_analysis(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        world.run(*given, out)
    assert world.complete(out).tolist() == [True, False, False]
    halfway = xr.open_zarr(out)
    assert halfway["temperature"].isel(time=0).notnull().all()
    assert halfway["temperature"].isel(time=[1, 2]).isnull().all()  # absent, not zero
    assert reanalysis.open_analyses(out).sizes["time"] == 1
    (out / "temperature" / "c.0123456789abcdef.partial").write_bytes(b"torso")
    world.run(*given, out)
    assert len(times) == 2 + 2  # the first time was not made again
    assert same_bytes(out, whole)


def test_what_is_written_but_not_committed_does_not_count(
    given, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    shutil.copytree(whole, out)
    (out / "complete" / "c" / "1").unlink()
    assert reanalysis.open_analyses(out).sizes["time"] == N_TIMES - 1
    world.run(*given, out)
    assert same_bytes(out, whole)


def _stored(out: Path) -> dict:
    return {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_store_of_something_else_is_left_as_it_is(given, whole: Path, tmp_path: Path) -> None:
    before = _stored(whole)
    other = world.SETTINGS | {
        "method": xdiffda.Guided(n_steps=4),
        "quality": xdiffda.Quality(gross_check=4.0),
    }
    with pytest.raises(InputError, match="(?s)n_members = 2.*needed 3.*n_steps.*gross_check"):
        world.run(*given, whole, n_members=3, settings=other)
    background, obs = given
    fewer = xdiffda.open_dataset(background).isel(time=slice(2))
    with pytest.raises(InputError, match="times = '3 from .*needed '2 from"):
        reanalysis.assimilate_store(
            fewer,
            obs,
            out=whole,
            n_members=2,
            settings=world.SETTINGS,
            model=cycle_world.make_prior(),
        )
    warmer = xdiffda.open_dataset(background) + 1.0
    with pytest.raises(InputError, match="another background at 2020-01-15T12:00"):
        reanalysis.assimilate_store(
            warmer,
            obs,
            out=whole,
            n_members=2,
            settings=world.SETTINGS,
            model=cycle_world.make_prior(),
        )
    assert _stored(whole) == before
    foreign = tmp_path / "foreign.zarr"
    xdiffda.write_dataset(xr.Dataset({"a": ("x", [1.0])}), foreign)
    with pytest.raises(StorageError, match="no store of `assimilate_store`.*left as it is"):
        world.run(*given, foreign)
    assert xr.open_zarr(foreign)["a"].values.tolist() == [1.0]


def test_a_store_of_another_version_is_left_as_it_is(
    given, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "old.zarr"
    shutil.copytree(whole, out)
    root = json.loads((out / "zarr.json").read_text())
    config = json.loads(root["attributes"]["xdiffda_analyses"]) | {"version": "0.0.7"}
    root["attributes"]["xdiffda_analyses"] = json.dumps(config)
    (out / "zarr.json").write_text(json.dumps(root))
    before = _stored(out)
    with pytest.raises(InputError, match="version = '0.0.7'.*pip install \"xdiffda==0.0.7\""):
        world.run(*given, out)
    assert _stored(out) == before
    job = reanalysis.Job(FolderStore(out), "time", "speedy", "0.0.7", Settings())
    with pytest.raises(StorageError, match="this worker has xdiffda .* the store is of 0.0.7"):
        reanalysis.analyse_one(job, 0, reanalysis.Input(xr.Dataset(), None))


def test_input_that_does_not_fit(given, tmp_path: Path) -> None:
    background, obs = given
    ds, out = xdiffda.open_dataset(background), tmp_path / "a.zarr"
    few = obs.isel(obs=obs["time"].values == ds["time"].values[0])
    with pytest.raises(InputError, match="no observation within 6h around 2 times: 2020-01-15T18"):
        world.run(background, few, out)
    choices = {"out": out, "model": cycle_world.make_prior()}
    with pytest.raises(InputError, match="one valid time after another"):
        reanalysis.assimilate_store(ds.isel(time=0), obs, **choices)
    with pytest.raises(InputError, match="withhold=0.1"):
        reanalysis.assimilate_store(ds, obs, settings={"withhold": 0.1}, **choices)
    wrong = {"methode": "3dvar", "seed": 3}
    with pytest.raises(InputError) as error:
        reanalysis.assimilate_store(ds, obs, settings=wrong, **choices)
    for words in (
        "`settings['method'] = settings.pop('methode')`",
        "an argument of assimilate_store itself",
    ):
        assert words in str(error.value), words
    assert "cycle(" not in str(error.value)
    with pytest.raises(StorageError, match="needed a folder .zarr"):
        world.run(background, obs, tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_a_time_that_fails_stops_no_other(given, tmp_path: Path) -> None:
    background, obs = given
    ds = xdiffda.open_dataset(background)
    broken = ds.where(ds["time"] != ds["time"][1])
    out, settings = tmp_path / "a.zarr", world.SETTINGS | {"method": "3dvar"}
    with pytest.raises(StorageError, match="(?s)1 of 3 failed.*2020-01-15T18:00: InputError.*NaN"):
        reanalysis.assimilate_store(
            broken, obs, out=out, model=cycle_world.make_prior(), settings=settings, progress=False
        )
    assert world.complete(out).tolist() == [True, False, True]
