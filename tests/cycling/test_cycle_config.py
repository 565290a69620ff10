"""Configuration of a cycled run: all wrong entries at once, and a run from files."""

from __future__ import annotations

from pathlib import Path

import cycle_world as world
import numpy as np
import pytest

from xdiffda.assimilation.methods import RePaint
from xdiffda.cycling import cycle as module
from xdiffda.cycling import plan as _cycle_plan
from xdiffda.cycling.config import Assimilation, CycleConfig, Emulation
from xdiffda.cycling.cycle import run_config
from xdiffda.cycling.observation_stream import emulated_stream
from xdiffda.errors import InputError
from xdiffda.observations import to_tidy
from xdiffda.priors import registry

WHOLE = """
background = "sample:background"
truth = "sample:truth"
out = "run.zarr"
n_cycles = 16
start = "2012-12-21T06"
carry = "ensemble"
seed = 3
[emulate]
n_columns = 100
fixed_sites = false
[emulate.error_std]
2m_temperature = 1.0
temperature = { 500 = 0.5, 850 = 1 }
[assimilate]
method = "repaint"
background_error = 1
n_levels = 50
"""


def _written(folder: Path, text: str) -> Path:
    (folder / "cycle.toml").write_text(text)
    return folder / "cycle.toml"


def test_every_entry_is_read(tmp_path: Path) -> None:
    config = CycleConfig.read(_written(tmp_path, WHOLE))
    assert (config.n_cycles, config.carry, config.seed, config.n_members) == (16, "ensemble", 3, 8)
    assert config.emulate == Emulation(100, False, config.emulate.error_std)
    choices = config.emulate.choices()
    assert choices["error_std"] == {"2m_temperature": 1.0, "temperature": {500.0: 0.5, 850.0: 1}}
    assert config.assimilate == Assimilation(method=RePaint(n_levels=50), background_error=1.0)


def test_all_wrong_entries_at_once(tmp_path: Path) -> None:
    text = """
    out = 3
    n_cycles = "many"
    colour = "red"
    carry = true
    [assimilate]
    methode = "guided"
    n_steps = 8.5
    [emulate]
    fixed_sites = 1
    """
    with pytest.raises(InputError, match="8 problems") as error:
        CycleConfig.read(_written(tmp_path, text))
    for words in (
        "out = 3; needed a str",
        "n_cycles = 'many'; needed a int",
        "entry colour",
        "carry = True",
        "entry assimilate.methode",
        "assimilate.n_steps = 8.5",
        "emulate.fixed_sites = 1",
        "no entry background",
    ):
        assert words in str(error.value), words
    with pytest.raises(InputError, match="no TOML"):
        CycleConfig.read(_written(tmp_path, "n_cycles = = 2"))


def test_values_that_do_not_go_together(tmp_path: Path) -> None:
    text = 'background = "b.nc"\nout = "o.zarr"\nn_cycles = 0\ncarry = "best"\nobservations = "o"\n'
    with pytest.raises(InputError, match="4 problems") as error:
        CycleConfig.read(_written(tmp_path, text + "[emulate]"))
    for words in ("n_cycles=0", "carry='best'", "both observations and", "[emulate] without truth"):
        assert words in str(error.value), words
    with pytest.raises(InputError, match="neither observations nor"):
        CycleConfig(background="b.nc", out="o.zarr", n_cycles=1)


@pytest.mark.parametrize("form", ["emulate", "obs.nc", "obs.csv", "obs.txt.gz"])
def test_a_run_from_files_is_the_run_from_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The world's prior and forecaster stand in for those of a model of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "load_model", lambda name: world.make_prior())
    monkeypatch.setattr(_cycle_plan, "make_forecast", _turn)
    truth, background = world.make_states(4)
    truth.to_netcdf("truth.nc")
    background.expand_dims("time").to_netcdf("background.nc")
    stream = emulated_stream(truth, n_columns=20, error_std=world.ERRORS, seed=3)
    lines = [
        'background = "background.nc"',
        'truth = "truth.nc"',
        'out = "run.zarr"',
        "n_cycles = 1",
        "n_members = 1",
        "seed = 1",
        'model = "turning"',
        'start = "2020-01-15T12"',
    ]
    if form == "emulate":
        lines += [
            "[emulate]",
            "n_columns = 20",
            "seed = 3",
            "error_std = { 2m_temperature = 0.5, temperature = 0.4 }",
        ]
    else:
        tables = [to_tidy(stream(time)).to_dataframe() for time in truth.time.values]
        import pandas as pd

        table = pd.concat(tables).reset_index(drop=True)
        if form != "obs.nc":
            table.to_csv(form, index=False)
        else:
            table.rename_axis("obs").to_xarray().to_netcdf(form)
        lines += [f'observations = "{form}"']
    lines += ["[assimilate]", 'method = "3dvar"', "background_error = 1.0"]
    found = run_config(_written(tmp_path, "\n".join(lines)), progress=False).load()
    expected = world.run(tmp_path / "other.zarr", 1)
    for name in ("temperature", "normalized_error"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def _turn(states, length, model, prior, forecaster):
    def own(x, time):
        return states.array(world.forecaster(states.dataset(x, time)), what="forecast")

    return own, "forecaster"


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    text = 'background = "absent.nc"\nout = "o.zarr"\nn_cycles = 1\nobservations = "o.nc"\n'
    with pytest.raises(ValueError, match="absent.nc: no such file"):
        run_config(_written(tmp_path, text))
    assert module.__all__ == sorted(module.__all__)
