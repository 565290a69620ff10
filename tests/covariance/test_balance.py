"""Control variables of winds and balanced mass: calculus on the sphere, transposes, the fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from wind_world import LAYOUT, NAMES, balanced_covariance, make_basis

from xdiffda.covariance.balance import (
    Balance,
    BalancedBasis,
    balanced_basis,
    fit_basis,
    kept_balance,
    read_basis,
    row_variance,
)
from xdiffda.covariance.harmonics import ScalarBasis
from xdiffda.covariance.spectral import SpectralCovariance, estimate_blocks
from xdiffda.priors.prior import GaussianPrior
from xdiffda.state.grid import Grid, Layout
from xdiffda.verify import divergence_vorticity

GRIDS = {
    "poles": (np.linspace(-90, 90, 19), 36),
    "gaussian": (np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(12)[0])), 24),
    "cell centres": (np.linspace(-82.5, 82.5, 12), 24),
}
TEMPERATURE, U, V = 0, 1, 2


def _layout(kind: str, levels: tuple[int, ...] = (500, 850)) -> Layout:
    lat, n_lon = GRIDS[kind]
    return Layout(Grid.from_coords(lat, np.arange(n_lon) * 360 / n_lon), NAMES, levels)


@pytest.fixture(params=list(GRIDS))
def basis(request: pytest.FixtureRequest) -> BalancedBasis:
    return make_basis(_layout(request.param))


def _coefficients(basis: BalancedBasis, *rest: int) -> np.ndarray:
    n_channel = len(basis.u) + len(basis.v) + len(basis.mass)
    a = np.random.default_rng(0).normal(size=(*basis.mask.shape, *rest, n_channel))
    a *= np.asarray(basis.mask).reshape(*basis.mask.shape, *(1 for _ in rest), 1)
    a[0][..., [*basis.u, *basis.v]] = 0  # a constant has no gradient
    return a.astype(np.float32)


def test_adjoint_is_the_transpose_of_synthesis(basis: BalancedBasis) -> None:
    a = _coefficients(basis, 2)
    x = np.random.default_rng(1).normal(size=(basis.n_node, *a.shape[2:])).astype(np.float32)
    left = np.vdot(np.asarray(basis.synthesis(a), np.float64), x)
    assert left == pytest.approx(np.vdot(a, np.asarray(basis.adjoint(x), np.float64)), rel=1e-4)


def test_analysis_inverts_synthesis(basis: BalancedBasis) -> None:
    a = _coefficients(basis)
    np.testing.assert_allclose(basis.analysis(basis.synthesis(a)), a, atol=2e-4)


@pytest.mark.parametrize("kind", list(GRIDS))
def test_solid_body_rotation_is_one_coefficient(kind: str) -> None:
    # psi = -sin(lat): u = cos(lat), v = 0
    layout = _layout(kind)
    basis = make_basis(layout)
    x = np.zeros((basis.n_node, 6), np.float32)
    x[:, basis.u[0]] = np.cos(np.deg2rad(layout.grid.node_lat))
    winds = [*basis.u, *basis.v]
    a = np.array(basis.analysis(x))
    assert abs(a[1, 0, basis.u[0]]) > 0.1
    a[1, 0, basis.u[0]] = 0
    np.testing.assert_allclose(a[..., winds], 0, atol=1e-5)


@pytest.mark.parametrize(("channel", "none"), [(U, "divergence"), (V, "vorticity")])
def test_stream_function_rotates_and_potential_diverges(channel: int, none: str) -> None:
    basis = make_basis(balance=False)
    a = np.zeros_like(_coefficients(basis))
    a[1:6, :, channel] = _coefficients(basis)[1:6, :, channel]
    x = np.asarray(basis.synthesis(a)).reshape(*LAYOUT.grid.shape, 3)
    wind = xr.Dataset(
        {NAMES[U]: (("lat", "lon"), x[..., U]), NAMES[V]: (("lat", "lon"), x[..., V])},
        {"lat": np.array(LAYOUT.grid.lat), "lon": np.array(LAYOUT.grid.lon)},
    )
    both = (divergence_vorticity(wind) ** 2).sel(lat=slice(-60, 60)).mean()
    assert float(both[none]) < 1e-3 * float(both["divergence"] + both["vorticity"])


def test_mass_is_sine_of_latitude_times_stream_function() -> None:
    basis = _with(make_basis(), regression=1.0, factor=1.0)
    a = np.zeros((*basis.mask.shape, 3), np.float32)
    a[1:8, :, U] = _coefficients(make_basis())[1:8, :, U]
    degree = np.arange(basis.mask.shape[0])[:, None]
    psi = a[..., [U]] / np.sqrt(np.maximum(degree * (degree + 1), 1))[..., None]
    sine = np.sin(np.deg2rad(LAYOUT.grid.node_lat))[:, None]
    expected = sine * np.asarray(basis.scalar.synthesis(psi))
    np.testing.assert_allclose(basis.synthesis(a)[:, [TEMPERATURE]], expected, atol=1e-5)


def _with(basis: BalancedBasis, **values: float) -> BalancedBasis:
    """The same basis with all of K or g set to a number."""
    kept = {k.removeprefix("balance_"): v for k, v in kept_balance(basis).items()}
    kept.update({k: np.full_like(kept[k], v) for k, v in values.items()})
    made = balanced_basis(LAYOUT, balance=Balance(**kept))
    assert isinstance(made, BalancedBasis)
    return made


@pytest.mark.parametrize("kind", list(GRIDS))
def test_white_coefficients_are_white_winds(kind: str) -> None:
    # at every point, those at poles too, in both components: isotropic
    basis = make_basis(_layout(kind, (500,)), balance=False)
    n = np.asarray(basis.mask).sum()
    eye = np.zeros((*basis.mask.shape, int(n), 3), np.float32)
    eye[(*np.nonzero(basis.mask), np.arange(int(n)))] = 1
    by_component = 0.0
    for other in (U, V):
        one = eye.copy()
        one[..., [TEMPERATURE, other]] = 0
        x = np.asarray(basis.synthesis(one))
        total = (x[..., [U, V]] ** 2).sum((1, 2))
        np.testing.assert_allclose(total, 1 - 1 / n, rtol=1e-4)
        by_component = by_component + (x[..., [U, V]] ** 2).sum(1)
    np.testing.assert_allclose(by_component, 1 - 1 / n, rtol=1e-4)


def test_a_turn_of_the_globe_changes_nothing() -> None:
    covariance = balanced_covariance()
    shape = (*LAYOUT.grid.shape, 3)
    x = np.random.default_rng(3).normal(size=(LAYOUT.grid.n_node, 3)).astype(np.float32)

    def turn(f):
        return np.roll(np.asarray(f).reshape(shape), 5, axis=1).reshape(-1, 3)

    np.testing.assert_allclose(turn(covariance(x)), covariance(turn(x)), atol=1e-4)


def test_variances_are_those_of_draws() -> None:
    keys = jax.random.split(jax.random.key(0), 2000)
    covariance, weight = balanced_covariance(), LAYOUT.grid.area_weights() / LAYOUT.grid.n_node
    basis = covariance.basis
    assert isinstance(basis, BalancedBasis)
    rows = np.asarray(covariance.sample(keys) ** 2).mean(1).reshape(12, 24, 3).mean(1)
    said = row_variance(basis, np.asarray(covariance.blocks))
    np.testing.assert_allclose(said, rows[:, [TEMPERATURE]], rtol=0.1)
    # `grid_variance` does not know g, which a fit scales so that it need not
    flat = SpectralCovariance.from_blocks(_with(basis, factor=1.0), covariance.blocks)
    mean = weight @ np.asarray(flat.sample(keys) ** 2).mean(1)
    np.testing.assert_allclose(mean, flat.variance, rtol=0.03)


@pytest.mark.long
def test_the_fit_finds_the_balance_of_samples() -> None:
    covariance = balanced_covariance()
    drawn = np.moveaxis(
        np.asarray(covariance.sample(jax.random.split(jax.random.key(1), 400))), 1, 0
    )
    basis = fit_basis(LAYOUT, drawn)
    assert isinstance(basis, BalancedBasis)
    found = SpectralCovariance.from_blocks(basis, estimate_blocks(basis, drawn))
    probe = np.zeros((LAYOUT.grid.n_node, 8, 3), np.float32)
    probe[np.arange(8) * 29 + 30, np.arange(8), np.arange(8) % 3] = 1
    truth = np.asarray(covariance(probe))
    error = np.asarray(found(probe)) - truth
    assert np.sqrt((error**2).mean() / (truth**2).mean()) < 0.15
    scalar = SpectralCovariance.from_blocks(
        basis.scalar, estimate_blocks(basis.scalar, drawn)
    )  # which knows no balance
    error = np.asarray(scalar(probe)) - truth
    assert np.sqrt((error**2).mean() / (truth**2).mean()) > 0.3
    np.testing.assert_allclose(
        found.variance,
        LAYOUT.grid.area_weights() / LAYOUT.grid.n_node @ (drawn**2).mean(0),
        rtol=0.05,
    )


def test_scalars_stand_for_it_where_distance_is_all_that_counts() -> None:
    covariance = balanced_covariance()
    blocks = covariance.basis.scalar_blocks(covariance.blocks)
    scalar = SpectralCovariance.from_blocks(covariance.basis.scalar, blocks)
    np.testing.assert_allclose(scalar.variance, covariance.variance, rtol=1e-5)
    assert float(jnp.abs(blocks[:, U, V]).max()) == 0


def test_files_keep_it() -> None:
    basis = make_basis(_layout("gaussian"))
    again = read_basis(_layout("gaussian"), kept_balance(basis))
    for one, other in zip(jax.tree.leaves(basis), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert kept_balance(basis.scalar) == {}
    assert isinstance(read_basis(_layout("gaussian"), {}), ScalarBasis)


@pytest.mark.long
def test_a_prior_from_samples_is_balanced_where_there_are_winds() -> None:
    drawn = balanced_covariance().sample(jax.random.split(jax.random.key(2), 60))
    x = np.moveaxis(np.asarray(drawn), 1, 0).reshape(60, 1, 12, 24, 3)
    dims = ("member", "level", "lat", "lon")
    coords = {"level": [500], "lat": np.array(LAYOUT.grid.lat), "lon": np.array(LAYOUT.grid.lon)}
    samples = xr.Dataset({n: (dims, x[..., i]) for i, n in enumerate(NAMES)}, coords)
    prior = GaussianPrior.from_samples(samples)
    assert isinstance(prior.covariance.basis, BalancedBasis)
    np.testing.assert_array_equal(prior.scale[:, U], prior.scale[:, V])
    scalar = GaussianPrior.from_samples(samples, balance=False)
    assert isinstance(scalar.covariance.basis, ScalarBasis)
    only_u = GaussianPrior.from_samples(samples.drop_vars(NAMES[V]))
    assert isinstance(only_u.covariance.basis, ScalarBasis)
