"""3D-Var in observation space, behind ``method="3dvar"``, is that in control space."""

from __future__ import annotations

import dataclasses

import cycle_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_world import ERRORS, draw_states, make_prior
from network_world import make_network_prior

import xdiffda
from xdiffda.assimilation.baselines.three_d_var import three_d_var as in_control_space
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood, LocalRows
from xdiffda.diffusion.posterior import three_d_var as in_observation_space
from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs
from xdiffda.observations.nonlinear import LocalCall
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, to_state

TIGHT = Solver(tolerance=1e-6, max_iterations=200)
N_OBS, N_CHANNEL, ERROR, N_OUTER = 20, world.LAYOUT.n_channel, 0.5, 3


def _observe(covariance: SpectralCovariance, *, linear: bool) -> Likelihood:
    """Differences, or lengths, of the vector of the first two channels of a truth drawn from B."""
    rng = np.random.default_rng(16)
    n_node = world.LAYOUT.grid.n_node
    nodes = rng.choice(n_node, N_OBS, replace=False)
    index = jnp.asarray(nodes[:, None] * N_CHANNEL + np.arange(2))
    weight, local = jnp.broadcast_to(jnp.array([1.0, -1.0]) / ERROR, (N_OBS, 2)), ()
    if not linear:
        inputs = (("u", 0), ("v", 0))
        call = LocalCall("length", lambda s: jnp.hypot(s["u"], s["v"]), inputs, (), ())
        local = (
            LocalRows(
                call,
                0,
                jnp.broadcast_to(jnp.array([4.0, -3.0]), (N_OBS, 2)),
                jnp.ones((N_OBS, 2, 1)),
                jnp.zeros((N_OBS, 0)),
                jnp.full(N_OBS, ERROR),
            ),
        )
        weight = local[0].weights(jnp.zeros(n_node * N_CHANNEL), index)
    blank = Likelihood(jnp.zeros(N_OBS), index, weight, local=local, updates=N_OUTER)
    truth = covariance.sample(jax.random.split(jax.random.key(2), 1))
    noise = jnp.asarray(rng.normal(size=N_OBS), jnp.float32)
    return dataclasses.replace(blank, value=blank.predict(truth)[:, 0] + noise)


@pytest.mark.long
@pytest.mark.parametrize("linear", [True, False])
def test_both_forms_of_3dvar_give_the_same_analysis(linear: bool) -> None:
    """Of a nonlinear H the steps of Gauss-Newton are the same in either space.

    As long as the form in control space, which looks along each step, finds the whole one best.
    """
    covariance = world.make_prior().covariance
    obs = _observe(covariance, linear=linear)
    primal = in_control_space(covariance, obs, n_outer=N_OUTER, solver=TIGHT)
    dual = in_observation_space(covariance, obs, solver=TIGHT)
    size = float(jnp.abs(dual).max())
    assert size > 0.5
    np.testing.assert_allclose(primal.z, dual, atol=1e-3 * size)
    if not linear:  # or this would show no more than the linear case
        once = dataclasses.replace(obs, updates=1)
        once = in_observation_space(covariance, once, solver=TIGHT)
        assert float(jnp.abs(once - dual).max()) > 0.05 * size


def test_around_the_network_it_is_3dvar_of_the_state_that_the_network_expects() -> None:
    """The increment is added to x_b + r s D, D the network's mean, with the covariance left."""
    network, r = make_network_prior(), 0.8
    truth, background = draw_states(make_prior(), seed=5)
    obs = emulate_obs(truth, n_columns=30, error_std=ERRORS, seed=1)
    fixed = {"background_error": r, "quality": False, "progress": False}
    x_b = to_state(background, network.layout)[0].reshape(network.scale.shape)
    zero = jnp.zeros((len(x_b), 1, x_b.shape[1]))
    prior = network.condition(x_b, background.time.values, r)
    expects = np.asarray(prior.denoise(zero, jnp.asarray(80.0)))[:, 0]
    moved = x_b + r * network.scale * expects
    assert np.abs(expects).max() > 0.1
    convention = default_convention(network.layout)
    there = from_state(moved, network.layout, convention).assign_coords(time=background.time)
    tight = Solver(tolerance=1e-6, max_iterations=200)
    method = xdiffda.ThreeDVar(around="network", solver=tight)
    found = xdiffda.assimilate(background, obs, model=network, method=method, **fixed)
    plain = xdiffda.ThreeDVar(solver=tight)
    expected = xdiffda.assimilate(there, obs, model=network.gaussian(), method=plain, **fixed)
    assert found.attrs["xdiffda_network_evaluations"] == 1 and found.sizes["member"] == 1
    off = (to_state(found)[0] - to_state(expected)[0]) / network.scale
    assert np.abs(off).max() < 2e-3
    with pytest.raises(InputError, match="around='forecast'"):
        xdiffda.ThreeDVar(around="forecast")
