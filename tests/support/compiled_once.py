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


def drop() -> None:
    """Compiled programs leave this process (Linux allows it 65,530 mappings), not the folder."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@contextmanager
def optimised() -> Iterator[None]:
    """Code as users run it, in this process and in those it starts."""
    import jax

    name = "jax_disable_most_optimizations"
    before, environment = jax.config.read(name), os.environ.pop(name.upper(), None)
    jax.config.update(name, False)
    try:
        yield
    finally:
        jax.config.update(name, before)
        if environment is not None:
            os.environ[name.upper()] = environment
