"""Classical assimilation on arrays: optimal interpolation, 3D-Var, LETKF.

Pure functions, for comparison with the guided diffusion prior on the same background,
observations and B: `oi`, `three_d_var` and `letkf`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from xdiffda.assimilation.baselines.letkf import (
    INFLATION,
    Departures,
    Inflation,
    adapted_factor,
    departures,
    ensemble_transform,
    local_analysis,
    relax,
)
from xdiffda.assimilation.baselines.optimal_interpolation import DistanceCovariance, oi
from xdiffda.assimilation.baselines.three_d_var import Minimum, square_root, three_d_var
from xdiffda.covariance.localisation import (
    LOCALISATION,
    SURFACE_HPA,
    Localisation,
    Places,
    gaspari_cohn,
    log_pressures,
    neighbourhoods,
    places_of,
    unit_vectors,
)
from xdiffda.covariance.spectral import SpectralRoot
from xdiffda.errors import Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations.padding import padding
from xdiffda.state.grid import Layout

__all__ = [
    "Departures",
    "DistanceCovariance",
    "EnsembleAnalysis",
    "Inflation",
    "Localisation",
    "Minimum",
    "Places",
    "SpectralRoot",
    "adapted_factor",
    "departures",
    "ensemble_transform",
    "gaspari_cohn",
    "letkf",
    "local_analysis",
    "oi",
    "places_of",
    "relax",
    "square_root",
    "three_d_var",
]

ALL_GROUPS = -1


class EnsembleAnalysis(NamedTuple):
    """Result of the LETKF.

    Attributes
    ----------
    ensemble : array (member, node, channel)
        Analysis members, physical units.
    factor : array (node, channel)
        Multiplicative inflation for the next cycle.
    """

    ensemble: Float[np.ndarray, "member node channel"]
    factor: Float[np.ndarray, "node channel"]


@with_own_jax
def letkf(
    ensemble: Float[np.ndarray, "member node channel"],
    obs: Any,
    layout: Layout,
    *,
    places: Places | None = None,
    seen: Float[np.ndarray, "member obs"] | None = None,
    localisation: Localisation = LOCALISATION,
    inflation: Inflation = INFLATION,
    factor: Float[np.ndarray, "node channel"] | None = None,
    memory_mb: float = 256.0,
) -> EnsembleAnalysis:
    """Local ensemble transform Kalman filter on the sphere.

    Every grid point, at each of its heights (the levels, and the surface at 1000 hPa) and
    for each group of variables, is analysed on its own from the observations near it.

    Parameters
    ----------
    ensemble : array (member, node, channel)
        Background members, physical units.
    obs : ObsVector
        Or anything with ``value``, ``error_std`` (obs,), ``index`` and ``weight`` (obs, term)
        in physical units, or in units of the error.  Observations with infinite error are left
        out, and without ``seen`` those that have no weight.
    layout : Layout
    places : Places, optional
        Where the observations are; default from what they see of the state.
    seen : array (member, obs), optional
        H of each member, for observations that are not linear; default from ``index`` and
        ``weight``.
    localisation : Localisation
    inflation : Inflation
    factor : array (node, channel), optional
        Inflation from the cycle before (adaptive inflation); default ``inflation.factor``.
    memory_mb : float
        Bounds what is computed at a time.

    Returns
    -------
    EnsembleAnalysis

    Raises
    ------
    InputError
        If shapes, errors, places or names of variables do not fit, with all problems at once.

    Notes
    -----
    Source: Hunt, Kostelich & Szunyogh (2007), doi 10.1016/j.physd.2006.11.008; R-localisation
    by Gaspari-Cohn tapers of distance and log-pressure, multiplied.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from xdiffda.state.grid import Grid
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 90, 180, 270]), ("temperature",), (500,))
    >>> members = np.stack([np.full((8, 1), 279.0), np.full((8, 1), 281.0)])
    >>> obs = SimpleNamespace(value=np.array([282.0]), error_std=np.array([2**0.5]),
    ...                       index=np.array([[2]]), weight=np.ones((1, 1)))
    >>> mean = letkf(members, obs, layout).ensemble.mean(0)[:, 0]
    >>> mean.round(3).tolist()
    [280.0, 280.0, 281.0, 280.0, 280.0, 280.0, 280.0, 280.0]
    """
    members = np.asarray(ensemble, np.float32)
    _check(members, obs, layout, places, seen, localisation, factor)
    places = places_of(obs, layout) if places is None else places
    value, error_std = np.asarray(obs.value, np.float64), np.asarray(obs.error_std, np.float64)
    as_seen = _seen(members, obs) if seen is None else np.asarray(seen, np.float64)
    there = np.isfinite(error_std)
    if seen is None:
        there &= np.any(np.asarray(obs.weight) != 0, axis=1)
    # in double precision: a geopotential of 5e5 less its ensemble mean
    more = padding(len(value))  # analysis times share compiled code
    centred = np.pad(np.where(there, as_seen - value, 0.0), ((0, 0), (0, more)))
    whole = np.pad(error_std, (0, more), constant_values=np.inf)
    departure = departures(*(jnp.asarray(a, "f4") for a in (centred, np.zeros(len(whole)), whole)))

    shape = (layout.grid.n_node, layout.n_channel)
    before = np.full(shape, inflation.factor) if factor is None else np.asarray(factor)
    after, out = before.astype(np.float32), members.copy()
    nodes = unit_vectors(layout.grid.node_lat, layout.grid.node_lon)
    sites = unit_vectors(places.lat, places.lon)
    n_member = len(members)
    for channels, taper in _groups(layout, obs, places, localisation):
        own = np.flatnonzero(there & (taper > 0))
        chunks = neighbourhoods(
            nodes,
            sites[own],
            radius_km=localisation.cutoff_km,
            max_obs=localisation.max_obs,
            floats=lambda k: 4 * n_member * (k + n_member + layout.n_channel),
            budget=int(memory_mb * 2**18),
        )
        for patch in chunks:
            near = own[patch.near] if own.size else patch.near
            rho = gaspari_cohn(patch.distance_km, localisation.length_km) * taper[near]
            rho = np.where(np.isfinite(patch.distance_km), rho, 0.0)
            part, new = local_analysis(
                jnp.asarray(members[:, patch.node][:, :, channels]),
                departure,
                jnp.asarray(near),
                jnp.asarray(rho, jnp.float32),
                jnp.asarray(before[patch.node, channels[0]], "f4"),
                inflation=inflation,
            )
            real = patch.node[: patch.n]
            out[:, real[:, None], channels] = np.asarray(part)[:, : patch.n]
            after[real[:, None], channels] = np.asarray(new)[: patch.n, None]
    return EnsembleAnalysis(out, after)


def _seen(
    members: Float[np.ndarray, "member node channel"], obs: Any
) -> Float[np.ndarray, "member obs"]:
    flat = members.reshape(len(members), -1)
    index, weight = np.asarray(obs.index), np.asarray(obs.weight, np.float64)
    return np.stack([(row[index] * weight).sum(1) for row in flat])


def _groups(
    layout: Layout, obs: Any, places: Places, localisation: Localisation
) -> list[tuple[np.ndarray, Float[np.ndarray, " obs"]]]:
    """Channels that share their weights, and the taper of all observations for them."""
    surface = np.log(SURFACE_HPA)
    height = np.nan_to_num(log_pressures(layout), nan=surface)
    obs_height = np.nan_to_num(np.asarray(places.log_pressure, np.float64), nan=surface)
    kind = np.array([localisation.group(name) for name, _ in layout.channels])
    obs_kind = np.zeros(obs_height.shape, int)
    if localisation.variables:
        main = np.argmax(np.abs(np.asarray(obs.weight)), axis=1)
        index = np.asarray(obs.index)
        obs_kind = kind[index[np.arange(len(index)), main] % layout.n_channel]
        # a function of the whole state belongs to all groups
        obs_kind = np.where(np.any(np.asarray(obs.weight) != 0, axis=1), obs_kind, ALL_GROUPS)
    pairs = sorted(set(zip(height.tolist(), kind.tolist(), strict=True)))
    own = [np.flatnonzero((height == level) & (kind == group)) for level, group in pairs]
    most = max(len(channels) for channels in own)
    groups = []
    for channels, (level, group) in zip(own, pairs, strict=True):
        taper = gaspari_cohn(np.abs(obs_height - level), localisation.length_log_p)
        # one width for all, the last channel repeated: they share compiled code
        filled = np.pad(channels, (0, most - len(channels)), mode="edge")
        groups.append((filled, np.where(np.isin(obs_kind, (group, ALL_GROUPS)), taper, 0.0)))
    return groups


def _check(
    members: np.ndarray,
    obs: Any,
    layout: Layout,
    places: Places | None,
    seen: Any,
    localisation: Localisation,
    factor: Any,
) -> None:
    problems = []
    expected = (layout.grid.n_node, layout.n_channel)

    def need(fits: bool, found: str, needed: str, repair: str) -> None:
        if not fits:
            problems.append(Problem(found, needed, repair))

    need(
        members.ndim == 3 and members.shape[1:] == expected and len(members) > 1,
        f"an ensemble of shape {members.shape}",
        f"(member, {expected[0]}, {expected[1]}), 2 or more members",
        "to_state(background)",
    )
    need(bool(np.isfinite(members).all()), "NaN in the ensemble", "numbers", "ds.fillna(...)")
    error_std, value = np.asarray(obs.error_std), np.asarray(obs.value)
    need(
        bool(np.all(error_std > 0)),
        f"{np.sum(~(error_std > 0))} errors that are not positive",
        "standard deviations",
        "obs.where(obs.error_std > 0, drop=True)",
    )
    used = np.isfinite(error_std)
    need(
        bool(np.isfinite(value[used]).all()),
        "observed values that are not finite",
        "numbers",
        "obs.dropna('obs')",
    )
    if places is not None:
        lat = np.asarray(places.lat)
        need(
            lat.shape == value.shape and bool(np.all(np.abs(lat) <= 90)),
            f"places of shape {lat.shape} for {len(value)} observations",
            "a latitude in [-90, 90] for each",
            "places_of(obs, layout)",
        )
    if seen is not None:
        shape = (len(members), len(value))
        need(np.shape(seen) == shape, f"seen of shape {np.shape(seen)}", f"{shape}", "seen=None")
    if factor is not None:
        found = f"an inflation of shape {np.shape(factor)}"
        need(np.shape(factor) == expected, found, f"{expected}", "factor=None")
    unknown = {n for group in localisation.variables for n in group} - set(layout.variables)
    need(not unknown, f"variables {sorted(unknown)}", f"{layout.variables}", "variables=()")
    raise_if(problems, what="LETKF")
