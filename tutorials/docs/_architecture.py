"""Pictures of the architecture: the rooms from the contract that is checked, and two paths.

`rooms` reads the layers from `pyproject.toml` and what a room is for from its docstring, so that
the picture is the contract. `paths` names the files that an observation and a background pass; a
test compares these names with the package.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _skill import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "xdiffda"
COLOURS = ("#e8eef7", "#f5efe2")
OBSERVATION = (
    ("a file", ""),
    ("tidy observations", "observations/readers/read.py"),
    ("quality control", "observations/quality.py"),
    ("innovations", "assimilation/innovations.py"),
    ("operators H", "observations/operators.py"),
    ("likelihood", "diffusion/likelihood.py"),
)
BACKGROUND = (
    ("a Dataset", ""),
    ("state array", "state/convert.py"),
    ("background error", "priors/prior.py"),
    ("z = (x - x_b) / s", "priors/diffusion.py"),
    ("denoiser D(z, sigma)", "diffusion/denoiser.py"),
)
ANALYSIS = (
    ("guided denoiser", "diffusion/guidance.py"),
    ("sampler", "diffusion/sampler.py"),
    ("members of z", "diffusion/posterior.py"),
    ("analysis, a Dataset", "assimilation/assimilate.py"),
)
"""(what it is, the file that makes it) of the two paths, and of the one that they become."""


def layers() -> list[list[str]]:
    """Rooms by layer, top to bottom, as import-linter checks them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    return [re.findall(r"\w+", row) for row in contract["layers"]]


def purpose(room: str) -> str:
    """First line of the docstring of a room, or of a module of the root."""
    path = PACKAGE / room / "__init__.py"
    path = path if path.exists() else PACKAGE / f"{room}.py"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def rooms() -> str:
    """The rooms as a drawing: one row for each layer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    every = layers()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xdiffda", "font.size": 10}):
        figure, ax = plt.subplots(figsize=(8.6, 0.62 * len(every) + 0.3), layout="constrained")
        for i, row in enumerate(every):
            width = 1 / len(row)
            for j, room in enumerate(row):
                folder = (PACKAGE / room).is_dir()
                x, y = (j + 0.5) * width, len(every) - i
                _box(ax, x, y, width - 0.015, 0.72, COLOURS[not folder])
                ax.text(x, y, f"{room}/" if folder else room, ha="center", va="center")
        ax.set(xlim=(0, 1), ylim=(0.4, len(every) + 0.6))
        ax.axis("off")
        return drawing(figure)


def rooms_table() -> str:
    """What each room is for, in the order of the layers."""
    lines = ["| room | |", "|---|---|"]
    for row in layers():
        lines += [f"| `{room}` | {_shown(purpose(room))} |" for room in row]
    return "\n".join(lines)


def _shown(text: str) -> str:
    return text.replace("|", "\\|").replace("``", "`")


def paths() -> str:
    """The path of an observation and of a background, as a drawing."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xdiffda", "font.size": 9}):
        figure, ax = plt.subplots(figsize=(8.6, 8.2), layout="constrained")
        top = len(OBSERVATION) + len(ANALYSIS)
        _column(ax, 0.24, top, OBSERVATION)
        _column(ax, 0.76, top, BACKGROUND)
        meet = top - len(OBSERVATION)
        for x, n in ((0.24, len(OBSERVATION)), (0.76, len(BACKGROUND))):
            _arrow(ax, (x, top - n + 1 - 0.36), (0.5 + (x - 0.5) * 0.4, meet + 0.36))
        _column(ax, 0.5, meet, ANALYSIS)
        ax.set(xlim=(0, 1), ylim=(0.4, top + 0.6))
        ax.axis("off")
        return drawing(figure)


def _column(ax: Axes, x: float, top: float, steps: tuple[tuple[str, str], ...]) -> None:
    for i, (what, file) in enumerate(steps):
        y = top - i
        _box(ax, x, y, 0.4, 0.66, COLOURS[not file])
        ax.text(x, y + (0.12 if file else 0), what, ha="center", va="center", weight="bold")
        ax.text(x, y - 0.16, file, ha="center", va="center", size=8, family="monospace")
        if i:
            _arrow(ax, (x, y + 0.67), (x, y + 0.36))


def _box(ax: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.01", "linewidth": 0.8}
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, fc=colour, ec="#52617a", **style))


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#52617a"})


MADE = {"rooms": rooms, "rooms-table": rooms_table, "paths": paths}
