"""The methods behind assimilate, against each other and against closed forms."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from gaussian_world import LAYOUT, draw_states, make_prior

import xdiffda
from xdiffda.assimilation.baselines.letkf import Inflation
from xdiffda.covariance.ensemble import Hybrid
from xdiffda.covariance.localisation import Localisation
from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs, interpolate
from xdiffda.state.convert import to_state

ERRORS = {"2m_temperature": 0.5, "geopotential": 80.0, "temperature": 0.4}


@pytest.fixture(scope="module")
def world():
    prior = make_prior()
    truth, background = draw_states(prior, seed=5)
    return prior, truth, background, emulate_obs(truth, n_columns=40, error_std=ERRORS, seed=1)


@pytest.fixture(scope="module")
def ensemble(world) -> xr.Dataset:
    """Background members: the background plus draws of the error that it has."""
    prior, _, background, _ = world
    return xr.concat(
        [
            background + draw_states(prior, seed=k)[0] - draw_states(prior, seed=k)[1]
            for k in range(100, 140)
        ],
        "member",
    )


def _array(ds: xr.Dataset) -> np.ndarray:
    return to_state(ds, LAYOUT)[0]


def _ratio(world, analysis: xr.Dataset) -> np.ndarray:
    """Error of the mean over the background's, per channel."""
    _, truth, background, _ = world
    weight = LAYOUT.grid.area_weights()[:, None]

    def rmse(ds):
        return np.sqrt(np.mean(weight * (_array(ds) - _array(truth)) ** 2, axis=0))

    return rmse(analysis.mean("member")) / rmse(background)


def _analyse(world, background=None, **settings):
    prior, _, own, obs = world
    obs = settings.pop("obs", obs)
    settings = {"background_error": 1.0, "progress": False} | settings
    return xdiffda.assimilate(
        own if background is None else background, obs, model=prior, **settings
    )


def test_oi_is_3dvar_but_for_far_observations(world):
    exact, local = (_array(_analyse(world, method=m)) for m in ("3dvar", "oi"))
    increment = exact - _array(world[2])

    def rms(x):
        return np.sqrt(np.mean((x / world[0].scale) ** 2))

    # this B reaches farther than the 3,000 km of OI
    assert 0 < rms(local - exact) < 0.5 * rms(increment)
    assert (_ratio(world, _analyse(world, method="oi")) < 0.95).all()


def test_interpolation_is_what_interpolate_gives_and_exact_at_sites(world):
    _, truth, background, obs = world
    found = _analyse(world, method="interpolation", n_members=8)
    assert found.sizes["member"] == 1
    expected = interpolate(obs, like=background, background=background)
    near = np.abs(_array(found)[0] - _array(expected)) / world[0].scale
    assert near.max() < 1e-4
    assert (_ratio(world, found) > _ratio(world, _analyse(world, method="oi"))).all()
    # one site: its value there, the background beyond the radius of 2,000 km
    grid = truth["2m_temperature"].isel(lat=6, lon=12)
    at = {"lat": [float(grid["lat"])], "lon": [float(grid["lon"])]}
    one = pd.DataFrame({"variable": ["2m_temperature"], **at, "value": 300.0, "error_std": 50.0})
    field = _analyse(world, method="interpolation", **{"obs": one})["2m_temperature"][0]
    assert float(field.isel(lat=6, lon=12)) == pytest.approx(300.0, abs=1e-3)
    far = field.isel(lat=6, lon=0) - background["2m_temperature"].isel(lat=6, lon=0)
    assert float(abs(far)) < 1e-3


def test_letkf_with_the_true_covariance_comes_close_to_3dvar(world, ensemble):
    analysis = _analyse(
        world, ensemble, method=xdiffda.LETKF(localisation=Localisation(length_km=2500.0))
    )
    assert analysis.sizes["member"] == ensemble.sizes["member"]
    own = _ratio(world, analysis)
    assert (own < 0.97).all()
    # of a sampled covariance one cannot expect what the exact one gives, nor much less
    exact = _ratio(world, _analyse(world, method="3dvar"))
    assert own.mean() < exact.mean() + 0.15
    spread = analysis.std("member", ddof=1)["temperature"].mean()
    assert float(spread) < float(ensemble.std("member", ddof=1)["temperature"].mean())


def test_additive_inflation_gives_members_that_agree_a_spread(world, ensemble):
    """Where nothing is observed members differ as draws from N(0, a^2 B); the mean is kept."""
    prior, _, _, obs = world
    mean = ensemble.mean("member")
    alike = mean + 1e-4 * (ensemble - mean)
    inflation = Inflation(additive=0.5)
    own = xdiffda.LETKF(localisation=Localisation(length_km=300.0), inflation=inflation)
    few = obs.isel({obs["lat"].dims[0]: slice(1)})
    analysis = xdiffda.assimilate(alike, few, model=prior, progress=False, seed=3, method=own)
    z = (_array(analysis) - _array(mean)) / prior.scale
    expected = 0.25 * (np.asarray(prior.covariance.variance) + prior.unresolved**2)
    spread = z.var(0, ddof=1).mean() / expected.mean()
    assert spread == pytest.approx(1.0, abs=0.25)
    assert np.abs(z.mean(0)).mean() < 0.02  # one column observed: all but nowhere a new mean
    # and observations are believed again
    before, after = (
        _ratio(
            world,
            _analyse(
                world,
                alike,
                method=xdiffda.LETKF(
                    localisation=Localisation(length_km=2500.0), inflation=Inflation(additive=a)
                ),
            ),
        ).mean()
        for a in (0.0, 0.7)
    )
    assert before > 0.99 and after < 0.97


def test_members_are_drawn_around_background_members_without_counting_b_twice(world, ensemble):
    """Members drawn from N(x_b, B): skill and spread are those of B itself, not of twice B."""
    prior = world[0]
    single = _analyse(
        world, n_members=8, method=xdiffda.Guided(antithetic=True, small_scales=False)
    )
    analysis = _analyse(
        world,
        ensemble,
        n_members=8,
        method=xdiffda.Guided(antithetic=True, small_scales=False, hybrid=Hybrid(alpha=0.5)),
    )

    def spread(ds):
        return np.sqrt(np.mean((_array(ds) / prior.scale).var(0, ddof=1)))

    assert spread(analysis) / spread(single) == pytest.approx(1.0, abs=0.12)
    assert _ratio(world, analysis).mean() < _ratio(world, single).mean() + 0.1
    # each is the descendant of its own background member
    own = (_array(ensemble) - _array(ensemble.mean("member")))[:8] / prior.scale
    change = (_array(analysis) - _array(analysis.mean("member"))) / prior.scale
    likeness = np.array([[np.corrcoef(a.ravel(), b.ravel())[0, 1] for b in own] for a in change])
    assert (likeness.argmax(1) == np.arange(8)).all() and np.diag(likeness).min() > 0.3
    assert json.loads(analysis.attrs["xdiffda_solver_residual"])[0] < 1.5e-2


def test_a_background_of_one_member_is_a_background(world):
    one = world[2].expand_dims("member")
    np.testing.assert_array_equal(
        _array(_analyse(world, one, method="3dvar")), _array(_analyse(world, method="3dvar"))
    )


def test_3dvar_takes_the_hybrid(world, ensemble):
    """With B alone it is 3D-Var around the mean; half of the ensemble changes it a little."""
    alone = _array(_analyse(world, ensemble, method=xdiffda.ThreeDVar(hybrid=Hybrid(alpha=1.0))))
    mean = _array(_analyse(world, ensemble.mean("member"), method="3dvar"))
    np.testing.assert_allclose((alone - mean) / world[0].scale, 0, atol=5e-3)
    half = _analyse(world, ensemble, method=xdiffda.ThreeDVar(hybrid=Hybrid(alpha=0.5)))
    assert 0.01 < np.abs((_array(half) - alone) / world[0].scale).mean() < 0.3
    assert _ratio(world, half).mean() < 0.95


def test_r_from_the_spread(world, ensemble):
    """Drawn with r = 1 around the background."""
    analysis = _analyse(world, ensemble, method="3dvar", background_error="spread")
    assert json.loads(analysis.attrs["xdiffda_background_error"])[0] == pytest.approx(1.0, abs=0.1)
    with pytest.raises(InputError, match='needed 2 or more along.*background_error="estimate"'):
        _analyse(world, background_error="spread", method="3dvar")


def test_small_innovations_where_members_agree_do_not_make_r_small(world, ensemble):
    """Sites where the error is a third of that elsewhere: r is that of the whole globe."""
    prior, truth, background, _ = world
    calm = xr.where(background.lat > 0, 0.3, 1.0)
    error = (truth - background) * calm
    now = (background + error).assign_coords(truth.coords)
    members = background + (ensemble - background) * calm
    members = members.transpose(*ensemble.dims)
    sites = {"lat": np.linspace(10, 80, 40), "lon": (np.arange(40) * 137.0) % 360}
    obs = emulate_obs(now, sites=sites, error_std=ERRORS, seed=2, on_grid=False)

    def estimate(b: xr.Dataset) -> float:
        found = _analyse(
            (prior, now, background, obs),
            b,
            method=xdiffda.ThreeDVar(hybrid=Hybrid(alpha=0.1)),
            background_error="estimate",
        )
        return json.loads(found.attrs["xdiffda_background_error"])[0]

    weight = LAYOUT.grid.area_weights()[:, None]
    true = np.sqrt(np.mean(weight * ((_array(now) - _array(background)) / prior.scale) ** 2))
    alone, told = estimate(background), estimate(members)
    assert alone < 0.65 * true and told > 1.3 * alone
    assert abs(told - true) < 0.65 * abs(alone - true)


def test_an_ensemble_that_is_certain_changes_little(world, ensemble):
    # an ensemble that is certain over one half of the globe changes little there
    prior, truth, *_ = world
    vague = emulate_obs(
        truth, n_columns=90, error_std={k: 4 * v for k, v in ERRORS.items()}, seed=1
    )
    half, north = ensemble.mean("member"), ensemble.lat > 0
    certain = xr.where(north, half + 0.05 * (ensemble - half), ensemble).transpose(*ensemble.dims)

    def increment_in_the_north(members: xr.Dataset, **settings) -> float:
        analysis = xdiffda.assimilate(
            members,
            vague,
            model=prior,
            background_error=1.0,
            progress=False,
            **settings,
        )
        change = _array(analysis.mean("member")) - _array(members.mean("member"))
        return float(np.abs(change / prior.scale)[LAYOUT.grid.node_lat > 10].mean())

    # drawn around the mean, with the flow-dependent variance in V
    around = {
        "n_members": 2,
        "method": xdiffda.Guided(antithetic=True, small_scales=False, hybrid=Hybrid(around="mean")),
    }
    assert increment_in_the_north(certain, **around) < 0.92 * increment_in_the_north(
        ensemble, **around
    )
    hybrid = {"method": xdiffda.ThreeDVar(hybrid=Hybrid(alpha=0.5))}
    assert increment_in_the_north(certain, **hybrid) < 0.92 * increment_in_the_north(
        ensemble, **hybrid
    )


def test_repaint_through_the_public_call(world):
    quick = xdiffda.RePaint(n_levels=30, jump_length=5, resamplings=2, mask_sigma=0.7)
    analysis = _analyse(world, method=quick, n_members=4)
    assert analysis.attrs["xdiffda_network_evaluations"] == quick.evaluations
    assert _ratio(world, analysis).mean() < 0.95
    again = _analyse(world, method=dataclasses.replace(quick, max_batch=3), n_members=4)
    np.testing.assert_allclose(_array(again), _array(analysis), rtol=1e-4)


def test_small_scales_have_the_size_that_was_measured():
    rng = np.random.default_rng(0)
    prior = make_prior()
    prior.unresolved = np.tile([0.3, 0.0, 0.1], (LAYOUT.grid.n_node, 1)).astype(np.float32)
    import jax

    draws = np.asarray(
        prior.small_scales(jax.random.split(jax.random.key(int(rng.integers(9))), 64))
    )
    rows = draws.reshape(12, 24, 64, 3)
    np.testing.assert_allclose(
        np.sqrt(np.mean(rows**2, axis=(1, 2))), [[0.3, 0.0, 0.1]] * 12, rtol=0.1
    )
    basis = prior.covariance.basis
    # but for what the dependence on latitude mixes in, the analysis is left as it is
    inside = np.asarray(basis.project(draws))
    assert np.mean(inside**2) < 0.05 * np.mean(draws**2)


def test_what_does_not_belong_together_is_refused(world, ensemble):
    with pytest.raises(InputError, match="1 background member; needed 2 or more"):
        _analyse(world, method="letkf")
    named = r"argument repaint\b|argument n_levels; needed n_levels as a setting of the method"
    with pytest.raises(InputError, match=named):
        _analyse(world, n_levels=3)
    with pytest.raises(InputError, match=r"hybrid as a setting.*xdiffda.Guided\(hybrid="):
        _analyse(world, ensemble, method="letkf", hybrid=Hybrid())
    with pytest.raises(InputError, match="(?s)2 problems.*around='all'.*alpha=0.0"):
        Hybrid(around="all", alpha=0.0)


def test_withheld_stations_say_whether_the_analysis_came_closer(world):
    analysis = _analyse(world, n_members=4, withhold=0.25)
    assert "closer" in analysis.attrs["xdiffda_withheld"]
    whole = _analyse(world, n_members=4)
    used = [json.loads(a.attrs["xdiffda_observations_used"])[0] for a in (analysis, whole)]
    assert used[0] == used[1] * 30 // 40


def test_a_robust_likelihood_through_the_public_call(world):
    prior, _, background, obs = world
    spoilt = obs.copy(deep=True)
    spoilt["temperature"][::8] += 8 * 0.4 + 6.0  # below the gross check of ten expected deviations
    ratio = {
        name: _ratio(
            world,
            xdiffda.assimilate(
                background,
                spoilt,
                model=prior,
                n_members=2,
                method=xdiffda.Guided(antithetic=True, small_scales=False),
                background_error=1.0,
                quality=xdiffda.Quality(robust=name, gross_check=10.0),
                progress=False,
            ),
        ).mean()
        for name in ("none", "varqc")
    }
    assert ratio["varqc"] < 0.9 * ratio["none"]


def test_a_diverged_analysis_is_refused(world, monkeypatch):
    """Where the solver was given what is no covariance, its result is no analysis."""
    from xdiffda.assimilation.methods import Drawn

    prior, _, background, obs = world
    shape = (prior.layout.grid.n_node, 2, prior.layout.n_channel)
    for size in (1e3, np.nan):
        diverged = Drawn(np.full(shape, size))
        monkeypatch.setattr(xdiffda.Guided, "draw", lambda *given, of=diverged: of)
        with pytest.raises(InputError, match="symmetric and positive"):
            xdiffda.assimilate(background, obs, model=prior, n_members=2, progress=False)
