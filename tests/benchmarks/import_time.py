"""Print how long `import xdiffda` takes, divided by `import xarray` (target: under 1.5).

    python tests/benchmarks/import_time.py

Each is imported in fresh interpreters, in turn, and the fastest of each is compared; the
start of the interpreter is taken off.
"""

from __future__ import annotations

import subprocess
import sys
import time


def seconds(statement: str) -> float:
    """Return the wall time of a fresh interpreter that runs ``statement``."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main(repeats: int = 9) -> None:
    """Measure and print."""
    statements = ("pass", "import xarray", "import xdiffda")
    rounds = [[seconds(s) for s in statements] for _ in range(repeats)]
    empty, xarray, xdiffda = (min(column) for column in zip(*rounds, strict=True))
    print(f"import xarray {1e3 * (xarray - empty):.0f} ms")
    print(f"import xdiffda {1e3 * (xdiffda - empty):.0f} ms")
    print(f"ratio {(xdiffda - empty) / (xarray - empty):.2f}")


if __name__ == "__main__":
    main()
