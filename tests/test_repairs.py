"""Every repair that a message prints is run on the input that caused it.

The outcome is right or another honest error: no repair is a no-op, comes back to an earlier
message, or makes a wrong state pass.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray as xr

import xdiffda
from xdiffda import errors
from xdiffda.errors import InputError
from xdiffda.observations import KNOWN, to_tidy
from xdiffda.observations.checks import find_problems as find_observation_problems
from xdiffda.observations.names import to_units
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state, to_state, value_problems
from xdiffda.state.grid import Grid, Layout
from xdiffda.state.recognise import recognise_fields
from xdiffda.state.units import _KNOWN, USUAL, conversion
from xdiffda.state.variables import VARIABLES

GRID = Grid.from_coords(np.linspace(-85, 85, 18), np.arange(24) * 15.0)
LEVELS = (100, 500, 850)
PACKAGE = Path(xdiffda.__file__).parent

# What the atmosphere usually has, in canonical units; on levels for each of LEVELS.
USUAL_VALUES = {
    "temperature": (210.0, 255.0, 280.0),
    "geopotential": (159e3, 54.6e3, 14.3e3),
    "u_component_of_wind": (12.0, 10.0, 5.0),
    "v_component_of_wind": (4.0, 3.0, -2.0),
    "specific_humidity": (4e-6, 1e-3, 6e-3),
    "relative_humidity": (15.0, 45.0, 75.0),
    "2m_temperature": 288.0,
    "2m_dewpoint_temperature": 282.0,
    "2m_specific_humidity": 8e-3,
    "mean_sea_level_pressure": 101300.0,
    "surface_pressure": 97000.0,
    "sea_surface_temperature": 291.0,
    "skin_temperature": 289.0,
    "total_cloud_cover": 0.6,
    "sea_ice_cover": 0.8,
    "land_sea_mask": 0.7,
    "geopotential_at_surface": 24000.0,
    "total_precipitation": 3e-3,
    "total_precipitation_6hr": 7e-4,
    "total_precipitation_12hr": 1.5e-3,
    "total_precipitation_24hr": 3e-3,
    "ozone_mass_mixing_ratio": (1e-6, 1e-7, 5e-8),
    "specific_cloud_liquid_water_content": (0.0, 1e-5, 1e-4),
    "specific_cloud_ice_water_content": (1e-6, 1e-5, 1e-5),
}
# A factor of two is not told from the weather, nor a small share from a small percentage.
JET = {"u_component_of_wind": (115.0, 110.0, 108.0), "v_component_of_wind": (115.0, 110.0, 108.0)}


def state(*names: str, values=USUAL_VALUES) -> xr.Dataset:
    """A plausible state of these variables, with a little weather."""
    layout = Layout(GRID, names, LEVELS)
    weather = 1.0 + 0.02 * np.sin(np.arange(GRID.n_node))
    x = np.empty((GRID.n_node, layout.n_channel))
    for i, (name, level) in enumerate(layout.channels):
        value = values[name]
        x[:, i] = weather * (value[LEVELS.index(level)] if level else value)
    return from_state(x, layout, default_convention(layout))


def repaired(problem, scope: dict) -> dict:
    """Run a repair as it is written."""
    call = problem.repair
    assert "..." not in call, call
    scope = dict(scope)
    name = "ds" if "ds" in scope else "obs"
    tree = ast.parse(call)
    if isinstance(tree.body[0], ast.Expr):
        scope[name] = eval(call, scope)
    else:
        exec(call, scope)
    return scope


def follow(scope: dict, check, most: int = 6):
    """Follow repairs to the end: the result of ``check``, or the honest error without a repair."""
    name, seen = "ds" if "ds" in scope else "obs", set()
    for _ in range(most):
        try:
            return check(scope[name]), seen
        except InputError as error:
            text = str(error)
            assert text not in seen, f"no-op or loop: {text}"
            assert len(text.splitlines()) <= 15
            seen.add(text)
            problem = error.problems[0]
            if not problem.repair or "no observation at all" in text:
                return None, seen
            scope = repaired(problem, scope)
    raise AssertionError(f"no end: {seen}")


def scope_of(ds=None, obs=None, **more) -> dict:
    tools = {"xr": xr, "xarray": xr, "np": np, "numpy": np, "pandas": pandas, "xdiffda": xdiffda}
    data = {"ds": ds.copy(deep=True)} if ds is not None else {"obs": obs.copy(deep=True)}
    return tools | data | more


# ------------------------------------------------------------------ units: every variable

OTHER_UNITS = [
    (name, unit)
    for name, variable in VARIABLES.items()
    for unit in USUAL.get(variable.units, ())[1:]
    if name in USUAL_VALUES or name.startswith(("u_", "v_"))
    if not (unit == "mg kg-1" and name.startswith("specific_cloud"))
]


@pytest.mark.parametrize(("name", "unit"), OTHER_UNITS)
def test_a_background_in_another_unit_is_refused_with_that_unit(name, unit):
    ds = state(name, values=USUAL_VALUES | JET)
    factor, offset = conversion(unit, name)
    canonical = VARIABLES[name].units
    raw = (ds[name].astype("f8") - offset) / factor
    wrong = ds.assign({name: raw.assign_attrs(units=canonical)})
    if name in (
        "ozone_mass_mixing_ratio",
        "specific_cloud_liquid_water_content",
        "specific_cloud_ice_water_content",
    ):
        wrong[name] = wrong[name] * (1.0 + 9.0 * (wrong.lat > 50))  # where there is much of it
        wrong[name].attrs["units"] = canonical
    layout = Layout(GRID, (name,), LEVELS)
    with pytest.raises(InputError) as caught:
        to_state(wrong, layout)
    assert f'attrs["units"] = "{unit}"' in caught.value.problems[0].repair
    x, seen = follow(scope_of(wrong), lambda d: to_state(d, layout)[0])
    right = raw * factor + offset
    if x is not None:
        assert len(seen) == 1
        assert np.isfinite(x).all() and np.isfinite(right).all()


def _frame(name: str, value: np.ndarray, unit: str) -> pandas.DataFrame:
    n = value.size
    level = np.where(np.arange(n) % 2, 500.0, 850.0) if KNOWN[name].on_levels else np.nan
    frame = pandas.DataFrame(
        {
            "variable": name,
            "lat": np.linspace(-80, 80, n),
            "lon": np.arange(n) * 10.0,
            "level": level,
            "time": np.datetime64("2020-01-01"),
            "value": value,
            "units": unit,
        }
    )
    if name in ("thickness", "layer_mean_temperature"):
        frame = frame.assign(level=500.0, level_bottom=1000.0)
    return frame


DERIVED_VALUES = {
    "wind_speed": 150.0,
    "10m_wind_speed": 120.0,
    "dewpoint_temperature": 265.0,
    "thickness": 52e3,
    "layer_mean_temperature": 262.0,
}
OBSERVED = [
    (n, u)
    for n, u in OTHER_UNITS
    if n
    not in (
        "geopotential_at_surface",
        "ozone_mass_mixing_ratio",
        "sea_ice_cover",
        "specific_cloud_liquid_water_content",
        "specific_cloud_ice_water_content",
    )
    and not n.startswith("total_precipitation")
]
OBSERVED += [(n, u) for n in DERIVED_VALUES for u in USUAL[KNOWN[n].units][1:]]


@pytest.mark.parametrize(("name", "unit"), OBSERVED)
def test_observations_in_another_unit_are_refused_with_that_unit(name, unit):
    factor, offset = to_units(unit, KNOWN[name])
    usual = DERIVED_VALUES.get(name) or (USUAL_VALUES | JET)[name]
    usual = np.array(usual[1:][::-1] if isinstance(usual, tuple) else [usual, usual])
    value = np.resize(usual, 12) * np.linspace(0.99, 1.01, 12)
    if KNOWN[name].units == "Pa":
        value = np.linspace(96e3, 102e3, 12)
    obs = _frame(name, (value - offset) / factor, KNOWN[name].units)
    obs["error_std"] = 1e-3 * np.abs(obs["value"]).max()
    with pytest.raises(InputError) as caught:
        to_tidy(obs)
    assert f'"{unit}"' in caught.value.problems[0].repair, str(caught.value)
    tidy, seen = follow(scope_of(obs=obs), to_tidy)
    assert len(seen) == 1
    np.testing.assert_allclose(tidy["value"], value, rtol=1e-6)


def test_right_units_are_not_refused():
    names = tuple(n for n in USUAL_VALUES if n in VARIABLES)
    to_state(state(*names), Layout(GRID, names, LEVELS))


@pytest.mark.parametrize("units", [None, "unknown", ""])
def test_relative_humidity_as_a_share_without_a_unit_is_refused(units):
    ds = state("relative_humidity")
    share = xr.full_like(ds["relative_humidity"], 0.44)
    share[:] = np.linspace(0.44, 1.18, share.size).reshape(share.shape)
    share.attrs = {} if units is None else {"units": units}
    wrong = xr.Dataset({"r": share})
    with pytest.raises(InputError, match='no unit is written.*attrs."units". = "1"'):
        to_state(wrong)
    x, _ = follow(scope_of(wrong), lambda d: to_state(d)[0])
    assert x.min() == pytest.approx(44.0) and x.max() == pytest.approx(118.0, rel=1e-5)


def test_observed_relative_humidity_as_a_share_without_a_unit_is_refused():
    obs = _frame("relative_humidity", np.linspace(0.44, 1.18, 12), "")
    tidy, seen = follow(scope_of(obs=obs), to_tidy)
    assert len(seen) == 1 and tidy["value"].values.max() == pytest.approx(118.0)


# ------------------------------------------------------------------ quantities are not renamed


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        ("d2m", "2m_temperature"),
        ("skt", "2m_temperature"),
        ("sst", "2m_temperature"),
        ("potential_temperature", "temperature"),
        ("virtual_temperature", "temperature"),
        ("r", "specific_humidity"),
        ("10m_u_component_of_wind", "u_component_of_wind"),
        ("u_component_of_wind_10m", "u_component_of_wind"),
        ("2m_temperature", "temperature"),
        ("geopotential_at_surface", "geopotential"),
        ("surface_pressure", "mean_sea_level_pressure"),
        ("relative_humidity", "specific_humidity"),
        ("v_component_of_wind", "u_component_of_wind"),
        ("equivalent_temperature", "temperature"),
    ],
)
def test_no_repair_renames_one_quantity_to_another(present, wanted):
    on_levels = VARIABLES[wanted].on_levels
    ds = state(
        "vertical_velocity" if on_levels else "sea_ice_cover",
        values={"vertical_velocity": (0.1, 0.2, 0.3), "sea_ice_cover": 0.5},
    )
    only = next(iter(ds.data_vars))
    ds = ds.rename({only: present})
    ds[present].attrs = {"units": "%" if present[0] == "r" else VARIABLES[wanted].units}
    with pytest.raises(InputError) as caught:
        to_state(ds, Layout(GRID, (wanted,), LEVELS), check_values=False)
    assert not any("rename" in problem.repair for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("spelled", "wanted"),
    [
        ("Temperature", "temperature"),
        ("temprature", "temperature"),
        ("2m temperature", "2m_temperature"),
        ("Specific Humidity", "specific_humidity"),
    ],
)
def test_other_letters_are_repaired_by_a_name(spelled, wanted):
    ds = state(wanted)
    wrong = ds.rename({wanted: spelled})
    wrong[spelled].attrs = {"units": VARIABLES[wanted].units}
    layout = Layout(GRID, (wanted,), LEVELS)
    x, seen = follow(scope_of(wrong), lambda d: to_state(d, layout)[0])
    assert len(seen) == 1
    np.testing.assert_array_equal(x, to_state(ds, layout)[0])


@pytest.mark.parametrize(
    ("name", "standard_name"),
    [
        ("temperature", "air_potential_temperature"),
        ("temperature", "dew_point_temperature"),
        ("specific_humidity", "relative_humidity"),
        ("t", "relative_humidity"),
        ("temperature", "virtual_temperature"),
        ("u", "northward_wind"),
    ],
)
def test_a_contradicting_standard_name_is_refused(name, standard_name):
    good = state("temperature", "geopotential")
    wrong = good[["geopotential"]].assign(
        {name: good["temperature"].assign_attrs(standard_name=standard_name)}
    )
    with pytest.raises(InputError, match="a name and a standard_name of one quantity"):
        to_state(wrong)
    x, _ = follow(scope_of(wrong), lambda d: to_state(d)[1].variables)
    assert x == ("geopotential",)


def test_an_observation_whose_standard_name_contradicts_is_refused():
    obs = xr.Dataset(
        {"td": ("station", [280.0], {"standard_name": "air_temperature", "units": "K"})},
        {"lat": ("station", [50.0]), "lon": ("station", [10.0])},
    )
    with pytest.raises(InputError, match="a name and a standard_name of one quantity"):
        to_tidy(obs)
    assert follow(scope_of(obs=obs), to_tidy)[0] is None  # nothing else was observed


@pytest.mark.parametrize(("one", "other"), [("ta", "t"), ("temperature", "t"), ("air", "tmp")])
def test_two_variables_for_one_are_refused(one, other):
    t = state("temperature")["temperature"]
    with pytest.raises(InputError, match="all look like temperature"):
        to_state(xr.Dataset({one: t, other: t + 1}))
    x, seen = follow(scope_of(xr.Dataset({one: t, other: t})), lambda d: to_state(d)[0])
    assert len(seen) == 1 and np.isfinite(x).all()


def test_relative_humidity_is_offered_a_conversion():
    ds = state("temperature", "relative_humidity")
    layout = Layout(GRID, ("temperature", "specific_humidity"), LEVELS)
    _, seen = follow(scope_of(ds), lambda d: to_state(d, layout)[0])
    assert "with_specific_humidity" in next(iter(seen)) and len(seen) == 1
    back = xdiffda.with_relative_humidity(xdiffda.with_specific_humidity(ds))
    np.testing.assert_allclose(back["relative_humidity"], ds["relative_humidity"], rtol=1e-5)


# ------------------------------------------------------------------ every message with a repair

T = ("temperature", "geopotential", "2m_temperature")
FULL = state(*T)
LAYOUT = Layout(GRID, T, LEVELS)
OTHER = state(*T, "mean_sea_level_pressure")


def _with(name, values, **attrs):
    return FULL.assign({name: values.assign_attrs({**FULL[name].attrs, **attrs})})


STATES = {
    "bad unit": _with("temperature", FULL["temperature"], units="kg"),
    "objects": _with("temperature", FULL["temperature"].astype(object)),
    "spare dimension": FULL.expand_dims(version=2),
    "expver": FULL.expand_dims(expver=[1, 5]).where(xr.DataArray([1, 5], dims="expver") == 1),
    "no level": FULL.isel(level=0, drop=True),
    "surface on levels": _with("2m_temperature", FULL["temperature"]),
    "unknown": FULL.rename({n: f"x{i}" for i, n in enumerate(T)}).drop_attrs(),
    "few NaN": _with("temperature", FULL["temperature"].where(FULL.lon != 30)),
    "row of NaN": _with("2m_temperature", FULL["2m_temperature"].where(FULL.lat < 70)),
    "infinite": _with("2m_temperature", FULL["2m_temperature"].where(FULL.lon != 30, np.inf)),
    "level of NaN": _with("temperature", FULL["temperature"].where(FULL.level > 200)),
    "wild value": _with("temperature", FULL["temperature"].where(FULL.lon != 30, 999.0)),
    "nonsense": _with("2m_temperature", FULL["2m_temperature"] * 1e6),
    "end twice": FULL.pad(lon=(0, 1), mode="wrap").assign_coords(lon=np.arange(25) * 15.0),
    "radians": FULL.assign_coords(lat=np.deg2rad(FULL.lat)),
    "lon in radians": FULL.assign_coords(lon=np.deg2rad(FULL.lon)),
    "row twice": xr.concat([FULL, FULL.isel(lat=[3])], "lat", data_vars="minimal"),
    "half levels": FULL.assign_coords(level=[0.5, 500.0, 850.0]),
    "level twice": FULL.assign_coords(level=[500, 500, 850]),
    "metres": FULL.assign_coords(level=("level", [100, 500, 850], {"units": "m"})),
    "numbers of levels": FULL.assign_coords(level=[1, 2, 3]),
    "levels without values": FULL.drop_vars("level"),
    "curvilinear": FULL.rename(lat="y", lon="x")
    .drop_vars(["y", "x"])
    .assign_coords(lat=(("y", "x"), np.zeros(GRID.shape)), lon=(("y", "x"), np.zeros(GRID.shape))),
    "projection": FULL.rename(lat="y", lon="x").drop_vars(["y", "x"]),
}


@pytest.mark.parametrize("case", STATES)
@pytest.mark.parametrize("layout", [None, LAYOUT], ids=["any", "model"])
def test_repairs_of_a_background_end_well(case, layout, tmp_path):
    ds = STATES[case]
    FULL.to_netcdf(tmp_path / "global.nc")
    scope = scope_of(ds, other=OTHER, first_guess=FULL, a_global_file=tmp_path / "global.nc")
    x, seen = follow(scope, lambda d: to_state(d, layout)[0])
    assert seen, "not refused at all"
    if x is not None:  # and then it is the state that was meant
        assert np.isfinite(x).all() and x.shape[-2] % GRID.shape[0] == 0
        for name in ("temperature", "2m_temperature"):
            if layout is not None:
                mine = x[..., layout.channel_slice(name)]
                assert mine.min() > 200 and mine.max() < 300, name


def test_a_box_is_a_state_and_no_state_of_a_global_model():
    box = FULL.isel(lon=slice(0, 9))
    assert to_state(box)[1].grid.n_lon == 9
    with pytest.raises(InputError, match="a box of the globe.*reference_prior"):
        to_state(box, LAYOUT)


@pytest.mark.parametrize("case", ["curvilinear", "projection"])
def test_two_dimensional_places_are_one_sentence(case):
    with pytest.raises(InputError, match="regrid to one first") as caught:
        to_state(STATES[case])
    assert str(caught.value).count("regrid to one first") == 1


def _columns(**changes) -> xr.Dataset:
    return xr.Dataset(
        {
            "t": (("station", "level"), 250.0 + np.arange(6.0).reshape(3, 2), {"units": "K"}),
            "2t": ("station", [280.0, 281.0, 282.0], {"units": "K"}),
        },
        {
            "lat": ("station", [10.0, 20.0, 30.0]),
            "lon": ("station", [1.0, 2.0, 3.0]),
            "level": ("level", [500.0, 850.0]),
            "time": ("station", np.array(["2020-01-01"] * 3, "M8[ns]")),
        },
    ).assign(changes)


GOOD = _columns()
TIDY = to_tidy(GOOD)
RAW = TIDY.to_dataframe().reset_index(drop=True)
OBSERVATIONS = {
    "pressure below zero": GOOD.assign_coords(level=[-500.0, 850.0]),
    "bad unit": _columns(t=GOOD["t"].assign_attrs(units="kg")),
    "NaN error": _columns(t_error_std=("station", [1.0, np.nan, 1.0])),
    "negative error": RAW.assign(error_std=[-1.0] + [1.0] * (len(RAW) - 1)),
    "NaN error, tidy": TIDY.assign(error_std=TIDY.error_std.where(TIDY.obs > 0)),
    "bad unit of error": _columns(t_error_std=("station", [1.0, 1.0, 1.0], {"units": "kg"})),
    "no level": GOOD.isel(level=0, drop=True),
    "no level, table": RAW.assign(level=np.nan),
    "surface on levels": _columns(**{"2t": GOOD["t"]}).drop_vars("t"),
    "surface on levels, table": RAW.assign(level=500.0),
    "pascals": RAW.assign(level=RAW.level * 100 / 50),
    "pascals called hPa": GOOD.assign_coords(level=("level", [50000.0, 85000.0], {"units": "hPa"})),
    "a wild level": RAW.assign(level=RAW.level.where(RAW.index != 0, 1500.0)),
    "heights as levels": GOOD.assign_coords(level=("level", [5e3, 1e3], {"units": "m"})),
    "time by level": GOOD.drop_vars("2t").assign_coords(
        time=GOOD.time.expand_dims(level=[500, 850])
    ),
    "place by level": GOOD.drop_vars("2t").assign_coords(
        lat=GOOD.lat + xr.DataArray([0.0, 0.1], dims="level")
    ),
    "wild latitude": RAW.assign(lat=RAW.lat.where(RAW.index != 0, 95.0)),
    "no longitude": RAW.assign(lon=RAW.lon.where(RAW.index != 0)),
    "wild value": RAW.assign(value=RAW.value.where(RAW.index != 0, 999.0)),
    "wild value in degC": _columns(
        t=(GOOD["t"] - 273.15).where(GOOD.lat < 25, 999.0).assign_attrs(units="degC")
    ),
    "unknown": _columns(chlorophyll=GOOD["2t"]),
    "unknown, table": RAW.assign(variable=["chlorophyll", *RAW.variable[1:]]),
    "text": RAW.assign(value=RAW.value.astype(object).where(RAW.index != 0, "M")),
    "twice": pandas.concat([RAW, RAW.iloc[:1]], ignore_index=True),
    "two for one": _columns(ta=GOOD["t"] + 1.0),
    "a field": FULL.isel(level=0, drop=True)[["2m_temperature"]],
    "thin layer": RAW.iloc[:1].assign(
        variable="thickness", value=5e4, level=500.0, level_bottom=300.0
    ),
}


@pytest.mark.parametrize("case", OBSERVATIONS)
def test_repairs_of_observations_end_well(case):
    obs = OBSERVATIONS[case]
    scope = scope_of(obs=obs)
    if case == "a field":
        with pytest.raises(InputError, match="a field on lat x lon"):
            to_tidy(obs)
        return
    tidy, seen = follow(scope, to_tidy)
    assert seen, "not refused at all"
    if tidy is None:
        return
    truth = dict(zip(RAW.value.round(2), RAW.lat, strict=True))
    assert tidy.sizes["obs"] and bool((tidy.error_std > 0).all())
    for value, level, lat in zip(
        tidy.value.values, tidy.level.values, tidy.lat.values, strict=True
    ):
        assert abs(truth[round(float(value), 2)] - lat) <= 0.1 + 1e-9
        assert (
            (level in (500.0, 850.0) and value < 260)
            or (np.isnan(level) and value > 270)
            or (case == "pascals")
        )


# ------------------------------------------------------------------ no message is forgotten

CHECKED = [
    inspect.getmodule(function)
    for function in (value_problems, recognise_fields, find_observation_problems)
]


# messages of other calls than `to_state` and `to_tidy`, which the tests of those calls raise
OF_OTHER_CALLS = {"from_state", "_check_shape", "_dataset", "centre_and_width"}


def _messages(file: str | None) -> dict[int, str]:
    """Line of each `Problem` made in a module whose repair is not empty -> its text."""
    tree = ast.parse(Path(str(file)).read_text())
    functions = [n for n in tree.body if getattr(n, "name", "") not in OF_OTHER_CALLS]
    return {
        node.lineno: ast.unparse(node)
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Problem"
        and len(node.args) == 3
        and ast.unparse(node.args[2]) not in ("''", '""')
    }


def test_every_message_with_a_repair_has_a_case(monkeypatch):
    made = set()

    class Recorded(errors.Problem):
        def __init__(self, *args, **kwargs):
            frame = sys._getframe(1)
            made.add((frame.f_code.co_filename, frame.f_lineno))
            super().__init__(*args, **kwargs)

    for module in CHECKED:
        monkeypatch.setattr(module, "Problem", Recorded)
    for ds in [*STATES.values(), *MORE_STATES()]:
        for layout in (
            None,
            LAYOUT,
            Layout(GRID, ("specific_humidity",), LEVELS),
            Layout(GRID, ("geopotential_at_surface",), LEVELS),
        ):
            with contextlib.suppress(InputError):
                to_state(ds, layout)
    for obs in [*OBSERVATIONS.values(), *MORE_OBSERVATIONS()]:
        with contextlib.suppress(InputError):
            to_tidy(obs)
    forgotten = [
        f"{module.__file__}:{line} {text}"
        for module in CHECKED
        for line, text in _messages(module.__file__).items()
        if not any(
            path == module.__file__ and line <= at <= line + text.count("\n") + 12
            for path, at in made
        )
    ]
    assert not forgotten, "\n".join(forgotten)


def MORE_STATES() -> list[xr.Dataset]:
    """Those of the other tests of this file."""
    t = FULL["temperature"]
    names = {"temperature": "t", "geopotential": "z"}
    gpm = _with("geopotential", FULL["geopotential"] / 9.80665)
    rain = state("total_precipitation") * 1e3
    rain["total_precipitation"].attrs["units"] = "m"
    humid = state("relative_humidity", "temperature")
    share = (humid / 100.0)[["relative_humidity"]].map(lambda v: v.assign_attrs(units=""))
    cloud = state("total_cloud_cover").map(lambda v: v.assign_attrs(units="%"))
    q = (state("specific_humidity") * 1e3).map(lambda v: v.assign_attrs(units="kg kg-1"))
    q = q.isel(level=[0])
    orography = (state("geopotential_at_surface") / 9.80665).map(
        lambda v: v.assign_attrs(units="m2 s-2")
    )
    return [
        orography,
        gpm,
        rain,
        humid,
        share,
        cloud,
        q,
        xr.Dataset({"t": t, "ta": t}),
        FULL.rename(names),
        FULL.rename(temperature="Temperature"),
        _with("temperature", t - 273.15, units="K"),
        FULL.assign(temperature=t.assign_attrs(standard_name="air_potential_temperature")),
    ]


def MORE_OBSERVATIONS() -> list:
    heights = _frame("geopotential", np.resize([1460.0, 5570.0], 12), "m2 s-2")
    return [heights, _frame("2m_temperature", np.linspace(10.0, 20.0, 12), "K"), RAW.iloc[:0]]


# ------------------------------------------------------------------ all messages: arguments exist

PUBLIC = {
    "assimilate": xdiffda.assimilate,
    "emulate_obs": None,
    "regrid": xdiffda.regrid,
    "read_obs": xdiffda.read_obs,
    "with_specific_humidity": xdiffda.with_specific_humidity,
    "plan": xdiffda.plan,
    "open_dataset": xdiffda.open_dataset,
    "load_model": xdiffda.load_model,
}


def _templates() -> list[tuple[str, str]]:
    """The repair of each `Problem` of the package that is text, with names for what is put in."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem"):
                continue
            repair = node.args[2] if len(node.args) == 3 else None
            if isinstance(repair, ast.JoinedStr):
                parts = [
                    str(v.value) if isinstance(v, ast.Constant) else "name" for v in repair.values
                ]
                found.append((f"{path.name}:{node.lineno}", "".join(parts)))
            elif isinstance(repair, ast.Constant):
                found.append((f"{path.name}:{node.lineno}", str(repair.value)))
    return found


def test_no_repair_names_an_argument_that_the_call_does_not_have():
    from xdiffda.accessor import DatasetAccessor

    wrong, looked_at = [], 0
    functions = PUBLIC | {"emulate_obs": DatasetAccessor.emulate_obs}
    for where, text in _templates():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if functions.get(name) is None:
                continue
            looked_at += 1
            signature = inspect.signature(functions[name]).parameters
            if any(p.kind is p.VAR_KEYWORD for p in signature.values()):
                continue
            wrong += [
                f"{where}: {name}({k.arg}=...)"
                for k in call.keywords
                if k.arg not in (*signature, None, "name")
            ]
    assert looked_at > 15 and not wrong, wrong


def test_no_unit_is_suggested_that_is_not_understood():
    for canonical, units in USUAL.items():
        assert all(unit.lower() in _KNOWN[canonical] for unit in units)


def test_an_analysis_says_what_it_leaves_out_of_the_background():
    ds = xdiffda.open_sample("background").isel(time=0).load()
    ds["lat_bnds"] = (("lat", "nv"), np.zeros((ds.sizes["lat"], 2)))
    truth = xdiffda.open_sample("truth").isel(time=0)
    obs = truth.diffda.emulate_obs(n_columns=20)
    analysis = ds.diffda.assimilate(obs, method="3dvar", progress=False)
    assert "lat_bnds" in analysis.attrs["xdiffda_left_out"]
    assert "lat_bnds" in repr(analysis.diffda)


def test_every_repair_can_be_run_and_what_it_names_exists():
    """All modules: `Problem`, `StorageError`, `ModelError` and warnings, read from the source.

    Python, a command with its options, or entries of a configuration; never prose or a gap.
    """
    import repairs

    known, found = repairs.public(), list(repairs.printed())
    assert len(found) > 500
    wrong = [
        f"{where}: {text}: {said}" for where, text in found if (said := repairs.fault(text, known))
    ]
    assert not wrong, "\n".join(wrong)
    assert repairs.fault("another store", known) == "neither Python nor a command"
    assert repairs.fault("name = ...", known) == "a placeholder"
    assert "has no ['n_step']" in repairs.fault("xdiffda.plan(n_step=3)", known)
    assert repairs.fault("xdiffda.plam(n_steps=3)", known) == "no xdiffda.plam"
    assert repairs.fault("xdiffda plan --stepps 3", known) == "no options ['--stepps']"
    assert repairs.fault("ds.assign_coords(time=...)", known) == "a placeholder"


@pytest.mark.parametrize("call", ["verify", "map"])
def test_verify_and_maps_refuse_two_variables_for_one(call):
    from xdiffda.state.canonical import canonical

    t = state("temperature")["temperature"]
    ds = xr.Dataset({"ta": t, "t": t + 1.0})
    with pytest.raises(InputError, match="ta, t, which all look like temperature") as caught:
        if call == "verify":
            xdiffda.verify.verify(ds, state("temperature"))
        else:
            ds.diffda.map("t", level=500)
    fixed = repaired(caught.value.problems[0], scope_of(ds))["ds"]
    np.testing.assert_array_equal(
        canonical(fixed)["temperature"], canonical(t.to_dataset())["temperature"]
    )
