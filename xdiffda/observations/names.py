"""Names and units that observations may carry beyond those of the state.

Three kinds: variables of the state (`xdiffda.state.variables`), quantities derived from them
(`DERIVED`, computed by `observations.derived`), and names the user gives an operator for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from xdiffda.state.units import conversion, fitting
from xdiffda.state.variables import (
    G0,
    VARIABLES,
    Match,
    Variable,
    contradiction,
    match_name,
    user_default_units,
)

if TYPE_CHECKING:
    from xdiffda.observations.nonlinear import Operator


DEGREES_PER_RADIAN = 57.29577951308232


def _derived(
    name: str,
    units: str,
    standard_name: str,
    aliases: str,
    on_levels: bool,
    valid_range: tuple[float, float],
    error: float,
    long_name: str,
) -> Variable:
    return Variable(
        name, units, standard_name, tuple(aliases.split()), on_levels, valid_range, error, long_name
    )


# Ranges and default errors are our choice: see `observations.defaults`.
DERIVED: dict[str, Variable] = {
    v.name: v
    for v in (
        _derived(
            "wind_speed",
            "m s-1",
            "wind_speed",
            "ff wspd windspd wind_spd",
            True,
            (0, 250),
            1.0,
            "wind speed",
        ),
        _derived(
            "10m_wind_speed",
            "m s-1",
            "wind_speed",
            "ff10 10si si10 sfcwind wspd10 ff wspd",
            False,
            (0, 150),
            1.0,
            "10 m wind speed",
        ),
        _derived(
            "wind_from_direction",
            "degree",
            "wind_from_direction",
            "dd wdir wind_direction",
            True,
            (-180, 360),
            10.0,
            "direction the wind comes from",
        ),
        _derived(
            "10m_wind_from_direction",
            "degree",
            "wind_from_direction",
            "dd10 wdir10 dd wdir wind_direction",
            False,
            (-180, 360),
            20.0,
            "direction the 10 m wind comes from",
        ),
        _derived(
            "dewpoint_temperature",
            "K",
            "dew_point_temperature",
            "td dewpoint",
            True,
            (100, 330),
            2.0,
            "dew point",
        ),
        _derived(
            "thickness",
            "m2 s-2",
            "",
            "geopotential_thickness",
            True,
            (0, 8e5),
            10 * G0,
            "geopotential difference of two pressure levels",
        ),
        _derived(
            "layer_mean_temperature",
            "K",
            "",
            "mean_layer_temperature",
            True,
            (130, 360),
            1.0,
            "temperature averaged over a layer in log-pressure",
        ),
    )
}

KNOWN: dict[str, Variable] = VARIABLES | DERIVED

# A variable of the state in the same units, whose spellings of units are understood.
_SAME_UNITS = {
    "m s-1": "u_component_of_wind",
    "K": "temperature",
    "m2 s-2": "geopotential",
    "%": "relative_humidity",
    "Pa": "surface_pressure",
    "kg kg-1": "specific_humidity",
}
_ANGLES = {
    **dict.fromkeys(("degree", "degrees", "deg", "°", "degree_true", "degrees_true"), 1.0),
    **dict.fromkeys(("rad", "radian", "radians"), DEGREES_PER_RADIAN),
}


def own_variables(operators: Mapping[str, Operator] | None) -> dict[str, Variable]:
    """What the user's operators observe, as variables; anything finite is in their range."""
    infinite = (float("-inf"), float("inf"))
    return {
        name: KNOWN.get(name)
        or Variable(
            name, operator.units, "", (), False, infinite, operator.error_std or float("nan"), name
        )
        for name, operator in (operators or {}).items()
    }


def match_observed(
    user_name: str, standard_name: str, *, on_levels: bool | None, own: Mapping[str, Variable]
) -> Match | None:
    """Recognise what is observed; the user's own names come first, then the state's.

    Examples
    --------
    >>> match_observed("ff", "", on_levels=False, own={}).name
    '10m_wind_speed'
    >>> match_observed("t", "", on_levels=True, own={}).name
    'temperature'
    """
    if user_name in own:
        return Match(user_name, user_name, (0, 0))
    if contradicts(user_name, standard_name) is not None:
        return None
    for wanted in (on_levels, None):
        found = (
            None
            if _derived_names(user_name)
            else (match_name(user_name, standard_name, on_levels=wanted))
        )
        found = found or _match_derived(user_name, standard_name, wanted)
        if found is not None:
            return found
    return None


def contradicts(user_name: str, standard_name: str) -> str | None:
    """The quantity that a name says, where ``standard_name`` says it is another.

    Examples
    --------
    >>> contradicts("td", "air_temperature"), contradicts("td", "dew_point_temperature")
    ('dewpoint_temperature', None)
    """
    said, standard = _derived_names(user_name), standard_name.strip()
    if not said or standard in ("", "unknown", user_name):
        return contradiction(user_name, standard_name)
    fits = any(standard in (v.standard_name, v.name, *v.aliases) for v in said)
    return None if fits else said[0].name


def _derived_names(user_name: str) -> list[Variable]:
    """The derived quantities that a name may mean."""
    return [v for v in DERIVED.values() if user_name == v.name or user_name.lower() in v.aliases]


def _match_derived(user_name: str, standard_name: str, on_levels: bool | None) -> Match | None:
    alias = user_name.lower()
    if user_name in DERIVED and on_levels in (None, DERIVED[user_name].on_levels):
        return Match(user_name, user_name, (0, 0))
    for variable in DERIVED.values():
        if on_levels not in (None, variable.on_levels):
            continue
        same = standard_name and standard_name == variable.standard_name
        if same or alias in variable.aliases:
            return Match(user_name, variable.name, (1, 0))
    return None


def to_units(units: str, variable: Variable, user_name: str = "") -> tuple[float, float] | None:
    """Factor and offset from ``units`` to those of a variable; None if impossible.

    Examples
    --------
    >>> to_units("rad", DERIVED["wind_from_direction"])[0].__round__(3)
    57.296
    """
    if variable.name in VARIABLES:
        return conversion(units or user_default_units(user_name, variable.name), variable.name)
    if units in ("", variable.units):
        return 1.0, 0.0
    if variable.units == "degree":
        factor = _ANGLES.get(units.strip().lower())
        return None if factor is None else (factor, 0.0)
    proxy = _SAME_UNITS.get(variable.units)
    return conversion(units, proxy) if proxy else None


def fitting_units(
    lowest: float,
    highest: float,
    variable: Variable,
    *,
    median: float | None = None,
    level: float = 1000.0,
) -> str | None:
    """The likeliest units in which raw values would be plausible; see `units_that_fit`."""
    return fitting(variable.units, variable.valid_range, lowest, highest, median, level)
