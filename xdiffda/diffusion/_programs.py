"""The compiled pieces of guided sampling.

A level is two programs, the network and the Kalman update.  The network's, the dearest to
compile, knows nothing of the observations; the update's, compiled anew for another number of
observations, is that of the warm start too.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from xdiffda.covariance import CovarianceTable, SpectralCovariance, white_noise
from xdiffda.diffusion._members import over_members
from xdiffda.diffusion.guidance import (
    Covariance,
    Solver,
    choose_covariance,
    guide_once,
    robust_scale,
    update,
)
from xdiffda.diffusion.likelihood import Likelihood, State

Updated = tuple[State, Float[Array, " member"]]

fold_in = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))


@eqx.filter_jit
def evaluate(denoise: Any, z: State, sigma: Array, mesh: Mesh | None = None) -> State:
    """The denoiser alone."""
    own = lambda shared, z: shared[0](z, shared[1])  # noqa: E731
    return over_members(own, mesh, (denoise, sigma), z, axes=(1,))


@eqx.filter_jit
def unit_noise(covariance: SpectralCovariance, keys: Array, mesh: Mesh | None = None) -> State:
    """White noise in the basis of ``covariance``."""
    return over_members(white_noise, mesh, covariance, keys, axes=(0,))


@eqx.filter_jit
def sample(covariance: SpectralCovariance, keys: Array, mesh: Mesh | None = None) -> State:
    """Draws from N(0, ``covariance``)."""
    return over_members(lambda b, keys: b.sample(keys), mesh, covariance, keys, axes=(0,))


@eqx.filter_jit
def decomposed(table: CovarianceTable, sigma: Array) -> SpectralCovariance:
    """V(sigma), to draw from."""
    return table(sigma).decompose()


@eqx.filter_jit
def covariance_at(
    name: str, climatology: SpectralCovariance, table: CovarianceTable | None, sigma: Array
) -> Covariance:
    """V(sigma) by its name, of one type for all that are given by blocks."""
    choice = choose_covariance(name, climatology, table)
    assert choice is not None
    found = choice(sigma)
    return found.by_blocks() if isinstance(found, SpectralCovariance) else found


@eqx.filter_jit
def draw_errors(
    likelihood: Likelihood, keys: Array, mesh: Mesh | None = None
) -> Float[Array, "obs member"]:
    """Whitened errors of the observations."""
    own = lambda likelihood, keys: likelihood.draw_errors(keys)  # noqa: E731
    return over_members(own, mesh, likelihood, keys, axes=(0,))


@eqx.filter_jit
def known_scale(
    likelihood: Likelihood, covariance: Covariance, mean: State, n_member: int, solver: Solver
) -> Float[Array, "obs member"] | None:
    """`robust_scale`, compiled."""
    return robust_scale(likelihood, covariance, mean, n_member, solver=solver)


@eqx.filter_jit
def updated(
    likelihood: Likelihood, covariance: Covariance, estimate: State,
    noise: Float[Array, "obs member"], guess: Float[Array, "obs member"],
    scale: Float[Array, "obs member"] | None, solver: Solver, mesh: Mesh | None = None,
) -> tuple[State, Float[Array, " member"], Float[Array, "obs member"]]:  # fmt: skip
    """The Kalman update of ``estimate``, the relative residual of its solve, and the solution."""

    def own(
        shared: tuple, estimate: State, noise: Array, guess: Array, scale: Array | None = None
    ) -> tuple[Array, Array, Array]:
        likelihood, covariance = shared
        found = update(
            likelihood,
            covariance,
            estimate,
            solver=solver,
            noise=noise,
            scale=scale,
            first_guess=guess,
        )
        return estimate + found.increment, found.residual, found.dual

    members = (estimate, noise, guess) if scale is None else (estimate, noise, guess, scale)
    return over_members(
        own, mesh, (likelihood, covariance), *members, axes=[1] * len(members), out_axes=(1, 0, 1)
    )


@eqx.filter_jit
def guided_by_jacobian(
    denoise: Any, basis: Any, likelihood: Likelihood, z: State, sigma: Array, solver: Solver,
    mesh: Mesh | None = None,
) -> Updated:  # fmt: skip
    """A level with V from the denoiser's own derivative: one program by necessity."""

    def own(shared: tuple, z: State) -> Updated:
        denoise, basis, likelihood, sigma = shared
        return guide_once(
            denoise, likelihood, None, z, sigma, solver=solver,
            noise_covariance=lambda x: basis.synthesis(basis.adjoint(x)),
        )  # fmt: skip

    shared = (denoise, basis, likelihood, sigma)
    return over_members(own, mesh, shared, z, axes=(1,), out_axes=(1, 0))


def nothing(likelihood: Likelihood, z: State) -> Float[Array, "obs member"]:
    """Zeros in observation space for all members of ``z``."""
    return jnp.zeros((likelihood.n_obs, z.shape[1]), z.dtype)
