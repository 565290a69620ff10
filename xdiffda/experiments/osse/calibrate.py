"""Measure V(sigma): the spectral covariance of truth minus denoiser, on held-out pairs.

This is what guidance takes as V = `calibrated`; it belongs to the weights and is stored
with them (design, section 4).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from xdiffda.covariance.small_scales import SmallScaleFilter, fit_filter, row_scale, unresolved_part
from xdiffda.covariance.spectral import estimate_blocks, white_coefficients
from xdiffda.diffusion.denoiser import Conditioning, DenoiserNetwork, denoise_batch
from xdiffda.priors.prior import ErrorScales, year_phase
from xdiffda.train.data import Nature, Pairs
from xdiffda.train.denoiser import Setting, residuals

Change = Callable[[np.ndarray], np.ndarray]

N_SIZE = 4  # classes of the scale of the background error, of equally many pairs
SIGMAS = (0.05, 0.12, 0.25, 0.5, 0.8, 1.3, 2.0, 4.0, 12.0, 80.0)
BATCH = 8


def measure(
    nature: Nature,
    pairs: Pairs,
    setting: Setting,
    network: DenoiserNetwork,
    *,
    n_pair: int = 160,
    among: Int[np.ndarray, " pair"] | None = None,
    change: Change | None = None,
    sigmas: tuple[float, ...] = SIGMAS,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "level degree channel channel"], Float[np.ndarray, " level"]]:
    """Return V at each noise level, and the mean squared error over the Gaussian one's.

    Parameters
    ----------
    nature, pairs
        Held-out pairs: on training pairs the network would look better than it is.
    setting, network
        What was trained.
    n_pair : int
        Pairs used at each level, a multiple of 8, spread over the period.
    among : int array, optional
        Those to choose from; default all.
    change : callable, optional
        Of `noise_filter`: r is that of the background as the analysis takes it.
    sigmas : tuple of float
    seed : int

    Returns
    -------
    blocks, share
        ``share`` is the validation loss at each level: 1 for the Gaussian prior.
    """
    basis = setting.covariance.basis
    among = np.arange(len(pairs.row)) if among is None else among
    index = among[np.linspace(0, len(among) - 1, n_pair).astype(int)]
    z, r = residuals(nature, pairs, index, setting.node_scale(), change)
    year = year_phase(nature.time[pairs.row[index]])

    @eqx.filter_jit
    def error(network, z, background, year, r, key, sigma):
        z = basis.project(jnp.moveaxis(z, 0, 1))
        n = z.shape[1]
        unit = basis.synthesis(white_coefficients(setting.covariance, jax.random.split(key, n)))
        given = Conditioning(jnp.moveaxis(background, 0, 1), year, r)
        levels = jnp.full((n,), sigma)
        estimate, c_out = denoise_batch(
            network,
            setting.covariance,
            setting.graph,
            jnp.asarray(setting.static),
            given,
            z + sigma * unit,
            levels,
        )
        weight = jnp.asarray(setting.area)[:, None, None]
        share = jnp.mean(weight * ((z - estimate) / c_out[None]) ** 2)
        return jnp.moveaxis(z - estimate, 1, 0), share

    blocks, shares = [], []
    for level, sigma in enumerate(tqdm(sigmas, desc="calibrate")):
        parts = []
        for start in range(0, n_pair, BATCH):
            own = slice(start, start + BATCH)
            key = jax.random.fold_in(jax.random.key(seed), 1000 * level + start)
            out = error(
                network,
                z[own],
                np.asarray(pairs.background[index[own]]),
                year[own],
                r[own],
                key,
                jnp.asarray(sigma, jnp.float32),
            )
            parts.append(tuple(map(np.asarray, out)))
        blocks.append(estimate_blocks(basis, np.concatenate([p[0] for p in parts])))
        shares.append(np.mean([p[1] for p in parts]))
    return np.stack(blocks), np.array(shares)


def measure_sizes(
    nature: Nature,
    pairs: Pairs,
    setting: Setting,
    network: DenoiserNetwork,
    *,
    n_size: int = N_SIZE,
    n_pair: int = 160,
    n_sample: int = 2400,
    change: Change | None = None,
) -> ErrorScales:
    """B and V for background errors of several sizes.

    Errors of short forecasts and of cycles are of smaller extent than those of long ones: with
    one covariance for all, ensembles around long forecasts are over-dispersive.

    Parameters
    ----------
    nature, pairs, setting, network, n_pair, change
        As `measure`.
    n_size : int
        Classes of r, of equally many pairs.
    n_sample : int
        Pairs of which B is estimated.

    Returns
    -------
    ErrorScales
        r is the geometric mean of each class.
    """
    index = np.unique(np.linspace(0, len(pairs.row) - 1, n_sample).astype(int))
    z, r = residuals(nature, pairs, index, setting.node_scale(), change)
    edges = np.quantile(r, np.linspace(0, 1, n_size + 1)[1:-1])
    found = []
    for own in (np.flatnonzero(np.searchsorted(edges, r) == size) for size in range(n_size)):
        b = estimate_blocks(setting.covariance.basis, z[own])
        used = max(BATCH, min(n_pair, len(own) // BATCH * BATCH))
        v, _ = measure(
            nature, pairs, setting, network, n_pair=used, among=index[own], change=change
        )
        rest = unresolved_part(setting.covariance.basis, z[own])
        rest = row_scale(rest, nature.layout, floor=0.0)
        found.append((np.exp(np.log(r[own]).mean()), b, v, rest))
    return ErrorScales(*(np.stack(part).astype(np.float32) for part in zip(*found, strict=True)))


def noise_filter(
    nature: Nature, pairs: Pairs, setting: Setting, *, n_sample: int = 768
) -> tuple[SmallScaleFilter, Change]:
    """Return how far to damp the grid-scale noise of backgrounds, and the function for it.

    Parameters
    ----------
    nature, pairs, setting
        As `measure`.
    n_sample : int
        Most pairs, and states of the training years, of which it is estimated.
    """
    basis, scale = setting.covariance.basis, setting.node_scale()
    rows = nature.rows("train")[:, 0]
    rows = rows[np.linspace(0, len(rows) - 1, n_sample).astype(int)]
    index = np.unique(np.linspace(0, len(pairs.row) - 1, n_sample).astype(int))
    area = nature.layout.grid.area_weights()
    found = fit_filter(
        basis,
        np.asarray(nature.states[rows]) / scale,
        pairs.background[index] / scale,
        np.asarray(nature.states[pairs.row[index]]) / scale,
        area,
        n_lon=nature.layout.grid.n_lon,
    )
    return found, functools.partial(found.change, basis, area=area)
