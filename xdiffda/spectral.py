"""Orthonormal bases: real spherical harmonics on a latitude-longitude grid, Fourier on a circle.

A basis turns coefficients into grid values (`synthesis`), is transposed exactly
(`adjoint`), and is inverted by area-weighted least squares (`analysis`).  Coefficients are
stored as (degree, order, ...): rows of one degree share a variance, which is what makes an
isotropic covariance block-diagonal.  Functions are scaled so that independent
coefficients of unit variance give grid values of unit variance.
"""

from __future__ import annotations

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

_PRECISION = "highest"  # GPUs would round to tf32: 1e-3 is too coarse for a covariance


class Basis(eqx.Module):
    """Separable real basis on a (row, column) grid, flattened row-major to ``node``.

    Attributes
    ----------
    along_rows : array (degree, order, row)
        Row functions; normalised Legendre functions on the sphere.
    along_columns : array (order, column)
        Column functions: 1, cos, sin, ... of longitude.
    inverse_rows : array (degree, order, row)
        Least-squares inverse of ``along_rows`` for each order.
    inverse_columns : array (order, column)
    mask : array (degree, order)
        1 where a coefficient exists.
    """

    along_rows: Float[Array, "degree order row"]
    along_columns: Float[Array, "order column"]
    inverse_rows: Float[Array, "degree order row"]
    inverse_columns: Float[Array, "order column"]
    mask: Float[Array, "degree order"]

    @property
    def n_node(self) -> int:
        return self.along_rows.shape[2] * self.along_columns.shape[1]

    @property
    def multiplicity(self) -> Float[Array, " degree"]:
        """Number of coefficients of each degree (2 l + 1 on the sphere)."""
        return self.mask.sum(1)

    def synthesis(self, a: Float[Array, "degree order *rest"]) -> Float[Array, "node *rest"]:
        """Return the grid values of coefficients ``a``."""
        return self._to_grid(a, self.along_rows, self.along_columns)

    def adjoint(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Apply the exact transpose of `synthesis`."""
        return self._to_coefficients(x, self.along_rows, self.along_columns)

    def analysis(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Return the coefficients that fit ``x`` best in the area-weighted mean square."""
        return self._to_coefficients(x, self.inverse_rows, self.inverse_columns)

    def project(self, x: Float[Array, "node *rest"]) -> Float[Array, "node *rest"]:
        """Return the part of ``x`` that the basis can represent."""
        return self.synthesis(self.analysis(x))

    def _to_grid(self, a: Array, rows: Array, columns: Array) -> Array:
        flat = a.reshape(*a.shape[:2], -1)
        by_order = jnp.einsum("dor,dox->orx", rows, flat, precision=_PRECISION)
        grid = jnp.einsum("oc,orx->rcx", columns, by_order, precision=_PRECISION)
        return grid.reshape(-1, *a.shape[2:])

    def _to_coefficients(self, x: Array, rows: Array, columns: Array) -> Array:
        grid = x.reshape(rows.shape[2], columns.shape[1], -1)
        by_order = jnp.einsum("oc,rcx->orx", columns, grid, precision=_PRECISION)
        a = jnp.einsum("dor,orx->dox", rows, by_order, precision=_PRECISION)
        return a.reshape(*a.shape[:2], *x.shape[1:])


@functools.lru_cache(maxsize=8)
def sphere_basis(
    lat: tuple[float, ...], lon: tuple[float, ...], truncation: int | None = None
) -> Basis:
    """Real orthonormal spherical harmonics on a regular latitude-longitude grid.

    Parameters
    ----------
    lat, lon : tuple of float
        Rows and columns in degrees; columns equally spaced around the globe.
    truncation : int, optional
        Largest total wavenumber; default the largest that the grid resolves,
        ``min(len(lat) - 1, len(lon) // 2 - 1)``.

    Returns
    -------
    Basis
        With Condon-Shortley phase and orders stored 0, 1, -1, 2, -2, ... (positive:
        cosine, negative: sine), as in Price et al. (2024), GenCast, and scaled by
        ``sqrt(4 pi / K)``, K the number of harmonics.

    Raises
    ------
    ValueError
        If the truncation is beyond what the grid resolves.

    Examples
    --------
    >>> basis = sphere_basis((-60.0, -20.0, 20.0, 60.0), (0.0, 60.0, 120.0, 180.0, 240.0, 300.0))
    >>> basis.multiplicity.tolist()
    [1.0, 3.0, 5.0]
    """
    limit = min(len(lat) - 1, len(lon) // 2 - 1)
    truncation = limit if truncation is None else truncation
    if not 0 <= truncation <= limit:
        raise ValueError(
            f"truncation {truncation} is outside 0..{limit}, which a grid of {len(lat)} x "
            f"{len(lon)} resolves"
        )
    phi, lam = np.deg2rad(np.array(lat)), np.deg2rad(np.array(lon))
    degree = np.arange(truncation + 1)
    wavenumber = np.repeat(degree, 2)[1:]  # 0, 1, 1, 2, 2, ...
    table = scipy.special.sph_legendre_p_all(truncation, truncation, np.pi / 2 - phi)
    legendre = np.asarray(table)[0] if np.ndim(table) == 4 else np.asarray(table)
    scale = np.sqrt(4 * np.pi) / (truncation + 1)
    rows = scale * legendre[:, wavenumber, :]
    rows = np.where(degree[:, None, None] >= wavenumber[None, :, None], rows, 0.0)
    columns = _fourier(wavenumber, lam)
    return _build(rows, columns, _row_areas(phi), degree[:, None] >= wavenumber[None])


@functools.lru_cache(maxsize=8)
def circle_basis(n_point: int, truncation: int) -> Basis:
    """Fourier basis on ``n_point`` equally spaced points of a circle (one row).

    Examples
    --------
    >>> circle_basis(16, 3).multiplicity.tolist()
    [1.0, 2.0, 2.0, 2.0]
    """
    if not 0 <= 2 * truncation < n_point:
        raise ValueError(f"truncation {truncation} needs more than {2 * truncation} points")
    wavenumber = np.repeat(np.arange(truncation + 1), 2)[1:]
    mask = np.arange(truncation + 1)[:, None] == wavenumber[None]
    rows = mask[:, :, None] / np.sqrt(2 * truncation + 1.0)
    columns = _fourier(wavenumber, 2 * np.pi * np.arange(n_point) / n_point)
    return _build(rows, columns, np.ones(1), mask)


def _row_areas(phi: np.ndarray) -> np.ndarray:
    """Areas of the rows' cells: unlike the cosine, not zero for rows at the poles."""
    edges = np.concatenate([[-np.pi / 2], (phi[1:] + phi[:-1]) / 2, [np.pi / 2]])
    return np.abs(np.diff(np.sin(edges)))


def _fourier(wavenumber: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Columns 1, sqrt2 cos, sqrt2 sin, ... of the orders 0, 1, -1, 2, -2, ..."""
    phase = wavenumber[:, None] * angle[None]
    cosine = np.arange(wavenumber.size) % 2 == 1
    wave = np.sqrt(2) * np.where(cosine[:, None], np.cos(phase), np.sin(phase))
    return np.where(wavenumber[:, None] == 0, 1.0, wave)


def _build(rows: np.ndarray, columns: np.ndarray, weight: np.ndarray, mask: np.ndarray) -> Basis:
    inverse = np.zeros_like(rows)
    root = np.sqrt(weight)
    for order in range(rows.shape[1]):
        present = mask[:, order]
        # least squares weighted by the area of a row
        fit = np.linalg.pinv(root[:, None] * rows[present, order].T, rcond=1e-6) * root
        inverse[present, order] = fit
    as32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return Basis(
        as32(rows), as32(columns), as32(inverse), as32(columns / columns.shape[1]), as32(mask)
    )
