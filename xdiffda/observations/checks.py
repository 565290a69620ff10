"""What may be wrong with observations, each as a `Problem` with the call that repairs it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from xdiffda.errors import InputError, Problem
from xdiffda.observations.forms import BACKGROUND, Raw, unit_repair, without
from xdiffda.observations.names import fitting_units, to_units
from xdiffda.observations.sites import on_globe
from xdiffda.state.convert import MOST_ALOFT, MOST_SHARE, TROPOSPHERE, standard_geopotential
from xdiffda.state.times import width_of
from xdiffda.state.units import USUAL
from xdiffda.state.variables import Variable

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


# An observation with a Gaussian error may lie beyond what nature allows by its error: specific
# humidity of 1e-6 seen with an error of 1e-3. Six standard deviations are reached once in 10^9.
N_ERROR_STD = 6.0
N_EXAMPLES = 3
ENOUGH = 10  # values that tell a share from a percentage, where the unit says percent
HIGHEST_PRESSURE = 1200.0  # hPa: more is a pressure in Pa


def find_problems(raw: Raw, *, strict: bool = True) -> list[Problem]:
    """All problems of observations that could be read.

    Without ``strict`` impossible values and repeated rows are none: quality control flags them.
    """
    fields = raw.fields
    if not fields or not fields["value"].size:
        return [
            Problem(
                "no observation at all (no rows, or every value is NaN)"
                if fields
                else "no observation at all",
                "at least one observed value",
                "truth.diffda.emulate_obs(n_columns=416)",
            )
        ]
    return [
        *_places(raw),
        *_errors(raw),
        *_levels(raw),
        *_layers(raw),
        *_ranges(raw, strict),
        *_heights(raw),
        *(_duplicates(raw) if strict else []),
    ]


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
    lat, lon = on_globe(raw.fields["lat"]), raw.fields["lon"]
    raw.fields["lat"] = lat
    bad = ~(np.abs(lat) <= 90.0)
    if bad.any():
        problems.append(
            Problem(
                f"{bad.sum()} observations with `{raw.word('lat')}` such as {_examples(lat[bad])}",
                "degrees north in [-90, 90]",
                _select(raw, "lat", "abs({x}) <= 90"),
            )
        )
    bad = ~np.isfinite(lon)
    if bad.any():
        problems.append(
            Problem(
                f"{bad.sum()} observations with `{raw.word('lon')}` missing",
                "degrees east",
                _select(raw, "lon", "{x}.notnull()"),
            )
        )
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
    needed = "positive standard deviations, in the unit of the variable"
    if word is None:
        needed += f": `{new}`, or error_std of the operator"
        repair = ""
    elif raw.form == "columns":
        user = raw.word(names[0])
        repair = f'obs["{user}"] = obs["{user}"].where(obs["{word}"] > 0)'
    else:
        repair = _select(raw, "error_std", "{x} > 0")
    return [
        Problem(
            f"{bad.sum()} observations of {', '.join(names)} with error_std such as "
            f"{_examples(np.unique(error_std[bad]))}",
            needed,
            repair,
        )
    ]


def _levels(raw: Raw) -> list[Problem]:
    problems = []
    level = raw.fields["level"]
    has_level = np.isfinite(level)
    word = raw.word("level")
    for name, count in _present(raw, ~has_level):
        if name not in raw.own and raw.known(name).on_levels:
            problems.append(
                Problem(
                    f"{count} values of {name} without a pressure level",
                    "the pressure of each in hPa, which only who made the observations knows",
                    _level_repair(raw, name),
                )
            )
    for name, count in _present(raw, has_level):
        if name not in raw.own and not raw.known(name).on_levels:
            problems.append(
                Problem(
                    f"{count} values of the surface variable {name} with a pressure level",
                    "no level (NaN) at the surface; what is observed at a pressure level is no "
                    f"{name}",
                    without(raw, raw.word(name)),
                )
            )
    bad = has_level & ~(level > 0)
    if bad.any():
        problems.append(
            Problem(
                f"{bad.sum()} observations with `{word}` such as {_examples(level[bad])}",
                "positive pressure in hPa",
                _select(raw, "level", "~({x} <= 0)"),
            )
        )
    bad = has_level & (level > HIGHEST_PRESSURE)
    if bad.any():
        pascals = bool(np.median(level[has_level]) > HIGHEST_PRESSURE) and raw.level_factor == 1.0
        highest = HIGHEST_PRESSURE / raw.level_factor
        says_pa = (
            f'obs["{word}"] = obs["{word}"] / 100'
            if raw.form == "frame"
            else f'obs["{word}"].attrs["units"] = "Pa"'
        )
        problems.append(
            Problem(
                f"{bad.sum()} observations with `{word}` such as {_examples(level[bad])} hPa",
                f"pressures up to {HIGHEST_PRESSURE:g} hPa" + ", or units that say Pa" * pascals,
                says_pa if pascals else _select(raw, "level", f"~({{x}} > {highest:g})"),
            )
        )
    return problems


def _level_repair(raw: Raw, name: str) -> str:
    """The call that leaves out values of ``name`` without a level."""
    if "level" not in raw.words or (raw.form == "columns" and "level_dim" not in raw.words):
        return without(raw, raw.word(name))
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
    return [
        Problem(
            f"{bad.sum()} values of {name} with `{raw.word('level')}` such as "
            f"{_examples(level[bad])} and `{raw.word('level_bottom')}` {_examples(bottom[bad])}",
            "the pressure of the top of the layer, and the higher one of its bottom, in hPa",
            without(raw, raw.word(name)),
        )
    ]


FEW = 4  # values of a variable, of which "most" says nothing


def _ranges(raw: Raw, strict: bool) -> list[Problem]:
    """Values that nature does not have, counted by variable, with the unit they may be in.

    Without ``strict`` only values that are in another unit altogether, or of which most cannot be:
    that is an error of the table, not of some reports.
    """
    problems = []
    value, outside, slack = raw.fields["value"], out_of_range(raw), _slack(raw)
    for name, _ in _present(raw, np.ones(value.size, bool)):
        mine = raw.is_any_of(name)
        bad, of_all, known = value[outside & mine], value[mine], raw.known(name)
        lines = raw.lines.get(name, set())
        factor, offset, written = next(iter(lines)) if len(lines) == 1 else (1.0, 0.0, "")
        level = raw.fields["level"][mine]
        if "level_bottom" in raw.fields:  # of a layer, the middle
            bottom = raw.fields["level_bottom"][mine]
            level = np.where(np.isfinite(bottom), np.sqrt(level * bottom), level)
        guess = None
        if len(lines) == 1:
            user = (of_all - offset) / factor
            noise = slack[mine]
            guess = _fitting_unit(user, of_all, written, known, bool(bad.size), level, noise)
            if guess is not None and to_units(guess, known) == (factor, offset) and written:
                guess = None
        units = known.units
        lowest, highest = known.valid_range
        if guess is not None:
            found = f"{of_all.size} values of {name} with median {np.median(user):.4g}"
            said = f" {written}" if written else ", without a unit"
            problems.append(
                Problem(
                    found + said,
                    f"values in [{lowest:g}, {highest:g}] {units}; these fit {guess}",
                    unit_repair(raw, name, guess),
                )
            )
            continue
        if not strict and (of_all.size < FEW or 2 * bad.size <= of_all.size):
            continue
        if not bad.size:
            continue
        ends = [f"{(end - offset) / factor:.9g}" for end in (lowest, highest)]
        user_name = raw.word(name)
        partner = _partner(name)
        if partner in raw.names and raw.is_any_of(partner).any():
            # half of a wind that cannot be is no wind: both go, which one call does
            repair = "xdiffda.observations.drop_out_of_range(obs)"
        elif len(lines) > 1:
            repair = ""
        elif raw.form == "columns":
            x = f'obs["{user_name}"]'
            repair = f"{x} = {x}.where(({x} >= {ends[0]}) & ({x} <= {ends[1]}))"
        else:
            keep = f"({{x}} >= {ends[0]}) & ({{x}} <= {ends[1]})"
            other = f'(obs["{raw.word("variable")}"] != "{user_name}")'
            repair = _select(raw, "value", f"{other} | ({keep})")
        problems.append(
            Problem(
                f"{bad.size} of {of_all.size} values of {name} such as {_examples(bad)} {units}",
                f"values in [{lowest:g}, {highest:g}] {units}, give or take their errors",
                repair,
            )
        )
    return problems


def _slack(raw: Raw) -> np.ndarray:
    """How far errors may carry each value."""
    error_std = raw.fields["error_std"]
    return N_ERROR_STD * np.where(np.isfinite(error_std) & (error_std > 0), error_std, 0.0)


def out_of_range(raw: Raw) -> np.ndarray:
    """Which values nature does not have, give or take six of their errors."""
    variable, value, slack = raw.fields["variable"], raw.fields["value"], _slack(raw)
    low, high = np.array([raw.known(name).valid_range for name in raw.names]).T
    return ~((value >= low[variable] - slack) & (value <= high[variable] + slack))


def _partner(name: str) -> str:
    """The other component of a wind; nothing for what is none."""
    for one, other in (("u_component", "v_component"), ("v_component", "u_component")):
        if one in name:
            return name.replace(one, other)
    return ""


def with_partners(raw: Raw, bad: np.ndarray) -> np.ndarray:
    """These rows, and the other component of each wind of which one is among them.

    Components are of one report where all that tells reports apart is equal.
    """
    import pandas as pd

    partner = np.array([_partner(name) in raw.names for name in raw.names], bool)
    wind = partner[raw.fields["variable"]]
    if not (wind & bad).any():
        return bad
    # `u_component_of_wind` and `v_component_of_wind` are one kind, those at 10 m are another
    kinds = np.array([name.replace("v_component", "u_component") for name in raw.names])
    own = {"variable", "value", "error_std", BACKGROUND}
    columns = {n: c for n, c in raw.fields.items() if n not in own and c.shape == bad.shape}
    table = pd.DataFrame(columns | {"kind of wind": kinds[raw.fields["variable"]]})[wind]
    report = table.groupby(list(table.columns), dropna=False, sort=False).ngroup().to_numpy()
    both = bad.copy()
    both[wind] |= np.isin(report, report[bad[wind]])
    return both


def _fitting_unit(
    user: np.ndarray,
    value: np.ndarray,
    written: str,
    known: Variable,
    some_bad: bool,
    level: np.ndarray,
    noise: np.ndarray,
) -> str | None:
    """The unit that the user's values fit by their median, where theirs is impossible.

    ``noise`` is how far errors may carry each of ``value``.
    """
    low, high = known.valid_range
    most, median = float(user.max()), float(np.median(user))
    if known.name == "relative_humidity" and 0 < most <= MOST_SHARE:
        moist = np.nanmax(level, initial=0.0) >= TROPOSPHERE
        if not written or (written in ("%", "percent") and moist and user.size >= ENOUGH):
            return "1"
    if known.units == "1" and written in ("%", "percent") and 0.5 < most <= MOST_SHARE:
        return "1" if user.size >= ENOUGH else None
    if known.units == "degree" and user.size >= ENOUGH and 0 < most < 6.2832:
        return "rad" if not written.lower().startswith("rad") else None
    if known.name == "specific_humidity":
        aloft = level <= 150.0
        # where the error is larger than what there is of it, a median of few is noise
        spread = float(np.median(noise[aloft])) / np.sqrt(aloft.sum()) if aloft.any() else 0.0
        if aloft.any() and float(np.median(value[aloft])) > MOST_ALOFT + spread:
            return "mg kg-1" if float(np.median(user[aloft])) > 0.3 else "g kg-1"
    if not some_bad:
        return None
    if not low <= float(np.median(value)) <= high:
        at = float(np.nanmedian(level)) if np.isfinite(level).any() else 1000.0
        return fitting_units(float(user.min()), most, known, median=median, level=at)
    if known.units == "m s-1" and float(np.quantile(np.abs(user), 0.9)) > 75.0:
        # knots are twice m/s: one wild value is no reason to take all for them
        return fitting_units(float(user.min()), most, known)
    return None


def _heights(raw: Raw) -> list[Problem]:
    """Tell geopotential from heights: each lies inside the range of the other.

    Between 925 and 1 hPa geopotential is within 30 % of the standard atmosphere's; heights in
    gpm are smaller by 9.8, and geopotential taken for heights is larger by as much.
    """
    level, value = raw.fields["level"], raw.fields["value"]
    bottom = raw.fields.get("level_bottom", np.full(level.size, np.nan))
    problems = []
    for name in ("geopotential", "thickness"):
        mine = raw.is_any_of(name) & (level >= 1.0) & (level <= 925.0)
        if name == "thickness":
            mine &= bottom > level
        if not mine.any():
            continue
        standard = np.array([standard_geopotential(p) for p in level[mine]])
        if name == "thickness":
            standard = standard - np.array([standard_geopotential(p) for p in bottom[mine]])
        ratio = float(np.median(value[mine] / standard))
        if 0.5 < ratio < 2.0:
            continue
        lines = raw.lines.get(name, set())
        user = ratio / next(iter(lines))[0] if len(lines) == 1 else ratio
        factors = {units: to_units(units, raw.known(name)) for units in USUAL["m2 s-2"]}
        fits = [u for u, line in factors.items() if line and 0.5 < user * line[0] < 2.0]
        problems.append(
            Problem(
                f"{mine.sum()} values of {name} that are {ratio:.3g} times the standard "
                f"atmosphere's, such as {_examples(value[mine])} m2 s-2 at {level[mine][0]:g} hPa",
                f"{name}, there about {standard[0]:.0f} m2 s-2, or units that say otherwise",
                unit_repair(raw, name, fits[0]) if fits else without(raw, raw.word(name)),
            )
        )
    return problems


def _duplicates(raw: Raw) -> list[Problem]:
    """The same report twice counts as two independent observations: never silently."""
    again = repeated(raw.fields)
    if not again.any():
        return []
    first = int(np.flatnonzero(again)[0])
    fields = raw.fields
    return [
        Problem(
            f"{again.sum()} duplicates, such as {raw.names[fields['variable'][first]]} = "
            f"{fields['value'][first]:g} at lat {fields['lat'][first]:g}, lon "
            f"{fields['lon'][first]:g}",
            "each observation once",
            "xdiffda.observations.drop_duplicates(obs)",
        )
    ]


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


# The centre and the width of an assimilation window, as users give them.


def centre_and_width(tidy: xr.Dataset, time: Any, window: Any) -> tuple[pd.Timestamp, pd.Timedelta]:
    """Centre and width of a window, checked."""
    import pandas as pd

    problem = None
    if "obs" not in tidy.dims:
        problem = Problem(
            f"observations on {', '.join(map(str, tidy.dims)) or 'nothing'}",
            "tidy observations",
            "xdiffda.observations.to_tidy(obs)",
        )
    centre: Any = pd.NaT
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        centre = pd.Timestamp(getattr(time, "values", time))
    width = width_of(window)
    if problem is None and (pd.isna(centre) or pd.isna(width) or width < pd.Timedelta(0)):
        problem = Problem(
            f"time {time!r} and window {window!r}",
            "a time and a positive width",
            'select_window(tidy, "2020-01-01T00", "6h")',
        )
    if problem is not None:
        raise InputError([problem], what="assimilation window")
    return centre if centre.tzinfo is None else centre.tz_convert(None), width
