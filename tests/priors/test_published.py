"""A tiny release in the published format: served, fetched, loaded, and run as a forecaster."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from file_server import release_contents, serve
from places import GENCAST_GOLDEN
from tiny_release import GOLDEN, START, STEP, statistics
from tiny_release import frames as frames

import xdiffda
from xdiffda.errors import InputError, ModelError, StorageError
from xdiffda.networks import graphcast
from xdiffda.networks.graphcast import Forecaster, time_forcings
from xdiffda.priors.published import RELEASES, Release

TINY = Release("graphcast-tiny", "graphcast", "GraphCast tiny.npz", "for tests", 10.0, 3, 2, 0.1)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory):
    """The release in force for this module, its files in a cache."""
    folder = tmp_path_factory.mktemp("release")
    files = release_contents(TINY, folder, GOLDEN / "checkpoint.npz", statistics())
    with pytest.MonkeyPatch.context() as patch, serve(files) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setitem(RELEASES, TINY.name, TINY)
        with xdiffda.set_options(cache_dir=folder / "cache", mirror=server.address, progress=False):
            yield server


def test_a_published_forecaster_runs_on_a_users_states(release, frames) -> None:
    """The same numbers as the forecaster itself on Datasets made by hand."""
    forecaster = xdiffda.load_model("graphcast-tiny")
    assert isinstance(forecaster, Forecaster)
    assert xdiffda.load_forecaster("graphcast-tiny") is forecaster
    lat, lon = frames["lat"].values, frames["lon"].values
    times = START + np.arange(-1, 3) * STEP
    clocks = time_forcings(times, lat, lon)
    inputs = frames.expand_dims(batch=1).merge(clocks.isel(time=[0, 1]))
    static = ["geopotential_at_surface", "land_sea_mask"]
    inputs = inputs.assign({v: inputs[v].isel(batch=0, drop=True) for v in static})
    wanted = forecaster.rollout(inputs, clocks.isel(time=[2, 3]), steps=2).isel(batch=0)

    found = frames.diffda.forecast("12h", model="graphcast-tiny")
    assert found["time"].values.tolist() == times[2:].tolist()
    assert (found["lead_time"].values == np.array([6, 12], "timedelta64[h]")).all()
    assert found["init_time"].values == START
    assert set(found) == {*wanted, *static}
    for name in wanted:
        ours, theirs = found[name].transpose(*wanted[name].dims), wanted[name]
        scale = float(theirs.std()) or 1.0
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=2e-5, err_msg=name)


def test_members_and_conventions(release, frames) -> None:
    """Members go together or in groups; rows, names and units are given back as they came."""
    static = frames[["geopotential_at_surface", "land_sea_mask"]]
    moving = frames.drop_vars(list(static))
    members = xr.concat([moving, moving.map(lambda x: x * 1.001)], "member").merge(static)
    together = members.diffda.forecast("6h", model="graphcast-tiny")
    assert dict(together.sizes)["member"] == 2
    turned = members.isel(lat=slice(None, None, -1)).rename(lat="latitude", temperature="t")
    apart = turned.diffda.forecast("6h", model="graphcast-tiny", max_batch=1)
    ours = apart.rename(latitude="lat", t="temperature").sortby("lat")
    np.testing.assert_allclose(ours["temperature"], together["temperature"], rtol=0, atol=2e-3)
    assert apart["geopotential_at_surface"].dims == ("latitude", "lon")
    np.testing.assert_array_equal(ours["land_sea_mask"].sortby("lat"), static["land_sea_mask"])
    assert abs(together["temperature"].diff("member")).mean() > 0.05


def test_wrong_states_are_refused_with_the_call_that_repairs(release, frames) -> None:
    with pytest.raises(
        InputError,
        match=r"1 initial states \(2020-03-20T12:00\); needed 2 states "
        r"6 h apart.*ds.sel\(time=",
    ):
        frames.isel(time=[1]).diffda.forecast("6h", model="graphcast-tiny")
    far = frames.assign_coords(time=[START - 2 * STEP, START])
    with pytest.raises(InputError, match="2 states 6 h apart"):
        far.diffda.forecast("6h", model="graphcast-tiny")
    coarse = frames.isel(lat=slice(None, None, 2), lon=slice(None, None, 2)).sel(level=[500, 850])
    needed = (
        "(?s)initial states of graphcast-tiny: 3 problems.*no 2m_temperature.*grid 10 x 18.*"
        "needed grid 19 x 36.*xdiffda.regrid.*no level 1000 hPa"
    )
    with pytest.raises(InputError, match=needed):
        coarse.drop_vars("2m_temperature").diffda.forecast("6h", model="graphcast-tiny")
    with pytest.raises(InputError, match="lead_time='7h'"):
        frames.diffda.forecast("7h", model="graphcast-tiny")


def test_a_forecaster_is_no_prior(release, frames) -> None:
    with pytest.raises(
        ModelError,
        match="(?s)'graphcast-tiny', a forecaster; needed a prior, one of speedy.*gencast-1p0-mini",
    ):
        frames.diffda.assimilate(xr.Dataset(), model="graphcast-tiny")


def test_a_network_refuses_a_grid_it_was_not_made_for(frames) -> None:
    """The bare network too: any grid would run, and be wrong."""
    net = graphcast.load(GOLDEN / "checkpoint.npz")
    lat, lon = frames["lat"].values[::2], frames["lon"].values[::2]
    clocks = time_forcings(START + np.arange(-1, 2) * STEP, lat, lon)
    coarse = frames.sel(lat=lat, lon=lon).merge(clocks.isel(time=[0, 1]))
    with pytest.raises(
        InputError,
        match=r"grid of 20 degrees; needed 10 degrees, as in the "
        r"checkpoint.*xdiffda.regrid",
    ):
        net(coarse, clocks.isel(time=[2]))


def test_a_file_of_another_network_is_refused(release, tmp_path: Path) -> None:
    """The name promises 37 levels at a quarter of a degree; the file holds the tiny network."""
    wrong = dataclasses.replace(RELEASES["graphcast-0p25"], name="graphcast-mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RELEASES, wrong.name, wrong)
        for role, key in wrong.objects.items():
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(release.files[TINY.objects[role]])
        with (
            xdiffda.set_options(mirror=tmp_path),
            pytest.raises(
                ModelError,
                match=r"network of 3 levels at 10 degrees on a mesh refined 2 "
                r"times; needed 37 levels at 0.25 degrees on a mesh refined 6 times for "
                r"graphcast-mixed; repair: `xdiffda.load_model\(\"graphcast-tiny",
            ),
        ):
            xdiffda.load_model("graphcast-mixed")
        (tmp_path / wrong.objects["mean"]).write_bytes(b"no netCDF")
        with (
            xdiffda.set_options(mirror=tmp_path),
            pytest.raises(
                StorageError, match="mean_by_level.nc: cannot be read as netCDF.*fetch it again"
            ),
        ):
            xdiffda.load_model("graphcast-mixed")
        params = tmp_path / wrong.objects["params"]
        content = bytearray(params.read_bytes())
        content[len(content) // 2] ^= 1
        params.write_bytes(content)
        shutil.copyfile(tmp_path / wrong.objects["stddev"], tmp_path / wrong.objects["mean"])
        with (
            xdiffda.set_options(mirror=tmp_path),
            pytest.raises(StorageError, match="cannot read .*as a checkpoint"),
        ):
            xdiffda.load_model("graphcast-mixed")


def test_a_gencast_of_another_mesh_is_refused(release, tmp_path: Path) -> None:
    """All have the same levels, and the files tell no resolution: the mesh tells them apart."""
    fine = Release("gencast-fine", "gencast", "GenCast fine.npz", "for tests", 5.0, 3, 3, 0.1)
    coarse = dataclasses.replace(fine, name="gencast-coarse", resolution=10.0, mesh_size=2)
    golden = GENCAST_GOLDEN / "checkpoint.npz"  # refined twice, 3 levels
    with pytest.MonkeyPatch.context() as patch:
        for one in (fine, coarse):
            patch.setitem(RELEASES, one.name, one)
        fields = {**statistics(), "minimum": xr.Dataset()}
        for key, content in release_contents(fine, tmp_path, golden, fields).items():
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(content)
        with (
            xdiffda.set_options(mirror=tmp_path),
            pytest.raises(
                ModelError,
                match=r"GenCast fine.npz: found a network of 3 levels on a mesh refined 2 "
                r"times; needed 3 levels on a mesh refined 3 times for gencast-fine; repair: "
                r"`xdiffda.load_model\(\"gencast-coarse",
            ),
        ):
            xdiffda.load_model("gencast-fine")


@pytest.mark.parametrize("name", RELEASES)
def test_the_catalogue_has_the_meshes_of_the_names_and_of_the_page(name: str, root: Path) -> None:
    release = RELEASES[name]
    if release.kind == "graphcast":
        assert f" mesh 2to{release.mesh_size} " in release.params
    else:
        page = (root / "tutorials/docs/how-to/published-weights.md").read_text()
        (row,) = (
            r for r in page.splitlines() if f"`{name}`" in r and r.endswith("times refined |")
        )
        assert f"{release.resolution:g} degree" in row and f" {release.mesh_size} times" in row


def test_models_lists_what_can_be_had(release) -> None:
    table = xdiffda.models()
    assert {"speedy", *RELEASES} == set(table.model.values)
    xdiffda.fetch("graphcast-tiny")
    assert table.cached.sel(model="speedy") and xdiffda.models().cached.sel(model="graphcast-tiny")
    row = table.sel(model="gencast-1p0-mini")
    assert not row.cached and row.megabytes == 230 and row.kind == "prior"
    assert row.grid == "181 x 360, 13 levels" and "CC BY 4.0" in str(row.licence.values)
    assert set(table.source.values) == {"bundled", "published"}


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(
        ModelError,
        match=r"no model 'graphcast-025'.*did you mean graphcast-0p25"
        r".*repair: xdiffda.load_model\('graphcast-0p25'\)",
    ):
        xdiffda.load_model("graphcast-025")
    with pytest.raises(ModelError, match="known are speedy, graphcast-0p25"):
        xdiffda.load_model("unheard of")
