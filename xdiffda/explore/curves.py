"""Profile and plume of a grid point in bokeh, redrawn in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    ColumnDataSource,
    DatetimeTickFormatter,
    FixedTicker,
    HoverTool,
    Range1d,
    Whisker,
)
from bokeh.plotting import figure

from xdiffda.explore.figures import plain
from xdiffda.explore.points import Curves
from xdiffda.plot.styles import BLUE, GREEN, VERMILION, apart

COLOURS = {"analysis": BLUE, "background": VERMILION, "truth": "#000000", "observed": GREEN}
DASHES = {"analysis": "solid", "background": "dashed", "truth": "dotted"}
_CLOCK = DatetimeTickFormatter(
    hours="%H:%M", days="%d %b", months="%b %Y", hourmin="%H:%M", context=None
)


class CurveFigure:
    """Members, mean, background, truth and observations along one axis at one grid point.

    Parameters
    ----------
    upright
        Whether the axis is pressure, upwards; otherwise it is time, rightwards.
    width, height
        Pixels.
    on_tap
        Called with the position along the axis where it was clicked: hPa, or milliseconds
        since 1970.
    """

    def __init__(self, on_tap: Any, *, upright: bool, width: int, height: int) -> None:
        self.upright = upright
        more: dict[str, Any] = {} if upright else {"x_axis_type": "datetime"}
        plot: Any = figure(
            width=width, height=height, sizing_mode="stretch_width", toolbar_location=None,
            tools="", x_range=Range1d(0, 1), y_range=Range1d(0, 1), title=" ",
            y_axis_type="log" if upright else "linear", **more,
        )  # fmt: skip
        self.figure = plot
        plain(plot)
        plot.grid.grid_line_color = "#e6e6e6"
        plot.min_border_right, plot.min_border_left = 12, 46
        self._axis = plot.yaxis[0] if upright else plot.xaxis[0]
        if upright:
            plot.yaxis.axis_label = "pressure (hPa)"
            # few and plain: geopotential has six digits, and the figure is narrow
            plot.xaxis.ticker = BasicTicker(desired_num_ticks=4, num_minor_ticks=0)
            plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
        else:
            plot.xaxis.formatter = _CLOCK.clone()
        self.zero = ColumnDataSource({"x": [], "y": []})
        plot.line("x", "y", source=self.zero, line_color="#888888", line_width=1)
        self.here = ColumnDataSource({"x": [], "y": []})
        plot.line("x", "y", source=self.here, line_color="#dddddd", line_width=5, level="underlay")
        plot.on_event(Tap, lambda event: on_tap(event.y if upright else event.x))
        self.members = ColumnDataSource({"xs": [], "ys": []})
        plot.multi_line(
            "xs", "ys", source=self.members, line_color=BLUE, line_alpha=0.35, line_width=1
        )
        self.lines = {role: ColumnDataSource({"x": [], "y": [], "value": []}) for role in DASHES}
        self._draw_lines(plot)
        self.observed = ColumnDataSource({k: [] for k in ("x", "y", "low", "high", "value")})
        self._draw_observed(plot)

    def _draw_lines(self, plot: Any) -> None:
        for role in reversed(DASHES):
            line = plot.line(
                "x", "y", source=self.lines[role], line_color=COLOURS[role],
                line_dash=DASHES[role], line_width=2.4 if role == "analysis" else 1.8,
            )  # fmt: skip
            if role == "analysis":
                plot.add_tools(
                    HoverTool(renderers=[line], tooltips=[("mean", "@value")], visible=False,
                              mode="hline" if self.upright else "vline")
                )  # fmt: skip

    def _draw_observed(self, plot: Any) -> None:
        base = "y" if self.upright else "x"
        plot.add_layout(
            Whisker(
                source=self.observed, base=base, lower="low", upper="high", line_color=GREEN,
                dimension="width" if self.upright else "height", upper_head=None,
                lower_head=None, line_width=1.6,
            )
        )  # fmt: skip
        dot = plot.scatter(
            "x", "y", source=self.observed, size=7, fill_color=GREEN, line_color="white"
        )
        plot.add_tools(HoverTool(renderers=[dot], tooltips=[("observed", "@value")], visible=False))

    def draw(self, curves: Curves | None, title: str, *, here: Any = None) -> None:
        """Show the curves, with a mark at the chosen level or time; None hides the figure."""
        self.figure.visible = curves is not None
        if curves is None:
            return
        self.figure.title.text = title
        if curves.relative_to:
            self.figure.title.text += f" − {curves.relative_to}"
        values_axis = self.figure.xaxis[0] if self.upright else self.figure.yaxis[0]
        values_axis.axis_label = curves.units
        along, order = _numbers(curves.x), np.argsort(curves.x)
        along = along[order]
        rows = curves.members[:, order] if len(curves.members) > 1 else curves.members[:0]
        n = len(rows)
        self._set(self.members, "xs", "ys", list(rows), [along] * n)
        for role, source in self.lines.items():
            values = curves.mean if role == "analysis" else curves.others.get(role)
            values = np.zeros(0) if values is None else values[order]
            data = self._pair(values, along[: values.size])
            data["value"] = [f"{v:.4g} {curves.units}" for v in values]
            source.data = data
        self._draw_seen(curves)
        self._fit(curves, along)
        values_range = self.figure.x_range if self.upright else self.figure.y_range
        at = [] if here is None else _numbers(np.array([here, here]))
        ends = [] if here is None else [values_range.start, values_range.end]
        self.here.data = self._pair(ends, at)

    def _draw_seen(self, curves: Curves) -> None:
        """Observations with their errors."""
        seen = curves.observed
        source = self._pair(seen.value, _numbers(seen.x))
        error = np.nan_to_num(seen.error_std)
        source |= {
            "low": seen.value - error, "high": seen.value + error,
            "value": [f"{v:.4g} ± {e:.2g} {curves.units}"
                      for v, e in zip(seen.value, error, strict=True)],
        }  # fmt: skip
        self.observed.data = source

    def _pair(self, values: Any, along: Any) -> dict[str, Any]:
        return {"x": values, "y": along} if self.upright else {"x": along, "y": values}

    def _set(self, source: ColumnDataSource, x: str, y: str, values: Any, along: Any) -> None:
        source.data = {x: values, y: along} if self.upright else {x: along, y: values}

    def _fit(self, curves: Curves, along: np.ndarray) -> None:
        """Ranges that hold everything, pressure downwards, time to the right."""
        seen = curves.observed
        every = np.concatenate(
            [curves.members.ravel(), *curves.others.values(), seen.value - seen.error_std,
             seen.value + seen.error_std]
        )  # fmt: skip
        every = every[np.isfinite(every)]
        low, high = (every.min(), every.max()) if every.size else (0.0, 1.0)
        if curves.relative_to:
            high = max(abs(low), abs(high))
            low = -high
        margin = 0.06 * (high - low) or max(1e-3 * abs(high), 1e-9)
        values, other = self.figure.x_range, self.figure.y_range
        if not self.upright:
            values, other = other, values
        values.update(start=low - margin, end=high + margin)
        zero = [0, 0] if curves.relative_to else []
        ends = np.array([along.min(), along.max()])
        if self.upright:
            other.update(start=ends[1] * 1.06, end=ends[0] / 1.06)
            self._axis.ticker = FixedTicker(ticks=apart(along))
            self._axis.major_label_overrides = {float(v): f"{v:g}" for v in along}
        else:
            room = 0.02 * np.ptp(ends)
            other.update(start=ends[0] - room, end=ends[1] + room)
        line = [other.start, other.end] if zero else []
        self.zero.data = self._pair(zero, line)


def _numbers(x: np.ndarray) -> np.ndarray:
    """Times as milliseconds, as bokeh counts them; pressures as they are."""
    x = np.asarray(x)
    if x.dtype.kind == "M":
        return x.astype("datetime64[ms]").astype(np.int64).astype(float)
    if x.dtype.kind == "m":
        return x / np.timedelta64(1, "ms")
    return x.astype(float)
