"""Faults of real reports, planted among good ones: by default they do next to no harm."""

from __future__ import annotations

import functools
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdiffda
from xdiffda.observations import to_tidy


@functools.cache
def world() -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Truth, background, and tidy reports of 45 columns of the sample."""
    truth, background = (xdiffda.open_sample(n).isel(time=0) for n in ("truth", "background"))
    obs = to_tidy(truth.diffda.emulate_obs(n_columns=45, seed=2))
    return truth, background, obs


def analyse(obs: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    _, background, _ = world()
    return background.diffda.assimilate(obs, method="3dvar", return_obs=True, progress=False)


def of_stations(obs: xr.Dataset, n: int, variables: tuple[str, ...] | None = None) -> np.ndarray:
    """Rows of the first n stations in the order of longitude, away from 0 and 180 degrees."""
    lon = (obs.lon.values + 180) % 360 - 180
    usable = (np.abs(lon) > 30) & (np.abs(lon) < 150) & (np.abs(obs.lat.values) < 60)
    sites = np.unique(np.stack([obs.lat.values, obs.lon.values], 1)[usable], axis=0)
    sites = sites[np.random.default_rng(0).permutation(len(sites))[:n]]
    mine = np.isin(obs.lat.values + 1000 * obs.lon.values, sites[:, 0] + 1000 * sites[:, 1])
    if variables is not None:
        mine &= np.isin(obs.variable.values.astype(str), variables)
    return np.flatnonzero(mine)


def warm_stations(obs: xr.Dataset) -> tuple[xr.Dataset, np.ndarray]:
    rows = of_stations(obs, 5, ("2m_temperature",))
    value = obs.value.values.copy()
    value[rows] += 15.0
    return obs.assign(value=("obs", value)), rows


def warm_soundings(obs: xr.Dataset) -> tuple[xr.Dataset, np.ndarray]:
    rows = of_stations(obs, 10, ("temperature",))
    value = obs.value.values.copy()
    value[rows] += 10.0
    return obs.assign(value=("obs", value)), rows


def wrong_longitudes(obs: xr.Dataset) -> tuple[xr.Dataset, np.ndarray]:
    rows = of_stations(obs, 10)
    lon = obs.lon.values.copy()
    lon[rows] *= -1
    return obs.assign_coords(lon=("obs", lon)), rows


def impossible(obs: xr.Dataset) -> tuple[xr.Dataset, np.ndarray]:
    """372 K and 349 m/s, as `perf_synop.bufr` has them."""
    value, rows = obs.value.values.copy(), []
    for name, wrong in (("2m_temperature", 372.0), ("u_component_of_wind", 349.0)):
        found = of_stations(obs, 2, (name,))
        assert found.size, name
        value[found] = wrong
        rows.extend(found)
    return obs.assign(value=("obs", value)), np.array(rows)


def error_near(analysis: xr.Dataset, obs: xr.Dataset, rows: np.ndarray) -> float:
    """Root mean square error within some 1,000 km of the rows, in units of the background's."""
    truth, background, _ = world()
    lat, lon = np.deg2rad(analysis.lat.values), np.deg2rad(analysis.lon.values)
    near = np.zeros((lat.size, lon.size), bool)
    for a, o in {(float(obs.lat[i]), float(obs.lon[i])) for i in rows}:
        a, o = np.deg2rad(a), np.deg2rad(o)
        cosine = np.sin(lat)[:, None] * np.sin(a)
        cosine = cosine + np.cos(lat)[:, None] * np.cos(a) * np.cos(lon - o)
        near |= cosine > np.cos(1000 / 6371)
    mask = xr.DataArray(near, dims=("lat", "lon"))
    ratios = []
    for name in analysis.data_vars:
        both = [
            float((((x[name] - truth[name]) ** 2).where(mask)).mean())
            for x in (analysis, background)
        ]
        ratios.append(both[0] / both[1])
    return float(np.sqrt(np.mean(ratios)))


@pytest.mark.long
@pytest.mark.parametrize("fault", [warm_stations, warm_soundings, wrong_longitudes, impossible])
def test_planted_errors_do_no_harm_and_good_reports_stay(fault):
    """Beside the analysis of the good reports alone: 5 % near the bad sites, 2 % of reports."""
    obs = world()[2]
    spoilt, rows = fault(obs)
    good = np.setdiff1d(np.arange(obs.sizes["obs"]), rows)
    analysis, table = analyse(spoilt)
    clean, alone = analyse(obs.isel(obs=good))
    usable = alone.flag.values == "used"
    lost = (usable & (table.flag.values[good] != "used")).sum() / usable.sum()
    found = [error_near(x, obs, rows) for x in (clean, analysis)]
    assert found[1] <= 1.05 * found[0]
    assert lost < 0.02


def test_stations_that_report_seven_times_count_once():
    obs = world()[2]
    time = np.datetime64(world()[1].time.values, "ns")
    named = obs.assign_coords(
        station=(
            "obs",
            [f"{a:.2f} {o:.2f}" for a, o in zip(obs.lat.values, obs.lon.values, strict=True)],
        )
    )
    rows = of_stations(obs, 30)
    others = np.setdiff1d(np.arange(obs.sizes["obs"]), rows)
    parts = [named.isel(obs=others).assign_coords(time=("obs", np.full(others.size, time)))]
    rng = np.random.default_rng(1)
    for hours in (-2.5, -2, -1, 0, 1, 2, 2.5):
        stamp = time + np.timedelta64(round(60 * hours), "m")
        part = named.isel(obs=rows).assign_coords(time=("obs", np.full(rows.size, stamp)))
        if hours:
            part["value"] = part.value + rng.normal(size=rows.size) * part.error_std
        parts.append(part)
    analysis, table = analyse(xr.concat(parts, "obs"))
    once, _ = analyse(named.assign_coords(time=("obs", np.full(obs.sizes["obs"], time))))
    assert (table.flag.values == "duplicate").sum() == 6 * rows.size
    xr.testing.assert_allclose(analysis, once, rtol=1e-4)


def test_the_table_says_of_every_observation_what_became_of_it():
    """Departures are those of `equivalents`; counts are those of the attributes."""
    from xdiffda.verify import equivalents

    obs = world()[2].isel(obs=slice(0, 300))
    value = obs.value.values.copy()
    value[7] += 1e3 * float(obs.error_std[7])
    spoilt = obs.assign(value=("obs", value))
    analysis, table = analyse(spoilt)
    np.testing.assert_array_equal(table.value.values, value)
    assert table.flag.values[7] != "used" and table.reason.values[7]
    used = json.loads(analysis.attrs["xdiffda_observations_used"])[0]
    assert (table.flag == "used").sum() == used
    for state, name in ((world()[1], "background"), (analysis, "analysis")):
        seen = equivalents(state, spoilt)
        h = seen.equivalent.mean("member") if "member" in seen.dims else seen.equivalent
        np.testing.assert_allclose(
            table[f"{name}_departure"].values[seen.obs.values],
            seen.value.values - h.values,
            atol=1e-9,
        )
    counts = xdiffda.quality.report(table)
    assert isinstance(counts, pd.DataFrame) and counts["all"].sum() == obs.sizes["obs"]
