"""V(sigma) of the day: a calibrated covariance rescaled by the variance of an ensemble.

``(P^-1 + sigma^-2 I)^-1`` has no closed form, and no cheap square root, for the localised P
of an ensemble.  What is known of the day best with few members is the variance, smoothed.
So V(sigma) is scaled on both sides, ``S^(1/2) V(sigma) S^(1/2)``, S a field of variance
ratios between the day and the climate: positive, symmetric, as cheap as V, and exact where
S is 1.  Source: the error of the day as a field of variances on a static correlation, as in
ECMWF's ensemble of data assimilations (Bonavita, Isaksen & Holm 2012, doi 10.1002/qj.1899);
its use at a noise level is ours.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda._localised import localisation_spectrum
from xdiffda._points import Points, Restricted, restricted
from xdiffda.errors import Problem, raise_if
from xdiffda.spectral import Basis

# variances of few members are noise at the scale of the grid
SMOOTHING_KM = 800.0
_FLOOR = 0.05


def variance_ratio(
    perturbations: Float[np.ndarray, "node sample channel"],
    variance: Float[np.ndarray, " channel"],
    basis: Basis,
    *,
    alpha: float = 0.5,
    smoothing_km: float = SMOOTHING_KM,
    area: Float[np.ndarray, " node"] | None = None,
) -> Float[np.ndarray, "node channel"]:
    """Ratio S of the variance of the day to the climate's, ``alpha + (1 - alpha) smooth(...)``.

    Parameters
    ----------
    perturbations : array (node, sample, channel)
        In units of z, their squares add up to the variance: `xdiffda.ensemble.centre`.
    variance : array (channel,)
        Of B: ``prior.covariance.variance``.
    basis : Basis
        In which to smooth.
    alpha : float
        Weight of the climate, 0 to 1.
    smoothing_km : float
        Length of the Gaspari-Cohn filter; infinite: one number for each channel.
    area : array (node,), optional
        Area weights; given, the smoothed ratio is divided by its area mean: the ensemble says
        where the error is, r how large (to be used where r comes from innovations).

    Returns
    -------
    array (node, channel)
        Not below ``alpha``, nor 0.05.

    Raises
    ------
    InputError
        If ``alpha`` is not in 0 to 1.
    """
    if not 0 <= alpha <= 1:
        problem = Problem(f"alpha={alpha!r}", "a number from 0 to 1", "alpha=0.5")
        raise_if([problem], what="variance of the day")
    ratio = (np.asarray(perturbations, np.float64) ** 2).sum(1) / np.asarray(variance)
    spectrum = localisation_spectrum(basis, smoothing_km)
    response = jnp.asarray(spectrum / spectrum[0], jnp.float32)[:, None, None]
    basis = basis.scalar
    a = basis.analysis(jnp.asarray(ratio, jnp.float32))
    smooth = np.maximum(np.asarray(basis.synthesis(response * a)), 0.0)
    if area is not None:
        mean = np.average(smooth, axis=0, weights=area)
        smooth = smooth / np.where(mean > 0, mean, 1.0)
    return np.maximum(alpha + (1 - alpha) * smooth, _FLOOR).astype(np.float32)


class RescaledCovariance(eqx.Module):
    """``S^(1/2) V S^(1/2)``.

    Attributes
    ----------
    inner : covariance
        V; callable state -> state.
    root : array (node, channel)
        Square root of S.
    """

    inner: Any
    root: Float[Array, "node channel"]

    def __call__(self, x: Float[Array, "node *rest channel"]) -> Float[Array, "node *rest channel"]:
        """Return ``S^(1/2) V S^(1/2) x``."""
        return self.scaled(self.inner(self.scaled(x)))

    def scaled(self, x: Float[Array, "node *rest channel"]) -> Float[Array, "node *rest channel"]:
        """Return ``S^(1/2) x``."""
        return self.root.reshape(x.shape[0], *[1] * (x.ndim - 2), x.shape[-1]) * x

    def at(self, points: Points) -> Restricted | None:
        """The same covariance among some points, and from these to the whole grid."""
        inner = restricted(self.inner, points)
        if inner is None:
            return None
        near = RescaledCovariance(inner.among, points.pick(self.root))
        spread = lambda x: self.scaled(inner.spread(near.scaled(x)))  # noqa: E731
        return Restricted(near, spread, inner.n)

    def decompose(self) -> RescaledCovariance:
        """The same covariance in a form from which one can draw."""
        inner = self.inner.decompose() if hasattr(self.inner, "decompose") else self.inner
        return RescaledCovariance(inner, self.root)

    def sample(self, keys: PRNGKeyArray) -> Float[Array, "node member channel"]:
        """Draw one state for each key."""
        return self.root[:, None] * self.inner.sample(keys)


class FlowDependent(eqx.Module):
    """sigma -> V(sigma) of the day; stands where a `CovarianceTable` does.

    For one variable, a prior variance S P instead of P changes the variance given noise of
    sigma by ``S (P + sigma^2) / (S P + sigma^2)``: S at large sigma, 1 at small sigma, where
    the noisy state itself says all.  This is the factor taken, with P the variance of B.

    Attributes
    ----------
    inner : callable
        sigma -> V: a `CovarianceTable` or ``covariance.posterior``.
    ratio : array (node, channel)
        S: `variance_ratio`.
    variance : array (channel,)
        P.
    """

    inner: Any
    ratio: Float[Array, "node channel"]
    variance: Float[Array, " channel"]

    def __call__(self, sigma: float | Array) -> RescaledCovariance:
        """Return V at ``sigma``."""
        noise = jnp.square(sigma)
        factor = self.ratio * (self.variance + noise) / (self.ratio * self.variance + noise)
        return RescaledCovariance(self.inner(sigma), jnp.sqrt(factor))
