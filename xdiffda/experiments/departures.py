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

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, Int

from xdiffda.assimilation.innovations import GROUP_STD, estimate_r
from xdiffda.covariance.spectral import BlockCovariance
from xdiffda.diffusion.kalman import Solver, update
from xdiffda.diffusion.likelihood import Likelihood, gather, scatter
from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.observations import observation_rows
from xdiffda.observations.error_std import default_error_std
from xdiffda.observations.quality import screen
from xdiffda.observations.readers import read_obs
from xdiffda.priors.prior import Prior
from xdiffda.priors.reference import reference_prior
from xdiffda.priors.reference_table import saturation, usual_temperature
from xdiffda.priors.registry import resolve
from xdiffda.state.grid import Layout, Places

LEVELS = (1000, 925, 850, 700, 500, 400, 300, 250, 200, 150, 100)
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
MISSED = 5.0  # times its tolerance
TRUNCATION = 63  # of `reference`: with 127 scores differ by a tenth of a point
ESTIMATED = "reference, r estimated"
CANDIDATES = ("reference", ESTIMATED, "univariate", "speedy")

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


def reference_errors(departures: Departures, truncation: int | None = TRUNCATION) -> Candidate:
    """Those of the prior `reference`, at the stations themselves."""
    prior = reference_prior(departures.layout, truncation=truncation)
    prior = prior.at_background(_filled(departures))
    return Candidate(prior.covariance.by_blocks(), prior.scale, prior.unresolved)


def estimated_errors(departures: Departures, truncation: int = TRUNCATION) -> Candidate:
    """Those of `reference` times r and factors of groups of variables, as `assimilate` does it."""
    groups = np.array(reference_prior(departures.layout, truncation=1).groups)
    errors, known = reference_errors(departures, truncation), departures.known
    size = errors.scale / departures.error_std
    whole, channel = size[known], np.broadcast_to(groups, known.shape)[known]
    d = (departures.value / departures.error_std)[known]
    n = departures.layout.grid.n_node
    r = estimate_r(d, whole, n)
    factor = {
        name: r * estimate_r(d[own], r * whole[own], n, prior_std=GROUP_STD)
        for name in dict.fromkeys(groups)
        if (own := channel == name).any()
    }
    by_channel = np.array([factor.get(name, r) for name in groups])
    return errors._replace(scale=errors.scale * by_channel)


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
    like = reference_errors(departures, 1)  # its sizes alone
    lat, lon = (
        np.deg2rad(np.array(x)) for x in (departures.layout.grid.lat, departures.layout.grid.lon)
    )
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    apart = EARTH_RADIUS * np.arccos(np.clip(xyz @ xyz.T, -1, 1))
    near, column = [], []
    for name in departures.layout.variables:
        own = departures.layout.channel_slice(name)
        length, height = LENGTHS[_lengths_of(name)]
        log_p = np.log([level or 1000 for _, level in departures.layout.channels[own]])
        near.append(jnp.asarray((1 + apart / length) * np.exp(-apart / length), jnp.float32))
        square = ((log_p[:, None] - log_p) / height) ** 2
        column.append(jnp.asarray(np.exp(-0.5 * square), jnp.float32))
    return Candidate(
        Univariate(tuple(near), tuple(column)), like.scale, np.zeros_like(like.unresolved)
    )


class Univariate(eqx.Module):
    """One covariance for each variable: of places times of levels.

    Attributes
    ----------
    near : tuple of arrays (site, site)
    column : tuple of arrays (level, level)
        Channels follow one another.
    """

    near: tuple[Float[Array, "site site"], ...]
    column: tuple[Float[Array, "level level"], ...]

    def __call__(self, x: States) -> States:
        ends = np.cumsum([len(c) for c in self.column])[:-1]
        parts = jnp.split(x, ends, axis=-1)
        moved = [
            jnp.einsum("st,tmc,ce->sme", near, part, column, precision="highest")
            for near, part, column in zip(self.near, parts, self.column, strict=True)
        ]
        return jnp.concatenate(moved, axis=-1)


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
                    "xdiffda experiment departures FILE",
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
    covariance = Interpolated(
        prior.covariance.by_blocks(), jnp.asarray(at), h, prior.layout.n_channel
    )
    return Candidate(covariance, scale.reshape(n, -1), unresolved.reshape(n, -1))


class Interpolated(eqx.Module):
    """A covariance on a grid, between the places of H.

    Attributes
    ----------
    covariance : callable
        On the grid.
    index, weight : arrays (site channel, point)
        H.
    n_grid : int
        Channels on the grid.
    """

    covariance: BlockCovariance
    index: Int[Array, "value point"]
    weight: Float[Array, "value point"]
    n_grid: int = eqx.field(static=True)

    def __call__(self, x: States) -> States:
        site, member, channel = x.shape
        flat = jnp.moveaxis(x, 1, 2).reshape(site * channel, member)
        shape = self.covariance.basis.n_node, member, self.n_grid
        back = self.covariance(scatter(self.index, self.weight, flat, shape))
        there = gather(self.index, self.weight, back)
        return jnp.moveaxis(there.reshape(site, channel, member), 2, 1)


# ------------------------------------------------------------------------ analyses and scores


@eqx.filter_jit
def solve_withheld(
    covariance: Callable[[States], States],
    likelihood: Likelihood,
    used: Float[Array, "obs split"],
    shape: tuple[int, int, int],
) -> tuple[States, Float[Array, "obs split"], Float[Array, ""]]:
    """Increments of z by split, the solutions in observation space, and the worst residual."""
    found = update(likelihood, covariance, jnp.zeros(shape), solver=SOLVER, scale=used)
    return found.increment, found.dual, jnp.max(found.residual)


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
    found = solve_withheld(
        errors.covariance, likelihood, jnp.asarray(used), (n_site, n_split, n_channel)
    )
    increment, dual, residual = (np.asarray(x) for x in found)
    if residual > MISSED * SOLVER.tolerance:
        warnings.warn(
            f"the solver of the departures stopped at a relative residual of {residual:.1e}, not "
            f"{SOLVER.tolerance:.0e}, after {SOLVER.max_iterations} iterations: errors of "
            "observations are tiny beside those of the background",
            stacklevel=2,
        )
    own = increment[np.arange(n_site), split] * scale
    chi2 = np.full(known.size, np.nan)
    chi2[where] = value * (dual * used).sum(1) / used.sum(1)
    return Withheld(departures.value - own, chi2.reshape(known.shape))


@with_own_jax
def run(
    file: str | Path | xr.Dataset,
    *,
    priors: Sequence[str | Prior] = CANDIDATES,
    n_split: int = N_SPLIT,
    seed: int = 0,
    truncation: int = TRUNCATION,
) -> xr.Dataset:
    """Misfits at withheld stations and chi-square of several priors, from the departures of a file.

    Parameters
    ----------
    file : path or Dataset
        A file with a background at each observation (prepBUFR, IODA), or what `xdiffda.read_obs`
        has read from it.
    priors : sequence of str or Prior
        ``reference``, ``reference, r estimated`` (r and factors of groups of variables from the
        departures), ``univariate`` (optimal interpolation with lengths by hand, in the sizes of
        ``reference``), names of models or priors with a grid of their own.
    n_split : int
        Parts that stations are dealt to; each is withheld once.
    seed : int
        Of that deal.
    truncation : int
        Of ``reference``.

    Returns
    -------
    Dataset
        By ``prior`` and ``channel`` (with ``variable`` and ``level``), and, with the suffix
        ``_of_variable``, by ``prior`` and ``name`` of a variable, all its levels in units of the
        departures: ``misfit`` (per cent of the departures' rms that the analysis takes away),
        ``misfit_error`` (its standard error over stations), ``gain`` and ``gain_error`` (less that
        of the first prior, paired) and ``chi2``; ``number`` of departures; ``chi2_of_all``.

    Raises
    ------
    InputError
        As `read_departures`, or if a prior knows none of the variables.

    Examples
    --------
    >>> found = run("gdas.prepbufr", priors=["reference"])           # doctest: +SKIP
    >>> found["misfit_of_variable"].sel(prior="reference")            # doctest: +SKIP
    """
    departures = read_departures(file)
    layout = departures.layout
    found, names = [], []
    for prior in priors:
        names.append(prior if isinstance(prior, str) else prior.name)
        found.append(
            analyse(
                departures, _candidate(prior, departures, truncation), n_split=n_split, seed=seed
            )
        )
    some = np.logical_or.reduce(departures.known, axis=0)
    own = [slice(i, i + 1) for i in np.flatnonzero(some)]
    variables = [name for name in layout.variables if some[layout.channel_slice(name)].any()]
    whole = [layout.channel_slice(name) for name in variables]
    columns = {}
    for dim, suffix, parts in (("channel", "", own), ("name", "_of_variable", whole)):
        scores = np.array(
            [[_score(departures, w, found[0], part) for part in parts] for w in found]
        )
        for i, name in enumerate(("misfit", "misfit_error", "gain", "gain_error", "chi2")):
            columns[name + suffix] = ("prior", dim), scores[..., i]
        numbers = [int(departures.known[:, part].sum()) for part in parts]
        columns["number" + suffix] = (dim,), numbers
    columns["chi2_of_all"] = ("prior",), [np.nanmean(w.chi2) for w in found]
    channels = [layout.channels[i] for i in np.flatnonzero(some)]
    coords = {
        "prior": names,
        "name": variables,
        "variable": ("channel", [name for name, _ in channels]),
        "level": ("channel", [np.nan if level is None else float(level) for _, level in channels]),
    }
    attrs = {"stations": layout.grid.n_node, "splits": n_split, "seed": seed}
    return xr.Dataset(columns, coords, attrs)


def _candidate(prior: str | Prior, departures: Departures, truncation: int) -> Candidate:
    if prior == "reference":
        return reference_errors(departures, truncation)
    if prior == ESTIMATED:
        return estimated_errors(departures, truncation)
    if prior == "univariate":
        return univariate_errors(departures)
    return gridded_errors(departures, resolve(prior))


def _score(
    departures: Departures, withheld: Withheld, first: Withheld, part: slice
) -> tuple[float, float, float, float, float]:
    """Misfit, gain over the first, each with its standard error over stations, and chi-square."""
    value = departures.value[:, part]
    number = departures.known[:, part].sum(0)
    size = np.sqrt(np.nansum(value**2, axis=0) / np.maximum(number, 1))
    size = np.where(number > 0, size, 1.0)

    def energy(x: np.ndarray) -> np.ndarray:
        return np.nansum((x[:, part] / size) ** 2, axis=1)

    before, after, other = (energy(x) for x in (departures.value, withheld.left, first.left))

    def over_stations(ratio: float, of: np.ndarray) -> float:
        return float(np.sqrt(((of - ratio * before) ** 2).sum()) / before.sum())

    left, left_first = (float(x.sum() / before.sum()) for x in (after, other))
    root, root_first = np.sqrt(left), np.sqrt(left_first)
    # of the difference of roots, in first order
    apart = after / (2 * root) - other / (2 * root_first)
    return (
        100 * (1 - root),
        100 * over_stations(left, after) / (2 * root),
        100 * (root_first - root),
        100 * over_stations(float(apart.sum() / before.sum()), apart),
        float(np.nanmean(withheld.chi2[:, part])),
    )


def tables(found: xr.Dataset, *, by_level: bool = True) -> str:
    """The scores as Markdown: all levels of a variable together, then level by level."""
    words = [
        str(name).replace("_component_of_wind", "").replace("_", " ")
        for name in found["name"].values
    ]
    lines = [
        f"{int(found['number'].sum()):,} departures of {found.attrs['stations']} stations, each "
        f"withheld from one of {found.attrs['splits']} splits. Per cent of the departures' rms "
        "that analyses of the others take away (chi2 / n):",
        "",
        "| prior | " + " | ".join(words) + " | chi2 / n |",
        "|---" * (len(words) + 2) + "|",
    ]
    for prior in found["prior"].values:
        at = found.sel(prior=prior)
        cells = [
            f"{float(at['misfit_of_variable'].sel(name=n)):.1f} "
            f"± {float(at['misfit_error_of_variable'].sel(name=n)):.1f} "
            f"({float(at['chi2_of_variable'].sel(name=n)):.2f})"
            for n in found["name"].values
        ]
        lines.append(f"| {prior} | " + " | ".join(cells) + f" | {float(at['chi2_of_all']):.2f} |")
    if by_level:
        lines += ["", *_by_level(found, words)]
    return "\n".join(lines) + "\n"


def _by_level(found: xr.Dataset, words: list[str]) -> list[str]:
    first = found.isel(prior=0)
    levels = np.unique(first["level"].values[np.isfinite(first["level"].values)])
    lines = [
        f"Level by level, `{first['prior'].item()}`:",
        "",
        "| hPa | " + " | ".join(words) + " |",
        "|---" * (len(words) + 1) + "|",
    ]
    for level in [*levels, np.nan]:
        cells = []
        for name in found["name"].values:
            own = first["level"].values == level
            own = np.isnan(first["level"].values) if np.isnan(level) else own
            at = np.flatnonzero(own & (first["variable"].values == name))
            misfit, error = first["misfit"].values, first["misfit_error"].values
            cells.append(f"{misfit[at[0]]:.1f} ± {error[at[0]]:.1f}" if at.size else "")
        if any(cells):
            here = "ground" if np.isnan(level) else f"{level:g}"
            lines.append(f"| {here} | " + " | ".join(cells) + " |")
    return lines


def main(path: str | Path) -> str:
    """The experiment on one file, with the usual priors; its tables as Markdown."""
    return tables(run(path))
