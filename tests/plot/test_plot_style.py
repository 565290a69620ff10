"""Figures for papers: units at every axis, legible text, ordered colours, fonts that stay text."""

from __future__ import annotations

import functools
import itertools
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgba_array

from xdiffda import plot
from xdiffda.plot import styles
from xdiffda.plot.panels import Panel, scale_of

LEVELS = [500, 850]
K = {"units": "K"}


def of(dims: str, *sizes: int, units: str = "K", **coords: object) -> xr.Dataset:
    values = np.random.default_rng(0).uniform(1, 2, (*sizes, 2))
    return xr.Dataset(
        {"temperature": ((*dims.split(), "level"), values, {"units": units})},
        {"level": LEVELS, **coords},
    )


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


def by_probability() -> xr.Dataset:
    """As `xdiffda.verify.reliability` returns it."""
    frequency = of("probability", 3, probability=[0.0, 0.5, 1.0], units="1") / 2
    parts = {
        "share": frequency["temperature"] / 3,
        "threshold": frequency["temperature"][0],
        "brier": frequency["temperature"][:1].rename(probability="term"),
    }
    parts["brier"] = parts["brier"].assign_coords(term=["fair"])
    return frequency.assign({f"temperature_{k}": f.assign_attrs(K) for k, f in parts.items()})


def departures() -> xr.Dataset:
    """As `xdiffda.verify.equivalents` returns it."""
    names = ["temperature", "2m_temperature"] * 50
    values = np.random.default_rng(0).uniform(1, 2, (3, 100))
    fields = dict(zip(("value", "equivalent", "error_std"), values, strict=True))
    return xr.Dataset({n: ("obs", f) for n, f in fields.items()}, {"variable": ("obs", names)})


@functools.cache
def training_log() -> Path:
    path = Path(tempfile.mkdtemp()) / "log.csv"
    rows = [f"{step},{1 / (1 + step)},{2 / (1 + step)},1" for step in range(0, 100, 10)]
    path.write_text("\n".join(["step,train_loss,validation_loss,seconds", *rows]))
    return path


PANEL = [Panel("x", "x", "field", xr.DataArray(np.arange(4.0)))]
HOURS = np.arange(0, 25, 12) * np.timedelta64(1, "h")
LEADS = {"lead_time": HOURS}
# name -> figure, and what stands at its axes: labels of all panels must match one of these
FIGURES: dict[str, tuple[Callable[[], object], str, str]] = {
    "map": (
        lambda: plot.map_panels(state(), "t", level=500, truth=state(1), background=state(2)),
        r"K",
        r"",
    ),
    "scorecard": (
        lambda: plot.scorecard({"a": scores(), "b": scores()}, reference="a"),
        r"RMSE / that of a|",
        r"variable, level \(hPa\)|",
    ),
    "profiles": (lambda: plot.profiles({"a": scores()}), r"RMSE \(K\)", r"pressure \(hPa\)"),
    "spectra": (
        lambda: plot.spectra({"a": of("wavenumber", 5, wavenumber=range(5), units="(K)^2")}),
        r"zonal wavenumber",
        r"variance \(K²\)",
    ),
    "lead times": (
        lambda: plot.lead_time_curves({"a": scores(**LEADS)}),
        r"lead time \(h\)",
        r"RMSE \(K\)",
    ),
    "lead-time loss": (
        lambda: plot.lead_time_loss({"a": {45: of("lead_time", 3, **LEADS)}}, lead_time=24.0),
        r"observed columns",
        r"loss at 24 h \(h\)",
    ),
    "spread and error": (
        lambda: plot.spread_error(of("quantity bin", 2, 4, quantity=["spread", "error"])),
        r"spread \(K\)",
        r"error \(K\)",
    ),
    "ranks": (
        lambda: plot.rank_histogram(of("rank", 4, rank=[1, 2, 3, 4])),
        r"rank",
        r"frequency / flat",
    ),
    "reliability": (
        lambda: plot.reliability({"a": by_probability(), "b": by_probability()}),
        r"",
        r"observed frequency",
    ),  # the probability stands below, at the shares
    "columns": (
        lambda: plot.error_against_columns(
            {m: {45: scores(), 416: scores()} for m in "ab"},
            background=scores(),
            forecasts=scores(**LEADS),
        ),
        r"observed columns",
        r"RMSE \(K\)",
    ),
    "error maps": (
        lambda: plot.error_maps({"a": state(1), "b": state(2)}, state(), "t", level=500),
        r"K",
        r"",
    ),
    "innovations": (
        lambda: plot.innovation_histogram({"a": departures(), "b": departures()}),
        r"\(y - H x\) / error_std",
        r"density",
    ),
    "training": (
        lambda: plot.loss_curves({"a": training_log(), "b": training_log()}),
        r"step",
        r"loss",
    ),
}
NO_FIGURE = {"add_coastline", "coastline_lines", "save", "style"}
every_figure = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture(scope="module")
def figures() -> dict[str, object]:
    return {name: make() for name, (make, _, _) in FIGURES.items()}


def test_every_public_figure_is_looked_at() -> None:
    drawn = {name for make, _, _ in FIGURES.values() for name in make.__code__.co_names}
    public = {name for name in plot.__all__ if name.islower()}
    assert public - drawn == NO_FIGURE


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
    share = 0.7 if name == "reliability" else 0.85  # a square above its inset: narrower
    assert (tight.x1 - tight.x0) > share * width  # and nothing is wasted


def test_vector_files_keep_text(figures: dict, tmp_path: Path) -> None:
    """Journals edit text: TrueType in PDF (not Type 3), <text> in SVG."""
    plot.save(figures["map"], tmp_path / "map.svg")
    svg = (tmp_path / "map.svg").read_text(encoding="utf-8")
    assert ">K</text>" in svg and svg.count("<image") >= 1  # the field is a picture
    plot.save(figures["profiles"], tmp_path / "profiles.pdf")
    pdf = (tmp_path / "profiles.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Subtype /Type3" not in pdf


# linear RGB as seen without one kind of cone: Machado, Oliveira & Fernandes (2009), severity 1
SEEN_BY = {
    "all": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(rgb: np.ndarray, seen: np.ndarray = SEEN_BY["all"]) -> np.ndarray:
    """CIELAB of colours (IEC 61966-2-1, D65), as they are seen."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ seen.T, 0, 1) @ XYZ.T / XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (xyz * 24389 / 27 + 16) / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def closest(colours: Sequence[str], vision: str) -> float:
    """Distance in CIELAB of the two colours that look most alike."""
    found = lab(to_rgba_array(colours)[:, :3], SEEN_BY[vision])
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize("vision", SEEN_BY)
def test_colours_of_lines_are_told_apart(vision: str) -> None:
    """About 2 can just be seen side by side; lines lie apart, and are thin."""
    np.testing.assert_allclose(SEEN_BY[vision].sum(1), 1, atol=2e-6)  # grey stays grey
    assert closest(styles.COLOURS, vision) > 15
    usual = closest(matplotlib.color_sequences["tab10"][:7], vision)
    assert (usual > 15) == (vision == "all")  # matplotlib's own would not do


def lightness(cmap: str) -> np.ndarray:
    """CIE L* along a colour map."""
    return lab(matplotlib.colormaps[cmap](np.linspace(0.02, 0.98, 49))[:, :3])[:, 0]


@pytest.mark.parametrize(
    "cmap",
    sorted(
        {"viridis", styles.SPREAD_COLOURS}
        | {c for c in styles.FIELD_COLOURS.values() if c != styles.SIGNED_COLOURS}
    ),
)
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


def test_a_method_looks_the_same_in_every_figure():
    """Whatever stands beside it; methods of one name in one figure are told apart, as are all."""
    few = plot.lead_time_curves({"3D-Var": scores(**LEADS), "guided": scores(**LEADS)})
    many = plot.spectra(
        {
            n: of("zonal_wavenumber", 5, zonal_wavenumber=np.arange(5))
            for n in ("a", "background", "RePaint, mask 0.1", "guided", "3D-Var")
        }
    )
    looks = [
        {line.get_label(): line.get_color() for line in figure.axes[0].lines}
        for figure in (few, many)
    ]
    assert looks[0]["guided"] == looks[1]["guided"] != looks[0]["3D-Var"] == looks[1]["3D-Var"]
    assert len(set(looks[1].values())) == 5
    both = styles.lines(["guided, FGAT", "guided, 4D", "guidedness", "OI"])
    assert len({str(look) for look in both.values()}) == 4 and both["OI"] == styles.line(3)
    assert len({str(look) for look in styles.lines(map(str, range(20))).values()}) == 20
