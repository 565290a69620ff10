"""Real departures: how much of them at withheld stations an analysis of the others takes away.

    xdiffda experiment departures gdas.prepbufr

Files of operational centres hold, beside each observation, what their background has there. So no
gridded field is needed: departures y - H(x_b) of all stations but a fifth are analysed at the
stations themselves, whose covariances a prior knows, and what is left of the departures of that
fifth is compared with what was there. Each station is withheld once.

    misfit      1 - rms(d - a) / rms(d) at withheld stations, in per cent
    chi2 / n    d^T (H B H^T + R)^-1 d / n at the stations that are used: 1 where B and R are right

Departures are those of standard levels, less their mean over all stations (the bias of the
background is no error of the kind that B holds), within five robust standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float

from xdiffda.diffusion.kalman import Solver, update
from xdiffda.diffusion.likelihood import Likelihood, gather, scatter
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations import observation_rows
from xdiffda.observations.readers import read_obs
from xdiffda.observations.error_std import default_error_std
from xdiffda.observations.quality import screen
from xdiffda.priors.prior import Prior
from xdiffda.priors.reference import reference_prior
from xdiffda.priors.reference_table import saturation, usual_temperature
from xdiffda.priors.registry import resolve
from xdiffda.state.grid import Layout, Places
from xdiffda.state.variables import VARIABLES

LEVELS = (1000, 925, 850, 700, 500, 400, 300, 250, 200, 150, 100, 70, 50, 30)
AT_LEVEL = 0.5  # hPa, between an observation and its level
N_SPLIT = 5
N_ROBUST = 5.0  # robust standard deviations beyond which a departure is not used
FEWEST = 8  # departures of a channel: from fewer no mean can be taken
ON_LEVELS = (
    "geopotential",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "specific_humidity",
)
AT_GROUND = (
    "surface_pressure",
    "mean_sea_level_pressure",
    "2m_temperature",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
)
# errors of the instruments (canonical units), smaller than those in files, which centres inflate;
# what is not here has the error of its file, geopotential that of `default_error_std`
ERRORS = {
    "temperature": 0.8,
    "u_component_of_wind": 2.0,
    "v_component_of_wind": 2.0,
    "surface_pressure": 70.0,
    "mean_sea_level_pressure": 70.0,
}
# univariate optimal interpolation, lengths by hand: SOAR in km, Gaussian in ln p
LENGTHS = {
    "geopotential": (450.0, 0.7),
    "temperature": (300.0, 0.25),
    "wind": (250.0, 0.25),
    "humidity": (200.0, 0.2),
    "pressure": (350.0, 1.0),
    "2m_temperature": (200.0, 1.0),
}
EARTH_RADIUS = 6371.22  # km
SOLVER = Solver(tolerance=3e-3, max_iterations=400)

States = Float[Array, "site member channel"]


@dataclass(frozen=True)
class Departures:
    """Departures of stations from a background, on channels; NaN where there is none.

    Attributes
    ----------
    layout : Layout
        Of `Places`.
    value, error_std, background : arrays (site, channel)
        Canonical units.
    """

    layout: Layout
    value: Float[np.ndarray, "site channel"]
    error_std: Float[np.ndarray, "site channel"]
    background: Float[np.ndarray, "site channel"]

    @property
    def known(self) -> Bool[np.ndarray, "site channel"]:
        """Where there is a departure."""
        return np.isfinite(self.value)


class Candidate(NamedTuple):
    """Background errors at the stations: ``scale z``, z of a covariance, and more without one.

    Attributes
    ----------
    covariance : callable
        Of z, applied to states (site, member, channel).
    scale, unresolved : arrays (site, channel)
        Physical units; of z.
    """

    covariance: Callable[[States], States]
    scale: Float[np.ndarray, "site channel"]
    unresolved: Float[np.ndarray, "site channel"]


def read_departures(file: str | Path | xr.Dataset) -> Departures:
    """Departures of a file with a background of its own (prepBUFR, IODA), on standard levels.

    Marks of the file, ranges and repeats are judged by `xdiffda.quality.screen`, departures by five
    robust standard deviations of their channel. Of each channel the mean is taken away.

    Raises
    ------
    InputError
        If the file holds no background, or of no channel as many as eight departures.
    """
    obs = file if isinstance(file, xr.Dataset) else read_obs(file, drift=False)
    if "background" not in obs:
        raise InputError(
            [
                Problem(
                    f"observations with {', '.join(map(str, obs.data_vars))}",
                    "the background at each observation, which prepBUFR and IODA files hold",
                    'xdiffda.read_obs(path)["background"]',
                )
            ],
            what="departures",
        )
    obs = obs.isel(obs=screen(obs).flag.values == "used")
    names, level = obs["variable"].values, obs["level"].values
    standard = np.array(LEVELS)[np.argmin(abs(level[:, None] - np.array(LEVELS)), axis=1)]
    on_level = np.isin(names, ON_LEVELS) & (abs(level - standard) <= AT_LEVEL)
    fits = (on_level | np.isin(names, AT_GROUND)) & np.isfinite(obs["background"].values)
    obs, standard = obs.isel(obs=fits), standard[fits]
    names = obs["variable"].values
    present = [name for name in (*ON_LEVELS, *AT_GROUND) if name in names]
    _check_number(len(names), "departures at standard levels or at the ground")
    sites, site = _sites(obs)
    layout = Layout(sites, tuple(present), LEVELS)
    index = {channel: i for i, channel in enumerate(layout.channels)}
    keys = zip(names.tolist(), standard.tolist(), strict=True)
    channel = np.array([index[n, p if n in ON_LEVELS else None] for n, p in keys])
    shape = sites.n_node, layout.n_channel
    value, error, background = (np.full(shape, np.nan) for _ in range(3))
    at = site[::-1], channel[::-1]  # of several the first
    background[at] = obs["background"].values[::-1]
    value[at] = obs["value"].values[::-1] - background[at]
    given = obs["error_std"].values if "error_std" in obs else np.full(len(names), np.nan)
    error[at] = given[::-1]
    for i, (name, pressure) in enumerate(layout.channels):
        if name in ERRORS:
            error[:, i] = ERRORS[name]
        missing = np.isfinite(value[:, i]) & ~(error[:, i] > 0)
        if missing.any() or name == "geopotential":
            error[:, i] = default_error_std(name, pressure)
        value[:, i] = _centred(value[:, i])
    _check_number(int(np.isfinite(value).sum()), f"channels with {FEWEST} departures or more")
    return _with_departures(Departures(layout, value, error, background))


def _check_number(n: int, what: str) -> None:
    if not n:
        repair = 'xdiffda.read_obs(path)["background"].groupby("variable").count()'
        raise InputError([Problem(f"no {what}", "some", repair)], what="departures")


def _sites(obs: xr.Dataset) -> tuple[Places, np.ndarray]:
    """Stations by their names, by their places where these are unknown; the site of each row."""
    lat, lon = obs["lat"].values, np.mod(obs["lon"].values, 360.0)
    own = [f"{a:.3f} {b:.3f}" for a, b in zip(lat, lon, strict=True)]
    names = obs["station"].values.astype(str) if "station" in obs.coords else np.array(own)
    names = np.where(names == "", own, names)
    _, first, site = np.unique(names, return_index=True, return_inverse=True)
    return Places(tuple(lat[first].tolist()), tuple(lon[first].tolist())), site


def _centred(value: Float[np.ndarray, " site"]) -> Float[np.ndarray, " site"]:
    """Less their mean, and without gross errors; nothing where they are few."""
    known = np.isfinite(value)
    if known.sum() < FEWEST:
        return np.full_like(value, np.nan)
    about = value - np.median(value[known])
    robust = 1.4826 * np.median(abs(about[known]))
    kept = np.where(abs(about) <= N_ROBUST * max(robust, 1e-12), value, np.nan)
    return kept - np.nanmean(kept)


def _with_departures(found: Departures) -> Departures:
    """Without stations that have none."""
    some = found.known.any(1)
    places = found.layout.grid
    lat, lon = (tuple(np.array(values)[some].tolist()) for values in (places.lat, places.lon))
    layout = replace(found.layout, grid=Places(lat, lon))
    return Departures(layout, found.value[some], found.error_std[some], found.background[some])


# ------------------------------------------------------------------------ background errors


def reference_errors(departures: Departures, truncation: int | None = None) -> Candidate:
    """Those of the prior `reference`, at the stations themselves."""
    prior = reference_prior(departures.layout, truncation=truncation)
    prior = prior.at_background(_filled(departures))
    return Candidate(prior.covariance, prior.scale, prior.unresolved)


def _filled(departures: Departures) -> Float[np.ndarray, "site channel"]:
    """The background, a usual one where there is none: saturated air of a usual temperature."""
    out, lat = departures.background.copy(), departures.layout.grid.node_lat
    for i, (name, level) in enumerate(departures.layout.channels):
        pressure = 1000.0 if level is None else float(level)
        usual = usual_temperature(lat, pressure)
        if name in ("specific_humidity", "2m_specific_humidity"):
            usual = saturation(usual, pressure)
        out[:, i] = np.where(np.isfinite(out[:, i]), out[:, i], usual)
    return out


def univariate_errors(departures: Departures) -> Candidate:
    """Univariate, with lengths by hand; of the same size as those of `reference`."""
    like = reference_errors(departures)
    lat, lon = (
        np.deg2rad(np.array(x)) for x in (departures.layout.grid.lat, departures.layout.grid.lon)
    )
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    apart = EARTH_RADIUS * np.arccos(np.clip(xyz @ xyz.T, -1, 1))
    parts = []
    for name in departures.layout.variables:
        own = departures.layout.channel_slice(name)
        length, height = LENGTHS[_lengths_of(name)]
        ratio = apart / length
        log_p = np.log([level or 1000 for _, level in departures.layout.channels[own]])
        column = np.exp(-0.5 * ((log_p[:, None] - log_p) / height) ** 2)
        parts.append(
            (own, *(jnp.asarray(x, jnp.float32) for x in ((1 + ratio) * np.exp(-ratio), column)))
        )

    def covariance(x: States) -> States:
        columns = [
            jnp.einsum("st,tmc,ce->sme", near, x[..., own], column, precision="highest")
            for own, near, column in parts
        ]
        return jnp.concatenate(columns, axis=-1)

    return Candidate(covariance, like.scale, np.zeros_like(like.unresolved))


def _lengths_of(name: str) -> str:
    for word in ("wind", "humidity", "pressure"):
        if word in name:
            return word
    return name


def gridded_errors(departures: Departures, prior: Prior) -> Candidate:
    """Those of any prior on a grid of its own, interpolated; none where it has no such channel."""
    layout, places = departures.layout, departures.layout.grid
    n, channels = places.n_node, layout.channels
    names, levels = (np.array([c[i] for c in channels]) for i in (0, 1))
    tidy = xr.Dataset(
        {
            "value": ("obs", np.zeros(n * len(channels))),
            "error_std": ("obs", np.ones(n * len(channels))),
        },
        {
            "variable": ("obs", np.tile(names, n)),
            "lat": ("obs", np.repeat(places.lat, len(channels))),
            "lon": ("obs", np.repeat(places.lon, len(channels))),
            "level": ("obs", np.tile(np.array(levels, np.float64), n)),
            "time": ("obs", np.full(n * len(channels), np.datetime64("NaT", "ns"))),
        },
    )
    rows = observation_rows(tidy, prior.layout)
    if rows.linear is None:
        raise InputError(
            [
                Problem(
                    f"a prior of {', '.join(prior.layout.variables)}",
                    f"one of {', '.join(layout.variables)}",
                    "xdiffda experiment departures FILE --priors reference",
                )
            ],
            what="departures",
        )
    index, weight = np.asarray(rows.linear.index), np.asarray(rows.linear.weight)
    here = np.zeros((n * len(channels), index.shape[1]))
    at = np.zeros((n * len(channels), index.shape[1]), np.int32)
    at[rows.position], here[rows.position] = index, weight
    sizes = here * prior.scale.reshape(-1)[at]
    scale = np.abs(sizes).sum(1)
    scale = np.where(scale > 0, scale, 1.0)
    unresolved = np.sqrt(((sizes * prior.unresolved.reshape(-1)[at]) ** 2).sum(1)) / scale
    h = jnp.asarray(sizes / scale[:, None], jnp.float32)
    at, b = jnp.asarray(at), prior.covariance
    shape = prior.layout.grid.n_node, prior.layout.n_channel

    def covariance(x: States) -> States:
        member = x.shape[1]
        y = jnp.moveaxis(x, 1, 2).reshape(-1, member)
        back = gather(at, h, b(scatter(at, h, y, (shape[0], member, shape[1]))))
        return jnp.moveaxis(back.reshape(n, len(channels), member), 2, 1)

    return Candidate(covariance, scale.reshape(n, -1), unresolved.reshape(n, -1))


# ------------------------------------------------------------------------ analyses and scores


class Withheld(NamedTuple):
    """What analyses leave of departures at stations that they did not see.

    Attributes
    ----------
    left : array (site, channel)
        Departure less increment.
    chi2 : array (site, channel)
        Departure times the solution in observation space, mean over the splits that use it.
    """

    left: Float[np.ndarray, "site channel"]
    chi2: Float[np.ndarray, "site channel"]


def analyse(
    departures: Departures,
    errors: Candidate,
    r: float | Float[np.ndarray, " channel"] = 1.0,
    *,
    n_split: int = N_SPLIT,
    seed: int = 0,
) -> Withheld:
    """Analyses of the departures, each station withheld from one of ``n_split``; one solve.

    Parameters
    ----------
    departures, errors
    r : float or array (channel,)
        Factor of the background errors.
    n_split, seed : int
        Stations are dealt out at random.
    """
    known, scale = departures.known, r * errors.scale
    n_site, n_channel = known.shape
    split = np.random.default_rng(seed).permutation(n_site) % n_split
    error = np.sqrt(departures.error_std**2 + (scale * errors.unresolved) ** 2)
    where = np.flatnonzero(known)
    site, error = where // n_channel, error.reshape(-1)[where]
    value = departures.value.reshape(-1)[where] / error
    weight = (scale.reshape(-1)[where] / error)[:, None]
    likelihood = Likelihood(
        jnp.asarray(value, jnp.float32),
        jnp.asarray(where[:, None], jnp.int32),
        jnp.asarray(weight, jnp.float32),
    )
    used = (split[site][:, None] != np.arange(n_split)).astype(np.float32)
    increment, dual, residual = _solve(
        errors.covariance, likelihood, used, (n_site, n_split, n_channel)
    )
    if residual > 5 * SOLVER.tolerance:
        raise InputError(
            [
                Problem(
                    f"a solver that stops at a relative residual of {residual:.1e}",
                    "larger errors of observations",
                    "departures.replace(error_std=2 * departures.error_std)",
                )
            ],
            what="departures",
        )
    own = increment[np.arange(n_site), split] * scale
    chi2 = np.full(known.size, np.nan)
    chi2[where] = value * (dual * used).sum(1) / used.sum(1)
    return Withheld(departures.value - own, chi2.reshape(known.shape))
