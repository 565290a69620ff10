"""Control variables: winds from stream function and potential, mass from what winds imply.

An isotropic covariance of u and v as two scalars knows neither that the errors of wind are
mostly rotational nor that those of mass are in balance with them. So the coefficients of a
state are here those of the stream function psi and of the velocity potential chi, at the
places of u and v, and of what is left of the other channels once a regression on psi is taken
away (Parrish & Derber 1992, doi 10.1175/1520-0493(1992)120<1747:TNMCSS>2.0.CO;2; Derber &
Bouttier 1999, doi 10.3402/tellusa.v51i2.12316):

    u = -d psi / d phi + d chi / (cos phi d lambda)
    v = d psi / (cos phi d lambda) + d chi / d phi
    mass = g(phi) (unbalanced + sum_l K_l (sin(phi) psi)_l)

with one matrix K_l (mass channel, wind level) for each total wavenumber l, and a factor g of
latitude: what winds imply vanishes at the equator, the variance does not. psi and chi count in
units in which a coefficient brings as much variance of wind as one of a scalar does to its
channel (they are multiplied by sqrt(l (l + 1))): noise that is white in the coefficients is
white noise of the winds, and the map to the grid is, for winds, as well conditioned as the
harmonics are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda.covariance.harmonics import (
    PRECISION,
    Basis,
    Points,
    ScalarBasis,
    legendre_with_slopes,
    row_areas,
    sphere_basis,
    wind_inverse,
)
from xdiffda.covariance.small_scales import row_scale, unresolved_part, wind_pairs
from xdiffda.covariance.spectral import estimate_blocks
from xdiffda.jax_settings import with_own_jax
from xdiffda.state.grid import Layout

__all__ = [
    "Balance",
    "BalancedBasis",
    "balanced_basis",
]

Blocks = Float[Array, "*level degree channel channel"]


class Balance(NamedTuple):
    """The regression of mass on wind, as it is estimated and stored.

    Attributes
    ----------
    regression : array (degree, mass, level)
        K.
    factor : array (row, mass)
        g.
    """

    regression: Float[np.ndarray, "degree mass level"]
    factor: Float[np.ndarray, "row mass"]


class BalancedBasis(Basis):
    """Basis of states (node, ..., channel) in control variables; stands where a `Basis` does.

    Attributes
    ----------
    scalar : ScalarBasis
        Harmonics of a single channel.
    north, east : arrays (degree, order, row)
        Derivatives of the harmonics along the meridian and, orders +m and -m exchanged, along
        the row, over sqrt(l (l + 1)).
    inverse : array (part, degree, order, component, row)
        Least-squares inverse: psi and chi from u and v; None where nobody needs it.
    regression : array (degree, mass, level)
        K.
    factor : array (node, mass)
        g.
    raising, lowering : arrays (degree, order)
        What degree l - 1, and what degree l + 1, of psi adds to degree l of sin(phi) psi.
    u, v, mass : tuples of int
        Channels: the winds level by level, and all others.
    """

    scalar: ScalarBasis
    north: Float[Array, "degree order row"]
    east: Float[Array, "degree order row"]
    inverse: Float[Array, "part degree order component row"] | None
    regression: Float[Array, "degree mass level"]
    factor: Float[Array, "node mass"]
    raising: Float[Array, "degree order"]
    lowering: Float[Array, "degree order"]
    u: tuple[int, ...] = eqx.field(static=True)
    v: tuple[int, ...] = eqx.field(static=True)
    mass: tuple[int, ...] = eqx.field(static=True)

    @property
    def mask(self) -> Float[Array, "degree order"]:
        """1 where a coefficient exists."""
        return self.scalar.mask

    def synthesis(
        self, a: Float[Array, "degree order *rest channel"]
    ) -> Float[Array, "node *rest channel"]:
        """Return the grid values of the control variables' coefficients ``a``."""
        psi, chi, mass = self._controls(a)
        mass = mass + self._balanced(psi)
        psi = self._at_winds(psi)
        crossed_psi, crossed_chi = self._cross(psi), self._cross(chi)

        def along(rows, b):
            return self.scalar.rows_of(b, rows)

        u = along(self.east, crossed_chi) - along(self.north, psi)
        v = along(self.east, crossed_psi) + along(self.north, chi)
        rows = jnp.concatenate([u, v, along(self.scalar.along_rows, mass)], axis=-1)
        x = self.scalar.grid_of(rows)
        n = len(self.u) + len(self.v)
        mass = _wide(self.factor, x) * x[..., n:]
        return self._in_order(jnp.concatenate([x[..., :n], mass], axis=-1))

    def adjoint(
        self, x: Float[Array, "node *rest channel"]
    ) -> Float[Array, "degree order *rest channel"]:
        """Apply the exact transpose of `synthesis`."""
        u, v, mass = self._orders(x, self.scalar.along_columns, self.factor)

        def along(rows, b):
            return self.scalar.degrees_of(b, rows)

        psi = -along(self.north, u) - self._cross(along(self.east, v))
        chi = along(self.north, v) - self._cross(along(self.east, u))
        mass = along(self.scalar.along_rows, mass)
        psi = self._from_winds(psi) + self._balanced_adjoint(mass)
        return self._coefficients(psi, chi, mass)

    def analysis(
        self, x: Float[Array, "node *rest channel"]
    ) -> Float[Array, "degree order *rest channel"]:
        """Return the coefficients that fit ``x`` best: winds first, then mass without balance."""
        if self.inverse is None:
            raise TypeError("this basis was made without the inverse that an analysis needs")
        u, v, mass = self._orders(x, self.scalar.inverse_columns, 1 / self.factor)
        # psi of order m goes with u of order m and v of order -m, and so does chi of order -m
        winds = jnp.stack([u, self._swap(v, axis=0)], axis=1)
        fit = jnp.einsum("pdocr,ocr...->pdo...", self.inverse, winds, precision=PRECISION)
        psi, chi = fit[0], self._swap(fit[1], axis=1)
        mass = self.scalar.degrees_of(mass, self.scalar.inverse_rows) - self._balanced(psi)
        return self._in_order(jnp.concatenate([psi, chi, mass], axis=-1))

    def at(self, points: Points) -> BalancedBasis:
        """The same control variables at some points."""
        factor = self.factor.at[points.nodes].get(mode="fill", fill_value=0)
        return dataclasses.replace(self, scalar=self.scalar.at(points), factor=factor)

    def implied(
        self, a: Float[Array, "degree order *rest channel"]
    ) -> Float[Array, "degree order *rest level"]:
        """Coefficients of sin(phi) psi, the predictors of the regression."""
        return self._coriolis(self._controls(a)[0])

    def scalar_blocks(self, blocks: Blocks) -> Blocks:
        """Blocks of the nearest covariance of u, v and mass as scalars, of the same variance.

        Isotropic scalars cannot be correlated as wind and mass are: those parts are lost.
        """
        n_channel = len(self.u) + len(self.v) + len(self.mass)
        psi, chi, mass = self._own_blocks(blocks)
        first = (jnp.arange(blocks.shape[-3]) > 0)[:, None, None]  # degree 0 has no wind
        at_winds = self._at_winds(jnp.swapaxes(self._at_winds(psi), -1, -2))
        wind = first * (at_winds + chi) / 2
        up = jnp.sum(self.raising**2, axis=1)[1:]
        down = jnp.sum(self.lowering**2, axis=1)[:-1]
        own = jnp.zeros_like(psi)
        own = own.at[..., 1:, :, :].add(up[:, None, None] * psi[..., :-1, :, :])
        own = own.at[..., :-1, :, :].add(down[:, None, None] * psi[..., 1:, :, :])
        own = own / self.multiplicity[:, None, None]
        k = self.regression
        balanced = jnp.einsum("dmp,...dpq,dnq->...dmn", k, own, k, precision=PRECISION)
        out = jnp.zeros((*blocks.shape[:-2], n_channel, n_channel), blocks.dtype)
        for channels, value in ((self.u, wind), (self.v, wind), (self.mass, mass + balanced)):
            one = jnp.array(channels, int)
            out = out.at[..., one[:, None], one].set(value)
        return out

    def _own_blocks(self, blocks: Blocks) -> tuple[Array, Array, Array]:
        """Blocks of psi, of chi and of mass, each with itself."""
        places = (np.array(c, int) for c in (self.u, self.v, self.mass))
        psi, chi, mass = (blocks[..., one[:, None], one] for one in places)
        return psi, chi, mass

    def _controls(self, a: Array) -> tuple[Array, Array, Array]:
        """psi, chi and mass among the coefficients."""
        return self._split(a)

    def _coefficients(self, psi: Array, chi: Array, mass: Array) -> Array:
        """The coefficients in the order of `_controls`."""
        return self._in_order(jnp.concatenate([psi, chi, mass], axis=-1))

    def _at_winds(self, psi: Array) -> Array:
        """psi at the levels of the winds."""
        return psi

    def _from_winds(self, psi: Array) -> Array:
        """The transpose of `_at_winds`."""
        return psi

    def _split(self, a: Array) -> tuple[Array, Array, Array]:
        u, v, mass = (a[..., jnp.array(c, int)] for c in (self.u, self.v, self.mass))
        return u, v, mass

    def _in_order(self, x: Array) -> Array:
        """Channels as the layout has them, of channels u, v, mass one after another."""
        return x[..., np.argsort([*self.u, *self.v, *self.mass])]

    def _orders(self, x: Array, columns: Array, factor: Array) -> tuple[Array, Array, Array]:
        """Sums over longitudes, of mass times ``factor``."""
        u, v, mass = self._split(x)
        x = jnp.concatenate([u, v, _wide(factor, mass) * mass], axis=-1)
        by_order = self.scalar.orders_of(x, columns)
        n = len(self.u)
        return by_order[..., :n], by_order[..., n : 2 * n], by_order[..., 2 * n :]

    def _swap(self, a: Array, axis: int) -> Array:
        """Exchange orders +m and -m."""
        n = self.mask.shape[1]
        order = np.arange(n)
        return jnp.take(a, np.where(order == 0, 0, order + 1 - 2 * (order % 2 == 0)), axis)

    def _cross(self, a: Float[Array, "degree order *rest"]) -> Float[Array, "degree order *rest"]:
        """Orders +m and -m exchanged, with the sign of d/d lambda: minus its own transpose."""
        order = np.arange(self.mask.shape[1])
        sign = np.where(order == 0, 0.0, np.where(order % 2 == 1, 1.0, -1.0)).astype(np.float32)
        return jnp.asarray(sign.reshape(-1, *[1] * (a.ndim - 2))) * self._swap(a, axis=1)

    def _coriolis(self, psi: Array) -> Array:
        """Coefficients of sin(phi) psi."""
        lower, upper = _shifted(psi, 1), _shifted(psi, -1)

        def wide(factor):
            return factor.reshape(*factor.shape, *[1] * (psi.ndim - 2))

        return wide(self.raising) * lower + wide(self.lowering) * upper

    def _balanced(self, psi: Array) -> Array:
        """Mass that psi implies."""
        implied = self._coriolis(psi)
        return jnp.einsum("dmp,do...p->do...m", self.regression, implied, precision=PRECISION)

    def _balanced_adjoint(self, mass: Array) -> Array:
        back = jnp.einsum("dmp,do...m->do...p", self.regression, mass, precision=PRECISION)

        def wide(factor):
            return factor.reshape(*factor.shape, *[1] * (back.ndim - 2))

        lower, upper = wide(self.raising) * back, wide(self.lowering) * back
        return _shifted(lower, -1) + _shifted(upper, 1)


def _wide(factor: Float[Array, "node channel"], x: Float[Array, "node *rest channel"]) -> Array:
    return factor.reshape(len(factor), *[1] * (x.ndim - 2), factor.shape[1])


def _shifted(a: Array, by: int) -> Array:
    """Degree l takes the values of degree l - by; beyond the ends there is nothing."""
    empty = jnp.zeros_like(a[:1])
    return jnp.concatenate([empty, a[:-1]] if by > 0 else [a[1:], empty])


@with_own_jax
def balanced_basis(
    layout: Layout, truncation: int | None = None, balance: Balance | None = None
) -> Basis:
    """Basis of control variables for a layout; of scalars, if it holds no winds.

    Parameters
    ----------
    layout : Layout
    truncation : int, optional
        As `xdiffda.covariance.harmonics.sphere_basis`.
    balance : Balance, optional
        K and g; default zero and one, no balance.

    Examples
    --------
    >>> from xdiffda.state.grid import Grid
    >>> grid = Grid.from_coords([-60, -20, 20, 60], [0, 60, 120, 180, 240, 300])
    >>> layout = Layout(grid, ("u_component_of_wind", "v_component_of_wind"), (500,))
    >>> basis = balanced_basis(layout)
    >>> import jax.numpy as jnp
    >>> basis.synthesis(jnp.ones((*basis.mask.shape, 2))).shape
    (24, 2)
    """
    grid = layout.grid
    scalar = sphere_basis(grid.lat, grid.lon, truncation)
    u, v = wind_pairs(layout)
    if not u:
        return scalar
    n_degree = len(scalar.mask)
    mass = tuple(sorted(set(range(layout.n_channel)) - {*u, *v}))
    if balance is None:
        none = np.zeros((n_degree, len(mass), len(u)))
        balance = Balance(none, np.ones((grid.n_lat, len(mass))))
    north, east = _wind_rows(grid.lat, scalar)
    area = row_areas(np.deg2rad(_off_the_poles(grid.lat)))
    inverse = wind_inverse(north, east, np.asarray(scalar.mask) > 0, area)
    raising, lowering = _coriolis_factors(scalar)
    return BalancedBasis(
        scalar=scalar,
        north=_as32(north),
        east=_as32(east),
        inverse=_as32(inverse),
        regression=_as32(balance.regression),
        factor=_on_nodes(balance.factor, grid.n_lon),
        raising=raising,
        lowering=lowering,
        u=u,
        v=v,
        mass=mass,
    )


class ColumnBasis(BalancedBasis):
    """Control variables with psi on levels of its own, whatever levels the winds have.

    So the balanced mass of a level is the same whichever other levels a state holds, and states
    without any wind have it too. psi at the winds is ``pick`` times psi on its levels, linear, and
    `regression` maps sin(phi) psi from these. Coefficients are psi (level), chi (wind) and mass,
    one after another: they are more than the channels, so that there is no `analysis`.

    Attributes
    ----------
    pick : array (wind, level)
    """

    pick: Float[Array, "wind level"]

    def analysis(self, x: Float[Array, "node *rest channel"]) -> Array:
        """Raise: a state does not show psi on all levels."""
        raise TypeError("a state does not tell psi on levels that it does not hold")

    def _controls(self, a: Array) -> tuple[Array, Array, Array]:
        n_wind, n_level = self.pick.shape
        end = n_level + n_wind
        return a[..., :n_level], a[..., n_level:end], a[..., end:]

    def _coefficients(self, psi: Array, chi: Array, mass: Array) -> Array:
        return jnp.concatenate([psi, chi, mass], axis=-1)

    def _at_winds(self, psi: Array) -> Array:
        return jnp.einsum("...l,wl->...w", psi, self.pick, precision=PRECISION)

    def _from_winds(self, psi: Array) -> Array:
        return jnp.einsum("...w,wl->...l", psi, self.pick, precision=PRECISION)

    def _own_blocks(self, blocks: Blocks) -> tuple[Array, Array, Array]:
        n_wind, n_level = self.pick.shape
        end = n_level + n_wind
        own = (slice(n_level), slice(n_level, end), slice(end, None))
        psi, chi, mass = (blocks[..., one, one] for one in own)
        return psi, chi, mass


@with_own_jax
def column_basis(
    layout: Layout, scalar: ScalarBasis, pick: Float[np.ndarray, "wind level"], balance: Balance
) -> ColumnBasis:
    """Basis of control variables with psi on levels of its own.

    Parameters
    ----------
    layout : Layout
        With winds or without.
    scalar : ScalarBasis
        Harmonics on its grid.
    pick : array (wind, level)
        psi at the winds of the layout, in their order, from psi on its levels.
    balance : Balance
        K (degree, mass, level) and g.
    """
    u, v = wind_pairs(layout)
    north, east = _wind_rows(layout.grid.lat, scalar)
    raising, lowering = _coriolis_factors(scalar)
    return ColumnBasis(
        scalar=scalar,
        north=_as32(north),
        east=_as32(east),
        inverse=None,
        regression=_as32(balance.regression),
        factor=_on_nodes(balance.factor, layout.grid.n_lon),
        raising=raising,
        lowering=lowering,
        u=u,
        v=v,
        mass=tuple(sorted(set(range(layout.n_channel)) - {*u, *v})),
        pick=_as32(pick),
    )


def _as32(x: np.ndarray) -> Array:
    return jnp.asarray(x, jnp.float32)


def _on_nodes(factor: Float[np.ndarray, "row mass"], n_lon: int) -> Float[Array, "node mass"]:
    return _as32(np.repeat(factor, n_lon, axis=0))


def _off_the_poles(lat: tuple[float, ...]) -> np.ndarray:
    return np.clip(np.array(lat), -90 + 1e-5, 90 - 1e-5)  # at a pole the ratio is a limit


def _over_length(n_degree: int) -> Float[np.ndarray, " degree"]:
    """1 / sqrt(l (l + 1)), and 0 for degree 0."""
    degree = np.arange(1, n_degree)
    return np.append(0.0, 1 / np.sqrt(degree * (degree + 1.0)))


def _wind_rows(
    lat: tuple[float, ...], scalar: ScalarBasis
) -> tuple[Float[np.ndarray, "degree order row"], Float[np.ndarray, "degree order row"]]:
    """Derivatives of the harmonics along the meridian and along the row."""
    n_degree, n_order = scalar.mask.shape
    inside = _off_the_poles(lat)
    rows, slopes = legendre_with_slopes(tuple(inside.tolist()), n_degree - 1)
    root = _over_length(n_degree)[:, None, None]
    wavenumber = (np.arange(n_order) + 1) // 2
    east = root * wavenumber[:, None] * rows / np.cos(np.deg2rad(inside))
    return root * slopes, east


def _coriolis_factors(scalar: ScalarBasis) -> tuple[Array, Array]:
    """Factors with which degrees l - 1 and l + 1 of psi enter degree l of sin(phi) psi."""
    n_degree, n_order = scalar.mask.shape
    present, root = np.asarray(scalar.mask) > 0, _over_length(n_degree)
    square = np.arange(n_degree)[:, None] ** 2.0
    wavenumber = (np.arange(n_order) + 1) // 2
    eps = np.sqrt(np.maximum(square - wavenumber**2, 0) / (4 * square - 1))  # (degree, order)
    lower, upper = np.roll(root, 1), np.append(root[1:], 0.0)
    higher = np.concatenate([eps[1:], np.zeros((1, n_order))])
    raising, lowering = eps * lower[:, None] * present, higher * upper[:, None] * present
    return _as32(raising), _as32(lowering)


# Fit of the balance between mass and wind to samples of background errors, and its files.

N_SAMPLE, N_ROUND = 400, 3
FACTOR = (0.2, 5.0)  # limits of g: few samples, or a channel that hardly varies somewhere


@with_own_jax
def fit_basis(
    layout: Layout,
    samples: Float[np.ndarray, "sample node channel"],
    truncation: int | None = None,
) -> Basis:
    """Basis of control variables with the balance that samples show.

    Parameters
    ----------
    layout : Layout
    samples : array (sample, node, channel)
        Zero-mean states: normalised background errors, both components of a wind by the same s.
    truncation : int, optional

    Returns
    -------
    Basis
        A `BalancedBasis`, or a basis of scalars, if the layout holds no winds.
    """
    basis = balanced_basis(layout, truncation)
    if not isinstance(basis, BalancedBasis) or not basis.mass:
        return basis
    used = samples[:: max(1, len(samples) // N_SAMPLE)]
    n_lon, weight = layout.grid.n_lon, layout.grid.area_weights()[:: layout.grid.n_lon]
    own = list(basis.mass)
    resolved = row_scale(used - unresolved_part(basis, used), layout, floor=0.0)
    variance = np.asarray(resolved[::n_lon, own], np.float64) ** 2
    factor = np.ones_like(variance)
    for _ in range(N_ROUND):
        basis = with_balance(basis, used, factor)
        said = row_variance(basis, estimate_blocks(basis, used))
        ratio = variance / np.maximum(said, 1e-6 * said.mean(0))
        factor = np.clip(factor * np.sqrt(ratio), *FACTOR)
    # in the end scaled so that the variance on average is what `grid_variance` says
    basis = with_balance(basis, used, factor)
    said = np.asarray(basis.grid_variance(jnp.asarray(estimate_blocks(basis, used))))[own]
    factor = factor * np.sqrt(said / np.average(variance, axis=0, weights=weight))
    return with_balance(basis, used, factor)


def row_variance(
    basis: BalancedBasis, blocks: Float[np.ndarray, "degree channel channel"]
) -> Float[np.ndarray, "row mass"]:
    """Variance of mass in each latitude row, of coefficients with these blocks."""
    n_lon = basis.scalar.along_columns.shape[1]
    rows = np.asarray(basis.scalar.along_rows, np.float64)
    k = np.asarray(basis.regression, np.float64)

    # degree l of psi reaches degree l + 1 of mass and degree l - 1
    def reach(factor, by):
        return _moved(np.asarray(factor)[:, :, None] * rows, by)

    parts = [
        (rows, None),
        (reach(basis.raising, 1), _moved(k, 1)),
        (reach(basis.lowering, -1), _moved(k, -1)),
    ]
    psi, mass = np.array(basis.u), np.array(basis.mass)
    to = [blocks[:, mass], *(k @ blocks[:, psi] for _, k in parts[1:])]  # covariances with all
    total = 0.0
    for (one, _), covariance in zip(parts, to, strict=True):
        for other, k in parts:
            shared = np.einsum("dor,dor->dr", one, other)
            if k is None:
                each = np.einsum("dcc->dc", covariance[:, :, mass])
            else:
                each = np.einsum("dcp,dcp->dc", covariance[:, :, psi], k)
            total = total + np.einsum("dr,dc->rc", shared, each)
    return total * np.asarray(basis.factor, np.float64)[::n_lon] ** 2


def _moved(a: np.ndarray, by: int) -> np.ndarray:
    """Degree l takes the values of degree l + by; beyond the ends there is nothing."""
    empty = np.zeros_like(a[:1])
    return np.concatenate([a[1:], empty] if by > 0 else [empty, a[:-1]])


@with_own_jax
def with_balance(
    basis: BalancedBasis,
    samples: Float[np.ndarray, "sample node channel"],
    factor: Float[np.ndarray, "row mass"],
) -> BalancedBasis:
    """Return the same basis with this g, and the K that fits the samples best for it."""
    nodes = np.repeat(factor, basis.n_node // len(factor), axis=0)

    def places(b):
        return (b.regression, b.factor)

    none = jnp.zeros_like(basis.regression), jnp.asarray(nodes, jnp.float32)
    basis = eqx.tree_at(places, basis, none)
    regression = jnp.asarray(_regression(basis, samples), jnp.float32)
    return eqx.tree_at(lambda b: b.regression, basis, regression)


def _regression(
    basis: BalancedBasis, samples: Float[np.ndarray, "sample node channel"], batch: int = 32
) -> Float[np.ndarray, "degree mass level"]:
    """Ridge regression of mass on sin(phi) psi by degree; more of it where samples are few."""
    n_degree, n_mass, n_level = basis.regression.shape
    gram = np.zeros((n_degree, n_level, n_level))
    cross = np.zeros((n_degree, n_mass, n_level))
    for start in range(0, len(samples), batch):
        x = np.moveaxis(np.asarray(samples[start : start + batch], np.float32), 0, 1)
        found = _moments(basis, jnp.asarray(x))
        gram, cross = gram + np.asarray(found[0]), cross + np.asarray(found[1])
    count = len(samples) * np.asarray(basis.multiplicity)
    ridge = np.einsum("dpp->d", gram) / n_level * (1e-3 + n_level / count)
    gram += np.where(ridge > 0, ridge, 1.0)[:, None, None] * np.eye(n_level)
    return np.linalg.solve(gram, cross.transpose(0, 2, 1)).transpose(0, 2, 1)


@jax.jit
def _moments(basis: BalancedBasis, x: Array) -> tuple[Array, Array]:
    a = basis.analysis(x)
    predictor, mass = basis.implied(a), a[..., jnp.array(basis.mass)]

    def both(one, other):
        return jnp.einsum("dosp,dosq->dpq", one, other)

    return both(predictor, predictor), both(mass, predictor)


def kept_balance(basis: Basis) -> dict[str, np.ndarray]:
    """The balance of a basis as arrays for a file: `read_basis`."""
    if not isinstance(basis, BalancedBasis):
        return {}
    n_lon = basis.scalar.along_columns.shape[1]
    arrays = Balance(np.asarray(basis.regression), np.asarray(basis.factor)[::n_lon])
    return {f"balance_{name}": array for name, array in arrays._asdict().items()}


def read_basis(
    layout: Layout, arrays: Mapping[str, np.ndarray], truncation: int | None = None
) -> Basis:
    """The basis of a model's files; of scalars, where they hold no balance."""
    names = [f"balance_{name}" for name in Balance._fields]
    if names[0] not in arrays:
        return sphere_basis(layout.grid.lat, layout.grid.lon, truncation)
    return balanced_basis(layout, truncation, Balance(*(arrays[name] for name in names)))
