"""The command line on real files: results, and what is left when something goes wrong."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from file_server import serve
from typer.testing import CliRunner

import xdiffda
from xdiffda import cli
from xdiffda.observations import to_tidy
from xdiffda.priors.published import RELEASES
from xdiffda.state.clock import read_clock
from xdiffda.storage.files import open_dataset


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Background and truth as netCDF, 40 columns of observations as netCDF and as csv."""
    folder = tmp_path_factory.mktemp("files")
    truth = xdiffda.open_sample("truth").isel(time=4).load()
    xdiffda.open_sample("background").isel(time=4).to_netcdf(folder / "background.nc")
    truth.to_netcdf(folder / "truth.nc")
    obs = to_tidy(truth.diffda.emulate_obs(n_columns=40, seed=1))
    obs.to_netcdf(folder / "obs.nc")
    obs.to_dataframe().reset_index(drop=True).to_csv(folder / "obs.csv", index=False)
    return folder


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Call the entry point as the shell does and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["xdiffda", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def _rmse(one: xr.Dataset, other: xr.Dataset, name: str) -> float:
    weight = np.cos(np.deg2rad(other.lat))
    square = ((one[name].mean("member") if "member" in one.dims else one[name]) - other[name]) ** 2
    return float(np.sqrt(square.weighted(weight).mean()))


@pytest.mark.long  # six analyses
def test_demo_of_real_reports_comes_closer_to_stations_it_did_not_see(tmp_path: Path) -> None:
    found = CliRunner().invoke(
        cli.app, ["demo", "--real", "--members", "4", "--out", str(tmp_path)]
    )
    assert found.exit_code == 0, found.output
    assert "Prior: reference" in found.output and "45 SYNOP reports" in found.output
    said = re.search(r"forecast ([0-9.]+) K, analysis ([0-9.]+) K", found.output)
    assert said and float(said[1]) == pytest.approx(1.18, abs=0.03)  # data/README of shared
    assert float(said[2]) < 0.9 * float(said[1])
    assert xr.open_dataset(tmp_path / "analysis.nc").sizes["member"] == 4
    assert (tmp_path / "analysis.png").stat().st_size > 10_000


def test_demo_is_better_than_its_background(tmp_path: Path) -> None:
    out = tmp_path / "new folder"
    result = CliRunner().invoke(
        cli.app, ["demo", "--members", "2", "--columns", "200", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "200 columns observed" in result.output
    row = re.search(r"geopotential 500 \(m2 s-2\)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)", result.output)
    background, interpolated, analysis, spread = map(float, row.groups())
    assert analysis < background and spread > 0 and interpolated > 0
    gain = re.search(r"over all variables and levels: (-?\d+) % below", result.output)
    assert int(gain[1]) > 0
    written = open_dataset(out / "analysis.zarr")
    assert written.sizes["member"] == 2
    assert (out / "analysis.png").stat().st_size > 50_000
    truth = xdiffda.open_sample("truth").isel(time=8)
    assert _rmse(written.sel(level=500), truth.sel(level=500), "geopotential") == pytest.approx(
        analysis, rel=0.01
    )


@pytest.mark.parametrize("obs", ["obs.nc", "obs.csv"])
def test_assimilate_reads_files_and_writes_a_better_state(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    obs: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / ("analysis.zarr" if obs == "obs.nc" else "analysis.nc")
    status = _run(
        monkeypatch,
        "assimilate",
        files / "background.nc",
        files / obs,
        "-o",
        out,
        "--method",
        "3dvar",
        "--members",
        "1",
    )
    captured = capsys.readouterr()
    assert status == 0, captured.err
    analysis, truth = open_dataset(out), open_dataset(files / "truth.nc")
    background = open_dataset(files / "background.nc")
    assert _rmse(analysis, truth, "2m_temperature") < _rmse(background, truth, "2m_temperature")
    assert "member" in captured.out

    assert (
        _run(
            monkeypatch, "verify", out, files / "truth.nc", "--background", files / "background.nc"
        )
        == 0
    )
    table = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert float(lines["analysis"][0]) < float(lines["background"][0])


@pytest.mark.long
def test_a_file_on_another_grid_takes_the_reference_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path(xdiffda.__file__).parent / "sample_data" / "real"
    out = tmp_path / "a.nc"
    given = (real / "forecast.nc", real / "reports.csv", "-o", out, "--members", 2)
    assert _run(monkeypatch, "assimilate", *given) == 0
    analysis = open_dataset(out)
    assert analysis.attrs["xdiffda_model"].startswith("reference")
    assert analysis.sizes["member"] == 2
    # of several times into a store, by the same rule
    one = open_dataset(real / "forecast.nc").load()
    steps = np.array([0, 24]) * np.timedelta64(1, "h")
    valid = one.drop_vars(["time", "step", "valid_time"])
    two = xr.concat([valid.assign_coords(time=one.valid_time.values + s) for s in steps], "time")
    two.to_netcdf(tmp_path / "two.nc")
    reports = xdiffda.read_obs(real / "reports.csv")
    later = reports.assign_coords(time=reports.time + np.timedelta64(24, "h"))
    xdiffda.write_dataset(xr.concat([reports, later], "obs"), tmp_path / "obs.nc")
    given = (tmp_path / "two.nc", tmp_path / "obs.nc", "-o", tmp_path / "a.zarr", "--members", 2)
    assert _run(monkeypatch, "assimilate", *given) == 0
    assert xdiffda.open_analyses(tmp_path / "a.zarr").sizes["time"] == 2


def test_csv_and_netcdf_observations_mean_the_same(files: Path) -> None:
    a, b = to_tidy(cli._open_obs(files / "obs.csv")), to_tidy(cli._open_obs(files / "obs.nc"))
    assert a.sizes == b.sizes
    for name in ("value", "error_std", "lat", "lon", "level"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-9)


def test_earlier_states_reach_the_model(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Conditioned:
        def given(self, states: xr.Dataset) -> xr.Dataset:
            return states

    def analyse(background: xr.Dataset, obs: xr.Dataset, *, model: xr.Dataset, **settings: object):
        xr.testing.assert_identical(model.load(), open_dataset(files / "truth.nc").load())
        return background.expand_dims("member")

    arguments = (
        "assimilate",
        files / "background.nc",
        files / "obs.nc",
        "-o",
        tmp_path / "a.nc",
        "--previous",
        files / "truth.nc",
    )
    assert _run(monkeypatch, *arguments) == 2
    assert "speedy, which takes no earlier states" in capsys.readouterr().err
    monkeypatch.setattr(xdiffda, "load_model", lambda name: Conditioned())
    monkeypatch.setattr(xdiffda, "assimilate", analyse)
    assert _run(monkeypatch, *arguments, "--model", "gencast-1p0-mini") == 0


def test_what_exists_is_not_overwritten(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis.nc"
    out.write_text("precious")
    monkeypatch.setattr(xdiffda, "assimilate", _never)
    status = _run(monkeypatch, "assimilate", files / "background.nc", files / "obs.nc", "-o", out)
    message = capsys.readouterr().err
    assert status == 2
    assert "exists already" in message and "overwrite" in message
    assert "Traceback" not in message
    assert out.read_text() == "precious"


def _never(*arguments: object, **settings: object) -> None:
    raise AssertionError("worked before it looked at the target")


@pytest.mark.parametrize("absent", ["background", "obs", "csv", "folder"])
def test_a_missing_file_is_named_without_a_traceback(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    absent: str,
) -> None:
    background = files / ("backgruond.nc" if absent == "background" else "background.nc")
    obs = files / {"obs": "obbs.nc", "csv": "obbs.csv"}.get(absent, "obs.nc")
    out = tmp_path / ("no/analysis.nc" if absent == "folder" else "analysis.nc")
    status = _run(monkeypatch, "assimilate", background, obs, "-o", out)
    message = capsys.readouterr().err
    assert status == 2
    expected = {
        "background": "background.nc",
        "obs": "obs.nc",
        "csv": "obbs.csv",
        "folder": "mkdir -p",
    }[absent]
    assert expected in message and "Traceback" not in message
    assert not out.exists()


@pytest.mark.parametrize("name", ["analysis.zarr", "analysis.nc"])
def test_an_interrupt_leaves_the_earlier_output(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    out = tmp_path / name
    earlier = xr.Dataset({"a": ("x", [1.0, 2.0])})
    earlier.to_zarr(out) if name.endswith("zarr") else earlier.to_netcdf(out)

    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(xdiffda, "assimilate", interrupted)
    status = _run(
        monkeypatch,
        "assimilate",
        files / "background.nc",
        files / "obs.nc",
        "-o",
        out,
        "--overwrite",
    )
    assert status == 130
    message = capsys.readouterr().err
    assert "run the same command again" in message and "Traceback" not in message
    assert open_dataset(out)["a"].values.tolist() == [1.0, 2.0]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_models_and_help(tmp_path: Path) -> None:
    with xdiffda.set_options(cache_dir=tmp_path, mirror=""):
        result = CliRunner().invoke(cli.app, ["models"])
    assert result.exit_code == 0 and result.output.startswith("speedy: ")
    assert "parameters; Apache-2.0" in result.output
    lines = {line.split(":")[0]: line for line in result.output.splitlines()}
    assert "MB, bundled" in lines["speedy"]
    assert "230 MB, not here" in lines["gencast-1p0-mini"]
    assert "CC BY 4.0" in lines["graphcast-0p25"]
    rows = json.loads(CliRunner().invoke(cli.app, ["models", "--json"]).output)
    assert rows[0]["model"] == "speedy" and {row["model"] for row in rows} == set(lines)
    shown = CliRunner().invoke(cli.app, ["--help"]).output
    for command in ("demo", "assimilate", "verify", "models", "fetch", "plan", "train"):
        assert command in shown


def test_fetch_downloads_and_names_near_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve({key: key.encode() for key in RELEASES["gencast-1p0"].objects.values()}) as server:
        out = ("--mirror", server.address, "--out", tmp_path)
        assert _run(monkeypatch, "fetch", "gencast-1p0", *out) == 0
        assert _run(monkeypatch, "fetch", "gencast-1p", *out) == 2
    shown = capsys.readouterr()
    assert shown.out.count(" MB  ") == 5 and str(tmp_path / "gencast/params") in shown.out
    assert "did you mean gencast-1p0" in shown.err and "Traceback" not in shown.err


def test_plan_prints_estimates(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    wanted = ["--grid", "0.25", "--members", "50", "--obs", "1e6", "--devices", "4"]
    assert _run(monkeypatch, "plan", *wanted) == 0
    out = capsys.readouterr().out
    for word in ("memory", "time", "storage", "4 x H100", "analysis of 50 members"):
        assert word in out
    assert _run(monkeypatch, "plan", "--grid", "speedy", "--device", "cpu") == 0
    assert "32 x 64" in capsys.readouterr().out
    assert _run(monkeypatch, "plan", "--grid", "fine") == 2
    assert "grid='fine'" in capsys.readouterr().err


def test_a_wrong_option_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "demo", "--member", "2") == 2
    message = capsys.readouterr().err
    assert "--member" in message and "Traceback" not in message


def test_train_names_what_is_wrong_with_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.toml").write_text('task = "guess"\nout = "o"\ndata = "d"\nsteps = 0')
    assert _run(monkeypatch, "train", tmp_path / "train.toml") == 2
    message = capsys.readouterr().err
    assert "task = 'guess'" in message and "steps = 0" in message


@pytest.mark.long
def test_many_times_go_into_a_store_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    background = xdiffda.open_sample("background").isel(time=slice(2))
    obs = xdiffda.open_sample("truth").isel(time=slice(2)).diffda.emulate_obs(n_columns=20)
    xdiffda.write_dataset(background, tmp_path / "background.zarr")
    xdiffda.write_dataset(obs, tmp_path / "obs.nc")
    command = [
        "assimilate",
        tmp_path / "background.zarr",
        tmp_path / "obs.nc",
        "--method",
        "3dvar",
        "-o",
        tmp_path / "out.zarr",
    ]
    assert _run(monkeypatch, *command) == 0
    whole = xdiffda.open_analyses(tmp_path / "out.zarr").load()
    assert whole.sizes["time"] == 2 and "2 times, 1 members" in capsys.readouterr().out
    (tmp_path / "out.zarr" / "complete" / "c" / "1").unlink()
    assert xdiffda.open_analyses(tmp_path / "out.zarr").sizes["time"] == 1
    assert _run(monkeypatch, *command) == 0
    xr.testing.assert_identical(xdiffda.open_analyses(tmp_path / "out.zarr").load(), whole)
    assert _run(monkeypatch, *command, "--seed", "5") == 2
    message = capsys.readouterr().err
    assert "seed = 0" in message and "left as it is" in message and "Traceback" not in message


# ------------------------------------------------------------------ repairs are options


def _said_options(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The options of the first repair that was printed, as the shell would split them."""
    text = capsys.readouterr().err
    found = re.search(r"repair: `xdiffda \w+(?: \.\.\.)? (--[^`]*)`", text)
    assert found, text
    return shlex.split(found[1], comments=True)


@pytest.mark.long
def test_clocks_are_repaired_by_options(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, truth = open_dataset(files / "background.nc").load(), open_dataset(files / "truth.nc")
    day = np.timedelta64(24, "h")
    moons = plain.assign_coords(time=((), 3, {"units": "moons since the flood"}))
    bare_lead = plain.assign_coords(time=plain.time - day, step=24)
    other = plain.rename(time="valid_date")
    for i, ds in enumerate([moons, bare_lead, other]):
        path, out = tmp_path / f"b{i}.nc", tmp_path / f"a{i}.nc"
        ds.to_netcdf(path)
        base = ("assimilate", path, files / "obs.nc", "-o", out, "--method", "3dvar")
        assert _run(monkeypatch, *base, "--members", 1) == 2
        options = _said_options(capsys)
        if "YYYY" in options[-1]:  # what the user alone knows
            options[-1] = np.datetime_as_string(truth.time.values, "h")
        assert _run(monkeypatch, *base, "--members", 1, *options) == 0
        assert (read_clock(open_dataset(out)).checked("analysis") == truth.time.values).all()
        assert _run(monkeypatch, "verify", path, files / "truth.nc") == 2
        capsys.readouterr()
        assert _run(monkeypatch, "verify", path, files / "truth.nc", *options) == 0


def test_repairs_that_are_arguments_are_options() -> None:
    from xdiffda.errors import InputError, Problem, StorageError

    def said(repair: str, command: str = "assimilate") -> str:
        text = cli.message(InputError([Problem("a", "b", repair)], what="c"), command)
        return text.split("repair: ")[1]

    assert said('xdiffda.plan(n_steps=8, dtype="bfloat16")', "plan") == (
        "`xdiffda plan --steps 8 --dtype bfloat16`"
    )
    assert said('ds.diffda.assimilate(obs, n_members=4, method="3dvar")') == (
        "`xdiffda assimilate ... --members 4 --method 3dvar`"
    )
    assert said("xdiffda.assimilate(background, obs, method=xdiffda.Guided(n_steps=4))") == (
        "`xdiffda assimilate ... --method guided --steps 4`"
    )
    for python in ('ds.rename(tk="t")', "assimilate(background, obs, quality=None)"):
        assert said(python).startswith(f"`{python}`") and "made in Python" in said(python)
    exists = StorageError("a.nc exists already; repair: `overwrite=True`, or another name")
    assert cli.message(exists, "assimilate").endswith("... --overwrite`, or another name")
    assert cli.message(exists, "verify") == str(exists)
