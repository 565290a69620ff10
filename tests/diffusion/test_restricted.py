"""Solves among the points that observations read: the same analysis as on the whole grid."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from gaussian_world import draw_states
from gaussian_world import make_prior as make_small_prior
from hypothesis import given
from hypothesis import strategies as st
from wind_world import NAMES, make_basis

import xdiffda
from xdiffda.assimilation import innovations as _departures
from xdiffda.covariance.ensemble import HybridCovariance, RescaledCovariance
from xdiffda.covariance.harmonics import Basis, points_of, restricted, sphere_basis
from xdiffda.covariance.localisation import EnsembleCovariance
from xdiffda.covariance.spectral import BlockCovariance, SpectralCovariance
from xdiffda.diffusion.kalman import Solver, update
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.observations import Operator, emulate_obs, to_tidy
from xdiffda.state.grid import Grid, Layout

N_LAT, N_LON = 13, 48
# steps of a loose solve end where rounding has them end, and robust weights feel it
TIGHT = Solver(tolerance=1e-6, max_iterations=200)
GRID = Grid.from_coords(np.linspace(-90, 90, N_LAT), np.arange(N_LON) * 360 / N_LON)
NODES = np.array([0, 5, 47, 48 * 3 + 7, 48 * 3 + 8, 48 * 6, 48 * 6 + 47, 48 * 12 + 20])


def _basis(kind: str) -> Basis:
    if kind == "balanced":
        return make_basis(Layout(GRID, NAMES, (500,)))
    return sphere_basis(GRID.lat, GRID.lon, 8)


def _by_blocks(kind: str) -> BlockCovariance:
    basis, rng = _basis(kind), np.random.default_rng(0)
    root = rng.normal(size=(basis.mask.shape[0], len(NAMES), len(NAMES)))
    blocks = root @ root.swapaxes(1, 2) / (1 + np.arange(len(root)))[:, None, None] ** 2
    return BlockCovariance(basis, jnp.asarray(blocks, jnp.float32))


def _covariance(kind: str) -> Any:
    """One of every kind that can be restricted."""
    if kind in ("scalar", "balanced"):
        return _by_blocks(kind)
    static, rng = _by_blocks("balanced"), np.random.default_rng(4)
    shape = (GRID.n_node, len(NAMES))
    if kind == "rescaled":
        return RescaledCovariance(static, jnp.asarray(rng.uniform(0.5, 2, shape), jnp.float32))
    samples = rng.normal(size=(shape[0], 3, shape[1]))
    day = EnsembleCovariance.localised(samples, static.basis, Layout(GRID, NAMES, (500,)))
    return HybridCovariance(static.decompose(), day, jnp.asarray(0.6))


def _points(nodes: np.ndarray, n_channel: int):
    elements = (nodes * n_channel)[:, None]
    return points_of(elements, n_channel=n_channel, n_row=N_LAT, n_column=N_LON)


@pytest.mark.parametrize("kind", ["scalar", "balanced"])
def test_a_basis_at_points_is_rows_of_the_basis(kind: str) -> None:
    covariance, points = _by_blocks(kind), _points(NODES, len(NAMES))
    assert points is not None
    basis, own = covariance.basis, covariance.basis.at(points)
    slots = np.asarray(points.slot)[NODES]
    assert own.n_node == points.column.size
    a = np.random.default_rng(1).normal(size=(*basis.mask.shape, 2, len(NAMES))).astype(np.float32)
    x = np.asarray(own.synthesis(a))
    np.testing.assert_allclose(x[slots], np.asarray(basis.synthesis(a))[NODES], atol=2e-5)
    # nothing where there is no point, or a solve would see it
    assert not np.delete(x, slots, axis=0).any()
    y = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    whole = np.zeros((basis.n_node, *y.shape[1:]), np.float32)
    whole[NODES] = y[slots]
    np.testing.assert_allclose(own.adjoint(y), basis.adjoint(whole), atol=1e-4)
    with pytest.raises(TypeError, match="some points"):
        basis.scalar.at(points).analysis(y)


@pytest.mark.parametrize("kind", ["scalar", "balanced", "rescaled", "hybrid"])
def test_the_update_is_that_of_kalman(kind: str) -> None:
    """Against the closed form in double precision, everywhere, not at the points alone."""
    covariance, rng = _covariance(kind), np.random.default_rng(3)
    n = GRID.n_node * len(NAMES)
    eye = np.eye(n, dtype=np.float32).reshape(n, -1, len(NAMES)).swapaxes(0, 1)
    v = np.asarray(covariance(jnp.asarray(eye)), np.float64).swapaxes(0, 1).reshape(n, n)
    index = (NODES[:, None] * len(NAMES) + rng.integers(len(NAMES), size=(len(NODES), 2))).astype(
        np.int32
    )
    weight, value = rng.normal(size=index.shape), rng.normal(size=len(NODES))
    h = np.zeros((len(NODES), n))
    np.add.at(h, (np.arange(len(NODES))[:, None], index), weight)
    obs = Likelihood(
        jnp.asarray(value, jnp.float32),
        jnp.asarray(index),
        jnp.asarray(weight, jnp.float32),
        points=_points(NODES, len(NAMES)),
    )
    assert restricted(covariance, obs.points) is not None
    zero = jnp.zeros((GRID.n_node, 1, len(NAMES)))
    found = update(obs, covariance, zero, solver=TIGHT)
    gain = v @ h.T @ np.linalg.inv(h @ v @ h.T + np.eye(len(value)))
    expected = (gain @ value).reshape(-1, len(NAMES))
    np.testing.assert_allclose(found.increment[:, 0], expected, atol=2e-4 * np.abs(expected).max())
    pulled = np.asarray(covariance(found.pulled))
    np.testing.assert_allclose(pulled, found.increment, atol=2e-4 * np.abs(expected).max())


WARMTH = Operator(
    lambda s: jnp.hypot(s["2m_temperature"], s["temperature@500"]),
    inputs=("2m_temperature", "temperature@500"),
    units="K",
)
WAYS: dict[str, dict] = {
    "linear": {},
    "robust": {"quality": xdiffda.Quality(robust="huber")},
    "3dvar": {"method": xdiffda.ThreeDVar(solver=TIGHT)},
    "local function": {"operators": {"warmth": WARMTH}},
}


@pytest.mark.parametrize("way", list(WAYS))
def test_analyses_are_those_on_the_whole_grid(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, background = draw_states(make_small_prior(), seed=5)
    obs = to_tidy(emulate_obs(truth, n_columns=12, error_std=0.5, seed=1)).to_dataframe()
    if way == "local function":
        own = obs["variable"] == "2m_temperature"
        obs.loc[own, "value"] = np.hypot(obs.loc[own, "value"], 255.0)
        obs.loc[own, "variable"] = "warmth"
    made = []

    def analyse(make) -> xr.Dataset:
        def watched(*args, **sizes):
            made.append(make(*args, **sizes))
            return made[-1]

        monkeypatch.setattr(_departures, "points_of", watched)
        return xdiffda.assimilate(
            background,
            obs,
            model=make_small_prior(),
            n_members=2,
            background_error=1.0,
            progress=False,
            **({"method": xdiffda.Guided(solver=TIGHT)} | WAYS[way]),
        )

    found, expected = analyse(points_of), analyse(lambda *args, **sizes: None)
    assert made[0] is not None and made[-1] is None
    for name in found.data_vars:
        moved = float(np.abs(found[name] - background[name]).max())
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=5e-4 * moved)


def test_what_is_not_given_by_blocks_is_applied_on_the_whole_grid() -> None:
    points = _points(NODES, len(NAMES))
    covariance = _by_blocks("scalar")
    assert restricted(covariance, None) is None
    assert restricted(lambda x: x, points) is None
    drawable = SpectralCovariance.from_blocks(covariance.basis, np.asarray(covariance.blocks))
    assert restricted(drawable, points) is not None
    assert restricted(RescaledCovariance(lambda x: x, jnp.ones((624, 4))), points) is None


@pytest.mark.long
@given(st.lists(st.integers(0, N_LAT * N_LON - 1), min_size=1, max_size=40), st.integers(1, 3))
def test_every_element_has_a_slot_of_its_own(nodes: list[int], n_channel: int) -> None:
    own = np.array(nodes)
    points = _points(own, n_channel)
    most = np.bincount(np.unique(own) // N_LON).max()
    if points is None:
        assert most > 9  # rounded, over a quarter of 48
        return
    elements = own * n_channel + n_channel - 1
    found = np.asarray(points.elements(jnp.asarray(elements), n_channel))
    assert len(np.unique(found)) == len(np.unique(own))
    back = np.asarray(points.nodes)[found // n_channel] * n_channel + found % n_channel
    np.testing.assert_array_equal(back, elements)


def test_many_points_are_the_whole_grid() -> None:
    assert _points(np.arange(13), 1) is None
    assert _points(np.arange(12), 1) is not None
