"""Relaxation of a forecast to a climatology, the faster the smaller the scale.

A dynamical core has horizontal diffusion; a network trained on smooth states does not know
that it should have any, and hands on what the analyses of many cycles leave between the sites
as if it stood still.  The deviation from climatology is damped by ``exp(-(t / tau) (l / L)^p)``,
l the total wavenumber, L the largest that the basis holds: the statistical form of it is the
regression of the truth on the background, degree by degree (Leith 1974 for its optimum, doi
10.1175/1520-0493(1974)102<0409:TSOMCF>2.0.CO;2).
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.covariance.harmonics import Basis
from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.priors.prior import Prior, year_phase
from xdiffda.state.clock import read_clock
from xdiffda.state.convert import to_state

State = Float[np.ndarray, "*member node channel"]


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """The rate at which a forecast is relaxed to a climatology.

    Attributes
    ----------
    climatology : Dataset or str
        Mean state, in any usual convention; with several times, those of a year (mean states
        of months, for example): the annual mean and the first two harmonics of the year are
        fitted to them. In a configuration, the name of the file.
    hours : float
        e-folding time of the smallest scale of the model's B, in hours.
    power : float
        Of the total wavenumber: 0 damps all scales alike, 2 like a diffusion, 4 or more like
        the hyperdiffusion of spectral models.
    """

    climatology: xr.Dataset | str
    hours: float = 12.0
    power: float = 2.0

    def __post_init__(self) -> None:
        problems = []
        if not self.hours > 0:
            problems.append(Problem(f"hours={self.hours}", "a positive time", "hours=12"))
        if not self.power >= 0:
            problems.append(Problem(f"power={self.power}", "0 or more", "power=2"))
        raise_if(problems, what="relaxation")


class Relaxed:
    """Relaxation made ready for one model: call it with states and their time.

    Parameters
    ----------
    relaxation : Relaxation
        With a Dataset.
    prior : Prior
        Brings layout, s and basis.
    length : timedelta64
        Time since the last call, the length of a cycle.

    Raises
    ------
    InputError
        If the climatology does not fit the model.
    """

    def __init__(self, relaxation: Relaxation, prior: Prior, length: np.timedelta64) -> None:
        x, layout, convention = to_state(relaxation.climatology, prior.layout, what="climatology")
        x = x.reshape(-1, layout.grid.n_node, layout.n_channel).astype(np.float64)
        stamps = convention.valid_times
        problems = []
        if len(x) > 1 and (stamps is None or np.isnat(stamps).any() or np.size(stamps) != len(x)):
            problems.append(
                Problem(
                    f"{len(x)} mean states without their times of the year",
                    "a coordinate time for each, or one state",
                    'climatology.mean("month")',
                )
            )
        raise_if(problems, what="climatology")
        n_wave = min(2, (len(x) - 1) // 2)
        times = np.zeros(1, "datetime64[ns]") if len(x) == 1 else np.asarray(stamps).reshape(-1)
        waves = _waves(times, n_wave)
        self.harmonics = np.linalg.lstsq(waves, x.reshape(len(x), -1), rcond=None)[0]
        self.shape, self.n_wave = x.shape[1:], n_wave
        self.basis, self.scale = prior.covariance.basis, jnp.asarray(prior.scale)
        degree = np.arange(self.basis.mask.shape[0]) / max(self.basis.mask.shape[0] - 1, 1)
        rate = float(length / np.timedelta64(1, "h")) / relaxation.hours
        self.factor = jnp.asarray(np.exp(-rate * degree**relaxation.power), jnp.float32)

    def climatology(self, time: np.datetime64) -> Float[np.ndarray, "node channel"]:
        """The climatological state of a time of the year."""
        return (_waves(np.array([time]), self.n_wave) @ self.harmonics).reshape(self.shape)

    def __call__(self, x: State, time: np.datetime64) -> State:
        """Draw states of one time towards the climatology of that time."""
        mean = self.climatology(time)
        flat = jnp.asarray(np.moveaxis(x.reshape(-1, *self.shape) - mean, 0, 1), jnp.float32)
        kept = np.moveaxis(np.asarray(_damp(flat, self.basis, self.scale, self.factor)), 1, 0)
        return (mean + kept).astype(np.float32).reshape(x.shape)


@eqx.filter_jit
def _damp(x: Array, basis: Basis, scale: Array, factor: Array) -> Array:
    """Damp degree by degree; beyond the basis, as at its end."""
    z = x / scale[:, None]
    a = basis.analysis(z)
    lost = basis.synthesis(a * (1 - factor / factor[-1])[:, None, None, None])
    return factor[-1] * scale[:, None] * (z - lost)


def _waves(times: np.ndarray, n_wave: int) -> Float[np.ndarray, "time wave"]:
    """One, and cosine and sine of the phase of the year and its multiples."""
    cos, sin = year_phase(times).astype(np.float64).T
    angle = np.arctan2(sin, cos)
    return np.stack(
        [np.ones_like(angle)]
        + [f((k + 1) * angle) for k in range(n_wave) for f in (np.cos, np.sin)],
        axis=1,
    )


@with_own_jax
def mean_states(truth: xr.Dataset, n_times: int = 12) -> xr.Dataset:
    """Mean states of equal parts of the year of a long truth: a climatology for `Relaxation`.

    Parameters
    ----------
    truth : Dataset
        States along time, in any usual convention; lazy data stays lazy.
    n_times : int
        Parts of the year.

    Returns
    -------
    Dataset
        Along ``time``, the middle of each part in the first year of the truth.

    Raises
    ------
    InputError
        If the truth has no valid times.

    Examples
    --------
    >>> t = np.datetime64("2001-01-01", "ns") + np.arange(730) * np.timedelta64(1, "D")
    >>> ds = xr.Dataset({"t": ("time", np.arange(730.0))}, {"time": t})
    >>> mean_states(ds, 4)["t"].values.round(1).tolist()
    [228.0, 319.5, 411.0, 502.0]
    """
    clock = read_clock(truth).checked("truth")
    if clock is None or clock.ndim != 1:
        raise InputError(
            [
                Problem(
                    "no axis of valid times",
                    "a coordinate time along the states",
                    "truth.assign_coords(time=times)",
                )
            ],
            what="truth",
        )
    stamps = np.asarray(clock.values, "datetime64[ns]")
    start = stamps.astype("datetime64[Y]").astype("datetime64[ns]")
    part = ((stamps - start) / np.timedelta64(366, "D") * n_times).astype(int)
    dim = clock.dims[0]
    year = stamps.min().astype("datetime64[Y]").astype("datetime64[ns]")
    found = np.unique(part)
    means = [truth.isel({dim: np.flatnonzero(part == p)}).mean(dim, keep_attrs=True) for p in found]
    times = year + ((found + 0.5) / n_times * 365 * 86400).astype("timedelta64[s]")
    ds = xr.concat([m.drop_vars(clock.name, errors="ignore") for m in means], "time")
    return ds.assign_coords(time=times.astype("datetime64[ns]"))
