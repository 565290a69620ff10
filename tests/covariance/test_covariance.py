"""Spectral covariances against dense matrices, estimates against known truth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xdiffda.covariance.harmonics import Basis, sphere_basis
from xdiffda.covariance.spectral import (
    BlockCovariance,
    CovarianceTable,
    SpectralCovariance,
    estimate_blocks,
    white_coefficients,
    white_noise,
)

LAT = tuple(np.linspace(-75.0, 75.0, 6).tolist())
LON = tuple((np.arange(12) * 30.0).tolist())
N_CHANNEL = 2


@pytest.fixture(scope="module")
def basis() -> Basis:
    return sphere_basis(LAT, LON)


def _blocks(basis: Basis, seed: int = 0) -> np.ndarray:
    """One SPD matrix for each degree, red in degree, channels correlated."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(basis.mask.shape[0], N_CHANNEL, N_CHANNEL))
    blocks = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(N_CHANNEL)
    return blocks / (1.0 + np.arange(len(blocks)))[:, None, None]


@pytest.fixture(scope="module")
def covariance(basis: Basis) -> SpectralCovariance:
    return SpectralCovariance.from_blocks(basis, _blocks(basis))


def _columns(basis: Basis) -> tuple[np.ndarray, np.ndarray]:
    """Dense Y (node, coefficient) and the degree of each coefficient."""
    present = np.argwhere(np.asarray(basis.mask))
    one = np.zeros((len(present), *basis.mask.shape), np.float32)
    one[np.arange(len(present)), present[:, 0], present[:, 1]] = 1.0
    return np.asarray(jax.vmap(basis.synthesis)(one), np.float64).T, present[:, 0]


def _dense(basis: Basis, blocks: np.ndarray) -> np.ndarray:
    """Y L Y^T as a matrix over (node, channel)."""
    y, degree = _columns(basis)
    full = np.einsum("nk,kce,mk->ncme", y, np.asarray(blocks, np.float64)[degree], y)
    return full.reshape(basis.n_node * N_CHANNEL, -1)


def test_application_is_the_dense_product(basis: Basis, covariance: SpectralCovariance) -> None:
    x = np.random.default_rng(1).normal(size=(basis.n_node, 3, N_CHANNEL)).astype(np.float32)
    dense = _dense(basis, _blocks(basis))
    expected = dense @ x.transpose(0, 2, 1).reshape(-1, 3)
    found = np.asarray(covariance(x)).transpose(0, 2, 1).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())
    variance = np.diag(dense).reshape(basis.n_node, N_CHANNEL)
    np.testing.assert_allclose(
        np.broadcast_to(covariance.variance, variance.shape), variance, rtol=1e-4
    )


def test_blocks_are_given_back_and_negative_values_become_zero(
    basis: Basis, covariance: SpectralCovariance
) -> None:
    np.testing.assert_allclose(covariance.blocks, _blocks(basis), rtol=1e-4, atol=1e-6)
    indefinite = np.broadcast_to(np.diag([1.0, -1.0]), (basis.mask.shape[0], 2, 2))
    kept = SpectralCovariance.from_blocks(basis, indefinite).blocks[0]
    np.testing.assert_allclose(kept, np.diag([1.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 7.0])
def test_posterior_and_wiener_are_bayes_in_matrices(
    basis: Basis, covariance: SpectralCovariance, sigma: float
) -> None:
    """With noise covariance N = sigma^2 Y Y^T: B (B + N)^+ z and B - B (B + N)^+ B."""
    dense = _dense(basis, _blocks(basis))
    noise = _dense(basis, np.broadcast_to(sigma**2 * np.eye(N_CHANNEL), _blocks(basis).shape))
    gain = dense @ np.linalg.pinv(dense + noise, rcond=1e-7, hermitian=True)
    found = _dense(basis, np.asarray(covariance.posterior(sigma).blocks))
    np.testing.assert_allclose(found, dense - gain @ dense, atol=1e-4 * dense.max())
    # a state in the span of the basis, as all states of the sampler are
    z = np.asarray(white_noise(covariance, jax.random.split(jax.random.key(0), 1)))[:, 0]
    np.testing.assert_allclose(
        np.asarray(covariance.wiener(z, sigma)).reshape(-1),
        gain @ z.reshape(-1).astype(float),
        atol=2e-4,
    )


def test_limits_of_the_noise_level(covariance: SpectralCovariance) -> None:
    small = covariance.posterior(1e-3).blocks
    np.testing.assert_allclose(small / 1e-6, np.broadcast_to(np.eye(2), small.shape), atol=1e-3)
    np.testing.assert_allclose(
        covariance.posterior(1e4).blocks, covariance.blocks, rtol=1e-4, atol=1e-6
    )
    gain = covariance.gain(1e-3)
    np.testing.assert_allclose(gain, np.broadcast_to(np.eye(2), gain.shape), atol=1e-4)


def test_draws_have_the_covariance_and_depend_on_their_key_only(
    basis: Basis, covariance: SpectralCovariance
) -> None:
    n = 20_000
    keys = jax.random.split(jax.random.key(3), n)
    draws = np.asarray(jax.jit(lambda k: covariance.sample(k))(keys), np.float64)
    flat = draws.transpose(1, 0, 2).reshape(n, -1)
    dense = _dense(basis, _blocks(basis))
    # standard error of a covariance is about sqrt(2 / n) of the variance; 6 of them
    np.testing.assert_allclose(
        flat.T @ flat / n, dense, atol=6 * np.sqrt(2 / n) * np.diag(dense).max()
    )
    np.testing.assert_allclose(covariance.sample(keys[5:7])[:, 0], draws[:, 5], atol=1e-5)


def test_white_noise_has_unit_variance_everywhere(covariance: SpectralCovariance) -> None:
    keys = jax.random.split(jax.random.key(4), 20_000)
    noise = np.asarray(jax.jit(lambda k: white_noise(covariance, k))(keys), np.float64)
    np.testing.assert_allclose(noise.var(1), 1.0, atol=6 * np.sqrt(2 / 20_000))
    a = white_coefficients(covariance, keys[:2])
    assert float(jnp.abs(a[covariance.basis.mask == 0]).max()) == 0.0


def test_estimate_recovers_a_known_covariance(basis: Basis, covariance: SpectralCovariance) -> None:
    samples = np.moveaxis(
        np.asarray(covariance.sample(jax.random.split(jax.random.key(5), 6000))), 1, 0
    )
    found, expected = estimate_blocks(basis, samples, batch=500), _blocks(basis)
    scale = np.sqrt(np.einsum("dc,de->dce", *2 * [np.einsum("dcc->dc", expected)]))
    assert np.abs((found - expected) / scale).max() < 6 * np.sqrt(2 / 6000)


def test_few_samples_give_a_shrunk_positive_definite_estimate(basis: Basis) -> None:
    """One sample: degree 0 has rank one, which shrinkage by n / (n + C) = 1/3 repairs."""
    sample = np.random.default_rng(6).normal(size=(1, basis.n_node, N_CHANNEL)).astype("f4")
    blocks = estimate_blocks(basis, sample)
    assert np.linalg.eigvalsh(blocks).min() > 0
    a = np.asarray(basis.analysis(sample[0]), np.float64)[0, 0]
    assert blocks[0, 0, 1] == pytest.approx(a[0] * a[1] / 3, rel=1e-4)
    assert blocks[0, 0, 0] == pytest.approx(a[0] ** 2, rel=1e-4)


SIGMAS = (0.1, 0.7, 3.0, 20.0)


@pytest.fixture(scope="module")
def table(basis: Basis, covariance: SpectralCovariance) -> CovarianceTable:
    """Nodes that no interpolation formula would guess: posteriors times uneven factors."""
    factors = (1.0, 0.8, 0.9, 0.7)
    blocks = [f * covariance.posterior(s).blocks for f, s in zip(factors, SIGMAS, strict=True)]
    prior = jnp.einsum("dcc->d", covariance.blocks) / N_CHANNEL
    return CovarianceTable(basis, jnp.asarray(SIGMAS), jnp.stack(blocks), prior)


@pytest.mark.parametrize("level", range(len(SIGMAS)))
def test_table_equals_its_nodes(table: CovarianceTable, level: int) -> None:
    found = jax.jit(lambda s: table(s).blocks)(SIGMAS[level])
    np.testing.assert_allclose(found, table.blocks[level], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.3, 1.5, 9.0, 80.0, 500.0])
def test_table_is_positive_definite_between_and_beyond(
    table: CovarianceTable, sigma: float
) -> None:
    eigenvalues = np.linalg.eigvalsh(np.asarray(table(sigma).blocks, np.float64))
    assert eigenvalues.min() > 0


def test_table_goes_as_sigma_squared_below_its_first_level(table: CovarianceTable) -> None:
    ratio = np.asarray(table(1e-3).blocks) / np.asarray(table(2e-3).blocks)
    np.testing.assert_allclose(ratio, 0.25, rtol=1e-3)


def test_table_of_one_shape_is_exact_for_scalar_covariances(basis: Basis) -> None:
    """One channel: the interpolated quantity is constant, so every sigma is exact."""
    b = 1.0 / (1.0 + np.arange(basis.mask.shape[0]))

    def v(s):
        return b * s**2 / (b + s**2)

    table = CovarianceTable(
        basis,
        jnp.asarray(SIGMAS),
        jnp.asarray([v(s)[:, None, None] for s in SIGMAS]),
        jnp.asarray(b),
    )
    for sigma in (0.01, 0.4, 1.1, 50.0):
        np.testing.assert_allclose(table(sigma).blocks[:, 0, 0], v(sigma), rtol=1e-4)


def test_decomposition_of_applied_blocks_is_the_same_covariance(
    basis: Basis, covariance: SpectralCovariance
) -> None:
    back = BlockCovariance(basis, covariance.blocks).decompose()
    np.testing.assert_allclose(back.blocks, covariance.blocks, rtol=1e-4, atol=1e-6)
