"""The report of simulation-based calibration: what is written is what was found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from xdiffda.assimilation.calibration import simulation_based_calibration
from xdiffda.assimilation.methods import Guided
from xdiffda.errors import InputError
from xdiffda.experiments.osse import sbc
from xdiffda.priors.prior import GaussianPrior
from xdiffda.priors.registry import models_folder

pytestmark = pytest.mark.long  # hundreds of analyses


@pytest.fixture(scope="module")
def world() -> tuple[GaussianPrior, xr.Dataset]:
    noise = np.random.default_rng(0).normal(size=(20, 6, 12))
    errors = xr.Dataset(
        {"2m_temperature": (("member", "lat", "lon"), noise)},
        {"lat": np.linspace(-75, 75, 6), "lon": np.arange(12) * 30.0},
    )
    times = np.datetime64("2020-01-01", "ns") + np.arange(2) * np.timedelta64(6, "h")
    backgrounds = (errors.isel(member=[0, 1]) + 280).rename(member="time").assign_coords(time=times)
    return GaussianPrior.from_samples(errors), backgrounds


SMALL = {"n_draws": 4, "n_members": 3, "n_columns": 5, "progress": False}


@pytest.fixture(scope="module")
def found(world) -> xr.Dataset:
    return simulation_based_calibration(*world, settings={"method": Guided(n_steps=3)}, **SMALL)


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


def test_the_gaussian_with_the_model_s_b_stands_beside_the_model(
    world, found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the prior without a network that is drawn from and assimilated with."""
    prior, backgrounds = world
    monkeypatch.setattr(sbc, "load_model", lambda name: SimpleNamespace(gaussian=lambda: prior))
    monkeypatch.setattr(sbc, "open_sample", lambda name: backgrounds)
    monkeypatch.setattr(sbc, "weights_digest", lambda name: "0" * 16)
    (tmp_path / sbc.FILE).write_text('{"that of the model": {}}')
    text = sbc.sbc(out=str(tmp_path), prior="gaussian", n_steps=3, **SMALL)
    first, name = written = json.loads((tmp_path / sbc.FILE).read_text())
    assert first == "that of the model"
    assert name == "Gaussian prior, 5 columns, warm start, 3 evaluations, V exact"
    assert f"**{name}**" in text
    report = written[name]
    assert report["settings"]["covariance"] == "climatological" and report["weights"] == "0" * 16
    assert [own["ks_p"] for own in report["functions"].values()] == pytest.approx(
        found["ks_p"].values.tolist(), abs=1e-4
    )
    with pytest.raises(InputError, match="prior='Gauss'; needed 'model' or 'gaussian'"):
        sbc.calibrate(prior="Gauss")


def test_the_bundled_report_is_complete_and_says_whether_it_is_uniform() -> None:
    reports = json.loads((models_folder() / "speedy" / sbc.FILE).read_text())
    for report in reports.values():
        assert re.fullmatch("[0-9a-f]{16}", report["weights"])
        assert report["settings"]["n_draws"] >= 60 and report["settings"]["seed"] == 0
        counts = [sum(own["count"]) for own in report["functions"].values()]
        assert set(counts) == {report["settings"]["n_draws"]}
        assert report["uniform"] == int(report["smallest_p"] > 0.01)
