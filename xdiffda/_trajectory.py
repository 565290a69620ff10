"""Observations of several times as functions of one state, through the forecaster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TrajectoryRows(eqx.Module):
    """Rows of a likelihood that see the states that follow from z at the start of the window.

    Strong constraint: the forecaster is taken to be right, ``H_k(M_k(background + scale z))``
    for the observations of the k-th time.  Stands among the ``general`` rows of a
    `xdiffda.diffusion.likelihood.Likelihood`.

    Attributes
    ----------
    start, n_obs : int
        First of their rows in the likelihood, and their number.
    forward : pytree, callable (x (node, batch, channel), year (batch, 2)) -> x
        One step of the forecaster: ``xdiffda.forecast.Rollout``.
    years : array (step, 2)
        Phase of the year at the end of every step.
    background, scale : arrays (node, channel)
        x = background + scale z.
    when : int array (obs,)
        Number of steps to the time of each observation.
    index, weight : arrays (obs, term)
        Interpolation from the flattened state of that time.
    gain : array (obs,)
        One over the error; zero where an observation is rejected.
    remat : bool
        Compute steps again for every adjoint: the memory of one, whatever the window, but
        several times the time.
    """

    start: int = eqx.field(static=True)
    n_obs: int = eqx.field(static=True)
    forward: Any
    years: Float[Array, "step 2"]
    background: Float[Array, "node channel"]
    scale: Float[Array, "node channel"]
    when: Int[Array, " obs"]
    index: Int[Array, "obs term"]
    weight: Float[Array, "obs term"]
    gain: Float[Array, " obs"]
    remat: bool = eqx.field(static=True, default=False)

    @property
    def rows(self) -> slice:
        """Their rows in the likelihood."""
        return slice(self.start, self.start + self.n_obs)

    def trajectory(self, z: Float[Array, "node channel"]) -> Float[Array, "time node channel"]:
        """States at the start of the window and after every step, physical units."""
        first = self.background + self.scale * z

        def step(x: Array, year: Array) -> tuple[Array, Array]:
            x = self.forward(x[:, None], year[None])[:, 0]
            return x, x

        step = jax.checkpoint(step) if self.remat else step
        _, later = jax.lax.scan(step, first, self.years)
        return jnp.concatenate([first[None], later])

    def equivalents(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """H_k(M_k(x)), natural units."""
        states = self.trajectory(z).reshape(len(self.years) + 1, -1)
        return jnp.sum(states[self.when[:, None], self.index] * self.weight, axis=-1)

    def _h(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        return self.gain * self.equivalents(z)

    def predict(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """H(z) - H(0) per error."""
        return self._h(z) - self._h(jnp.zeros_like(z))

    def linearised(self, point: Float[Array, "node channel"]) -> LinearRows:
        """Tangent and adjoint at ``point``, the forecaster run once for all that follows."""
        pull = jax.vjp(self._h, point)[1]
        return LinearRows(self.start, self.n_obs, pull)

    def pull(self, y: Array, point: Float[Array, "node channel"]) -> Array:
        """Adjoint of the tangent at ``point`` applied to y."""
        return self.linearised(point).pull(y)

    def push(self, z: Array, point: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """Tangent at ``point`` applied to z."""
        return self.linearised(point).push(z)


class LinearRows(eqx.Module):
    """`TrajectoryRows` linearised at a point: what a solver applies again and again.

    Attributes
    ----------
    start, n_obs : int
    adjoint : pytree, callable y (obs,) -> (z (node, channel),)
        Holds what the steps of the forecaster left behind.
    """

    start: int = eqx.field(static=True)
    n_obs: int = eqx.field(static=True)
    adjoint: Callable[[Array], tuple[Array, ...]]

    @property
    def rows(self) -> slice:
        """Their rows in the likelihood."""
        return slice(self.start, self.start + self.n_obs)

    def linearised(self, point: Array) -> LinearRows:
        """Itself."""
        return self

    def pull(self, y: Float[Array, " obs"], point: Array | None = None) -> Array:
        """Adjoint applied to y."""
        return self.adjoint(y)[0]

    def push(self, z: Float[Array, "node channel"], point: Array | None = None) -> Array:
        """Tangent applied to z.

        As the transpose of the adjoint, since the network's own derivative rules know no
        forward mode.
        """
        nothing = jnp.zeros((self.n_obs,), z.dtype)
        return jax.vjp(lambda y: self.adjoint(y)[0], nothing)[1](z)[0]
