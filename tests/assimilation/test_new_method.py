"""What a new method needs: one class and one row of the table; the rest of the package knows it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import cycle_world
import experiment_world
import numpy as np
import pytest
from gaussian_world import ERRORS, draw_states, make_prior
from typer.testing import CliRunner

import xdiffda
from xdiffda import cli
from xdiffda.assimilation.methods import METHODS, AnalysisTime, Drawn, Interpolation, Method
from xdiffda.cycling.config import CycleConfig
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.experiments.runner import run as run_experiment
from xdiffda.state.convert import to_state


@dataclasses.dataclass(frozen=True)
class Nudging(Method):
    """Newtonian relaxation: a share of the way to the interpolated observations.

    Parameters
    ----------
    weight : float
        The share, above 0 to 1.
    """

    name: ClassVar[str] = "nudging"
    ensemble: ClassVar[bool] = False
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            found = f"weight={self.weight!r}"
            raise_if([Problem(found, "above 0 to 1", "Nudging(weight=0.5)")], what="nudging")

    def draw(self, at: AnalysisTime, tick) -> Drawn:
        return Drawn(self.weight * Interpolation().draw(at, tick).z)


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The one row of the table."""
    monkeypatch.setitem(METHODS, "nudging", Nudging)
    yield


def test_assimilate_takes_it_by_name_and_as_an_object() -> None:
    prior = make_prior()
    truth, background = draw_states(prior, seed=5)
    obs = truth.diffda.emulate_obs(n_columns=30, error_std=ERRORS, seed=1)

    def state(method: str | Method) -> np.ndarray:
        found = xdiffda.assimilate(background, obs, model=prior, method=method, progress=False)
        assert found.sizes["member"] == 1
        return to_state(found)[0]

    there, whole = state(Nudging(weight=0.25)), state("interpolation")
    start = prior.filtered(to_state(background)[0].reshape(1, *prior.scale.shape))
    np.testing.assert_allclose(there - start, 0.25 * (whole - start), atol=2e-3)
    np.testing.assert_array_equal(state("nudging"), state(Nudging()))
    with pytest.raises(InputError, match="weight=2"):
        Nudging(weight=2)


def test_its_settings_are_in_the_attributes() -> None:
    prior = make_prior()
    truth, background = draw_states(prior, seed=5)
    obs = truth.diffda.emulate_obs(n_columns=30, error_std=ERRORS, seed=1)
    found = xdiffda.assimilate(
        background, obs, model=prior, method=Nudging(weight=0.3), progress=False
    )
    assert found.attrs["xdiffda_method"] == "nudging"
    assert json.loads(found.attrs["xdiffda_settings"])["weight"] == 0.3


def test_cycles_take_it_from_a_file_too(tmp_path: Path) -> None:
    settings = {"method": Nudging(weight=0.4), "background_error": 1.0}
    run = cycle_world.run(tmp_path / "run.zarr", 2, settings=settings)
    assert json.loads(run.attrs["xdiffda_cycle"])["settings.weight"] == 0.4
    lines = (
        'background = "sample:background"\ntruth = "sample:truth"\nout = "o.zarr"\nn_cycles = 1\n'
    )
    path = tmp_path / "cycle.toml"
    path.write_text(lines + '[emulate]\n[assimilate]\nmethod = "nudging"\nweight = 0.4\n')
    assert CycleConfig.read(path).assimilate.method == Nudging(weight=0.4)
    path.write_text(lines + '[emulate]\n[assimilate]\nmethod = "nudging"\nn_steps = 4\n')
    with pytest.raises(InputError, match=r"entry assimilate.n_steps; needed one of .*weight"):
        CycleConfig.read(path)


def test_experiments_compare_it(tmp_path: Path) -> None:
    methods = {
        "all the way": {"method": "nudging", "weight": 1.0},
        "interpolation": {"method": "interpolation"},
    }
    config = experiment_world.config(
        tmp_path, methods=methods, columns=(40,), n_cases=1, starts=("mean",)
    )
    found = run_experiment("single-step", config, progress=False, **experiment_world.pieces())
    nudged, whole = (found["squared"].sel(scheme=name) for name in methods)
    np.testing.assert_array_equal(nudged, whole)


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    truth, background = (xdiffda.open_sample(n).isel(time=0) for n in ("truth", "background"))
    background.to_netcdf(tmp_path / "b.nc")
    obs = truth.diffda.emulate_obs(n_columns=20, seed=0)
    obs.to_netcdf(tmp_path / "o.nc")
    files = [str(tmp_path / name) for name in ("b.nc", "o.nc")]
    out = tmp_path / "a.nc"
    command = ["assimilate", *files, "-o", str(out), "--method", "nudging", "--set", "weight=0.25"]
    done = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(xdiffda.open_dataset(out).attrs["xdiffda_settings"])["weight"] == 0.25
    with pytest.raises(InputError, match="entry colour; needed one of weight"):
        CliRunner().invoke(
            cli.app, [*command, "--overwrite", "--set", "colour=red"], catch_exceptions=False
        )
