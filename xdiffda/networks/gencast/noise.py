"""GenCast's noise: isotropic on the sphere, with the same power in every total wavenumber.

The rest of the package takes noise that is white (the same variance for every harmonic, so
that power grows with the total wavenumber).  A denoiser serves only the noise it was trained
with.  A basis whose functions are scaled so that unit coefficients make GenCast's noise turns
one into the other: `xdiffda.covariance.spectral` and guidance work on it as they are.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.covariance.harmonics import Basis, ScalarBasis, sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.jax_settings import with_own_jax


@with_own_jax
def gencast_basis(lat: tuple[float, ...], lon: tuple[float, ...]) -> Basis:
    """Spherical harmonics whose independent unit coefficients make the noise of GenCast.

    Up to total wavenumber n_lon / 2 - 1; of unit variance at every point.

    Parameters
    ----------
    lat, lon
        Rows and columns in degrees.

    Raises
    ------
    ValueError
        If the rows do not resolve what the columns do.

    Examples
    --------
    >>> basis = gencast_basis((-60.0, -20.0, 20.0, 60.0), (0.0, 60.0, 120.0, 180.0, 240.0, 300.0))
    >>> row = basis.along_rows[:, :, 1] ** 2
    >>> (row[:, 0] + 2 * row[:, 1::2].sum(1)).sum().round(3).item()  # variance at a point
    1.0
    """
    return _rescaled(sphere_basis(lat, lon, len(lon) // 2 - 1))


def unit_noise(
    basis: Basis, keys: PRNGKeyArray, n_channel: int
) -> Float[Array, "node member channel"]:
    """Draw noise of unit variance for each key; a draw depends on its own key only."""
    shape = (*basis.mask.shape, n_channel)
    draws = jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=2)(keys)
    return basis.synthesis(draws * basis.mask[:, :, None, None])


def on_gencast_basis(
    covariance: SpectralCovariance, lat: tuple[float, ...], lon: tuple[float, ...]
) -> SpectralCovariance:
    """The same covariance on the basis of GenCast's noise: Y L Y' = (Y g) (L / g^2) (Y g)'.

    Total wavenumbers that the noise has and the covariance has not come with variance 0.

    Parameters
    ----------
    covariance
        On harmonics of the package's usual scale: `xdiffda.covariance.harmonics.sphere_basis`.
    lat, lon
        Rows and columns of its grid in degrees.

    Raises
    ------
    ValueError
        If the covariance has wavenumbers that the noise has not.
    """
    basis, (n_old, n_channel) = gencast_basis(lat, lon), covariance.values.shape
    n_degree = basis.mask.shape[0]
    if n_old > n_degree:
        raise ValueError(
            f"the covariance has total wavenumbers to {n_old - 1}, GenCast's noise to "
            f"{n_degree - 1}: estimate it with truncation={n_degree - 1} or less"
        )
    # coefficients of the two bases differ by a factor that also knows their numbers of degrees
    factor = n_degree / n_old / _gain(n_degree)[:n_old, None]
    values = jnp.zeros((n_degree, n_channel)).at[:n_old].set(covariance.values * factor**2)
    vectors = jnp.broadcast_to(jnp.eye(n_channel), (n_degree, n_channel, n_channel))
    return SpectralCovariance(basis, vectors.at[:n_old].set(covariance.vectors), values)


def _gain(n_degree: int) -> Float[Array, " degree"]:
    """Ratio of a coefficient's standard deviation in GenCast's noise to that in white noise."""
    return jnp.asarray(np.sqrt(n_degree / (2 * np.arange(n_degree) + 1.0)), jnp.float32)


def _rescaled(basis: ScalarBasis) -> ScalarBasis:
    assert basis.inverse_rows is not None  # a basis of a grid, which was asked for it
    gain = _gain(basis.mask.shape[0])[:, None, None]
    scaled = (basis.along_rows * gain, basis.inverse_rows / gain)
    return eqx.tree_at(lambda b: (b.along_rows, b.inverse_rows), basis, scaled)
