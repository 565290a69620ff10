"""The examples of all docstrings run.

Those that load the model, assimilate or run a cycle are slow and left out, unless
``XDIFFDA_SLOW_EXAMPLES=1``.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
SLOW = {
    "xdiffda/_stream.py::emulated_stream",
    "xdiffda/analysis.py::assimilate",
    "xdiffda/calibration.py::simulation_based_calibration",
    "xdiffda/cycle.py::cycle",
    "xdiffda/forecast.py::forecast",
    "xdiffda/registry.py::load_model",
}
SLOW_WORDS = ("load_model(", ".assimilate(", "cycle(", "forecast(", "explore(", "calibration(")


def examples() -> dict[str, tuple[str, int]]:
    """Docstrings with examples by ``file::qualified name``, read without importing anything."""
    found: dict[str, tuple[str, int]] = {}

    def visit(node: Any, file: str, outer: tuple[str, ...]) -> None:
        text = ast.get_docstring(node, clean=True)
        if text and ">>>" in text:
            found["::".join((file, ".".join(outer) or "module"))] = text, node.body[0].lineno
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                visit(child, file, (*outer, child.name))

    for path in sorted((ROOT / "xdiffda").rglob("*.py")):
        visit(ast.parse(path.read_text()), path.relative_to(ROOT).as_posix(), ())
    return found


EXAMPLES = examples()


def run_examples(text: str, name: str, names: dict[str, Any], file: str = "", line: int = 0) -> str:
    """What a doctest of ``text`` has to complain about."""
    parsed = doctest.DocTestParser().get_doctest(text, names, name, file, line)
    complaints: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=OPTIONS).run(parsed, out=complaints.append)
    return "".join(complaints)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run(name: str) -> None:
    if name in SLOW and not os.environ.get("XDIFFDA_SLOW_EXAMPLES"):
        pytest.skip("slow: XDIFFDA_SLOW_EXAMPLES=1 runs it")
    file = name.partition("::")[0]
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("xdiffda"):
            raise
        pytest.skip(f"needs {error.name}, which is not installed")
    text, line = EXAMPLES[name]
    complaints = run_examples(text, name, dict(vars(home)), file, line)
    assert not complaints, complaints


def test_examples_are_found_and_slow_ones_are_known() -> None:
    assert len(EXAMPLES) > 100
    assert set(EXAMPLES) >= SLOW
    code = {
        name: " ".join(e.source for e in doctest.DocTestParser().get_examples(text))
        for name, (text, _) in EXAMPLES.items()
    }
    assert [n for n in code if n not in SLOW and any(w in code[n] for w in SLOW_WORDS)] == []


def test_a_wrong_example_is_found() -> None:
    assert "Expected" in run_examples(">>> 1 + 1\n3\n", "wrong", {})
