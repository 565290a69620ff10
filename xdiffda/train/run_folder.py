"""The folder of a run: it belongs to one configuration, and a run with another is refused."""

from __future__ import annotations

import csv
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from xdiffda.errors import Problem, StorageError, raise_if
from xdiffda.train.config import CONFIG, VERSIONS, Optimiser, TrainConfig
from xdiffda.train.distributed import Placement, leads

# Draw the curves of a training run from its log.


def plot_log(out: str | Path) -> Path:
    """Draw ``log.csv`` of a run as ``curves.png`` beside it and return the figure's path."""
    from xdiffda.plot.curves import loss_curves

    out = Path(out)
    loss_curves(out / "log.csv", smooth=4).savefig(out / "curves.png", dpi=150)
    return out / "curves.png"


# What a run writes beside its checkpoints: curves, and which samples were seen.

_COLUMNS = ("step", "train_loss", "validation_loss", "seconds")


class CurveLog:
    """Curves as data: step, loss since the last row, validation loss, seconds.

    Rows beyond ``begin``, of steps that a resumed run makes again, are dropped.
    """

    def __init__(self, path: Path, begin: int) -> None:
        self.path = path
        rows = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) <= begin]
        self.offset = float(rows[-1]["seconds"]) if rows else 0.0
        self.start = time.monotonic()
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, step: int, loss: float, validation: float | None) -> None:
        seconds = self.offset + time.monotonic() - self.start
        checked = "" if validation is None else f"{validation:.6f}"
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.6f}", checked, f"{seconds:.1f}"])


class SampleLog:
    """The samples that every step used: an append-only audit.

    One row for each step that was computed: step (counted from 1), then the samples of the
    global batch. A step that was computed, lost with its process and computed again has two.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: int, samples: np.ndarray) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, *np.asarray(samples).tolist()])


def write_status(out: Path, step: int, steps: int) -> None:
    """Note how far the run is; a file ``finished`` marks one that has nothing left to do."""
    status = {
        "step": step,
        "steps": steps,
        "processes": jax.process_count(),
        "devices": jax.device_count(),
    }
    write_json(out / "status.json", status)
    if step >= steps:
        (out / "finished").touch()
    else:
        (out / "finished").unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write all or nothing."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)


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
        problem = Problem(
            f"checkpoints without {CONFIG} in {out}", "what they were made with", f'out = "{out}-2"'
        )
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
            repair = f'out = "{given.out}-2"' if old is None else f"{key} = {json.dumps(old)}"
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
    """Return a path in one form, so that the same place compares equal."""
    local = key in _PLACES and value and "://" not in value
    return os.path.abspath(value) if local else value


# Checkpoints: all state of a run, written while it goes on, read on any number of devices.


class State(NamedTuple):
    """The contents of a checkpoint."""

    weights: Any
    ema: Any
    optimiser: Any
    step: jax.Array


def make_optimiser(config: Optimiser, steps: int) -> optax.GradientTransformation:
    """AdamW, warm-up and cosine decay, clipped by the global norm; no decay of vectors."""
    warmup = round(config.warmup_share * steps) if config.warmup_share else config.warmup_steps
    schedule = optax.warmup_cosine_decay_schedule(
        config.start, config.peak, min(warmup, steps - 1), steps, config.end
    )

    def matrices(weights):
        return jax.tree.map(lambda a: a.ndim > 1, weights)

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=matrices
        ),
    )


def start_state(weights: Any, optimiser: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(weights, weights, optimiser.init(weights), jnp.array(0))


def state_shardings(weights: Any, optimiser: Any, placement: Placement) -> State:
    """Return where each array of a state lies."""
    shapes = jax.eval_shape(lambda w: start_state(w, optimiser), weights)
    return State(
        jax.tree.map(lambda _: placement.whole, shapes.weights),
        placement.split(shapes.ema),
        placement.split(shapes.optimiser),
        placement.whole,
    )


def open_manager(out: Path) -> ocp.CheckpointManager:
    """The checkpoints of a run's folder; the last two are kept, saving does not block."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    return ocp.CheckpointManager((out / CHECKPOINTS).absolute(), options=options)


def restore(manager: ocp.CheckpointManager, like: State, shardings: State) -> State:
    """The last checkpoint, laid out as told: it may come from other numbers of devices.

    Raises
    ------
    StorageError
        If it holds arrays of other shapes, or cannot be read.
    """

    def place(a, s):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)

    abstract = jax.tree.map(place, like, shardings)
    step = manager.latest_step()
    try:
        restored = manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except (ValueError, KeyError, TypeError, OSError) as error:  # as orbax and its stores have it
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(
            f"{Path(manager.directory) / str(step)}: no checkpoint of this network ({text[:200]}); "
            "what the network reads (data, initial) has changed, or a file is damaged; repair: "
            '`out = "..."`, a new folder, or remove this one to go on from the one before'
        ) from error
    return State(*restored)


def restore_average(model: Any, out: str | Path, optimiser: Optimiser) -> tuple[Any, int]:
    """Return ``model`` with the averaged weights of the last checkpoint, and its step.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    recipe = make_optimiser(optimiser, 2)
    placement = Placement(jax.device_count(), shard=False)
    like = jax.eval_shape(lambda w: start_state(w, recipe), weights)
    with open_manager(Path(out)) as manager:
        if manager.latest_step() is None:
            raise FileNotFoundError(f"no checkpoint in {out}: run `python -m xdiffda.train` first")
        state = restore(manager, like, state_shardings(weights, recipe, placement))
    # on the host's own device: what is done with a model need not know of any mesh
    average = jax.tree.map(lambda a: jnp.asarray(jax.device_get(a)), state.ema)
    return eqx.combine(average, static), int(state.step)
