"""Figures: maps of states with observations on them, scores, and curves of training.

Nothing here needs the network: coastlines are bundled (Natural Earth 1:110m, public domain).
All figures share one style (`STYLE`; `style` as a context, `save` for vector files).
"""

from __future__ import annotations

from xdiffda.plot.coastline import add_coastline, coastline_lines
from xdiffda.plot.curves import loss_curves, spectra
from xdiffda.plot.errors import error_against_columns, error_maps
from xdiffda.plot.histograms import innovation_histogram, rank_histogram
from xdiffda.plot.lead_time import lead_time_curves, lead_time_loss
from xdiffda.plot.maps import map_panels
from xdiffda.plot.scorecards import scorecard
from xdiffda.plot.scores import profiles, reliability, spread_error
from xdiffda.plot.styles import STYLE, save, style

__all__ = [
    "STYLE",
    "add_coastline",
    "coastline_lines",
    "error_against_columns",
    "error_maps",
    "innovation_histogram",
    "lead_time_curves",
    "lead_time_loss",
    "loss_curves",
    "map_panels",
    "profiles",
    "rank_histogram",
    "reliability",
    "save",
    "scorecard",
    "spectra",
    "spread_error",
    "style",
]
