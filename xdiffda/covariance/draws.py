"""Random numbers of members: a key and a sign each, the same whatever the batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xdiffda.jax_settings import with_own_jax


class Draws(NamedTuple):
    """Random numbers of members: a key each, and the sign its perturbations take.

    Two members of one key and opposite signs are antithetic: each is a draw from the
    posterior, and their mean is free of sampling error as far as the problem is linear.
    """

    keys: Array
    signs: Float[Array, " member"]


@with_own_jax
def make_draws(key: Array, members: Array, *, antithetic: bool = False) -> Draws:
    """Keys of members by their numbers: member i is the same whatever stands beside it."""
    numbers = members // 2 if antithetic else members
    signs = jnp.where(members % 2 == 1, -1.0, 1.0) if antithetic else jnp.ones(members.shape)
    return Draws(jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers), signs)


def split_keys(keys: Array) -> tuple[Array, Array]:
    """Split every key in two."""
    both = jax.vmap(lambda k: jax.random.split(k))(keys)
    return both[:, 0], both[:, 1]
