"""Guidance with V from the denoiser's own derivative, V = sigma^2 J^T (moment matching).

Rozet et al. (2024), arXiv 2405.13712. Exact for Gaussian priors; one reverse derivative of the
network for each iteration of the solver.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from xdiffda.diffusion.kalman import Covariance, Solver, Update, update
from xdiffda.diffusion.likelihood import Likelihood, State

ITERATIONS = 16  # of GMRES, unless the solver says otherwise


def guide_by_jacobian(
    denoise: Callable[[Array, Array], Array],
    likelihood: Likelihood,
    z: State,
    sigma: Array,
    *,
    noise_covariance: Covariance | None = None,
    solver: Solver = Solver(),
) -> tuple[State, Array]:
    """The estimate given the observations, and the relative residual (member,) of each solve.

    Parameters
    ----------
    noise_covariance : callable, optional
        N, the covariance of the sampler's unit noise on the grid: V = sigma^2 N J^T. Y Y^T for
        noise white on the sphere; default the identity.
    """
    if not solver.minimal_residual:
        solver = solver._replace(minimal_residual=min(ITERATIONS, solver.max_iterations))
    estimate, transpose = jax.vjp(lambda z: denoise(z, sigma), z)
    variance = jnp.square(sigma)

    def own_update(member: Array) -> Update:
        def apply(state: State) -> State:
            padded = jnp.zeros_like(z).at[:, member].set(state[:, 0])
            back = transpose(padded)[0][:, member][:, None]
            return variance * (noise_covariance(back) if noise_covariance else back)

        own = jax.lax.dynamic_slice_in_dim(estimate, member, 1, axis=1)
        # the Jacobian does not tell its diagonal: that of a unit prior stands in
        expected = jnp.full(z.shape[2], variance / (1 + variance))
        return update(likelihood, apply, own, solver=solver, variance=expected, member=member)

    steps = [own_update(jnp.array(m)) for m in range(z.shape[1])]
    increment = jnp.concatenate([step.increment for step in steps], axis=1)
    return estimate + increment, jnp.concatenate([step.residual for step in steps])
