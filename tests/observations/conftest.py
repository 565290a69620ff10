"""Small grids, layouts and observations shared by the tests of observations."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Grid, Layout

NAMES = ("temperature", "u_component_of_wind", "2m_temperature")
LEVELS = (300, 500, 850)


def _grid(n_lat: int = 12, n_lon: int = 24, *, poles: bool = False) -> Grid:
    step = 180.0 / (n_lat - 1 if poles else n_lat)
    first = -90.0 if poles else -90.0 + step / 2
    return Grid.from_coords(first + step * np.arange(n_lat), 360.0 / n_lon * np.arange(n_lon))


def _layout(grid: Grid | None = None) -> Layout:
    return Layout(grid or _grid(), NAMES, LEVELS)


def _state(layout: Layout, seed: int = 0, *batch: int) -> np.ndarray:
    """White noise of 5 units around plausible means."""
    shape = (*batch, layout.grid.n_node, layout.n_channel)
    warm = np.array(["temperature" in name for name in layout.channel_names])
    x = 5.0 * np.random.default_rng(seed).standard_normal(shape) + np.where(warm, 280.0, 0.0)
    return x.astype(np.float32)


def _dataset(layout: Layout, x: np.ndarray, **batch: object) -> xr.Dataset:
    """A state array in xdiffda's own convention; ``batch`` are coordinates of leading axes."""
    return from_state(x, layout, default_convention(layout), dims=tuple(batch), coords=batch)


def _tidy(n: int, seed: int = 0, levels: tuple[float, float] = (300.0, 850.0)) -> xr.Dataset:
    """Valid tidy observations anywhere on the sphere, between levels."""
    rng = np.random.default_rng(seed)
    variable = np.array(NAMES)[rng.integers(0, 3, n)]
    level = np.exp(rng.uniform(*np.log(levels), n))
    value = np.where(variable == "u_component_of_wind", 0.0, 280.0) + rng.standard_normal(n)
    return xr.Dataset(
        {"value": ("obs", value), "error_std": ("obs", rng.uniform(0.5, 2.0, n))},
        {
            "variable": ("obs", variable),
            "level": ("obs", np.where(variable == "2m_temperature", np.nan, level)),
            "lat": ("obs", np.rad2deg(np.arcsin(rng.uniform(-1, 1, n)))),
            "lon": ("obs", rng.uniform(0, 360, n)),
            "time": ("obs", np.full(n, np.datetime64("2020-01-01T00", "ns"))),
        },
    )


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """Makers of grids, layouts, state arrays, datasets and tidy observations."""
    return SimpleNamespace(
        grid=_grid,
        layout=_layout,
        state=_state,
        dataset=_dataset,
        tidy=_tidy,
        names=NAMES,
        levels=LEVELS,
    )


@pytest.fixture(scope="session")
def layout() -> Layout:
    """12 x 24 points without poles, seven channels."""
    return _layout()


@pytest.fixture(scope="session")
def truth(layout: Layout) -> xr.Dataset:
    """A random state on `layout`."""
    return _dataset(layout, _state(layout))
