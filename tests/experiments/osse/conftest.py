"""The tiny world of tests/train, here too: nature run, forecaster, pairs, denoiser."""

from __future__ import annotations

import importlib.util

from places import TESTS

_PATH = TESTS / "train/conftest.py"
_SPEC = importlib.util.spec_from_file_location("tiny_world", _PATH)
_WORLD = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_WORLD)

nature_folder = _WORLD.nature_folder
forecaster_folder = _WORLD.forecaster_folder
pairs_folder = _WORLD.pairs_folder
denoiser_folder = _WORLD.denoiser_folder
