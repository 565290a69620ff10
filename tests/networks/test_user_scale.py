"""What users do wrong at scale: each is told what was found, what is needed and what repairs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from file_server import serve
from places import GENCAST_GOLDEN, GRAPHCAST_GOLDEN

import xdiffda
from xdiffda.errors import InputError, ModelError, StorageError
from xdiffda.networks import gencast, graphcast
from xdiffda.networks.graphcast.bare import channels_of, stack
from xdiffda.priors.published import RELEASES
from xdiffda.storage import download as _download
from xdiffda.storage.download import Identity, identity_of
from xdiffda.train.config import Era5, Network, Optimiser, TrainConfig
from xdiffda.train.era5 import open_store
from xdiffda.train.forecasts import Backgrounds
from xdiffda.train.loader import Drawn

FILES = {
    graphcast: GRAPHCAST_GOLDEN / "gc_a/checkpoint.npz",
    gencast: GENCAST_GOLDEN / "checkpoint.npz",
}
HOUR = np.timedelta64(1, "h")


# fetching


@pytest.mark.parametrize("record", [3, "x", [1], None, {"size": "12", "md5": 7, "crc32c": [1]}])
def test_a_record_that_tells_nothing_is_none(record: object) -> None:
    assert identity_of(record) == Identity()


def test_a_web_page_in_place_of_a_file_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As networks with a login answer; such a server knows no digests either."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    release = RELEASES["gencast-1p0-mini"]
    with serve(dict.fromkeys(release.objects.values(), b"<html>"), plain=True) as server:
        identity = _download._identity

        def page(session, answer, url):
            answer.headers["Content-Type"] = "text/html; charset=utf-8"
            return identity(session, answer, url)

        monkeypatch.setattr(_download, "_identity", page)
        with pytest.raises(StorageError, match=r"found a web page.*repair.*set_options\(mirror"):
            xdiffda.fetch(release.name, mirror=server.address, out=tmp_path, progress=False)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".npz", ".part")]


@pytest.mark.parametrize("mirror", ["ftp://host/folder", "http:///x"])
def test_a_mirror_that_is_no_web_address_says_what_would_be(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot fetch .*repair: .*set_options\(mirror="):
        xdiffda.fetch("graphcast-small-1p0", mirror=mirror, out=tmp_path, progress=False)


@pytest.mark.parametrize("name", [None, 3, "", Path("no-model")])
def test_what_is_no_name_is_no_model(name: object) -> None:
    for call in (xdiffda.load_model, xdiffda.fetch):
        with pytest.raises(ModelError, match="no (published )?model"):
            call(name)


def test_a_published_name_may_be_a_path(tmp_path: Path) -> None:
    with xdiffda.set_options(mirror=tmp_path), pytest.raises(StorageError, match="graphcast-0p25"):
        xdiffda.load_model(Path("graphcast-0p25"))


# checkpoints


def _changed(module, tmp_path: Path, **changes: object) -> Path:
    with np.load(FILES[module]) as file:
        entries = {**file, **changes}
    np.savez(tmp_path / "changed.npz", **entries)
    return tmp_path / "changed.npz"


@pytest.mark.parametrize("module", [graphcast, gencast])
@pytest.mark.parametrize("value", [np.array([1, 2]), "x", -1, 10**6, 2.5])
def test_settings_that_cannot_be_meant_are_named(module, value, tmp_path: Path) -> None:
    """A million layers in a small file would take all memory before anything is compared."""
    prefix = "model_config" if module is graphcast else "denoiser_architecture_config"
    path = _changed(module, tmp_path, **{f"{prefix}:latent_size": np.asarray(value)})
    with pytest.raises(ModelError, match=rf"(?s){prefix}:latent_size is .*repair: "):
        module.load(path)


@pytest.mark.parametrize("module", [graphcast, gencast])
def test_a_file_of_one_array_or_of_no_sizes_is_refused(module, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(StorageError, match=r"one array, no archive.*repair"):
        module.load(tmp_path / "one.npy")
    path = _changed(module, tmp_path, **{"task_config:input_duration": np.array("soon")})
    with pytest.raises(ModelError, match="input_duration is 'soon', not a time as 12h"):
        module.load(path)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_weights_of_any_width_and_byte_order_are_held_in_single_precision(
    dtype: str, tmp_path: Path
) -> None:
    name = "params:grid2mesh_gnn/~_networks_builder/encoder_edges_grid2mesh_mlp/~/linear_1:b"
    with np.load(FILES[graphcast]) as file:
        stored = file[name].astype(dtype)
    net = graphcast.load(_changed(graphcast, tmp_path, **{name: stored})).net
    bias = net.encoder.edge_embed.layers[1].bias
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(bias), stored.astype(np.float32))


# forecasters


@pytest.fixture(scope="module")
def golden() -> tuple[graphcast.Forecaster, xr.Dataset, xr.Dataset]:
    folder, statistics = FILES[graphcast].parent, {}
    for role, values in json.loads((folder / "stats.json").read_text()).items():
        level = values.pop("level")
        data = {k: ("level", v) if isinstance(v, list) else v for k, v in values.items()}
        statistics[role] = xr.Dataset(data, coords={"level": level}).astype(np.float32)
    forecaster = graphcast.Forecaster(graphcast.load(FILES[graphcast]), **statistics)
    inputs = xr.load_dataset(folder / "inputs.nc", decode_timedelta=True)
    forcings = xr.load_dataset(folder / "forcings_rollout.nc", decode_timedelta=True)
    return forecaster, inputs, forcings.isel(time=[0])


def _at(*hours: int) -> np.ndarray:
    return (np.array(hours) * HOUR).astype("timedelta64[ns]")


WRONG = {
    "spacing": (
        lambda i, f: (i.assign_coords(time=_at(-12, 0)), f),
        r"input times \[12.0\] h apart; needed 6 h$",  # none to pick: no repair
    ),
    "order": (lambda i, f: (i.isel(time=[1, 0]), f), r"input times \[-6.0\] h apart"),
    "later": (
        lambda i, f: (i, f.assign_coords(time=_at(12))),
        "forcings 12 h after the last input; needed 6 h",
    ),
    "rows": (lambda i, f: (i, f.isel(lat=slice(None, None, -1))), r"forcings on other lat .*sel\("),
    "grid": (lambda i, f: (i, f.isel(lon=slice(None, None, 2))), "forcings on other lon"),
    "half": (
        lambda i, f: tuple(x.isel(lon=slice(0, 18)) for x in (i, f)),
        "columns from 0 to 170 degrees; needed the whole globe",
    ),
    "north": (
        lambda i, f: tuple(x.isel(lat=slice(9, None)) for x in (i, f)),
        "rows from 0 to 90 degrees",
    ),
    "coarse": (
        lambda i, f: tuple(x.isel(lon=slice(None, None, 2)) for x in (i, f)),
        "a grid of 10 degrees by 20; needed 10 degrees",
    ),
    "names": (lambda i, f: (i.rename(lat="latitude"), f), r"inputs.rename\(latitude='lat'\)"),
    "member": (lambda i, f: (i.rename(batch="member"), f), r"inputs.rename\(member='batch'\)"),
    "twice": (lambda i, f: (i.isel(level=[0, 1, 2, 2]), f), "levels .* some of them twice"),
    "pascal": (lambda i, f: (i.assign_coords(level=100 * i.level), f), r"inputs.level / 100"),
    "text": (
        lambda i, f: (i.assign({"2m_temperature": i["2m_temperature"].astype(str)}), f),
        "2m_temperature.* in inputs; needed numbers",
    ),
    "infinite": (
        lambda i, f: (i.assign({"2m_temperature": i["2m_temperature"] / 0}), f),
        r"infinite values in \['2m_temperature'\]",
    ),
    "array": (lambda i, f: (i["temperature"], f), "a DataArray as inputs; needed a Dataset"),
}


@pytest.mark.parametrize("case", WRONG)
def test_inputs_that_would_run_and_be_wrong_are_refused(golden, case: str) -> None:
    forecaster, inputs, forcings = golden
    change, match = WRONG[case]
    with pytest.raises(InputError, match=match):
        forecaster(*change(inputs, forcings))


def test_the_order_of_dimensions_and_the_first_meridian_do_not_matter(golden) -> None:
    """Levels before times, and longitudes from -180: the same numbers."""
    forecaster, inputs, forcings = golden
    wanted = forecaster(inputs, forcings)
    west = [
        x.assign_coords(lon=(x.lon + 180) % 360 - 180).sortby("lon") for x in (inputs, forcings)
    ]
    found = forecaster(west[0].transpose(..., "time"), west[1])
    found = found.assign_coords(lon=found.lon % 360).sortby("lon")
    for name in wanted:
        scale = float(wanted[name].std()) or 1.0
        np.testing.assert_allclose(found[name] / scale, wanted[name] / scale, rtol=0, atol=1e-4)


def test_channels_are_times_then_levels_however_they_are_stored() -> None:
    values = np.arange(6.0).reshape(2, 3)
    ds = xr.Dataset({"t": (("time", "level"), values)}, coords={"level": [500, 850, 1000]})
    turned = ds.transpose("level", "time")
    assert channels_of(turned, ["t"]) == channels_of(ds, ["t"])
    sizes = {"batch": 1, "lat": 1, "lon": 1}
    assert stack(turned, ["t"], sizes=sizes).reshape(-1).tolist() == values.reshape(-1).tolist()


def test_forecasters_of_something_else_and_steps_that_are_no_number(golden) -> None:
    forecaster, inputs, forcings = golden
    with pytest.raises(InputError, match=r"a str as net; needed a network.*graphcast.load\("):
        graphcast.Forecaster("params.npz", mean=None, stddev=None, diffs_stddev=None)
    with pytest.raises(InputError, match="(?s)a NoneType as mean.*a NoneType as diffs_stddev"):
        graphcast.Forecaster(forecaster.net, mean=None, stddev=None, diffs_stddev=None)
    for steps in (1.5, "2", True):
        with pytest.raises(InputError, match=f"steps={steps!r}"):
            forecaster.rollout(inputs, forcings, steps=steps)
    with pytest.raises(InputError, match="no temperature in inputs"):
        forecaster.rollout(inputs.drop_vars("temperature"), forcings, steps=1)
    with pytest.raises(ValueError, match="edge_chunk must be 0 or more, a whole number, got 1.5"):
        forecaster.reconfigured(edge_chunk=1.5)


# planning


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"obs": float("inf")}, "obs=inf; needed a positive number"),
        ({"members": 2.5}, "members=2.5; needed a whole number"),
        ({"members": True}, "members=True"),
        ({"grid": 1e-9}, "grid=1e-09; needed a spacing of 0.01 to 45"),
        ({"grid": True}, "grid=True"),
        ({"refinement": 20}, "refinement=20; needed 9 at most"),
        ({"refinement": -1}, "refinement=-1; needed 0 or more"),
        ({"edge_chunk": 1.5}, "edge_chunk=1.5; needed a whole number"),
        ({"truncation": "x"}, "truncation='x'"),
    ],
)
def test_plans_of_nonsense_are_refused(given: dict, match: str) -> None:
    with pytest.raises(InputError, match=re.escape(match)):
        xdiffda.plan(**{"grid": 1.0, **given})


# training


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)latent = 0.*processor_steps = 0"):
        Network(latent=0, processor_steps=0)
    with pytest.raises(InputError, match=r"refinement = 30; needed 0 to 9"):
        Network(refinement=30)
    with pytest.raises(InputError, match=r"(?s)peak = nan.*warmup_steps = -5.*ema = 2.0"):
        Optimiser(peak=float("nan"), warmup_steps=-5, ema=2.0)
    with pytest.raises(InputError, match=r"(?s)epochs = -1.0.*seed = -1"):
        TrainConfig("forecaster", "d", "o", epochs=-1.0, seed=-1)
    with pytest.raises(InputError, match=r"(?s)era5.first = 'soon'; needed a time.*every_hours"):
        Era5(variables=("2m_temperature",), first="soon", last="2000-01-01", every_hours=0)


def test_data_that_are_too_short_or_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 samples; needed batch = 4 of them.*batch = 3"):
        Drawn(np.arange(3), 4, (0,), lambda index: {})
    with pytest.raises(InputError, match="no store of forecasts.*train forecasts CONFIG.toml"):
        Backgrounds(tmp_path / "forecasts.zarr", None)
    xr.Dataset({"t": ("time", np.zeros(2))}).to_zarr(tmp_path / "era5.zarr", zarr_format=2)
    with pytest.raises(InputError, match="no coordinate time, lat, lon"):
        open_store(str(tmp_path / "era5.zarr"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json that cannot be read.*out = "):
        TrainConfig.read_back(tmp_path)


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path: Path, root: Path) -> None:
    (tmp_path / "c.toml").write_text("task = 'forecaster'\ndata = 'd'\nout = 'o'\nbtach = 3\n")
    done = subprocess.run(
        [sys.executable, "-m", "xdiffda.train", str(tmp_path / "c.toml")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("xdiffda.train: ") and "found entry btach" in done.stderr
