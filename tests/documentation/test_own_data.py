"""The page "Use your own data" is run as it stands, on the real files that it describes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import xarray as xr
from places import DOCS

PAGE = "how-to/own-data.md"
FILES = {
    "forecast.grib": "data/grids/t2m_grib_older.grib",
    "observations.bufr": "data/bufr/obs_3day.bufr",
}

pytestmark = pytest.mark.long  # a whole analysis, compiled anew


def test_the_page_runs_on_real_files_and_its_numbers_are_right(
    shared: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cfgrib", exc_type=ImportError, reason="the extra `obs` is not installed")
    pytest.importorskip("earth2bufr", reason="the extra `obs` is not installed")
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    for name, real in FILES.items():
        (tmp_path / name).write_bytes(shared(real).read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        exec(code, names)

    # what the text says of the two files
    assert "45 reports" in text
    assert int((names["obs"]["variable"] == "2m_temperature").sum()) == 45
    assert names["analysis"].attrs["xdiffda_model"] == "reference"
    scores = names["scores"].sel(variable="2m_temperature")
    assert f"{int(scores['n_station'])} withheld stations" in text
    for row, score in (("background", "background_misfit"), ("analysis", "analysis_misfit")):
        shown = re.search(rf"^\| {row}\b[^|]*\| ([\d.]+) \|$", text, re.M)
        assert shown is not None
        assert float(scores[score]) == pytest.approx(float(shown[1]), abs=0.02)
    # the box is drawn alone, although it lies across the first meridian
    west, east, _, _ = names["figure"].axes[0].get_extent(plt_crs())
    assert -40 < west < east < 50
    with xr.open_dataset("analysis.nc") as written:
        assert written["t2m" if "t2m" in written else "2m_temperature"].sizes["member"] == 8
    plt.close("all")


def plt_crs() -> Any:
    import cartopy.crs as ccrs

    return ccrs.PlateCarree()
