"""Small cards in HTML for notebooks, in the manner of xarray's own, light or dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GOOD, BAD, CHIPS = "good", "bad", "chips"

# xarray's variables where it has set them, else JupyterLab's, else the page's own colours
_CSS = """
.xdiffda-card{--c:var(--xr-font-color0,var(--jp-content-font-color0,currentColor));
--f:var(--xr-font-color2,var(--jp-content-font-color2,#777));
--b:var(--xr-border-color,var(--jp-border-color2,#8884));
--s:var(--xr-background-color-row-odd,var(--jp-layout-color2,#8881));
color:var(--c);font-size:13px;line-height:1.5;max-width:720px}
.xdiffda-card .h{border-bottom:1px solid var(--b);padding:4px 0;margin-bottom:6px}
.xdiffda-card .h b{font-weight:600}.xdiffda-card .h span{color:var(--f);margin-left:8px}
.xdiffda-card dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0}
.xdiffda-card dt{color:var(--f);font-weight:400;margin:0}
.xdiffda-card dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.xdiffda-card .k{display:inline-block;background:var(--s);border-radius:3px;padding:0 6px;
margin:0 4px 3px 0}
.xdiffda-card .good{color:#009E73}.xdiffda-card .bad{color:#D55E00}
.xdiffda-card code{background:var(--s);padding:0 4px;border-radius:3px;color:var(--c)}
.xdiffda-card svg{display:block;margin-top:6px;color:var(--c)}
"""


@dataclass(frozen=True)
class Row:
    """One line of a card: a label and its value.

    ``kind`` is `CHIPS` for a list of words separated by ``, ``, `GOOD` or `BAD` for a verdict.
    """

    label: str
    value: str
    kind: str = ""


def card(title: str, subtitle: str, rows: Sequence[Row], *, picture: str = "") -> str:
    """HTML of a card; everything but ``picture`` (SVG of our own) is escaped.

    Examples
    --------
    >>> "<dt>Grid</dt><dd>32 x 64</dd>" in card("state", "", [Row("Grid", "32 x 64")])
    True
    """
    lines = "".join(f"<dt>{html.escape(r.label)}</dt><dd>{_value(r)}</dd>" for r in rows)
    head = f"<b>{html.escape(title)}</b><span>{html.escape(subtitle)}</span>"
    return (
        f'<div class="xdiffda-card"><style>{_CSS}</style><div class="h">{head}</div>'
        f"<dl>{lines}</dl>{picture}</div>"
    )


def model_card(name: str, layout: Any, stored: Mapping[str, Any]) -> str:
    """Card of a model: what it takes, what it was made from, and how large it is.

    ``stored`` is the content of its ``card.json``, empty for a model that has none.
    """
    rows = [
        Row("Grid", str(layout.grid)),
        Row("Levels (hPa)", ", ".join(map(str, layout.levels)) or "none"),
        Row("Variables", ", ".join(layout.variables), CHIPS),
        Row("Channels", str(layout.n_channel)),
    ]
    if "parameters" in stored:
        rows.append(Row("Parameters", f"{int(stored['parameters']):,}"))
    for label, key in (("Trained on", "data"), ("Licence", "licence")):
        if stored.get(key):
            rows.append(Row(label, str(stored[key])))
    return card(f"Model {name}", str(stored.get("title", "")), rows)


def _value(row: Row) -> str:
    if row.kind == CHIPS:
        words = [w for w in row.value.split(", ") if w]
        return "".join(f'<span class="k">{html.escape(w)}</span>' for w in words)
    text = html.escape(row.value)
    if row.kind in (GOOD, BAD):
        sign = "&#10003;" if row.kind == GOOD else "&#10007;"
        return f'<span class="{row.kind}">{sign} {text}</span>'
    return text
