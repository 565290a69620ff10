"""The observation operator: weights, poles, adjoint, and agreement with xarray."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import xdiffda
from xdiffda.errors import InputError
from xdiffda.observations import ObsVector, observation_operator, to_tidy
from xdiffda.observations.stencil import around_pole, horizontal_stencil, vertical_stencil
from xdiffda.state.convert import to_state
from xdiffda.state.grid import Grid, Layout


def _at(lat, lon, name="2m_temperature", level=np.nan) -> xr.Dataset:
    lat, lon = np.broadcast_arrays(np.asarray(lat, float), np.asarray(lon, float))
    n = lat.size
    return xr.Dataset(
        {"value": ("obs", np.zeros(n)), "error_std": ("obs", np.ones(n))},
        {
            "variable": ("obs", np.full(n, name)),
            "level": ("obs", np.full(n, level)),
            "lat": ("obs", lat.ravel()),
            "lon": ("obs", lon.ravel()),
        },
    )


def test_observations_on_the_grid_have_one_weight_and_are_exact(lab, layout):
    grid = layout.grid
    tidy = _at(grid.node_lat, grid.node_lon, "temperature", 500.0)
    # as files have it: rounded to float32, in the other longitude convention
    lon = np.float32(np.where(tidy.lon > 180, tidy.lon - 360, tidy.lon))
    tidy = tidy.assign_coords(lat=tidy.lat.astype("f4"), lon=("obs", lon))
    obs, kept, rejected = observation_operator(tidy, layout)
    assert obs.index.shape == (grid.n_node, 1)
    assert kept.all()
    assert not rejected
    x = lab.state(layout)
    np.testing.assert_array_equal(obs.apply(x), x[:, layout.channel_index("temperature", 500)])


@pytest.mark.parametrize("poles", [False, True])
def test_agrees_with_xarray_interp(lab, poles):
    """Periodic padding makes xarray's linear interpolation the same thing, rows permitting."""
    layout = lab.layout(lab.grid(13, 24, poles=poles))
    x = lab.state(layout)
    tidy = lab.tidy(400, seed=3)
    lat = np.clip(tidy.lat, layout.grid.lat[0], layout.grid.lat[-1])
    tidy = tidy.assign_coords(lat=lat)
    obs, _, _ = observation_operator(tidy, layout)
    field = lab.dataset(layout, x).astype("f8").assign_coords(level=np.log(lab.levels))
    field = field.pad(lon=(1, 1), mode="wrap").assign_coords(
        lon=np.r_[layout.grid.lon[-1] - 360, layout.grid.lon, 360.0]
    )
    for name in lab.names:
        mine = tidy.variable.values == name
        where = {"lat": tidy.lat[mine], "lon": tidy.lon[mine]}
        if name != "2m_temperature":
            where["level"] = np.log(tidy.level[mine])
        expected = field[name].interp(where)
        np.testing.assert_allclose(obs.apply(x)[mine], expected, atol=3e-3)  # SNAP * jumps of 20


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_adjoint(lab, layout, precision):
    """<H x, y> = <x, H' y>, with batch dimensions, to the precision of the arithmetic."""
    obs, _, _ = observation_operator(lab.tidy(300), layout)
    rng = np.random.default_rng(0)
    with jax.enable_x64(precision == "float64"):
        x = jnp.asarray(rng.standard_normal((2, layout.grid.n_node, layout.n_channel)), precision)
        y = jnp.asarray(rng.standard_normal((2, 300)), precision)
        left, right = jnp.vdot(obs.apply(x), y), jnp.vdot(x, obs.adjoint(y))
        assert left.dtype == precision
        assert obs.adjoint(y).shape == x.shape
        tolerance = {"float32": 1e-5, "float64": 1e-13}[precision]
        assert float(left) == pytest.approx(float(right), rel=tolerance)


def test_adjoint_is_what_jax_derives(lab, layout):
    obs, _, _ = observation_operator(lab.tidy(100), layout)
    y = jnp.asarray(np.random.default_rng(0).standard_normal(100), jnp.float32)
    x = jnp.asarray(lab.state(layout))
    (expected,) = jax.linear_transpose(obs.apply, x)(y)
    np.testing.assert_allclose(obs.adjoint(y), expected, atol=1e-6)


@given(seed=st.integers(0, 1000), shift=st.integers(1, 23))
def test_rolling_longitude_rolls_the_operator(lab, layout, seed, shift):
    tidy = lab.tidy(50, seed)
    x = lab.state(layout, seed)
    rolled_x = np.roll(x.reshape(*layout.grid.shape, -1), shift, axis=1).reshape(x.shape)
    rolled = tidy.assign_coords(lon=tidy.lon + 15.0 * shift)
    a, b = (observation_operator(t, layout)[0] for t in (tidy, rolled))
    here = np.abs(tidy.lat.values) <= layout.grid.lat[-1]  # a circle is seen at fixed meridians
    here |= shift % 3 == 0
    np.testing.assert_allclose(a.apply(x)[here], b.apply(rolled_x)[here], atol=1e-3)


def test_permuting_observations_permutes_the_operator(lab, layout):
    tidy = lab.tidy(80)
    order = np.random.default_rng(0).permutation(80)
    a, _, _ = observation_operator(tidy, layout)
    b, _, _ = observation_operator(tidy.isel(obs=order), layout)
    x = lab.state(layout)
    np.testing.assert_array_equal(a.apply(x)[order], b.apply(x))
    y = np.random.default_rng(1).standard_normal(80).astype("f4")
    np.testing.assert_allclose(a.adjoint(y), b.adjoint(y[order]), atol=1e-5)


def test_weights_are_a_partition_of_unity(lab):
    for poles in (False, True):
        tidy = lab.tidy(500)
        near = horizontal_stencil(lab.grid(poles=poles), tidy.lat.values, tidy.lon.values)
        assert near.weight.min() >= 0
        np.testing.assert_allclose(near.weight.sum(1), 1.0, atol=1e-12)


def test_linear_in_log_pressure():
    levels = (100, 250, 1000)
    p = np.array([100.0, 130.0, 250.0, 600.0, 1000.0])
    near = vertical_stencil(levels, p)
    profile = 3.0 - 2.0 * np.log(np.array(levels))
    np.testing.assert_allclose((profile[near.level] * near.weight).sum(1), 3.0 - 2.0 * np.log(p))
    assert near.inside.all()
    assert not vertical_stencil(levels, np.array([99.0, 1001.0])).inside.any()
    alone = vertical_stencil((500,), np.array([500.0, 510.0]))
    assert alone.inside.tolist() == [True, False]


# ----------------------------------------------------------------------------- poles


def _smooth(grid: Grid) -> np.ndarray:
    """Cartesian x + 2 z: as smooth over the pole as anywhere."""
    phi, lam = np.deg2rad(grid.node_lat), np.deg2rad(grid.node_lon)
    return (np.cos(phi) * np.cos(lam) + 2 * np.sin(phi))[:, None]


@pytest.mark.parametrize("poles", [False, True])
@pytest.mark.parametrize("n_lon", [24, 25])
def test_over_the_poles_a_smooth_field_is_met_and_a_constant_kept(lab, poles, n_lon):
    """Second-order accurate at the poles as elsewhere; 25 meridians have no antipodes."""
    lat = np.r_[np.linspace(80, 90, 21), np.linspace(-90, -80, 21)]
    lon = np.linspace(-180, 180, 42)
    errors = []
    for factor in (1, 2):
        grid = lab.grid(12 * factor + poles, n_lon * factor, poles=poles)
        layout = Layout(grid, ("2m_temperature",))
        obs, _, _ = observation_operator(_at(lat, lon), layout)
        np.testing.assert_allclose(obs.apply(np.ones((grid.n_node, 1), "f4")), 1.0, rtol=1e-6)
        exact = np.cos(np.deg2rad(lat)) * np.cos(np.deg2rad(lon)) + 2 * np.sin(np.deg2rad(lat))
        errors.append(np.abs(obs.apply(_smooth(grid).astype("f4")) - exact).max())
    assert errors[0] < 0.025
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize(("n_lat", "n_lon"), [(12, 24), (12, 25), (4, 4), (90, 180), (91, 182)])
@pytest.mark.parametrize("south", [False, True])
def test_a_scalar_at_a_pole_is_one_for_all_longitudes(lab, n_lat, n_lon, south):
    """It is the mean of the nearest circle, and nothing jumps on the way to it."""
    grid = lab.grid(n_lat, n_lon)
    layout = Layout(grid, ("2m_temperature",))
    rough = np.random.default_rng(0).standard_normal((grid.n_node, 1)).astype("f4")
    row, pole = (grid.lat[0], -90.0) if south else (grid.lat[-1], 90.0)

    def seen(x, lat, lon):
        lat, lon = np.broadcast_arrays(np.asarray(lat, float), np.asarray(lon, float))
        return np.asarray(observation_operator(_at(lat, lon), layout)[0].apply(x))

    lon = np.arange(0.0, 360.0, 7.0)
    at_pole = seen(rough, pole, lon)
    np.testing.assert_allclose(at_pole, at_pole[0], atol=1e-6)
    eps = 2e-4 * (90 - grid.lat[-1])  # wider than what is snapped to the row
    toward = np.sign(pole) * eps
    np.testing.assert_allclose(seen(rough, pole - toward, lon), at_pole, atol=2e-3)
    np.testing.assert_allclose(
        seen(rough, row + toward, lon), seen(rough, row - toward, lon), atol=4e-3
    )
    half = seen(rough, (row + pole) / 2, lon)
    np.testing.assert_allclose(half, (seen(rough, row, lon) + at_pole) / 2, atol=1e-5)
    lam = np.deg2rad(grid.node_lon)[:, None]
    waves = [m * (lam - 0.3) for m in (1, 2)][: 1 if n_lon in (4, 182) else 2]
    smooth = (280.0 + sum(np.cos(wave) for wave in waves)).astype("f4")
    np.testing.assert_allclose(seen(smooth, pole, lon), 280.0, rtol=1e-6)


def test_few_points_of_a_circle_have_its_mean():
    """Of the truth of the sample: 0.008 standard deviations of the background error at most."""
    truth, background = (xdiffda.open_sample(name) for name in ("truth", "background"))
    grid = to_state(truth.isel(time=0))[1].grid
    column, weight = around_pole(grid)
    for name in ("2m_temperature", "mean_sea_level_pressure"):
        ring = truth[name].isel(lat=-1).transpose(..., "lon").values.astype(np.float64)
        scale = float((truth[name] - background[name]).isel(lat=-1).std())
        assert np.abs(ring[..., column] @ weight - ring.mean(-1)).max() < 0.01 * scale


@pytest.mark.parametrize("n_lon", [24, 25])
def test_wind_at_a_pole_is_one_vector(lab, n_lon):
    """Of any wind: east and north at one longitude are those at another, turned."""
    grid = lab.grid(12, n_lon)
    names = ("10m_u_component_of_wind", "10m_v_component_of_wind")
    layout = Layout(grid, names)
    x = np.random.default_rng(0).standard_normal((grid.n_node, 2)).astype("f4")
    lon = np.arange(0.0, 360.0, 7.0)
    for pole in (90.0, -90.0):
        at = [_at(np.full(lon.size, pole), lon, name) for name in names]
        u, v = (np.asarray(observation_operator(one, layout)[0].apply(x)) for one in at)
        lam, north = np.deg2rad(lon), np.sign(pole)
        vector = np.stack(  # in directions that do not turn
            [-u * np.sin(lam) - north * v * np.cos(lam), u * np.cos(lam) - north * v * np.sin(lam)]
        )
        np.testing.assert_allclose(vector, np.repeat(vector[:, :1], lon.size, 1), atol=1e-6)
        assert np.abs(vector).max() > 0.01


@pytest.mark.parametrize("alone", [False, True])
def test_wind_keeps_its_direction_over_the_pole(lab, alone):
    """A uniform flow over the pole: eastward and northward components turn with the meridian."""
    grid = lab.grid(24, 48)
    layout = Layout(grid, ("10m_u_component_of_wind", "10m_v_component_of_wind")[: 2 - alone])

    def flow(lat, lon):  # the vector (1, 0, 0), projected on east and north
        phi, lam = np.deg2rad(lat), np.deg2rad(lon)
        return -np.sin(lam), -np.sin(phi) * np.cos(lam)

    x = np.stack(flow(grid.node_lat, grid.node_lon)[: 2 - alone], -1).astype("f4")
    lat, lon = np.resize([89.0, 90.0, -88.0, -90.0], 36), np.arange(36) * 10.0
    for channel, name in enumerate(layout.variables):
        obs, _, _ = observation_operator(_at(lat, lon, name), layout)
        np.testing.assert_allclose(obs.apply(x), flow(lat, lon)[channel], atol=0.01)


# -------------------------------------------------------------------- what is refused


def test_rejections_have_reasons_and_the_rest_is_kept_in_order(lab, layout):
    tidy = lab.tidy(60)
    variable = tidy.variable.values.astype("U40")
    variable[5] = "specific_humidity"
    level = tidy.level.values.copy()
    variable[[7, 9]], level[[7, 9]] = "temperature", [250.0, 900.0]
    tidy = tidy.assign_coords(variable=("obs", variable), level=("obs", level))
    obs, kept, rejected = observation_operator(tidy, layout)
    assert {reason: where.tolist() for reason, where in rejected.items()} == {
        "of a variable that the state does not have": [5],
        "outside the levels 300 to 850 hPa": [7, 9],
    }
    assert np.flatnonzero(~kept).tolist() == [5, 7, 9]
    np.testing.assert_allclose(obs.value, tidy.value.values[kept], rtol=1e-6)


def test_no_usable_observation_is_an_error(layout):
    match = "none of 2 observations usable: 2 outside the levels 300 to 850 hPa"
    with pytest.raises(InputError, match=match):
        observation_operator(_at([0.0, 1.0], 0.0, "temperature", 10.0), layout)


# ------------------------------------------------------------------------- as a pytree


def test_passes_through_jit_and_vmap(lab, layout):
    obs, _, _ = observation_operator(lab.tidy(30), layout)
    x = jnp.asarray(lab.state(layout, 0, 3))
    direct = obs.apply(x)
    jitted = jax.jit(lambda o, z: o.apply(z))(obs, x)
    mapped = jax.vmap(lambda z: obs.apply(z))(x)
    np.testing.assert_allclose(jitted, direct, rtol=1e-6)
    np.testing.assert_allclose(mapped, direct, rtol=1e-6)
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), obs, obs)
    assert jax.vmap(ObsVector.apply, in_axes=(0, None))(several, x[0]).shape == (2, 30)


def test_padding_sees_nothing(lab, layout):
    obs, _, _ = observation_operator(lab.tidy(30), layout)
    more = obs.padded(40, 9)
    x = lab.state(layout)
    np.testing.assert_allclose(more.apply(x)[:30], obs.apply(x), rtol=1e-6)
    assert not np.any(more.apply(x)[30:])
    y = jnp.ones(40)
    np.testing.assert_allclose(more.adjoint(y), obs.adjoint(y[:30]), atol=1e-6)
    with pytest.raises(InputError, match="not below the present"):
        obs.padded(20)


def test_many_observations_build_quickly(lab):
    """Processor time, not wall time: 200,000 off the grid and between levels at 1 degree."""
    layout = Layout(lab.grid(180, 360), lab.names, tuple(range(50, 1001, 50)))
    tidy = to_tidy(lab.tidy(200_000))
    start = time.process_time()
    obs, _, _ = observation_operator(tidy, layout)
    assert time.process_time() - start < 2.0
    assert obs.index.shape == (200_000, 12)  # for the sake of some next to a pole
