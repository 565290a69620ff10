"""Figures for papers: units at every axis, legible text, ordered colours, fonts that stay text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr

from xdiffda import plot
from xdiffda.plot import styles
from xdiffda.plot.panels import Panel, scale_of

LEVELS = [500, 850]
K = {"units": "K"}


def of(dims: str, *sizes: int, units: str = "K", **coords: object) -> xr.Dataset:
    values = np.random.default_rng(0).uniform(1, 2, (*sizes, 2))
    return xr.Dataset({"temperature": ((*dims.split(), "level"), values, {"units": units})},
                      {"level": LEVELS, **coords})  # fmt: skip


def state(seed: int = 0, members: int = 3) -> xr.Dataset:
    shape = (members, 2, 6, 12)
    values = np.random.default_rng(seed).normal(270, 5, shape)
    return xr.Dataset(
        {"temperature": (("member", "level", "lat", "lon"), values, K)},
        {"level": LEVELS, "lat": np.linspace(-75, 75, 6), "lon": np.arange(0, 360, 30.0)},
    )


def scores(**dims: object) -> xr.Dataset:
    sizes = [len(np.atleast_1d(v)) for v in dims.values()]
    return of(" ".join(["score", *dims]), 1, *sizes, score=["rmse"], **dims)


PANEL = [Panel("x", "x", "field", xr.DataArray(np.arange(4.0)))]
HOURS = np.arange(0, 25, 12) * np.timedelta64(1, "h")
LEADS = {"lead_time": HOURS}
# name -> figure, and what stands at its axes: labels of all panels must match one of these
FIGURES: dict[str, tuple[Callable[[], object], str, str]] = {
    "map": (lambda: plot.map_panels(state(), "t", level=500, truth=state(1),
                                    background=state(2)), r"K", r""),
    "scorecard": (lambda: plot.scorecard({"a": scores(), "b": scores()}, reference="a"),
                  r"RMSE / that of a|", r"variable, level \(hPa\)|"),
    "profiles": (lambda: plot.profiles({"a": scores()}), r"RMSE \(K\)", r"pressure \(hPa\)"),
    "spectra": (lambda: plot.spectra({"a": of("wavenumber", 5, wavenumber=range(5),
                                              units="(K)^2")}),
                r"zonal wavenumber", r"variance \(K²\)"),
    "lead times": (lambda: plot.lead_time_curves({"a": scores(**LEADS)}),
                   r"lead time \(h\)", r"RMSE \(K\)"),
    "lead-time loss": (lambda: plot.lead_time_loss({"a": {45: of("lead_time", 3, **LEADS)}},
                                                   lead_time=24.0),
                       r"observed columns", r"loss at 24 h \(h\)"),
    "spread and error": (lambda: plot.spread_error(
        of("quantity bin", 2, 4, quantity=["spread", "error"])),
        r"spread \(K\)", r"error \(K\)"),
    "ranks": (lambda: plot.rank_histogram(of("rank", 4, rank=[1, 2, 3, 4])),
              r"rank", r"frequency / flat"),
}  # fmt: skip
every_figure = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture(scope="module")
def figures() -> dict[str, object]:
    return {name: make() for name, (make, _, _) in FIGURES.items()}


@every_figure
def test_axes_have_labels_with_units(name: str, figures: dict) -> None:
    """Of panels side by side, the first of a row may speak for the others."""
    _, x_label, y_label = FIGURES[name]
    for ax in figures[name].axes:
        if hasattr(ax, "projection"):
            continue  # a map: its colour bar has the unit
        spec = ax.get_subplotspec()
        first = spec is None or spec.is_first_col()
        assert re.fullmatch(x_label, ax.get_xlabel()), ax.get_title()
        colour_bar = ax.get_label() == "<colorbar>"
        if first and not colour_bar:
            assert re.fullmatch(y_label, ax.get_ylabel()), ax.get_title()


@every_figure
def test_text_is_legible_and_does_not_overlap(name: str, figures: dict) -> None:
    """No text below 7 points; titles and labels of the panels stay apart."""
    figure = figures[name]
    figure.draw_without_rendering()  # runs the layout
    boxes = []
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_text().strip() and text.get_visible():
            assert text.get_fontsize() >= 7, text.get_text()
    for ax in figure.axes:
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            if text.get_text():
                boxes.append((text.get_text(), text.get_window_extent()))
    for i, (one, box) in enumerate(boxes):
        for other, second in boxes[i + 1 :]:
            assert not box.overlaps(second), f"{one!r} over {other!r}"


@every_figure
def test_nothing_is_cut_off(name: str, figures: dict) -> None:
    figure = figures[name]
    figure.draw_without_rendering()  # runs the layout
    tight = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert tight.x0 > -0.02 and tight.y0 > -0.02
    assert tight.x1 < width + 0.02 and tight.y1 < height + 0.02
    assert (tight.x1 - tight.x0) > 0.85 * width  # and nothing is wasted


def test_vector_files_keep_text(figures: dict, tmp_path: Path) -> None:
    """Journals edit text: TrueType in PDF (not Type 3), <text> in SVG."""
    plot.save(figures["map"], tmp_path / "map.svg")
    svg = (tmp_path / "map.svg").read_text(encoding="utf-8")
    assert ">K</text>" in svg and svg.count("<image") >= 1  # the field is a picture
    plot.save(figures["profiles"], tmp_path / "profiles.pdf")
    pdf = (tmp_path / "profiles.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Subtype /Type3" not in pdf


def lightness(cmap: str) -> np.ndarray:
    """CIE L* along a colour map (IEC 61966-2-1, D65)."""
    rgb = matplotlib.colormaps[cmap](np.linspace(0.02, 0.98, 49))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


@pytest.mark.parametrize("cmap", sorted({"viridis", styles.SPREAD_COLOURS} | {
    c for c in styles.FIELD_COLOURS.values() if c != styles.SIGNED_COLOURS}))  # fmt: skip
def test_sequential_colours_keep_their_order_in_grey(cmap: str) -> None:
    steps = np.diff(lightness(cmap))
    assert (steps > 0).all() or (steps < 0).all()
    assert abs(np.ptp(lightness(cmap))) > 55


@pytest.mark.parametrize("cmap", [styles.SIGNED_COLOURS, styles.DIFFERENCE_COLOURS])
def test_diverging_colours_are_lightest_at_zero(cmap: str) -> None:
    light = lightness(cmap)
    assert light.argmax() == pytest.approx(24, abs=1)
    assert (np.diff(light[:24]) > 0).all() and (np.diff(light[25:]) < 0).all()


def test_every_variable_has_such_a_map() -> None:
    for name in styles.FIELD_COLOURS:
        assert scale_of("field", PANEL, name).cmap == styles.FIELD_COLOURS[name]
    assert scale_of("field", PANEL, "geopotential").cmap == "viridis"
