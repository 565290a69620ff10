"""Scorecards: ratios of scores to those of a reference, variables by levels, in cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem
from xdiffda.plot.channels import Channel, choose_channels, every_channel
from xdiffda.plot.styles import diverging, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scorecard(
    scores: Mapping[str, xr.Dataset],
    *,
    reference: str,
    score: str = "rmse",
    channels: Sequence[str] | None = None,
    limit: float = 2.0,
) -> Figure:
    """Draw the ratio of a score to that of a reference: blue is better, vermilion worse.

    Parameters
    ----------
    scores
        Method -> result of `xdiffda.verify.verify`. With a dimension ``lead_time``, there is
        one block of columns for each method; without, one column.
    reference
        The method that the others are divided by.
    score
        A score that is better the smaller it is: ``rmse``, ``crps``.
    channels
        Rows, such as ``temperature@850``; by default all that the methods share.
    limit
        Ratio at which colours end; 1 / limit on the other side.

    Returns
    -------
    matplotlib.figure.Figure
        Ratios are written in the cells; the scale of colours is logarithmic.

    Raises
    ------
    InputError
        If the reference, the score or a channel is missing, or nothing is left to compare.

    Examples
    --------
    >>> def of(rmse):
    ...     return xr.Dataset({"2m_temperature": ("score", [rmse])}, {"score": ["rmse"]})
    >>> figure = scorecard({"background": of(2.0), "analysis": of(1.0)}, reference="background")
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['0.50']
    """
    _check(scores, reference, score, limit)
    picked = {k: ds.sel(score=score, drop=True) for k, ds in scores.items()}
    base, others = picked[reference], {k: ds for k, ds in picked.items() if k != reference}
    wanted = channels
    if wanted is None:
        shared = [
            c for c in every_channel(base) if all(c in every_channel(d) for d in others.values())
        ]
        wanted = [c.variable if c.level is None else f"{c.variable}@{c.level:g}" for c in shared]
    rows = choose_channels(picked, wanted, what="scorecard")
    blocks = {k: _ratios(ds, base, rows) for k, ds in others.items()}
    heads = {k: _lead_times(ds) for k, ds in others.items()}
    if all(len(h) == 1 for h in heads.values()):  # one column each: one block of them
        heads = {"": list(blocks)}
        blocks = {"": np.concatenate(list(blocks.values()), axis=1)}
    title = f"{score.upper() if len(score) < 5 else score} / that of {reference}"
    with style():
        return _draw(rows, blocks, heads, title, limit)


def _check(scores: Mapping[str, xr.Dataset], reference: str, score: str, limit: float) -> None:
    problems = []
    if reference not in scores or len(scores) < 2:
        problems.append(
            Problem(
                f"reference {reference!r} and {', '.join(scores)}",
                "the reference and at least one other method",
                'scorecard({"background": background, **scores}, reference="background")',
            )
        )
    lacking = [k for k, ds in scores.items() if score not in np.atleast_1d(ds["score"].values)]
    if lacking:
        problems.append(
            Problem(f"no {score} of {', '.join(lacking)}", "a score that all have", 'score="rmse"')
        )
    if not limit > 1:
        problems.append(Problem(f"limit={limit}", "a ratio above 1", "limit=2.0"))
    if problems:
        raise InputError(problems, what="scorecard")


def _ratios(
    ds: xr.Dataset, base: xr.Dataset, rows: Sequence[Channel]
) -> Float[np.ndarray, "row column"]:
    out = []
    for channel in rows:
        ratio = (channel.of(ds) / channel.of(base)).values
        out.append(np.atleast_1d(ratio.astype(float)))
    return np.stack(out)


def _lead_times(ds: xr.Dataset) -> list[str]:
    if "lead_time" not in ds.dims:
        return [""]
    lead = ds["lead_time"].values
    hours = lead / np.timedelta64(1, "h") if lead.dtype.kind == "m" else lead.astype(float)
    return [f"{h:g}" for h in hours]


def _draw(
    rows: Sequence[Channel],
    blocks: Mapping[str, np.ndarray],
    heads: Mapping[str, Sequence[str]],
    title: str,
    limit: float,
) -> Figure:
    import matplotlib.pyplot as plt

    columns = [values.shape[1] for values in blocks.values()]
    by_lead = "" not in blocks
    words = max(len(h) for head in heads.values() for h in head)
    wide = 0.42 if by_lead else max(0.5, min(0.085 * words, 1.1))
    size = (1.3 + wide * sum(columns) + 0.3 * len(blocks), 1.1 + 0.21 * len(rows) + 0.5)
    figure, axes = plt.subplots(
        1,
        len(blocks),
        figsize=(max(size[0], 3.2), size[1]),
        squeeze=False,
        sharey=True,
        width_ratios=columns,
        layout="constrained",
    )
    plt.close(figure)
    image = None
    for ax, (method, values) in zip(axes[0], blocks.items(), strict=True):
        image = _cells(ax, values, limit)
        ax.set_xticks(range(values.shape[1]), heads[method])
        ax.set_title(method)
        if by_lead:
            ax.set_xlabel("lead time (h)")
        elif 0.068 * words > wide:  # at 8 points; else they fit side by side
            ax.tick_params(axis="x", labelrotation=30)
            plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
        _group_rows(ax, rows)
    axes[0, 0].set_yticks(range(len(rows)), [c.short for c in rows])
    if any(c.level is not None for c in rows):
        axes[0, 0].set_ylabel("variable, level (hPa)")
    bar = figure.colorbar(
        image,
        ax=list(axes[0]),
        orientation="horizontal",
        shrink=min(1.0, 3.0 / size[0]),
        aspect=30,
        pad=0.02,
        extend="both",
    )
    ticks = np.array([1 / limit, limit**-0.5, 1, limit**0.5, limit])
    bar.set_ticks(np.log(ticks), labels=[f"{t:.2g}" for t in ticks])
    bar.ax.grid(visible=False)
    bar.set_label(title)
    return figure


def _cells(ax: Any, values: Float[np.ndarray, "row column"], limit: float) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = np.log(np.where(values > 0, values, np.nan))
    end = np.log(limit)
    cmap = diverging().with_extremes(bad="0.88")
    image = ax.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5,
        np.arange(values.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(colour),
        cmap=cmap,
        vmin=-end,
        vmax=end,
        edgecolors="white",
        linewidth=0.8,
    )
    for (i, j), value in np.ndenumerate(values):
        text = f"{value:.2f}" if value < 10 else f"{value:.0f}" if np.isfinite(value) else "–"
        dark = np.isfinite(colour[i, j]) and abs(colour[i, j]) > 0.75 * end
        ax.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "0.1")
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _group_rows(ax: Any, rows: Sequence[Channel]) -> None:
    """A line between one variable and the next."""
    for i, (above, below) in enumerate(itertools.pairwise(rows)):
        if above.variable != below.variable:
            ax.axhline(i + 0.5, color="0.25", linewidth=0.8)
