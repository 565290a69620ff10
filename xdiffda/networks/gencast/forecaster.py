"""GenCast in physical units: missing values, normalisation, sampling, training loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.covariance.harmonics import Basis
from xdiffda.errors import InputError, Problem
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.gencast.bare import BareGenCast
from xdiffda.networks.gencast.denoiser import GenCastDenoiser, compiled_denoise
from xdiffda.networks.gencast.noise import gencast_basis, unit_noise
from xdiffda.networks.gencast.sampler import trajectory
from xdiffda.networks.graphcast.fitting import not_finite
from xdiffda.networks.graphcast.forcings import day_progress, year_progress
from xdiffda.networks.graphcast.forecaster import Forecaster
from xdiffda.networks.graphcast.loss import weighted_loss
from xdiffda.networks.preconditioning import Karras

# Known over sea only: land gets the smallest value that occurs.
SEA_VARIABLES = ("sea_surface_temperature",)
VARIABLE_WEIGHTS = dict.fromkeys(
    (
        "10m_u_component_of_wind",
        "10m_v_component_of_wind",
        "mean_sea_level_pressure",
        "sea_surface_temperature",
        "total_precipitation_12hr",
    ),
    0.1,
)


@dataclass(frozen=True, eq=False)
class GenCastForecaster:
    """A network with its statistics: draws the state 12 h on from p(x_t | x_(t-1), x_(t-2)).

    A draw is conditioned on the two states before it, taken as exact. The terms of published
    weights are listed in `GenCastPrior`.

    Parameters
    ----------
    net
        A network with its task, from `xdiffda.networks.gencast.load`.
    mean, stddev
        Mean and standard deviation of every variable, scalar or on ``level``.
    diffs_stddev
        Standard deviation of the 12 h changes.
    minimum
        Smallest value of every variable; fills the sea surface temperature of land.

    Raises
    ------
    InputError
        If statistics are NaN or not positive, lack a level of the task, or have no variable
        in common with the task; lists all problems.
    """

    net: BareGenCast
    scaler: Forecaster
    minimum: xr.Dataset

    def __init__(
        self,
        net: BareGenCast,
        *,
        mean: xr.Dataset,
        stddev: xr.Dataset,
        diffs_stddev: xr.Dataset,
        minimum: xr.Dataset,
    ) -> None:
        scaler = Forecaster(net, mean=mean, stddev=stddev, diffs_stddev=diffs_stddev)
        if absent := [v for v in SEA_VARIABLES if v in scaler.mean and v not in minimum]:
            problem = Problem(f"no minimum of {absent}", "the statistics of the model", "")
            raise InputError([problem], what="statistics of the forecaster")
        if bad := [v for v in SEA_VARIABLES if v in minimum and not np.isfinite(minimum[v]).all()]:
            problem = Problem(
                f"a minimum of {bad} that is not finite",
                "what fills it over land, of the file min_by_level.nc of the model",
                "",
            )
            raise InputError([problem], what="statistics of the forecaster")
        object.__setattr__(self, "net", net)
        object.__setattr__(self, "scaler", scaler)
        object.__setattr__(self, "minimum", minimum)

    @with_own_jax
    def __call__(
        self, inputs: xr.Dataset, forcings: xr.Dataset, *, key: PRNGKeyArray
    ) -> xr.Dataset:
        """Draw the state 12 h after the inputs, one for each entry of the batch.

        Parameters
        ----------
        inputs
            Input variables at two times 12 h apart, physical units; sea surface temperature
            may be NaN over land, and then is so in the output.
        forcings
            Forcing variables at the time of the output.
        key
            Of the random draws; entry i of the batch depends on no other entry.

        Returns
        -------
        xr.Dataset
            Target variables on (batch, time, level, lat, lon).

        Raises
        ------
        InputError
            If something is missing or NaN; lists all problems.
        """
        self.net.select(inputs, forcings)  # checked first: making the harmonics takes long
        basis = self.noise_basis(inputs)
        members = jnp.arange(inputs.sizes.get("batch", 1))
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(members)
        n_channel = len(self.net.target_channels())
        return self.sample(inputs, forcings, noise=lambda i: _draw(basis, keys, i, n_channel))

    @with_own_jax
    def sample(
        self,
        inputs: xr.Dataset,
        forcings: xr.Dataset,
        *,
        noise: Callable[[int], Array],
        watch: Callable[[Array], None] = lambda w: None,
    ) -> xr.Dataset:
        """Run the sampler on noise that is given.

        Parameters
        ----------
        inputs, forcings
            As for a draw.
        noise
            Number -> unit noise (node, batch, channel): 0 for the start, 1 + i for step i.
        watch
            Called with the normalised state after every step.
        """
        cleaned, settings = self.clean(inputs), self.net.checkpoint.sampler
        denoiser, ladder = self.denoiser(cleaned, forcings), settings.ladder()
        parts = (denoiser.network, denoiser.graph, denoiser.given)
        states = trajectory(
            lambda w, sigma: compiled_denoise(*parts, w, jnp.reshape(sigma, 1)),
            ladder[0] * noise(0),
            ladder,
            noise=lambda i: noise(1 + i),
            churn_rates=settings.churn_rates(),
            inflation=settings.noise_level_inflation_factor,
        )
        w = None
        for w in states:
            watch(w)
        changes = self.net.unstack_targets(np.asarray(w), cleaned, forcings)
        outputs = self.scaler.denormalize(changes, cleaned)
        return with_gaps_of(inputs, outputs, SEA_VARIABLES)

    @with_own_jax
    def denoiser(self, inputs: xr.Dataset, forcings: xr.Dataset) -> GenCastDenoiser:
        """The denoiser of the normalised change w, given input frames (physical units)."""
        inputs, forcings = self.net.select(inputs, forcings)
        inputs = self.clean(inputs)
        not_finite("inputs and forcings", inputs, forcings)
        given = self.net.given(self.scaler.normalize(inputs), self.scaler.normalize(forcings))
        n_node, n_channel = given.channels.shape[0], len(self.net.target_channels())
        shift = jnp.zeros((n_node, 1, n_channel))
        return GenCastDenoiser(
            self.net.net, self.net.graph_for(inputs), given, shift, jnp.asarray(1.0)
        )

    @with_own_jax
    def loss(
        self,
        inputs: xr.Dataset,
        forcings: xr.Dataset,
        targets: xr.Dataset,
        *,
        noise_levels: Float[np.ndarray, " batch"],
        noise: Float[Array, "node batch channel"],
    ) -> Float[Array, " batch"]:
        """The published training loss of each entry of the batch, for noise that is given.

        Squared error of the denoiser in normalised units, weighted by area, level and variable,
        divided by c_out^2 (Karras et al. 2022; Price et al. 2024).
        """
        inputs, given = self.clean(inputs), self.denoiser(inputs, forcings)
        normalised = self.scaler.normalized_targets(self.clean(targets), inputs)
        w, sigma = jnp.asarray(self.net.stack_targets(normalised)), jnp.asarray(noise_levels)
        noisy = w + sigma[None, :, None] * noise
        estimate = compiled_denoise(given.network, given.graph, given.given, noisy, sigma)
        square = weighted_loss(
            estimate,
            w,
            lat=inputs["lat"].values,
            channels=self.net.target_channels(),
            variable_weights=VARIABLE_WEIGHTS,
        )
        return Karras().loss_weight(sigma) * square

    def reconfigured(self, **options: Any) -> GenCastForecaster:
        """The same computed in another way: ``dtype``, ``precision`` or ``remat``."""
        other, scaler = copy.copy(self), self.scaler.reconfigured(**options)
        object.__setattr__(other, "scaler", scaler)
        object.__setattr__(other, "net", scaler.net)
        return other

    def clean(self, ds: xr.Dataset) -> xr.Dataset:
        """Fill what is known over sea only; leave other gaps."""
        gaps = [name for name in SEA_VARIABLES if name in ds]
        return ds.assign({name: ds[name].fillna(self.minimum[name]) for name in gaps})

    @with_own_jax
    def noise_basis(self, ds: xr.Dataset) -> Basis:
        """Harmonics of the noise on the grid of ``ds``."""
        lat, lon = (tuple(ds[name].values.astype(float).tolist()) for name in ("lat", "lon"))
        return gencast_basis(lat, lon)


def clock_forcings(time: np.ndarray, lon: Float[np.ndarray, " lon"]) -> xr.Dataset:
    """Progress of year and day, all the forcings that GenCast has.

    Parameters
    ----------
    time
        UTC, datetime64.
    lon
        Degrees.

    Examples
    --------
    >>> ds = clock_forcings(np.array(["2020-01-01T06"], "datetime64[ns]"), np.array([0.0, 90.0]))
    >>> ds.day_progress_sin[0, 0].item()
    1.0
    """
    turn = np.float32(2 * np.pi)
    year, day = turn * year_progress(time), turn * day_progress(time, lon)
    return xr.Dataset(
        {
            "year_progress_sin": ("time", np.sin(year)),
            "year_progress_cos": ("time", np.cos(year)),
            "day_progress_sin": (("time", "lon"), np.sin(day)),
            "day_progress_cos": (("time", "lon"), np.cos(day)),
        },
        coords={"time": time, "lon": np.asarray(lon)},
    )


@eqx.filter_jit
def _draw(basis: Basis, keys: Array, number: int, n_channel: int) -> Array:
    fresh = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
    return unit_noise(basis, fresh, n_channel)


def with_gaps_of(inputs: xr.Dataset, outputs: xr.Dataset, names: Iterable[str]) -> xr.Dataset:
    """NaN in these variables where any input frame has it."""
    known = {
        name: inputs[name].notnull().all("time")
        for name in names
        if name in inputs and name in outputs
    }
    return outputs.assign(
        {n: outputs[n].where(ok).transpose(*outputs[n].dims) for n, ok in known.items()}
    )
