"""Solves among the grid points that observations read, instead of on the whole grid.

Conjugate gradients apply H V H^T at every step: V is needed at these points only, and what the
observations see is the same.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float

from xdiffda._points import Points
from xdiffda.covariance import BlockCovariance, SpectralCovariance, apply_blocks


class Restricted(NamedTuple):
    """A covariance among some points, and from these to the whole grid.

    Attributes
    ----------
    among : BlockCovariance
    whole : BlockCovariance
    """

    among: BlockCovariance
    whole: BlockCovariance

    def spread(self, x: Float[Array, "slot *rest channel"]) -> Float[Array, "node *rest channel"]:
        """V applied to what is at the points, everywhere."""
        a = apply_blocks(self.whole.blocks, self.among.basis.adjoint(x))
        return self.whole.basis.synthesis(a)


def restricted(covariance: object, points: Points | None) -> Restricted | None:
    """The covariance at some points; None without them, or if it is not given by blocks."""
    if isinstance(covariance, SpectralCovariance):
        covariance = covariance.by_blocks()
    if points is None or not isinstance(covariance, BlockCovariance):
        return None
    among = BlockCovariance(covariance.basis.at(points), covariance.blocks)
    return Restricted(among, covariance)
