"""3D-Var in observation space, behind ``method="3dvar"``, is that in control space."""

from __future__ import annotations

import dataclasses

import cycle_world as world
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.assimilation.baselines.three_d_var import three_d_var as in_control_space
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.kalman import Solver
from xdiffda.diffusion.likelihood import Likelihood, LocalRows
from xdiffda.diffusion.posterior import three_d_var as in_observation_space
from xdiffda.observations.nonlinear import LocalCall

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
