"""Winds and a temperature in balance with them: grid 12 x 24, one level."""

from __future__ import annotations

import numpy as np

from xdiffda.covariance.balance import Balance, BalancedBasis, balanced_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.state.grid import Grid, Layout

NAMES = ("temperature", "u_component_of_wind", "v_component_of_wind")
LAYOUT = Layout(Grid.from_coords(np.linspace(-82.5, 82.5, 12), np.arange(24) * 15.0), NAMES, (500,))


def make_basis(layout: Layout = LAYOUT, *, balance: bool = True) -> BalancedBasis:
    """Temperature follows the stream function, more so on large scales."""
    basis = balanced_basis(layout)
    assert isinstance(basis, BalancedBasis)
    if not balance:
        return basis
    n_degree, n_mass, n_level = basis.regression.shape
    size = 6 / (1 + np.arange(n_degree) / 8.0)
    sign = np.random.default_rng(0).choice([-1.0, 1.0], (n_mass, n_level))
    sine = np.sin(np.deg2rad(np.array(layout.grid.lat)))[:, None]
    factor = np.repeat(1.2 - 0.4 * sine**2, n_mass, axis=1)
    made = balanced_basis(layout, balance=Balance(size[:, None, None] * sign, factor))
    assert isinstance(made, BalancedBasis)
    return made


def balanced_covariance(layout: Layout = LAYOUT) -> SpectralCovariance:
    """B with a red spectrum, and winds that are mostly rotational."""
    basis = make_basis(layout)
    degree = np.arange(basis.mask.shape[0])
    spectrum = 1 / (1 + (degree / 4.0) ** 3)
    count = np.asarray(basis.multiplicity)
    spectrum /= (spectrum * count).sum() / count.sum()
    variance = np.full(layout.n_channel, 0.6)
    variance[list(basis.u)], variance[list(basis.v)] = 1.8, 0.2
    return SpectralCovariance.from_blocks(basis, spectrum[:, None, None] * np.diag(variance))
