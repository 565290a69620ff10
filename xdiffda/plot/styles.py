"""One style for all figures: colours that colour-blind readers tell apart, text as text.

Categories take the colours of Okabe & Ito (2008) in the order of `COLOURS`, each with a
marker of its own, so that a print without colours can be read as well. The methods of this package
look the same in every figure (`METHODS`), whatever stands beside them. Fields take maps whose
lightness rises evenly from low to high (`FIELD_COLOURS`), so that they keep their order in
grey and for every kind of colour vision; what has a sign, and differences, take diverging maps
without red beside green, white at zero. Gains and losses take `diverging`, blue for better and
vermilion for worse. Units stand at every axis.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdiffda.errors import StorageError

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure


BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
METHODS: Mapping[str, int] = {
    "guided": 0,
    "3D-Var": 1,
    "interpolated observations": 2,
    "interpolation": 2,
    "OI": 3,
    "RePaint": 4,
    "LETKF": 5,
    "truth": 6,
}
"""Place among the colours of what labels begin with."""
SIGNED_COLOURS = "PuOr_r"
DIFFERENCE_COLOURS = "RdBu_r"
SPREAD_COLOURS = "YlOrBr"
FIELD_COLOURS: Mapping[str, str] = {
    "temperature": "plasma",
    "2m_temperature": "plasma",
    "sea_surface_temperature": "plasma",
    "specific_humidity": "YlGnBu",
    "u_component_of_wind": SIGNED_COLOURS,
    "v_component_of_wind": SIGNED_COLOURS,
    "10m_u_component_of_wind": SIGNED_COLOURS,
    "10m_v_component_of_wind": SIGNED_COLOURS,
    "vertical_velocity": SIGNED_COLOURS,
}
"""Colour maps of fields by variable; ``viridis`` for all others."""
STYLE: Mapping[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "figure.titlesize": 11.0,
    "figure.dpi": 110.0,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.05,
    "savefig.dpi": 200.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
"""What every figure is drawn with: matplotlib's rcParams."""


@contextmanager
def style(**changes: Any) -> Iterator[None]:
    """Draw with ``STYLE`` inside a ``with`` block.

    Parameters
    ----------
    **changes
        rcParams with underscores for dots: ``font_size=12``.

    Examples
    --------
    >>> import matplotlib
    >>> with style(font_size=12):
    ...     matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.grid"]
    (12.0, True)
    """
    import matplotlib

    known = {key.replace(".", "_"): key for key in matplotlib.rcParams}
    with matplotlib.rc_context(dict(STYLE) | {known[k]: v for k, v in changes.items()}):
        yield


def save(figure: Figure, path: str | Path, *, dpi: float = 200.0) -> None:
    """Write a figure; ``.pdf`` and ``.svg`` keep text as text, so that journals can edit it.

    Parameters
    ----------
    figure
        Any figure of this package.
    path
        File; its suffix chooses the format.
    dpi
        Of raster formats, and of fields inside vector formats.

    Raises
    ------
    StorageError
        If there is no such folder or format.
    """
    path = Path(path).expanduser()
    formats = figure.canvas.get_supported_filetypes()
    if not path.parent.is_dir():
        raise StorageError(f"{path}: no folder {path.parent}; repair: `mkdir -p {path.parent}`")
    if path.suffix and path.suffix[1:].lower() not in formats:
        raise StorageError(
            f"{path}: unknown kind {path.suffix!r}; needed one of {', '.join(formats)}; repair: "
            f"`save(figure, {str(path.with_suffix('.pdf'))!r})`"
        )
    with style():
        figure.savefig(path, dpi=dpi, bbox_inches="tight")


def diverging() -> LinearSegmentedColormap:
    """Blue (better), white, vermilion (worse)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("better_worse", [BLUE, "#ffffff", VERMILION])


def line(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the category of this number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
    }


def lines(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of all categories of a figure.

    One that begins with the name of a method looks as that method does in every figure, if it is
    the only one of it; the others take the places that are left, in their order.

    Examples
    --------
    >>> look = lines(["truth", "RePaint, mask 0.1", "guided"])
    >>> look["guided"] == line(0), look["RePaint, mask 0.1"]["marker"]
    (True, 'v')
    """
    names = list(dict.fromkeys(labels))
    found = {name: _method(name) for name in names}
    taken = {
        name: n for name, n in found.items() if n is not None and list(found.values()).count(n) == 1
    }
    left = (n for n in itertools.count() if n not in taken.values())
    return {name: line(taken[name] if name in taken else next(left)) for name in names}


def _method(label: str) -> int | None:
    """The place of the method that a label begins with."""
    fits = (n for name, n in METHODS.items() if re.match(rf"{re.escape(name)}(?![\w-])", label))
    return next(fits, None)


def panels(
    n: int, *, width: float = 2.9, height: float = 2.4, n_column: int = 3, **shared: Any
) -> tuple[Figure, list[Any]]:
    """Make a figure with ``n`` axes in rows of at most ``n_column``, not kept by pyplot."""
    import matplotlib.pyplot as plt

    n_row = -(-n // n_column)
    n_column = -(-n // n_row)  # rows of one length: five are three and two, not four and one
    figure, axes = plt.subplots(
        n_row,
        n_column,
        figsize=(width * n_column + 0.3, height * n_row + 0.4),
        layout="constrained",
        squeeze=False,
        **shared,
    )
    # pyplot must not keep it: a notebook would show it twice, a loop would fill the memory
    plt.close(figure)
    for ax in axes.ravel()[n:]:
        figure.delaxes(ax)
    for ax in axes.ravel()[max(n - n_column, 0) : n]:  # the lowest of each column
        ax.xaxis.set_tick_params(labelbottom=True)
    return figure, list(axes.ravel()[:n])


def left_labels(axes: list[Any], text: str) -> None:
    """Label the vertical axis of the first panel of each row."""
    for ax in axes:
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(text)


def legend(figure: Figure, axes: list[Any], *, n_column: int = 4) -> None:
    """One legend for all panels, under them, no wider than the figure."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    for columns in range(min(len(found), n_column), 0, -1):
        drawn = figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=columns,
            borderaxespad=0.1,
        )
        if columns == 1 or drawn.get_window_extent().width <= figure.bbox.width:
            return
        drawn.remove()


def apart(pressures: Any, *, ratio: float = 1.12) -> list[float]:
    """Those levels whose labels do not overlap on a logarithmic axis, from the ground up.

    Examples
    --------
    >>> apart([100, 200, 850, 925])
    [925.0, 200.0, 100.0]
    """
    kept: list[float] = []
    for p in sorted(map(float, pressures), reverse=True):
        if not kept or kept[-1] / p > ratio:
            kept.append(p)
    return kept
