"""The last line of `.ci/run` counts what every run of pytest counted, and what broke off."""

from __future__ import annotations

import importlib.util

import pytest
from places import ROOT

SCRIPT = ROOT / ".ci" / "closing_line.py"
if not SCRIPT.exists():
    pytest.skip("not a checkout: no .ci beside tests/", allow_module_level=True)
spec = importlib.util.spec_from_file_location("closing_line", SCRIPT)
assert spec and spec.loader
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

QUICK = "....\n2400 passed, 2 skipped, 90 deselected, 3 warnings in 430.50s (0:07:10)\n"
LONG = (
    "...\n1 failed, 88 passed, 1 skipped, 2402 deselected, 1 warning, 1 error in 600.00s (0:10:00)"
)


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        ([QUICK], "2400 passed, 2 skipped, 3 warnings in 430.50s (0:07:10)"),
        (
            [QUICK, LONG],
            "1 failed, 2488 passed, 3 skipped, 4 warnings, 1 error in 1030.50s (0:17:10)",
        ),
        ([QUICK, "Fatal Python error\n"], "2400 passed, 2 skipped, 3 warnings, 1 error in 430.50s"),
        ([QUICK, ""], "2400 passed, 2 skipped, 3 warnings, 1 error in 430.50s"),
    ],
)
def test_runs_are_added_and_what_broke_off_is_an_error(logs: list[str], line: str) -> None:
    assert module.closing_line(logs).startswith(line)
