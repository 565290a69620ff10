"""The prior `reference`: its table, marginals, sizes, balance and posterior."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from places import SHARED

import xdiffda
from xdiffda.assimilation import innovations
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.diffusion.guidance import Solver
from xdiffda.errors import InputError
from xdiffda.observations import to_tidy
from xdiffda.priors.reference import ReferencePrior, read_table, reference_prior
from xdiffda.priors.reference_table import make_table, saturation, usual_temperature
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, to_state
from xdiffda.state.grid import Grid, Layout, equiangular

G0, OMEGA, RADIUS = 9.80665, 7.292e-5, 6371220.0
WINDS = ("u_component_of_wind", "v_component_of_wind")
LEVELS = (200, 250, 300, 350, 400, 450, 500, 700, 850, 1000)
GAUSSIAN = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(24)[0]))
GRIDS = {
    "poles": equiangular(37, 72, poles=True),
    "cell centres": equiangular(32, 64, poles=False),
    "gaussian": Grid.from_coords(GAUSSIAN, np.arange(48) * 7.5),
    "longitudes from 2.5": Grid.from_coords(np.linspace(-85, 85, 18), 2.5 + np.arange(36) * 10.0),
}
SURFACE = (
    "mean_sea_level_pressure",
    "surface_pressure",
    "2m_temperature",
    "2m_dewpoint_temperature",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
)
N_DRAW = 24


@pytest.fixture(scope="module")
def prior() -> ReferencePrior:
    names = (*WINDS, "temperature", "geopotential", "specific_humidity", *SURFACE)
    return reference_prior(Layout(equiangular(73, 144, poles=True), names, LEVELS))


@pytest.fixture(scope="module")
def drawn(prior: ReferencePrior) -> tuple[np.ndarray, np.ndarray]:
    """Resolved part and all of draws, physical units (node, draw, channel)."""
    keys = jax.random.split(jax.random.key(0), 2 * N_DRAW)
    z = np.asarray(prior.covariance.sample(keys[:N_DRAW]), np.float64)
    unresolved = prior.unresolved_scales()
    assert unresolved is not None
    scale = prior.scale[:, None].astype(np.float64)
    return z * scale, (z + np.asarray(unresolved.draw(keys[N_DRAW:]))) * scale


def _column(prior: ReferencePrior, x: np.ndarray, name: str, level: int | None) -> np.ndarray:
    """One channel of draws (row, column, draw)."""
    channel = x[..., prior.layout.channel_index(name, level)]
    return channel.reshape(*prior.layout.grid.shape, -1)


def _rms(prior: ReferencePrior, x: np.ndarray, name: str, level: int | None) -> float:
    weight = prior.layout.grid.area_weights()
    square = (x[..., prior.layout.channel_index(name, level)] ** 2).mean(1)
    return float(np.sqrt((weight * square).mean()))


@pytest.mark.skipif(not (SHARED / "data" / "covariance").exists(), reason="needs ../shared")
def test_the_table_is_what_the_command_makes() -> None:
    folder = SHARED / "data" / "covariance"
    made = make_table(
        folder / "gsi-coeffs-geos-global-l72x72y46.nc4",
        folder / "nmc-gdas-static-covariance-v1.npz",
    )
    kept = read_table()
    assert {name: made.attrs[name] for name in ("geos_sha256", "nmc_sha256")} == {
        name: kept.attrs[name] for name in ("geos_sha256", "nmc_sha256")
    }
    for name, values in kept.values.items():
        np.testing.assert_allclose(values, made[name].values, atol=1.1e-4, rtol=1e-5, err_msg=name)


def test_the_table_is_small_and_comes_with_its_sources() -> None:
    folder = Path(xdiffda.__file__).parent / "priors"
    assert (folder / "reference.nc").stat().st_size < 300_000
    notice = (folder / "NOTICE").read_text()
    assert "GSIbec" in notice and "gpuwm-global" in notice and "Apache License" in notice


def test_covariances_of_the_table_are_covariances() -> None:
    table = read_table()
    for name in ("psi", "chi", "mass", "humidity"):
        blocks = getattr(table, name)
        np.testing.assert_allclose(blocks, blocks.swapaxes(1, 2), atol=1e-9 * blocks.max())
        size = np.sqrt(np.maximum(np.einsum("dcc->dc", blocks), 1e-300))
        least = np.linalg.eigvalsh(blocks / size[:, :, None] / size[:, None])[:, 0]
        assert least.min() > -1e-4, name  # the file keeps four digits


@pytest.mark.long
@pytest.mark.parametrize("kind", list(GRIDS))
def test_levels_picked_have_the_covariance_that_they_have_among_all(kind: str) -> None:
    names = (*WINDS, "temperature", "geopotential")
    whole = reference_prior(Layout(GRIDS[kind], names, (100, 250, 500, 700, 850)))
    part = reference_prior(Layout(GRIDS[kind], ("geopotential", "temperature", *WINDS), (500, 850)))
    lone = reference_prior(Layout(GRIDS[kind], ("temperature",), (500,)))
    n = whole.layout.grid.n_node
    where = [whole.layout.channel_index(*channel) for channel in part.layout.channels]
    point = np.zeros((n, 3, part.layout.n_channel), np.float32)
    point[n // 3, 0, 0], point[n // 2 + 5, 1, 3], point[n - 7, 2, 5] = 1, 1, 1
    wide = np.zeros((n, 3, whole.layout.n_channel), np.float32)
    wide[..., where] = point / part.scale[:, None] * whole.scale[:, None][..., where]
    expected = np.asarray(whole.covariance(jnp.asarray(wide)))[..., where]
    expected = expected * whole.scale[:, None][..., where] / part.scale[:, None]
    found = np.asarray(part.covariance(jnp.asarray(point)))
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    own = part.layout.channel_index("temperature", 500)
    np.testing.assert_allclose(lone.scale[:, 0], part.scale[:, own], rtol=1e-5)
    np.testing.assert_allclose(lone.unresolved[:, 0], part.unresolved[:, own], rtol=1e-4)
    pulse = np.zeros((n, 1, 1), np.float32)
    pulse[n // 3] = 1
    beside = np.zeros((n, 1, part.layout.n_channel), np.float32)
    beside[..., own] = pulse[..., 0]
    other = np.asarray(part.covariance(jnp.asarray(beside)))[..., own]
    np.testing.assert_allclose(lone.covariance(jnp.asarray(pulse))[..., 0], other, atol=2e-4)


@pytest.mark.long
def test_draws_have_the_standard_deviations_of_the_table(
    prior: ReferencePrior, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    x, table = drawn[1], read_table()
    levels = np.exp(table.log_p).round().astype(int).tolist()
    for level in LEVELS:
        at = levels.index(level)
        for name, key in (
            *((wind, "std_wind") for wind in WINDS),
            ("temperature", "std_temperature"),
            ("geopotential", "std_geopotential"),
        ):
            expected = table.values[key][at]
            assert _rms(prior, x, name, level) == pytest.approx(expected, rel=0.03), (name, level)
    known = {"2m_temperature": 1.06, "10m_u_component_of_wind": 0.95}
    known |= {"10m_v_component_of_wind": 0.95, "mean_sea_level_pressure": 76.5}
    for name, expected in known.items():
        assert _rms(prior, x, name, None) == pytest.approx(expected, rel=0.03), name
    # GraphCast's error at 24 h (Lam et al. 2023)
    assert _rms(prior, x, "specific_humidity", 850) == pytest.approx(0.69e-3, rel=0.03)


def test_variance_of_each_row_is_that_of_the_scale(
    prior: ReferencePrior, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    n_lat = prior.layout.grid.n_lat
    square = (drawn[1] ** 2).reshape(n_lat, -1, prior.layout.n_channel).mean(1)
    scale = prior.scale.reshape(n_lat, -1, prior.layout.n_channel)[:, 0]
    ratio = np.sqrt(square) / scale
    assert abs(np.median(ratio) - 1) < 0.02
    assert np.quantile(abs(ratio - 1), 0.95) < 0.15


@pytest.mark.parametrize("level", [200, 250, 300, 400, 500])
@pytest.mark.parametrize("hemisphere", [1, -1])
def test_winds_are_geostrophic_in_mid_latitudes(
    prior: ReferencePrior, drawn: tuple[np.ndarray, np.ndarray], level: int, hemisphere: int
) -> None:
    grid = prior.layout.grid
    lat = np.deg2rad(np.array(grid.lat))
    z = _column(prior, drawn[0], "geopotential", level)
    f = 2 * OMEGA * np.sin(lat)[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        u = -np.gradient(z, lat, axis=0) / f / RADIUS
        step = 2 * np.deg2rad(grid.lon_spacing_deg)
        v = (np.roll(z, -1, 1) - np.roll(z, 1, 1)) / step / f / RADIUS
        v /= np.cos(lat)[:, None, None]
    rows = (hemisphere * lat > np.deg2rad(30)) & (hemisphere * lat < np.deg2rad(70))
    for name, geostrophic in zip(WINDS, (u, v), strict=True):
        own = _column(prior, drawn[0], name, level)[rows]
        assert np.corrcoef(own.ravel(), geostrophic[rows].ravel())[0, 1] >= 0.65


def test_thickness_is_hydrostatic(
    prior: ReferencePrior, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    """phi(300) - phi(500) = R times the integral of T over ln p."""
    between = [300, 350, 400, 450, 500]
    x = [_column(prior, drawn[0], "temperature", level) for level in between]
    log = np.log(between)
    expected = 287.05 * np.trapezoid(np.stack(x), log, axis=0)
    top, bottom = (_column(prior, drawn[0], "geopotential", level) for level in (300, 500))
    found = top - bottom
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.95
    assert expected.std() / found.std() == pytest.approx(1, abs=0.1)


@pytest.mark.long
def test_divergence_is_a_sensible_part_of_the_wind(prior: ReferencePrior) -> None:
    keys = jax.random.split(jax.random.key(5), 12)
    winds = list(prior.layout.channels)
    for level, low, high in ((200, 0.25, 0.5), (500, 0.2, 0.4), (850, 0.2, 0.4)):
        pair = [winds.index((name, level)) for name in WINDS]
        layout = Layout(prior.layout.grid, WINDS, (level,))
        own = reference_prior(layout)
        z = own.covariance.sample(keys)
        from xdiffda.covariance.balance import balanced_basis

        a = np.asarray(balanced_basis(layout, 71).analysis(z))
        share = (a[..., 1] ** 2).sum() / (a**2).sum()
        assert low < share < high, (level, share)
        assert prior.scale[0, pair[0]] == pytest.approx(float(own.scale[0, 0]), rel=1e-5)


def test_the_total_variance_does_not_depend_on_the_truncation() -> None:
    layout = Layout(GRIDS["poles"], (*WINDS, "geopotential", "2m_temperature"), (500, 850))
    coarse, fine = (reference_prior(layout, truncation=n) for n in (15, 35))
    np.testing.assert_allclose(coarse.scale, fine.scale, rtol=0.03)
    assert (coarse.unresolved > fine.unresolved).all()
    both = [np.asarray(p.covariance.variance) + (p.unresolved**2).mean(0) for p in (coarse, fine)]
    np.testing.assert_allclose(both, 1.0, atol=0.06)


def test_lead_times_scale_each_variable_by_its_own_growth() -> None:
    layout = Layout(GRIDS["poles"], ("geopotential", "temperature", "2m_temperature"), (500,))
    day, two, six, three = (reference_prior(layout, lead_time=t) for t in ("24h", "2D", 6, "72h"))
    growth = dict(zip(layout.channel_names, (two.scale / day.scale)[0], strict=True))
    assert growth["geopotential@500"] == pytest.approx(1.92, rel=1e-4)
    assert growth["temperature@500"] == pytest.approx(1.31, rel=1e-4)
    assert growth["2m_temperature"] == pytest.approx(1.19, rel=1e-4)
    assert (six.scale < day.scale).all() and (two.scale < three.scale).all()
    state = from_state(np.full((layout.grid.n_node, 3), 250.0), layout, default_convention(layout))
    told = state.assign_coords(time=np.datetime64("2024-01-01", "ns"), step=np.timedelta64(48, "h"))
    np.testing.assert_array_equal(reference_prior(told).scale, two.scale)
    assert reference_prior(told).lead_hours == 48


def _state(prior: ReferencePrior, **values: float) -> np.ndarray:
    row = [values.get(name, 5.0) for name, _ in prior.layout.channels]
    return np.tile(np.array(row, np.float32), (prior.layout.grid.n_node, 1))


def test_errors_of_humidity_follow_the_background() -> None:
    layout = Layout(GRIDS["cell centres"], ("specific_humidity", "temperature"), (850,))
    prior = reference_prior(layout)
    equator = int(np.argmin(abs(layout.grid.node_lat)))
    warm, cold = (
        prior.at_background(_state(prior, temperature=t, specific_humidity=0.01)).scale[equator, 0]
        for t in (285.0, 265.0)
    )
    expected = saturation(np.array(285.0), np.array(850.0)) / saturation(
        np.array(265.0), np.array(850.0)
    )
    assert warm / cold == pytest.approx(float(expected), rel=1e-3)
    usual = usual_temperature(layout.grid.node_lat, 850.0)
    background = np.stack([np.full(usual.size, 0.05), usual], axis=1).astype(np.float32)
    np.testing.assert_allclose(prior.at_background(background).scale, prior.scale, rtol=1e-4)
    dry = prior.at_background(_state(prior, temperature=285.0, specific_humidity=1e-5))
    assert dry.scale[equator, 0] < 0.7 * warm
    again = dry.at_background(_state(prior, temperature=285.0, specific_humidity=0.01))
    assert again.scale[equator, 0] == pytest.approx(float(warm))


def _world(prior: ReferencePrior, **values: float) -> xr.Dataset:
    state = _state(prior, **values)
    background = from_state(state, prior.layout, default_convention(prior.layout))
    return background.assign_coords(time=np.datetime64("2024-01-01T12", "ns"))


def _table(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns).assign(time=np.datetime64("2024-01-01T12", "ns"))


def test_analyses_of_humidity_are_never_negative() -> None:
    layout = Layout(GRIDS["cell centres"], ("specific_humidity", "temperature"), (850,))
    prior = reference_prior(layout)
    background = _world(prior, temperature=280.0, specific_humidity=1e-3)
    obs = _table(
        variable=["specific_humidity"] * 3,
        lat=[10.0, 40.0, -30.0],
        lon=[10.0, 100.0, 200.0],
        level=[850] * 3,
        value=[1e-6] * 3,
        error_std=[1e-4] * 3,
    )
    found = assimilate(background, obs, model=prior, n_members=8, progress=False)
    assert float(found["specific_humidity"].min()) >= 0
    assert float(found["specific_humidity"].std("member").max()) > 1e-4


@pytest.mark.long
def test_members_follow_the_exact_posterior() -> None:
    """Against dense algebra: prior with its unresolved part, four observations of four kinds."""
    layout = Layout(
        equiangular(19, 36, poles=True), (*WINDS, "geopotential", "temperature"), (500, 850)
    )
    prior = reference_prior(layout)
    background = _world(prior, geopotential=54000.0, temperature=255.0)
    obs = _table(
        variable=["temperature", WINDS[0], "geopotential", WINDS[1]],
        lat=[50.0, 47.0, 12.0, 52.0],
        lon=[10.0, 12.0, 200.0, 22.0],
        level=[500, 500, 500, 850],
        value=[256.0, 8.0, 54050.0, 3.0],
        error_std=[0.5, 1.0, 50.0, 1.0],
    )
    settings = {"model": prior, "background_error": 1.0, "progress": False}
    n, solver = 512, Solver(tolerance=1e-5)
    found = assimilate(
        background,
        obs,
        n_members=n,
        method=xdiffda.Guided(max_batch=64, solver=solver, antithetic=False),
        **settings,
    )
    state = _state(prior, geopotential=54000.0, temperature=255.0)
    members = (to_state(found)[0].reshape(n, *prior.scale.shape) - state) / prior.scale
    mean, posterior, h = _kalman(prior, state, obs)
    seen = members.reshape(n, -1) @ h.T
    spread = np.sqrt(np.diag(posterior))
    assert np.abs(seen.mean(0) - h @ mean).max() < 4 * spread.max() / np.sqrt(n)
    np.testing.assert_allclose(np.cov(seen.T), posterior, atol=0.2 * spread.max() ** 2)
    best = assimilate(background, obs, method=xdiffda.ThreeDVar(solver=solver), **settings)
    increment = (to_state(best)[0].reshape(prior.scale.shape) - state) / prior.scale
    np.testing.assert_allclose(increment.reshape(-1), mean, atol=2e-3 * np.abs(mean).max())
    pairs = assimilate(
        background, obs, n_members=2, method=xdiffda.Guided(solver=solver), **settings
    )
    drawn = (to_state(pairs.mean("member"))[0].reshape(prior.scale.shape) - state) / prior.scale
    np.testing.assert_allclose(drawn.reshape(-1), mean, atol=2e-3 * np.abs(mean).max())
    assert found.attrs["xdiffda_network_evaluations"] == 0


def _kalman(
    prior: ReferencePrior, state: np.ndarray, obs: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of z, covariance of H z, and H, of unit observation errors, by dense algebra."""
    likelihood, _, _ = innovations.observe(
        to_tidy(obs), prior, state, None, window="6h", background_error=1.0
    )
    k = len(obs)
    h = np.zeros((k, state.size))
    index, weight = np.asarray(likelihood.index), np.asarray(likelihood.weight, np.float64)
    for row in range(k):
        np.add.at(h[row], index[row], weight[row])
    shape = (state.shape[0], 1, state.shape[1])
    spread = [prior.covariance(jnp.asarray(row.reshape(shape), jnp.float32)) for row in h]
    v = np.stack([np.asarray(one, np.float64).reshape(-1) for one in spread], axis=1)
    v += (prior.unresolved.astype(np.float64) ** 2).reshape(-1, 1) * h.T
    assert likelihood.instrument is not None
    r = np.diag(np.asarray(likelihood.instrument, np.float64)[:k] ** 2)
    s = h @ v + r
    gain = v @ np.linalg.inv(s)
    value = np.asarray(likelihood.value, np.float64)[:k]
    return gain @ value, h @ v - h @ gain @ (h @ v), h


def test_what_the_table_does_not_know_is_left_out_and_said() -> None:
    layout = Layout(GRIDS["poles"], ("temperature", "vertical_velocity"), (500,))
    prior = reference_prior(layout)
    assert prior.layout.variables == ("temperature",) and prior.left_out == ("vertical_velocity",)
    assert "vertical_velocity" in prior.card["data"]


@pytest.mark.parametrize(
    ("variables", "levels", "options", "match"),
    [
        (("vertical_velocity",), (500,), {}, "none whose errors are known"),
        (("temperature",), (500, 1100), {}, r"levels 1100 hPa.*1 to 1050"),
        (("temperature",), (500,), {"truncation": 64}, r"truncation=64.*1 to 31"),
        (("temperature",), (500,), {"truncation": 0}, "truncation=0"),
        (("temperature",), (500,), {"lead_time": "never"}, "lead_time='never'"),
        (("temperature",), (500,), {"lead_time": "20D"}, "0 to 240 hours"),
    ],
)
def test_what_cannot_be_built_is_named(
    variables: tuple[str, ...], levels: tuple[int, ...], options: dict, match: str
) -> None:
    layout = Layout(GRIDS["cell centres"], variables, levels)
    with pytest.raises(InputError, match=match):
        reference_prior(layout, **options)


def test_repaint_needs_a_denoiser() -> None:
    prior = reference_prior(Layout(GRIDS["cell centres"], ("2m_temperature",)))
    obs = _table(variable=["2m_temperature"], lat=[1.0], lon=[1.0], value=[6.0], error_std=[1.0])
    with pytest.raises(InputError, match="a prior with a denoiser"):
        assimilate(_world(prior), obs, model=prior, method="repaint")
