"""Ensembles of an FGN forecaster from a user's states: the same members whatever the batching."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import xarray as xr
from fgn_world import Case
from places import FGN_GOLDEN

import xdiffda
from xdiffda.errors import InputError
from xdiffda.networks import fgn
from xdiffda.networks.gencast.forecaster import clock_forcings
from xdiffda.state.grid import equiangular

CASE = Case(FGN_GOLDEN)
START, STEP = np.datetime64("2021-03-05T12", "ns"), np.timedelta64(6, "h")
STATIC = ["geopotential_at_surface", "land_sea_mask"]


@pytest.fixture(scope="module")
def model() -> fgn.FGNForecaster:
    """Two networks, here of the same weights, that members share out."""
    other = fgn.load(FGN_GOLDEN / "checkpoint.npz", config=FGN_GOLDEN / "config.json")
    return fgn.FGNForecaster(CASE.net, other, grid=equiangular(19, 36, poles=True))


@pytest.fixture(scope="module")
def frames() -> xr.Dataset:
    """Two states 6 h apart, sea surface temperature missing over land."""
    inputs = CASE.fields("inputs").isel(batch=0)
    states = inputs.drop_vars([v for v in inputs if "progress" in str(v)])
    states = states.assign_coords(time=[START - STEP, START])
    return states.assign(temperature=states["temperature"].clip(150, 350))  # made-up fields


@pytest.fixture(scope="module")
def three(model: fgn.FGNForecaster, frames: xr.Dataset) -> xr.Dataset:
    return frames.diffda.forecast("12h", model=model, n_members=3, seed=5)


@pytest.mark.long
def test_members_are_those_of_the_forecaster_itself(model, frames, three) -> None:
    clocks = clock_forcings(START + np.arange(-1, 3) * STEP, frames["lon"].values)
    inputs = frames.expand_dims(batch=1).merge(clocks.isel(time=[0, 1]))
    inputs = inputs.assign({v: inputs[v].isel(batch=0, drop=True) for v in STATIC})
    noise = fgn.member_noise(jax.random.key(5), range(3), 2, 32)[:, None]
    wanted = model.rollout(inputs, clocks.isel(time=[2, 3]), noise=noise, steps=2).isel(batch=0)
    assert three["time"].values.tolist() == (START + np.arange(1, 3) * STEP).tolist()
    assert dict(three.sizes)["member"] == 3
    known = [v for v in wanted if "cyclone" not in str(v)]
    assert {*three} == {*known, *STATIC}
    for name in known:
        ours, theirs = three[name], wanted[name].rename(sample="member")
        ours = ours.transpose(*theirs.dims)
        scale = float(theirs.std())
        np.testing.assert_array_equal(ours.isnull(), theirs.isnull())
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=5e-5, err_msg=name)
    land = frames["sea_surface_temperature"].isnull().any("time")
    assert bool((three["sea_surface_temperature"].isnull().all(("time", "member")) == land).all())


def test_the_same_members_whatever_the_batching(model, frames, three) -> None:
    one_by_one = frames.diffda.forecast("12h", model=model, n_members=2, seed=5, max_batch=1)
    shorter = frames.diffda.forecast("6h", model=model, seed=5)
    for name in ("2m_temperature", "geopotential"):
        scale = float(three[name].std())
        ours, theirs = one_by_one[name] / scale, three[name].isel(member=[0, 1]) / scale
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
        ours, theirs = shorter[name] / scale, three[name].isel(member=[0], time=[0]) / scale
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    apart = abs(three["2m_temperature"].diff("member")).mean(("lat", "lon"))
    assert float(apart.min()) > 0.5
    other = frames.diffda.forecast("6h", model=model, seed=6)
    change = abs(other["2m_temperature"] - shorter["2m_temperature"])
    assert float(change.mean()) > 0.5


def test_each_given_member_goes_on_by_itself(model, frames, three) -> None:
    moving = frames.drop_vars(STATIC)
    warmer = moving.assign({"2m_temperature": moving["2m_temperature"] + 1})
    members = xr.concat([moving, warmer, moving], "member").merge(frames[STATIC])
    found = members.diffda.forecast("12h", model=model, seed=5)
    name = "2m_temperature"
    scale = float(three[name].std())
    for i in (0, 2):
        ours, theirs = found[name].isel(member=i) / scale, three[name].isel(member=i) / scale
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert float(abs(found[name] - three[name]).isel(member=1).mean()) > 0.3
    with pytest.raises(InputError, match="n_members=2 for states of 3 members"):
        members.diffda.forecast("6h", model=model, n_members=2)


def test_what_cannot_be_is_refused(model, frames) -> None:
    for n in (0, 2.5, True):
        with pytest.raises(InputError, match=rf"n_members={n}; needed a whole number of 1 or more"):
            frames.diffda.forecast("6h", model=model, n_members=n)
    with pytest.raises(InputError, match="seed=-1; needed a whole number of 0 or more"):
        frames.diffda.forecast("6h", model=model, seed=-1)
    with pytest.raises(InputError, match="1 initial states.*2 states 6 h apart"):
        frames.isel(time=[1]).diffda.forecast("6h", model=model)
    hole = frames.copy(deep=True)
    hole["2m_temperature"][0, 3, 4] = np.nan
    with pytest.raises(InputError, match="1 NaN of 1368 in `2m_temperature`"):
        hole.diffda.forecast("6h", model=model)
    with pytest.raises(InputError, match="(?s)no level 1000 hPa"):
        frames.sel(level=[500, 850]).diffda.forecast("6h", model=model)
    with pytest.raises(InputError, match="knows no grid.*grid=xdiffda.Grid"):
        frames.diffda.forecast("6h", model=fgn.FGNForecaster(CASE.net))
    truth = xdiffda.open_sample("truth").isel(time=0)
    with pytest.raises(
        InputError,
        match="n_members=20 of 'speedy', which gives one forecast of "
        r"each state.*model=\"weathernext2-mini-1p0\", n_members=20",
    ):
        truth.diffda.forecast("6h", model="speedy", n_members=20)
