"""4D: one state that fits the observations of a whole window through the forecaster.

The forecaster is a network, so its tangent and adjoint come for nothing: observations of
later times are functions of the state at the start of the window, and both 4D-Var (strong
constraint; Le Dimet & Talagrand 1986; outer loops of Courtier et al. 1994) and guidance of
the diffusion prior (Rozet & Louppe 2023, arXiv 2306.10574, guide whole trajectories; here
the forecaster links the times) follow with the likelihood of `TrajectoryRows`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from xdiffda import registry
from xdiffda._innovations import estimate_r
from xdiffda._rollout import STEP, load_rollout
from xdiffda._stream import duration, time_seed
from xdiffda._trajectory import TrajectoryRows
from xdiffda.diffusion.guidance import Solver, make_draws, update
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.diffusion.sampling import Guidance, sample_posterior
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations import observation_operator, select_window, to_tidy
from xdiffda.options import get_options
from xdiffda.prior import Prior, year_phase
from xdiffda.state import Layout, from_state, to_state

PADDING = 128
SMALL_SCALES = 0x5CA1E
N_DRAWS = 16  # of the prior, by which the spread of later times is judged
METHODS = ("guided", "3dvar")

__all__ = ["TrajectoryRows", "assimilate_window", "window_likelihood"]


def assimilate_window(
    background: xr.Dataset, obs: Any, *, window: str = "12h", n_members: int = 8,
    model: str | Prior | None = None, forward: Any = None, method: str = "guided",
    n_steps: int = 8, covariance: str | None = None, background_error: float | str = "estimate",
    model_error: float = 0.0, gross_check: float = 10.0, antithetic: bool = True,
    small_scales: bool = True, max_batch: int = 8, seed: int = 0,
) -> xr.Dataset:  # fmt: skip
    """Analyse the state at the start of a window from the observations of all of it.

    Both ends of the window belong to it: where windows follow each other, give the
    observations of the instant between two of them to one only.

    Parameters
    ----------
    background : Dataset
        One state at the start of the window, in any usual convention.
    obs : Dataset or DataFrame
        In columns or tidy. Each is compared with the step of the forecaster nearest in time.
    window : str
        Length; a multiple of the forecaster's 6 h.
    n_members : int
    model : str or Prior, optional
    forward : pytree, optional
        One step of the forecaster on arrays, as `xdiffda.forecast.load_rollout` gives it;
        default that of the model.
    method : {"guided", "3dvar"}
        Guided: posterior sampling with the diffusion prior. 3dvar: with its B alone, which
        is 4D-Var; one member.
    n_steps : int
        Network evaluations for each member.
    model_error : float
        What one step of the forecaster adds to the error, in units of s. Counts as error of
        the observations of later times, growing with every step (an error that persists):
        without it, an imperfect forecaster is bent to fit them. Measured for the bundled
        model: 0.23, which the innovations of forecasts from good analyses show.
    covariance, background_error, gross_check, antithetic, small_scales, max_batch, seed
        See `xdiffda.assimilate`.

    Returns
    -------
    Dataset
        As the background, with the dimension ``member`` in front.

    Raises
    ------
    InputError
        If background, observations or settings do not fit.
    """
    prior = registry.resolve(model)
    x, layout, convention = to_state(background, prior.layout, what="background")
    times = convention.valid_times
    problems = []
    if x.size != layout.grid.n_node * layout.n_channel or times is None or np.isnat(times).any():
        problems.append(Problem("several states, or none with a time", "one state with its time",
                                "background.isel(time=0)"))  # fmt: skip
    if method not in METHODS:
        problems.append(Problem(f"method={method!r}", f"one of {', '.join(METHODS)}",
                                'assimilate_window(background, obs, method="guided")'))  # fmt: skip
    if not duration(window) > 0 * STEP or duration(window) % STEP:
        problems.append(Problem(f"window={window!r}", "a positive multiple of 6 h",
                                'assimilate_window(background, obs, window="12h")'))  # fmt: skip
    raise_if(problems, what="4D assimilation")
    time = np.asarray(times).reshape(-1)[0]
    x = x.reshape(x.shape[-2:])
    likelihood, r, record = window_likelihood(
        _forward(model, prior) if forward is None else forward, prior, x, time, to_tidy(obs),
        n_windows=int(duration(window) // STEP), background_error=background_error,
        gross_check=gross_check, model_error=model_error,
    )  # fmt: skip
    if method == "3dvar":
        z = np.asarray(_variational(prior.covariance, likelihood, Solver()))
    else:
        key, conditioned = jax.random.key(time_seed(seed, time)), prior.condition(x, time, r)
        parts = []
        for first in range(0, n_members, max_batch):
            numbers = jnp.arange(first, min(first + max_batch, n_members))
            draws = make_draws(key, numbers, antithetic=antithetic)
            part = sample_posterior(
                conditioned, likelihood, draws,
                covariance=covariance or prior.default_covariance,
                guidance=Guidance(n_steps=n_steps),
            )  # fmt: skip
            if small_scales:  # of keys that nothing else uses
                keys = jax.vmap(lambda k: jax.random.fold_in(k, SMALL_SCALES))(draws.keys)
                part = part + draws.signs[:, None] * prior.small_scales(keys)
            parts.append(np.asarray(part))
        z = np.concatenate(parts, axis=1)
    members = x[None] + r * prior.scale[None] * np.moveaxis(z, 1, 0)
    analysis = from_state(members, layout, convention, dims=("member",))
    return analysis.assign_attrs({
        "xdiffda_model": prior.name, "xdiffda_method": f"4D {method}", "xdiffda_seed": seed,
        "xdiffda_observations_used": [record["used"]],
        "xdiffda_observations_rejected": json.dumps([record["rejected"]]),
        "xdiffda_background_error": [round(r, 4)],
    })  # fmt: skip


@eqx.filter_jit
def _variational(covariance: Any, likelihood: Likelihood, solver: Solver) -> Array:
    """4D-Var with outer loops: Gauss-Newton, linearised anew at each."""
    shape = (covariance.basis.n_node, 1, covariance.values.shape[1])
    return update(likelihood, covariance, jnp.zeros(shape), solver=solver)[0]


def _forward(model: Any, prior: Prior) -> Callable:
    name = prior.name if isinstance(model, Prior) else model or get_options().default_model
    rollout = load_rollout(Path(name) if Path(name).is_dir() else name)
    if rollout.layout != prior.layout:
        raise InputError([Problem(f"a forecaster for {rollout.layout}", f"{prior.layout}",
                                  "assimilate_window(..., forward=rollout)")],
                         what="4D assimilation")  # fmt: skip
    return rollout


class _Table(NamedTuple):
    """Observations of the window in an order of their own."""

    value: Float[np.ndarray, " obs"]
    error: Float[np.ndarray, " obs"]
    when: Int[np.ndarray, " obs"]
    index: Int[np.ndarray, "obs term"]
    weight: Float[np.ndarray, "obs term"]
    site: Int[np.ndarray, " obs"]


def window_likelihood(
    forward: Any, prior: Prior, background: Float[np.ndarray, "node channel"],
    time: np.datetime64, tidy: xr.Dataset, *, n_windows: int,
    background_error: float | str = "estimate", gross_check: float = 10.0,
    model_error: float = 0.0,
) -> tuple[Likelihood, float, dict[str, Any]]:  # fmt: skip
    """Likelihood of z at the start of a window, given the observations of its times.

    Parameters
    ----------
    forward : pytree, callable
        One step of the forecaster on arrays.
    prior : Prior
    background : array (node, channel), physical units
    time : datetime64
        Start of the window.
    tidy : Dataset
        Validated tidy observations.
    n_windows : int
        Steps of the forecaster in the window.
    background_error : float or "estimate"
    gross_check : float
    model_error : float
        See `assimilate_window`.

    Returns
    -------
    likelihood : Likelihood
    r : float
        Scale of the background error.
    record : dict
        ``used`` and ``rejected`` numbers.

    Raises
    ------
    InputError
        If no observation is left.
    """
    table, rejected = _collect(tidy, time, n_windows, prior.layout)
    r0 = 1.0 if background_error == "estimate" else float(background_error)
    lost = table.weight * (prior.scale * prior.unresolved).reshape(-1)[table.index] * r0
    own = np.abs(table.weight * prior.scale.reshape(-1)[table.index]).sum(1)
    drift = model_error * table.when * own
    # what the basis lacks counts as error of representativeness, so does the forecaster's error
    error = np.sqrt(table.error**2 + (lost**2).sum(1) + drift**2)
    n, more = table.value.size, -table.value.size % PADDING
    pad = lambda a: np.pad(a, ((0, more), *((0, 0),) * (a.ndim - 1)))  # noqa: E731
    scale = jnp.asarray(prior.scale, jnp.float32)
    steps = time + np.arange(1, n_windows + 1) * STEP

    rows = TrajectoryRows(
        0, n + more, forward, jnp.asarray(year_phase(steps)),
        jnp.asarray(background, jnp.float32), scale, jnp.asarray(pad(table.when)),
        jnp.asarray(pad(table.index)), jnp.asarray(pad(table.weight), jnp.float32),
        jnp.asarray(pad(1 / error), jnp.float32),
    )  # fmt: skip
    guess, spread = (np.asarray(a, np.float64)[:n] for a in _seen(rows, prior.covariance))
    departure, r = (table.value - guess) / error, r0
    good = np.isfinite(departure)
    for _ in range(2):  # a gross error must not inflate the r that judges it
        if background_error == "estimate":
            n_site = np.unique(table.site[good]).size
            r = estimate_r(departure[good], spread[good], n_site)
        good = np.abs(departure) <= gross_check * np.sqrt(1 + (r * spread) ** 2)
    if gross := int((~good).sum()):
        rejected["gross error"] = gross
    if not good.any():
        raise InputError([Problem(f"all {n} observations far from the background's forecast",
                                  "observations and background of the same time and model",
                                  "assimilate_window(..., gross_check=np.inf)")],
                         what="observations")  # fmt: skip
    rows = eqx.tree_at(
        lambda own: (own.scale, own.gain), rows,
        (r * scale, jnp.asarray(pad(good / error), jnp.float32)),
    )  # fmt: skip
    nothing = jnp.zeros((n + more, 1))
    value = jnp.asarray(pad(np.where(good, departure, 0.0)), jnp.float32)
    likelihood = Likelihood(value, nothing.astype(jnp.int32), nothing, general=(rows,))
    return likelihood, r, {"used": int(good.sum()), "rejected": rejected, "r": r}


@eqx.filter_jit
def _seen(rows: TrajectoryRows, covariance: Any) -> tuple[Array, Array]:
    """What the observations would be of the background, and its spread for a unit r, per error."""
    origin = jnp.zeros_like(rows.background)
    draws = covariance.sample(jax.random.split(jax.random.key(0), N_DRAWS))
    pushed = jax.lax.map(lambda z: rows.push(z, origin), jnp.moveaxis(draws, 1, 0))
    return rows.equivalents(origin), jnp.sqrt(jnp.mean(pushed**2, axis=0))


def _collect(
    tidy: xr.Dataset, time: np.datetime64, n_windows: int, layout: Layout
) -> tuple[_Table, dict[str, int]]:
    """Observations by the step nearest in time; those without a time are of the start."""
    stamps = np.where(np.isnat(tidy["time"].values), time, tidy["time"].values)
    tidy = tidy.assign_coords(time=("obs", stamps))
    before, last = time - STEP / 2, time + n_windows * STEP + STEP / 2
    outside = (stamps <= before) | (stamps > last)
    rejected = {"outside the window": int(outside.sum())} if outside.any() else {}
    pieces = []
    for step in range(n_windows + 1):
        middle = time + step * STEP
        if not ((stamps > middle - STEP / 2) & (stamps <= middle + STEP / 2)).any():
            continue
        inside, _ = select_window(tidy, middle, STEP)
        obs, kept, reasons = observation_operator(inside, layout)
        for reason, where in reasons.items():
            rejected[reason] = rejected.get(reason, 0) + len(where)
        places = np.round(np.stack([inside["lat"], inside["lon"]], 1)[kept], 4)
        pieces.append((
            np.asarray(obs.value, np.float64), np.asarray(obs.error_std, np.float64),
            np.full(obs.n_obs, step), np.asarray(obs.index), np.asarray(obs.weight), places,
        ))  # fmt: skip
    if not pieces:
        raise InputError([Problem(
            f"{stamps.size} observations from {str(stamps.min())[:16]} to "
            f"{str(stamps.max())[:16]}",
            f"observations within {str(before)[:16]} to {str(last)[:16]}",
            f'background.sel(time="{str(stamps.min())[:16]}")',
        )], what="observations")  # fmt: skip
    width = max(piece[3].shape[1] for piece in pieces)
    wide = lambda a: np.pad(a, ((0, 0), (0, width - a.shape[1])))  # noqa: E731
    value, error, when, index, weight, places = (
        np.concatenate([wide(p[i]) if i in (3, 4) else p[i] for p in pieces]) for i in range(6)
    )
    site = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    # perturbations are drawn along this order: not that of the user's file
    order = np.lexsort([error, value, *index.T[::-1], when])
    return _Table(*(a[order] for a in (value, error, when, index, weight, site))), rejected
