"""r and B against closed forms: B of every r, the estimate of r, and its weight of the prior."""

from __future__ import annotations

import json
import warnings

import jax
import numpy as np
import pytest
import xarray as xr
from gaussian_world import ERRORS, LAT, LAYOUT, LON, MEAN, SCALE, SampledPrior, make_prior

import xdiffda
from xdiffda.assimilation.innovations import estimate_r, observe
from xdiffda.assimilation.one_time import r_of_spread
from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.observations import emulate_obs, to_tidy
from xdiffda.observations.quality import Quality
from xdiffda.priors.prior import ErrorScales, GaussianPrior
from xdiffda.priors.reference import ReferencePrior, reference_prior
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Layout, equiangular

N_NODE, N_CHANNEL = LAYOUT.grid.n_node, LAYOUT.n_channel
AREA = LAYOUT.grid.area_weights() / LAYOUT.grid.area_weights().sum()
TIME = np.datetime64("2020-01-15T12", "ns")
SIZES = np.array([0.25, 0.5, 1.0, 1.6])


def _full(by_channel: dict[str, float]) -> np.ndarray:
    return np.tile([by_channel[c] for c in LAYOUT.channel_names], (N_NODE, 1))


@pytest.fixture(scope="module")
def prior() -> GaussianPrior:
    """Classes of r as a calibration might leave them: of a wrong mean, and channels differ."""
    basis = sphere_basis(LAT, LON, 5)
    count = np.asarray(basis.multiplicity)
    blocks, unresolved = [], []
    for r, wrong in zip(SIZES, (1.1, 1.02, 0.97, 0.9), strict=True):
        spectrum = 1 / (1 + (np.arange(count.size) / (2 + 1 / r)) ** 3)
        spectrum *= wrong * count.sum() / (spectrum * count).sum()
        channels = np.diag([1.3, 0.8, 0.9]) + 0.3
        blocks.append(spectrum[:, None, None] * channels)
        unresolved.append(np.full((N_NODE, N_CHANNEL), 0.6 * 0.25**r))
    sizes = ErrorScales(SIZES, np.array(blocks), np.array(blocks)[:, None], np.array(unresolved))
    covariance = SpectralCovariance.from_blocks(basis, blocks[2])
    return GaussianPrior(
        LAYOUT, _full(SCALE), covariance, sizes=sizes, unresolved=sizes.unresolved_at(1.0)
    )


def _drawn(prior: GaussianPrior, r: float, seed: int) -> np.ndarray:
    """An error of the background of scale r, small scales included; physical units."""
    keys = jax.random.split(jax.random.key(seed), 1)
    z = np.asarray(prior.covariance_at(r).sample(keys) + prior.small_scales(keys, r))[:, 0]
    return r * prior.scale * z


def _label(x: np.ndarray):
    x = from_state(x.astype(np.float32), LAYOUT, default_convention(LAYOUT))
    return x.assign_coords(time=TIME)


# ---- B of r ----------------------------------------------------------------------------


@pytest.mark.parametrize("r", [0.05, 0.25, 0.37, 1.0, 1.3, 4.0])
def test_b_and_the_unresolved_variance_have_mean_one_whatever_r(prior, r: float) -> None:
    """r is the root mean square of the error in units of s: that of z is 1, by definition."""
    unresolved = np.average(prior.unresolved_at(r) ** 2, axis=0, weights=AREA)
    total = np.asarray(prior.covariance_at(r).variance) + unresolved
    assert total.mean() == pytest.approx(1.0, abs=1e-5)
    assert np.ptp(total) > 0.2  # channels keep their shares


def test_b_of_the_bundled_model_has_mean_one_in_every_class() -> None:
    """It had 1.046, 1.010, 0.977 and 0.931; the Gaussian prior has the B of every r, too."""
    model = xdiffda.load_model("speedy")
    gaussian = model.gaussian()
    area = model.layout.grid.area_weights()
    for r in (*model.sizes.r, 1.0):
        b = model.covariance_at(float(r))
        unresolved = np.average(model.unresolved_at(float(r)) ** 2, axis=0, weights=area)
        assert np.mean(np.asarray(b.variance) + unresolved) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_array_equal(gaussian.covariance_at(float(r)).blocks, b.blocks)
        np.testing.assert_array_equal(
            gaussian.condition(np.zeros(model.scale.shape), None, float(r)).climatology.blocks,
            b.blocks,
        )
        np.testing.assert_array_equal(
            gaussian.unresolved_at(float(r)), model.unresolved_at(float(r))
        )


# ---- the estimate of r -----------------------------------------------------------------


@pytest.mark.parametrize(("r", "n_site"), [(0.8, 1), (1.5, 1), (0.3, 4), (0.6, 4), (3.0, 4)])
def test_the_prior_of_r_weighs_as_stated(r: float, n_site: int) -> None:
    """Without noise the posterior of log r is known: k (1 - m / r^2) + 4 log r = 0.

    k = 2 numbers of each site, m the mean square of the innovations, and 4 = 1 / 0.5^2.
    """
    n = 2 * n_site
    m = r**2 * (1 + 4 * np.log(r) / n)
    found = estimate_r(np.full(n, np.sqrt(m)), np.ones(n), n_site, noise=0.0)
    assert found == pytest.approx(r, rel=1e-3)


def test_the_estimate_solves_the_second_moment() -> None:
    """E[d^2] = noise^2 + r^2 spread^2 for rows of any noise, where observations are many."""
    rng = np.random.default_rng(0)
    noise, spread = rng.uniform(0.05, 1.0, 30_000), rng.uniform(0.2, 2.0, 30_000)
    for r in (0.1, 0.3, 1.0, 3.0):
        d = rng.normal(size=noise.size) * np.hypot(noise, r * spread)
        assert estimate_r(d, spread, 15_000, noise=noise) == pytest.approx(r, rel=0.05)
        one = estimate_r(10 * d, 10 * spread, 15_000, noise=10 * noise)  # in any unit
        assert one == pytest.approx(estimate_r(d, spread, 15_000, noise=noise), rel=1e-3)


def test_columns_share_the_error_of_the_background_and_not_that_of_the_instrument() -> None:
    """40 observations of 30 sites, two numbers each: far from the prior, r is found anyway."""
    rng, found = np.random.default_rng(1), []
    for _ in range(20):
        shared = rng.normal(size=(30, 2, 1)) * np.ones(20)
        d = 0.2 * shared.ravel() + 0.4 * rng.normal(size=1200)
        found.append(estimate_r(d, np.ones(1200), 30, noise=np.full(1200, 0.4)))
    assert np.exp(np.mean(np.log(found))) == pytest.approx(0.2, rel=0.12)
    assert np.std(np.log(found)) < 0.15


def test_nothing_but_noise_is_not_the_least_r_there_is() -> None:
    """Innovations no larger than the noise bound r from above, and no more."""
    d = np.where(np.arange(8) % 2, 1.0, -1.0)
    assert 0.15 < estimate_r(d, np.ones(8), 2, noise=1.0) < 0.8


@pytest.mark.parametrize("r", [0.3, 1.3])
def test_r_of_a_background_is_found_whatever_it_is(prior, r: float) -> None:
    """Half of all columns observed; a third of the variance of small errors is unresolved.

    Counted at r = 1 that third would be taken from the innovations twice.
    """
    found = []
    for seed in range(4):
        truth = _full(MEAN) + _drawn(prior, r, seed)
        obs = to_tidy(
            emulate_obs(
                _label(truth), n_columns=N_NODE // 2, error_std=prior.typical_error(0.05), seed=seed
            )
        )
        likelihood, one, _ = observe(
            obs,
            prior,
            _full(MEAN),
            TIME,
            window="6h",
            quality=Quality(gross_check=10.0),
            background_error="estimate",
        )
        found.append(one)
        # R is built again at that r: the instrument's share of the whole error
        used = np.asarray(likelihood.value) != 0
        whole = np.hypot(0.05, one * prior.unresolved_at(one)[0, 0])
        share = np.asarray(likelihood.instrument)[used]
        np.testing.assert_allclose(share, 0.05 / whole, rtol=1e-3)
    assert np.mean(found) == pytest.approx(r, rel=0.12)


def test_the_gross_check_expects_the_spread_of_that_r(prior) -> None:
    """The limit between kept and rejected is at gross_check expected standard deviations.

    Where most departures are not larger than expected: else medians widen it.
    """
    r, c = 0.25, 0
    place = {
        "lat": ("obs", [LAT[5]]),
        "lon": ("obs", [LON[4]]),
        "level": ("obs", [np.nan]),
        "time": ("obs", [TIME]),
        "variable": ("obs", [LAYOUT.channel_names[c]]),
    }
    error = 0.1 * SCALE[LAYOUT.channel_names[c]]
    b = float(prior.covariance_at(r).variance[c]) + prior.unresolved_at(r)[0, c] ** 2
    expected = np.sqrt(error**2 + (r * prior.scale[0, c]) ** 2 * b)
    for factor, rejected in ((2.98, 0), (3.02, 1)):
        value = MEAN[LAYOUT.channel_names[c]] + factor * expected
        one, other = (
            xr.Dataset({"value": ("obs", [v]), "error_std": ("obs", [error])}, place)
            for v in (value, MEAN[LAYOUT.channel_names[c]])
        )
        both = xr.concat([one, *[other] * 4], "obs")
        _, _, record = observe(
            both,
            prior,
            _full(MEAN),
            TIME,
            window="6h",
            quality=Quality(gross_check=3.0),
            background_error=r,
        )
        assert record["rejected"].get("gross error", 0) == rejected


def test_r_of_the_spread_of_members(prior) -> None:
    members = np.stack([_full(MEAN) + _drawn(prior, 0.3, seed) for seed in range(30)])
    assert r_of_spread(members, prior) == pytest.approx(0.3, rel=0.05)


# ---- small scales of a hybrid ----------------------------------------------------------


@pytest.mark.long
def test_small_scales_of_a_hybrid_have_the_share_of_b(prior) -> None:
    """Analysis members around background members: those keep their own small scales.

    What is added is sqrt(alpha) of a draw: with an ensemble without small scales and
    observations that say nothing, the unresolved variance of the analysis is alpha of it.
    """
    from xdiffda.covariance.small_scales import unresolved_part

    alpha = 0.3
    keys = jax.random.split(jax.random.key(1), 6)
    z = np.moveaxis(np.asarray(prior.covariance_at(1.0).sample(keys)), 1, 0)
    states = xr.concat([_label(_full(MEAN) + prior.scale * one) for one in z], "member")
    obs = emulate_obs(_label(_full(MEAN)), n_columns=3, error_std=prior.typical_error(50.0), seed=0)
    analysis = xdiffda.assimilate(
        states,
        obs,
        model=prior,
        n_members=24,
        background_error=1.0,
        method=xdiffda.Guided(antithetic=False, hybrid=xdiffda.ensemble.Hybrid(alpha=alpha)),
        progress=False,
    )
    x = np.stack(
        [xdiffda.state.convert.to_state(analysis.isel(member=m), LAYOUT)[0] for m in range(24)]
    )
    beyond = unresolved_part(prior.covariance.basis, (x - _full(MEAN)) / prior.scale)
    found = np.average((beyond**2).mean((0, 2)), weights=AREA)
    expected = alpha * np.average((prior.unresolved_at(1.0) ** 2).mean(1), weights=AREA)
    assert found == pytest.approx(expected, rel=0.12)


# ---- what an analysis says of itself -----------------------------------------------------


def test_attributes_are_the_same_text_from_a_file_for_one_time_and_for_two(prior, tmp_path) -> None:
    """A list of one number comes back from netCDF as a number: they are JSON text."""
    background = xr.concat(
        [_label(_full(MEAN)).assign_coords(time=TIME + np.timedelta64(6 * i, "h")) for i in (0, 1)],
        "time",
    )
    obs = emulate_obs(background, n_columns=9, error_std=prior.typical_error(0.5), seed=0)
    for n in (1, 2):
        made = xdiffda.assimilate(
            background.isel(time=slice(n)), obs, model=prior, method="oi", progress=False
        )
        made.to_netcdf(tmp_path / f"{n}.nc")
        with xr.open_dataset(tmp_path / f"{n}.nc") as found:
            for name, value in made.attrs.items():
                assert found.attrs[name] == value, name
            assert len(json.loads(found.attrs["xdiffda_background_error"])) == n
            assert json.loads(found.attrs["xdiffda_observations_used"]) == [27] * n
            assert json.loads(found.attrs["xdiffda_solver_residual"]) == [None] * n


def test_too_few_steps_warn_with_a_number_that_does_not() -> None:
    prior = make_prior(SampledPrior)
    obs = emulate_obs(_label(_full(MEAN)), n_columns=5, error_std=ERRORS, seed=0)
    ask = {"model": prior, "n_members": 2, "progress": False}
    with pytest.warns(UserWarning, match="n_steps=3 .*60 % .*repair: n_steps=4"):
        xdiffda.assimilate(_label(_full(MEAN)), obs, method=xdiffda.Guided(n_steps=3), **ask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xdiffda.assimilate(_label(_full(MEAN)), obs, method=xdiffda.Guided(n_steps=4), **ask)


def _sounding_prior() -> ReferencePrior:
    layout = Layout(equiangular(13, 24, poles=True), ("geopotential", "temperature"), (500, 850))
    return reference_prior(layout, truncation=5)


@pytest.mark.parametrize("n_site, closest", [(1, None), (200, (2.0, 0.6))])
def test_factors_of_groups_follow_many_soundings_and_not_one(
    n_site: int, closest: tuple[float, float] | None
) -> None:
    """Departures of mass are twice, of temperature 0.6 of what the prior expects."""
    prior, rng = _sounding_prior(), np.random.default_rng(0)
    assert set(prior.groups) == {"mass", "temperature"}
    # at grid points: elsewhere interpolation would take variance away
    node = np.sort(rng.choice(np.arange(48, 264), n_site, replace=False))
    lat, lon = prior.layout.grid.node_lat[node], prior.layout.grid.node_lon[node]
    n = len(prior.layout.channels)
    names, levels = (np.tile([c[i] for c in prior.layout.channels], n_site) for i in (0, 1))
    expected = prior.scale[node].reshape(-1)
    size = expected * np.where(names == "geopotential", 2.0, 0.6)
    error = 0.3 * expected
    tidy = xr.Dataset(
        {
            "value": ("obs", np.hypot(size, error) * rng.normal(size=n * n_site)),
            "error_std": ("obs", error),
        },
        {
            "variable": ("obs", names),
            "lat": ("obs", np.repeat(lat, n)),
            "lon": ("obs", np.repeat(lon, n)),
            "level": ("obs", levels.astype(float)),
            "time": ("obs", np.full(n * n_site, np.datetime64("NaT", "ns"))),
        },
    )
    background = np.zeros(prior.scale.shape, np.float32)
    quality = Quality(gross_check=10.0, ranges=False)  # values are departures
    settings = {"window": "6h", "quality": quality, "background_error": "estimate"}
    _, r, record = observe(tidy, prior, background, None, **settings)
    found = [r * record["factors"][name] for name in ("mass", "temperature")]
    if closest is None:
        assert all(0.7 < factor < 1.5 for factor in record["factors"].values())
    else:
        np.testing.assert_allclose(found, closest, rtol=0.15)
    fixed = observe(tidy, prior, background, None, **settings | {"background_error": 1.0})
    assert fixed[2]["factors"] == {}
