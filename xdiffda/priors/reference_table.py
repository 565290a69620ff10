"""The table behind the prior `reference`, made from two public statistics of real systems.

    python -m xdiffda.priors.reference GEOS_FILE NMC_FILE -o reference.nc

GEOS
    Static background errors of NASA's GEOS in the form of GSI (GSIbec, test input
    ``gsi-coeffs-geos-global-l72x72y46.nc4``): standard deviations and lengths by latitude and
    level. From it come the shapes along latitude and that of relative humidity.
NMC
    Eleven lagged pairs, 24 h minus 12 h forecasts of a T255 model from GDAS analyses (gpuwm-global,
    ``static-covariance-v1.npz``; method of Parrish & Derber 1992, doi
    10.1175/1520-0493(1992)120<1747:TNMCSS>2.0.CO;2): spectra and vertical correlations.

Sizes are those of the error of a 24 h forecast: of GraphCast against ERA5 (Lam et al. 2023, doi
10.1126/science.adi2336) where it was known, of departures of radiosondes from a GDAS background
(Hollingsworth & Lonnberg 1986, doi 10.3402/tellusa.v38i2.11707) at 500 hPa and above. What is a
choice and not a measurement says so in its ``long_name``.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from xdiffda.errors import Problem, raise_if
from xdiffda.state.humidity import EPSILON, saturation_pressure

R_DRY, G0, RADIUS, OMEGA = 287.05, 9.80665, 6371220.0, 7.292e-5
LEVELS = np.array(
    [
        1,
        2,
        3,
        5,
        7,
        10,
        20,
        30,
        50,
        70,
        100,
        125,
        150,
        175,
        200,
        225,
        250,
        300,
        350,
        400,
        450,
        500,
        550,
        600,
        650,
        700,
        750,
        775,
        800,
        825,
        850,
        875,
        900,
        925,
        950,
        975,
        1000,
    ],
    float,
)
NODES = np.array([1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 113, 150, 200, 255])
DEGREES = np.arange(1, NODES[-1] + 1)
LOG_P = np.log(LEVELS)

# error of a wind component at 850 hPa (m/s) and of specific humidity (kg/kg), GraphCast at 24 h
WIND_850, HUMIDITY_850 = 1.35, 0.69e-3
# error of temperature (K) by level (hPa): GraphCast at 24 h from 850 hPa down, sondes at 500 hPa,
# the mean of GEOS and NMC above 100 hPa
TEMPERATURE = {
    1: 2.2,
    3: 1.6,
    5: 1.3,
    10: 1.0,
    30: 0.80,
    50: 0.72,
    70: 0.66,
    100: 0.60,
    150: 0.55,
    200: 0.50,
    250: 0.46,
    300: 0.46,
    400: 0.50,
    500: 0.54,
    600: 0.57,
    700: 0.62,
    850: 0.76,
    925: 0.86,
    1000: 0.95,
}
PRESSURE_ERROR = 76.5  # Pa at sea level, GraphCast at 24 h
PRESSURE_DENSITY, PRESSURE_OWN = 1.2, 0.05
# errors of pressure at the ground reach upwards as a Gaussian of this length in ln p (a choice)
PRESSURE_LENGTH = 0.3
SLOPE_ROUNDS = 6
# What departures of radiosondes say of temperature and the NMC table does not (choices): at the
# large scales it has more variance (covariances of 0.15 K2 at 850 hPa beyond 700 km), and near the
# ground errors are shallow. Both give analyses of temperature at withheld sondes 0.7 points more.
LARGE_TEMPERATURE = 1.5  # more variance at the largest scales, relative
SHALLOW, SHALLOW_FROM = 0.8, 700.0  # how much shallower, and below which level (hPa)
LEAST_UNBALANCED = 0.55  # share of that target which balance never takes
# error at 6, 24 and 48 h over that at 24 h, GraphCast against ERA5 (from a perfect start: at 6 h
# a lower bound)
LEAD_HOURS = (6, 24, 48)
GROWTH = {
    "geopotential": (0.49, 1, 1.92),
    "mean_sea_level_pressure": (0.51, 1, 1.46),
    "wind": (0.52, 1, 1.33),
    "temperature": (0.53, 1, 1.31),
    "humidity": (0.53, 1, 1.31),
    "2m_temperature": (0.72, 1, 1.19),
    "10m_wind": (0.55, 1, 1.34),
}
# the few pairs of the NMC table say little of its largest bands: weights of the next, and tapers
POOLED = ((0, 0.35), (1, 0.7))
TAPER = (1.2, 1.3, 1.5, 1.8, 2.0, 2.0, 2.0, 2.0)
# the linear balance smooths psi in ln p: unsmoothed, the correlations of the NMC table would imply
# errors of temperature twice those of sondes
SMOOTHING = (0.40, 0.35, 0.28, 0.20, 0.13, 0.09, 0.09, 0.09)
LOWEST_BALANCED = 875.0  # hPa; below, in the boundary layer, the balance of that level


class Nmc:
    """The NMC table on the levels of ours."""

    def __init__(self, path: Path) -> None:
        self.arrays = np.load(path)
        self.log_p = np.log(self.arrays["reference_p_full_hpa"])
        rows = [np.interp(LOG_P, self.log_p, one) for one in np.eye(self.log_p.size)]
        self.to_levels = np.array(rows).T
        bands = self.arrays["bands"].astype(float)
        self.centre = np.sqrt(bands[:, 0] * bands[:, 1])

    def spectrum(
        self, name: str, *, wind: bool = False
    ) -> tuple[Float[np.ndarray, " level"], Float[np.ndarray, "degree level"]]:
        """Standard deviation, and share of the variance of each total wavenumber.

        With ``wind`` the variance is that of a wind component, from vorticity or divergence.
        Shares are smoothed in ln n and over neighbouring levels: eleven pairs are few.
        """
        degree = np.arange(NODES[-1] + 1)
        each = self.arrays[f"variance__{name}"].reshape(degree.size, -1)
        variance = (2 * degree + 1)[1:, None] / (4 * np.pi) * each[1:]
        if each.shape[1] > 1:
            variance = variance @ self.to_levels.T
        if wind:
            variance *= 0.5 * RADIUS**2 / (DEGREES * (DEGREES + 1.0))[:, None]
        log, even = np.log(DEGREES), np.linspace(0, np.log(NODES[-1]), 160)
        curves = np.array([np.interp(even, log, np.log(c)) for c in variance.T])
        curves = gaussian_filter1d(curves, 0.22 / (even[1] - even[0]), axis=1, mode="nearest")
        curves = gaussian_filter1d(curves, 1.0, axis=0, mode="nearest")
        smooth = np.exp([np.interp(log, even, c) for c in curves]).T
        return np.sqrt(variance.sum(0)), smooth / smooth.sum(0)

    def correlation(self, name: str) -> Float[np.ndarray, "band level level"]:
        """Vertical correlations by band, tapered, positive definite, with a unit diagonal."""
        raw = self.arrays[f"vertical_correlation__{name}"].copy()
        for band, own in POOLED:
            raw[band] = own * raw[band] + (1 - own) * raw[band + 1]
        apart = self.log_p[:, None] - self.log_p
        found = []
        for one, length in zip(raw, TAPER, strict=True):
            c = self.to_levels @ (one * np.exp(-0.5 * (apart / length) ** 2)) @ self.to_levels.T
            values, vectors = np.linalg.eigh(_unit_diagonal(c))
            found.append(_unit_diagonal(vectors * np.maximum(values, 1e-4) @ vectors.T))
        return np.array(found)


class Geos:
    """The GEOS statistics on the levels of ours, (lat, level)."""

    sf: np.ndarray
    vp: np.ndarray
    hsf: np.ndarray
    hvp: np.ndarray
    t: np.ndarray
    q: np.ndarray

    def __init__(self, path: Path) -> None:
        with xr.open_dataset(path) as ds:
            ds = ds.sortby("lev")
            self.lat = ds["lat"].values.astype(float)
            log_p = np.log(ds["lev"].values.astype(float))
            for name in ("sf", "vp", "hsf", "hvp", "t", "q"):
                columns = ds[name].transpose("lat", "lev").values.astype(float)
                setattr(self, name, np.array([np.interp(LOG_P, log_p, c) for c in columns]))
        self.weight = np.cos(np.deg2rad(self.lat))
        self.weight[[0, -1]] = 0.01
        self.weight /= self.weight.sum()
        # winds from psi and chi by their lengths; factors of the namelist that belongs to the file
        self.rotational = 0.45 * self.sf / self.hsf
        self.divergent = 0.55 * self.vp / self.hvp

    def rms(self, x: Float[np.ndarray, "lat level"]) -> Float[np.ndarray, " level"]:
        """Root mean square over the globe."""
        return np.sqrt(self.weight @ x**2)

    def shape(self, x: Float[np.ndarray, "lat level"]) -> Float[np.ndarray, "lat level"]:
        """A smoothed factor of latitude between 0.5 and 2, of global rms 1."""
        x = gaussian_filter1d(x, 0.8, axis=0, mode="nearest")
        x = gaussian_filter1d(x, 1.0, axis=1, mode="nearest")
        x = np.clip(x / self.rms(x), 0.5, 2.0)
        return x / self.rms(x)


def make_table(geos_file: str | Path, nmc_file: str | Path) -> xr.Dataset:
    """The table of the prior `reference` from the two statistics.

    Parameters
    ----------
    geos_file, nmc_file
        As named in the description of this module; their SHA-256 digests become attributes.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If a file is not there.
    """
    paths = {"geos": Path(geos_file), "nmc": Path(nmc_file)}
    raise_if(
        [
            Problem(
                f"no file {path}",
                f"the {name.upper()} statistics",
                "python -m xdiffda.priors.reference GEOS_FILE NMC_FILE -o reference.nc",
            )
            for name, path in paths.items()
            if not path.is_file()
        ],
        what="sources of the table",
    )
    geos, nmc = Geos(paths["geos"]), Nmc(paths["nmc"])
    rotational, share_psi = nmc.spectrum("vorticity", wind=True)
    divergent, share_chi = nmc.spectrum("divergence_unbalanced", wind=True)
    _, share_temperature = nmc.spectrum("theta_unbalanced")
    _, share_pressure = nmc.spectrum("log_surface_pressure_unbalanced")
    humidity, share_humidity = nmc.spectrum("qv")
    # without more at the large scales z500 would have an error of 3.9 m: sondes and GraphCast 4.9
    share_psi *= 1 + _large(DEGREES)[:, None]
    share_psi /= share_psi.sum(0)
    share_temperature *= 1 + LARGE_TEMPERATURE / (1 + (DEGREES / 20.0) ** 3)[:, None]
    share_temperature /= share_temperature.sum(0)
    correlation_psi = _deepened(nmc.correlation("vorticity"), nmc.centre)

    at_850 = int(np.argmin(abs(LEVELS - 850)))
    wind = np.sqrt(rotational**2 + divergent**2)
    std_wind = gaussian_filter1d(wind, 1.0, mode="nearest") * (WIND_850 / wind[at_850])
    std_q = gaussian_filter1d(humidity, 1.0) * (HUMIDITY_850 / humidity[at_850])
    whole = geos.rms(np.hypot(geos.rotational, geos.divergent))
    shares = 0.5 * ((geos.rms(geos.divergent) / whole) ** 2 + (divergent / wind) ** 2)
    divergent_share = np.clip(gaussian_filter1d(shares, 1.5, mode="nearest"), 0.1, 0.45)
    # relative humidity such that with the saturation of a usual atmosphere it makes NMC's profile
    usual = geos.q * usual_saturation(geos.lat[:, None], LEVELS)
    std_rh = geos.q * (std_q / geos.rms(usual))

    balance_z, balance_t = _balance()
    coefficient = 0.9 / np.sqrt(1 + (NODES / 120.0) ** 2)
    std_psi = np.sqrt(share_psi * (1 - divergent_share)) * std_wind
    implied = _implied_variance(
        std_psi, correlation_psi, nmc.centre, coefficient, balance_z, balance_t
    )
    target = np.interp(LOG_P, np.log(list(TEMPERATURE)), list(TEMPERATURE.values()))
    vertical = np.clip(0.25 * (17 / NODES) ** np.where(NODES < 17, 0.35, 0.9), 0.05, 0.55)
    vertical[NODES < 3] = vertical[2]
    each = np.exp(np.interp(np.log(DEGREES), np.log(NODES), np.log(vertical)))
    coordinate, steepness = stretched(LOG_P)
    below = LOG_P - LOG_P[-1]
    reach = np.exp(-0.5 * (below / PRESSURE_LENGTH) ** 2)

    def unbalanced(pressure: float) -> tuple[np.ndarray, np.ndarray]:
        """Temperature, and variance of the geopotential that follows from it."""
        taken = implied[1] + (pressure * reach * below / PRESSURE_LENGTH**2 / R_DRY) ** 2
        std = np.sqrt(np.maximum(target**2 - taken, (LEAST_UNBALANCED * target) ** 2))
        std = gaussian_filter1d(std, 1.0, mode="nearest")
        size, _ = geopotential_sizes(share_temperature, std, each[:, None] / steepness, LOG_P)
        return std, (size**2).sum(0)

    shape = geos.shape(np.hypot(geos.rotational, geos.divergent))
    south = 3 * np.sin(np.deg2rad(geos.lat))[:, None] ** 2
    # what sea-level pressure still lacks is a field of its own
    by_wind = geos.rms(shape * np.sqrt(south * implied[0]))[-1] ** 2
    wanted = (PRESSURE_ERROR / PRESSURE_DENSITY) ** 2 - by_wind
    std_pressure = np.sqrt(wanted / (1 + PRESSURE_OWN) - unbalanced(0.0)[1][-1])
    std_tu, z_unbalanced = unbalanced(std_pressure)
    z_unbalanced += (std_pressure * reach) ** 2
    t_unbalanced = std_tu**2 + (std_pressure * reach * below / PRESSURE_LENGTH**2 / R_DRY) ** 2

    def total(own: np.ndarray, by_wind: np.ndarray) -> np.ndarray:
        """Global rms: what wind implies goes with sin^2, all with the factor of latitude."""
        return geos.rms(shape * np.sqrt(own + south * by_wind))

    ds = xr.Dataset(
        coords={
            "level": ("level", LEVELS, {"units": "hPa"}),
            "level_2": ("level_2", LEVELS),
            "node": ("node", NODES, {"long_name": "total wavenumber"}),
            "band": ("band", nmc.centre, {"long_name": "total wavenumber"}),
            "lat": ("lat", geos.lat, {"units": "degrees_north"}),
            "growth_variable": list(GROWTH),
            "lead_hours": list(LEAD_HOURS),
        }
    )

    def add(name: str, dims: str, values: np.ndarray | float, units: str, text: str) -> None:
        attrs = {"units": units, "long_name": text}
        ds[name] = (dims.split(), np.asarray(values, np.float32), attrs)

    square = "band level level_2"
    add("std_wind", "level", std_wind, "m s-1", "rms error of a wind component over the globe")
    add("divergent_share", "level", divergent_share, "1", "of the variance of wind, divergent")
    add(
        "wind_shape",
        "lat level",
        shape,
        "1",
        "factor of errors of wind and mass by latitude, rms 1",
    )
    add("std_temperature_unbalanced", "level", std_tu, "K", "rms error not implied by wind")
    add("std_relative_humidity", "lat level", std_rh, "1", "error over saturation")
    for name, share in (
        ("psi", share_psi),
        ("chi", share_chi),
        ("temperature", share_temperature),
        ("humidity", share_humidity),
    ):
        add(f"share_{name}", "node level", share[NODES - 1], "1", "of the variance, by wavenumber")
    add(
        "share_pressure",
        "node",
        share_pressure[NODES - 1, 0],
        "1",
        "of the variance, by wavenumber",
    )
    add(
        "std_pressure",
        "",
        std_pressure,
        "m2 s-2",
        "error of geopotential at 1000 hPa from pressure at the ground alone",
    )
    add("pressure_length", "", PRESSURE_LENGTH, "1", "how far up it reaches in ln p (a choice)")
    add("correlation_psi", square, correlation_psi, "1", "vertical correlation")
    chi = nmc.correlation("divergence_unbalanced")
    add("correlation_chi", square, chi, "1", "vertical correlation")
    add("correlation_humidity", square, nmc.correlation("qv"), "1", "vertical correlation")
    add(
        "vertical_scale",
        "node",
        vertical,
        "1",
        "Gaussian length of unbalanced geopotential in ln p (large scales: half widths of NMC)",
    )
    add(
        "vertical_coordinate",
        "level",
        coordinate,
        "1",
        "in which that length counts: ln p aloft, steeper near the ground (a choice)",
    )
    add("vertical_steepness", "level", steepness, "1", "its derivative by ln p")
    add("balance_coefficient", "node", coefficient, "1", "of linear balance (a choice)")
    add("balance_geopotential", square, balance_z, "1", "smoother of psi in ln p (a choice)")
    add("balance_temperature", square, balance_t, "K s2 m-2", "its hydrostatic derivative")
    add(
        "std_geopotential",
        "level",
        total(z_unbalanced, implied[0]),
        "m2 s-2",
        "rms error over the globe that follows",
    )
    add(
        "std_temperature",
        "level",
        total(t_unbalanced, implied[1]),
        "K",
        "rms error over the globe that follows",
    )
    add(
        "growth",
        "growth_variable lead_hours",
        list(GROWTH.values()),
        "1",
        "error over that at 24 h, GraphCast against ERA5",
    )
    for name, value, units, text in (
        ("t2m_std", 1.06, "K", "GraphCast against ERA5 at 24 h"),
        ("t2m_correlation", 0.7, "1", "with unbalanced temperature at 1000 hPa (a choice)"),
        ("wind_10m_std", 0.95, "m s-1", "GraphCast against ERA5 at 24 h"),
        ("wind_10m_correlation", 0.9, "1", "with wind at 1000 hPa (a choice)"),
        ("pressure_density", PRESSURE_DENSITY, "kg m-3", "pressure over geopotential at 1000 hPa"),
        ("pressure_own", PRESSURE_OWN, "1", "more variance of pressure, relative (a choice)"),
        ("d2m_of_t2m", 0.9, "K K-1", "dew point of 2 m from temperature of 2 m (a choice)"),
        ("d2m_of_humidity", 1.2, "K", "dew point of 2 m from humidity at 1000 hPa (a choice)"),
    ):
        add(name, "", value, units, text)
    digest = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
    ds.attrs = {
        "title": "Background-error covariance of the atmosphere",
        "reference": "error of a 24 h forecast",
        "sources": "GEOS-ESM/GSIbec gsi-coeffs-geos-global-l72x72y46.nc4; "
        "gpuwm-global 0.1.3 static-covariance-v1.npz",
        "geos_sha256": digest["geos"],
        "nmc_sha256": digest["nmc"],
        "licence": "Apache-2.0, as both sources; see NOTICE",
        "untested": "above 30 hPa no departures of observations were compared",
    }
    return ds


def write_table(ds: xr.Dataset, path: str | Path) -> None:
    """Write a table, packed; correlations are kept to four digits."""
    packed = {"zlib": True, "complevel": 9, "shuffle": True}
    coarse = [name for name in ds.data_vars if "band" in ds[name].dims]
    coarse.remove("balance_temperature")
    few = {name: {"least_significant_digit": 4} for name in coarse}
    kept = {name: packed | few.get(name, {}) for name in ds.data_vars if ds[name].ndim}
    ds.to_netcdf(path, encoding=kept)


def usual_temperature(
    lat: Float[np.ndarray, "*shape"], pressure: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Zonal mean temperature in K, for saturation where a background has none.

    A fit (rms 1.3 K) to an ERA-Interim January, both hemispheres averaged, from 1000 to 200 hPa;
    above, that of 200 hPa.

    Examples
    --------
    >>> usual_temperature(np.array([0.0, 60.0]), np.array([1000.0, 500.0])).round(0).tolist()
    [299.0, 243.0]
    """
    x = np.log(np.maximum(pressure, 200.0) / 1000.0)
    south = np.sin(np.deg2rad(lat)) ** 2
    return 299.1 - 37.4 * south + (38.1 + 8.7 * south) * x + (-7.1 + 17.0 * south) * x**2


def saturation(
    temperature: Float[np.ndarray, "*shape"], pressure: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Specific humidity at saturation, kg/kg (`xdiffda.state.humidity.saturation_pressure`).

    At most 0.03: in the stratosphere air is never near saturation.

    Examples
    --------
    >>> saturation(np.array([288.15, 243.15]), np.array([1000.0, 500.0])).round(4).tolist()
    [0.0107, 0.0005]
    """
    vapour = saturation_pressure(temperature)
    q = EPSILON * vapour / np.maximum(pressure - (1 - EPSILON) * vapour, 0.3 * pressure)
    return np.minimum(q, 0.03)


def usual_saturation(
    lat: Float[np.ndarray, "*shape"], pressure: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """`saturation` at `usual_temperature`."""
    return saturation(usual_temperature(lat, pressure), pressure)


def geopotential_sizes(
    share: Float[np.ndarray, "degree level"],
    std: Float[np.ndarray, " level"],
    length: Float[np.ndarray, "degree level"],
    log_p: Float[np.ndarray, " level"],
) -> tuple[Float[np.ndarray, "degree level"], Float[np.ndarray, "degree level"]]:
    """Sizes of geopotential, Gaussian in ln p, whose hydrostatic temperature has these variances.

    The derivative of ``size(x) g(x)`` is ``size (g' + slope g)``: size and its slope, d ln size
    by d ln p, are made to agree. Both are returned. ``length`` is that of g in ln p at each level.
    """
    target = np.sqrt(share) * std * R_DRY * length
    slope = np.zeros_like(target)
    for _ in range(SLOPE_ROUNDS):
        log = np.log(target) - 0.5 * np.log1p((length * slope) ** 2)
        slope = np.gradient(log, log_p, axis=1)
    return target / np.sqrt(1 + (length * slope) ** 2), slope


def stretched(log_p: Float[np.ndarray, " level"]) -> tuple[np.ndarray, np.ndarray]:
    """The vertical coordinate of unbalanced mass and its derivative by ln p.

    ln p aloft, steeper below: errors are shallower there.
    """
    steep = (log_p - np.log(SHALLOW_FROM)) / 0.1
    return log_p + 0.1 * SHALLOW * np.logaddexp(0, steep), 1 + SHALLOW / (1 + np.exp(-steep))


def along_degrees(
    values: Float[np.ndarray, "band *rest"], places: np.ndarray, degree: np.ndarray
) -> Float[np.ndarray, "degree *rest"]:
    """Values at other total wavenumbers: linear in ln n, constant beyond the ends.

    Examples
    --------
    >>> along_degrees(np.array([1.0, 3.0]), np.array([1, 100]), np.array([1, 10, 200])).tolist()
    [1.0, 2.0, 3.0]
    """
    position = np.interp(np.log(degree), np.log(places), np.arange(len(places)))
    low = np.minimum(position.astype(int), len(places) - 2)
    share = (position - low).reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * values[low] + share * values[low + 1]


def _large(degree: np.ndarray) -> np.ndarray:
    """Return the variance added to psi at large scales, beyond the NMC statistics."""
    return 1.5 / (1 + (degree / 18.0) ** 3)


def _deepened(
    correlation: Float[np.ndarray, "band level level"], centre: np.ndarray
) -> Float[np.ndarray, "band level level"]:
    """Make the variance added to psi deep: a shallow part would imply too much temperature."""
    more = _large(centre)[:, None, None]
    deep = np.exp(-0.5 * (LOG_P[:, None] - LOG_P) ** 2)
    return (correlation + more * deep) / (1 + more)


def _unit_diagonal(c: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.diag(c))
    return c / root[:, None] / root


def _balance() -> tuple[np.ndarray, np.ndarray]:
    """Smoothers of psi in ln p by band, and minus their derivatives by ln p over R."""
    fine = np.linspace(LOG_P[0] - 0.2, np.log(1050), 900)
    spline = CubicSpline(LOG_P, np.eye(LOG_P.size), bc_type="natural")
    known = spline(np.clip(fine, LOG_P[0], LOG_P[-1]))
    places = np.linspace(LOG_P[0], np.log(1013.25), 1200)
    lowest = np.log(LOWEST_BALANCED)
    centre = lowest - 0.06 * np.log1p(np.exp((lowest - places) / 0.06))
    high = np.interp(places, np.log([30, 200]), [0.2, 0.0])
    kernel = [
        np.exp(-0.5 * ((centre[:, None] - fine) / np.hypot(width, high)[:, None]) ** 2)
        for width in SMOOTHING
    ]
    smoother = [(k / k.sum(1, keepdims=True)) @ known for k in kernel]
    slopes = [-np.gradient(s, places, axis=0) / R_DRY for s in smoother]

    def picked(parts: list[np.ndarray]) -> np.ndarray:
        return np.array([[np.interp(LOG_P, places, c) for c in part.T] for part in parts]).swapaxes(
            1, 2
        )

    return picked(smoother), picked(slopes)


def _implied_variance(
    std_psi: np.ndarray,
    correlation: np.ndarray,
    centre: np.ndarray,
    coefficient: np.ndarray,
    *operators: np.ndarray,
) -> list[Float[np.ndarray, " level"]]:
    """Variance that the linear balance implies, by level, mean over the globe.

    The mean of sin^2 over the sphere is a third.
    """
    c = 2 * OMEGA * RADIUS * along_degrees(coefficient, NODES, DEGREES)
    size = 2.0 / (DEGREES * (DEGREES + 1.0)) * c**2 / 3
    psi = along_degrees(correlation, centre, DEGREES) * std_psi[:, :, None] * std_psi[:, None]
    found = []
    for operator in operators:
        g = along_degrees(operator, centre, DEGREES)
        found.append(np.einsum("d,dlm,dmn,dln->l", size, g, psi, g, optimize=True))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Make the table from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m xdiffda.priors.reference",
        description="Make the table of the prior `reference`.",
    )
    parser.add_argument("geos", help="GEOS statistics, gsi-coeffs-geos-global-l72x72y46.nc4")
    parser.add_argument("nmc", help="NMC statistics, static-covariance-v1.npz of gpuwm-global")
    parser.add_argument("-o", "--output", required=True, help="the table to write")
    given = parser.parse_args(argv)
    table = make_table(given.geos, given.nmc)
    write_table(table, given.output)
    print(f"{given.output}: {Path(given.output).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
