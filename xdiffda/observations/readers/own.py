"""The package's own forms: tidy and columns in netCDF and Zarr, tidy tables as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, StorageError, raise_if
from xdiffda.observations.checks import find_problems, repeated
from xdiffda.observations.columns import BACKGROUND_SUFFIX, SUFFIX
from xdiffda.observations.forms import DROPPED, NUMERIC, TIDY_NAMES
from xdiffda.observations.names import KNOWN, match_observed
from xdiffda.observations.readers.files import damaged, text_of, unreadable
from xdiffda.observations.readers.indirect import refuse_indirect
from xdiffda.observations.readers.netcdf import opened_netcdf
from xdiffda.observations.readers.reports import AT_SURFACE, UNUSED, as_text, components
from xdiffda.observations.table import readable, tidy_of
from xdiffda.state.units import conversion
from xdiffda.storage.files import need_chunks, without_mark

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.forms import Raw


_SEPARATORS = ",;\t|"
_TEXTS = ("variable", "station", "kind", "units", "time")
_UNITS_BEHIND = re.compile(r"\s*(.*?)\s*(?:[\[(]\s*([^\])]*?)\s*[\])])?\s*$")
_DATE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[T ].*)?"
_ISO = r"\d{4}([-/])\d{2}\1\d{2}(?:[T ].*)?"
TORN = "last row without a line end"
_MISSING = ("", "NaN", "nan", "NA", "N/A", "NaT", "null", "NULL", "None", "-nan", "<NA>")


def columns_of(line: str) -> list[str]:
    """Words of the first line of a table; one word where it is none."""
    try:
        return next(csv.reader([line], delimiter=_separator(line)), [])
    except csv.Error:  # lines that end in another way
        return [line]


def _separator(line: str) -> str:
    return max(_SEPARATORS, key=line.count)


def is_tidy(words: list[str]) -> bool:
    """Whether these columns are those of tidy observations."""
    lower = {word.strip().lower() for word in words}
    return all(lower & {*TIDY_NAMES[name]} for name in ("variable", "value", "lat", "lon"))


def _name_and_unit(word: str) -> tuple[str, str]:
    """A heading such as ``t2m [K]`` as name and unit; the unit is empty where there is none."""
    found = _UNITS_BEHIND.match(word)
    return (word, "") if found is None else (found[1], found[2] or "")


def is_wide(words: list[str]) -> bool:
    """Whether these columns are places and variables, one row for each report."""
    names = [_name_and_unit(word)[0] for word in words]
    lower = {name.lower() for name in names}
    return all(lower & {*TIDY_NAMES[name]} for name in ("lat", "lon")) and any(
        map(_is_known, names)
    )


def _is_known(name: str) -> bool:
    return _role(name) is None and match_observed(name, "", on_levels=None, own={}) is not None


def read_csv(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Read a table, tidy or wide; text stays text, so that station 01001 is not 1001.

    Parameters
    ----------
    path
        The file.
    columns
        What its columns mean, by the name that they have in the file: names of variables, or
        ``lat``, ``lon``, ``time``, ``level``, ``station`` and the like.
    units
        Units of columns of a wide table, by the same names.
    """
    import pandas as pd

    text = text_of(path).lstrip()
    first = text.split("\n", 1)[0].rstrip("\r")
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=_separator(first),
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
        )
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise unreadable(path, error) from error
    _refuse_twice(path, [word.strip() for word in columns_of(first)], columns or {})
    frame = frame.rename(columns=lambda word: word.strip())
    frame, torn = _without_torn_row(path, text, frame)
    said = dict(units or {})
    absent = [word for word in {**(columns or {}), **said} if word not in frame]
    if absent:
        problem = Problem(
            f"columns {', '.join(frame.columns[:8])}",
            f"{', '.join(absent)}, of which you say what it is",
            f"xdiffda.read_obs({str(path)!r})",
        )
        raise InputError([problem], what=str(path))
    for word in map(str, frame.columns):
        if word in ("", "obs") or word.startswith("Unnamed: "):  # the index, as pandas writes it
            frame = frame.drop(columns=word)
    columns = dict(columns or {})
    _refuse_indirect(path, frame.rename(columns=columns))
    _refuse_ambiguous(path, frame.rename(columns=columns))
    if not is_tidy([columns.get(word, word) for word in map(str, frame.columns)]):
        table, known = _tidy(path, frame, columns, said)
        try:
            found = _finish(_with_numbers(table), str(path))
        except InputError as error:
            raise _in_columns(path, error, columns, said, known) from error
    else:
        found = _finish(
            _with_numbers(frame.rename(columns=columns)), f"obs = pandas.read_csv({str(path)!r})"
        )
    if torn:
        dropped = Counter(json.loads(found.attrs.get(DROPPED, "{}"))) + Counter({TORN: torn})
        found.attrs[DROPPED] = as_text(dropped)
    return found


def _refuse_twice(path: Path, words: list[str], columns: Mapping[str, str]) -> None:
    """Raise where two columns have one name, or are the same place, time or variable."""
    meant: dict[str, list[str]] = {}
    for word in filter(None, words):
        name = columns.get(word, word)
        match = (
            None
            if _role(name)
            else match_observed(_name_and_unit(name)[0], "", on_levels=None, own={})
        )
        meant.setdefault(_role(name) or (match.name if match else name.lower()), []).append(word)
    twice = {name: found for name, found in meant.items() if len(found) > 1}
    raise_if(
        [
            Problem(f"the columns {', '.join(found)}", f"one column that is {name}", "")
            for name, found in twice.items()
        ],
        what=str(path),
    )


def _without_torn_row(path: Path, text: str, frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """A table without a last row that may be cut short, and the number of rows left out."""
    separator = _separator(text.split("\n", 1)[0])
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row][1:]
    # pandas fills a row with fewer cells in silence, and takes one cell more for an index
    short = [n for n, row in enumerate(rows) if len(row) != frame.shape[1]]
    if short and (short[0] < len(frame) - 1 or len(rows[-1]) > frame.shape[1]):
        problem = Problem(
            f"{len(short)} rows with more or fewer cells than columns, the first in line "
            f"{short[0] + 2}",
            f"{frame.shape[1]} cells in each row",
            "",
        )
        raise InputError([problem], what=str(path))
    if len(frame) < 2 or (text.endswith(("\n", "\r")) and not short):
        return frame, 0
    warnings.warn(
        f"{path}: the last row does not end with a line end, as in a file that was cut: it is left "
        "out; end the file with a line end if it is whole",
        stacklevel=3,
    )
    return frame.iloc[:-1], 1


def _refuse_ambiguous(path: Path, frame: pd.DataFrame) -> None:
    """Raise at dates and numbers that two readers would read in two ways."""
    problems, read = [], f"obs = pandas.read_csv({str(path)!r}, dtype=str)"
    for word in map(str, frame.columns):
        cells = frame[word].astype(str).str.strip()
        if _role(word) == "time":
            wrong = cells[cells.str.fullmatch(_DATE) & ~cells.str.fullmatch(_ISO)]
            if len(wrong):
                problems.append(
                    Problem(
                        f"`{word}` such as {wrong.iloc[0]}",
                        "dates as 2015-01-02, year first, month and day of two digits: of "
                        "03/04/2015 it is not known which is the month",
                        f'obs["{word}"] = pandas.to_datetime(obs["{word}"], format="%d/%m/%Y")',
                    )
                )
        elif _role(word) not in _TEXTS:
            wrong = cells[cells.str.fullmatch(r"[-+]?\d[\d_]*_[\d_.eE+-]*")]
            if len(wrong):
                problems.append(
                    Problem(f"`{word}` such as {wrong.iloc[0]}", "numbers without underscores", "")
                )
    raise_if(problems, what=read)


def _with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    for word in map(str, frame.columns):
        if _role(word) not in (None, *_TEXTS):
            frame[word] = _numbers(frame[word].to_numpy(object))
    return frame


def _in_columns(
    path: Path,
    error: InputError,
    columns: dict[str, str],
    units: dict[str, str],
    known: dict[str, str],
) -> InputError:
    """Problems of a tidy table in terms of the wide one that it was made of."""
    fitting = dict(units)
    problems = []
    for problem in error.problems:
        unit = re.search(r"these fit (\S+)$", problem.needed)
        name = re.search(r"values of (\S+)", problem.found)
        said = False
        if unit is not None and name is not None and name[1] in known:
            fitting[known[name[1]]], said = unit[1], True
        problems.append((problem, said))
    how = f"columns={columns!r}, " if columns else ""
    call = f"xdiffda.read_obs({str(path)!r}, {how}units={fitting!r})"
    return InputError(
        [Problem(p.found, p.needed, call if said else "") for p, said in problems], what=str(path)
    )


def _tidy(
    path: Path, frame: pd.DataFrame, columns: Mapping[str, str], units: dict[str, str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """A wide table as a tidy one, one row for each value, and the column of each variable."""
    import pandas as pd

    named = {}
    for word in map(str, frame.columns):
        name, unit = _name_and_unit(word)
        named[word] = columns.get(word, name)
        if unit and word not in units:
            units[word] = unit
    roles = {word: _role(name) for word, name in named.items()}
    if frame.empty:
        problem = Problem("no row below the names of columns", "reports", "")
        raise InputError([problem], what=str(path))
    known = {w: n for w, n in named.items() if roles[w] is None and _is_known(n)}
    if not known or not {"lat", "lon"} <= {*roles.values()}:
        problem = Problem(
            f"columns {', '.join(frame.columns[:8])}",
            "lat, lon, and columns of variables that xdiffda knows "
            "(sorted(xdiffda.observations.KNOWN))",
            f"xdiffda.read_obs({str(path)!r}, columns={{'T': '2m_temperature'}})",
        )
        raise InputError([problem], what=str(path))
    place = pd.DataFrame({role: frame[word] for word, role in roles.items() if role})
    level = np.full(len(frame), np.nan)
    for word in (word for word, role in roles.items() if role == "level"):
        level = _numeric(path, frame, word)
        if line := conversion(units.get(word, ""), "surface_pressure"):
            level = level * line[0] / 100.0
    values = {word: _numeric(path, frame, word) for word in known}
    dropped: Counter[str] = Counter()
    of_variable: dict[str, str] = {}
    parts, used = [], {*known, *(word for word, role in roles.items() if role)}
    for word, name, value in _with_components(known, values, np.isnan(level)):
        on_levels = _on_levels(name)
        lost = on_levels & np.isnan(level) & np.isfinite(value)
        if lost.any() and np.isnan(level).all():
            raise _without_levels(path, word, str(name[0]), columns)
        dropped[f"{name[0]}: no pressure"] += int(lost.sum())
        # of a wind a part that another part says is not missing
        rows = np.flatnonzero((np.isfinite(value) | (name == known[word])) & ~lost)
        part = place.assign(variable=name, value=value, units=units.get(word, ""))
        part["level"] = np.where(on_levels, level, np.nan)
        for suffix, role in ((SUFFIX, "error_std"), (BACKGROUND_SUFFIX, "background")):
            if word + suffix in frame:
                part[role] = _numeric(path, frame, word + suffix)
                used.add(word + suffix)
        parts.append(part.iloc[rows])
        if match := match_observed(str(name[0]), "", on_levels=None, own={}):
            of_variable.setdefault(match.name, word)
    table = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    unused = {w: int((frame[w] != "").sum()) for w in map(str, frame.columns) if w not in used}
    table.attrs = {UNUSED: as_text(Counter(unused)), DROPPED: as_text(dropped)}
    return table, of_variable


def _without_levels(path: Path, word: str, name: str, columns: dict[str, str]) -> InputError:
    match = match_observed(name, "", on_levels=None, own={})
    surface = AT_SURFACE.get(match.name if match else name, "")
    call = f"xdiffda.read_obs({str(path)!r}, columns={columns | {word: surface}!r})"
    problem = Problem(
        f"`{word}`, which lives on levels, and no level",
        "a column `level` of pressures in hPa" + (f", or that it is {surface}" if surface else ""),
        call if surface else "",
    )
    return InputError([problem], what=str(path))


def _numeric(path: Path, frame: pd.DataFrame, word: str) -> np.ndarray:
    numbers = _numbers(frame[word].to_numpy(object))
    if numbers.dtype.kind != "f":
        problem = Problem(
            f"`{word}` that is not all numbers",
            "numbers, empty where missing",
            f"obs[{word!r}] = pandas.to_numeric(obs[{word!r}], errors='coerce')",
        )
        raise InputError([problem], what=f"obs = pandas.read_csv({str(path)!r})")
    return numbers


def _on_levels(names: np.ndarray) -> np.ndarray:
    """Which of these variables live on levels."""
    found, where = np.unique(names, return_inverse=True)
    matches = [match_observed(str(name), "", on_levels=None, own={}) for name in found]
    return np.array([m is None or KNOWN[m.name].on_levels for m in matches], bool)[where]


def _with_components(
    known: Mapping[str, str], values: dict[str, np.ndarray], surface: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Column, names and values; wind of a speed and a direction as components.

    Where the direction is unknown the speed stays. A wind without a level is that at 10 m.
    """
    left = dict(known)
    found: dict[str, str] = {}
    for word, name in known.items():
        if match := match_observed(name, "", on_levels=None, own={}):
            found.setdefault(match.name, word)
    out = []
    for prefix in ("", "10m_"):
        fast, turned = (found.get(f"{prefix}wind_{w}") for w in ("speed", "from_direction"))
        if fast is None or turned is None:
            continue
        at_surface = surface | (prefix != "")
        del left[fast], left[turned]
        aloft = ("u_component_of_wind", "v_component_of_wind", "wind_speed")
        for name, value in zip(aloft, components(values[fast], values[turned]), strict=True):
            out.append((fast, np.where(at_surface, AT_SURFACE[name], name), value))
    return [(w, np.full(surface.size, n), values[w]) for w, n in left.items()] + out


def _role(word: str) -> str | None:
    return next((name for name, words in TIDY_NAMES.items() if word.lower() in words), None)


def _numbers(cells: np.ndarray) -> np.ndarray:
    """Cells as float64, to the last bit; as they are where they are no numbers."""
    plain = np.where(np.isin(cells, _MISSING), "nan", cells)
    try:
        return plain.astype(np.float64)
    except ValueError:
        return cells


def read_netcdf(path: Path) -> xr.Dataset:
    """Read observations in tidy or columns form."""
    from xarray.backends import NetCDF4DataStore

    with opened_netcdf(path) as file:
        return _open(path, NetCDF4DataStore(file))


def read_zarr(path: Path) -> xr.Dataset:
    """Read observations in tidy or columns form from a store whose codecs run no code."""
    for file in path.rglob("*"):
        if file.name in (".zarray", ".zmetadata", "zarr.json") and _asks_for_pickle(file):
            raise StorageError(
                f"{path}: {file.relative_to(path)} asks for a pickle, which could run any code; "
                "needed numbers and fixed or variable text; repair: write it again from where it "
                "was made with `xdiffda.write_dataset(obs, 'obs.zarr')`"
            )
    try:
        need_chunks(path)
    except StorageError:
        raise
    except Exception as error:  # metadata that is damaged has errors of many kinds
        raise damaged(path, error) from error
    return without_mark(_open(path, path, engine="zarr"))


def _asks_for_pickle(file: Path) -> bool:
    """Whether a codec of the metadata is a pickle, however its name is escaped."""
    found = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.extend(v for k, v in pairs if k in ("id", "name") and "pickle" in str(v).lower())

    try:
        json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=look)
    except ValueError as error:
        raise damaged(file, error) from error
    return bool(found)


def _open(path: Path, source: Any, **how: Any) -> xr.Dataset:
    try:
        with xr.open_dataset(source, decode_timedelta=True, **how) as opened:
            obs = opened.load()
    except Exception as error:  # every backend has errors of its own
        # where nothing but the meaning of its numbers is in doubt, the file is whole
        whole = isinstance(error, ValueError) and "decode" in str(error)
        raise (unreadable if whole else damaged)(path, error) from error
    for name in obs.variables:
        if obs[name].dtype.kind in "OT":
            obs[name] = obs[name].copy(data=_as_text(obs[name].values))
        obs[name].encoding = {}
    obs.encoding = {}
    _refuse_indirect(path, obs)
    return _finish(obs, f"obs = xarray.open_dataset({str(path)!r})")


def _refuse_indirect(path: Path, obs: xr.Dataset | pd.DataFrame) -> None:
    """Raise an InputError if nothing is known and something needs an operator of its own."""
    names = list(map(str, obs.variables if isinstance(obs, xr.Dataset) else obs.columns))
    for word in [name for name in names if _role(name) == "variable"]:
        names += list(map(str, set(np.ravel(obs[word]))))
    if not any(map(_is_known, names)):
        refuse_indirect(path, names)


def _as_text(values: np.ndarray) -> np.ndarray:
    """Objects as text of one width where they are text; missing text is empty."""
    flat = values.astype(object).ravel()
    plain = ["" if v is None or v != v else v for v in flat]
    if not all(isinstance(v, str) for v in plain):
        return values
    return np.array(plain, str).reshape(values.shape)


def _finish(obs: xr.Dataset | pd.DataFrame, what: str) -> xr.Dataset:
    """Check as `to_tidy` does, but keep duplicates, and count what has an unknown name."""
    dropped, unused = _counts(obs, DROPPED), _counts(obs, UNUSED)
    before = dropped.total(), unused.total()
    obs = _without_unknown(obs, dropped, unused)
    raw = readable(obs)
    problems = raw.problems
    if raw.fields and not problems:
        once = ~repeated(raw.fields)
        every = raw.fields
        raw.fields = {name: column[once] for name, column in every.items()}
        problems = find_problems(raw)
        raw.fields = every
    raise_if(problems, what=what + _left_out(dropped, unused))
    tidy = tidy_of(raw)
    if not states_errors(raw):
        tidy = tidy.drop_vars("error_std")
    if (dropped.total(), unused.total()) != before:
        tidy.attrs |= {DROPPED: as_text(dropped), UNUSED: as_text(unused)}
    return tidy


def states_errors(raw: Raw) -> bool:
    """Whether observations say errors of their own."""
    return any(name == "error_std" or name.endswith(SUFFIX) for name in raw.words)


def _left_out(dropped: Counter[str], unused: Counter[str]) -> str:
    both = {**dropped, **unused}
    return f" ({', '.join(f'{n} {name}' for name, n in both.items())})" if both else ""


def _counts(obs: xr.Dataset | pd.DataFrame, name: str) -> Counter[str]:
    """What an earlier reader counted, where these observations come from one."""
    try:
        return Counter(json.loads(obs.attrs.get(name, "{}")))
    except (ValueError, TypeError):
        return Counter()


def _without_unknown(
    obs: xr.Dataset | pd.DataFrame, dropped: Counter[str], unused: Counter[str]
) -> xr.Dataset | pd.DataFrame:
    """Observations without those whose variable nobody knows, and without missing values."""
    frame = not isinstance(obs, xr.Dataset)
    names = list(map(str, obs.columns if frame else obs.variables))
    words = {role: word for word in names if (role := _role(word)) in ("variable", "value")}
    if len(words) < 2:
        return obs if frame else _known_columns(obs, unused)
    variable = np.asarray(obs[words["variable"]], object)
    known = {
        v: match_observed(str(v), str(v), on_levels=None, own={}) is not None for v in set(variable)
    }
    keep = np.array([known[v] for v in variable], bool)
    unused.update(map(str, variable[~keep]))
    for word in names:
        if _role(word) is None and np.ndim(obs[word]) and word not in getattr(obs, "dims", ()):
            unused[word] += int((obs[word].notnull() & (obs[word] != "")).sum())
    missing = keep & np.asarray(obs[words["value"]].isnull())
    dropped.update(f"{v}: missing" for v in variable[missing])
    if keep.all() or variable.ndim != 1:
        return obs
    table: Any = obs
    return table[keep] if frame else table.isel({table[words["value"]].dims[0]: keep})


def _known_columns(obs: xr.Dataset, unused: Counter[str]) -> xr.Dataset:
    """Columns without variables on stations that nobody knows."""
    places = {
        word
        for name in TIDY_NAMES
        if name not in ("variable", "value")
        for word in TIDY_NAMES[name]
    } | {*NUMERIC}
    for name in map(str, obs.data_vars):
        base = name.removesuffix(SUFFIX).removesuffix(BACKGROUND_SUFFIX)
        standard = str(obs[name].attrs.get("standard_name", ""))
        known = match_observed(base, standard, on_levels=None, own={})
        if known is None and base.lower() not in places:
            if name == base:
                unused[name] += int(obs[name].count())
            obs = obs.drop_vars(name)
    return obs
