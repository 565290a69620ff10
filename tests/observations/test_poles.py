"""Observations whose latitude is beyond a pole by rounding."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.observations import to_tidy


def test_rounding_beyond_a_pole_is_the_pole_and_more_is_refused() -> None:
    obs = xr.Dataset(
        {"variable": ("obs", ["2m_temperature"] * 2), "value": ("obs", [250.0, 251.0])},
        {"lat": ("obs", [-90.00000000000001, 90.0000005]), "lon": ("obs", [0.0, 0.0])},
    )
    assert to_tidy(obs)["lat"].values.tolist() == [-90.0, 90.0]
    with pytest.raises(xdiffda.InputError, match="degrees north"):
        to_tidy(obs.assign_coords(lat=("obs", [-90.001, 90.0])))


def test_reports_of_a_file_keep_a_sounding_at_the_pole() -> None:
    from xdiffda.observations.readers.reports import Reports

    place = {
        "lat": np.array([-90.00000000000001, -90.5]),
        "lon": np.zeros(2),
        "time": np.full(2, np.datetime64("2020-01-01", "ns")),
        "level": np.full(2, 500.0),
    }
    reports = Reports(place)
    reports.add("t", "temperature", np.array([220.0, 221.0]), units="K")
    tidy = reports.to_dataset()
    assert tidy["lat"].values.tolist() == [-90.0]
    assert reports.dropped["no place on the globe"] == 1
