"""Localised covariance of a background ensemble, applied matrix-free, with its square root."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda._localisation import (
    EARTH_RADIUS_KM,
    SURFACE_HPA,
    Localisation,
    gaspari_cohn,
    log_pressures,
)
from xdiffda._points import Points, Restricted
from xdiffda.spectral import Basis
from xdiffda.state import Layout

# wider than for R-localisation: the product with B's own scales narrows what is left
LOCALISATION = Localisation(length_km=900.0, length_log_p=0.6)


def localisation_spectrum(basis: Basis, length_km: float) -> Float[np.ndarray, " degree"]:
    """Variance per coefficient of a Gaspari-Cohn correlation on the sphere; not negative.

    The taper is a function of the chord, for which it is positive definite, cut at the
    truncation of the basis and brought to variance 1.

    Examples
    --------
    >>> from xdiffda.spectral import sphere_basis
    >>> basis = sphere_basis((-60.0, -20.0, 20.0, 60.0), tuple(60.0 * i for i in range(6)))
    >>> c = localisation_spectrum(basis, 2000.0)
    >>> round(float(c @ np.asarray(basis.multiplicity)) / 9, 6)
    1.0
    """
    count = np.asarray(basis.multiplicity, np.float64)
    if np.isinf(length_km):
        return np.where(np.arange(len(count)) == 0, count.sum(), 0.0)
    end = np.sqrt(10 / 3) * length_km / EARTH_RADIUS_KM
    node, weight = np.polynomial.legendre.leggauss(120)
    spectrum = np.zeros(len(count))
    for low, high in ((0.0, min(end, 2.0)), (min(end, 2.0), min(2 * end, 2.0))):
        chord = low + (high - low) * (node + 1) / 2
        legendre = np.polynomial.legendre.legvander(1 - chord**2 / 2, len(count) - 1)
        taper = gaspari_cohn(chord * EARTH_RADIUS_KM, length_km)
        spectrum += (high - low) / 2 * legendre.T @ (weight * taper * chord)
    spectrum = np.maximum(spectrum, 0.0)
    return spectrum * count.sum() / (spectrum @ count)


def vertical_root(layout: Layout, length_log_p: float) -> Float[np.ndarray, "channel height"]:
    """Root E of the vertical localisation, ``C = E E^T`` with a diagonal of 1.

    Channels of one height share a row.

    Examples
    --------
    >>> from xdiffda.state import Grid
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("temperature",), (100, 850))
    >>> e = vertical_root(layout, 0.3)
    >>> (e @ e.T).round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    height = np.nan_to_num(log_pressures(layout), nan=np.log(SURFACE_HPA))
    levels, row = np.unique(height, return_inverse=True)
    values, vectors = np.linalg.eigh(gaspari_cohn(np.abs(levels[:, None] - levels), length_log_p))
    keep = values > 1e-6 * values.max()
    root = vectors[:, keep] * np.sqrt(values[keep])
    return (root / np.linalg.norm(root, axis=1, keepdims=True))[row]


class EnsembleCovariance(eqx.Module):
    """Localised covariance of an ensemble, ``V = sum_k x_k o C (x_k o .)``.

    Attributes
    ----------
    basis : Basis
    perturbations : array (node, sample, channel)
        In units of z, their squares add up to the variance: `centre`.
    horizontal : array (degree,)
        Spectrum of C: `localisation_spectrum`.
    vertical : array (channel, height)
        Root of the vertical localisation: `vertical_root`.
    """

    basis: Basis
    perturbations: Float[Array, "node sample channel"]
    horizontal: Float[Array, " degree"]
    vertical: Float[Array, "channel height"]

    @classmethod
    def localised(
        cls, perturbations: Float[np.ndarray, "node sample channel"], basis: Basis, layout: Layout,
        *, localisation: Localisation = LOCALISATION,
    ) -> EnsembleCovariance:  # fmt: skip
        """Localise the sample covariance of ``perturbations`` in km and in ln p.

        Source: Houtekamer & Mitchell (2001),
        doi 10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2.
        """
        as32 = lambda a: jnp.asarray(a, jnp.float32)  # noqa: E731
        horizontal = localisation_spectrum(basis, localisation.length_km)
        vertical = vertical_root(layout, localisation.length_log_p)
        return cls(basis.scalar, as32(perturbations), as32(horizontal), as32(vertical))

    @property
    def variance(self) -> Float[Array, "node channel"]:
        """Variance of the day."""
        return jnp.sum(self.perturbations**2, axis=1)

    def __call__(self, x: Float[Array, "node *rest channel"]) -> Float[Array, "node *rest channel"]:
        """Return ``V x``."""
        return _between(self, self, x)

    def at(self, points: Points) -> Restricted:
        """The same covariance among some points, and from these to the whole grid."""
        basis, own = self.basis.at(points), points.pick(self.perturbations)
        near = EnsembleCovariance(basis, own, self.horizontal, self.vertical)
        return Restricted(near, lambda x: _between(near, self, x), basis.n_node)

    def members(self, numbers: Array) -> Float[Array, "node member channel"]:
        """Perturbations of members by number, modulo their count: those given, not divided.

        Their sample covariance (of all, by count less one) is that of the ensemble.
        """
        n = self.perturbations.shape[1]
        return jnp.sqrt(n - 1.0) * self.perturbations[:, numbers % n]

    def root(self) -> EnsembleRoot:
        """``V^(1/2)``, for 3D-Var's control variable."""
        return EnsembleRoot(self)

    def sample(self, keys: PRNGKeyArray) -> Float[Array, "node member channel"]:
        """Draw one state for each key."""
        shape = self.root().control().shape
        draw = lambda key: self.root()(jax.random.normal(key, shape))  # noqa: E731
        return jax.vmap(draw, out_axes=1)(keys)


def _between(
    source: EnsembleCovariance, target: EnsembleCovariance,
    x: Float[Array, "source *rest channel"],
) -> Float[Array, "target *rest channel"]:  # fmt: skip
    """V x at the points of ``target``, x at those of ``source``."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])

    def add(total: Array, samples: tuple[Array, Array]) -> tuple[Array, None]:
        here, there = samples
        heights = jnp.matmul(flat * here[:, None], source.vertical, precision="highest")
        a = source.basis.adjoint(heights) * source.horizontal[:, None, None, None]
        smooth = jnp.matmul(target.basis.synthesis(a), target.vertical.T, precision="highest")
        return total + there[:, None] * smooth, None

    samples = [jnp.moveaxis(own.perturbations, 1, 0) for own in (source, target)]
    start = jnp.zeros((target.basis.n_node, *flat.shape[1:]), flat.dtype)
    return jax.lax.scan(add, start, tuple(samples))[0].reshape(-1, *x.shape[1:])


class EnsembleRoot(eqx.Module):
    """``V^(1/2)``: one control field for each sample and height (Lorenc 2003)."""

    covariance: EnsembleCovariance

    def control(self) -> Float[Array, "sample degree order height"]:
        """The control variable of the background: zero."""
        own = self.covariance
        sizes = own.perturbations.shape[1], *own.basis.mask.shape, own.vertical.shape[1]
        return jnp.zeros(sizes)

    def __call__(
        self, chi: Float[Array, "sample degree order height"]
    ) -> Float[Array, "node channel"]:
        """Return ``sum_k x_k o C^(1/2) chi_k``."""
        own = self.covariance
        factor = own.basis.mask * jnp.sqrt(own.horizontal)[:, None]

        def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
            perturbation, control = part
            field = own.basis.synthesis(control * factor[:, :, None])
            return total + perturbation * jnp.matmul(
                field, own.vertical.T, precision="highest"
            ), None

        samples = jnp.moveaxis(own.perturbations, 1, 0)
        return jax.lax.scan(add, jnp.zeros_like(samples[0]), (samples, chi))[0]
