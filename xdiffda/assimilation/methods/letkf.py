"""The LETKF behind `assimilate`."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from xdiffda.assimilation.baselines import letkf
from xdiffda.assimilation.methods.types import AnalysisTime, Drawn, Members, Tick
from xdiffda.assimilation.settings import Settings
from xdiffda.covariance.localisation import Places
from xdiffda.errors import InputError, Problem

_ADDITIVE = 0xADD  # a stream of random numbers that nothing else uses


def local_ensemble_transform(at: AnalysisTime, settings: Settings, tick: Tick) -> Drawn:
    """LETKF of the background members; what comes out are its members, as z.

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
    if settings.inflation.additive:
        z = z + _random_states(at, settings) / at.r
    members = at.background + scale * np.moveaxis(z, 1, 0)
    result = letkf(
        members,
        _whitened(at),
        at.prior.layout,
        places=_places(at),
        seen=_seen(at, z),
        inflation=settings.inflation,
        localisation=settings.localisation,
        factor=at.factor,
    )
    tick(1)
    inflation = result.factor if settings.inflation.adaptive else None
    return Drawn(np.moveaxis((result.ensemble - at.background) / scale, 0, 1), inflation=inflation)


def _random_states(at: AnalysisTime, settings: Settings) -> Members:
    """Additive inflation: errors of a background as the prior knows them, of mean zero."""
    assert at.ensemble is not None
    keys = jax.random.split(jax.random.fold_in(at.key, _ADDITIVE), len(at.ensemble))
    z = np.asarray(at.prior.covariance_at(1.0).sample(keys) + at.prior.small_scales(keys))
    return settings.inflation.additive * (z - z.mean(1, keepdims=True))


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
