"""The figures of an explorer in bokeh: a map that is repainted in place, profile and plume."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    ColorBar,
    ColumnDataSource,
    CustomJSHover,
    CustomJSTickFormatter,
    DatetimeTickFormatter,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Title,
    WheelZoomTool,
    Whisker,
)
from bokeh.plotting import figure
from jaxtyping import Float

from xdiffda.plot.coastline import coastline_lines
from xdiffda.plot.explore.frames import Frame
from xdiffda.plot.explore.points import Curves
from xdiffda.plot.panels import Scale
from xdiffda.plot.styles import BLUE, GREEN, VERMILION, apart

TEXT, FAINT = "#333333", "#666666"
_NORTH = """
const v = Math.abs(tick).toFixed(0)
return v + '°' + (tick > 0 ? 'N' : tick < 0 ? 'S' : '')
"""
_EAST = """
const t = ((tick + 180) % 360 + 360) % 360 - 180
const v = Math.abs(t).toFixed(0)
return v + '°' + (t > 0 && v != '180' ? 'E' : t < 0 && v != '180' ? 'W' : '')
"""
_PLACE = """
const {x, y} = special_vars
const t = ((x + 180) % 360 + 360) % 360 - 180
return Math.abs(y).toFixed(1) + '°' + (y < 0 ? 'S' : 'N') + '  ' +
    Math.abs(t).toFixed(1) + '°' + (t < 0 ? 'W' : 'E')
"""
_TIP = '<div style="font: 12px sans-serif; white-space: nowrap">{}</div>'


class Raster:
    """A field on a latitude-longitude grid as a picture of equal rows, west to east.

    A global grid begins at 180°W, and its first column is repeated behind the last, so that
    the map has no gap. Rows of unequal height (Gaussian grids) are drawn as several.
    """

    def __init__(self, lat: np.ndarray, lon: np.ndarray) -> None:
        step = np.diff(lon, append=lon[0] + 360)
        self.cyclic = lon.size > 2 and bool(np.allclose(step, step[0], rtol=0.01))
        if self.cyclic:
            west = (lon + 180) % 360 - 180
            self._columns = np.argsort(west)
            west = west[self._columns]
            self._columns = np.r_[self._columns[-1], self._columns, self._columns[0]]
            west = np.r_[west[-1] - 360, west, west[0] + 360]
            self.x_range = (-180.0, 180.0)
        else:  # begin behind the widest gap: a domain may lie across Greenwich
            first = (int(step.argmax()) + 1) % lon.size
            self._columns = np.roll(np.arange(lon.size), -first)
            west = np.unwrap(lon[self._columns], period=360)
            west = west - 360 * np.round((west.mean()) / 360)
        x_edges, y_edges = _edges(west), np.clip(_edges(lat), -90, 90)
        if not self.cyclic:
            self.x_range = (x_edges[0], x_edges[-1])
        self.y_range = (y_edges[0], y_edges[-1])
        self.x, self.dw = x_edges[0], x_edges[-1] - x_edges[0]
        self.y, self.dh = y_edges[0], y_edges[-1] - y_edges[0]
        heights = np.diff(y_edges)
        equal = np.allclose(heights, heights[0], rtol=1e-3)
        n = lat.size if equal else 4 * lat.size
        centre = self.y + (np.arange(n) + 0.5) * self.dh / n
        self._rows = np.clip(np.searchsorted(y_edges, centre) - 1, 0, lat.size - 1)

    def picture(self, values: Float[np.ndarray, "lat lon"]) -> Float[np.ndarray, "row column"]:
        """Values of the picture; float32, which is what the browser needs."""
        return np.asarray(values, np.float32)[self._rows][:, self._columns]

    def place(self, lon: np.ndarray) -> np.ndarray:
        """Longitudes in the picture's own range."""
        return (np.asarray(lon, float) - self.x_range[0]) % 360 + self.x_range[0]


def _edges(centre: np.ndarray) -> np.ndarray:
    if centre.size == 1:
        return np.array([centre[0] - 0.5, centre[0] + 0.5])
    middle = 0.5 * (centre[1:] + centre[:-1])
    return np.r_[2 * centre[0] - middle[0], middle, 2 * centre[-1] - middle[-1]]


class MapFigure:
    """A map whose picture, colours, dots and mark are changed in place.

    Parameters
    ----------
    lat, lon
        The grid, degrees, latitude ascending.
    on_tap
        Called with latitude and longitude of a click.
    """

    def __init__(self, lat: np.ndarray, lon: np.ndarray, on_tap: Any) -> None:
        self.raster = raster = Raster(lat, lon)
        wide = np.ptp(raster.x_range) / np.ptp(raster.y_range)
        width = 760
        self.figure: Any = figure(
            x_range=Range1d(*raster.x_range, bounds=raster.x_range),
            y_range=Range1d(*raster.y_range, bounds=raster.y_range),
            width=width,
            height=round(np.clip((width - 110) / wide, 220, 560)) + 62,
            tools="pan,box_zoom,wheel_zoom,reset,save",
            toolbar_location="above",
            toolbar_sticky=True,
            sizing_mode="scale_width",
            title=" ",
            min_border_left=46,
        )
        plain(self.figure)
        _degrees(self.figure, raster)
        self.figure.toolbar.active_scroll = self.figure.select_one(WheelZoomTool)
        self._add_picture()
        _draw_coastline(self.figure, raster)
        self._add_dots()
        self._add_mark()
        self._add_colour_bar()
        self.figure.on_event(Tap, lambda event: on_tap(event.y, event.x))

    def _add_picture(self) -> None:
        self.mapper = LinearColorMapper(palette=["#ffffff"], nan_color="#dddddd")
        self.image = ColumnDataSource({"image": []})
        raster = self.raster
        picture = self.figure.image(
            image="image",
            source=self.image,
            color_mapper=self.mapper,
            x=raster.x,
            y=raster.y,
            dw=raster.dw,
            dh=raster.dh,
        )
        self.hover = HoverTool(
            renderers=[picture],
            attachment="below",
            point_policy="follow_mouse",
            visible=False,
            formatters={"$x": CustomJSHover(code=_PLACE)},
        )
        self.figure.add_tools(self.hover)

    def _add_dots(self) -> None:
        self.dots = ColumnDataSource({k: [] for k in ("x", "y", "shown", "text")})
        # the map's own colours, but grey where a dot has no value to show
        self._dot_mapper = LinearColorMapper(palette=["#ffffff"], nan_color="#9a9a9a")
        self.points = self.figure.scatter(
            "x",
            "y",
            source=self.dots,
            size=8,
            line_color="#111111",
            line_width=0.8,
            fill_color={"field": "shown", "transform": self._dot_mapper},
        )
        self.figure.add_tools(
            HoverTool(
                renderers=[self.points],
                attachment="above",
                visible=False,
                tooltips=_TIP.format("@text{safe}"),
            )
        )

    def _add_mark(self) -> None:
        self.mark = ColumnDataSource({"x": [], "y": []})
        for colour, line in (("#ffffff", 4.5), ("#111111", 1.6)):  # a light seam around it
            self.figure.scatter(
                "x",
                "y",
                source=self.mark,
                marker="circle_cross",
                size=21,
                fill_color=None,
                line_color=colour,
                line_width=line,
            )

    def _add_colour_bar(self) -> None:
        bar = ColorBar(
            color_mapper=self.mapper,
            width=11,
            padding=2,
            margin=6,
            label_standoff=5,
            major_label_text_font_size="11px",
            major_label_text_color=FAINT,
            bar_line_color=None,
            major_tick_line_color=None,
        )
        self.figure.add_layout(bar, "right")
        self.units = Title(
            text=" ",
            align="center",
            standoff=2,
            text_font_size="11px",
            text_color=TEXT,
            text_font_style="normal",
        )
        self.figure.add_layout(self.units, "right")

    def paint(self, frame: Frame, scale: Scale) -> None:
        """Show a frame."""
        decimals = decimals_for(scale.vmax - scale.vmin)
        palette = palette_of(scale.cmap)
        for mapper in (self.mapper, self._dot_mapper):
            mapper.update(palette=palette, low=scale.vmin, high=scale.vmax)
        self.image.data = {"image": [self.raster.picture(frame.field.values)]}
        self.figure.title.text = f"{frame.title}: {frame.subtitle}"
        self.units.text = frame.units
        value = f"<b>@image{{0.{'0' * decimals}}}</b> {frame.units}<br>$x{{custom}}"
        self.hover.tooltips = _TIP.format(value)
        dots = frame.dots
        n = dots.sizes["obs"]
        self.points.glyph.size = float(np.clip(400 / max(n, 1), 4, 9))
        self.dots.data = {
            "x": self.raster.place(dots["lon"].values),
            "y": dots["lat"].values,
            "shown": dots["shown"].values,
            "text": dot_texts(frame, decimals),
        }

    def show_dots(self, visible: bool) -> None:
        """Show or hide the observations."""
        self.points.visible = visible

    def set_mark(self, lat: float, lon: float) -> None:
        """Mark the grid point that the profile belongs to."""
        self.mark.data = {"x": self.raster.place(np.array([lon])), "y": [lat]}


def palette_of(cmap: str) -> list[str]:
    """A matplotlib colour map as 256 colours."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(c) for c in colormaps[cmap](np.linspace(0, 1, 256))]


def decimals_for(span: float) -> int:
    """Decimals that tell apart a few hundred values within a span.

    Examples
    --------
    >>> decimals_for(80.0), decimals_for(3.0), decimals_for(0.02)
    (1, 2, 4)
    """
    return int(np.clip(2 - np.floor(np.log10(max(span, 1e-9))), 0, 9)) if span < 1000 else 0


def dot_texts(frame: Frame, decimals: int) -> list[str]:
    """What the pointer says of each observation."""
    dots = frame.dots
    error = dots["error_std"].values if "error_std" in dots else np.full(dots.sizes["obs"], np.nan)
    return [
        f"observed <b>{value:.{decimals}f}</b>"
        + (f" ± {std:.2g}" if np.isfinite(std) else "")
        + f" {frame.units}<br>innovation {departure:+.{decimals}f} {frame.units}"
        for value, std, departure in zip(
            dots["value"].values, error, dots["departure"].values, strict=True
        )
    ]


def _draw_coastline(plot: Any, raster: Raster) -> None:
    """Dark on a light seam: visible on every colour."""
    xs, ys = [], []
    for shift in (-360, 0, 360):
        for line in coastline_lines():
            x = line[:, 0] + shift
            if x.max() >= raster.x_range[0] and x.min() <= raster.x_range[1]:
                xs.append(x)
                ys.append(line[:, 1])
    for colour, alpha, width in (("#ffffff", 0.45, 2.2), ("#222222", 0.9, 0.8)):
        plot.multi_line(xs, ys, line_color=colour, line_alpha=alpha, line_width=width)


def plain(plot: Any) -> None:
    """The look of all figures: small grey text, no frame, tools only under the pointer."""
    plot.title.text_font_size, plot.title.text_color = "13px", TEXT
    plot.title.text_font_style = "normal"
    plot.outline_line_color = None
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis in plot.axis:
        axis.axis_line_color = None
        axis.major_tick_line_color = axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "11px"
        axis.major_label_text_color = FAINT
        axis.axis_label_text_font_size = "11px"
        axis.axis_label_text_color = TEXT
        axis.axis_label_text_font_style = "normal"


def _degrees(plot: Any, raster: Raster) -> None:
    """Ticks in degrees north and east."""
    plot.grid.grid_line_color = None
    plot.xaxis.formatter = CustomJSTickFormatter(code=_EAST)
    plot.yaxis.formatter = CustomJSTickFormatter(code=_NORTH)
    if raster.cyclic:
        plot.xaxis.ticker = FixedTicker(ticks=list(range(-180, 181, 60)))
        plot.yaxis.ticker = FixedTicker(ticks=list(range(-90, 91, 30)))


# Profile and plume of a grid point in bokeh, redrawn in place.

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
            width=width,
            height=height,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="",
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            title=" ",
            y_axis_type="log" if upright else "linear",
            **more,
        )
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
                "x",
                "y",
                source=self.lines[role],
                line_color=COLOURS[role],
                line_dash=DASHES[role],
                line_width=2.4 if role == "analysis" else 1.8,
            )
            if role == "analysis":
                plot.add_tools(
                    HoverTool(
                        renderers=[line],
                        tooltips=[("mean", "@value")],
                        visible=False,
                        mode="hline" if self.upright else "vline",
                    )
                )

    def _draw_observed(self, plot: Any) -> None:
        base = "y" if self.upright else "x"
        plot.add_layout(
            Whisker(
                source=self.observed,
                base=base,
                lower="low",
                upper="high",
                line_color=GREEN,
                dimension="width" if self.upright else "height",
                upper_head=None,
                lower_head=None,
                line_width=1.6,
            )
        )
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
            "low": seen.value - error,
            "high": seen.value + error,
            "value": [
                f"{v:.4g} ± {e:.2g} {curves.units}" for v, e in zip(seen.value, error, strict=True)
            ],
        }
        self.observed.data = source

    def _pair(self, values: Any, along: Any) -> dict[str, Any]:
        return {"x": values, "y": along} if self.upright else {"x": along, "y": values}

    def _set(self, source: ColumnDataSource, x: str, y: str, values: Any, along: Any) -> None:
        source.data = {x: values, y: along} if self.upright else {x: along, y: values}

    def _fit(self, curves: Curves, along: np.ndarray) -> None:
        """Ranges that hold everything, pressure downwards, time to the right."""
        seen = curves.observed
        every = np.concatenate(
            [
                curves.members.ravel(),
                *curves.others.values(),
                seen.value - seen.error_std,
                seen.value + seen.error_std,
            ]
        )
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
