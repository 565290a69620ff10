"""Relative humidity of backgrounds to specific humidity: closed forms, a table, the way back."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.observations import derived
from xdiffda.state.humidity import saturation_pressure

LEVELS = [50.0, 100.0, 300.0, 500.0, 850.0, 1000.0]
T = [205.0, 200.0, 228.0, 253.0, 281.0, 288.0]


def profile(humidity: np.ndarray | float, *, name: str = "r", units: str | None = "%"):
    attrs = {} if units is None else {"units": units}
    full = np.broadcast_to(humidity, (len(LEVELS),))
    ds = xr.Dataset({"t": ("level", T), name: ("level", full, attrs)}, {"level": LEVELS})
    return ds.expand_dims(lat=[-45.0, 45.0], lon=[0.0, 120.0, 240.0])


@pytest.mark.parametrize(
    ("celsius", "over", "published"),
    # Smithsonian tables (Goff and Gratch), hPa: over water, and over ice
    [
        (20.0, "water", 23.37),
        (0.0, "water", 6.108),
        (-30.0, "water", 0.5088),
        (20.0, "mixed", 23.37),
        (-30.0, "mixed", 0.3798),
        (-50.0, "mixed", 0.03935),
    ],
)
def test_saturation_is_that_of_the_tables(celsius, over, published):
    found = saturation_pressure(xr.DataArray(celsius + 273.15), over)
    assert found.item() == pytest.approx(published, rel=6e-3)


def test_the_mixture_is_continuous_and_between_water_and_ice():
    t = xr.DataArray(np.linspace(245.0, 280.0, 3501))
    mixed, water = saturation_pressure(t), 6.1121 * np.exp(17.502 * (t - 273.16) / (t - 32.19))
    assert float(np.abs(np.diff(np.log(mixed))).max()) < 1.5e-3
    assert bool((mixed <= water * (1 + 1e-12)).all())


def test_a_closed_form():
    """q of saturated air over water is 0.622 e / (p - 0.378 e)."""
    q = xdiffda.with_specific_humidity(profile(100.0), over="water")["specific_humidity"]
    c = np.array(T) - 273.15
    e = 6.112 * np.exp(17.67 * c / (c + 243.5))
    np.testing.assert_allclose(q[0, 0], 0.622 * e / (np.array(LEVELS) - 0.378 * e), rtol=1e-12)


@pytest.mark.parametrize("over", ["mixed", "water"])
def test_there_and_back(over):
    ds = profile(np.array([0.5, 3.0, 60.0, 80.0, 104.0, -2.0]))
    q = xdiffda.with_specific_humidity(ds, over=over)
    again = xdiffda.with_relative_humidity(q, over=over)["relative_humidity"]
    np.testing.assert_allclose(again, ds["r"], rtol=1e-10)
    assert "r" not in q and q["specific_humidity"].attrs["units"] == "kg kg-1"


def test_it_is_the_inverse_of_what_observations_are_compared_with():
    q = xdiffda.with_specific_humidity(profile(70.0), over="water")["specific_humidity"][0, 0]
    for value, t, p in zip(q.values, T, LEVELS, strict=True):
        assert float(derived.relative_humidity(value, t, p)) == pytest.approx(70.0, rel=1e-5)


def test_a_share_and_pascals_and_celsius_are_read():
    percent, share = profile(70.0), profile(0.7, units="1")
    share = share.assign_coords(level=("level", np.array(LEVELS) * 100, {"units": "Pa"}))
    share["t"] = (share["t"] - 273.15).assign_attrs(units="degC")
    one, other = (
        xdiffda.with_specific_humidity(ds)["specific_humidity"].values for ds in (percent, share)
    )
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_lazy_data_stays_lazy():
    lazy = xdiffda.with_specific_humidity(profile(70.0).chunk())
    assert lazy["specific_humidity"].chunks is not None


@pytest.mark.parametrize(
    ("ds", "match"),
    [
        (profile(0.7, units=None), 'without a unit.*"1"'),
        (profile(70.0).drop_vars("t"), "no temperature"),
        (profile(70.0).drop_vars("r"), "no relative_humidity"),
        (profile(70.0).drop_vars("level"), "no pressure level"),
        (profile(70.0, units="K"), "`r` in 'K'"),
        (profile(70.0).assign(q=profile(70.0)["t"] * 0), "which is specific_humidity"),
    ],
)
def test_what_does_not_fit_is_refused(ds, match):
    with pytest.raises(InputError, match=match):
        xdiffda.with_specific_humidity(ds)
