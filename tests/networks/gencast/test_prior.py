"""GenCast in the package's variable z, and as a prior."""

from __future__ import annotations

import copy
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.assimilation import memory as _memory
from xdiffda.errors import InputError
from xdiffda.networks.gencast import GenCast, GenCastPrior, gencast_basis
from xdiffda.networks.gencast.costs import temporary_bytes
from xdiffda.networks.gencast.noise import on_gencast_basis
from xdiffda.priors.gencast import Evidence, unit_covariance

TIME = np.datetime64("2019-06-15T00", "ns")
STEP = np.timedelta64(12, "h")


@pytest.fixture(scope="module")
def previous(case) -> xr.Dataset:
    """Two states, as a user has them: no batch, no forcings, absolute times."""
    inputs = case.fields("inputs").isel(batch=0)
    clock = [name for name in inputs if "progress" in name]
    return inputs.drop_vars(clock).assign_coords(time=[TIME - 2 * STEP, TIME - STEP])


@pytest.fixture(scope="module")
def prior(case, previous) -> GenCastPrior:
    return GenCastPrior(case.forecaster, previous)


@pytest.fixture(scope="module")
def background(case, previous) -> np.ndarray:
    """Some state: the last one, moved by a change in every channel."""
    targets = case.forecaster.clean(case.fields("targets"))
    return case.net.stack_targets(targets)[:, 0]


@eqx.filter_jit
def apply(denoise, z, sigma):
    return denoise(z, sigma)


def physical_estimate(prior, background, r, x, level):
    """Estimate of x, given x with noise of ``level`` times s, through z of this background."""
    denoise = prior.condition(background, TIME, r).denoise
    z = jnp.asarray((x - background) / (r * prior.scale), jnp.float32)[:, None]
    z0 = np.asarray(apply(denoise, z, jnp.asarray(level / r)))[:, 0]
    return background + r * prior.scale * z0


def test_the_estimate_does_not_depend_on_background_or_unit(prior, background):
    rng = np.random.default_rng(0)
    x = background + prior.scale * rng.normal(size=background.shape)
    other = background + prior.scale * rng.normal(size=background.shape)
    theirs = physical_estimate(prior, background, 1.0, x, 0.7)
    for ours in (
        physical_estimate(prior, other, 1.0, x, 0.7),
        physical_estimate(prior, background, 0.5, x, 0.7),
    ):
        np.testing.assert_allclose(
            (ours - theirs) / prior.scale, np.zeros_like(x), rtol=0, atol=2e-4
        )
    assert np.abs((theirs - x) / prior.scale).max() > 0.1


def test_the_estimate_is_that_of_the_official_denoiser(case, prior):
    """The golden answer, asked for through states in physical units."""
    entry = case.fields("inputs").isel(batch=0), case.fields("forcings").isel(batch=0)
    other = copy.copy(prior)
    denoiser = case.forecaster.denoiser(*entry)  # with the golden, synthetic forcings
    last = prior._evidence(TIME).reference
    other._last_used = TIME, Evidence(denoiser, last)
    w = case.net.stack_targets(case.fields("noisy_targets").isel(batch=0))[:, 0]
    estimate = physical_estimate(other, last, 1.0, last + prior.scale * w, 0.7)
    ours = ((estimate - last) / prior.scale)[case.outputs["nodes"]]
    # the unit of a field is some 1e4 changes over 12 h: float32 leaves this much
    np.testing.assert_allclose(ours, case.outputs["denoised"][:, 0], rtol=0, atol=2e-3)


def test_scale_and_channels(case, prior):
    layout = prior.layout
    assert layout.n_channel == 24
    t = layout.channel_index("temperature", 850)
    stored = case.stats("diffs_stddev")["temperature"].sel(level=850)
    np.testing.assert_array_equal(prior.scale[:, t], np.float32(stored))
    rain = layout.channel_index("total_precipitation_12hr")
    np.testing.assert_array_equal(
        prior.scale[:, rain], np.float32(case.stats("stddev")["total_precipitation_12hr"])
    )
    np.testing.assert_allclose(prior.covariance.variance, 1, rtol=1e-5)
    assert prior.card["licence"] == "None: random numbers"


def test_unit_covariance_is_that_of_the_noise(prior):
    grid = prior.layout.grid
    covariance = on_gencast_basis(unit_covariance(prior.layout), grid.lat, grid.lon)
    eye = np.broadcast_to(np.eye(24), (18, 24, 24))
    np.testing.assert_allclose(covariance.blocks, eye, atol=1e-5)


def test_covariance_can_be_measured(prior):
    """From draws with a known covariance; each degree has at least 200 coefficients."""
    draws = prior.covariance.sample(jax.random.split(jax.random.key(0), 200))
    x = 5.0 + prior.scale * np.moveaxis(np.asarray(draws), 1, 0)
    measured = prior.measured(x)
    np.testing.assert_allclose(measured.covariance.variance, 1, atol=0.2)
    ratio = np.einsum("dcc->d", measured.covariance.blocks) / np.einsum(
        "dcc->d", prior.covariance.blocks
    )
    np.testing.assert_allclose(ratio, 1, atol=0.1)
    assert prior.covariance is not measured.covariance


def test_noise_of_the_sampler_is_that_of_gencast(prior, background):
    conditioned = prior.condition(background, TIME, 1.0)
    grid = prior.layout.grid
    basis = gencast_basis(grid.lat, grid.lon)
    np.testing.assert_array_equal(conditioned.climatology.basis.along_rows, basis.along_rows)


def test_other_times_are_refused(prior, previous, background):
    with pytest.raises(
        InputError,
        match=r"2019-06-14T00:00, 2019-06-14T12:00; needed those of 2019-06-14T06:00 "
        r"and 2019-06-14T18:00.*model.given",
    ):
        prior.condition(background, TIME + np.timedelta64(6, "h"), 1.0)
    later = previous.assign_coords(time=previous["time"] + STEP)
    assert prior.given(later).condition(background, TIME + STEP, 1.0) is not None
    with pytest.raises(InputError, match="two times or more, 12 h apart"):
        prior.given(previous.isel(time=[1]))
    gaps = previous.assign(geopotential=previous["geopotential"].where(previous["lat"] > 0))
    with pytest.raises(InputError, match=r"NaN in \['geopotential'\]"):
        prior.given(gaps).condition(background, TIME, 1.0)


def test_order_of_rows_and_longitudes_does_not_matter(case, prior, previous):
    turned = previous.isel(lat=slice(None, None, -1)).roll(lon=18, roll_coords=True)
    turned = turned.assign_coords(lon=(turned["lon"] + 180) % 360 - 180)
    other = prior.given(turned)
    ours, theirs = (p._evidence(TIME) for p in (other, prior))
    np.testing.assert_array_equal(ours.denoiser.given.channels, theirs.denoiser.given.channels)
    np.testing.assert_array_equal(ours.reference, theirs.reference)


def test_it_can_be_computed_in_half_precision(prior, background) -> None:
    """What the network then gives is in test_checkpoint.py."""
    half = prior.reconfigured(dtype="bfloat16")
    networks = [p.condition(background, TIME, 1.0).denoise.network for p in (half, prior)]
    assert [net.config.dtype for net in networks] == ["bfloat16", "float32"]
    for one, other in zip(*map(jax.tree.leaves, networks), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="edge_chunk"):
        prior.reconfigured(edge_chunk=256)


def test_the_memory_of_the_network_is_counted(prior, monkeypatch) -> None:
    """Weights and graph exactly; with them what an evaluation takes."""
    need, gaussian = _memory.needed(prior), copy.copy(prior)
    monkeypatch.setattr(GenCastPrior, "_graph", None)  # as if there were no network
    blind = _memory.needed(gaussian)
    monkeypatch.undo()
    stored = _memory._size((prior._network, prior._graph, prior.covariance))
    shared, member = temporary_bytes(prior._network.config, prior._graph)
    assert need.shared == blind.shared + stored + shared
    n_input = 4 * len(prior.scale) * prior._network.config.n_inputs
    assert need.member == blind.member + member + n_input
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = jax.local_devices()[:1]
    with xdiffda.set_options(memory_limit=need.shared + need.member - 1):
        with pytest.raises(InputError, match="for 'gencast'.*prior.reconfigured.dtype='bfloat16'"):
            _memory.members_that_fit(prior, 8, device)
        assert _memory.members_that_fit(prior.reconfigured(dtype="bfloat16"), 8, device) >= 1


def test_the_estimate_of_memory_is_what_xla_reserves(prior) -> None:
    batch, own = 3, prior._network.config
    config = dataclasses.replace(own, latent=64, layers=1, ffw_hidden=128)
    network = eqx.filter_eval_shape(GenCast, config, key=jax.random.key(0))
    arrays, rest = eqx.partition((network, prior._graph), lambda x: hasattr(x, "shape"))

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    def run(arrays, x, sigma):
        network, graph = eqx.combine(arrays, rest)
        return network(x, sigma, graph)

    arrays = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)
    x = shape(prior._graph.n_grid, batch, config.n_inputs)
    compiled = jax.jit(run).lower(arrays, x, shape(1)).compile()
    shared, member = temporary_bytes(config, prior._graph)
    planned = compiled.memory_analysis()
    assert planned is not None
    reserved = planned.temp_size_in_bytes
    assert shared + batch * member == pytest.approx(reserved, rel=0.35)


def test_the_denoiser_lowers_for_a_gpu(prior, background) -> None:
    """Nothing in it, or in its V by derivatives, is for CPUs only."""
    denoise = prior.condition(background, TIME, 1.0).denoise
    arrays, rest = eqx.partition(denoise, eqx.is_array)

    def run(arrays, z, sigma):
        value, transpose = jax.vjp(lambda z: eqx.combine(arrays, rest)(z, sigma), z)
        return value, transpose(value)

    traced = jax.jit(run).trace(arrays, jnp.zeros((*prior.scale.shape,))[:, None], jnp.ones(()))
    assert "stablehlo.dot_general" in traced.lower(lowering_platforms=("cuda",)).as_text()
