"""Orthonormal bases: real spherical harmonics on a latitude-longitude grid, Fourier on a circle.

A basis turns coefficients into grid values (`synthesis`), is transposed exactly
(`adjoint`), and is inverted by area-weighted least squares (`analysis`).  Coefficients are
stored as (degree, order, ...): rows of one degree share a variance, which is what makes an
isotropic covariance block-diagonal.  Functions are scaled so that independent
coefficients of unit variance give grid values of unit variance.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax

__all__ = [
    "Basis",
    "ScalarBasis",
    "legendre_with_slopes",
    "row_areas",
    "sphere_basis",
    "wind_inverse",
]

ROWS_AT_A_TIME = 64  # of the table of Legendre functions, in double precision
PRECISION = "highest"  # GPUs would round to tf32: 1e-3 is too coarse for a covariance


class Basis(eqx.Module):
    """Interface of a basis, as covariances and noise use it.

    Coefficients are (degree, order, ..., channel).

    Attributes
    ----------
    scalar : ScalarBasis
        Harmonics of a single channel.
    mask : array (degree, order)
        1 where a coefficient exists.
    """

    if TYPE_CHECKING:  # fields of some bases, properties of others

        @property
        def scalar(self) -> ScalarBasis: ...

        @property
        def mask(self) -> Float[Array, "degree order"]: ...

    @property
    def n_node(self) -> int:
        """Points of the grid."""
        return self.scalar.n_node

    @property
    def multiplicity(self) -> Float[Array, " degree"]:
        """Number of coefficients of each degree and channel (2 l + 1 on the sphere)."""
        return self.mask.sum(1)

    @abc.abstractmethod
    def synthesis(self, a: Float[Array, "degree order *rest"]) -> Float[Array, "node *rest"]:
        """Return the grid values of coefficients ``a``."""

    @abc.abstractmethod
    def adjoint(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Apply the exact transpose of `synthesis`."""

    @abc.abstractmethod
    def analysis(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Return the coefficients that fit ``x`` best in the area-weighted mean square."""

    def project(self, x: Float[Array, "node *rest"]) -> Float[Array, "node *rest"]:
        """Return the part of ``x`` that the basis can represent."""
        return self.synthesis(self.analysis(x))

    @abc.abstractmethod
    def at(self, points: Points) -> Basis:
        """The same functions at some points, which are the nodes; for `synthesis` and `adjoint`."""

    @abc.abstractmethod
    def scalar_blocks(
        self, blocks: Float[Array, "*level degree channel channel"]
    ) -> Float[Array, "*level degree channel channel"]:
        """Blocks of the nearest covariance of the channels as scalars, of the same variance."""

    def grid_variance(
        self, blocks: Float[Array, "*level degree channel channel"]
    ) -> Float[Array, "*level channel"]:
        """Variance on the grid, averaged over the globe, of coefficients with these blocks."""
        share = self.multiplicity / self.multiplicity.sum()
        return jnp.einsum("d,...dcc->...c", share, self.scalar_blocks(blocks))


class ScalarBasis(Basis):
    """Separable real basis on a (row, column) grid, flattened row-major to ``node``.

    Attributes
    ----------
    along_rows : array (degree, order, row)
        Row functions; normalised Legendre functions on the sphere.
    along_columns : array (order, column)
        Column functions: 1, cos, sin, ... of longitude.
    inverse_rows : array (degree, order, row)
        Least-squares inverse of ``along_rows`` for each order; None where it was not asked for.
    inverse_columns : array (order, column)
    mask : array (degree, order)
        1 where a coefficient exists.
    """

    along_rows: Float[Array, "degree order row"]
    along_columns: Float[Array, "order column"]
    inverse_rows: Float[Array, "degree order row"] | None
    inverse_columns: Float[Array, "order column"] | None
    mask: Float[Array, "degree order"]

    @property
    def n_node(self) -> int:
        """Points of the grid."""
        return self.along_rows.shape[2] * self.along_columns.shape[1]

    def synthesis(self, a: Float[Array, "degree order *rest"]) -> Float[Array, "node *rest"]:
        """Return the grid values of coefficients ``a``."""
        return self.grid_of(self.rows_of(a, self.along_rows))

    def adjoint(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Apply the exact transpose of `synthesis`."""
        return self.degrees_of(self.orders_of(x, self.along_columns), self.along_rows)

    def analysis(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Return the coefficients that fit ``x`` best in the area-weighted mean square."""
        if self.inverse_rows is None or self.inverse_columns is None:
            raise TypeError("this basis was made without the inverse that an analysis needs")
        return self.degrees_of(self.orders_of(x, self.inverse_columns), self.inverse_rows)

    def at(self, points: Points) -> ScalarBasis:
        """The same functions at some points."""

        return at_points(self, points)

    @property
    def scalar(self) -> ScalarBasis:
        """Itself; `xdiffda.covariance.balance` has others."""
        return self

    def scalar_blocks(self, blocks: Array) -> Array:
        """Blocks of the channels as scalars: themselves."""
        return blocks

    def rows_of(
        self, a: Float[Array, "degree order *rest"], rows: Float[Array, "degree order row"]
    ) -> Float[Array, "order row *rest"]:
        """Sum over degrees, with these functions along the rows."""
        return jnp.einsum("dor,do...->or...", rows, a, precision=PRECISION)

    def grid_of(self, by_order: Float[Array, "order row *rest"]) -> Float[Array, "node *rest"]:
        """Sum over orders."""
        flat = by_order.reshape(*by_order.shape[:2], -1)
        grid = jnp.einsum("oc,orx->rcx", self.along_columns, flat, precision=PRECISION)
        return grid.reshape(-1, *by_order.shape[2:])

    def orders_of(
        self, x: Float[Array, "node *rest"], columns: Float[Array, "order column"]
    ) -> Float[Array, "order row *rest"]:
        """Sum over longitudes, with these functions along the columns."""
        grid = x.reshape(self.along_rows.shape[2], columns.shape[1], -1)
        by_order = jnp.einsum("oc,rcx->orx", columns, grid, precision=PRECISION)
        return by_order.reshape(*by_order.shape[:2], *x.shape[1:])

    def degrees_of(
        self, by_order: Float[Array, "order row *rest"], rows: Float[Array, "degree order row"]
    ) -> Float[Array, "degree order *rest"]:
        """Sum over rows, with these functions along them."""
        return jnp.einsum("dor,or...->do...", rows, by_order, precision=PRECISION)


@functools.lru_cache(maxsize=8)
@with_own_jax
def sphere_basis(
    lat: tuple[float, ...], lon: tuple[float, ...], truncation: int | None = None
) -> ScalarBasis:
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
    ScalarBasis
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
    spacing, step = (lon[-1] - lon[0]) / (len(lon) - 1), max(np.diff(np.sort(lat)))
    gap = max(90.0 - max(lat), 90.0 + min(lat))
    if abs(len(lon) * spacing - 360.0) > spacing / 2 or gap > 1.01 * step:
        found = f"a box, lat {min(lat):g} to {max(lat):g}, lon {lon[0]:g} to {lon[-1]:g}"
        repair = "xdiffda.reference_prior(background)  # the prior for boxes"
        raise InputError([Problem(found, "the whole globe", repair)], what="spherical harmonics")
    limit = min(len(lat) - 1, len(lon) // 2 - 1)
    truncation = limit if truncation is None else truncation
    if not 0 <= truncation <= limit:
        raise ValueError(
            f"truncation {truncation} is outside 0..{limit}, which a grid of {len(lat)} x "
            f"{len(lon)} resolves"
        )
    rows, columns, mask = _harmonics(lat, lon, truncation)
    return _build(rows, columns, row_areas(np.deg2rad(np.array(lat))), mask)


@functools.lru_cache(maxsize=4)
@with_own_jax
def harmonics_basis(lat: tuple[float, ...], lon: tuple[float, ...], truncation: int) -> ScalarBasis:
    """Return the same harmonics on any rows and columns, also of a part of the sphere.

    With `synthesis` and `adjoint`, and without `analysis`.

    Examples
    --------
    >>> harmonics_basis((40.0, 50.0), (350.0, 360.0, 370.0), 20).n_node
    6
    """
    rows, columns, mask = _harmonics(lat, lon, truncation)
    as32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return ScalarBasis(as32(rows), as32(columns), None, None, as32(mask))


def harmonics_at(lat: tuple[float, ...], lon: tuple[float, ...], truncation: int) -> PointBasis:
    """The same harmonics at single places: each is a row of its own.

    Examples
    --------
    >>> harmonics_at((48.2, -33.9), (16.4, 18.6), 20).n_node
    2
    """
    rows, columns, mask = _harmonics(lat, lon, truncation)
    as32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return PointBasis(as32(rows), as32(columns.T[:, None]), None, None, as32(mask))


def _harmonics(
    lat: tuple[float, ...], lon: tuple[float, ...], truncation: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row functions, column functions, and which coefficients there are."""
    degree = np.arange(truncation + 1)
    wavenumber = np.repeat(degree, 2)[1:]  # 0, 1, 1, 2, 2, ...
    rows, _ = legendre_with_slopes(lat, truncation)
    columns = _fourier(wavenumber, np.deg2rad(np.array(lon)))
    return rows, columns, degree[:, None] >= wavenumber[None]


def legendre_with_slopes(
    lat: tuple[float, ...], truncation: int
) -> tuple[Float[np.ndarray, "degree order row"], Float[np.ndarray, "degree order row"]]:
    """Row functions of the harmonics, and their derivatives by latitude in radians."""
    wavenumber = np.repeat(np.arange(truncation + 1), 2)[1:]
    theta = np.pi / 2 - np.deg2rad(np.array(lat))
    scale = np.sqrt(4 * np.pi) / (truncation + 1)
    values = np.zeros((2, truncation + 1, wavenumber.size, theta.size))
    for start in range(0, theta.size, ROWS_AT_A_TIME):
        own = slice(start, start + ROWS_AT_A_TIME)
        table = scipy.special.sph_legendre_p_all(truncation, truncation, theta[own], diff_n=1)
        values[..., own] = scale * table[:, :, wavenumber]
    values[:, np.arange(truncation + 1)[:, None] < wavenumber] = 0.0
    return values[0], -values[1]


@functools.lru_cache(maxsize=8)
@with_own_jax
def circle_basis(n_point: int, truncation: int) -> ScalarBasis:
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


def row_areas(phi: np.ndarray) -> np.ndarray:
    """Areas of the rows' cells: unlike the cosine, not zero for rows at the poles."""
    edges = np.concatenate([[-np.pi / 2], (phi[1:] + phi[:-1]) / 2, [np.pi / 2]])
    return np.abs(np.diff(np.sin(edges)))


def _fourier(wavenumber: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Columns 1, sqrt2 cos, sqrt2 sin, ... of the orders 0, 1, -1, 2, -2, ..."""
    phase = wavenumber[:, None] * angle[None]
    cosine = np.arange(wavenumber.size) % 2 == 1
    wave = np.sqrt(2) * np.where(cosine[:, None], np.cos(phase), np.sin(phase))
    return np.where(wavenumber[:, None] == 0, 1.0, wave)


def _build(
    rows: np.ndarray, columns: np.ndarray, weight: np.ndarray, mask: np.ndarray
) -> ScalarBasis:
    inverse = np.zeros_like(rows)
    root = np.sqrt(weight)
    for order in range(rows.shape[1]):
        present = mask[:, order]
        if order and order % 2 == 0:  # sine and cosine share their row functions
            inverse[:, order] = inverse[:, order - 1]
            continue
        # least squares weighted by the area of a row
        fit = np.linalg.pinv(root[:, None] * rows[present, order].T, rcond=1e-6) * root
        inverse[present, order] = fit
    as32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return ScalarBasis(
        along_rows=as32(rows),
        along_columns=as32(columns),
        inverse_rows=as32(inverse),
        inverse_columns=as32(columns / columns.shape[1]),
        mask=as32(mask),
    )


def wind_inverse(
    north: np.ndarray, east: np.ndarray, present: np.ndarray, area: np.ndarray
) -> Float[np.ndarray, "part degree order component row"]:
    """Pseudo-inverses, order by order, of the map from (psi, chi) to (u, v)."""
    n_degree, n_order, n_row = north.shape
    out = np.zeros((2, n_degree, n_order, 2, n_row))
    root = np.sqrt(np.tile(area, 2))
    for order in range(n_order):
        sign = 0.0 if order == 0 else 1.0 if order % 2 else -1.0
        own = present[:, order] & (np.arange(n_degree) > 0)
        n, e = north[own, order].T, sign * east[own, order].T  # (row, degree)
        forward = np.block([[-n, e], [-e, n]])
        fit = np.linalg.pinv(root[:, None] * forward, rcond=1e-6) * root
        out[:, own, order] = fit.reshape(2, own.sum(), 2, n_row)
    return out


# The grid points that observations read: harmonics, and so covariances, at these alone.
#
# On a fine grid nearly all of a transform is the sums over zonal wavenumbers at every grid point.
# Observations read few of these: 40,000 of a million at 0.25 degree for 10,000 columns. A solve for
# the observations (`xdiffda.diffusion.kalman`) applies H V H^T at every step, and needs V nowhere
# else. Of the package this knows `xdiffda.covariance.harmonics` only: each covariance has a method
# ``at``.

# Points that a solve may take, over those of the grid: beyond, the whole grid is as fast.
WORTH = 0.25


class Points(eqx.Module):
    """Some points of a (row, column) grid, in slots of which every row has as many.

    Attributes
    ----------
    column : int array (row, slot)
        Column of each slot; past the last column where there is no point.
    slot : int array (node,)
        Slot of each node, counted over all rows; 0 for nodes that are not among the points.
    """

    column: Int[Array, "row slot"]
    slot: Int[Array, " node"]

    @property
    def nodes(self) -> Int[Array, " slot"]:
        """Node of each slot; past the last node where there is no point."""
        n_row, n_node = len(self.column), len(self.slot)
        n_column = n_node // n_row
        node = jnp.arange(n_row)[:, None] * n_column + self.column
        return jnp.where(self.column < n_column, node, n_node).reshape(-1)

    def pick(self, x: Float[Array, "node *rest"]) -> Float[Array, "slot *rest"]:
        """Return the values of a state at the points; zero where a point is padding."""
        return x.at[self.nodes].get(mode="fill", fill_value=0)

    def elements(self, index: Array, n_channel: int) -> Array:
        """Elements of the flattened (slot, channel) state, from those of (node, channel)."""
        return self.slot[index // n_channel] * n_channel + index % n_channel


def points_of(
    index: Int[np.ndarray, "obs point"], *, n_channel: int, n_row: int, n_column: int
) -> Points | None:
    """The points behind some elements of a state, or None where these are no small part of it.

    Parameters
    ----------
    index : array (obs, point)
        Elements of the flattened (node, channel) state.
    n_channel, n_row, n_column : int
        Of the state; ``node = row n_column + column``.

    Examples
    --------
    >>> points = points_of(np.array([[7], [2], [18]]), n_channel=1, n_row=2, n_column=16)
    >>> points.column.tolist(), points.elements(jnp.array([2, 7, 18]), 1).tolist()
    ([[2, 7], [2, 16]], [0, 1, 2])
    """
    seen = np.zeros(n_row * n_column, bool)  # flags: sorting millions of numbers takes a second
    seen[index // n_channel] = True
    nodes = np.flatnonzero(seen)
    row, column = np.divmod(nodes, n_column)
    count = np.bincount(row, minlength=n_row)
    width = _rounded(int(count.max(initial=0)))
    if width > WORTH * n_column:
        return None
    place = np.arange(nodes.size) - np.repeat(np.cumsum(count) - count, count)
    columns = np.full((n_row, width), n_column, np.int32)
    columns[row, place] = column
    slot = np.zeros(n_row * n_column, np.int32)
    slot[nodes] = row * width + place
    return Points(jnp.asarray(columns), jnp.asarray(slot))


def _rounded(n: int) -> int:
    """A number not below ``n``, of few, so that analyses share compiled code."""
    below = 1 << max(n - 1, 1).bit_length() >> 1
    return n + -n % max(below // 4, 1)


class PointBasis(ScalarBasis):
    """A basis at some points of its grid, which are its nodes; coefficients stay what they are.

    Attributes
    ----------
    along_columns : array (row, slot, order)
        Column functions at the points; zero where there is none.
    """

    along_columns: Float[Array, "row slot order"]

    @property
    def n_node(self) -> int:
        """Slots."""
        return self.along_columns.shape[0] * self.along_columns.shape[1]

    def grid_of(self, by_order: Float[Array, "order row *rest"]) -> Float[Array, "node *rest"]:
        """Sum over orders."""
        flat = by_order.reshape(*by_order.shape[:2], -1)
        values = jnp.einsum("rko,orx->rkx", self.along_columns, flat, precision=PRECISION)
        return values.reshape(-1, *by_order.shape[2:])

    def orders_of(
        self, x: Float[Array, "node *rest"], columns: Float[Array, "row slot order"]
    ) -> Float[Array, "order row *rest"]:
        """Sum over points, with these functions."""
        values = x.reshape(*columns.shape[:2], -1)
        by_order = jnp.einsum("rko,rkx->orx", columns, values, precision=PRECISION)
        return by_order.reshape(*by_order.shape[:2], *x.shape[1:])

    def analysis(self, x: Float[Array, "node *rest"]) -> Float[Array, "degree order *rest"]:
        """Not from some points."""
        raise TypeError("some points of a grid do not tell the coefficients")


def at_points(basis: ScalarBasis, points: Points) -> PointBasis:
    """The functions of a basis at some points of its grid."""
    columns = basis.along_columns.T.at[points.column].get(mode="fill", fill_value=0)
    return PointBasis(
        basis.along_rows, columns, basis.inverse_rows, basis.inverse_columns, basis.mask
    )


class Restricted(NamedTuple):
    """A covariance among some points, and from these to the whole grid.

    Attributes
    ----------
    among : callable
        From states at the points (slot, ..., channel) to such.
    spread : callable
        From these to the whole grid.
    n : int
        Slots.
    """

    among: Callable[[Array], Array]
    spread: Callable[[Array], Array]
    n: int


def restricted(covariance: Any, points: Points | None) -> Restricted | None:
    """A covariance at some points, by its method ``at``; None without points or without it."""
    at = getattr(covariance, "at", None)
    return None if points is None or at is None else at(points)
