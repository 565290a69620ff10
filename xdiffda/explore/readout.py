"""The table beside the map: values at the point; its lines are the legend of the curves."""

from __future__ import annotations

import html

import numpy as np

from xdiffda.explore.curves import COLOURS
from xdiffda.explore.figures import decimals_for
from xdiffda.explore.frames import Frame, mean_of
from xdiffda.explore.points import distance_km, in_cell
from xdiffda.explore.states import Choice, States

_DASH = {"analysis": "solid", "background": "dashed", "truth": "dotted"}
_STYLE = (
    "<style>table.x{border-spacing:0;font:12.5px/1.45 sans-serif}"
    "table.x td{padding:0 6px 0 0;white-space:nowrap}table.x td.n{text-align:right;"
    "font-variant-numeric:tabular-nums}.x-at{font:600 13px sans-serif;margin-bottom:4px}"
    "</style>"
)


def legend_and_values(states: States, choice: Choice, point: tuple[int, int], frame: Frame) -> str:
    """HTML: place, each state's value there, departures, and the nearest observation."""
    row, column = point
    at = {"lat": row, "lon": column}
    members = states.members("analysis", choice).isel(at)
    values = {"analysis": float(mean_of(members))}
    for role in ("background", "truth"):
        if states.has(role, choice.variable):
            values[role] = float(mean_of(states.members(role, choice)).isel(at))
    digits = 1 + decimals_for(float(np.nanmax(frame.field) - np.nanmin(frame.field)))
    ensemble = states.n_members > 1
    rows = []
    for role, value in values.items():
        word = f"mean of {states.n_members}" if role == "analysis" and ensemble else role
        rows.append((_line(role), word, f"{value:.{digits}f}"))
        if role == "analysis" and ensemble:
            rows.append(("", "spread", f"{float(members.std(ddof=1)):.{digits}f}"))
    for word, role in (("increment", "background"), ("error", "truth")):
        if role in values:
            rows.append(("", word, f"{values['analysis'] - values[role]:+.{digits}f}"))
    rows += _observed(states, frame, point, digits)
    units = html.escape(frame.units)
    lines = "".join(
        f"<tr><td>{mark}</td><td>{word}</td><td class=n>{value}</td><td>{units}</td></tr>"
        for mark, word, value in rows
    )
    place = f"{_degrees(states.lat[row], 'NS')}, {_degrees(states.lon[column], 'EW')}"
    return f"{_STYLE}<div class=x-at>{place}</div><table class=x>{lines}</table>"


def _observed(
    states: States, frame: Frame, point: tuple[int, int], digits: int
) -> list[tuple[str, str, str]]:
    """Rows of the observation in the cell, or of the nearest and how far away it is."""
    dots = frame.dots
    if dots.sizes["obs"] == 0:
        return []
    inside = np.flatnonzero(in_cell(states, dots, point))
    lat, lon = states.lat[point[0]], states.lon[point[1]]
    away = distance_km(lat, lon, dots["lat"].values, dots["lon"].values)
    nearest = inside[away[inside].argmin()] if inside.size else int(away.argmin())
    one = dots.isel(obs=nearest)
    where = "observed here" if inside.size else f"observed, {away[nearest]:,.0f} km"
    mark = f'<span style="color:{COLOURS["observed"]};padding-left:4px">&#9679;</span>'
    return [
        (mark, where, f"{float(one['value']):.{digits}f}"),
        ("", "innovation", f"{float(one['departure']):+.{digits}f}"),
    ]


def _line(role: str) -> str:
    return (
        f'<span style="display:inline-block;width:18px;vertical-align:middle;'
        f'border-top:2.5px {_DASH[role]} {COLOURS[role]}"></span>'
    )


def _degrees(value: float, signs: str) -> str:
    value = (value + 180) % 360 - 180 if signs == "EW" else value
    return f"{abs(value):.1f}°{signs[int(value < 0)]}"
