"""IODA as it is written: read back by `read_obs`, and by netCDF4 alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xdiffda.errors import InputError, StorageError
from xdiffda.observations.quality import screen
from xdiffda.observations.readers.marks import good_marks
from xdiffda.observations.readers.read import form_of, read_obs
from xdiffda.observations.readers.write_ioda import _NAMES, write_ioda
from xdiffda.state.variables import G0

Find = Callable[[str], Path]
KEYS = ("variable", "lat", "lon", "time", "level", "station", "value")


def table() -> xr.Dataset:
    """Every variable of the convention, at places of its own, with all that a table can have."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.array(list(_NAMES)), 5)
    n = names.size
    words = ("m_", "pressure", "sea")
    surface = np.array([any(word in name for word in words) for name in names])
    value = rng.uniform(275.0, 300.0, n)
    for part, low, high in (("humidity", 0.0, 0.02), ("relative", 0.0, 100.0), ("wind", -9, 9)):
        mine = np.char.find(names, part) >= 0
        value[mine] = rng.uniform(low, high, mine.sum())
    value = np.abs(np.where(np.char.find(names, "pressure") >= 0, value * 350, value))
    order = rng.permutation(n)
    start, later = np.datetime64("2020-01-01", "ns"), np.arange(n) * np.timedelta64(7, "s")
    return xr.Dataset(
        {
            "value": ("obs", value[order]),
            "error_std": ("obs", rng.uniform(0.5, 2.0, n)),
            "background": ("obs", value[order] + rng.standard_normal(n)),
            "quality": ("obs", rng.integers(0, 9, n).astype(float)),
        },
        {
            "variable": ("obs", names[order]),
            "level": ("obs", np.where(surface, np.nan, rng.uniform(100, 1000, n))[order]),
            "lat": ("obs", rng.uniform(-90, 90, n)),
            "lon": ("obs", rng.uniform(0, 360, n)),
            "time": ("obs", start + later),
            "station": ("obs", [f"{i % 7:05d}" for i in range(n)]),
            "kind": ("obs", np.where(surface, "synop", "radiosonde")[order]),
            "station_height": ("obs", rng.uniform(0, 500, n)),
        },
        {"xdiffda_observations_marks": "prepbufr"},
    )


def sorted_rows(obs: xr.Dataset) -> pd.DataFrame:
    frame = obs.to_dataframe().reset_index(drop=True)
    return frame.sort_values([key for key in KEYS if key in frame]).reset_index(drop=True)


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Equal to the last bit but for what is kept in other units: levels and geopotentials."""
    one, other = sorted_rows(found), sorted_rows(expected)
    assert {*one} == {*other}
    rescaled = (one["variable"] == "geopotential").to_numpy()
    for name in one:
        a, b = one[name].to_numpy(), other[name].to_numpy()
        if name == "level":
            np.testing.assert_allclose(a, b, rtol=3e-16)
        elif name in ("value", "error_std", "background"):
            np.testing.assert_array_equal(a[~rescaled], b[~rescaled])
            np.testing.assert_allclose(a[rescaled], b[rescaled], rtol=3e-16)
        else:
            assert (a == b).all(), name


def test_everything_comes_back(tmp_path: Path) -> None:
    obs = table()
    path = write_ioda(obs, tmp_path / "a.nc4")
    assert form_of(path) == "ioda"
    found = read_obs(path)
    assert found.attrs["xdiffda_observations_marks"] == "PreQC"
    assert_same(found, obs)
    with pytest.raises(StorageError, match="exists already"):
        write_ioda(obs, path)
    # a frame, without errors and marks: these stay out
    few = obs.drop_vars(["error_std", "quality", "background", "kind", "station_height"])
    few = few.isel(obs=few["variable"].values != "surface_pressure")
    assert_same(read_obs(write_ioda(few.to_dataframe(), path, overwrite=True)), few)


def test_names_and_units_are_those_of_the_convention(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "variable": ["t", "z", "2t", "t"],
            "lat": [10.0, 10.0, 20.0, 10.0],
            "lon": [350.0, 350.0, 5.0, 350.0],
            "level": [500.0, 500.0, np.nan, 500.0],
            "time": pd.to_datetime(["2020-01-01T00:00:30"] * 4),
            "value": [250.0, 5500 * G0, 280.0, 251.0],
            "units": ["K", "m2 s-2", "K", "K"],
            "error_std": [1.0, G0, 2.0, 1.5],
            "station": ["a", "a", "b", "a"],
        }
    )
    path = write_ioda(frame, tmp_path / "a.nc4")
    with netCDF4.Dataset(path) as file:
        assert file._ioda_layout == "ObsGroup" and file._ioda_layout_version == 0
        # the second temperature of one place and level has a location of its own
        assert {name: dim.size for name, dim in file.dimensions.items()} == {"Location": 3}
        meta, value, error = (file[g] for g in ("MetaData", "ObsValue", "ObsError"))
        assert meta["dateTime"].units == "seconds since 1970-01-01T00:00:00Z"
        assert meta["dateTime"][:].tolist() == [1577836830] * 3 and meta["dateTime"].dtype == "i8"
        assert meta["pressure"].units == "Pa" and meta["pressure"][:].tolist() == [5e4, None, 5e4]
        assert meta["stationIdentification"][:].tolist() == ["a", "b", "a"]
        assert {name: v.units for name, v in value.variables.items()} == {
            "airTemperature": "K",
            "geopotentialHeight": "m",
            "airTemperatureAt2M": "K",
        }
        assert value["airTemperature"][:].tolist() == [250.0, None, 251.0]
        assert value["airTemperature"].dtype == "f4"  # nothing is lost
        assert value["geopotentialHeight"][:].tolist() == [5500.0, None, None]
        assert error["geopotentialHeight"][:].tolist() == [1.0, None, None]
        assert set(file.groups) == {"MetaData", "ObsValue", "ObsError"}


def test_marks_and_flags(tmp_path: Path) -> None:
    obs = table().isel(obs=slice(0, 3))
    obs["quality"] = "obs", ["V", "X", ""]
    obs.attrs["xdiffda_observations_marks"] = "madis"
    found = read_obs(write_ioda(obs, tmp_path / "a.nc"))
    assert sorted(found["quality"].values.tolist()) == [2.0, 2.0, 15.0]
    assert good_marks(found).sum() == 2
    flagged = screen(obs)
    assert (flagged["flag"].values == "bad_mark").sum() == 1
    found = read_obs(write_ioda(flagged, tmp_path / "b.nc"))
    assert found.attrs["xdiffda_observations_marks"] == "EffectiveQC"
    assert sorted(found["quality"].values.tolist()) == [0.0, 0.0, 11.0]
    del obs.attrs["xdiffda_observations_marks"]
    with pytest.warns(UserWarning, match="without a rule"):
        found = read_obs(write_ioda(obs, tmp_path / "c.nc"))
    assert "quality" not in found


def test_what_the_convention_cannot_hold(tmp_path: Path) -> None:
    frame = pd.DataFrame({"variable": ["w"], "lat": 1.0, "lon": 2.0, "level": 500, "value": [0.1]})
    with pytest.raises(InputError, match="of vertical_velocity(.|\n)*without a time"):
        write_ioda(frame, tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_real_reports_come_back(shared: Find, tmp_path: Path) -> None:
    obs = read_obs(shared("data/bufr/obs_3day.bufr"))
    assert_same(read_obs(write_ioda(obs, tmp_path / "a.nc4")), obs)
