"""Preconditioning of a denoiser's network for data of one standard deviation.

Source: Karras et al. (2022), arXiv 2206.00364, table 1.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class Karras:
    """Scalar preconditioning for data of standard deviation ``sigma_data`` (table 1)."""

    sigma_data: float = 1.0

    def c_in(self, sigma: Array) -> Array:
        return 1 / jnp.hypot(sigma, self.sigma_data)

    def c_skip(self, sigma: Array) -> Array:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Array) -> Array:
        return sigma * self.sigma_data / jnp.hypot(sigma, self.sigma_data)

    def loss_weight(self, sigma: Array) -> Array:
        return 1 / self.c_out(sigma) ** 2
