"""What users get wrong in cycled runs and forecasts, and what they are told."""

from __future__ import annotations

from pathlib import Path

import cycle_world as world
import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.cycling.cycle import cycle
from xdiffda.cycling.observation_stream import emulated_stream, make_source
from xdiffda.cycling.record import read_observations
from xdiffda.cycling.store import open_cycle
from xdiffda.errors import InputError, StorageError
from xdiffda.storage.lock import single_writer


def _stream():
    return emulated_stream(world.make_states()[0], n_columns=20, error_std=world.ERRORS, seed=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": ""}, "out=''.*run.zarr"),
        ({"out": None}, "out=None"),
        ({"forecaster": "speedy"}, "forecaster of type str.*lambda ds"),
        ({"forecaster": lambda inputs, forcings: inputs}, "not to be called with one state"),
        ({"truth": "truth.nc"}, "truth of type str.*open_dataset"),
        ({"relaxation": 12}, "relaxation of type int"),
        ({"settings": "3dvar"}, r"settings='3dvar'.*mapping"),
        ({"settings": ["method"]}, "mapping"),
        ({"settings": {"window": 6}}, "window=6;.*6h"),  # would be nanoseconds
        ({"settings": {"method": "letkf"}}, 'carry="mean".*carry="ensemble"'),
    ],
)
def test_arguments_of_another_kind_are_named(change, message, tmp_path) -> None:
    given = {"out": tmp_path / "run.zarr", "settings": world.QUICK} | change
    with pytest.raises(InputError, match=f"(?s){message}"):
        world.run(given.pop("out"), 2, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (list, "a list of several.*to_tidy"),
        (iter, "list_iterator of several"),
        (dict.fromkeys, "a dict.*obs.get"),
        (lambda tables: "obs.nc", r"read_obs\('obs.nc'\)"),
    ],
)
def test_a_container_of_tables_is_told_how_to_become_one(of, message) -> None:
    with pytest.raises(InputError, match=message):
        make_source(of(["a table"]), "6h")


def test_columns_without_any_value_are_an_empty_window() -> None:
    observed = _stream()(world.START)
    blank = observed.map(lambda v: v if str(v.name).endswith("_std") else v * np.nan)
    assert make_source(lambda time: blank, "6h")[0](world.START).tidy is None
    assert make_source(lambda time: observed, "6h")[0](world.START).tidy is not None
    with pytest.raises(InputError, match="found a int"):
        make_source(lambda time: 5, "6h")[0](world.START)


def test_an_error_on_the_way_names_its_cycle_and_keeps_those_before(tmp_path) -> None:
    background, stream = world.make_states()[1], _stream()
    later = world.START + world.STEP

    def scaled(time: np.datetime64) -> xr.Dataset:
        given = stream(time)
        return given.assign(temperature=given.temperature * 9) if time == later else given

    out = tmp_path / "run.zarr"
    with pytest.raises(InputError, match="cycle 1 at 2020-01-15T18:00, observations.*"):
        cycle(
            background,
            scaled,
            out=out,
            n_cycles=2,
            n_members=1,
            settings=world.QUICK,
            model=world.make_prior(),
            forecaster=world.forecaster,
        )
    assert open_cycle(out).sizes["time"] == 1
    with pytest.raises(InputError, match="time='soon'.*2020-01-15T12:00"):
        read_observations(out, "soon")


def test_a_store_has_one_writer_at_a_time(tmp_path) -> None:
    out = tmp_path / "run.zarr"
    refused = pytest.raises(StorageError, match=r"another process writes.*open_cycle")
    with single_writer(out), refused:  # of a store that does not exist yet, too
        world.run(out, 1)
    world.run(out, 1)
    with single_writer(out), refused:
        world.run(out, 2)
    assert world.run(out, 2).sizes["time"] == 2


def test_a_damaged_store_or_an_address_is_refused(tmp_path) -> None:
    out = tmp_path / "run.zarr"
    world.run(out, 1)
    (out / "temperature").rename(tmp_path / "lost")
    with pytest.raises(StorageError, match="damaged store, without the array temperature"):
        world.run(out, 2)
    with pytest.raises(StorageError, match="an address; needed a folder"):
        world.run("s3://bucket/run.zarr", 2)
    with pytest.raises(StorageError, match="no folder"):
        world.run(tmp_path / "absent" / "run.zarr", 2)
    assert not (tmp_path / "absent").exists() and not Path("s3:").exists()


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch) -> None:
    def refused(*arguments, **settings) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(xr.Dataset, "to_zarr", refused)
    with pytest.raises(StorageError, match=r"a folder that you may write to.*same call again"):
        world.run(tmp_path / "run.zarr", 1)


def test_home_is_found(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    world.run("~/run.zarr", 1)
    assert open_cycle("~/run.zarr").sizes["time"] == open_cycle(tmp_path / "run.zarr").sizes["time"]
    assert xdiffda.open_dataset("~/run.zarr").sizes["time"] == 1


@pytest.mark.parametrize("lead", ["NaT", None, float("nan"), np.timedelta64("NaT"), 48, "7h"])
def test_what_is_no_lead_time(lead) -> None:
    with pytest.raises(InputError, match=r"lead_time=.*positive multiple of 6 h"):
        xdiffda.open_sample("truth").isel(time=0).diffda.forecast(lead)


def test_other_wrong_settings_of_a_forecast() -> None:
    state = xdiffda.open_sample("truth").isel(time=0)
    for wrong in ("8", None, 2.5):
        with pytest.raises(InputError, match="max_batch="):
            state.diffda.forecast("6h", max_batch=wrong)
    with pytest.raises(InputError, match=r"model of type GaussianPrior.*model=\"speedy\""):
        state.diffda.forecast("6h", model=world.make_prior())
