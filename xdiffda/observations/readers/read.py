"""`read_obs`: a file of observations, whatever its form, as tidy observations."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations import KNOWN
from xdiffda.observations.forms import DROPPED
from xdiffda.observations.names import match_observed
from xdiffda.observations.readers.files import FORMATS, Format, need_content
from xdiffda.observations.readers.recognise import recognise
from xdiffda.observations.readers.reports import UNUSED
from xdiffda.observations.table import select_window

if TYPE_CHECKING:
    import pandas as pd

# Format -> module and function that read it; imported when it is asked for.
_READERS = {
    "netcdf": ("own", "read_netcdf"),
    "zarr": ("own", "read_zarr"),
    "csv": ("own", "read_csv"),
    "ioda": ("ioda", "read_ioda"),
    "madis": ("madis", "read_madis"),
    "igra": ("igra", "read_igra"),
    "metar": ("metar", "read_metar"),
    "isd": ("isd", "read_isd"),
    "ghcnh": ("isd", "read_ghcnh"),
    "bufr": ("bufr", "read_bufr"),
    "prepbufr": ("prepbufr", "read_prepbufr"),
    "odb": ("odb", "read_odb"),
}
_OWN = ("netcdf", "zarr", "csv")
# What readers of a form are asked beyond the file.
_OPTIONS = {
    "csv": ("columns", "units"),
    "ioda": ("heights",),
    "metar": ("stations", "time"),
    "bufr": ("heights", "drift"),
    "prepbufr": ("drift",),
}


def read_obs(
    path: str | os.PathLike,
    *,
    format: Format | None = None,
    variables: str | Sequence[str] | None = None,
    time: Any = None,
    window: np.timedelta64 | str | None = None,
    heights: Literal["standard"] | None = None,
    drift: bool = True,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    stations: str | os.PathLike | pd.DataFrame | xr.Dataset | None = None,
) -> xr.Dataset:
    """Read observations from a file, as ``assimilate`` takes them.

    Parameters
    ----------
    path
        A file, or the folder of a Zarr store. Its form is recognised by what is in it: tidy or
        columns observations of xdiffda in netCDF or Zarr; a table as CSV, tidy or wide; IODA and
        MADIS netCDF; soundings of IGRA, version 2; METARs, as bulletins or decoded; ISD and GHCN
        hourly; BUFR and prepBUFR (extra ``obs``); ODB-2 (extra ``odb``). Any file may be
        compressed (gzip, or zip of one file).
    format
        The form, where it is known better.
    variables
        Names of what to keep, by any name that xdiffda knows; by default all.
    time, window
        Keep the observations of a window around this time (UTC), open at its beginning; its full
        width is ``"6h"`` unless given.
    heights
        ``"standard"`` takes heights of reports aloft that have no pressure to one through the ICAO
        standard atmosphere, also where the file does not say that they are pressure altitudes.
    drift
        Whether the levels of soundings have the places and times to which the balloon drifted,
        where the file has them (BUFR, prepBUFR); else those of the launch.
    columns, units
        Of a table: what its columns mean, and in which units they are, by the names that they have
        in the file; ``columns={"T": "2m_temperature", "x": "lon", "y": "lat"}``.
    stations
        Where the stations of METAR bulletins are: a table with columns ``station``, ``lat``,
        ``lon`` and ``station_height`` (m), or the CSV file of one. Bulletins need ``time`` as
        well: they do not say the month.

    Returns
    -------
    Dataset
        Dimension ``obs``: ``variable``, ``lat``, ``lon`` (degrees, [0, 360)), ``level`` (hPa, NaN
        at the surface), ``time`` (UTC) and ``value`` in the units of xdiffda (K, Pa, m s-1,
        kg kg-1, m2 s-2, %); where the file has them ``error_std``, ``station``, ``kind``,
        ``station_height`` (m), ``quality``, as in the file, and ``background``, of the file's own
        system. Wind of a speed and a direction
        comes as components, and as speed where the direction is variable. No observation is
        rejected for its quality mark (``good_marks`` reads them), and duplicates are kept.

        Attributes: ``xdiffda_observations_dropped`` and ``xdiffda_observations_unused``, JSON of
        how many values were left out for which reason (missing, without pressure, time or place,
        impossible), and how many are under which name that xdiffda cannot use;
        ``xdiffda_observations_default_errors``, how many have no error in a file that has some;
        ``xdiffda_observations_marks``, by which rule ``good_marks`` reads ``quality``;
        ``xdiffda_observations_assumed``, JSON of what had to be assumed (pressures from heights).

    Raises
    ------
    InputError
        If the form is unknown, something that every observation needs is not in the file, or
        nothing in it can be used.
    StorageError
        If the file is absent, empty, truncated or damaged, or needs a package.

    Examples
    --------
    >>> import tempfile
    >>> table = '''variable,lat,lon,level,time,value,units,station
    ... t,48.25,16.36,500,2015-01-23T12:00,-26.5,degC,01001
    ... msl,48.25,-3.60,,2015-01-23T12:00,1021.4,hPa,08221
    ... '''
    >>> path = Path(tempfile.mkdtemp()) / "obs.csv"
    >>> _ = path.write_text(table)
    >>> obs = read_obs(path)
    >>> obs["variable"].values.tolist(), obs["value"].values.round(2).tolist()
    (['temperature', 'mean_sea_level_pressure'], [246.65, 102140.0])
    >>> obs["lon"].values.tolist(), obs["station"].values.tolist()
    ([16.36, 356.4], ['01001', '08221'])
    """
    file = _existing(path)
    if format is not None and format not in _READERS:
        raise InputError(
            [
                Problem(
                    f"format={format!r}",
                    f"one of {', '.join(FORMATS)}",
                    f"xdiffda.read_obs({str(file)!r})",
                )
            ],
            what="read_obs",
        )
    form = format or ("csv" if columns else recognise(file))
    wanted = _wanted(variables)
    module, function = _READERS[form]
    reader = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    given = {"heights": heights, "drift": drift, "columns": columns, "units": units}
    given |= {"stations": stations, "time": time}
    obs = reader(file, **{name: given[name] for name in _OPTIONS.get(form, ())})
    if form not in _OWN:
        first = {"xdiffda_observations_file": file.name, "xdiffda_observations_format": form}
        obs.attrs = {**first, **obs.attrs}
    _need_some(obs, file)
    if wanted is not None:
        obs = _of_variables(obs, wanted, file)
    return obs if time is None and window is None else _inside(obs, time, window, file)


def form_of(path: str | os.PathLike) -> str:
    """The form of a file of observations, by what is in it: one of those of `read_obs`.

    Raises
    ------
    InputError
        If it is none that is known.
    StorageError
        If the file is absent, empty or damaged.
    """
    return recognise(_existing(path))


def _existing(path: str | os.PathLike) -> Path:
    file = Path(path).expanduser()
    need_content(file)
    return file


def _wanted(variables: str | Sequence[str] | None) -> set[str] | None:
    """Canonical names of what the user asks for; a name may mean it aloft and at the surface."""
    if variables is None:
        return None
    wanted, problems = set(), []
    for name in [variables] if isinstance(variables, str) else variables:
        matches = [match_observed(str(name), "", on_levels=on, own={}) for on in (True, False)]
        found = {match.name for match in matches if match is not None}
        if not found:
            problems.append(
                Problem(
                    f"variables with {name!r}",
                    "names that xdiffda knows",
                    "sorted(xdiffda.observations.KNOWN)",
                )
            )
        wanted |= {str(name)} if name in KNOWN else found
    if problems:
        raise InputError(problems, what="read_obs")
    return wanted


def _need_some(obs: xr.Dataset, file: Path) -> None:
    if obs.sizes["obs"]:
        return
    left_out = [
        f"{kind} {obs.attrs[key]}"
        for kind, key in (("dropped", DROPPED), ("unused", UNUSED))
        if obs.attrs.get(key, "{}") != "{}"
    ]
    raise InputError(
        [
            Problem(
                "no usable observation" + (f": {'; '.join(left_out)}" if left_out else ""),
                "values of variables that xdiffda knows, with place, time and, aloft, pressure",
                "sorted(xdiffda.observations.KNOWN)",
            )
        ],
        what=str(file),
    )


def _of_variables(obs: xr.Dataset, wanted: set[str], file: Path) -> xr.Dataset:
    names = obs["variable"].values
    kept = np.isin(names, sorted(wanted))
    if not kept.any():
        found = sorted(map(str, np.unique(names)))
        raise InputError(
            [
                Problem(
                    f"observations of {', '.join(found)}",
                    f"some of {', '.join(sorted(wanted))}",
                    f"xdiffda.read_obs({str(file)!r}, variables={found[:3]})",
                )
            ],
            what=str(file),
        )
    return obs.isel(obs=np.flatnonzero(kept))


def _inside(obs: xr.Dataset, time: Any, window: Any, file: Path) -> xr.Dataset:
    stamps = np.sort(obs["time"].values)  # NaT last
    middle = str(stamps[max(int((~np.isnat(stamps)).sum()) // 2 - 1, 0)].astype("datetime64[m]"))
    repair = f"xdiffda.read_obs({str(file)!r}, time={middle!r}, window='6h')"
    if time is None:
        problem = Problem(f"window={window!r} without a time", "the time in its middle", repair)
        raise InputError([problem], what="read_obs")
    try:
        return select_window(obs, time, "6h" if window is None else window)[0]
    except InputError as error:
        problems = [Problem(problem.found, problem.needed, repair) for problem in error.problems]
        raise InputError(problems, what=str(file)) from error
