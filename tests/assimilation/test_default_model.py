"""Which prior `assimilate` takes by default: the bundled one where it fits, else `reference`."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.priors.registry import choose
from xdiffda.state.grid import equiangular


def sample() -> xr.Dataset:
    return xdiffda.open_sample("background").isel(time=0)


def test_the_bundled_network_where_it_fits():
    choice = choose(None, sample())
    assert choice.prior.name == "speedy" and "on its grid" in choice.reason


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda ds: xdiffda.regrid(ds, like=equiangular(19, 36, poles=True)), "is on the grid"),
        (lambda ds: ds.drop_vars("2m_temperature"), "lacks 2m_temperature"),
        (lambda ds: ds.sel(level=[500, 850]), "lacks the levels 100"),
    ],
)
def test_the_reference_prior_elsewhere_with_the_reason(change, reason):
    choice = choose(None, change(sample()))
    assert choice.prior.name == "reference" and reason in choice.reason


def test_a_model_that_is_named_is_taken():
    assert choose("speedy", sample()).reason == "asked for"
    assert choose("reference", sample()).prior.name == "reference"


def real(shared, name: str) -> xr.Dataset:
    """One state of a real file, as a user opens it."""
    ds = xdiffda.open_dataset(shared(f"data/grids/{name}"))
    ds = ds.isel({dim: 0 for dim in ("time", "step") if dim in ds.dims})
    return ds.load()


def observed(ds: xr.Dataset, name: str, level: float | None, departure: float) -> pd.DataFrame:
    """A few observations at grid points, each the background plus ``departure``."""
    axis = next((d for d in ("isobaricInhPa", "level") if d in ds.dims), None)
    field = ds[name] if level is None or axis is None else ds[name].sel({axis: level})
    at = field.isel(latitude=slice(3, -3, 5), longitude=slice(0, None, 6))
    table = at.rename("value").to_dataframe().reset_index()
    clock = ds["valid_time"] if "valid_time" in ds.coords else ds["time"]
    return pd.DataFrame(
        {
            "variable": "temperature" if level is not None else "2m_temperature",
            "lat": table["latitude"],
            "lon": table["longitude"],
            "level": np.nan if level is None else level,
            "time": np.datetime64(clock.values, "ns"),
            "value": table["value"] + departure,
            "error_std": 0.5,
        }
    ).iloc[:60]


@pytest.mark.long
@pytest.mark.parametrize(
    "name, variable, level",
    [
        ("pl_regular_ll.grib", "t", 500.0),  # IFS, 10 degrees, six levels
        ("t2m_grib_older.grib", "t2m", None),  # IFS, 1 degree, 2 m temperature alone
        ("era_reanalysis_20050123T00_t.nc", "t", 500.0),  # 1.5 degrees, 37 levels
    ],
)
def test_real_files_are_analysed_with_no_other_argument(shared, name, variable, level):
    background = real(shared, name)
    obs = observed(background, variable, level, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = background.diffda.assimilate(obs, n_members=2, progress=False)
    assert analysis.attrs["xdiffda_model"] == "reference"
    assert "does not fit" in analysis.attrs["xdiffda_model_reason"]
    increment = (analysis[variable] - background[variable]).mean("member")
    # towards the observations, which are all above the background; nothing far off
    assert 0.1 < float(increment.max()) < 3 and float(increment.min()) > -1
    assert analysis[variable].dims[1:] == background[variable].dims


def test_a_file_without_a_known_variable_says_so():
    ds = xr.Dataset(
        {"burned_area": (("lat", "lon"), np.ones((4, 8)))},
        coords={"lat": [-60.0, -20.0, 20.0, 60.0], "lon": np.arange(0.0, 360.0, 45.0)},
    )
    with pytest.raises(InputError):
        choose(None, ds)
