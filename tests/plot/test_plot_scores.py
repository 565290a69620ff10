"""Figures of scores say what the scores say, in readable units and one style."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from xdiffda import plot
from xdiffda.errors import InputError
from xdiffda.plot.styles import COLOURS, STYLE

LEVELS = [300, 500, 850]
HOURS = np.arange(0, 73, 12) * np.timedelta64(1, "h")


def scores(factor: float = 1.0, **dims: object) -> xr.Dataset:
    """RMSE and bias on levels and, if given, lead times."""
    shape = tuple(len(np.atleast_1d(v)) for v in dims.values())
    growth = np.ones(shape) if not shape else np.broadcast_to(np.arange(1.0, shape[0] + 1), shape)
    level = np.array([1.0, 2.0, 4.0])
    on_levels = ("score", *dims, "level")
    fields = {
        "specific_humidity": (
            on_levels,
            1e-3 * factor * np.stack([growth] * 2)[..., None] * level,
            {"units": "kg kg-1"},
        ),
        "geopotential": (
            on_levels,
            100 * factor * np.stack([growth] * 2)[..., None] * level,
            {"units": "m2 s-2"},
        ),
        "mean_sea_level_pressure": (
            ("score", *dims),
            300 * factor * np.stack([growth] * 2),
            {"units": "Pa"},
        ),
    }
    return xr.Dataset(fields, {"score": ["rmse", "bias"], "level": LEVELS, **dims})


def lines(ax) -> dict[str, np.ndarray]:
    return {ln.get_label(): np.asarray(ln.get_ydata(), float) for ln in ax.lines}


def panel(figure, title: str):
    return next(ax for ax in figure.axes if ax.get_title() == title)


def counts(*values: float) -> xr.Dataset:
    return xr.Dataset(
        {"2m_temperature": ("rank", np.array(values))}, {"rank": np.arange(1, len(values) + 1)}
    )


def test_rank_histogram() -> None:
    results = {"a": counts(30, 10, 10, 30), "b": counts(20, 20, 20, 20)}
    figure = plot.rank_histogram(results)
    ax = panel(figure, "2 m temperature")
    heights = [bar.get_height() for bar in ax.patches if 0.3 < bar.get_width() < 0.5]
    np.testing.assert_allclose(heights, [1.5, 0.5, 0.5, 1.5, 1, 1, 1, 1])
    texts = [t.get_text() for t in ax.texts]
    assert texts == ["χ² 20.0, p < 0.001; slope +0.0, U +4.5", "χ² 0.0, p = 1; slope +0.0, U +0.0"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]


def test_rank_histogram_of_observations() -> None:
    """One panel for each group; the surface has no level."""
    found = xr.Dataset(
        {"count": (("group", "rank"), np.full((2, 3), 5.0))},
        {
            "variable": ("group", ["2m_temperature", "temperature"]),
            "rank": [1, 2, 3],
            "level": ("group", [np.nan, 500.0]),
            "units": ("group", ["K", "K"]),
        },
    )
    titles = [ax.get_title() for ax in plot.rank_histogram(found).axes]
    assert titles == ["2 m temperature, surface", "temperature, 500 hPa"]


def test_spread_error_on_the_diagonal() -> None:
    values = np.array([[1e-3, 2e-3], [1e-3, 4e-3]])[..., None] * np.ones(3)
    found = xr.Dataset(
        {"specific_humidity": (("quantity", "bin", "level"), values, {"units": "kg kg-1"})},
        {"quantity": ["spread", "error"], "level": LEVELS},
    )
    ax = panel(plot.spread_error(found, channels=["q@500"]), "specific humidity, 500 hPa")
    curve, diagonal = ax.lines
    np.testing.assert_allclose(curve.get_xydata(), [[1, 1], [2, 4]])
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_ylabel() == "error (g/kg)"


def test_reliability() -> None:
    from xdiffda.verify import reliability

    lat, lon = np.linspace(-67.5, 67.5, 4), np.arange(8) * 45.0
    draw = np.random.default_rng(0).normal(280, 1, (5, 4, 8))
    state = xr.Dataset(
        {"2m_temperature": (("member", "lat", "lon"), draw)}, {"lat": lat, "lon": lon}
    )
    found = reliability(
        state.isel(member=slice(1, 5)), state.isel(member=0), thresholds={"2m_temperature": 280.0}
    )
    figure = plot.reliability({"guided": found})
    ax = panel(figure, "2 m temperature\nat least 280 K")
    np.testing.assert_allclose(lines(ax)["guided"], found["2m_temperature"])
    brier = float(found["2m_temperature_brier"].sel(term="fair"))
    assert ax.texts[0].get_text() == f"guided: Brier {brier:.3f}"
    (below,) = ax.child_axes
    np.testing.assert_allclose(below.lines[0].get_ydata(), found["2m_temperature_share"])


def test_profiles() -> None:
    figure = plot.profiles({"background": scores(2.0), "analysis": scores()})
    ax = panel(figure, "specific humidity")
    assert ax.get_xlabel() == "RMSE (g/kg)"
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [1, 2, 4])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), LEVELS)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the ground is below
    assert figure.axes[0].get_ylabel() == "pressure (hPa)"
    with pytest.raises(InputError, match=r"(?s)2 problems.*mean_sea_level_pressure.*'crps'"):
        plot.profiles(scores(), score="crps", variables=["mean_sea_level_pressure"])


def test_scorecard_of_methods() -> None:
    given = {"background": scores(), "guided": scores(0.5), "RePaint": scores(1.25)}
    given["RePaint"]["geopotential"][0, 1] = np.nan
    figure = plot.scorecard(given, reference="background", limit=2.0)
    ax = figure.axes[0]
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert rows == ["q 300", "q 500", "q 850", "Z 300", "Z 500", "Z 850", "MSLP"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["guided", "RePaint"]
    cells = {t.get_position(): t.get_text() for t in ax.texts}
    assert cells[0, 0] == "0.50" and cells[1, 0] == "1.25" and cells[1, 4] == "–"
    image = ax.collections[0]
    image.update_scalarmappable()
    colours = [to_hex(c) for c in image.get_facecolors()]
    assert colours[0] == COLOURS[0].lower()  # half of the reference: the blue end
    red, _, blue = (int(colours[1][i : i + 2], 16) for i in (1, 3, 5))
    assert red > blue  # worse
    np.testing.assert_allclose(image.get_clim(), [-np.log(2), np.log(2)])
    assert figure.axes[-1].get_xlabel() == "RMSE / that of background"


def test_scorecard_of_lead_times() -> None:
    given = {k: scores(f, lead_time=HOURS) for k, f in (("a", 1.0), ("b", 0.8), ("c", 1.1))}
    figure = plot.scorecard(given, reference="a", channels=["msl", "z@500"])
    blocks = figure.axes[:2]
    assert [ax.get_title() for ax in blocks] == ["b", "c"]
    assert [t.get_text() for t in blocks[0].get_xticklabels()][:3] == ["0", "12", "24"]
    assert len(blocks[1].texts) == 2 * HOURS.size
    assert {t.get_text() for t in blocks[1].texts} == {"1.10"}


def test_scorecard_errors() -> None:
    with pytest.raises(InputError, match="reference 'b' and a"):
        plot.scorecard({"a": scores()}, reference="b")
    with pytest.raises(InputError, match=r"(?s)no crps of a, b.*limit=1"):
        plot.scorecard({"a": scores(), "b": scores()}, reference="a", score="crps", limit=1.0)


def test_spectra() -> None:
    power = np.array([100.0, 4.0, 1.0]) * 1e-6
    one = xr.Dataset(
        {
            "specific_humidity": (
                ("band", "wavenumber", "level"),
                power[None, :, None] * np.ones(3),
                {"units": "(kg kg-1)^2"},
            )
        },
        {"band": ["north"], "wavenumber": [0, 1, 2], "level": LEVELS},
    )
    given = {"truth": one, "mean": one / [[[1], [1], [4]]]}
    given["mean"]["specific_humidity"].attrs = one["specific_humidity"].attrs
    ax = plot.spectra(given, band="north", channels=["q@850"]).axes[0]
    np.testing.assert_allclose(lines(ax)["mean"], [4, 0.25])  # wavenumber 0 has no place
    assert ax.get_ylabel() == "variance (g²/kg²)"
    ratio = plot.spectra(given, band="north", reference="truth", channels=["q@850"]).axes[0]
    np.testing.assert_allclose(lines(ratio)["mean"], [1, 0.25])
    with pytest.raises(InputError, match=r"(?s)no band 'globe' of truth.*reference 'x'"):
        plot.spectra(given, reference="x")


def test_lead_time_figures() -> None:
    from xdiffda.verify import lead_time_loss

    truth, late = scores(lead_time=HOURS), scores(1.5, lead_time=HOURS)
    ax = panel(plot.lead_time_curves({"truth": truth, "guided": late}), "mean sea level pressure")
    np.testing.assert_allclose(lines(ax)["guided"], 4.5 * np.arange(1, 8))  # hPa
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.arange(0, 73, 12))
    losses = {"guided": {416: lead_time_loss(late, truth), 45: lead_time_loss(truth, truth)}}
    figure = plot.lead_time_loss(losses, lead_time=24.0, channels=["z@500"])
    curve = figure.axes[0].lines[0]
    # rmse 1.5 x 3 is that of the reference at 42 h
    np.testing.assert_allclose(curve.get_xydata(), [[45, 0], [416, 18]])
    assert figure.axes[0].get_ylabel() == "loss at 24 h (h)"
    with pytest.raises(InputError, match=r"no lead time of 30 h in guided, 416 columns"):
        plot.lead_time_loss(losses, lead_time=30.0)
    with pytest.raises(InputError, match="no lead_time or no rmse in the scores"):
        plot.lead_time_curves(scores())


def test_error_against_columns() -> None:
    by = {"guided": {416: scores(0.5), 45: scores(0.9)}, "3D-Var": {416: scores(0.7)}}
    figure = plot.error_against_columns(
        by,
        background=scores(),
        forecasts=scores(0.2, lead_time=HOURS),
        lead_times=(7, 12, 48),
        channels=["q@850", "mslp"],
    )
    ax = panel(figure, "mean sea level pressure")
    found = lines(ax)
    np.testing.assert_allclose(found["guided"], [2.7, 1.5])  # hPa, few columns first
    np.testing.assert_allclose(found["3D-Var"], [2.1])
    np.testing.assert_allclose(found["background"], 3.0)
    # growing by 0.6 hPa in each 12 h from 0.6; the 7 h forecast does not exist
    np.testing.assert_allclose(found["12 h forecast from the truth"], 1.2)
    np.testing.assert_allclose(found["48 h forecast from the truth"], 3.0)
    assert "7 h forecast from the truth" not in found
    assert [t.get_text() for t in ax.get_xticklabels()] == ["45", "416"]
    with pytest.raises(InputError, match="no crps of guided, 416 columns"):
        plot.error_against_columns(by, score="crps")


def test_error_maps_share_a_scale() -> None:
    lat, lon = np.arange(-75.0, 90, 30), np.arange(12) * 30.0
    base = xr.Dataset(
        {"temperature": (("level", "lat", "lon"), np.full((1, 6, 12), 250.0), {"units": "K"})},
        {"level": [850], "lat": lat, "lon": lon},
    )
    members = xr.concat([base + 1, base + 3], "member")
    figure = plot.error_maps({"one": base - 4, "ensemble": members}, base, "t", level=850)
    images = [ax.collections[0] for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in figure.axes][:2] == ["one, rms 4 K", "ensemble, rms 2 K"]
    assert {image.get_clim() for image in images} == {(-4.0, 4.0)}
    assert figure._suptitle.get_text() == "error of temperature at 850 hPa"
    with pytest.raises(InputError, match="no states"):
        plot.error_maps({}, base, "t")


def test_innovation_histogram() -> None:
    draw = np.random.default_rng(1).normal(0.5, 2, 4000)
    seen = xr.Dataset(
        {
            "value": ("obs", 280 + draw),
            "error_std": ("obs", np.ones(4000)),
            "equivalent": (("obs", "member"), np.full((4000, 2), 280.0)),
        },
        {"variable": ("obs", ["2m_temperature"] * 4000)},
    )
    ax = plot.innovation_histogram({"background": seen}).axes[0]
    stairs = ax.patches[0].get_data()
    assert (stairs.values * np.diff(stairs.edges)).sum() == pytest.approx(1)
    assert ax.texts[0].get_text() == f"mean {draw.mean():+.2f}, std {draw.std():.2f}"
    assert ax.get_title() == "2 m temperature (4,000)"


def test_channels_are_checked() -> None:
    with pytest.raises(InputError, match=r"temperature, 500 hPa; needed .*geopotential@300"):
        plot.lead_time_curves(scores(lead_time=HOURS), channels=["t@500"])


def test_style_and_vector_output(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figure = plot.profiles({"background": scores(2.0), "analysis": scores()})
    assert dict(matplotlib.rcParams) == before  # the user's own figures keep their style
    assert not plt.get_fignums()
    ax = figure.axes[0]
    assert not ax.spines["top"].get_visible()
    assert [to_hex(ln.get_color()) for ln in ax.lines] == [c.lower() for c in COLOURS[:2]]
    assert len({ln.get_marker() for ln in ax.lines}) == 2  # legible without colour
    for suffix in ("svg", "pdf", "png"):
        plot.save(figure, tmp_path / f"figure.{suffix}")
    svg = (tmp_path / "figure.svg").read_text()
    assert "RMSE (g/kg)" in svg and "<image" not in svg
    assert STYLE["svg.fonttype"] == "none"
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
