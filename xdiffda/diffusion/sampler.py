"""Samplers: integrate the probability-flow equation from noise to a state.

A sampler knows one thing, a denoiser ``(z, sigma) -> z0_hat``; it never learns that
observations exist.  State arrays are (node, member, channel).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Denoise = Callable[[Array, Array], Array]


def dpm_solver(
    denoise: Denoise, z: Float[Array, "*state"], ladder: Float[Array, " level"]
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

    def step(carry: tuple[Array, Array, Array], sigmas: tuple[Array, Array, Array]):
        z, previous, first = carry
        before, now, after = sigmas
        estimate = denoise(z, now)
        # log-SNR steps; at the first level there is no history and the order falls to one
        width, width_before = jnp.log(now / after), jnp.log(before / now)
        slope = jnp.where(first, 0.0, width / (2 * jnp.where(first, 1.0, width_before)))
        blended = estimate + slope * (estimate - previous)
        ratio = after / now
        return (ratio * z + (1 - ratio) * blended, estimate, jnp.array(False)), None

    now, after = ladder[:-2], ladder[1:-1]
    before = jnp.concatenate([ladder[:1], ladder[:-3]]) if ladder.size > 2 else ladder[:0]
    start = (z, jnp.zeros_like(z), jnp.array(True))
    (z, _, _), _ = jax.lax.scan(step, start, (before, now, after))
    return denoise(z, ladder[-2])  # the step to sigma = 0 returns the estimate itself


def heun(
    denoise: Denoise, z: Float[Array, "*state"], ladder: Float[Array, " level"]
) -> Float[Array, "*state"]:
    """Heun's second-order method: two evaluations per level, one at the last.

    Karras et al. (2022), arXiv 2206.00364, algorithm 1.
    """

    def step(z: Array, sigmas: tuple[Array, Array]) -> tuple[Array, None]:
        now, after = sigmas
        slope = (z - denoise(z, now)) / now
        euler = z + (after - now) * slope
        slope_after = (euler - denoise(euler, after)) / after
        return z + (after - now) * 0.5 * (slope + slope_after), None

    z, _ = jax.lax.scan(step, z, (ladder[:-2], ladder[1:-1]))
    return denoise(z, ladder[-2])


SAMPLERS = {"dpm-solver": dpm_solver, "heun": heun}
