"""The widgets of an explorer, in two rows above the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn

from xdiffda.explore.frames import VIEWS
from xdiffda.plot.channels import Channel

if TYPE_CHECKING:
    from xdiffda.explore.app import Explorer


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
            pn.Row(self.widgets["view"], pn.Spacer(sizing_mode="stretch_width"),
                   self.widgets["observations"], self.largest, self.fit, **wide),
            margin=(0, 0, 4, 0), **wide,
        )  # fmt: skip

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
