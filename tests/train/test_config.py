"""Configuration files: every mistake at once, nothing lost on the way through a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from xdiffda.errors import InputError
from xdiffda.train.config import Era5, Network, Optimiser, TrainConfig

GOOD = 'task = "denoiser"\ndata = "d"\nout = "o"\n'
ERA5 = Era5(
    variables=("2m_temperature", "temperature"),
    levels=(500, 850),
    first="1979-01-01",
    last="2016-12-31",
    validation_first="2017-01-01",
    validation_last="2017-12-31",
)


def _write(folder: Path, text: str) -> Path:
    (folder / "train.toml").write_text(text)
    return folder / "train.toml"


def test_defaults_and_integers_for_floats(tmp_path: Path) -> None:
    text = GOOD + "[optimiser]\npeak = 1\n[network]\nlatent = 8"
    config = TrainConfig.read(_write(tmp_path, text))
    assert config == TrainConfig(
        "denoiser", "d", "o", network=Network(latent=8), optimiser=Optimiser(peak=1.0)
    )
    assert isinstance(config.optimiser.peak, float)


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    text = 'data = 3\nstep = 5\n[network]\nlatnt = 8\nrefinement = "two"\n'
    text += '[optimiser]\npeak = "hi"\n'
    with pytest.raises(InputError) as caught:
        TrainConfig.read(_write(tmp_path, text))
    message = str(caught.value)
    for part in (
        "data = 3",
        "entry step",
        "entry network.latnt",
        "network.refinement = 'two'",
        "optimiser.peak = 'hi'",
        "no entry task",
        "no entry out",
    ):
        assert part in message
    assert len(caught.value.problems) == 7


def test_numbers_that_cannot_be_are_listed_at_once() -> None:
    with pytest.raises(InputError, match="(?s)task = 'guess'.*steps = 0.*batch = -1.*rollout = 0"):
        TrainConfig("guess", "d", "o", steps=0, batch=-1, rollout=0)


def test_a_boolean_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="(?s)steps = True.*optimiser.clip = False"):
        TrainConfig.read(_write(tmp_path, "steps = true\n" + GOOD + "[optimiser]\nclip = false"))


def test_a_table_where_a_value_belongs_and_the_reverse(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="(?s)network = 3"):
        TrainConfig.read(_write(tmp_path, GOOD + "network = 3"))
    with pytest.raises(InputError, match="(?s)seed = "):
        TrainConfig.read(_write(tmp_path, GOOD + "[seed]\na = 1"))


def test_a_file_that_is_no_toml_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train.toml"):
        TrainConfig.read(_write(tmp_path, "task = = 3"))


def test_round_trip_through_a_run_folder(tmp_path: Path) -> None:
    config = TrainConfig(
        "forecaster",
        "d",
        str(tmp_path),
        steps=7,
        seed=3,
        initial="x",
        network=Network(latent=8),
        optimiser=Optimiser(peak=0.5),
    )
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert TrainConfig.read_back(tmp_path) == config
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert TrainConfig.read_back(moved) == dataclasses.replace(config, out=str(moved))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncation": -3}, "truncation = -3; needed 0 to"),
        ({"n_statistics": 0}, "n_statistics = 0; needed 1 to .*n_statistics = 200`"),
        ({"n_statistics": -4}, "n_statistics = -4; needed 1 to"),
        ({"every_hours": 0}, "every_hours = 0; needed a divisor of 24 or a multiple of 6"),
        ({"every_hours": 5}, "every_hours = 5; needed a divisor of 24 or a multiple of 6"),
        ({"leads": (6, 48, 6)}, r"leads \[6\] more than once; .*`leads = \[6, 48\]`"),
        ({"leads": (6.0, 48)}, r"leads \[6.0\]; needed whole hours"),
        ({"leads": (6, -6)}, r"leads \[-6\]; needed multiples of 6 h"),
        ({"variables": ("2m_temperature",) * 2}, r"variables \['2m_temperature'\] more than once"),
        ({"variables": ("temprature",)}, "variables 'temprature'; .*`\"temperature\" in era5"),
        ({"variables": ("msl",)}, "variables 'msl'; .*`\"mean_sea_level_pressure\" in era5"),
        ({"variables": ("land_sea_mask",)}, "variables 'land_sea_mask'; needed a state variable"),
        ({"variables": (3,)}, r"variables \[3\]; needed names"),
        ({"levels": (0, 500)}, r"levels \[0, 500\]; .*above 0, .*`levels = \[500\]`"),
        ({"levels": (-500,)}, r"levels \[-500\]; needed hPa above 0"),
        ({"levels": (850, 500)}, r"levels \[850, 500\]; .*ascending.*`levels = \[500, 850\]`"),
        ({"levels": (500, 500)}, r"levels \[500, 500\]; .*each once.*`levels = \[500\]`"),
        ({"levels": (True,)}, r"levels \[True\]; needed whole hPa"),
        ({"first": "2017-01-01"}, "first = '2017-01-01' after last = '2016-12-31'; needed a"),
        ({"validation_last": "2016-12-31T23"}, "validation_first = .* after validation_last"),
        ({"validation_last": ""}, "validation_first without validation_last; needed both"),
        ({"validation_first": ""}, "validation_last without validation_first; needed both"),
        ({"last": "now"}, "last = 'now'; needed a time"),
        ({"first": "NaT"}, "first = 'NaT'; needed a time"),
    ],
)
def test_what_cannot_be_meant_of_a_reanalysis_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"configuration: 1 problem\n  1. found era5.{message}"):
        dataclasses.replace(ERA5, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"leads": (48, 6)},
        {"truncation": 0, "n_statistics": 1},
        {"variables": ("total_precipitation_6hr",), "levels": ()},
        {"first": "2000-01-01T06", "last": "2000-01-01"},  # to the end of the day
        {"first": "2000-01-01T06", "last": "2000-01-01T06"},
        {"validation_first": "", "validation_last": ""},
        *({"every_hours": hours} for hours in (1, 3, 8, 12, 18, 24, 30, 48)),
    ],
)
def test_what_can_be_meant_of_a_reanalysis_is_accepted(changes: dict[str, Any]) -> None:
    dataclasses.replace(ERA5, **changes)


def test_all_mistakes_of_a_reanalysis_are_listed_at_once(tmp_path: Path) -> None:
    text = GOOD + '[era5]\nvariables = ["temprature", "msl"]\nlevels = [500, 0]\nleads = [6, 6]\n'
    text += "first = 2001-01-01\nlast = 2000-01-01\nevery_hours = 5\ntruncation = -3\n"
    with pytest.raises(InputError) as caught:
        TrainConfig.read(_write(tmp_path, text + "n_statistics = 0\n"))
    assert len(caught.value.problems) == 8
