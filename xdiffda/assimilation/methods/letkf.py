"""The local ensemble transform Kalman filter of a background with members."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from xdiffda.assimilation.baselines import letkf
from xdiffda.assimilation.baselines.letkf import Inflation
from xdiffda.assimilation.methods.base import (
    AnalysisTime,
    Drawn,
    Members,
    Method,
    Tick,
    of_class,
)
from xdiffda.covariance.localisation import Localisation, Places
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.priors.prior import Prior

_ADDITIVE = 0xADD  # a stream of random numbers that nothing else uses


@dataclasses.dataclass(frozen=True)
class LETKF(Method):
    """Local ensemble transform Kalman filter of a background with ``member``; no model is needed.

    Parameters
    ----------
    localisation : Localisation
        Of the observations, in km and ln p (`xdiffda.Localisation`).
    inflation : Inflation
        Multiplicative, additive, relaxation, adaptive (`xdiffda.Inflation`).
    inflation_factor : array (node, channel), optional
        Adaptive inflation of the cycle before: ``inflation_factor`` of its analysis.

    Raises
    ------
    InputError
        If a setting is out of its range, with all that is wrong.

    Notes
    -----
    Hunt, Kostelich & Szunyogh (2007), doi 10.1016/j.physd.2006.11.008.

    Examples
    --------
    >>> LETKF(localisation=Localisation(length_km=400.0)).needs_members
    True
    """

    name: ClassVar[str] = "letkf"
    uses_members: ClassVar[bool] = True
    needs_members: ClassVar[bool] = True
    all_together: ClassVar[bool] = False

    localisation: Localisation = Localisation()
    inflation: Inflation = Inflation()
    inflation_factor: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        problems = of_class("localisation", self.localisation, Localisation, "xdiffda.LETKF")
        problems += of_class("inflation", self.inflation, Inflation, "xdiffda.LETKF")
        if self.inflation_factor is not None and not self.inflation.adaptive:
            problems.append(
                Problem(
                    "inflation_factor without adaptive inflation",
                    "the inflation it belongs to",
                    "xdiffda.LETKF(inflation=xdiffda.Inflation(adaptive=True))",
                )
            )
        raise_if(problems, what="settings of letkf")

    def for_prior(self, prior: Prior) -> LETKF:
        factor, shape = self.inflation_factor, (prior.layout.grid.n_node, prior.layout.n_channel)
        if factor is None or (np.shape(factor) == shape and np.all(np.asarray(factor) > 0)):
            return self
        problem = Problem(
            f"inflation_factor of shape {np.shape(factor)}",
            f"positive numbers on {shape}",
            'inflation_factor=analysis["inflation_factor"].values',
        )
        raise InputError([problem], what="settings of letkf")

    def plain(self) -> dict[str, Any]:
        found = super().plain()
        del found["inflation_factor"]  # of one cycle, and large
        return found

    def draw(self, at: AnalysisTime, tick: Tick) -> Drawn:
        """Members of the analysis, as z.

        Observations are those of the other methods: first guess at their time, errors of
        representativeness included, gross errors out, H of any kind applied to every member.
        """
        if at.ensemble is None:
            raise InputError(
                [
                    Problem(
                        "a background of one state",
                        "an ensemble along the dimension member",
                        'assimilate(obs, method="guided")',
                    )
                ],
                what="background",
            )
        scale = at.r * at.prior.scale
        z = np.moveaxis((at.ensemble - at.background) / scale, 0, 1)
        if self.inflation.additive:
            z = z + _random_states(at, self.inflation) / at.r
        members = at.background + scale * np.moveaxis(z, 1, 0)
        result = letkf(
            members,
            _whitened(at),
            at.prior.layout,
            places=_places(at),
            seen=_seen(at, z),
            inflation=self.inflation,
            localisation=self.localisation,
            factor=self.inflation_factor,
        )
        tick(1)
        factor = result.factor if self.inflation.adaptive else None
        z = np.moveaxis((result.ensemble - at.background) / scale, 0, 1)
        return Drawn(z, inflation=factor)


def _random_states(at: AnalysisTime, inflation: Inflation) -> Members:
    """Additive inflation: errors of a background as the prior knows them, of mean zero."""
    assert at.ensemble is not None
    keys = jax.random.split(jax.random.fold_in(at.key, _ADDITIVE), len(at.ensemble))
    z = np.asarray(at.prior.covariance_at(1.0).sample(keys) + at.prior.small_scales(keys))
    return inflation.additive * (z - z.mean(1, keepdims=True))


def _whitened(at: AnalysisTime) -> SimpleNamespace:
    """Departures from the background's mean per error; those not used have an infinite one."""
    of = at.likelihood
    error = np.where(at.rows >= 0, 1.0, np.inf)
    return SimpleNamespace(
        value=np.asarray(of.value),
        error_std=error,
        index=np.asarray(of.index),
        weight=np.asarray(of.weight),
    )


def _seen(at: AnalysisTime, z: Members) -> Float[np.ndarray, "member obs"]:
    """H of each member less H of the mean, per error; on a circle, the short way round."""
    seen = np.asarray(at.likelihood.predict(jnp.asarray(z, jnp.float32)), np.float64)
    if at.likelihood.period is not None:
        period = np.asarray(at.likelihood.period, np.float64)[:, None]
        turns = np.round(seen / period)
        seen = seen - np.where(turns == 0, 0.0, turns * period)
    return seen.T


def _places(at: AnalysisTime) -> Places:
    """Where the observations of the likelihood's rows are."""
    rows = np.maximum(at.rows, 0)
    lat, lon, level = (at.tidy[n].values[rows].astype(np.float64) for n in ("lat", "lon", "level"))
    return Places(lat, lon, np.log(level))
