"""GenCast as a prior for `assimilate`: p(x_t | x_(t-1), x_(t-2)), pretrained on ERA5.

Its parts are tested against the published code; it has not been tried with the published
weights and real observations.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance, estimate_blocks
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.errors import InputError, ModelError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.gencast.config import STEP, GenCastTask
from xdiffda.networks.gencast.denoiser import GenCastDenoiser
from xdiffda.networks.gencast.forecaster import GenCastForecaster, clock_forcings
from xdiffda.networks.gencast.graph import GenCastGraph
from xdiffda.networks.gencast.network import GenCast
from xdiffda.networks.gencast.noise import on_gencast_basis
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, infer_layout, to_state
from xdiffda.state.grid import Grid, Layout
from xdiffda.state.variables import VARIABLES

# What GenCast is conditioned on: the states 24 and 12 h before an analysis.


class Evidence(NamedTuple):
    """The information that two known states give on the one after them.

    Attributes
    ----------
    denoiser : GenCastDenoiser
        Of the normalised change w.
    reference : array (node, channel)
        The state with w = 0, physical units.
    """

    denoiser: GenCastDenoiser
    reference: Float[np.ndarray, "node channel"]


def evidence_of(forecaster: GenCastForecaster, previous: xr.Dataset, layout: Layout) -> Evidence:
    """Compute the information that two frames give on the state 12 h after them."""
    lon, time = previous["lon"].values, previous["time"].values[-1:] + STEP
    frames = forecaster.clean(previous).merge(
        clock_forcings(previous["time"].values, lon), compat="override"
    )
    denoiser = forecaster.denoiser(frames, clock_forcings(time, lon))
    # w = 0: the last frame, and the mean of variables that are no input
    zero = np.zeros((layout.grid.n_node, 1, layout.n_channel), np.float32)
    changes = forecaster.net.unstack_targets(zero, frames, frames.isel(time=[-1]))
    state = forecaster.scaler.denormalize(changes, frames)
    return Evidence(denoiser, np.asarray(forecaster.net.stack_targets(state))[:, 0])


def earlier_states(ds: xr.Dataset, task: GenCastTask, grid: Grid) -> xr.Dataset:
    """Input variables in their canonical form: (time, level, lat, lon), static ones without time.

    Raises
    ------
    InputError
        If there are no two times 12 h apart, or something does not fit; lists all problems.
    """
    names = [name for name in task.input_variables if name in VARIABLES]
    layout = Layout(grid, tuple(names), task.pressure_levels)
    x, _, convention = to_state(ds, layout, what="earlier states", check_values=False)
    times = convention.valid_times
    if convention.batch_dims != ("time",) or times is None or not _successive(times):
        at = [] if times is None else [str(t)[:16] for t in np.unique(times)]
        repair = 'states.sel(time=[t - np.timedelta64(24, "h"), t - np.timedelta64(12, "h")])'
        needed = "two times or more, 12 h apart"
        if "member" in convention.batch_dims:
            repair, needed = "states.isel(member=0)", f"{needed}; each member has its own prior"
        problem = Problem(f"states on {convention.batch_dims} at {at}", needed, repair)
        raise InputError([problem], what="earlier states")
    own = default_convention(layout)
    clean = from_state(x, layout, own, dims=("time",), coords={"time": times})
    static = [name for name in names if VARIABLES[name].role == "static"]
    return clean.assign({name: clean[name].isel(time=0, drop=True) for name in static})


def _successive(times: np.ndarray) -> bool:
    """Return whether some two times are 12 h apart, and no time stands twice."""
    known = set(times.tolist())
    apart = STEP.astype("timedelta64[ns]").astype(int)
    return len(known) == times.size and any(t + apart in known for t in known)


def unknown_states(states: xr.Dataset | None, time: np.datetime64 | None) -> Problem:
    """Describe the problem of an analysis without the states before it."""
    when = [f"{t}"[:16] for t in (() if states is None else states["time"].values)]
    found = f"states at {', '.join(when)}" if when else "no earlier states"
    needed = "the states 24 and 12 h before each analysis, which GenCast is conditioned on"
    chosen = "[t - np.timedelta64(24, 'h'), t - np.timedelta64(12, 'h')]"
    if time is not None:
        two = [f"{time - n * STEP}"[:16] for n in (2, 1)]
        needed = f"those of {two[0]} and {two[1]}, which the analysis of {f'{time}'[:16]} needs"
        chosen = f"{two}"
    return Problem(found, needed, f"model.given(states.sel(time={chosen}))")


class GenCastPrior:
    """States 12 h after two known ones, as a prior that observations can guide.

    `xdiffda.load_model` gives one with published weights, which knows no states yet;
    `given` tells it the states before the analyses::

        model = xdiffda.load_model("gencast-1p0-mini").given(states)
        analysis = xdiffda.assimilate(model.background(time), obs, model=model)

    What this conditioning implies:

    - The prior knows the states 12 and 24 h *before* the analysis, and takes them as exact. It
      does not know the background: that is only the state from which z = (x - x_b) / (r s) is
      measured, and the law of the analysis does not depend on it (but for the finite noise of
      the start). No forecast is needed: the draw is forecast and analysis in one.
    - Its spread is that of a 12 h forecast from perfect states. Errors of the two previous
      analyses are not in it: run each member of an ensemble from its own two states
      (`given`), or the cycle becomes overconfident.
    - r is a unit here, and changes no analysis: `assimilate` takes 1 unless told otherwise.
      Levels of ``Guidance`` mean r times as much to the network, trained from 0.02 to 88.
    - Analyses are on the grid and levels of the weights, each with its states 12 and 24 h before.
    - The noise is GenCast's (`gencast_basis`); states beyond total wavenumber n_lon / 2 - 1
      pass through the network alone.
    - Over land, sea surface temperature is a filler (`GenCastForecaster.clean` fills the
      background): mask it afterwards. Precipitation of 12 h is part of the state, with no
      change to be relative to; a background without it may take the climatological mean.
      `background` does both.

    B, which the cheap covariances of guidance need, does not come with the weights. Without one
    it is that of unit, independent changes, which is too large for a 12 h forecast:
    ``covariance="jacobian"`` needs no B, and `measured` estimates one from members.

    **Licence of the weights.** They were released under CC BY-NC-SA 4.0 (no commercial use;
    derived weights under the same terms), and the files still say so in their ``license`` entry,
    here ``card["licence"]``. An update of 6 August 2026 in the project's README (google-deepmind/
    weathernext, docs/weathernext1_gen) replaces it by CC BY 4.0, also for files obtained before.
    Both ask to name the source; read the terms that hold on the day of use.

    Parameters
    ----------
    forecaster : GenCastForecaster
    states : Dataset, optional
        As for `given`; without, ``grid`` is needed.
    grid : Grid, optional
        The grid of the weights; default that of the states.
    covariance : SpectralCovariance, optional
        B of (x - E[x | previous]) / s on harmonics of the package's usual scale.
    name : str
        Goes into the provenance of every analysis.

    Raises
    ------
    InputError
        If the states do not fit; lists all problems.
    ModelError
        If the levels of the checkpoint do not ascend.
    """

    # r is a unit, nothing that innovations could tell
    estimates_background_error = False
    of_errors = False

    def __init__(
        self,
        forecaster: GenCastForecaster,
        states: xr.Dataset | None = None,
        *,
        grid: Grid | None = None,
        covariance: SpectralCovariance | None = None,
        name: str = "gencast",
    ) -> None:
        task = forecaster.net.task
        if grid is None:
            if states is None:
                raise TypeError("GenCastPrior needs states or a grid")
            grid = infer_layout(states, what="earlier states").grid
        self.layout = Layout(grid, task.target_variables, task.pressure_levels)
        self.name, self._forecaster = name, forecaster
        channels = [(c.variable, c.level) for c in forecaster.net.target_channels()]
        if channels != list(self.layout.channels):
            raise ModelError(f"found levels {task.pressure_levels}; needed ascending ones")
        scale = [_scale(forecaster, name, level) for name, level in channels]
        self.scale = np.tile(np.asarray(scale, np.float32), (grid.n_node, 1))
        self.unresolved = np.zeros_like(self.scale)
        self._covariance = covariance
        self.card: dict[str, Any] = {
            "name": name,
            "description": forecaster.net.checkpoint.description,
            "licence": forecaster.net.license,
        }
        self._states = None if states is None else earlier_states(states, forecaster.net.task, grid)
        self._last_used: tuple[np.datetime64, Evidence] | None = None

    @property
    def times(self) -> tuple[np.datetime64, ...]:
        """Times that can be analysed: those with states 12 and 24 h before them."""
        known = set() if self._states is None else set(self._states["time"].values)
        return tuple(sorted(t + STEP for t in known if t - STEP in known))

    @with_own_jax
    def given(self, states: xr.Dataset) -> GenCastPrior:
        """Return the same prior after other states: the first, the next, or a member's own.

        Parameters
        ----------
        states : Dataset
            The states 24 and 12 h before each analysis, in any usual convention: the input
            variables of the weights (sea surface temperature may be NaN over land, and no
            precipitation is needed), with ``time``, at two times or more.

        Raises
        ------
        InputError
            If there are no two times 12 h apart, or grid, levels or variables do not fit; lists
            all problems.
        """
        other = copy.copy(self)
        other._states = earlier_states(states, self._forecaster.net.task, self.layout.grid)
        other._last_used = None
        return other

    def reconfigured(self, **options: Any) -> GenCastPrior:
        """Return the same prior computed differently: in half precision, for less memory.

        Parameters
        ----------
        **options
            ``dtype``, ``precision`` or ``remat`` of `xdiffda.networks.gencast.NetworkConfig`.
            There is
            no ``edge_chunk``: edges are few beside those of GraphCast, attention is computed
            in blocks always.

        Raises
        ------
        ValueError
            If an option is not one of these.
        """
        other = copy.copy(self)
        other._forecaster = self._forecaster.reconfigured(**options)
        other._last_used = None
        return other

    @with_own_jax
    def measured(self, members: Float[np.ndarray, "member node channel"]) -> GenCastPrior:
        """Return the same prior with B estimated from draws of the forecaster (physical units)."""
        x = np.asarray(members, np.float64)
        if len(x) < 2:
            needed = "2 or more, of as many calls of the forecaster with other keys"
            raise_if([Problem(f"{len(x)} member", needed, "")], what="members")
        if x.shape[1:] != self.scale.shape or not np.isfinite(x).all():
            found = (
                "values that are not finite"
                if x.shape[1:] == self.scale.shape
                else (f"members of shape {x.shape}")
            )
            needed = f"finite values on (member, {', '.join(map(str, self.scale.shape))})"
            problem = Problem(found, needed, "xdiffda.state.convert.to_state(ds, prior.layout)[0]")
            raise_if([problem], what="members")
        grid = self.layout.grid
        basis = sphere_basis(grid.lat, grid.lon, grid.n_lon // 2 - 1)
        samples = ((x - x.mean(0)) / self.scale).astype(np.float32)
        blocks = estimate_blocks(basis, samples) * len(x) / (len(x) - 1)
        other = copy.copy(self)
        other._covariance = SpectralCovariance.from_blocks(basis, blocks)
        return other

    @with_own_jax
    def background(self, time: str | np.datetime64 | None = None) -> xr.Dataset:
        """A background where there is none: the last state, climatological where it has no value.

        Sea surface temperature over land is filled, precipitation is its mean. The law of the
        analysis does not depend on it, so that any state serves.

        Parameters
        ----------
        time : datetime64, optional
            Time of the analysis; default the last of `times`.

        Raises
        ------
        InputError
            If the states before that time are not known.
        """
        stamp = self._time(None if time is None else _stamp(time))
        return from_state(
            self._evidence(stamp).reference, self.layout, default_convention(self.layout)
        ).assign_coords(time=stamp)

    @property
    def _network(self) -> GenCast:
        return self._forecaster.net.net

    @property
    def _graph(self) -> GenCastGraph:
        grid = self.layout.grid
        axes = {"lat": np.asarray(grid.lat), "lon": np.asarray(grid.lon)}
        return self._forecaster.net.graph_for(xr.Dataset(coords=axes))

    @property
    def covariance(self) -> SpectralCovariance:
        """B of the error of the 12 h forecast in units of s."""
        if self._covariance is None:  # harmonics of a fine grid take a while: not before needed
            self._covariance = unit_covariance(self.layout)
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
            If the states 12 and 24 h before the time are not known.
        """
        known = time is not None and not np.isnat(time)
        own, reference = self._evidence(self._time(_stamp(time) if known else None))
        shift = jnp.asarray((background - reference) / self.scale, jnp.float32)[:, None]
        denoiser = GenCastDenoiser(
            own.network, own.graph, own.given, shift, jnp.asarray(r, jnp.float32)
        )
        grid, b = self.layout.grid, self.covariance
        in_z = SpectralCovariance(b.basis, b.vectors, b.values / r**2)
        return Conditioned(denoiser, on_gencast_basis(in_z, grid.lat, grid.lon), None)

    def _time(self, time: np.datetime64 | None) -> np.datetime64:
        """The time of an analysis whose states are known; the last one if it is not said."""
        times = self.times
        if time is None and times:
            return times[-1]
        if time not in times:
            raise InputError([unknown_states(self._states, time)], what=f"model {self.name}")
        assert time is not None
        return time

    def _evidence(self, time: np.datetime64) -> Evidence:
        """Return the evidence of the states before this time, cached for the next call."""
        if self._last_used is None or self._last_used[0] != time:
            assert self._states is not None
            frames = self._states.sel(time=[time - 2 * STEP, time - STEP])
            self._last_used = time, evidence_of(self._forecaster, frames, self.layout)
        return self._last_used[1]

    def __repr__(self) -> str:
        times = ", ".join(str(t)[:13] for t in self.times) or "no time: .given(states) is needed"
        return (
            f"<GenCastPrior {self.name!r} of {times}: {self.layout.n_channel} channels on "
            f"{self.layout.grid}>"
        )


def _stamp(time: Any) -> np.datetime64:
    try:
        return np.array([time], "datetime64[ns]")[0]
    except (ValueError, TypeError) as error:
        problem = Problem(f"time={time!r}", "a time, UTC", 'model.background("2020-01-01T12")')
        raise InputError([problem], what="time of the analysis") from error


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
