"""Relaxation to a climatology: each scale at its rate, and what it does in a cycle."""

from __future__ import annotations

import cycle_world as world
import numpy as np
import pytest
import xarray as xr

from xdiffda.cycling.relaxation import Relaxation, Relaxed, mean_states
from xdiffda.cycling.store import open_cycle
from xdiffda.errors import InputError
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state

N, C = world.LAYOUT.grid.n_node, world.LAYOUT.n_channel
SIX = np.timedelta64(6, "h")


def _dataset(x: np.ndarray, times=None) -> xr.Dataset:
    convention = default_convention(world.LAYOUT)
    if times is None:
        return from_state(x, world.LAYOUT, convention)
    return from_state(x, world.LAYOUT, convention, dims=("time",), coords={"time": times})


def test_every_degree_is_damped_at_its_rate() -> None:
    """A harmonic of degree l keeps exp(-(t / tau) (l / L)^p); what the basis lacks, its last."""
    prior = world.make_prior()
    climate = np.tile(world.MEAN, (N, 1)).astype(np.float32)
    relax = Relaxed(Relaxation(_dataset(climate), hours=12.0, power=2.0), prior, SIX)
    basis = prior.covariance.basis
    for degree in (0, 2, 5):
        a = np.zeros((*basis.mask.shape, C), np.float32)
        a[degree, 0] = 1.0
        wave = world.SCALE * np.asarray(basis.synthesis(a))
        kept = relax((climate + wave).astype(np.float32), world.START) - climate
        expected = np.exp(-0.5 * (degree / 5) ** 2) * wave
        np.testing.assert_allclose(kept, expected, atol=2e-3 * np.abs(wave).max() + 1e-3)
    noise = np.random.default_rng(0).normal(size=(2, N, C))
    outside = noise - np.moveaxis(np.asarray(basis.project(np.moveaxis(noise, 0, 1))), 1, 0)
    kept = relax((climate + outside).astype(np.float32), world.START) - climate
    np.testing.assert_allclose(kept, np.exp(-0.5) * outside, atol=2e-3)


def test_the_climatology_has_a_year() -> None:
    times = np.array([f"2001-{m:02d}-15" for m in range(1, 13)], "datetime64[ns]")
    phase = 2 * np.pi * (times - np.datetime64("2001-01-15")) / np.timedelta64(365, "D")
    states = np.tile(world.MEAN, (12, N, 1)) + 10 * np.cos(phase)[:, None, None]
    relax = Relaxed(Relaxation(_dataset(states.astype(np.float32), times)), world.make_prior(), SIX)
    for month, swing in (("2005-01-15", 10.0), ("2005-07-16", -10.0)):
        found = relax.climatology(np.datetime64(month, "ns")) - world.MEAN
        np.testing.assert_allclose(found, swing, atol=0.3)


def test_a_cycle_forecasts_with_it_and_remembers_it(tmp_path) -> None:
    climate = _dataset(np.tile(world.MEAN, (N, 1)).astype(np.float32))
    relaxation = Relaxation(climate, hours=20.0, power=2.0)
    world.run(tmp_path / "run.zarr", 2, relaxation=relaxation)
    analysis = open_cycle(tmp_path / "run.zarr", "analysis").isel(time=0, member=0).load()
    background = open_cycle(tmp_path / "run.zarr", "background").isel(time=1).load()
    relax = Relaxed(relaxation, world.make_prior(), SIX)
    array = world.from_array
    expected = relax(array(world.forecaster(analysis)), world.START + SIX)
    np.testing.assert_allclose(array(background), expected, atol=1e-3)
    with pytest.raises(InputError, match="relaxation = "):
        world.run(tmp_path / "run.zarr", 3)


@pytest.mark.long
def test_gaps_between_fixed_sites_stay_bounded(tmp_path) -> None:
    """A still world whose forecaster adds small-scale errors: no site sees them in the gaps."""
    truth, background = world.make_states(24)
    still = xr.concat([truth.isel(time=0, drop=True)] * 24, "time").assign_coords(time=truth.time)
    keys = iter(range(1000))

    def noisy(ds: xr.Dataset) -> xr.Dataset:
        rng = np.random.default_rng(next(keys))
        white = rng.normal(size=(N, C)) * 0.3 * world.SCALE
        return (ds + _dataset(white)).assign_coords(time=ds.time + world.STEP)

    climate = _dataset(np.tile(world.MEAN, (N, 1)).astype(np.float32))
    errors = {}
    for name, relaxation in (("none", None), ("some", Relaxation(climate, hours=12.0, power=2.0))):
        keys = iter(range(1000))
        stream = world.emulated_stream(still, n_columns=20, error_std=world.ERRORS, seed=3)
        found = world.cycle(
            background,
            stream,
            out=tmp_path / f"{name}.zarr",
            n_cycles=24,
            n_members=1,
            truth=still,
            forecaster=noisy,
            model=world.make_prior(),
            settings=world.QUICK,
            relaxation=relaxation,
            progress=False,
        )
        errors[name] = found["normalized_error"].sel(state="analysis").values
    assert errors["none"][-1] > 1.3 * errors["none"][8]  # a random walk
    assert errors["some"][-6:].mean() < 0.75 * errors["none"][-6:].mean()
    assert errors["some"][-6:].mean() < 1.15 * errors["some"][6:12].mean()  # settled


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="2 problems"):
        Relaxation("file.nc", hours=0.0, power=-1.0)
    many = _dataset(np.tile(world.MEAN, (3, N, 1)).astype(np.float32), np.arange(3).astype("M8[D]"))
    with pytest.raises(InputError, match="without their times"):
        Relaxed(Relaxation(many.drop_vars("time")), world.make_prior(), SIX)


def test_mean_states_of_a_file_are_those_of_the_parts_of_the_year() -> None:
    times = np.datetime64("2001-01-01", "ns") + np.arange(730) * np.timedelta64(1, "D")
    swing = np.cos(2 * np.pi * np.arange(730) / 365.25)
    ds = xr.Dataset({"t": (("time", "x"), swing[:, None] * np.ones(2))}, {"time": times})
    found = mean_states(ds)
    assert found.sizes["time"] == 12 and found["t"][0, 0] > 0.9 and found["t"][6, 0] < -0.9
