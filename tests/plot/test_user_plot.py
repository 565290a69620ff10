"""Maps and curves of what was not meant: refused, or titled as what they are."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from xdiffda import plot
from xdiffda.errors import InputError, StorageError

LAT, LON = np.arange(-67.5, 90, 45.0), np.arange(0, 360, 45.0)
TIMES = np.array(["2020-01-01T00", "2020-01-01T06"], "datetime64[ns]")


@pytest.fixture(scope="module")
def state() -> xr.Dataset:
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {
            "temperature": (("time", "level", "lat", "lon"), 280 + rng.normal(size=(2, 2, 4, 8))),
            "2m_temperature": (("time", "lat", "lon"), 280 + rng.normal(size=(2, 4, 8))),
        },
        {"time": TIMES, "level": [500.0, 850.0], "lat": LAT, "lon": LON},
    )
    for name in ds:
        ds[name].attrs["units"] = "K"
    return ds


def test_a_map_is_of_the_level_and_time_that_were_asked_for(state: xr.Dataset) -> None:
    one = state.isel(time=0)
    with pytest.raises(InputError, match="level 850; needed one of the analysis's 500"):
        plot.map_panels(one.sel(level=500), "t", level=850)
    with pytest.raises(InputError, match="time 2021-01-01; needed one of .*2020-01-01T00:00"):
        plot.map_panels(one, "t", level=500, time="2021-01-01")
    with pytest.raises(InputError, match="one of the truth's 2020-01-01T06:00"):
        plot.map_panels(one, "t", level=500, truth=state.isel(time=1))
    figure = plot.map_panels(one.sel(level=500), "t", level=500, time=state.time[0])
    assert "at 500 hPa, 2020-01-01 00:00" in figure.get_suptitle()
    for given in (one, one.sel(level=500)):
        assert "hPa" not in plot.map_panels(given, "2t", level=500).get_suptitle()
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"variable": ["t"]}, "variable="),
        ({"level": "500"}, "level='500'; needed one of .*500, 850"),
        ({"level": [500, 850]}, "level="),
        ({"time": "soon"}, "time 'soon'; needed one of .*2020"),
        ({"member": 2}, "member=2; needed the position of one of 2"),
        ({"member": "a"}, "member='a'"),
        ({"truth": "truth.nc"}, "truth: .*found a str"),
    ],
)
def test_wrong_choices_of_a_map_say_which_there_are(state, choice, message) -> None:
    members = xr.concat([state, state], "member")
    right = {"variable": "t", "level": 500, "time": str(TIMES[0])}
    with pytest.raises(InputError, match=f"(?s){message}"):
        plot.map_panels(members, **(right | choice))


def test_a_single_state_has_no_member(state: xr.Dataset) -> None:
    with pytest.raises(InputError, match="a state without members"):
        plot.map_panels(state.isel(time=0), "2t", member=0)


def test_a_polar_map_ends_at_the_equator(state: xr.Dataset) -> None:
    ax = plot.map_panels(state.isel(time=0), "2t", projection="northpolarstereo").axes[0]
    import cartopy.crs as ccrs

    edge = abs(ax.projection.transform_point(0, 0, ccrs.PlateCarree())[1])
    np.testing.assert_allclose(ax.get_xlim(), (-edge, edge), rtol=0.02)


def test_figures_of_other_results_are_refused(state: xr.Dataset) -> None:
    scores = xr.Dataset({"2m_temperature": ("score", [1.0])}, {"score": ["rmse"]})
    with pytest.raises(InputError, match="without rank.*xdiffda.verify.rank_histogram"):
        plot.rank_histogram({"a": scores})
    with pytest.raises(InputError, match="without wavenumber.*zonal_spectrum"):
        plot.spectra(scores)
    with pytest.raises(InputError, match="without obs.*verify.equivalents"):
        plot.innovation_histogram(scores)
    with pytest.raises(InputError, match="no result"):
        plot.profiles({})
    with pytest.raises(InputError, match="found a NoneType"):
        plot.profiles(None)
    with pytest.raises(InputError, match="temperature@low.*temperature@850"):
        plot.rank_histogram(scores.rename(score="rank"), channels=["temperature@low"])


def test_the_explorer_compares_states_of_the_same_time(state: xr.Dataset) -> None:
    pytest.importorskip("panel")
    one, other = state.isel(time=0), state.isel(time=1)
    with pytest.raises(InputError, match="1 times of the analysis that the truth does not have"):
        one.diffda.explore(truth=other, view="error")
    assert one.diffda.explore(truth=one, view="error").view == "error"


def test_where_a_figure_cannot_be_written(state: xr.Dataset, tmp_path: Path) -> None:
    figure = plot.map_panels(state.isel(time=0), "2t")
    with pytest.raises(StorageError, match="mkdir -p"):
        plot.save(figure, tmp_path / "no" / "map.png")
    with pytest.raises(StorageError, match=r"unknown kind '.foo'.*pdf"):
        plot.save(figure, tmp_path / "map.foo")
