"""Experiments on small worlds of which the answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import experiment_world as world
import numpy as np
import pytest
import xarray as xr
from cycle_world import SCALE

from xdiffda.assimilation.methods import RePaint
from xdiffda.diffusion.posterior import Guidance
from xdiffda.errors import InputError
from xdiffda.experiments import (
    ExperimentConfig,
    Method,
    command,
    figures,
    measure,
    results,
    run,
    tables,
)
from xdiffda.experiments.runner import Task
from xdiffda.experiments.world import open_world
from xdiffda.verify import lead_time_loss

pytestmark = pytest.mark.long  # whole experiments


@pytest.fixture(scope="module")
def pieces() -> dict:
    return world.pieces()


@pytest.fixture(scope="module")
def done(pieces: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    """A finished lead-time experiment, and its folder."""
    out = tmp_path_factory.mktemp("experiment")
    return run("lead-time", world.config(out), progress=False, **pieces), out


# ---- what must come out ----------------------------------------------------------------


def test_a_background_has_lost_its_age(done: tuple[xr.Dataset, Path]) -> None:
    """This forecaster errs in the same way at all times: the loss is exact."""
    found = results.background_losses(done[0])
    np.testing.assert_allclose(found["temperature"], 24.0, atol=1e-3)
    np.testing.assert_allclose(found["2m_temperature"], 24.0, atol=1e-3)


def test_a_perfect_analysis_has_lost_nothing_and_has_no_shock(pieces: dict, tmp_path: Path) -> None:
    here = open_world(world.config(tmp_path), **pieces)
    case = measure.open_case(here, here.times[0], "48h")
    truth, reference = case.truths[:1], measure.reference_record(here, case)
    own = measure.analysis_record(here, case, truth)
    assert own["squared"] == [0.0] * 3
    assert own["tendency"] == reference["truth_tendency"]
    assert own["spectrum"] == reference["truth_spectrum"]
    errors = measure.forecast_record(here, case, truth)["forecast_squared"]
    assert errors[0] == errors[1] == reference["truth_forecast_squared"][:3]
    leads = np.arange(9) * np.timedelta64(6, "h")

    def curve(squares: list) -> xr.Dataset:
        field = (("score", "lead_time", "level"), np.sqrt(squares)[None])
        return xr.Dataset({"t": field}, {"score": ["rmse"], "lead_time": leads[: len(squares)]})

    loss = lead_time_loss(curve(errors[0]), curve(reference["truth_forecast_squared"]))
    np.testing.assert_allclose(loss["t"], 0.0, atol=1e-6)


def test_reference_errors_grow_from_zero(done: tuple[xr.Dataset, Path]) -> None:
    curve = done[0]["truth_forecast_squared"]
    assert float(curve.isel(reference_lead_time=0).max()) == 0.0
    assert (curve.diff("reference_lead_time") > 0).all()
    assert done[0]["forecast_squared"].dims[3:] == ("start", "lead_time", "channel")
    first = done[0]["forecast_squared"].sel(start="mean").isel(lead_time=0)
    np.testing.assert_allclose(first, done[0]["squared"], rtol=1e-5)  # lead time 0: the analysis


def test_errors_fall_with_columns_where_b_is_right(tmp_path: Path) -> None:
    """Errors drawn from B: more columns of the same world cannot hurt on average."""
    given, background = world.drawn_pieces(tmp_path)
    config = world.config(
        tmp_path,
        background=background,
        columns=(4, 32, 128),
        n_cases=4,
        reference_lead="6h",
        forecast_lead="6h",
    )
    ds = run("single-step", config, progress=False, **given)
    ratio = np.sqrt(
        ds["squared"].mean(("case", "channel")) / ds["background_squared"].mean(("case", "channel"))
    )
    values = ratio.sel(scheme="3D-Var").values
    assert (np.diff(values) < 0).all()
    assert values[0] < 1
    assert values[-1] < 0.25  # observed everywhere, with errors of a quarter of B's and B's help
    assert "forecast_squared" not in ds


def test_letkf_where_the_background_has_members(tmp_path: Path) -> None:
    given, background = world.drawn_pieces(tmp_path, n_times=2, n_member=12)
    methods = {"LETKF": {"method": "letkf"}, **world.METHODS}
    config = world.config(
        tmp_path,
        background=background,
        columns=(100,),
        n_cases=2,
        reference_lead="6h",
        forecast_lead="6h",
        methods=methods,
    )
    ds = run("single-step", config, progress=False, **given)
    assert (ds["members"].sel(scheme="LETKF") == 12).all()
    assert (ds["members"].sel(scheme="3D-Var") == 1).all()
    # the background is the mean of its members for both: truth off by sqrt(1 + 1/12) s
    base = ds["background_squared"].mean() / np.mean(np.square(SCALE))
    assert 0.7 < float(base) < 1.5
    assert (ds["squared"].mean(("case", "channel")) < 0.5 * ds["background_squared"].mean()).all()


def test_observations_are_nested_and_the_same_for_all_methods(pieces: dict, tmp_path: Path) -> None:
    here = open_world(world.config(tmp_path), **pieces)
    truth = here.true(here.times[:1])[0]
    few, many = (here.observe(truth, here.times[0], n) for n in (8, 40))
    assert set(few.station.values) < set(many.station.values)
    shared = many.sel(station=few.station) if "station" in many.indexes else many
    np.testing.assert_array_equal(shared["2m_temperature"], few["2m_temperature"])


def test_a_quarter_is_a_quarter_of_the_background_error(pieces: dict, tmp_path: Path) -> None:
    here = open_world(world.config(tmp_path, error_std="quarter"), **pieces)
    obs = here.observe(here.true(here.times[:1])[0], here.times[0], 8)
    np.testing.assert_allclose(obs["2m_temperature_error_std"], 0.5)  # of 2 K
    np.testing.assert_allclose(obs["temperature_error_std"].sel(level=850), 0.45)


# ---- records ---------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    done: tuple[xr.Dataset, Path], pieces: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = measure.timed_analysis, [4]

    def until(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(measure, "timed_analysis", until)
    with pytest.raises(KeyboardInterrupt):
        run("lead-time", world.config(tmp_path), progress=False, **pieces)
    ledger = tmp_path / "records.jsonl"
    with ledger.open("a") as file:
        file.write('{"key": "torn by a ki')
    left[0] = 100
    found = run("lead-time", world.config(tmp_path), progress=False, **pieces)
    assert left[0] == 100 - 2  # of six, four were there
    xr.testing.assert_identical(
        found.drop_vars("seconds").drop_attrs(), done[0].drop_vars("seconds").drop_attrs()
    )
    assert all(json.loads(line) for line in ledger.read_text().splitlines())
    kept, scores = ledger.read_bytes(), (tmp_path / "lead-time.nc").read_bytes()
    left[0] = 0  # nothing is left to be done, for fewer columns and without forecasts either
    run("lead-time", world.config(tmp_path), progress=False, **pieces)
    run("single-step", world.config(tmp_path, columns=(40,)), progress=False, **pieces)
    assert ledger.read_bytes() == kept
    assert (tmp_path / "lead-time.nc").read_bytes() == scores


def test_other_settings_under_the_same_name_are_run_again(
    done: tuple[xr.Dataset, Path], pieces: dict
) -> None:
    ds, out = done
    other = {"3D-Var": {"method": "3dvar", "background_error": 0.1}}
    found = run("lead-time", world.config(out, methods=other), progress=False, **pieces)
    assert (found["squared"] != ds["squared"]).any("channel").all()
    seeds = run("lead-time", world.config(out, seed=5), progress=False, **pieces)
    assert (seeds["squared"] != ds["squared"]).any("channel").all()
    xr.testing.assert_equal(seeds["truth_forecast_squared"], ds["truth_forecast_squared"])


def test_a_costly_method_is_compared_at_its_own_cases(
    done: tuple[xr.Dataset, Path], pieces: dict
) -> None:
    out = done[1]
    usual = world.METHODS["3D-Var"]
    methods = {
        "3D-Var": usual,
        "seldom": {**usual, "quality": {"gross_check": 9.0}, "n_cases": 2, "columns": (40,)},
    }
    found = run("lead-time", world.config(out, methods=methods), progress=False, **pieces)
    assert results.cases_of(found).sel(scheme="seldom").sum("case").values.tolist() == [0, 2]
    assert "seldom" not in results.balance_ratios(found, 8)
    # no observation is grossly wrong: the same analyses at cases 0 and 2
    here = found["squared"].sel(columns=40)
    np.testing.assert_array_equal(
        here.sel(scheme="seldom")[[0, 2]], here.sel(scheme="3D-Var")[[0, 2]]
    )
    some = found.isel(case=[0, 2])
    lost, same = results.losses(found)["seldom"][40], results.losses(some)["3D-Var"][40]
    xr.testing.assert_allclose(lost, same)
    for text in (tables.analysis_table(found), tables.loss_table(found, lead_time=12)):
        rows = text.splitlines()
        assert [row.rsplit("|", 2)[1].strip() for row in rows[2:]] == ["3", "3", "2"]


def test_records_of_another_sampler_are_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[tuple]:
        methods = (Method(), Method(method="3dvar"))
        return [Task(np.datetime64("2020-01-15T12"), 8, "m", m).of("analysis") for m in methods]

    guided, variational = keys()
    monkeypatch.setattr(Guidance, "version", property(lambda self: "another"))
    assert keys()[0] != guided
    assert keys()[1] == variational


def test_shock_is_that_of_the_first_six_hours(done: tuple[xr.Dataset, Path]) -> None:
    ds = done[0]
    expected = np.sqrt(ds["tendency"].mean("case") / ds["truth_tendency"].mean("case")) - 1
    xr.testing.assert_allclose(results.shock(ds), expected.transpose("columns", "scheme", ...))
    ratio = results.balance_ratios(ds, 40)["3D-Var"]["tendency of t2m"].item()
    assert ratio - 1 == pytest.approx(expected.sel(columns=40, channel="2m_temperature").item())
    assert (results.balance_ratios(ds, 40)["truth"].to_array() == 1).all()


def test_short_waves_are_compared_with_the_truths(done: tuple[xr.Dataset, Path]) -> None:
    """Four times the variance in the upper half of the wavenumbers is twice the amplitude."""
    ds = done[0].copy()
    upper = ds["wavenumber"] >= ds.sizes["wavenumber"] // 2
    like = ds["truth_spectrum"].broadcast_like(ds["spectrum"])
    ds["spectrum"] = like.where(~upper, 4.0 * like).where(ds["spectrum"].notnull())
    card = results.balance_ratios(ds, 40)["3D-Var"]
    names = [n for n in card if str(n).startswith("short waves")]
    assert set(names) == {"short waves of t 850", "short waves of t2m"}
    for name in names:
        np.testing.assert_allclose(card[name], 2.0, rtol=1e-6)
    ds["spectrum"] = like.where(upper, 4.0 * like)  # long waves do not count
    again = results.balance_ratios(ds, 40)["3D-Var"]["short waves of t2m"]
    np.testing.assert_allclose(again, 1.0, rtol=1e-6)


def test_widths_of_the_soft_mask(pieces: dict, tmp_path: Path) -> None:
    config = world.config(
        tmp_path,
        widths=(0.5, 2.0),
        columns=(40,),
        n_cases=1,
        starts=("mean",),
        repaint=RePaint(n_levels=4, jump_length=2, resamplings=1),
        methods={"r": {"method": "repaint", "n_members": 2}},
    )
    ds = run("sigma-g", config, progress=False, **pieces)
    assert ds["scheme"].values.tolist() == ["sigma_G = 0.5", "sigma_G = 2"]
    assert (ds["evaluations"] == 4).all()
    assert (ds["members"] == 2).all()
    narrow, wide = (ds["squared"].isel(scheme=i).mean() for i in (0, 1))
    assert float(narrow) != float(wide)


# ---- configuration ---------------------------------------------------------------------


def test_toml_holds_everything(tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text("""
truth = "truth.zarr"
out = "results"
columns = [45, 416]
error_std = {temperature = {850 = 0.5}}
starts = ["mean"]
[methods.guided]
n_members = 8
[methods.RePaint]
method = "repaint"
columns = [416]
n_levels = 50
mask_sigma = 0.7
""")
    config = ExperimentConfig.read(path)
    assert config.methods["guided"] == Method(n_members=8)
    assert config.methods["RePaint"].method == RePaint(n_levels=50, mask_sigma=0.7)
    assert config.methods["RePaint"].columns == (416,)
    assert config.emulation(45, config.error_std)["error_std"] == {"temperature": {850.0: 0.5}}


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path, pieces: dict) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(
        'truth = "t"\nout = "o"\ncolumns = [0]\nstarts = ["middle"]\n'
        'forecast_lead = "5h"\nreference_lead = "1h"\n'
    )
    with pytest.raises(InputError, match=r"(?s)columns = \[0\].*middle.*forecast_lead.*reference"):
        ExperimentConfig.read(path)
    path.write_text('truth = "t"\nout = "o"\nfigure_format = "PNG"\nwidths = [0.0]\n')
    with pytest.raises(InputError, match=r"(?s)widths.*figure_format = 'PNG'.*png, svg, pdf"):
        ExperimentConfig.read(path)
    path.write_text('truth = "t"\nout = "o"\nmembers = 3\n')
    with pytest.raises(InputError, match="entry members"):
        ExperimentConfig.read(path)
    with pytest.raises(InputError, match=r"(?s)methods\.a\.steps.*methods\.b = 3"):
        world.config(tmp_path, methods={"a": {"steps": 3}, "b": 3})
    with pytest.raises(InputError, match=r"analysis times in a truth.*48h after"):
        run("lead-time", world.config(tmp_path, n_cases=30), progress=False, **pieces)
    holes = {**pieces, "truth": pieces["truth"].drop_isel(time=9)}
    with pytest.raises(InputError, match="the time 2020-01-17T18:00"):
        run("lead-time", world.config(tmp_path), progress=False, **holes)
    with pytest.raises(InputError, match=r"methods\.a\.columns with \[7\]"):
        run("lead-time", world.config(tmp_path, methods={"a": {"columns": (7,)}}), **pieces)
    with pytest.raises(InputError, match="one of single-step"):
        run("three", world.config(tmp_path), **pieces)


# ---- the command, and what it draws ----------------------------------------------------


def test_figures_show_what_was_measured(done: tuple[xr.Dataset, Path]) -> None:
    ds = done[0]
    rmse = ds["squared"].mean("case").sel(scheme="3D-Var", channel="temperature@850") ** 0.5
    ax = next(a for a in figures.error_against_columns(ds).axes if "850" in a.get_title())
    curves = {ln.get_label(): np.asarray(ln.get_ydata()) for ln in ax.lines}
    np.testing.assert_allclose(curves["3D-Var"], rmse)
    # the background is a forecast of 24 h from the truth of another time
    np.testing.assert_allclose(
        curves["background"], curves["24 h forecast from the truth"], rtol=1e-3
    )
    lost = results.losses(ds)["3D-Var"]
    ax = next(a for a in figures.lead_time_loss(ds).axes if "850" in a.get_title())
    expected = [float(lost[n]["temperature"].sel(level=850)[-1]) for n in (8, 40)]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)
    curves = {ln.get_label(): ln for ln in figures.forecast_error(ds, 40).axes[0].lines}
    assert list(curves) == ["truth", "background", "3D-Var"]
    cells = [t.get_text() for t in figures.scorecard(ds, 40).axes[0].texts]
    ratio = (ds["squared"] / ds["background_squared"].mean("case")).mean("case") ** 0.5
    assert cells[0] == f"{ratio.sel(columns=40, channel='2m_temperature').item():.2f}"


def test_ten_day_forecasts_are_shown_against_where_errors_end(
    done: tuple[xr.Dataset, Path],
) -> None:
    """The world of ``done`` is too short for another state of the season: one is put in."""
    ds = done[0]
    assert np.isnan(ds["saturation_squared"]).all()
    end = 9 * ds["truth_forecast_squared"].isel(reference_lead_time=2, drop=True)
    ds = ds.assign(saturation_squared=end)
    lines = tables.forecast_table(ds, lead_times=[6.0, 12.0]).splitlines()
    assert lines[0] == "| columns | method | 6 h | 12 h | cases |"
    assert lines[-1].split(" | ")[3] == "0.333"  # 12 h from the truth
    ends = results.saturation_rmse(ds)
    ratio = ends["climate"] / ends["another state of the season"]
    np.testing.assert_allclose(ratio["temperature"], np.sqrt(0.5))
    long = ds.assign_coords(lead_time=ds["lead_time"] * 20)
    reference = long["reference_lead_time"] * 20
    long = long.assign_coords(reference_lead_time=reference)
    ax = next(a for a in figures.forecast_error(long, 40).axes if "850" in a.get_title())
    across = {ln.get_label(): np.asarray(ln.get_ydata()) for ln in ax.lines}
    expected = float(end.sel(channel="temperature@850").mean("case")) ** 0.5
    np.testing.assert_allclose(across["another state of the season"], expected)


def test_where_errors_end_is_the_distance_of_other_weeks(tmp_path: Path) -> None:
    given = world.pieces(210)  # the world turns once in four days
    here = open_world(world.config(tmp_path), **given)
    time = given["truth"].time.values[104]
    found = measure.saturation_record(here, time)["saturation_squared"]
    x = here.true(time + np.array([0, 15, 25, -15, -25]) * np.timedelta64(1, "D"))
    weight = (here.area / here.area.sum())[:, None]
    squares = [((x[i] - x[0]) ** 2 * weight).sum(0) for i in (1, 2, 3, 4)]
    # 20 days are five turns, the same state; 30 days lie beyond this truth
    np.testing.assert_allclose(found, np.sum(squares, 0) / 6, rtol=1e-4)


def test_the_command_writes_scores_figures_and_table(
    pieces: dict, done: tuple[xr.Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("runner", "figures"):
        monkeypatch.setattr(
            f"xdiffda.experiments.{module}.open_world",
            lambda config, **_: open_world(config, **pieces),
        )
    (tmp_path / "records.jsonl").write_bytes((done[1] / "records.jsonl").read_bytes())
    path = tmp_path / "experiment.toml"
    path.write_text(f'''
truth = ""
out = "{tmp_path}"
background = "24h"
forecast_lead = "12h"
reference_lead = "48h"
columns = [8, 40]
n_cases = 3
map_columns = 8
error_std = {{2m_temperature = 0.5, temperature = 0.4}}
[methods."3D-Var"]
method = "3dvar"
background_error = 1.0
''')
    text = command.main("lead-time", path, progress=False)
    assert text == tables.tables(done[0], lead_time=12.0)
    assert text == (tmp_path / "lead-time.md").read_text()
    drawn = {p.name for p in (tmp_path / "figures").iterdir()}
    assert {"lead-time-loss.png", "lead-time-balance-40.png", "lead-time-spectra-8.png"} <= drawn
    kept = xr.load_dataset(tmp_path / "lead-time.nc", decode_timedelta=True)
    xr.testing.assert_equal(kept, done[0])
    assert json.loads(kept.attrs["config"])["seed"] == 0
    first = command.main("maps", path).split()
    stamp = (tmp_path / "maps.nc").stat().st_mtime_ns
    assert [Path(p).name for p in first] == ["maps-temperature-850.png", "maps-2m_temperature.png"]
    command.main("maps", path)
    assert (tmp_path / "maps.nc").stat().st_mtime_ns == stamp  # read, not made again
    with pytest.raises(InputError, match="one of single-step, lead-time, sigma-g, maps"):
        command.main("three", path)
