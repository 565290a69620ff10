"""Boxes of the globe with the prior `reference`: the global analysis, cut to the box."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdiffda
from xdiffda.assimilation.assimilate import assimilate
from xdiffda.diffusion.kalman import Solver
from xdiffda.errors import InputError
from xdiffda.state.convention import default_convention
from xdiffda.state.convert import from_state
from xdiffda.state.grid import Grid, Layout, equiangular

NAMES = ("u_component_of_wind", "v_component_of_wind", "temperature", "specific_humidity")
BOXES = {
    "inside": (slice(20, 70), np.arange(30, 121, 5)),
    "across Greenwich": (slice(20, 70), np.arange(-40, 41, 5)),
    "across the date line, at the pole": (slice(45, 90), np.arange(150, 211, 5)),
}
TIGHT = Solver(tolerance=1e-5)


@pytest.fixture(scope="module")
def background() -> xr.Dataset:
    layout = Layout(equiangular(37, 72, poles=True), NAMES, (500, 850))
    values = np.array([5e-4, 5e-3, 255.0, 280.0, 8.0, 4.0, 1.0, -1.0], np.float32)
    wave = np.cos(np.deg2rad(layout.grid.node_lat))[:, None] * np.array([1e-4, 1e-3] + 6 * [1.0])
    state = (values + wave).astype(np.float32)
    ds = from_state(state, layout, default_convention(layout))
    return ds.assign_coords(time=np.datetime64("2024-01-01T12", "ns"))


def _cut(ds: xr.Dataset, box: str) -> xr.Dataset:
    lat, lon = BOXES[box]
    return ds.sel(lat=lat).sel(lon=np.mod(lon, 360)).assign_coords(lon=lon)


def _obs(box: str, n: int = 12) -> pd.DataFrame:
    lat, lon = BOXES[box]
    rng = np.random.default_rng(1)
    name = np.array(NAMES)[np.arange(n) % len(NAMES)]
    centre = {"temperature": 256.0, "specific_humidity": 8e-4}
    error = {"temperature": 0.7, "specific_humidity": 2e-4}
    return pd.DataFrame(
        {
            "variable": name,
            "lat": rng.uniform(lat.start + 1, lat.stop - 6, n),
            "lon": rng.uniform(lon[0] + 1, lon[-1] - 1, n),
            "level": 500.0,
            "value": [centre.get(one, 6.0) for one in name],
            "error_std": [error.get(one, 1.5) for one in name],
            "time": np.datetime64("2024-01-01T12", "ns"),
        }
    )


@pytest.mark.long
@pytest.mark.parametrize("box", list(BOXES))
def test_the_analysis_of_a_box_is_the_global_one_cut_to_it(
    background: xr.Dataset, box: str
) -> None:
    settings = {"method": xdiffda.ThreeDVar(solver=TIGHT), "progress": False}
    whole = xdiffda.reference_prior(background, truncation=30)
    part = xdiffda.reference_prior(_cut(background, box), truncation=30)
    expected = _cut(assimilate(background, _obs(box), model=whole, **settings), box)
    found = assimilate(_cut(background, box), _obs(box), model=part, **settings)
    assert found.attrs["xdiffda_background_error"] == expected.attrs["xdiffda_background_error"]
    for name in NAMES:
        increment = expected[name] - _cut(background, box)[name]
        size = float(np.abs(increment).max())
        assert size > 0
        np.testing.assert_allclose(found[name], expected[name], atol=2e-4 * size, rtol=2e-7)


def test_draws_of_a_box_are_those_of_the_globe(background: xr.Dataset) -> None:
    import jax

    box = _cut(background, "across Greenwich")
    whole = xdiffda.reference_prior(background, truncation=20)
    part = xdiffda.reference_prior(box, truncation=20)
    keys = jax.random.split(jax.random.key(3), 2)
    grid = whole.layout.grid
    node = np.arange(grid.n_node).reshape(grid.shape)
    rows = np.searchsorted(grid.lat, part.layout.grid.lat)
    columns = np.searchsorted(grid.lon, np.mod(part.layout.grid.lon, 360.0))
    own = node[rows][:, columns].reshape(-1)
    expected = np.asarray(whole.covariance.sample(keys))[own]
    np.testing.assert_allclose(part.covariance.sample(keys), expected, atol=2e-5)
    np.testing.assert_allclose(part.scale, whole.scale[own], rtol=1e-5)


@pytest.mark.long
def test_observations_outside_a_box_are_rejected_by_reason(background: xr.Dataset) -> None:
    box = _cut(background, "inside")
    outside = _obs("across Greenwich").query("lon < 0")
    obs = pd.concat([outside, _obs("inside")], ignore_index=True)
    model = xdiffda.reference_prior(box, truncation=20)
    found = assimilate(box, obs, model=model, method="3dvar", progress=False)
    rejected = json.loads(found.attrs["xdiffda_observations_rejected"])[0]
    assert {reason[:15]: n for reason, n in rejected.items()} == {"outside the box": len(outside)}
    expected = assimilate(box, _obs("inside"), model=model, method="3dvar", progress=False)
    xr.testing.assert_equal(found.drop_attrs(), expected.drop_attrs())


def test_network_priors_say_that_they_are_global(background: xr.Dataset) -> None:
    with pytest.raises(InputError, match="a box of the globe") as caught:
        assimilate(_cut(background, "inside"), _obs("inside"), model="speedy")
    assert "reference_prior(background)" in str(caught.value)


def test_samples_of_a_box_make_no_prior() -> None:
    lat, lon = np.arange(30, 60, 5.0), np.arange(0, 40, 5.0)
    noise = np.random.default_rng(0).normal(size=(4, 6, 8))
    samples = xr.Dataset(
        {"2m_temperature": (("member", "lat", "lon"), noise)}, {"lat": lat, "lon": lon}
    )
    with pytest.raises(InputError, match="the whole globe"):
        xdiffda.GaussianPrior.from_samples(samples)


@pytest.mark.parametrize("west", [0.0, 340.0, 170.0])
def test_cells_of_a_box_have_the_areas_of_the_sphere(west: float) -> None:
    grid = Grid.from_coords(np.arange(30, 61, 1.0), west + np.arange(0, 41, 1.0))
    weight = grid.area_weights().reshape(grid.shape)[:, 0]
    np.testing.assert_allclose(weight / weight[0], _area(grid.lat) / _area(grid.lat)[0], rtol=1e-6)
    assert not grid.is_global and not grid.wraps
    assert grid.node_lon.min() >= 0 and grid.node_lon.max() < 360


def _area(lat: tuple[float, ...]) -> np.ndarray:
    edges = np.deg2rad(np.append(np.array(lat) - 0.5, lat[-1] + 0.5))
    return np.diff(np.sin(edges))
