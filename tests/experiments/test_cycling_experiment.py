"""Experiment 2: every method from one background, one command, resumed, one table and figure."""

from __future__ import annotations

from pathlib import Path

import cycle_world as world
import numpy as np
import pytest
import xarray as xr

from xdiffda.cycling.plan import prior_digest
from xdiffda.errors import InputError
from xdiffda.experiments import cycling
from xdiffda.experiments.cycling import CyclingConfig, runs_of
from xdiffda.experiments.cycling_results import about, figure, largest, table

pytestmark = pytest.mark.long  # a whole experiment

CHOICES = {
    "background": "12h",
    "n_cycles": 5,
    "columns": (20,),
    "error_std": world.ERRORS,
    "seed": 3,
    "methods": {
        "3D-Var": {"method": "3dvar", "background_error": 0.3},
        "LETKF (8)": {"method": "letkf", "n_members": 8, "carry": "ensemble"},
    },
}


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
        ("3D-Var", "fixed"),
        ("LETKF (8)", "fixed"),
        ("3D-Var", "changing"),
        ("LETKF (8)", "changing"),
    ]
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
    whole = np.asarray(store["normalized_error"].sel(state="analysis"))  # all within 10 days
    assert float(row[7]) == pytest.approx(whole.max(), rel=5e-3) and whole.max() > whole.min()
    assert row[11].strip() == "-"  # one state has no spread
    made_by = f"prior turning world {prior_digest(options['prior'])}, forecaster _drifting"
    assert f"seed {config.seed}, {made_by}, xdiffda" in about(config, stores)
    far = xr.DataArray([1.0, 1.0, 10.0], {"state": ["background", "analysis", "free_run"]})
    drawn = figure(
        {
            own: ds.assign(normalized_error=ds["normalized_error"] * far)
            for own, ds in stores.items()
        }
    )
    shown = [ax for ax in drawn.axes if ax.lines]
    assert [ax.get_title() for ax in shown] == [
        "20 columns, fixed sites",
        "20 columns, changing sites",
    ]
    for ax in shown:
        free = np.asarray(next(x for x in ax.lines if x.get_label() == "free run").get_ydata())
        assert ax.get_ylim()[0] < free.min() and free.max() < ax.get_ylim()[1]


def test_largest_error_is_that_of_the_last_ten_days() -> None:
    time = np.datetime64("2020-01-01", "ns") + np.arange(60) * np.timedelta64(6, "h")
    error = np.full((1, 60), 0.5)
    error[0, [19, 20, 59]] = 9.0, 0.8, 0.6  # 10 days before the end, the next, the last
    ds = xr.Dataset(
        {"normalized_error": (("state", "time"), error)}, {"state": ["analysis"], "time": time}
    )
    assert float(largest(ds)) == 0.8
    ds["normalized_error"][0, 40] = np.nan  # a run that broke
    assert np.isnan(float(largest(ds)))


def test_a_file_says_the_same_and_all_its_errors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cycling.toml"
    path.write_text("""
    truth = "truth.zarr"
    out = "out"
    columns = [5, 416]
    networks = ["fixed", "changing"]
    [relaxation]
    climatology = "climatology.nc"
    hours = 8
    power = 3
    [methods.guided]
    columns = [416]
    [methods.LETKF]
    method = "letkf"
    networks = ["fixed"]
    carry = "ensemble"
    n_members = 20
    """)
    config = CyclingConfig.read(path)
    assert [(r.columns, r.store) for r in runs_of(config)] == [
        (5, "letkf-5-fixed.zarr"),
        (416, "guided-416-fixed.zarr"),
        (416, "letkf-416-fixed.zarr"),
        (416, "guided-416-changing.zarr"),
    ]
    assert config.relaxation is not None
    assert (config.relaxation.hours, config.relaxation.power) == (8.0, 3.0)
    path.write_text("""
    truth = "truth.zarr"
    out = "out"
    networks = ["floating"]
    figure_format = "jpeg"
    [methods.guided]
    carry = "nothing"
    n_step = 8
    [methods."3D-Var"]
    networks = ["anchored"]
    """)
    with pytest.raises(InputError, match="(?s)floating.*anchored.*jpeg.*png, svg, pdf") as error:
        CyclingConfig.read(path)
    assert "guided.n_step" in str(error.value)
