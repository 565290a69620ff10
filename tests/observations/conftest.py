"""Small grids, layouts and observations shared by the tests of observations."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.state import Grid, Layout, default_convention, from_state

NAMES = ("temperature", "u_component_of_wind", "2m_temperature")
LEVELS = (300, 500, 850)


def make_grid(n_lat: int = 12, n_lon: int = 24, poles: bool = False) -> Grid:
    step = 180.0 / (n_lat - 1 if poles else n_lat)
    first = -90.0 if poles else -90.0 + step / 2
    return Grid.from_coords(first + step * np.arange(n_lat), 360.0 / n_lon * np.arange(n_lon))


def make_layout(grid: Grid | None = None) -> Layout:
    return Layout(grid or make_grid(), NAMES, LEVELS)


def random_state(layout: Layout, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((layout.grid.n_node, layout.n_channel))
    warm = np.array(["temperature" in name for name in layout.channel_names])
    return (5.0 * x + np.where(warm, 280.0, 0.0)).astype(np.float32)


def random_tidy(n: int, seed: int = 0, levels: tuple[float, float] = (300.0, 850.0)) -> xr.Dataset:
    """Valid tidy observations anywhere on the sphere, between levels."""
    rng = np.random.default_rng(seed)
    variable = np.array(NAMES)[rng.integers(0, 3, n)]
    surface = variable == "2m_temperature"
    level = np.where(surface, np.nan, np.exp(rng.uniform(*np.log(levels), n)))
    value = np.where(variable == "u_component_of_wind", 0.0, 280.0) + rng.standard_normal(n)
    return xr.Dataset(
        {"value": ("obs", value), "error_std": ("obs", rng.uniform(0.5, 2.0, n))},
        {
            "variable": ("obs", variable), "level": ("obs", level),
            "lat": ("obs", np.rad2deg(np.arcsin(rng.uniform(-1, 1, n)))),
            "lon": ("obs", rng.uniform(0, 360, n)),
            "time": ("obs", np.full(n, np.datetime64("2020-01-01T00", "ns"))),
        },
    )  # fmt: skip


@pytest.fixture
def layout() -> Layout:
    return make_layout()


@pytest.fixture
def truth(layout) -> xr.Dataset:
    return from_state(random_state(layout), layout, default_convention(layout))
