"""Maps of the prior `reference` for the documentation.

    python tutorials/docs/_reference.py FOLDER

writes ``reference-draws.png``, one draw of background errors, and ``reference-increments.png``,
what one observation of temperature at 500 hPa does at 50 N, at the equator, at the pole and at the
date line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import xdiffda
from xdiffda.plot.coastline import coastline_lines
from xdiffda.state.grid import Layout, equiangular

NAMES = (
    "geopotential",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "mean_sea_level_pressure",
)
DRAWN = (
    ("geopotential", 500, 9.80665, "z500, m"),
    ("temperature", 850, 1.0, "T850, K"),
    ("u_component_of_wind", 250, 1.0, "u250, m/s"),
    ("mean_sea_level_pressure", None, 100.0, "sea-level pressure, hPa"),
)
PLACES = (
    ("50 N", 50.0, 0.0),
    ("the equator", 0.0, 60.0),
    ("the pole", 90.0, 0.0),
    ("the date line", 40.0, 180.0),
)
ERROR_K, DEPARTURE_K = 0.5, 1.0


def main(folder: str) -> None:
    layout = Layout(equiangular(121, 240, poles=True), NAMES, (250, 500, 850))
    prior = xdiffda.reference_prior(layout)
    out = Path(folder)
    draws(prior).savefig(out / "reference-draws.png", dpi=110)
    increments(prior).savefig(out / "reference-increments.png", dpi=110)


def draws(prior: Any) -> plt.Figure:
    """One draw of errors of a 24 h forecast."""
    layout = prior.layout
    keys = jax.random.split(jax.random.key(1), 2)
    z = np.asarray(prior.covariance.sample(keys[:1]) + prior.unresolved_scales().draw(keys[1:]))
    x = z[:, 0] * prior.scale
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.4), layout="constrained")
    for ax, (name, level, unit, title) in zip(axes.flat, DRAWN, strict=True):
        field = x[:, layout.channel_index(name, level)].reshape(layout.grid.shape) / unit
        _map(ax, figure, layout, field, title)
    return figure


def increments(prior: Any) -> plt.Figure:
    """The analysis increment of one observation, geopotential in colours, wind in arrows."""
    layout, grid = prior.layout, prior.layout.grid
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    own = layout.channel_index("temperature", 500)
    for ax, (word, lat, lon) in zip(axes.flat, PLACES, strict=True):
        row = int(np.argmin(np.abs(np.array(grid.lat) - lat)))
        column = int(np.argmin(np.abs(np.array(grid.lon) - lon)))
        node = row * grid.n_lon + column
        pulse = np.zeros((grid.n_node, 1, layout.n_channel), np.float32)
        pulse[node, 0, own] = prior.scale[node, own]
        spread = np.asarray(prior.covariance(jnp.asarray(pulse)))[:, 0] * prior.scale
        variance = spread[node, own] + (prior.unresolved * prior.scale)[node, own] ** 2
        x = spread * (DEPARTURE_K / (variance + ERROR_K**2))
        field = {
            name: x[:, layout.channel_index(name, 500)].reshape(grid.shape) for name in NAMES[:4]
        }
        _map(ax, figure, layout, field["geopotential"] / 9.80665, f"{word}: z500, m, and wind")
        east = np.mod(np.array(grid.lon) + 180, 360) - 180
        shown = np.abs(np.array(grid.lat) - lat) < 35, np.abs((east - lon + 180) % 360 - 180) < 50
        if abs(lat) == 90:
            shown = np.array(grid.lat) > 55, east > -400
        pick = np.ix_(np.flatnonzero(shown[0])[::2], np.flatnonzero(shown[1])[::4])
        place = np.meshgrid(east, np.array(grid.lat))
        winds = (field[name][pick] for name in NAMES[2:4])
        ax.quiver(place[0][pick], place[1][pick], *winds, scale=1.5, width=0.003)
        _box(ax, lat, lon)
    return figure


def _box(ax: Any, lat: float, lon: float) -> None:
    """The part of the map around a place; all longitudes at a pole and at the date line."""
    ax.set_ylim(max(lat - 35, -90), min(lat + 35, 90))
    if abs(lat) < 90 and abs(lon) < 180:
        ax.set_xlim(lon - 55, lon + 55)


def _map(ax: Any, figure: Any, layout: Any, field: np.ndarray, title: str) -> None:
    order = np.argsort(np.mod(np.array(layout.grid.lon) + 180, 360))
    east = np.mod(np.array(layout.grid.lon) + 180, 360)[order] - 180
    most = np.quantile(np.abs(field), 0.999)
    shown = ax.pcolormesh(
        east, layout.grid.lat, field[:, order], cmap="RdBu_r", vmin=-most, vmax=most
    )
    for line in coastline_lines():
        ax.plot(*line.T, color="0.2", linewidth=0.4)
    ax.set(xlim=(-180, 180), ylim=(-90, 90), title=title, xlabel="", ylabel="")
    figure.colorbar(shown, ax=ax, shrink=0.8)


if __name__ == "__main__":
    main(sys.argv[1])
