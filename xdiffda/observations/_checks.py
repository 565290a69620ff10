"""What may be wrong with observations, each as a `Problem` with the call that repairs it."""

from __future__ import annotations

import numpy as np

from ..errors import Problem
from ..variables import G0
from ._names import fitting_units
from ._raw import Raw, set_for, unit_repair

# An observation with a Gaussian error may lie beyond what nature allows by its error: specific
# humidity of 1e-6 seen with an error of 1e-3. Six standard deviations are reached once in 10^9.
N_ERROR_STD = 6.0
N_EXAMPLES = 3
HIGHEST_PRESSURE = 1200.0  # hPa: more is a pressure in Pa


def find_problems(raw: Raw) -> list[Problem]:
    """All problems of observations that could be read."""
    fields = raw.fields
    if not fields or not fields["value"].size:
        return [Problem(
            "no observation at all (no rows, or every value is NaN)" if fields
            else "no observation at all",
            "at least one observed value", "truth.diffda.emulate_obs(n_columns=416)",
        )]  # fmt: skip
    return [
        *_places(raw), *_errors(raw), *_levels(raw), *_layers(raw), *_ranges(raw),
        *_heights(raw), *_duplicates(raw),
    ]  # fmt: skip


def _select(raw: Raw, name: str, condition: str) -> str:
    """The call that keeps observations for which ``condition``, of ``{x}``, holds."""
    word = raw.word(name)
    if raw.form == "frame":
        return "obs[" + condition.format(x=f'obs["{word}"]') + "]"
    dim = raw.words.get("level_dim", raw.word("dim")) if name == "level" else raw.word("dim")
    return f"obs.isel({dim}=" + condition.format(x=f'obs["{word}"]') + ")"


def _present(raw: Raw, rows: np.ndarray) -> list[tuple[str, int]]:
    """Which variables these rows are of, in alphabetical order, and how many of each."""
    count = np.bincount(raw.fields["variable"][rows], minlength=len(raw.names))
    return [(raw.names[i], int(count[i])) for i in np.flatnonzero(count)]


def _examples(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:N_EXAMPLES])
    return shown + (", ..." if values.size > N_EXAMPLES else "")


def _places(raw: Raw) -> list[Problem]:
    problems = []
    lat, lon = raw.fields["lat"], raw.fields["lon"]
    bad = ~(np.abs(lat) <= 90.0)
    if bad.any():
        problems.append(Problem(
            f"{bad.sum()} observations with `{raw.word('lat')}` such as {_examples(lat[bad])}",
            "degrees north in [-90, 90]", _select(raw, "lat", "abs({x}) <= 90"),
        ))  # fmt: skip
    bad = ~np.isfinite(lon)
    if bad.any():
        problems.append(Problem(
            f"{bad.sum()} observations with `{raw.word('lon')}` missing", "degrees east",
            _select(raw, "lon", "{x}.notnull()"),
        ))  # fmt: skip
    return problems


def _errors(raw: Raw) -> list[Problem]:
    """Infinite errors are allowed: such an observation says nothing."""
    error_std = raw.fields["error_std"]
    bad = ~(error_std > 0)
    if not bad.any():
        return []
    names = [name for name, _ in _present(raw, bad)]
    field = f"{names[0]}_error_std" if raw.form == "columns" else "error_std"
    word = raw.words.get(field)
    new = f"{raw.word(names[0])}_error_std" if raw.form == "columns" else field
    repair = f'obs["{new}"] = 1.0'
    if word is not None:
        repair = f'obs["{word}"] = obs["{word}"].where(obs["{word}"] > 0, 1.0)'
    return [Problem(
        f"{bad.sum()} observations of {', '.join(names)} with error_std such as "
        f"{_examples(np.unique(error_std[bad]))}",
        "positive standard deviations, in the unit of the variable", repair,
    )]  # fmt: skip


def _levels(raw: Raw) -> list[Problem]:
    problems = []
    level = raw.fields["level"]
    has_level = np.isfinite(level)
    word = raw.word("level")
    for name, count in _present(raw, ~has_level):
        if name not in raw.own and raw.known(name).on_levels:
            problems.append(Problem(
                f"{count} values of {name} without a pressure level", "a level in hPa",
                _level_repair(raw, name, bool(has_level.any())),
            ))  # fmt: skip
    for name, count in _present(raw, has_level):
        user = raw.word(name)
        if name not in raw.own and not raw.known(name).on_levels:
            problems.append(Problem(
                f"{count} values of the surface variable {name} with a pressure level",
                "no level (NaN) at the surface",
                f'obs["{user}"] = obs["{user}"].isel({raw.words.get("level_dim", word)}=0, '
                f"drop=True)" if raw.form == "columns"
                else f'obs["{word}"] = obs["{word}"].where(obs["{raw.word("variable")}"] '
                f'!= "{user}")',
            ))  # fmt: skip
    bad = has_level & ~(level > 0)
    if bad.any():
        problems.append(Problem(
            f"{bad.sum()} observations with `{word}` such as {_examples(level[bad])}",
            "positive pressure in hPa", _select(raw, "level", "~({x} <= 0)"),
        ))  # fmt: skip
    bad = has_level & (level > HIGHEST_PRESSURE)
    if bad.any():
        problems.append(Problem(
            f"{bad.sum()} observations with `{word}` such as {_examples(level[bad])} hPa",
            f"pressures up to {HIGHEST_PRESSURE:g} hPa, or units that say Pa",
            f'obs["{word}"] = obs["{word}"] / 100' if raw.form == "frame"
            else f'obs["{word}"].attrs["units"] = "Pa"',
        ))  # fmt: skip
    return problems


def _level_repair(raw: Raw, name: str, some: bool) -> str:
    """The call for values of ``name`` without a level; ``some`` observations have one."""
    if not some:
        word = raw.word("level")
        if raw.form == "columns":
            return f"obs.assign_coords({word}=500)"
        return set_for(raw, name, word, "500.0", "numpy.nan")
    if raw.form == "columns":
        return _select(raw, "level", "{x}.notnull()")
    other = f'(obs["{raw.word("variable")}"] != "{raw.word(name)}")'
    return _select(raw, "level", "{x}.notnull() | " + other)


def _layers(raw: Raw) -> list[Problem]:
    """A layer has two pressures, the lower one second."""
    level = raw.fields["level"]
    of_layers = raw.is_any_of("thickness", "layer_mean_temperature")
    if not of_layers.any():
        return []
    bottom = raw.fields.get("level_bottom", np.full(level.size, np.nan))
    bad = of_layers & np.isfinite(level) & ~(bottom > level)
    if not bad.any():
        return []
    name = raw.names[raw.fields["variable"][bad][0]]
    return [Problem(
        f"{bad.sum()} values of {name} with `{raw.word('level')}` such as "
        f"{_examples(level[bad])} and `{raw.word('level_bottom')}` {_examples(bottom[bad])}",
        "the pressure of the top of the layer, and the higher one of its bottom, in hPa",
        f'obs["{raw.word("level_bottom")}"] = 1000.0' if raw.form != "columns"
        else 'obs.assign_coords(level_bottom=("station", [1000.0] * obs.sizes["station"]))',
    )]  # fmt: skip


def _ranges(raw: Raw) -> list[Problem]:
    """Values that nature does not have, counted by variable, with the unit they may be in."""
    problems = []
    variable, value = raw.fields["variable"], raw.fields["value"]
    error_std = raw.fields["error_std"]
    slack = N_ERROR_STD * np.where(np.isfinite(error_std) & (error_std > 0), error_std, 0.0)
    low, high = np.array([raw.known(name).valid_range for name in raw.names]).T
    outside = ~((value >= low[variable] - slack) & (value <= high[variable] + slack))
    for name, _ in _present(raw, outside):
        mine = raw.is_any_of(name)
        bad, of_all = value[outside & mine], value[mine]
        known = raw.known(name)
        guess = fitting_units(float(np.nanmin(of_all)), float(np.nanmax(of_all)), known)
        units = known.units
        lowest, highest = known.valid_range
        if guess and guess != units:
            repair = unit_repair(raw, name, guess)
        elif raw.form == "columns":
            user = raw.word(name)
            repair = (f'obs["{user}"] = obs["{user}"].where((obs["{user}"] >= {lowest:g}) & '
                      f'(obs["{user}"] <= {highest:g}))')  # fmt: skip
        else:
            keep = f"({{x}} >= {lowest:g}) & ({{x}} <= {highest:g})"
            other = f'(obs["{raw.word("variable")}"] != "{raw.word(name)}")'
            repair = _select(raw, "value", f"{other} | ({keep})")
        problems.append(Problem(
            f"{bad.size} of {of_all.size} values of {name} such as {_examples(bad)} {units}",
            f"values in [{lowest:g}, {highest:g}] {units}, give or take their errors", repair,
        ))  # fmt: skip
    return problems


def _heights(raw: Raw) -> list[Problem]:
    """Tell geopotential from heights: each lies inside the range of the other.

    Between 700 and 100 hPa geopotential is within 20 % of the standard atmosphere's; heights in
    gpm are smaller by 9.8, and geopotential taken for heights is larger by as much.
    """
    level, value = raw.fields["level"], raw.fields["value"]
    mine = raw.is_any_of("geopotential") & (level >= 100.0) & (level <= 700.0)
    if not mine.any():
        return []
    standard = G0 * 44330.8 * (1.0 - (level[mine] / 1013.25) ** 0.190263)  # ICAO, approximate
    ratio = float(np.median(value[mine] / standard))
    if 0.5 < ratio < 2.0:
        return []
    factors = {"gpm": G0, "gpdm": 10 * G0, "m2 s-2": 1 / G0}
    units = next((u for u, factor in factors.items() if 0.5 < ratio * factor < 2.0), "m2 s-2")
    return [Problem(
        f"{mine.sum()} values of geopotential that are {ratio:.3g} times the standard "
        f"atmosphere's, such as {_examples(value[mine])} m2 s-2 at {level[mine][0]:g} hPa",
        f"geopotential, there about {standard[0]:.0f} m2 s-2, or units that say otherwise",
        unit_repair(raw, "geopotential", units),
    )]  # fmt: skip


def _duplicates(raw: Raw) -> list[Problem]:
    """The same report twice counts as two independent observations: never silently."""
    again = repeated(raw.fields)
    if not again.any():
        return []
    first = int(np.flatnonzero(again)[0])
    fields = raw.fields
    return [Problem(
        f"{again.sum()} duplicates, such as {raw.names[fields['variable'][first]]} = "
        f"{fields['value'][first]:g} at lat {fields['lat'][first]:g}, lon {fields['lon'][first]:g}",
        "each observation once", "xdiffda.observations.drop_duplicates(obs)",
    )]  # fmt: skip


def repeated(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Which observations equal an earlier one in every field."""
    import pandas as pd
    from pandas.util import hash_array

    # Sorting a million rows by ten keys takes seconds; a 64-bit hash of each row does not.
    row = np.zeros(fields["value"].size, np.uint64)
    for name in sorted(fields):
        column = fields[name]
        if column.dtype.kind == "M":
            column = column.view(np.int64)
        elif column.dtype.kind == "f":
            column = column + 0.0  # -0.0 and 0.0 are one value
        elif column.dtype.kind in "US":
            column = pd.factorize(column.astype(object))[0]
        row = row * np.uint64(0x9E3779B97F4A7C15) + hash_array(column)  # pyright: ignore[reportCallIssue]
    again = np.zeros(row.size, bool)
    ordered = np.sort(row)  # in vector instructions: several times as fast as a table of hashes
    if (ordered[1:] == ordered[:-1]).any():
        suspects = pd.Series(row).duplicated(keep=False).to_numpy()
        rows = pd.DataFrame({name: column[suspects] for name, column in fields.items()})
        again[suspects] = rows.duplicated().to_numpy()
    return again
