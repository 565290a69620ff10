"""The variables xdiffda knows: names, units, aliases, plausible values, default errors.

Names are those of WeatherBench 2 and GraphCast. Default observation errors of the upper-air
variables and pressure are those of the SPEEDY-LETKF testbed (1 m/s, 1 K, 1 g/kg, 1 hPa; Miyoshi
2005); that of geopotential, 10 m, is our choice where no level is stated, see
`xdiffda.observations.error_std` for those by level. Aliases are the short names of GRIB (ECMWF
table 128 and cfgrib), of CMIP, of NCEP reanalyses and of GrADS.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass


G0 = 9.80665  # standard gravity, m s-2 (CGPM 1901): geopotential = G0 * geopotential height


@dataclass(frozen=True)
class Variable:
    """Names, units, aliases, plausible values and default errors of one variable.

    Parameters
    ----------
    name
        WeatherBench 2 name.
    units
        Units inside xdiffda.
    standard_name
        CF standard name; "" where there is none.
    aliases
        Other names in use, lower case, the most usual first.
    on_levels
        Whether it lives on pressure levels.
    valid_range
        Smallest and largest plausible value, in ``units``; generous.
    default_error_std
        Standard deviation of an observation's error, in ``units``, where nobody says otherwise.
    long_name
        A name for people.
    role
        ``state`` for what an analysis changes, ``static`` for fields that never change,
        ``forcing`` for what is known from astronomy.
    """

    name: str
    units: str
    standard_name: str
    aliases: tuple[str, ...]
    on_levels: bool
    valid_range: tuple[float, float]
    default_error_std: float
    long_name: str
    role: Literal["state", "static", "forcing"] = "state"


Role = Literal["state", "static", "forcing"]


def _level(name, units, standard_name, aliases, valid_range, error, long_name):
    return Variable(
        name, units, standard_name, tuple(aliases.split()), True, valid_range, error, long_name
    )


def _surface(
    name, units, standard_name, aliases, valid_range, error, long_name, role: Role = "state"
):
    return Variable(
        name,
        units,
        standard_name,
        tuple(aliases.split()),
        False,
        valid_range,
        error,
        long_name,
        role,
    )


_TABLE = (
    _level(
        "temperature",
        "K",
        "air_temperature",
        "t ta tmp temp air tmpprs",
        (130, 360),
        1.0,
        "temperature",
    ),
    _level(
        "geopotential",
        "m2 s-2",
        "geopotential",
        "z phi gh zg hgt z3 hgtprs geopotential_height",
        (-2e4, 8e5),
        10 * G0,
        "geopotential",
    ),
    _level(
        "u_component_of_wind",
        "m s-1",
        "eastward_wind",
        "u ua ugrd uwnd u_wind eastward_wind ugrdprs",
        (-200, 200),
        1.0,
        "eastward wind",
    ),
    _level(
        "v_component_of_wind",
        "m s-1",
        "northward_wind",
        "v va vgrd vwnd v_wind northward_wind vgrdprs",
        (-200, 200),
        1.0,
        "northward wind",
    ),
    _level(
        "vertical_velocity",
        "Pa s-1",
        "lagrangian_tendency_of_air_pressure",
        "w wap omega vvel",
        (-60, 60),
        0.1,
        "vertical velocity (pressure)",
    ),
    _level(
        "specific_humidity",
        "kg kg-1",
        "specific_humidity",
        "q hus spfh shum spfhprs",
        (-0.01, 0.06),
        1e-3,
        "specific humidity",
    ),
    _level(
        "relative_humidity",
        "%",
        "relative_humidity",
        "r hur rh rhprs",
        (-30, 200),
        10.0,
        "relative humidity",
    ),
    _level(
        "vorticity",
        "s-1",
        "atmosphere_relative_vorticity",
        "vo",
        (-0.01, 0.01),
        1e-5,
        "relative vorticity",
    ),
    _level("divergence", "s-1", "divergence_of_wind", "d", (-0.01, 0.01), 1e-5, "divergence"),
    _level(
        "specific_cloud_liquid_water_content",
        "kg kg-1",
        "mass_fraction_of_cloud_liquid_water_in_air",
        "clwc clw",
        (-1e-3, 0.02),
        1e-5,
        "cloud liquid water",
    ),
    _level(
        "specific_cloud_ice_water_content",
        "kg kg-1",
        "mass_fraction_of_cloud_ice_in_air",
        "ciwc cli",
        (-1e-3, 0.02),
        1e-5,
        "cloud ice",
    ),
    _level(
        "ozone_mass_mixing_ratio",
        "kg kg-1",
        "mass_fraction_of_ozone_in_air",
        "o3 o3mr",
        (-1e-5, 1e-4),
        1e-7,
        "ozone",
    ),
    _surface(
        "2m_temperature",
        "K",
        "air_temperature",
        "t2m 2t tas t2 tmp2m",
        (160, 350),
        1.0,
        "2 m temperature",
    ),
    _surface(
        "2m_dewpoint_temperature",
        "K",
        "dew_point_temperature",
        "d2m 2d tdps",
        (130, 330),
        1.0,
        "2 m dew point",
    ),
    _surface(
        "2m_specific_humidity",
        "kg kg-1",
        "specific_humidity",
        "q2m 2sh sh2 huss",
        (-0.01, 0.06),
        1e-3,
        "2 m specific humidity",
    ),
    _surface(
        "10m_u_component_of_wind",
        "m s-1",
        "eastward_wind",
        "u10 10u u10m uas ugrd10m",
        (-120, 120),
        1.0,
        "10 m eastward wind",
    ),
    _surface(
        "10m_v_component_of_wind",
        "m s-1",
        "northward_wind",
        "v10 10v v10m vas vgrd10m",
        (-120, 120),
        1.0,
        "10 m northward wind",
    ),
    _surface(
        "100m_u_component_of_wind",
        "m s-1",
        "eastward_wind",
        "u100 100u",
        (-120, 120),
        1.0,
        "100 m eastward wind",
    ),
    _surface(
        "100m_v_component_of_wind",
        "m s-1",
        "northward_wind",
        "v100 100v",
        (-120, 120),
        1.0,
        "100 m northward wind",
    ),
    _surface(
        "mean_sea_level_pressure",
        "Pa",
        "air_pressure_at_mean_sea_level",
        "msl mslp prmsl slp psl mslet mslma pmsl prmslmsl",
        (85e3, 112e3),
        100.0,
        "mean sea level pressure",
    ),
    _surface(
        "surface_pressure",
        "Pa",
        "surface_air_pressure",
        "sp ps pressfc psfc",
        (40e3, 112e3),
        100.0,
        "surface pressure",
    ),
    _surface(
        "sea_surface_temperature",
        "K",
        "sea_surface_temperature",
        "sst tos",
        (260, 320),
        0.5,
        "sea surface temperature",
    ),
    _surface(
        "skin_temperature",
        "K",
        "surface_temperature",
        "skt ts",
        (150, 370),
        1.0,
        "skin temperature",
    ),
    _surface(
        "sea_ice_cover",
        "1",
        "sea_ice_area_fraction",
        "siconc ci sic",
        (-0.1, 1.1),
        0.1,
        "sea ice cover",
    ),
    _surface(
        "total_cloud_cover",
        "1",
        "cloud_area_fraction",
        "tcc clt",
        (-0.1, 1.1),
        0.1,
        "total cloud cover",
    ),
    _surface(
        "total_column_water_vapour",
        "kg m-2",
        "atmosphere_mass_content_of_water_vapor",
        "tcwv prw pwat",
        (-5, 150),
        2.0,
        "total column water vapour",
    ),
    _surface("total_column_water", "kg m-2", "", "tcw", (-5, 150), 2.0, "total column water"),
    _surface(
        "total_precipitation",
        "m",
        "precipitation_amount",
        "tp apcp",
        (-0.01, 5),
        1e-3,
        "total precipitation",
    ),
    _surface(
        "total_precipitation_6hr", "m", "", "tp6h tp06", (-0.01, 2), 1e-3, "precipitation in 6 h"
    ),
    _surface(
        "total_precipitation_12hr", "m", "", "tp12h tp12", (-0.01, 3), 1e-3, "precipitation in 12 h"
    ),
    _surface(
        "total_precipitation_24hr", "m", "", "tp24h tp24", (-0.01, 5), 1e-3, "precipitation in 24 h"
    ),
    _surface(
        "toa_incident_solar_radiation",
        "J m-2",
        "toa_incoming_shortwave_flux",
        "tisr",
        (-1, 1e8),
        1e4,
        "incident solar radiation",
        "forcing",
    ),
    _surface(
        "geopotential_at_surface",
        "m2 s-2",
        "surface_geopotential",
        "z zs phis orog oro hgtsfc orography surface_altitude",
        (-2e4, 1e5),
        10 * G0,
        "surface geopotential",
        "static",
    ),
    _surface(
        "land_sea_mask",
        "1",
        "land_binary_mask",
        "lsm sftlf land",
        (-0.1, 1.1),
        0.1,
        "land-sea mask",
        "static",
    ),
)

VARIABLES: dict[str, Variable] = {variable.name: variable for variable in _TABLE}

# Standard names in use for the same thing as in the table.
SAME_STANDARD_NAME = {
    "air_pressure_at_sea_level": "air_pressure_at_mean_sea_level",
    "mean_sea_level_pressure": "air_pressure_at_mean_sea_level",
    "geopotential_height": "geopotential",
    "surface_altitude": "surface_geopotential",
    "x_wind": "eastward_wind",
    "y_wind": "northward_wind",
    "land_area_fraction": "land_binary_mask",
    "lwe_thickness_of_precipitation_amount": "precipitation_amount",
    "omega": "lagrangian_tendency_of_air_pressure",
    "vertical_air_velocity_expressed_as_tendency_of_pressure": (
        "lagrangian_tendency_of_air_pressure"
    ),
}

# Units where none are written: an alias may say more than the name it stands for.
ALIAS_UNITS = {
    "gh": "gpm",
    "zg": "gpm",
    "hgt": "gpm",
    "z3": "gpm",
    "hgtprs": "gpm",
    "hgtsfc": "gpm",
    "geopotential_height": "gpm",
    "orog": "m",
    "oro": "m",
    "orography": "m",
    "surface_altitude": "m",
    "apcp": "kg m-2",
    "sftlf": "%",
}

# Standard names that say nothing, or that stand for several quantities of the table.
_SAYS_NOTHING = {"", "unknown", "none", "~", "undefined"}
_ALSO_SAID_OF = {
    "geopotential_at_surface": {"geopotential"},
    "sea_surface_temperature": {"surface_temperature", "sea_surface_foundation_temperature"},
    "skin_temperature": {"surface_skin_temperature"},
    "surface_pressure": {"air_pressure"},
    "total_column_water": {"atmosphere_mass_content_of_water"},
    "total_precipitation_6hr": {"precipitation_amount"},
    "total_precipitation_12hr": {"precipitation_amount"},
    "total_precipitation_24hr": {"precipitation_amount"},
}


@dataclass(frozen=True)
class Match:
    """The reason for which a variable was recognised; a lower rank is a stronger reason."""

    user_name: str
    name: str
    rank: tuple[int, int]


def match_name(user_name: str, standard_name: str = "", *, on_levels: bool | None) -> Match | None:
    """Recognise one variable by its name, an alias, or its standard name, in this order.

    Parameters
    ----------
    user_name
        Name in the user's dataset.
    standard_name
        Its ``standard_name`` attribute, if any.
    on_levels
        Whether it has a pressure level; None if unknown. ``z`` without levels is the surface
        geopotential, ``air_temperature`` without levels is that of 2 m.

    Returns
    -------
    Match or None
        None if nothing known fits.

    Examples
    --------
    >>> match_name("msl", on_levels=False).name
    'mean_sea_level_pressure'
    >>> match_name("foo", "air_temperature", on_levels=True).name
    'temperature'
    """
    alias, standard = user_name.lower(), _standard(standard_name)
    by_name = (
        [VARIABLES[user_name]]
        if user_name in VARIABLES
        else [v for v in _TABLE if alias in v.aliases]
    )
    if by_name:  # a standard name that contradicts the name is no reason to take it for another
        by_name = [v for v in by_name if _may_be_called(v, standard)]
        # `z` is geopotential on levels and orography without: what fits the levels comes first.
        by_name.sort(key=lambda v: on_levels not in (None, v.on_levels))
        if not by_name:
            return None
        first = by_name[0]
        if user_name == first.name:
            return Match(user_name, user_name, (0, 0))
        return Match(user_name, first.name, (1, first.aliases.index(alias)))
    fits = [
        v
        for v in _TABLE
        if standard and v.standard_name == standard and on_levels in (None, v.on_levels)
    ]
    return Match(user_name, fits[0].name, (2, 0)) if fits else None


def contradiction(user_name: str, standard_name: str) -> str | None:
    """The variable that a name says, where ``standard_name`` says it is another quantity.

    A short name such as ``w`` may stand for a quantity that is not in the table
    (``upward_air_velocity``): that is no contradiction, the variable is just not recognised.

    Examples
    --------
    >>> contradiction("temperature", "air_potential_temperature")
    'temperature'
    >>> contradiction("t2m", "dew_point_temperature")
    '2m_temperature'
    >>> contradiction("t", "air_temperature"), contradiction("w", "upward_air_velocity")
    (None, None)
    """
    standard = _standard(standard_name)
    if user_name in VARIABLES:
        return None if _may_be_called(VARIABLES[user_name], standard) else user_name
    said = [v for v in _TABLE if user_name.lower() in v.aliases]
    known = any(v.standard_name == standard for v in _TABLE)
    if not said or not known or any(_may_be_called(v, standard) for v in said):
        return None
    return said[0].name


def _standard(standard_name: str) -> str:
    """The standard name of the table for one in use; empty where it says nothing."""
    name = standard_name.strip().lower()
    return "" if name in _SAYS_NOTHING else SAME_STANDARD_NAME.get(name, name)


def _may_be_called(variable: Variable, standard: str) -> bool:
    """Whether a standard name (or a name put in its place) may be that of a variable."""
    return (
        standard in ("", variable.standard_name, variable.name, *variable.aliases)
        or standard in _ALSO_SAID_OF.get(variable.name, ())
        or (not variable.standard_name and all(v.standard_name != standard for v in _TABLE))
    )


def canonical_name(name: str, *, on_levels: bool | None = None) -> str | None:
    """WeatherBench name of a variable known by any of its names; None if unknown.

    Examples
    --------
    >>> canonical_name("t"), canonical_name("2t"), canonical_name("air_temperature")
    ('temperature', '2m_temperature', 'temperature')
    >>> canonical_name("chlorophyll") is None
    True
    """
    found = match_name(name, name, on_levels=on_levels)
    return found.name if found else None


def default_error_std(names: Iterable[str]) -> dict[str, float]:
    """Default observation error of each variable, in its canonical units.

    Examples
    --------
    >>> default_error_std(["temperature"])
    {'temperature': 1.0}
    """
    return {name: VARIABLES[name].default_error_std for name in names}


def user_default_units(user_name: str, name: str) -> str:
    """Units assumed for a variable that states none."""
    return ALIAS_UNITS.get(user_name.lower(), VARIABLES[name].units)
