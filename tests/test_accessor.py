"""The accessor: says what it sees, holds nothing, computes nothing."""

from __future__ import annotations

import importlib
import inspect
import pickle

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.accessor import DataArrayAccessor, DatasetAccessor


@pytest.fixture
def state() -> xr.Dataset:
    return xdiffda.open_sample("background").isel(time=0)


def test_repr_of_a_state_says_that_the_model_takes_it(state: xr.Dataset, no_compute: None) -> None:
    text = repr(state.diffda)
    assert "32 x 64" in text and "100, 200, 300, 500, 700, 850, 925" in text
    assert "2m_temperature, geopotential" in text
    assert "Model speedy: can take it" in text


def test_repr_names_what_the_model_misses(state: xr.Dataset) -> None:
    part = state.drop_vars("temperature").sel(level=[100, 500]).isel(lat=slice(None, None, 2))
    line, chosen = repr(part.diffda).splitlines()[-2:]
    assert line.startswith("Model speedy: missing temperature; missing levels 200, 300, 700, 850")
    assert "grid is not 32 x 64: xdiffda.regrid(ds, like='speedy')" in line
    assert chosen.startswith("By default: ") and "reference" in chosen


def test_repr_of_observations(state: xr.Dataset) -> None:
    obs = state.load().diffda.emulate_obs(n_columns=5, seed=0)
    text = repr(obs.diffda)
    assert "Observations: " in text and "5 station" in text and "temperature" in text


def test_repr_of_what_is_not_recognised() -> None:
    text = repr(xr.Dataset({"price": ("shop", [1.0])}).diffda)
    assert text.startswith("<xdiffda accessor>") and "found" in text and "needed" in text


def test_a_data_array_is_told_to_become_a_dataset(state: xr.Dataset) -> None:
    array = state["2m_temperature"]
    repair = "da.to_dataset\\(name='2m_temperature'\\).diffda.assimilate"
    with pytest.raises(TypeError, match=f"assimilate needs a Dataset: use {repair}"):
        array.diffda.assimilate(None)
    with pytest.raises(AttributeError):
        array.diffda.nonsense  # noqa: B018
    assert "to_dataset" in repr(array.diffda)


@pytest.mark.parametrize("kind", [DatasetAccessor, DataArrayAccessor])
def test_accessors_hold_their_object_only(state: xr.Dataset, kind: type) -> None:
    obj = state if kind is DatasetAccessor else state["2m_temperature"]
    accessor = kind(obj)
    repr(accessor)
    assert list(vars(accessor)) == ["_obj"]
    back = pickle.loads(pickle.dumps(kind(obj.load())))
    assert list(vars(back)) == ["_obj"]
    assert back._obj.identical(obj)


def test_every_method_is_one_line_to_a_public_function() -> None:
    methods = {n: m for n, m in vars(DatasetAccessor).items() if not n.startswith("_")}
    assert {
        "assimilate",
        "forecast",
        "emulate_obs",
        "dilate_mask",
        "interpolate",
        "increment",
        "verify",
        "map",
    } <= set(methods)
    accessor = xr.Dataset().diffda
    for name in methods:
        module, function = methods[name]._module, methods[name]._name
        public = getattr(importlib.import_module(module), function)
        bound = getattr(accessor, name)
        # help and completion show the function's own signature, without what is bound
        shown, own = inspect.signature(bound), inspect.signature(public)
        assert list(shown.parameters.values()) == list(own.parameters.values())[1:], name
        assert inspect.getdoc(bound) == inspect.getdoc(public), name
        settings = [p for p in shown.parameters.values() if p.kind is p.VAR_KEYWORD]
        assert not settings, f"{name} swallows whatever it is given"


def test_methods_call_their_functions(state: xr.Dataset) -> None:
    truth = xdiffda.open_sample("truth").isel(time=0).load()
    state = state.load()
    increment = truth.diffda.increment(state)
    np.testing.assert_allclose(
        increment["2m_temperature"], truth["2m_temperature"] - state["2m_temperature"], atol=1e-4
    )
    scores = state.diffda.verify(truth)
    found = float(scores["2m_temperature"].sel(score="bias"))
    from xdiffda.state.grid import Grid

    area = Grid(tuple(truth.lat.values.tolist()), tuple(truth.lon.values.tolist())).area_weights()
    expected = np.mean(area * (state - truth)["2m_temperature"].values.reshape(-1))
    assert found == pytest.approx(expected, abs=1e-3)
