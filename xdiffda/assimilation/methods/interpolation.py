"""The observations alone, interpolated: the least that a method has to beat."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from xdiffda.assimilation.methods.base import AnalysisTime, Drawn, Method, Tick
from xdiffda.observations import interpolated_state


@dataclasses.dataclass(frozen=True)
class Interpolation(Method):
    """Kriging of the observations alone, and the background where none is near: one state.

    Examples
    --------
    >>> Interpolation().name
    'interpolation'
    """

    name: ClassVar[str] = "interpolation"
    ensemble: ClassVar[bool] = False

    def draw(self, at: AnalysisTime, tick: Tick) -> Drawn:
        z = kriged(at)
        tick(1)
        return Drawn(z[:, None])


def kriged(at: AnalysisTime) -> Float[np.ndarray, "node channel"]:
    """z of the interpolated observations; zero, the background, where no site is near."""
    field, covered = interpolated_state(at.tidy, at.prior.layout)
    departure = np.where(covered, field - at.background, 0.0)
    return (departure / (at.r * at.prior.scale)).astype(np.float32)
