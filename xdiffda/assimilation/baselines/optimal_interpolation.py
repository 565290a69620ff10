"""Optimal interpolation: at every grid point the Kalman update by its nearest observations.

Lorenc (1981), doi 10.1175/1520-0493(1981)109<0701:AGTDMS>2.0.CO;2.  The covariance of B is
an explicit function of distance and channel pair, ``sum_l L_l (2 l + 1) / K P_l(cos)``, from
the blocks L of a `SpectralCovariance`, tabulated once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from xdiffda.covariance.localisation import centres, neighbourhoods, unit_vectors
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.likelihood import Likelihood
from xdiffda.errors import Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.state.grid import Grid

# relative to the diagonal: what float32 and the table leave uncertain
_JITTER = 3e-6


class DistanceCovariance(eqx.Module):
    """Covariance between two points of the sphere by their distance and channels.

    Attributes
    ----------
    table : array (step, channel, channel)
        Covariances at equally spaced chords from 0 to 2 (unit sphere).
    """

    table: Float[Array, "step channel channel"]

    @classmethod
    @with_own_jax
    def from_spectral(
        cls, covariance: SpectralCovariance, *, n_step: int = 4096
    ) -> DistanceCovariance:
        """Sum the Legendre series of a covariance on the sphere.

        Raises
        ------
        InputError
            If the basis is not one of spherical harmonics.

        Examples
        --------
        >>> from xdiffda.covariance.harmonics import sphere_basis
        >>> basis = sphere_basis((-60.0, -20.0, 20.0, 60.0), tuple(60.0 * i for i in range(6)))
        >>> b = SpectralCovariance.from_blocks(basis, 2 * np.ones((3, 1, 1)))
        >>> kernel = DistanceCovariance.from_spectral(b)
        >>> round(float(kernel(jnp.array(0.0), jnp.array(0), jnp.array(0))), 4)
        2.0
        """
        count = np.asarray(covariance.basis.multiplicity, np.float64)
        degree = np.arange(len(count))
        if not np.array_equal(count, 2 * degree + 1):
            found = f"a basis with {count[:3].astype(int).tolist()} ... functions per degree"
            problem = Problem(found, "spherical harmonics, 1, 3, 5, ...", "sphere_basis(lat, lon)")
            raise_if([problem], what="optimal interpolation")
        # a polynomial in the square of the chord: smooth at 0, where the angle's cosine is flat
        chord = np.linspace(0.0, 2.0, n_step)
        legendre = np.polynomial.legendre.legvander(1 - chord**2 / 2, len(count) - 1)
        blocks = np.asarray(covariance.basis.scalar_blocks(covariance.blocks), np.float64)
        blocks *= (count / count.sum())[:, None, None]
        return cls(jnp.asarray(np.einsum("sd,dce->sce", legendre, blocks), jnp.float32))

    def __call__(
        self, chord: Float[Array, "*shape"], one: Int[Array, "*shape"], other: Int[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """Covariance of channel ``one`` with channel ``other`` at ``chord``; broadcasts."""
        n_step, n_channel, _ = self.table.shape
        position = chord * ((n_step - 1) / 2)
        low = jnp.clip(position.astype(jnp.int32), 0, n_step - 2)
        # value and rise of a step side by side: one look-up for both
        rise = jnp.diff(self.table, axis=0)
        both = jnp.stack([self.table[:-1], rise], axis=-1).reshape(-1, 2)
        at = low * n_channel**2 + one * n_channel + other
        found = both.at[at].get(mode="promise_in_bounds")
        return found[..., 0] + (position - low) * found[..., 1]


@with_own_jax
def oi(
    covariance: SpectralCovariance,
    likelihood: Likelihood,
    grid: Grid,
    *,
    radius_km: float = 3000.0,
    max_obs: int | None = 256,
    memory_mb: float = 256.0,
) -> Float[np.ndarray, "node member channel"]:
    """Optimal interpolation of whitened observations.

    Parameters
    ----------
    covariance : SpectralCovariance
        B of z, on the sphere.
    likelihood : Likelihood
        As for `kalman_increment`; values (obs,), or (obs, member) for an ensemble of analyses.
        Errors may be correlated; functions of a few numbers (wind speed) are linearised at
        the background.
    grid : Grid
        Of the state.
    radius_km : float
        Great-circle distance up to which observations count.
    max_obs : int, optional
        Most observations of a grid point, the nearest; of those equally far (one column) the
        first in the order of the table.  None: all within the radius.
    memory_mb : float
        Bounds what is computed at a time.

    Returns
    -------
    array (node, member, channel)
        The increment z; zero where no observation is within the radius.

    Raises
    ------
    InputError
        If the settings, the grid or the basis do not fit, or the likelihood holds functions
        of the whole state or robust weights.

    Notes
    -----
    With all observations at every grid point this is 3D-Var's increment.  Otherwise it is
    not continuous: neighbouring points may take other observations.  On a machine that is
    busy otherwise, set ``OPENBLAS_NUM_THREADS=1``: LAPACK starts threads for every matrix of
    more than about 128 rows.

    Examples
    --------
    >>> from xdiffda.covariance.harmonics import sphere_basis
    >>> grid = Grid.from_coords([-60, -20, 20, 60], [0, 60, 120, 180, 240, 300])
    >>> b = SpectralCovariance.from_blocks(sphere_basis(grid.lat, grid.lon), np.ones((3, 1, 1)))
    >>> obs = Likelihood(jnp.array([2.0]), jnp.array([[3]]), jnp.ones((1, 1)))
    >>> round(float(oi(b, obs, grid)[3, 0, 0]), 4)
    1.0
    """
    _check(covariance, likelihood, grid, radius_km, max_obs)
    kernel = DistanceCovariance.from_spectral(covariance)
    n_channel = covariance.values.shape[1]
    if likelihood.local:
        likelihood = likelihood.tangent(jnp.zeros((grid.n_node, n_channel)))
    weight, index = np.asarray(likelihood.weight), np.asarray(likelihood.index)
    value = likelihood.value[:, None] if likelihood.value.ndim == 1 else likelihood.value
    nodes = unit_vectors(grid.node_lat, grid.node_lon)
    # those of weight zero (padded, rejected) must not take the places of others
    real = np.flatnonzero(np.any(weight != 0, axis=1))
    places = centres(index[real], weight[real], nodes, n_channel)
    n_term, n_member = index.shape[1], value.shape[1]

    def floats(k: int) -> int:
        return 6 * (k * n_term) ** 2 + k * (4 * n_term * n_channel + n_member)

    correlation = _Correlation.of(likelihood)
    flat = Likelihood(likelihood.marginal(value), likelihood.index, likelihood.weight)
    out = np.zeros((grid.n_node, n_member, n_channel), np.float32)
    chunks = neighbourhoods(
        nodes,
        places,
        radius_km=radius_km,
        max_obs=max_obs,
        floats=floats,
        budget=int(memory_mb * 2**18),
    )
    xyz = jnp.asarray(nodes, jnp.float32)
    for patch in chunks:
        if not np.isfinite(patch.distance_km).any():
            continue
        near, there = real[patch.near], np.isfinite(patch.distance_km)
        part = np.asarray(_solve(kernel, flat, correlation, xyz, patch.node, near, there))
        out[patch.node[: patch.n]] = part[: patch.n]
    return out


class _Correlation(NamedTuple):
    """Correlated errors: the block of each observation (-1: none) and its place in it."""

    block: Int[Array, " obs"]
    slot: Int[Array, " obs"]
    matrix: Float[Array, "block size size"]

    @classmethod
    def of(cls, likelihood: Likelihood) -> _Correlation | None:
        if likelihood.whitening is None:
            return None
        where, factor = np.asarray(likelihood.whitening.where), likelihood.whitening.factor
        block, slot = np.full(likelihood.n_obs, -1), np.zeros(likelihood.n_obs, int)
        number, place = np.nonzero(where < likelihood.n_obs)
        block[where[number, place]], slot[where[number, place]] = number, place
        matrix = jnp.matmul(factor, jnp.swapaxes(factor, 1, 2), precision="highest")
        return cls(jnp.asarray(block), jnp.asarray(slot), matrix)

    def among(self, near: Int[Array, " k"], there: Bool[Array, " k"]) -> Float[Array, "k k"]:
        """Correlations among some observations."""
        block, slot = jnp.where(there, self.block[near], -1), self.slot[near]
        same = (block[:, None] == block) & (block >= 0)
        found = self.matrix[jnp.maximum(block, 0)[:, None], slot[:, None], slot]
        return jnp.where(same & ~jnp.eye(block.size, dtype=bool), found, jnp.eye(block.size))


def _check(
    covariance: SpectralCovariance,
    likelihood: Likelihood,
    grid: Grid,
    radius_km: float,
    max_obs: int | None,
) -> None:
    problems = []
    if not radius_km > 0:
        problems.append(Problem(f"radius_km={radius_km}", "a positive number", "radius_km=3000.0"))
    if max_obs is not None and max_obs < 1:
        problems.append(Problem(f"max_obs={max_obs}", "1 or more", "max_obs=256"))
    if covariance.basis.n_node != grid.n_node:
        found = f"a covariance on {covariance.basis.n_node} points and a grid of {grid.n_node}"
        repair = "oi(prior.covariance, obs, prior.layout.grid)"
        problems.append(Problem(found, "one grid for both", repair))
    if likelihood.general:
        found = "observations that are functions of the whole state"
        problems.append(Problem(found, "observations with a place", 'method="3dvar"'))
    if likelihood.robust is not None:
        problems.append(Problem("robust weights", "Gaussian errors", "robust=None"))
    raise_if(problems, what="optimal interpolation")


@eqx.filter_jit
def _solve(
    kernel: DistanceCovariance,
    likelihood: Likelihood,
    correlation: _Correlation | None,
    xyz: Array,
    node: Any,
    near: Any,
    there: Any,
) -> Float[Array, "patch member channel"]:
    """Solve the equations of each patch; places of no observation have an identity row."""
    n_channel = kernel.table.shape[1]

    def one(node: Array, near: Array, there: Array) -> Array:
        index = likelihood.index[near]
        weight = likelihood.weight[near] * there[:, None]
        k, t = index.shape
        flat_weight, channel = weight.reshape(-1), (index % n_channel).reshape(-1)
        seen = xyz[index // n_channel].reshape(-1, 3)
        pairs = kernel(_chord(seen, seen), channel[:, None], channel[None])
        pairs = (pairs * flat_weight[:, None] * flat_weight).reshape(k, t, k, t).sum((1, 3))
        own = jnp.arange(n_channel)[:, None]
        cross = kernel(_chord(xyz[node][None], seen), own, channel[None]) * flat_weight
        cross = cross.reshape(n_channel, k, t).sum(2)
        # scaled to a unit diagonal, observations of tiny error do no harm in float32
        scale = jax.lax.rsqrt(1 + jnp.diagonal(pairs))
        error = jnp.eye(k) if correlation is None else correlation.among(near, there)
        system = (pairs + error) * scale[:, None] * scale + _JITTER * jnp.eye(k)
        factor = jax.scipy.linalg.cho_factor(system, lower=True)
        value = likelihood.value[near] * there[:, None] * scale[:, None]
        dual = jax.scipy.linalg.cho_solve(factor, value) * scale[:, None]
        return jnp.matmul(cross, dual, precision="highest").T

    return jax.vmap(one)(jnp.asarray(node), jnp.asarray(near), jnp.asarray(there))


def _chord(a: Float[Array, "one 3"], b: Float[Array, "other 3"]) -> Float[Array, "one other"]:
    """Distance of points on the unit sphere, by differences: exact for near ones."""
    return jnp.sqrt(jnp.sum((a[:, None] - b[None]) ** 2, axis=-1))
