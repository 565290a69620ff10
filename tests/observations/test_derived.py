"""Derived quantities: closed forms, published values, derivatives, and where they are refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations import Operator, observation_rows, to_tidy
from xdiffda.observations import derived as d
from xdiffda.observations.fgat import first_guess
from xdiffda.observations.rows import _ways
from xdiffda.state.grid import Grid, Layout
from xdiffda.state.variables import G0

LEVELS = (300, 500, 700, 850, 925, 1000)
NAMES = (
    "geopotential",
    "temperature",
    "specific_humidity",
    "u_component_of_wind",
    "v_component_of_wind",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
    "mean_sea_level_pressure",
)
GRID = Grid.from_coords(-78.75 + 22.5 * np.arange(8), 22.5 * np.arange(16))
LAYOUT = Layout(GRID, NAMES, LEVELS)


def icao(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Temperature (K) and pressure (hPa) of the ICAO standard atmosphere below 11 km."""
    t = 288.15 - 0.0065 * np.asarray(height, float)
    return t, 1013.25 * (t / 288.15) ** (G0 / (d.R_DRY * 0.0065))


def standard_state(layout: Layout = LAYOUT) -> np.ndarray:
    """Standard atmosphere at rest, half saturated."""
    height = 288.15 / 0.0065 * (1 - (np.array(LEVELS) / 1013.25) ** (d.R_DRY * 0.0065 / G0))
    t, p = icao(height)
    e = 0.5 * np.asarray(d.saturation_vapour_pressure(jnp.asarray(t)))
    columns = {
        "geopotential": G0 * height,
        "temperature": t,
        "2m_temperature": 288.15,
        "specific_humidity": d.EPSILON * e / (p - (1 - d.EPSILON) * e),
        "mean_sea_level_pressure": 101325.0,
        "u_component_of_wind": 3.0,
        "v_component_of_wind": -4.0,
        "10m_u_component_of_wind": -1.0,
        "10m_v_component_of_wind": -1.0,
    }
    row = np.concatenate(
        [
            np.broadcast_to(
                columns[n], layout.channel_slice(n).stop - layout.channel_slice(n).start
            )
            for n in layout.variables
        ]
    )
    return np.tile(row, (layout.grid.n_node, 1))


def table(variable, value, *, level=np.nan, error=1.0, **extra) -> xr.Dataset:
    """Tidy observations at lat 3, lon 100; ``extra`` are more columns."""
    value = np.atleast_1d(np.asarray(value, float))

    def column(x):
        return ("obs", np.broadcast_to(x, value.shape).copy())

    return xr.Dataset(
        {"value": column(value), "error_std": column(error)},
        {
            "variable": column(variable),
            "level": column(level),
            "lat": column(3.0),
            "lon": column(100.0),
            "time": column(np.datetime64("NaT", "ns")),
            **{name: column(x) for name, x in extra.items()},
        },
    )


def seen(tidy, x=None, **settings) -> np.ndarray:
    return first_guess(tidy, LAYOUT, standard_state() if x is None else x, **settings)[0]


# ------------------------------------------------------------------------- closed forms


def test_wind_is_that_of_the_interpolated_components(lab):
    x = lab.state(LAYOUT, 3) - 280.0
    at = {"level": [600.0, 400.0, 1000.0]}
    u, v, speed, direction = (
        seen(table(name, [1.0] * 3, **at), x)
        for name in (
            "u_component_of_wind",
            "v_component_of_wind",
            "wind_speed",
            "wind_from_direction",
        )
    )
    np.testing.assert_allclose(speed, np.hypot(u, v), rtol=1e-5)
    np.testing.assert_allclose(direction, np.rad2deg(np.arctan2(-u, -v)) % 360, atol=1e-3)


@pytest.mark.parametrize(
    ("u", "v", "degrees"), [(0, -1, 0), (-1, 0, 90), (0, 1, 180), (1, 0, 270), (-1, -1, 45)]
)
def test_direction_is_where_the_wind_comes_from(u, v, degrees):
    found = float(d.wind_from_direction(jnp.array(float(u)), jnp.array(float(v))))
    assert found % 360 == pytest.approx(degrees, abs=1e-4)


def test_calm_has_finite_derivatives():
    for function in (d.wind_speed, d.wind_from_direction):
        slopes = jax.grad(function, (0, 1))(jnp.array(0.0), jnp.array(0.0))
        assert np.isfinite(slopes).all()


def test_relative_humidity_against_published_saturation_pressures():
    # WMO (2008) Guide No. 8, annex 4.B, over water: 12.27 hPa at 10 degC, 23.37 hPa at 20 degC
    saturation = d.saturation_vapour_pressure(jnp.array([283.15, 293.15]))
    np.testing.assert_allclose(saturation, [12.27, 23.37], rtol=2e-3)
    q = d.EPSILON * 12.27 / (1000.0 - (1 - d.EPSILON) * 12.27)
    assert float(d.relative_humidity(q, jnp.array(293.15), 1000.0)) == pytest.approx(52.5, abs=0.2)
    assert float(d.dewpoint_temperature(jnp.array(q), 1000.0)) == pytest.approx(283.15, abs=0.05)
    np.testing.assert_allclose(seen(table("relative_humidity", [50.0], level=700.0)), 50, rtol=1e-4)


def test_surface_pressure_of_the_standard_atmosphere():
    height = np.array([0.0, 150.0, 600.0, 1300.0, 2600.0])
    p = 100 * icao(height)[1]
    dry = standard_state()
    dry[:, LAYOUT.channel_slice("specific_humidity")] = 0.0
    x = dry.copy()
    # the 2 m temperature is that of the station in this world
    for h, expected in zip(height, p, strict=True):
        x[:, LAYOUT.channel_index("2m_temperature")] = icao(h)[0]
        found = seen(table("surface_pressure", [expected], station_height=h), x)
        assert found[0] == pytest.approx(expected, abs=10.0)  # 0.1 hPa


def test_surface_pressure_takes_levels_above_and_sea_level_below_the_lowest():
    low = table("surface_pressure", [100500.0], station_height=70.0)
    high = table("surface_pressure", [70000.0], station_height=3000.0)
    for tidy, inputs in ((low, "mean_sea_level_pressure"), (high, "geopotential@around")):
        (group,) = observation_rows(tidy, LAYOUT).local
        assert group.call.inputs[0][0] == inputs
    # without sea level pressure the lowest layer is extended
    aloft = Layout(GRID, ("geopotential", "temperature"), LEVELS)
    x = standard_state()[:, [LAYOUT.channel_names.index(c) for c in aloft.channel_names]]
    found = first_guess(low, aloft, x)[0]
    assert found[0] == pytest.approx(100 * icao(70.0)[1], abs=10.0)
    only_height = Layout(GRID, ("geopotential",), LEVELS)
    found = first_guess(high, only_height, x[:, :6])[0]
    assert found[0] == pytest.approx(100 * icao(3000.0)[1], abs=60.0)  # one layer, isothermal


def test_height_comes_from_the_orography_where_stations_do_not_say():
    tidy = table("surface_pressure", [95000.0])
    rows = observation_rows(tidy, LAYOUT)
    assert list(rows.rejected) == ["of surface_pressure without station_height"]
    assert rows.n_obs == 0
    orography = np.full(GRID.n_node, G0 * 500.0)
    given = table("surface_pressure", [95000.0], station_height=500.0)
    assert seen(tidy, orography=orography) == pytest.approx(seen(given))


def test_thickness_and_layer_mean_obey_the_hypsometric_equation():
    """Geopotential integrated exactly from a temperature that is linear in ln p."""
    rng = np.random.default_rng(0)
    t = 250.0 + 20.0 * rng.standard_normal(6)
    x, log_p = standard_state(), np.log(LEVELS)
    layers = d.R_DRY * 0.5 * (t[1:] + t[:-1]) * np.diff(log_p)
    phi = np.append(np.cumsum(layers[::-1])[::-1], 0.0)
    x[:, LAYOUT.channel_slice("temperature")] = t
    x[:, LAYOUT.channel_slice("geopotential")] = phi
    layer = {"level": [300.0, 500.0], "level_bottom": [1000.0, 850.0]}
    thickness = seen(table("thickness", [1.0, 1.0], **layer), x)
    mean = seen(table("layer_mean_temperature", [250.0] * 2, **layer), x)
    expected = d.R_DRY * mean * np.log(np.array([1000.0, 850.0]) / np.array([300.0, 500.0]))
    np.testing.assert_allclose(thickness, expected, rtol=1e-5)
    # between levels: the mean of a linear function is its value in the middle
    inside = table("layer_mean_temperature", [250.0], level=720.0, level_bottom=830.0)
    middle = table("temperature", [250.0], level=np.sqrt(720.0 * 830.0))
    np.testing.assert_allclose(seen(inside, x), seen(middle, x), rtol=1e-5)


# -------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("name", sorted(d.OPERATORS))
def test_tangent_linear_agrees_with_finite_differences(name):
    layer = {"level_bottom": 900.0, "station_height": 400.0}
    for way in dict(_ways({}, LAYOUT))[name]:
        operator = Operator(
            way.function, way.inputs, way.parameters, way.units, way.period, around=way.around
        )
        level = np.nan if name.startswith(("10m", "surface")) else 600.0
        tidy = table(name, [96000.0 if "pressure" in name else 10.0], level=level, **layer)
        (group,) = observation_rows(tidy, LAYOUT, operators={name: operator}).local
        with jax.enable_x64(True):
            x = standard_state().reshape(-1)
            inputs = (x[group.index] * group.weight).sum(-1)
            inputs = jnp.asarray(inputs * (1 + 1e-3 * np.arange(inputs.size)))
            parameters = jnp.asarray(group.parameters)
            slope = np.asarray(group.call.slopes(inputs, parameters))
            for i in range(inputs.shape[1]):
                step = 1e-5 * max(abs(float(inputs[0, i])), 1e-3)
                ends = [
                    group.call.values(inputs.at[:, i].add(s), parameters) for s in (step, -step)
                ]
                numeric = float((ends[0] - ends[1])[0]) / (2 * step)
                scale = np.abs(slope * np.asarray(inputs)).max() / max(abs(float(inputs[0, i])), 1)
                assert slope[0, i] == pytest.approx(numeric, rel=1e-5, abs=1e-6 * scale)


# --------------------------------------------------------------------- names and refusals


def test_names_and_units_of_reports_are_understood():
    frame = xr.Dataset(
        {
            "ff": ("report", [10.0, 20.0], {"units": "kt"}),
            "dd": ("report", [350.0, 10.0]),
            "r": ("report", [0.5, 0.6], {"units": "1"}),
            "td": ("report", [-5.0, 3.0], {"units": "degC"}),
        },
        {
            "lat": ("report", [1.0, 2.0]),
            "lon": ("report", [3.0, 4.0]),
            "level": ("report", [700.0, 850.0]),
            "elevation": ("report", [12.0, 40.0]),
        },
    )
    tidy = to_tidy(frame)
    by_name = tidy.to_dataframe().groupby("variable")["value"].first()
    assert by_name["wind_speed"] == pytest.approx(10 * 1852 / 3600)
    assert by_name["wind_from_direction"] == 350.0
    assert by_name["relative_humidity"] == 50.0
    assert by_name["dewpoint_temperature"] == pytest.approx(268.15)
    assert tidy.station_height.values[0] == 12.0
    near_ground = to_tidy(frame.drop_vars(["r", "td", "level"]))
    assert set(near_ground.variable.values) == {"10m_wind_speed", "10m_wind_from_direction"}


def test_what_the_state_cannot_give_is_rejected_by_name():
    small = Layout(GRID, ("temperature",), LEVELS)
    tidy = xr.concat(
        [
            table(name, [250.0], level=500.0, level_bottom=1010.0)
            for name in ("wind_speed", "temperature", "layer_mean_temperature")
        ],
        "obs",
    )
    rows = observation_rows(tidy, small)
    assert {reason: where.tolist() for reason, where in rows.rejected.items()} == {
        "of wind_speed, for which the state lacks u_component_of_wind+v_component_of_wind": [0],
        "of layer_mean_temperature with level_bottom outside the levels": [2],
    }
    assert rows.position.tolist() == [1] and not rows.local


def test_a_quantity_that_is_a_variable_of_the_state_is_interpolated():
    layout = Layout(GRID, ("surface_pressure",), ())
    rows = observation_rows(table("surface_pressure", [95000.0]), layout)
    assert rows.linear is not None and not rows.local


# ------------------------------------------------------------------------- users' own H


def test_a_users_local_operator_is_used_as_a_built_in_one():
    speed = Operator(
        lambda s: jnp.hypot(s["u_component_of_wind"], s["v_component_of_wind@500"]),
        inputs=("u_component_of_wind", "v_component_of_wind@500"),
        units="m s-1",
        error_std=2.0,
    )
    tidy = table("my_wind", [5.0], level=700.0).drop_vars("error_std")
    with pytest.raises(InputError, match=r"'my_wind'.*or an operator for it"):
        to_tidy(tidy)
    tidy = to_tidy(tidy, operators={"my_wind": speed})
    assert tidy.error_std.item() == 2.0
    assert seen(tidy, operators={"my_wind": speed}) == pytest.approx([5.0])


def test_a_function_of_the_whole_state_sees_fields_and_observations():
    def mean_between(state, obs):
        field = state["temperature@500"]
        assert field.shape == GRID.shape
        return jnp.mean(field) + obs["lat"]

    tidy = table("my_mean", [250.0, 251.0])
    expected = standard_state()[:, LAYOUT.channel_index("temperature", 500)].mean() + 3.0
    found = seen(tidy, operators={"my_mean": mean_between})
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "match"),
    [
        (
            lambda state: state["temperature@500"],
            r"H\(my\) of shape \(8, 16\); needed shape \(2,\)",
        ),
        (lambda state: jnp.mean(state["temperature@500"]), r"of shape \(\); needed shape \(2,\)"),
        (lambda state: state["chlorophyll"], "asks for 'chlorophyll'; needed one of 10m_u_comp"),
        (lambda state: np.asarray(state["temperature@500"]).mean(), "JAX cannot differentiate"),
        (
            Operator(lambda s: jnp.ones(3), ("temperature@500",)),
            r"shape \(3,\) for one observation",
        ),
        (Operator(lambda s: s["level"], ("temperature@500",)), "asks for 'level'"),
        (Operator(lambda s: s, ("ozone",)), "needs ozone; needed inputs among 10m_u_comp"),
        (
            Operator(lambda s: s["temperature@20"], ("temperature@20",)),
            "a pressure between 300 and",
        ),
        (
            Operator(lambda s: float(s["temperature@500"]), ("temperature@500",)),
            "cannot differentiate",
        ),
    ],
)
def test_operators_that_cannot_be_used_are_named_with_what_is_needed(operator, match):
    with pytest.raises(InputError, match=match) as error:
        observation_rows(table("my", [1.0, 2.0]), LAYOUT, operators={"my": operator})
    assert "needed" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"function": 3}, "a function 3"),
        ({"inputs": "temperature"}, "tuples of names"),
        ({"parameters": ("zenith",)}, "zenith"),
        ({"period": -1.0}, "period=-1.0"),
        ({"error_std": 0.0}, "error_std=0.0; needed a positive"),
        ({"around": "here"}, "around"),
    ],
)
def test_operators_are_checked_where_they_are_made(arguments, match):
    with pytest.raises(InputError, match=match):
        Operator(**({"function": lambda s: s, "inputs": ()} | arguments))
