"""A prior conditioned on a background: all that a sampler knows of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from xdiffda.covariance import CovarianceTable, SpectralCovariance


class Conditioned(NamedTuple):
    """A prior conditioned on one background, or for each member on its own.

    Attributes
    ----------
    denoise : callable (z, sigma) -> estimate
        A pytree (an equinox Module), so that compiled code is shared between backgrounds.
    climatology : SpectralCovariance
        B of z; gives the basis of the noise.
    calibrated : CovarianceTable or None
        Measured V(sigma), if the prior has it.
    shift : array (node, member, channel), optional
        Where the prior of each member is centred; default at z = 0. ``denoise`` is that of a
        prior centred at 0.
    """

    denoise: Any
    climatology: SpectralCovariance
    calibrated: CovarianceTable | None = None
    shift: Array | None = None

    def own_denoiser(self) -> Any:
        """The denoiser of this prior, wherever it is centred."""
        return self.denoise if self.shift is None else Shifted(self.denoise, self.shift)


class Shifted(eqx.Module):
    """The denoiser of a prior that is centred elsewhere, ``shift + D(z - shift, sigma)``."""

    denoise: Any
    shift: Float[Array, "node member channel"]

    def __call__(self, z: Array, sigma: Array) -> Array:
        return self.shift + self.denoise(z - self.shift, sigma)
