"""Wrong files and options on the command line: one message, no traceback."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import typer
import xarray as xr
from typer.testing import CliRunner

import xdiffda
from xdiffda import cli
from xdiffda.cycling.config import CycleConfig
from xdiffda.cycling.cycle import run_config
from xdiffda.errors import InputError, StorageError
from xdiffda.experiments.command import main as experiment
from xdiffda.observations.readers import read_obs

LINES = 'background = "{background}"\nout = "{folder}/run.zarr"\nn_cycles = 2\n'
OBSERVED = LINES + 'observations = "{folder}/obs.csv"\n'


def _config(tmp_path: Path, text: str, background: str = "sample:background") -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text.format(background=background, folder=tmp_path))
    return path


def test_what_is_no_toml_file(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    for read in (run_config, lambda path: experiment("single-step", path)):
        with pytest.raises(InputError, match="no TOML: 'utf-8'"):
            read(tmp_path / "binary.toml")
        with pytest.raises(InputError, match="a folder; needed a TOML file"):
            read(tmp_path)


def test_the_start_of_a_run_is_a_line_of_its_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'of 17 times and no start.*start = "2012-12-21T06:00"'):
        run_config(_config(tmp_path, OBSERVED))
    with pytest.raises(InputError, match=r"start = 'tomorrow'.*2020-01-01T06"):
        run_config(_config(tmp_path, OBSERVED + 'start = "tomorrow"\n'))
    for given in ("2012-12-21T06:00:00", "2012-12-21T06:00:00Z", "2012-12-21T08:00:00+02:00"):
        config = CycleConfig.read(_config(tmp_path, OBSERVED + f"start = {given}\n"))
        assert np.datetime64(config.start) == np.datetime64("2012-12-21T06")


def test_errors_by_level_have_levels(tmp_path: Path) -> None:
    text = LINES + 'truth = "sample:truth"\n[emulate.error_std.temperature]\nlow = 1\n'
    with pytest.raises(InputError, match="error_std of temperature at 'low'.*hPa"):
        run_config(_config(tmp_path, text))


def test_tables_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "obs.csv").write_text("")
    with pytest.raises(StorageError, match="empty file"):
        read_obs(tmp_path / "obs.csv")
    with pytest.raises(StorageError, match="no such file.*obs.csv"):
        read_obs(tmp_path / "obbs.csv")
    text = OBSERVED + 'start = "2012-12-21T06"\n'
    with pytest.raises(StorageError, match="empty file"):
        run_config(_config(tmp_path, text))


def test_a_demo_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("precious")
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path / "demo")])
    assert isinstance(result.exception, StorageError) and "no folder" in str(result.exception)


def test_version_and_options_out_of_range() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"xdiffda {xdiffda.__version__}\n")
    assert CliRunner().invoke(cli.app, ["plan", "--edge-chunk", "-5"]).exit_code == 2


def test_observations_are_no_state(tmp_path: Path) -> None:
    obs = xr.Dataset({"value": ("obs", [1.0])}, {"level": ("obs", [np.nan])})
    obs.to_netcdf(tmp_path / "obs.nc")
    arguments = ["verify", str(tmp_path / "obs.nc"), str(tmp_path / "obs.nc")]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, InputError)
    assert "observations, on obs" in str(result.exception)


EXAMPLES = ("cycle", "train", "experiment single-step", "experiment cycling", "experiment window")


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_of_configurations_are_complete_and_read_back(
    command: str, tmp_path: Path
) -> None:
    from xdiffda.experiments.command import example_of
    from xdiffda.train.config import TrainConfig

    kind = command.rpartition(" ")[2]
    own = {"cycle": CycleConfig, "train": TrainConfig}
    meant = own[kind].example() if kind in own else example_of(kind)
    shown = CliRunner().invoke(cli.app, [*command.split(), "--example"])
    assert shown.exit_code == 0
    for field in dataclasses.fields(meant):
        entry = rf"(?m)^(# )?{field.name} =|^\[{field.name}[\].]"
        assert re.search(entry, shown.output), f"no entry {field.name}"
    (tmp_path / "example.toml").write_text(shown.output)
    assert type(meant).read(tmp_path / "example.toml") == meant


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "made"), [("cycle", "run.zarr/zarr.json"), ("train", "forecaster/finished")]
)
def test_examples_run_on_the_sample(
    command: str, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli.app, [command, "--example"])
    Path("example.toml").write_text(shown.output)
    done = CliRunner().invoke(cli.app, [command, "example.toml"])
    assert done.exit_code == 0, done.output
    assert Path(made).exists()


def test_a_configuration_is_asked_for_and_departures_have_none() -> None:
    for command in (["cycle"], ["train"], ["experiment", "window"]):
        with pytest.raises(InputError, match=f"{' '.join(command)} --example"):
            CliRunner().invoke(cli.app, command, catch_exceptions=False)
    with pytest.raises(InputError, match="departures FILE"):
        CliRunner().invoke(
            cli.app, ["experiment", "departures", "--example"], catch_exceptions=False
        )


def test_every_option_and_argument_is_described() -> None:
    commands = typer.main.get_command(cli.app).commands
    bare = [
        f"{name} {parameter.name}"
        for name, command in commands.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert not bare
