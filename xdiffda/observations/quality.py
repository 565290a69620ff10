"""Quality control: which observations an analysis may use, and why not the others.

Everything here sees a tidy table, and departures as plain numbers; H and B are not needed.
`screen` applies what needs no background (1 to 3, and winds as a whole); `judge_departures` is the
background check for departures that are known, and `xdiffda.assimilation.innovations.judge` that of
an analysis, which knows H and B. The order is that of operational centres:

1. marks of the file, by the rule of its form;
2. ranges: what nature has never shown at that level;
3. repeats: one report of a station in the window, or in each step of it;
4. departures from the background, in standard deviations of which the scale is estimated robustly
   (medians), for each variable and kind: errors must not inflate the scale that judges them;
5. winds and reports as a whole: what ruins one component ruins the other, and a report with several
   gross errors is a report of another place, time or instrument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.checks import N_ERROR_STD
from xdiffda.observations.names import KNOWN
from xdiffda.observations.readers.marks import good_marks
from xdiffda.observations.robust import Robust, as_robust
from xdiffda.observations.sites import name_codes

if TYPE_CHECKING:
    import pandas as pd

Flags = Bool[np.ndarray, " obs"]
Codes = Int[np.ndarray, " obs"]
Numbers = Float[np.ndarray, " obs"]

# Why an observation is not used, in the words of the account of an analysis ...
MARKED = "marked as bad in the file"
RANGE = "outside the range of its variable"
REPEATED = "repeats another report of its station"
GROSS = "gross error"
PAIR = "of a wind of which the other component was rejected"
REPORT = "of a report with several gross errors"
# ... and the flag of each: beginning of a reason -> flag
FLAGS = {
    "before the window": "outside_window",
    "after the window": "outside_window",
    "outside the window": "outside_window",
    "of a variable": "unknown_variable",
    "outside the levels": "outside_levels",
    MARKED: "bad_mark",
    RANGE: "out_of_range",
    REPEATED: "duplicate",
    GROSS: "gross_error",
    PAIR: "wind_pair",
    REPORT: "bad_report",
}
# what quality control itself says: no method of analysis may see these observations
CONDEMNED = (MARKED, RANGE, REPEATED, GROSS, PAIR, REPORT)
USED, OTHER, WITHHELD = "used", "other", "withheld"


def _is_positive(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return not math.isnan(value) and float(value) > 0


@dataclass(frozen=True)
class Quality:
    """Settings of the quality control of observations.

    `screen` takes all but ``gross_check`` and ``robust``, for which departures are needed;
    `xdiffda.assimilate` makes all checks.

    Parameters
    ----------
    marks : bool
        Reject what the file marks as bad, by the rule of its form
        (``xdiffda.observations.readers.marks``).
    ranges : bool
        Reject values that nature has never shown at their level, and winds by their speed. Without
        it impossible values are an error.
    duplicates : bool
        Of several reports of a station within the window keep the one nearest in time; of a station
        that reports in two forms (SYNOP and METAR) the one with the smaller error.
    gross_check : float
        Observations whose innovation exceeds so many expected standard deviations are rejected,
        with the other component of a wind, and the whole of a report with several such errors;
        infinite for no such check.
    robust : {"none", "huber", "varqc"} or Robust, optional
        Weights in the likelihood for gross errors that no check finds, at every noise level
        (`xdiffda.observations.robust`).

    Raises
    ------
    InputError
        If a setting is out of its range, with all that is wrong.

    Examples
    --------
    >>> Quality(robust="varqc").weights.gross_probability
    0.02
    """

    marks: bool = True
    ranges: bool = True
    duplicates: bool = True
    gross_check: float = 5.0
    robust: str | Robust | None = None

    def __post_init__(self) -> None:
        problems = [
            Problem(f"{name}={value!r}", "True or False", f"xdiffda.Quality({name}=True)")
            for name in ("marks", "ranges", "duplicates")
            if not isinstance(value := getattr(self, name), bool)
        ]
        if not _is_positive(self.gross_check):
            problems.append(
                Problem(
                    f"gross_check={self.gross_check!r}",
                    "a positive number of standard deviations, infinite for no check",
                    "xdiffda.Quality(gross_check=5.0)",
                )
            )
        try:
            as_robust(self.robust)
        except (ValueError, TypeError) as error:
            problems.append(
                Problem(
                    str(error),
                    '"none", "huber", "varqc" or Robust(...)',
                    'xdiffda.Quality(robust="varqc")',
                )
            )
        raise_if(problems, what="quality control")
        # numpy's numbers cannot be written down as JSON
        object.__setattr__(self, "gross_check", float(self.gross_check))

    @property
    def weights(self) -> Robust | None:
        """The robust weights; None for a Gaussian likelihood."""
        return as_robust(self.robust)


QUALITY = Quality()


# Judges nothing: what ``quality=None`` means inside.
NO_CHECKS = Quality(marks=False, ranges=False, duplicates=False, gross_check=math.inf)


def as_quality(given: str | Quality | None) -> Quality:
    """Read the argument ``quality``: "default", None (or "none" in a file), or an object.

    Raises
    ------
    InputError
        If it is none of these.

    Examples
    --------
    >>> as_quality(None).gross_check
    inf
    """
    if isinstance(given, Quality):
        return given
    if given is None or given == "none":
        return NO_CHECKS
    if given == "default":
        return Quality()
    problem = Problem(
        f"quality={given!r}",
        '"default", None for no quality control, or xdiffda.Quality(...)',
        'xdiffda.quality.screen(obs, quality="default")',
    )
    raise InputError([problem], what="quality control")


# ------------------------------------------------------------------------ the table alone


def check_table(
    tidy: xr.Dataset,
    quality: Quality,
    *,
    time: np.datetime64 | None = None,
    slot: Codes | None = None,
) -> dict[str, Codes]:
    """Rows to reject by reason, without a background.

    Parameters
    ----------
    tidy
        Tidy observations of one window.
    quality
    time
        The time that counts as nearest, where reports are repeated; None for the earliest.
    slot : int array (obs,), optional
        Step of the window that each observation belongs to: repeats are those of one step.

    Returns
    -------
    dict of str to int array
        Reason to rows, which are disjoint; empty where nothing is rejected.
    """
    wrong: dict[str, Codes] = {}
    good = np.ones(tidy.sizes["obs"], bool)

    def reject(reason: str, bad: Flags) -> None:
        if (bad := bad & good).any():
            wrong[reason] = np.flatnonzero(bad)
            good[bad] = False

    if quality.marks:
        reject(MARKED, ~good_marks(tidy))
    if quality.ranges:
        reject(RANGE, outside_range(tidy))
    if not good.all():
        reject(PAIR, with_partner(tidy, ~good))
    if quality.duplicates:
        reject(REPEATED, repeats(tidy, good, time, slot))
    return wrong


def screen(
    obs: xr.Dataset | pd.DataFrame,
    *,
    quality: str | Quality | None = "default",
    time: Any = None,
) -> xr.Dataset:
    """Judge observations by their table alone: marks of the file, ranges, repeats, winds.

    Parameters
    ----------
    obs : Dataset or DataFrame
        In any form that `assimilate` takes.
    quality : "default", None or Quality
        What is checked; the background check of ``gross_check`` needs departures and is not made
        here (`judge_departures`).
    time : datetime-like, optional
        Of the reports of a station the one nearest to it is kept; default the earliest.

    Returns
    -------
    Dataset
        Tidy, with never fewer rows, and the coordinates ``flag`` (``used``, or a word for why not)
        and ``reason`` (a sentence; empty where used). Use the good ones by
        ``screened.isel(obs=screened.flag.values == "used")``; `report` counts them.

    Raises
    ------
    InputError
        If the observations cannot be read.

    Examples
    --------
    >>> import pandas as pd
    >>> obs = pd.DataFrame({"variable": "2m_temperature", "lat": [50.0, 51.0], "lon": [8.0, 9.0],
    ...                     "time": pd.Timestamp("2020-01-01"), "value": [280.0, 372.0]})
    >>> screen(obs).flag.values.tolist()
    ['used', 'out_of_range']
    """
    from xdiffda.observations.table import to_tidy

    tidy = to_tidy(obs, strict=False)
    nearest = None if time is None else np.datetime64(time, "ns")
    return with_flags(tidy, check_table(tidy, as_quality(quality), time=nearest))


# Extremes of the atmosphere, with a margin. At the surface those of the WMO archive of weather and
# climate extremes: -89.2 C (Vostok 1983), 56.7 C (Furnace Creek 1913), dew point 35 C (Dhahran
# 2003), 870 hPa (typhoon Tip 1979), 1085 hPa (Tosontsengel 2001), gusts of 113 m/s (Barrow Island
# 1996). Aloft our own choice: some 10 K beyond what soundings of a year hold, sudden warmings of
# the polar stratosphere included, and jets of 130 m/s. Wider than any season: what is merely
# improbable is for the background check.
EXTREMES = {
    "2m_temperature": (178.0, 335.0),
    "2m_dewpoint_temperature": (168.0, 313.0),
    "sea_surface_temperature": (268.0, 313.0),
    "mean_sea_level_pressure": (86_000.0, 109_500.0),
}
EXTREME_SPEED_10M = 105.0
_PRESSURE = (1100.0, 850.0, 700.0, 500.0, 300.0, 200.0, 100.0, 50.0, 10.0, 1.0)  # hPa
_COLDEST = (178.0, 188.0, 193.0, 193.0, 183.0, 173.0, 168.0, 165.0, 160.0, 150.0)
_WARMEST = (335.0, 323.0, 310.0, 291.0, 273.0, 268.0, 273.0, 288.0, 318.0, 345.0)
_FASTEST = (105.0, 120.0, 120.0, 130.0, 155.0, 160.0, 140.0, 150.0, 200.0, 250.0)
U_WIND = ("u_component_of_wind", "10m_u_component_of_wind", "100m_u_component_of_wind")
V_WIND = ("v_component_of_wind", "10m_v_component_of_wind", "100m_v_component_of_wind")


def outside_range(tidy: xr.Dataset) -> Flags:
    """Values outside the valid range of their variable or beyond its extremes at their level.

    Give or take six of their errors: an emulated observation may lie outside by its error.

    Examples
    --------
    >>> wind = xr.Dataset({"value": ("obs", [-132.0, 23.0]), "error_std": ("obs", [1.0, 1.0])},
    ...     {"variable": ("obs", ["10m_v_component_of_wind", "10m_u_component_of_wind"]),
    ...      "level": ("obs", [np.nan] * 2), "lat": ("obs", [0.0] * 2), "lon": ("obs", [0.0] * 2)})
    >>> outside_range(wind).tolist()
    [True, True]
    """
    value, error = tidy["value"].values, tidy["error_std"].values
    level = tidy["level"].values
    slack = N_ERROR_STD * np.where(np.isfinite(error) & (error > 0), error, 0.0)
    code, names = name_codes(tidy["variable"].values)
    low, high = np.full(value.shape, -np.inf), np.full(value.shape, np.inf)
    for number, name in enumerate(names):
        if name not in KNOWN:
            continue
        mine = code == number
        low[mine], high[mine] = KNOWN[name].valid_range
        if name in EXTREMES:
            low[mine], high[mine] = EXTREMES[name]
        elif name == "temperature":
            low[mine] = np.maximum(low[mine], _at(level[mine], _COLDEST))
            high[mine] = np.minimum(high[mine], _at(level[mine], _WARMEST))
        elif name in ("wind_speed", "10m_wind_speed"):
            high[mine] = np.minimum(high[mine], _fastest(level[mine]))
    bad = ~((value >= low - slack) & (value <= high + slack))
    partner = wind_partners(tidy, code, names)
    if partner is not None:
        pair = np.flatnonzero(partner >= 0)
        speed = np.hypot(value[pair], value[partner[pair]])
        most = _fastest(level[pair]) + np.hypot(slack[pair], slack[partner[pair]])
        bad[pair] |= ~(speed <= most)
    return bad


def _at(level: Numbers, limits: tuple[float, ...]) -> Numbers:
    """Limits at pressures, linear in log-pressure."""
    x = np.log(_PRESSURE[::-1])
    return np.interp(np.log(np.maximum(level, 1e-3)), x, limits[::-1])


def _fastest(level: Numbers) -> Numbers:
    return np.where(np.isfinite(level), _at(level, _FASTEST), EXTREME_SPEED_10M)


def row_codes(*columns: np.ndarray) -> Codes:
    """Number the distinct rows of some columns; NaN equals NaN."""
    import pandas as pd
    from pandas.util import hash_array

    # Sorting rows by several keys takes seconds for a million; a 64-bit hash of each row does not.
    row = np.zeros(columns[0].size, np.uint64)
    for column in columns:
        if column.dtype.kind == "M":
            column = column.view(np.int64)
        elif column.dtype.kind == "f":
            column = column + 0.0  # -0.0 and 0.0 are one value
        elif column.dtype.kind in "USO":
            column = np.asarray(name_codes(column)[0])
        own = hash_array(column)  # pyright: ignore[reportCallIssue]
        row = row * np.uint64(0x9E3779B97F4A7C15) + own
    return np.asarray(pd.factorize(row)[0])


def _column(tidy: xr.Dataset, name: str) -> np.ndarray | None:
    return tidy[name].values if name in tidy.variables else None


def wind_partners(
    tidy: xr.Dataset, code: Codes | None = None, names: list[str] | None = None
) -> Codes | None:
    """Row of the other component of each wind, -1 where there is none; None without any pair."""
    if code is None or names is None:
        code, names = name_codes(tidy["variable"].values)
    if not (set(names) & {*U_WIND} and set(names) & {*V_WIND}):
        return None
    # u and v of one height have one number; side says which of the two
    height = np.full(len(names), -1)
    side = np.zeros(len(names), int)
    for k, components in enumerate((U_WIND, V_WIND)):
        for at, name in enumerate(components):
            if name in names:
                height[names.index(name)], side[names.index(name)] = at, k
    rows = np.flatnonzero(height[code] >= 0)
    fields = ("lat", "lon", "level", "time", "station", "kind")
    columns = [c[rows] for name in fields if (c := _column(tidy, name)) is not None]
    key = row_codes(height[code[rows]], *columns)
    which = side[code[rows]]
    key = key * 2 + which
    # several winds of one place and time are paired in their order
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    first = np.searchsorted(ordered, ordered)
    number = np.empty(rows.size, np.int64)
    number[order] = np.arange(rows.size) - first
    name = (key // 2) * (number.max(initial=0) + 1) + number
    partner = np.full(code.size, -1)
    u, v = np.flatnonzero(which == 0), np.flatnonzero(which == 1)
    common, of_u, of_v = np.intersect1d(name[u], name[v], assume_unique=True, return_indices=True)
    if not common.size:
        return None
    partner[rows[u[of_u]]], partner[rows[v[of_v]]] = rows[v[of_v]], rows[u[of_u]]
    return partner


def with_partner(tidy: xr.Dataset, bad: Flags) -> Flags:
    """``bad``, and the other components of the winds among them."""
    partner = wind_partners(tidy)
    if partner is None:
        return bad
    return bad | ((partner >= 0) & bad[partner])


NEAR = 5.0 / 6371.0  # 5 km: two forms of the report of one station
DRIFT = 0.1  # degrees that a station may drift, or be misplaced by, between its reports


def repeats(
    tidy: xr.Dataset,
    good: Flags,
    time: np.datetime64 | None = None,
    slot: Codes | None = None,
) -> Flags:
    """Rows that repeat what another row, which is kept, says of one station.

    A station is its name within 0.1 degrees or, where it has none, its place. Of rows of one
    variable and level the nearest in time is kept, then that of the smallest error, then the first;
    rows of one place, time and kind without a name, but with different values, are two instruments.
    Stations of different kinds within 5 km at the surface are one that reports in two forms.
    """
    again = np.zeros(good.size, bool)
    rows = np.flatnonzero(good)
    if rows.size < 2:
        return again
    columns = {str(name): tidy[name].values[rows] for name in tidy.variables if name != "obs"}
    named = np.zeros(rows.size, bool)
    if "station" in columns:
        named = _has_text(columns["station"])
    step = np.where(named, DRIFT, 1e-3)
    place = [np.round(columns[name] / step).astype(np.int64) for name in ("lat", "lon")]
    what = [columns["variable"], columns["level"]]
    what += [columns[name] for name in ("level_bottom",) if name in columns]
    what += [] if slot is None else [slot[rows]]
    station = [np.where(named, columns["station"].astype(str), "")] if named.any() else []
    key = row_codes(*what, *place, *station)
    distance = _time_distance(columns["time"], time)
    error = columns["error_std"]
    if key.max(initial=-1) + 1 < rows.size:
        best = _best_of(key, distance, error)
        differs = (columns["time"] != columns["time"][best]) & ~np.isnat(columns["time"])
        if "kind" in columns:
            differs |= columns["kind"] != columns["kind"][best]
        same = (columns["value"] == columns["value"][best]) & (error == error[best])
        again[rows] = (named | differs | same) & (best != np.arange(rows.size))
    if "kind" in columns:
        again[rows] |= _second_forms(columns, ~again[rows], what, distance)
    return again


def _has_text(column: np.ndarray) -> Flags:
    text = column.astype(str) if column.dtype.kind != "U" else column
    return ~np.isin(np.char.strip(text), ("", "nan", "None", "<NA>"))


def _time_distance(stamps: np.ndarray, time: np.datetime64 | None) -> Numbers:
    """Seconds to the time that counts as nearest; 0 where an observation has no time."""
    known = ~np.isnat(stamps)
    if not known.any():
        return np.zeros(stamps.size)
    if time is None or np.isnat(time):
        time = stamps[known].min()
    seconds = (stamps - np.datetime64(time)) / np.timedelta64(1, "s")
    return np.where(known, np.abs(seconds), 0.0)


def _best_of(key: Codes, *preferences: Numbers) -> Codes:
    """For each row the best one of its key: least in the first preference, then the next."""
    order = np.lexsort([np.arange(key.size), *preferences[::-1], key])
    first = np.searchsorted(key[order], np.arange(key.max() + 1))
    return order[first][key]


def _second_forms(
    columns: dict[str, np.ndarray], free: Flags, what: list[np.ndarray], distance: Numbers
) -> Flags:
    """Reports at the surface of stations whose report in another form is kept."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    second = np.zeros(free.size, bool)
    rows = np.flatnonzero(free & ~np.isfinite(columns["level"]) & _has_text(columns["kind"]))
    kind = np.asarray(name_codes(columns["kind"][rows])[0])
    if not rows.size or not kind.max():
        return second
    lat, lon = (np.deg2rad(columns[name][rows]) for name in ("lat", "lon"))
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    places, at = np.unique(np.round(xyz, 7), axis=0, return_inverse=True)
    near = KDTree(places).query_pairs(NEAR, output_type="ndarray")
    links = coo_array((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(places),) * 2)
    cluster = connected_components(links, directed=False)[1][at.reshape(-1)]
    key = row_codes(cluster, *(column[rows] for column in what))
    best = _best_of(key, columns["error_std"][rows], distance[rows])
    second[rows] = kind != kind[best]
    return second


# ------------------------------------------------------------------------ departures

# A scale is taken as log-normal around that of the level above it with this spread, so that a
# handful of observations does not decide it alone.
SCALE_PRIOR_STD = 0.5
# variance of the logarithm of a median of n absolute normal numbers, times n
_MEDIAN_NOISE = 1.36
_MEDIAN = 0.6745  # of the absolute value of a standard normal number
SCALES = (0.5, 4.0)
SITE_MODES = 2  # independent numbers of the background's error that the column of one site sees
LAYERS = (700.0, 300.0, 100.0)  # hPa, between layers whose scales are estimated on their own
# a report's values of one quantity are bad together where several are gross, and this share of them
# is, or their root mean square is this share of the limit
SHARE_OF_REPORT, MEAN_OF_REPORT = 1 / 3, 0.6
SEVERAL, ENOUGH = 2, 4
QUANTITIES = {
    "wind": (*U_WIND, *V_WIND, "wind_speed", "10m_wind_speed"),
    "temperature": ("temperature", "2m_temperature", "layer_mean_temperature"),
    "pressure": ("geopotential", "thickness", "mean_sea_level_pressure", "surface_pressure"),
    "humidity": (
        "specific_humidity",
        "relative_humidity",
        "2m_specific_humidity",
        "dewpoint_temperature",
        "2m_dewpoint_temperature",
    ),
}
HUMIDITY = list(QUANTITIES).index("humidity")
# Reports of these kinds are of one place and time each, whatever their name (a flight, a satellite)
MOVING = ("aircraft", "amv", "satellite", "scatterometer", "gps", "ship")


@dataclass(frozen=True)
class Structure:
    """What belongs together among the observations of a window.

    Attributes
    ----------
    group : int array (obs,)
        Variable, kind and layer: what has one scale of departures.
    site : int array (obs,)
    report : int array (obs,)
    quantity : int array (obs,)
        Wind, temperature, pressure, humidity; other variables each on its own.
    partner : int array (obs,)
        Row of the other component of a wind; -1 where there is none.
    """

    group: Codes
    site: Codes
    report: Codes
    quantity: Codes
    partner: Codes

    @classmethod
    def of(cls, tidy: xr.Dataset, slot: Codes | None = None) -> Structure:
        """What belongs together in a table without repeats."""
        code, names = name_codes(tidy["variable"].values)
        level = tidy["level"].values
        layer = np.where(np.isfinite(level), np.searchsorted(LAYERS[::-1], level), -1)
        lat, lon = (np.round(tidy[name].values, 4) for name in ("lat", "lon"))
        site = row_codes(lat, lon)
        kind = _column(tidy, "kind")
        station = _column(tidy, "station")
        kinds = [] if kind is None else [kind]
        identity = site
        if station is not None:
            fixed = _has_text(station)
            if kind is not None:
                fixed &= ~np.isin(kind.astype(str), MOVING)
            # a station that drifts (a sounding) makes one report all the same
            identity = np.where(fixed, row_codes(station), site + code.size)
            when = np.where(fixed, np.datetime64("NaT"), tidy["time"].values)
        else:
            when = tidy["time"].values
        slots = [] if slot is None else [slot]
        families = {name: i for i, family in enumerate(QUANTITIES.values()) for name in family}
        quantity = np.array(
            [families.get(name, len(QUANTITIES) + i) for i, name in enumerate(names)]
        )
        partner = wind_partners(tidy, code, names)
        return cls(
            row_codes(code, layer, *kinds),
            site,
            row_codes(identity, when, *kinds, *slots),
            quantity[code],
            np.full(code.size, -1) if partner is None else partner,
        )

    def take(self, rows: Codes) -> Structure:
        """The part of some rows, partners among them; rows of -1 are padding."""
        where = np.full(self.group.size + 1, -1)  # the last one is that of no partner
        real = np.flatnonzero(rows >= 0)
        where[rows[real]] = real
        return Structure(
            self.group[rows],
            self.site[rows],
            self.report[rows],
            self.quantity[rows],
            where[self.partner[rows]],
        )


def judge_departures(
    size: Numbers, structure: Structure, limit: float, *, scale: bool = True
) -> dict[str, Flags]:
    """Which departures are gross errors, or belong to winds and reports that are.

    Parameters
    ----------
    size : array (obs,)
        Absolute departures, each in its expected standard deviation.
    structure : Structure
        Of the same rows.
    limit : float
        Standard deviations allowed.
    scale : bool
        Whether medians may also say that the expected standard deviations are too large; that they
        are too small they may always say.

    Returns
    -------
    dict of str to bool array (obs,)
        By reason, disjoint.
    """
    size = size / robust_scales(size, structure, least=SCALES[0] if scale else 1.0)
    gross = ~(size <= limit)
    partner = structure.partner
    pair = (partner >= 0) & gross[partner] & ~gross
    return {GROSS: gross, PAIR: pair, REPORT: _bad_reports(size, gross, pair, structure, limit)}


def robust_scales(size: Numbers, structure: Structure, *, least: float = SCALES[0]) -> Numbers:
    """Factor of the expected standard deviations of each row: medians, by group.

    Medians know nothing of how large the gross errors are, as long as they are fewer than half.
    """
    group = structure.group
    whole = _shrunk(_centre(size), _n_mode(size.size, structure.site), 1.0)
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    scales = np.empty(size.size)
    for rows in np.split(order, ends):
        if rows.size:
            n_mode = _n_mode(rows.size, structure.site[rows])
            scales[rows] = _shrunk(_centre(size[rows]), n_mode, whole)
    return np.clip(scales, least, SCALES[1])


def _centre(size: Numbers) -> float:
    """Scale by the lower median: of two departures one may be a gross error."""
    if not size.size:
        return 1.0
    middle = (size.size - 1) // 2
    return float(np.partition(size, middle)[middle]) / _MEDIAN


def _n_mode(n: int, site: Codes) -> int:
    return min(SITE_MODES * np.unique(site).size, n)


def _shrunk(found: float, n_mode: int, around: float) -> float:
    """The most probable scale, given a median of so many independent numbers."""
    prior = SCALE_PRIOR_STD**2
    weight = prior / (prior + _MEDIAN_NOISE / max(n_mode, 1))
    return float(np.exp((1 - weight) * np.log(around) + weight * np.log(max(found, 1e-3))))


def _bad_reports(
    size: Numbers, gross: Flags, pair: Flags, structure: Structure, limit: float
) -> Flags:
    """What belongs to reports, or to a quantity of a report, that are bad as a whole."""
    part = row_codes(structure.report, structure.quantity)
    n = np.bincount(part)
    n_gross = np.bincount(part, gross)
    mean = np.sqrt(np.bincount(part, np.minimum(size, 10 * limit) ** 2) / n)
    # components of one wind are one error
    both = gross & (structure.partner >= 0) & gross[structure.partner]
    n_error = n_gross - np.bincount(part, both) / 2
    bad = (n_error >= SEVERAL) & (
        (n_gross >= SHARE_OF_REPORT * n) | (mean > MEAN_OF_REPORT * limit)
    )
    # the report goes where two quantities of it are bad as a whole: it is of another place or time,
    # where one alone may be a sensor; humidity does not count, it is what sensors lose first. Or
    # where two quantities have gross errors and are at least half of it
    report = np.zeros(n.size, np.int64)
    quantity = np.zeros(n.size, np.int64)
    report[part], quantity[part] = structure.report, structure.quantity
    condemned = np.bincount(report, bad & (quantity != HUMIDITY)) >= SEVERAL
    wrong, present = np.bincount(report, n_gross > 0), np.bincount(report)
    small = np.bincount(report, n) < ENOUGH * present  # reports of the surface
    condemned |= small & (wrong >= SEVERAL) & (2 * wrong >= present)
    return (bad[part] | condemned[structure.report]) & ~gross & ~pair


# ------------------------------------------------------------------------ the account


def flag_of(reason: str) -> str:
    """The flag of a reason.

    Examples
    --------
    >>> flag_of("gross error"), flag_of("outside the levels 10 to 1000 hPa"), flag_of("")
    ('gross_error', 'outside_levels', 'used')
    """
    if not reason:
        return USED
    return next((flag for start, flag in FLAGS.items() if reason.startswith(start)), OTHER)


def with_flags(tidy: xr.Dataset, lost: Mapping[str, Codes]) -> xr.Dataset:
    """The table with ``flag`` and ``reason`` for each observation.

    Parameters
    ----------
    tidy
        Tidy observations.
    lost
        Reason to the rows rejected for it.

    Returns
    -------
    Dataset
        With the coordinates ``flag`` (``used``, or a word for why not) and ``reason`` (a sentence;
        empty where used).

    Examples
    --------
    >>> tidy = xr.Dataset({"value": ("obs", [280.0, 372.0])})
    >>> with_flags(tidy, {"gross error": np.array([1])}).flag.values.tolist()
    ['used', 'gross_error']
    """
    n = tidy.sizes["obs"]
    reason = np.full(n, "", object)
    flag = np.full(n, USED, object)
    for why, rows in lost.items():
        reason[rows], flag[rows] = why, flag_of(why)
    words = ("obs", flag, {"long_name": "used, or why not"})
    return tidy.assign_coords(flag=words, reason=("obs", reason, {"long_name": "why not used"}))


def report(obs: xr.Dataset) -> pd.DataFrame:
    """Count screened observations by kind, variable and flag.

    Parameters
    ----------
    obs
        As `screen` gives them.

    Returns
    -------
    DataFrame
        One row for each kind and variable, one column for each flag that occurs, and ``all``.

    Raises
    ------
    InputError
        If the observations have no flags.

    Examples
    --------
    >>> obs = xr.Dataset({"value": ("obs", [280.0, 372.0])},
    ...                  {"variable": ("obs", ["2m_temperature"] * 2)})
    >>> counts = report(with_flags(obs, {"gross error": np.array([1])}))
    >>> counts.loc[("", "2m_temperature")].to_dict()
    {'used': 1, 'gross_error': 1, 'all': 2}
    """
    import pandas as pd

    raise_if(
        []
        if "flag" in obs.variables
        else [
            Problem(
                "observations without flags",
                "what quality control made of each",
                "xdiffda.quality.report(xdiffda.quality.screen(obs))",
            )
        ],
        what="report of quality control",
    )
    columns: dict[str, Any] = {name: obs[name].values for name in ("variable", "flag")}
    n = obs.sizes["obs"]
    columns["kind"] = obs["kind"].values.astype(str) if "kind" in obs.variables else np.full(n, "")
    table = pd.crosstab(
        [pd.Series(columns[name], name=name) for name in ("kind", "variable")],
        pd.Series(columns["flag"], name="flag"),
    )
    known = [USED, *dict.fromkeys(FLAGS.values()), OTHER, WITHHELD]
    table = table[[flag for flag in known if flag in table.columns]]
    return table.assign(all=table.sum(axis=1))
