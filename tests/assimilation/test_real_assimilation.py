"""Assimilation in real files as users have them: ERA5 members and IFS fields.

The prior is a Gaussian estimated from differences of the other members or times; the
observations are emulated from the member or time that plays the truth.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from places import SHARED

import xdiffda
from xdiffda.storage.files import open_dataset, write_dataset

pytestmark = pytest.mark.long  # whole fields of reanalyses

ERA5, IFS = "era5-levels-members.grib", "pl_regular_ll.grib"
# pairs of opposite perturbations: the mean of four members has hardly any sampling error
QUICK = {"n_members": 4, "method": xdiffda.Guided(n_steps=4, antithetic=True), "progress": False}
N_ERA5 = 2000  # errors of members are of small scale: fewer columns say little between them
ERA5_ERRORS = {"geopotential": 5.0, "temperature": 0.15}
IFS_ERRORS = {
    "geopotential": 50.0,
    "temperature": 0.5,
    "relative_humidity": 5.0,
    "u_component_of_wind": 1.0,
    "v_component_of_wind": 1.0,
}
States = tuple[xr.Dataset, xr.Dataset, xr.Dataset]


@pytest.fixture(scope="module")
def real():
    """Path of a real file, or a skip that says what is absent."""
    pytest.importorskip("cfgrib", exc_type=ImportError, reason="the extra `obs` is not installed")

    def find(name: str) -> Path:
        path = SHARED / "data" / "grids" / name
        if not path.exists():
            pytest.skip(f"../shared/data/grids/{name} is not on this machine")
        return path

    return find


def era5_members(ds: xr.Dataset) -> States:
    """Member 0 is the background, member 1 the truth; the others give the errors in pairs."""
    now = ds.isel(time=1)
    one, other = (ds.isel(number=slice(i, None, 2)).drop_vars("number") for i in (2, 3))
    return now.isel(number=1), now.isel(number=0), one - other


def ifs_persistence(ds: xr.Dataset) -> States:
    """The state of 12 h before is the background; the errors are 12 h changes at other times."""
    truth, before = ds.isel(time=2, step=0), ds.isel(time=1, step=0)
    background = before.assign_coords(time=truth["time"], valid_time=truth["valid_time"])
    return truth, background, ds.isel(step=1).diff("time")


def rmse(ds: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Area-weighted, by variable and level, in the names and coordinates of the files."""
    weight = np.cos(np.deg2rad(truth["latitude"]))
    square = (ds - truth).drop_vars("number", errors="ignore") ** 2
    return square.weighted(weight).mean(["latitude", "longitude"]) ** 0.5


def assert_users_convention(analysis: xr.Dataset, background: xr.Dataset) -> None:
    assert set(analysis.data_vars) == set(background.data_vars)
    for name in ("isobaricInhPa", "latitude", "longitude"):
        xr.testing.assert_identical(analysis[name].variable, background[name].variable)
    assert analysis["latitude"][0] == 90 and analysis["latitude"][-1] == -90
    assert analysis["isobaricInhPa"][0] == background["isobaricInhPa"].max()
    for name, field in analysis.data_vars.items():
        assert field.dims == ("member", "isobaricInhPa", "latitude", "longitude")
        assert field.attrs == background[name].attrs
    assert analysis["valid_time"] == background["valid_time"]


def assert_closer(analysis: xr.Dataset, background: xr.Dataset, truth: xr.Dataset, gain: float):
    """Closer to the truth in every variable at every level, by ``gain`` on average."""
    ratio = rmse(analysis.mean("member"), truth) / rmse(background, truth)
    ratios = ratio.to_dataarray().values
    assert ratios.size == len(truth.data_vars) * truth.sizes["isobaricInhPa"]
    assert (ratios < 1).all(), ratio
    assert ratios.mean() < 1 - gain


@pytest.fixture(scope="module")
def era5_analysis(real) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    ds = xr.open_dataset(real(ERA5), engine="cfgrib", backend_kwargs={"indexpath": ""})
    truth, background, residuals = era5_members(ds)
    return analyse_era5(truth, background, residuals), background, truth


def analyse_era5(truth: xr.Dataset, background: xr.Dataset, residuals: xr.Dataset) -> xr.Dataset:
    prior = xdiffda.GaussianPrior.from_samples(residuals)
    obs = truth.diffda.emulate_obs(n_columns=N_ERA5, error_std=ERA5_ERRORS, seed=1)
    return background.diffda.assimilate(obs, model=prior, seed=2, **QUICK)


def test_one_era5_member_is_drawn_to_another(era5_analysis):
    analysis, background, truth = era5_analysis
    assert_users_convention(analysis, background)
    assert_closer(analysis, background, truth, gain=0.05)
    assert analysis.attrs["xdiffda_model"] == "gaussian"
    assert (
        0.99 * N_ERA5 * 4 < json.loads(analysis.attrs["xdiffda_observations_used"])[0] <= N_ERA5 * 4
    )
    # pairs of members differ as background and truth do: the prior is neither too wide nor narrow
    assert 0.5 < json.loads(analysis.attrs["xdiffda_background_error"])[0] < 1.5
    spread = analysis.std("member", ddof=1).map(np.square).mean(["latitude", "longitude"]) ** 0.5
    ratio = (spread / rmse(analysis.mean("member"), truth)).to_dataarray().values
    assert 0.5 < ratio.mean() < 1.5


def test_ifs_fields_of_12_hours_before_are_drawn_to_the_present(real):
    ds = xr.open_dataset(real(IFS), engine="cfgrib", backend_kwargs={"indexpath": ""})
    truth, background, residuals = ifs_persistence(ds)
    prior = xdiffda.GaussianPrior.from_samples(residuals, centre=False)
    obs = truth.diffda.emulate_obs(n_columns=200, error_std=IFS_ERRORS, seed=1)
    analysis = background.diffda.assimilate(obs, model=prior, seed=2, **QUICK)
    assert_users_convention(analysis, background)
    assert_closer(analysis, background, truth, gain=0.2)
    assert analysis.sizes["isobaricInhPa"] == 6 and analysis.attrs["GRIB_centre"] == "ecmf"


@pytest.mark.parametrize("suffix", [".grib", ".nc", ".zarr"])
def test_lazy_files_give_the_same_analysis(real, era5_analysis, tmp_path, suffix):
    """GRIB, netCDF and Zarr on dask: no field is computed before the prior, the result is one."""
    path = real(ERA5)
    if suffix != ".grib":
        path = write_dataset(open_dataset(path), tmp_path / f"members{suffix}")
    import dask

    ds = open_dataset(path)
    with dask.config.set(scheduler=refuse_to_compute):
        ds = ds.chunk({"latitude": 31, "time": 1}).assign_coords(ds.coords)  # clocks are read
        states = era5_members(ds)
        assert "geopotential" in repr(states[1].diffda)
    assert all(field.chunks for ds in states for field in ds.data_vars.values())
    analysis = analyse_era5(*states)
    assert all(field.chunks for ds in states for field in ds.data_vars.values())
    expected, background, _ = era5_analysis
    assert_users_convention(analysis, background)
    for name, field in expected.data_vars.items():
        np.testing.assert_allclose(analysis[name], field, rtol=1e-6)


def refuse_to_compute(dsk: object, keys: object, **options: object) -> None:
    raise AssertionError("dask was computed")
