"""Print the size of the package in nodes of its syntax tree, which no formatter can change.

    python tests/benchmarks/size.py [--rooms]

Statements are all nodes of kind `ast.stmt`, docstrings among them; functions are ``def`` and
``async def``, wherever they stand, without lambdas.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "xdiffda"


def count(path: Path) -> Counter[str]:
    """Files, statements, functions and lambdas of one file."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return Counter(
        files=1,
        statements=sum(isinstance(node, ast.stmt) for node in nodes),
        functions=sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in nodes),
        lambdas=sum(isinstance(node, ast.Lambda) for node in nodes),
    )


def main() -> None:
    """Print a table, on request with one row for each folder of the package's root."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rooms", action="store_true", help="each folder too")
    with_rooms = parser.parse_args().rooms
    rooms: dict[str, Counter[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        first, *rest = path.relative_to(PACKAGE).parts
        rooms.setdefault(first if rest else ".", Counter()).update(count(path))
    total = sum(rooms.values(), Counter())
    columns = ("files", "statements", "functions", "lambdas")
    print(f"{'':16}" + "".join(f"{name:>12}" for name in columns))
    for name, counts in {**(rooms if with_rooms else {}), "xdiffda": total}.items():
        print(f"{name:16}" + "".join(f"{counts[column]:12,}" for column in columns))


if __name__ == "__main__":
    main()
