"""Errors correlated within a station: whitening against dense matrices, singular R refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError
from xdiffda.observations import VerticalCorrelation
from xdiffda.observations.correlation import correlated_blocks, read_correlation

LEVELS = np.array([300.0, 500.0, 700.0, 850.0])


def _stations(n: int = 2, levels: np.ndarray = LEVELS) -> xr.Dataset:
    """Temperature and wind at the levels of some stations, and one surface value each."""
    rows = [
        (name, level, 10.0 * s)
        for s in range(n)
        for name in ("temperature", "u_component_of_wind")
        for level in levels
    ]
    rows += [("2m_temperature", np.nan, 10.0 * s) for s in range(n)]
    variable, level, lat = (np.array(column) for column in zip(*rows, strict=True))
    m = len(rows)
    return xr.Dataset(
        {"value": ("obs", np.zeros(m)), "error_std": ("obs", np.ones(m))},
        {
            "variable": ("obs", variable),
            "level": ("obs", level),
            "lat": ("obs", lat),
            "lon": ("obs", np.zeros(m)),
            "time": ("obs", np.full(m, np.datetime64("NaT", "ns"))),
        },
    )


def _blocks(tidy, spec, share=None, good=None, position=None):
    position = np.arange(tidy.sizes["obs"]) if position is None else position
    n = position.size
    share = np.ones(n) if share is None else share
    good = np.ones(n, bool) if good is None else good
    return correlated_blocks(tidy, position, good, share, read_correlation(spec))


def _dense(blocks, n: int) -> np.ndarray:
    """C as the blocks have it, the identity elsewhere."""
    full = np.eye(n)
    for where, factor in zip(blocks.where, blocks.factor, strict=True):
        real = where < n
        full[np.ix_(where[real], where[real])] = (factor @ factor.T)[np.ix_(real, real)]
    return full


def test_factors_are_the_square_root_of_the_correlation():
    tidy = _stations()
    n = tidy.sizes["obs"]
    order = np.random.default_rng(0).permutation(n)
    blocks = _blocks(tidy, {"t": VerticalCorrelation(0.5, "gaussian", 0.1)}, position=order)
    same = tidy.lat.values[:, None] == tidy.lat.values
    both = (tidy.variable.values == "temperature")[:, None] & (
        tidy.variable.values == "temperature"
    )
    distance = np.abs(np.log(tidy.level.values)[:, None] - np.log(tidy.level.values))
    expected = np.where(same & both, 0.9 * np.exp(-0.5 * (distance / 0.5) ** 2), 0.0)
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(_dense(blocks, n), expected[np.ix_(order, order)], atol=1e-7)
    identity = np.einsum("bij,bjk->bik", blocks.factor, blocks.inverse)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(4), identity.shape), atol=1e-7)


def test_a_number_means_all_variables_on_levels_and_each_station_for_itself():
    blocks = _blocks(_stations(3), 0.3)
    assert blocks.where.shape == (6, 4)
    assert _blocks(_stations(3), None) is None
    assert _blocks(_stations(3), {"geopotential": 0.3}) is None
    assert _blocks(_stations(3, LEVELS[:1]), 0.3) is None  # nothing to be correlated with


def test_representativeness_is_not_correlated_and_rejected_rows_stay_out():
    tidy = _stations(1)
    share = np.full(tidy.sizes["obs"], 0.5)
    matrix = _dense(_blocks(tidy, 0.3, share=share), tidy.sizes["obs"])
    assert matrix[0, 1] == pytest.approx(0.25 * np.exp(-np.log(5 / 3) / 0.3))
    good = np.ones(tidy.sizes["obs"], bool)
    good[1] = False
    matrix = _dense(_blocks(tidy, 0.3, good=good), tidy.sizes["obs"])
    assert not matrix[1, [0, 2, 3]].any() and matrix[0, 2] > 0


def test_a_singular_r_is_refused_with_the_repair():
    twice = _stations(1, np.array([500.0, 500.0, 700.0]))
    match = (
        r"singular: errors of temperature at lat 0, lon 0 on 500 and 500 hPa correlated by "
        r"1\.0.*each level of a station once"
    )
    with pytest.raises(InputError, match=match) as error:
        _blocks(twice, {"temperature": 0.3})
    assert "nugget=0.1" in str(error.value)
    assert _blocks(twice, {"temperature": VerticalCorrelation(0.3, nugget=0.1)}) is not None
    close = _stations(5, np.array([500.0, 501.0, 502.0]))
    with pytest.raises(InputError, match="shorter or exponential") as error:
        _blocks(close, {"temperature": VerticalCorrelation(0.5, "gaussian")})
    assert "2 more stations" in str(error.value)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (0.0, "length=0.0; needed a positive"),
        (-1.0, "length=-1"),
        (np.nan, "length=nan"),
        ({"plankton": 0.3}, "a correlation for 'plankton'"),
        ({"t": "far"}, "a correlation 'far'"),
    ],
)
def test_bad_correlations_are_refused(spec, match):
    with pytest.raises(InputError, match=match):
        read_correlation(spec)


def test_shapes_and_nuggets_are_checked():
    with pytest.raises(InputError, match="2 problems") as error:
        VerticalCorrelation(0.3, "boxcar", 1.0)
    assert "exponential, gaussian" in str(error.value) and "nugget=1.0" in str(error.value)
