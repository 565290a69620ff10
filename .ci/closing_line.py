"""Print the closing line of several runs of pytest as one: `closing_line.py LOG LOG ...`.

A log without such a line, of a run that broke off, counts as one error. Standard library only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

COUNTED = ("failed", "passed", "skipped", "xfailed", "xpassed", "warnings", "error")
LINE = re.compile(r"^=* ?((?:\d+ [a-z]+, )*\d+ [a-z]+) in ([\d.]+)s(?: \([\d:]+\))? ?=*$")


def closing_line(logs: list[str]) -> str:
    """Sums of what the logs' last lines count; deselected tests are those of another run."""
    total, seconds = dict.fromkeys(COUNTED, 0), 0.0
    for log in logs:
        found = LINE.match((log.rstrip().splitlines() or [""])[-1])
        if found is None:
            total["error"] += 1
            continue
        seconds += float(found[2])
        for number, what in (entry.split() for entry in found[1].split(", ")):
            for name in COUNTED:
                if what.rstrip("s") == name.rstrip("s"):
                    total[name] += int(number)
    said = [_entry(name, number) for name, number in total.items() if number]
    minutes, rest = divmod(int(seconds), 60)
    clock = f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    return f"{', '.join(said) or 'no tests ran'} in {seconds:.2f}s ({clock})"


def _entry(name: str, number: int) -> str:
    if name in ("warnings", "error"):
        name = name.rstrip("s") + "s" * (number > 1)
    return f"{number} {name}"


if __name__ == "__main__":
    print(closing_line([Path(name).read_text(encoding="utf-8") for name in sys.argv[1:]]))
