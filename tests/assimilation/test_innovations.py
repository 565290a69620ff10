"""observe: from a table of observations of any kind to the whitened likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.assimilation.innovations import observe
from xdiffda.covariance.harmonics import sphere_basis
from xdiffda.covariance.spectral import SpectralCovariance
from xdiffda.diffusion.kalman import Solver, kalman_increment, update
from xdiffda.errors import InputError
from xdiffda.observations import Operator, first_guess, to_tidy
from xdiffda.observations.quality import Quality
from xdiffda.observations.robust import Robust
from xdiffda.priors.prior import GaussianPrior
from xdiffda.state.grid import Grid, Layout
from xdiffda.state.variables import G0

LEVELS = (500, 700, 850)
GRID = Grid.from_coords(-78.75 + 22.5 * np.arange(8), 22.5 * np.arange(16))
NAMES = (
    "geopotential",
    "mean_sea_level_pressure",
    "specific_humidity",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
)
LAYOUT = Layout(GRID, NAMES, LEVELS)
MEAN = {
    "geopotential": (54000.0, 30000.0, 14500.0),
    "mean_sea_level_pressure": 101000.0,
    "specific_humidity": (1e-3, 4e-3, 7e-3),
    "temperature": (255.0, 272.0, 281.0),
    "u_component_of_wind": 8.0,
    "v_component_of_wind": -5.0,
}
SCALE = {
    "geopotential": 200.0,
    "mean_sea_level_pressure": 200.0,
    "specific_humidity": 5e-4,
    "temperature": 1.5,
    "u_component_of_wind": 2.0,
    "v_component_of_wind": 2.0,
}
NOW = np.datetime64("2020-01-15T12", "ns")
HOUR = np.timedelta64(1, "h")
QUALITY = Quality(gross_check=10.0, duplicates=False)
SETTINGS = {"window": "6h", "quality": QUALITY, "background_error": 1.0}
OBSERVED = {  # variable: (value, error, level, level_bottom, station_height)
    "temperature": (271.0, 0.8, 700.0, np.nan, np.nan),
    "wind_speed": (10.5, 1.0, 600.0, np.nan, np.nan),
    "wind_from_direction": (310.0, 8.0, 850.0, np.nan, np.nan),
    "relative_humidity": (60.0, 8.0, 850.0, np.nan, np.nan),
    "surface_pressure": (95800.0, 100.0, np.nan, np.nan, 450.0),
    "thickness": (24200.0, 120.0, 500.0, 700.0, np.nan),
    "layer_mean_temperature": (270.0, 0.7, 550.0, 800.0, np.nan),
    "my_square": (8e4, 500.0, np.nan, np.nan, np.nan),
    "my_local": (280.0, 1.0, np.nan, np.nan, np.nan),
}


def _whole(state, obs):
    return jnp.mean(state["temperature@850"] ** 2) + 10.0 * jnp.sin(obs["lat"])


OPERATORS = {
    "my_square": _whole,
    "my_local": Operator(lambda s: s["temperature@850"], inputs=("temperature@850",)),
}


@pytest.fixture(scope="module")
def prior() -> GaussianPrior:
    basis = sphere_basis(GRID.lat, GRID.lon, 5)
    spectrum = 1 / (1 + (np.arange(basis.mask.shape[0]) / 2.0) ** 3)
    count = np.asarray(basis.multiplicity)
    spectrum /= (spectrum * count).sum() / count.sum()
    n = LAYOUT.n_channel
    channels = 0.3 + 0.7 * np.eye(n)
    covariance = SpectralCovariance.from_blocks(basis, spectrum[:, None, None] * channels)
    scale = np.tile([SCALE[c.split("@")[0]] for c in LAYOUT.channel_names], (GRID.n_node, 1))
    unresolved = np.full((GRID.n_node, n), 0.1)
    return GaussianPrior(LAYOUT, scale, covariance, unresolved=unresolved)


@pytest.fixture(scope="module")
def background() -> np.ndarray:
    def size(name):
        return len(range(*LAYOUT.channel_slice(name).indices(99)))

    row = np.concatenate([np.broadcast_to(MEAN[name], size(name)) for name in NAMES])
    wave = 1e-3 * np.sin(np.arange(GRID.n_node * row.size)).reshape(-1, row.size)
    return row * (1 + wave)


def _table(names=tuple(OBSERVED), n: int = 4, seed: int = 0) -> xr.Dataset:
    """``n`` sites at which all of ``names`` are observed."""
    rng = np.random.default_rng(seed)
    lat, lon = rng.uniform(-70, 70, n), rng.uniform(0, 360, n)
    rows = [(name, *OBSERVED[name], lat[s], lon[s], s) for s in range(n) for name in names]
    variable, value, error, level, bottom, height, lat, lon, site = map(
        np.array, zip(*rows, strict=True)
    )
    value = value * (1 + 1e-3 * site)

    def column(x):
        return ("obs", x)

    return xr.Dataset(
        {"value": column(value), "error_std": column(error)},
        {
            "variable": column(variable),
            "level": column(level),
            "level_bottom": column(bottom),
            "station_height": column(height),
            "lat": column(lat),
            "lon": column(lon),
            "time": column(np.full(len(rows), NOW)),
        },
    )


def _observe(prior, background, tidy, **settings):
    given = {"operators": OPERATORS} | SETTINGS | settings
    return observe(tidy, prior, background, NOW, **given)


def _perturbed(prior, background, seed=0, size=0.3):
    z = size * np.asarray(prior.covariance.sample(jax.random.split(jax.random.key(seed), 1)))
    return z, background + prior.scale * z[:, 0]


@pytest.mark.long
def test_the_likelihood_holds_departures_of_every_kind(prior, background):
    """Innovations are y - H(x_b), and those of z are y - H(x_b + s z), for each kind of H."""
    tidy = _table()
    likelihood, r, record = _observe(prior, background, tidy)
    assert r == 1.0 and record["used"] == 36 and not record["rejected"]
    assert record["kept"].tolist() == list(range(36))
    assert likelihood.n_obs % 128 == 0 and len(likelihood.general) == 1
    z, x = _perturbed(prior, background)
    for state, at in ((background, np.zeros_like(z)), (x, z)):
        seen, _ = first_guess(tidy, LAYOUT, state, operators=OPERATORS)
        departure = tidy.value.values - seen
        turns = np.where(tidy.variable.values == "wind_from_direction", 360.0, np.inf)
        departure -= np.where(np.isfinite(turns), turns * np.round(departure / turns), 0.0)
        found = np.asarray(likelihood.innovation(jnp.asarray(at, jnp.float32)))[:, 0]
        # errors are those stated or a little more (representativeness): compare what is left
        expected = np.sort(np.abs(departure / tidy.error_std.values))
        found = np.sort(np.abs(found))[-36:]
        assert np.all(found < 1.02 * expected + 2e-2) and np.all(found > 0.5 * expected - 2e-2)


@pytest.mark.long
def test_adjoint_of_all_kinds_together(prior, background):
    likelihood, _, _ = _observe(prior, background, _table(), error_correlation=0.5)
    rng = np.random.default_rng(0)
    point = jnp.asarray(0.3 * rng.normal(size=(GRID.n_node, LAYOUT.n_channel)), jnp.float32)
    for h in (likelihood, likelihood.tangent(point)):
        x = jnp.asarray(rng.normal(size=(GRID.n_node, 2, LAYOUT.n_channel)), jnp.float32)
        y = jnp.asarray(rng.normal(size=(h.n_obs, 2)), jnp.float32)
        left, right = jnp.vdot(h.apply(x), y), jnp.vdot(x, h.adjoint(y, x.shape))
        assert float(left) == pytest.approx(float(right), rel=1e-4)


def test_tangent_of_all_kinds_agrees_with_finite_differences(prior, background):
    likelihood, _, _ = _observe(prior, background, _table())
    z, _ = _perturbed(prior, background)
    dz, _ = _perturbed(prior, background, seed=1)
    step = 0.05
    ends = [likelihood.predict(jnp.asarray(z + s * step * dz, jnp.float32)) for s in (1, -1)]
    numeric = (ends[0] - ends[1])[:, 0] / (2 * step)
    tangent = likelihood.tangent(jnp.asarray(z[:, 0], jnp.float32)).apply(jnp.asarray(dz))[:, 0]
    np.testing.assert_allclose(tangent, numeric, atol=5e-3 * float(jnp.abs(tangent).max()))


def test_the_order_of_the_table_changes_nothing(prior, background):
    tidy = _table([n for n in OBSERVED if n != "my_square"])
    order = np.random.default_rng(0).permutation(tidy.sizes["obs"])
    a, _, _ = _observe(prior, background, tidy, error_correlation={"temperature": 0.5})
    b, _, _ = _observe(prior, background, tidy.isel(obs=order), error_correlation={"t": 0.5})
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rolling_longitude_rolls_the_departures(prior, background):
    tidy = _table([n for n in OBSERVED if not n.startswith("my")])
    shape = (*GRID.shape, LAYOUT.n_channel)
    rolled = np.roll(background.reshape(shape), 5, axis=1).reshape(background.shape)
    moved = tidy.assign_coords(lon=(tidy.lon + 5 * 22.5) % 360)
    values = [
        np.sort(np.asarray(_observe(prior, x, t)[0].value))
        for x, t in ((background, tidy), (rolled, moved))
    ]
    np.testing.assert_allclose(*values, atol=1e-3)


def test_a_function_of_the_state_equals_the_sparse_operator_that_does_the_same(prior, background):
    i, j, c = 3, 5, LAYOUT.channel_index("temperature", 700)
    place = {"lat": ("obs", [GRID.lat[i]]), "lon": ("obs", [GRID.lon[j]])}
    tidy = _table(("temperature",), n=1).assign_coords(place)
    mine = tidy.assign_coords(variable=("obs", ["node"]))

    def node(state, obs):
        return state["temperature@700"][i, j][None] + 0 * obs["lat"]

    linear, _, _ = _observe(prior, background, tidy)
    general, _, _ = _observe(prior, background, mine, operators={"node": node})
    # representativeness of a function is judged by 16 draws: the errors differ a little
    np.testing.assert_allclose(general.value, linear.value, rtol=2e-2, atol=1e-6)
    zero = jnp.zeros((GRID.n_node, 1, LAYOUT.n_channel))
    a, b = (
        update(one, prior.covariance, zero, solver=Solver(1e-6, 100))[0]
        for one in (linear, general)
    )
    np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.abs(a).max()))
    assert float(jnp.abs(a[i * 16 + j, 0, c])) > 0.1


def test_departures_at_the_times_of_observations(prior, background):
    """First guess at appropriate time: the departure has the trend, the tangent does not."""
    times = NOW + np.array([-3, 0, 3]) * HOUR
    trend = 0.4 * prior.scale
    states = np.stack([background + k * trend for k in (-1, 0, 1)])
    tidy = _table(("temperature", "wind_speed"), n=3)
    late = tidy.assign_coords(time=("obs", np.full(6, NOW + 2 * HOUR)))
    here, _, _ = _observe(prior, background, tidy)
    there, _, record = _observe(prior, background, late, trajectory=(times, states))
    moved, _, _ = _observe(prior, background + trend * 2 / 3, late)
    np.testing.assert_allclose(there.value, moved.value, atol=2e-4)
    assert np.abs(np.asarray(there.value - here.value)).max() > 0.1
    assert record["used"] == 6
    same, _, _ = _observe(prior, background, tidy, trajectory=(times, states))
    np.testing.assert_allclose(same.value, here.value, atol=1e-5)
    with pytest.raises(InputError, match="6 outside the times of the trajectory"):
        _observe(prior, background, late, trajectory=(times[:2], states[:2]))


def test_correlated_errors_are_whitened(prior, background):
    tidy = _table(("temperature",), n=5)
    lower = tidy.assign_coords(level=("obs", np.full(5, 850.0))).assign(value=tidy.value + 9.0)
    both = xr.concat([tidy, lower], "obs")
    plain, _, _ = _observe(prior, background, both)
    correlated, _, _ = _observe(prior, background, both, error_correlation={"t": 0.4})
    whitening = correlated.whitening
    assert plain.whitening is None and whitening is not None
    coloured = whitening.colour(correlated.value[:, None])[:, 0]
    np.testing.assert_allclose(coloured, plain.value, atol=1e-5)
    # the off-diagonal is that of the stated error, which is less than the whole
    product = np.asarray(whitening.factor[0] @ whitening.factor[0].T)
    stated = np.exp(-np.log(850 / 700) / 0.4)
    assert 0.9 * stated < product[0, 1] < stated
    # twice at one level R is singular, unless what the basis cannot represent keeps them apart
    twice = both.assign_coords(level=("obs", np.full(10, 700.0)))
    assert _observe(prior, background, twice, error_correlation={"t": 0.4})[2]["used"] == 10
    complete = GaussianPrior(LAYOUT, prior.scale, prior.covariance)
    with pytest.raises(
        InputError, match="covariance R.*\n.*singular: errors of temperature at lat"
    ):
        _observe(complete, background, twice, error_correlation={"t": 0.4})


def test_directions_in_calm_and_gross_values_are_rejected_by_reason(prior, background):
    calm = background.copy()
    calm[:, LAYOUT.channel_slice("u_component_of_wind")] = 0.1
    calm[:, LAYOUT.channel_slice("v_component_of_wind")] = 0.1
    tidy = _table(("wind_from_direction", "temperature"), n=2)
    value = tidy.value.values.copy()
    value[1] += 60.0
    quality = Quality(ranges=False)
    _, _, record = _observe(prior, calm, tidy.assign(value=("obs", value)), quality=quality)
    assert record["rejected"] == {
        "wind direction where the background wind is too weak": 2,
        "gross error": 1,
    }
    assert record["kept"].tolist() == [3]
    assert [rows.tolist() for rows in record["lost"].values()] == [[0, 2], [1]]


def test_rejected_rows_of_a_function_see_nothing(prior, background):
    tidy = _table(("relative_humidity",), n=3)
    value = tidy.value.values.copy()
    value[0] = 199.0
    likelihood, _, record = _observe(
        prior, background, tidy.assign(value=("obs", value)), quality=Quality(gross_check=3.0)
    )
    assert record["used"] == 2
    z, _ = _perturbed(prior, background, size=1.0)
    predicted = np.asarray(likelihood.predict(jnp.asarray(z, jnp.float32)))
    assert np.isfinite(predicted).all() and np.count_nonzero(predicted) == 2


def test_operators_that_are_not_finite_are_refused_or_rejected(prior, background):
    tidy = _table(("my_local", "temperature"), n=2)
    log = Operator(lambda s: jnp.log(s["temperature@850"] - 400.0), ("temperature@850",))
    _, _, record = _observe(prior, background, tidy, operators={"my_local": log})
    assert record["rejected"] == {"where the operator is not finite at the background": 2}

    def whole(state, obs):
        return jnp.log(-state["temperature@850"][0, :2])

    with pytest.raises(InputError, match=r"H\(my_local\) or its derivative not finite.*2 of 2"):
        _observe(prior, background, tidy, operators={"my_local": whole})


def test_nothing_usable_is_an_error_with_reasons(prior, background):
    tidy = _table(("surface_pressure",), n=2)
    tidy = tidy.assign_coords(station_height=("obs", np.full(2, np.nan)))
    with pytest.raises(InputError, match="none of 2.*2 of surface_pressure without station_height"):
        _observe(prior, background, tidy)
    orography = np.full(GRID.n_node, G0 * 450.0)
    assert _observe(prior, background, tidy, orography=orography)[2]["used"] == 2


def test_robust_weights_of_the_quality_control_reach_the_likelihood(prior, background):
    tidy = _table(("temperature",), n=2)
    assert _observe(prior, background, tidy)[0].robust is None
    huber = _observe(prior, background, tidy, quality=Quality(robust="huber"))[0]
    assert huber.robust == Robust("huber")


def test_linear_observations_are_as_before(prior, background):
    """Only interpolated variables and independent errors: three arrays, a single solve."""
    tidy = to_tidy(_table(("temperature",), n=6))
    likelihood, _, _ = _observe(prior, background, tidy, operators=None)
    assert likelihood.is_linear and likelihood.period is None and likelihood.whitening is None
    zero = jnp.zeros((GRID.n_node, 1, LAYOUT.n_channel))
    direct, _ = kalman_increment(
        likelihood, prior.covariance, likelihood.value[:, None], zero.shape, Solver()
    )
    updated, scale, *_ = update(likelihood, prior.covariance, zero, solver=Solver())
    np.testing.assert_array_equal(direct, updated)
    assert scale is None
