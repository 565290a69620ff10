"""The likelihood of a window: observations at several times as functions of its first state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, Int

from xdiffda.assimilation.innovations import judge
from xdiffda.cycling.rollout import STEP
from xdiffda.diffusion.likelihood import Likelihood, StateError
from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations import observation_operator
from xdiffda.observations.operators import none_usable
from xdiffda.observations.padding import padding
from xdiffda.observations.quality import NO_CHECKS, Quality, Structure, check_table
from xdiffda.priors.prior import Prior, year_phase
from xdiffda.state.grid import Layout

# Observations of several times as functions of one state, through the forecaster.


class TrajectoryRows(eqx.Module):
    """Rows of a likelihood that see the states that follow from z at the start of the window.

    Strong constraint: the forecaster is taken to be right, ``H_k(M_k(background + scale z))``
    for the observations of the k-th time.  Stands among the ``general`` rows of a
    `xdiffda.diffusion.likelihood.Likelihood`.

    Attributes
    ----------
    start, n_obs : int
        First of their rows in the likelihood, and their number.
    forward : pytree, callable (x (node, batch, channel), year (batch, 2)) -> x
        One step of the forecaster: ``xdiffda.cycling.rollout.Rollout``.
    years : array (step, 2)
        Phase of the year at the end of every step.
    background, scale : arrays (node, channel)
        x = background + scale z.
    when : int array (obs,)
        Number of steps to the time of each observation.
    index, weight : arrays (obs, term)
        Interpolation from the flattened state of that time.
    gain : array (obs,)
        One over the error; zero where an observation is rejected.
    remat : bool
        Compute steps again for every adjoint: the memory of one, whatever the window, but
        several times the time.
    """

    start: int = eqx.field(static=True)
    n_obs: int = eqx.field(static=True)
    forward: Any
    years: Float[Array, "step 2"]
    background: Float[Array, "node channel"]
    scale: Float[Array, "node channel"]
    when: Int[Array, " obs"]
    index: Int[Array, "obs term"]
    weight: Float[Array, "obs term"]
    gain: Float[Array, " obs"]
    remat: bool = eqx.field(static=True, default=False)

    @property
    def rows(self) -> slice:
        """Their rows in the likelihood."""
        return slice(self.start, self.start + self.n_obs)

    def trajectory(self, z: Float[Array, "node channel"]) -> Float[Array, "time node channel"]:
        """States at the start of the window and after every step, physical units."""
        first = self.background + self.scale * z

        def step(x: Array, year: Array) -> tuple[Array, Array]:
            x = self.forward(x[:, None], year[None])[:, 0]
            return x, x

        step = jax.checkpoint(step) if self.remat else step
        _, later = jax.lax.scan(step, first, self.years)
        return jnp.concatenate([first[None], later])

    def equivalents(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """H_k(M_k(x)), natural units."""
        states = self.trajectory(z).reshape(len(self.years) + 1, -1)
        return jnp.sum(states[self.when[:, None], self.index] * self.weight, axis=-1)

    def _h(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        return self.gain * self.equivalents(z)

    def predict(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """H(z) - H(0) per error."""
        return self._h(z) - self._h(jnp.zeros_like(z))

    def linearised(self, point: Float[Array, "node channel"]) -> LinearRows:
        """Tangent and adjoint at ``point``, the forecaster run once for all that follows."""
        pull = jax.vjp(self._h, point)[1]
        return LinearRows(self.start, self.n_obs, pull)

    def pull(self, y: Array, point: Float[Array, "node channel"]) -> Array:
        """Adjoint of the tangent at ``point`` applied to y."""
        return self.linearised(point).pull(y)

    def push(self, z: Array, point: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """Tangent at ``point`` applied to z."""
        return self.linearised(point).push(z)


class LinearRows(eqx.Module):
    """`TrajectoryRows` linearised at a point: what a solver applies again and again.

    Attributes
    ----------
    start, n_obs : int
    adjoint : pytree, callable y (obs,) -> (z (node, channel),)
        Holds what the steps of the forecaster left behind.
    """

    start: int = eqx.field(static=True)
    n_obs: int = eqx.field(static=True)
    adjoint: Callable[[Array], tuple[Array, ...]]

    @property
    def rows(self) -> slice:
        """Their rows in the likelihood."""
        return slice(self.start, self.start + self.n_obs)

    def linearised(self, point: Array) -> LinearRows:
        """Itself."""
        return self

    def pull(self, y: Float[Array, " obs"], point: Array | None = None) -> Array:
        """Adjoint applied to y."""
        return self.adjoint(y)[0]

    def push(self, z: Float[Array, "node channel"], point: Array | None = None) -> Array:
        """Tangent applied to z.

        As the transpose of the adjoint, since the network's own derivative rules know no
        forward mode.
        """
        nothing = jnp.zeros((self.n_obs,), z.dtype)
        return jax.vjp(lambda y: self.adjoint(y)[0], nothing)[1](z)[0]


N_DRAWS = 16  # of the prior, by which the spread of later times is judged
FORECASTER, FGAT, NONE = "forecaster", "fgat", "none"
DYNAMICS = (FORECASTER, FGAT, NONE)


class _Table(NamedTuple):
    """Observations of the window, ordered by time and padded to common shapes."""

    value: Float[np.ndarray, " obs"]
    error: Float[np.ndarray, " obs"]
    when: Int[np.ndarray, " obs"]
    index: Int[np.ndarray, "obs term"]
    weight: Float[np.ndarray, "obs term"]
    position: Int[np.ndarray, " obs"]  # row of the tidy table; -1 of rows that fill up


@with_own_jax
def window_likelihood(
    forward: Any,
    prior: Prior,
    background: Float[np.ndarray, "node channel"],
    time: np.datetime64,
    tidy: xr.Dataset,
    *,
    n_windows: int,
    background_error: float | str = "estimate",
    quality: Quality | None = None,
    model_error: float = 0.0,
    dynamics: str = FORECASTER,
    remat: bool = False,
) -> tuple[Likelihood, float, dict[str, Any]]:
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
    quality : Quality, optional
        Quality control; None for none.
    model_error : float
    dynamics : {"forecaster", "fgat", "none"}
    remat : bool
        See `xdiffda.cycling.four_d.assimilate_window`.

    Returns
    -------
    likelihood : Likelihood
    r : float
        Scale of the background error.
    record : dict
        ``used`` and ``rejected`` numbers, ``r``, ``kept``, the rows of ``tidy`` in use, and
        ``lost``, those rejected by reason.

    Raises
    ------
    InputError
        If no observation is left.
    """
    quality = quality or NO_CHECKS
    table, structure, lost = _collect(tidy, time, n_windows, prior.layout, quality)
    table, real = _filled(table)
    steps = time + np.arange(1, n_windows + 1) * STEP
    # per instrument's error; what depends on r comes with the estimate
    rows = TrajectoryRows(
        0,
        real.size,
        forward,
        jnp.asarray(year_phase(steps)),
        jnp.asarray(background, jnp.float32),
        jnp.asarray(prior.scale, jnp.float32),
        jnp.asarray(np.where(dynamics == NONE, 0, table.when)),
        jnp.asarray(table.index),
        jnp.asarray(table.weight, jnp.float32),
        jnp.asarray(1 / table.error, jnp.float32),
        remat,
    )
    scale = prior.scale.reshape(-1)[table.index]
    own = table.weight * scale / table.error[:, None]  # of z where it stands still, per error
    still = None if dynamics == FORECASTER else jnp.asarray(own, jnp.float32)
    drift = model_error * table.when[:, None] * own
    guess = np.asarray(_guess(rows), np.float64)

    def seen_at(r: float) -> _Seen:
        spread = np.asarray(_spread(rows, still, prior.covariance_at(r)), np.float64)
        # what the basis lacks counts as error of representativeness
        unresolved = own * prior.unresolved_at(r).reshape(-1)[table.index]
        return _Seen(
            (table.value - guess) / table.error,
            spread,
            np.sqrt((unresolved**2).sum(1)),
            np.abs(drift).sum(1),
        )

    given = None if background_error == "estimate" else float(background_error)
    seen, r, good, bad = judge(
        seen_at(1.0 if given is None else given),
        lambda r, _: seen_at(r),
        real,
        structure.take(table.position),
        quality,
        r=given,
    )
    lost |= {reason: np.sort(table.position[where]) for reason, where in bad.items()}
    if not good.any():
        raise InputError(
            [
                Problem(
                    f"all {real.sum()} observations beyond {quality.gross_check:g} expected "
                    "standard deviations from the background's forecast",
                    "observations and background of the same time and model",
                    "assimilate_window(background, obs, "
                    "quality=xdiffda.Quality(gross_check=np.inf))",
                )
            ],
            what="observations",
        )
    more = np.sqrt(1 + (r * seen.lost) ** 2)  # the whole error over the instrument's
    rows = eqx.tree_at(lambda own: own.gain, rows, rows.gain / jnp.asarray(more, jnp.float32))
    value = np.where(good, (table.value - guess) / (table.error * more), 0.0)
    own, drift = (a / more[:, None] for a in (own, drift))
    return (
        _likelihood(rows, value, good, r, own, drift, prior, dynamics),
        r,
        {
            "used": int(good.sum()),
            "rejected": {reason: len(where) for reason, where in lost.items()},
            "r": r,
            "kept": np.sort(table.position[good]),
            "lost": lost,
        },
    )


def _likelihood(
    rows: TrajectoryRows,
    value: np.ndarray,
    good: Bool[np.ndarray, " obs"],
    r: float,
    own: np.ndarray,
    drift: np.ndarray,
    prior: Prior,
    dynamics: str,
) -> Likelihood:
    """The rows that are good; the others keep their places with weight zero."""

    def used(a):
        return jnp.asarray(good[:, None] * a, jnp.float32)

    late = None
    # through the forecaster even where it is nothing: compiling takes longer than solving
    if drift.any() or dynamics == FORECASTER:
        late = StateError(rows.index, used(drift), prior.covariance)
    whitened = jnp.asarray(value, jnp.float32)
    if dynamics != FORECASTER:
        return Likelihood(whitened, rows.index, used(r * own), state_error=late)
    moving = eqx.tree_at(
        lambda own: (own.scale, own.gain), rows, (r * rows.scale, jnp.where(good, rows.gain, 0.0))
    )
    nothing = jnp.zeros((rows.n_obs, 1))
    return Likelihood(
        whitened, nothing.astype(jnp.int32), nothing, general=(moving,), state_error=late
    )


class _Seen(NamedTuple):
    """Departures, and what they are expected to be, per instrument's error.

    Attributes
    ----------
    departure : array (obs,)
    spread, lost : arrays (obs,)
        Standard deviation of H z, and of what the basis cannot represent, for a unit r.
    drift : array (obs,)
        Of the model's error.
    """

    departure: Float[np.ndarray, " obs"]
    spread: Float[np.ndarray, " obs"]
    lost: Float[np.ndarray, " obs"]
    drift: Float[np.ndarray, " obs"]

    @property
    def whole_spread(self) -> Float[np.ndarray, " obs"]:
        """Standard deviation of the background seen by H, for a unit r."""
        return np.hypot(self.spread, self.lost)

    @property
    def noise(self) -> Float[np.ndarray, " obs"]:
        """Return the part of the error variance that does not grow with r."""
        return np.hypot(1.0, self.drift)


@eqx.filter_jit
def _guess(rows: TrajectoryRows) -> Array:
    """Return the background's equivalents of the observations."""
    return rows.equivalents(jnp.zeros_like(rows.background))


@eqx.filter_jit
def _spread(rows: TrajectoryRows, still: Float[Array, "obs term"] | None, covariance: Any) -> Array:
    """Standard deviation of the observations for a unit r, per error.

    ``still`` are the weights of an increment that stands still; without them the forecaster
    moves it.
    """
    draws = covariance.sample(jax.random.split(jax.random.key(0), N_DRAWS))
    if still is None:
        moved = rows.linearised(jnp.zeros_like(rows.background))
        pushed = jax.lax.map(moved.push, jnp.moveaxis(draws, 1, 0))
    else:
        pushed = Likelihood(rows.gain, rows.index, still).apply(draws).T
    return jnp.sqrt(jnp.mean(pushed**2, axis=0))


def _filled(table: _Table) -> tuple[_Table, Bool[np.ndarray, " obs"]]:
    """Rows that see nothing at the end, so that windows share compiled code."""
    n, more = table.value.size, padding(table.value.size)
    wide = [np.pad(a, ((0, more), *((0, 0),) * (a.ndim - 1))) for a in table]
    real = np.arange(n + more) < n
    filled = _Table(*wide)
    return filled._replace(
        error=np.where(real, filled.error, 1.0), position=np.where(real, filled.position, -1)
    ), real


def _collect(
    tidy: xr.Dataset, time: np.datetime64, n_windows: int, layout: Layout, quality: Quality
) -> tuple[_Table, Structure, dict[str, Int[np.ndarray, " obs"]]]:
    """Good observations by the step nearest in time; those without a time are of the start."""
    stamps = np.where(np.isnat(tidy["time"].values), time, tidy["time"].values)
    tidy = tidy.assign_coords(time=("obs", stamps))
    before, last = time - STEP / 2, time + n_windows * STEP + STEP / 2
    outside = (stamps <= before) | (stamps > last)
    if outside.all():
        raise InputError(
            [
                Problem(
                    f"{stamps.size} observations from {str(stamps.min())[:16]} to "
                    f"{str(stamps.max())[:16]}",
                    f"observations within {str(before)[:16]} to {str(last)[:16]}",
                    f'background.sel(time="{str(stamps.min())[:16]}")',
                )
            ],
            what="observations",
        )
    lost = {"outside the window": np.flatnonzero(outside)} if outside.any() else {}
    inside = np.flatnonzero(~outside)
    # the step whose six hours an observation is of; their end belongs to them
    step_of = np.ceil((stamps - before) / STEP).astype(np.int64) - 1
    wrong = check_table(tidy.isel(obs=inside), quality, time=time, slot=step_of[inside])
    for reason, rows in wrong.items():
        lost[reason] = inside[rows]
    good = np.setdiff1d(inside, np.concatenate([*wrong.values(), inside[:0]]))
    structure = Structure.of(tidy, step_of)
    pieces = []
    for step in np.unique(step_of[good]):
        rows = good[step_of[good] == step]
        obs, kept, reasons = observation_operator(tidy.isel(obs=rows), layout)
        for reason, where in reasons.items():
            lost[reason] = np.concatenate([lost.get(reason, rows[:0]), rows[where]])
        pieces.append(
            (
                np.asarray(obs.value, np.float64),
                np.asarray(obs.error_std, np.float64),
                np.full(obs.n_obs, step),
                np.asarray(obs.index),
                np.asarray(obs.weight),
                rows[kept],
            )
        )
    if not pieces:
        raise none_usable(inside.size, wrong, layout)
    width = max(piece[3].shape[1] for piece in pieces)

    def wide(a):
        return np.pad(a, ((0, 0), (0, width - a.shape[1])))

    value, error, when, index, weight, position = (
        np.concatenate([wide(p[i]) if i in (3, 4) else p[i] for p in pieces]) for i in range(6)
    )
    # perturbations are drawn along this order: not that of the user's file
    order = np.lexsort([error, value, *index.T[::-1], when])
    table = _Table(*(a[order] for a in (value, error, when, index, weight, position)))
    return table, structure, lost
