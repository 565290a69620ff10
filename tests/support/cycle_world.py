"""A tiny world that turns: the truth, and the forecaster, move east by one meridian in 6 h."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.cycling.cycle import cycle
from xdiffda.cycling.observation_stream import emulated_stream
from xdiffda.priors.prior import GaussianPrior
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.grid import Grid, Layout

LAT = tuple((np.arange(8) * 22.5 - 78.75).tolist())
LON = tuple((np.arange(16) * 22.5).tolist())
LAYOUT = Layout(Grid(LAT, LON), ("2m_temperature", "temperature"), (500, 850))
MEAN, SCALE = np.array([285.0, 255.0, 275.0]), np.array([2.0, 1.5, 1.8])
ERRORS = {"2m_temperature": 0.5, "temperature": 0.4}
START, STEP = np.datetime64("2020-01-15T12", "ns"), np.timedelta64(6, "h")
QUICK = {"method": "3dvar", "background_error": 1.0}


def make_prior() -> GaussianPrior:
    """Red spectrum, correlated channels, truncation 5."""
    basis = sphere_basis(LAT, LON, 5)
    degree = np.arange(basis.mask.shape[0])
    spectrum = 1 / (1 + (degree / 2.0) ** 3)
    count = np.asarray(basis.multiplicity)
    spectrum /= (spectrum * count).sum() / count.sum()
    channels = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    covariance = SpectralCovariance.from_blocks(basis, spectrum[:, None, None] * channels)
    scale = np.tile(SCALE, (LAYOUT.grid.n_node, 1))
    return GaussianPrior(LAYOUT, scale, covariance, name="turning world")


def forecaster(ds: xr.Dataset) -> xr.Dataset:
    """Turn the state by one meridian, exactly."""
    return ds.roll(lon=1).assign_coords(time=ds.time + STEP)


def make_states(n_times: int = 12, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the truth along time and the first background, whose error is drawn from B."""
    import jax

    prior = make_prior()
    error = np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(seed), 2)))
    convention = default_convention(LAYOUT)
    base = MEAN + SCALE * error[:, 0]
    first = from_state(base + SCALE * error[:, 1], LAYOUT, convention)
    turned = [from_state(base, LAYOUT, convention).roll(lon=n) for n in range(n_times)]
    times = START + np.arange(n_times) * STEP
    truth = xr.concat(turned, "time").assign_coords(time=times)
    return truth, first.assign_coords(time=START)


def run(out, n_cycles: int, *, settings=QUICK, n_members: int = 1, **choices) -> xr.Dataset:
    """The run that tests kill and resume."""
    truth, background = make_states()
    stream = emulated_stream(truth, n_columns=20, error_std=ERRORS, seed=3)
    keywords = {"truth": truth, "forecaster": forecaster, "model": make_prior(), "seed": 1}
    return cycle(
        background,
        stream,
        out=out,
        n_cycles=n_cycles,
        n_members=n_members,
        progress=False,
        settings=settings,
        **(keywords | choices),
    )


def from_array(ds: xr.Dataset) -> np.ndarray:
    """The state array of a Dataset of this world."""
    return to_state(ds, LAYOUT)[0]
