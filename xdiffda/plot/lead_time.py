"""Curves of forecasts: scores against lead time, lead-time loss against number of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.plot.channels import choose_channels, in_display_units, labelled
from xdiffda.plot.styles import legend, lines, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ACROSS = ("--", ":")


def lead_time_curves(
    scores: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    score: str = "rmse",
    channels: Sequence[str] | None = None,
    levels: Mapping[str, xr.Dataset] | None = None,
) -> Figure:
    """Draw a score against lead time.

    Parameters
    ----------
    scores
        Result of `xdiffda.verify.verify` of forecasts, or label -> result.
    score
        ``rmse``, ``crps``, ...
    channels
        Such as ``temperature@850``; headline channels if not given.
    levels
        Label -> scores that no lead time belongs to, drawn as lines across: where errors
        saturate, for example.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If a result has no lead time or score, or a channel is missing.
    """
    given = labelled(
        scores, what="lead_time_curves", made='verify(analysis.diffda.forecast("48h"), truth)'
    )
    lacking = [
        label or "the scores"
        for label, ds in given.items()
        if "lead_time" not in ds.dims or score not in np.atleast_1d(ds["score"].values)
    ]
    if lacking:
        raise InputError(
            [
                Problem(
                    f"no lead_time or no {score} in {', '.join(lacking)}",
                    "scores of forecasts",
                    'verify(analysis.diffda.forecast("48h"), truth)',
                )
            ],
            what="lead_time_curves",
        )
    chosen = choose_channels(given, channels, what="lead_time_curves")
    with style():
        figure, axes = panels(len(chosen), height=2.2, sharex=True)
        look = lines(given)
        for ax, channel in zip(axes, chosen, strict=True):
            for label, ds in given.items():
                field, units = in_display_units(channel.of(ds).sel(score=score))
                choice = look[label] | {"markevery": max(1, ds.sizes["lead_time"] // 8)}
                ax.plot(hours(ds), field, label=label or None, **choice)
            for number, (label, ds) in enumerate((levels or {}).items()):
                field, _ = in_display_units(channel.of(ds).sel(score=score))
                ax.axhline(
                    float(field),
                    label=label,
                    color="0.45",
                    linewidth=1.0,
                    zorder=1,
                    linestyle=ACROSS[number % len(ACROSS)],
                )
            text = score.upper() if len(score) < 5 else score
            ax.set(title=channel.title, xlabel="lead time (h)", ylabel=f"{text} ({units})")
            ax.set_xlim(0, None)
            if score != "bias":
                ax.set_ylim(0, None)
            _six_hourly(ax)
        legend(figure, axes)
    return figure


def lead_time_loss(
    losses: Mapping[str, Mapping[int, xr.Dataset]],
    *,
    lead_time: float = 48.0,
    channels: Sequence[str] | None = None,
) -> Figure:
    """Draw the lead-time loss against the number of observed columns.

    Parameters
    ----------
    losses
        Method -> number of columns -> result of `xdiffda.verify.lead_time_loss`.
    lead_time
        Of the forecast whose loss is shown, hours.
    channels
        Such as ``geopotential@500``; headline channels if not given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If a result lacks the lead time or a channel.

    Examples
    --------
    >>> hours = np.array([24, 48]) * np.timedelta64(1, "h")
    >>> def of(loss):
    ...     return xr.Dataset({"2m_temperature": ("lead_time", [loss, loss])}, {"lead_time": hours})
    >>> figure = lead_time_loss({"guided": {45: of(30.0), 416: of(12.0)}})
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [30.0, 12.0]
    """
    every = {f"{m}, {n} columns": ds for m, of in losses.items() for n, ds in of.items()}
    lacking = [name for name, ds in every.items() if lead_time not in hours(ds)]
    if lacking or not every:
        raise InputError(
            [
                Problem(
                    f"no lead time of {lead_time:g} h in {', '.join(lacking) or 'no results'}",
                    "losses at this lead time",
                    "lead_time=48.0",
                )
            ],
            what="lead_time_loss",
        )
    chosen = choose_channels(every, channels, what="lead_time_loss")
    with style():
        figure, axes = panels(len(chosen), height=2.2, sharex=True)
        look = lines(losses)
        for ax, channel in zip(axes, chosen, strict=True):
            for method, of in losses.items():
                n_columns = sorted(of)
                values = [
                    float(channel.of(of[n])[np.flatnonzero(hours(of[n]) == lead_time)[0]])
                    for n in n_columns
                ]
                ax.plot(n_columns, values, label=method or None, **look[method])
            ax.axhline(0, color="0.4", linewidth=0.9, zorder=1)
            ax.set(
                xscale="log",
                title=channel.title,
                xlabel="observed columns",
                ylabel=f"loss at {lead_time:g} h (h)",
            )
            ax.margins(x=0.08)
            _column_ticks(ax, sorted({n for of in losses.values() for n in of}))
        legend(figure, axes)
    return figure


def hours(ds: xr.Dataset) -> np.ndarray:
    """Lead times in hours."""
    lead = ds["lead_time"].values
    return lead / np.timedelta64(1, "h") if lead.dtype.kind == "m" else lead.astype(float)


def _six_hourly(ax) -> None:
    """Ticks at whole days or parts of them, not at round decimals."""
    from matplotlib.ticker import MultipleLocator

    end = ax.get_xlim()[1]
    step = next((s for s in (6, 12, 24, 48, 96) if end / s <= 6), 120)
    ax.xaxis.set_major_locator(MultipleLocator(step))


def _column_ticks(ax, numbers: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    ax.set_xticks(numbers, [f"{n:,}" for n in numbers])
    ax.xaxis.set_minor_locator(NullLocator())
