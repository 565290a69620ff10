"""Fit of the balance between mass and wind to samples of background errors, and its files."""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xdiffda._scales import row_scale, unresolved_part
from xdiffda.balance import Balance, BalancedBasis, balanced_basis
from xdiffda.covariance import estimate_blocks
from xdiffda.spectral import Basis, sphere_basis
from xdiffda.state import Layout

N_SAMPLE, N_ROUND = 400, 3
FACTOR = (0.2, 5.0)  # limits of g: few samples, or a channel that hardly varies somewhere


def fit_basis(
    layout: Layout, samples: Float[np.ndarray, "sample node channel"],
    truncation: int | None = None,
) -> Basis:  # fmt: skip
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
    reach = lambda factor, by: _moved(np.asarray(factor)[:, :, None] * rows, by)  # noqa: E731
    parts = [(rows, None), (reach(basis.raising, 1), _moved(k, 1)),
             (reach(basis.lowering, -1), _moved(k, -1))]  # fmt: skip
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


def with_balance(
    basis: BalancedBasis, samples: Float[np.ndarray, "sample node channel"],
    factor: Float[np.ndarray, "row mass"],
) -> BalancedBasis:  # fmt: skip
    """The same basis with this g, and the K that then fits the samples best."""
    nodes = np.repeat(factor, basis.n_node // len(factor), axis=0)
    places = lambda b: (b.regression, b.factor)  # noqa: E731
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
    both = lambda one, other: jnp.einsum("dosp,dosq->dpq", one, other)  # noqa: E731
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
