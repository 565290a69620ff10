"""The explorer: widgets, a map, and what is known of one grid point."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn
import param

from xdiffda.plot.channels import Channel
from xdiffda.plot.explore.figures import COLOURS, CurveFigure, MapFigure, decimals_for
from xdiffda.plot.explore.frames import VIEWS, Frame, build_frame, mean_of, scale_for, views_of
from xdiffda.plot.explore.points import distance_km, in_cell, nearest_point, plume, profile
from xdiffda.plot.explore.states import Choice, States
from xdiffda.plot.panels import Scale
from xdiffda.storage.files import write_text

# The widgets of an explorer, in two rows above the map.


class Controls:
    """Widgets that follow the explorer, and which it follows.

    Attributes
    ----------
    top
        The rows of widgets.
    """

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        wide = {"sizing_mode": "stretch_width"}
        names = {Channel(v).title: v for v in explorer.states.variables}
        self.widgets: dict[str, Any] = {
            "variable": pn.widgets.Select(
                label="Variable", options=names, value=explorer.variable, width=200
            ),
            "level": pn.widgets.DiscreteSlider(label="Level", min_width=150, **wide),
            "time": pn.widgets.DiscreteSlider(label="Time", min_width=150, **wide),
            "lead_time": pn.widgets.DiscreteSlider(label="Lead time", min_width=150, **wide),
            "member": pn.widgets.IntSlider(label="Member", start=0, end=1, min_width=120, **wide),
            "view": pn.widgets.RadioButtonGroup(options={}, variant="outline", align="center"),
            "observations": pn.widgets.Checkbox(
                label="Observations", value=explorer.observations, align="center"
            ),
        }
        self.refresh()
        for name, widget in self.widgets.items():
            widget.param.watch(self._setter(name), "value")
        self.largest = pn.widgets.Button(label="Go to largest", align="center")
        self.fit = pn.widgets.Button(label="Fit colours", align="center")
        self.largest.on_click(lambda event: explorer.go_to_largest())
        self.fit.on_click(lambda event: explorer.fit_colours())
        names = ("variable", "level", "time", "lead_time", "member")
        self.top = pn.Column(
            pn.Row(*(self.widgets[n] for n in names), **wide),
            pn.Row(
                self.widgets["view"],
                pn.Spacer(sizing_mode="stretch_width"),
                self.widgets["observations"],
                self.largest,
                self.fit,
                **wide,
            ),
            margin=(0, 0, 4, 0),
            **wide,
        )

    def _setter(self, name: str) -> Any:
        return lambda event: setattr(self._explorer, name, event.new)

    def refresh(self) -> None:
        """Show the choices that there are, and those that were made."""
        explorer, widgets = self._explorer, self.widgets
        for name, words in (("level", _hpa), ("time", _minutes), ("lead_time", _hours)):
            objects = [v for v in explorer.param[name].objects if v is not None]
            widgets[name].visible = len(objects) > 1
            if len(objects) > 1:
                options = {words(v): v for v in objects}
                if list(widgets[name].options) != list(options):
                    widgets[name].param.update(options=options, value=getattr(explorer, name))
                widgets[name].value = getattr(explorer, name)
        n = explorer.states.n_members
        widgets["member"].param.update(end=max(n - 1, 1), value=explorer.member)
        widgets["member"].visible = explorer.view == "member"
        views = {self._label(v): v for v in explorer.param.view.objects}
        widgets["view"].param.update(options=views, value=explorer.view)
        widgets["variable"].value = explorer.variable
        widgets["observations"].visible = explorer.states.obs is not None

    def _label(self, view: str) -> str:
        single = self._explorer.states.n_members == 1
        return "Analysis" if view == "mean" and single else VIEWS[view].label


def _hpa(level: float) -> str:
    return f"{level:g} hPa"


def _minutes(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="m")).replace("T", " ")


def _hours(lead_time: np.timedelta64) -> str:
    return f"{lead_time / np.timedelta64(1, 'h'):g} h"


# The table beside the map: values at the point; its lines are the legend of the curves.

_DASH = {"analysis": "solid", "background": "dashed", "truth": "dotted"}
_STYLE = (
    "<style>table.x{border-spacing:0;font:12.5px/1.45 sans-serif}"
    "table.x td{padding:0 6px 0 0;white-space:nowrap}table.x td.n{text-align:right;"
    "font-variant-numeric:tabular-nums}.x-at{font:600 13px sans-serif;margin-bottom:4px}"
    "</style>"
)


def legend_and_values(states: States, choice: Choice, point: tuple[int, int], frame: Frame) -> str:
    """HTML: place, each state's value there, departures, and the nearest observation."""
    row, column = point
    at = {"lat": row, "lon": column}
    members = states.members("analysis", choice).isel(at)
    values = {"analysis": float(mean_of(members))}
    for role in ("background", "truth"):
        if states.has(role, choice.variable):
            values[role] = float(mean_of(states.members(role, choice)).isel(at))
    digits = 1 + decimals_for(float(np.nanmax(frame.field) - np.nanmin(frame.field)))
    ensemble = states.n_members > 1
    rows = []
    for role, value in values.items():
        word = f"mean of {states.n_members}" if role == "analysis" and ensemble else role
        rows.append((_line(role), word, f"{value:.{digits}f}"))
        if role == "analysis" and ensemble:
            rows.append(("", "spread", f"{float(members.std(ddof=1)):.{digits}f}"))
    for word, role in (("increment", "background"), ("error", "truth")):
        if role in values:
            rows.append(("", word, f"{values['analysis'] - values[role]:+.{digits}f}"))
    rows += _observed(states, frame, point, digits)
    units = html.escape(frame.units)
    lines = "".join(
        f"<tr><td>{mark}</td><td>{word}</td><td class=n>{value}</td><td>{units}</td></tr>"
        for mark, word, value in rows
    )
    place = f"{_degrees(states.lat[row], 'NS')}, {_degrees(states.lon[column], 'EW')}"
    return f"{_STYLE}<div class=x-at>{place}</div><table class=x>{lines}</table>"


def _observed(
    states: States, frame: Frame, point: tuple[int, int], digits: int
) -> list[tuple[str, str, str]]:
    """Rows of the observation in the cell, or of the nearest and how far away it is."""
    dots = frame.dots
    if dots.sizes["obs"] == 0:
        return []
    inside = np.flatnonzero(in_cell(states, dots, point))
    lat, lon = states.lat[point[0]], states.lon[point[1]]
    away = distance_km(lat, lon, dots["lat"].values, dots["lon"].values)
    nearest = inside[away[inside].argmin()] if inside.size else int(away.argmin())
    one = dots.isel(obs=nearest)
    where = "observed here" if inside.size else f"observed, {away[nearest]:,.0f} km"
    mark = f'<span style="color:{COLOURS["observed"]};padding-left:4px">&#9679;</span>'
    return [
        (mark, where, f"{float(one['value']):.{digits}f}"),
        ("", "innovation", f"{float(one['departure']):+.{digits}f}"),
    ]


def _line(role: str) -> str:
    return (
        f'<span style="display:inline-block;width:18px;vertical-align:middle;'
        f'border-top:2.5px {_DASH[role]} {COLOURS[role]}"></span>'
    )


def _degrees(value: float, signs: str) -> str:
    value = (value + 180) % 360 - 180 if signs == "EW" else value
    return f"{abs(value):.1f}°{signs[int(value < 0)]}"


_EAGER = 200e6  # bytes that a time series may read before anyone has clicked


class Explorer(pn.viewable.Viewer):
    """Look at states interactively; made by `explore`.

    Shows itself in a notebook. What the widgets choose can be set in code too.

    Parameters
    ----------
    variable, level, time, lead_time, member, view
        What the map shows. ``level`` in hPa; ``member`` counts from 0.
    observations
        Whether observations are drawn.
    point
        Latitude and longitude of profile and plume; a click on the map sets them.

    Examples
    --------
    >>> explorer = explore(analysis)  # doctest: +SKIP
    >>> explorer.view, explorer.level = "spread", 850  # doctest: +SKIP
    >>> explorer.save("spread.html")  # doctest: +SKIP
    """

    variable = param.Selector(doc="Name of the variable.", check_on_set=True)
    level = param.Selector(doc="Pressure, hPa.", allow_None=True, check_on_set=True)
    time = param.Selector(doc="Time of the state.", allow_None=True, check_on_set=True)
    lead_time = param.Selector(doc="Lead time of a forecast.", allow_None=True, check_on_set=True)
    member = param.Integer(default=0, doc="Position of the member.")
    view = param.Selector(doc="Mean, member, spread, increment, ...", check_on_set=True)
    observations = param.Boolean(default=True, doc="Whether observations are drawn.")
    point = param.NumericTuple(default=(0.0, 0.0), length=2, doc="Latitude and longitude.")

    def __init__(self, states: States, **chosen: Any) -> None:
        self.states = states
        self.scales: dict[tuple[str, float | None, str], Scale] = {}
        self._set_choices(chosen.get("variable", states.variables[0]))
        super().__init__(**chosen)
        self._fit_choices()
        self.map = MapFigure(states.lat, states.lon, self.go_to)
        self.profile = CurveFigure(self._tap_level, upright=True, width=270, height=300)
        self.plume = CurveFigure(self._tap_time, upright=False, width=1040, height=190)
        self.readout = pn.pane.HTML("", sizing_mode="stretch_width", margin=(8, 4, 2, 8))
        self.clicked = not self._series_is_large()
        self.controls = Controls(self)
        self._layout = pn.Column(
            self.controls.top,
            self._figures(),
            sizing_mode="stretch_width",
            min_width=760,
            max_width=1250,
        )
        with param.parameterized.discard_events(self):
            self.point = self.largest()
        self._paint()
        watch = self.param.watch
        watch(self._on_variable, ["variable"], precedence=0)
        watch(
            self._on_change,
            ["variable", "level", "time", "lead_time", "member", "view"],
            precedence=1,
        )
        watch(lambda event: self.map.show_dots(event.new), ["observations"])
        watch(lambda event: self._paint_point(), ["point"], precedence=2)

    def __panel__(self) -> Any:
        return self._layout

    def copy(self) -> Explorer:
        """Another explorer of the same states, with the present choices and figures of its own."""
        names = ("variable", "level", "time", "lead_time", "member", "view", "observations")
        other = Explorer(self.states, **{name: getattr(self, name) for name in names})
        other.scales, other.point = dict(self.scales), self.point
        return other

    def show(self, *, port: int = 0, open: bool = True, threaded: bool = False, **more: Any) -> Any:
        """Serve it and open a browser; every tab gets a copy.

        A page that is closed takes its figures with it: one explorer cannot serve two.

        Parameters
        ----------
        port
            0 takes one that is free.
        open
            Whether to open a browser.
        threaded
            Go on at once, and serve meanwhile.
        **more
            Of `panel.serve`.
        """
        more.setdefault("title", "xdiffda")
        return pn.serve(self.copy, port=port, show=open, threaded=threaded, **more)

    # ---------------------------------------------------------------- choices

    def _set_choices(self, variable: str) -> None:
        """Offer what the states hold, beginning with ``variable``."""
        states, own = self.states, self.param
        own.variable.objects = list(states.variables)
        own.variable.default = states.variables[0]
        for dim in ("time", "lead_time"):
            values = list(states.along(dim))
            scalar = states.scalar(dim)
            own[dim].objects = values or ([] if scalar is None else [scalar])
            own[dim].default = own[dim].objects[0] if own[dim].objects else None
        own.member.bounds = (0, states.n_members - 1)
        self._offer(variable)

    def _offer(self, variable: str) -> None:
        """Levels and views of a variable."""
        self.param.level.objects = list(self.states.levels(variable)) or [None]
        self.param.view.objects = views_of(self.states, variable)

    def _fit_choices(self) -> None:
        """Keep level and view where the variable has them, or take the nearest there are."""
        self._offer(self.variable)
        levels, views = self.param.level.objects, self.param.view.objects
        level = self.level if self.level is not None else getattr(self, "_last_level", 500.0)
        if levels == [None]:
            self._last_level = level
            self.level = None
        else:
            self.level = min(levels, key=lambda p: abs(np.log(p / level)))
        if self.view not in views:
            self.view = views[0]

    @property
    def choice(self) -> Choice:
        """What is looked at."""
        return Choice(self.variable, self.level, self.time, self.lead_time, self.member)

    # ---------------------------------------------------------------- painting

    def frame(self) -> Frame:
        """The frame that the map shows: its field, title and observations."""
        return build_frame(self.states, self.view, self.choice)

    def _on_variable(self, *events: Any) -> None:
        with param.parameterized.discard_events(self):
            self._fit_choices()
        self.controls.refresh()

    def _on_change(self, *events: Any) -> None:
        self.controls.refresh()
        self._paint()

    def _paint(self) -> None:
        frame = self.frame()
        # colours stay when time, lead time or member change: then the eye can compare
        key = (self.variable, self.level, frame.group)
        if key not in self.scales:
            self.scales[key] = scale_for(frame, self.variable)
        self.map.paint(frame, self.scales[key])
        self._paint_point(frame)

    def _paint_point(self, frame: Frame | None = None) -> None:
        states, choice = self.states, self.choice
        at = nearest_point(states, *self.point)
        place = states.lat[at[0]], states.lon[at[1]]
        self.map.set_mark(*place)
        label = Channel(self.variable).title
        on_levels = bool(states.levels(self.variable))
        column = profile(states, self.view, choice, at) if on_levels else None
        self.profile.draw(column, label, here=self.level)
        series = None
        if states.series_dim and self.clicked:
            series = plume(states, self.view, choice, at)
        at_level = f" at {self.level:g} hPa" if self.level is not None else ""
        self.plume.draw(series, f"{label}{at_level}", here=choice.valid_time)
        self.readout.object = legend_and_values(states, choice, at, self.frame())

    def _figures(self) -> Any:
        """Map, profile and plume, without widgets."""
        beside = pn.Column(
            self.readout,
            pn.pane.Bokeh(self.profile.figure, sizing_mode="stretch_width"),
            width=290,
            margin=0,
        )
        above = pn.Row(
            pn.pane.Bokeh(self.map.figure, sizing_mode="scale_width"),
            beside,
            sizing_mode="stretch_width",
            margin=0,
        )
        below = pn.pane.Bokeh(self.plume.figure, sizing_mode="stretch_width")
        return pn.Column(above, below, sizing_mode="stretch_width", margin=0)

    # ---------------------------------------------------------------- actions

    def go_to(self, lat: float, lon: float) -> None:
        """Show profile and plume of the grid point nearest to a place."""
        self.clicked = True
        at = nearest_point(self.states, lat, lon)
        self.point = (float(self.states.lat[at[0]]), float(self.states.lon[at[1]]))

    def largest(self) -> tuple[float, float]:
        """Latitude and longitude of the largest increment, error or spread on the map.

        On fields, where the increment or else the spread is largest.
        """
        views = self.param.view.objects
        view = self.view
        if VIEWS[view].group == "field":
            view = next((v for v in ("increment", "spread", "error") if v in views), view)
        field = abs(build_frame(self.states, view, self.choice).field).fillna(0)
        row, column = np.unravel_index(int(field.values.argmax()), field.shape)
        return float(self.states.lat[row]), float(self.states.lon[column])

    def go_to_largest(self) -> None:
        """Show the point of `largest`."""
        self.go_to(*self.largest())

    def fit_colours(self) -> None:
        """Forget the colour limits, and find them anew from what is shown."""
        self.scales.clear()
        self._paint()

    def _tap_level(self, pressure: float) -> None:
        levels = self.states.levels(self.variable)
        if levels and pressure > 0:
            self.level = min(levels, key=lambda p: abs(np.log(p / pressure)))

    def _tap_time(self, milliseconds: float) -> None:
        dim = self.states.series_dim
        values = self.states.along(dim)
        if dim and self.time is not None:
            at = values if dim == "time" else self.time + values
            there = np.datetime64(round(milliseconds), "ms")
            setattr(self, dim, values[int(np.abs(at - there).argmin())])

    def _series_is_large(self) -> bool:
        field = self.states.given["analysis"][self.variable]
        return field.chunks is not None and field.nbytes > _EAGER

    def save(self, path: str | Path, *, title: str = "xdiffda") -> None:
        """Write the present view to one HTML file that needs no network and no Python.

        Pan, zoom and the pointer work in it; choosing another variable needs Python.

        Parameters
        ----------
        path
            File to write.
        title
            Title of the page.
        """
        from bokeh.embed import file_html
        from bokeh.layouts import column, row
        from bokeh.models import Div
        from bokeh.resources import INLINE

        # bokeh alone: panel's own pages name stylesheets on a server
        values = Div(text=self.readout.object, margin=(8, 4, 2, 8))
        beside = column(values, self.profile.figure, width=290)
        above = row(self.map.figure, beside, sizing_mode="stretch_width")
        page = column(above, self.plume.figure, sizing_mode="stretch_width")
        page.styles = {"max-width": "1250px", "min-width": "760px"}
        write_text(file_html(page, INLINE, title=title, _always_new=True), Path(path))
