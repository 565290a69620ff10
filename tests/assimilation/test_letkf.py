"""LETKF against the Kalman filter in ensemble space, its localisation, its inflation."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.assimilation.baselines import letkf
from xdiffda.assimilation.baselines.letkf import (
    Inflation,
    adapted_factor,
    departures,
    ensemble_transform,
    local_analysis,
)
from xdiffda.covariance.localisation import Localisation, Places, gaspari_cohn, places_of
from xdiffda.errors import InputError
from xdiffda.observations.operators import ObsVector
from xdiffda.state.grid import Grid, Layout

GRID = Grid(tuple(np.linspace(-78.75, 78.75, 8).tolist()), tuple((np.arange(16) * 22.5).tolist()))
LAYOUT = Layout(GRID, ("2m_temperature", "temperature", "u_component_of_wind"), (300, 850))
SHAPE = (GRID.n_node, LAYOUT.n_channel)
EVERYWHERE = Localisation(length_km=np.inf, length_log_p=np.inf)
N = 9


@pytest.fixture(scope="module")
def ensemble() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(SHAPE[1], SHAPE[1])) / 2
    return (rng.normal(size=(N, *SHAPE)) @ mixing + 270.0).astype(np.float32)


def _observe(seed: int, n: int, terms: int = 3) -> ObsVector:
    """Random linear observations: weighted sums of a few numbers of the state."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, SHAPE[0] * SHAPE[1], size=(n, terms)).astype(np.int32)
    weight = rng.dirichlet(np.ones(terms), size=n).astype(np.float32)
    value = (270 + rng.normal(size=n)).astype(np.float32)
    error = rng.uniform(0.5, 2.0, size=n).astype(np.float32)
    return ObsVector(*map(jnp.asarray, (value, error, index, weight)), SHAPE)


def _kalman(ensemble: np.ndarray, obs: ObsVector) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the update with P = X X^T / (N - 1), by dense algebra."""
    x = ensemble.reshape(N, -1).astype(np.float64)
    h = np.zeros((obs.n_obs, x.shape[1]))
    np.add.at(h, (np.arange(obs.n_obs)[:, None], np.asarray(obs.index)), np.asarray(obs.weight))
    p = np.cov(x.T)
    gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + np.diag(np.asarray(obs.error_std, float) ** 2))
    mean = x.mean(0)
    return mean + gain @ (np.asarray(obs.value) - h @ mean), p - gain @ h @ p


def test_everywhere_it_is_the_kalman_update_in_ensemble_space(ensemble: np.ndarray) -> None:
    obs = _observe(1, 50)
    out = letkf(ensemble, obs, LAYOUT, localisation=EVERYWHERE).ensemble.reshape(N, -1)
    mean, covariance = _kalman(ensemble, obs)
    np.testing.assert_allclose(out.mean(0, dtype=float), mean, atol=2e-4)
    np.testing.assert_allclose(np.cov(out.T.astype(float)), covariance, atol=1e-3)


def test_the_transform_is_the_symmetric_root() -> None:
    """W = (I + Y^T Y / (N - 1))^(-1/2): of all roots the closest to the identity."""
    y = np.random.default_rng(2).normal(size=(12, N))
    y -= y.mean(1, keepdims=True)
    found = np.asarray(ensemble_transform(jnp.asarray(y), jnp.zeros(12), jnp.ones(12)))
    values, vectors = np.linalg.eigh(np.eye(N) + y.T @ y / (N - 1))
    np.testing.assert_allclose(found, vectors / np.sqrt(values) @ vectors.T, atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-5)  # the mean is kept


def test_members_are_the_mean_plus_transformed_perturbations(ensemble: np.ndarray) -> None:
    """Members of the whole analysis, not only their moments, from dense weights."""
    obs = _observe(3, 50)
    x = ensemble.reshape(N, -1).astype(float)
    h = np.zeros((50, x.shape[1]))
    np.add.at(h, (np.arange(50)[:, None], np.asarray(obs.index)), np.asarray(obs.weight))
    y = (h @ (x - x.mean(0)).T) / np.asarray(obs.error_std)[:, None]
    d = (np.asarray(obs.value) - h @ x.mean(0)) / np.asarray(obs.error_std)
    p = np.linalg.inv((N - 1) * np.eye(N) + y.T @ y)
    values, vectors = np.linalg.eigh((N - 1) * p)
    weights = (p @ y.T @ d)[:, None] + vectors * np.sqrt(values) @ vectors.T
    expected = x.mean(0) + weights.T @ (x - x.mean(0))
    out = letkf(ensemble, obs, LAYOUT, localisation=EVERYWHERE).ensemble
    np.testing.assert_allclose(out.reshape(N, -1), expected, atol=5e-4)


def test_chunks_do_not_matter(ensemble: np.ndarray) -> None:
    obs, near = _observe(4, 50, terms=1), Localisation(length_km=1200.0)
    expected = letkf(ensemble, obs, LAYOUT, localisation=near).ensemble
    found = letkf(ensemble, obs, LAYOUT, localisation=near, memory_mb=0.05).ensemble
    np.testing.assert_allclose(found, expected, atol=1e-4)


def _single(node: int, channel: int, **changes: object) -> ObsVector:
    index = np.array([[node * SHAPE[1] + channel]], np.int32)
    obs = ObsVector(
        jnp.array([273.0]), jnp.array([1.0]), jnp.asarray(index), jnp.ones((1, 1)), SHAPE
    )
    return dataclasses.replace(obs, **changes) if changes else obs


def test_one_observation_acts_within_the_cut_off_only(ensemble: np.ndarray) -> None:
    """And there by the formula of one observation: K = cov(x, y) rho / (var(y) rho + R)."""
    node, channel = 5 * 16 + 3, LAYOUT.channel_index("temperature", 850)
    local = Localisation(length_km=900.0, length_log_p=0.35)
    obs = _single(node, channel)
    increment = letkf(ensemble, obs, LAYOUT, localisation=local).ensemble - ensemble
    lat, lon = np.deg2rad(GRID.node_lat), np.deg2rad(GRID.node_lon)
    cosine = np.sin(lat) * np.sin(lat[node])
    cosine += np.cos(lat) * np.cos(lat[node]) * np.cos(lon - lon[node])
    distance = 6371.0 * np.arccos(np.clip(cosine, -1, 1))
    height = np.log([1000.0 if p is None else p for _, p in LAYOUT.channels])
    rho = gaspari_cohn(distance, 900.0)[:, None] * gaspari_cohn(
        np.abs(height - np.log(850.0)), 0.35
    )
    assert (rho[:, LAYOUT.channel_index("temperature", 300)] > 0).any()  # 1.04 < 3.65 * 0.35
    x = ensemble.astype(float)
    y = x[:, node, channel]
    covariance = np.einsum("mnc,m->nc", x - x.mean(0), y - y.mean()) / (N - 1)
    expected = covariance * rho / (y.var(ddof=1) * rho + 1.0) * (273.0 - y.mean())
    np.testing.assert_allclose(increment.mean(0, dtype=float), expected, atol=2e-4)
    assert np.abs(increment[:, rho == 0]).max() < 1e-4
    assert np.abs(increment[:, distance > local.cutoff_km]).max() < 1e-4
    assert (distance < local.cutoff_km).sum() > 5


def test_permuting_observations_changes_nothing(ensemble: np.ndarray) -> None:
    obs, near = _observe(5, 50, terms=1), Localisation(length_km=1500.0)
    order = np.random.default_rng(6).permutation(50)
    other = ObsVector(
        obs.value[order], obs.error_std[order], obs.index[order], obs.weight[order], SHAPE
    )
    np.testing.assert_allclose(
        letkf(ensemble, obs, LAYOUT, localisation=near).ensemble,
        letkf(ensemble, other, LAYOUT, localisation=near).ensemble,
        atol=2e-4,
    )


def test_rolling_longitude_rolls_the_analysis(ensemble: np.ndarray) -> None:
    obs, near = _observe(7, 50, terms=1), Localisation(length_km=1500.0)
    node, channel = np.divmod(np.asarray(obs.index), SHAPE[1])
    rolled = node // 16 * 16 + (node % 16 + 5) % 16
    other = dataclasses.replace(obs, index=jnp.asarray(rolled * SHAPE[1] + channel))

    def roll(x: np.ndarray) -> np.ndarray:
        return np.roll(x.reshape(N, 8, 16, -1), 5, axis=2).reshape(x.shape)

    first = letkf(ensemble, obs, LAYOUT, localisation=near).ensemble
    assert np.abs(first - ensemble).max() > 0.5
    second = letkf(roll(ensemble), other, LAYOUT, localisation=near).ensemble
    np.testing.assert_allclose(second, roll(first), atol=2e-4)


def test_infinite_errors_and_filled_up_observations_change_nothing(ensemble: np.ndarray) -> None:
    obs = _observe(8, 50)
    padded = obs.padded(60)
    blind = dataclasses.replace(padded, error_std=padded.error_std.at[:50].set(jnp.inf))
    out = letkf(ensemble, blind, LAYOUT).ensemble
    np.testing.assert_allclose(out, ensemble, atol=1e-4)
    np.testing.assert_allclose(
        letkf(ensemble, padded, LAYOUT).ensemble, letkf(ensemble, obs, LAYOUT).ensemble, atol=1e-4
    )


def test_most_observations_means_the_nearest(ensemble: np.ndarray) -> None:
    """Two of one channel, one cell and three cells away: the far one is left out."""
    base, channel = 4 * 16 + 8, 0
    index = np.array([[(base + 3) * SHAPE[1]], [(base + 1) * SHAPE[1]]], np.int32) + channel
    obs = ObsVector(
        jnp.array([275.0, 268.0]), jnp.ones(2), jnp.asarray(index), jnp.ones((2, 1)), SHAPE
    )
    wide = Localisation(length_km=3000.0)
    found = letkf(ensemble, obs, LAYOUT, localisation=dataclasses.replace(wide, max_obs=1))
    near = letkf(
        ensemble, _single(base + 1, channel, value=jnp.array([268.0])), LAYOUT, localisation=wide
    )
    np.testing.assert_allclose(found.ensemble[:, base], near.ensemble[:, base], atol=1e-4)


def test_groups_of_variables_are_kept_apart(ensemble: np.ndarray) -> None:
    local = Localisation(variables=(("u_component_of_wind",),))
    obs = _single(40, LAYOUT.channel_index("temperature", 850))
    moved = np.abs(letkf(ensemble, obs, LAYOUT, localisation=local).ensemble - ensemble).max((0, 1))
    assert moved[LAYOUT.channel_slice("u_component_of_wind")].max() < 1e-4
    assert moved[LAYOUT.channel_slice("temperature")].max() > 0.05


def test_places_follow_from_what_observations_see() -> None:
    """Half way between two columns and two levels; at the surface the height is NaN."""
    high, low = (LAYOUT.channel_index("temperature", p) for p in (300, 850))
    node = 3 * 16 + 2
    index = [
        [node * 5 + high, (node + 1) * 5 + high, node * 5 + low, (node + 1) * 5 + low],
        [node * 5, node * 5, node * 5, node * 5],
    ]
    weight = [[0.25] * 4, [1.0, 0.0, 0.0, 0.0]]
    obs = ObsVector(jnp.ones(2), jnp.ones(2), jnp.asarray(index), jnp.asarray(weight), SHAPE)
    places = places_of(obs, LAYOUT)
    np.testing.assert_allclose(np.mod(places.lon, 360), [56.25, 45.0], atol=1e-4)
    np.testing.assert_allclose(places.lat[1], GRID.lat[3], atol=1e-4)
    np.testing.assert_allclose(places.log_pressure[0], np.log(300 * 850) / 2, atol=1e-6)
    assert np.isnan(places.log_pressure[1])


def test_nonlinear_observations_enter_by_what_members_show(ensemble: np.ndarray) -> None:
    """A linear H given as a table of members is the same as its weights."""
    obs = _observe(9, 50)
    seen = np.asarray(obs.apply(ensemble.astype(np.float32)))
    one = letkf(ensemble, obs, LAYOUT, localisation=EVERYWHERE).ensemble
    other = letkf(ensemble, obs, LAYOUT, localisation=EVERYWHERE, seen=seen).ensemble
    np.testing.assert_allclose(one, other, atol=5e-4)


def test_multiplicative_inflation_is_a_larger_background_covariance(ensemble: np.ndarray) -> None:
    obs, inflation = _observe(10, 50), Inflation(factor=1.5)
    wide = ensemble.mean(0) + np.sqrt(1.5) * (ensemble - ensemble.mean(0))
    found = letkf(ensemble, obs, LAYOUT, localisation=EVERYWHERE, inflation=inflation).ensemble
    expected = letkf(wide, obs, LAYOUT, localisation=EVERYWHERE).ensemble
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_relaxation_to_spread_and_to_perturbations(ensemble: np.ndarray, alpha: float) -> None:
    obs = _observe(11, 200, terms=1)

    def run(i):
        return letkf(
            ensemble, obs, LAYOUT, localisation=Localisation(600.0, 0.4), inflation=i
        ).ensemble.astype(float)

    plain, before = run(Inflation()), ensemble.astype(float)
    assert (plain.std(0) < before.std(0) * (1 + 1e-4)).all()  # no observation adds spread
    assert (plain.std(0) / before.std(0)).mean() < 0.95
    spread = run(Inflation(rtps=alpha)).std(0)
    np.testing.assert_allclose(
        spread, alpha * before.std(0) + (1 - alpha) * plain.std(0), rtol=2e-3
    )
    members = run(Inflation(rtpp=alpha))
    own, old = plain - plain.mean(0), before - before.mean(0)
    np.testing.assert_allclose(members, plain.mean(0) + (1 - alpha) * own + alpha * old, atol=1e-3)


def test_adaptive_factor_is_the_formula_and_finds_a_known_deficit() -> None:
    """Members with half the true variance: the factor goes to 2, and stays there."""
    rng, n_obs = np.random.default_rng(12), 60
    inflation = Inflation(adaptive=True)
    seen = rng.normal(size=(n_obs, 20))
    seen -= seen.mean(1, keepdims=True)
    taper = rng.uniform(0.2, 1.0, n_obs)
    variance = seen.var(1, ddof=1)
    d = rng.normal(size=n_obs) * np.sqrt(1 + 2 * variance)
    args = (jnp.asarray(seen), jnp.asarray(d), jnp.asarray(taper))
    first = float(adapted_factor(*args, jnp.array(1.2), inflation))
    count, spread = taper.sum(), taper @ variance
    estimate = (taper @ d**2 - count) / spread
    error = 2 / count * ((1.2 * spread + count) / spread) ** 2
    weight = 0.04**2 / (0.04**2 + error)
    assert first == pytest.approx(1.2 + weight * (estimate - 1.2), rel=1e-4)
    factor, history = jnp.array(1.0), []
    for _ in range(1500):
        d = rng.normal(size=n_obs) * np.sqrt(1 + 2 * variance)
        factor = _adapt(args[0], jnp.asarray(d), args[2], factor, inflation)
        history.append(float(factor))
    assert np.mean(history[-500:]) == pytest.approx(2.0, abs=0.15)


def _adapt(*args: object) -> object:
    import equinox as eqx

    return eqx.filter_jit(adapted_factor)(*args)


def test_the_factor_is_carried_where_there_are_observations(ensemble: np.ndarray) -> None:
    inflation = Inflation(factor=1.1, adaptive=True)
    obs = _single(5 * 16 + 3, 0)
    local = Localisation(length_km=500.0, length_log_p=0.04)
    factor = letkf(ensemble, obs, LAYOUT, localisation=local, inflation=inflation).factor
    assert factor.shape == SHAPE
    changed = factor != np.float32(1.1)
    assert changed[5 * 16 + 3, 0] and not changed[:, 1:].any() and changed.sum() < 30
    again = letkf(
        ensemble, obs, LAYOUT, localisation=local, inflation=inflation, factor=factor
    ).factor
    assert abs(again - factor)[5 * 16 + 3, 0] > 0
    np.testing.assert_array_equal(again[~changed], factor[~changed])


def test_patches_are_independent_of_each_other(ensemble: np.ndarray) -> None:
    obs = _observe(13, 12)
    d = departures(jnp.asarray(obs.apply(ensemble)), obs.value, obs.error_std)
    near = np.tile(np.arange(12), (SHAPE[0], 1))
    taper = np.random.default_rng(14).uniform(size=near.shape).astype("f4")
    ones = jnp.ones(SHAPE[0])
    whole, _ = local_analysis(jnp.asarray(ensemble), d, jnp.asarray(near), jnp.asarray(taper), ones)
    part, _ = local_analysis(
        jnp.asarray(ensemble[:, 7:9]), d, jnp.asarray(near[7:9]), jnp.asarray(taper[7:9]), ones[:2]
    )
    np.testing.assert_allclose(whole[:, 7:9], part, atol=1e-4)


def test_bad_input_is_told_all_at_once(ensemble: np.ndarray) -> None:
    obs = _observe(15, 10)
    bad = dataclasses.replace(obs, error_std=obs.error_std.at[3].set(-1.0))
    with pytest.raises(InputError, match=r"(?s)3 problems.*2 or more.*not positive.*vorticity"):
        letkf(ensemble[:1], bad, LAYOUT, localisation=Localisation(variables=(("vorticity",),)))
    places = Places(np.full(10, 95.0), np.zeros(10), np.zeros(10))
    with pytest.raises(InputError, match=r"(?s)places.*seen of shape.*inflation of shape"):
        letkf(ensemble, obs, LAYOUT, places=places, seen=np.zeros((2, 2)), factor=np.ones(3))
    with pytest.raises(InputError, match=r"(?s)length_km.*max_obs.*one group"):
        Localisation(length_km=-1.0, max_obs=0, variables=(("a",), ("a",)))
    with pytest.raises(InputError, match=r"(?s)factor.*rtpp"):
        Inflation(factor=0.0, rtpp=2.0)


def test_the_taper_is_gaspari_and_cohns() -> None:
    """Their function at multiples of c, and its length that of a Gaussian."""
    c = np.sqrt(10 / 3)
    found = gaspari_cohn(np.array([0.0, 0.5, 1.0, 1.5, 2.0, 9.0]) * c, 1.0)
    np.testing.assert_allclose(found, [1, 0.68489583, 5 / 24, 0.0164930556, 0, 0], atol=1e-7)
    r = np.array([1e-3, 2e-3])
    np.testing.assert_allclose((1 - gaspari_cohn(r, 1.0)) / (r**2 / 2), 1.0, rtol=1e-2)
    assert (gaspari_cohn(np.array([0.0, 1e9]), np.inf) == 1).all()
