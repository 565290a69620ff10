"""Samplers: integrate the probability-flow equation from noise to a state.

A sampler knows one thing, a denoiser ``(z, sigma) -> z0_hat``; it never learns that
observations exist.  State arrays are (node, member, channel).  The loops are plain Python:
under `jax.jit` they unroll, outside they show progress and can be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Denoise = Callable[[Array, Array], Array]
Noise = Callable[[int], Array]


def dpm_solver(
    denoise: Denoise,
    z: Float[Array, "*state"],
    ladder: Float[Array, " level"],
    *,
    final: Denoise | None = None,
) -> Float[Array, "*state"]:
    """DPM-Solver++(2M): second order, multistep, one evaluation per level.

    Lu et al. (2022), arXiv 2211.01095, algorithm 2, for noise added without scaling
    (alpha = 1, lambda = -log sigma).

    Parameters
    ----------
    denoise : callable (z, sigma) -> estimate of the clean state
    z : array
        State at noise level ``ladder[0]``.
    ladder : array (level,)
        Falling noise levels ending in 0.
    final : callable (z, sigma) -> state, optional
        The step from the last level to 0: a draw of the clean state given the noisy one. By
        default ``denoise``, its mean, whose members lack the spread that is left at that level.

    Returns
    -------
    array
        State at noise level 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from xdiffda.diffusion.noise import karras_ladder
    >>> ladder = karras_ladder(4, sigma_max=10.0, sigma_min=0.1)
    >>> dpm_solver(lambda z, sigma: jnp.full_like(z, 3.0), jnp.zeros(2), ladder).tolist()
    [3.0, 3.0]
    """
    previous, width_before = z, jnp.inf  # no history at the first level: first order
    for i in range(ladder.size - 2):
        now, after = ladder[i], ladder[i + 1]
        estimate = denoise(z, now)
        width = jnp.log(now / after)  # step in lambda
        blended = estimate + width / (2 * width_before) * (estimate - previous)
        z = after / now * z + (1 - after / now) * blended
        previous, width_before = estimate, width
    return (final or denoise)(z, ladder[-2])


def heun(
    denoise: Denoise,
    z: Float[Array, "*state"],
    ladder: Float[Array, " level"],
    *,
    final: Denoise | None = None,
) -> Float[Array, "*state"]:
    """Heun's second-order method: two evaluations per level, one at the last.

    Karras et al. (2022), arXiv 2206.00364, algorithm 1.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from xdiffda.diffusion.noise import karras_ladder
    >>> ladder = karras_ladder(4, sigma_max=10.0, sigma_min=0.1)
    >>> heun(lambda z, sigma: jnp.full_like(z, 3.0), jnp.zeros(2), ladder).tolist()
    [3.0, 3.0]
    """
    for i in range(ladder.size - 2):
        now, after = ladder[i], ladder[i + 1]
        slope = (z - denoise(z, now)) / now
        euler = z + (after - now) * slope
        slope_after = (euler - denoise(euler, after)) / after
        z = z + (after - now) * 0.5 * (slope + slope_after)
    return (final or denoise)(z, ladder[-2])


def churned(
    denoise: Denoise,
    z: Float[Array, "*state"],
    ladder: Float[Array, " level"],
    *,
    noise: Noise,
    churn: float = 0.4,
    final: Denoise | None = None,
) -> Float[Array, "*state"]:
    """Heun's method with fresh noise before each step: errors of earlier steps are forgotten.

    Karras et al. (2022), arXiv 2206.00364, algorithm 2, with S_noise = 1 and the same share
    of churn at all levels.

    Parameters
    ----------
    denoise, z, ladder, final
        As for the others.
    noise : callable level number -> array
        Unit noise of the kind that ``z`` was made with.
    churn : float
        Relative rise of the noise level before each step, at most sqrt(2) - 1 there.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from xdiffda.diffusion.noise import karras_ladder
    >>> ladder = karras_ladder(4, sigma_max=10.0, sigma_min=0.1)
    >>> churned(lambda z, sigma: jnp.full_like(z, 3.0), jnp.zeros(2), ladder,
    ...         noise=lambda i: jnp.ones(2)).tolist()
    [3.0, 3.0]
    """
    for i in range(ladder.size - 2):
        now, after = (1 + churn) * ladder[i], ladder[i + 1]
        z = z + jnp.sqrt(now**2 - ladder[i] ** 2) * noise(i)
        slope = (z - denoise(z, now)) / now
        euler = z + (after - now) * slope
        slope_after = (euler - denoise(euler, after)) / after
        z = z + (after - now) * 0.5 * (slope + slope_after)
    return (final or denoise)(z, ladder[-2])


SAMPLERS: dict[str, Callable[..., Array]] = {
    "dpm-solver": dpm_solver,
    "heun": heun,
    "stochastic": churned,
}
NOISY = ("stochastic",)
"""Samplers that take ``noise``."""


def evaluations(sampler: str, n_steps: int) -> int:
    """Number of evaluations of the denoiser that a sampler makes for ``n_steps`` levels."""
    return n_steps if sampler == "dpm-solver" else 2 * n_steps - 1
