"""Pairs (truth, background) of cycles: 6 h forecasts from analyses of analyses.

    python -m xdiffda.osse pairs --from cycles --data DIR --forecaster DIR --out DIR

Forecasts from the truth, or from the truth with a smooth error, know nothing of what many
cycles leave behind: a background that is good where something was observed and, where it
never was, holds all that the forecaster has done wrong since.  A denoiser learns that from
cycles of 3D-Var over the training years, with networks of all densities, fixed and changing.
The folder ``cycles`` inside that of the forecasts holds them; `load_pairs` joins both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xdiffda import registry
from xdiffda._innovations import estimate_r
from xdiffda.covariance import SpectralCovariance
from xdiffda.diffusion.guidance import Solver
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.sampling import three_d_var
from xdiffda.osse.pairs import (
    CYCLES,
    N_LEADS,
    BundledStepper,
    Pairs,
    choose_starts,
    fill_groups,
    load_pairs,
    make_rollout,
    open_stepper,
)  # fmt: skip
from xdiffda.prior import Prior, year_phase
from xdiffda.train.data import Nature, load_nature
from xdiffda.train.forecaster import Stepper

FIRST_LEAD = 8  # steps of 6 h: a cycle begins with a 48 h forecast, as in the DiffDA paper
EVERY = 3  # every third cycle is kept: neighbours differ little
COLUMNS = (0.015, 0.5)  # share of the grid's columns that is observed
ERRORS = (0.1, 1.0)  # of the observations, in units of s
FIXED = 0.7  # share of the cycles whose sites stay where they are


class Network(NamedTuple):
    """What observes one cycle.

    Attributes
    ----------
    n_columns : int
    fixed : bool
    error : array (channel,)
        In units of s.
    """

    n_columns: int
    fixed: bool
    error: Float[np.ndarray, " channel"]


def make_cycled_pairs(
    nature: Nature, stepper: Stepper | BundledStepper, prior: Prior, out: str | Path, *, part: str,
    n_initial: int, seed: int = 0,
) -> Pairs:  # fmt: skip
    """Cycle ``n_initial`` times over 9 days and write every third background.

    Resumable: finished groups are kept.

    Parameters
    ----------
    nature, stepper
        States and the forecaster.
    prior : Prior
        Brings s, B and what the basis cannot represent; those of an earlier model do.
    out : path
        The folder of the pairs of `xdiffda.osse.pairs.make_pairs`.
    part : {"train", "validation", "evaluation"}
    n_initial : int
        Number of cycles, rounded up to a multiple of 8.

    Returns
    -------
    Pairs
        Those of forecasts, if they are there, and of cycles together.
    """
    folder = Path(out) / CYCLES / part
    steps = FIRST_LEAD + EVERY * N_LEADS
    # another seed than that of the forecasts: other initial times
    chosen = choose_starts(nature, part, n_initial, steps, seed + 1)
    roll = make_rollout(stepper)

    def compute(group: int, store: np.ndarray) -> np.ndarray:
        return _cycle(nature, roll, prior, chosen[group], np.random.default_rng([seed, 13, group]))

    fill_groups(folder, len(chosen), nature.states.shape[1:], compute, desc=f"cycles {part}")
    kept = FIRST_LEAD + EVERY * (1 + np.arange(N_LEADS))
    np.save(folder / "row.npy", (chosen[:, None] + kept[:, None]).reshape(-1))
    (folder / "labels.json").write_text(json.dumps({"kind": CYCLES, "every": EVERY}))
    return load_pairs(out, part)


def draw_network(rng: np.random.Generator, n_node: int, n_channel: int) -> Network:
    """A network of any density, with errors of its own for each channel."""
    columns = np.exp(rng.uniform(*np.log(COLUMNS))) * n_node
    error = np.exp(rng.uniform(*np.log(ERRORS)) + 0.3 * rng.normal(size=n_channel))
    return Network(max(int(columns), 1), bool(rng.random() < FIXED), error)


def _cycle(
    nature: Nature, roll, prior: Prior, first: Int[np.ndarray, " run"], rng: np.random.Generator
) -> Float[np.ndarray, "cycle run node channel"]:
    """Eight cycles side by side, each with a network of its own."""
    n_node, n_channel = nature.states.shape[1:]
    scale = np.asarray(prior.scale, np.float64) / nature.stddev
    networks = [draw_network(rng, n_node, n_channel) for _ in first]
    sites = [_sites(prior, rng, n.n_columns) for n in networks]

    def forecast(x: np.ndarray, row: np.ndarray, n: int) -> np.ndarray:
        stamps = nature.time[row[:, None] + np.arange(1, n + 1)]
        return np.array(roll(x, year_phase(stamps).transpose(1, 0, 2))[-1])

    states = forecast(np.array(nature.states[first]), first, FIRST_LEAD)
    kept = np.empty((N_LEADS, len(first), n_node, n_channel), np.float32)
    for cycle in range(EVERY * N_LEADS):
        row = first + FIRST_LEAD + cycle
        for i, network in enumerate(networks):
            where = sites[i] if network.fixed else _sites(prior, rng, network.n_columns)
            states[i] = analyse(
                prior, scale, states[i], np.array(nature.states[row[i]]), where, network.error, rng
            )
        states = forecast(states, row, 1)
        if (cycle + 1) % EVERY == 0:
            kept[cycle // EVERY] = states
    return kept


def analyse(
    prior: Prior, scale: Float[np.ndarray, "node channel"],
    background: Float[np.ndarray, "node channel"], truth: Float[np.ndarray, "node channel"],
    sites: Int[np.ndarray, " site"], error: Float[np.ndarray, " channel"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "node channel"]:  # fmt: skip
    """3D-Var from emulated observations of whole columns at grid points; normalised states.

    ``scale`` is s in the same units, ``error`` in units of s.
    """
    noise = error * rng.normal(size=(len(sites), error.size))
    background = background + scale * prior.noise_correction(background[None] / scale)[0]
    departure = (truth[sites] - background[sites]) / scale[sites] + noise
    gain = 1 / np.sqrt(error**2 + prior.unresolved[sites] ** 2)
    spread = gain * np.sqrt(np.asarray(prior.covariance.variance))
    r = estimate_r((departure * gain).ravel(), spread.ravel(), len(sites))
    index = sites[:, None] * error.size + np.arange(error.size)
    # powers of two: few shapes, so little to compile
    more = (1 << (len(sites) - 1).bit_length()) - len(sites)
    pad = lambda a: np.pad(a, ((0, more), (0, 0))).reshape(-1)  # noqa: E731
    z = _solve(
        prior.covariance, jnp.asarray(pad(departure * gain), jnp.float32),
        jnp.asarray(pad(index)[:, None]), jnp.asarray(pad(r * gain)[:, None], jnp.float32),
    )  # fmt: skip
    return (background + r * scale * np.asarray(z)).astype(np.float32)


@eqx.filter_jit
def _solve(covariance: SpectralCovariance, value: Array, index: Array, weight: Array) -> Array:
    likelihood = Likelihood(value, index, weight)
    return three_d_var(covariance, likelihood, solver=Solver())[:, 0]


def _sites(prior: Prior, rng: np.random.Generator, n: int) -> Int[np.ndarray, " site"]:
    """Grid points by area, without replacement."""
    weight = prior.layout.grid.area_weights()
    return np.sort(rng.choice(weight.size, n, replace=False, p=weight / weight.sum()))


def main(data: str, forecaster: str, out: str, n_train: int, model: str = "speedy") -> None:
    """Make the pairs of cycles, as `xdiffda.osse.pairs.main`; ``model`` brings s and B."""
    nature = load_nature(data)
    stepper, prior = open_stepper(nature, forecaster), registry.resolve(model)
    for part, n in (("train", n_train), ("validation", 32), ("evaluation", 64)):
        if n:
            make_cycled_pairs(nature, stepper, prior, out, part=part, n_initial=n)
