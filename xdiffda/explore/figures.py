"""The figures of an explorer in bokeh: a map that is repainted in place, profile and plume."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CustomJSHover,
    CustomJSTickFormatter,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Title,
    WheelZoomTool,
)
from bokeh.plotting import figure
from jaxtyping import Float

from xdiffda.explore.frames import Frame
from xdiffda.plot.coastline import coastline_lines
from xdiffda.plot.panels import Scale

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
            width=width, height=round(np.clip((width - 110) / wide, 220, 560)) + 62,
            tools="pan,box_zoom,wheel_zoom,reset,save", toolbar_location="above",
            toolbar_sticky=True, sizing_mode="scale_width", title=" ", min_border_left=46,
        )  # fmt: skip
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
            image="image", source=self.image, color_mapper=self.mapper, x=raster.x, y=raster.y,
            dw=raster.dw, dh=raster.dh,
        )  # fmt: skip
        self.hover = HoverTool(
            renderers=[picture], attachment="below", point_policy="follow_mouse", visible=False,
            formatters={"$x": CustomJSHover(code=_PLACE)},
        )  # fmt: skip
        self.figure.add_tools(self.hover)

    def _add_dots(self) -> None:
        self.dots = ColumnDataSource({k: [] for k in ("x", "y", "shown", "text")})
        # the map's own colours, but grey where a dot has no value to show
        self._dot_mapper = LinearColorMapper(palette=["#ffffff"], nan_color="#9a9a9a")
        self.points = self.figure.scatter(
            "x", "y", source=self.dots, size=8, line_color="#111111", line_width=0.8,
            fill_color={"field": "shown", "transform": self._dot_mapper},
        )  # fmt: skip
        self.figure.add_tools(
            HoverTool(renderers=[self.points], attachment="above", visible=False,
                      tooltips=_TIP.format("@text{safe}"))
        )  # fmt: skip

    def _add_mark(self) -> None:
        self.mark = ColumnDataSource({"x": [], "y": []})
        for colour, line in (("#ffffff", 4.5), ("#111111", 1.6)):  # a light seam around it
            self.figure.scatter(
                "x", "y", source=self.mark, marker="circle_cross", size=21, fill_color=None,
                line_color=colour, line_width=line,
            )  # fmt: skip

    def _add_colour_bar(self) -> None:
        bar = ColorBar(
            color_mapper=self.mapper, width=11, padding=2, margin=6, label_standoff=5,
            major_label_text_font_size="11px", major_label_text_color=FAINT,
            bar_line_color=None, major_tick_line_color=None,
        )  # fmt: skip
        self.figure.add_layout(bar, "right")
        self.units = Title(
            text=" ", align="center", standoff=2, text_font_size="11px", text_color=TEXT,
            text_font_style="normal",
        )  # fmt: skip
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
            "x": self.raster.place(dots["lon"].values), "y": dots["lat"].values,
            "shown": dots["shown"].values, "text": dot_texts(frame, decimals),
        }  # fmt: skip

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
