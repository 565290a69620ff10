"""What the page on skill tells of single channels, from files of several ages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import DOCS

PATH = DOCS / "_skill.py"
GUIDED = "guided, warm start, 8 evaluations"

if not PATH.is_file():
    pytest.skip("not a checkout: no tutorials/docs beside tests/", allow_module_level=True)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("skill_page", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("xdiffda.priors.registry.models_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "_current", lambda: "now")
    (tmp_path / "speedy").mkdir()
    return module


def write(folder: Path, name: str, weights: str = "now", **rows: dict[str, Any]) -> None:
    table = {columns[1:]: {GUIDED: row} for columns, row in rows.items()}
    report = {"weights": weights, "table": table}
    (folder / "speedy" / f"{name}.json").write_text(json.dumps(report))


def by_channel(t850: float, ps: float, **more: dict[str, float]) -> dict[str, Any]:
    each = {"temperature@850": t850, "mean_sea_level_pressure": ps}
    flat = dict.fromkeys(each, 1.0)
    return {"channel_spread_skill": each, "channel_outer_ranks": flat, **more}


def test_files_without_channels_show_nothing(page: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "skill-quarter", c45={"spread_skill": 1.0})
    assert page.skill_ensembles() == ""


def test_channels_come_from_the_table_that_has_them(page: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "skill-quarter", c45={"spread_skill": 1.0}, c1000=by_channel(0.95, 1.25))
    write(tmp_path, "required-416", "then", c416=by_channel(0.8, 0.85))
    write(tmp_path, "required-1000", c1000=by_channel(7.0, 7.0))  # the usual table goes first
    text = page.skill_ensembles()
    drawing, _, told = text.partition("</svg>")
    assert drawing.startswith("```{raw} html\n<svg") and drawing.count("columns</text>") == 2
    assert (
        "- 1,000 columns: spread / skill from 0.9 to 1.1 in 1 of 2, least 0.95 (t 850), greatest "
        "1.25 (msl); outer ranks from 0.9 to 1.1 in 2 of 2"
    ) in told
    assert "- 416 columns: spread / skill from 0.9 to 1.1 in 0 of 2" in told
    assert "weights of an earlier version** (`then`)" in told
    assert "| `temperature@850` | 0.80 | 0.95 | 1.00 | 1.00 |" in told
    assert "CRPS" not in told and "7.00" not in told and "45 columns" not in text
    # where one file has it, it has a column
    write(
        tmp_path, "required-416", c416=by_channel(0.8, 0.85, channel_crps={"temperature@850": 0.5})
    )
    told = page.skill_ensembles()
    assert "| channel | CRPS, 416 |" in told and "| `temperature@850` | 0.50 | 0.80 |" in told
    assert "| `mean_sea_level_pressure` | - | 0.85 |" in told and "earlier version" not in told
