"""Pairs (truth, background) of cycles: 6 h forecasts from analyses of analyses.

    python -m xdiffda.experiments.osse pairs --from cycles --data DIR --forecaster DIR --out DIR
    python -m xdiffda.experiments.osse pairs --from own-cycles --model speedy ...

Forecasts from the truth, or from the truth with a smooth error, know nothing of what many
cycles leave behind: a background that is good where something was observed and, where it
never was, holds all that the forecaster has done wrong since.  A denoiser learns that from
cycles over the training years, with networks of all densities, fixed and changing.

Whose analyses they are matters: what a denoiser has taken off a background is no longer in the
next one, and one that never saw that takes it off again.  ``cycles`` are of 3D-Var;
``own-cycles`` are of the denoiser of ``model``, half of them relaxed to the climatology, and a
denoiser is trained further on them (the dataset aggregation of Ross et al. 2011,
arXiv 1011.0686).  Folders of these names inside that of the forecasts hold them; `load_pairs`
joins all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from xdiffda.assimilation.innovations import estimate_r
from xdiffda.cycling.relaxation import Relaxation, Relaxed, mean_states
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.posterior import posterior_mean
from xdiffda.experiments.osse.pairs import (
    BundledStepper,
    choose_starts,
    fill_groups,
    make_rollout,
    open_stepper,
)
from xdiffda.priors import registry
from xdiffda.priors.diffusion import DiffusionPrior
from xdiffda.priors.prior import Prior, year_phase
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.train.data import CYCLES, N_LEADS, OWN_CYCLES, Nature, Pairs, load_nature, load_pairs
from xdiffda.train.forecaster import Stepper

FIRST_LEAD = 8  # steps of 6 h: a cycle begins with a 48 h forecast, as in the DiffDA paper
EVERY = 3  # every third cycle is kept: neighbours differ little
COLUMNS = (0.015, 0.5)  # share of the grid's columns that is observed
FEWEST = 0.002  # of the denoiser's own cycles: backgrounds as bad as those of a free run, too
ERRORS = (0.1, 1.0)  # of the observations, in units of s
FIXED = 0.7  # share of the cycles whose sites stay where they are
RELAXED = 0.5  # share of the denoiser's own cycles whose forecasts are relaxed, as `cycle` can
RELAXATION = {"hours": 16.0, "power": 2.0}  # as tutorials/results/cycling.toml


class Network(NamedTuple):
    """The observing network of one cycle.

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


class Moment(NamedTuple):
    """One analysis time.

    Attributes
    ----------
    truth : array (node, channel)
        Normalised.
    time : datetime64
    sites : int array (site,)
        Observed nodes.
    """

    truth: Float[np.ndarray, "node channel"]
    time: np.datetime64
    sites: Int[np.ndarray, " site"]


class Tools(NamedTuple):
    """The functions that make an analysis and, where there is one, relax a forecast."""

    prior: Prior
    relaxed: Relaxed | None = None


def make_cycled_pairs(
    nature: Nature,
    stepper: Stepper | BundledStepper,
    prior: Prior,
    out: str | Path,
    *,
    part: str,
    n_initial: int,
    seed: int = 0,
    kind: str = CYCLES,
) -> Pairs:
    """Cycle ``n_initial`` times over 9 days and write every third background.

    Resumable: finished groups are kept.

    Parameters
    ----------
    nature, stepper
        States and the forecaster.
    prior : Prior
        Brings s, B and what the basis cannot represent; those of an earlier model do. For
        ``own-cycles`` also the denoiser and V.
    out : path
        The folder of the pairs of `xdiffda.experiments.osse.pairs.make_pairs`.
    part : {"train", "validation", "evaluation"}
    n_initial : int
        Number of cycles, rounded up to a multiple of 8.
    kind : {"cycles", "own-cycles"}
        Whose analyses: of 3D-Var, or of the denoiser.

    Returns
    -------
    Pairs
        Those of forecasts, if they are there, and of cycles together.
    """
    folder = Path(out) / kind / part
    own = kind == OWN_CYCLES
    steps = FIRST_LEAD + EVERY * N_LEADS
    # other seeds than that of the forecasts: other initial times
    chosen = choose_starts(nature, part, n_initial, steps, seed + 1 + own)
    roll = make_rollout(stepper)
    if not own and isinstance(prior, DiffusionPrior):
        prior = prior.gaussian()
    tools = Tools(prior, relaxation(nature, prior) if own else None)

    def compute(group: int, store: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([seed, 13 + own, group])
        return _cycle(nature, roll, tools, chosen[group], rng)

    fill_groups(folder, len(chosen), nature.states.shape[1:], compute, desc=f"{kind} {part}")
    kept = FIRST_LEAD + EVERY * (1 + np.arange(N_LEADS))
    np.save(folder / "row.npy", (chosen[:, None] + kept[:, None]).reshape(-1))
    (folder / "labels.json").write_text(json.dumps({"kind": kind, "every": EVERY}))
    return load_pairs(out, part)


def relaxation(nature: Nature, prior: Prior, every: int = 20) -> Relaxed:
    """Relaxation of 6 h forecasts to the mean states of the training years."""
    rows = nature.rows("train")[::every, 0]
    x = np.asarray(nature.states[rows]) * nature.stddev + nature.mean
    states = from_state(
        x,
        nature.layout,
        default_convention(nature.layout),
        dims=("time",),
        coords={"time": nature.time[rows]},
    )
    climatology = Relaxation(mean_states(states), **RELAXATION)
    return Relaxed(climatology, prior, np.timedelta64(6, "h"))


def draw_network(
    rng: np.random.Generator, n_node: int, n_channel: int, share: tuple[float, float]
) -> Network:
    """A network of any density within ``share``, with errors of its own for each channel."""
    columns = np.exp(rng.uniform(*np.log(share))) * n_node
    error = np.exp(rng.uniform(*np.log(ERRORS)) + 0.3 * rng.normal(size=n_channel))
    return Network(max(int(columns), 1), bool(rng.random() < FIXED), error)


def _cycle(
    nature: Nature,
    roll: Callable,
    tools: Tools,
    first: Int[np.ndarray, " run"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "cycle run node channel"]:
    """Eight cycles side by side, each with a network of its own."""
    n_node, n_channel = nature.states.shape[1:]
    prior = tools.prior
    columns = COLUMNS if tools.relaxed is None else (FEWEST, COLUMNS[1])
    networks = [draw_network(rng, n_node, n_channel, columns) for _ in first]
    sites = [_sites(prior, rng, n.n_columns) for n in networks]
    relaxed = () if tools.relaxed is None else rng.random(len(first)) < RELAXED

    def forecast(x: np.ndarray, row: np.ndarray, n: int) -> np.ndarray:
        stamps = nature.time[row[:, None] + np.arange(1, n + 1)]
        return np.array(roll(x, year_phase(stamps).transpose(1, 0, 2))[-1])

    states = forecast(np.array(nature.states[first]), first, FIRST_LEAD)
    kept = np.empty((N_LEADS, len(first), n_node, n_channel), np.float32)
    for cycle in range(EVERY * N_LEADS):
        row = first + FIRST_LEAD + cycle
        for i, network in enumerate(networks):
            where = sites[i] if network.fixed else _sites(prior, rng, network.n_columns)
            now = Moment(np.array(nature.states[row[i]]), nature.time[row[i]], where)
            states[i] = analyse(nature, prior, states[i], now, network.error, rng)
        states = forecast(states, row, 1)
        if tools.relaxed is not None:
            for i in np.flatnonzero(relaxed):
                x = states[i] * nature.stddev + nature.mean
                x = tools.relaxed(x, nature.time[row[i] + 1])
                states[i] = (x - nature.mean) / nature.stddev
        if (cycle + 1) % EVERY == 0:
            kept[cycle // EVERY] = states
    return kept


def analyse(
    nature: Nature,
    prior: Prior,
    background: Float[np.ndarray, "node channel"],
    now: Moment,
    error: Float[np.ndarray, " channel"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "node channel"]:
    """The mean analysis from emulated observations of whole columns; normalised states.

    Of a Gaussian prior 3D-Var's, of a denoiser the Kalman update of its conditional mean: the
    mean of guided members to first order, for an eighth of the evaluations. ``error`` is in
    units of s.
    """
    scale = np.asarray(prior.scale, np.float64) / nature.stddev
    given, sites = background, now.sites
    noise = error * rng.normal(size=(len(sites), error.size))
    background = background + scale * prior.noise_correction(background[None] / scale)[0]
    departure = (now.truth[sites] - background[sites]) / scale[sites] + noise
    r = 1.0
    for _ in range(2):  # B and the unresolved variance depend on r
        lost = prior.unresolved_at(r)[sites]
        spread = np.sqrt(np.asarray(prior.covariance_at(r).variance) + lost**2)
        r = estimate_r(
            departure.ravel(),
            spread.ravel(),
            len(sites),
            noise=np.broadcast_to(error, departure.shape).ravel(),
        )
    gain = 1 / np.sqrt(error**2 + (r * prior.unresolved_at(r)[sites]) ** 2)
    index = sites[:, None] * error.size + np.arange(error.size)
    # powers of two: few shapes, so little to compile
    more = (1 << (len(sites) - 1).bit_length()) - len(sites)

    def pad(a):
        return np.pad(a, ((0, more), (0, 0))).reshape(-1)

    likelihood = Likelihood(
        jnp.asarray(pad(departure * gain), jnp.float32),
        jnp.asarray(pad(index)[:, None]),
        jnp.asarray(pad(r * gain)[:, None], jnp.float32),
    )
    conditioned = prior.condition(given * nature.stddev + nature.mean, now.time, r)
    z = posterior_mean(conditioned, likelihood)[:, 0]
    return (background + r * scale * np.asarray(z)).astype(np.float32)


def _sites(prior: Prior, rng: np.random.Generator, n: int) -> Int[np.ndarray, " site"]:
    """Grid points by area, without replacement."""
    weight = prior.layout.grid.area_weights()
    return np.sort(rng.choice(weight.size, n, replace=False, p=weight / weight.sum()))


def main(
    data: str, forecaster: str, out: str, n_train: int, model: str = "speedy", kind: str = CYCLES
) -> None:
    """Make the pairs of cycles, as `osse.pairs.main`; ``model`` is the prior."""
    nature = load_nature(data)
    stepper, prior = open_stepper(nature, forecaster), registry.resolve(model)
    for part, n in (("train", n_train), ("validation", 32), ("evaluation", 64)):
        if n:
            make_cycled_pairs(nature, stepper, prior, out, part=part, n_initial=n, kind=kind)
