"""Convert the units people write into those of `VARIABLES`, as a factor and an offset.

The usual spellings are looked up; pint (through the registry of cf-xarray, which reads
udunits-style strings) is imported only for the rest, because importing it takes a second.
"""

from __future__ import annotations

from functools import lru_cache
from tokenize import TokenError

from xdiffda.state.variables import G0, VARIABLES

# What pint raises, besides errors of its own, for strings that are not units.
_NOT_A_UNIT = (
    ValueError,
    AssertionError,
    AttributeError,
    TypeError,
    KeyError,
    SyntaxError,
    TokenError,
)
KNOT = 1852.0 / 3600.0  # m s-1, exact by definition

_KNOWN: dict[str, dict[str, tuple[float, float]]] = {
    "K": {
        **dict.fromkeys(("k", "kelvin", "degk", "deg_k", "kelvins", "degrees_k"), (1.0, 0.0)),
        **dict.fromkeys(
            (
                "degc",
                "c",
                "celsius",
                "deg_c",
                "°c",
                "degrees_c",
                "degree_c",
                "degree_celsius",
                "degrees_celsius",
                "deg c",
                "degrees celsius",
                "celcius",
            ),
            (1.0, 273.15),
        ),
        **dict.fromkeys(("degf", "f", "fahrenheit", "°f", "deg_f"), (5 / 9, 459.67 * 5 / 9)),
    },
    "m s-1": {
        **dict.fromkeys(
            (
                "m s-1",
                "m s**-1",
                "m/s",
                "m s^-1",
                "ms-1",
                "m.s-1",
                "meter second-1",
                "meters/second",
                "m / s",
            ),
            (1.0, 0.0),
        ),
        **dict.fromkeys(("kt", "kts", "knot", "knots"), (KNOT, 0.0)),
    },
    "m2 s-2": {
        **dict.fromkeys(
            (
                "m2 s-2",
                "m**2 s**-2",
                "m^2/s^2",
                "m2/s2",
                "m**2/s**2",
                "m^2 s^-2",
                "j kg-1",
                "j kg**-1",
                "j/kg",
            ),
            (1.0, 0.0),
        ),
        **dict.fromkeys(
            (
                "gpm",
                "m",
                "meter",
                "meters",
                "metre",
                "metres",
                "geopotential meter",
                "geopotential metre",
            ),
            (G0, 0.0),
        ),
        **dict.fromkeys(("gpdm", "dam", "gpdam", "dagpm"), (10.0 * G0, 0.0)),
    },
    "Pa": {
        **dict.fromkeys(("pa", "pascal", "pascals"), (1.0, 0.0)),
        **dict.fromkeys(
            (
                "hpa",
                "mb",
                "mbar",
                "millibar",
                "millibars",
                "hectopascal",
                "hectopascals",
                "hpascal",
            ),
            (100.0, 0.0),
        ),
    },
    "kg kg-1": {
        **dict.fromkeys(
            ("kg kg-1", "kg kg**-1", "kg/kg", "1", "kg kg^-1", "dimensionless"), (1.0, 0.0)
        ),
        **dict.fromkeys(("g kg-1", "g kg**-1", "g/kg", "gram/kg", "g kg^-1"), (1e-3, 0.0)),
        **dict.fromkeys(("mg kg-1", "mg/kg", "mg kg**-1"), (1e-6, 0.0)),
    },
    "Pa s-1": dict.fromkeys(("pa s-1", "pa s**-1", "pa/s", "pascal/s"), (1.0, 0.0)),
    "s-1": dict.fromkeys(("s-1", "s**-1", "1/s", "s^-1"), (1.0, 0.0)),
    "%": {
        **dict.fromkeys(("%", "percent"), (1.0, 0.0)),
        **dict.fromkeys(("1", "fraction", "0-1", "(0 - 1)", "dimensionless"), (100.0, 0.0)),
    },
    "1": {
        **dict.fromkeys(("1", "fraction", "0-1", "(0 - 1)", "dimensionless"), (1.0, 0.0)),
        **dict.fromkeys(("%", "percent"), (0.01, 0.0)),
    },
    "kg m-2": dict.fromkeys(("kg m-2", "kg m**-2", "kg/m2", "kg/m^2", "mm"), (1.0, 0.0)),
    "m": {
        **dict.fromkeys(
            ("m", "meter", "meters", "metre", "metres", "m of water equivalent"), (1.0, 0.0)
        ),
        **dict.fromkeys(("mm", "kg m-2", "kg m**-2", "kg/m2", "kg/m^2"), (1e-3, 0.0)),
    },
    "J m-2": dict.fromkeys(("j m-2", "j m**-2", "j/m2", "j/m^2"), (1.0, 0.0)),
}


@lru_cache(maxsize=512)
def conversion(units: str, name: str) -> tuple[float, float] | None:
    """Factor and offset with ``canonical = factor * value + offset``; None if impossible.

    Parameters
    ----------
    units
        As written by the user.
    name
        Canonical name of the variable. Geopotential may be given as a height (gpm, dam):
        it is multiplied by 9.80665 m s-2.

    Examples
    --------
    >>> conversion("degC", "temperature"), conversion("hPa", "mean_sea_level_pressure")
    ((1.0, 273.15), (100.0, 0.0))
    >>> conversion("gpm", "geopotential")
    (9.80665, 0.0)
    >>> conversion("kg", "temperature") is None
    True
    """
    canonical = VARIABLES[name].units
    known = _KNOWN.get(canonical, {}).get(units.strip().lower())
    return known if known is not None else _by_pint(units.strip(), canonical)


def _by_pint(units: str, canonical: str) -> tuple[float, float] | None:
    import pint
    from cf_xarray.units import units as registry

    try:
        unit, target = registry.Unit(units), registry.Unit(canonical)
        if canonical == "m2 s-2" and unit.is_compatible_with("m"):
            target = registry.Unit("m")
            factor, offset = _line(registry, unit, target)
            return factor * G0, offset
        return _line(registry, unit, target)
    except (*_NOT_A_UNIT, pint.PintError):
        return None


def _line(registry, unit, target) -> tuple[float, float]:
    offset = float(registry.Quantity(0.0, unit).to(target).magnitude)
    return float(registry.Quantity(1.0, unit).to(target).magnitude) - offset, offset


def units_that_fit(
    lowest: float, highest: float, name: str, *, median: float | None = None, level: float = 1000.0
) -> str | None:
    """Usual units in which raw values would be plausible, if any: the likeliest of them.

    Parameters
    ----------
    lowest, highest
        Extremes of the raw values.
    name
        Canonical name.
    median
        Median of the raw values; where it is given, it must fit and the extremes decide among
        units in which it does, for one wild value says nothing of the unit.
    level
        Pressure in hPa at which temperatures are compared with the standard atmosphere's.

    Examples
    --------
    >>> units_that_fit(-60.0, 35.0, "temperature")
    'degC'
    >>> units_that_fit(-999.0, 95.0, "2m_temperature", median=59.0)
    'degF'
    """
    return fitting(
        VARIABLES[name].units, VARIABLES[name].valid_range, lowest, highest, median, level
    )


def fitting(
    canonical: str,
    valid_range: tuple[float, float],
    lowest: float,
    highest: float,
    median: float | None = None,
    level: float = 1000.0,
) -> str | None:
    """Do as `units_that_fit`, for a quantity of which units and range are known."""
    low, high = valid_range
    found = []
    for i, candidate in enumerate(USUAL.get(canonical, ())):
        factor, offset = _KNOWN[canonical][candidate.lower()]
        ends = [factor * x + offset for x in (lowest, highest)]
        middle = factor * (sum((lowest, highest)) / 2 if median is None else median) + offset
        outside = sum(not low <= end <= high for end in ends)
        if outside == 0 or (median is not None and low <= middle <= high):
            # degC and degF overlap: the one nearer to what the atmosphere usually has
            far = abs(middle - _standard_temperature(level)) if canonical == "K" else 0.0
            found.append((outside, far, i, candidate))
    return min(found)[-1] if found else None


def _standard_temperature(level: float) -> float:
    """ICAO standard atmosphere up to 20 km, K, at a pressure in hPa."""
    return max(216.65, 288.15 * (min(level, 1013.25) / 1013.25) ** 0.190263)


# Units in use for quantities of each canonical unit, the canonical one first.
USUAL = {
    "K": ("K", "degC", "degF"),
    "m s-1": ("m s-1", "knots"),
    "m2 s-2": ("m2 s-2", "gpm", "dam"),
    "Pa": ("Pa", "hPa"),
    "kg kg-1": ("kg kg-1", "g kg-1", "mg kg-1"),
    "%": ("%", "1"),
    "1": ("1", "%"),
    "m": ("m", "mm"),
}
