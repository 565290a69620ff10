"""Histograms: ranks of the truth or of observations, and innovations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.plot.channels import Channel, choose_channels, labelled
from xdiffda.plot.styles import left_labels, legend, lines, panels, style
from xdiffda.state.variables import VARIABLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_LIMIT = 5.0


def rank_histogram(
    counts: xr.Dataset | Mapping[str, xr.Dataset], *, channels: Sequence[str] | None = None
) -> Figure:
    """Draw rank histograms with the range that chance explains.

    Parameters
    ----------
    counts
        Result of `xdiffda.verify.rank_histogram`, against the truth or observations; or
        label -> result, for several ensembles.
    channels
        Such as ``temperature@850``; headline channels if not given. Of ranks of
        observations, all groups are drawn.

    Returns
    -------
    matplotlib.figure.Figure
        Frequencies relative to a flat histogram. Grey: 95 % of the bars of a reliable
        ensemble lie there, if counts are independent. Under the title, chi-square with its
        p-value and the parts for slope and U (positive) or dome (negative).

    Raises
    ------
    InputError
        If a channel is missing.

    Examples
    --------
    >>> counts = xr.Dataset({"2m_temperature": ("rank", [30.0, 10.0, 10.0, 30.0])},
    ...                     {"rank": [1, 2, 3, 4]})
    >>> rank_histogram(counts).axes[0].get_title().splitlines()[0]
    '2 m temperature'
    """
    given = labelled(
        counts,
        along=("rank",),
        what="rank_histogram",
        made="xdiffda.verify.rank_histogram(analysis, truth=truth)",
    )
    drawn = _ranks(given, channels)
    with style():
        figure, axes = panels(len(drawn), height=2.1, sharex=True)
        for ax, (title, bars) in zip(axes, drawn.items(), strict=True):
            _draw_ranks(ax, title, bars)
        left_labels(axes, "frequency / flat")
        legend(figure, axes)
    return figure


def _ranks(
    results: Mapping[str, xr.Dataset], channels: Sequence[str] | None
) -> dict[str, dict[str, xr.DataArray]]:
    """Panel title -> label -> counts on ``rank``."""
    if all("count" in ds for ds in results.values()):
        by_group: dict[str, dict[str, xr.DataArray]] = {}
        for label, ds in results.items():
            (dim,) = (d for d in ds["count"].dims if d != "rank")
            for i in range(ds.sizes[dim]):
                one = ds["count"].isel({dim: i})
                words = [c.item() for k, c in one.coords.items() if c.ndim == 0 and k != "units"]
                by_group.setdefault(", ".join(map(_word, words)), {})[label] = one
        return by_group
    chosen = choose_channels(results, channels, what="rank_histogram")
    return {c.title: {label: c.of(ds) for label, ds in results.items()} for c in chosen}


def _word(value: Any) -> str:
    if isinstance(value, float):
        return "surface" if np.isnan(value) else f"{value:g} hPa"
    known = VARIABLES.get(str(value))
    return known.long_name if known else str(value)


def _draw_ranks(ax: Any, title: str, bars: Mapping[str, xr.DataArray]) -> None:
    from xdiffda.verify import flatness

    width, look = 0.86 / len(bars), lines(bars)
    for number, (label, counts) in enumerate(bars.items()):
        values = counts.values.astype(float)
        n, k = values.sum(), values.size
        if number == 0:
            margin = 1.96 * np.sqrt((k - 1) / max(n, 1e-12))
            ax.axhspan(max(1 - margin, 0), 1 + margin, color="0.85", linewidth=0)
            ax.axhline(1, color="0.3", linewidth=0.8, linestyle="--")
        at = np.arange(1, k + 1) + (number - (len(bars) - 1) / 2) * width
        colour = look[label]["color"]
        ax.bar(at, values / n * k, width, color=colour, label=label or None)
        test = flatness(xr.Dataset({"count": ("rank", values)}))["count"]
        chi, p, slope, curve = (
            float(test.sel(statistic=s))
            for s in ("chi_square", "chi_square_p", "slope", "curvature")
        )
        chance = "p < 0.001" if p < 1e-3 else f"p = {p:.2g}"
        ax.annotate(
            f"χ² {chi:.1f}, {chance}; slope {slope:+.1f}, U {curve:+.1f}",
            (0.5, 1.0),
            (0, 3 + 10 * (len(bars) - 1 - number)),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=colour if len(bars) > 1 else "0.2",
        )
    ax.set_title(title, pad=6 + 10 * len(bars))
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("rank")
    step = max(1, round(k / 8))
    ax.set_xticks(np.arange(1, k + 1, step))


def innovation_histogram(
    seen: xr.Dataset | Mapping[str, xr.Dataset], *, variables: Sequence[str] | None = None
) -> Figure:
    """Draw innovations, or residuals, in units of the observation error.

    Parameters
    ----------
    seen
        Result of `xdiffda.verify.equivalents`; or label -> result, such as the background's
        and the analysis'.
    variables
        Which observed variables, canonical names; all by default.

    Returns
    -------
    matplotlib.figure.Figure
        Densities of (y - H x) / error_std, what lies beyond 5 in the outermost bins; dashed,
        the density if the state had no error.

    Examples
    --------
    >>> seen = xr.Dataset({"value": ("obs", [1.0, 2.0]), "error_std": ("obs", [1.0, 1.0]),
    ...                    "equivalent": ("obs", [0.0, 0.0])},
    ...                   {"variable": ("obs", ["2m_temperature"] * 2)})
    >>> innovation_histogram(seen).axes[0].get_title()
    '2 m temperature (2)'
    """
    results = labelled(
        seen,
        along=("obs",),
        what="innovation_histogram",
        made="xdiffda.verify.equivalents(analysis, obs)",
    )
    first = next(iter(results.values()))
    names = list(variables or dict.fromkeys(first["variable"].values.tolist()))
    edges = np.linspace(-_LIMIT, _LIMIT, 41)
    with style():
        figure, axes = panels(len(names), height=2.0, sharex=True)
        look = lines(results)
        for ax, name in zip(axes, names, strict=True):
            for number, (label, ds) in enumerate(results.items()):
                mine = ds.isel(obs=np.flatnonzero(ds["variable"].values == name))
                field = mine["equivalent"]
                state = field.mean("member") if "member" in field.dims else field
                d = ((mine["value"] - state) / mine["error_std"]).values
                density, _ = np.histogram(np.clip(d, -_LIMIT, _LIMIT), edges, density=True)
                text = f"mean {d.mean():+.2f}, std {d.std():.2f}"
                colour = look[label]["color"]
                ax.stairs(density, edges, color=colour, linewidth=1.3, label=label or None)
                ax.text(
                    0.98,
                    0.97 - 0.1 * number,
                    text,
                    transform=ax.transAxes,
                    ha="right",
                    va="top",
                    fontsize=7.5,
                    color=colour,
                )
            x = np.linspace(-_LIMIT, _LIMIT, 201)
            gauss = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
            ax.plot(
                x, gauss, color="0.4", linewidth=0.9, linestyle="--", label="state without error"
            )
            n = int((first["variable"].values == name).sum())
            ax.set_title(f"{Channel(name).title} ({n:,})")
            ax.set(xlim=(-_LIMIT, _LIMIT), xlabel="(y - H x) / error_std")
            ax.set_ylim(0, ax.get_ylim()[1] * 1.35)
        left_labels(axes, "density")
        legend(figure, axes)
    return figure
