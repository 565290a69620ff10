"""The examples of all docstrings run, those that load the model and assimilate as well."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from typing import Any

import pytest
from places import ROOT

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
NUMBER = re.compile(r"(?<![\w.])-?\d+\.(\d*)(?:e[+-]?\d+)?(?![\w.])")


class Checker(doctest.OutputChecker):
    """Compare floats to the precision in which they are written: float32 differs by machine."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        shown, found = list(NUMBER.finditer(want)), list(NUMBER.finditer(got))
        if not shown or len(shown) != len(found):
            return False
        near = [
            abs(float(a[0]) - float(b[0])) <= 10.0 ** -len(a[1])
            for a, b in zip(shown, found, strict=True)
            if "e" not in a[0]
        ]
        around = NUMBER.sub("#", want), NUMBER.sub("#", got)
        return all(near) and len(near) == len(shown) and super().check_output(*around, optionflags)


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
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=OPTIONS)
    runner.run(parsed, out=complaints.append)
    return "".join(complaints)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run(name: str) -> None:
    text, line = EXAMPLES[name]
    file = name.partition("::")[0]
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("xdiffda"):
            raise
        pytest.skip(f"needs {error.name}, which is not installed")
    complaints = run_examples(text, name, dict(vars(home)), file, line)
    assert not complaints, complaints


def test_examples_are_found() -> None:
    assert len(EXAMPLES) > 100
    assert "xdiffda/assimilation/assimilate.py::assimilate" in EXAMPLES


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("1 + 1\n3", True),
        ("1 / 3\n0.33", False),
        ("1 / 3\n0.31", True),
        ("[0.5, 1]\n[0.5]", True),
        ("'a', 0.1\n('b', 0.1)", True),
        ("-0.0\n0.0", False),
        ("1e-9\n2e-9", True),
    ],
)
def test_a_wrong_example_is_found(code: str, wrong: bool) -> None:
    assert bool(run_examples(f">>> {code}\n", "example", {})) == wrong
