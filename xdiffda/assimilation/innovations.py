"""From tidy observations to the whitened likelihood of z, with all that was rejected."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from xdiffda.covariance.harmonics import Points, points_of
from xdiffda.diffusion.likelihood import Likelihood, LocalRows, StateRows, Whitening
from xdiffda.errors import InputError, Problem
from xdiffda.observations import Trajectory, observation_rows, select_window
from xdiffda.observations.correlation import Blocks, correlated_blocks, read_correlation
from xdiffda.observations.fgat import (
    TimeStencil,
    check_trajectory,
    local_guess,
    seen,
    state_guess,
    time_stencil,
)
from xdiffda.observations.operators import none_left, none_usable
from xdiffda.observations.padding import padding
from xdiffda.observations.quality import (
    CONDEMNED,
    NO_CHECKS,
    SITE_MODES,
    Quality,
    Structure,
    check_table,
    judge_departures,
)
from xdiffda.observations.rows import LocalGroup, Operators, Rows, StateGroup
from xdiffda.priors.prior import Prior
from xdiffda.state.convention import Convention

# Departures of the background from the observations, part by part, as rows of one likelihood.
#
# A part holds the observations of one kind of H: the linear ones, one local function, one function
# of the whole state.  Each is sorted in an order of its own (the analysis does not depend on that
# of the user's file) and padded, so that analysis times share compiled code.

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
    """All rows, padded part by part; padding rows have position -1 and see nothing.

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
    parts: list[Part],
    prior: Prior,
    r: float,
    day: Float[np.ndarray, "node channel"] | None = None,
) -> Table:
    """One table of all parts for a scale r: B, and errors of representativeness, are those of r.

    ``day`` is the ratio of the flow-dependent variance to B's, of a background ensemble.
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
    more, wider = padding(part.value.size), width - part.index.shape[1]

    def pad(a, fill=0.0):
        return np.pad(a, (0, more), constant_values=fill)

    def pad2(a):
        return np.pad(a, ((0, more), (0, wider)))

    with np.errstate(invalid="ignore"):
        share = np.where(np.isfinite(error), part.error_std / error, 0.0)
    return (
        pad(part.position, -1),
        pad(np.where(finite, departure / error, 0.0)),
        pad(error, 1.0),
        pad2(part.index),
        pad2(sensitivity),
        pad(spread),
        pad(np.full(part.value.size, part.period), np.inf),
        pad(share),
        pad(finite, True),
    )


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
        position=group.position[order],
        index=group.index[order],
        weight=group.weight[order],
        parameters=group.parameters[order],
    )
    inputs, guess = local_guess(group, states, at)
    call, parameters = group.call, np.asarray(group.parameters, np.float32)
    slopes = np.asarray(call.slopes(np.asarray(inputs, np.float32), parameters), np.float64)

    def build(start: int, scale: np.ndarray, error: Numbers, good: Flags) -> LocalRows:
        take, used = _stand_ins(good)
        gather = group.weight * scale.reshape(-1)[group.index]

        def as32(a):
            return jnp.asarray(a[take], jnp.float32)

        return LocalRows(
            call,
            start,
            as32(inputs),
            as32(gather) * used[:, None, None],
            as32(parameters),
            as32(error),
        )

    return Part(
        group.position,
        value[order],
        error[order],
        guess,
        group.index.reshape(flat),
        (slopes[:, :, None] * group.weight).reshape(flat),
        period=group.operator.period or np.inf,
        build=build,
    )


def state_part(
    group: StateGroup,
    tidy: xr.Dataset,
    states: States,
    at: TimeStencil,
    background: Float[np.ndarray, "node channel"],
    prior: Prior,
    r: float,
) -> Part:
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
            [
                Problem(
                    f"H({group.call.name}) or its derivative not finite at the background for "
                    f"{bad} of {guess.size} observations",
                    "finite numbers: jnp.where with arguments that are safe on both branches",
                    "",
                )
            ],
            what="observation operator",
        )

    def build(start: int, scale: np.ndarray, error: Numbers, good: Flags) -> StateRows:
        return StateRows(
            group.call,
            start,
            guess.size,
            base,
            jnp.asarray(scale, jnp.float32),
            fields,
            jnp.asarray(good / error, jnp.float32),
        )

    nothing = np.zeros((guess.size, 1))
    return Part(
        group.position,
        value,
        error,
        guess,
        nothing.astype(np.int32),
        nothing,
        period=group.operator.period or np.inf,
        spread=spread,
        unresolved=unresolved,
        build=build,
    )


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
    more = padding(good.size)
    return np.pad(take, (0, more), mode="edge"), np.pad(good, (0, more))


# r is taken as log-normal around the model's own with this spread, so that a handful of
# observations does not decide it alone
R_PRIOR_STD = 0.5
R_BOUNDS = (0.05, 5.0)
# and factors of groups of variables around r with this one
GROUP_STD = 0.35
# a direction whose background is vaguer than this share of the circle is not linear in anything
VAGUE = 1 / 8


def observe(
    tidy: xr.Dataset,
    prior: Prior,
    background: Float[np.ndarray, "node channel"],
    time: np.datetime64 | None,
    *,
    window: str | np.timedelta64,
    background_error: float | str,
    quality: Quality | None = None,
    operators: Operators | None = None,
    orography: Float[np.ndarray, "node"] | None = None,
    trajectory: Trajectory | tuple[np.ndarray, np.ndarray] | None = None,
    error_correlation: Any = None,
    day: Float[np.ndarray, "node channel"] | None = None,
) -> tuple[Likelihood, float, dict[str, Any]]:
    """Return the likelihood of z at one analysis time, r, and the record of what was used.

    Parameters
    ----------
    tidy : Dataset
        Validated tidy observations of all times.
    prior : Prior
    background : array (node, channel), physical units
    time : datetime64 or None
        Analysis time; None takes all observations.
    window : str or timedelta64
        Full width around ``time``.
    background_error : float or "estimate"
    quality : Quality, optional
        Quality control; None for none.
    operators : mapping, optional
        The user's operators by variable, see `observations.nonlinear`.
    orography : array (node,), optional
        Geopotential of the surface, for surface pressure without ``station_height``.
    trajectory : Trajectory or (times, states), optional
        The background at several times: departures are formed at each observation's own time
        (first guess at appropriate time) and hold at the analysis time.
    error_correlation : float, VerticalCorrelation or mapping, optional
        Correlation of errors within a station's column, see `observations.correlation`.
    day : array (node, channel), optional
        Ratio of the flow-dependent variance to B's, mean 1: where a background ensemble says that
        the error is small, small innovations do not say that r is.

    Returns
    -------
    likelihood : Likelihood
    r : float
    record : dict
        ``used`` and ``rejected`` numbers, ``r``, ``kept``, the rows of ``tidy`` in use,
        ``lost``, those rejected by reason, ``inside``, the rows of the window that quality
        control left, ``rows``, which of those are behind each row of the likelihood (-1: not in
        use), and ``factors`` by group of variables, which the likelihood's z holds
        (`Prior.with_factors`).

    Raises
    ------
    InputError
        If nothing is left to use, R is singular, the trajectory does not fit, or an operator is
        not one.
    """
    quality = quality or NO_CHECKS
    correlation = read_correlation(error_correlation)
    all_rows = np.arange(tidy.sizes["obs"])
    lost: dict[str, np.ndarray] = {}
    if time is not None and not np.isnat(time):
        tidy, lost = select_window(tidy, time, window)
        all_rows = np.setdiff1d(all_rows, np.concatenate([*lost.values(), all_rows[:0]]))
    of_window = all_rows
    tidy, all_rows = _checked_table(tidy, all_rows, quality, time, trajectory, lost)
    rows = observation_rows(tidy, prior.layout, operators=operators, orography=orography)
    n_tidy = tidy.sizes["obs"]
    if not rows.n_obs:
        raise none_usable(n_tidy, rows.rejected, prior.layout)

    states, at = _background_states(background, trajectory, tidy, prior, time)
    parts = [linear_part(rows, tidy, states, at)] if rows.linear is not None else []
    parts += [local_part(group, tidy, states, at) for group in rows.local]

    def table_at(r: float, factors: Mapping[str, float] | None = None) -> Table:
        own = prior.with_factors(factors) if factors else prior
        whole = [state_part(group, tidy, states, at, background, own, r) for group in rows.state]
        return assemble([*parts, *whole], own, r, day)

    estimate = background_error == "estimate"
    table = table_at(1.0 if estimate else float(background_error))
    unfit = dict(rows.rejected)  # rows of the window
    fits = _checked(table, at, unfit)

    structure = Structure.of(tidy, _slots(tidy, time, trajectory)).take(table.position)
    table, good, factors = _judged(
        table, table_at, fits, structure, estimate, quality, unfit, prior.groups
    )
    r, likelihood = table.r, table.likelihood(good)
    blocks = correlated_blocks(tidy, table.position, good, table.instrument_share, correlation)
    if blocks is not None:
        likelihood = _whitened(likelihood, blocks)
    kept = np.sort(all_rows[table.position[good]])
    lost = lost | {reason: np.sort(all_rows[where]) for reason, where in unfit.items()}
    rejected = {reason: len(where) for reason, where in lost.items()}
    record = {"used": int(good.sum()), "rejected": rejected, "r": r, "kept": kept, "lost": lost}
    condemned = [rows for reason, rows in lost.items() if reason in CONDEMNED]
    inside = np.setdiff1d(of_window, np.concatenate([*condemned, all_rows[:0]]))
    record["factors"] = factors
    record["inside"] = inside
    record["rows"] = np.where(good, np.searchsorted(inside, all_rows[table.position]), -1)
    return dataclasses.replace(likelihood, robust=quality.weights), r, record


def _checked_table(
    tidy: xr.Dataset,
    all_rows: Int[np.ndarray, " obs"],
    quality: Quality,
    time: np.datetime64 | None,
    trajectory: Any,
    lost: dict[str, np.ndarray],
) -> tuple[xr.Dataset, Int[np.ndarray, " obs"]]:
    """The window without what its table alone shows to be bad, which joins ``lost``."""
    wrong = check_table(tidy, quality, time=time, slot=_slots(tidy, time, trajectory))
    if not wrong:
        return tidy, all_rows
    bad = np.concatenate([*wrong.values()])
    good = np.setdiff1d(np.arange(all_rows.size), bad)
    for reason, rows in wrong.items():
        lost[reason] = all_rows[rows]
    if not good.size:
        raise none_left(
            all_rows.size,
            wrong,
            needed="observations that pass the quality control",
            repair="xdiffda.quality.report(xdiffda.quality.screen(obs))",
        )
    return tidy.isel(obs=good), all_rows[good]


def _slots(
    tidy: xr.Dataset, time: np.datetime64 | None, trajectory: Any
) -> Int[np.ndarray, " obs"] | None:
    """Step of a trajectory nearest to each observation: at two steps a station says two things."""
    if trajectory is None:
        return None
    times = np.asarray(trajectory[0], "datetime64[ns]")
    now = np.datetime64("NaT") if time is None else time
    stamps = np.where(np.isnat(tidy["time"].values), now, tidy["time"].values)
    apart = np.abs(stamps.astype("datetime64[ns]")[:, None] - times)
    return np.argmin(apart, axis=1)


class Departures(Protocol):
    """Departures of the background, and what they are expected to be, in one unit by row.

    Attributes
    ----------
    departure : array (obs,)
    noise : array (obs,)
        Standard deviation of what does not grow with r.
    whole_spread : array (obs,)
        Standard deviation of the background seen by H, for a unit r.
    """

    @property
    def departure(self) -> Numbers: ...
    @property
    def noise(self) -> Numbers: ...
    @property
    def whole_spread(self) -> Numbers: ...


Seen = TypeVar("Seen", bound=Departures)


def judge(
    seen: Seen,
    seen_at: Callable[[float, Flags], Seen],
    fits: Flags,
    structure: Structure,
    quality: Quality,
    *,
    r: float | None,
) -> tuple[Seen, float, Flags, dict[str, Flags]]:
    """The background check: departures at their r, and which of them are not gross errors.

    Parameters
    ----------
    seen : Departures
        At ``r``; where it is estimated, at 1.
    seen_at : callable
        Scale r of the background error, and which rows are good -> departures.
    fits : bool array (obs,)
        Rows that can be used at all.
    structure : Structure
        What belongs together, by row.
    quality : Quality
    r : float, optional
        Scale of the background error; estimated where None.

    Returns
    -------
    seen : departures at ``r``
    r : float
    good : bool array (obs,)
        May be all False: gross errors, every one.
    bad : dict of str to bool array (obs,)
        The others of ``fits`` by reason.

    Notes
    -----
    B and the unresolved variance, of which r is estimated, depend on r: the second estimate, from
    what was good by the first, is the fixed point to some per cent. The check itself does not
    depend on an r that gross errors inflate: the expected standard deviations are scaled by medians
    (`judge_departures`).
    """
    estimate = r is None
    used, good = 1.0 if r is None else r, fits
    bad: dict[str, Flags] = {}
    for _ in range(2 if estimate else 1):
        if estimate:
            used = estimate_r(
                seen.departure[good],
                seen.whole_spread[good],
                np.unique(structure.site[good]).size,
                noise=seen.noise[good],
            )
            seen = seen_at(used, good)
        if np.isinf(quality.gross_check):
            continue
        rows = np.flatnonzero(fits)
        expected = np.hypot(seen.noise[rows], used * seen.whole_spread[rows])
        size = np.abs(seen.departure[rows]) / expected
        found = judge_departures(size, structure.take(rows), quality.gross_check, scale=estimate)
        bad, good = {}, fits.copy()
        for reason, where in found.items():
            if where.any():
                bad[reason] = np.zeros(fits.size, bool)
                bad[reason][rows[where]] = True
                good &= ~bad[reason]
        if not good.any():
            break
    return seen, used, good, bad


def _judged(
    table: Table,
    table_at: Callable[..., Table],
    fits: Flags,
    structure: Structure,
    estimate: bool,
    quality: Quality,
    rejected: dict[str, np.ndarray],
    groups: tuple[str, ...] | None,
) -> tuple[Table, Flags, dict[str, float]]:
    """The table at its r, which of its rows are good, and factors of the ``groups``.

    The others join ``rejected``.
    """
    factors: dict[str, float] = {}
    last = table

    def seen_at(r: float, good: Flags) -> Table:
        nonlocal factors, last
        if groups is not None:
            n_site = np.unique(structure.site[good]).size
            factors = group_factors(last, good, groups, r, factors, n_site)
        last = table_at(r, factors)
        return last

    r = None if estimate else table.r
    table, _, good, bad = judge(table, seen_at, fits, structure, quality, r=r)
    for reason, rows in bad.items():
        rejected[reason] = table.position[rows]
    if not good.any():
        raise InputError(
            [
                Problem(
                    f"all {fits.sum()} observations further than {quality.gross_check:g} expected "
                    "standard deviations from the background",
                    "observations and background of the same time, units and model",
                    "assimilate(obs, quality=xdiffda.Quality(gross_check=np.inf))",
                )
            ],
            what="observations",
        )
    return table, good, factors


def group_factors(
    table: Table,
    good: Bool[np.ndarray, " obs"],
    groups: tuple[str, ...],
    r: float,
    before: Mapping[str, float],
    n_site: int,
) -> dict[str, float]:
    """Most probable factors of the errors of groups of variables, beside r.

    As r itself, with a log-normal prior around one (`GROUP_STD`): a sounding, of two independent
    numbers for each group, moves a factor by little.

    Parameters
    ----------
    table : Table
        With the factors ``before``.
    good : array (obs,)
    groups : tuple of str
        Of each channel.
    r : float
    before : mapping
        Factors that the table holds.
    n_site : int
    """
    most = np.abs(table.sensitivity).argmax(1)
    channel = table.index[np.arange(len(most)), most] % len(groups)
    group = np.array(groups)[channel]
    found = {}
    for name in dict.fromkeys(groups):
        own = good & (group == name)
        if own.any():
            unit = r * table.whole_spread[own] / before.get(name, 1.0)
            found[name] = estimate_r(
                table.departure[own], unit, n_site, noise=table.noise[own], prior_std=GROUP_STD
            )
    return found


def _whitened(likelihood: Likelihood, blocks: Blocks) -> Likelihood:
    """The same observations, their correlated errors made independent."""
    whitening = Whitening(
        jnp.asarray(blocks.where),
        jnp.asarray(blocks.factor, jnp.float32),
        jnp.asarray(blocks.inverse, jnp.float32),
    )
    value = whitening.whiten(likelihood.value[:, None])[:, 0]
    return dataclasses.replace(likelihood, value=value, whitening=whitening)


def _background_states(
    background: np.ndarray,
    trajectory: Any,
    tidy: xr.Dataset,
    prior: Prior,
    time: np.datetime64 | None,
) -> tuple[Float[np.ndarray, "time node channel"], TimeStencil]:
    """States to form departures from, and where in time each observation is among them."""
    n_obs = tidy.sizes["obs"]
    if trajectory is None:
        here = np.zeros(n_obs, int)
        return np.asarray(background, np.float64)[None], TimeStencil(
            here, np.zeros(n_obs), np.ones(n_obs, bool)
        )
    times, states = check_trajectory(trajectory, prior.layout)
    return prior.filtered(states), time_stencil(times, tidy["time"].values, default=time)


def _checked(table: Table, at: TimeStencil, rejected: dict[str, np.ndarray]) -> np.ndarray:
    """Which rows are fit for use; ``rejected`` is told of the others by reason."""
    real = table.position >= 0
    vague = table.predicted_std > VAGUE * table.period
    outside = ~at.inside[np.maximum(table.position, 0)]
    unfit = {
        "outside the times of the trajectory": outside,
        "where the operator is not finite at the background": ~table.finite,
        "wind direction where the background wind is too weak": vague,
    }
    good = real
    for reason, bad in unfit.items():
        if (good & bad).any():
            rejected[reason] = table.position[good & bad]
        good = good & ~bad
    if not good.any():
        needed = "observations that the background can see; a trajectory has to span the window"
        raise none_left(real.sum(), rejected, needed=needed)
    return good


def estimate_r(
    departure: Float[np.ndarray, " obs"],
    spread: Float[np.ndarray, " obs"],
    n_site: int,
    *,
    noise: Float[np.ndarray, " obs"] | float = 1.0,
    prior_std: float | None = None,
) -> float:
    """Scale of the background error: the most probable r, given the innovations.

    Innovations have E[d^2] = noise^2 + r^2 spread^2, and log r a Gaussian prior around the
    model's own r = 1 with standard deviation `R_PRIOR_STD`. Observations of one site see the
    same error of the background, and independent errors of the instrument: a site has two
    independent numbers of the first, which all its observations share.

    Parameters
    ----------
    departure : array (obs,)
        d, in any unit.
    spread : array (obs,)
        Standard deviation of the background seen by H for r = 1, what the basis cannot
        represent included; in the unit of d, as ``noise``.
    n_site : int
    noise : array (obs,) or float
        Standard deviation of the instrument's error.
    prior_std : float, optional
        Standard deviation of log r beforehand; default `R_PRIOR_STD`.

    Notes
    -----
    Source: Dee (1995), Mon. Wea. Rev. 123, 1128-1145, maximum-likelihood estimation of the
    parameters of covariances from innovations; the prior is ours.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> d = rng.normal(size=40_000) * np.sqrt(1 + 0.5**2 * 3.0**2)
    >>> round(estimate_r(d, np.full(40_000, 3.0), 1000), 2)
    0.5
    """
    from scipy.optimize import minimize_scalar

    noise2, spread2 = np.square(noise), np.square(spread)
    n = len(spread2)
    n_mode = min(SITE_MODES * n_site, n)  # independent numbers of the background's error
    # medians resist the gross errors that are not rejected yet
    size = np.abs(departure) / np.sqrt(noise2 + spread2)
    limit = 5 * np.median(size) / 0.6745
    d2 = np.minimum(size, limit) ** 2 * (noise2 + spread2)
    low, high = np.log(R_BOUNDS)
    grid = np.linspace(low, high, 24)
    r = 1.0
    for _ in range(3):  # rows count by what is expected of them at r
        weight = 1 / (noise2 + r**2 * spread2)
        alone, both, share = (np.mean(weight * x) for x in (noise2, d2, spread2))
        # energy of a mode: that of the others is noise alone
        energy = alone + (both - alone) * n / n_mode
        width = R_PRIOR_STD if prior_std is None else prior_std
        cost = functools.partial(
            _minus_log_density, alone, share * n / n_mode, energy, n_mode, width
        )
        best = int(np.argmin([cost(log_r) for log_r in grid]))  # there may be two minima
        bounds = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
        r = float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x))
    return r


def _minus_log_density(
    noise2: float, spread2: float, energy: float, n_mode: int, prior_std: float, log_r: float
) -> float:
    """Of log r, given the mean energy of ``n_mode`` modes, whose variances these are for r = 1."""
    variance = noise2 + np.exp(2 * log_r) * spread2
    misfit = 0.5 * n_mode * (np.log(variance) + energy / variance)
    return float(misfit + 0.5 * (log_r / prior_std) ** 2)


def valid_times(convention: Convention) -> list[np.datetime64 | None]:
    """Valid time of each state; None where the background does not say."""
    if convention.valid_times is None:
        return [None] * max(int(np.prod(convention.batch_shape)), 1)
    return list(np.atleast_1d(convention.valid_times).reshape(-1))
