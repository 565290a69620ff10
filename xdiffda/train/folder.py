"""The folder of a run belongs to one configuration: what another one would continue is refused."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from xdiffda.errors import Problem, raise_if
from xdiffda.train.config import CONFIG, VERSIONS, TrainConfig
from xdiffda.train.distributed import leads
from xdiffda.train.log import write_json

SETTING = "setting.npz"  # what was measured before the first step
CHECKPOINTS = "checkpoints"
# how a run is computed, logged and watched; nothing here changes what is trained
_FREE = ("out", "log_every", "log_samples", "save_every", "validate_every", "compute", "storage")
_PLACES = ("data", "pairs", "initial", "era5.statistics")
_MEASURED_ON = ("task", "data", "pairs", "initial", "era5")


def claim_folder(config: TrainConfig) -> None:
    """Note a configuration in its folder, unless that holds what another one has left.

    With a checkpoint, all settings count that change what is trained; before the first one,
    those that `SETTING` was measured with. Every process compares, the first one writes.

    Raises
    ------
    InputError
        Naming all settings that differ.

    Warns
    -----
    UserWarning
        If a run goes on that another version of this package began.
    """
    from xdiffda import __version__

    out = Path(config.out)
    begun = any(path.name.isdecimal() for path in (out / CHECKPOINTS).glob("*"))
    known, finished, versions = (out / CONFIG).exists(), (out / "finished").exists(), []
    if begun and not known:
        problem = Problem(f"checkpoints without {CONFIG} in {out}", "what they were made with",
                          f'out = "{out}-2"')  # fmt: skip
        raise_if([problem], what="folder of a training run")
    if known and (begun or (out / SETTING).exists()):
        _compare(TrainConfig.read_back(out), config, every=begun)
        versions = json.loads((out / CONFIG).read_text()).get(VERSIONS, [])
    if not leads():
        return
    if versions[-1:] != [__version__] and not finished:
        if begun:
            _warn(out, versions[-1] if versions else "of no known version", __version__)
        versions = [*versions, __version__]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / CONFIG, {**config.to_dict(), VERSIONS: versions})


def _warn(out: Path, before: str, now: str) -> None:
    # not refused: a run of days must survive an update, and both versions are noted
    warnings.warn(
        f"{out}: its last steps are from xdiffda {before}, the next are from {now}; for a run of "
        "one version install the earlier one, or give another `out`",
        stacklevel=4,
    )


def _compare(stored: TrainConfig, given: TrainConfig, *, every: bool) -> None:
    found, wanted = _flat(stored.to_dict()), _flat(given.to_dict())
    problems = []
    for key in sorted({*found, *wanted}, key=[*wanted, *found].index):
        old, new = found.get(key), wanted.get(key)
        counts = every or key.split(".")[0] in _MEASURED_ON
        if counts and _comparable(key, old) != _comparable(key, new):
            repair = f'{key} = {json.dumps(old)}, or out = "{given.out}-2"'
            if key == "steps" and given.task != "diffda":  # the learning rates hang on it
                repair = f'out = "{given.out}-2", initial = "{given.out}"'
            what = f"{new!r}, as this configuration says, or another folder"
            problems.append(Problem(f"{key} = {old!r} in {given.out}", what, repair))
    raise_if(problems, what="folder of another training run")


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, without those that may change."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if name in _FREE:
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not (name == "era5" and value is None):
            flat[f"{prefix}{name}"] = value
    return flat


def _comparable(key: str, value: Any) -> Any:
    """The same place is the same however it is written."""
    local = key in _PLACES and value and "://" not in value
    return os.path.abspath(value) if local else value
