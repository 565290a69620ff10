"""The settings of JAX that public calls run under, whatever those of the user are.

Members follow from the seed alone: precision, the generator of random numbers and its layout are
ours, as the weights and the documented numbers are. Checks that raise (promotion, transfers, NaN)
are meant for the code of who set them; ours mixes ranks and marks missing values with NaN. What
changes speed or accuracy on purpose (devices, precision of matrix products, compilation) stays
the user's. Imports no jax: the package is to be light, and a fork before jax is loaded is safe.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from xdiffda.errors import XdiffdaError

Given = ParamSpec("Given")
Result = TypeVar("Result")

_forked_with_jax = False


def _jax_runs() -> bool:
    """Return whether jax's threads run in this process, without starting them."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", lambda: True)
    return bridge is not None and started()


def _remember() -> None:
    """Mark a forked child: its copy of a running jax has no threads and would wait forever."""
    global _forked_with_jax
    _forked_with_jax = _forked_with_jax or _jax_runs()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember)


@contextlib.contextmanager
def own_jax(*, double: bool = False) -> Iterator[None]:
    """Run with the settings of jax that the package was made and measured with.

    They hold in this thread, and end with the block. ``double`` is for networks that were asked for
    ``dtype="float64"``: without it JAX would give them single precision in silence.

    Raises
    ------
    XdiffdaError
        In a process that was forked from one in which jax ran, or that shifts all seeds.

    Examples
    --------
    >>> import jax
    >>> with jax.enable_x64(True), own_jax():
    ...     print(jax.numpy.ones(1).dtype)
    float32
    """
    if _forked_with_jax:
        raise XdiffdaError(
            "this process was forked from one in which JAX was already running, and JAX would "
            "wait forever here. Start processes anew instead of forking them, with "
            "multiprocessing.get_context('spawn') or ProcessPoolExecutor(mp_context=that), or "
            "fork before the first call that computes."
        )
    import jax

    if offset := jax.config.jax_random_seed_offset:  # pyright: ignore[reportAttributeAccessIssue]
        raise XdiffdaError(
            f"JAX_RANDOM_SEED_OFFSET is {offset}: with an offset a seed draws other members than "
            "without, so that analyses could not be reproduced. It can only be reset for the whole "
            "process: jax.config.update('jax_random_seed_offset', 0)."
        )
    with (
        jax.enable_x64(double),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.debug_key_reuse(False),
    ):
        yield


def with_own_jax(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let calls of a public function run in `own_jax`.

    Examples
    --------
    >>> import jax
    >>> with jax.enable_x64(True):
    ...     print(with_own_jax(jax.numpy.ones)(1).dtype)
    float32
    """

    @functools.wraps(function)
    def wrapped(*args: Given.args, **settings: Given.kwargs) -> Result:
        with own_jax(double=bool(args) and _is_double(args[0])):
            return function(*args, **settings)

    return wrapped


def _is_double(owner: Any) -> bool:
    """Whether a call belongs to a network that was asked to compute in double precision."""
    config = getattr(getattr(owner, "net", owner), "config", None)
    return getattr(config, "dtype", None) == "float64"
