"""Table and figure of the experiment on windows, and its command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xdiffda._skill_table import HEADLINES
from xdiffda.experiments.window import run
from xdiffda.experiments.window_config import WindowConfig
from xdiffda.storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS, TABLE, FIGURE = "window.json", "window.md", "window.{}"


def main(path: str | Path, *, progress: bool | None = True) -> str:
    """Run or resume, write results, table and figure; return the table."""
    from xdiffda.plot.styles import save

    config = WindowConfig.read(path)
    found = run(config, progress=progress)
    out = Path(config.out)
    write_text(json.dumps(found, indent=1) + "\n", out / RESULTS)
    write_text(text := table(found), out / TABLE)
    save(figure(found), out / FIGURE.format(config.figure_format))
    return text


def ratios(row: Mapping[str, Any], *, of: str = "squared") -> np.ndarray:
    """RMSE over the background's at the same time and cases: (time, channel)."""
    return np.sqrt(np.array(row[of]) / np.array(row["background"]))


def table(found: Mapping[str, Any]) -> str:
    """Markdown: RMSE over that of the background, which goes on beside it through the window.

    The residual is the largest relative one of the row's cases at which its solver stopped.
    """
    shown = {k: found["channels"].index(c) for k, c in HEADLINES.items() if c in found["channels"]}
    at = [f"{h:g} h" for h in found["hours"]]
    head = ["columns", "method", *at, *(f"{name}, {at[0]}" for name in shown), "r", "residual",
            "seconds", "cases"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in found["rows"]:
        error = ratios(row)
        cells = [
            f"{row['columns']:,}", row["method"], *(f"**{e:.3f}**" for e in error.mean(1)),
            *(f"{error[0, i]:.3f}" for i in shown.values()), f"{row['r']:.2f}",
            f"{row['residual']:.2g}", f"{row['seconds']:.0f}", str(row["cases"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(found: Mapping[str, Any]) -> Figure:
    """Errors through the window, and that of forecasts from the truth."""
    from xdiffda.plot.styles import legend, lines, panels, style

    columns = list(dict.fromkeys(row["columns"] for row in found["rows"]))
    names = list(dict.fromkeys(row["method"] for row in found["rows"]))
    with style():
        # the legend of one panel needs the width of two
        width, height = (3.2, 2.8) if len(columns) > 1 else (6.4, 4.4)
        drawn, axes = panels(len(columns), width=width, height=height, sharey=True)
        look = lines(names)
        for ax, n in zip(axes, columns, strict=True):
            here = [row for row in found["rows"] if row["columns"] == n]
            for row in here:
                ax.plot(found["hours"], ratios(row).mean(1), label=row["method"],
                        **look[row["method"]])  # fmt: skip
            most = max(here, key=lambda row: row["cases"])
            ax.plot(found["hours"], ratios(most, of="truth").mean(1), color="0.3",
                    linestyle="--", label="forecast from the truth")  # fmt: skip
            ax.axhline(1, color="0.4", linewidth=0.9, zorder=1)
            ax.set(title=f"{n:,} columns each time", xlabel="time in the window (h)",
                   xticks=found["hours"])  # fmt: skip
        axes[0].set_ylabel("RMSE / background's")
        legend(drawn, axes, n_column=4 if len(columns) > 1 else 2)
    return drawn


if __name__ == "__main__":
    import sys

    print(main(sys.argv[1]))
