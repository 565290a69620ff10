"""Background ensembles: a flow-dependent covariance beside the climatological one.

The localised covariance of the ensemble, ``V = sum_k x_k o C (x_k o .)``, is applied
matrix-free, C spectral in the horizontal and a small matrix in the vertical; the hybrid is
``alpha B + (1 - alpha) V`` (Hamill & Snyder 2000; Lorenc 2003).  For guidance at a noise
level the calibrated V(sigma) is rescaled by the ensemble's variance (`FlowDependent`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.covariance.draws import split_keys
from xdiffda.covariance.harmonics import Basis, Points, Restricted, restricted
from xdiffda.covariance.localisation import (
    HYBRID_LOCALISATION,
    EnsembleCovariance,
    EnsembleRoot,
    Localisation,
    localisation_spectrum,
    vertical_root,
)
from xdiffda.covariance.localisation import HYBRID_LOCALISATION as LOCALISATION
from xdiffda.covariance.spectral import SpectralCovariance, SpectralRoot
from xdiffda.errors import Problem, raise_if
from xdiffda.jax_settings import with_own_jax

__all__ = [
    "HYBRID_LOCALISATION",
    "EnsembleCovariance",
    "EnsembleRoot",
    "FlowDependent",
    "Hybrid",
    "HybridCovariance",
    "HybridRoot",
    "RescaledCovariance",
    "centre",
    "localisation_spectrum",
    "spread_scale",
    "variance_ratio",
    "vertical_root",
]


# Flow-dependent V(sigma): a calibrated covariance rescaled by the variance of an ensemble.
#
# ``(P^-1 + sigma^-2 I)^-1`` has no closed form, and no cheap square root, for the localised P
# of an ensemble.  The flow-dependent quantity that few members give best is the smoothed
# variance.  So V(sigma) is scaled on both sides, ``S^(1/2) V(sigma) S^(1/2)``, with S the field
# of ratios of the ensemble variance to the climatological one: positive, symmetric, as cheap as
# V, and exact where S is 1.  Source: flow-dependent variances on a static correlation, as in
# ECMWF's ensemble of data assimilations (Bonavita, Isaksen & Holm 2012, doi 10.1002/qj.1899);
# its use at a noise level is ours.

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
    """Ratio S of ensemble to climatological variance, ``alpha + (1 - alpha) smooth(...)``.

    Parameters
    ----------
    perturbations : array (node, sample, channel)
        In units of z, their squares add up to the variance: `xdiffda.covariance.ensemble.centre`.
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
        raise_if([problem], what="ensemble variance")
    ratio = (np.asarray(perturbations, np.float64) ** 2).sum(1) / np.asarray(variance)
    spectrum = localisation_spectrum(basis, smoothing_km)
    response = jnp.asarray(spectrum / spectrum[0], jnp.float32)[:, None, None]
    basis = basis.scalar
    ratio = jnp.asarray(ratio, jnp.float32)
    if basis.inverse_rows is None:  # a filter by sums over the grid's cells instead
        weight = jnp.ones(len(ratio)) if area is None else jnp.asarray(area, jnp.float32)
        both = jnp.concatenate([ratio, jnp.ones_like(ratio[:, :1])], axis=1)
        sums = np.asarray(basis.synthesis(response * basis.adjoint(weight[:, None] * both)))
        found = sums[:, :-1] / np.maximum(sums[:, -1:], 1e-3 * sums[:, -1:].max())
    else:
        found = np.asarray(basis.synthesis(response * basis.analysis(ratio)))
    smooth = np.maximum(found, 0.0)
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

        def spread(x):
            return self.scaled(inner.spread(near.scaled(x)))

        return Restricted(near, spread, inner.n)

    def decompose(self) -> RescaledCovariance:
        """The same covariance in a form from which one can draw."""
        inner = self.inner.decompose() if hasattr(self.inner, "decompose") else self.inner
        return RescaledCovariance(inner, self.root)

    def sample(self, keys: PRNGKeyArray) -> Float[Array, "node member channel"]:
        """Draw one state for each key."""
        return self.root[:, None] * self.inner.sample(keys)


class FlowDependent(eqx.Module):
    """Flow-dependent V: sigma -> V(sigma), taken wherever a `CovarianceTable` is.

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


AROUND = ("members", "mean")


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """How background members enter `assimilate`.

    Attributes
    ----------
    around : {"members", "mean"}
        members: each analysis member is drawn around a background member, updated beforehand
        with the localised covariance of the ensemble; the diffusion prior draws the rest of the
        error, ``sqrt(alpha)`` of it.  mean: all are drawn around the mean of the background
        members, whose variance rescales V.
    alpha : float
        Share of the climatological B in the variance of the background error, above 0 to 1;
        the ensemble has the rest.  Half and half is usual for some 20 members of an ensemble
        that shows the flow (Hamill & Snyder 2000; Lorenc 2003).  On the testbed, whose members
        differ by draws of B, 0.5 loses a tenth in RMSE and 0.8 a fiftieth: hence the default.
    localisation : Localisation
        Of the ensemble's covariance, in km and ln p; wider than that of an LETKF, since B's own
        scales narrow what is left.

    Raises
    ------
    InputError
        If a value is out of its range, with all that is wrong.

    Examples
    --------
    >>> Hybrid(alpha=0.7).around
    'members'
    """

    around: str = "members"
    alpha: float = 0.8
    localisation: Localisation = LOCALISATION

    def __post_init__(self) -> None:
        problems = []
        if self.around not in AROUND:
            problems.append(
                Problem(
                    f"around={self.around!r}",
                    f"one of {', '.join(AROUND)}",
                    'Hybrid(around="members")',
                )
            )
        if not 0 < self.alpha <= 1:
            problems.append(
                Problem(f"alpha={self.alpha!r}", "above 0, up to 1", "Hybrid(alpha=0.5)")
            )
        raise_if(problems, what="hybrid")


def centre(
    members: Float[np.ndarray, "member node channel"],
    scale: Float[np.ndarray, "node channel"],
    *,
    r: float = 1.0,
) -> tuple[Float[np.ndarray, "node channel"], Float[np.ndarray, "node member channel"]]:
    """Mean of background members, and their perturbations in units of z.

    Parameters
    ----------
    members : array (member, node, channel)
        Physical units.
    scale : array (node, channel)
        s, of the prior.
    r : float
        Scale of the background error: ``z = (x - mean) / (r s)``.

    Returns
    -------
    mean : array (node, channel), physical units
    perturbations : array (node, member, channel)
        Divided by ``sqrt(members - 1)``: their squares add up to the variance.

    Raises
    ------
    InputError
        If there are fewer than two members or shapes do not fit.

    Examples
    --------
    >>> mean, x = centre(np.array([[[1.0]], [[3.0]]]), np.full((1, 1), 2.0))
    >>> mean.tolist(), x.round(3).tolist()
    ([[2.0]], [[[-0.5], [0.5]]])
    """
    x = np.asarray(members, np.float64)
    if x.ndim != 3 or len(x) < 2 or x.shape[1:] != np.shape(scale):
        needed = f"(member, node, channel) with 2 or more members and {np.shape(scale)}"
        problem = Problem(f"members of shape {x.shape}", needed, "to_state(background)")
        raise_if([problem], what="background ensemble")
    mean = x.mean(0)
    z = (x - mean) / (r * np.asarray(scale) * np.sqrt(len(x) - 1))
    return mean.astype(np.float32), np.moveaxis(z, 0, 1).astype(np.float32)


def spread_scale(
    perturbations: Float[np.ndarray, "node member channel"],
    variance: Float[np.ndarray, " channel"],
    area: Float[np.ndarray, " node"],
) -> float:
    """Scale r of the background error according to the spread of an ensemble.

    Root of the area-mean variance over that of B, averaged over channels.

    Parameters
    ----------
    perturbations : array (node, member, channel)
        `centre` with ``r=1``.
    variance : array (channel,)
        ``prior.covariance.variance``.
    area : array (node,)
        ``grid.area_weights()``.

    Examples
    --------
    >>> round(spread_scale(np.full((4, 4, 2), 0.25), np.ones(2), np.ones(4)), 3)
    0.5
    """
    own = np.average((np.asarray(perturbations) ** 2).sum(1), axis=0, weights=area)
    return float(np.sqrt(np.mean(own / np.asarray(variance))))


class HybridCovariance(eqx.Module):
    """``alpha B + (1 - alpha) V``, B climatological and V of the ensemble.

    Attributes
    ----------
    static : SpectralCovariance
        B.
    ensemble : EnsembleCovariance
        V.
    alpha : array ()
        Weight of B, 0 to 1.
    """

    static: SpectralCovariance
    ensemble: EnsembleCovariance
    alpha: Float[Array, ""]

    @property
    def basis(self) -> Basis:
        """Basis of B."""
        return self.static.basis

    @property
    def variance(self) -> Float[Array, "node channel"]:
        """Variance at every grid point."""
        return self.alpha * self.static.variance + (1 - self.alpha) * self.ensemble.variance

    def __call__(self, x: Float[Array, "node *rest channel"]) -> Float[Array, "node *rest channel"]:
        """Return ``(alpha B + (1 - alpha) V) x``."""
        return self.alpha * self.static(x) + (1 - self.alpha) * self.ensemble(x)

    def at(self, points: Points) -> Restricted:
        """The same covariance among some points, and from these to the whole grid."""
        static, day, share = self.static.at(points), self.ensemble.at(points), self.alpha

        def among(x):
            return share * static.among(x) + (1 - share) * day.among(x)

        def spread(x):
            return share * static.spread(x) + (1 - share) * day.spread(x)

        return Restricted(among, spread, static.n)

    def root(self) -> HybridRoot:
        """The square root, for 3D-Var's control variable."""
        return HybridRoot(self)

    @with_own_jax
    def sample(self, keys: PRNGKeyArray) -> Float[Array, "node member channel"]:
        """Draw one state for each key."""
        one, other = split_keys(keys)
        static, day = self.static.sample(one), self.ensemble.sample(other)
        return jnp.sqrt(self.alpha) * static + jnp.sqrt(1 - self.alpha) * day


class HybridRoot(eqx.Module):
    """Square root of a hybrid: the controls of both parts side by side."""

    covariance: HybridCovariance

    def control(self) -> tuple[Array, Array]:
        """The control variable of the background: zero."""
        own = self.covariance
        return SpectralRoot(own.static).control(), own.ensemble.root().control()

    def __call__(self, chi: tuple[Array, Array]) -> Float[Array, "node channel"]:
        """Return the state of a control variable."""
        own = self.covariance
        static, day = SpectralRoot(own.static)(chi[0]), own.ensemble.root()(chi[1])
        return jnp.sqrt(own.alpha) * static + jnp.sqrt(1 - own.alpha) * day
