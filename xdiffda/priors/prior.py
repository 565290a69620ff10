"""Priors p(x | background): what they have in common, and the Gaussian one with spectral B.

A prior knows its layout, the scale s of background errors and their covariance B, and
can be conditioned on one background; what results is a denoiser and the covariances that
guidance needs.  In the whole package ``z = (x - x_b) / (r s)``.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from xdiffda.covariance.balance import fit_basis
from xdiffda.covariance.harmonics import Basis, sphere_basis
from xdiffda.covariance.small_scales import (
    SmallScaleFilter,
    row_scale,
    share_wind_scale,
    unresolved_part,
)
from xdiffda.covariance.spectral import SpectralCovariance, estimate_blocks
from xdiffda.diffusion.denoiser import Conditioned
from xdiffda.diffusion.unresolved_scales import UnresolvedScales
from xdiffda.errors import InputError, Problem
from xdiffda.formatting import model_card
from xdiffda.jax_settings import with_own_jax
from xdiffda.state.convert import to_state
from xdiffda.state.grid import Layout

# numbers of samples that a prior may count for, where B of samples is drawn to it, and draws that
# stand for it
WORTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
N_DRAW = 64
SECONDS_PER_YEAR = 86400 * 365.24219


class ErrorScales(NamedTuple):
    """B and V(sigma) of background errors of several sizes.

    Attributes
    ----------
    r : array (size,)
        Ascending.
    covariance : array (size, degree, channel, channel)
        Blocks of B.
    calibrated : array (size, level, degree, channel, channel)
        Blocks of V at the noise levels of the model's table.
    unresolved : array (size, node, channel)
        What the basis cannot represent, in units of r s.
    """

    r: Float[np.ndarray, " size"]
    covariance: Float[np.ndarray, "size degree channel channel"]
    calibrated: Float[np.ndarray, "size level degree channel channel"]
    unresolved: Float[np.ndarray, "size node channel"]

    def weights(self, r: float) -> Float[np.ndarray, " size"]:
        """Weights of linear interpolation in log r, constant beyond the ends.

        Examples
        --------
        >>> ErrorScales(np.array([0.25, 1.0]), *[np.ones(2)] * 3).weights(0.5).tolist()
        [0.5, 0.5]
        """
        eye = np.eye(len(self.r))
        return np.array([np.interp(np.log(r), np.log(self.r), row) for row in eye])

    def unresolved_at(self, r: float) -> Float[np.ndarray, "node channel"]:
        """``unresolved`` at r."""
        return np.tensordot(self.weights(r), self.unresolved, 1).astype(np.float32)

    def covariance_at(
        self, r: float, basis: Basis, area: Float[np.ndarray, " node"]
    ) -> SpectralCovariance:
        """B at r; with the unresolved variance it has mean 1 over the globe and channels.

        r is the root mean square of the background error in units of s, so that z has a mean
        square of 1 whatever r is. Isotropic blocks of few samples, shrunk towards their
        diagonal, miss that by some per cent: all of B is scaled by one factor. Single channels
        keep their shares, which differ with r (humidity aloft has twice its share in 6 h
        forecasts).

        Parameters
        ----------
        r : float
        basis : Basis
            Of the blocks.
        area : array (node,)
            Weights of any mean.
        """
        blocks = np.tensordot(self.weights(r), self.covariance, 1)
        unresolved = np.average(self.unresolved_at(r) ** 2, axis=0, weights=area).mean()
        resolved = float(jnp.mean(basis.grid_variance(jnp.asarray(blocks, jnp.float32))))
        return SpectralCovariance.from_blocks(basis, blocks * ((1 - unresolved) / resolved))


class Prior(abc.ABC):
    """What `assimilate` needs of a model.

    Attributes
    ----------
    is_gaussian : bool
        Whether the posterior can be drawn from at once: no denoiser, no noise levels.
    has_denoiser : bool
        Whether `condition` gives a denoiser, which ``method="repaint"`` needs.
    name : str
        Goes into the provenance of every analysis.
    layout : Layout
        Grid, variables and levels of the state.
    scale : array (node, channel)
        Standard deviation s of background errors, physical units.
    unresolved : array (node, channel)
        Standard deviation, in units of s, of what the basis cannot represent for r = 1:
        observations see it, the analysis cannot change it, so it counts as error of
        representativeness.
    small_scale_filter : SmallScaleFilter, optional
        Estimate of the truth's small scales from the background's, where it was measured.
    estimates_background_error : bool
        Whether the scale r of the background error means anything to the prior, and is
        estimated unless the user says it.
    sizes : ErrorScales, optional
        B and V by the scale r of the background error, where they were measured so.
    groups : tuple of str, optional
        For each channel the group of variables whose errors may be misjudged together, by a factor
        that is estimated beside r; see `with_factors`.
    of_errors : bool
        Whether it is a prior of background errors, centred near the background. One of states,
        which knows the weather of the days before instead, has no use for background members.
    """

    estimates_background_error: bool = True
    of_errors: bool = True
    is_gaussian: bool = False
    has_denoiser: bool = True
    small_scale_filter: SmallScaleFilter | None = None
    sizes: ErrorScales | None = None
    groups: tuple[str, ...] | None = None
    name: str
    layout: Layout
    scale: Float[np.ndarray, "node channel"]
    unresolved: Float[np.ndarray, "node channel"]

    @property
    @abc.abstractmethod
    def covariance(self) -> SpectralCovariance:
        """B of the normalised background error."""

    def covariance_at(self, r: float) -> SpectralCovariance:
        """B of z for a background error of scale r: small errors are of smaller extent.

        The same for all r, where the prior has no ``sizes``.
        """
        if self.sizes is None:
            return self.covariance
        area = self.layout.grid.area_weights()
        return self.sizes.covariance_at(r, self.covariance.basis, area)

    @abc.abstractmethod
    def condition(
        self,
        background: Float[np.ndarray, "node *member channel"],
        time: np.datetime64 | None,
        r: float,
    ) -> Conditioned:
        """Condition on one background (physical units) at a valid time, or one for each member."""

    def _repr_html_(self) -> str:
        return model_card(self.name, self.layout, getattr(self, "card", None) or {})

    @property
    def default_covariance(self) -> str:
        """Name of the V that guidance takes unless told otherwise."""
        return "climatological"

    def typical_error(self, share: float = 1.0) -> dict[str, float | dict[int, float]]:
        """Root mean square of s over the globe, times ``share``, by variable and level.

        As `xdiffda.observations.emulate_obs` takes ``error_std``; physical units.
        """
        weight = self.layout.grid.area_weights() / self.layout.grid.n_node
        rms = np.sqrt(weight @ np.asarray(self.scale, np.float64) ** 2)
        return self.layout.table(share * rms)

    def filtered(
        self, states: Float[np.ndarray, "state node channel"]
    ) -> Float[np.ndarray, "state node channel"]:
        """Background states (physical units) with their grid-scale noise damped.

        Observations cannot change what the basis lacks, so it is estimated beforehand, from the
        background alone; what the basis holds stays as it is, and all of it where the prior has
        no ``small_scale_filter``.
        """
        if self.small_scale_filter is None:
            return states
        return (states + self.scale * self.noise_correction(states / self.scale)).astype(np.float32)

    def noise_correction(
        self, states: Float[np.ndarray, "state node channel"]
    ) -> Float[np.ndarray, "state node channel"]:
        """What `filtered` adds, to states in units of s (from any origin) and in these units."""
        if self.small_scale_filter is None:
            return np.zeros_like(states)
        area = self.layout.grid.area_weights()
        return self.small_scale_filter.change(self.covariance.basis, states, area)

    def at_background(self, background: Float[np.ndarray, "node channel"]) -> Prior:
        """The same with errors of the size that they have at one background, physical units.

        Itself, where the prior knows no better.
        """
        return self

    def with_factors(self, factors: Mapping[str, float]) -> Prior:
        """The same with the errors of each of its ``groups`` times a factor."""
        found = copy.copy(self)
        by_channel = np.array([factors.get(group, 1.0) for group in self.groups or ()], np.float32)
        found.scale = self.scale * by_channel if by_channel.size else self.scale
        return found

    def within_bounds(
        self, states: Float[np.ndarray, "*state node channel"]
    ) -> Float[np.ndarray, "*state node channel"]:
        """Analyses with what cannot be corrected; as they are, where the prior has no bounds."""
        return states

    def unresolved_at(self, r: float) -> Float[np.ndarray, "node channel"]:
        """``unresolved`` for a background error of scale r, in units of r s."""
        return self.unresolved if self.sizes is None else self.sizes.unresolved_at(r)

    def small_scales(self, keys: Array, r: float = 1.0) -> Float[Array, "node member channel"]:
        """Draw, for each key, what the basis cannot represent: `unresolved_at` on average.

        White in the complement of the basis; channels are independent.
        """
        scales = self.unresolved_scales(r)
        if scales is None:
            return jnp.zeros((*self.scale.shape[:1], len(keys), self.scale.shape[1]))
        return scales.draw(keys)

    def unresolved_scales(self, r: float = 1.0) -> UnresolvedScales | None:
        """Covariance of what the basis cannot represent of z; None if that is nothing."""
        std = self.unresolved_at(r)
        return UnresolvedScales.of(self.covariance.basis, jnp.asarray(std)) if std.any() else None


class Wiener(eqx.Module):
    """The denoiser of a Gaussian prior: the Wiener filter."""

    covariance: SpectralCovariance

    def __call__(self, z: Array, sigma: Array) -> Array:
        return self.covariance.wiener(z, sigma)


class GaussianPrior(Prior):
    """Background errors drawn from N(0, B), B isotropic and spectral: no network, no training.

    Works on any global grid and set of variables; members of ``method="guided"`` are draws from
    the Kalman posterior, exact for linear observations.  Make one with `from_samples`.

    Parameters
    ----------
    layout : Layout
    scale : array (node, channel)
        Standard deviation of background errors, physical units.
    covariance : SpectralCovariance
        Of the background error divided by ``scale``.
    unresolved : array (node, channel), optional
        See `Prior`; by default the basis represents all.
    sizes : ErrorScales, optional
        B by the scale r of the background error; without it B is the same for all r.
    name : str
    """

    is_gaussian = True

    def __init__(
        self,
        layout: Layout,
        scale: Float[np.ndarray, "node channel"],
        covariance: SpectralCovariance,
        *,
        unresolved: np.ndarray | None = None,
        sizes: ErrorScales | None = None,
        name: str = "gaussian",
    ) -> None:
        self.layout, self.scale, self.name = layout, np.asarray(scale, np.float32), name
        self.unresolved = np.zeros_like(self.scale) if unresolved is None else unresolved
        self._covariance, self.sizes = covariance, sizes

    @classmethod
    @with_own_jax
    def from_samples(
        cls,
        residuals: xr.Dataset,
        *,
        truncation: int | None = None,
        centre: bool = True,
        balance: bool = True,
        towards: Prior | str | None = None,
        worth: float | None = None,
    ) -> GaussianPrior:
        """Estimate s and B from samples of the background error.

        Parameters
        ----------
        residuals : Dataset
            Differences truth minus background, or between members or forecasts valid at
            the same time, in any convention `assimilate` accepts, with at least one of
            the dimensions time, member (or their synonyms) holding 2 or more samples.
        truncation : int, optional
            Largest total wavenumber of B; default what the grid resolves, at most 63.
        centre : bool
            Subtract the mean of the samples (bias) first.
        balance : bool
            Where both components of a wind are there: B of stream function, potential and of
            mass less what the stream function implies (`xdiffda.covariance.balance`); False: B of
            u and v
            as two scalars.
        towards : Prior or "reference", optional
            Where samples are few: a prior of the same variables on the same grid, that B is drawn
            to. Its sizes are first brought to those of the samples, variable by variable.
        worth : float, optional
            How many samples ``towards`` counts for; default what makes each half of the samples
            most likely given the other half.

        Returns
        -------
        GaussianPrior

        Raises
        ------
        InputError
            If there are fewer than two samples, a variable does not vary, or ``towards`` is of
            other variables or another grid.

        Notes
        -----
        s is the standard deviation per channel and latitude row, floored at a tenth of its
        mean (one for both components of a wind, if balanced); B holds one (channel, channel)
        matrix for each total wavenumber, shrunk towards its diagonal where samples are few.
        ``towards`` enters as 64 draws beside the samples. In a Gaussian world whose errors were
        longer than those of ``reference`` and of other latitudes, analyses with ten samples and
        ``towards`` were better than with the samples alone (error 0.740 against 0.743 of the
        background's), not than with ``reference`` (0.731).

        Examples
        --------
        >>> import numpy as np, xarray as xr
        >>> lat, lon = np.linspace(-75, 75, 6), np.arange(12) * 30.0
        >>> noise = np.random.default_rng(0).normal(size=(20, 6, 12))
        >>> ds = xr.Dataset({"2m_temperature": (("member", "lat", "lon"), noise)},
        ...                 coords={"lat": lat, "lon": lon})
        >>> GaussianPrior.from_samples(ds).layout.channel_names
        ('2m_temperature',)
        """
        x, layout, _ = to_state(residuals, what="residuals", check_values=False)
        x = x.reshape(-1, *x.shape[-2:])
        problems = []
        if len(x) < 2:
            problems.append(
                Problem(
                    f"{len(x)} sample",
                    "2 or more samples of the background error, along time or member",
                    "",
                )
            )
        if not np.isfinite(x).all():
            problems.append(
                Problem("NaN in the residuals", "finite values", 'residuals.dropna("time")')
            )
        if problems:
            raise InputError(problems, what="residuals")
        x = x - x.mean(0) * centre
        # one degree of freedom goes with the mean
        inflation = len(x) / max(len(x) - centre, 1)
        if towards is not None:
            x = _with_draws(x * np.float32(np.sqrt(inflation)), layout, towards, worth)
            inflation = 1.0
        scale = row_scale(x, layout)
        if (scale <= 0).any():
            flat = [layout.channel_names[c] for c in np.flatnonzero((scale <= 0).any(0))]
            raise InputError(
                [
                    Problem(
                        f"no variation in {', '.join(flat)}",
                        "samples that differ",
                        f"residuals.drop_vars({flat[0].split('@')[0]!r})",
                    )
                ],
                what="residuals",
            )
        grid = layout.grid
        limit = min(len(grid.lat) - 1, len(grid.lon) // 2 - 1, 63)
        truncation = limit if truncation is None else truncation
        if balance:
            scale = share_wind_scale(scale, layout)
            basis = fit_basis(layout, x / scale, truncation)
        else:
            basis = sphere_basis(grid.lat, grid.lon, truncation)
        blocks = estimate_blocks(basis, x / scale) * inflation
        unresolved = row_scale(unresolved_part(basis, x / scale), layout, floor=0.0)
        return cls(
            layout, scale, SpectralCovariance.from_blocks(basis, blocks), unresolved=unresolved
        )

    @property
    def covariance(self) -> SpectralCovariance:
        return self._covariance

    def condition(
        self, background: np.ndarray, time: np.datetime64 | None, r: float
    ) -> Conditioned:
        covariance = self.covariance_at(r)
        return Conditioned(Wiener(covariance), covariance, None)

    def __repr__(self) -> str:
        return (
            f"<GaussianPrior {self.name!r}: {self.layout.n_channel} channels on {self.layout.grid}>"
        )


def _with_draws(
    x: Float[np.ndarray, "sample node channel"],
    layout: Layout,
    towards: Prior | str,
    worth: float | None,
) -> Float[np.ndarray, "both node channel"]:
    """Samples and draws of a prior, weighed so that the draws count for ``worth`` samples."""
    if towards == "reference":
        from xdiffda.priors.reference import reference_prior

        towards = reference_prior(layout)
    if (
        not isinstance(towards, Prior)
        or towards.layout != layout
        or not (worth is None or worth > 0)
    ):
        found = towards if isinstance(towards, str) else getattr(towards, "layout", towards)
        needed = f"a prior of {', '.join(layout.variables)} on {layout.grid}, worth more than 0"
        repair = 'xdiffda.GaussianPrior.from_samples(residuals, towards="reference")'
        problem = Problem(f"towards={str(found)[:80]}, worth={worth!r}", needed, repair)
        raise InputError([problem], what="residuals")
    keys = jax.random.split(jax.random.key(0), 2 * N_DRAW)
    z = towards.covariance.sample(keys[:N_DRAW]) + towards.small_scales(keys[N_DRAW:])
    drawn = np.moveaxis(np.asarray(z), 1, 0) * towards.scale
    area = layout.grid.area_weights()
    ratio = np.ones(layout.n_channel, np.float32)
    for name in layout.variables:
        own = layout.channel_slice(name)
        sizes = [np.einsum("n,snc->c", area, y[..., own] ** 2) / len(y) for y in (x, drawn)]
        ratio[own] = np.sqrt(np.exp(np.mean(np.log(sizes[0]) - np.log(sizes[1]))))
    drawn *= ratio
    worth = _likely_worth(layout, x, drawn) if worth is None else worth
    n, total = len(x), len(x) + worth
    # second moments are divided by the number of both together
    both = n + N_DRAW
    weights = np.sqrt([both / total, both * worth / total / N_DRAW]).astype(np.float32)
    return np.concatenate([weights[0] * x, weights[1] * drawn])


def _likely_worth(
    layout: Layout,
    x: Float[np.ndarray, "sample node channel"],
    drawn: Float[np.ndarray, "draw node channel"],
) -> float:
    """Number of samples that draws are worth: two-fold cross-validation of spectral blocks."""
    grid = layout.grid
    scale = row_scale(np.concatenate([x, drawn]), layout)
    limit = min(grid.n_lat - 1, grid.n_lon // 2 - 1, 21)
    basis = sphere_basis(grid.lat, grid.lon, limit)
    halves = [estimate_blocks(basis, x[i::2] / scale, shrink=False) for i in (0, 1)]
    target = estimate_blocks(basis, drawn / scale)
    numbers = [len(x[i::2]) for i in (0, 1)]
    count = np.asarray(basis.multiplicity, np.float64)

    def minus_log_likelihood(worth: float) -> float:
        total = 0.0
        for known, held, n, n_held in zip(
            halves, halves[::-1], numbers, numbers[::-1], strict=True
        ):
            blocks = (n * known + worth * target) / (n + worth)
            each = np.linalg.slogdet(blocks)[1]
            each = each + np.einsum("dcc->d", np.linalg.solve(blocks, held))
            total += n_held * float(count @ each)
        return total

    return float(min(WORTHS, key=minus_log_likelihood))


def year_phase(time: np.ndarray | np.datetime64 | None) -> Float[np.ndarray, "*time 2"]:
    """Cosine and sine of the phase of the year; zeros where the time is not known."""
    if time is None:
        return np.zeros(2, np.float32)
    stamp = np.asarray(time, "datetime64[s]")
    phase = 2 * np.pi * np.mod(stamp.astype(np.int64) / SECONDS_PER_YEAR, 1)
    wave = np.stack([np.cos(phase), np.sin(phase)], axis=-1)
    return np.where(np.isnat(stamp)[..., None], 0.0, wave).astype(np.float32)
