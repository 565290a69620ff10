"""Observations as tables: two labelled forms of one meaning.

*columns*: variables named as in the state on (``station``[, ``level``]), optionally with a
``time`` dimension in front; coordinates ``lat``, ``lon``, ``time``; NaN = not observed;
``<name>_error_std`` beside each variable, and ``<name>_background`` where a file has it.

*tidy*: one dimension ``obs``; ``variable``, ``lat``, ``lon``, ``level`` (hPa, NaN at the
surface), ``time``, ``value``, ``error_std``, optional ``station``, ``kind``, ``quality``,
``station_height`` (m above sea level), ``level_bottom`` (hPa, of a layer that begins at
``level``), ``background`` (what the background of the file's own system says, in the units of
``value``). A pandas DataFrame with these columns (and optionally ``units``) is read as well.

A variable is one of the state, a quantity derived from it (`observations.derived`: wind_speed,
relative_humidity, surface_pressure, thickness, ...), or one the user gives an operator for.

Users' own words are understood: latitude, plev in Pa, t, degC, longitudes of any convention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.checks import (
    centre_and_width,
    find_problems,
    out_of_range,
    repeated,
    with_partners,
)
from xdiffda.observations.columns import BACKGROUND_SUFFIX, SUFFIX, read_columns
from xdiffda.observations.forms import (
    BACKGROUND,
    NUMERIC,
    OPTIONAL,
    Raw,
    count_left_out,
    frame_problem,
    read_tidy,
    with_index,
)
from xdiffda.observations.names import KNOWN, own_variables
from xdiffda.observations.nonlinear import as_operators
from xdiffda.observations.sites import name_codes

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.rows import Operators
    from xdiffda.state.variables import Variable


# Columns of more cells than this, and than so many for each observation, are refused.
_LARGE, _EMPTY = 10**8, 1000
_COORDS = ("variable", "lat", "lon", "level", "time", "station", "kind", *NUMERIC)
_ATTRS = {
    "lat": {"units": "degrees_north", "standard_name": "latitude"},
    "lon": {"units": "degrees_east", "standard_name": "longitude"},
    "level": {"units": "hPa", "standard_name": "air_pressure"},
    "time": {"standard_name": "time"},
    "station_height": {"units": "m", "standard_name": "height_above_mean_sea_level"},
    "level_bottom": {"units": "hPa", "long_name": "lower bound of a layer"},
    "value": {"long_name": "observed value, canonical units of the variable"},
    "error_std": {"long_name": "standard deviation of the observation error"},
    "background": {"long_name": "background of the file's own system, units as value"},
}


def to_tidy(
    obs: xr.Dataset | pd.DataFrame, *, operators: Operators | None = None, strict: bool = True
) -> xr.Dataset:
    """Validate observations in any accepted form and return them tidy.

    Parameters
    ----------
    obs
        Observations in columns or tidy. Where they state no error at all, the defaults of
        ``xdiffda.observations.error_std`` are filled in; an observation without time (NaT) is taken
        to be valid at the analysis time. Numbers are times only with a unit such as
        ``"hours since 2020-01-01"``, and times under a name that is not known are refused.
    operators
        The user's operators by variable (see `Operator`); their names are accepted.
    strict
        Whether values outside the valid range and rows that are repeated are errors. Without it
        they stay in the table, for quality control to flag (``xdiffda.quality.screen``).

    Returns
    -------
    Dataset
        Dimension ``obs``, values and errors in canonical units, float64, longitudes in
        [0, 360), levels in hPa, times in UTC; only what was observed (no NaN). Columns come
        out by time, station, variable, level.

    Raises
    ------
    InputError
        With all problems at once: no observation, unknown variables, places, errors, levels or
        units that cannot be, values outside the valid range of their variable by more than six
        of their errors, duplicates.

    Examples
    --------
    >>> import xarray as xr
    >>> obs = xr.Dataset({"t": (("station", "plev"), [[-23.0, float("nan")]], {"units": "degC"})},
    ...                  {"latitude": ("station", [52.2]), "longitude": ("station", [-14.1]),
    ...                   "plev": ("plev", [50000, 85000], {"units": "Pa"})})
    >>> tidy = to_tidy(obs)
    >>> tidy.variable.item(), tidy.level.item(), tidy.lon.item(), round(tidy.value.item(), 2)
    ('temperature', 500.0, 345.9, 250.15)
    """
    raw = readable(obs, operators)
    raise_if(raw.problems or find_problems(raw, strict=strict), what="observations")
    return tidy_of(raw)


def drop_duplicates(
    obs: xr.Dataset | pd.DataFrame, *, operators: Operators | None = None
) -> xr.Dataset:
    """Tidy observations of which each is kept once; all other problems are still raised.

    Only rows equal in every field are duplicates; two instruments at one place are not.

    Examples
    --------
    >>> import pandas as pd
    >>> twice = pd.DataFrame({"variable": ["2t", "2t"], "lat": 10.0, "lon": 20.0, "value": 280.0})
    >>> drop_duplicates(twice).sizes["obs"]
    1
    """
    raw = readable(obs, operators)
    if not raw.problems and raw.fields:
        once = ~repeated(raw.fields)
        raw.fields = {name: column[once] for name, column in raw.fields.items()}
    raise_if(raw.problems or find_problems(raw), what="observations")
    return tidy_of(raw)


def drop_out_of_range(
    obs: xr.Dataset | pd.DataFrame, *, operators: Operators | None = None
) -> xr.Dataset:
    """Tidy observations without values that nature does not have; other problems are raised.

    Of a wind both components go where one is out of range. They are counted in the attribute
    ``xdiffda_observations_dropped``.

    Examples
    --------
    >>> import pandas as pd
    >>> wind = pd.DataFrame({"variable": ["u", "v", "t"], "lat": 10.0, "lon": 20.0,
    ...                      "level": 250, "value": [-23.2, 411.0, 220.0]})
    >>> drop_out_of_range(wind)["variable"].values.tolist()
    ['temperature']
    """
    raw = readable(obs, operators)
    if not raw.problems and raw.fields:
        bad = with_partners(raw, out_of_range(raw))
        for code, n in zip(
            *np.unique(raw.fields["variable"][bad], return_counts=True), strict=True
        ):
            count_left_out(raw, {f"{raw.names[code]}: out of range": int(n)})
        raw.fields = {name: column[~bad] for name, column in raw.fields.items()}
    raise_if(raw.problems or find_problems(raw), what="observations")
    return tidy_of(raw)


def readable(obs: xr.Dataset | pd.DataFrame, operators: Operators | None = None) -> Raw:
    raw = read(obs, own_variables(as_operators(operators)))
    if raw.fields and not raw.problems:
        folded = np.mod(raw.fields["lon"], 360.0)
        raw.fields["lon"] = np.where(folded == 360.0, 0.0, folded)  # mod(-1e-20, 360) is 360
    return raw


def read(obs: xr.Dataset | pd.DataFrame, own: dict[str, Variable] | None = None) -> Raw:
    """Read any of the accepted forms; ``own`` are variables with operators of the user."""
    own = own or {}
    if not isinstance(obs, xr.Dataset):
        if hasattr(obs, "columns") and hasattr(obs, "to_xarray"):
            return _read_frame(obs, own)
        return Raw(
            "tidy",
            problems=[
                Problem(
                    f"a {type(obs).__name__}",
                    "an xarray Dataset (columns or tidy) or a tidy pandas DataFrame",
                    _as_dataset(obs),
                )
            ],
        )
    names = {str(name).lower() for name in obs.variables}
    if {"variable", "value"} <= names:
        return read_tidy(obs, "tidy", own)
    return read_columns(obs, own)


def _as_dataset(obs: Any) -> str:
    """The call that makes observations of something that is none of the accepted forms."""
    if isinstance(obs, xr.DataArray):
        return f'obs.to_dataset(name="{obs.name or "temperature"}")'
    for call in ("to_pandas", "compute", "to_frame"):  # of polars, dask and a pandas Series
        if hasattr(obs, call):
            return f"obs.{call}()"
    if isinstance(obs, str):
        return f'pandas.read_csv("{obs}")'
    return (
        'pandas.DataFrame({"variable": ["2t"], "lat": [52.2], "lon": [14.1], '
        '"time": ["2020-01-01T00"], "value": [280.0]})'
    )


def _read_frame(frame: pd.DataFrame, own: dict[str, Variable]) -> Raw:
    problem = frame_problem(frame)
    if problem is not None:
        return Raw("frame", problems=[problem])
    plain = with_index(frame)
    data = {
        str(name): ("obs", column.to_numpy())
        if getattr(column.dtype, "tz", None) is None
        else ("obs", column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
        for name, column in plain.items()
    }
    return read_tidy(xr.Dataset(data, attrs=dict(frame.attrs)), "frame", own)


def tidy_of(raw: Raw) -> xr.Dataset:
    fields = raw.fields
    present = np.flatnonzero(np.bincount(fields["variable"], minlength=len(raw.names)))
    # only as wide as the longest name in use: a fixed width costs four bytes a letter
    rank = np.searchsorted(present, fields["variable"])
    fields["variable"] = np.array([raw.names[i] for i in present])[rank]
    data = {name: ("obs", column, _ATTRS.get(name, {})) for name, column in fields.items()}
    coords = {name: data.pop(name) for name in _COORDS if name in data}
    return xr.Dataset(data, coords, dict(raw.attrs))


def to_columns(obs: xr.Dataset | pd.DataFrame, *, operators: Operators | None = None) -> xr.Dataset:
    """Return observations in columns; the inverse of `to_tidy`.

    A station is what shares place, time and, where given, ``station``, ``kind``, ``quality``,
    ``station_height`` and ``level_bottom``.
    Where a station has several values of one variable at one level, further rows of the same
    place take them, so that nothing is lost.

    Parameters
    ----------
    obs
        Observations in any accepted form; they are validated.

    Returns
    -------
    Dataset
        On (``station``[, ``level``]), stations in the order of their first observation, levels
        ascending in hPa, with ``<name>_error_std``; NaN where not observed.

    Raises
    ------
    InputError
        As `to_tidy`; or if the columns would be large and nearly empty.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"variable": ["t", "t"], "lat": 1.0, "lon": 2.0,
    ...                       "level": [500, 850], "value": [250.0, 280.0], "error_std": 0.5})
    >>> to_columns(frame).temperature.values.tolist()
    [[250.0, 280.0]]
    """
    import pandas as pd

    tidy = to_tidy(obs, operators=operators)
    known = KNOWN | own_variables(as_operators(operators))
    keys = [name for name in ("lat", "lon", "time", *OPTIONAL) if name in tidy.variables]
    station = first_seen([tidy[name].values for name in keys])
    level = tidy["level"].values
    name_code, names = name_codes(tidy["variable"].values)
    level_code, level_values = pd.factorize(level, use_na_sentinel=True)
    cell = pd.DataFrame({"station": station, "name": name_code, "level": level_code})
    row = first_seen([station, cell.groupby(["station", "name", "level"]).cumcount().to_numpy()])
    _, first = np.unique(row, return_index=True)
    _check_fill(first.size, level_values.size, level.size)
    rank = np.argsort(np.argsort(level_values))
    columns = {}
    for code, name in enumerate(names):
        where = np.flatnonzero(name_code == code)
        on_levels = known[name].on_levels or bool(np.isfinite(level[where]).any())
        shape = (first.size, level_values.size) if on_levels else (first.size,)
        place = (row[where], rank[level_code[where]]) if on_levels else (row[where],)
        dims = ("station", "level")[: len(shape)]
        beside = {"value": "", "error_std": SUFFIX, BACKGROUND: BACKGROUND_SUFFIX}
        for field, suffix in beside.items():
            if field not in tidy:
                continue
            full = np.full(shape, np.nan)
            full[place] = tidy[field].values[where]
            columns[name + suffix] = (dims, full, {"units": known[name].units})
    coords = {n: ("station", tidy[n].values[first], _ATTRS.get(n, {})) for n in keys}
    if level_values.size:
        ascending = np.sort(level_values)
        whole = np.all(ascending == np.round(ascending))
        coords["level"] = (
            "level",
            ascending.astype(np.int64) if whole else ascending,
            _ATTRS["level"],
        )
    return xr.Dataset(columns, coords, tidy.attrs)


def _check_fill(n_station: int, n_level: int, n_obs: int) -> None:
    """Refuse columns that would be memory full of NaN: every report on a level of its own."""
    n_cell = n_station * n_level
    if n_cell > max(_LARGE, _EMPTY * n_obs):
        raise InputError(
            [
                Problem(
                    f"{n_obs} observations of {n_station} stations on {n_level} levels: columns of "
                    f"{16e-9 * n_cell:.0f} GB for each variable, nearly all of it NaN",
                    "few levels that many stations share, or tidy observations, which everything "
                    "takes "
                    "as well",
                    "to_columns(obs.assign_coords(level=obs.level.round(-1)))",
                )
            ],
            what="to_columns",
        )


def first_seen(columns: list[np.ndarray]) -> np.ndarray:
    """Number the distinct rows of some columns in the order in which they first occur."""
    import pandas as pd

    code = np.zeros(columns[0].size, np.int64)
    for column in columns:
        plain = column.view(np.int64) if column.dtype.kind == "M" else column
        plain = plain.astype(object) if plain.dtype.kind in "US" else plain
        part, values = pd.factorize(plain, use_na_sentinel=False)
        code, _ = pd.factorize(code * len(values) + part)
    return code


def select_window(
    tidy: xr.Dataset, time: np.datetime64 | str, window: np.timedelta64 | str = "6h"
) -> tuple[xr.Dataset, dict[str, np.ndarray]]:
    """Keep the observations of the window around an analysis time.

    Parameters
    ----------
    tidy
        Tidy observations.
    time
        Analysis time, UTC.
    window
        Full width, centred on ``time``. The window is open at its beginning and closed at its
        end, so that successive windows share no observation.

    Returns
    -------
    tidy : Dataset
        Observations inside the window, and those without a time.
    rejected : dict of str to int array
        Reason to the positions rejected for it.

    Raises
    ------
    InputError
        If no observation is left, or ``time`` or ``window`` cannot be read.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"variable": "2t", "lat": 0.0, "lon": [1.0, 2.0], "value": 280.0,
    ...                       "time": ["2020-01-01T02", "2020-01-01T09"]})
    >>> inside, rejected = select_window(to_tidy(frame), "2020-01-01T00", "6h")
    >>> inside.sizes["obs"], {reason: len(where) for reason, where in rejected.items()}
    (1, {'after the window (later than 2020-01-01T03:00)': 1})
    """

    centre, width = centre_and_width(tidy, time, window)
    start, end = centre - width / 2, centre + width / 2
    stamps = tidy["time"].values
    after = stamps > end.to_datetime64()
    before = (stamps <= start.to_datetime64()) & (stamps != centre.to_datetime64())
    reasons = {
        f"before the window (not later than {start:%Y-%m-%dT%H:%M})": before,
        f"after the window (later than {end:%Y-%m-%dT%H:%M})": after,
    }
    rejected = {reason: np.flatnonzero(m) for reason, m in reasons.items() if m.any()}
    if not rejected:
        return tidy, rejected
    kept = ~(after | before)
    if not kept.any():
        raise InputError(
            [
                Problem(
                    f"{len(where)} of {kept.size} observations {reason}; they span "
                    f"{_minute(stamps.min())} to {_minute(stamps.max())}",
                    f"observations within {width} around {centre:%Y-%m-%dT%H:%M}",
                    f'background.sel(time="{_minute(np.sort(stamps)[stamps.size // 2])}")',
                )
                for reason, where in rejected.items()
            ],
            what="observations",
        )
    return tidy.isel(obs=np.flatnonzero(kept)), rejected


def _minute(stamp: np.ndarray) -> str:
    return str(np.datetime_as_string(stamp, unit="m"))
