"""Background ensembles: the covariance of the day beside the climatological one.

The localised covariance of the ensemble, ``V = sum_k x_k o C (x_k o .)``, is applied
matrix-free, C spectral in the horizontal and a small matrix in the vertical; the hybrid is
``alpha B + (1 - alpha) V`` (Hamill & Snyder 2000; Lorenc 2003).  For guidance at a noise
level the calibrated V(sigma) is rescaled by the variance of the day (`FlowDependent`).
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda._flow import FlowDependent, RescaledCovariance, variance_ratio
from xdiffda._localised import (
    LOCALISATION,
    EnsembleCovariance,
    EnsembleRoot,
    localisation_spectrum,
    vertical_root,
)
from xdiffda._variational import SpectralRoot
from xdiffda.covariance import SpectralCovariance
from xdiffda.diffusion.guidance import split_keys
from xdiffda.errors import Problem, raise_if
from xdiffda.spectral import Basis

__all__ = [
    "LOCALISATION", "EnsembleCovariance", "EnsembleRoot", "FlowDependent", "HybridCovariance",
    "HybridRoot", "RescaledCovariance", "centre", "localisation_spectrum", "spread_scale",
    "variance_ratio", "vertical_root",
]  # fmt: skip


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

    def root(self) -> HybridRoot:
        """The square root, for 3D-Var's control variable."""
        return HybridRoot(self)

    def sample(self, keys: PRNGKeyArray) -> Float[Array, "node member channel"]:
        """Draw one state for each key."""
        one, other = split_keys(keys)
        static, day = self.static.sample(one), self.ensemble.sample(other)
        return jnp.sqrt(self.alpha) * static + jnp.sqrt(1 - self.alpha) * day

    def sample_members(
        self, keys: PRNGKeyArray, numbers: Array
    ) -> Float[Array, "node member channel"]:
        """Draw one state for each key around one background member each.

        The part of the ensemble is the member's own perturbation, not a random one, so that
        members keep their identity through a cycle: the covariance over many keys and all
        members is ``alpha B`` plus ``(1 - alpha)`` times the raw sample covariance.

        Parameters
        ----------
        keys : array (member,)
        numbers : int array (member,)
            Analysis members; number i takes the background member i modulo their count.
        """
        n = self.ensemble.perturbations.shape[1]
        # (n - 1) would give back the members; n their unbiased covariance, on average
        own = jnp.sqrt(1.0 * n) * self.ensemble.perturbations[:, numbers % n]
        static = self.static.sample(split_keys(keys)[0])
        return jnp.sqrt(self.alpha) * static + jnp.sqrt(1 - self.alpha) * own


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
