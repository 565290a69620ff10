"""The explorer shows what the Dataset holds: fields, profiles, plumes, observations; offline."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xdiffda.errors import InputError, XdiffdaError

LAT = np.array([-67.5, -22.5, 22.5, 67.5])
LON = np.arange(0, 360, 45.0)
LEVELS = [200.0, 500.0, 850.0]
TIMES = np.datetime64("2013-07-04T06", "ns") + np.arange(3) * np.timedelta64(6, "h")


def state(seed: int, members: int = 0) -> xr.Dataset:
    """Temperature and specific humidity on levels, pressure at sea level."""
    draw = np.random.default_rng(seed)
    first = {"member": members} if members else {}
    sizes = {**first, "time": len(TIMES), "level": len(LEVELS), "lat": LAT.size, "lon": LON.size}
    surface = {d: n for d, n in sizes.items() if d != "level"}

    def field(mean: float, std: float, on: dict[str, int], units: str) -> tuple:
        return (tuple(on), draw.normal(mean, std, tuple(on.values())), {"units": units})

    return xr.Dataset(
        {
            "temperature": field(260, 5, sizes, "K"),
            "specific_humidity": field(4e-3, 1e-3, sizes, "kg kg-1"),
            "mean_sea_level_pressure": field(101e3, 500, surface, "Pa"),
        },
        {"time": TIMES, "level": LEVELS, "lat": LAT, "lon": LON},
    )


ANALYSIS, BACKGROUND, TRUTH = state(0, members=5), state(1), state(2)


def columns() -> xr.Dataset:
    """One station on a grid point, one between four."""
    value = np.full((3, 2, 3), 261.0) + np.arange(3.0)
    return xr.Dataset(
        {"temperature": (("time", "station", "level"), value)},
        {
            "lat": ("station", [22.5, 0.0]),
            "lon": ("station", [90.0, -22.5]),
            "level": LEVELS,
            "time": TIMES,
        },
    )


@pytest.fixture(scope="module")
def explorer():
    pytest.importorskip("panel", reason='pip install "xdiffda[interactive]"')
    return ANALYSIS.diffda.explore(obs=columns(), background=BACKGROUND, truth=TRUTH)


def by_hand(view: str, name: str, choice: dict) -> xr.DataArray:
    """What the view must show, written with xarray."""
    scale = {"specific_humidity": 1e3, "mean_sea_level_pressure": 1e-2}.get(name, 1.0)
    x, x_b, x_t = (ds[name].sel(choice) * scale for ds in (ANALYSIS, BACKGROUND, TRUTH))
    return {
        "mean": x.mean("member"),
        "member": x.isel(member=3),
        "spread": x.std("member", ddof=1),
        "background": x_b,
        "increment": x.mean("member") - x_b,
        "truth": x_t,
        "error": x.mean("member") - x_t,
    }[view]


@pytest.mark.parametrize("name", list(ANALYSIS.data_vars))
@pytest.mark.parametrize(
    "view", ["mean", "member", "spread", "background", "increment", "truth", "error"]
)
def test_every_view_shows_the_dataset(explorer, view: str, name: str, no_network: None) -> None:
    choice = {"time": TIMES[2]} | ({"level": 850.0} if name != "mean_sea_level_pressure" else {})
    explorer.param.update(variable=name, time=TIMES[2], member=3, view=view)
    if "level" in choice:
        explorer.level = 850.0
    expected = by_hand(view, name, choice)
    np.testing.assert_allclose(explorer.frame().field, expected, rtol=1e-10, atol=1e-10)
    # and so does the picture in the browser: columns from 180°W, the first repeated at the end
    (picture,) = explorer.map.image.data["image"]
    rolled = expected.values[:, [3, 4, 5, 6, 7, 0, 1, 2, 3, 4]]
    np.testing.assert_allclose(picture, rolled, rtol=1e-6, atol=1e-6)
    assert explorer.map.image.data["image"][0].dtype == np.float32
    low, high = explorer.map.mapper.low, explorer.map.mapper.high
    assert low < high
    if view in ("increment", "error"):
        assert low == -high
    if view == "spread":
        assert low == 0


def test_title_units_and_pointer(explorer) -> None:
    explorer.param.update(variable="specific_humidity", view="increment", time=TIMES[0])
    explorer.level = 500.0
    title = explorer.map.figure.title.text
    assert title.startswith("specific humidity at 500 hPa, 2013-07-04 06:00 UTC: increment (mean")
    assert "rms " in title and title.endswith(" g/kg")
    assert explorer.map.units.text == "g/kg"
    assert "@image{0.0" in explorer.map.hover.tooltips and " g/kg" in explorer.map.hover.tooltips


def test_a_click_gives_profile_and_plume(explorer) -> None:
    from bokeh.events import Tap

    explorer.param.update(variable="temperature", view="mean", time=TIMES[1])
    explorer.level = 500.0
    explorer.map.figure._trigger_event(Tap(explorer.map.figure, x=-100.0, y=30.0))
    assert explorer.point == (22.5, 270.0)
    here = {"lat": 22.5, "lon": 270.0}
    column = ANALYSIS["temperature"].sel(time=TIMES[1], **here)
    shown = explorer.profile.lines["analysis"].data
    np.testing.assert_allclose(shown["x"], column.mean("member"))
    np.testing.assert_array_equal(shown["y"], LEVELS)
    np.testing.assert_allclose(np.stack(explorer.profile.members.data["xs"]), column)
    np.testing.assert_allclose(
        explorer.profile.lines["background"].data["x"],
        BACKGROUND["temperature"].sel(time=TIMES[1], **here),
    )
    series = ANALYSIS["temperature"].sel(level=500.0, **here)
    np.testing.assert_allclose(np.stack(explorer.plume.members.data["ys"]), series.T.T)
    np.testing.assert_allclose(
        explorer.plume.lines["truth"].data["y"], TRUTH["temperature"].sel(level=500.0, **here)
    )
    np.testing.assert_array_equal(
        explorer.plume.lines["analysis"].data["x"], TIMES.astype("datetime64[ms]").astype(float)
    )
    assert "22.5°N, 90.0°W" in explorer.readout.object


def test_departures_are_drawn_relative_to_what_the_map_subtracts(explorer) -> None:
    explorer.param.update(variable="temperature", view="increment", time=TIMES[1])
    explorer.go_to(-20, 40)
    here = {"lat": -22.5, "lon": 45.0, "time": TIMES[1]}
    expected = (ANALYSIS["temperature"] - BACKGROUND["temperature"]).sel(here)
    np.testing.assert_allclose(np.stack(explorer.profile.members.data["xs"]), expected)
    np.testing.assert_array_equal(explorer.profile.lines["background"].data["x"], np.zeros(3))
    explorer.view = "error"
    expected = (ANALYSIS["temperature"].mean("member") - TRUTH["temperature"]).sel(here)
    np.testing.assert_allclose(explorer.profile.lines["analysis"].data["x"], expected)
    assert explorer.profile.figure.title.text == "temperature − truth"


def test_observations_show_value_or_innovation(explorer) -> None:
    explorer.param.update(variable="temperature", view="mean", time=TIMES[1])
    explorer.level = 500.0
    dots = explorer.map.dots.data
    assert sorted(dots["x"]) == [-22.5, 90.0]
    np.testing.assert_array_equal(dots["shown"], [262.0, 262.0])
    explorer.view = "increment"
    x_b = BACKGROUND["temperature"].sel(time=TIMES[1], level=500.0)
    corners = x_b.sel(lat=[-22.5, 22.5], lon=[0.0, 315.0]).mean()
    expected = {90.0: 262 - x_b.sel(lat=22.5, lon=90.0), -22.5: 262 - corners}
    for x, shown, text in zip(
        *(explorer.map.dots.data[k] for k in ("x", "shown", "text")), strict=True
    ):
        assert shown == pytest.approx(float(expected[x]))
        assert f"innovation {shown:+.1f}"[:15] in text and "observed <b>262." in text
    explorer.view = "spread"
    assert np.isnan(explorer.map.dots.data["shown"]).all()
    explorer.go_to(22.5, 90)  # the station's own cell: its column stands in the profile
    np.testing.assert_array_equal(explorer.profile.observed.data["y"], LEVELS)
    assert "observed here" in explorer.readout.object
    explorer.observations = False
    assert not explorer.map.points.visible
    explorer.observations = True


def test_colours_stay_as_time_changes(explorer) -> None:
    explorer.param.update(variable="temperature", view="increment", time=TIMES[0])
    explorer.fit_colours()
    before = explorer.map.mapper.high
    explorer.time = TIMES[2]
    assert explorer.map.mapper.high == before
    explorer.fit_colours()
    assert explorer.map.mapper.high != before


def test_surface_variables_have_no_level_or_profile(explorer) -> None:
    explorer.param.update(variable="temperature", view="mean")
    explorer.level = 200.0
    explorer.variable = "mean_sea_level_pressure"
    assert explorer.level is None and not explorer.profile.figure.visible
    assert not explorer.controls.widgets["level"].visible
    explorer.variable = "temperature"
    assert explorer.level == 200.0 and explorer.profile.figure.visible


def test_widgets_and_figures_choose(explorer) -> None:
    widgets = explorer.controls.widgets
    widgets["variable"].value = "specific_humidity"
    widgets["view"].value = "member"
    widgets["member"].value = 2
    widgets["level"].value = 200.0
    assert (explorer.variable, explorer.member, explorer.level) == ("specific_humidity", 2, 200.0)
    assert widgets["member"].visible
    assert "member 2" in explorer.map.figure.title.text
    explorer._tap_level(700.0)
    assert explorer.level == 850.0 and widgets["level"].value == 850.0
    explorer._tap_time(float(TIMES[2].astype("datetime64[ms]").astype(float)) - 1e6)
    assert explorer.time == TIMES[2]
    explorer.view = "increment"
    explorer.go_to_largest()
    field = abs(explorer.frame().field)
    assert float(field.sel(lat=explorer.point[0], lon=explorer.point[1])) == float(field.max())


def test_a_single_state(no_network: None) -> None:
    pytest.importorskip("panel")
    one = TRUTH.isel(time=0).assign_coords(lon=np.r_[LON[:4], LON[4:] - 360])[["temperature"]]
    explorer = one.diffda.explore(variable="t", level=850)
    assert list(explorer.param.view.objects) == ["mean"]
    assert explorer.level == 850.0 and not explorer.plume.figure.visible
    np.testing.assert_allclose(explorer.frame().field, TRUTH["temperature"][0, 2])
    assert explorer.frame().subtitle == "analysis"


def test_a_forecast_is_shown_by_lead_time() -> None:
    pytest.importorskip("panel")
    leads = np.arange(0, 13, 6) * np.timedelta64(1, "h")
    fields = TRUTH["temperature"].values[:1, None] + np.arange(3.0)[None, :, None, None, None]
    dims = ("init_time", "lead_time", "level", "lat", "lon")
    forecast = xr.Dataset(
        {"temperature": (dims, fields, {"units": "K"})},
        {
            "init_time": TIMES[:1],
            "lead_time": leads.astype("timedelta64[ns]"),
            "level": LEVELS,
            "lat": LAT,
            "lon": LON,
            "valid_time": (("init_time", "lead_time"), TIMES[None]),
        },
    )
    explorer = forecast.diffda.explore(truth=TRUTH, view="error", level=500)
    explorer.lead_time = forecast.lead_time.values[2]
    expected = fields[0, 2, 1] - TRUTH["temperature"].values[2, 1]
    np.testing.assert_allclose(explorer.frame().field, expected)
    assert (
        "12 h" in explorer.map.figure.title.text and "18:00 UTC" in explorer.map.figure.title.text
    )
    assert len(explorer.plume.lines["truth"].data["y"]) == 3


def test_a_regional_grid_across_greenwich() -> None:
    pytest.importorskip("panel")
    from xdiffda.plot.explore.figures import Raster

    raster = Raster(np.array([40.0, 45.0, 50.0]), np.array([0.0, 5.0, 10.0, 350.0, 355.0]))
    assert raster.x_range == (-12.5, 12.5) and raster.y_range == (37.5, 52.5)
    picture = raster.picture(np.arange(15.0).reshape(3, 5))
    np.testing.assert_array_equal(picture[0], [3, 4, 0, 1, 2])


def test_rows_of_unequal_height_keep_their_place() -> None:
    pytest.importorskip("panel")
    from xdiffda.plot.explore.figures import Raster

    lat = np.array([-80.0, -30.0, 0.0, 30.0, 80.0])
    raster = Raster(lat, LON)
    picture = raster.picture(np.repeat(lat[:, None], LON.size, axis=1))
    height = raster.dh / len(picture)
    for i, row in enumerate(picture[:, 0]):
        centre = raster.y + (i + 0.5) * height
        assert abs(row - centre) == pytest.approx(abs(lat - centre).min(), abs=height)


def test_lazy_input_is_read_slice_by_slice() -> None:
    pytest.importorskip("panel")
    read: list[tuple] = []

    def note(block: np.ndarray, block_info: dict | None = None) -> np.ndarray:
        if block_info:
            read.append(block_info[0]["chunk-location"][1:3])
        return block

    lazy = ANALYSIS[["temperature"]].chunk(time=1, level=1)
    lazy["temperature"] = lazy["temperature"].copy(
        data=lazy["temperature"].data.map_blocks(note, dtype=float)
    )
    from xdiffda.plot.explore.frames import build_frame
    from xdiffda.plot.explore.states import Choice, States

    states = States(lazy)
    assert read == []
    choice = Choice("temperature", 500.0, TIMES[1])
    for view in ("mean", "spread", "member"):
        build_frame(states, view, choice)
    assert set(read) == {(1, 1)} and len(read) == 1  # once for three views
    explorer = lazy.diffda.explore()
    assert lazy["temperature"].chunks is not None
    assert explorer.frame().field.shape == (4, 8)


def test_saved_file_needs_no_network(explorer, tmp_path: Path, no_network: None) -> None:
    explorer.save(tmp_path / "view.html", title="increment of temperature")
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert "<title>increment of temperature</title>" in text
    import re

    assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?:', text)


def test_errors_name_the_repair() -> None:
    pytest.importorskip("panel")
    elsewhere = BACKGROUND.assign_coords(lat=LAT + 1)
    with pytest.raises(
        InputError,
        match=r"(?s)2 problems.*background on another grid.*regrid"
        r".*3 times of the analysis that the truth",
    ):
        ANALYSIS.diffda.explore(
            background=elsewhere, truth=TRUTH.assign_coords(time=TIMES + np.timedelta64(1, "h"))
        )
    with pytest.raises(
        InputError, match=r"(?s)no variable chlorophyll.*explore\(\.\.\., background="
    ):
        ANALYSIS.diffda.explore(variable="chlorophyll", view="increment")
    with pytest.raises(InputError, match=r"no level 700 hPa; needed one of 200, 500, 850"):
        ANALYSIS.diffda.explore(variable="t", level=700)
    with pytest.raises(InputError, match=r"no field to draw among the variables \(price\)"):
        ANALYSIS.assign(price=("shop", [1.0])).drop_vars(list(ANALYSIS)).diffda.explore()


def test_without_panel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "panel", None)
    with pytest.raises(XdiffdaError, match=r'pip install "xdiffda\[interactive\]"'):
        ANALYSIS.diffda.explore()


def test_every_tab_has_figures_of_its_own(explorer) -> None:
    """A closed page takes its figures with it: two pages must not share any."""
    from bokeh.client import pull_session
    from bokeh.models import Plot

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = explorer.view
    explorer.view = "spread"
    server = explorer.show(port=port, open=False, threaded=True)

    def tab() -> Any:
        deadline = time.monotonic() + 60
        while True:  # the thread may not listen yet
            try:
                return pull_session(url=f"http://localhost:{port}/")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    try:
        tabs = [tab(), tab()]
        plots = [{m.id for m in t.document.select({"type": Plot})} for t in tabs]
        titles = [{m.title.text for m in t.document.select({"type": Plot})} for t in tabs]
        for each in tabs:
            each.close()
    finally:
        server.stop()
        explorer.view = before
    assert len(plots[0]) == 3
    assert not plots[0] & plots[1]
    assert titles[0] == titles[1] and any("spread" in text for text in titles[0])
