"""What a run minimises, in a form that can be cut into pieces of the batch."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.train.loader import Batch


class Objective(eqx.Module):
    """A mean over the samples of a batch.

    All random numbers are drawn first and belong to samples (`draw`), so that devices and
    pieces of a batch see the numbers that the whole batch would have seen. Arrays among the
    fields (a graph, a covariance) become arguments of compiled code, not constants in it.
    """

    def draw(self, batch: Batch, key: PRNGKeyArray) -> Batch:
        """The batch with the random numbers of each sample, along the first axis."""
        return batch

    @abc.abstractmethod
    def mean(self, model: Any, batch: Batch) -> Float[Array, ""]:
        """Loss of a batch that has its random numbers."""

    def __call__(self, model: Any, batch: Batch, key: PRNGKeyArray) -> Float[Array, ""]:
        """Draw, and return the loss."""
        return self.mean(model, self.draw(batch, key))


def piecewise(function: Any, batch: Batch, n_piece: int) -> Any:
    """Mean of ``function(piece)``, a pytree, over equal pieces of a batch, one after another.

    Samples are dealt out in turn, so that each device keeps its own.

    Examples
    --------
    >>> batch = {"x": jnp.arange(6.0)}
    >>> float(piecewise(lambda piece: piece["x"].mean(), batch, 3))
    2.5
    """
    if n_piece == 1:
        return function(batch)
    dealt = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, n_piece, *x.shape[1:]), 0, 1), batch)
    shape = jax.eval_shape(function, jax.tree.map(lambda x: x[0], dealt))
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)

    def add(total: Any, piece: Batch) -> tuple[Any, None]:
        return jax.tree.map(lambda t, p: t + p / n_piece, total, function(piece)), None

    return jax.lax.scan(add, zero, dealt)[0]
