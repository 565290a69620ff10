"""Unresolved scales: draw the part of the state that the prior's basis cannot represent.

A state is ``z + w``, with z in the basis and w, white, in its orthogonal complement.  The analysis
takes two stages.  While z is drawn, w counts as error of representativeness.  Once z is known, the
observations differ from ``H z`` only by ``H w`` and the error of the instrument, so that w can be
drawn exactly (conditioning by kriging, Hoffman and Ribak 1991, doi 10.1086/186160):

    w = w' + U H^T (R + H U H^T)^-1 (y - H z - H w' - e)

with w' and e drawn from U and from the instrument's R alone.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from xdiffda.covariance.draws import Draws
from xdiffda.covariance.harmonics import Basis
from xdiffda.diffusion.devices import mesh_of, over_members
from xdiffda.diffusion.kalman import Solver, update
from xdiffda.diffusion.likelihood import Likelihood, State
from xdiffda.diffusion.programs import draw_errors, nothing

__all__ = [
    "Explained",
    "UnresolvedScales",
    "explain",
    "observed",
]


class UnresolvedScales(eqx.Module):
    """Covariance U of the unresolved scales: ``S Q Q^T S``, with Q the projection off the basis.

    Attributes
    ----------
    basis : Basis
    scale : array (node, 1, channel)
        S, in units of z.
    """

    basis: Basis
    scale: Float[Array, "node 1 channel"]

    @classmethod
    def of(cls, basis: Basis, std: Float[Array, "node channel"]) -> UnresolvedScales:
        """Return the covariance with the standard deviation ``std`` at each node and channel."""
        return cls(basis, _scale(basis, std))

    def beyond(self, x: State) -> State:
        """Return Q x, the part of x that the basis cannot represent."""
        return x - self.basis.project(x)

    def __call__(self, x: State) -> State:
        (back,) = jax.linear_transpose(self.beyond, x)(self.scale * x)
        return self.scale * self.beyond(back)

    def draw(self, keys: Array) -> Float[Array, "node member channel"]:
        """Draw w for each key."""
        return _draw(self, keys, mesh_of(keys))


def observed(likelihood: Likelihood) -> bool:
    """Whether unresolved scales can be separated from the instrument's error.

    That needs the instrument's share of R, and independent Gaussian errors.
    """
    independent = likelihood.whitening is None and likelihood.state_error is None
    return independent and likelihood.robust is None and likelihood.instrument is not None


class Explained(NamedTuple):
    """z + w, and the relative residuals of the solve.

    Attributes
    ----------
    z : array (node, member, channel)
    residual : array (member,)
    """

    z: State
    residual: Float[Array, " member"]


def explain(
    unresolved: UnresolvedScales,
    likelihood: Likelihood,
    z: State,
    drawn: State,
    draws: Draws | None = None,
    *,
    solver: Solver = Solver(),
) -> Explained:
    """Add w to z: the draw ``drawn``, moved to the observations, given z.

    Parameters
    ----------
    unresolved : UnresolvedScales
    likelihood : Likelihood
        As z was found with it; `observed`.
    z, drawn : arrays (node, member, channel)
    draws : Draws, optional
        Of the errors of the observations; without it, the mean of w for ``drawn`` = 0.
    solver : Solver
    """
    mesh = None if draws is None else mesh_of(draws.keys)
    noise = nothing(likelihood, z)
    if draws is not None:
        noise = draws.signs * draw_errors(likelihood, draws.keys, mesh)
    return Explained(*_explain(unresolved, likelihood, z + drawn, noise, solver, mesh))


@eqx.filter_jit
def _scale(basis: Basis, std: Array) -> Array:
    # how much of white noise lies outside the basis differs by latitude: measure it once
    probe = jax.random.normal(jax.random.key(0), (std.shape[0], 256, 1))
    share = jnp.sqrt(jnp.mean(jnp.square(probe - basis.scalar.project(probe)), axis=1))
    return (std / jnp.maximum(share, 1e-3))[:, None]


@eqx.filter_jit
def _draw(unresolved: UnresolvedScales, keys: Array, mesh: Mesh | None) -> Array:
    def own(unresolved: UnresolvedScales, keys: Array) -> Array:
        node, _, channel = unresolved.scale.shape
        noise = jax.vmap(lambda k: jax.random.normal(k, (node, channel)), out_axes=1)(keys)
        return unresolved.beyond(noise) * unresolved.scale

    return over_members(own, mesh, unresolved, keys, axes=(0,))


@eqx.filter_jit
def _explain(
    unresolved: UnresolvedScales,
    likelihood: Likelihood,
    start: State,
    noise: Array,
    solver: Solver,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    def own(shared: tuple, start: State, noise: Array) -> tuple[Array, Array]:
        unresolved, likelihood = shared
        share = likelihood.instrument
        assert share is not None
        # rows are in units of the whole error: count them by the instrument's alone
        factor = jnp.where(share > 0, 1 / jnp.where(share > 0, share, 1.0), 0.0)
        scale = jnp.broadcast_to(factor[:, None], noise.shape)
        found = update(likelihood, unresolved, start, solver=solver, noise=noise, scale=scale)
        return start + found.increment, found.residual

    shared = (unresolved, likelihood)
    return over_members(own, mesh, shared, start, noise, axes=(1, 1), out_axes=(1, 0))
