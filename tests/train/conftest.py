"""One tiny nature run, and a forecaster trained on it, for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import waves

FORECASTER = """
task = "forecaster"
data = "{data}"
out = "{out}"
steps = 80
batch = 4
validate_every = 40
save_every = 40
log_every = 10
[network]
refinement = 1
latent = 16
processor_steps = 1
[optimiser]
peak = 1e-2
warmup_steps = 10
ema = 0.9
"""
DENOISER = """
task = "denoiser"
data = "{data}"
pairs = "{pairs}"
initial = "{initial}"
out = "{out}"
steps = 80
batch = 8
validate_every = 40
save_every = 40
log_every = 10
[network]
refinement = 1
latent = 16
processor_steps = 1
conditioning_width = 8
[optimiser]
peak = 1e-2
warmup_steps = 10
ema = 0.9
"""


@pytest.fixture(scope="session")
def nature_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return waves.write_nature(tmp_path_factory.mktemp("world") / "nature")


@pytest.fixture(scope="session")
def forecaster_folder(nature_folder: Path) -> Path:
    """Trained by the command line, as a user does."""
    from xdiffda.train.__main__ import main

    out = nature_folder.parent / "forecaster"
    path = nature_folder.parent / "forecaster.toml"
    path.write_text(FORECASTER.format(data=nature_folder, out=out))
    main([str(path)])
    return out


@pytest.fixture(scope="session")
def pairs_folder(nature_folder: Path, forecaster_folder: Path) -> Path:
    from xdiffda.experiments.osse.pairs import main

    out = nature_folder.parent / "pairs"
    main(str(nature_folder), str(forecaster_folder), str(out), 40)
    return out


@pytest.fixture(scope="session")
def denoiser_folder(nature_folder: Path, pairs_folder: Path, forecaster_folder: Path) -> Path:
    from xdiffda.train.__main__ import main

    out = nature_folder.parent / "denoiser"
    path = nature_folder.parent / "denoiser.toml"
    path.write_text(
        DENOISER.format(data=nature_folder, pairs=pairs_folder, initial=forecaster_folder, out=out)
    )
    main([str(path)])
    return out
