"""Figures: maps of states with observations on them, and curves of training.

Nothing here needs the network: coastlines are bundled (Natural Earth 1:110m, public domain).
"""

from __future__ import annotations

from xdiffda.plot.coastline import add_coastline, coastline_lines
from xdiffda.plot.curves import loss_curves
from xdiffda.plot.maps import map_panels

__all__ = ["add_coastline", "coastline_lines", "loss_curves", "map_panels"]
