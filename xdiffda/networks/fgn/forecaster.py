"""FGN in physical units: gaps, normalisation, members, roll-out and training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.errors import InputError, ModelError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.fgn.bare import BareFGN, apply_network
from xdiffda.networks.fgn.loss import channel_crps, variable_terms, weighted_loss
from xdiffda.networks.gencast.forecaster import with_gaps_of
from xdiffda.networks.graphcast.fitting import not_finite
from xdiffda.networks.graphcast.forecaster import Forecaster, roll_out
from xdiffda.state.grid import Grid


@dataclass(frozen=True, eq=False)
class FGNForecaster:
    """Networks with their statistics: an ensemble of the atmosphere, 6 h a step.

    Targets that are also inputs are predicted as change since the last input frame; others by
    themselves; a variable without statistics passes unchanged.  What is known over sea only is
    filled before normalisation, and missing again in the outputs.

    Parameters
    ----------
    net
        A network with its task, from ``xdiffda.fgn.load``; its configuration holds the statistics.
    *others
        The same network trained again from other initial weights: members share them out,
        member i takes the one of number i modulo their number.
    grid
        The grid of the training; inputs on another one are refused. None takes any grid.
    card
        What is known of the weights: name, licence, how to cite them.

    Raises
    ------
    ModelError
        If the networks are not of one task and one size.
    InputError
        If statistics are NaN or not positive, or lack a level of the task; lists all problems.
    """

    nets: tuple[BareFGN, ...]
    scaler: Forecaster
    grid: Grid | None
    card: Mapping[str, str]

    def __init__(
        self,
        net: BareFGN,
        *others: BareFGN,
        grid: Grid | None = None,
        card: Mapping[str, str] | None = None,
    ) -> None:
        told = net.checkpoint.configuration
        for other in others:
            own = other.checkpoint.configuration
            if (own.task, own.architecture) != (told.task, told.architecture):
                raise ModelError(
                    "found networks of different tasks or sizes; needed trainings of one "
                    "configuration; repair: load all with one file, "
                    'xdiffda.fgn.load("params.npz", config="config.json")'
                )
        statistics = {"mean": told.mean, "stddev": told.stddev, "diffs_stddev": told.diffs_stddev}
        object.__setattr__(self, "nets", (net, *others))
        object.__setattr__(self, "scaler", Forecaster(net, **statistics))
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "card", dict(card or {}))

    @property
    def net(self) -> BareFGN:
        """The first network."""
        return self.nets[0]

    @with_own_jax
    def __call__(
        self,
        inputs: xr.Dataset,
        forcings: xr.Dataset,
        *,
        noise: Any,
        members: Sequence[int] | None = None,
    ) -> xr.Dataset:
        """The state one step after the inputs, one for each member.

        Parameters
        ----------
        inputs
            Input variables at two times 6 h apart, physical units; sea surface temperature may
            be NaN over land, and then is so in the output.
        forcings
            Forcing variables at the time of the outputs.
        noise : array (sample, batch, noise_channels)
            Independent normal numbers, as of `member_noise`.
        members
            Numbers of the members, which say whose network each takes; default 0, 1, 2, ...

        Returns
        -------
        xr.Dataset
            Target variables on (sample, batch, time, level, lat, lon).

        Raises
        ------
        InputError
            If something is missing or NaN, or the grid is another one; lists all problems.
        """
        inputs, forcings = self.net.select(inputs, forcings)
        raise_if(self._other_grid(inputs), what="FGN")
        cleaned = self.clean(inputs)
        not_finite("inputs and forcings", cleaned, forcings)
        z = self.net.noise_array(noise, inputs.sizes.get("batch", 1))
        numbers = np.arange(len(z)) if members is None else np.asarray(members)
        if numbers.shape != (len(z),) or numbers.dtype.kind not in "iu" or (numbers < 0).any():
            found = f"members {numbers.tolist()} for noise of {len(z)}"
            problem = Problem(found, f"{len(z)} whole numbers", f"members=range({len(z)})")
            raise InputError([problem], what="FGN")
        given = self.scaler.normalize(cleaned), self.scaler.normalize(forcings)
        parts, order = [], []
        for k, net in enumerate(self.nets):
            own = np.flatnonzero(numbers % len(self.nets) == k)
            if len(own):
                parts.append(net(*given, noise=np.asarray(z)[own]))
                order.append(own)
        outputs = xr.concat(parts, dim="sample").isel(sample=np.argsort(np.concatenate(order)))
        return with_gaps_of(inputs, self.scaler.denormalize(outputs, cleaned), self.fill)

    @with_own_jax
    def rollout(
        self,
        inputs: xr.Dataset,
        forcings: xr.Dataset,
        *,
        noise: Any,
        steps: int,
        members: Sequence[int] | None = None,
    ) -> xr.Dataset:
        """Feed the forecast of every member back ``steps`` times.

        Parameters
        ----------
        inputs
            As for a single step: all members start from them.
        forcings
            Forcing variables at the time of every step.
        noise : array (sample, batch, time, noise_channels)
            Independent normal numbers: each step needs its own.
        steps
            Number of 6 h steps.
        members
            Numbers of the members, as for a single step.

        Returns
        -------
        xr.Dataset
            Target variables on (sample, batch, time, level, lat, lon), one time for each step.

        Raises
        ------
        InputError
            If forcings or noise end too early, or something is missing or NaN.
        """
        if isinstance(noise, xr.DataArray):
            noise = noise.transpose("sample", "batch", "time", "noise_channels").values
        noise = np.asarray(noise)
        if noise.ndim != 4 or not len(noise) or noise.shape[2] < steps:
            width = self.net.net.config.sizes.noise_channels
            needed = f"(sample, batch, {steps} or more steps, {width})"
            repair = f"xdiffda.fgn.member_noise(key, range(20), {steps}, {width})[:, None]"
            problem = Problem(f"noise of shape {noise.shape}", needed, repair)
            raise InputError([problem], what="roll-out")
        numbers = range(len(noise)) if members is None else members
        found = []
        for number, own in zip(numbers, noise, strict=True):

            def step(
                k: int, frames: xr.Dataset, now: xr.Dataset, z: Any = own, i: int = number
            ) -> xr.Dataset:
                return self(frames, now, noise=z[None, :, k], members=[i]).isel(sample=0)

            found.append(roll_out(step, self.net.task, inputs, forcings, steps))
        states: xr.Dataset = xr.concat(found, dim="sample")  # pyright: ignore[reportAssignmentType]
        return states

    @with_own_jax
    def loss(
        self, inputs: xr.Dataset, forcings: xr.Dataset, targets: xr.Dataset, *, noise: Any
    ) -> Float[Array, " batch"]:
        """The published training loss of each entry of the batch, for noise that is given.

        Fair CRPS of the members in normalised units, weighted by area, level and variable.

        Parameters
        ----------
        inputs, forcings, noise
            As for a step.
        targets
            What happened, in physical units; NaN where the configuration allows it.
        """
        scores = self.scores(self.training_arrays(inputs, forcings, targets, noise), inputs)
        weights = self.net.checkpoint.configuration.loss_weights
        return weighted_loss(scores, self.net.target_channels(), weights)

    @with_own_jax
    def loss_terms(
        self, inputs: xr.Dataset, forcings: xr.Dataset, targets: xr.Dataset, *, noise: Any
    ) -> dict[str, Float[Array, " batch"]]:
        """The loss of each variable by itself, without its weight."""
        scores = self.scores(self.training_arrays(inputs, forcings, targets, noise), inputs)
        return variable_terms(scores, self.net.target_channels())

    @with_own_jax
    def training_arrays(
        self, inputs: xr.Dataset, forcings: xr.Dataset, targets: xr.Dataset, noise: Any
    ) -> tuple[Array, Array, Array, Array]:
        """Channels, clocks, noise and normalised targets (node, batch, channel)."""
        inputs, forcings = self.net.select(inputs, forcings)
        inputs = self.clean(inputs)
        not_finite("inputs and forcings", inputs, forcings)
        given = self.scaler.normalize(inputs), self.scaler.normalize(forcings)
        wanted = self.scaler.normalized_targets(self.clean(targets), inputs)
        z = self.net.noise_array(noise, inputs.sizes.get("batch", 1))
        return *self.net.stack(*given), z, jnp.asarray(self.net.stack_targets(wanted))

    @with_own_jax
    def scores(
        self, arrays: tuple[Array, Array, Array, Array], inputs: xr.Dataset, net: Any = None
    ) -> Float[Array, "batch channel"]:
        """Scores of the channels, of these weights or of others: what a training minimises."""
        x, clocks, z, targets = arrays
        used, graph = self.net.net if net is None else net, self.net.graph_for(inputs)
        outputs = jnp.stack([apply_network(used, x, clocks, one, graph) for one in z])
        return channel_crps(
            outputs,
            targets[None],
            lat=inputs["lat"].values,
            channels=self.net.target_channels(),
            gaps=self.net.checkpoint.configuration.gaps_in_targets,
        )

    @property
    def fill(self) -> xr.Dataset:
        """Return the values that replace gaps, by variable."""
        return self.net.checkpoint.configuration.fill

    def clean(self, ds: xr.Dataset) -> xr.Dataset:
        """Fill what may have gaps; leave other variables."""
        known = [name for name in self.fill if name in ds]
        return ds.assign(
            {name: ds[name].fillna(self.fill[name]).astype(ds[name].dtype) for name in known}
        )

    def reconfigured(self, **options: Any) -> FGNForecaster:
        """Return the same forecaster with other ``dtype``, ``precision`` or ``remat``."""
        nets = [net.reconfigured(**options) for net in self.nets]
        return FGNForecaster(*nets, grid=self.grid, card=self.card)

    def _other_grid(self, inputs: xr.Dataset) -> list[Problem]:
        """Any grid would run: the weights serve that of the training alone."""
        if self.grid is None:
            return []
        needed = [np.asarray(self.grid.lat), np.asarray(self.grid.lon)]
        found = [np.sort(inputs["lat"].values), np.sort(inputs["lon"].values % 360)]
        if all(
            a.shape == b.shape and np.allclose(a, np.sort(b), rtol=0, atol=1e-3)
            for a, b in zip(found, needed, strict=True)
        ):
            return []
        shapes = [" x ".join(str(len(axis)) for axis in axes) for axes in (found, needed)]
        return [
            Problem(
                f"a grid of {shapes[0]}",
                f"{shapes[1]}, with rows at the poles",
                "xdiffda.regrid(ds, like=grid)",
            )
        ]


@with_own_jax
def member_noise(
    key: PRNGKeyArray, members: Any, n_steps: int, n_channel: int, *, first: int = 0
) -> Float[Array, "member step noise_channels"]:
    """Normal numbers of some members: the same however many members or steps are drawn together.

    Parameters
    ----------
    key
        Of the ensemble.
    members
        Numbers of the members.
    n_steps
        Number of steps.
    n_channel
        Numbers for each member and step.
    first
        Number of the first step.

    Examples
    --------
    >>> key = jax.random.key(0)
    >>> both, one = member_noise(key, [0, 1], 1, 4), member_noise(key, [1], 3, 4)
    >>> bool((both[1, 0] == one[0, 0]).all())
    True
    """

    def draw(member: Array, step: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, member), step)
        return jax.random.normal(own, (n_channel,))

    of_steps = jax.vmap(draw, in_axes=(None, 0))
    steps = jnp.arange(first, first + n_steps)
    return jax.vmap(of_steps, in_axes=(0, None))(jnp.asarray(members, jnp.int32), steps)
