"""The likelihood of the observations, as guidance and baselines use it.

Observations are whitened, ``value ~ N(H(z), I)``.  Most of H is a sparse linear map, and so is
the tangent of a function of a few gathered numbers (wind speed, humidity): its weights change
with the point of linearisation, its sparsity does not.  Functions of the whole state are
differentiated by JAX.  With one state's worth of observations of any kind, `apply` and `adjoint`
are the tangent linear operator and its adjoint, `predict` is H itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.covariance.harmonics import Points
from xdiffda.observations.nonlinear import LocalCall, StateCall
from xdiffda.observations.robust import Robust

__all__ = ["Likelihood", "LocalRows", "State", "StateError", "StateRows", "Whitening"]


# Parts of a likelihood: observations that are functions of the state, and their errors.

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
        First of their rows in the likelihood, and their number (padding rows excluded).
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


# A residual of a row without known expected variance is never called gross at first sight.
UNKNOWN_VARIANCE = 1e12
STATE_ERROR = 0x57A7E  # a stream of random numbers that nothing else uses


class Likelihood(eqx.Module):
    """Whitened observations of z: ``value ~ N(H(z), I)``.

    With the first three fields only, H is linear and errors are independent.

    Attributes
    ----------
    value : array (obs,) or (obs, member)
        Innovation (departure from the background) divided by the error's standard deviation,
        and whitened.
    index : int array (obs, point)
        Elements of the flattened (node, channel) state behind each observation.
    weight : array (obs, point)
        Interpolation weight times scale of z divided by error; for functions, of the tangent at
        the background.
    local, general : tuples of `LocalRows`, `StateRows`
        Rows of H that are not linear.
    period : array (obs,), optional
        Where observations live on a circle: its length divided by the error, else infinite.
    whitening : Whitening, optional
        Errors that are correlated.
    robust : Robust, optional
        Weights by residuals, at every noise level.
    updates : int
        Linearisations (Gauss-Newton) of one Kalman update where H is not linear.
    scale : array (obs,), optional
        Square roots of weights by which rows count less.
    point : array (node, channel), optional
        Where functions of the whole state are linearised; default the background.
    state_error : StateError, optional
        A part of the error that comes on top of the independent one. Not with ``whitening``.
    instrument : array (obs,), optional
        Share of the error's standard deviation that is the instrument's own; the rest is of
        what z cannot represent.
    points : Points, optional
        The grid points that ``index`` leads to, where these are few. Not with ``general``.
    """

    value: Float[Array, "obs ..."]
    index: Array
    weight: Float[Array, "obs point"]
    local: tuple[LocalRows, ...] = ()
    general: tuple[StateRows, ...] = ()
    period: Float[Array, " obs"] | None = None
    whitening: Whitening | None = None
    robust: Robust | None = eqx.field(static=True, default=None)
    updates: int = eqx.field(static=True, default=2)
    scale: Float[Array, " obs"] | None = None
    point: Float[Array, "node channel"] | None = None
    state_error: StateError | None = None
    instrument: Float[Array, " obs"] | None = None
    points: Points | None = None

    @property
    def n_obs(self) -> int:
        """Number of observations, padding rows included."""
        return self.index.shape[0]

    @property
    def is_linear(self) -> bool:
        """Return whether H is linear."""
        return not (self.local or self.general)

    def apply(self, z: State) -> Float[Array, "obs member"]:
        """Return H z in units of the observation error (the tangent, where H is not linear)."""
        node, _, channel = z.shape
        y = gather(self.index, self.weight, z)
        for part in self.general:
            at = jnp.zeros((node, channel)) if self.point is None else self.point
            pushed = jax.vmap(lambda x, part=part, at=at: part.push(x, at), 1, 1)(z)
            y = y.at[part.rows].set(pushed)
        y = y if self.scale is None else y * self.scale[:, None]
        return y if self.whitening is None else self.whitening.whiten(y)

    def adjoint(self, y: Float[Array, "obs member"], shape: tuple[int, int, int]) -> State:
        """Return H^T y on a state of ``shape``."""
        node, _, channel = shape
        y = y if self.whitening is None else self.whitening.whiten(y, transpose=True)
        y = y if self.scale is None else y * self.scale[:, None]
        x = scatter(self.index, self.weight, y, shape)
        for part in self.general:
            at = jnp.zeros((node, channel)) if self.point is None else self.point

            def pull(own, part=part, at=at):
                return part.pull(own, at)

            x = x + jax.vmap(pull, 1, 1)(y[part.rows])
        return x

    def predict(self, z: State) -> Float[Array, "obs member"]:
        """Return H(z) - H(0), nonlinear, per error but not whitened by correlations."""
        node, member, channel = z.shape
        flat = jnp.moveaxis(z, 1, 2).reshape(node * channel, member)
        y = jnp.einsum("opm,op->om", flat[self.index], self.weight)
        for part in self.local:

            def one(x, part=part):
                return part.predict(x, self.index)

            y = y.at[part.rows].set(jax.vmap(one, 1, 1)(flat))
        for part in self.general:
            y = y.at[part.rows].set(jax.vmap(part.predict, 1, 1)(z))
        return y

    def innovation(self, estimate: State, member: Array | None = None) -> Array:
        """Return ``y - H(estimate)``, whitened; ``member`` chooses among members' own values."""
        value = self.value
        if value.ndim == 2 and member is not None:
            value = jax.lax.dynamic_slice_in_dim(value, member, 1, axis=1)
        value = value if value.ndim == 2 else value[:, None]
        if self.is_linear and self.period is None:
            return value - self.apply(estimate)
        residual = self.marginal(value) - self.predict(estimate)
        if self.period is not None:
            turns = jnp.round(residual / self.period[:, None])
            residual = residual - jnp.where(turns == 0, 0.0, turns * self.period[:, None])
        return residual if self.whitening is None else self.whitening.whiten(residual)

    def marginal(self, y: Float[Array, "obs member"]) -> Array:
        """Residuals per standard deviation of their own error, from whitened ones."""
        return y if self.whitening is None else self.whitening.colour(y)

    def reweigh(self, y: Float[Array, "obs member"], scale: Float[Array, "obs member"]) -> Array:
        """Whitened residuals as they are when rows count with the square of ``scale``."""
        y = self.marginal(y) * scale
        return y if self.whitening is None else self.whitening.whiten(y)

    def tangent(
        self, point: Float[Array, "node channel"] | None, scale: Array | None = None
    ) -> Likelihood:
        """Return the same observations linearised at a point, with scaled rows."""
        weight = self.weight
        if point is not None and self.local:
            flat = point.reshape(-1)
            for part in self.local:
                own = part.weights(flat, self.index)
                weight = weight.at[part.rows, : own.shape[1]].set(own)
        general = self.general
        if point is not None:  # once here, not at every application
            general = tuple(part.linearised(point) for part in general)
        return dataclasses.replace(self, weight=weight, general=general, point=point, scale=scale)

    def at_points(self, n_channel: int) -> Likelihood:
        """Return these observations for states on the ``points`` alone, (slot, channel)."""
        assert self.points is not None and not self.general
        index = self.points.elements(self.index, n_channel)
        return dataclasses.replace(self, index=index, points=None)

    def correlated(self, y: Float[Array, "obs member"]) -> Array:
        """``R y``: whitened errors are independent but for those of a state."""
        if self.state_error is None:
            return y
        scale = 1.0 if self.scale is None else self.scale[:, None]
        return y + scale * self.state_error.apply(scale * y)

    def draw_errors(self, keys: Array) -> Float[Array, "obs member"]:
        """Draw whitened errors of the observations, for each member with its own key."""
        error = jax.vmap(lambda k: jax.random.normal(k, (self.n_obs,)), out_axes=1)(keys)
        if self.state_error is None:
            return error
        own = jax.vmap(lambda k: jax.random.fold_in(k, STATE_ERROR))(keys)
        return error + self.state_error.draw(own)

    def rescaled(self, factor: float) -> Likelihood:
        """Return the same observations as functions of ``z / factor``."""
        local = tuple(dataclasses.replace(part, gather=part.gather * factor) for part in self.local)
        general = tuple(
            dataclasses.replace(part, scale=part.scale * factor) for part in self.general
        )
        return dataclasses.replace(self, weight=self.weight * factor, local=local, general=general)

    def predicted_variance(self, variance: Float[Array, " channel"]) -> Float[Array, " obs"]:
        """Diagonal of H V H^T, from V's grid-point variance of each channel.

        The points behind one observation are taken as fully correlated, which they nearly are.
        """
        std = jnp.broadcast_to(jnp.sqrt(variance), variance.shape)
        spread = jnp.abs(self.weight) * std[self.index % std.size]
        result = jnp.square(spread.sum(1))
        for part in self.general:
            result = result.at[part.rows].set(UNKNOWN_VARIANCE)
        return result
