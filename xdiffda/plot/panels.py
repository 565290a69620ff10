"""What a map shows: the chosen slice of each field, its differences, their common scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.plot.styles import DIFFERENCE_COLOURS, FIELD_COLOURS, SIGNED_COLOURS, SPREAD_COLOURS
from xdiffda.state.variables import VARIABLES, canonical_name
from xdiffda.verify.partners import partners, variance
from xdiffda.verify.scores import canonical_state

if TYPE_CHECKING:
    import pandas as pd


# One level, time and member of a field, or an error that says which there are.


def pick(field: xr.DataArray, dim: str, value: Any, what: str) -> tuple[xr.DataArray, Any]:
    """One level or time of a field, and what it is.

    Raises
    ------
    InputError
        If it is not there, or has to be chosen.
    """
    if isinstance(value, xr.DataArray):
        value = value.values[()]
    if dim == "time" and isinstance(value, str):
        try:
            value = np.datetime64(value)
        except ValueError:  # no time: what there is is named below
            value = repr(value)
    if dim not in field.dims:
        alone = dim in field.coords and field[dim].ndim == 0
        kept = field[dim].values[()] if alone else value
        if alone and value is not None and not _equal(kept, value):
            raise InputError([_absent(dim, value, [kept], what)], what="map")
        return field, kept
    if value is None and field.sizes[dim] == 1:
        field = field.isel({dim: 0})
        return field, field[dim].values[()] if dim in field.coords else None
    have = field[dim].values if dim in field.coords else np.arange(field.sizes[dim])
    matches = [i for i, v in enumerate(have) if value is not None and _equal(v, value)]
    if not matches:
        raise InputError([_absent(dim, value, have, what)], what="map")
    return field.isel({dim: matches[0]}), have[matches[0]]


def at_valid_time(field: xr.DataArray) -> xr.DataArray:
    """A forecast of one lead time, or of one initial time, along the times when it is valid."""
    if "valid_time" not in field.coords or "lead_time" not in field.dims:
        return field
    if field.sizes["lead_time"] == 1:
        field = field.isel(lead_time=0)
    elif field.sizes.get("time", 1) == 1:
        field = field.squeeze("time") if "time" in field.dims else field
        field = (
            field.drop_vars("time", errors="ignore")
            .drop_vars("lead_time", errors="ignore")
            .rename(lead_time="time")
        )
    else:
        return field
    valid = field["valid_time"].variable
    return field.drop_vars("valid_time").assign_coords(time=valid)


def _equal(one: Any, other: Any) -> bool:
    return bool(np.ndim(other) == 0 and one == other)


def _absent(dim: str, value: Any, have: Any, what: str) -> Problem:
    """A level or time that is not there, or was not chosen."""
    # the text "500" is no level, and has to look different from one
    plain = isinstance(value, int | float | np.generic) or dim == "time"
    found = f"{dim} {value}" if plain else f"{dim}={value!r}"
    if value is None:
        found = f"no choice of {dim}"
    shown = [f"{v:g}" if dim == "level" else str(v)[:16] for v in have]
    if len(shown) > 8:
        shown = [*shown[:3], "...", shown[-1]]
    repair = f"{dim}={shown[0]}" if dim == "level" else f'{dim}="{shown[0]}"'
    return Problem(found, f"one of the {what}'s {', '.join(shown)}", repair)


def position(member: Any, n: int) -> int:
    """The position of one member of ``n``."""
    whole = isinstance(member, int | np.integer) and not isinstance(member, bool)
    if not whole or not -n <= member < n:
        needed = f"the position of one of {n}, from 0" if n else "None, of a state without members"
        raise InputError(
            [Problem(f"member={member!r}", needed, "member=0" if n else "member=None")], what="map"
        )
    return int(member)


Group = Literal["field", "difference", "spread"]
PANELS: dict[str, Group] = {
    "background": "field",
    "analysis": "field",
    "truth": "field",
    "increment": "difference",
    "error": "difference",
    "spread": "spread",
}
_NEEDS = {
    "background": ("background",),
    "truth": ("truth",),
    "increment": ("background",),
    "error": ("truth",),
}
# units to read in a figure: canonical units -> text, factor
DISPLAY = {
    "m s-1": ("m/s", 1.0),
    "m2 s-2": ("m²/s²", 1.0),
    "kg kg-1": ("g/kg", 1e3),
    "Pa": ("hPa", 1e-2),
    "Pa s-1": ("Pa/s", 1.0),
    "kg m-2": ("kg/m²", 1.0),
}


@dataclass(frozen=True)
class Panel:
    """One map: its name, title, group of scale, and field on (lat, lon)."""

    name: str
    title: str
    group: Group
    field: xr.DataArray


@dataclass(frozen=True)
class Scale:
    """Colours of a group of panels."""

    cmap: str
    vmin: float
    vmax: float
    extend: Literal["neither", "min", "max", "both"]


@dataclass(frozen=True)
class Slice:
    """Which part of a state is drawn; ``variable`` in canonical or unknown name."""

    variable: str
    level: float | None = None
    time: Any = None
    member: int | None = None


def choose_panels(
    panels: Sequence[str] | None, *, truth: bool, background: bool, members: bool
) -> tuple[str, ...]:
    """Return the panels to draw; by default all that the given states allow, but the spread."""
    available = {"truth": truth, "background": background}
    if panels is None:
        return tuple(
            name
            for name in PANELS
            if name != "spread" and all(available[n] for n in _NEEDS.get(name, ()))
        )
    chosen = (panels,) if isinstance(panels, str) else tuple(panels)
    problems = []
    for name in chosen:
        if name not in PANELS:
            problems.append(
                Problem(f"panel {name!r}", f"some of {', '.join(PANELS)}", 'panels=("analysis",)')
            )
        for needed in _NEEDS.get(name, ()):
            if not available[needed]:
                problems.append(
                    Problem(f"panel {name!r} without {needed}", needed, f"{needed}={needed}")
                )
        if name == "spread" and not members:
            problems.append(
                Problem(
                    "panel 'spread' of a single state", "members", "assimilate(obs, n_members=8)"
                )
            )
    if not chosen:
        problems.append(Problem("no panels", "at least one", 'panels=("analysis",)'))
    raise_if(problems, what="map")
    return chosen


def build_panels(
    analysis: xr.Dataset,
    choice: Slice,
    *,
    panels: Sequence[str] | None,
    truth: xr.Dataset | None,
    background: xr.Dataset | None,
) -> tuple[Slice, list[Panel]]:
    """Read the slices that are drawn, and only those.

    Returns
    -------
    choice : Slice
        With level, time and canonical name filled in.
    panels : list of Panel
        In the order asked for; fields are in memory and in the units of a figure
        (`DISPLAY`), lat and lon ascending.

    Raises
    ------
    InputError
        If the variable, level, time or member is missing or not chosen.
    """
    state = canonical_state(analysis, what="analysis")
    has_members = "member" in state.dims and state.sizes["member"] > 1 and choice.member is None
    names = choose_panels(
        panels, truth=truth is not None, background=background is not None, members=has_members
    )
    ensemble, choice = _select(state, choice, what="analysis")
    fields = {"analysis": _mean(ensemble)}
    for name, given in (("background", background), ("truth", truth)):
        used = name in names or any(name in _NEEDS.get(n, ()) for n in names)
        if given is not None and used:
            part, _ = _select(canonical_state(given, what=name), choice, what=name)
            fields[name] = _like(_mean(part), fields["analysis"], what=name)
    with xr.set_options(keep_attrs=True):
        if "increment" in names:
            fields["increment"] = fields["analysis"] - fields["background"]
        if "error" in names:
            fields["error"] = fields["analysis"] - fields["truth"]
        if "spread" in names:
            fields["spread"] = variance(ensemble.astype(np.float64), partners(analysis)) ** 0.5
    n = ensemble.sizes.get("member", 1)
    label = f"analysis, mean of {n}" if n > 1 else "analysis"
    if choice.member is not None:
        label = f"analysis, member {choice.member}"
    titles = {"analysis": label, "increment": "increment (analysis - background)"}
    titles |= {"error": "error (analysis - truth)", "spread": f"spread of {n} members"}
    out = [Panel(p, titles.get(p, p), PANELS[p], fields[p].transpose("lat", "lon")) for p in names]
    return choice, out


def _mean(field: xr.DataArray) -> xr.DataArray:
    with xr.set_options(keep_attrs=True):
        return field.mean("member") if "member" in field.dims else field


def _like(field: xr.DataArray, other: xr.DataArray, *, what: str) -> xr.DataArray:
    same = field.sizes == other.sizes and all(
        np.allclose(field[d], other[d], atol=1e-3) for d in ("lat", "lon")
    )
    if not same:
        found = f"the {what} on another grid than the analysis"
        repair = f"{what}.interp(lat=analysis.lat, lon=analysis.lon)"
        raise InputError([Problem(found, "one grid", repair)], what="map")
    return field.assign_coords(lat=other["lat"].variable, lon=other["lon"].variable)


def _select(ds: xr.Dataset, choice: Slice, *, what: str) -> tuple[xr.DataArray, Slice]:
    """Return (member?, lat, lon) of one variable, in memory, and the completed choice."""
    name = choice.variable
    if not isinstance(name, str):
        raise InputError(
            [Problem(f"variable={name!r}", "the name of one", 'ds.diffda.map("t")')], what="map"
        )
    if name not in ds:
        on_levels = True if choice.level is not None else None
        name = canonical_name(name, on_levels=on_levels) or canonical_name(name) or name
    if name not in ds:
        known = ", ".join(str(n) for n in ds.data_vars)
        raise InputError(
            [Problem(f"no {choice.variable} in the {what}", f"one of {known}", "")],
            what="map",
        )
    field = ds[name]
    level = choice.level
    if "level" in field.dims or name not in VARIABLES or VARIABLES[name].on_levels:
        field, level = pick(field, "level", level, what)
    else:  # of the surface, whatever level is asked for, or stands beside it
        level = None
    field, time = pick(at_valid_time(field), "time", choice.time, what)
    if choice.member is not None and what == "analysis":
        field = field.isel(member=position(choice.member, field.sizes.get("member", 0)))
    rest = [str(d) for d in field.dims if d not in ("member", "lat", "lon")]
    if rest:
        found, repair = f"a further dimension {rest[0]} in the {what}", f"{what}.isel({rest[0]}=0)"
        raise InputError([Problem(found, "member, lat, lon", repair)], what="map")
    units = str(field.attrs.get("units", ""))
    text, factor = DISPLAY.get(units, (units, 1.0))
    field = field.load().astype(np.float64) * factor
    field.attrs["units"] = text
    return field, Slice(name, level, time, choice.member)


def scale_of(group: Group, panels: Sequence[Panel], variable: str) -> Scale:
    """Return the scale shared by all panels of a group.

    Fields span their extremes without the outer half percent; differences are symmetric
    about zero; the spread starts at zero.
    """
    values = np.concatenate([p.field.values.ravel() for p in panels if p.group == group])
    values = values[np.isfinite(values)]
    if values.size == 0:
        values = np.zeros(1)
    low, high = np.percentile(values, [0.5, 99.5])
    cmap = FIELD_COLOURS.get(variable, "viridis")
    if group == "spread":
        low, cmap = 0.0, SPREAD_COLOURS
    elif group == "difference" or cmap == SIGNED_COLOURS:
        high = max(abs(low), abs(high))
        low, cmap = -high, DIFFERENCE_COLOURS if group == "difference" else cmap
    if not high > low:
        low, high = low - 0.5, low + 0.5
    return Scale(cmap, float(low), float(high), _extend(values.min() < low, values.max() > high))


def _extend(below: bool, above: bool) -> Literal["neither", "min", "max", "both"]:
    if below:
        return "both" if above else "min"
    return "max" if above else "neither"


def describe(choice: Slice) -> str:
    """Return the title: variable, level and valid time."""
    known = VARIABLES.get(choice.variable)
    text = known.long_name if known else choice.variable
    if choice.level is not None:
        text += f" at {float(choice.level):g} hPa"
    if choice.time is not None and np.asarray(choice.time).dtype.kind == "M":
        text += f", {np.datetime_as_string(choice.time, unit='m').replace('T', ' ')} UTC"
    return text


# Which observations lie on a map: those of its variable, level and time.

WINDOW = np.timedelta64(3, "h")


def dots_of(obs: xr.Dataset | pd.DataFrame, choice: Slice) -> xr.Dataset:
    """Return the tidy observations of a variable, level and time, in the units of a figure.

    Parameters
    ----------
    obs
        Observations in either form.
    choice
        The slice of the map. Without level, all levels are returned; without time, all times;
        otherwise those within 3 h.

    Returns
    -------
    xarray.Dataset
        ``lat``, ``lon``, ``level``, ``time``, ``value`` and ``error_std`` on ``obs``, in memory.

    Examples
    --------
    >>> obs = xr.Dataset({"mean_sea_level_pressure": ("station", [101325.0])},
    ...                  {"lat": ("station", [0.0]), "lon": ("station", [9.0])})
    >>> dots_of(obs, Slice("mean_sea_level_pressure")).value.values
    array([1013.25])
    """
    from xdiffda.observations.table import to_tidy

    return pick_dots(to_tidy(obs), choice)


def pick_dots(tidy: xr.Dataset, choice: Slice) -> xr.Dataset:
    """`dots_of` for observations that are tidy and checked already."""
    keep = tidy["variable"].values == choice.variable
    if choice.level is not None and "level" in tidy:
        keep &= np.isnan(tidy["level"].values) | np.isclose(tidy["level"].values, choice.level)
    if choice.time is not None and "time" in tidy and tidy["time"].dtype.kind == "M":
        times = tidy["time"].values
        keep &= np.isnat(times) | (abs(times - np.datetime64(choice.time)) <= WINDOW)
    wanted = [n for n in ("lat", "lon", "level", "time", "value", "error_std") if n in tidy]
    shown = tidy[wanted].isel(obs=np.flatnonzero(keep)).load()
    units = VARIABLES[choice.variable].units if choice.variable in VARIABLES else ""
    for name in {"value", "error_std"} & set(wanted):
        shown[name] = shown[name] * DISPLAY.get(units, (units, 1.0))[1]
    return shown
