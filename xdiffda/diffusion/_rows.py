"""Parts of a likelihood: observations that are functions of the state, and their errors."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.observations.nonlinear import LocalCall, StateCall

State = Float[Array, "node member channel"]


def gather(index: Array, weight: Array, z: State) -> Float[Array, "obs member"]:
    """Sparse sums over the elements of a state: H z."""
    node, member, channel = z.shape
    flat = jnp.moveaxis(z, 1, 2).reshape(node * channel, member)
    return jnp.einsum("opm,op->om", flat[index], weight)


def scatter(
    index: Array, weight: Array, y: Float[Array, "obs member"], shape: tuple[int, int, int]
) -> State:
    """The adjoint of `gather`: H^T y."""
    node, member, channel = shape
    spread = (weight[:, :, None] * y[:, None]).reshape(-1, member)
    flat = jax.ops.segment_sum(spread, index.reshape(-1), node * channel)
    return jnp.moveaxis(flat.reshape(node, channel, member), 2, 1)


class LocalRows(eqx.Module):
    """Observations that are functions of a few gathered numbers.

    Attributes
    ----------
    call : LocalCall
    start : int
        First of their rows in the likelihood.
    base : array (obs, input)
        Inputs as the background has them at the place and time of each observation.
    gather : array (obs, input, term)
        Weights of the inputs, times scale of z; elements as in the likelihood's index.
    parameters : array (obs, parameter)
    error : array (obs,)
        Standard deviations, natural units.
    """

    call: LocalCall = eqx.field(static=True)
    start: int = eqx.field(static=True)
    base: Float[Array, "obs input"]
    gather: Float[Array, "obs input term"]
    parameters: Float[Array, "obs parameter"]
    error: Float[Array, " obs"]

    @property
    def rows(self) -> slice:
        """Their rows in the likelihood."""
        return slice(self.start, self.start + self.base.shape[0])

    def _inputs(self, flat: Float[Array, " element"], index: Array) -> Float[Array, "obs input"]:
        n, n_input, n_term = self.gather.shape
        own = index[self.rows, : n_input * n_term].reshape(n, n_input, n_term)
        return self.base + jnp.sum(flat[own] * self.gather, axis=-1)

    def predict(self, flat: Float[Array, " element"], index: Array) -> Float[Array, " obs"]:
        """H(z) - H(0) per error."""
        there = self.call.values(self._inputs(flat, index), self.parameters)
        return (there - self.call.values(self.base, self.parameters)) / self.error

    def weights(self, flat: Float[Array, " element"], index: Array) -> Float[Array, "obs term"]:
        """Sparse rows of the tangent at z, per error."""
        slopes = self.call.slopes(self._inputs(flat, index), self.parameters)
        own = (slopes / self.error[:, None])[:, :, None] * self.gather
        return own.reshape(own.shape[0], -1)


class StateRows(eqx.Module):
    """Observations that are a function of the whole state.

    Attributes
    ----------
    call : StateCall
    start, n_obs : int
        First of their rows in the likelihood, and their number (filling rows excluded).
    background, scale : arrays (node, channel)
        x = background + scale z.
    fields : dict of arrays (obs,)
        What the function sees of the observations.
    gain : array (obs,)
        One over the error; zero where an observation is rejected.
    """

    call: StateCall = eqx.field(static=True)
    start: int = eqx.field(static=True)
    n_obs: int = eqx.field(static=True)
    background: Float[Array, "node channel"]
    scale: Float[Array, "node channel"]
    fields: dict[str, Array]
    gain: Float[Array, " obs"]

    @property
    def rows(self) -> slice:
        """Their rows in the likelihood."""
        return slice(self.start, self.start + self.n_obs)

    def linearised(self, point: Float[Array, "node channel"]) -> StateRows:
        """Itself: its derivatives are taken where they are asked for."""
        return self

    def _h(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        return self.gain * self.call(self.background + self.scale * z, self.fields)

    def predict(self, z: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """H(z) - H(0) per error."""
        return self._h(z) - self._h(jnp.zeros_like(z))

    def push(self, z: Array, point: Float[Array, "node channel"]) -> Float[Array, " obs"]:
        """Tangent at ``point`` applied to z."""
        return jax.jvp(self._h, (point,), (z,))[1]

    def pull(self, y: Array, point: Float[Array, "node channel"]) -> Array:
        """Adjoint of the tangent at ``point`` applied to y."""
        return jax.vjp(self._h, point)[1](y)[0]


class Whitening(eqx.Module):
    """Inverse square root of a block-diagonal error correlation, and the root itself.

    Attributes
    ----------
    where : int array (block, size)
        Rows of each block; beyond the last row where a block is smaller.
    factor, inverse : arrays (block, size, size)
        Cholesky factors and their inverses.
    """

    where: Array
    factor: Float[Array, "block size size"]
    inverse: Float[Array, "block size size"]

    def whiten(self, y: Float[Array, "obs member"], *, transpose: bool = False) -> Array:
        """Return ``L^-1 y`` (or ``L^-T y``)."""
        return self._apply(jnp.swapaxes(self.inverse, 1, 2) if transpose else self.inverse, y)

    def colour(self, y: Float[Array, "obs member"]) -> Array:
        """Return ``L y``: white noise becomes noise with the correlations of the errors."""
        return self._apply(self.factor, y)

    def _apply(self, matrix: Array, y: Array) -> Array:
        padded = jnp.concatenate([y, jnp.zeros((1, y.shape[1]), y.dtype)])
        blocks = jnp.einsum("bij,bjm->bim", matrix, padded[self.where], precision="highest")
        return y.at[self.where].set(blocks, mode="drop")


class StateError(eqx.Module):
    """Errors of the observations that are those of a state: ``E e``, e drawn from N(0, B).

    What a forecaster adds on the way to the time of the observations is of this kind: nearby
    observations share it, and so no number of them averages it away.

    Attributes
    ----------
    index, weight : arrays (obs, term)
        E, in units of the (independent part of the) observations' error.
    covariance : SpectralCovariance
        B.
    """

    index: Array
    weight: Float[Array, "obs term"]
    covariance: Any

    def apply(self, y: Float[Array, "obs member"]) -> Float[Array, "obs member"]:
        """Return ``E B E^T y``."""
        shape = (self.covariance.basis.n_node, y.shape[1], self.covariance.values.shape[1])
        back = scatter(self.index, self.weight, y, shape)
        return gather(self.index, self.weight, self.covariance(back))

    def draw(self, keys: Array) -> Float[Array, "obs member"]:
        """Draw the errors of some members."""
        return gather(self.index, self.weight, self.covariance.sample(keys))
