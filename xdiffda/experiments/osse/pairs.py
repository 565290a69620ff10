"""Pairs (truth, background): forecasts of 6 to 72 h from truth and from imperfect states.

    python -m xdiffda.experiments.osse pairs --data DIR --forecaster DIR --out DIR
    python -m xdiffda.experiments.osse pairs --from cycles ...

A background in a cycle comes from an imperfect analysis.  Half of the forecasts therefore
start from truth plus a forecast error of another time, scaled by a random factor, so that
the denoiser learns backgrounds of many qualities (design, section 4).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm.auto import tqdm

from xdiffda.cycling.rollout import Rollout, load_rollout
from xdiffda.priors.prior import year_phase
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import (
    GROUP,
    N_LEADS,
    Nature,
    Pairs,
    load_nature,
    load_pairs,
)
from xdiffda.train.forecaster import Stepper, load_stepper

# folders of the backgrounds of cycles, of 3D-Var and of a denoiser, inside that of the forecasts


class BundledStepper(eqx.Module):
    """The forecaster of a finished model, on states normalised like the nature run's."""

    rollout: Rollout
    mean: Float[Array, " channel"]
    stddev: Float[Array, " channel"]

    def __call__(
        self, x: Float[Array, "node batch channel"], year: Float[Array, "batch 2"]
    ) -> Float[Array, "node batch channel"]:
        """One step of 6 h, as `xdiffda.train.forecaster.Stepper`."""
        physical = self.rollout(x * self.stddev + self.mean, year)
        return (physical - self.mean) / self.stddev


def make_pairs(
    nature: Nature,
    stepper: Stepper | BundledStepper,
    out: str | Path,
    *,
    part: str,
    n_initial: int,
    seed: int = 0,
) -> Pairs:
    """Roll out ``n_initial`` forecasts to 72 h and write all their leads to ``out/part``.

    Resumable: finished groups are kept.

    Parameters
    ----------
    nature, stepper
        States and the forecaster.
    out : path
    part : {"train", "validation", "evaluation"}
    n_initial : int
        Number of forecasts, rounded up to a multiple of 8; every second group starts
        from imperfect states.
    """
    folder = Path(out) / part
    chosen = choose_starts(nature, part, n_initial, N_LEADS, seed)
    roll = make_rollout(stepper)

    def compute(group: int, store: np.ndarray) -> np.ndarray:
        first = chosen[group]
        states = np.array(nature.states[first])
        if group % 2:
            states += _imperfection(nature, store, chosen, group, seed)
        year = year_phase(nature.time[first[:, None] + np.arange(1, N_LEADS + 1)])
        return np.asarray(roll(states, year.transpose(1, 0, 2)))

    fill_groups(folder, len(chosen), nature.states.shape[1:], compute, desc=f"pairs {part}")
    np.save(folder / "row.npy", (chosen[:, None] + np.arange(1, N_LEADS + 1)[:, None]).reshape(-1))
    return load_pairs(out, part)


def choose_starts(
    nature: Nature, part: str, n_initial: int, n_steps: int, seed: int
) -> Int[np.ndarray, "group run"]:
    """Rows of the initial times, so that ``n_steps`` later there is still truth of that part.

    Every group spans the whole period, so that an interrupted run is a fair sample.
    """
    n_group = -(-n_initial // GROUP)
    rows = nature.rows(part)
    rows = rows[rows[:, 0] + n_steps <= rows[:, 1], 0]
    order = np.random.default_rng([seed, 7]).permutation(n_group)
    chosen = rows[np.linspace(0, len(rows) - 1, n_group * GROUP).astype(int)]
    return chosen.reshape(GROUP, n_group).T[order]


def fill_groups(
    folder: Path,
    n_group: int,
    shape: Sequence[int],
    compute: Callable[[int, np.ndarray], np.ndarray],
    *,
    desc: str,
) -> None:
    """Write ``background.npy`` group by group; finished groups are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    path, progress = folder / "background.npy", folder / "done.json"
    done = json.loads(progress.read_text())["groups"] if progress.exists() else 0
    whole = (n_group, N_LEADS, GROUP, *shape)
    store = np.lib.format.open_memmap(
        path, "r+" if done else "w+", np.float32, None if done else whole
    )
    for group in tqdm(range(done, n_group), initial=done, total=n_group, desc=desc, mininterval=5):
        store[group] = compute(group, store)
        store.flush()
        temporary = progress.with_suffix(".tmp")
        temporary.write_text(json.dumps({"groups": group + 1}))
        os.replace(temporary, progress)


def _imperfection(
    nature: Nature, store: np.ndarray, chosen: np.ndarray, group: int, seed: int
) -> np.ndarray:
    """Errors of forecasts of 6 to 48 h from another, earlier group, scaled by 0.3 to 1."""
    rng = np.random.default_rng([seed, 11, group])
    other = int(rng.integers(0, group))
    lead = int(rng.integers(0, 8))
    factor = rng.uniform(0.3, 1.0, (GROUP, 1, 1)).astype(np.float32)
    truth = nature.states[chosen[other] + lead + 1]
    return factor * (store[other, lead] - truth)[rng.permutation(GROUP)]


def make_rollout(stepper: Stepper | BundledStepper):
    """Compiled (states (run, node, channel), years (step, run, 2)) -> states of all steps."""

    @eqx.filter_jit
    def roll(states, years, stepper=stepper):
        def step(x, year):
            x = stepper(x, year)
            return x, jnp.moveaxis(x, 1, 0)

        return jax.lax.scan(step, jnp.moveaxis(states, 0, 1), years)[1]

    return roll


def open_stepper(nature: Nature, forecaster: str) -> Stepper | BundledStepper:
    """The forecaster of a training folder, or of a model that is already made."""
    if (Path(forecaster) / "config.json").exists():
        return load_stepper(TrainConfig.read_back(forecaster), nature)
    return BundledStepper(
        load_rollout(forecaster), jnp.asarray(nature.mean), jnp.asarray(nature.stddev)
    )


def main(data: str, forecaster: str, out: str, n_train: int) -> None:
    """Make the training, validation and evaluation pairs; no training pairs if ``n_train`` is 0.

    ``forecaster`` is a training folder or, to score a model that is already made, its name.
    """
    nature = load_nature(data)
    stepper = open_stepper(nature, forecaster)
    for part, n in (("train", n_train), ("validation", 32), ("evaluation", 64)):
        if n:
            make_pairs(nature, stepper, out, part=part, n_initial=n)
