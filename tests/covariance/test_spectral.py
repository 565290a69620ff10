"""Harmonic bases: transposes, inverses, variance, and agreement with GenCast's harmonics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from places import TESTS

from xdiffda.covariance.harmonics import Basis, circle_basis, sphere_basis

GOLDEN = TESTS / "diffusion/golden/spherical_noise.npz"


def _sphere(kind: str, truncation: int | None = None) -> Basis:
    if kind == "poles":
        lat, n_lon = np.linspace(-90, 90, 19), 36
    elif kind == "gaussian":
        lat, n_lon = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(12)[0])), 24
    else:
        lat, n_lon = np.linspace(-82.5, 82.5, 12), 24
    lon = np.arange(n_lon) * 360 / n_lon
    return sphere_basis(tuple(lat.tolist()), tuple(lon.tolist()), truncation)


@pytest.fixture(params=["poles", "gaussian", "cell centres", "circle"])
def basis(request: pytest.FixtureRequest) -> Basis:
    return circle_basis(48, 11) if request.param == "circle" else _sphere(request.param)


def _coefficients(basis: Basis, *rest: int, seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(*basis.mask.shape, *rest))
    return (a * np.asarray(basis.mask).reshape(*basis.mask.shape, *(1 for _ in rest))).astype("f4")


def test_adjoint_is_the_transpose_of_synthesis(basis: Basis) -> None:
    a = _coefficients(basis, 3)
    x = np.random.default_rng(1).normal(size=(basis.n_node, 3)).astype(np.float32)
    left = np.vdot(np.asarray(basis.synthesis(a), np.float64), x)
    right = np.vdot(a, np.asarray(basis.adjoint(x), np.float64))
    assert left == pytest.approx(right, rel=1e-4)


def test_analysis_inverts_synthesis(basis: Basis) -> None:
    a = _coefficients(basis, 2)
    np.testing.assert_allclose(basis.analysis(basis.synthesis(a)), a, atol=2e-4)


def test_what_does_not_exist_does_not_reach_the_grid(basis: Basis) -> None:
    beyond = jnp.where(basis.mask == 0, 1e3, 0.0)
    assert float(jnp.abs(basis.synthesis(beyond)).max()) == 0.0


def test_projection_is_idempotent_and_keeps_trailing_axes(basis: Basis) -> None:
    x = np.random.default_rng(2).normal(size=(basis.n_node, 2, 3)).astype(np.float32)
    once = basis.project(x)
    assert once.shape == x.shape
    np.testing.assert_allclose(basis.project(once), once, atol=2e-4)
    np.testing.assert_allclose(basis.project(x[:, 1, 2]), once[:, 1, 2], atol=1e-5)


def test_unit_coefficients_give_unit_variance_at_every_node(basis: Basis) -> None:
    """The addition theorem: the squared functions sum to one everywhere, poles included."""
    total = np.zeros(basis.n_node)
    for degree, order in np.argwhere(np.asarray(basis.mask)):
        a = np.zeros(basis.mask.shape, np.float32)
        a[degree, order] = 1.0
        total += np.asarray(basis.synthesis(a), np.float64) ** 2
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_sphere_functions_are_orthogonal_under_gaussian_quadrature() -> None:
    basis = _sphere("gaussian")
    weights = np.repeat(np.polynomial.legendre.leggauss(12)[1] / 2, 24) / 24
    functions = []
    for degree, order in np.argwhere(np.asarray(basis.mask)):
        a = np.zeros(basis.mask.shape, np.float32)
        a[degree, order] = 1.0
        functions.append(np.asarray(basis.synthesis(a), np.float64))
    gram = np.einsum("an,n,bn->ab", functions, weights, functions) * len(functions)
    np.testing.assert_allclose(gram, np.eye(len(functions)), atol=1e-5)


def test_multiplicity_is_two_l_plus_one() -> None:
    assert _sphere("poles").multiplicity.tolist() == [2 * degree + 1 for degree in range(18)]
    assert circle_basis(48, 3).multiplicity.tolist() == [1, 2, 2, 2]


def test_agrees_with_the_noise_of_gencast() -> None:
    """Golden field of the official code; see tests/diffusion/golden/README.md."""
    golden = np.load(GOLDEN, allow_pickle=False)
    lat, lon = (tuple(golden[k].astype(float).tolist()) for k in ("lat", "lon"))
    basis = sphere_basis(lat, lon)
    n = len(golden["total_wavenumbers"])
    assert golden["longitude_wavenumbers"].tolist()[:5] == [0, 1, -1, 2, -2]
    # GenCast: power 1/n for each total wavenumber; ours: 1/n^2 for each coefficient
    factor = np.sqrt(n / (2 * golden["total_wavenumbers"] + 1.0))
    a = golden["normal_coefficients_total_by_lon_wavenumber"] * factor[:, None]
    field = basis.synthesis(jnp.asarray(a, jnp.float32)).reshape(len(lat), len(lon))
    np.testing.assert_allclose(field, golden["field_lat_lon"], atol=3e-5)


def test_a_rotation_about_the_axis_keeps_the_power_of_each_degree() -> None:
    basis = _sphere("gaussian")
    x = np.asarray(basis.synthesis(_coefficients(basis))).reshape(12, 24)

    def power(f):
        return np.sum(np.asarray(basis.analysis(f.reshape(-1))) ** 2, axis=1)

    np.testing.assert_allclose(power(np.roll(x, 5, axis=1)), power(x), rtol=1e-3, atol=1e-4)
    one = jax.jit(lambda f: basis.project(f))(x.reshape(-1))
    np.testing.assert_allclose(one, x.reshape(-1), atol=2e-4)


def test_a_truncation_that_the_grid_does_not_resolve_is_refused() -> None:
    with pytest.raises(ValueError, match=r"truncation 18 is outside 0\.\.17, .*19 x 36"):
        _sphere("poles", 18)
    with pytest.raises(ValueError, match=r"truncation -1 is outside"):
        _sphere("poles", -1)
    with pytest.raises(ValueError, match="needs more than 16 points"):
        circle_basis(16, 8)
