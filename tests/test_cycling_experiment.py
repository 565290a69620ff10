"""Experiment 2: every method from one background, one command, resumed, one table and figure."""

from __future__ import annotations

from pathlib import Path

import cycle_world as world
import numpy as np
import pytest

from xdiffda.errors import InputError
from xdiffda.experiments import cycling
from xdiffda.experiments.cycling import CyclingConfig, runs_of
from xdiffda.experiments.cycling_results import about, figure, table

CHOICES = {
    "background": "12h", "n_cycles": 5, "columns": (20,), "error_std": world.ERRORS, "seed": 3,
    "methods": {
        "3D-Var": {"method": "3dvar", "background_error": 0.3},
        "LETKF (8)": {"method": "letkf", "n_members": 8, "carry": "ensemble"},
    },
}  # fmt: skip


def _drifting(ds):
    """The world turns, and the forecaster adds half a degree everywhere."""
    return world.forecaster(ds) + 0.5


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("cycling")
    config = CyclingConfig(truth="given", out=str(out), **CHOICES)
    truth, _ = world.make_states(10)
    options = {"prior": world.make_prior(), "truth": truth, "forecaster": _drifting}
    return config, options, cycling.run(config, progress=False, **options)


def test_all_methods_start_alike_and_beat_the_free_run(found) -> None:
    _, _, stores = found
    assert [(own.name, own.network) for own in stores] == [
        ("3D-Var", "fixed"), ("LETKF (8)", "fixed"), ("3D-Var", "changing"),
        ("LETKF (8)", "changing"),
    ]  # fmt: skip
    first = [float(ds["normalized_error"].sel(state="background")[0]) for ds in stores.values()]
    np.testing.assert_allclose(first, first[0], rtol=1e-4)  # members keep the mean
    for own, ds in stores.items():
        error = ds["normalized_error"]
        assert ds.sizes["time"] == 5
        if own.name == "3D-Var":
            assert error.sel(state="analysis")[-1] < 0.6 * error.sel(state="free_run")[-1]
        else:
            assert float(ds["score_temperature"].sel(state="analysis", score="spread")[-1, 0]) > 0


def test_it_resumes_and_says_what_it_found(found, tmp_path: Path) -> None:
    config, options, stores = found
    again = cycling.run(config, progress=False, **options)
    for own, ds in stores.items():
        np.testing.assert_array_equal(again[own]["temperature"], ds["temperature"])
    text = table(stores)
    assert text.count("\n") == 6 and "temperature 500 hPa (K)" in text
    row = next(line for line in text.splitlines() if "changing | 3D-Var" in line).split("|")
    store = next(ds for own, ds in stores.items() if own.store == "3d-var-20-changing.zarr")
    assert float(row[5]) == pytest.approx(float(store["normalized_error"][0, 0]), rel=5e-3)
    assert row[10].strip() == "-"  # one state has no spread
    assert f"seed {config.seed}, xdiffda" in about(config, stores)
    drawn = figure(stores)
    assert [ax.get_title() for ax in drawn.axes if ax.lines] == [
        "20 columns, fixed sites", "20 columns, changing sites",
    ]  # fmt: skip


def test_a_file_says_the_same_and_all_its_errors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cycling.toml"
    path.write_text("""
    truth = "truth.zarr"
    out = "out"
    columns = [5, 416]
    networks = ["fixed"]
    [relaxation]
    climatology = "climatology.nc"
    hours = 8
    power = 3
    [methods.guided]
    columns = [416]
    [methods.LETKF]
    method = "letkf"
    carry = "ensemble"
    n_members = 20
    """)
    config = CyclingConfig.read(path)
    assert [(r.columns, r.store) for r in runs_of(config)] == [
        (5, "letkf-5-fixed.zarr"), (416, "guided-416-fixed.zarr"), (416, "letkf-416-fixed.zarr"),
    ]  # fmt: skip
    assert (config.relaxation.hours, config.relaxation.power) == (8.0, 3.0)
    path.write_text("""
    truth = "truth.zarr"
    out = "out"
    networks = ["floating"]
    [methods.guided]
    carry = "nothing"
    n_step = 8
    """)
    with pytest.raises(InputError, match="(?s)floating.*") as error:
        CyclingConfig.read(path)
    assert "guided.n_step" in str(error.value)
