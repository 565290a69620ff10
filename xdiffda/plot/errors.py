"""Errors of several methods: against the number of columns, and on maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.plot.channels import choose_channels, in_display_units
from xdiffda.plot.lead_time import _column_ticks, hours
from xdiffda.plot.maps import _draw_row, _lay_out, _projection
from xdiffda.plot.panels import Slice, build_panels, describe, dots_of
from xdiffda.plot.styles import legend, lines, panels, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


FORECAST_DASHES = (":", "--", "-.")


def error_against_columns(
    scores: Mapping[str, Mapping[int, xr.Dataset]],
    *,
    background: xr.Dataset | None = None,
    forecasts: xr.Dataset | None = None,
    lead_times: Sequence[float] = (6, 24, 48),
    score: str = "rmse",
    channels: Sequence[str] | None = None,
) -> Figure:
    """Draw a score of analyses against the number of observed columns.

    Parameters
    ----------
    scores
        Method -> number of columns -> result of `xdiffda.verify.verify`.
    background
        Scores of the background, a line across.
    forecasts
        Scores of forecasts from the truth, with ``lead_time``: lines across at
        ``lead_times`` (hours) say how old a forecast each analysis is as good as.
    lead_times
        Hours; those that ``forecasts`` does not have are left out.
    score
        ``rmse``, ``crps``, ...
    channels
        Such as ``temperature@850``; headline channels if not given.

    Returns
    -------
    matplotlib.figure.Figure
        Cut off at twice the background: what is worse than that need not be read off.

    Raises
    ------
    InputError
        If there are no scores, or a channel or the score is missing.

    Examples
    --------
    >>> def of(rmse):
    ...     return xr.Dataset({"2m_temperature": ("score", [rmse], {"units": "K"})},
    ...                       {"score": ["rmse"]})
    >>> figure = error_against_columns({"guided": {45: of(1.2), 416: of(0.6)}},
    ...                                background=of(1.5))
    >>> [len(line.get_xdata()) for line in figure.axes[0].lines]
    [2, 2]
    """
    every = {f"{m}, {n} columns": ds for m, of in scores.items() for n, ds in of.items()}
    lacking = [k for k, ds in every.items() if score not in np.atleast_1d(ds["score"].values)]
    if lacking or not every:
        raise InputError(
            [
                Problem(
                    f"no {score} of {', '.join(lacking) or 'anything'}",
                    "scores of analyses",
                    'score="rmse"',
                )
            ],
            what="error_against_columns",
        )
    chosen = choose_channels(every, channels, what="error_against_columns")
    with style():
        figure, axes = panels(len(chosen), height=2.3, sharex=True)
        look = lines(scores)
        for ax, channel in zip(axes, chosen, strict=True):
            units, level = "", 0.0
            for method, of in scores.items():
                fields = [in_display_units(channel.of(of[n]).sel(score=score)) for n in sorted(of)]
                units = fields[0][1]
                ax.plot(sorted(of), [float(f) for f, _ in fields], label=method, **look[method])
            if background is not None:
                level = float(in_display_units(channel.of(background).sel(score=score))[0])
                ax.axhline(level, color="0.2", linewidth=1.1, label="background", zorder=1)
            if forecasts is not None:
                curve, _ = in_display_units(channel.of(forecasts).sel(score=score))
                _forecast_lines(ax, curve.values, hours(forecasts), lead_times)
            text = score.upper() if len(score) < 5 else score
            ax.set(
                xscale="log",
                title=channel.title,
                xlabel="observed columns",
                ylabel=f"{text} ({units})",
            )
            ax.set_ylim(0, min(ax.get_ylim()[1], 2 * level) if level else None)
            _column_ticks(ax, sorted({n for of in scores.values() for n in of}))
        legend(figure, axes)
    return figure


def _forecast_lines(ax: Any, curve: np.ndarray, leads: np.ndarray, wanted: Sequence[float]) -> None:
    known = [h for h in wanted if h in leads]
    for hour, dashes in zip(known, FORECAST_DASHES * len(known), strict=False):
        value = float(curve[np.flatnonzero(leads == hour)[0]])
        ax.axhline(
            value,
            color="0.55",
            linewidth=1.0,
            linestyle=dashes,
            zorder=0,
            label=f"{hour:g} h forecast from the truth",
        )


def error_maps(
    states: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    variable: str,
    *,
    level: float | None = None,
    time: Any = None,
    obs: xr.Dataset | pd.DataFrame | None = None,
    projection: str = "robinson",
) -> Figure:
    """Draw maps of the errors of several states, all on one scale.

    Parameters
    ----------
    states
        Label -> analysis, background, ...; of an ensemble, the error of its mean.
    truth
        What they are compared with.
    variable, level, time, obs, projection
        As in `xdiffda.plot.map_panels`.

    Returns
    -------
    matplotlib.figure.Figure
        Titles tell the root mean square over the globe.

    Raises
    ------
    InputError
        If there are no states, or something asked for is missing.

    Examples
    --------
    >>> grid = {"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    >>> state = xr.Dataset({"2m_temperature": (("lat", "lon"), np.ones((3, 4)))}, grid)
    >>> figure = error_maps({"background": state + 2, "analysis": state + 1}, state, "2t")
    >>> [ax.get_title() for ax in figure.axes][:2]
    ['background, rms 2 K', 'analysis, rms 1 K']
    """
    if not states:
        repair = 'error_maps({"analysis": analysis}, truth, "2m_temperature")'
        raise InputError([Problem("no states", "one or more", repair)], what="error_maps")
    drawn, choice = [], Slice(variable, level, time)
    for label, ds in states.items():
        found, (panel,) = build_panels(
            ds, Slice(variable, level, time), panels=("error",), truth=truth, background=None
        )
        choice = found
        drawn.append(dataclasses.replace(panel, title=label))
    dots = dots_of(obs, choice) if obs is not None else None
    on = _projection(projection, 0.0)
    with style(axes_grid=False):
        figure, rows = _lay_out(drawn, on)
        for axes, row in rows:
            _draw_row(figure, axes, row, drawn, choice, dots, on)
        figure.suptitle(f"error of {describe(choice)}")
    return figure
