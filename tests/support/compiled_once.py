"""Small worlds cost compilation and hardly any computing: compile nothing twice in one run,
whichever process asks for it, and make fast code only where it pays (`optimised`).

To be imported before jax: it sets the environment, which workers and programs under test inherit.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# of the 65,530 that Linux allows a process; a small program takes about six
MAPPINGS = 30_000
FOLDER = "XDIFFDA_TESTS_COMPILED"
FIRST = FOLDER not in os.environ
if FIRST:
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="xdiffda-tests-compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ[FOLDER]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def forget() -> None:
    """What the run compiled goes with its first process."""
    if FIRST:
        shutil.rmtree(os.environ[FOLDER], ignore_errors=True)


def drop_when_many() -> None:
    """Compiled programs leave this process, not the folder, before it runs out of mappings.

    Not earlier: to forget takes half a second, and to load a program again as long as to make it.
    """
    if "jax" in sys.modules and mappings() > MAPPINGS:
        sys.modules["jax"].clear_caches()


def mappings() -> int:
    """Pieces of memory that the system keeps for this process; none where it does not say."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@contextmanager
def optimised() -> Iterator[None]:
    """Code as users run it, in this process and in those it starts."""
    import jax

    name = "jax_disable_most_optimizations"
    before, environment = jax.config.read(name), os.environ.pop(name.upper(), None)
    jax.config.update(name, False)
    jax.clear_caches()  # nothing made in the other way is taken for this one, nor later
    try:
        yield
    finally:
        jax.config.update(name, before)
        jax.clear_caches()
        if environment is not None:
            os.environ[name.upper()] = environment
