"""Experiments whose backgrounds are ensembles: how they are made, and who uses them."""

from __future__ import annotations

from pathlib import Path

import experiment_world as world
import numpy as np
import pytest
from gaussian_world import make_prior

from xdiffda.errors import InputError
from xdiffda.experiments import ExperimentConfig, run
from xdiffda.experiments.world import open_world, roll_members

START = np.datetime64("2020-01-15T12", "ns")


def _rolled(step, n_members: int = 400, **choices) -> np.ndarray:
    prior = make_prior()
    given = {"n_members": n_members, "noise": 0.3, "seed": 0, "start": START} | choices
    start, x = given.pop("start"), np.zeros_like(prior.scale, dtype=np.float32)
    return roll_members(x, start, 4, step, prior, **given) / prior.scale


def test_the_variance_of_a_linear_forecast_is_that_of_its_recursion() -> None:
    """x <- a x + noise: p <- a^2 p + noise^2 B, and the mean stays that of the one forecast."""
    members = _rolled(lambda x, time: 0.5 * x)
    expected, prior = 0.0, make_prior()
    for _ in range(4):
        expected = 0.25 * expected + 0.3**2
    variance = np.asarray(prior.covariance.variance)
    ratio = (members.var(0, ddof=1) / variance).mean() / expected
    assert ratio == pytest.approx(1.0, abs=0.05)  # 400 members, many nodes
    np.testing.assert_allclose(members.mean(0), 0.0, atol=1e-5)


def test_members_depend_on_time_and_seed_and_on_nothing_else() -> None:
    def still(x, time):
        return x

    first = _rolled(still, 3)
    np.testing.assert_array_equal(first, _rolled(still, 3))
    for other in ({"seed": 1}, {"start": START + np.timedelta64(6, "h")}):
        assert np.corrcoef(first.ravel(), _rolled(still, 3, **other).ravel())[0, 1] < 0.2


def test_the_forecaster_is_told_the_time_of_each_step() -> None:
    seen = []
    _rolled(lambda x, time: (seen.append(time), x)[1], 2)
    assert seen == [START + n * np.timedelta64(6, "h") for n in range(4)]


@pytest.mark.long
def test_methods_use_members_or_their_mean(tmp_path: Path) -> None:
    pieces, given = world.pieces(), {"background_members": 6, "background_noise": 0.5}
    exact = {"method": "3dvar", "background_error": 1.0}
    methods = {
        "mean": exact | {"ensemble": False},
        "hybrid": exact,
        "LETKF": {"method": "letkf", "background_error": 1.0},
        "interpolation": {"method": "interpolation"},
    }
    small = {"columns": (40,), "n_cases": 2, "forecast_lead": "6h", "reference_lead": "6h"}
    config = world.config(tmp_path / "a", methods=methods, **small, **given)
    ds = run("lead-time", config, progress=False, **pieces)
    assert ds["members"].isel(case=0, columns=0).values.tolist() == [1, 1, 6, 1]
    # members say how far the truth may be; single forecasts cannot
    assert (ds["background_variance"] > 0).all()
    # the world is linear and errors have no mean: the mean is the single forecast
    single = run(
        "lead-time",
        world.config(tmp_path / "b", methods={"mean": exact}, **small),
        progress=False,
        **pieces,
    )
    assert "background_variance" not in single
    for name in ("squared", "forecast_squared"):
        found = ds[name].sel(scheme="mean")
        np.testing.assert_allclose(found, single[name].sel(scheme="mean"), rtol=2e-3)
    for other in ("hybrid", "LETKF", "interpolation"):
        assert (ds["squared"].sel(scheme=other) != ds["squared"].sel(scheme="mean")).all()


def test_records_of_other_ensembles_are_not_mixed_in(tmp_path: Path) -> None:
    pieces = world.pieces()
    keys = {
        open_world(world.config(tmp_path, background_members=n, background_noise=a), **pieces).key
        for n, a in ((0, 0.3), (0, 0.5), (4, 0.3), (4, 0.5), (6, 0.5))
    }
    assert len(keys) == 4  # without members their noise says nothing


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="(?s)background_members = 1.*background_noise = 0") as e:
        ExperimentConfig("t", "o", background_members=1, background_noise=0.0)
    assert "background_members = 20" in str(e.value)
    with pytest.raises(InputError, match='forecasts from the truth.*background = "48h"'):
        ExperimentConfig("t", "o", background="file.nc", background_members=8)
