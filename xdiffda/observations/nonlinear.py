"""Observation operators that are functions: of a few gathered numbers, or of the whole state.

A *local* operator sees, for one observation, the state interpolated to its place:

    Operator(lambda s: jnp.hypot(s["u_component_of_wind"], s["v_component_of_wind"]),
             inputs=("u_component_of_wind", "v_component_of_wind"), units="m s-1")

so H stays as sparse and cheap as interpolation.  A *state* operator, without ``inputs``, sees all
of the state as a mapping from ``name@level`` to fields (lat, lon) and returns one number for each
of its observations.  Both must be written with ``jax.numpy``: guidance differentiates them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.operators import sparse_rows
from xdiffda.observations.stencil import horizontal_stencil, vertical_stencil
from xdiffda.state.variables import VARIABLES

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Array, Float, Int

    from xdiffda.state.grid import Layout


# The inputs of local operators: which numbers of the state stand behind each.


def usable(
    name: str,
    operator: Operator,
    layout: Layout,
    pressures: dict[str, np.ndarray],
    fields: dict[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Which observations have what the operator asks for."""
    specs = [spec.partition("@") for spec in operator.inputs or ()]
    on_levels = [at for variable, _, at in specs if VARIABLES[variable].on_levels]
    asked = {at or "level" for at in on_levels if at in ("", "level", "level_bottom")}
    asked |= {p for p in fields if p in pressures and on_levels}
    reasons = {}
    good = np.ones(pressures["level"].size, bool)
    lost = ~np.all([np.isfinite(column) for column in fields.values()] or [good], axis=0)
    if lost.any():
        absent = [p for p, column in fields.items() if np.isnan(column).any()]
        reasons[f"of {name} without {', '.join(absent)}"] = lost
    for key in sorted(asked):
        outside = ~_inside(layout, pressures[key]) & ~lost
        if outside.any():
            reasons[f"of {name} with {key} outside the levels"] = outside
        lost = lost | outside
    return good & ~lost, {reason: np.flatnonzero(mask) for reason, mask in reasons.items()}


def _inside(layout: Layout, pressure: np.ndarray) -> np.ndarray:
    known = np.isfinite(pressure) & (pressure > 0)
    safe = np.where(known, pressure, layout.levels[0])
    return vertical_stencil(layout.levels, safe).inside & known


def input_terms(
    operator: Operator, layout: Layout, pressures: dict[str, np.ndarray]
) -> tuple[list[tuple[str, int]], np.ndarray, np.ndarray]:
    """Keys of the inputs, and for each scalar among them two channels and their weights."""
    n = pressures["level"].size
    keys, channels, weights = [], [], []

    def add(channel: np.ndarray, weight: np.ndarray) -> None:
        channels.append(np.broadcast_to(channel, (n, 2)))
        weights.append(np.broadcast_to(weight, (n, 2)))

    for spec in operator.inputs or ():
        name, _, at = spec.partition("@")
        first = layout.channel_slice(name).start
        if not VARIABLES[name].on_levels:
            keys.append((spec, 0))
            add(np.array([first, first]), np.array([1.0, 0.0]))
        elif at in ("*", "around"):
            if at == "*":
                which = np.broadcast_to(np.arange(len(layout.levels)), (n, len(layout.levels)))
            else:
                which = around(layout, pressures)
            keys.append((spec, which.shape[1]))
            for level in which.T:
                add(first + np.stack([level, level], -1), np.array([1.0, 0.0]))
        else:
            near = vertical_stencil(layout.levels, _pressure(spec, at, layout, pressures))
            keys.append((spec, 0))
            add(first + near.level, near.weight)
    return keys, np.stack(channels, 1), np.stack(weights, 1)


def _pressure(
    spec: str, at: str, layout: Layout, pressures: dict[str, np.ndarray]
) -> Float[np.ndarray, "obs"]:
    if at in ("", *pressures):
        return pressures[at or "level"]
    try:
        fixed = float(at)
        inside = bool(_inside(layout, np.array([fixed]))[0])
    except ValueError:
        fixed, inside = np.nan, False
    if not inside:
        raise InputError(
            [
                Problem(
                    f"an operator with the input {spec!r}",
                    f"a pressure between {layout.levels[0]} and {layout.levels[-1]} hPa, *, "
                    f"around or "
                    "level_bottom after the @",
                    f'inputs=("{spec.partition("@")[0]}@{layout.levels[-1]}",)',
                )
            ],
            what="observation operator",
        )
    return np.full(pressures["level"].size, fixed)


def around(layout: Layout, pressures: dict[str, np.ndarray]) -> Int[np.ndarray, "obs 2"]:
    """The two levels around a pressure; beyond the last one, the last two."""
    levels = np.asarray(layout.levels, np.float64)
    upper = np.clip(np.searchsorted(levels, pressures["around"]) - 1, 0, max(levels.size - 2, 0))
    return np.stack([upper, np.minimum(upper + 1, levels.size - 1)], -1)


def gather(
    layout: Layout,
    tidy: xr.Dataset,
    where: np.ndarray,
    channel: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Sparse rows (obs, input, term) of all inputs, of one width."""
    n, n_input = channel.shape[:2]

    def repeat(name):
        return np.repeat(tidy[name].values[where], n_input)

    index, terms = sparse_rows(
        layout,
        repeat("lat"),
        repeat("lon"),
        channel.reshape(-1, 2),
        weight.reshape(-1, 2),
    )
    return index.reshape(n, n_input, -1), terms.reshape(n, n_input, -1)


def bilinear(
    layout: Layout, tidy: xr.Dataset, where: np.ndarray, field: Float[np.ndarray, "node"]
) -> Float[np.ndarray, "obs"]:
    near = horizontal_stencil(layout.grid, tidy["lat"].values[where], tidy["lon"].values[where])
    return (field[near.node] * near.weight).sum(1)


def field(tidy: xr.Dataset, name: str) -> Float[np.ndarray, "obs"]:
    if name not in tidy.variables:
        return np.full(tidy.sizes["obs"], np.nan)
    return np.asarray(tidy[name].values, np.float64)


# Fields of an observation that a function may ask for.
PARAMETERS = ("level", "level_bottom", "lat", "lon", "station_height")
_USE = 'Operator(function, inputs=("u_component_of_wind",), units="m s-1", error_std=1.0)'


@dataclass(frozen=True)
class Operator:
    """How an observed quantity follows from the state.

    Parameters
    ----------
    function
        Local: called with a mapping of scalars (``inputs`` and ``parameters`` by name), returns a
        scalar.  State: called with a mapping of fields (lat, lon) by ``name@level``, and, if it
        takes a second argument, with a mapping of the observations' ``PARAMETERS`` as arrays;
        returns an array (obs,) in the order of these (with one argument: of the user's table).
    inputs
        What a local function sees of the state, in canonical units: ``"temperature"`` (at the
        level of the observation, or at the surface), ``"temperature@850"``,
        ``"geopotential@level_bottom"`` (at the pressure in that field),
        ``"temperature@*"`` (a vector of all levels, with their pressures as ``"levels"``),
        ``"geopotential@around"`` (the two levels around a pressure, see ``around``, as
        ``"levels@around"``).  None makes it a state operator.
    parameters
        Fields of the observation that a local function sees: some of ``PARAMETERS``.
    units
        Of the result; observations are converted where they say others.
    period
        Length of a circle on which the result lives (360 for directions in degrees).
    error_std
        Default standard deviation of an observation's error.
    around
        Pressure meant by ``@around``: ``"level"``, or ``"value"`` for observed pressures in Pa.
    applies
        Which of some observations this operator is for; default all.

    Raises
    ------
    InputError
        If the function cannot be called, or a name or number is not of the allowed ones.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...] | None = None
    parameters: tuple[str, ...] = ()
    units: str = ""
    period: float | None = None
    error_std: float | None = None
    around: str = "level"
    applies: Callable[[xr.Dataset, Layout], np.ndarray] | None = None

    def __post_init__(self) -> None:
        problems = []
        if not callable(self.function):
            problems.append(Problem(f"a function {self.function!r}", "a callable", _USE))
        if isinstance(self.inputs, str) or isinstance(self.parameters, str):
            problems.append(
                Problem(
                    f"inputs={self.inputs!r}, parameters={self.parameters!r}",
                    "tuples of names",
                    _USE,
                )
            )
        elif unknown := set(self.parameters) - set(PARAMETERS):
            problems.append(Problem(f"parameters {sorted(unknown)}", f"some of {PARAMETERS}", _USE))
        for name in ("period", "error_std"):
            number = getattr(self, name)
            if number is not None and not number > 0:
                problems.append(Problem(f"{name}={number}", "a positive number", _USE))
        if self.around not in ("level", "value"):
            problems.append(Problem(f"around={self.around!r}", '"level" or "value"', _USE))
        raise_if(problems, what="observation operator")

    def missing(self, layout: Layout) -> list[str]:
        """Inputs that a state does not have."""
        names = [spec.partition("@")[0] for spec in self.inputs or ()]
        return [name for name in names if name not in layout.variables]


def as_operators(
    operators: Mapping[str, Operator | Callable[..., Any]] | None,
) -> dict[str, Operator]:
    """Operators by the name of what they observe; a bare function is a state operator."""
    if operators is None:
        return {}
    if not isinstance(operators, Mapping):
        raise InputError(
            [
                Problem(
                    f"operators of type {type(operators).__name__}",
                    "a mapping from variable to operator",
                    f'operators={{"wind_speed": {_USE}}}',
                )
            ],
            what="observation operators",
        )
    return {
        name: given if isinstance(given, Operator) else Operator(given)
        for name, given in operators.items()
    }


@dataclass(frozen=True)
class LocalCall:
    """A local function with the names of what its arrays hold; hashable, so jit knows it."""

    name: str
    function: Callable[[dict[str, Any]], Any]
    inputs: tuple[tuple[str, int], ...]
    parameters: tuple[tuple[str, int], ...]
    levels: tuple[float, ...]

    def __call__(
        self, inputs: Float[Array, "input"], parameters: Float[Array, "parameter"]
    ) -> Float[Array, ""]:
        """Return H for one observation."""
        import jax.numpy as jnp

        seen: dict[str, Any] = {"levels": jnp.asarray(self.levels)} if self.levels else {}
        for array, keys in ((inputs, self.inputs), (parameters, self.parameters)):
            start = 0
            for key, size in keys:
                seen[key] = array[start] if size == 0 else array[start : start + size]
                start += max(size, 1)
        return jnp.asarray(self.function(seen), inputs.dtype)

    def values(
        self, inputs: Float[Array, "obs input"], parameters: Float[Array, "obs parameter"]
    ) -> Float[Array, "obs"]:
        """Return H for each observation."""
        import jax

        return jax.vmap(self)(inputs, parameters)

    def slopes(
        self, inputs: Float[Array, "obs input"], parameters: Float[Array, "obs parameter"]
    ) -> Float[Array, "obs input"]:
        """Return the derivative of H with respect to its inputs, for each observation."""
        import jax

        return jax.vmap(jax.grad(self))(inputs, parameters)

    def check(self) -> None:
        """Raise InputError unless the function gives one differentiable number."""
        import jax
        import jax.numpy as jnp

        inputs = jax.ShapeDtypeStruct((_width(self.inputs),), jnp.float32)
        parameters = jax.ShapeDtypeStruct((_width(self.parameters),), jnp.float32)
        names = [key for key, _ in (*self.inputs, *self.parameters)]
        shape = _shape_of(self.name, names, self, inputs, parameters)
        if shape != ():
            raise InputError(
                [
                    Problem(
                        f"an array of shape {shape} for one observation of {self.name}",
                        "one number: the function is called with scalars, for one observation at "
                        "a time",
                        "",
                    )
                ],
                what="observation operator",
            )


@dataclass(frozen=True)
class StateCall:
    """A state function with the layout of the state it is given; hashable."""

    name: str
    function: Callable[..., Any]
    layout: Layout

    @property
    def sees_observations(self) -> bool:
        """Whether the function takes the observations' fields as a second argument."""
        return takes_two(self.function)

    def __call__(
        self, x: Float[Array, "node channel"], fields: Mapping[str, Float[Array, "obs"]]
    ) -> Float[Array, "obs"]:
        """Return H for all observations of this name."""
        import jax.numpy as jnp

        shape = self.layout.grid.shape
        state = {c: x[:, i].reshape(shape) for i, c in enumerate(self.layout.channel_names)}
        given = (state, dict(fields)) if self.sees_observations else (state,)
        return jnp.asarray(self.function(*given), x.dtype)

    def check(self, fields: Mapping[str, np.ndarray], n_obs: int) -> None:
        """Raise InputError unless the function gives one number for each observation."""
        import jax
        import jax.numpy as jnp

        x = jax.ShapeDtypeStruct((self.layout.grid.n_node, self.layout.n_channel), jnp.float32)
        arrays = {k: jax.ShapeDtypeStruct(v.shape, jnp.float32) for k, v in fields.items()}
        names = list(self.layout.channel_names)
        shape = _shape_of(self.name, names, self, x, arrays)
        if shape != (n_obs,):
            raise InputError(
                [
                    Problem(
                        f"H({self.name}) of shape {shape}",
                        f"shape ({n_obs},), one number for each of "
                        f"the {n_obs} observations of {self.name}; of a function of (state, obs) "
                        "obs['lat'] and obs['lon'] say where they are",
                        "",
                    )
                ],
                what="observation operator",
            )


def takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with two positional arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        given = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.kind in kinds and p.default is p.empty for p in given) >= 2


def _width(keys: tuple[tuple[str, int], ...]) -> int:
    return sum(max(size, 1) for _, size in keys)


def _asked_for(call: LocalCall, key: str) -> str:
    """The inputs of an operator with one more, if a state can have that."""
    known = key.partition("@")[0] in VARIABLES
    return f"inputs={(*(name for name, _ in call.inputs), key)}" if known else ""


def _shape_of(name: str, names: list[str], call: Callable[..., Any], *given: Any) -> tuple:
    """Shape of a function's result, traced as guidance will trace it."""
    import jax

    try:
        return jax.eval_shape(call, *given).shape
    except KeyError as error:
        raise InputError(
            [
                Problem(
                    f"an operator for {name} that asks for {error}",
                    f"one of {', '.join(names)}",
                    _asked_for(call, str(error.args[0]) if error.args else "")
                    if isinstance(call, LocalCall)
                    else f'state["{names[0]}"]',
                )
            ],
            what="observation operator",
        ) from error
    except TypeError as error:  # what JAX raises for traced values is of this kind
        raise InputError(
            [
                Problem(
                    f"an operator for {name} that JAX cannot differentiate "
                    f"({str(error).splitlines()[0][:100]})",
                    "a function of arrays written with jax.numpy",
                    "import jax.numpy as jnp",
                )
            ],
            what="observation operator",
        ) from error
