"""The compiled programs of guided sampling: what runs as one piece, on one device or several.

A noise level is two programs, the network and the Kalman update. The network's, the dearest to
compile, does not depend on the observations; the update's, compiled anew for another number of
observations, serves the warm start and the last step too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from xdiffda.covariance.spectral import CovarianceTable, SpectralCovariance, white_noise
from xdiffda.diffusion.devices import over_members
from xdiffda.diffusion.kalman import Covariance, Solver, update
from xdiffda.diffusion.likelihood import Likelihood, State
from xdiffda.diffusion.moment_matching import guide_by_jacobian
from xdiffda.diffusion.perturbed import robust_scale

Updated = tuple[State, Float[Array, " member"]]

fold_in = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))


@eqx.filter_jit
def evaluate(denoise: Any, z: State, sigma: Array, mesh: Mesh | None = None) -> State:
    """The denoiser alone."""

    def own(shared, z):
        return shared[0](z, shared[1])

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


class DiagonalCovariance(eqx.Module):
    """V = v I."""

    variance: Array

    def __call__(self, state: State) -> State:
        """Return V applied to a state."""
        return self.variance * state


def diagonal_covariance(sigma: Array) -> Covariance:
    """V = sigma^2 / (1 + sigma^2) I, the cheap choice (Song et al. 2023, PiGDM)."""
    return DiagonalCovariance(jnp.square(sigma) / (1 + jnp.square(sigma)))


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

    def own(likelihood, keys):
        return likelihood.draw_errors(keys)

    return over_members(own, mesh, likelihood, keys, axes=(0,))


@eqx.filter_jit
def known_scale(
    likelihood: Likelihood, covariance: Covariance, mean: State, n_member: int, solver: Solver
) -> Float[Array, "obs member"] | None:
    """`robust_scale`, compiled."""
    return robust_scale(likelihood, covariance, mean, n_member, solver=solver)


@eqx.filter_jit
def updated(
    likelihood: Likelihood,
    covariance: Covariance,
    estimate: State,
    noise: Float[Array, "obs member"],
    guess: Float[Array, "obs member"],
    scale: Float[Array, "obs member"] | None,
    solver: Solver,
    mesh: Mesh | None = None,
) -> tuple[State, Float[Array, " member"], Float[Array, "obs member"]]:
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
    denoise: Any,
    basis: Any,
    likelihood: Likelihood,
    z: State,
    sigma: Array,
    solver: Solver,
    mesh: Mesh | None = None,
) -> Updated:
    """A level with V from the denoiser's own derivative: one program by necessity."""

    def own(shared: tuple, z: State) -> Updated:
        denoise, basis, likelihood, sigma = shared
        return guide_by_jacobian(
            denoise,
            likelihood,
            z,
            sigma,
            solver=solver,
            noise_covariance=lambda x: basis.synthesis(basis.adjoint(x)),
        )

    shared = (denoise, basis, likelihood, sigma)
    return over_members(own, mesh, shared, z, axes=(1,), out_axes=(1, 0))


def nothing(likelihood: Likelihood, z: State) -> Float[Array, "obs member"]:
    """Zeros in observation space for all members of ``z``."""
    return jnp.zeros((likelihood.n_obs, z.shape[1]), z.dtype)
