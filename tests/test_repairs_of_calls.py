"""Repairs of arguments and of Datasets for networks, run on the call that caused them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from gaussian_world import LAYOUT, SampledPrior, draw_states, make_prior
from repairs import again, until_it_works

import xdiffda
from xdiffda.assimilation.baselines import Inflation, Localisation
from xdiffda.assimilation.methods import LETKF, Guided, RePaint, ThreeDVar
from xdiffda.assimilation.settings import Settings, names_moved_settings
from xdiffda.covariance.ensemble import Hybrid
from xdiffda.diffusion.kalman import Solver
from xdiffda.errors import InputError, raise_if
from xdiffda.networks.graphcast import fitting
from xdiffda.observations import emulate_obs
from xdiffda.observations.quality import Quality
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.matching import matched

TOOLS = {"np": np, "xr": xr, "pd": pd, "xdiffda": xdiffda, "Solver": Solver, "RePaint": RePaint}
TOOLS |= {"Hybrid": Hybrid, "Localisation": Localisation, "Inflation": Inflation}

# ------------------------------------------------------------------ settings of assimilate

SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "members": (Settings, {"n_members": 0}),
    "method": (Settings, {"method": "4dvar"}),
    "withhold": (Settings, {"withhold": 2}),
    "seed": (Settings, {"seed": -1}),
    "window": (Settings, {"window": "soon"}),
    "scale": (Settings, {"background_error": -1.0}),
    "quality": (Settings, {"quality": "strict"}),
    "several": (Settings, {"n_members": 0, "seed": -1, "window": "soon", "withhold": 5}),
    "robust": (Settings, {"quality": Quality(robust="varqc"), "method": "letkf"}),
    "correlation": (Settings, {"error_correlation": 0.5, "method": "letkf"}),
    "steps": (Guided, {"n_steps": 2.5}),
    "batch": (Guided, {"max_batch": -1}),
    "antithetic": (Guided, {"antithetic": "yes"}),
    "no solver": (Guided, {"solver": 3}),
    "hybrid": (ThreeDVar, {"hybrid": 0.5}),
    "levels": (RePaint, {"n_levels": 0}),
    "no localisation": (LETKF, {"localisation": "500 km"}),
    "gross": (Quality, {"gross_check": 0}),
}


@pytest.fixture(scope="module")
def prior():
    return make_prior(SampledPrior)


@pytest.mark.parametrize("case", SETTINGS)
def test_repairs_of_settings(case):
    kind, given = SETTINGS[case]
    name = "assimilate" if kind is Settings else kind.__name__
    made, seen = until_it_works(kind, given, TOOLS | {"name": name})
    assert made is not None and seen


MOVED: dict[str, dict[str, Any]] = {
    "steps": {"n_steps": 4},
    "check": {"gross_check": 4.0},
    "both": {"sampler": "heun", "robust": "varqc"},
    "localisation": {"method": "letkf", "localisation": Localisation()},
}


@pytest.mark.parametrize("case", MOVED)
def test_repairs_of_arguments_that_moved(case):
    @names_moved_settings
    def assimilate(method="guided", quality=None):
        return Settings(method=method, quality=quality)

    given = MOVED[case]
    with pytest.raises(InputError) as error:
        assimilate(**given)
    kept = {k: v for k, v in given.items() if k == "method"}
    for problem in error.value.problems:
        kept = again(problem.repair, kept, TOOLS | {"name": "assimilate"})
    settings = assimilate(**kept)
    for name, value in given.items():
        if name != "method":
            owner = settings.quality if hasattr(settings.quality, name) else settings.method
            assert getattr(owner, name) == value


# ------------------------------------------------------------------ emulated observations

SITES = {"lat": [10.0, 20.0], "lon": [5.0, 6.0]}
EMULATED: dict[str, dict[str, Any]] = {
    "seed": {"n_columns": 5, "seed": -1},
    "variable": {"n_columns": 5, "variables": ["chlorophyll"]},
    "no variables": {"n_columns": 5, "variables": []},
    "level": {"n_columns": 5, "levels": [3]},
    "too many": {"n_columns": 10**6},
    "both": {"n_columns": 5, "fraction": 0.1},
    "share": {"fraction": 2.0},
    "beyond the pole": {"sites": {"lat": [95.0], "lon": [5.0]}},
    "names": {"sites": SITES | {"station": ["one"]}},
    "negative": {"n_columns": 5, "error_std": {"temperature": -1.0}},
    "kilograms": {
        "n_columns": 5,
        "error_std": {"temperature": xr.DataArray(1.0, attrs={"units": "kg"})},
    },
}


@pytest.mark.parametrize("case", EMULATED)
def test_repairs_of_emulated_observations(case, prior):
    ds = draw_states(prior)[0]

    def call(**given):
        return emulate_obs(given.pop("ds"), **given)

    obs, seen = until_it_works(call, {"ds": ds} | EMULATED[case], TOOLS | {"name": "emulate_obs"})
    assert seen
    if case == "kilograms":  # no unit is changed to silence a check
        assert obs is None
    else:
        assert obs.sizes["station"] and all(bool(np.isfinite(v).all()) for v in obs.values())


# ------------------------------------------------------------------ inputs of a network

TASK = SimpleNamespace(
    input_variables=("temperature", "2m_temperature"),
    forcing_variables=("toa_incident_solar_radiation",),
    pressure_levels=(500, 850),
    n_frames=2,
)
STEP = np.timedelta64(6, "h")
T = np.datetime64("2020-01-01T06", "ns")


def _fields(names, times, **sizes) -> xr.Dataset:
    coords = {
        "batch": [0],
        "time": times,
        "level": [500, 850],
        "lat": np.linspace(-60, 60, 3),
        "lon": np.arange(4) * 90.0,
    }
    found = {}
    for name in names:
        dims = [d for d in coords if d != "level" or name == "temperature"]
        found[name] = (dims, np.ones([len(coords[d]) for d in dims], np.float32))
    return xr.Dataset(found, {k: v for k, v in coords.items() if k != "batch"})


INPUTS = _fields(TASK.input_variables, [T - STEP, T])
FORCINGS = _fields(TASK.forcing_variables, [T + STEP]).drop_vars("level")
EVERY = _fields(TASK.forcing_variables, [T, T + STEP, T + 2 * STEP]).drop_vars("level")
NETWORK = {
    "a path": {"inputs": "inputs.nc"},
    "an array": {"forcings": FORCINGS["toa_incident_solar_radiation"]},
    "pascals": {"inputs": INPUTS.assign_coords(level=[50000, 85000])},
    "no level": {"inputs": INPUTS.isel(level=[0])},
    "level twice": {
        "inputs": xr.concat([INPUTS, INPUTS.isel(level=[0])], "level", data_vars="minimal")
    },
    "no latitude": {"inputs": INPUTS.drop_vars("lat")},
    "other rows": {"forcings": FORCINGS.assign_coords(lat=[-70.0, 0.0, 70.0])},
    "more rows": {
        "forcings": FORCINGS.pad(lon=(0, 2), mode="edge").assign_coords(lon=np.arange(6) * 90.0)
    },
    "three times": {"inputs": _fields(TASK.input_variables, [T - 2 * STEP, T - STEP, T])},
    "times apart": {"inputs": _fields(TASK.input_variables, [T - 2 * STEP, T])},
    "other time": {"forcings": EVERY.isel(time=[0])},
    "some times": {"forcings": EVERY},
    "other names": {"inputs": INPUTS.rename(lat="latitude", lon="longitude")},
    "short name": {"inputs": INPUTS.rename({"2m_temperature": "t2m"})},
    "no forcings": {"forcings": FORCINGS.drop_vars("toa_incident_solar_radiation")},
    "members": {"forcings": xr.concat([FORCINGS] * 3, "batch")},
    "text": {"inputs": INPUTS.assign(temperature=INPUTS["temperature"].astype(str))},
    "gap": {"inputs": INPUTS.where(INPUTS.lat < 50)},
}


@pytest.mark.parametrize("case", NETWORK)
def test_repairs_of_the_inputs_of_a_network(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    INPUTS.to_netcdf("inputs.nc")
    whole = _fields(TASK.input_variables, T + STEP * np.arange(-3, 1))
    given = {"inputs": INPUTS, "forcings": FORCINGS} | NETWORK[case]
    scope = TOOLS | {"name": "", "ds": whole}

    def call(inputs, forcings):
        fitting.check_datasets("network", inputs=inputs, forcings=forcings)
        problems = fitting.all_problems(inputs, forcings, TASK, step=STEP, outputs="targets")
        raise_if(problems, what="network")
        fitting.not_finite("network", inputs, forcings)
        return fitting.selected(inputs, forcings, TASK)

    found, seen = until_it_works(call, given, scope)
    assert seen
    if found is None:  # what nobody can put right who has no more than this
        assert case in ("gap", "other rows", "no level", "times apart")
        return
    inputs, _ = found
    assert inputs.sizes == INPUTS.sizes and np.isfinite(inputs["2m_temperature"]).all()
    np.testing.assert_array_equal(inputs.level, [500, 850])
    np.testing.assert_array_equal(inputs.time, INPUTS.time)


# ------------------------------------------------------------------ an analysis and a truth

STATE = xr.Dataset(
    {"temperature": (("time", "lat", "lon"), np.ones((2, 3, 4)))},
    {"time": [T, T + STEP], "lat": [-60.0, 0.0, 60.0], "lon": np.arange(4) * 90.0},
)
FINE = STATE.interp(lat=np.linspace(-60, 60, 5), lon=np.linspace(0, 270, 7))
PAIRS = {
    "members": {"truth": STATE.expand_dims(member=2)},
    "grid": {"truth": FINE},
    "times": {"truth": STATE.assign_coords(time=[T - STEP, T - 2 * STEP])},
    "no time": {"analysis": STATE.isel(time=0, drop=True)},
    "nothing in common": {"truth": STATE.rename(temperature="geopotential")},
}


@pytest.mark.parametrize("case", PAIRS)
def test_repairs_of_a_comparison_invent_no_time_and_no_name(case):
    given = {"analysis": STATE, "truth": STATE} | PAIRS[case]

    def call(analysis, truth):
        return matched(analysis, truth, what="analysis")

    try:
        found, seen = until_it_works(call, given, TOOLS | {"name": "verify"})
    except KeyError:  # of times: selects them, where the truth has them
        assert case == "times"
        return
    assert (found is None) == (case in ("no time", "nothing in common"))
    assert len(seen) == 1


def test_other_units_of_a_comparison_are_converted_by_nobody():
    other = STATE.assign(smoke=STATE["temperature"].assign_attrs(units="g m-3"))
    mine = STATE.assign(smoke=STATE["temperature"].assign_attrs(units="kg m-3"))
    with pytest.raises(InputError, match="one unit: convert one of the two") as caught:
        xdiffda.verify.verify(mine, other)
    assert not caught.value.problems[0].repair


def test_repairs_of_a_state_that_is_written():
    x = np.ones((2, 3, LAYOUT.grid.n_node, LAYOUT.n_channel))
    given = {"dims": ("member",)}
    scope = TOOLS | {"name": "from_state", "x": x, "layout": LAYOUT, "values": [0, 1]}
    scope["convention"] = default_convention(LAYOUT)

    def call(**given):
        return from_state(x, LAYOUT, scope["convention"], **given)

    ds, seen = until_it_works(call, given, scope)
    assert seen
    assert ds is None or ds["temperature"].ndim == 5
