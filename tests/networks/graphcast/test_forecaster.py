"""Forecasts through Datasets: other tasks and layouts, and input that does not fit.

What the numbers should be is in test_parity.py.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError, ModelError
from xdiffda.networks.graphcast import (
    BareNetwork,
    Checkpoint,
    Forecaster,
    GraphCast,
    ModelConfig,
    NetworkConfig,
    TaskConfig,
    load,
    write_checkpoint,
)
from xdiffda.networks.graphcast.bare import Channel, stack, unstack
from xdiffda.networks.graphcast.loss import channel_weights, latitude_weights

LEVELS = (300, 700)
LAT, LON = np.linspace(-75, 75, 6), np.arange(0.0, 360, 40)


@pytest.fixture(scope="module")
def data():
    """Two members, one input time, two forcing times."""
    rng = np.random.default_rng(0)
    horizontal = {"lat": len(LAT), "lon": len(LON)}

    def field(**sizes):
        sizes |= horizontal
        return tuple(sizes), 250 + 10 * rng.normal(size=tuple(sizes.values())).astype(np.float32)

    coords = {"lat": LAT, "lon": LON}
    inputs = xr.Dataset(
        {
            "temperature": field(batch=2, time=1, level=2),
            "2m_temperature": field(batch=2, time=1),
            "land_sea_mask": field(),
        },
        coords={**coords, "level": list(LEVELS), "time": [np.timedelta64(0, "h")]},
    )
    time = np.array([6, 12], "timedelta64[h]")
    forcings = xr.Dataset({"sun": field(batch=2, time=2)}, coords={**coords, "time": time})
    return inputs, forcings


@pytest.fixture(scope="module")
def net():
    task = TaskConfig(
        input_variables=("temperature", "2m_temperature", "land_sea_mask"),
        target_variables=("temperature", "2m_temperature"),
        forcing_variables=("sun",),
        pressure_levels=LEVELS,
        input_duration="6h",
    )
    sizes = NetworkConfig(5, 3, latent=8, processor_steps=1, hidden_layers=2)
    network = GraphCast(sizes, key=jax.random.key(0))
    return BareNetwork(network, task, ModelConfig(0.0, 1, 8, 1, 2))


@pytest.fixture(scope="module")
def stats(net):
    names = {*net.task.input_variables, *net.task.forcing_variables}
    level = [700, 500, 300]  # another order and one more than needed

    def constant(surface, on_levels):
        data = dict.fromkeys(names, surface) | {"temperature": ("level", on_levels)}
        return xr.Dataset(data, coords={"level": level})

    return {
        "mean": constant(250.0, [270.0, 260.0, 230.0]),
        "stddev": constant(10.0, [7.0, 5.0, 3.0]),
        "diffs_stddev": constant(1.0, [0.7, 0.5, 0.3]),
    }


def test_one_input_frame(data, net, stats):
    inputs, forcings = data
    f = Forecaster(net, **stats)
    out = f.rollout(inputs, forcings, steps=2)
    np.testing.assert_array_equal(out["time"], forcings["time"])
    first = f(inputs, forcings.isel(time=[0]))
    np.testing.assert_allclose(out["temperature"][:, :1], first["temperature"])
    state = first.assign(land_sea_mask=inputs["land_sea_mask"])
    second = f(state, forcings.isel(time=[1]))
    np.testing.assert_allclose(out["temperature"][:, 1:], second["temperature"])


def test_statistics_are_matched_by_label(data, net, stats):
    inputs, forcings = data
    f = Forecaster(net, **stats)
    norm = f.normalize(inputs)
    warm = inputs["temperature"].sel(level=700)
    np.testing.assert_allclose(norm["temperature"].sel(level=700), (warm - 270) / 7, atol=1e-5)
    out = net(norm, f.normalize(forcings.isel(time=[0])))
    last = inputs["temperature"].isel(time=-1, drop=True).sel(level=300)
    expected = last + 0.3 * out["temperature"].sel(level=300)
    ours = f(inputs, forcings.isel(time=[0]))["temperature"].sel(level=300)
    np.testing.assert_allclose(ours, expected.transpose(*ours.dims), rtol=1e-6)


def test_another_way_of_computing_changes_no_forecast(data, net, stats):
    inputs, forcings = data
    f, now = Forecaster(net, **stats), forcings.isel(time=[0])
    chunked = f.reconfigured(edge_chunk=16)
    assert chunked.net.net.config.edge_chunk == 16 and f.net.net.config.edge_chunk == 0
    xr.testing.assert_allclose(chunked(inputs, now), f(inputs, now), rtol=1e-5)
    assert f.reconfigured(dtype="bfloat16").net.net.config.dtype == "bfloat16"
    with pytest.raises(ValueError, match="latent"):
        f.reconfigured(latent=3)


def test_targets_are_the_inverse_of_outputs(data, net, stats):
    inputs, forcings = data
    f = Forecaster(net, **stats)
    norm = net(f.normalize(inputs), f.normalize(forcings.isel(time=[0])))
    physical = f.denormalize(norm, inputs)
    xr.testing.assert_allclose(f.normalized_targets(physical, inputs), norm, atol=1e-3)


def test_variables_without_statistics_pass_unchanged(data, net, stats):
    inputs, _ = data
    fewer = {name: ds.drop_vars("land_sea_mask") for name, ds in stats.items()}
    norm = Forecaster(net, **fewer).normalize(inputs)
    np.testing.assert_array_equal(norm["land_sea_mask"], inputs["land_sea_mask"])


def test_extra_levels_variables_and_dimension_orders_do_not_matter(data, net, stats):
    inputs, forcings = data
    f, now = Forecaster(net, **stats), forcings.isel(time=[0])
    more = inputs.reindex(level=[100, *LEVELS], fill_value=np.nan).assign(other=1.0)
    more = more.transpose("lon", "level", "lat", "time", "batch")
    more["temperature"] = more["temperature"].transpose("batch", "lon", "time", "level", "lat")
    xr.testing.assert_allclose(f(more, now), f(inputs, now), rtol=1e-6)


def test_network_and_task_survive_a_file(data, net, tmp_path):
    inputs, forcings = data
    write_checkpoint(tmp_path / "net.npz", net.checkpoint())
    again = load(tmp_path / "net.npz")
    now = forcings.isel(time=[0])
    xr.testing.assert_identical(again(inputs, now), net(inputs, now))
    assert isinstance(again.checkpoint(), Checkpoint)


def test_all_that_is_missing_is_listed(data, net):
    inputs, forcings = data
    wrong = inputs.drop_vars("2m_temperature").isel(time=[0, 0]).sel(level=[300])
    with pytest.raises(InputError) as caught:
        net(wrong, forcings.drop_vars("sun"))
    message = str(caught.value)
    assert "GraphCast: 5 problems" in message
    for part in ("no 2m_temperature in inputs", "no sun in forcings", "no levels [700]"):
        assert part in message
    assert "found 2 input times" in message
    assert "found 2 forcing times" in message


def test_nan_in_inputs(data, net, stats):
    inputs, forcings = data
    broken = inputs.assign({"2m_temperature": inputs["2m_temperature"].where(LAT[:, None] > 0)})
    with pytest.raises(InputError, match=r"NaN in \['2m_temperature'\]"):
        Forecaster(net, **stats)(broken, forcings.isel(time=[0]))


def test_unusable_statistics(net, stats):
    broken = stats["stddev"].assign({"2m_temperature": np.nan, "land_sea_mask": 0.0})
    unknown = xr.Dataset({"t": 1.0})
    with pytest.raises(InputError, match=r"3 problems[\s\S]*mean of \['t'\]; needed some of"):
        Forecaster(net, **stats | {"stddev": broken, "mean": unknown})
    with pytest.raises(InputError, match=r"without levels \[300\]"):
        Forecaster(net, **stats | {"mean": stats["mean"].sel(level=[700])})


def test_rollout_that_cannot_go_on(data, net, stats):
    inputs, forcings = data
    with pytest.raises(InputError, match="forcings for 2 times; needed 3 times"):
        Forecaster(net, **stats).rollout(inputs, forcings, steps=3)
    task = replace(net.task, target_variables=("temperature",))
    sizes = NetworkConfig(5, 2, latent=8, processor_steps=1)
    other = replace(net, net=GraphCast(sizes, key=jax.random.key(0)), task=task)
    with pytest.raises(InputError, match=r"\['2m_temperature'\] that change with time"):
        Forecaster(other, **stats).rollout(inputs, forcings, steps=2)


def test_channels_that_do_not_add_up(data, net):
    inputs, forcings = data
    static = inputs.assign(land_sea_mask=inputs["temperature"].isel(batch=0))
    with pytest.raises(ModelError, match="found 6 channels in inputs and forcings; needed 5"):
        net(static, forcings.isel(time=[0]))
    task = replace(net.task, target_variables=("temperature",))
    with pytest.raises(ModelError, match="found 3 output channels; needed 2"):
        replace(net, task=task).output_channels(inputs)


def test_stacking_and_back(data):
    inputs, _ = data
    state = inputs.drop_vars("land_sea_mask")
    sizes = {"batch": 2, "lat": len(LAT), "lon": len(LON)}
    channels = [Channel("2m_temperature", 0)] + [Channel("temperature", 0, z) for z in LEVELS]
    x = stack(state, list(state), sizes=sizes)
    assert x.dtype == np.float32
    back = unstack(x, channels, time=state["time"].values, lat=LAT, lon=LON)
    xr.testing.assert_identical(back, state[list(back)])


def test_latitude_weights_are_areas():
    lat = np.linspace(-90, 90, 19)
    inner, pole = np.cos(np.deg2rad(lat)) * np.sin(np.deg2rad(5)), np.sin(np.deg2rad(2.5)) ** 2
    expected = np.concatenate([[pole], inner[1:-1], [pole]])
    np.testing.assert_allclose(latitude_weights(lat), expected / expected.mean(), rtol=1e-12)
    lat = np.arange(-87.1875, 90, 5.625)
    cos = np.cos(np.deg2rad(lat))
    np.testing.assert_allclose(latitude_weights(lat), cos / cos.mean(), rtol=1e-12)
    np.testing.assert_allclose(latitude_weights(lat[::-1]), latitude_weights(lat))


def test_channel_weights_of_known_variables():
    channels = [Channel("10m_u_component_of_wind", 0)]
    channels += [Channel("geopotential", 0, z) for z in (100, 300)]
    np.testing.assert_allclose(channel_weights(channels), [0.1, 0.25, 0.75])


def test_repairs_of_missing_forcings_and_of_other_names(data, net):
    """No forcings at all are one problem, not two; names of other archives are recognised."""
    inputs, forcings = data
    with pytest.raises(InputError, match=r"GraphCast: 1 problem\n.*no sun in forcings"):
        net(inputs, xr.Dataset())
    with pytest.raises(InputError, match=r"repair: `inputs.rename\({'t': 'temperature'}\)`"):
        net(inputs.rename(temperature="t"), forcings.isel(time=[0]))
