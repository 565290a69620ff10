"""A small world whose background errors are Gaussian: grid 12 x 24, four channels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.priors.prior import GaussianPrior
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Grid, Layout

LAT = tuple(np.linspace(-82.5, 82.5, 12).tolist())
LON = tuple((np.arange(24) * 15.0).tolist())
LAYOUT = Layout(Grid(LAT, LON), ("2m_temperature", "geopotential", "temperature"), (500,))
MEAN = {"2m_temperature": 285.0, "geopotential@500": 54000.0, "temperature@500": 255.0}
SCALE = {"2m_temperature": 2.0, "geopotential@500": 300.0, "temperature@500": 1.5}


class SampledPrior(GaussianPrior):
    """Drawn from as networks are, by the sampler, where `GaussianPrior` is drawn from at once."""

    is_gaussian = False


def make_prior(kind: type[GaussianPrior] = GaussianPrior) -> GaussianPrior:
    """Prior with a red spectrum and correlated channels."""
    basis = sphere_basis(LAT, LON)
    degree = np.arange(basis.mask.shape[0])
    spectrum = 1 / (1 + (degree / 3.0) ** 3)
    count = np.asarray(basis.multiplicity)
    spectrum /= (spectrum * count).sum() / count.sum()
    channels = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    covariance = SpectralCovariance.from_blocks(basis, spectrum[:, None, None] * channels)
    scale = np.tile([SCALE[c] for c in LAYOUT.channel_names], (LAYOUT.grid.n_node, 1))
    return kind(LAYOUT, scale, covariance, name="small world")


def draw_states(prior: GaussianPrior, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    """Return (truth, background), the difference drawn from the prior."""
    import jax

    error = np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(seed), 1)))[:, 0]
    base = np.tile([MEAN[c] for c in LAYOUT.channel_names], (LAYOUT.grid.n_node, 1))
    time = np.datetime64("2020-01-15T12", "ns")
    convention = default_convention(LAYOUT)
    truth = from_state(base + prior.scale * error, LAYOUT, convention)
    background = from_state(base, LAYOUT, convention)
    return truth.assign_coords(time=time), background.assign_coords(time=time)


ERRORS = {"2m_temperature": 0.5, "geopotential": 80.0, "temperature": 0.4}
