"""The prior `reference`: background errors of the real atmosphere, without training or download.

One small table (``xdiffda.priors.reference_table`` says from which statistics it is made) holds, by
total wavenumber n and pressure, the covariances of stream function psi, velocity potential chi,
unbalanced temperature and humidity on 37 levels. A prior for any grid, levels and variables is
picked from it:

    wind           u, v of psi and chi
    geopotential   2 Omega a c(n) sin(phi) G_n psi + phi_u
    temperature    - d geopotential / d ln p / R, of both parts: hydrostatic
    pressure       at sea level and at the ground: density times geopotential at 1000 hPa, and more
    2 m, 10 m      correlated with 1000 hPa
    humidity       of relative humidity, times saturation of the background

times a factor of latitude and level, s. G_n smooths in ln p. psi is kept on the table's own levels
(`ColumnBasis` of balance), so that a state of a few levels has exactly the covariance that
these levels have in a state of all. Scales beyond the truncation are variance without correlation
between grid points: the analysis draws them, and near observations knows them.

Above 30 hPa the table was never compared with observations.

    python -m xdiffda.priors.reference GEOS_FILE NMC_FILE -o reference.nc

makes the table.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.covariance.balance import Balance, ColumnBasis, column_basis
from xdiffda.covariance.harmonics import Points, Restricted, harmonics_at, harmonics_basis
from xdiffda.covariance.small_scales import wind_pairs
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.priors.prior import GaussianPrior
from xdiffda.priors.reference_table import (
    OMEGA,
    R_DRY,
    RADIUS,
    along_degrees,
    geopotential_sizes,
    saturation,
    usual_temperature,
)
from xdiffda.state.clock import Clock
from xdiffda.state.convert import read_metadata
from xdiffda.state.grid import Grid, Layout, Places
from xdiffda.state.times import width_of
from xdiffda.state.variables import VARIABLES

TRUNCATION = 127  # default; where the grid resolves it
LEVEL_RANGE = (1, 1050)  # hPa; below 1000 hPa errors are those of 1000 hPa
LEAD_RANGE = (0.0, 240.0)  # hours
# errors of humidity are at most this share of the background's, and of saturation, together
CAP_OF_HUMIDITY, CAP_OF_SATURATION = 0.6, 0.02
LEAST_HUMIDITY = 1e-9  # kg/kg; an error of zero would not be one

WIND = ("u_component_of_wind", "v_component_of_wind")
WIND_10M = ("10m_u_component_of_wind", "10m_v_component_of_wind")
PRESSURE = ("mean_sea_level_pressure", "surface_pressure")
HUMIDITY = ("specific_humidity", "2m_specific_humidity")
# variable -> row of the table's growth
GROWS_LIKE = {
    **dict.fromkeys(WIND, "wind"),
    **dict.fromkeys(WIND_10M, "10m_wind"),
    **dict.fromkeys(PRESSURE, "mean_sea_level_pressure"),
    **dict.fromkeys(HUMIDITY, "humidity"),
    "relative_humidity": "humidity",
    "2m_dewpoint_temperature": "humidity",
    "geopotential": "geopotential",
    "temperature": "temperature",
    "2m_temperature": "2m_temperature",
}
# row of growth -> variables whose errors are misjudged together; mass and wind are in balance, but
# departures of radiosondes say that one may be right and the other not
MISJUDGED_LIKE = {
    "wind": "wind",
    "10m_wind": "wind",
    "mean_sea_level_pressure": "mass",
    "geopotential": "mass",
    "humidity": "humidity",
    "temperature": "temperature",
    "2m_temperature": "temperature",
}


class Table:
    """The table, and what follows from it on its own levels for every total wavenumber.

    Vectors of mass are geopotential and temperature on all levels, pressure at the ground, and
    temperature of 2 m; those of wind all levels and 10 m.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self.dataset = ds
        self.values = {name: ds[name].values.astype(float) for name in ds.data_vars}
        self.attrs = ds.attrs
        self.lat, self.node = ds["lat"].values.astype(float), ds["node"].values
        self.band = ds["band"].values.astype(float)
        self.log_p = np.log(ds["level"].values.astype(float))
        self.growth = {
            str(name): row
            for name, row in zip(ds["growth_variable"].values, self.values["growth"], strict=True)
        }
        self.lead_hours = ds["lead_hours"].values.astype(float)
        self.degree = np.arange(self.node[-1] + 1)

    @property
    def n_level(self) -> int:
        """Levels."""
        return self.log_p.size

    def row(self, level: float) -> Float[np.ndarray, " level"]:
        """Weights of the table's levels at a pressure, linear in ln p, constant beyond the ends."""
        return np.array([np.interp(np.log(level), self.log_p, one) for one in np.eye(self.n_level)])

    def growth_at(self, name: str, hours: float) -> float:
        """Error at a lead time over that at 24 h, a power law between the leads of the table.

        Up to 6 h that of 6 h: an analysis has errors too. Beyond 5 days that of 5 days.
        """
        lead = np.log(np.clip(hours, self.lead_hours[0], 120.0))
        known, log = np.log(self.lead_hours), np.log(self.growth[GROWS_LIKE[name]])
        if lead <= known[-1]:
            return float(np.exp(np.interp(lead, known, log)))
        slope = (log[-1] - log[-2]) / (known[-1] - known[-2])
        return float(np.exp(log[-1] + slope * (lead - known[-1])))

    def by_row(
        self, values: Float[np.ndarray, "lat level"], lat: Float[np.ndarray, " row"]
    ) -> Float[np.ndarray, "row level"]:
        """Values at other latitudes."""
        return np.array([np.interp(lat, self.lat, column) for column in values.T]).T

    @functools.cached_property
    def psi(self) -> Float[np.ndarray, "degree wind wind"]:
        """Variance of a wind component that is rotational, and its covariances."""
        return self._wind("psi", 1 - self.values["divergent_share"])

    @functools.cached_property
    def chi(self) -> Float[np.ndarray, "degree wind wind"]:
        """The same of what is divergent."""
        return self._wind("chi", self.values["divergent_share"])

    @functools.cached_property
    def humidity(self) -> Float[np.ndarray, "degree level level"]:
        """Covariances of humidity in units of its standard deviation."""
        return self._columns("humidity", np.ones(self.n_level))

    @functools.cached_property
    def mass(self) -> Float[np.ndarray, "degree mass mass"]:
        """Covariances of mass that wind does not imply."""
        v, n = self.values, self.n_level
        std, shares = v["std_temperature_unbalanced"], self._shares("temperature")
        length = np.exp(self._along(np.log(v["vertical_scale"]), self.node))
        out = np.zeros((self.degree.size, 2 * n + 2, 2 * n + 2))
        steep = v["vertical_steepness"]
        apart = v["vertical_coordinate"][:, None] - v["vertical_coordinate"]
        # geopotential is a Gaussian in ln p times a size, temperature its derivative
        sizes = geopotential_sizes(shares, std, length[:, None] / steep, self.log_p)
        for own, scale, size, slope in zip(out, length, *sizes, strict=True):
            e = np.exp(-0.5 * (apart / scale) ** 2) * np.outer(size, size)
            one = slope[:, None] - steep[:, None] * apart / scale**2
            other = slope + steep * apart / scale**2
            own[:n, :n] = e
            own[n:-2, :n] = -e * one / R_DRY
            own[:n, n:-2] = own[n:-2, :n].T
            own[n:-2, n:-2] = e * (one * other + np.outer(steep, steep) / scale**2) / R_DRY**2
        # and what pressure at the ground has of its own: a Gaussian in ln p, with its temperature
        below = self.log_p - self.log_p[-1]
        size = v["std_pressure"] * np.exp(-0.5 * (below / v["pressure_length"]) ** 2)
        column = np.append(size, below / v["pressure_length"] ** 2 * size / R_DRY)
        share = self._shares("pressure")
        out[:, :-2, :-2] += share[:, None, None] * np.outer(column, column)
        ground = self._ground(out[:, 2 * n - 1, 2 * n - 1].sum())
        above = out[:, :-2, :-2].copy()
        out[:, -2:, :-2] = ground @ above
        out[:, :-2, -2:] = out[:, -2:, :-2].swapaxes(1, 2)
        out[:, -2:, -2:] = ground @ above @ ground.T
        out[:, -2, -2] *= 1 + v["pressure_own"]
        rest = (1 - v["t2m_correlation"] ** 2) * v["t2m_std"] ** 2
        out[:, -1, -1] += rest * shares[:, -1]
        return out

    @functools.cached_property
    def balance(self) -> Float[np.ndarray, "degree mass wind"]:
        """Mass that sin(phi) psi implies, by degree of the mass."""
        v, n = self.values, self.n_level
        out = np.zeros((len(self.band), 2 * n + 2, n + 1))
        out[:, :n, :n], out[:, n:-2, :n] = v["balance_geopotential"], v["balance_temperature"]
        out[:, -2, :n] = v["pressure_density"] * out[:, n - 1, :n]
        factor = 2 * OMEGA * RADIUS * self._along(v["balance_coefficient"], self.node)
        return factor[:, None, None] * self._along(out, self.band)

    def _ground(self, variance: float) -> Float[np.ndarray, "2 mass"]:
        """Pressure at the ground and temperature of 2 m from what is above; its variance there."""
        v, n = self.values, self.n_level
        rows = np.zeros((2, 2 * n))
        rows[0, n - 1] = v["pressure_density"]
        rows[1, -1] = v["t2m_correlation"] * v["t2m_std"] / np.sqrt(variance)
        return rows

    def _along(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Values by total wavenumber; degree 0 has those of degree 1."""
        return along_degrees(values, places, np.maximum(self.degree, 1))

    def _shares(self, name: str) -> Float[np.ndarray, "degree level"]:
        """Of the variance; a coefficient of degree 0 has a third of one of degree 1, wind none."""
        shares = np.exp(self._along(np.log(self.values[f"share_{name}"]), self.node))
        shares[0] *= 0.0 if name in ("psi", "chi") else 1 / 9
        return shares / shares.sum(0)

    def _columns(
        self, name: str, std: Float[np.ndarray, " level"]
    ) -> Float[np.ndarray, "degree level level"]:
        size = np.sqrt(self._shares(name)) * std
        correlation = self._along(self.values[f"correlation_{name}"], self.band)
        return correlation * size[:, :, None] * size[:, None]

    def _wind(
        self, name: str, share: Float[np.ndarray, " level"]
    ) -> Float[np.ndarray, "degree wind wind"]:
        """With the wind of 10 m: that of the lowest level, smaller, and some of its own."""
        v = self.values
        out = np.pad(self._columns(name, np.sqrt(share) * v["std_wind"]), ((0, 0), (0, 1), (0, 1)))
        ratio = v["wind_10m_std"] / v["std_wind"][-1]
        out[:, -1, :-1] = v["wind_10m_correlation"] * ratio * out[:, -2, :-1]
        out[:, :-1, -1] = out[:, -1, :-1]
        out[:, -1, -1] = ratio**2 * out[:, -2, -2]
        return out


@functools.lru_cache(maxsize=1)
def read_table() -> Table:
    """The table of the package."""
    with resources.as_file(resources.files("xdiffda.priors") / "reference.nc") as path:
        return Table(xr.load_dataset(path))


@with_own_jax
def reference_prior(
    like: xr.Dataset | Layout, lead_time: Any = None, truncation: int | None = None
) -> ReferencePrior:
    """Background-error covariance of the real atmosphere for a background of any usual kind.

    Parameters
    ----------
    like : Dataset or Layout
        The background, in any convention that `xdiffda.assimilate` accepts, global or a box of
        latitudes and longitudes; nothing but its metadata is read. A layout may be of single
        places (``xdiffda.state.grid.Places``). Variables that are not in
        ``GROWS_LIKE`` are left out (``left_out``).
    lead_time : str, timedelta64 or number of hours, optional
        Of the forecast that the background is: ``"24h"``. Errors of each variable grow by a law
        of their own. Default the background's own, the longest where it has several, else 24 h.
    truncation : int, optional
        Largest total wavenumber of the covariance, at most 255 and what the grid resolves;
        default 127. Smaller scales are variance without correlation between grid points. Time
        and memory grow with its square.

    Returns
    -------
    ReferencePrior

    Raises
    ------
    InputError
        If there is no variable that the table knows, a level outside 1 to 1050 hPa, or the lead
        time cannot be read or is longer than 10 days.

    Notes
    -----
    Sources, see ``xdiffda.priors.reference_table``: static statistics of NASA's GEOS and lagged
    forecasts from GDAS analyses, sizes of GraphCast's 24 h errors against ERA5. Balance as in
    Derber & Bouttier (1999), doi 10.3402/tellusa.v51i2.12316. Above 30 hPa untested.

    Examples
    --------
    >>> import xdiffda
    >>> background = xdiffda.open_sample("background").isel(time=0)
    >>> prior = xdiffda.reference_prior(background, lead_time="48h")
    >>> prior.typical_error()["temperature"][500] > 0.5
    True
    """
    layout, left_out, own_lead = _read_like(like)
    hours = _lead_hours(own_lead if lead_time is None else lead_time)
    limit = _resolved(layout.grid, int(read_table().degree[-1]))
    wanted = min(limit, TRUNCATION) if truncation is None else truncation
    if not (isinstance(wanted, int | np.integer) and 0 < wanted <= limit):
        raise InputError(
            [
                Problem(
                    f"truncation={truncation!r}",
                    f"a total wavenumber from 1 to {limit}, what the table "
                    f"and the grid {layout.grid} resolve",
                    f"reference_prior(background, truncation={limit})",
                )
            ],
            what="prior `reference`",
        )
    return build_prior(layout, read_table(), int(wanted), hours, left_out=left_out)


class ReferencePrior(GaussianPrior):
    """Background errors of the real atmosphere; made by `reference_prior`.

    Attributes
    ----------
    lead_hours : float
        Lead time that the sizes of errors are for.
    left_out : tuple of str
        Variables of the background that the table does not know.
    relative : array (node, channel)
        Error of specific humidity over its value at saturation; zero for other channels.
    """

    has_denoiser = False
    groups: tuple[str, ...]
    lead_hours: float
    left_out: tuple[str, ...]
    relative: Float[np.ndarray, "node channel"]

    def with_factors(self, factors: Mapping[str, float]) -> ReferencePrior:
        """The same with the errors of each of its ``groups`` times a factor."""
        found = super().with_factors(factors)
        assert isinstance(found, ReferencePrior)
        found.relative = self.relative * (found.scale / self.scale)
        return found

    def at_background(self, background: Float[np.ndarray, "node channel"] | None) -> ReferencePrior:
        """The same with the errors of humidity of this background; of a usual one for None.

        They are those of relative humidity times saturation, and at most 0.6 of the humidity and
        0.02 of saturation together.
        """
        own = [i for i, (name, _) in enumerate(self.layout.channels) if name in HUMIDITY]
        if not own:
            return self
        found = copy.copy(self)
        found.scale = self.scale.copy()
        for i in own:
            full = self._saturation(i, background)
            size = self.relative[:, i] * full
            if background is not None:
                there = np.maximum(background[:, i], 0.0)
                size = np.minimum(size, CAP_OF_HUMIDITY * there + CAP_OF_SATURATION * full)
            found.scale[:, i] = np.maximum(size, LEAST_HUMIDITY)
        return found

    def _saturation(
        self, channel: int, background: Float[np.ndarray, "node channel"] | None
    ) -> Float[np.ndarray, " node"]:
        """Of a channel of humidity, kg/kg."""
        _, level = self.layout.channels[channel]
        other = ("temperature" if level else "2m_temperature", level)
        pressure = 1000.0 if level is None else float(level)
        if background is not None and other in self.layout.channels:
            temperature = background[:, self.layout.channels.index(other)]
        else:
            temperature = usual_temperature(self.layout.grid.node_lat, pressure)
        return saturation(temperature.astype(np.float64), pressure)

    def within_bounds(
        self, states: Float[np.ndarray, "*state node channel"]
    ) -> Float[np.ndarray, "*state node channel"]:
        """No humidity below zero."""
        own = [
            i
            for i, (name, _) in enumerate(self.layout.channels)
            if name in (*HUMIDITY, "relative_humidity")
        ]
        if own:
            states = states.copy()
            states[..., own] = np.maximum(states[..., own], 0.0)
        return states

    def condition(
        self, background: np.ndarray, time: np.datetime64 | None, r: float
    ) -> Conditioned:
        return Conditioned(None, self.covariance, None)

    def unresolved_scales(self, r: float = 1.0) -> Unresolved | None:
        """Scales beyond the truncation: without correlation between grid points or channels."""
        std = self.unresolved_at(r)
        return Unresolved(jnp.asarray(std)[:, None]) if std.any() else None

    @property
    def card(self) -> dict[str, str]:
        """For people."""
        beyond = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return {
            "title": f"errors of a {self.lead_hours:g} h forecast of the real atmosphere",
            "data": "statistics of GEOS and GDAS, sizes of GraphCast's errors against ERA5; "
            f"above 30 hPa untested{beyond}",
            "licence": "Apache-2.0",
        }

    def __repr__(self) -> str:
        return (
            f"<ReferencePrior: {self.layout.n_channel} channels on {self.layout.grid}, errors of "
            f"a {self.lead_hours:g} h forecast, truncation T{len(self.covariance.values) - 1}>"
        )


class Unresolved(eqx.Module):
    """Covariance of what is beyond a truncation: diagonal.

    Attributes
    ----------
    scale : array (node, 1, channel)
        Standard deviation, in units of z.
    """

    scale: Float[Array, "node 1 channel"]

    def __call__(self, x: Float[Array, "node member channel"]) -> Array:
        return jnp.square(self.scale) * x

    def at(self, points: Points) -> Restricted:
        """The same among some points, and from these to the whole grid."""
        near = Unresolved(points.pick(self.scale))

        def spread(x: Float[Array, "slot member channel"]) -> Array:
            whole = jnp.zeros((len(self.scale), *x.shape[1:]), x.dtype)
            return whole.at[points.nodes].set(near(x), mode="drop")

        return Restricted(near, spread, len(near.scale))

    @with_own_jax
    def draw(self, keys: Array) -> Float[Array, "node member channel"]:
        """Draw for each key."""
        return _white(self, keys)


@eqx.filter_jit
def _white(unresolved: Unresolved, keys: Array) -> Array:
    node, _, channel = unresolved.scale.shape
    noise = jax.vmap(lambda key: jax.random.normal(key, (node, channel)), out_axes=1)(keys)
    return unresolved.scale * noise


class Picks(NamedTuple):
    """What the channels of a layout are of the table.

    Attributes
    ----------
    wind : array (wind, table wind)
        Of pairs of winds.
    std_wind : array (wind,)
    mass, humidity, lone_wind : arrays (channel, ...)
        Of all other channels, from the table's mass, humidity and wind; a component without the
        other one is a scalar.
    shape : array (row, channel)
        Factor by latitude.
    relative : array (row, channel)
        Error over saturation, of humidity.
    """

    wind: Float[np.ndarray, "wind level"]
    std_wind: Float[np.ndarray, " wind"]
    mass: Float[np.ndarray, "own mass"]
    humidity: Float[np.ndarray, "own level"]
    lone_wind: Float[np.ndarray, "own wind"]
    shape: Float[np.ndarray, "row channel"]
    relative: Float[np.ndarray, "row channel"]


@with_own_jax
def build_prior(
    layout: Layout,
    table: Table,
    truncation: int,
    hours: float = 24.0,
    *,
    left_out: tuple[str, ...] = (),
) -> ReferencePrior:
    """The prior of a table on a layout; see `reference_prior`."""
    grid, picks = layout.grid, _pick(layout, table)
    kept, n_harmonic = slice(truncation + 1), (truncation + 1) ** 2
    # covariances by degree of one coefficient, of which a component of wind has half of psi's
    per = n_harmonic / (2 * table.degree + 1.0)

    def of_one(c: Float[np.ndarray, "degree a b"]) -> Float[np.ndarray, "degree a b"]:
        return per[:, None, None] * c

    psi = of_one(2 * table.psi)
    chi = picks.wind @ of_one(2 * table.chi) @ picks.wind.T
    own = picks.mass @ of_one(table.mass) @ picks.mass.T
    own += picks.humidity @ of_one(table.humidity) @ picks.humidity.T
    own += picks.lone_wind @ of_one(table.psi + table.chi) @ picks.lone_wind.T
    k = picks.mass @ table.balance

    # variance by degree on average over the globe, and beyond the truncation
    own_variance = np.einsum("d,dcc->dc", 1 / per, own)
    below, above = (
        np.einsum("d,dmf,dfg,dmg->dm", 1 / per, k, part, k, optimize=True)
        for part in _of_sin_psi(psi)
    )
    wind_variance = np.einsum("wf,dfg,wg->dw", picks.wind, table.psi + table.chi, picks.wind)
    wind_size, mean = np.sqrt(wind_variance.sum(0)), np.sqrt((own_variance + below + above).sum(0))
    far = own_variance[truncation + 1 :].sum(0)
    far_implied = below[truncation + 1 :].sum(0) + above[truncation:].sum(0)

    # variance by row: what wind implies goes with sin^2
    make = harmonics_at if isinstance(grid, Places) else harmonics_basis
    scalar = make(grid.lat, grid.lon, truncation)
    raising_lowering = column_basis(
        layout, scalar, picks.wind, Balance(k[kept], np.ones((grid.n_lat, len(k[0]))))
    )
    implied = _implied_by_row(raising_lowering, k[kept], psi[kept])
    beyond = far + 3 * far_implied * np.sin(np.deg2rad(grid.lat))[:, None] ** 2
    size = np.sqrt(own_variance[kept].sum(0) + implied + beyond)
    basis = dataclasses.replace(
        raising_lowering,
        pick=jnp.asarray(picks.wind / wind_size[:, None], jnp.float32),
        regression=jnp.asarray(k[kept] / mean[:, None], jnp.float32),
        factor=jnp.asarray(_on_nodes(mean / size, grid)),
    )
    blocks = _block_diagonal(
        psi[kept], chi[kept] / np.outer(wind_size, wind_size), own[kept] / np.outer(mean, mean)
    )

    (u, v), places = wind_pairs(layout), list(basis.mass)
    unresolved, scale = (np.zeros((grid.n_lat, layout.n_channel)) for _ in range(2))
    for winds in (u, v):
        unresolved[:, winds] = np.sqrt(wind_variance[truncation + 1 :].sum(0)) / wind_size
        scale[:, winds] = picks.std_wind
    unresolved[:, places], scale[:, places] = np.sqrt(beyond) / size, size
    scale *= picks.shape
    growth = np.array([table.growth_at(name, hours) for name, _ in layout.channels])
    prior = ReferencePrior(
        layout,
        _on_nodes(scale * growth, grid),
        SpectralCovariance.from_blocks(basis, blocks),
        unresolved=_on_nodes(unresolved, grid),
        name="reference",
    )
    prior.lead_hours, prior.left_out = hours, left_out
    prior.groups = tuple(MISJUDGED_LIKE[GROWS_LIKE[name]] for name, _ in layout.channels)
    prior.relative = _on_nodes(picks.relative * growth, grid)
    return prior.at_background(None)


def _pick(layout: Layout, table: Table) -> Picks:
    n, lat, v = table.n_level, np.asarray(layout.grid.lat), table.values
    shapes = table.by_row(v["wind_shape"], lat)
    relative_humidity = table.by_row(v["std_relative_humidity"], lat)
    n_channel = layout.n_channel
    wind, mass = np.zeros((n_channel, n + 1)), np.zeros((n_channel, 2 * n + 2))
    humidity, std_wind = np.zeros((n_channel, n)), np.zeros(n_channel)
    shape, relative = np.ones((len(lat), n_channel)), np.zeros((len(lat), n_channel))
    for i, (name, level) in enumerate(layout.channels):
        row = table.row(1000.0 if level is None else level)
        shape[:, i] = shapes @ row
        if name in WIND:
            wind[i, :n], std_wind[i] = row, row @ v["std_wind"]
        elif name in WIND_10M:
            wind[i, n], std_wind[i] = 1.0, v["wind_10m_std"]
        elif name == "geopotential":
            mass[i, :n] = row
        elif name == "temperature":
            mass[i, n:-2] = row
        elif name in PRESSURE:
            mass[i, -2] = 1.0
        elif name == "2m_temperature":
            mass[i, -1], shape[:, i] = 1.0, 1.0
        elif name == "2m_dewpoint_temperature":
            mass[i, -1], shape[:, i] = v["d2m_of_t2m"], 1.0
            humidity[i] = v["d2m_of_humidity"] * row
        else:  # humidity is a number of standard deviations
            size = np.sqrt(row @ table.humidity.sum(0) @ row)
            humidity[i] = row / size
            std = relative_humidity @ row
            if name == "relative_humidity":
                shape[:, i] = 100.0 * std
            else:
                relative[:, i] = std
    u, _ = wind_pairs(layout)
    pairs = {*u, *wind_pairs(layout)[1]}
    rest = [i for i in range(n_channel) if i not in pairs]
    paired = list(u)
    return Picks(
        wind[paired], std_wind[paired], mass[rest], humidity[rest], wind[rest], shape, relative
    )


def _of_sin_psi(psi: Float[np.ndarray, "degree level level"]) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of sin(phi) psi by degree, from the degree below and from that above.

    Coefficients of psi count over sqrt(l (l + 1)); sin(phi) couples neighbouring degrees with
    eps(l, m), whose squares add up to l / 3 over the orders of degree l.
    """
    degree = np.arange(len(psi))
    inverse = np.zeros(len(psi))
    inverse[1:] = 1 / (degree[1:] * (degree[1:] + 1.0))
    unit = psi * inverse[:, None, None]
    below, above = np.zeros_like(psi), np.zeros_like(psi)
    below[1:] = (degree[1:] / 3 / (2 * degree[1:] + 1))[:, None, None] * unit[:-1]
    above[:-1] = ((degree[:-1] + 1) / 3 / (2 * degree[:-1] + 1))[:, None, None] * unit[1:]
    return below, above


def _implied_by_row(
    basis: ColumnBasis,
    k: Float[np.ndarray, "degree mass level"],
    psi: Float[np.ndarray, "degree level level"],
) -> Float[np.ndarray, "row mass"]:
    """Variance of mass that wind implies, in each row of the grid.

    Degree l of psi reaches degrees l + 1 and l - 1 of mass.
    """
    rows = np.asarray(basis.scalar.along_rows, np.float64)
    nothing, no_k = np.zeros_like(rows[:1]), np.zeros_like(k[:1])
    up = np.concatenate([(np.asarray(basis.raising)[:, :, None] * rows)[1:], nothing])
    down = np.concatenate([nothing, (np.asarray(basis.lowering)[:, :, None] * rows)[:-1]])
    k_up, k_down = np.concatenate([k[1:], no_k]), np.concatenate([no_k, k[:-1]])
    total = np.zeros((rows.shape[2], k.shape[1]))
    for one, other, k_one, k_other, times in (
        (up, up, k_up, k_up, 1),
        (down, down, k_down, k_down, 1),
        (up, down, k_up, k_down, 2),
    ):
        shared = np.einsum("dor,dor->dr", one, other)
        each = np.einsum("dml,dlk,dmk->dm", k_one, psi, k_other, optimize=True)
        total += times * shared.T @ each
    return total


def _block_diagonal(*parts: Float[np.ndarray, "degree own own"]) -> np.ndarray:
    size = sum(part.shape[1] for part in parts)
    out, start = np.zeros((len(parts[0]), size, size)), 0
    for part in parts:
        end = start + part.shape[1]
        out[:, start:end, start:end] = part
        start = end
    return out


def _on_nodes(rows: Float[np.ndarray, "row channel"], grid: Grid) -> np.ndarray:
    return np.repeat(rows, grid.n_lon, axis=0).astype(np.float32)


def _resolved(grid: Grid, most: int) -> int:
    """Largest total wavenumber that a grid resolves, as part of the globe of its spacing.

    Single places resolve all.
    """
    if isinstance(grid, Places):
        return most
    if grid.is_global:
        return min(grid.n_lat - 1, grid.n_lon // 2 - 1, most)
    n_lat = round(180 / grid.spacing_deg)
    n_lon = round(360 * (grid.n_lon - 1) / (grid.lon[-1] - grid.lon[0]))
    return min(n_lat - 1, n_lon // 2 - 1, most)


def _read_like(like: xr.Dataset | Layout) -> tuple[Layout, tuple[str, ...], Any]:
    """Layout of what the table knows, what else is there, and the lead time."""
    lead, extras = None, ()
    if isinstance(like, Layout):
        layout = like
    else:
        convention = read_metadata(like, what="background")
        layout, extras = convention.layout, tuple(map(str, convention.extras))
        lead = _own_lead(convention.clock)
    known = tuple(name for name in layout.variables if name in GROWS_LIKE)
    problems = []
    if not known:
        problems.append(
            Problem(
                f"of the variables {', '.join(layout.variables)} none whose errors are known",
                f"one of {', '.join(GROWS_LIKE)}",
                'ds.rename({"name": "temperature"})',
            )
        )
    low, high = LEVEL_RANGE
    if far := [level for level in layout.levels if not low <= level <= high]:
        problems.append(
            Problem(
                f"levels {', '.join(map(str, far))} hPa",
                f"levels from {low} to {high} hPa",
                f"background.sel(level=slice({low}, {high}))",
            )
        )
    raise_if(problems, what="prior `reference`")
    others = tuple(name for name in layout.variables if name not in GROWS_LIKE)
    levels = layout.levels if any(VARIABLES[name].on_levels for name in known) else ()
    return Layout(layout.grid, known, levels), others + extras, lead


def _own_lead(clock: Clock) -> Any:
    """Lead time of a background, where it says one."""
    lead = clock.lead
    if lead is None and clock.valid is not None and clock.initial is not None:
        lead = clock.valid - clock.initial
    if lead is None:
        return None
    # of several the longest: errors of the others are smaller, which the estimate of r finds
    return lead.values.max()


def _lead_hours(lead_time: Any) -> float:
    """Hours of a lead time; 24 where none is given."""
    if lead_time is None:
        return 24.0
    # a timedelta64 is an integer to numpy
    number = isinstance(lead_time, int | float | np.number) and not isinstance(
        lead_time, np.timedelta64
    )
    hours = float(lead_time) if number else width_of(lead_time).total_seconds() / 3600
    low, high = LEAD_RANGE
    if not low <= hours <= high:  # NaN where it is none
        raise InputError(
            [
                Problem(
                    f"lead_time={lead_time!r}",
                    f"a lead time from {low:g} to {high:g} hours",
                    'reference_prior(background, lead_time="24h")',
                )
            ],
            what="prior `reference`",
        )
    return hours


if __name__ == "__main__":
    from xdiffda.priors.reference_table import main

    main()
