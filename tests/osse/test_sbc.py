"""The report of simulation-based calibration: what is written is what was found."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr

from xdiffda.calibration import simulation_based_calibration
from xdiffda.osse import sbc
from xdiffda.prior import GaussianPrior
from xdiffda.registry import models_folder


@pytest.fixture(scope="module")
def found() -> xr.Dataset:
    noise = np.random.default_rng(0).normal(size=(20, 6, 12))
    errors = xr.Dataset(
        {"2m_temperature": (("member", "lat", "lon"), noise)},
        {"lat": np.linspace(-75, 75, 6), "lon": np.arange(12) * 30.0},
    )
    times = np.datetime64("2020-01-01", "ns") + np.arange(2) * np.timedelta64(6, "h")
    backgrounds = (errors.isel(member=[0, 1]) + 280).rename(member="time").assign_coords(time=times)
    return simulation_based_calibration(
        GaussianPrior.from_samples(errors), backgrounds, n_draws=4, n_members=3, n_columns=5,
        settings={"n_steps": 3}, progress=False,
    )  # fmt: skip


def test_the_report_holds_ranks_tests_seed_and_versions(found) -> None:
    settings = {"n_columns": 5, "start": "warm", "n_steps": 3, "n_draws": 4, "n_members": 3}
    report = json.loads(json.dumps(sbc.as_report(found, settings | {"seed": 0})))
    assert set(report["versions"]) == {"xdiffda", "jax", "equinox", "numpy"}
    for name, own in report["functions"].items():
        assert sum(own["count"]) == 4
        assert own["ks_p"] == pytest.approx(float(found["ks_p"].sel(function=name)), abs=1e-4)
    # exact for a Gaussian prior but for few truths: 4 of some 5 observations each
    assert 0.3 < report["misfit_ratio"] < 3
    text = sbc.markdown({"one": report})
    assert text.count("\n| ") == 2 + len(report["functions"]) and "4 truths, 3 members" in text
    drawn = sbc.figure(report)
    assert drawn.axes[0].get_title().startswith("t2m,")


def test_the_bundled_report_is_complete_and_says_whether_it_is_uniform() -> None:
    reports = json.loads((models_folder() / "speedy" / sbc.FILE).read_text())
    for report in reports.values():
        assert re.fullmatch("[0-9a-f]{16}", report["weights"])
        assert report["settings"]["n_draws"] >= 60 and report["settings"]["seed"] == 0
        counts = [sum(own["count"]) for own in report["functions"].values()]
        assert set(counts) == {report["settings"]["n_draws"]}
        assert report["uniform"] == int(report["smallest_p"] > 0.01)
