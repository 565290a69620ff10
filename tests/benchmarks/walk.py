"""Print how far `assimilate(obs)` walks through the package, frame by frame.

    PYTHONPATH=. python tests/benchmarks/walk.py [--frames]

`sys.setprofile` sees each call of a Python function of the package, during one analysis of the
sample whose networks are traced anew: a first call imports and loads everything, then compiled
programs are dropped. A move is a call whose function stands in another file than the function
below it on the stack (frames of other packages, JAX among them, are passed over). Functions are
distinct code objects, lambdas and comprehensions among them. Bodies of modules and classes are no
calls.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# what is traced does not depend on how it is compiled
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

import xdiffda

ROOT = f"{Path(xdiffda.__file__).parent}{os.sep}"
SAMPLER, NETWORK = "dpm_solver", "GraphCast.__call__"  # the ends of the way to the network


class Walk:
    """Calls within the package, as a profile function."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.moves = 0
        self.stack: list[CodeType] = []
        self.deepest: list[CodeType] = []
        self.between: list[CodeType] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        # a body of a module or a class has no local variables of its own
        if not (code.co_filename.startswith(ROOT) and code.co_flags & 0x2):
            return
        if event == "return":
            if self.stack:
                self.stack.pop()
        elif event == "call":
            self.codes.add(code)
            self.moves += bool(self.stack) and self.stack[-1].co_filename != code.co_filename
            self.stack.append(code)
            if len(self.stack) > len(self.deepest):
                self.deepest = list(self.stack)
            names = [one.co_qualname for one in self.stack]
            if names[-1] == NETWORK and SAMPLER in names:
                self.between = self.stack[names.index(SAMPLER) + 1 : -1]

    @property
    def files(self) -> set[str]:
        """Files in which a function was called."""
        return {code.co_filename for code in self.codes}


def walk() -> Walk:
    """Trace one analysis of the sample."""
    truth, background = (
        xdiffda.open_sample(name).isel(time=0).load() for name in ("truth", "background")
    )
    obs = truth.diffda.emulate_obs(fraction=0.0097, error_std="default", seed=0)
    background.diffda.assimilate(obs, progress=False)
    jax.clear_caches()
    found = Walk()
    sys.setprofile(found)
    try:
        background.diffda.assimilate(obs, progress=False)
    finally:
        sys.setprofile(None)
    return found


def main() -> None:
    """Trace and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", action="store_true", help="the deepest stack, frame by frame")
    with_frames = parser.parse_args().frames
    found = walk()
    rows = {
        "files": len(found.files),
        "functions": len(found.codes),
        "moves between files": found.moves,
        "calls deep": len(found.deepest),
        "frames between sampler and network": len(found.between),
    }
    for name, number in rows.items():
        print(f"{name:36}{number:6,}")
    if with_frames:
        for code in found.deepest:
            print(f"    {code.co_filename.removeprefix(ROOT):32}{code.co_qualname}")


if __name__ == "__main__":
    main()
