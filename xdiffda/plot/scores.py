"""Curves of scores: error against spread, reliability, profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.plot.channels import Channel, choose_channels, in_display_units, labelled
from xdiffda.plot.styles import apart, left_labels, legend, lines, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spread_error(
    results: xr.Dataset | Mapping[str, xr.Dataset], *, channels: Sequence[str] | None = None
) -> Figure:
    """Draw error against spread, bin by bin; reliable ensembles lie on the diagonal.

    Parameters
    ----------
    results
        Result of `xdiffda.verify.spread_error`, or label -> result.
    channels
        Such as ``temperature@850``; headline channels if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If a channel is missing.

    Examples
    --------
    >>> found = xr.Dataset({"2m_temperature": (("quantity", "bin"), [[1.0, 2.0], [1.1, 2.3]],
    ...                                        {"units": "K"})},
    ...                    {"quantity": ["spread", "error"], "bin": [1, 2]})
    >>> spread_error(found).axes[0].get_xlabel()
    'spread (K)'
    """
    given = labelled(
        results,
        along=("bin",),
        what="spread_error",
        made="xdiffda.verify.spread_error(analysis, truth)",
    )
    chosen = choose_channels(given, channels, what="spread_error")
    with style():
        figure, axes = panels(len(chosen), width=2.5, height=2.6)
        look = lines(given)
        for ax, channel in zip(axes, chosen, strict=True):
            largest = 0.0
            for label, ds in given.items():
                field, units = in_display_units(channel.of(ds))
                spread, error = (field.sel(quantity=q).values for q in ("spread", "error"))
                largest = max(largest, np.nanmax(spread), np.nanmax(error))
                ax.plot(spread, error, label=label or None, **look[label])
            top = 1.06 * largest
            ax.plot([0, top], [0, top], color="0.4", linewidth=0.9, linestyle="--", zorder=1)
            ax.set(xlim=(0, top), ylim=(0, top), box_aspect=1, title=channel.title)
            ax.set(xlabel=f"spread ({units})", ylabel=f"error ({units})")
            ax.locator_params(nbins=5)
        legend(figure, axes)
    return figure


def reliability(
    results: xr.Dataset | Mapping[str, xr.Dataset], *, channels: Sequence[str] | None = None
) -> Figure:
    """Draw reliability diagrams, with how often each probability was forecast below them.

    Parameters
    ----------
    results
        Result of `xdiffda.verify.reliability`, or label -> result.
    channels
        Such as ``temperature@850``; by default all, at most a dozen.

    Returns
    -------
    matplotlib.figure.Figure
        The fair Brier score stands in the panels.

    Raises
    ------
    InputError
        If a channel is missing.
    """
    given = labelled(results)
    plain = {
        label: ds[[n for n in ds.data_vars if f"{n}_share" in ds]] for label, ds in given.items()
    }
    chosen = choose_channels(plain, channels, what="reliability")
    with style():
        figure, axes = panels(len(chosen), width=2.6, height=2.9)
        look = lines(given)
        for ax, channel in zip(axes, chosen, strict=True):
            below = ax.inset_axes((0, -0.42, 1, 0.22), sharex=ax)
            for number, (label, ds) in enumerate(given.items()):
                frequency = channel.of(ds)
                share, brier = _part(ds, channel, "share"), _part(ds, channel, "brier")
                name = f"{label}: " if label else ""
                score = f"{name}Brier {float(brier.sel(term='fair')):.3f}"
                ax.plot(frequency["probability"], frequency, **look[label], label=label or None)
                ax.text(
                    0.03,
                    0.97 - 0.08 * number,
                    score,
                    transform=ax.transAxes,
                    fontsize=7.5,
                    va="top",
                    color=look[label]["color"],
                )
                below.plot(share["probability"], share, **look[label])
            ax.plot([0, 1], [0, 1], color="0.4", linewidth=0.9, linestyle="--", zorder=1)
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            limit, units = in_display_units(_part(ds, channel, "threshold"))
            ax.set_title(f"{channel.title}\nat least {float(limit):.6g} {units}")
            ax.set_ylabel("observed frequency")
            ax.tick_params(labelbottom=False)
            below.set_ylim(0, None)
            below.set(xlabel="forecast probability", ylabel="share")
        legend(figure, axes)
    return figure


def _part(ds: xr.Dataset, channel: Channel, part: str) -> xr.DataArray:
    field = ds[f"{channel.variable}_{part}"]
    return field.sel(level=channel.level) if "level" in field.dims else field


def profiles(
    scores: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    score: str = "rmse",
    variables: Sequence[str] | None = None,
) -> Figure:
    """Draw a score against pressure, one panel for each variable on levels.

    Parameters
    ----------
    scores
        Result of `xdiffda.verify.verify`, or method -> result.
    score
        Which score to show: ``rmse``, ``crps``, ``bias``, ``spread_skill``, ...
    variables
        Canonical names; by default all that are on levels.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If no variable is on levels, or one or the score is missing.

    Examples
    --------
    >>> found = xr.Dataset({"temperature": (("score", "level"), [[1.0, 2.0]], {"units": "K"})},
    ...                    {"score": ["rmse"], "level": [500, 850]})
    >>> profiles(found).axes[0].get_xlabel()
    'RMSE (K)'
    """
    given = labelled(
        scores, along=("score",), what="profiles", made="xdiffda.verify.verify(analysis, truth)"
    )
    first = next(iter(given.values()))
    on_levels = [str(n) for n, field in first.data_vars.items() if "level" in field.dims]
    names = list(variables or on_levels)
    _check_profiles(given, names, on_levels, score)
    with style():
        figure, axes = panels(len(names), width=2.3, height=3.2, n_column=4, sharey=True)
        look = lines(given)
        for ax, name in zip(axes, names, strict=True):
            for label, ds in given.items():
                field, units = in_display_units(_score(ds[name], score))
                ax.plot(field, field["level"], label=label or None, **look[label])
            if score in ("bias", "spread_skill"):
                ax.axvline(float(score == "spread_skill"), color="0.4", linewidth=0.9, zorder=1)
            else:
                ax.set_xlim(0, None)
            text = score.upper() if score in ("rmse", "crps") else score.replace("_", " / ")
            ax.set_xlabel(f"{text} ({units})" if units else text)
            ax.set_title(Channel(name).title)
            ax.locator_params(axis="x", nbins=4)
        _pressure_axis(axes, first["level"].values)
        left_labels(axes, "pressure (hPa)")
        legend(figure, axes)
    return figure


def _score(field: xr.DataArray, score: str) -> xr.DataArray:
    """One score; ratios have no units, whatever those of their variable."""
    out = field.sel(score=score)
    if score in ("spread_skill", "rmse_reduction"):
        out = out.assign_attrs(units="")
    return out


def _check_profiles(
    given: Mapping[str, xr.Dataset], names: list[str], on_levels: list[str], score: str
) -> None:
    have = set.intersection(*(set(np.atleast_1d(ds["score"].values)) for ds in given.values()))
    missing = [n for n in names if n not in on_levels]
    problems = []
    if missing or not names:
        problems.append(
            Problem(
                f"{', '.join(missing) or 'no variable'} on levels",
                f"some of {', '.join(on_levels) or 'those of a state with levels'}",
                'variables=["temperature"]',
            )
        )
    if score not in have:
        known = ", ".join(sorted(map(str, have)))
        problems.append(Problem(f"score {score!r}", f"one of {known}", 'score="rmse"'))
    if problems:
        raise InputError(problems, what="profiles")


def _pressure_axis(axes: list[Any], level: np.ndarray) -> None:
    """Logarithmic, as height is, from the ground up, marked at the levels."""
    from matplotlib.ticker import NullLocator

    for ax in axes:
        ax.set_yscale("log")
        ax.set_ylim(level.max() * 1.05, level.min() / 1.05)
        shown = apart(level)
        ax.set_yticks(level, [f"{v:g}" if v in shown else "" for v in level])
        ax.yaxis.set_minor_locator(NullLocator())
