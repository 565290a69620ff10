"""Forecasts that do not fit: told before anything is computed, with the option that mends it."""

from __future__ import annotations

import jax
import pytest
import xarray as xr
from tiny_release import GOLDEN, statistics
from tiny_release import frames as frames

import xdiffda
from xdiffda.assimilation.memory import needed_to_forecast, states_that_fit
from xdiffda.errors import InputError
from xdiffda.networks.graphcast import Forecaster, load


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(load(GOLDEN / "checkpoint.npz"), **statistics())


def _need(forecaster: Forecaster, frames: xr.Dataset):
    graph = forecaster.net.graph_for(frames)
    return lambda own: needed_to_forecast(own.net.net, graph)


def test_too_little_memory_is_told_before_a_forecast(forecaster, frames, monkeypatch) -> None:
    need = _need(forecaster, frames)
    whole, small = need(forecaster), need(forecaster.reconfigured(edge_chunk=256))
    assert small.shared + small.member < whole.shared + whole.member
    monkeypatch.setattr(Forecaster, "rollout", lambda *a, **k: pytest.fail("rolled out"))
    with xdiffda.set_options(memory_limit=whole.shared + whole.member - 1):
        with pytest.raises(
            InputError,
            match="(?s)iB .the option memory_limit. for a forecast with the forecaster"
            ".*needed .*iB for one member.*model=forecaster.reconfigured.edge_chunk=",
        ) as caught:
            frames.diffda.forecast("6h", model=forecaster)
        repair = caught.value.problems[0].repair
        mended = eval(repair.removeprefix("model="), {"forecaster": forecaster})
        assert states_that_fit(mended, need, 8, name="") >= 1
    with (
        xdiffda.set_options(memory_limit=1000),
        pytest.raises(InputError, match="no option makes that small enough.*set_options"),
    ):
        frames.diffda.forecast("6h", model=forecaster)


def test_half_precision_is_proposed_where_it_saves(forecaster, frames, monkeypatch) -> None:
    """On a GPU alone: no size of chunks is small enough here, both together are."""
    need = _need(forecaster, frames)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sizes = [2**n for n in range(18, 7, -1)]
    chunked = [need(forecaster.reconfigured(edge_chunk=n)) for n in sizes]
    both = [need(forecaster.reconfigured(edge_chunk=n, dtype="bfloat16")) for n in sizes]
    least, most = (min(n.shared + n.member for n in needs) for needs in (both, chunked))
    assert least < most
    with (
        xdiffda.set_options(memory_limit=least),
        pytest.raises(InputError, match="reconfigured.dtype='bfloat16', edge_chunk="),
    ):
        states_that_fit(forecaster, need, 8, name="it")


def test_states_go_in_groups_that_fit(forecaster, frames) -> None:
    need = _need(forecaster, frames)
    own, found = need(forecaster), []
    for n in (1, 2, 3, 99):
        with xdiffda.set_options(memory_limit=own.shared + n * own.member):
            found.append(states_that_fit(forecaster, need, 8, name="it"))
    assert found == [1, 2, 3, 8]
