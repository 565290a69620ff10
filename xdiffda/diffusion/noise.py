"""Noise levels: the ladder of the samplers, the law of training, Karras preconditioning.

Source: Karras et al. (2022), arXiv 2206.00364, section 5 and table 1.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def karras_ladder(
    n_steps: int, *, sigma_max: float, sigma_min: float, rho: float = 7.0
) -> Float[Array, " level"]:
    """Falling noise levels, equally spaced in ``sigma^(1/rho)``, with 0 appended (eq. 5).

    Parameters
    ----------
    n_steps : int
        Number of levels above zero, and of evaluations of a one-evaluation sampler.
    sigma_max, sigma_min : float
        First and last level above zero.
    rho : float
        Larger values put more levels near ``sigma_min``.

    Returns
    -------
    array (n_steps + 1,)

    Raises
    ------
    ValueError
        If ``n_steps < 1`` or not ``0 < sigma_min <= sigma_max``.

    Examples
    --------
    >>> karras_ladder(3, sigma_max=8.0, sigma_min=1.0, rho=1.0).tolist()
    [8.0, 4.5, 1.0, 0.0]
    """
    if n_steps < 1 or not 0 < sigma_min <= sigma_max:
        raise ValueError(
            f"a ladder needs n_steps >= 1 and 0 < sigma_min <= sigma_max; found n_steps="
            f"{n_steps}, sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
    ends = jnp.array([sigma_max, sigma_min]) ** (1 / rho)
    levels = jnp.linspace(ends[0], ends[1], n_steps) ** rho
    return jnp.append(levels.at[0].set(sigma_max), 0.0)


@dataclasses.dataclass(frozen=True)
class LogNormalNoise:
    """Training law of the noise level: ``log sigma ~ N(mean, std^2)``.

    A third of the draws is uniform in log sigma over ``[sigma_min, sigma_max]``, so that
    the levels at both ends of the ladder, where warm starts and last steps happen, are
    never starved.
    """

    mean: float = -0.2
    std: float = 1.3
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    uniform_share: float = 1 / 3

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        normal, flat, choice = jax.random.split(key, 3)
        low, high = jnp.log(self.sigma_min), jnp.log(self.sigma_max)
        logs = jnp.where(
            jax.random.uniform(choice, shape) < self.uniform_share,
            jax.random.uniform(flat, shape, minval=low, maxval=high),
            self.mean + self.std * jax.random.normal(normal, shape),
        )
        return jnp.exp(jnp.clip(logs, low, high))


def noise_features(sigma: Float[Array, " batch"], n_frequency: int = 16) -> Array:
    """Fourier features of ``log sigma``: [cos, sin](2 pi k log sigma / 16), k = 1 ...

    As in Price et al. (2024), GenCast (base period 16).

    Returns
    -------
    array (batch, 2 * n_frequency)
    """
    phase = jnp.log(sigma)[:, None] * (2 * jnp.pi / 16) * jnp.arange(1, n_frequency + 1)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=1)
