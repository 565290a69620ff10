"""Pairs (truth, background): forecasts of 6 to 72 h from truth and from imperfect states.

    python -m xdiffda.osse pairs --data DIR --forecaster DIR --out DIR

A background in a cycle comes from an imperfect analysis.  Half of the forecasts therefore
start from truth plus a forecast error of another time, scaled by a random factor, so that
the denoiser learns backgrounds of many qualities (design, section 4).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from xdiffda._rollout import Rollout, load_rollout
from xdiffda.prior import year_phase
from xdiffda.train.config import TrainConfig
from xdiffda.train.data import Nature, load_nature
from xdiffda.train.forecaster import Stepper, load_stepper

N_LEADS = 12  # six-hourly, 6 to 72 h
GROUP = 8  # initial times rolled out together


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Backgrounds and where their truth stands.

    Attributes
    ----------
    background : array (pair, node, channel)
        Normalised like the nature run's states.
    row : int array (pair,)
        Row of the truth in the nature run's states.
    lead : int array (pair,)
        Forecast lead time in hours.
    perturbed : bool array (pair,)
        Whether the forecast started from an imperfect state.
    """

    background: np.ndarray
    row: np.ndarray
    lead: np.ndarray
    perturbed: np.ndarray


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
    nature: Nature, stepper: Stepper | BundledStepper, out: str | Path, *, part: str,
    n_initial: int, seed: int = 0,
) -> Pairs:  # fmt: skip
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
    folder.mkdir(parents=True, exist_ok=True)
    n_group = -(-n_initial // GROUP)
    rows = nature.rows(part)
    rows = rows[rows[:, 0] + N_LEADS <= rows[:, 1], 0]
    rng = np.random.default_rng([seed, 7])
    # every group spans the whole period, so that an interrupted run is a fair sample
    chosen = rows[np.linspace(0, len(rows) - 1, n_group * GROUP).astype(int)]
    chosen = chosen.reshape(GROUP, n_group).T[rng.permutation(n_group)]
    shape = (n_group, N_LEADS, GROUP, *nature.states.shape[1:])
    path, progress = folder / "background.npy", folder / "done.json"
    done = json.loads(progress.read_text())["groups"] if progress.exists() else 0
    store = np.lib.format.open_memmap(
        path, "r+" if done else "w+", np.float32, None if done else shape
    )
    roll = _make_rollout(stepper)
    for group in tqdm(
        range(done, n_group), initial=done, total=n_group, desc=f"pairs {part}", mininterval=5
    ):
        first = chosen[group]
        states = np.array(nature.states[first])
        if group % 2:
            states += _imperfection(nature, store, chosen, group, seed)
        year = year_phase(nature.time[first[:, None] + np.arange(1, N_LEADS + 1)])
        store[group] = np.asarray(roll(states, year.transpose(1, 0, 2)))
        store.flush()
        temporary = progress.with_suffix(".tmp")
        temporary.write_text(json.dumps({"groups": group + 1}))
        os.replace(temporary, progress)
    np.save(folder / "row.npy", (chosen[:, None] + np.arange(1, N_LEADS + 1)[:, None]).reshape(-1))
    return load_pairs(out, part)


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


def _make_rollout(stepper: Stepper | BundledStepper):
    @eqx.filter_jit
    def roll(states, years, stepper=stepper):
        def step(x, year):
            x = stepper(x, year)
            return x, jnp.moveaxis(x, 1, 0)

        return jax.lax.scan(step, jnp.moveaxis(states, 0, 1), years)[1]

    return roll


def load_pairs(out: str | Path, part: str) -> Pairs:
    """Map the pairs written by `make_pairs`.

    Raises
    ------
    FileNotFoundError
        If they were not made.
    """
    folder = Path(out) / part
    if not (folder / "row.npy").exists():
        raise FileNotFoundError(
            f"no pairs in {folder}: make them by `python -m xdiffda.osse pairs --out {out}`"
        )
    background = np.load(folder / "background.npy", mmap_mode="r")
    n_group = background.shape[0]
    labels = np.indices((n_group, N_LEADS, GROUP)).reshape(3, -1)
    return Pairs(
        background.reshape(-1, *background.shape[3:]),
        np.load(folder / "row.npy", allow_pickle=False),
        6 * (labels[1] + 1),
        labels[0] % 2 == 1,
    )


def main(data: str, forecaster: str, out: str, n_train: int) -> None:
    """Make the training, validation and evaluation pairs; no training pairs if ``n_train`` is 0.

    ``forecaster`` is a training folder or, to score a model that is already made, its name.
    """
    nature = load_nature(data)
    if Path(forecaster).is_dir():
        stepper = load_stepper(TrainConfig.read_back(forecaster), nature)
    else:
        stepper = BundledStepper(
            load_rollout(forecaster), jnp.asarray(nature.mean), jnp.asarray(nature.stddev)
        )
    for part, n in (("train", n_train), ("validation", 32), ("evaluation", 64)):
        if n:
            make_pairs(nature, stepper, out, part=part, n_initial=n)
