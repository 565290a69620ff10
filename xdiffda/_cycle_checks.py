"""Single arguments of a cycled run that cannot be what they should be."""

from __future__ import annotations

import inspect
import os
from typing import Any

import numpy as np
import xarray as xr

from xdiffda._relaxation import Relaxation
from xdiffda._times import width_of
from xdiffda.errors import Problem

CARRY = ("mean", "ensemble")


def plain_problems(
    *, n_cycles: object, n_members: object, carry: object, cycle_length: object, seed: object,
    line: str = "cycle(..., {name}={value})",
) -> list[Problem]:  # fmt: skip
    """What is wrong with single values; ``line`` shows how one is written."""

    def problem(name: str, value: object, needed: str, better: str) -> Problem:
        return Problem(f"{name}={value!r}", needed, line.format(name=name, value=better))

    problems = []
    for name, value, least in (
        ("n_cycles", n_cycles, 1), ("n_members", n_members, 1), ("seed", seed, 0),
    ):  # fmt: skip
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:  # pyright: ignore[reportOperatorIssue]
            needed = f"a whole number of {least} or more"
            problems.append(problem(name, value, needed, str({"n_cycles": 20}.get(name, least))))
    if carry not in CARRY:
        problems.append(problem("carry", carry, f"one of {', '.join(CARRY)}", '"mean"'))
    length = seconds(cycle_length)
    if not (length > 0 and length == int(length)):
        problems.append(problem("cycle_length", cycle_length, "a positive length", '"6h"'))
    return problems


def kind_problems(
    *, out: object, forecaster: object, truth: object, relaxation: object
) -> list[Problem]:
    """Arguments of `cycle` that are not at all of the kind they should be."""
    problems = []
    if not isinstance(out, str | os.PathLike) or not str(out).strip():
        problems.append(Problem(f"out={out!r}", "the name of a zarr store",
                                'cycle(..., out="run.zarr")'))  # fmt: skip
    if forecaster is not None and not _takes_one(forecaster):
        problems.append(Problem(
            f"a forecaster of type {type(forecaster).__name__}, not to be called with one state",
            "a function from a Dataset to the Dataset one cycle later, or None for the model's own",
            "cycle(..., forecaster=lambda ds: my_model(ds))",
        ))  # fmt: skip
    for name, value, kind in (("truth", truth, xr.Dataset), ("relaxation", relaxation, Relaxation)):
        if value is not None and not isinstance(value, kind):
            better = "xdiffda.open_dataset(path)" if kind is xr.Dataset else "Relaxation(climate)"
            problems.append(Problem(f"{name} of type {type(value).__name__}", f"a {kind.__name__}",
                                    f"cycle(..., {name}={better})"))  # fmt: skip
    return problems


def _takes_one(function: Any) -> bool:
    """Whether it can be called with one argument."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        return True
    return True


def seconds(length: Any) -> float:
    """Length in seconds; NaN where it is none."""
    return width_of(length).total_seconds()


def is_time(text: str) -> bool:
    """Whether numpy reads it as a time."""
    try:
        return not np.isnat(np.datetime64(text, "ns"))
    except ValueError:
        return False


def is_number(text: object) -> bool:
    """Whether it is a positive number, or the text of one."""
    try:
        return float(str(text)) > 0
    except ValueError:
        return False
