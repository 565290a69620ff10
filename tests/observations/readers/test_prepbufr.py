"""prepBUFR against an independent decoding of the same file, and against published departures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xdiffda.observations import to_tidy
from xdiffda.observations.readers.read import read_obs

Find = Callable[[str], Path]
FOLDER = "data/prepbufr/gdas.t12z"


@pytest.fixture(scope="module")
def soundings(shared: Find) -> xr.Dataset:
    return read_obs(shared(f"{FOLDER}.ADPUPA.prepbufr"))


def of(obs: xr.Dataset, name: str) -> xr.Dataset:
    return obs.isel(obs=np.flatnonzero(obs["variable"].values == name))


# ../shared/data/README.md: observation minus background where the mark is 2 or better. That of
# temperature is of virtual temperature there, up to 1 % larger than of the temperature itself.
@pytest.mark.parametrize(
    ("name", "low", "high", "number", "mean", "std"),
    [
        ("temperature", 400, 600, 4120, -0.09, 0.90),
        ("temperature", 850, 1100, 3543, 0.09, 1.76),
        ("u_component_of_wind", 400, 600, 3948, 0.06, 2.56),
        ("surface_pressure", None, None, 585, 22, 118),
    ],
)
def test_departures_are_those_that_are_known(
    soundings: xr.Dataset, name: str, low: float, high: float, number: int, mean: float, std: float
) -> None:
    mine = of(soundings, name)
    good = (mine["quality"].values <= 2) & np.isfinite(mine["background"].values)
    if low is not None:
        good &= (mine["level"].values >= low) & (mine["level"].values <= high)
    away = (mine["value"] - mine["background"]).values[good]
    assert good.sum() == number
    assert away.mean() == pytest.approx(mean, abs=0.006 if low else 0.6)
    assert away.std() == pytest.approx(std, rel=0.008)


def test_every_level_is_that_of_another_decoder(shared: Find, soundings: xr.Dataset) -> None:
    table = pd.read_csv(shared(f"{FOLDER}.ADPUPA.decoded.csv.gz"), low_memory=False)
    for name, word, mark, factor, offset in (
        ("u_component_of_wind", "UOB", "WQM", 1.0, 0.0),
        ("v_component_of_wind", "VOB", "WQM", 1, 0),
        ("specific_humidity", "QOB", "QQM", 1e-6, 0.0),
    ):
        rows, mine = table[table[word].notna()], of(soundings, name)
        np.testing.assert_allclose(mine["value"], rows[word] * factor + offset, rtol=1e-12)
        np.testing.assert_array_equal(mine["quality"], rows[mark])
        np.testing.assert_allclose(mine["level"], rows["POB"])
    rows, mine = table[table["TOB"].notna()], of(soundings, "temperature")
    virtual = (rows["TPC"] == 8).to_numpy()
    np.testing.assert_allclose(mine["value"].values[~virtual], rows["TOB"][~virtual] + 273.15)
    factor = 1 + 0.608 * 1e-6 * rows["QOB"].to_numpy()[virtual]
    apart = mine["value"].values[virtual] * factor - (rows["TOB"][virtual] + 273.15)
    assert virtual.sum() == 17164 and np.abs(apart).max() < 0.1  # rounded to 0.1 K, twice
    np.testing.assert_allclose(mine["error_std"], rows["TOE"].fillna(1.0), atol=1e-9)


def test_drift_kinds_and_errors_of_humidity(soundings: xr.Dataset) -> None:
    assert set(np.unique(soundings["kind"])) == {"radiosonde", "pilot"}
    one = soundings.isel(obs=np.flatnonzero(soundings["station"].values == "72250"))
    assert np.unique(one["lat"]).size > 20 and np.ptp(one["lon"].values) < 3
    hours = np.ptp(one["time"].values) / np.timedelta64(1, "h")
    assert 1 < hours < 2.5 and np.diff(one["time"].values.astype(int)).min() >= -(10**13)
    humidity = of(soundings, "specific_humidity")
    warm = humidity.isel(obs=np.flatnonzero(humidity["level"].values > 990))
    # QOE is 2 throughout: 20 % of relative humidity, of 3.8 g/kg at 0 degC and 15 g/kg at 20
    assert 5e-4 < float(warm["error_std"].median()) < 3e-3
    good = humidity["error_std"].values[humidity["quality"].values <= 2]
    assert good.max() < 0.2 * 0.04


def test_ships_and_land_stations(shared: Find) -> None:
    ships = read_obs(shared(f"{FOLDER}.sfcshp.prepbufr"))
    mine = of(ships, "2m_temperature")
    good = (mine["quality"].values <= 2) & np.isfinite(mine["background"].values)
    away = (mine["value"] - mine["background"]).values[good]
    assert away.mean() == pytest.approx(-0.91, abs=0.01)
    assert away.std() == pytest.approx(2.71, rel=0.008)
    assert {"ship", "buoy"} <= set(np.unique(ships["kind"]))
    land = read_obs(shared(f"{FOLDER}.adpsfc.prepbufr"))
    assert np.isnan(land["level"]).all()
    for obs in (ships, land):
        tidy = to_tidy(obs.isel(obs=np.flatnonzero(~obs.to_dataframe().duplicated())))
        np.testing.assert_array_equal(tidy["background"], tidy["background"])
        assert tidy["quality"].dtype.kind == "f"
