"""4D: exact for a linear forecaster, an adjoint for the network, better than first guess."""

from __future__ import annotations

import json

import cycle_world as world
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.assimilation.innovations import observe
from xdiffda.cycling.four_d import assimilate_window
from xdiffda.cycling.observation_stream import emulated_stream
from xdiffda.cycling.rollout import Rollout
from xdiffda.cycling.window import TrajectoryRows, window_likelihood
from xdiffda.diffusion.posterior import three_d_var
from xdiffda.errors import InputError
from xdiffda.networks.graphcast.graph import build_graph
from xdiffda.networks.graphcast.network import GraphCast, NetworkConfig
from xdiffda.observations import to_tidy
from xdiffda.state.convert import to_state

N, C = world.LAYOUT.grid.n_node, world.LAYOUT.n_channel
QUICK = {"background_error": 1.0, "window": "12h"}


class Turn(eqx.Module):
    """The forecaster of the world on arrays: one meridian to the east."""

    def __call__(self, x, year):
        field = x.reshape(*world.LAYOUT.grid.shape, *x.shape[1:])
        return jnp.roll(field, 1, axis=1).reshape(x.shape)


@pytest.fixture(scope="module")
def setting():
    """Truth, background, and observations of three times, at new sites each time."""
    truth, background = world.make_states(4)
    stream = emulated_stream(truth, n_columns=12, error_std=world.ERRORS, seed=3, fixed_sites=False)
    obs = xr.concat([to_tidy(stream(time)) for time in truth.time.values[:3]], "obs")
    return world.make_prior(), truth, background, obs


def _array(ds: xr.Dataset) -> np.ndarray:
    return to_state(ds, world.LAYOUT)[0]


def _dense_kalman(prior, background, obs, model_error: float = 0.0) -> np.ndarray:
    """x_b + B G^T (G B G^T + R)^-1 (y - G x_b), G the turning followed by the grid point.

    The forecaster's error is one state drawn from B, counted once for every step.
    """
    eye = np.eye(N * C, dtype=np.float32).reshape(N, C, N * C).transpose(0, 2, 1)
    B = np.asarray(prior.covariance(eye), np.float64).transpose(0, 2, 1).reshape(N * C, N * C)
    s = prior.scale.reshape(-1).astype(np.float64)
    B = s[:, None] * B * s
    step = np.round((obs.time.values - world.START) / world.STEP).astype(int)
    grid = world.LAYOUT.grid
    lon = (obs.lon.values - 22.5 * step) % 360  # where the air was at the start
    node = np.argmin(
        np.abs(grid.node_lat - obs.lat.values[:, None]) + np.abs(grid.node_lon - lon[:, None]),
        axis=1,
    )
    level = [None if np.isnan(p) else int(p) for p in obs.level.values]
    channel = [
        world.LAYOUT.channel_index(v, p) for v, p in zip(obs.variable.values, level, strict=True)
    ]
    where = node * C + np.array(channel)
    x_b = _array(background).reshape(-1).astype(np.float64)
    S = B[np.ix_(where, where)] + np.diag(obs.error_std.values**2)
    late = (
        np.argmin(
            np.abs(grid.node_lat - obs.lat.values[:, None])
            + np.abs(grid.node_lon - obs.lon.values[:, None]),
            axis=1,
        )
        * C
        + channel
    )
    S += model_error**2 * np.outer(step, step) * B[np.ix_(late, late)]
    exact = x_b + B[:, where] @ np.linalg.solve(S, obs.value.values - x_b[where])
    return exact.reshape(N, C)


def test_4d_var_is_the_kalman_smoother(setting) -> None:
    prior, _, background, obs = setting
    found = assimilate_window(background, obs, model=prior, forward=Turn(), method="3dvar", **QUICK)
    exact = _dense_kalman(prior, background, obs)
    assert np.abs((_array(found)[0] - exact) / world.SCALE).max() < 0.01
    assert json.loads(found.attrs["xdiffda_observations_used"]) == [obs.sizes["obs"]]


@pytest.mark.long
def test_guided_members_are_drawn_around_it(setting) -> None:
    prior, _, background, obs = setting
    found = assimilate_window(
        background,
        obs,
        model=prior,
        forward=Turn(),
        n_members=16,
        method=xdiffda.Guided(max_batch=16, covariance="climatological", antithetic=False),
        **QUICK,
    )
    members = _array(found)
    exact = _dense_kalman(prior, background, obs)
    spread = members.std(0, ddof=1)
    off = (members.mean(0) - exact) / (spread / 4)
    assert np.sqrt(np.mean(off**2)) == pytest.approx(1.0, abs=0.35)  # sampling noise, no more


def test_the_window_helps_and_first_guess_at_appropriate_time_less(setting) -> None:
    prior, truth, background, obs = setting
    x_b, x_t = _array(background), _array(truth.isel(time=0))
    weight = world.LAYOUT.grid.area_weights()[:, None]

    def error(x):
        return np.sqrt(np.mean(weight * ((x - x_t) / world.SCALE) ** 2))

    whole = assimilate_window(background, obs, model=prior, forward=Turn(), method="3dvar", **QUICK)
    first = obs.isel(obs=np.flatnonzero(obs.time.values == world.START))
    alone = assimilate_window(
        background, first, model=prior, forward=Turn(), method="3dvar", **QUICK
    )
    states = [x_b]
    for _ in range(2):
        states.append(np.asarray(Turn()(jnp.asarray(states[-1])[:, None], None))[:, 0])
    times = world.START + np.arange(3) * world.STEP
    likelihood, r, _ = observe(
        obs,
        prior,
        x_b,
        world.START,
        window="36h",
        background_error=1.0,
        trajectory=(times, np.stack(states)),
    )
    z = np.asarray(three_d_var(prior.covariance, likelihood))[:, 0]
    fgat = x_b + r * prior.scale * z
    errors = [error(x) for x in (_array(whole)[0], _array(alone)[0], fgat, x_b)]
    assert errors[0] < 0.85 * min(errors[1:3]), errors


@pytest.mark.long
def test_tangent_and_adjoint_of_the_network() -> None:
    """The network has rules of its own for reverse mode only; both directions must agree."""
    network = GraphCast(
        NetworkConfig(n_inputs=C + 4, n_outputs=C, latent=8, processor_steps=1),
        key=jax.random.key(0),
    )
    graph = build_graph(np.array(world.LAT), np.array(world.LON), refinement=0)
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    rollout = Rollout(
        network, graph, draw(N, 2), jnp.zeros(C), jnp.ones(C), jnp.ones(C), world.LAYOUT
    )
    n_obs = 30
    rows = TrajectoryRows(
        0,
        n_obs,
        rollout,
        draw(2, 2),
        draw(N, C),
        jnp.ones((N, C)),
        jnp.asarray(rng.integers(0, 3, n_obs)),
        jnp.asarray(rng.integers(0, N * C, (n_obs, 2))),
        draw(n_obs, 2),
        jnp.ones(n_obs),
    )
    point, z, y = 0.3 * draw(N, C), draw(N, C), draw(n_obs)
    h = 1e-2

    @eqx.filter_jit
    def compute(own: TrajectoryRows):
        ahead, behind = jax.lax.map(own.predict, jnp.stack([point + h * z, point - h * z]))
        return own.push(z, point), own.pull(y, point), (ahead - behind) / (2 * h)

    pushed, pulled, slope = compute(rows)
    np.testing.assert_allclose(jnp.vdot(pushed, y), jnp.vdot(z, pulled), rtol=1e-3)
    assert np.abs(pushed - slope).max() < 0.02 * np.abs(slope).max()


def test_the_order_of_the_table_does_not_matter_and_what_is_outside_is_counted(setting) -> None:
    prior, _, background, obs = setting
    x_b = _array(background)
    order = np.random.default_rng(0).permutation(obs.sizes["obs"])
    far = obs.isel(obs=[0]).assign_coords(time=("obs", [world.START + 9 * world.STEP]))
    options = {"n_windows": 2, "background_error": 1.0}
    a, _, _ = window_likelihood(Turn(), prior, x_b, world.START, obs, **options)
    b, _, record = window_likelihood(
        Turn(), prior, x_b, world.START, xr.concat([obs.isel(obs=order), far], "obs"), **options
    )
    np.testing.assert_array_equal(a.value, b.value)
    assert record["rejected"] == {"outside the window": 1}


def test_the_scale_of_the_error_is_estimated(setting) -> None:
    prior, truth, background, obs = setting
    halfway = background + 0.5 * (truth.isel(time=0, drop=True) - background)
    halfway = halfway.assign_coords(time=world.START)
    r = [
        window_likelihood(Turn(), prior, _array(b), world.START, obs, n_windows=2)[1]
        for b in (background, halfway)
    ]
    assert r[1] / r[0] == pytest.approx(0.5, abs=0.12)


def test_an_imperfect_forecaster_is_not_bent_to_the_observations(setting) -> None:
    """A constant drift of the forecaster: with its size known, the analysis follows it less."""

    class Drifting(Turn):
        def __call__(self, x, year):
            return super().__call__(x, year) + jnp.asarray(world.SCALE, jnp.float32)

    prior, truth, background, obs = setting
    x_t = _array(truth.isel(time=0))
    errors = [
        np.sqrt(
            np.mean(
                (
                    (
                        _array(
                            assimilate_window(
                                background,
                                obs,
                                model=prior,
                                forward=Drifting(),
                                method="3dvar",
                                model_error=q,
                                **QUICK,
                            )
                        )[0]
                        - x_t
                    )
                    / world.SCALE
                )
                ** 2
            )
        )
        for q in (0.0, 1.0)
    ]
    assert errors[1] < 0.75 * errors[0], errors


def test_the_forecasters_error_is_shared_by_neighbours(setting) -> None:
    """Exact where the forecaster's error is drawn from B: Kalman with its full covariance."""
    prior, _, background, obs = setting
    found = assimilate_window(
        background, obs, model=prior, forward=Turn(), method="3dvar", model_error=0.5, **QUICK
    )
    exact = _dense_kalman(prior, background, obs, model_error=0.5)
    assert np.abs((_array(found)[0] - exact) / world.SCALE).max() < 0.01
    plain = _dense_kalman(prior, background, obs)
    assert np.abs((plain - exact) / world.SCALE).max() > 0.1


def test_errors_of_a_state_are_drawn_with_their_covariance(setting) -> None:
    prior, _, background, obs = setting
    likelihood, _, _ = window_likelihood(
        Turn(),
        prior,
        _array(background),
        world.START,
        obs,
        n_windows=2,
        background_error=1.0,
        model_error=1.0,
    )
    rows = np.array([40, 41, 80, 100])  # of the second and third time
    unit = jnp.zeros((likelihood.n_obs, 4)).at[rows, np.arange(4)].set(1.0)
    expected = np.asarray(likelihood.correlated(unit))[rows]
    drawn = np.asarray(likelihood.draw_errors(jax.random.split(jax.random.key(3), 4000)))[rows]
    error = np.cov(drawn) - expected
    size = np.sqrt(np.diag(expected))
    assert np.abs(error / size / size[:, None]).max() < 0.07  # 4 standard errors of 4,000 draws
    assert expected[0, 0] > 2  # the independent part is 1


def test_first_guess_at_appropriate_time_is_what_assimilate_has(setting) -> None:
    """Through its own likelihood, and with observations of the start alone."""
    prior, _, background, obs = setting
    options = {"model": prior, "method": "3dvar", "forward": Turn(), **QUICK}
    x_b = _array(background)
    states = [x_b]
    for _ in range(2):
        states.append(np.asarray(Turn()(jnp.asarray(states[-1])[:, None], None))[:, 0])
    times = world.START + np.arange(3) * world.STEP
    for dynamics, trajectory in (("fgat", (times, np.stack(states))), ("none", None)):
        likelihood, r, _ = observe(
            obs,
            prior,
            x_b,
            world.START,
            window="36h",
            background_error=1.0,
            trajectory=trajectory,
        )
        z = np.asarray(three_d_var(prior.covariance, likelihood))[:, 0]
        found = assimilate_window(
            background,
            obs,
            dynamics=dynamics,
            quality=xdiffda.Quality(gross_check=np.inf),
            **options,
        )
        off = (_array(found)[0] - x_b - r * prior.scale * z) / world.SCALE
        assert np.abs(off).max() < 0.01
    first = obs.isel(obs=np.flatnonzero(obs.time.values == world.START))
    alone = assimilate(
        background, first, model=prior, method="3dvar", background_error=1.0, progress=False
    )
    for dynamics in ("forecaster", "fgat", "none"):
        found = assimilate_window(background, first, dynamics=dynamics, **options)
        assert np.abs((_array(found) - _array(alone)) / world.SCALE).max() < 0.01


def test_steps_computed_again_give_the_same(setting) -> None:
    prior, _, background, obs = setting
    options = {"model": prior, "method": "3dvar", "forward": Turn(), **QUICK}
    kept, again = (assimilate_window(background, obs, remat=on, **options) for on in (False, True))
    np.testing.assert_allclose(_array(kept), _array(again), rtol=1e-5)


def test_the_attributes_say_how_it_was_made(setting) -> None:
    prior, _, background, obs = setting
    found = assimilate_window(
        background,
        obs,
        model=prior,
        forward=Turn(),
        method="3dvar",
        dynamics="fgat",
        model_error=0.25,
        seed=3,
        **QUICK,
    )
    how = json.loads(found.attrs["xdiffda_settings"])
    assert how["window"] == "12h" and how["model_error"] == 0.25 and how["seed"] == 3
    assert found.attrs["xdiffda_method"] == "FGAT 3dvar"
    assert found.attrs["xdiffda_version"] and found.attrs["xdiffda_jax_version"]
    assert 0 <= json.loads(found.attrs["xdiffda_solver_residual"])[0] < 1e-2
    assert found["time"].values == background["time"].values  # valid at the start


def test_pairs_of_members_have_a_mean_without_sampling_error(setting) -> None:
    prior, _, background, obs = setting
    found = _array(
        assimilate_window(
            background,
            obs,
            model=prior,
            forward=Turn(),
            n_members=2,
            method=xdiffda.Guided(covariance="climatological"),
            **QUICK,
        )
    )
    exact = _dense_kalman(prior, background, obs)
    assert np.abs((found.mean(0) - exact) / world.SCALE).max() < 0.06
    assert np.abs((found[0] - exact) / world.SCALE).max() > 0.3


def test_what_does_not_fit_is_named(setting) -> None:
    prior, _, background, obs = setting
    with pytest.raises(InputError, match="(?s)5 problems.*'magic'.*'7h'.*'4d'.*-1.*n_members=0"):
        assimilate_window(
            background,
            obs,
            model=prior,
            forward=Turn(),
            method="magic",
            window="7h",
            dynamics="4d",
            model_error=-1.0,
            n_members=0,
        )
    late = obs.assign_coords(time=obs.time + np.timedelta64(5, "D"))
    with pytest.raises(InputError, match="observations within 2020-01-15T09:00 to 2020-01-16T03"):
        assimilate_window(background, late, model=prior, forward=Turn())
    with pytest.raises(InputError, match="one state with its time"):
        assimilate_window(background.drop_vars("time"), obs, model=prior, forward=Turn())
