"""The user's own H and correlated errors through `assimilate`, against dense linear algebra."""

from __future__ import annotations

import json

import cycle_world as world
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.methods import METHODS
from xdiffda.diffusion.kalman import Solver
from xdiffda.observations import VerticalCorrelation
from xdiffda.state.convert import to_state

GRID, N_CHANNEL = world.LAYOUT.grid, world.LAYOUT.n_channel
LEVELS = {level: world.LAYOUT.channel_index("temperature", level) for level in (500, 850)}
SITES = np.array([20, 45, 70, 76, 101])  # nodes that a sounding is made at
PLACES = np.array([33, 71, 90])  # nodes at which the user's own quantity is seen
CORRELATION = VerticalCorrelation(0.8)
ERROR, OWN_ERROR = 0.6, 0.3


def lapse(state, obs):
    """Warmth of the lower level over the upper: a function of the whole state."""
    warmer = state["temperature@850"] - 1.05 * state["temperature@500"]
    rows = jnp.argmin(jnp.abs(jnp.asarray(world.LAT)[:, None] - obs["lat"]), axis=0)
    columns = jnp.argmin(jnp.abs(jnp.asarray(world.LON)[:, None] - obs["lon"]), axis=0)
    return warmer[rows, columns]


def table() -> pd.DataFrame:
    """Soundings at `SITES`, the upper level first, then the user's quantity at `PLACES`."""
    nodes = np.concatenate([SITES, SITES, PLACES])
    n = len(SITES)
    rng = np.random.default_rng(3)
    expected = np.repeat([255.0, 275.0, 275.0 - 1.05 * 255.0], [n, n, len(PLACES)])
    return pd.DataFrame(
        {
            "variable": ["temperature"] * 2 * n + ["lapse"] * len(PLACES),
            "level": [500.0] * n + [850.0] * n + [np.nan] * len(PLACES),
            "lat": GRID.node_lat[nodes],
            "lon": GRID.node_lon[nodes],
            "time": world.START,
            "value": expected + rng.normal(0.0, 2.0, len(nodes)),
            "error_std": [ERROR] * 2 * n + [OWN_ERROR] * len(PLACES),
        }
    )


def dense() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B, H and R in natural units, float64."""
    size, n = GRID.n_node * N_CHANNEL, len(SITES)
    eye = np.eye(size, dtype=np.float32).reshape(GRID.n_node, N_CHANNEL, size)
    b = np.asarray(world.make_prior().covariance(jnp.asarray(eye.transpose(0, 2, 1))), float)
    s = np.tile(world.SCALE, GRID.n_node)
    b = s[:, None] * b.transpose(0, 2, 1).reshape(size, size) * s
    h = np.zeros((2 * n + len(PLACES), size))
    for half, channel in enumerate(LEVELS.values()):
        h[half * n + np.arange(n), SITES * N_CHANNEL + channel] = 1.0
    for row, node in enumerate(PLACES, 2 * n):
        h[row, node * N_CHANNEL + np.array(list(LEVELS.values()))] = -1.05, 1.0
    r = np.diag(np.repeat([ERROR**2, OWN_ERROR**2], [2 * n, len(PLACES)]))
    upper, lower = np.arange(n), n + np.arange(n)
    r[upper, lower] = r[lower, upper] = ERROR**2 * np.exp(-np.log(850 / 500) / 0.8)
    return b, h, r


@pytest.mark.parametrize("method", ["guided", "3dvar"])
def test_own_operators_and_correlated_errors_give_the_kalman_analysis(method: str) -> None:
    """With antithetic members the mean of guided is the Kalman analysis but for the solver."""
    _, background = world.make_states(1)
    obs, (b, h, r) = table(), dense()
    x = to_state(background, world.LAYOUT)[0].reshape(-1).astype(float)
    departure = obs["value"].to_numpy() - h @ x

    def by(r):
        return b @ h.T @ np.linalg.solve(h @ b @ h.T + r, departure)

    expected, tight = by(r), Solver(tolerance=1e-5, max_iterations=100)
    analysis = assimilate(
        background,
        obs,
        model=world.make_prior(),
        method=METHODS[method](solver=tight, small_scales=False),
        n_members=2,
        background_error=1.0,
        quality=xdiffda.Quality(gross_check=np.inf),
        progress=False,
        operators={"lapse": lapse},
        error_correlation={"temperature": CORRELATION},
    )
    found = to_state(analysis, world.LAYOUT)[0].mean(0).reshape(-1) - x
    assert json.loads(analysis.attrs["xdiffda_observations_used"]) == [len(obs)]
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
    # the correlation, and the user's H, matter far more than this
    assert np.abs(by(np.diag(np.diag(r))) - expected).max() > 0.05 * np.abs(expected).max()
    without = np.diag(np.where(obs["variable"] == "lapse", 1e9, np.diag(r)))
    assert np.abs(by(without) - expected).max() > 0.05 * np.abs(expected).max()
