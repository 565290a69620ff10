"""Departures of the background from the observations, part by part, as rows of one likelihood.

A part holds the observations of one kind of H: the linear ones, one local function, one function
of the whole state.  Each is sorted in an order of its own (the analysis does not depend on that
of the user's file) and filled up, so that analysis times share compiled code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from xdiffda._filling import filling
from xdiffda._points import Points, points_of
from xdiffda.diffusion.likelihood import Likelihood, LocalRows, StateRows
from xdiffda.errors import InputError, Problem
from xdiffda.observations.fgat import TimeStencil, local_guess, seen, state_guess
from xdiffda.observations.rows import LocalGroup, Rows, StateGroup
from xdiffda.prior import Prior

# draws of the prior by which the spread of a function of the whole state is judged
N_DRAWS = 16

States = Float[np.ndarray, "time node channel"]
Flags = Bool[np.ndarray, " obs"]
Numbers = Float[np.ndarray, " obs"]
# (first row, scale of z, error of its rows, which of them are used) -> rows that are not linear
Build = Callable[[int, np.ndarray, Numbers, Flags], "LocalRows | StateRows"]


@dataclass(frozen=True)
class Part:
    """Observations of one kind, natural units.

    Attributes
    ----------
    position : int array (obs,)
        Rows of the tidy table.
    value, error_std, guess : arrays (obs,)
        Observed value, its error, and H of the background at its time.
    index, weight : arrays (obs, term)
        Sparse tangent of H at the background.
    period : float
        Length of the circle it lives on, or infinite.
    spread, unresolved : arrays (obs,)
        Standard deviations of H z for a unit r, and of what the basis cannot represent, where
        the sparse tangent does not give them.
    build : callable, optional
        Makes the rows that are not linear.
    """

    position: Int[np.ndarray, " obs"]
    value: Numbers
    error_std: Numbers
    guess: Numbers
    index: Int[np.ndarray, "obs term"]
    weight: Float[np.ndarray, "obs term"]
    period: float = np.inf
    spread: Numbers | float = 0.0
    unresolved: Numbers | float = 0.0
    build: Build | None = None


@dataclass(frozen=True)
class Table:
    """All rows, filled up part by part; filling rows have position -1 and see nothing.

    Errors hold what the basis cannot represent, and spreads are those of B, for a background
    error of scale ``r``.
    """

    parts: tuple[tuple[int, Part], ...]
    scale: Float[np.ndarray, "node channel"]
    position: Int[np.ndarray, " obs"]
    departure: Numbers
    error: Numbers
    index: Int[np.ndarray, "obs term"]
    sensitivity: Float[np.ndarray, "obs term"]
    spread: Numbers
    period: Numbers
    instrument_share: Numbers
    finite: Flags
    r: float
    points: Points | None

    @property
    def noise(self) -> Numbers:
        """Standard deviation of the instrument's error, per error: what does not grow with r."""
        return np.where(np.isfinite(self.error), self.instrument_share, 1.0)

    @property
    def whole_spread(self) -> Numbers:
        """Standard deviation of the background seen by H for a unit r, per error.

        Both what the basis represents and what it does not: the second is a part of the error
        here (`assemble`), for the r of the table.
        """
        return np.sqrt(self.spread**2 + (1 - self.noise**2) / self.r**2)

    @property
    def predicted_std(self) -> Numbers:
        """Standard deviation of H z for a unit r, natural units."""
        with np.errstate(invalid="ignore"):  # infinite errors, beside which nothing is seen
            return self.spread * self.error

    def likelihood(self, good: Flags) -> Likelihood:
        """Rows that are not good stay with weight zero: shapes, so compiled code, are kept."""
        rows = []
        for start, part in self.parts:
            own = slice(start, start + part.value.size)
            if part.build is not None and good[own].any():
                rows.append(part.build(start, self.r * self.scale, self.error[own], good[own]))
        circular = np.isfinite(self.period).any()
        return Likelihood(
            jnp.asarray(np.where(good, self.departure, 0.0), jnp.float32),
            jnp.asarray(self.index),
            jnp.asarray(self.sensitivity * good[:, None] * self.r, jnp.float32),
            local=tuple(part for part in rows if isinstance(part, LocalRows)),
            general=tuple(part for part in rows if isinstance(part, StateRows)),
            period=jnp.asarray(self.period / self.error, jnp.float32) if circular else None,
            instrument=jnp.asarray(self.instrument_share, jnp.float32),
            points=None if any(isinstance(part, StateRows) for part in rows) else self.points,
        )


def assemble(
    parts: list[Part], prior: Prior, r: float,
    day: Float[np.ndarray, "node channel"] | None = None,
) -> Table:  # fmt: skip
    """One table of all parts for a scale r: B, and errors of representativeness, are those of r.

    ``day`` is the ratio of the variance of the day to B's, of a background ensemble.
    """
    std = np.sqrt(np.asarray(prior.covariance_at(r).variance, np.float64))
    std = np.broadcast_to(std if day is None else std * np.sqrt(day), prior.scale.shape)
    width = max(part.index.shape[1] for part in parts)
    starts, columns = [], []
    total = 0
    for part in parts:
        starts.append((total, part))
        columns.append(_columns(part, prior, r, width, std))
        total += columns[-1][0].size
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    n_column = prior.covariance.basis.scalar.along_columns.shape[1]
    n_node, n_channel = prior.scale.shape
    points = points_of(joined[3], n_channel=n_channel, n_row=n_node // n_column, n_column=n_column)
    return Table(tuple(starts), prior.scale, *joined, r=r, points=points)


def _columns(
    part: Part, prior: Prior, r: float, width: int, std: Float[np.ndarray, "node channel"]
) -> tuple[np.ndarray, ...]:
    scale = prior.scale.reshape(-1)[part.index]
    # what the basis cannot represent is error of representativeness
    own = part.weight * (prior.scale * prior.unresolved_at(r)).reshape(-1)[part.index] * r
    unresolved = (own**2).sum(1) + np.square(part.unresolved)
    error = np.sqrt(part.error_std**2 + unresolved)
    departure = part.value - part.guess
    if np.isfinite(part.period):
        departure -= part.period * np.round(departure / part.period)
    finite = np.isfinite(part.guess) & np.isfinite(part.weight).all(1)
    # how one unit of z in each of the elements shows in an observation, per error
    sensitivity = np.where(finite[:, None], part.weight * scale, 0.0) / error[:, None]
    spread = np.abs(sensitivity * std.reshape(-1)[part.index]).sum(1) + part.spread / error
    more, wider = filling(part.value.size), width - part.index.shape[1]
    pad = lambda a, fill=0.0: np.pad(a, (0, more), constant_values=fill)  # noqa: E731
    pad2 = lambda a: np.pad(a, ((0, more), (0, wider)))  # noqa: E731
    with np.errstate(invalid="ignore"):
        share = np.where(np.isfinite(error), part.error_std / error, 0.0)
    return (
        pad(part.position, -1), pad(np.where(finite, departure / error, 0.0)), pad(error, 1.0),
        pad2(part.index), pad2(sensitivity), pad(spread),
        pad(np.full(part.value.size, part.period), np.inf), pad(share), pad(finite, True),
    )  # fmt: skip


def linear_part(rows: Rows, tidy: xr.Dataset, states: States, at: TimeStencil) -> Part:
    """Observations that are interpolated variables of the state."""
    obs = rows.linear
    assert obs is not None
    value, error = np.asarray(obs.value, np.float64), np.asarray(obs.error_std, np.float64)
    index, weight = np.asarray(obs.index), np.asarray(obs.weight, np.float64)
    order = np.lexsort([error, value, *weight.T, *index.T[::-1]])
    index, weight, position = index[order], weight[order], rows.position[order]
    guess = seen(states, index, weight, at.take(position))
    return Part(position, value[order], error[order], guess, index, weight)


def local_part(group: LocalGroup, tidy: xr.Dataset, states: States, at: TimeStencil) -> Part:
    """Observations of a local operator, linearised at the background."""
    value, error = _observed(tidy, group.position)
    flat = group.position.size, -1
    order = _order(
        group.index.reshape(flat), group.weight.reshape(flat), *group.parameters.T, value, error
    )
    group = group._replace(
        position=group.position[order], index=group.index[order], weight=group.weight[order],
        parameters=group.parameters[order],
    )  # fmt: skip
    inputs, guess = local_guess(group, states, at)
    call, parameters = group.call, np.asarray(group.parameters, np.float32)
    slopes = np.asarray(call.slopes(np.asarray(inputs, np.float32), parameters), np.float64)

    def build(start: int, scale: np.ndarray, error: Numbers, good: Flags) -> LocalRows:
        take, used = _stand_ins(good)
        gather = group.weight * scale.reshape(-1)[group.index]
        as32 = lambda a: jnp.asarray(a[take], jnp.float32)  # noqa: E731
        return LocalRows(
            call, start, as32(inputs), as32(gather) * used[:, None, None], as32(parameters),
            as32(error),
        )  # fmt: skip

    return Part(
        group.position, value[order], error[order], guess, group.index.reshape(flat),
        (slopes[:, :, None] * group.weight).reshape(flat),
        period=group.operator.period or np.inf, build=build,
    )  # fmt: skip


def state_part(
    group: StateGroup, tidy: xr.Dataset, states: States, at: TimeStencil,
    background: Float[np.ndarray, "node channel"], prior: Prior, r: float,
) -> Part:  # fmt: skip
    """Observations of a function of the whole state; its spread is judged by draws of the prior."""
    value, error = _observed(tidy, group.position)
    if group.call.sees_observations:  # else only the user knows what their order means
        order = _order(*group.fields.values(), value, error)
        fields = {name: field[order] for name, field in group.fields.items()}
        group = group._replace(position=group.position[order], fields=fields)
        value, error = value[order], error[order]
    guess = state_guess(group, states, at)
    fields = {name: jnp.asarray(f, jnp.float32) for name, f in group.fields.items()}
    base = jnp.asarray(background, jnp.float32)
    push = jax.vmap(lambda dx: jax.jvp(lambda x: group.call(x, fields), (base,), (dx,))[1])
    keys = jax.random.split(jax.random.key(0), N_DRAWS)
    drawn = jnp.moveaxis(prior.covariance_at(r).sample(keys), 1, 0) * prior.scale
    noise = jax.random.normal(keys[0], (N_DRAWS, *prior.scale.shape))
    lost = noise * (prior.scale * prior.unresolved_at(r) * r)
    spread, unresolved = (
        np.sqrt(np.mean(np.square(np.asarray(push(x), np.float64)), axis=0)) for x in (drawn, lost)
    )
    if bad := int((~(np.isfinite(guess) & np.isfinite(spread))).sum()):
        raise InputError(
            [Problem(f"H({group.call.name}) or its derivative not finite at the background for "
                     f"{bad} of {guess.size} observations",
                     "finite numbers", "jnp.where with safe arguments on both branches")],
            what="observation operator",
        )  # fmt: skip

    def build(start: int, scale: np.ndarray, error: Numbers, good: Flags) -> StateRows:
        return StateRows(
            group.call, start, guess.size, base, jnp.asarray(scale, jnp.float32), fields,
            jnp.asarray(good / error, jnp.float32),
        )  # fmt: skip

    nothing = np.zeros((guess.size, 1))
    return Part(
        group.position, value, error, guess, nothing.astype(np.int32), nothing,
        period=group.operator.period or np.inf, spread=spread, unresolved=unresolved, build=build,
    )  # fmt: skip


def _observed(tidy: xr.Dataset, position: Int[np.ndarray, " obs"]) -> tuple[Numbers, Numbers]:
    value, error = (tidy[name].values[position] for name in ("value", "error_std"))
    return value.astype(np.float64), error.astype(np.float64)


def _order(*columns: np.ndarray) -> Int[np.ndarray, " obs"]:
    """An order that does not depend on the order given; the first columns count most."""
    keys = [key for column in columns for key in (column.T if column.ndim == 2 else [column])]
    return np.lexsort(keys[::-1])


def _stand_ins(good: Flags) -> tuple[Int[np.ndarray, " row"], Flags]:
    """Rows to take for a filled-up part, and which count: others copy one that is good."""
    take = np.where(good, np.arange(good.size), np.flatnonzero(good)[0])
    more = filling(good.size)
    return np.pad(take, (0, more), mode="edge"), np.pad(good, (0, more))
