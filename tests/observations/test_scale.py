"""What makes millions of observations quick must not change a single answer."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from xdiffda.errors import InputError
from xdiffda.observations import (
    interpolated_state,
    krige,
    observation_operator,
    observation_rows,
    soft_mask,
    to_columns,
    to_tidy,
)
from xdiffda.observations import kriging as _kriging
from xdiffda.observations import threads as _threads
from xdiffda.observations.kriging import kriging_weights
from xdiffda.observations.sites import (
    channel_sites,
    name_codes,
    node_vectors,
    place_runs,
    unit_vectors,
)
from xdiffda.observations.stencil import SNAP
from xdiffda.state.grid import Layout

RADIUS_KM = 6371.0


# --------------------------------------------------------------------- names and places


@given(seed=st.integers(0, 1000), n_names=st.sampled_from([1, 3, 63, 64, 65, 200]))
def test_codes_number_names_as_they_first_occur(seed, n_names):
    """Few names are compared, many are hashed; blocks of 16,384 are crossed by the longest."""
    rng = np.random.default_rng(seed)
    pool = np.array([f"name {i}" + "x" * (i % 7) for i in range(n_names)])
    names = pool[rng.integers(0, n_names, rng.choice([0, 1, 500, 40_000]))]
    expected = list(dict.fromkeys(names.tolist()))
    for given_as in (names, names.astype(object)):
        code, distinct = name_codes(given_as)
        assert distinct == expected
        assert np.array_equal(np.array([*distinct, ""])[code], names)


def test_names_that_read_the_same_are_one():
    code, distinct = name_codes(np.array([1, "1", "t", 1], object))
    assert code.tolist() == [0, 0, 1, 0]
    assert distinct == ["1", "t"]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), max_size=30))
def test_runs_end_where_the_place_changes(lat):
    lat = np.array(lat)
    lon = np.round(lat / 2)
    runs = place_runs(lat, lon)
    groups = [len(list(group)) for _, group in itertools.groupby(zip(lat, lon, strict=True))]
    assert np.bincount(runs.of_row).tolist() == groups
    assert np.array_equal(lat[runs.first][runs.of_row], lat)


# ------------------------------------------------------------------------------- H


def _dense(obs, size: int) -> np.ndarray:
    rows = np.zeros((obs.n_obs, size), np.float32)
    row = np.arange(obs.n_obs)[:, None]
    np.add.at(rows, (row, np.asarray(obs.index)), np.asarray(obs.weight))
    return rows


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), n=st.integers(1, 8), on_levels=st.booleans(), poles=st.booleans())
def test_rows_do_not_depend_on_their_neighbours_in_the_table(lab, seed, n, on_levels, poles):
    """H of columns is made place by place: as each observation would have it alone."""
    layout = Layout(lab.grid(poles=poles), lab.names, lab.levels)
    rng = np.random.default_rng(seed)
    tidy = lab.tidy(n, seed)
    place = rng.integers(0, 3, n)  # few places, some beyond the last row
    tidy = tidy.assign_coords(
        lat=("obs", np.array([89.5, -86.0, 12.3])[place]),
        lon=("obs", np.array([3.0, 15.0, 77.7])[place]),
    )
    if on_levels:
        tidy["level"] = tidy.level.where(tidy.level.isnull(), rng.choice([300.0, 850.0]))
    size = layout.grid.n_node * layout.n_channel
    together = _dense(observation_operator(tidy, layout)[0], size)
    assert np.array_equal(together, _dense(observation_rows(tidy, layout).linear, size))
    for i in range(n):
        alone = _dense(observation_operator(tidy.isel(obs=[i]), layout)[0], size)
        np.testing.assert_array_equal(together[i], alone[0])
    order = rng.permutation(n)
    shuffled = _dense(observation_operator(tidy.isel(obs=order), layout)[0], size)
    np.testing.assert_array_equal(shuffled, together[order])


# ------------------------------------------------------------------------------ sites


def _slow_sites(tidy: xr.Dataset, layout: Layout) -> dict[int, dict[tuple, tuple[float, float]]]:
    """Channel -> place -> (value, error), one observation after another."""
    rows = tidy.to_dataframe().reset_index(drop=True)
    found: dict[int, dict[tuple, list]] = {}
    for name in layout.variables:
        mine = rows[rows.variable == name]
        for _, profile in mine.groupby(["lat", "lon", "time"]):
            place = (profile.lat.iloc[0], profile.lon.iloc[0])
            if name == "2m_temperature":
                pairs = zip(profile.value, profile.error_std, strict=True)
                cells = [(layout.channel_index(name, None), *pair) for pair in pairs]
            else:
                cells = _slow_profile(profile.sort_values("level", kind="stable"), name, layout)
            for channel, value, error in cells:
                found.setdefault(channel, {}).setdefault(place, []).append((value, error))
    merged = {}
    for channel, places in found.items():
        merged[channel] = {}
        for place, pairs in places.items():
            value, weight = np.array(pairs).T[0], np.array(pairs).T[1] ** -2.0
            merged[channel][place] = ((weight * value).sum() / weight.sum(), weight.sum() ** -0.5)
    return merged


def _slow_profile(profile: pd.DataFrame, name: str, layout: Layout) -> list[tuple]:
    p, value, error = (profile[c].to_numpy() for c in ("level", "value", "error_std"))
    cells = []
    for wanted in layout.levels:
        channel, apart = layout.channel_index(name, wanted), np.log(p / wanted)
        cells += [(channel, value[i], error[i]) for i in np.flatnonzero(abs(apart) < SNAP)]
        for i in range(p.size - 1):
            if apart[i] < -SNAP and apart[i + 1] > SNAP:
                w = apart[i] / (apart[i] - apart[i + 1])
                cells.append(
                    (
                        channel,
                        (1 - w) * value[i] + w * value[i + 1],
                        np.hypot((1 - w) * error[i], w * error[i + 1]),
                    )
                )
    return cells


@given(seed=st.integers(0, 1000), n=st.integers(1, 60), in_order=st.booleans())
def test_sites_of_channels_as_one_by_one(lab, layout, seed, n, in_order):
    rng = np.random.default_rng(seed)
    tidy = lab.tidy(n, seed)
    place, pressure = rng.integers(0, 4, n), rng.choice([200.0, 300, 301, 420, 500, 850], n)
    tidy = tidy.assign_coords(
        lat=("obs", np.array([10.0, -20.0, 30.0, 40.0])[place]),
        lon=("obs", np.array([10.0, 20.0, 200.0, 20.0])[place]),
        level=("obs", np.where(np.isnan(tidy.level), np.nan, pressure)),
        time=tidy.time + rng.integers(0, 2, n) * np.timedelta64(1, "h"),
    )
    if in_order:  # profiles one after another, as columns are
        order = np.lexsort((tidy.level, tidy.variable, tidy.time, place))
        tidy = tidy.isel(obs=order)
    expected = _slow_sites(tidy, layout)
    sets = channel_sites(tidy, layout)
    assert sorted(c for s in sets for c in s.channels) == sorted(expected)
    for s in sets:
        for j, channel in enumerate(s.channels):
            places = expected[channel]
            where = unit_vectors(*np.array(list(places)).T)
            nearest = np.argmin(((s.place[:, None] - where) ** 2).sum(-1), axis=1)
            assert sorted(nearest) == list(range(len(places)))
            truth = np.array(list(places.values()))[nearest]
            np.testing.assert_allclose(s.value[:, j], truth[:, 0], rtol=1e-9)
            np.testing.assert_allclose(s.error_std[:, j], truth[:, 1], rtol=1e-9)


def test_order_of_observations_leaves_masks_and_fields_as_they_are(lab, layout):
    """To the last bit where no site reports twice."""
    tidy = lab.tidy(80, 5)
    tidy["level"] = tidy.level.where(tidy.level.isnull(), 500.0)
    shuffled = tidy.isel(obs=np.random.default_rng(1).permutation(80))
    np.testing.assert_array_equal(soft_mask(tidy, layout), soft_mask(shuffled, layout))
    for a, b in zip(
        interpolated_state(tidy, layout), interpolated_state(shuffled, layout), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------- kriging


@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 40),
    noisy=st.booleans(),
    radius=st.floats(500, 6000),
)
def test_weights_solve_the_whole_system(lab, seed, n, noisy, radius):
    """Against one dense solve with the Lagrange multiplier for each node."""
    grid = lab.grid(6, 12)
    rng = np.random.default_rng(seed)
    place = unit_vectors(np.rad2deg(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(0, 360, n))
    noise = rng.uniform(0, 2, n) if noisy else np.zeros(n)
    weights = kriging_weights(
        grid, place, range_km=600.0, n_neighbours=9, radius_km=radius, noise=noise
    )
    nodes = node_vectors(grid)
    between = np.arccos(np.clip(place @ place.T, -1, 1))
    np.fill_diagonal(between, 0.0)
    for i in range(grid.n_node):
        angle = np.arccos(np.clip(place @ nodes[i], -1, 1))
        near = [s for s in np.argsort(angle)[:9] if angle[s] * RADIUS_KM <= radius]
        assert weights.covered[i] == bool(near)
        m = len(near)
        matrix, right = np.ones((m + 1, m + 1)), np.ones(m + 1)
        matrix[m, m] = 0.0
        matrix[:m, :m] = np.exp(-between[np.ix_(near, near)] * RADIUS_KM / 600.0)
        matrix[:m, :m] += np.diag(noise[near])
        right[:m] = np.exp(-angle[near] * RADIUS_KM / 600.0)
        expected = np.zeros(n)
        if m:
            expected[near] = np.linalg.solve(matrix, right)[:m]
        ours = np.bincount(weights.near[i], weights.weight[i], minlength=n)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_threads_and_pieces_do_not_change_the_field(lab, monkeypatch):
    grid = lab.grid(36, 72)
    rng = np.random.default_rng(0)
    place = unit_vectors(rng.uniform(-90, 90, 50), rng.uniform(0, 360, 50))
    value = rng.standard_normal((50, 3))
    whole, covered = krige(grid, place, value, radius_km=1500.0)
    assert 0 < covered.sum() < grid.n_node
    assert not whole[~covered].any()
    monkeypatch.setattr(_kriging, "_PIECE", 100)
    monkeypatch.setattr(_threads, "n_threads", lambda: 3)
    pieces, covered_too = krige(grid, place, value, radius_km=1500.0)
    np.testing.assert_allclose(pieces, whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(covered_too, covered)


def test_errors_in_threads_are_raised(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)

    def work(rows: slice) -> None:
        if rows.start == 30:
            raise ValueError("of the fourth piece")

    with pytest.raises(ValueError, match="of the fourth piece"):
        _threads.for_pieces(work, 100, 10)


def test_single_precision_is_enough_for_geopotential(lab):
    """Values far from zero lose no more than the last digit of float32."""
    layout = Layout(lab.grid(), ("geopotential", "2m_temperature"), (300, 500))
    rng = np.random.default_rng(2)
    n = 40
    lat, lon = rng.uniform(-90, 90, n), rng.uniform(0, 360, n)
    frame = pd.DataFrame(
        {
            "variable": "z",
            "lat": lat,
            "lon": lon,
            "level": 300,
            "value": 9e4 + 2e3 * rng.standard_normal(n),
        }
    )
    tidy = to_tidy(frame)
    field, covered = interpolated_state(tidy, layout)
    exact, _ = krige(layout.grid, unit_vectors(lat, tidy.lon.values), frame.value.values[:, None])
    assert field.dtype == np.float32
    channel = layout.channel_index("geopotential", 300)
    here = covered[:, channel]
    assert covered.sum() == here.sum() > 0
    np.testing.assert_allclose(field[here, channel], exact[here, 0], rtol=1.5e-7)


# ------------------------------------------------------------------------------ tables


def test_times_of_any_resolution_are_read_alike():
    stamps = ["2020-01-01T02:00", "2020-01-01T03:30"]
    expected = np.array(stamps, "datetime64[ns]")
    for unit in ("s", "ms", "us", "ns"):
        frame = pd.DataFrame(
            {
                "variable": "2t",
                "lat": 0.0,
                "lon": [1.0, 2.0],
                "value": 280.0,
                "time": np.array(stamps, f"datetime64[{unit}]"),
            }
        )
        np.testing.assert_array_equal(to_tidy(frame).time, expected)
        shifted = frame.assign(time=frame.time.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"))
        np.testing.assert_array_equal(to_tidy(shifted).time, expected)


def test_names_take_no_more_room_than_they_need(lab):
    tidy = to_tidy(lab.tidy(20))
    assert tidy.variable.dtype == np.array(lab.names).dtype
    one = to_tidy(tidy.isel(obs=tidy.variable.values == "temperature"))
    assert one.variable.dtype == np.dtype("U11")


def test_columns_full_of_nothing_are_refused():
    """Without asking for the memory: 15,000 reports, each on a level of its own, are 4 GB."""
    n = 15_000
    frame = pd.DataFrame(
        {
            "variable": "t",
            "lat": np.linspace(-80, 80, n),
            "lon": 0.0,
            "level": np.linspace(100, 900, n),
            "value": 250.0,
        }
    )
    with pytest.raises(InputError, match="15000 stations on 15000 levels: columns of 4 GB"):
        to_columns(frame)
    assert to_columns(frame.iloc[:50]).sizes == {"station": 50, "level": 50}
