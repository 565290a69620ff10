"""Scores of several methods side by side, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem

# columns of a table, where the data hold them
HEADLINES = {
    "z500": "geopotential@500",
    "T850": "temperature@850",
    "u300": "u_component_of_wind@300",
    "q850": "specific_humidity@850",
    "T2m": "2m_temperature",
    "MSLP": "mean_sea_level_pressure",
}


def skill_table(
    scores: Mapping[str, xr.Dataset],
    *,
    score: str = "rmse",
    relative_to: str | None = None,
    columns: Sequence[str] | None = None,
) -> str:
    """Return a table as text: one row per method, one column per variable.

    Parameters
    ----------
    scores
        Method -> result of `verify`.
    score
        Which score to show.
    relative_to
        A method by whose score every entry is divided. Then the first column is the mean
        over all variables and levels, and the last the worst of them.
    columns
        Channels such as ``temperature@850``; headline channels if not given.

    Returns
    -------
    str
        The table, with the protocol under it.

    Raises
    ------
    InputError
        If there are no scores, or none of ``relative_to``.

    Examples
    --------
    >>> from xdiffda.verify import verify
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> truth = xr.Dataset({"2m_temperature": (("lat", "lon"), np.full((3, 4), 280.0))}, grid)
    >>> table = skill_table({"background": verify(truth + 2, truth),
    ...                      "analysis": verify(truth + 1, truth)}, relative_to="background")
    >>> print(table.splitlines()[3])
    analysis       0.500   0.500   0.500
    """
    if not scores or (relative_to is not None and relative_to not in scores):
        name = relative_to or "analysis"
        raise InputError(
            [
                Problem(
                    f"scores of {', '.join(scores) or 'nothing'}",
                    f"those of {name}",
                    f"skill_table({{{name!r}: verify({name}, truth)}})",
                )
            ],
            what="skill_table",
        )
    channels = {method: _channels(result, score) for method, result in scores.items()}
    first = next(iter(channels.values()))
    labels = {v: k for k, v in HEADLINES.items()}
    shown = list(columns or [c for c in HEADLINES.values() if c in first] or first)
    header = [labels.get(c, c) for c in shown]
    rows = {}
    for method, values in channels.items():
        row = [values.get(c, np.nan) for c in shown]
        if relative_to is not None:
            base = channels[relative_to]
            ratios = {c: values.get(c, np.nan) / base[c] for c in base}
            every = list(ratios.values())
            row = [np.mean(every), *(ratios.get(c, np.nan) for c in shown), np.max(every)]
        rows[method] = row
    title = score
    if relative_to is not None:
        title = f"{score}, divided by that of {relative_to}"
        header = ["mean", *header, "worst"]
    return _format(title, header, rows, next(iter(scores.values())).attrs.get("protocol", ""))


def _channels(result: xr.Dataset, score: str) -> dict[str, float]:
    out = {}
    for name, field in result.sel(score=score).data_vars.items():
        if "level" in field.dims:
            for level in field["level"].values:
                out[f"{name}@{int(level)}"] = float(field.sel(level=level))
        else:
            out[str(name)] = float(field)
    return out


def _cell(value: float) -> str:
    """Three decimals; two digits of what is small in its unit, such as humidity."""
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def _format(title: str, header: list[str], rows: Mapping[str, list[float]], note: str) -> str:
    first = max(map(len, rows)) + 2
    width = [max(8, len(h) + 2) for h in header]
    lines = [title, " " * first + "".join(h.rjust(w) for h, w in zip(header, width, strict=True))]
    for method, row in rows.items():
        cells = map(_cell, row)
        cells = ("-" if c == "nan" else c for c in cells)
        body = "".join(c.rjust(w) for c, w in zip(cells, width, strict=True))
        lines.append(method.ljust(first) + body)
    return "\n".join([*lines, note]) if note else "\n".join(lines)
