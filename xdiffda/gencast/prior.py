"""GenCast as a prior for `assimilate`: p(x_t | x_(t-1), x_(t-2)), pretrained on ERA5.

A sketch: it runs, its parts are tested, and it has not been tried with real observations.
"""

from __future__ import annotations

import copy
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.covariance import SpectralCovariance, estimate_blocks
from xdiffda.diffusion.sampling import Conditioned
from xdiffda.errors import Problem, raise_if
from xdiffda.spectral import sphere_basis
from xdiffda.state import Grid, Layout

from .config import STEP
from .denoiser import GenCastDenoiser
from .forecaster import GenCastForecaster, clock_forcings
from .noise import on_gencast_basis


class GenCastPrior:
    """States 12 h after two known ones, as a prior that observations can guide.

    `xdiffda.prior.Prior` stands above this package; ``class Model(GenCastPrior, Prior)`` is what
    `assimilate` takes.

    What this conditioning implies:

    - The prior knows the states 12 and 24 h *before* the analysis, and takes them as exact. It
      does not know the background: that is only the state from which z = (x - x_b) / (r s) is
      measured, and the law of the analysis does not depend on it (but for the finite noise of
      the start). No forecast is needed: the draw is forecast and analysis in one.
    - Its spread is that of a 12 h forecast from perfect states. Errors of the two previous
      analyses are not in it: run each member of an ensemble from its own two states
      (`given`), or the cycle becomes overconfident.
    - r is a unit here, and changes no analysis; pass ``background_error=1.0``. Levels of
      ``Guidance`` mean r times as much to the network, which was trained from 0.02 to 88.
    - Analyses are 12 h apart, on the grid and levels of the weights.
    - The noise is GenCast's (`gencast_basis`); states beyond total wavenumber n_lon / 2 - 1
      pass through the network alone.
    - Over land, sea surface temperature is a filler (`GenCastForecaster.clean` fills the
      background): mask it afterwards. Precipitation of 12 h is part of the state, with no
      change to be relative to; a background without it may take the climatological mean.

    B, which the cheap covariances of guidance need, does not come with the weights. Without one
    it is that of unit, independent changes, which is too large for a 12 h forecast:
    ``covariance="jacobian"`` needs no B, and `measured` estimates one from members.

    **Licence of the weights.** They were released under CC BY-NC-SA 4.0 (no commercial use;
    derived weights under the same terms), and the files still say so in their `license` entry,
    here ``card["licence"]``. An update of 6 August 2026 in the project's README (google-deepmind/
    weathernext, docs/weathernext1_gen) replaces it by CC BY 4.0, also for files obtained before.
    Both ask to name the source; read the terms that hold on the day of use.

    Parameters
    ----------
    forecaster : GenCastForecaster
    previous : Dataset
        The states 24 and 12 h before the analysis: input variables on (time, level, lat, lon),
        physical units, names of WeatherBench, ``time`` as datetime64.
    covariance : SpectralCovariance, optional
        B of (x - E[x | previous]) / s on harmonics of the package's usual scale.
    name : str
        Goes into the provenance of every analysis.

    Raises
    ------
    InputError
        If times are not two, 12 h apart, or something is missing or NaN.
    """

    of_errors = False

    def __init__(
        self, forecaster: GenCastForecaster, previous: xr.Dataset, *,
        covariance: SpectralCovariance | None = None, name: str = "gencast",
    ) -> None:  # fmt: skip
        task = forecaster.net.task
        grid = Grid.from_coords(previous["lat"].values, previous["lon"].values)
        self.layout = Layout(grid, task.target_variables, task.pressure_levels)
        self.name, self._forecaster = name, forecaster
        channels = [(c.variable, c.level) for c in forecaster.net.target_channels()]
        assert channels == list(self.layout.channels), "levels of the task must ascend"
        scale = [_scale(forecaster, name, level) for name, level in channels]
        self.scale = np.tile(np.asarray(scale, np.float32), (grid.n_node, 1))
        self.unresolved = np.zeros_like(self.scale)
        self._covariance = unit_covariance(self.layout) if covariance is None else covariance
        self.card: dict[str, Any] = {
            "name": name,
            "description": forecaster.net.checkpoint.description,
            "licence": forecaster.net.license,
        }
        self._set(previous)

    def _set(self, previous: xr.Dataset) -> None:
        previous, time = _frames(previous)
        lon = previous["lon"].values
        frames = self._forecaster.clean(previous).merge(
            clock_forcings(previous["time"].values, lon), compat="override"
        )
        self.time = time
        self._denoiser = self._forecaster.denoiser(frames, clock_forcings(np.array([time]), lon))
        self._last = _reference(self._forecaster, frames, self.layout)

    def given(self, previous: xr.Dataset) -> GenCastPrior:
        """The same prior after two other states: of the next cycle, or of another member."""
        other = copy.copy(self)
        other._set(previous)
        return other

    def measured(self, members: Float[np.ndarray, "member node channel"]) -> GenCastPrior:
        """The same prior with B estimated from draws of the forecaster (physical units)."""
        x = np.asarray(members, np.float64)
        if len(x) < 2:
            problem = Problem(f"{len(x)} member", "2 or more", "forecaster(inputs, forcings, ...)")
            raise_if([problem], what="members")
        grid = self.layout.grid
        basis = sphere_basis(grid.lat, grid.lon, grid.n_lon // 2 - 1)
        samples = ((x - x.mean(0)) / self.scale).astype(np.float32)
        blocks = estimate_blocks(basis, samples) * len(x) / (len(x) - 1)
        other = copy.copy(self)
        other._covariance = SpectralCovariance.from_blocks(basis, blocks)
        return other

    @property
    def covariance(self) -> SpectralCovariance:
        """B of the error of the 12 h forecast in units of s."""
        return self._covariance

    @property
    def default_covariance(self) -> str:
        """Name of the V that guidance takes unless told otherwise."""
        return "climatological"

    def condition(
        self, background: Float[np.ndarray, "node channel"], time: np.datetime64 | None, r: float
    ) -> Conditioned:
        """Measure states from this background (physical units); the prior stays what it is.

        Raises
        ------
        InputError
            If the time is not 12 h after the last of the previous states.
        """
        if time is not None and not np.isnat(time) and np.datetime64(time) != self.time:
            repair = f"prior.given(states.sel(time=[t - {2 * STEP}, t - {STEP}]))"
            problem = Problem(f"a background of {time}", f"one of {self.time}", repair)
            raise_if([problem], what="background")
        shift = jnp.asarray((background - self._last) / self.scale, jnp.float32)[:, None]
        own = self._denoiser
        denoiser = GenCastDenoiser(
            own.network, own.graph, own.given, shift, jnp.asarray(r, jnp.float32)
        )
        grid, b = self.layout.grid, self._covariance
        in_z = SpectralCovariance(b.basis, b.vectors, b.values / r**2)
        return Conditioned(denoiser, on_gencast_basis(in_z, grid.lat, grid.lon), None)

    def __repr__(self) -> str:
        return (
            f"<GenCastPrior {self.name!r} of {self.time}: {self.layout.n_channel} channels on "
            f"{self.layout.grid}>"
        )


def unit_covariance(layout: Layout) -> SpectralCovariance:
    """B of independent channels with GenCast's own spectrum of noise and unit variance."""
    grid, n = layout.grid, layout.grid.n_lon // 2
    basis = sphere_basis(grid.lat, grid.lon, n - 1)
    blocks = (n / (2 * np.arange(n) + 1.0))[:, None, None] * np.eye(layout.n_channel)
    return SpectralCovariance.from_blocks(basis, blocks)


def _scale(forecaster: GenCastForecaster, name: str, level: int | None) -> float:
    """Standard deviation of the change over 12 h, or of the variable itself."""
    scaler, task = forecaster.scaler, forecaster.net.task
    ds = scaler.diffs_stddev if name in task.input_variables else scaler.stddev
    if name not in ds:
        return 1.0
    return float(ds[name].sel(level=level) if "level" in ds[name].dims else ds[name])


def _reference(
    forecaster: GenCastForecaster, frames: xr.Dataset, layout: Layout
) -> Float[np.ndarray, "node channel"]:
    """The state with w = 0: the last frame, the mean of variables that are no input."""
    zero = np.zeros((layout.grid.n_node, 1, layout.n_channel), np.float32)
    changes = forecaster.net.unstack_targets(zero, frames, frames.isel(time=[-1]))
    state = forecaster.scaler.denormalize(changes, frames)
    return np.asarray(forecaster.net.stack_targets(state))[:, 0]


def _frames(previous: xr.Dataset) -> tuple[xr.Dataset, np.datetime64]:
    """The two frames with rows and columns ascending, and the time of the analysis."""
    time = previous["time"].values if "time" in previous.coords else np.array([])
    if time.shape != (2,) or time.dtype.kind != "M" or time[1] - time[0] != STEP:
        found = f"previous states at {[str(t) for t in np.atleast_1d(time)]}"
        problem = Problem(found, "two times, 12 h apart", "states.sel(time=[t - 24h, t - 12h])")
        raise_if([problem], what="previous")
    previous = previous.assign_coords(lon=previous["lon"] % 360).sortby(["lat", "lon"])
    return previous, time[1] + STEP
