"""assimilate: closed forms, invariants, conventions and errors, on a Gaussian world."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from gaussian_world import ERRORS, LAYOUT, SampledPrior, draw_states, make_prior
from places import SUPPORT

import xdiffda
from xdiffda.errors import InputError
from xdiffda.observations import emulate_obs, to_tidy
from xdiffda.state.convert import to_state

QUICK = {
    "n_members": 2,
    "method": xdiffda.Guided(n_steps=4),
    "background_error": 1.0,
    "progress": False,
}


@pytest.fixture(scope="module")
def world():
    prior = make_prior()
    truth, background = draw_states(prior, seed=5)
    obs = emulate_obs(truth, n_columns=30, error_std=ERRORS, seed=1)
    return prior, truth, background, obs


def _array(ds: xr.Dataset) -> np.ndarray:
    return to_state(ds, LAYOUT)[0]


def _analyse(world, background=None, obs=None, **settings):
    prior, _, own_background, own_obs = world
    return xdiffda.assimilate(
        own_background if background is None else background,
        own_obs if obs is None else obs,
        **({"model": prior} | QUICK | settings),
    )


def _rmse(a, b) -> np.ndarray:
    weight = LAYOUT.grid.area_weights()[:, None]
    return np.sqrt(np.mean(weight * (a - b) ** 2, axis=0))


def test_3dvar_is_the_kalman_analysis(world):
    prior, _, background, obs = world
    analysis = _array(_analyse(world, method="3dvar"))[0]
    # dense Kalman update in physical units; observations on the grid, one per element
    n, c = LAYOUT.grid.n_node, LAYOUT.n_channel
    eye = np.eye(n * c, dtype=np.float32).reshape(n, c, n * c).transpose(0, 2, 1)
    B = np.asarray(prior.covariance(eye), np.float64).transpose(0, 2, 1).reshape(n * c, n * c)
    s = prior.scale.reshape(-1).astype(np.float64)
    B = s[:, None] * B * s
    tidy = to_tidy(obs)
    node = np.argmin(
        np.abs(LAYOUT.grid.node_lat - tidy.lat.values[:, None])
        + np.abs(LAYOUT.grid.node_lon - tidy.lon.values[:, None]),
        axis=1,
    )
    level = [None if np.isnan(p) else int(p) for p in tidy.level.values]
    channel = [LAYOUT.channel_index(v, p) for v, p in zip(tidy.variable.values, level, strict=True)]
    where = node * c + np.array(channel)
    x_b = _array(background).reshape(-1).astype(np.float64)
    innovation = tidy.value.values - x_b[where]
    S = B[np.ix_(where, where)] + np.diag(tidy.error_std.values**2)
    exact = x_b + B[:, where] @ np.linalg.solve(S, innovation)
    difference = (analysis.reshape(-1) - exact) / s
    assert np.abs(difference).max() < 0.01


def test_the_analysis_is_closer_to_the_truth_than_the_background(world):
    _, truth, background, _ = world
    obs = emulate_obs(truth, n_columns=90, error_std=ERRORS, seed=1)
    analysis = _analyse(world, obs=obs, n_members=8, method=xdiffda.Guided(n_steps=8))
    mean = _array(analysis.mean("member"))
    ratio = _rmse(mean, _array(truth)) / _rmse(_array(background), _array(truth))
    assert (ratio < 0.75).all()
    spread = np.sqrt(analysis.var("member", ddof=1)["temperature"].mean())
    error = _rmse(mean, _array(truth))[2]
    assert 0.6 < float(spread) / error < 1.6


def test_a_permutation_of_the_observations_changes_nothing(world):
    tidy = to_tidy(world[3])
    order = np.random.default_rng(0).permutation(tidy.sizes["obs"])
    a, b = (_array(_analyse(world, obs=o)) for o in (tidy, tidy.isel(obs=order)))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_rolling_longitude_rolls_the_analysis(world):
    # white noise is rolled as well only if there is none: compare the 3D-Var analysis
    _prior, _, background, obs = world
    shift = 7 * 15.0
    moved = obs.assign_coords(lon=(obs.lon + shift) % 360)
    a = _analyse(world, method="3dvar")
    b = _analyse(world, obs=moved, background=background, method="3dvar")
    for name in a.data_vars:
        np.testing.assert_allclose(a[name].roll(lon=7), b[name], rtol=2e-4)


def test_an_analysis_does_not_depend_on_the_users_convention(world):
    _, _, background, _ = world
    theirs = background.rename(
        {
            "lat": "latitude",
            "lon": "longitude",
            "level": "isobaricInhPa",
            "temperature": "t",
            "2m_temperature": "t2m",
            "geopotential": "z",
        }
    )
    theirs = theirs.isel(latitude=slice(None, None, -1))
    theirs = theirs.assign_coords(longitude=(theirs.longitude + 180) % 360 - 180)
    theirs = theirs.sortby("longitude")
    theirs["t2m"] = (theirs["t2m"] - 273.15).assign_attrs(units="degC")
    a, b = _analyse(world), _analyse(world, background=theirs)
    assert b["t2m"].attrs["units"] == "degC" and b.latitude[0] > b.latitude[-1]
    np.testing.assert_allclose(_array(b), _array(a), rtol=1e-5)


def test_members_do_not_depend_on_their_number_or_batch(world):
    few = _analyse(world, n_members=3, method=xdiffda.Guided(max_batch=8))
    many = _analyse(world, n_members=5, method=xdiffda.Guided(max_batch=2))
    np.testing.assert_allclose(_array(few), _array(many)[:3], rtol=1e-5)


def test_the_seed_reproduces_in_another_process(world, tmp_path):
    here = [str(Path(__file__).parent), str(SUPPORT)]
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import numpy as np, xdiffda, test_analysis as t\n"
        "from gaussian_world import *\n"
        "prior = make_prior(); truth, background = draw_states(prior, seed=5)\n"
        "obs = t.emulate_obs(truth, n_columns=30, error_std=t.ERRORS, seed=1)\n"
        "out = xdiffda.assimilate(background, obs, model=prior, seed=3, **t.QUICK)\n"
        "np.save(sys.argv[1], t._array(out))\n"
    )
    path = tmp_path / "there.npy"
    subprocess.run([sys.executable, "-c", script, str(path), *here], check=True)
    mine = _array(_analyse(world, seed=3))
    np.testing.assert_allclose(mine, np.load(path), rtol=1e-6)
    assert np.abs(mine - _array(_analyse(world, seed=4))).max() > 1e-3


def test_many_times_at_once_equal_one_after_the_other(world):
    _prior, truth, background, _ = world
    times = np.array(["2020-01-15T12", "2020-01-15T18"], "datetime64[ns]")
    both = xr.concat([background.assign_coords(time=t) for t in times], "time")
    truths = xr.concat([truth.assign_coords(time=t) for t in times], "time")
    obs = emulate_obs(truths, n_columns=30, error_std=ERRORS, seed=1)
    together = _analyse(world, background=both, obs=obs)
    assert together["temperature"].dims == ("member", "time", "level", "lat", "lon")
    alone = _analyse(world, background=both.isel(time=1), obs=obs)
    np.testing.assert_allclose(_array(together.isel(time=1)), _array(alone), rtol=1e-5)


def test_provenance_says_how_the_analysis_was_made(world):
    tidy = to_tidy(world[3])
    gross = tidy.copy(deep=True)
    gross["value"][0] += 35.0
    outside = tidy.isel(obs=[1]).assign(
        level=("obs", [30.0]), variable=("obs", ["temperature"]), value=("obs", [220.0])
    )
    obs = xr.concat([gross, outside], "obs")
    attrs = _analyse(world, obs=obs, seed=11, model=make_prior(SampledPrior)).attrs
    assert attrs["xdiffda_model"] == "small world" and attrs["xdiffda_seed"] == 11
    assert attrs["xdiffda_network_evaluations"] == 4
    at_once = _analyse(world, seed=11).attrs  # a Gaussian prior needs no sampler
    assert at_once["xdiffda_network_evaluations"] == 0
    rejected = json.loads(attrs["xdiffda_observations_rejected"])[0]
    assert rejected["gross error"] == 1 and sum(rejected.values()) == 2
    assert json.loads(attrs["xdiffda_observations_used"]) == [tidy.sizes["obs"] - 1]


def test_the_scale_of_the_background_error_is_estimated(world):
    _prior, truth, background, _ = world
    obs = emulate_obs(truth, n_columns=100, error_std=ERRORS, seed=2)
    halfway = background + 0.5 * (truth - background).drop_vars("time")
    halfway = halfway.assign_coords(time=truth.time)
    r = [
        json.loads(
            _analyse(
                world, background=b, obs=obs, method="3dvar", background_error="estimate"
            ).attrs["xdiffda_background_error"]
        )[0]
        for b in (background, halfway)
    ]
    assert r[1] / r[0] == pytest.approx(0.5, abs=0.08)


def test_an_analysis_survives_a_file(world, tmp_path):
    analysis = _analyse(world)
    analysis.to_netcdf(tmp_path / "a.nc")
    assert json.loads(xr.open_dataset(tmp_path / "a.nc").attrs["xdiffda_settings"])["seed"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.drop_vars("temperature"), "temperature"),
        (lambda b: b.isel(lat=slice(1, None)), "a box of the globe"),
        (lambda b: b.isel(lat=slice(None, None, 2)), "grid"),
        (lambda b: b.where(b.lat < 80), "NaN"),
        (lambda b: b.assign(temperature=b.temperature - 273.15), "temperature"),
    ],
)
def test_a_background_that_does_not_fit_is_named_with_its_repair(world, change, message):
    with pytest.raises(InputError, match=message) as error:
        _analyse(world, background=change(world[2]))
    assert "repair" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.assign(value=o.value * 100), "values in"),
        (lambda o: o.assign_coords(time=o.time + np.timedelta64(3, "D")), "after the window"),
        (lambda o: o.assign(variable=("obs", np.full(o.sizes["obs"], "radiance"))), "radiance"),
        (lambda o: o.isel(obs=slice(0)), "no observation"),
        (lambda o: o.assign(error_std=0 * o.error_std), "error_std"),
    ],
)
def test_observations_that_do_not_fit_are_named_with_their_repair(world, change, message):
    tidy = to_tidy(world[3])
    if "time" in tidy.data_vars:
        tidy = tidy.set_coords("time")
    with pytest.raises(InputError, match=message) as error:
        _analyse(world, obs=change(tidy))
    assert "repair" in str(error.value)


def test_all_wrong_settings_are_listed_at_once(world):
    with pytest.raises(InputError, match="3 problems") as error:
        _analyse(world, method="magic", n_members=0, background_error=-1)
    for word in ("magic", "n_members", "background_error"):
        assert word in str(error.value)
    with pytest.raises(InputError, match="(?s)settings of guided: 2 problems.*n_steps.*hybrid"):
        xdiffda.Guided(n_steps=0, hybrid=0.5)


def test_a_setting_that_moved_is_told_where_it_is_now(world):
    with pytest.raises(InputError, match="(?s)2 problems") as error:
        _analyse(world, sampler="heun", gross_check=4.0)
    for repair in (
        "assimilate(obs, quality=xdiffda.Quality(gross_check=4.0))",
        "assimilate(obs, method=xdiffda.Guided(sampler='heun'))",
    ):
        assert f"repair: `{repair}`" in str(error.value)
    with pytest.raises(TypeError, match="colour"):
        _analyse(world, colour="red")


def test_a_prior_without_measured_v_says_so(world):
    with pytest.raises(InputError, match="climatological"):
        _analyse(world, method=xdiffda.Guided(covariance="calibrated"))
