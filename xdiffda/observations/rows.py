"""Rows of H for a table of observations: linear ones, local functions, functions of the state.

This is `observation_operator` for tables that also hold derived quantities (wind speed, relative
humidity, surface pressure, ...) or quantities the user gives an operator for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations.nonlinear import (
    PARAMETERS,
    LocalCall,
    Operator,
    StateCall,
    around,
    as_operators,
    bilinear,
    field,
    gather,
    input_terms,
    usable,
)
from xdiffda.observations.operators import ObsVector, linear_rows
from xdiffda.observations.sites import name_codes
from xdiffda.state.variables import G0

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float, Int

    from xdiffda.state.grid import Layout


Operators = Mapping[str, "Operator | Callable[..., Any]"]


class LocalGroup(NamedTuple):
    """Observations of one local operator.

    Attributes
    ----------
    call : LocalCall
    operator : Operator
    position : int array (obs,)
        Rows of the table.
    index, weight : arrays (obs, input, term)
        The operator's inputs as sparse sums over the flattened state (node, channel).
    parameters : array (obs, parameter)
    """

    call: LocalCall
    operator: Operator
    position: Int[np.ndarray, "obs"]
    index: Int[np.ndarray, "obs input term"]
    weight: Float[np.ndarray, "obs input term"]
    parameters: Float[np.ndarray, "obs parameter"]


class StateGroup(NamedTuple):
    """Observations of one operator on the whole state."""

    call: StateCall
    operator: Operator
    position: Int[np.ndarray, "obs"]
    fields: dict[str, Float[np.ndarray, "obs"]]


class Rows(NamedTuple):
    """H by parts, and the rows of the table that no part takes, by reason."""

    linear: ObsVector | None
    position: Int[np.ndarray, "obs"]
    local: tuple[LocalGroup, ...]
    state: tuple[StateGroup, ...]
    rejected: dict[str, Int[np.ndarray, "obs"]]

    @property
    def n_obs(self) -> int:
        """Observations in all parts."""
        return self.position.size + sum(g.position.size for g in (*self.local, *self.state))

    def of(self, kept: Int[np.ndarray, "obs"], reason: str, lost: Int[np.ndarray, "obs"]) -> Rows:
        """The same for the table of which this was the part ``kept``; others are ``lost``."""
        local = tuple(g._replace(position=kept[g.position]) for g in self.local)
        state = tuple(g._replace(position=kept[g.position]) for g in self.state)
        rejected = {name: kept[where] for name, where in self.rejected.items()}
        return Rows(self.linear, kept[self.position], local, state, rejected | {reason: lost})


@with_own_jax
def observation_rows(
    tidy: xr.Dataset,
    layout: Layout,
    *,
    operators: Operators | None = None,
    orography: Float[np.ndarray, "node"] | None = None,
) -> Rows:
    """Build H for tidy observations, derived and nonlinear ones included.

    Parameters
    ----------
    tidy
        Validated tidy observations: ``to_tidy(obs, operators=operators)``.
    layout
        Layout of the state.
    operators
        By the name of what they observe: an `Operator`, or a function of the whole state.  They
        come before the built-in ones.
    orography
        Geopotential of the model's surface (m2 s-2) on its nodes, for surface pressure where the
        observations do not say their ``station_height``.

    Returns
    -------
    Rows
        Linear part, local and state functions; what the state cannot give is rejected by reason.

    Raises
    ------
    InputError
        If an operator of the user asks for what the state does not have, cannot be traced by
        JAX, or returns another shape than one number for each observation.
    """
    lat, lon = tidy["lat"].values, tidy["lon"].values
    inside = layout.grid.holds(lat, lon) | ~np.isfinite(lat + lon)
    if not inside.all():
        kept = np.flatnonzero(inside)
        rows = observation_rows(
            tidy.isel(obs=kept), layout, operators=operators, orography=orography
        )
        return rows.of(kept, f"outside the box {layout.grid}", np.flatnonzero(~inside))
    own = as_operators(operators)
    code, names = name_codes(tidy["variable"].values)
    rejected: dict[str, np.ndarray] = {}
    local: list[LocalGroup] = []
    state: list[StateGroup] = []
    direct = np.ones(code.size, bool)
    for name, ways in _ways(own, layout):
        if name not in names:
            continue
        where = np.flatnonzero(code == names.index(name))
        direct[where] = False
        if name in own and own[name].inputs is None:
            state.append(_state_group(name, own[name], tidy, where, layout))
        else:
            local += _local_groups(name, ways, tidy, where, layout, orography, rejected)
    linear, position = None, np.flatnonzero(direct)
    if direct.any():
        sub = tidy if direct.all() else tidy.isel(obs=position)
        linear, kept, reasons = linear_rows(sub, layout, (code[position], names))
        rejected |= {reason: position[where] for reason, where in reasons.items()}
        position = position[kept]
    return Rows(linear, position, tuple(local), tuple(state), rejected)


def _ways(own: dict[str, Operator], layout: Layout) -> list[tuple[str, tuple[Operator, ...]]]:
    """Operators for what is not itself a variable of the state, in the order of their names."""
    from xdiffda.observations.derived import OPERATORS

    problems = [
        Problem(
            f"an operator for {name} that needs {', '.join(missing)}",
            f"inputs among {', '.join(layout.variables)}",
            f'Operator(function, inputs=("{layout.variables[0]}",))',
        )
        for name, operator in own.items()
        if (missing := operator.missing(layout))
    ]
    if problems:
        raise InputError(problems, what="observation operators")
    built_in = {n: ways for n, ways in OPERATORS.items() if n not in layout.variables}
    return sorted({**built_in, **{name: (operator,) for name, operator in own.items()}}.items())


def _state_group(
    name: str, operator: Operator, tidy: xr.Dataset, where: np.ndarray, layout: Layout
) -> StateGroup:
    call = StateCall(name, operator.function, layout)
    fields = {p: field(tidy, p)[where] for p in PARAMETERS}
    call.check(fields, where.size)
    return StateGroup(call, operator, where, fields)


def _local_groups(
    name: str,
    ways: tuple[Operator, ...],
    tidy: xr.Dataset,
    where: np.ndarray,
    layout: Layout,
    orography: np.ndarray | None,
    rejected: dict[str, np.ndarray],
) -> list[LocalGroup]:
    """One group for each way that is the first possible one for some of the observations."""
    groups = []
    possible = [operator for operator in ways if not operator.missing(layout)]
    if not possible:
        needs = " or ".join(sorted({"+".join(dict.fromkeys(o.missing(layout))) for o in ways}))
        rejected[f"of {name}, for which the state lacks {needs}"] = where
        return []
    for operator in possible:
        sub = tidy.isel(obs=where)
        mine = np.ones(where.size, bool)
        if operator.applies is not None:
            mine = np.asarray(operator.applies(sub, layout), bool)
        taken, where = where[mine], where[~mine]
        if not taken.size:
            continue
        group, reasons = _local_group(name, operator, tidy, taken, layout, orography)
        for reason, lost in reasons.items():
            rejected[reason] = np.concatenate([rejected.get(reason, lost[:0]), lost])
        if group is not None:
            groups.append(group)
        if not where.size:
            break
    return groups


def _local_group(
    name: str,
    operator: Operator,
    tidy: xr.Dataset,
    where: np.ndarray,
    layout: Layout,
    orography: np.ndarray | None,
) -> tuple[LocalGroup | None, dict[str, np.ndarray]]:
    pressures = {p: field(tidy, p)[where] for p in ("level", "level_bottom")}
    if operator.around == "value":
        pressures["around"] = tidy["value"].values[where] / 100.0
    else:
        pressures["around"] = pressures["level"]
    fields = {p: field(tidy, p)[where] for p in operator.parameters}
    if "station_height" in fields and orography is not None:
        ground = bilinear(layout, tidy, where, np.asarray(orography).reshape(-1)) / G0
        given = fields["station_height"]
        fields["station_height"] = np.where(np.isnan(given), ground, given)
    good, reasons = usable(name, operator, layout, pressures, fields)
    reasons = {reason: where[lost] for reason, lost in reasons.items()}
    if not good.any():
        return None, reasons
    where = where[good]
    pressures = {key: p[good] for key, p in pressures.items()}
    keys, channel, weight = input_terms(operator, layout, pressures)
    parameters = [(p, 0) for p in operator.parameters]
    columns = [fields[p][good] for p in operator.parameters]
    if any(key.endswith("@around") for key, _ in keys):
        parameters.append(("levels@around", 2))
        columns += list(np.asarray(layout.levels, np.float64)[around(layout, pressures).T])
    call = LocalCall(
        name, operator.function, tuple(keys), tuple(parameters), tuple(map(float, layout.levels))
    )
    call.check()
    index, terms = gather(layout, tidy, where, channel, weight)
    table = np.stack(columns, -1) if columns else np.zeros((where.size, 0))
    return LocalGroup(call, operator, where, index, terms, table), reasons
