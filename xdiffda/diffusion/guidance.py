"""Guidance by observations: one Kalman update of the denoiser's estimate per noise level.

With the likelihood y | x ~ N(H x, R) and the Gaussian approximation
p(z0 | z_sigma) = N(D, V) the posterior mean is

    D_y = D + V H^T (R + H V H^T)^-1 (y - H D),

solved in observation space by conjugate gradients, whitened by R^-1/2.  Rozet et al.
(2024), arXiv 2405.13712 (moment matching: V = sigma^2 J^T); the spectral V are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from xdiffda.covariance import CovarianceTable, SpectralCovariance

State = Float[Array, "node member channel"]
Covariance = Callable[[State], State]


class Solver(NamedTuple):
    """Conjugate gradients: stop at a relative residual or at a number of iterations."""

    tolerance: float = 1e-3
    max_iterations: int = 100


class Draws(NamedTuple):
    """Random numbers of members: a key each, and the sign its perturbations take.

    Two members of one key and opposite signs are antithetic: each is a draw from the
    posterior, and their mean is free of sampling error as far as the problem is linear.
    """

    keys: Array
    signs: Float[Array, " member"]


def make_draws(key: Array, members: Array, *, antithetic: bool = False) -> Draws:
    """Keys of members by their numbers: member i is the same whatever stands beside it."""
    numbers = members // 2 if antithetic else members
    signs = jnp.where(members % 2 == 1, -1.0, 1.0) if antithetic else jnp.ones(members.shape)
    return Draws(jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers), signs)


def split_keys(keys: Array) -> tuple[Array, Array]:
    """Split every key in two."""
    both = jax.vmap(lambda k: jax.random.split(k))(keys)
    return both[:, 0], both[:, 1]


class Likelihood(eqx.Module):
    """Whitened linear observations of z: ``value ~ N(operator z, I)``.

    Attributes
    ----------
    value : array (obs,) or (obs, member)
        Innovation divided by the error's standard deviation.
    index : int array (obs, point)
        Elements of the flattened (node, channel) state behind each observation.
    weight : array (obs, point)
        Interpolation weight times scale of z divided by error.
    """

    value: Float[Array, "obs ..."]
    index: Array
    weight: Float[Array, "obs point"]

    def apply(self, z: State) -> Float[Array, "obs member"]:
        """Return H z in units of the observation error."""
        node, member, channel = z.shape
        flat = jnp.moveaxis(z, 1, 2).reshape(node * channel, member)
        return jnp.einsum("opm,op->om", flat[self.index], self.weight)

    def adjoint(self, y: Float[Array, "obs member"], shape: tuple[int, int, int]) -> State:
        """Return H^T y on a state of ``shape``."""
        node, member, channel = shape
        spread = (self.weight[:, :, None] * y[:, None]).reshape(-1, member)
        flat = jax.ops.segment_sum(spread, self.index.reshape(-1), node * channel)
        return jnp.moveaxis(flat.reshape(node, channel, member), 2, 1)


def kalman_increment(
    likelihood: Likelihood, covariance: Covariance, innovation: Array, shape: tuple, solver: Solver
) -> tuple[State, Float[Array, " member"]]:
    """Return ``V H^T (I + H V H^T)^-1 innovation`` and the relative residual of the solve.

    Parameters
    ----------
    likelihood : Likelihood
    covariance : callable
        Applies V to a state (node, member, channel).
    innovation : array (obs, member)
        Whitened.
    shape : tuple
        (node, member, channel).
    solver : Solver
    """
    node, _, channel = shape

    def system(y: Float[Array, " obs"]) -> Float[Array, " obs"]:
        state = covariance(likelihood.adjoint(y[:, None], (node, 1, channel)))
        return y + likelihood.apply(state)[:, 0]

    def solve(b: Float[Array, " obs"]) -> tuple[Array, Array]:
        y, _ = cg(system, b, tol=solver.tolerance, maxiter=solver.max_iterations)
        residual = jnp.linalg.norm(system(y) - b) / jnp.maximum(jnp.linalg.norm(b), 1e-30)
        return y, residual

    # one solve per member, so that a member never depends on the others beside it
    dual, residual = jax.vmap(solve, in_axes=1, out_axes=(1, 0))(innovation)
    return covariance(likelihood.adjoint(dual, shape)), residual


def guide(
    denoise: Callable[[Array, Array], Array],
    likelihood: Likelihood,
    covariance: Callable[[Array], Covariance] | None,
    *,
    noise_covariance: Covariance | None = None,
    solver: Solver = Solver(),
) -> Callable[[Array, Array], Array]:
    """Wrap a denoiser by observations; the result is itself a denoiser.

    Parameters
    ----------
    denoise : callable (z, sigma) -> estimate
    likelihood : Likelihood
    covariance : callable sigma -> V, or None
        None takes V = sigma^2 N J^T from the denoiser itself (exact for Gaussian priors,
        one reverse derivative of the network for each iteration of the solver).
    noise_covariance : callable, optional
        N, the covariance of the sampler's unit noise on the grid, which that V needs:
        Y Y^T for noise white on the sphere; default the identity.
    solver : Solver

    Returns
    -------
    callable (z, sigma) -> estimate of the posterior mean
    """

    def with_jacobian(z: State, sigma: Array) -> State:
        estimate, transpose = jax.vjp(lambda z: denoise(z, sigma), z)
        variance = jnp.square(sigma)

        def update(member: Array) -> State:
            def apply(state: State) -> State:
                padded = jnp.zeros_like(z).at[:, member].set(state[:, 0])
                back = transpose(padded)[0][:, member][:, None]
                return variance * (noise_covariance(back) if noise_covariance else back)

            own = jax.lax.dynamic_slice_in_dim(estimate, member, 1, axis=1)
            innovation = _innovation(likelihood, own, member)
            return kalman_increment(likelihood, apply, innovation, own.shape, solver)[0]

        steps = [update(jnp.array(m)) for m in range(z.shape[1])]
        return estimate + jnp.concatenate(steps, axis=1)

    def with_covariance(z: State, sigma: Array) -> State:
        assert covariance is not None
        estimate = denoise(z, sigma)
        innovation = _innovation(likelihood, estimate)
        increment, _ = kalman_increment(likelihood, covariance(sigma), innovation, z.shape, solver)
        return estimate + increment

    return with_jacobian if covariance is None else with_covariance


def _innovation(likelihood: Likelihood, estimate: State, member: Array | None = None) -> Array:
    value = likelihood.value
    if value.ndim == 2 and member is not None:
        value = jax.lax.dynamic_slice_in_dim(value, member, 1, axis=1)
    return (value if value.ndim == 2 else value[:, None]) - likelihood.apply(estimate)


def diagonal_covariance(sigma: Array) -> Covariance:
    """V = sigma^2 / (1 + sigma^2) I, the cheap choice (Song et al. 2023, PiGDM)."""
    variance = jnp.square(sigma) / (1 + jnp.square(sigma))
    return lambda state: variance * state


def choose_covariance(
    name: str, climatology: SpectralCovariance, table: CovarianceTable | None
) -> Callable[[Array], Covariance] | None:
    """Return sigma -> V by its name.

    Raises
    ------
    ValueError
        If the name is unknown, or ``calibrated`` is asked of a prior without a table.
    """
    if name == "calibrated" and table is None:
        raise ValueError(
            "V = 'calibrated' needs a covariance measured for the weights; this model has "
            "none: use covariance='climatological'"
        )
    choices = {
        "calibrated": table,
        "climatological": climatology.posterior,
        "jacobian": None,
        "diagonal": diagonal_covariance,
    }
    if name not in choices:
        raise ValueError(f"covariance {name!r} is not one of {', '.join(choices)}")
    return choices[name]


def gaussian_posterior(
    mean: State,
    covariance: SpectralCovariance,
    likelihood: Likelihood,
    draws: Draws,
    *,
    solver: Solver = Solver(),
) -> State:
    """Draw members of the posterior of a Gaussian prior, by perturbed observations.

    ``z = p + K (y + e - H p)``, p drawn from N(mean, V) and e from N(0, I): an ensemble
    of 3D-Vars around ``mean``, exact for linear observations.

    Parameters
    ----------
    mean : array (node, 1 or member, channel)
    covariance : SpectralCovariance
    likelihood : Likelihood
    draws : Draws
    """
    prior_keys, error_keys = split_keys(draws.keys)
    prior = mean + draws.signs[:, None] * covariance.sample(prior_keys)
    n_obs = likelihood.index.shape[0]
    error = jax.vmap(lambda k: jax.random.normal(k, (n_obs,)), out_axes=1)(error_keys)
    innovation = _innovation(likelihood, prior) + draws.signs * error
    increment, _ = kalman_increment(likelihood, covariance, innovation, prior.shape, solver)
    return prior + increment
