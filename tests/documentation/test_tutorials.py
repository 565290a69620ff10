"""Every tutorial and every notebook of an experiment runs from top to bottom, in a copy."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT

nbformat = pytest.importorskip("nbformat", reason="the extra `test` is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra `test` is not installed")

FOLDER = ROOT / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))
EXPERIMENTS = sorted(FOLDER.glob("experiments/*.ipynb"))
# of a whole notebook: a hang must end, and a busy machine is no error
SECONDS = 1800
AGAIN = "run {} again and store its outputs: the results or the code it shows have changed"

every_notebook = pytest.mark.parametrize("path", TUTORIALS + EXPERIMENTS, ids=lambda p: p.stem)
every_experiment = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)


def test_there_are_notebooks():
    assert [path.name for path in TUTORIALS if path.name.startswith("01")] == [
        "01-first-analysis.ipynb"
    ]
    assert [path.name[0] for path in EXPERIMENTS] == ["1", "2", "3", "4"]


def copied(path: Path, folder: Path) -> Path:
    """A notebook at its place below ``folder``, with the results that it may open."""
    copy = folder / path.relative_to(FOLDER)
    copy.parent.mkdir(exist_ok=True)
    if path in EXPERIMENTS:
        shutil.copytree(FOLDER / "results", folder / "results")
    return Path(shutil.copy(path, copy))


def execute(path: Path):
    """Run a notebook in its folder; what it holds afterwards was made in this run."""
    notebook = nbformat.read(path, as_version=4)
    for cell in code_of(notebook):
        cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
    )
    # raises with the cell and its traceback where one fails; ends the kernel in any case
    asyncio.run(asyncio.wait_for(client.async_execute(), SECONDS))
    return notebook


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def processor_seconds() -> float:
    """Of all child processes that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@pytest.mark.long
@every_notebook
def test_notebook_runs(
    path: Path, tmp_path: Path, monkeypatch, record_property: Callable[[str, object], None]
):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))  # a checkout that is not installed
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a notebook draws inline
    # it computes more than it compiles, and is to cost what it costs a user
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    before = processor_seconds()
    notebook = execute(copied(path, tmp_path))
    record_property("processor_seconds", processor_seconds() - before)  # conftest.py prints it
    code = code_of(notebook)
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs), (
        "a notebook without a figure"
    )
    if path in EXPERIMENTS:
        shown = nbformat.read(path, as_version=4)
        assert texts_of(notebook) == texts_of(shown), AGAIN.format(path.name)


def texts_of(notebook) -> list[str]:
    """Tables and sentences made from the results; what is run live tells its own seconds."""
    return [
        output.data["text/markdown"]
        for cell in code_of(notebook)
        if "run(" not in cell.source
        for output in cell.outputs
        if "text/markdown" in output.get("data", {})
    ]


@every_notebook
def test_notebook_as_committed_shows_its_results(path: Path):
    """Outputs are kept (readers see them without running), moderate, and without noise."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert all(not cell.metadata for cell in notebook.cells)  # no times of execution
    assert path.stat().st_size < (1_000_000 if path in EXPERIMENTS else 2_000_000)
    assert "/work/" not in path.read_text(encoding="utf-8")


@every_notebook
def test_links_between_notebooks_lead_somewhere(path: Path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    targets = re.findall(r"\]\(([^)\s#]+\.ipynb)", "\n".join(texts))
    assert [t for t in targets if not (path.parent / t).exists()] == []


@every_experiment
def test_experiment_is_one_command_and_its_numbers_are_made_by_code(path: Path):
    from xdiffda.experiments import ExperimentConfig
    from xdiffda.experiments.cycling import CyclingConfig

    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    commands = re.findall(r"^xdiffda experiment (\S+) tutorials/(\S+)$", text, re.M)
    assert commands
    for kind, config in commands:
        assert kind in {"single-step", "lead-time", "sigma-g", "cycling"}
        reader = CyclingConfig if kind == "cycling" else ExperimentConfig
        reader.read(FOLDER / config)
    prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)", "", text, flags=re.S)
    assert re.findall(r"(?<![\w.])\d+\.\d+|\d+ ?%", prose) == []
