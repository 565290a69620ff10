"""Members follow from the seed, whatever the user's JAX is set to; a forked JAX says so."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax_calls
import numpy as np
import pytest
from gaussian_world import LAYOUT, draw_states, make_prior
from places import SUPPORT

import xdiffda
from xdiffda.jax_settings import own_jax
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state

SCRIPT = SUPPORT / "jax_settings_script.py"
# what changed members, and what made calls crash
CHANGING = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
}
RAISING = {
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_INFS": "1",
}
SETTINGS = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_transfer_guard": "disallow",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_debug_key_reuse": True,
}


@functools.cache
def run(*arguments: str, **variables: str) -> list[str]:
    kept = {k: v for k, v in os.environ.items() if k not in {*CHANGING, *RAISING}}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=kept | variables,
        text=True,
        capture_output=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.long  # eight processes, each of which compiles anew
def test_environment_of_jax_changes_no_bit() -> None:
    plain = run()
    assert len(plain) == 5
    assert run(**CHANGING, **RAISING) == plain


@pytest.fixture
def restored():
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@functools.cache
def case():
    """A prior made by a public call, a background and observations."""
    world = make_prior()
    truth, background = draw_states(world, seed=5)
    z = np.asarray(world.covariance.sample(jax.random.split(jax.random.key(8), 60)))
    errors = np.moveaxis(z, 1, 0) * world.scale
    residuals = from_state(errors, LAYOUT, default_convention(LAYOUT), dims=("member",))
    obs = truth.diffda.emulate_obs(n_columns=30, error_std=0.5, seed=1)
    return residuals, background, obs


def members(method: str):
    residuals, background, obs = case()
    if method == "letkf":
        ensemble = background + residuals.isel(member=slice(0, 8))
        analysis = xdiffda.assimilate(ensemble, obs, method="letkf", progress=False)
        return {name: analysis[name].values for name in analysis.data_vars}
    prior = xdiffda.GaussianPrior.from_samples(residuals)
    analysis = xdiffda.assimilate(
        background,
        obs,
        model=prior,
        method=method,
        n_members=4,
        seed=11,
        background_error=1.0,
        progress=False,
    )
    return {name: analysis[name].values for name in analysis.data_vars}


@functools.cache
def plain(method: str):
    return members(method)


@pytest.mark.long
@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_leaves_members_as_they_are(name, restored) -> None:
    expected = plain("guided")
    jax.config.update(name, SETTINGS[name])
    for variable, values in members("guided").items():
        np.testing.assert_array_equal(values, expected[variable], strict=True)
    assert getattr(jax.config, name) == SETTINGS[name]  # the user's own code keeps its setting


@pytest.mark.long
@pytest.mark.parametrize("method", ["3dvar", "oi", "repaint", "letkf"])
def test_all_settings_leave_every_method_as_it_is(method, restored) -> None:
    expected = plain(method)
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    for variable, values in members(method).items():
        np.testing.assert_array_equal(values, expected[variable], strict=True)


# Calls on arrays, from within others: they follow the precision of what they are given.
OF_ARRAYS = {
    "DiffusionPrior.condition",
    "GenCastPrior.condition",
    "ErrorScales.covariance_at",
    "Prior.small_scales",
    "Prior.unresolved_scales",
    "ReferencePrior.unresolved_scales",
    "Unresolved.at",
    "SpectralRoot.control",
    "EnsembleRoot.control",
    "BalancedBasis.scalar_blocks",
    "CovarianceTable.__call__",
    "EnsembleCovariance.__call__",
    "EnsembleCovariance.at",
    "BareGenCast.given",
    "GenCastDenoiser.__call__",
    "GraphCast.__call__",
    "GraphCast.prepare",
    "ObsVector.apply",
    "ObsVector.adjoint",
    "AnalysisTime.hybrid",
    "AnalysisTime.on_devices",
    "AnalysisTime.flow_dependent_variance",
    "Guided.draw",
    "LETKF.draw",
    "OptimalInterpolation.draw",
    "RePaint.draw",
    "ThreeDVar.draw",
    "baselines.local_analysis",
    "draws.split_keys",
    "ensemble.variance_ratio",
    "harmonics.points_of",
    "spectral.white_coefficients",
    "spectral.white_noise",
}


def test_every_public_call_that_makes_arrays_runs_under_our_settings() -> None:
    calls = list(jax_calls.public())
    assert len(calls) > 400
    bare = {
        ".".join(name.split(".")[-2:])
        for name, function in calls
        if jax_calls.makes_arrays(function)
    }
    assert bare == OF_ARRAYS
    assert sum(jax_calls.guarded(function) for _, function in calls) > 60


def _parts():
    """What users make by themselves: a basis, a covariance, networks and their relatives."""
    from xdiffda.covariance.harmonics import sphere_basis
    from xdiffda.covariance.spectral import SpectralCovariance
    from xdiffda.networks.graphcast import GraphCast, NetworkConfig
    from xdiffda.observations import observation_operator, to_tidy

    sphere_basis.cache_clear()  # what is kept was made under our settings, too
    basis = sphere_basis(LAYOUT.grid.lat, LAYOUT.grid.lon)
    blocks = np.broadcast_to(np.eye(3), (basis.mask.shape[0], 3, 3)) / 7.0
    covariance = SpectralCovariance.from_blocks(basis, blocks)
    draws = covariance.sample(KEYS)
    config = NetworkConfig(n_inputs=4, n_outputs=2, latent=8, processor_steps=1)
    net = GraphCast(config, key=KEY)
    obs = observation_operator(to_tidy(case()[2]), LAYOUT)[0]
    return basis, covariance, draws, net, net.reconfigured(dtype="bfloat16"), obs


KEY = jax.random.key(3)
KEYS = jax.random.split(KEY, 2)


def test_parts_that_users_make_are_the_same_under_all_settings(restored) -> None:
    expected = jax.tree.leaves(_parts())
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    found = jax.tree.leaves(_parts())
    assert len(found) == len(expected) > 20
    with own_jax():
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)


def test_settings_change_numbers_where_they_are_not_ours(restored) -> None:
    """The test above could not fail if these settings changed nothing."""
    key = np.asarray(jax.random.normal(jax.random.key(0), (4, 3)))
    with own_jax():
        np.testing.assert_array_equal(jax.random.normal(jax.random.key(0), (4, 3)), key)
    for name in ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable"):
        before = getattr(jax.config, name)
        jax.config.update(name, SETTINGS[name])
        there = np.asarray(jax.random.normal(jax.random.key(0), (4, 3)))
        assert there.dtype != key.dtype or not np.array_equal(there, key), name
        jax.config.update(name, before)


def test_settings_of_one_thread_reach_the_threads_of_the_devices(restored) -> None:
    from xdiffda.assimilation.devices import Schedule, run_times

    jax.config.update("jax_enable_x64", True)
    found = run_times(lambda i, _: jnp.ones(1).dtype, 4, [Schedule(1), Schedule(1)])
    assert set(found) == {jnp.dtype("float32")}


def test_a_shift_of_all_seeds_is_refused() -> None:
    jax.config.update("jax_random_seed_offset", 5)
    try:
        with pytest.raises(xdiffda.XdiffdaError, match="JAX_RANDOM_SEED_OFFSET is 5"):
            members("oi")
        jax.config.update("jax_random_seed_offset", 0)  # the repair that is printed
        members("oi")
    finally:
        jax.config.update("jax_random_seed_offset", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_a_child_forked_from_a_running_jax_says_what_to_do() -> None:
    message, code = run("fork", "started", PYTHONWARNINGS="ignore")
    assert "get_context('spawn')" in message
    assert code == "0"


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_a_fork_before_jax_runs_works() -> None:
    assert run("fork", "loaded", PYTHONWARNINGS="ignore") == ["worked", "0"]
