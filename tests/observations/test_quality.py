"""Quality control of tables, and of departures, against errors that were planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xdiffda
from xdiffda.errors import InputError
from xdiffda.observations.quality import Quality, Structure, judge_departures, report, screen

TIME = pd.Timestamp("2020-01-01T12")


def table(**columns: object) -> pd.DataFrame:
    """Reports of one time at one latitude each, unless said otherwise."""
    n = len(np.atleast_1d(columns["value"]))
    usual = {
        "variable": "2m_temperature",
        "lat": np.linspace(-60, 60, n),
        "lon": np.linspace(0, 300, n),
        "time": TIME,
        "error_std": 1.0,
    }
    return pd.DataFrame(usual | columns)


def test_no_row_is_lost_and_every_rejection_has_a_reason():
    found = screen(table(value=[280.0, 372.0, 281.0]))
    assert found.sizes["obs"] == 3
    assert found.flag.values.tolist() == ["used", "out_of_range", "used"]
    assert found.reason.values.tolist() == ["", "outside the range of its variable", ""]
    assert report(found).loc[("", "2m_temperature"), "out_of_range"] == 1


def test_a_gale_goes_with_both_components():
    """260 kt from 350 degrees at 10 m: -132 and 23 m/s, of which one alone is possible."""
    speed, direction = 260 * 0.514444, np.deg2rad(350)
    u, v = -speed * np.sin(direction), -speed * np.cos(direction)
    obs = table(
        value=[u, v, *[3.0, 4.0] * 6],
        variable=["10m_u_component_of_wind", "10m_v_component_of_wind"] * 7,
        lat=np.repeat(np.linspace(-50, 50, 7), 2),
        lon=np.repeat(np.linspace(0, 300, 7), 2),
        station=np.repeat(list("ABCDEFG"), 2),
    )
    assert (screen(obs).flag.values == "used").tolist() == [False] * 2 + [True] * 12


def test_of_seven_reports_of_a_station_the_nearest_in_time_stays():
    hours = np.arange(-3, 4)
    obs = table(
        value=280.0 + np.arange(7),
        lat=[50.0] * 7,
        lon=[8.0] * 7,
        station=["10637"] * 7,
        time=[TIME + pd.Timedelta(hours=int(h)) for h in hours],
    )
    found = screen(obs, time=TIME)
    assert found.value.values[found.flag.values == "used"].tolist() == [283.0]
    assert set(found.flag.values) == {"used", "duplicate"}


def test_one_station_in_two_forms_is_one():
    obs = table(
        value=[280.0, 280.6],
        lat=[50.03, 50.04],
        lon=[8.55, 8.56],
        station=["10637", "EDDF"],
        kind=["synop", "metar"],
        error_std=[1.0, 1.5],
    )
    assert screen(obs).flag.values.tolist() == ["used", "duplicate"]


def test_without_checks_everything_stays_and_wrong_settings_are_told_at_once():
    assert set(screen(table(value=[280.0, 372.0]), quality=None).flag.values) == {"used"}
    with pytest.raises(InputError, match="(?s)marks='yes'.*gross_check=-1"):
        Quality(marks="yes", gross_check=-1)
    with pytest.raises(InputError, match="quality='strict'.*Quality"):
        screen(table(value=[280.0]), quality="strict")


def test_five_gross_errors_among_45_are_found_and_no_good_report_is_lost():
    """+15 K with departures of 1 K: the scale must not be estimated from what it judges."""
    departures = np.random.default_rng(0).normal(size=45)
    departures[:5] += 15.0
    obs = screen(table(value=280.0 + departures))
    found = judge_departures(np.abs(departures), Structure.of(obs), 5.0)
    bad = np.any([*found.values()], axis=0)
    assert bad[:5].all() and not bad[5:].any()
    # the same where the expected standard deviations are three times too small
    found = judge_departures(3 * np.abs(departures), Structure.of(obs), 5.0)
    bad = np.any([*found.values()], axis=0)
    assert bad[:5].all() and not bad[5:].any()


def test_a_sounding_with_errors_at_all_levels_goes_whole_and_its_neighbours_stay():
    rng, levels = np.random.default_rng(1), [1000.0, 850.0, 700.0, 500.0, 300.0, 250.0]
    n = 20
    departures = rng.normal(size=(n, len(levels)))
    departures[7] += 10.0
    obs = screen(
        table(
            value=250.0 + departures.ravel(),
            variable="temperature",
            level=np.tile(levels, n),
            lat=np.repeat(np.linspace(-60, 60, n), len(levels)),
            lon=np.repeat(np.linspace(0, 300, n), len(levels)),
            station=np.repeat([f"S{i}" for i in range(n)], len(levels)),
        )
    )
    found = judge_departures(np.abs(departures.ravel()), Structure.of(obs), 5.0)
    bad = np.any([*found.values()], axis=0).reshape(n, -1)
    assert bad[7].all() and not np.delete(bad, 7, 0).any()


def test_marks_of_a_file_are_applied_by_the_rule_of_its_form(shared):
    """IODA: of four winds (QC 0, 10, 10, 0) two are good."""
    obs = xdiffda.read_obs(shared("cases/ioda_v3_satwind.nc4"))
    assert isinstance(obs, xr.Dataset)
    assert int((screen(obs).flag == "used").sum()) == 4  # two winds, two components each


def test_real_gross_errors_are_flagged_and_few_others(shared):
    """372 K and 349 m/s stand in a global SYNOP file of 2018; none is left."""
    obs = xdiffda.read_obs(shared("data/bufr/perf_synop.bufr"))
    found = screen(obs)
    good = found.isel(obs=found.flag.values == "used")
    temperature = good.value.values[good.variable.values == "2m_temperature"]
    wind = good.value.values[np.char.find(good.variable.values.astype(str), "10m_") == 0]
    assert temperature.max() < 335 and np.abs(wind).max() < 105
    flags = report(found).groupby("variable").sum()
    assert flags.get("out_of_range", pd.Series([0])).sum() < 0.02 * found.sizes["obs"]
    # repeats of one station in the file's window are all that is flagged by the thousand
    assert (found.flag != "used").sum() < 0.5 * found.sizes["obs"]
