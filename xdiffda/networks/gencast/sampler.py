"""DPM-Solver++(2S), the sampler of GenCast: second order, single step, stirred by fresh noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

Denoise = Callable[[Array, Array], Array]
Noise = Callable[[int], Array]


def dpm_solver_2s(
    denoise: Denoise,
    z: Float[Array, "*state"],
    ladder: Float[Array, " level"],
    *,
    noise: Noise,
    churn_rates: Float[Array, " step"],
    inflation: float = 1.05,
) -> Float[Array, "*state"]:
    """Integrate from noise to a state with two evaluations a step, one in the last.

    Lu et al. (2022), arXiv 2211.01095, algorithm 1 with the midpoint in log sigma, for noise
    added without scaling; noise before each step as in Karras et al. (2022), arXiv
    2206.00364, algorithm 2; together Price et al. (2024), arXiv 2312.15796.

    Parameters
    ----------
    denoise : callable (z, sigma) -> estimate of the clean state
    z : array
        State at noise level ``ladder[0]``.
    ladder : array (level,)
        Falling noise levels ending in 0.
    noise : callable step number -> array
        Unit noise of the kind that ``z`` was made with.
    churn_rates : array (step,)
        Relative rise of the noise level before each step.
    inflation : float
        Factor of the fresh noise.

    Returns
    -------
    array
        State at noise level 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> ladder, rates = jnp.array([10.0, 1.0, 0.1, 0.0]), jnp.array([0.4, 0.0, 0.0])
    >>> dpm_solver_2s(lambda z, sigma: jnp.full_like(z, 3.0), jnp.zeros(2), ladder,
    ...               noise=lambda i: jnp.ones(2), churn_rates=rates).tolist()
    [3.0, 3.0]
    """
    for state in trajectory(
        denoise, z, ladder, noise=noise, churn_rates=churn_rates, inflation=inflation
    ):
        z = state
    return z


def trajectory(
    denoise: Denoise,
    z: Float[Array, "*state"],
    ladder: Float[Array, " level"],
    *,
    noise: Noise,
    churn_rates: Float[Array, " step"],
    inflation: float,
) -> Iterator[Float[Array, "*state"]]:
    """The state after each step of `dpm_solver_2s`."""
    n_step = len(ladder) - 1
    for i in range(n_step):
        now, after = ladder[i] * (1 + churn_rates[i]), ladder[i + 1]
        if churn_rates[i] > 0:
            z = z + inflation * jnp.sqrt(now**2 - ladder[i] ** 2) * noise(i)
        estimate = denoise(z, now)
        if i == n_step - 1:  # the step to sigma = 0 returns the estimate itself
            yield estimate
            return
        middle = jnp.sqrt(now * after)
        halfway = middle / now * z + (1 - middle / now) * estimate
        z = after / now * z + (1 - after / now) * denoise(halfway, middle)
        yield z
