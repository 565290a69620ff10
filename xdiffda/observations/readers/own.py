"""The package's own forms: tidy and columns in netCDF and Zarr, tidy tables as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import StorageError, raise_if
from xdiffda.observations.checks import find_problems, repeated
from xdiffda.observations.columns import BACKGROUND_SUFFIX, SUFFIX
from xdiffda.observations.forms import DROPPED, NUMERIC, TIDY_NAMES
from xdiffda.observations.names import match_observed
from xdiffda.observations.readers.recognise import damaged, text_of, unreadable
from xdiffda.observations.readers.reports import UNUSED, as_text
from xdiffda.observations.table import readable, tidy_of

if TYPE_CHECKING:
    import pandas as pd

    from xdiffda.observations.forms import Raw


_SEPARATORS = ",;\t"
_TEXTS = ("variable", "station", "kind", "units", "time")
_MISSING = ("", "NaN", "nan", "NA", "N/A", "NaT", "null", "NULL", "None", "-nan", "<NA>")


def columns_of(line: str) -> list[str]:
    """Words of the first line of a table; one word where it is none."""
    return next(csv.reader([line], delimiter=_separator(line)), [])


def _separator(line: str) -> str:
    return max(_SEPARATORS, key=line.count)


def is_tidy(words: list[str]) -> bool:
    """Whether these columns are those of tidy observations."""
    lower = {word.strip().lower() for word in words}
    return all(lower & {*TIDY_NAMES[name]} for name in ("variable", "value", "lat", "lon"))


def read_csv(path: Path) -> xr.Dataset:
    """Read a tidy table; text stays text, so that station 01001 is not 1001."""
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
    frame = frame.rename(columns=lambda word: word.strip())
    for word in map(str, frame.columns):
        role = _role(word)
        if word in ("", "obs") or word.startswith("Unnamed: "):  # the index, as pandas writes it
            frame = frame.drop(columns=word)
        elif role not in (None, *_TEXTS):
            frame[word] = _numbers(frame[word].to_numpy(object))
    return _finish(frame, f"obs = pandas.read_csv({str(path)!r})")


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
    return _open(path, "netcdf4")


def read_zarr(path: Path) -> xr.Dataset:
    """Read observations in tidy or columns form from a store whose codecs run no code."""
    for file in path.rglob("*"):
        if file.name in (".zarray", ".zmetadata", "zarr.json") and _asks_for_pickle(file):
            raise StorageError(
                f"{path}: {file.relative_to(path)} asks for a pickle, which could run any code; "
                "needed numbers and fixed or variable text; repair: write it again from where it "
                "was made with `xdiffda.write_dataset(obs, 'obs.zarr')`"
            )
    return _open(path, "zarr")


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


def _open(path: Path, engine: Any) -> xr.Dataset:
    try:
        with xr.open_dataset(path, engine=engine, decode_timedelta=True) as opened:
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
    return _finish(obs, f"obs = xarray.open_dataset({str(path)!r})")


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
    if not _states_errors(raw):
        tidy = tidy.drop_vars("error_std")
    if (dropped.total(), unused.total()) != before:
        tidy.attrs |= {DROPPED: as_text(dropped), UNUSED: as_text(unused)}
    return tidy


def _states_errors(raw: Raw) -> bool:
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
