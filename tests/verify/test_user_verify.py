"""Comparisons that would be wrong without a word, and what is said instead."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.verify import increment, rank_histogram, verify

LAT, LON = np.arange(-67.5, 90, 45.0), np.arange(0, 360, 45.0)
TIMES = np.array(["2020-01-01T00", "2020-01-01T06"], "datetime64[ns]")


def _states() -> xr.Dataset:
    """Temperature is the number of hours, all over the globe."""
    values = np.array([0.0, 6.0])[:, None, None] + np.full((2, 4, 8), 280.0)
    field = xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        attrs={"units": "K"},
        coords={"time": TIMES, "lat": LAT, "lon": LON},
    )
    return field.to_dataset(name="2m_temperature")


def test_an_increment_is_of_one_time() -> None:
    ds = _states()
    first, second = ds.isel(time=0), ds.isel(time=1)
    with pytest.raises(InputError, match="analysis at time 2020-01-01T00:00 and the background"):
        increment(first, second)
    # of several times, the common one; never one background for all
    found = increment(ds + 1, second)["2m_temperature"]
    np.testing.assert_array_equal(found.values.ravel(), 1.0)
    assert found.time.values == TIMES[1]
    np.testing.assert_array_equal(increment(ds + 2, ds)["2m_temperature"], 2.0)


def test_units_are_compared_not_assumed() -> None:
    ds = _states()
    strange = ds.copy()
    strange["2m_temperature"].attrs["units"] = "furlong"
    for one, other in ((ds, strange), (strange, ds)):
        with pytest.raises(InputError, match=r"2m_temperature in .*furlong.*one unit"):
            verify(one, other)
    celsius = ds - 270.15
    celsius["2m_temperature"].attrs["units"] = "degC"
    assert np.isclose(verify(celsius, ds)["2m_temperature"].sel(score="rmse"), 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda ds: ds["2m_temperature"], r'DataArray.*to_dataset\(name="2m_temperature"\)'),
        (lambda ds: "truth.nc", "a str; needed a Dataset.*open_dataset"),
        (lambda ds: None, "a NoneType"),
        (lambda ds: xr.concat([ds, ds], "time"), r"4 states along time, 2 .*drop_duplicates"),
        (lambda ds: xr.Dataset({"value": ("obs", [1.0])}), "observations, on obs"),
    ],
)
def test_what_is_no_state_is_named(wrong, message) -> None:
    ds = _states()
    with pytest.raises(InputError, match=message):
        verify(ds, wrong(ds))
    with pytest.raises(InputError, match=message):
        verify(wrong(ds), ds)


@pytest.mark.parametrize("thin", [0, -1, float("nan"), "far"])
def test_a_distance_is_positive(thin) -> None:
    ds = _states()
    members = xr.concat([ds, ds + 1], "member")
    with pytest.raises(InputError, match="thin_km=.*positive"):
        rank_histogram(members, truth=ds, thin_km=thin)


def test_counts_and_scores_of_an_ensemble_known_by_hand() -> None:
    ds = _states()
    with xr.set_options(keep_attrs=True):
        members = xr.concat([ds - 1, ds, ds + 2], "member")
    found = verify(members, ds)["2m_temperature"]
    # mean |error| 1; mean distance of two members (1 + 2 + 3) / 3 = 2
    expected = {"rmse": 1 / 3, "bias": 1 / 3, "crps": 1 - 2 / 2, "spread": (7 / 3) ** 0.5}
    for score, value in expected.items():
        np.testing.assert_allclose(found.sel(score=score), value, atol=1e-12)
    counts = rank_histogram(members, truth=ds)["2m_temperature"]
    # a tie with the second member: half below it, half above
    np.testing.assert_allclose(counts / counts.sum(), [0, 0.5, 0.5, 0])


@pytest.mark.parametrize("function", ["balance", "zonal_spectrum", "total_spectrum"])
def test_a_single_field_is_told_how_to_become_a_state(function):
    from xdiffda import verify as module

    field = xr.DataArray(np.zeros((3, 4)), dims=("lat", "lon"), name="temperature")
    with pytest.raises(InputError, match=r'state\.to_dataset\(name="temperature"\)'):
        getattr(module, function)(field)
