"""Which variables and levels a figure shows, and what they are called there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.plot.panels import DISPLAY
from xdiffda.state.variables import VARIABLES, canonical_name
from xdiffda.verify.table import HEADLINES

SHORT = {
    "geopotential": "Z",
    "temperature": "T",
    "u_component_of_wind": "u",
    "v_component_of_wind": "v",
    "specific_humidity": "q",
    "vertical_velocity": "ω",
    "2m_temperature": "T 2 m",
    "10m_u_component_of_wind": "u 10 m",
    "10m_v_component_of_wind": "v 10 m",
    "mean_sea_level_pressure": "MSLP",
    "surface_pressure": "p surface",
}
MOST = 12  # panels of a figure whose channels nobody chose


@dataclass(frozen=True)
class Channel:
    """A variable at a level, or a surface variable."""

    variable: str
    level: float | None = None

    @property
    def title(self) -> str:
        """For a panel: ``temperature, 850 hPa``."""
        known = VARIABLES.get(self.variable)
        name = known.long_name if known else self.variable.replace("_", " ")
        return name if self.level is None else f"{name}, {self.level:g} hPa"

    @property
    def short(self) -> str:
        """For a row: ``T 850``."""
        known = VARIABLES.get(self.variable)
        name = SHORT.get(self.variable, known.long_name if known else self.variable)
        return name if self.level is None else f"{name} {self.level:g}"

    def of(self, ds: xr.Dataset) -> xr.DataArray:
        """The field of this channel."""
        field = ds[self.variable]
        return field if self.level is None else field.sel(level=self.level)


def every_channel(ds: xr.Dataset) -> list[Channel]:
    """All channels of a result, variables in its order, levels downwards."""
    out = []
    for name, field in ds.data_vars.items():
        levels = sorted(field["level"].values.tolist()) if "level" in field.dims else [None]
        out += [Channel(str(name), level) for level in levels]
    return out


def choose_channels(
    results: Mapping[str, xr.Dataset], wanted: Sequence[str] | None, *, what: str
) -> list[Channel]:
    """Return the channels to show, of those that all ``results`` have.

    Parameters
    ----------
    results
        Label -> Dataset of scores.
    wanted
        Channels such as ``temperature@850`` or ``2m_temperature``, by any of their names; by
        default the headline channels that there are, or else the first dozen.
    what
        Name of the figure, for errors.
    """
    first, *others = [every_channel(ds) for ds in results.values()]
    common = [c for c in first if all(c in other for other in others)]
    if wanted is None:
        headlines = [c for c in map(_read, HEADLINES.values()) if c in common]
        chosen = headlines or common[:MOST]
    else:
        chosen = [_read(w) for w in ([wanted] if isinstance(wanted, str) else wanted)]
    missing = [c for c in chosen if c not in common]
    if missing or not chosen:
        have = ", ".join(f"{c.variable}@{c.level:g}" if c.level else c.variable for c in common)
        found = ", ".join(c.title for c in missing) or "no channel"
        raise InputError(
            [
                Problem(
                    found
                    if list(results) == [""]
                    else f"{found}, not in all of {', '.join(results)}",
                    f"some of {have}",
                    'channels=["temperature@850"]',
                )
            ],
            what=what,
        )
    return chosen


def _read(text: str) -> Channel:
    name, _, level = text.partition("@")
    known = canonical_name(name, on_levels=bool(level)) or canonical_name(name) or name
    try:
        return Channel(known, float(level) if level else None)
    except ValueError as error:
        raise InputError(
            [
                Problem(
                    f"the channel {text!r}",
                    "a variable, or variable@level",
                    'channels=["temperature@850"]',
                )
            ],
            what="figure",
        ) from error


def labelled(
    results: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    along: Sequence[str] = (),
    made: str = "",
    what: str = "figure",
) -> dict[str, xr.Dataset]:
    """One result or several, as label -> result.

    Each must have a coordinate or dimension of ``along``: it is what the call ``made`` gives.
    """
    given = {"": results} if isinstance(results, xr.Dataset) else results
    if not isinstance(given, Mapping) or not given:
        found = f"a {type(results).__name__}" if results or results is None else "no result"
        raise InputError(
            [Problem(found, "a result, or a mapping from label to result", made)], what=what
        )
    wrong = {
        label: ds
        for label, ds in given.items()
        if not isinstance(ds, xr.Dataset) or (along and {*ds.dims, *ds.coords}.isdisjoint(along))
    }
    problems = [
        Problem(
            f"{label or 'a result'}, a {type(ds).__name__} without {' or '.join(along)}",
            "the result of the call below",
            made,
        )
        for label, ds in wrong.items()
    ]
    raise_if(problems, what=what)
    return dict(given)


def in_display_units(field: xr.DataArray, *, power: int = 1) -> tuple[xr.DataArray, str]:
    """Values and units as a figure shows them; ``power`` 2 for a variance.

    Examples
    --------
    >>> humidity = xr.DataArray(2e-3, attrs={"units": "kg kg-1"})
    >>> value, units = in_display_units(humidity)
    >>> float(value), units
    (2.0, 'g/kg')
    >>> in_display_units(xr.DataArray(1.0, attrs={"units": "(m2 s-2)^2"}), power=2)[1]
    'm⁴/s⁴'
    """
    units = str(field.attrs.get("units", ""))
    if power == 2 and units.startswith("(") and units.endswith(")^2"):
        units = units[1:-3]
    text, factor = DISPLAY.get(units, (units, 1.0))
    if power == 2 and text:
        text = "/".join(f"{p[:-1]}⁴" if p.endswith("²") else f"{p}²" for p in text.split("/"))
    return field.astype(float) * factor**power, text
