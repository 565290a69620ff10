"""Covariances that are diagonal in total wavenumber: B of the background, V of the denoiser.

A covariance is ``Y L Y^T``: Y the basis functions, L one (channel, channel) matrix for
each total wavenumber (design: isotropic, multivariate).  It is applied matrix-free.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.covariance.harmonics import Basis, Points, Restricted
from xdiffda.jax_settings import with_own_jax

__all__ = [
    "BlockCovariance",
    "CovarianceTable",
    "SpectralCovariance",
    "SpectralRoot",
    "apply_blocks",
    "estimate_blocks",
    "white_coefficients",
    "white_noise",
]


def _symmetric(vectors: Array, values: Array) -> Array:
    return jnp.einsum("dck,dk,dek->dce", vectors, values, vectors, precision="highest")


class SpectralCovariance(eqx.Module):
    """Covariance ``Y L Y^T`` of a state (node, channel).

    Attributes
    ----------
    basis : Basis
    vectors, values : arrays (degree, channel, channel) and (degree, channel)
        Eigen-decomposition of the blocks L; values are not negative.
    """

    basis: Basis
    vectors: Float[Array, "degree channel channel"]
    values: Float[Array, "degree channel"]

    @classmethod
    @with_own_jax
    def from_blocks(cls, basis: Basis, blocks: np.ndarray | Array) -> SpectralCovariance:
        """Decompose symmetric ``blocks`` (degree, channel, channel); negatives become 0."""
        values, vectors = np.linalg.eigh(np.asarray(blocks, np.float64))

        def as32(a):
            return jnp.asarray(a, jnp.float32)

        return cls(basis, as32(vectors), as32(np.maximum(values, 0.0)))

    @property
    def blocks(self) -> Float[Array, "degree channel channel"]:
        return _symmetric(self.vectors, self.values)

    @property
    def variance(self) -> Float[Array, " channel"]:
        """Grid-point variance of each channel."""
        return self.basis.grid_variance(self.blocks)

    def __call__(self, x: Float[Array, "node *rest channel"]) -> Float[Array, "node *rest channel"]:
        """Return ``Y L Y^T x``."""
        return self.by_blocks()(x)

    def by_blocks(self) -> BlockCovariance:
        """The same covariance by its blocks alone."""
        return BlockCovariance(self.basis, self.blocks)

    def at(self, points: Points) -> Restricted:
        """The same covariance among some points, and from these to the whole grid."""
        return self.by_blocks().at(points)

    def posterior(self, sigma: float | Array) -> SpectralCovariance:
        """Covariance given white noise of ``sigma`` per coefficient: (L^-1 + I/sigma^2)^-1."""
        variance = jnp.square(sigma)
        values = self.values * variance / (self.values + variance)
        return SpectralCovariance(self.basis, self.vectors, values)

    def gain(self, sigma: float | Array) -> Float[Array, "degree channel channel"]:
        """Blocks of the Wiener filter ``L (L + sigma^2 I)^-1``."""
        return _symmetric(self.vectors, self.values / (self.values + jnp.square(sigma)))

    def wiener(self, z: Float[Array, "node *rest channel"], sigma: float | Array) -> Array:
        """Conditional mean of a zero-mean Gaussian with this covariance, given z at sigma."""
        return self.basis.synthesis(apply_blocks(self.gain(sigma), self.basis.analysis(z)))

    @with_own_jax
    def sample(self, keys: PRNGKeyArray) -> Float[Array, "node member channel"]:
        """Draw one state for each key; a draw depends on its own key only."""
        root = _symmetric(self.vectors, jnp.sqrt(self.values))
        return self.basis.synthesis(apply_blocks(root, white_coefficients(self, keys)))


def white_coefficients(
    covariance: SpectralCovariance, keys: PRNGKeyArray
) -> Float[Array, "degree order member channel"]:
    """Independent unit normals for every coefficient, one draw for each key."""
    n_channel = covariance.values.shape[1]
    mask = covariance.basis.mask

    def draw(key):
        return jax.random.normal(key, (*mask.shape, n_channel))

    return jax.vmap(draw, out_axes=2)(keys) * mask[:, :, None, None]


def white_noise(
    covariance: SpectralCovariance, keys: PRNGKeyArray
) -> Float[Array, "node member channel"]:
    """White noise on the sphere (or line) of unit variance per coefficient and grid point."""
    return covariance.basis.synthesis(white_coefficients(covariance, keys))


def apply_blocks(
    blocks: Float[Array, "degree channel channel"],
    a: Float[Array, "degree order *rest channel"],
) -> Float[Array, "degree order *rest channel"]:
    """Multiply the coefficients of each degree by its block."""
    degree, channel = a.shape[0], a.shape[-1]
    flat = a.reshape(degree, -1, channel)
    out = jnp.einsum("dxe,dce->dxc", flat, blocks, precision="highest")
    return out.reshape(a.shape)


@with_own_jax
def estimate_blocks(
    basis: Basis,
    samples: Float[np.ndarray, "sample node channel"],
    *,
    batch: int = 32,
    shrink: bool = True,
) -> Float[np.ndarray, "degree channel channel"]:
    """Second moments of spectral coefficients, shrunk towards their diagonal.

    Off-diagonal elements are multiplied by ``n / (n + C)``, n the number of coefficients
    behind the estimate of a degree and C the number of channels: with few samples the
    estimate turns into independent channels, and is positive definite always.

    Parameters
    ----------
    basis : Basis
    samples : array (sample, node, channel)
        Zero-mean states, for example normalised background errors.
    batch : int
        Samples transformed at a time.
    shrink : bool
        False for the second moments as they are.

    Returns
    -------
    array (degree, channel, channel)
    """
    n_channel = samples.shape[-1]
    analyse = jax.jit(jax.vmap(basis.analysis))
    total = np.zeros((basis.mask.shape[0], n_channel, n_channel))
    for start in range(0, len(samples), batch):
        a = np.asarray(analyse(jnp.asarray(samples[start : start + batch])), np.float64)
        flat = a.transpose(1, 0, 2, 3).reshape(a.shape[1], -1, n_channel)
        total += np.einsum("dxc,dxe->dce", flat, flat, optimize=True)
    count = len(samples) * np.asarray(basis.multiplicity, np.float64)
    blocks = total / count[:, None, None]
    if not shrink:
        return blocks
    keep = (count / (count + n_channel))[:, None, None]
    diagonal = blocks * np.eye(n_channel)
    floor = 1e-6 * np.einsum("dcc->c", blocks) / len(blocks)
    return keep * blocks + (1 - keep) * diagonal + np.diag(floor)


class BlockCovariance(eqx.Module):
    """Covariance ``Y L Y^T`` given by its blocks: cheap to make, can only be applied."""

    basis: Basis
    blocks: Float[Array, "degree channel channel"]

    def __call__(self, x: Float[Array, "node *rest channel"]) -> Float[Array, "node *rest channel"]:
        """Return ``Y L Y^T x``."""
        return self.basis.synthesis(apply_blocks(self.blocks, self.basis.adjoint(x)))

    def at(self, points: Points) -> Restricted:
        """The same covariance among some points, and from these to the whole grid."""
        near = BlockCovariance(self.basis.at(points), self.blocks)

        def spread(x: Float[Array, "slot *rest channel"]) -> Array:
            return self.basis.synthesis(apply_blocks(self.blocks, near.basis.adjoint(x)))

        return Restricted(near, spread, near.basis.n_node)

    @property
    def variance(self) -> Float[Array, " channel"]:
        """Grid-point variance of each channel."""
        return self.basis.grid_variance(self.blocks)

    def decompose(self) -> SpectralCovariance:
        """The same covariance with its eigen-decomposition, from which one can draw."""
        values, vectors = jnp.linalg.eigh(self.blocks)
        return SpectralCovariance(self.basis, vectors, jnp.maximum(values, 0.0))


class CovarianceTable(eqx.Module):
    """Covariance measured at several noise levels, interpolated in log sigma.

    Used for V(sigma) of guidance (``calibrated``): the spectral covariance of truth minus
    denoiser over training pairs.  Between levels the blocks are divided by the mean
    variance ``sigma^2 b / (sigma^2 + b)`` before interpolation and multiplied afterwards,
    which keeps the small-sigma limit and positive definiteness.
    """

    basis: Basis
    sigma: Float[Array, " level"]
    blocks: Float[Array, "level degree channel channel"]
    prior_variance: Float[Array, " degree"]

    def __call__(self, sigma: float | Array) -> BlockCovariance:
        """Return V at ``sigma`` (a Python or traced scalar)."""
        position = jnp.interp(
            jnp.log(sigma), jnp.log(self.sigma), jnp.arange(self.sigma.size, dtype=jnp.float32)
        )
        low = jnp.clip(jnp.floor(position).astype(int), 0, self.sigma.size - 2)
        weight = position - low
        blocks = sum(
            w * self.blocks[i] * (self._shape(sigma) / self._shape(self.sigma[i]))[:, None, None]
            for w, i in ((1 - weight, low), (weight, low + 1))
        )
        return BlockCovariance(self.basis, jnp.asarray(blocks))

    def _shape(self, sigma: float | Array) -> Array:
        variance = jnp.square(sigma)
        return self.prior_variance * variance / (self.prior_variance + variance)


class SpectralRoot(eqx.Module):
    """``B^(1/2)`` from spectral coefficients to the grid, of a `SpectralCovariance`.

    Examples
    --------
    >>> from xdiffda.covariance.harmonics import circle_basis
    >>> basis = circle_basis(8, 2)
    >>> b = SpectralCovariance.from_blocks(basis, jnp.ones((3, 1, 1)))
    >>> root = SpectralRoot(b)
    >>> root(root.control()).shape
    (8, 1)
    """

    covariance: SpectralCovariance

    def control(self) -> Float[Array, "degree order channel"]:
        """The control variable of the background: zero."""
        return jnp.zeros((*self.covariance.basis.mask.shape, self.covariance.values.shape[1]))

    def __call__(
        self, chi: Float[Array, "degree order *rest channel"]
    ) -> Float[Array, "node *rest channel"]:
        """Return ``B^(1/2) chi``."""
        vectors, values = self.covariance.vectors, jnp.sqrt(self.covariance.values)
        blocks = jnp.einsum("dck,dk,dek->dce", vectors, values, vectors, precision="highest")
        mask = self.covariance.basis.mask
        masked = chi * mask.reshape(*mask.shape, *[1] * (chi.ndim - 2))
        return self.covariance.basis.synthesis(apply_blocks(blocks, masked))
