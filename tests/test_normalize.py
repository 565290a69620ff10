"""Statistics are matched by level label and invert exactly."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.normalize import Statistics
from xdiffda.state import Grid, Layout

GRID = Grid.from_coords(np.linspace(-80, 80, 9), np.arange(0, 360, 30))
LAYOUT = Layout(GRID, ("temperature", "2m_temperature", "u_component_of_wind"), (500, 850))


@pytest.fixture
def statistics() -> Statistics:
    n = LAYOUT.n_channel
    return Statistics(LAYOUT, np.arange(n), np.arange(1, n + 1), np.full(n, 0.5))


def test_normalise_and_back(statistics):
    x = np.random.default_rng(0).normal(280, 10, (2, GRID.n_node, LAYOUT.n_channel))
    np.testing.assert_allclose(statistics.denormalise(statistics.normalise(x)), x, rtol=1e-6)
    np.testing.assert_allclose(statistics.normalise(x)[..., 1], (x[..., 1] - 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        statistics.denormalise_difference(statistics.normalise_difference(x)), x, rtol=1e-6
    )


def test_sample_statistics_are_weighted_by_area():
    # x = sin(lat): mean 0 and variance 1/3 on the sphere, but 1/2 in an unweighted mean of rows.
    grid = Grid.from_coords(np.linspace(-89.5, 89.5, 180), np.arange(0, 360, 10))
    layout = Layout(grid, ("2m_temperature",))
    x = np.sin(np.deg2rad(grid.node_lat))[None, :, None]
    found = Statistics.from_samples(x, layout, changes=2 * x)
    assert found.mean[0] == pytest.approx(0, abs=1e-7)
    assert found.stddev[0] == pytest.approx(np.sqrt(1 / 3), rel=1e-4)
    assert found.diffs_stddev[0] == pytest.approx(2 * np.sqrt(1 / 3), rel=1e-4)


def test_dataset_round_trip(statistics):
    again = Statistics.from_dataset(statistics.to_dataset(), LAYOUT)
    for name in ("mean", "stddev", "diffs_stddev"):
        np.testing.assert_array_equal(getattr(again, name), getattr(statistics, name))


def test_levels_are_matched_by_label_not_position(statistics):
    ds = statistics.to_dataset()
    turned = Statistics.from_dataset(ds.isel(level=[1, 0]), LAYOUT)
    np.testing.assert_array_equal(turned.mean, statistics.mean)


def test_published_form_with_more_levels_and_short_names():
    levels = [50, 500, 850, 1000]
    mean = xr.Dataset(
        {"t": ("plev", [210.0, 250.0, 270.0, 285.0]), "u": ("plev", [1.0, 2.0, 3.0, 4.0]),
         "2m_temperature": ((), 287.0)},
        coords={"plev": ("plev", np.array(levels) * 100.0, {"units": "Pa"})},
    )  # fmt: skip
    stddev = xr.ones_like(mean)
    found = Statistics.from_datasets(LAYOUT, mean=mean, stddev=stddev)
    np.testing.assert_array_equal(found.mean, [287, 250, 270, 2, 3])
    assert found.diffs_stddev is None


def test_what_is_missing_is_listed_at_once(statistics):
    ds = statistics.to_dataset()
    mean = ds.sel(statistic="mean", level=[500]).drop_vars("2m_temperature")
    with pytest.raises(InputError, match="statistics: 3 problems") as caught:
        Statistics.from_datasets(LAYOUT, mean=mean, stddev=ds.sel(statistic="stddev"))
    text = str(caught.value)
    assert "mean without 2m_temperature" in text
    assert "mean of temperature without 850 hPa" in text


def test_bad_statistics_are_refused(statistics):
    n = LAYOUT.n_channel
    with pytest.raises(InputError, match="stddev of temperature@500"):
        Statistics(LAYOUT, np.zeros(n), np.array([1.0, 0.0, 1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match=r"mean of shape \(2,\)"):
        Statistics(LAYOUT, np.zeros(2), np.ones(n))
    with pytest.raises(InputError, match="without diffs_stddev"):
        Statistics(LAYOUT, np.zeros(n), np.ones(n)).normalise_difference(np.zeros(n))


def test_statistics_cannot_be_changed(statistics):
    with pytest.raises(ValueError, match="read-only"):
        statistics.mean[0] = 1.0
