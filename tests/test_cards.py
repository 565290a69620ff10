"""Cards of notebooks: what they say, that they are safe, and that they read no data."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.accessor import describe
from xdiffda.formatting import BAD, GOOD, Row, card, model_card
from xdiffda.state.grid import Grid, Layout


class Balanced(HTMLParser):
    """Text of a card; fails where a tag is not closed."""

    VOID = ("circle", "rect", "path")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def words(html: str) -> str:
    return re.sub(r"\s+", " ", Balanced(html).text)


@pytest.fixture(scope="module")
def background() -> xr.Dataset:
    return xdiffda.open_sample("background").isel(time=slice(0, 2))


def test_card_of_a_state(background: xr.Dataset, no_compute: None) -> None:
    text = words(background.diffda._repr_html_())
    assert text.startswith("State time: 2, ")
    assert "Grid 32 x 64" in text and "Levels (hPa) 100, 200, 300, 500, 700, 850, 925" in text
    assert "K: 2m_temperature, temperature" in text and "Pa: mean_sea_level_pressure" in text
    assert "2012-12-21 06:00 to 2012-12-21 12:00 UTC (2)" in text
    assert "Model speedy ✓ can take it" in text


def test_card_of_a_state_that_does_not_fit(background: xr.Dataset) -> None:
    html = background.drop_vars("temperature").diffda._repr_html_()
    assert '<span class="bad">' in html and "missing temperature" in words(html)
    html = xr.Dataset({"price": ("shop", [1.0])}).diffda._repr_html_()
    assert "Not a state" in words(html) and "needed" in words(html)


def test_card_of_an_analysis(background: xr.Dataset) -> None:
    made = background.assign_attrs(
        xdiffda_method="guided",
        xdiffda_model="speedy",
        xdiffda_seed=3,
        xdiffda_network_evaluations=8,
        xdiffda_observations_used=[1480, 1500],
        xdiffda_observations_rejected='[{"late (6 h)": 3}, {"late (12 h)": 4, "NaN": 1}]',
        xdiffda_background_error=[1.01, 0.98],
    )
    text = words(made.diffda._repr_html_())
    assert text.startswith("Analysis ")
    for part in (
        "Method guided, model speedy",
        "Seed 3",
        "Evaluations 8",
        "Obs used 1,480 to 1,500 at each of 2 times",
        "Obs rejected 7 late, 1 NaN",
        "0.98 to 1.01 at each",
    ):
        assert part in text
    assert "Method:       guided, model speedy" in repr(made.diffda)


def test_an_analysis_from_a_file_says_the_same(background: xr.Dataset, tmp_path) -> None:
    made = background.load().assign_attrs(
        xdiffda_method="guided", xdiffda_observations_used=[5], xdiffda_observations_rejected="[{}]"
    )
    made.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as again:
        assert "Obs used 5 Obs rejected none" in words(again.diffda._repr_html_())
        assert describe(again) == describe(made)


def test_card_of_observations_has_a_map() -> None:
    truth = xdiffda.open_sample("truth").isel(time=0).load()
    obs = truth.diffda.emulate_obs(n_columns=7, seed=0)
    html = obs.diffda._repr_html_()
    assert html.count("<circle") == 7
    assert "Observations" in words(html)
    x, y = re.search(r'cx="([\d.]+)" cy="([\d.]+)"', html).groups()
    sites = np.stack([(obs.lon.values + 180) % 360, 90 - obs.lat.values], -1)
    assert abs(sites - [float(x), float(y)]).sum(-1).min() < 0.2
    assert len(html) < 40_000


def test_text_from_files_is_escaped() -> None:
    html = card("<script>", "&", [Row("<i>", "<b>x</b>"), Row("a", "no", BAD), Row("b", "y", GOOD)])
    assert "<script>" not in html and "<b>x</b>" not in html
    assert words(html).startswith("<script> & <i> <b>x</b>")


def test_colours_come_from_the_notebook() -> None:
    """Dark or light: text has the notebook's own colours, verdicts are legible on both."""
    html = card("a", "b", [])
    assert "--xr-font-color0" in html and "--jp-content-font-color0" in html
    assert not re.search(r"[;{]color:#(000|fff)", html)


def test_model_card() -> None:
    layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("temperature",), (500,))
    stored = {"title": "a model", "parameters": 987589, "licence": "Apache-2.0"}
    text = words(model_card("tiny", layout, stored))
    assert text.startswith("Model tiny a model")
    assert "Parameters 987,589" in text and "Licence Apache-2.0" in text and "Channels 1" in text
    from xdiffda.priors.prior import Prior

    shown = Prior._repr_html_(SimpleNamespace(name="tiny", layout=layout, card=None))
    assert "Grid 2 x 3" in words(shown)


def test_models_are_listed() -> None:
    models = xdiffda.models()
    assert "speedy" in words(models.diffda._repr_html_())
    assert "GraphCast denoiser on the SPEEDY testbed" in repr(models.diffda)
