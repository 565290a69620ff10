"""RePaint: sampling by inpainting, as DiffDA conditions on observations.

At every noise level the state is replaced, where the mask says so, by the observed state
with fresh noise of that level; jumping back and forth between levels lets the rest come to
terms with it.  Lugmayr et al. (2022), arXiv 2201.09865, algorithm 1; settings of Huang et
al. (2024), arXiv 2401.05932: 300 of 1000 linear-beta levels, jumps of 10, 10 resamplings.
No clipping; fresh noise at each visit.

DiffDA writes the diffusion as x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e.  Divided by
sqrt(a_t) that is x_0 + sigma_t e with sigma_t^2 = (1 - a_t) / a_t, the form used here: the
steps are the same, number for number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from xdiffda.covariance.draws import Draws
from xdiffda.covariance.spectral import white_noise
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.devices import mesh_of, over_members

CHUNK = 50  # moves compiled into one call: progress and interrupts happen between calls
N_LEVEL, BETA_FIRST, BETA_LAST = 1000, 1e-4, 0.02  # Ho et al. (2020), arXiv 2006.11239


@dataclasses.dataclass(frozen=True)
class RePaint:
    """Settings of RePaint; the defaults are the paper's.

    Attributes
    ----------
    n_levels : int
        Noise levels, spread evenly over the 1000 of the linear-beta schedule.
    jump_length : int
        Levels that one jump back goes up.
    resamplings : int
        Visits of each stretch of ``jump_length`` levels.
    mask_sigma : float
        Width of the soft mask in grid cells.

    Examples
    --------
    >>> RePaint().evaluations
    2910
    >>> RePaint(n_levels=50, jump_length=5, resamplings=2).evaluations
    95
    """

    n_levels: int = 300
    jump_length: int = 10
    resamplings: int = 10
    mask_sigma: float = 1.5

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)} must be a whole number of 1 or more"
            for name in ("n_levels", "jump_length", "resamplings")
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1)
        ]
        if not problems and self.n_levels > N_LEVEL:
            problems.append(f"n_levels={self.n_levels} exceeds the schedule's {N_LEVEL}")
        if not self.mask_sigma > 0:
            problems.append(f"mask_sigma={self.mask_sigma} must be positive")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser for each member."""
        return int((np.diff(self.walk()) < 0).sum())

    def walk(self) -> Int[np.ndarray, " visit"]:
        """Levels in the order of their visits, from ``n_levels`` (noisiest) to 0 (clean)."""
        jumps = range(1, self.n_levels - self.jump_length + 1, self.jump_length)
        left = dict.fromkeys(jumps, self.resamplings - 1)
        level, visits = self.n_levels, [self.n_levels]
        while level > 0:
            level -= 1
            visits.append(level)
            if left.get(level, 0) > 0:
                left[level] -= 1
                visits.extend(range(level + 1, level + self.jump_length + 1))
                level += self.jump_length
        return np.array(visits)

    def sigmas(self) -> Float[np.ndarray, " level"]:
        """Noise of the levels 0 (clean) to ``n_levels``."""
        kept = np.cumprod(1 - np.linspace(BETA_FIRST, BETA_LAST, N_LEVEL))
        chosen = np.round(np.linspace(0, N_LEVEL - 1, self.n_levels)).astype(int)
        return np.append(0.0, np.sqrt(1 / kept[chosen] - 1))


def sample_repaint(
    prior: Conditioned,
    observed: Float[Array, "node channel"],
    mask: Float[Array, "node channel"],
    draws: Draws,
    *,
    settings: RePaint = RePaint(),
    tick: Callable[[int], None] = lambda n: None,
) -> Float[Array, "node member channel"]:
    """Draw members by inpainting.

    Parameters
    ----------
    prior : Conditioned
        Denoiser and the basis of its noise.
    observed : array (node, channel)
        Observations interpolated over the globe, as z.
    mask : array (node, channel)
        1 where observed, 0 where free, in between where soft.
    draws : Draws
        A member depends on its own key only.
    settings : RePaint
    tick : callable
        Called with the number of evaluations just made.

    Returns
    -------
    array (node, member, channel)

    Notes
    -----
    The network was trained on noise and states within the span of the spherical harmonics;
    the inpainted state is projected onto it at each level.
    """
    walk, sigmas = settings.walk(), settings.sigmas()
    moves = np.stack([sigmas[walk[:-1]], sigmas[walk[1:]]], axis=1)
    more = -len(moves) % CHUNK
    moves = np.pad(moves, ((0, more), (0, 0)))  # from 0 to 0: stand still
    mesh = mesh_of(draws.keys)
    z = sigmas[-1] * draws.signs[:, None] * _noise(prior, draws.keys, jnp.array(0), mesh)
    for first in range(0, len(moves), CHUNK):
        chunk = jnp.asarray(moves[first : first + CHUNK], z.dtype)
        z = _advance(prior, observed, mask, draws, z, chunk, jnp.array(1 + first), mesh)
        z.block_until_ready()
        tick(int((chunk[:, 1] < chunk[:, 0]).sum()))
    return z


@eqx.filter_jit
def _noise(prior: Conditioned, keys: Array, number: Array, mesh: Mesh | None = None) -> Array:
    def own(shared: tuple, keys: Array) -> Array:
        climatology, number = shared
        return white_noise(climatology, jax.vmap(lambda k: jax.random.fold_in(k, number))(keys))

    return over_members(own, mesh, (prior.climatology, number), keys, axes=(0,))


@eqx.filter_jit
def _advance(
    prior: Conditioned,
    observed: Array,
    mask: Array,
    draws: Draws,
    z: Array,
    moves: Array,
    first: Array,
    mesh: Mesh | None,
) -> Array:
    """Make a chunk of moves between noise levels."""

    def own(shared: tuple, keys: Array, signs: Array, z: Array) -> Array:
        prior, observed, mask, moves, first = shared
        return _walk(prior, observed, mask, Draws(keys, signs), z, moves, first)

    shared = (prior, observed, mask, moves, first)
    return over_members(own, mesh, shared, *draws, z, axes=(0, 0, 1))


def _walk(
    prior: Conditioned,
    observed: Array,
    mask: Array,
    draws: Draws,
    z: Array,
    moves: Array,
    first: Array,
) -> Array:
    signs = draws.signs[:, None]

    def move(z: Array, step: tuple[Array, Array]) -> tuple[Array, Any]:
        (now, after), number = step
        one = signs * _noise(prior, draws.keys, 2 * number)
        two = signs * _noise(prior, draws.keys, 2 * number + 1)

        def down(z: Array) -> Array:
            share = jnp.square(after / now)
            estimate = prior.denoise(z, now)
            spread = after * jnp.sqrt(jnp.maximum(1 - share, 0.0))
            free = share * z + (1 - share) * estimate + spread * one
            known = observed[:, None] + after * two
            # only what the basis carries: the network never saw anything else
            blend = mask[:, None] * known + (1 - mask[:, None]) * free
            return prior.climatology.basis.project(blend)

        def up(z: Array) -> Array:
            return z + jnp.sqrt(jnp.maximum(after**2 - now**2, 0.0)) * one

        return jax.lax.cond(after < now, down, up, z), None

    numbers = first + jnp.arange(len(moves))
    return jax.lax.scan(move, z, (moves, numbers))[0]
