"""Every tutorial runs from top to bottom as it stands, in a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `test` is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra `test` is not installed")

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
SECONDS = 300


def test_there_are_tutorials():
    assert [path.name for path in TUTORIALS if path.name.startswith("01")] == [
        "01-first-analysis.ipynb"
    ]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # a checkout that is not installed
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a notebook draws inline
    copy = Path(shutil.copy(path, tmp_path))
    notebook = nbformat.read(copy, as_version=4)
    for cell in notebook.cells:  # what is seen afterwards was made in this run
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises with the cell and its traceback where one fails
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    figures = [
        output for cell in code for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert figures, "a tutorial without a figure"


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_as_committed_shows_its_results(path):
    """Outputs are kept (readers see them without running), moderate, and without errors."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]
    assert path.stat().st_size < 2_000_000
    assert "/work/" not in path.read_text(encoding="utf-8")
