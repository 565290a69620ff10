"""Configuration files: every mistake at once, nothing lost on the way through a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from xdiffda.errors import InputError
from xdiffda.train.config import Network, Optimiser, TrainConfig

GOOD = 'task = "denoiser"\ndata = "d"\nout = "o"\n'


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
