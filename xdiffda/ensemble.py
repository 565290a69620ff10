"""Background ensembles: the covariance of the day beside the climatological one.

The localised covariance of the ensemble, ``V = sum_k x_k o C (x_k o .)``, is applied
matrix-free, C spectral in the horizontal and a small matrix in the vertical; the hybrid is
``alpha B + (1 - alpha) V`` (Hamill & Snyder 2000; Lorenc 2003).  For guidance at a noise
level the calibrated V(sigma) is rescaled by the variance of the day (`FlowDependent`).
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda._flow import FlowDependent, RescaledCovariance, variance_ratio
from xdiffda._localisation import Localisation
from xdiffda._localised import (
    LOCALISATION,
    EnsembleCovariance,
    EnsembleRoot,
    localisation_spectrum,
    vertical_root,
)
from xdiffda._points import Points, Restricted
from xdiffda._variational import SpectralRoot
from xdiffda.covariance import SpectralCovariance
from xdiffda.diffusion.guidance import split_keys
from xdiffda.errors import Problem, raise_if
from xdiffda.spectral import Basis

__all__ = [
    "LOCALISATION", "EnsembleCovariance", "EnsembleRoot", "FlowDependent", "Hybrid",
    "HybridCovariance", "HybridRoot", "RescaledCovariance", "centre", "localisation_spectrum",
    "spread_scale", "variance_ratio", "vertical_root",
]  # fmt: skip


AROUND = ("members", "mean")


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """How background members enter `assimilate`.

    Attributes
    ----------
    around : {"members", "mean"}
        members: each analysis member is drawn around a background member, which the
        observations have moved by the localised covariance of the ensemble; the diffusion
        prior draws the rest of the error, ``sqrt(alpha)`` of it.  mean: all are drawn around
        the mean of the background members, whose variance rescales V.
    alpha : float
        Share of the climatological B in the variance of the background error, above 0 to 1;
        the ensemble has the rest.  Half and half is usual for some 20 members of an ensemble
        that knows the day (Hamill & Snyder 2000; Lorenc 2003).  On the testbed, whose members
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
            problems.append(Problem(f"around={self.around!r}", f"one of {', '.join(AROUND)}",
                                    'Hybrid(around="members")'))  # fmt: skip
        if not 0 < self.alpha <= 1:
            problems.append(Problem(f"alpha={self.alpha!r}", "above 0, up to 1",
                                    "Hybrid(alpha=0.5)"))  # fmt: skip
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
        among = lambda x: share * static.among(x) + (1 - share) * day.among(x)  # noqa: E731
        spread = lambda x: share * static.spread(x) + (1 - share) * day.spread(x)  # noqa: E731
        return Restricted(among, spread, static.n)

    def root(self) -> HybridRoot:
        """The square root, for 3D-Var's control variable."""
        return HybridRoot(self)

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
